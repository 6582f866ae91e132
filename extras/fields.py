"""Finds images and annotations under a folder, whatever its layout, and joins the two.

A reader is a function of a DataFolder that yields `folder.annotation(file, image_names, cells)`
for every image that it finds annotated. read_fields tries readers in turn.
"""

import contextlib
import dataclasses
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SPLITS = ("train", "val", "test")
SPLIT_SPELLINGS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
MICROSCOPES = {"hcm", "lcm"}
MAGNIFICATIONS = {"100x", "400x", "1000x"}
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
ANNOTATION_ENDINGS = {".xml", ".txt", ".json"}
PASSED_OVER = re.compile(r"\.|__MACOSX|results$|(?i:masks?$|segmentation)")  # folders of no data
BETWEEN_WORDS = re.compile(r"[/\\_\-. ]+")  # of a path


class DataError(ValueError):
    """Data that cannot be used; the message is one line."""


class Box(NamedTuple):
    """A rectangle: left, top, width and height in pixels, or, if relative, in image fractions."""

    x: float
    y: float
    w: float
    h: float
    relative: bool = False

    def in_pixels(self, image):
        """(x, y, w, h) in pixels of an image (H, W, C)."""
        if not self.relative:
            return self[:4]
        height, width = image.shape[:2]
        return self.x * width, self.y * height, self.w * width, self.h * height


NO_BOX = Box(0, 0, 0, 0)  # cannot be cut out, so that it is counted among what is skipped


class Cell(NamedTuple):
    """One annotated cell: its class, and its box, or None if it is the whole image."""

    label: str
    box: Box | None


class Annotation(NamedTuple):
    """What a file says of one image: the names the image may have, and its cells."""

    file: Path
    image_names: list[str]
    cells: list[Cell]


@dataclasses.dataclass
class Field:
    """One microscope image, its cells, its split if one is known, and what its path says."""

    path: Path
    cells: list[Cell]
    split: str | None
    tags: set[str]


def stem_key(name):
    """What identifies an image: its stem without folders, spaces, ending, case, magnification."""
    file = PurePosixPath(str(name).replace("\\", "/")).name
    file = PurePosixPath(re.sub(r"\s+", "", file).lower())
    known_ending = file.suffix in IMAGE_ENDINGS | ANNOTATION_ENDINGS
    stem = file.stem if known_ending else file.name
    return re.sub(r"[_\-]?(100|400|1000)x$", "", stem)


def path_tags(path):
    """Words of a path that say microscope, magnification or split: {'hcm', '1000x', 'train'}."""
    tags = set()
    for word in BETWEEN_WORDS.split(str(path).lower()):
        word = re.sub(r"(set|data)?\d*$", "", word)  # trainset, train2017
        tags.add(SPLIT_SPELLINGS.get(word, word))
    return tags & (MAGNIFICATIONS | MICROSCOPES | set(SPLITS))


def conflict(tags, others):
    """Whether two tag sets name different microscopes, magnifications or splits."""
    for kind in (MICROSCOPES, MAGNIFICATIONS, set(SPLITS)):
        if tags & kind and others & kind and not tags & others & kind:
            return True
    return False


def split_in_path(path):
    """The split that the last of a relative path's parts tells, or None."""
    for part in reversed(path.parts):
        for split in SPLITS:
            if split in path_tags(part):
                return split
    return None


def shared_folders(path, other):
    """How many folders directly above two files have the same names."""
    folders = PurePosixPath(path).parts[-2::-1]
    other_folders = PurePosixPath(other).parts[-2::-1]
    count = 0
    for folder, other_folder in zip(folders, other_folders, strict=False):
        if folder != other_folder:
            break
        count += 1
    return count


