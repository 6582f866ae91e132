"""MNIST, Fashion-MNIST, CIFAR-10 and MedMNIST files, as extras/image_sets.py reads them."""

import gzip
import hashlib
import json
import os
import pickle
import shutil
import tarfile
import tracemalloc
import zipfile
from collections import Counter

import cv2
import image_files
import numpy as np
import pytest
from torchvision import datasets

from extras import image_sets
from extras.crops import CropSettings, crop_cell
from extras.records import DataError

SIDES = {"mnist": 28, "fashion_mnist": 28, "cifar10": 32}
CHANNELS = {"mnist": 1, "fashion_mnist": 1, "cifar10": 3}
RAW = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}


@pytest.fixture
def root(tmp_path):
    """A torchvision root."""
    return tmp_path / "data"


def write(name, root, packed=False):
    """Write a set into a torchvision root; returns (train, test), each (images, labels)."""
    if name != "cifar10":
        return image_files.write_mnist(root / RAW[name], packed=packed)
    folder = root / "cifar-10-batches-py"
    parts = image_files.write_cifar(folder)
    if packed:
        image_files.pack_cifar(folder, root / "cifar-10-python.tar.gz")
        shutil.rmtree(folder)
    return parts


def read(name, root, **settings):
    """The ImageSet as it is stored, at its own size."""
    settings = {"image_size": SIDES[name], "channels": CHANNELS[name], **settings}
    return image_sets.read_image_set(name, root, **settings)


def refused(name, root, pattern):
    """Assert that a set is refused in one line with these words."""
    with pytest.raises(DataError, match=pattern) as raised:
        read(name, root)
    assert "\n" not in str(raised.value)


def of_test(image_set):
    """The test images of an ImageSet and their labels."""
    rows = [row for row, split in enumerate(image_set.splits) if split == "test"]
    return image_set.images[rows], image_set.labels[rows]


def with_own_sums(folder):
    """Torchvision's CIFAR10, which reads the files of a folder whose md5 sums it knows."""

    def with_sums(files):
        return [(name, hashlib.md5((folder / name).read_bytes()).hexdigest()) for name, _ in files]

    class OwnCIFAR10(datasets.CIFAR10):
        train_list = with_sums(datasets.CIFAR10.train_list)
        test_list = with_sums(datasets.CIFAR10.test_list)
        meta = {**datasets.CIFAR10.meta, "md5": with_sums([("batches.meta", "")])[0][1]}

    return OwnCIFAR10


# As torchvision reads them


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_read_as_torchvision_reads_them(name, train, root):
    """Its own class, of the same files."""
    write(name, root)
    expected = image_sets.IMAGE_SETS[name].dataset()(root, train=train)
    found = read(name, root)
    rows = [row for row, split in enumerate(found.splits) if (split != "test") == train]
    assert np.array_equal(found.images[rows][..., 0], expected.data.numpy())
    assert found.labels[rows].tolist() == expected.targets.tolist()


@pytest.mark.parametrize("train", [True, False])
def test_cifar_files_are_read_as_torchvision_reads_them(train, root):
    """Its own class, with the sums of these files."""
    write("cifar10", root)
    expected = with_own_sums(root / "cifar-10-batches-py")(root, train=train)
    found = read("cifar10", root)
    rows = [row for row, split in enumerate(found.splits) if (split != "test") == train]
    assert np.array_equal(found.images[rows], expected.data)
    assert found.labels[rows].tolist() == expected.targets
    assert found.classes == expected.classes


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", image_sets.IMAGE_SETS)
def test_images_and_labels_are_those_in_the_files(name, packed, root):
    """Of the test split, in their order."""
    _, (images, labels) = write(name, root, packed)
    found_images, found_labels = of_test(read(name, root))
    assert np.array_equal(found_images.reshape(images.shape), images)
    assert np.array_equal(found_labels, labels)


@pytest.mark.parametrize("name", image_sets.IMAGE_SETS)
def test_the_folder_with_the_files_can_be_given(name, root):
    """Without the folders that torchvision expects around them."""
    write(name, root)
    folder = next(path.parent for path in sorted(root.rglob("*")) if path.is_file())
    assert len(read(name, folder).images) == len(read(name, root).images)


