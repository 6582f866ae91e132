"""What the words of a path say: which image, which microscope, which split, which place."""

import functools
import re
import unicodedata
from pathlib import PurePosixPath

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
IMAGE_ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"}
UNREAD_IMAGE_ENDINGS = {  # what looks like an image and is not read
    ".arw", ".avif", ".cr2", ".cr3", ".czi", ".dng", ".gif", ".heic", ".heif", ".jp2", ".jxl",
    ".lif", ".lsm", ".mrxs", ".nd2", ".ndpi", ".nef", ".oib", ".orf", ".pef", ".psd", ".raf",
    ".raw", ".rw2", ".sr2", ".srw", ".svg", ".svs", ".vsi",
}  # fmt: skip
ANNOTATION_ENDINGS = {".xml", ".txt", ".json"}
BETWEEN_WORDS = re.compile(r"[/\\_\-. ]+")

# Words of folders that say what kind of file lies in them, not where it is from.
ROLE_WORDS = {
    "ann", "annot", "annotated", "annotation", "annotations", "annots", "anns", "bbox", "bboxes",
    "bmp", "bounding", "box", "boxes", "cell", "cells", "coco", "crop", "crops", "csv", "data",
    "dataset", "export", "field", "fields", "final", "frame", "frames", "ground", "gt", "image",
    "images", "img", "imgs", "jpeg", "jpegimages", "jpg", "json", "jsons", "label", "labels",
    "lbl", "lbls", "main", "obj", "object", "objects", "orig", "original", "photo", "photos",
    "pic", "pics", "picture", "pictures", "png", "raw", "scan", "scans", "slide", "slides",
    "smear", "smears", "tif", "tiff", "truth", "txt", "voc", "xml", "xmls", "yolo",
    "instances",
}  # fmt: skip
COPY_WORDS = {"mask", "masks", "preview", "previews", "segmentation", "segmentations", "thumb"}
COPY_WORDS |= {"thumbs", "thumbnail", "thumbnails", "overlay", "overlays"}


def plain(name):
    """A name in lower case and in the one form of Unicode that systems agree on."""
    return unicodedata.normalize("NFC", str(name)).lower()


def stem_key(name):
    """What identifies an image: its stem without folders, spaces, ending, case, magnification."""
    file = PurePosixPath(str(name).replace("\\", "/")).name
    file = PurePosixPath(re.sub(r"\s+", "", plain(file)))
    known_ending = file.suffix in IMAGE_ENDINGS | ANNOTATION_ENDINGS
    stem = file.stem if known_ending else file.name
    return re.sub(r"[_\-]?(100|400|1000)x$", "", stem)


@functools.lru_cache(maxsize=2**16)
def path_tags(path):
    """Words of a path that say microscope, magnification or split: {'hcm', '1000x', 'train'}."""
    tags = set()
    for word in BETWEEN_WORDS.split(plain(path)):
        word = re.sub(r"(set|data)?\d*$", "", word)  # trainset, train2017
        tags.add(SPLIT_SPELLINGS.get(word, word))
    return frozenset(tags & (MAGNIFICATIONS | MICROSCOPES | set(SPLITS)))


def tags_conflict(tags, others):
    """Whether two tag sets name different microscopes, magnifications or splits."""
    for kind in (MICROSCOPES, MAGNIFICATIONS, set(SPLITS)):
        if tags & kind and others & kind and not tags & others & kind:
            return True
    return False


def later_split(split, other):
    """The later of two splits in the order train, val, test; either may be None."""
    given = [name for name in (split, other) if name]
    return max(given, key=SPLITS.index, default=None)


def split_in_path(path):
    """The split that the last of a relative path's parts tells, or None."""
    for part in reversed(path.parts):
        for split in SPLITS:
            if split in path_tags(part):
                return split
    return None


def places(folders):
    """What folder names say of where something is from: a patient, a site, a microscope.

    Of a name that tells the kind of file, such as labels_2, cells_A or imagesB, the rest counts.
    """
    return _places(tuple(map(str, folders)))


@functools.lru_cache(maxsize=2**16)
def _places(folders):
    """The same of a tuple of names, which come again and again."""
    found = set()
    for folder in folders:
        if path_tags(folder):
            continue
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", folder))
        words = [word for word in BETWEEN_WORDS.split(plain(spaced)) if word]
        others = [word for word in words if word.rstrip("0123456789") not in ROLE_WORDS]
        if len(others) < len(words):
            found.update(others)
            found.update(re.findall(r"\d+", folder))
        else:
            found.add(plain(folder))
    return frozenset(found)


def places_differ(some, others):
    """Whether two sets of places are of different patients, microscopes or the like.

    One may know more than the other: {"patient1"} and {} do not differ, nor do {"site", "day1"}
    and {"site"}.
    """
    return bool(some - others) and bool(others - some)
