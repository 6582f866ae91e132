"""What pictures are made with: figures, grids and galleries, written whole or not at all."""

import contextlib
import functools
import math
import sys
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from extras.files import replacing

COLOURS = ("tab:blue", "tab:red")
STYLE = {
    "font.size": 9,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a class can be called a$b$
}
OTHER_FONTS = (  # that have Chinese, Japanese or Korean, on Linux, Windows and macOS
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
)


class Picture(NamedTuple):
    """An image uint8 (S, S, C) and the text above it."""

    image: np.ndarray
    caption: str


@contextlib.contextmanager
def attempt(what):
    """Inside the block a picture that cannot be drawn is a warning: nothing else is held up."""
    try:
        yield
    except Exception as error:  # of fonts, disks and odd names
        reason = " ".join(str(error).split())[:200]
        print(f"warning: {what} was not drawn ({type(error).__name__}: {reason})", file=sys.stderr)


@contextlib.contextmanager
def figure(path, rows=1, columns=1, size=(6.4, 4.8), dpi=110, **settings):
    """A matplotlib figure and its axes (rows, columns); written to `path` when the block ends well.

    size: inches; settings: those of Figure.subplots. It needs no screen, and leaves pyplot with its
    back end and figures, of a notebook for instance, as it is.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "font.family": font_families()}):
        figure = Figure(figsize=size, dpi=dpi)
        yield figure, figure.subplots(rows, columns, squeeze=False, **settings)
        with replacing(path) as part:
            figure.savefig(part)


@functools.cache
def font_families():
    """Matplotlib's own font, and, for names in other scripts, what of OTHER_FONTS is installed."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in OTHER_FONTS if name in installed)]


def grid(images, columns=8):
    """uint8 images (N, S, S, C) in rows on white, as one RGB image; small ones are enlarged."""
    from torchvision.utils import make_grid

    tiles = torch.from_numpy(images).permute(0, 3, 1, 2)
    zoom = math.ceil(64 / images.shape[1])
    tiles = tiles.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    sheet = make_grid(tiles, nrow=columns, pad_value=255)
    return sheet.permute(1, 2, 0).numpy()


def write_image(path, image, caption=""):
    """Write an RGB or grey image (H, W, C) as a file, with a line of text above if asked."""
    picture = Image.fromarray(image.squeeze())
    if caption:
        captioned = Image.new("RGB", (picture.width, picture.height + 22), "white")
        captioned.paste(picture, (0, 22))
        ImageDraw.Draw(captioned).text((4, 4), caption, "black", font_size=13)
        picture = captioned
    with replacing(path) as part:
        picture.save(part)


def save_animation(frames, path, milliseconds):
    """Write Pillow images as a GIF that goes round without end; milliseconds: of each frame."""
    with replacing(path) as part:
        frames[0].save(part, save_all=True, append_images=frames[1:], loop=0, duration=milliseconds)


def draw_trace(axis, values, colour, label, start=0):
    """Values of every iteration, the first at `start`, in a light line under a moving average.

    The average is over 1/50 of them.
    """
    width = max(1, len(values) // 50)
    padded = np.pad(values, (width // 2, width - 1 - width // 2), "reflect")
    average = np.convolve(padded, np.ones(width) / width, "valid")
    iterations = range(start, start + len(values))
    axis.plot(iterations, values, color=colour, alpha=0.2, linewidth=0.6)
    axis.plot(iterations, average, color=colour, label=f"{label}, mean of {width}")
    axis.grid(alpha=0.3)
    low, high = axis.get_ylim()
    axis.set_ylim(min(0, low) if values.min() < 0 else 0, max(high, 1.3 * values.max()))
    axis.legend(loc="upper right")


def realness_scale(adversarial_loss):
    """What D's answers with an adversarial loss mean, in words."""
    return "higher is more real" if adversarial_loss.real_probability is None else "0 fake, 1 real"


def realness_limits(adversarial_loss):
    """The ends of an axis of D's answers, with room for a legend; None if there are none."""
    return None if adversarial_loss.real_probability is None else (0, 1.3)


def jet(values):
    """Values in [0, 1], of any shape, as colours from blue to red, RGB in [0, 1] in a last axis."""
    import matplotlib

    return matplotlib.colormaps["jet"](values)[..., :3]


def tile_kernels(kernels):
    """Kernels (N, k, k) in a square of tiles with empty lines between, as numpy."""
    columns = math.isqrt(len(kernels) - 1) + 1
    empty_tiles = columns * columns - len(kernels)
    padded = F.pad(kernels, (0, 1, 0, 1, 0, empty_tiles), value=math.nan)
    height, width = padded.shape[1:]
    sheet = padded.view(columns, columns, height, width).transpose(1, 2)
    return sheet.reshape(columns * height, columns * width).numpy()


def gallery(path, title, pictures, columns=8):
    """Pictures in rows under one title, which says so if there are none."""
    rows = max(1, math.ceil(len(pictures) / columns))
    side = 1.6  # inches of a picture
    size = (side * columns, (side + 0.35) * rows + 0.5)
    empty = {"xticks": [], "yticks": [], "frame_on": False}
    with figure(path, rows, columns, size, subplot_kw=empty) as (sheet, axes):
        sheet.suptitle(title if pictures else f"{title}: none", fontsize=9)
        for axis, picture in zip(axes.flat, pictures, strict=False):
            axis.imshow(picture.image.repeat(3 // picture.image.shape[2], 2))
            axis.set_title(picture.caption, fontsize=7)