def test_the_archive_of_cifar_can_be_given(root):
    """The .tar.gz itself."""
    write("cifar10", root, packed=True)
    assert len(read("cifar10", root / "cifar-10-python.tar.gz").images) == 120


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", image_sets.IMAGE_SETS)
def test_a_zip_of_the_files_is_read(name, packed, root):
    """Whatever folders are around them."""
    write(name, root)
    files = [path for path in root.rglob("*") if path.is_file()]
    with zipfile.ZipFile(root / "files.zip", "w") as archive:
        for file in files:
            content = file.read_bytes()
            if packed:
                archive.writestr(f"some/folder/{file.name}.gz", gzip.compress(content))
            else:
                archive.writestr(f"some/folder/{file.name}", content)
    assert np.array_equal(read(name, root / "files.zip").images, read(name, root).images)


def test_a_file_that_unpacks_to_very_much_is_refused(root, monkeypatch):
    """It would fill the memory."""
    write("mnist", root, packed=True)
    monkeypatch.setattr(image_sets, "MAX_BYTES", 10_000)
    refused("mnist", root, "train-images-idx3-ubyte: more than 10000 bytes")


def test_kaggles_spelling_of_the_files_is_read(root):
    """A point before idx3."""
    write("mnist", root)
    for path in (root / "MNIST" / "raw").iterdir():
        path.rename(root / path.name.replace("-idx", ".idx"))
    assert len(read("mnist", root).images) == 80


def test_the_files_in_a_read_only_folder_stay_as_they_are(root):
    """Nothing is unpacked into the user's folder."""
    write("mnist", root, packed=True)
    before = sorted(root.rglob("*"))
    read("mnist", root)
    assert sorted(root.rglob("*")) == before


def test_one_root_holds_digits_and_clothing(root):
    """Their files have the same names."""
    write("mnist", root)
    image_files.write_mnist(root / "FashionMNIST" / "raw", train=30, test=10)
    assert len(read("fashion_mnist", root).images) == 40


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("mnist", [str(digit) for digit in range(10)]),
        ("fashion_mnist", datasets.FashionMNIST.classes),
        ("cifar10", list(image_files.CIFAR_CLASSES)),
    ],
)
def test_class_names(name, classes, root):
    """Torchvision's; digits without their names in words."""
    write(name, root)
    assert read(name, root).classes == classes


@pytest.mark.parametrize("dumps", [pickle.dumps, image_files.python_2_pickle])
def test_pickles_of_python_2_and_3_are_read(dumps, root):
    """CIFAR-10's own are of the first, a student's of the second."""
    image_files.write_cifar(root, dumps=dumps)
    assert len(read("cifar10", root).images) == 120


# Splits


def test_a_tenth_of_each_class_is_for_validation(root):
    """Of the training images."""
    image_files.write_mnist(root, train=400)
    found = read("mnist", root)
    rows = [row for row, split in enumerate(found.splits) if split == "val"]
    assert set(Counter(found.labels[rows].tolist()).values()) == {4}


def test_the_split_is_the_same_every_time(root):
    """For one seed."""
    write("mnist", root)
    assert read("mnist", root).splits == read("mnist", root).splits


def test_the_split_depends_on_the_seed(root):
    """Which images are for validation."""
    write("mnist", root)
    assert read("mnist", root, seed=1).splits != read("mnist", root, seed=2).splits


def test_a_class_of_one_image_is_learnt():
    """None is left for validation."""
    assert image_sets.is_held_out(np.array([0, 0, 1]), seed=0).tolist().count(True) == 1
    assert not image_sets.is_held_out(np.array([0, 0, 1]), seed=0)[2]


def test_sources_name_every_image_once(root):
    """By set, published split and number: validation images are of the training files."""
    write("mnist", root)
    found = read("mnist", root)
    assert len(set(found.sources)) == len(found.sources)
    assert found.sources[0] == "mnist/train/00000"
    assert found.sources[-1] == "mnist/test/00019"


# Size and colour


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 64, 128])
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_shape(name, size, channels, root):
    """As --image_size and --channels ask."""
    write(name, root)
    found = read(name, root, image_size=size, channels=channels)
    assert found.images.shape[1:] == (size, size, channels)
    assert found.images.dtype == np.uint8


