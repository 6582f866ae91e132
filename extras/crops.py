"""Cuts the cells out of the fields of a data folder, and keeps the crops on the disk."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from filelock import FileLock
from tqdm import tqdm

from extras import archives, images
from extras.classes import canonical_class, choose_classes, note_unused_classes, shown_name
from extras.demo_set import write_demo_set
from extras.fields import DataFolder, read_fields
from extras.paths import SPLITS
from extras.records import Box, DataError, Field
from extras.splits import count_near_copies, deal_splits

CACHE_VERSION = 8  # raise it when readers, crops or splits change


class CropSettings(NamedTuple):
    """The flags on which the crops depend, and whether the data may lack some of --classes.

    Images of more than max_pixels are passed over.
    """

    view: str
    classes: str
    microscope: str
    magnification: str
    image_size: int
    channels: int
    dataset: str = "auto"
    some_may_be_missing: bool = False
    max_pixels: int = images.MAX_PIXELS


@dataclasses.dataclass
class Index:
    """What is known of the N crops in images.npy, in their order.

    labels: class numbers, or lists of 0 and 1, one for each class, with view "field".
    boxes: [x, y, w, h] as annotated, or None; sources: image files relative to the data folder.
    image_counts: fields in each split. found: how often each class is annotated.
    problems: [file, reason] of what was not used. notes: what a user should know, a line each.
    """

    layout: str
    view: str
    classes: list[str]
    found: dict[str, int]
    problems: list[list[str]]
    notes: list[str]
    image_counts: dict[str, int]
    boxes: list[list[float] | None]
    labels: list[int] | list[list[int]]
    splits: list[str]
    sources: list[str]

    @property
    def skipped(self):
        """How many files and annotations were not used."""
        return len(self.problems)


def index_of_arrays(labels, splits, classes, view, layout):
    """The Index of N images that are not from a data folder. labels, splits: N of each."""
    count = len(labels)
    return Index(
        layout=layout,
        view=view,
        classes=list(classes),
        found={},
        problems=[],
        notes=[],
        image_counts={split: splits.count(split) for split in SPLITS},
        boxes=[None] * count,
        labels=list(labels),
        splits=splits,
        sources=list(map("image {}".format, range(count))),
    )


def read_image(path, channels=3, depth=None, upright=False, max_pixels=images.MAX_PIXELS):
    """An image file of any size or mode as uint8 (H, W, channels). Raises DataError if none.

    depth, upright, max_pixels: as in extras/images.py's read_pixels.
    """
    try:
        pixels = images.read_pixels(path, channels, depth, upright, max_pixels)
    except images.ImageError as error:
        raise DataError(str(error)) from error
    except FileNotFoundError as error:
        raise DataError(f"no such file{hint_at_name(str(path))}") from error
    except Exception as error:  # Pillow raises many kinds for what is no image, or a damaged one
        raise DataError("not a readable image; give a PNG, JPEG, TIFF, BMP or WebP file") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def read_field(path, boxes, channels, depth=None, max_pixels=images.MAX_PIXELS):
    """(image, whether it was turned) of a field: as stored, or upright if the boxes say so.

    Fractions are of the upright image, as YOLO's programs read it. Raises DataError if the boxes
    are of an image of other proportions.
    """
    boxes = [box for box in boxes if box is not None]
    if images.are_fractions(boxes) and images.has_orientation(path):
        return read_image(path, channels, depth, upright=True, max_pixels=max_pixels), True
    image = read_image(path, channels, depth, max_pixels=max_pixels)
    if images.boxes_fit(boxes, image):
        return image, False
    turned = read_image(path, channels, depth, upright=True, max_pixels=max_pixels)
    if turned.shape != image.shape and images.boxes_fit(boxes, turned):
        return turned, True
    height, width = image.shape[:2]
    raise DataError(f"the boxes are not of this image of {width} x {height}")


def crop_cell(image, box, size):
    """The square around a cell, resampled to (size, size, C) with antialiasing.

    image: uint8 (H, W, C). box: x, y, w, h in pixels, or None for the whole image. The square has
    1.1 times the box's longer side, is centred on it and shifted, not padded, to stay inside.
    Raises ValueError if no area of the box is inside the image.
    """
    if box is not None:
        height, width = image.shape[:2]
        x, y, w, h = box
        has_area = w > 0 and h > 0
        is_inside = x < width and y < height and x + w > 0 and y + h > 0
        if not has_area or not is_inside:
            raise ValueError(f"box {box} has no area inside an image of {width} x {height}")
        side = max(1, min(round(1.1 * max(w, h)), height, width))
        left = round(x + (w - side) / 2)
        top = round(y + (h - side) / 2)
        left = min(max(left, 0), width - side)
        top = min(max(top, 0), height - side)
        image = image[top : top + side, left : left + side]
    interpolation = cv2.INTER_AREA if max(image.shape[:2]) > size else cv2.INTER_CUBIC
    image = np.ascontiguousarray(image)
    resized = cv2.resize(image, (size, size), interpolation=interpolation)
    return resized.reshape(size, size, -1)  # cv2 drops the channel of a grey image


class Crop(NamedTuple):
    """One image to be cut: of which field, which box (None: all), and its label."""

    field: Field
    box: Box | None
    label: int | list[int]


def list_crops(fields, classes, view):
    """The Crops of a view: a cell each for "cell", a whole image each for "field"."""
    crops = []
    for field in fields:
        if view == "field":
            present = {cell.label for cell in field.cells}
            crops.append(Crop(field, None, [int(name in present) for name in classes]))
            continue
        cells = [cell for cell in field.cells if cell.label in classes]
        crops += [Crop(field, cell.box, classes.index(cell.label)) for cell in cells]
    return crops


class CutReport(NamedTuple):
    """{number of a crop: why it could not be cut}, images turned upright, bits of deep ones."""

    failed: dict[int, str]
    turned: list[Path]
    depth: int | None


def cut_images(crops, out, name, max_pixels=images.MAX_PIXELS):
    """Decode every field once, in threads, and cut its crops into `out` (N, S, S, C).

    No more images are held at once than a budget of pixels allows. Returns a CutReport.
    """
    numbers_by_path = {}
    for number, crop in enumerate(crops):
        numbers_by_path.setdefault(crop.field.path, []).append(number)
    depth = images.common_depth(numbers_by_path, max_pixels)
    report = CutReport({}, [], depth)
    size, channels = out.shape[2:]
    budget = images.PixelBudget()

    def cut_in_budget(path):
        with budget.holding(images.pixel_count(path)):
            cut(path)

    def cut(path):
        numbers = numbers_by_path[path]
        boxes = [crops[number].box for number in numbers]
        try:
            image, is_turned = read_field(path, boxes, channels, depth, max_pixels)
        except DataError as error:
            report.failed.update(dict.fromkeys(numbers, str(error)))
            return
        if is_turned:
            report.turned.append(path)
        for number, box in zip(numbers, boxes, strict=True):
            try:
                pixel_box = None if box is None else box.in_pixels(image)
                out[number] = crop_cell(image, pixel_box, size)
            except (ValueError, OverflowError) as error:  # not finite numbers, or outside
                report.failed[number] = str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(cut_in_budget, numbers_by_path)
        for _ in tqdm(done, f"reading {name}", len(numbers_by_path), disable=None):
            pass
    return report


def read_cells(folder, readers, settings):
    """(layout, fields, classes, found) of a DataFolder.

    classes: {canonical name: name as the data has it}; found: how often each is annotated.
    """
    layout, fields = read_fields(folder, readers, settings.microscope, settings.magnification)
    spellings = {}
    found = Counter()
    for field in fields:
        for cell in field.cells:
            spellings.setdefault(canonical_class(cell.label), Counter())[cell.label] += 1
        field.cells = [cell._replace(label=canonical_class(cell.label)) for cell in field.cells]
        found.update(cell.label for cell in field.cells)
    chosen = choose_classes(set(found), settings.classes, settings.some_may_be_missing)
    if settings.classes == "auto":
        note_unused_classes(folder, found, chosen, spellings)
    classes = {name: shown_name(name, spellings) for name in chosen}
    found_as = {shown_name(name, spellings): count for name, count in found.items()}
    return layout, fields, classes, found_as


def build_cache(folder, target, readers, settings):
    """Read a DataFolder; write target/images.npy (uint8 (N, S, S, C)) and target/index.json.

    Raises DataError if nothing in it can be used.
    """
    layout, fields, classes, found = read_cells(folder, readers, settings)
    folder.notes += deal_splits(fields, list(classes))  # sets field.split
    crops = list_crops(fields, list(classes), settings.view)
    with atomic_folder(target) as building:
        kept = write_images(building / "images.npy", crops, settings, folder)
        if not kept:
            reason = "no cell is annotated"
            if folder.problems:
                reason = f"{folder.problems[0].file}: {folder.problems[0].reason}"
            raise DataError(
                f"{layout}, {len(fields)} images, but not one cell that can be cut out: {reason}"
            )
        copies = count_near_copies(building / "images.npy", [crop.field.split for crop in kept])
        if copies:
            folder.notes.append(f"{copies} crops of val or test look just like one of train")
        index = make_index(folder, layout, fields, classes, found, kept, settings.view)
        (building / "index.json").write_text(json.dumps(vars(index)))


def make_index(folder, layout, fields, classes, found, crops, view):
    """The Index of the crops that were cut out of a DataFolder's fields."""
    field_splits = [field.split for field in fields]
    image_counts = {split: field_splits.count(split) for split in SPLITS}
    problems = [[str(problem.file), problem.reason] for problem in folder.problems]
    boxes = []
    for crop in crops:
        numbers = None
        if crop.box is not None:
            numbers = list(crop.box[:4])
        boxes.append(numbers)
    names = {field.path: folder.relative(field.path).as_posix() for field in fields}
    return Index(
        layout=layout,
        view=view,
        classes=list(classes.values()),
        found=dict(found),
        problems=problems,
        notes=folder.notes,
        image_counts=image_counts,
        boxes=boxes,
        labels=[crop.label for crop in crops],
        splits=[crop.field.split for crop in crops],
        sources=[names[crop.field.path] for crop in crops],
    )