class DataFolder:
    """Every file under a data folder: images by stem, JSON files, split lists, problems."""

    def __init__(self, root, name):
        self.root = root
        self.name = name  # as the user wrote it
        self.stats = []  # [relative name, bytes, modification time] of every file
        self.images = {}  # stem_key: paths
        self.json_files = []  # (path, content)
        self.listed_splits = {}  # path: split
        self.problems = []
        for path in self.walk():
            info = path.stat()
            relative = path.relative_to(root).as_posix()
            self.stats.append([relative, info.st_size, info.st_mtime_ns])
            if path.suffix.lower() in IMAGE_ENDINGS:
                self.images.setdefault(stem_key(path.name), []).append(path)

    def walk(self):
        """Every file in order of its path, but hidden ones and those of folders without data."""
        for folder, folders, files in os.walk(self.root, followlinks=True):
            folders[:] = sorted(name for name in folders if not PASSED_OVER.match(name))
            for name in sorted(files):
                path = Path(folder, name)
                if not name.startswith(".") and path.exists():
                    yield path

    def files(self, *endings):
        """Paths of the files whose names end so, in lower case."""
        names = [name for name, _, _ in self.stats]
        return [self.root / name for name in names if name.lower().endswith(endings)]

    def is_split_name(self, name):
        """Whether the name of a folder tells a split, a microscope or a magnification."""
        return bool(path_tags(name))

    def relative(self, path):
        """A path of this folder without what is above it."""
        return path.relative_to(self.root)

    @contextlib.contextmanager
    def noting_damage(self, path):
        """Pass over a file that cannot be parsed, in whatever way, and note it as a problem."""
        try:
            yield
        except Exception as error:  # files are damaged in more ways than can be listed
            reason = " ".join(str(error).split())[:200]
            self.problems.append(f"{path} is damaged ({type(error).__name__}: {reason})")

    def read_shared_files(self):
        """Read what is about many images at once: JSON files and split lists."""
        for path in self.files(".json"):
            with self.noting_damage(path):
                content = json.loads(path.read_text(encoding="utf-8-sig"))
                self.json_files.append((path, content))
        for path in self.files(".txt"):
            split = SPLIT_SPELLINGS.get(path.stem.lower())
            if split:
                self.read_split_list(path, split)

    def read_split_list(self, path, split):
        """Note the split of every image in a list of stems or file names, one a line."""
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            first_word = line.strip().split(" ")[0]  # what follows can be a VOC flag
            for name in (line, first_word):
                candidates = self.images.get(stem_key(name), [])
                folder = PurePosixPath(name.strip().replace("\\", "/")).parent.name
                in_folder = [image for image in candidates if image.parent.name == folder]
                for image in in_folder or candidates:
                    self.listed_splits[image] = split

    def json_items(self, key):
        """(path, item) of every JSON file that is a list of objects with `key`."""
        for path, content in self.json_files:
            if not isinstance(content, list) or not content:
                continue
            if isinstance(content[0], dict) and key in content[0]:
                for item in content:
                    yield path, item

    def annotation(self, file, image_names, cells, relative=False):
        """An Annotation of plain values: cells are (class, (x, y, w, h) or None) pairs."""
        boxed = []
        for label, box in cells:
            if box is not None:
                box = Box(*box, relative) if len(box) == 4 else NO_BOX
            boxed.append(Cell(label, box))
        names = [str(name).replace("\\", "/") for name in image_names]
        return Annotation(file, names, boxed)

    def has_image(self, name):
        """Whether there is an image of that stem."""
        return stem_key(name) in self.images

    def find_image(self, annotation):
        """The image that an annotation is about, or None."""
        wanted = path_tags(self.relative(annotation.file))

        def closeness(path):
            return (
                path == annotation.file,
                path.stem == Path(name).stem,
                shared_folders(path, name),
                shared_folders(path, annotation.file),
                len(wanted & path_tags(self.relative(path))),
            )

        def may_be(path):
            return not conflict(wanted, path_tags(self.relative(path)))

        for name in annotation.image_names:
            candidates = list(filter(may_be, self.images.get(stem_key(name), [])))
            if candidates:
                return max(candidates, key=closeness)
        return None

    def field(self, annotation):
        """The Field of an annotation; None, and noted, if its image is not there."""
        path = self.find_image(annotation)
        first_name = annotation.image_names[0]
        if path is None:
            message = f"{annotation.file} names {first_name}, which is not among the images"
            self.problems.append(message)
            return None
        about_many = annotation.file.suffix.lower() == ".json"  # its own name can tell a split
        annotated_in = annotation.file if about_many else annotation.file.parent
        split = (
            self.listed_splits.get(path)
            or split_in_path(self.relative(path.parent))
            or split_in_path(self.relative(annotated_in))
        )
        tags = path_tags(self.relative(annotation.file)) | path_tags(self.relative(path))
        return Field(path, annotation.cells, split, tags | path_tags(first_name))


def read_layout(folder, readers):
    """(layout, fields) from the first of {layout: reader} that finds any. Raises DataError."""
    folder.read_shared_files()
    shared_problems = folder.problems
    all_problems = []
    for layout, reader in readers.items():
        folder.problems = list(shared_problems)
        fields = [folder.field(annotation) for annotation in reader(folder)]
        fields = [field for field in fields if field is not None]
        if fields:
            return layout, fields
        all_problems += folder.problems
    number = sum(len(paths) for paths in folder.images.values())
    reason = all_problems[0] if all_problems else "no annotations, no class folders"
    raise DataError(
        f"--data_path {folder.name}: no data found: {number} images, {reason}; "
        f"layouts: {', '.join(readers)}"
    )


def merge_fields(fields):
    """One field an image: several annotations of it are put together.

    Where an image is annotated with and without a split, as by a second list of the same images,
    only what has a split counts.
    """
    with_split = {field.path for field in fields if field.split}
    merged = {}
    for field in fields:
        if field.path in with_split and not field.split:
            continue
        first = merged.setdefault(field.path, field)
        if first is not field:
            first.cells.extend(cell for cell in field.cells if cell not in first.cells)
    return list(merged.values())


def read_fields(folder, readers, microscope="both", magnification="all"):
    """(layout, fields in name order) of one microscope and magnification, or of all.

    Raises DataError if nothing is found or wanted.
    """
    layout, fields = read_layout(folder, readers)
    unwanted = set()
    if microscope != "both":
        unwanted |= MICROSCOPES - {microscope}
    if magnification != "all":
        unwanted |= MAGNIFICATIONS - {magnification}
    wanted = merge_fields([field for field in fields if not field.tags & unwanted])
    if not wanted:
        tags = set().union(*(field.tags for field in fields))
        raise DataError(
            f"--data_path {folder.name}: --microscope {microscope} --magnification {magnification} "
            f"leave out all fields, which are {', '.join(sorted(tags - set(SPLITS)))}"
        )
    return layout, sorted(wanted, key=lambda field: folder.relative(field.path).as_posix())