@pytest.mark.parametrize("size", [28, 64])
def test_images_are_resampled_as_crops_are(size, root):
    """By the function that cuts out cells, with antialiasing."""
    _, (images, _) = write("cifar10", root)
    found, _ = of_test(read("cifar10", root, image_size=size))
    assert np.array_equal(found[0], crop_cell(images[0], None, size))


def test_grey_in_colour_has_three_equal_channels(root):
    """Digits with --channels 3."""
    write("mnist", root)
    images = read("mnist", root, channels=3).images
    assert np.array_equal(images, np.repeat(images[..., :1], 3, 3))


def test_colour_in_grey_is_its_brightness(root):
    """CIFAR-10 with --channels 1."""
    _, (images, _) = write("cifar10", root)
    found, _ = of_test(read("cifar10", root, channels=1))
    assert np.array_equal(found[0, ..., 0], cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY))


def test_memory_is_a_few_times_that_of_the_images(root):
    """6,000 digits, as torch and numpy count it for numpy's part."""
    image_files.write_mnist(root, train=6000, test=100)
    tracemalloc.start()
    images = read("mnist", root).images
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * images.nbytes


# What is missing, damaged or in the wrong place


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("part", ["train", "t10k"])
def test_a_missing_idx_file_is_named(part, kind, packed, root):
    """With the folder that it goes into."""
    write("mnist", root, packed)
    file = f"{part}-{kind}-ubyte"
    (root / "MNIST/raw" / (f"{file}.gz" if packed else file)).unlink()
    refused("mnist", root, f"no file {file}, packed or not; it goes into .*MNIST.raw")


@pytest.mark.parametrize("file", [*image_files.BATCHES, "batches.meta"])
def test_a_missing_file_of_cifar_is_named(file, root):
    """With the folder that it goes into."""
    write("cifar10", root)
    (root / "cifar-10-batches-py" / file).unlink()
    refused("cifar10", root, f"no file {file}, .*it goes into .*cifar-10-batches-py")


def test_a_file_that_the_archive_lacks_is_named(root):
    """Of the .tar.gz."""
    folder = root / "cifar-10-batches-py"
    image_files.write_cifar(folder)
    (folder / "data_batch_4").unlink()
    image_files.pack_cifar(folder, root / "cifar-10-python.tar.gz")
    refused("cifar10", root, "cifar-10-python.tar.gz: no file data_batch_4 in it")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
    ],
)
def test_an_empty_folder_is_told_where_files_go(name, file, root):
    """The torchvision root's."""
    root.mkdir()
    folder, _, file = file.rpartition("/")
    refused(name, root, f"no file {file}, packed or not; it goes into .*{folder}")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", image_sets.IMAGE_SETS)
def test_a_file_that_is_cut_off_is_named(name, packed, share, root):
    """The largest of a set."""
    write(name, root, packed)
    file = max(root.rglob("*"), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    refused(name, root, file.name.removesuffix(".gz"))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", image_sets.IMAGE_SETS)
def test_a_file_of_something_else_is_named(name, packed, root):
    """A web page, as failed downloads leave it."""
    write(name, root, packed)
    file = max(root.rglob("*"), key=lambda path: path.stat().st_size)
    file.write_text("<html>404 not found</html>")
    refused(name, root, file.name.removesuffix(".gz"))


def test_swapped_images_and_labels_are_refused(root):
    """An idx file says how many dimensions it has."""
    write("mnist", root)
    folder = root / "MNIST" / "raw"
    images = folder / "train-images-idx3-ubyte"
    labels = folder / "train-labels-idx1-ubyte"
    images.rename(folder / "other")
    labels.rename(images)
    (folder / "other").rename(labels)
    refused("mnist", root, "train-images-idx3-ubyte: not an idx file of 3 dimensions")


def test_labels_of_other_images_are_refused(root):
    """Those of the test images beside the training images."""
    write("mnist", root)
    folder = root / "MNIST" / "raw"
    shutil.copy(folder / "t10k-labels-idx1-ubyte", folder / "train-labels-idx1-ubyte")
    refused("mnist", root, "train has 60 images but 20 labels")


def test_a_label_without_a_class_is_refused(root):
    """Letters for digits, say."""
    write("mnist", root)
    labels = image_files.idx_bytes(np.arange(20, dtype=np.uint8))
    (root / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(labels)
    refused("mnist", root, "test has labels 0 to 19, but there are 10 classes")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": None},
        {"labels": ["a"] * 20},
        {"data": np.zeros((20, 3072))},
        {"data": np.zeros((20, 784), np.uint8)},
        {"data": b"0" * 3072},
        {"data": np.array([None] * 20)},
    ],
)
def test_a_batch_of_other_values_is_refused(change, root):
    """Images are uint8 (N, 3072), labels a list of numbers."""
    write("cifar10", root)
    file = root / "cifar-10-batches-py" / "data_batch_2"
    file.write_bytes(pickle.dumps({**pickle.loads(file.read_bytes(), encoding="latin1"), **change}))
    refused("cifar10", root, "data_batch_2: not images and labels of CIFAR-10")