def write_images(path, crops, settings, folder):
    """Cut the crops into a .npy file; returns those that could be cut, whose images come first.

    The others are problems of the DataFolder.
    """
    side = settings.image_size
    shape = (len(crops), side, side, settings.channels)
    out = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # a disk that fills up later would kill the process
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    report = cut_images(crops, out, folder.root.name, settings.max_pixels)
    for number, reason in sorted(report.failed.items()):
        folder.problem(crops[number].field.path, reason)
    if report.turned:
        folder.notes.append(
            f"{len(report.turned)} images were turned by their EXIF orientation, as their boxes say"
        )
    if report.depth:
        folder.notes.append(f"images of more than 8 bits were read as {report.depth} bits")
    numbers = [number for number in range(len(crops)) if number not in report.failed]
    for row, number in enumerate(numbers):
        out[row] = out[number]
    out.flush()
    return [crops[number] for number in numbers]


@contextlib.contextmanager
def atomic_folder(target):
    """A folder to write into; it takes the name `target` when the block ends well, else it goes."""
    building = target.with_name(f"{target.name}.part")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
        shutil.rmtree(target, ignore_errors=True)
        building.replace(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def existing_path(data_path):
    """The file or folder that a data path names, or None if there is none."""
    try:
        path = Path(data_path).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # a name that is too long, the home of nobody
        return None


def open_data_path(data_path, results, max_unpacked_gb=archives.MAX_UNPACKED_GB):
    """The folder of a data path; an archive, or a folder of zips, is unpacked into results/cache.

    It stays there for later runs. Raises DataError, and OSError if the disk is full.
    """
    path = existing_path(data_path)
    if path is None:
        raise DataError(f"no such folder or zip{hint_at_name(data_path)}")
    zips = archives.zips_in(path) if path.is_dir() else [path]
    if not zips:
        return path
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in zips]
    target = results / "cache" / f"zip-{short_hash(stats)}"
    if not archives.is_whole(target):
        try:
            with atomic_folder(target) as building:
                archives.unpack_all(zips, building, max_unpacked_gb)
        except archives.ArchiveError as error:
            raise DataError(str(error)) from error
        except Exception as error:  # a zip can be damaged in many ways
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            raise DataError(f"no folder, and no zip that can be unpacked ({error})") from error
    return target


