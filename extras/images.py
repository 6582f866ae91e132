"""Reads image files of any mode as 8 bits a channel, and tells whether boxes are of an image.

Files are looked at before they are decoded: what is no file, has too many pixels or is damaged is
refused. The C libraries below are silent; what they have to say is in the exceptions.
"""

import contextlib
import ctypes
import re
import threading
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from extras.records import FRACTIONS

try:
    import simplejpeg
except ImportError:  # without it a JPEG of which only a part can be decoded is not noticed
    simplejpeg = None

FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 100_000_000  # decoding takes up to 25 bytes a pixel
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS_OF_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
HARMLESS = re.compile(r"extraneous bytes before marker 0xd9")  # of some cameras, behind the image

Image.MAX_IMAGE_PIXELS = None  # the limit here can be raised, and Pillow's prints a warning
warnings.filterwarnings("ignore", module=r"PIL\.")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
with contextlib.suppress(OSError, AttributeError):  # Pillow has another build of libtiff on Windows
    libtiff = ctypes.CDLL(Image.core.__file__)
    libtiff.TIFFSetErrorHandler(None)
    libtiff.TIFFSetWarningHandler(None)


class ImageError(ValueError):
    """An image that is not decoded; the message is one line, without the name of the file."""


class PixelBudget:
    """Lets threads hold decoded images as long as these have few enough pixels together."""

    def __init__(self, pixels=MAX_PIXELS):
        self.total = pixels
        self.free = pixels
        self.changed = threading.Condition()

    @contextlib.contextmanager
    def holding(self, pixels):
        """Wait until an image of so many pixels fits; one above the budget is held alone."""
        pixels = min(pixels, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= pixels)
            self.free -= pixels
        try:
            yield
        finally:
            with self.changed:
                self.free += pixels
                self.changed.notify_all()


def pixel_count(path):
    """How many pixels an image file says it has; 0 where nothing can be read."""
    with contextlib.suppress(Exception):  # read again, and reported
        width, height = image_size(path)
        return width * height
    return 0


def image_size(path):
    """(width, height) in the header of an image file.

    Raises FileNotFoundError, ImageError for a folder, device or pipe, and whatever Pillow raises.
    """
    path = Path(path)
    path.stat()  # or it would be no file rather than a missing one
    if not path.is_file():  # a pipe would be waited for
        raise ImageError("a folder, device or pipe, not an image file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except UnidentifiedImageError:
        return tiff_size(path)


def tiff_size(path):
    """(width, height) of a TIFF of which Pillow knows the header, but not the kind of pixels."""
    with path.open("rb") as file:
        header = file.read(8)
        if header[2:3] == b"\x2b":  # of a BigTIFF
            header += file.read(8)
        directory = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(directory.next)
        directory.load(file)
    return directory[TiffImagePlugin.IMAGEWIDTH], directory[TiffImagePlugin.IMAGELENGTH]


def check_size(path, max_pixels):
    """Raise ImageError if an image file has more pixels than max_pixels."""
    width, height = image_size(path)
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are more than --max_pixels {max_pixels}; "
            "raise it, or cut the image up"
        )


def check_whole(path, kind):
    """Raise if a PNG or JPEG, which decodes all the same, is damaged. kind: Pillow's format."""
    if kind == "PNG":
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()  # the checksums
    elif kind in ("JPEG", "MPO") and simplejpeg is not None:
        content = Path(path).read_bytes()
        try:
            simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8)
        except ValueError as error:  # also of kinds of JPEG that are not for this library
            reason = str(error)
            if re.match("Corrupt|Premature", reason) and not HARMLESS.search(reason):
                raise ImageError(f"damaged ({reason})") from error


def read_pixels(path, channels, depth=None, upright=False, max_pixels=MAX_PIXELS):
    """An image file as uint8 (H, W) or (H, W, 3), for channels 1 and 3.

    depth: bits of grey values that are stored in 16, by default as many as the brightest needs.
    upright: turn it as its EXIF orientation says. Raises FileNotFoundError, ImageError, or whatever
    Pillow does for a damaged file.
    """
    check_size(path, max_pixels)
    mode = "RGB" if channels == 3 else "L"
    with open_image(path) as image:
        check_whole(path, image.format)
        if upright:
            image = ImageOps.exif_transpose(image)
        if is_deep(image):
            image = Image.fromarray(to_8_bits(deep_values(image, path), depth))
        elif "A" in image.getbands() or "transparency" in image.info:
            image = on_border_colour(image.convert("RGBA"))
        if image.mode != mode:  # to convert is to copy
            image = image.convert(mode)
        return np.asarray(image)


def open_image(path):
    """A Pillow image of a file, by OpenCV where Pillow cannot: TIFFs of several float channels."""
    try:
        return Image.open(path, formats=FORMATS)
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
    content = np.fromfile(path, np.uint8)
    if image.format == "PNG":
        content = np.frombuffer(without_remarks(content.tobytes()), np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ImageError("damaged")
    return pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]


def without_remarks(png):
    """The bytes of a PNG without the chunks that pixels do not need: libpng prints what they lack.

    A chunk is its length in 4 bytes, its name, its content and a checksum (PNG specification, 5.3).
    """
    start = len(PNG_SIGNATURE)
    kept = [PNG_SIGNATURE]
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        if png[start + 4 : start + 8] in PNG_CHUNKS_OF_PIXELS:
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


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
    if pixels.dtype.kind == "f":
        return np.clip(np.round(pixels * scale), 0, 255).astype(np.uint8)
    table = np.clip(np.round(np.arange(2**16) * scale), 0, 255).astype(np.uint8)
    return table[np.clip(pixels, 0, 2**16 - 1)]  # floats of all pixels would take 24 bytes each


def bits_needed(pixels):
    """How many bits the camera has that made these whole numbers: 8, 10, 12, 14 or 16."""
    highest = int(pixels.max(initial=0))
    for bits in (8, 10, 12, 14):
        if highest < 2**bits:
            return bits
    return 16


def common_depth(paths, max_pixels=MAX_PIXELS):
    """The bits that the brightest of all images of more than 8 bits needs, or None."""
    depths = []
    for path in paths:
        if not 0 < pixel_count(path) <= max_pixels:
            continue
        with contextlib.suppress(Exception), open_image(path) as image:  # read again, and reported
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
EXIF_IN_PNG = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # where Pillow looks for it


def orientation(image, path):
    """How an open Pillow image of a file says that it lies: 1 to 8 as in EXIF, 1 is upright.

    Pillow decodes all of a PNG to look behind its pixels; hardly any has what would be found.
    """
    if image.format == "PNG":
        content = Path(path).read_bytes()
        if not any(place in content for place in EXIF_IN_PNG):
            return 1
    return image.getexif().get(ORIENTATION, 1)


def has_orientation(path):
    """Whether an image file says that it is to be turned to stand upright."""
    with contextlib.suppress(Exception), open_image(path) as image:  # read again, and reported
        return orientation(image, path) != 1
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