def test_a_batch_with_too_few_labels_is_refused(root):
    """One for each image."""
    write("cifar10", root)
    file = root / "cifar-10-batches-py" / "data_batch_2"
    entry = pickle.loads(file.read_bytes(), encoding="latin1")
    entry["labels"].pop()
    file.write_bytes(pickle.dumps(entry))
    refused("cifar10", root, "data_batch_2: 20 images but 19 labels")


class Attack:
    """Its pickle makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_runs_code(file, protocol, root):
    """Wherever it is: beside the images, it would be read with them."""
    write("cifar10", root)
    path = root / "cifar-10-batches-py" / file
    entry = pickle.loads(path.read_bytes(), encoding="latin1")
    made = root / "made"
    path.write_bytes(pickle.dumps({**entry, "more": Attack(made)}, protocol))
    refused(
        "cifar10",
        root,
        f"{file}: not a file of CIFAR-10, or damaged .UnpicklingError: it asks for ",
    )
    assert not made.exists()


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__", "open"])
def test_no_builtin_is_called(name, root):
    """By a pickle's oldest opcode."""
    write("cifar10", root)
    path = root / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(f"cbuiltins\n{name}\n(S'1'\ntR.".encode())
    refused("cifar10", root, f"data_batch_1: .*it asks for builtins.{name}")


def test_a_link_in_an_archive_is_not_followed(root):
    """Out of the folder that it is unpacked into: only plain files are taken."""
    folder = root / "files"
    image_files.write_cifar(folder)
    (folder / "data_batch_1").unlink()
    image_files.pack_cifar(folder, root / "plain.tar.gz")
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-py")
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        archive.addfile(link)
    refused("cifar10", root, "no file data_batch_1 in it")


# Downloads


def test_without_network_the_files_to_fetch_are_named(tmp_path, monkeypatch):
    """In one line."""

    def fail(*arguments, **settings):
        raise OSError("no network\nhere")

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", fail)
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", fail)
    with pytest.raises(DataError, match=r"give --data_path.* train-images-idx3-ubyte.gz") as raised:
        image_sets.download("mnist", tmp_path)
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match=r"give --data_path.* cifar-10-python.tar.gz"):
        image_sets.download("cifar10", tmp_path)


def test_what_is_downloaded_is_not_fetched_again(tmp_path, monkeypatch):
    """The folder of a download is a torchvision root."""
    write("mnist", tmp_path)
    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", None)
    assert len(read("mnist", image_sets.download("mnist", tmp_path)).images) == 80


# MedMNIST


def test_npz_has_its_own_splits(root):
    """train_..., val_... and test_..."""
    arrays = image_files.write_npz(root / "blood.npz")
    found = image_sets.read_npz(root / "blood.npz", 28, 3)
    assert Counter(found.splits) == {"train": 40, "val": 12, "test": 12}
    images, labels = of_test(found)
    assert np.array_equal(images, arrays["test_images"])
    assert labels.tolist() == arrays["test_labels"][:, 0].tolist()


def test_npz_without_validation_gets_one(root):
    """A tenth of the training images."""
    image_files.write_npz(root / "blood.npz", splits=("train", "test"))
    found = image_sets.read_npz(root / "blood.npz", 28, 3)
    assert Counter(found.splits) == {"train": 36, "val": 4, "test": 12}


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_npz_in_grey_and_colour(colours, channels, root):
    """As --channels asks."""
    image_files.write_npz(root / "blood.npz", colours)
    assert image_sets.read_npz(root / "blood.npz", 32, channels).images.shape[1:] == (
        32,
        32,
        channels,
    )


