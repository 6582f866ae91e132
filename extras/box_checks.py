"""Tells boxes that cannot be placed on their images, by what the images' files say of themselves.

Boxes of photographs that were turned, where nothing tells whether the boxes were turned too, and
boxes of a format that was taken for another one.
"""

import contextlib

import numpy as np
from PIL import Image

from extras.images import are_fractions, boxes_fit, orientation
from extras.records import FRACTIONS, DataError

SIDES_SWAPPED = {5, 6, 7, 8}  # orientations of a photograph that was held upright
REACH = 1.05  # of the image's side, to which boxes at the border may reach
MOST_REACHING_OUT = 0.4  # of all boxes
MOST_OF_CORNERS = 0.1  # of boxes of which all could have a corner in the place of width and height


def with_plausible_boxes(folder, fields):
    """The fields but for those whose boxes fit the stored and the upright image equally well.

    That is so where EXIF says that an image is upside down or mirrored, or, without a stated size,
    where no box tells. Each is a problem. Raises DataError if the boxes of all cannot be in pixels
    and have width and height.
    """
    kept = []
    reaching_out = []  # for every box whether it does
    for field in fields:
        boxes = boxes_of(field)
        images = stand_ins(field.path) if boxes else []
        if len(images) > 1 and is_unclear(boxes, images):
            folder.problem(
                field.path,
                "EXIF says that it is to be turned, but not whether its boxes are of the turned "
                "image; save it upright",
            )
            continue
        kept.append(field)
        if images:
            reaching_out += min((reach_out(boxes, image) for image in images), key=sum)
    check_scale(kept)
    check_reach(kept, reaching_out)
    return kept


def boxes_of(field):
    """The boxes of a field's cells."""
    return [cell.box for cell in field.cells if cell.box]


def check_reach(fields, reaching_out):
    """Raise DataError if too many boxes reach out of their images, as second corners do.

    reaching_out: for every box whether it does.
    """
    boxes = [box for field in fields for box in boxes_of(field)]
    may_be_corners = all(box.w > box.x and box.h > box.y for box in boxes)
    most = MOST_OF_CORNERS if may_be_corners else MOST_REACHING_OUT
    if sum(reaching_out) > max(2, most * len(reaching_out)):
        raise DataError(
            f"{sum(reaching_out)} of {len(reaching_out)} boxes reach out of their images: are "
            "width and height those of the boxes, in pixels of the image, or the second corner?"
        )


def check_scale(fields):
    """Raise DataError if all boxes are of a pixel or less: they are in fractions of the image."""
    boxes = [box for field in fields for box in boxes_of(field)]
    in_pixels = [box for box in boxes if box.frame != FRACTIONS]
    if in_pixels and all(max(box[:4]) <= 1 for box in in_pixels) and any(map(any, in_pixels)):
        raise DataError("boxes are in fractions, where this layout has pixels; export it anew")


def stand_ins(path):
    """Arrays (H, W, 3) of the size of an image file: as stored, and, if EXIF says so, turned.

    They take no memory. None if the file cannot be read, which is found out later.
    """
    with contextlib.suppress(Exception), Image.open(path) as image:
        width, height = image.size
        stored = np.broadcast_to(np.uint8(0), (height, width, 3))
        turned = orientation(image, path)
        if turned in SIDES_SWAPPED:
            return [stored, stored.swapaxes(0, 1)]
        return [stored, stored] if turned in (2, 3, 4) else [stored]
    return []


def is_unclear(boxes, images):
    """Whether boxes fit each of several images; those in fractions are of the upright one."""
    return not are_fractions(boxes) and all(boxes_fit(boxes, image) for image in images)


def reach_out(boxes, image):
    """For every box whether it reaches far out of an image (H, W, C) to the right or below."""
    height, width = image.shape[:2]
    found = []
    for box in boxes:
        x, y, w, h = box.in_pixels(image)
        found.append(x + w > REACH * width or y + h > REACH * height)
    return found
