"""Published image sets: MNIST, Fashion-MNIST and CIFAR-10, read by torchvision; MedMNIST's .npz.

The files are read from a folder where there is one, so that no network is needed.
"""

import contextlib
import functools
import gzip
import json
import pickle
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

from extras.classes import canonical_class, choose_classes
from extras.crops import Index, crop_cell, existing_path
from extras.paths import IMAGE_ENDINGS, SPLITS
from extras.records import DataError

MAX_BYTES = 2**30  # of an unpacked file; the largest of these sets has 47 million
VALIDATION_SHARE = 0.1  # of each class of the training images, where a set has no validation


class ImageSet(NamedTuple):
    """The N images of a set.

    images: uint8 (N, S, S, C). labels: class numbers (N,), or 0 and 1 (N, n) where an image can be
    of several classes. splits: N of "train", "val" and "test". classes: n names. sources: N names.
    """

    images: np.ndarray
    labels: np.ndarray
    splits: list[str]
    classes: list[str]
    sources: list[str]

    @property
    def view(self):
        """The --view that its labels are for."""
        return "cell" if self.labels.ndim == 1 else "field"

    def multi_hot(self):
        """int64 (N, n) with a 1 for each class of an image."""
        if self.labels.ndim == 2:
            return self.labels
        return np.eye(len(self.classes), dtype=np.int64)[self.labels]


class Part(NamedTuple):
    """One split of a set as it is stored: images uint8 (N, H, W) or (N, H, W, C), and labels."""

    images: np.ndarray
    labels: np.ndarray


# Torchvision's sets. Their files are copied, unpacked, to where its classes look for them: a user's
# folder may be read-only, packed, or without the folders that torchvision expects around the files.


def spellings(name):
    """How a file can be called: as published, with a point as on Kaggle, each packed or not."""
    with_point = name.replace("-idx", ".idx")
    return name, f"{name}.gz", with_point, f"{with_point}.gz"


def find_file(folder, name):
    """The file of a name in a folder, in one of its spellings, or None."""
    for spelling in spellings(name):
        if (folder / spelling).is_file():
            return folder / spelling
    return None


def find_files(root, names, places):
    """{name: file} of all these names, in the first of some places under a folder that has one.

    Raises DataError, which says where the files go.
    """
    for place in places:
        files = {name: find_file(root / place, name) for name in names}
        if any(files.values()):
            break
    else:
        place = places[0]
    missing = [name for name in names if files[name] is None]
    if missing:
        raise DataError(f"no file {missing[0]}, packed or not; it goes into {root / place}")
    return files


def reason(error):
    """An error in a few words: its kind, and what it says in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:120]}"


def save(source, target):
    """Write what an open file holds. Raises DataError if that is more than any set has."""
    size = 0
    with target.open("wb") as file:
        for part in iter(functools.partial(source.read, 2**20), b""):
            size += len(part)
            if size > MAX_BYTES:
                raise DataError(f"{target.name}: more than {MAX_BYTES} bytes; it is of no such set")
            file.write(part)


def copy_unpacked(path, target):
    """Copy a file, unpacked if it is a .gz. Raises DataError if it is damaged."""
    open_file = gzip.open if path.suffix == ".gz" else open
    try:
        with open_file(path, "rb") as source:
            save(source, target)
    except DataError:
        raise
    except Exception as error:  # gzip, zlib and the system each have their own for damaged files
        raise DataError(f"{path.name}: damaged, or not readable ({reason(error)})") from error


def open_members(path):
    """Yield (name, open file) of the plain files in a zip or tar, links left out."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield PurePosixPath(entry.filename).name, archive.open(entry)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                yield PurePosixPath(member.name).name, archive.extractfile(member)


def unpack(path, folder, names):
    """Unpack the files of these names from a zip or tar, without the folders around them.

    Raises DataError if it is damaged, or lacks one.
    """
    wanted = {spelling for name in names for spelling in spellings(name)}
    try:
        for name, source in open_members(path):
            if name in wanted:
                save(source, folder / name)
    except DataError:
        raise
    except Exception as error:  # zipfile, tarfile, gzip and zlib each have their own
        raise DataError(f"{path.name}: damaged, or no zip or tar ({reason(error)})") from error
    for name in names:
        if find_file(folder, name) is None:
            raise DataError(f"{path.name}: no file {name} in it; fetch it again")