def test_several_labels_an_image_are_of_whole_fields(root):
    """As in ChestMNIST."""
    image_files.write_npz(root / "chest.npz", several_labels=True)
    found = image_sets.read_npz(root / "chest.npz", 28, 3)
    assert found.view == "field"
    assert found.labels.shape == (64, 4)


NAMES = ["basophil", "eosinophil", "erythroblast", "ig(myelocytes, metamyelocytes)"]
AS_LISTED = [*NAMES[:3], "ig(myelocytes; metamyelocytes)"]


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        (None, None, ["class 0", "class 1", "class 2", "class 3"]),
        ("blood.names", "\n".join(NAMES[:3] + ["platelet"]) + "\n", [*NAMES[:3], "platelet"]),
        ("blood.json", json.dumps(NAMES), AS_LISTED),
        ("blood.json", json.dumps({str(i): NAMES[i] for i in (3, 1, 2, 0)}), AS_LISTED),
        ("blood.json", json.dumps({"label": dict(enumerate(NAMES)), "n": 4}), AS_LISTED),
    ],
    ids=["without", "names", "list", "numbers", "described"],
)
def test_class_names_of_an_npz(file, content, expected, root):
    """From a file beside it."""
    image_files.write_npz(root / "blood.npz")
    if file:
        (root / file).write_text(content)
    assert image_sets.read_npz(root / "blood.npz", 28, 3).classes == expected


@pytest.mark.parametrize(
    "content", ["{", "3", '"a"', '{"a": "b"}', '["a", "b"]', '["a", "a", "b", "c"]']
)
def test_class_names_that_do_not_fit_are_refused(content, root):
    """Damaged, too few, or twice the same."""
    image_files.write_npz(root / "blood.npz")
    (root / "blood.json").write_text(content)
    with pytest.raises(DataError, match="blood"):
        image_sets.read_npz(root / "blood.npz", 28, 3)


def test_an_npz_alone_in_a_folder_is_found(root):
    """With its class names beside it."""
    image_files.write_npz(root / "blood.npz")
    (root / "blood.json").write_text("[]")
    assert image_sets.find_npz(root) == root / "blood.npz"
    assert image_sets.find_npz(root / "blood.npz") == root / "blood.npz"


def test_an_npz_beside_images_is_not_the_data(root):
    """Features of them, say."""
    image_files.write_npz(root / "features.npz")
    (root / "images").mkdir()
    assert image_sets.find_npz(root) is None


def test_of_several_npz_one_has_to_be_named(root):
    """Which is up to the user."""
    image_files.write_npz(root / "blood.npz")
    image_files.write_npz(root / "path.npz")
    with pytest.raises(DataError, match=r"several .npz in it \(blood.npz, path.npz\)"):
        image_sets.find_npz(root)


def npz_without(root, name, **others):
    """Write an .npz that lacks an array, or has others."""
    arrays = image_files.write_npz(root / "blood.npz")
    arrays.pop(name)
    np.savez(root / "blood.npz", **arrays, **others)


@pytest.mark.parametrize(
    ("name", "others", "pattern"),
    [
        ("train_images", {}, "no train_images in it"),
        ("train_labels", {}, "train has 40 images but 0 labels"),
        ("val_labels", {"val_labels": np.zeros((5, 1), np.uint8)}, "val has 12 images but 5"),
        ("val_labels", {"val_labels": np.zeros((12, 1))}, "val_labels are float64"),
        ("val_labels", {"val_labels": np.full((12, 1), -1)}, "val has labels -1 to"),
        ("train_images", {"train_images": np.zeros((40, 28, 28))}, "train_images are float64"),
        (
            "train_images",
            {"train_images": np.zeros((40, 28, 28, 28), np.uint8)},
            "needs uint8 .N, H, W. or",
        ),
        ("train_images", {"train_images": np.array([None] * 40)}, "damaged, or no .npz of numbers"),
    ],
)
def test_an_npz_with_other_arrays_is_refused(name, others, pattern, root):
    """Volumes, floats, pickled objects and labels of something else."""
    npz_without(root, name, **others)
    with pytest.raises(DataError, match=f"blood.npz: .*{pattern}"):
        image_sets.read_npz(root / "blood.npz", 28, 3)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>", pickle.dumps([1])])
