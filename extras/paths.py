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
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
    "holdout": "test",
}
LIST_WORDS = {"file", "files", "id", "ids", "image", "images", "list", "names", "set", "split"}
MICROSCOPES = {"hcm", "lcm"}
MAGNIFICATIONS = {"100x", "400x", "1000x"}
IMAGE_ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"}
UNREAD_IMAGE_ENDINGS = {  # what looks like an image and is not read
    ".arw", ".avif", ".cr2", ".cr3", ".czi", ".dng", ".gif", ".heic", ".heif", ".jp2", ".jxl",
    ".lif", ".lsm", ".mrxs", ".nd2", ".ndpi", ".nef", ".oib", ".orf", ".pef", ".psd", ".raf",
    ".raw", ".rw2", ".sr2", ".srw", ".svg", ".svs", ".vsi",
}  # fmt: skip
UNREAD_DATA_ENDINGS = {  # what may hold images or labels and is not read, and the mend
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".parquet", ".feather", ".arff"), "save it as CSV"),
    **dict.fromkeys(
        (".mat", ".npz", ".npy", ".h5", ".hdf5", ".pkl", ".pickle", ".arrow", ".lmdb", ".mdb"),
        "save images as PNG files, labels as CSV",
    ),
    **dict.fromkeys((".tfrecord", ".tfrecords", ".rec"), "export the set as COCO JSON"),
    **dict.fromkeys((".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz"), "unpack it"),
}
ANNOTATION_ENDINGS = {".xml", ".txt", ".json"}
MANY_IN_ONE = (".json", ".jsonl", ".csv", ".tsv")  # files that can be about many images
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
    "instances", "imageset", "imagesets", "list", "lists", "set", "sets", "split", "splits",
}  # fmt: skip
CELL_WORDS = {  # of ROLE_WORDS those that can be a class beside another, as background
    "cell", "cells", "crop", "crops", "field", "fields", "object", "objects", "slide", "slides",
    "smear", "smears",
}  # fmt: skip
COPY_WORDS = {"mask", "masks", "preview", "previews", "segmentation", "segmentations", "thumb"}
COPY_WORDS |= {"thumbs", "thumbnail", "thumbnails", "overlay", "overlays"}
PASSED_OVER = re.compile(r"\.|__MACOSX|results$")  # folders without data
OWNER = re.compile(
    r"(patient|subject|person|donor|case|specimen|slide|smear|sample|batch|day|site|pt?|s)[ _-]*\d+"
)
NO_CLASS = re.compile(  # a date, a magnification, a part of a download
    r"\d{4}[-_. ]\d\d([-_. ]\d\d)?$|\d+x$|part[ _-]*\d+$"
)
MASK_FOLDERS = {"gt", "label", "labels", "ground truth", "ground_truth", "groundtruth"}
MASK_NAME = re.compile(r"(.+?)[_\- ]*(masks?|overlay|segmentation)[_\- ]*\d*")  # of a file


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


def words_of(name):
    """The words of a name in lower case, also those of camelCase."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", str(name)))
    return [word for word in BETWEEN_WORDS.split(plain(spaced)) if word]


@functools.lru_cache(maxsize=2**16)
def path_tags(path):
    """Words of a path that say microscope, magnification or split: {'hcm', '1000x', 'train'}."""
    tags = set()
    for word in words_of(path):
        # trainset, train2017, trainlabels
        word = re.sub(r"(set|data|images?|labels?|list)?\d{0,9}$", "", word)
        tags.add(SPLIT_SPELLINGS.get(word, word))
        tags.add(word)
    return frozenset(tags & (MAGNIFICATIONS | MICROSCOPES | set(SPLITS)))


def image_tags(path):
    """The path_tags of an image: its folders tell microscope, magnification and split.

    Its name tells the first two: test_smear_3.png can be of any split.
    """
    return path_tags(path.parent) | (path_tags(path.name) - set(SPLITS))


def split_of_list(stem):
    """The split whose images a text file of that stem lists, or None: train, train_files."""
    splits = path_tags(stem) & set(SPLITS)
    others = [word for word in words_of(stem) if not path_tags(word) and word not in LIST_WORDS]
    return next(iter(splits)) if len(splits) == 1 and not others else None


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
        words = words_of(folder)
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


def is_role(name):
    """Whether a folder's name only says what kind of file is in it: images, cell_images, img2."""
    words = [word.rstrip("0123456789") for word in BETWEEN_WORDS.split(plain(name))]
    return any(words) and all(word in ROLE_WORDS or not word for word in words)


def may_be_class(name):
    """Whether a folder's name can be that of a class."""
    if path_tags(name) or is_role(name) or is_owner(name):
        return False
    return not NO_CLASS.match(plain(name))


def is_owner(name):
    """Whether a folder's name says whose or from where its images are: patient_3, slide 7."""
    return bool(OWNER.match(plain(name)))


def is_folder_of_copies(name):
    """Whether a folder of that name holds masks, previews or the like, not the images."""
    return bool(set(words_of(name)) & COPY_WORDS)


def is_result_of_a_run(files):
    """Whether files of one folder are what this program leaves: a run, or generated images."""
    names = set(files)
    is_run = {"config.json", "last.pt"} <= names or {"metrics.csv", "last.pt"} <= names
    is_sheet = {"cells.png", "skipped.csv"} <= names
    is_generated = {"grid.png", "0000.png"} <= names
    return is_run or is_sheet or is_generated or "gradcam_right.png" in names