def stage(root, names, places, folder):
    """Put the files of these names into a folder, unpacked.

    root: a zip or tar with them, or a folder that has them in one of some places. Raises DataError.
    """
    if not root.is_file():
        for name, file in find_files(root, names, places).items():
            copy_unpacked(file, folder / name)
        return
    with tempfile.TemporaryDirectory() as members:
        unpack(root, Path(members), names)
        stage(Path(members), names, ("",), folder)


def check_idx(path):
    """Raise DataError unless a file is of the idx format and as long as it says.

    Magic number 0, 0, 8 (for bytes), dimensions; then their sizes, big-endian, then the bytes
    (LeCun et al., "The MNIST database").
    """
    dimensions = 3 if "images" in path.name else 1
    with path.open("rb") as file:
        magic = file.read(4)
        sizes = np.frombuffer(file.read(4 * dimensions), ">u4").tolist()
    if magic != bytes([0, 0, 8, dimensions]) or len(sizes) != dimensions:
        raise DataError(f"{path.name}: not an idx file of {dimensions} dimensions; fetch it again")
    expected = 4 + 4 * dimensions + int(np.prod(sizes, dtype=object))
    found = path.stat().st_size
    if found != expected or 0 in sizes:
        raise DataError(f"{path.name}: {found} bytes instead of {expected}; fetch it again")


def read_idx(dataset, root, staged):
    """The torchvision datasets (train, test) of MNIST's format, from idx files."""
    names = [packed.removesuffix(".gz") for packed, _ in dataset.resources]
    raw = staged / dataset.__name__ / "raw"
    raw.mkdir(parents=True)
    stage(root, names, (f"{dataset.__name__}/raw", "raw", ""), raw)
    for name in names:
        check_idx(raw / name)
    return dataset(staged, train=True), dataset(staged, train=False)


class ArrayUnpickler(pickle.Unpickler):
    """Reads plain values and numpy arrays only: whatever else a pickle names could run code."""

    NAMES = {
        ("_codecs", "encode"),  # bytes, as Python 3 writes them for Python 2
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
    }

    def find_class(self, module, name):
        """One of NAMES. Raises pickle.UnpicklingError for any other."""
        if (module, name) not in self.NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_pickle(path):
    """The dict in a pickle of CIFAR-10. Raises DataError if it is none, or if it could run code."""
    try:
        with path.open("rb") as file:
            entry = ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can lead to any kind
        raise DataError(
            f"{path.name}: not a file of CIFAR-10, or damaged ({reason(error)}); fetch it again"
        ) from error
    if type(entry) is not dict:
        raise DataError(f"{path.name}: not a file of CIFAR-10; fetch it again")
    return entry


def check_batch(path):
    """Raise DataError unless a file is a batch of CIFAR-10: images (N, 3072) and N labels."""
    entry = read_pickle(path)
    images = entry.get("data")
    labels = entry.get("labels")
    is_batch = (
        type(images) is np.ndarray
        and images.dtype == np.uint8
        and images.ndim == 2
        and images.shape[1] == 3 * 32 * 32
        and type(labels) is list
        and all(type(label) is int for label in labels)
    )
    if not is_batch:
        raise DataError(f"{path.name}: not images and labels of CIFAR-10; fetch it again")
    if len(images) != len(labels):
        raise DataError(f"{path.name}: {len(images)} images but {len(labels)} labels")


def check_class_names(path, key):
    """Raise DataError unless a file of CIFAR-10 has a list of class names."""
    names = read_pickle(path).get(key)
    if type(names) is not list or not all(type(name) is str for name in names):
        raise DataError(f"{path.name}: no class names in it; fetch it again")