def test_a_damaged_npz_is_refused(content, root):
    """In one line."""
    root.mkdir()
    (root / "blood.npz").write_bytes(content)
    with pytest.raises(DataError, match="blood.npz: damaged, or no .npz of numbers"):
        image_sets.read_npz(root / "blood.npz", 28, 3)


# As the script loads them


def settings(**changes):
    """The CropSettings of small images."""
    flags = {
        "view": "cell",
        "classes": "auto",
        "microscope": "hcm",
        "magnification": "1000x",
        "image_size": 28,
        "channels": 1,
    }
    return CropSettings(**{**flags, **changes})


def load(dataset, path, **changes):
    """What load_image_set makes of a data path."""
    return image_sets.load_image_set(
        dataset, str(path), path.parent / "results", settings(**changes)
    )


def test_index_of_a_set(root):
    """Counts, labels, splits and names of its images."""
    write("mnist", root)
    images, index = load("mnist", root)
    assert len(images) == len(index.labels) == len(index.sources) == len(index.boxes) == 80
    assert index.layout == "mnist"
    assert index.found == {str(digit): 8 for digit in range(10)}
    assert index.image_counts == {"train": 50, "val": 10, "test": 20}


def test_classes_can_be_chosen(root):
    """In the order in which they are asked for; the others are left out."""
    write("mnist", root)
    images, index = load("mnist", root, classes="7,3")
    assert index.classes == ["7", "3"]
    assert len(images) == 16
    assert index.sources[:2] == ["mnist/train/00003", "mnist/train/00007"]
    assert index.labels[:2] == [1, 0]


def test_classes_of_several_labels_can_be_chosen(root):
    """An image of none of them stays."""
    image_files.write_npz(root / "chest.npz", several_labels=True)
    images, index = load("auto", root, view="field", channels=3, classes="class 2,class 0")
    assert len(images) == 64
    assert index.labels[:3] == [[0, 1], [0, 0], [1, 0]]


def test_a_class_that_is_not_there_is_named(root):
    """As of any data."""
    write("mnist", root)
    with pytest.raises(DataError, match="--classes 7,eleven: not all of these are in the data"):
        load("mnist", root, classes="7,eleven")


def test_labels_of_the_other_view_are_refused(root):
    """One class an image, or several."""
    write("mnist", root)
    with pytest.raises(DataError, match="its labels are for --view cell, not --view field"):
        load("mnist", root, view="field")


@pytest.mark.parametrize("name", ["missing", "x" * 5000, "~nobody/here"])
def test_a_path_that_is_not_there_is_refused(name, tmp_path):
    """As of any data."""
    with pytest.raises(DataError, match="no such folder or zip"):
        image_sets.load_image_set("mnist", name, tmp_path, settings())


@pytest.mark.parametrize("name", ["missing", "missing.npz", "x" * 5000, "~nobody/here"])
def test_a_path_that_is_not_there_is_no_npz(name):
    """The reader of folders says that it is not there."""
    assert not image_sets.is_image_set("auto", name)


def test_splits_with_labels_of_two_kinds_are_refused(root):
    """One class an image in one, several in another."""
    arrays = image_files.write_npz(root / "blood.npz")
    arrays["val_labels"] = np.eye(4, dtype=np.uint8)[arrays["val_labels"][:, 0]]
    np.savez(root / "blood.npz", **arrays)
    with pytest.raises(DataError, match="blood.npz: one class an image in one split, several"):
        image_sets.read_npz(root / "blood.npz", 28, 3)


@pytest.mark.parametrize(
    ("dataset", "file", "expected"),
    [("mnist", "", True), ("auto", "", False), ("auto", "blood.npz", True), ("auto", ".", False)],
)
def test_what_is_an_image_set(dataset, file, expected, root):
    """A name of one, or a path to a .npz."""
    image_files.write_npz(root / "blood.npz")
    (root / "images").mkdir()
    path = str(root / file) if file else ""
    assert image_sets.is_image_set(dataset, path) is expected
