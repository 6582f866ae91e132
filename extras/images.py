"""Reads image files of any mode as 8 bits a channel, and tells whether boxes are of an image."""

import contextlib

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from extras.fields import FRACTIONS


def read_pixels(path, channels, depth=None, upright=False):
    """An image file as uint8 (H, W) or (H, W, 3), for channels 1 and 3.

    depth: bits of grey values that are stored in 16, by default as many as the brightest needs.
    upright: turn it as its EXIF orientation says. Raises whatever Pillow does for a damaged file.
    """
    with open_image(path) as image:
        if upright:
            image = ImageOps.exif_transpose(image)
        if is_deep(image):
            image = Image.fromarray(to_8_bits(deep_values(image, path), depth))
        elif "A" in image.getbands() or "transparency" in image.info:
            image = on_border_colour(image.convert("RGBA"))
        return np.asarray(image.convert("RGB" if channels == 3 else "L"))


def open_image(path):
    """A Pillow image of a file, by OpenCV where Pillow cannot: TIFFs of several float channels."""
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.ndim != 3:
            raise
        return Image.fromarray(to_8_bits(pixels[:, :, 2::-1]))  # OpenCV has blue first; floats


def is_deep(image):
    """Whether a Pillow image, not loaded yet, has values of more than 8 bits, or floats."""
    has_deep_colour = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    return image.mode.startswith("I") or image.mode == "F" or has_deep_colour


def deep_values(image, path):
    """The values of an image that is_deep; colour by OpenCV, as Pillow keeps 8 bits of it."""
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    return pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]


def to_8_bits(pixels, depth=None):
    """Grey values of up to 16 bits, or floats in [0, 1], as uint8.

    depth: bits of the brightest value there can be, by default what these pixels need.
    """
    highest = pixels.max(initial=0)
    if pixels.dtype.kind == "f" and highest <= 1:
        scale = 255
    elif pixels.dtype.kind == "f" and highest <= 255:
        scale = 1
    else:
        scale = 255 / (2 ** (depth or bits_needed(pixels)) - 1)
    return np.clip(np.round(pixels * scale), 0, 255).astype(np.uint8)


def bits_needed(pixels):
    """How many bits the camera has that made these whole numbers: 8, 10, 12, 14 or 16."""
    highest = int(pixels.max(initial=0))
    for bits in (8, 10, 12, 14):
        if highest < 2**bits:
            return bits
    return 16


def common_depth(paths):
    """The bits that the brightest of all images of more than 8 bits needs, or None."""
    depths = []
    for path in paths:
        with contextlib.suppress(Exception), Image.open(path) as image:  # read again, and reported
            if is_deep(image) and image.mode != "F":
                depths.append(bits_needed(deep_values(image, path)))
    return max(depths, default=None)


def on_border_colour(image):
    """An RGBA image laid on the median colour of its opaque border: hidden colours stay hidden."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    opaque = border[border[:, 3] == 255]
    if not len(opaque):
        opaque = pixels[pixels[..., 3] == 255]
    colour = np.median(opaque[:, :3], 0) if len(opaque) else (255, 255, 255)
    background = Image.new("RGBA", image.size, (*map(int, colour), 255))
    return Image.alpha_composite(background, image)


ORIENTATION = 0x0112  # in EXIF; 1 is upright


def has_orientation(path):
    """Whether an image file says that it is to be turned to stand upright."""
    with contextlib.suppress(Exception), Image.open(path) as image:  # read again, and reported
        return image.getexif().get(ORIENTATION, 1) != 1
    return False


def are_fractions(boxes):
    """Whether boxes are in fractions of the image."""
    return bool(boxes) and all(box.frame == FRACTIONS for box in boxes)


def boxes_fit(boxes, image):
    """Whether boxes are of an image (H, W, C): of its proportions, and hardly any outside."""
    height, width = image.shape[:2]
    for frame in {box.frame for box in boxes} - {None, FRACTIONS}:
        proportions = (frame[0] / frame[1]) / (width / height)
        if abs(proportions - 1) > 0.02:
            return False
    inside = 0
    for box in boxes:
        x, y, w, h = box.in_pixels(image)
        inside += 0 <= x + w / 2 <= width and 0 <= y + h / 2 <= height
    outside = len(boxes) - inside
    return outside <= max(1, 0.02 * len(boxes)) and inside >= len(boxes) / 2