def read_cifar(dataset, root, staged):
    """The torchvision datasets (train, test) of CIFAR-10's format, from its pickles.

    Torchvision's class unpickles, which can run code: that the files are the published ones is
    what it goes by. Here they have been looked through, so they can be others in this format.
    """
    batches = [name for name, _ in dataset.train_list + dataset.test_list]
    names_file = dataset.meta["filename"]
    folder = staged / dataset.base_folder
    folder.mkdir()
    if (root / dataset.filename).is_file():
        root = root / dataset.filename
    stage(root, [*batches, names_file], (dataset.base_folder, ""), folder)
    for name in batches:
        check_batch(folder / name)
    check_class_names(folder / names_file, dataset.meta["key"])

    class AnySum(dataset):
        train_list = [(name, None) for name, _ in dataset.train_list]
        test_list = [(name, None) for name, _ in dataset.test_list]
        meta = {**dataset.meta, "md5": None}

    return AnySum(staged, train=True), AnySum(staged, train=False)


class Published(NamedTuple):
    """A set that torchvision reads.

    torchvision_name: of its class; symmetry: what its images allow, as --symmetry has it; read: a
    function of that class, a folder with the files, and an empty one for copies of them.
    """

    torchvision_name: str
    symmetry: str
    read: Callable

    def dataset(self):
        """Torchvision's class."""
        from torchvision import datasets

        return getattr(datasets, self.torchvision_name)


IMAGE_SETS = {
    "mnist": Published("MNIST", "none", read_idx),
    "fashion_mnist": Published("FashionMNIST", "mirror", read_idx),
    "cifar10": Published("CIFAR10", "mirror", read_cifar),
}


def read_image_set(name, root, image_size, channels, seed=0):
    """The ImageSet of one of IMAGE_SETS, its classes named as torchvision does; digits are 0 to 9.

    root: a torchvision root, the folder with the files themselves, packed or not, or a zip or tar
    of them. A tenth of each class of the training images, drawn by the seed, is for validation.
    Raises DataError if a file is missing or damaged.
    """
    published = IMAGE_SETS[name]
    with tempfile.TemporaryDirectory() as staged:
        train, test = published.read(published.dataset(), Path(root), Path(staged))
    classes = [title.partition(" - ")[0] for title in train.classes]  # "0 - zero"
    parts = {}
    for split, stored in (("train", train), ("test", test)):
        parts[split] = Part(np.asarray(stored.data), np.asarray(stored.targets))
    return image_set_of_parts(name, parts, classes, image_size, channels, seed)


def download(name, folder):
    """Let torchvision fetch one of IMAGE_SETS into a folder, unless it is there already.

    Raises DataError if that fails.
    """
    dataset = IMAGE_SETS[name].dataset()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            dataset(folder, download=True)
    except Exception as error:  # of the network, the disk, or of sums that differ
        files = file_names(name)
        raise DataError(
            f"cannot be downloaded ({reason(error)}); give --data_path, a folder with {files}"
        ) from error
    return folder


def file_names(name):
    """The files of one of IMAGE_SETS, in words."""
    dataset = IMAGE_SETS[name].dataset()
    if hasattr(dataset, "resources"):
        return ", ".join(file for file, _ in dataset.resources)
    return dataset.filename


# MedMNIST


def find_npz(data_path):
    """The .npz that a path names, or that a folder without images or folders holds, or None.

    Raises DataError if a folder has several.
    """
    path = existing_path(data_path)
    if path is None:
        return None
    if path.is_dir():
        return npz_in(path)
    return path if path.suffix.lower() == ".npz" else None


def npz_in(folder):
    """The .npz of a folder that has neither images nor folders, or None.

    Raises DataError if it has several.
    """
    files = list(folder.iterdir())
    endings = {file.suffix.lower() for file in files}
    if endings & IMAGE_ENDINGS or any(file.is_dir() for file in files):
        return None
    found = sorted(file for file in files if file.suffix.lower() == ".npz")
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(f"several .npz in it ({names}); give the path of one")
    return found[0] if found else None


def read_npz(path, image_size, channels, seed=0):
    """The ImageSet of a .npz with train_images, train_labels, and perhaps val_... and test_....

    The format of MedMNIST (Yang et al. 2023): images uint8 (N, H, W) or (N, H, W, 3), labels (N, 1)
    or (N, n) of 0 and 1. Without val_images a tenth of the training images is for validation.
    Raises DataError.
    """
    arrays = npz_arrays(path)
    parts = {}
    for split in SPLITS:
        if f"{split}_images" in arrays:
            parts[split] = npz_part(arrays, split, path.name)
    if "train" not in parts:
        raise DataError(f"{path.name}: no train_images in it; it is not of MedMNIST's format")
    classes = npz_class_names(path)
    if classes is None:
        classes = [f"class {number}" for number in range(number_of_classes(parts.values()))]
    return image_set_of_parts(path.name, parts, classes, image_size, channels, seed)


