"""Write small files of MNIST's, CIFAR-10's and MedMNIST's formats, as they are published.

The images are random, the labels go round all classes. Every writer returns (train, test), each as
(images uint8, labels), or for MedMNIST {name: array}.
"""

import gzip
import io
import pickle
import struct
import tarfile

import numpy as np

CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def random_images(seed, *shape):
    """Random uint8 images."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def labels_in_turn(count, classes=10):
    """Labels 0, 1, 2, ..., 0, 1, ..."""
    return np.arange(count, dtype=np.uint8) % classes


def idx_bytes(array):
    """An array of uint8 in the idx format."""
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_mnist(raw, train=60, test=20, packed=False):
    """Write MNIST's four files into a folder, packed or not."""
    raw.mkdir(parents=True, exist_ok=True)
    parts = []
    for seed, (name, count) in enumerate((("train", train), ("t10k", test))):
        images = random_images(seed, count, 28, 28)
        labels = labels_in_turn(count)
        files = {f"{name}-images-idx3-ubyte": images, f"{name}-labels-idx1-ubyte": labels}
        for file, array in files.items():
            if packed:
                (raw / f"{file}.gz").write_bytes(gzip.compress(idx_bytes(array)))
            else:
                (raw / file).write_bytes(idx_bytes(array))
        parts.append((images, labels))
    return parts


class Python2Pickler(pickle._Pickler):
    """Writes bytes and text as Python 2 did, with which CIFAR-10's files were made."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        """Bytes, or text as bytes."""
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = save_string
    dispatch[str] = save_string


def python_2_pickle(value):
    """The pickle of a value as Python 2 and an early numpy made it."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


def write_cifar(folder, a_batch=20, classes=CIFAR_CLASSES, dumps=python_2_pickle):
    """Write CIFAR-10's pickles into a folder, so many images in each of its six batches."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    labels = {}
    for seed, name in enumerate(BATCHES):
        images[name] = random_images(seed, a_batch, 32, 32, 3)
        labels[name] = labels_in_turn(a_batch, len(classes))
        entry = {
            "batch_label": name,
            "data": images[name].transpose(0, 3, 1, 2).reshape(a_batch, -1),
            "labels": labels[name].tolist(),
            "filenames": [f"{number}.png" for number in range(a_batch)],
        }
        (folder / name).write_bytes(dumps(entry))
    names = {"label_names": list(classes), "num_vis": 3072}
    (folder / "batches.meta").write_bytes(dumps(names))
    *of_training, of_test = BATCHES
    train_images = np.concatenate([images[name] for name in of_training])
    train_labels = np.concatenate([labels[name] for name in of_training])
    return (train_images, train_labels), (images[of_test], labels[of_test])


def pack_cifar(folder, path):
    """Pack a folder of CIFAR-10's pickles as its authors do: one .tar.gz with the folder in it."""
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.iterdir()):
            content = file.read_bytes()
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{file.name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_npz(path, colours=3, classes=4, several_labels=False, splits=("train", "val", "test")):
    """Write a MedMNIST file of 28x28 images, grey for 1 colour; 40 of training, 12 of the rest."""
    arrays = {}
    for seed, split in enumerate(splits):
        count = 40 if split == "train" else 12
        shape = (count, 28, 28) if colours == 1 else (count, 28, 28, colours)
        arrays[f"{split}_images"] = random_images(seed, *shape)
        labels = labels_in_turn(count, classes)
        if several_labels:
            arrays[f"{split}_labels"] = np.eye(classes, dtype=np.uint8)[labels]
        else:
            arrays[f"{split}_labels"] = labels[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return arrays