def hint_at_name(name):
    """Why a name may be of no file, as the end of a message: an address, or a pattern."""
    if "://" in name:
        return "; an address has to be downloaded first"
    if any(sign in name for sign in "*?["):
        return "; a pattern is not looked up, give the folder"
    return ""


def short_hash(values):
    """Sixteen characters that stand for plain values."""
    return hashlib.sha1(json.dumps(values).encode()).hexdigest()[:16]


def demo_folder(results):
    """The folder with the demo set, drawn in the folder `results` the first time."""
    target = results / "demo_data"
    if not target.exists():
        with atomic_folder(target) as building:
            write_demo_set(building)
    return target


def load_crops(data_path, results, readers, settings, max_unpacked_gb=archives.MAX_UNPACKED_GB):
    """(images uint8 (N, S, S, C), Index) of a data path, from the cache if nothing has changed.

    data_path: "" is the demo set. results: the folder that holds the cache; of several processes
    one reads the data, and the others wait. The images are memory-mapped: what is written into
    them stays in memory. Raises DataError.
    """
    cache = results / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        for left_by_a_kill in (*results.glob("*.part"), *cache.glob("*.part")):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        if data_path:
            root = open_data_path(data_path, results, max_unpacked_gb)
        else:
            root = demo_folder(results)
        folder = DataFolder(root, data_path)
        identity = [CACHE_VERSION, str(root.resolve()), folder.stats, settings._asdict()]
        crops = cache / short_hash(identity)
        if not crops.exists():
            build_cache(folder, crops, readers, settings)
        try:
            return read_cache(crops)
        except (OSError, ValueError, TypeError):  # cut off, or not written by this script
            build_cache(folder, crops, readers, settings)
            return read_cache(crops)


def read_cache(folder):
    """(images, Index) that build_cache has written. Raises OSError, ValueError or TypeError."""
    index = Index(**json.loads((folder / "index.json").read_text()))
    copy_on_write = "c"  # torch wants a writable array; the file stays as it is
    return np.load(folder / "images.npy", mmap_mode=copy_on_write), index