def number_of_classes(parts):
    """How many classes the labels of some Parts are of."""
    several = [part.labels.shape[1] for part in parts if part.labels.ndim == 2]
    single = [1 + part.labels.max(initial=0) for part in parts if part.labels.ndim == 1]
    return max(several + single)


def npz_arrays(path):
    """{name: array} of the images and labels in a .npz. Raises DataError if it is damaged."""
    wanted = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in wanted if name in file.files}
    except Exception as error:  # numpy raises many kinds for files that are damaged or unsafe
        raise DataError(f"{path.name}: damaged, or no .npz of numbers ({reason(error)})") from error


def npz_part(arrays, split, file):
    """The Part of a split. Raises DataError for what are no images, or no labels of them."""
    images = arrays[f"{split}_images"]
    labels = arrays.get(f"{split}_labels", np.zeros(0, np.uint8))
    is_grey = images.ndim == 3
    is_colour = images.ndim == 4 and images.shape[3] in (1, 3)
    if images.dtype != np.uint8 or not (is_grey or is_colour) or 0 in images.shape:
        raise DataError(
            f"{file}: {split}_images are {images.dtype} {images.shape}; "
            "needs uint8 (N, H, W) or (N, H, W, 3)"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "iu":
        raise DataError(f"{file}: {split}_labels are {labels.dtype} {labels.shape}; needs (N, 1)")
    return Part(images, labels.astype(np.int64))


def npz_class_names(path):
    """Class names from a .json or .names file beside a .npz and of its name; None without one.

    JSON: ["basophil", ...], {"0": "basophil", ...}, or the latter as "label" of more, as MedMNIST
    publishes it. .names: a name a line. Raises DataError if it cannot be read.
    """
    plain = path.with_suffix(".names")
    described = path.with_suffix(".json")
    try:
        if plain.is_file():
            names = plain.read_text(encoding="utf-8").split("\n")
            return [name.strip() for name in names if name.strip()]
        if described.is_file():
            return names_in(json.loads(described.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, TypeError, OSError) as error:
        raise DataError(f"{described.name}: no class names ({reason(error)})") from error
    return None


def names_in(content):
    """The class names of a JSON file; a comma, which separates --classes, becomes a semicolon."""
    if isinstance(content, dict):
        content = content.get("label", content)
    if isinstance(content, dict):
        content = [content[number] for number in sorted(content, key=int)]
    if not isinstance(content, list):
        raise TypeError("neither a list nor numbered names")
    return [str(name).replace(",", ";") for name in content]


# What all sets have in common


def image_set_of_parts(name, parts, classes, image_size, channels, seed):
    """The ImageSet of {split: Part}; without "val" a tenth of "train" is for validation.

    Raises DataError if images, labels and classes do not go together.
    """
    if len(set(map(canonical_class, classes))) < len(classes):
        raise DataError(f"{name}: two classes of one name in {', '.join(classes)}")
    if len({part.labels.ndim for part in parts.values()}) > 1:
        raise DataError(f"{name}: one class an image in one split, several in another")
    images = []
    labels = []
    splits = []
    sources = []
    for split, part in parts.items():
        check_labels(part.labels, len(part.images), len(classes), f"{name}: {split}")
        images.append(resample(part.images, image_size, channels))
        labels.append(part.labels)
        part_splits = np.full(len(part.images), split, "<U5")
        if split == "train" and "val" not in parts:
            part_splits[is_held_out(part.labels, seed)] = "val"
        splits += part_splits.tolist()
        sources += [f"{name}/{split}/{number:05d}" for number in range(len(part.images))]
    return ImageSet(np.concatenate(images), np.concatenate(labels), splits, list(classes), sources)


def check_labels(labels, number_of_images, number_of_classes, what):
    """Raise DataError unless there is a label for each image, and a class for each label."""
    if len(labels) != number_of_images:
        raise DataError(f"{what} has {number_of_images} images but {len(labels)} labels")
    if labels.ndim == 2:
        if labels.shape[1] != number_of_classes or not np.isin(labels, (0, 1)).all():
            raise DataError(f"{what} has labels other than 0 and 1 of {number_of_classes} classes")
    elif labels.min(initial=0) < 0 or labels.max(initial=0) >= number_of_classes:
        raise DataError(
            f"{what} has labels {labels.min()} to {labels.max()}, "
            f"but there are {number_of_classes} classes"
        )


def resample(images, image_size, channels):
    """uint8 images (N, H, W) or (N, H, W, C) as (N, S, S, channels), with antialiasing."""
    if images.ndim == 3:
        images = images[..., None]
    count, height, width, stored_channels = images.shape
    if channels == 1 and stored_channels == 3:
        rows = images.reshape(count * height, width, 3)
        images = cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY).reshape(count, height, width, 1)
    if (height, width) != (image_size, image_size):
        images = np.stack([crop_cell(image, None, image_size) for image in images])
    return np.repeat(images, channels // images.shape[3], 3)


def is_held_out(labels, seed):
    """Whether each of N images is for validation: a tenth of every class, one at least.

    labels: (N,), or (N, n), of which a tenth of all is drawn. A class of one image keeps it.
    """
    draws = np.random.default_rng(seed)
    strata = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(strata):
        rows = draws.permutation(np.flatnonzero(strata == label))
        number = max(1, round(VALIDATION_SHARE * len(rows)))
        held_out[rows[: min(number, len(rows) - 1)]] = True
    return held_out


def choose(image_set, asked, some_may_be_missing=False):
    """The ImageSet of the classes asked for: names by commas, or "auto" for all, in their order.

    Raises DataError if the set lacks one.
    """
    if asked == "auto":
        return image_set
    numbers = {canonical_class(name): number for number, name in enumerate(image_set.classes)}
    names = choose_classes(set(numbers), asked, some_may_be_missing)
    all_hot = image_set.multi_hot()
    hot = np.zeros((len(all_hot), len(names)), np.int64)
    classes = list(names)
    for column, name in enumerate(names):
        if name in numbers:
            hot[:, column] = all_hot[:, numbers[name]]
            classes[column] = image_set.classes[numbers[name]]
    if image_set.view == "field":  # an image of none of the classes stays
        return image_set._replace(labels=hot, classes=classes)
    rows = np.flatnonzero(hot.any(1))
    splits = [image_set.splits[row] for row in rows]
    sources = [image_set.sources[row] for row in rows]
    return ImageSet(image_set.images[rows], hot[rows].argmax(1), splits, classes, sources)


def is_image_set(dataset, data_path):
    """Whether load_image_set is to read what --dataset and --data_path name. Raises DataError."""
    if dataset != "auto":
        return True
    return data_path != "" and find_npz(data_path) is not None


def load_image_set(dataset, data_path, results, settings):
    """(images uint8 (N, S, S, C), Index) of a published set, or, with "auto", of a .npz.

    data_path: "" lets torchvision download it. results: the folder that holds the cache.
    settings: a CropSettings (extras/crops.py). Raises DataError.
    """
    if dataset == "auto":
        found = read_npz(find_npz(data_path), settings.image_size, settings.channels)
    else:
        if data_path:
            root = existing_path(data_path)
        else:
            root = download(dataset, results / "cache" / dataset)
        if root is None:
            raise DataError("no such folder or zip")
        found = read_image_set(dataset, root, settings.image_size, settings.channels)
    if found.view != settings.view:
        raise DataError(f"its labels are for --view {found.view}, not --view {settings.view}")
    chosen = choose(found, settings.classes, settings.some_may_be_missing)
    return chosen.images, index_of(chosen, dataset)


def index_of(image_set, dataset):
    """The Index of an ImageSet, which is what the script knows of its images."""
    layout = "MedMNIST .npz" if dataset == "auto" else dataset
    counts = image_set.multi_hot().sum(0).tolist()
    return Index(
        layout=layout,
        view=image_set.view,
        classes=image_set.classes,
        found=dict(zip(image_set.classes, counts, strict=True)),
        problems=[],
        notes=[],
        image_counts={split: image_set.splits.count(split) for split in SPLITS},
        boxes=[None] * len(image_set.images),
        labels=image_set.labels.tolist(),
        splits=image_set.splits,
        sources=image_set.sources,
    )
