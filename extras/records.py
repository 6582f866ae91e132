"""What travels between the readers of data: boxes, cells, annotations, fields, problems."""

import contextlib
import dataclasses
from pathlib import Path
from typing import NamedTuple

from extras import UsageError

FRACTIONS = (1, 1)  # the frame of a box in fractions of the image


class DataError(ValueError):
    """Data that cannot be used; the message is one line, without the name of the data folder."""


@contextlib.contextmanager
def naming_source(data_path, dataset):
    """A DataError inside the block becomes a UsageError that names the flag of the data."""
    try:
        yield
    except DataError as error:
        source = f"--data_path {data_path}" if data_path else f"--dataset {dataset}"
        raise UsageError(f"{source}: {error}") from error


class Box(NamedTuple):
    """A rectangle: left, top, width and height in units of a frame.

    frame: (width, height) of the image as the annotation says it is; None: pixels of the file.
    """

    x: float
    y: float
    w: float
    h: float
    frame: tuple[float, float] | None = None

    def in_pixels(self, image):
        """(x, y, w, h) in pixels of an image (H, W, C)."""
        if self.frame is None:
            return self[:4]
        height, width = image.shape[:2]
        scale_x = width / self.frame[0]
        scale_y = height / self.frame[1]
        return self.x * scale_x, self.y * scale_y, self.w * scale_x, self.h * scale_y


NO_BOX = Box(0, 0, 0, 0)  # cannot be cut out, so that it is counted among what is skipped


def make_box(numbers, frame=None):
    """The Box of x, y, w, h, numbers or text; NO_BOX if these are not four numbers."""
    try:
        x, y, w, h = (float(number) for number in numbers)
    except (TypeError, ValueError, OverflowError):
        return NO_BOX
    return Box(x, y, w, h, frame)


class Cell(NamedTuple):
    """One annotated cell: its class, and its box, or None if it is the whole image."""

    label: str
    box: Box | None


class Annotation(NamedTuple):
    """What a file says of one image: the names the image may have, its cells, its split if told."""

    file: Path
    image_names: list[str]
    cells: list[Cell]
    split: str | None


@dataclasses.dataclass
class Field:
    """One microscope image, its cells, its split if one is known, and what its path says."""

    path: Path
    cells: list[Cell]
    split: str | None
    tags: set[str]


class Problem(NamedTuple):
    """A file, or a part of it, that is not used, and why."""

    file: Path
    reason: str
