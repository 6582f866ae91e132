"""DCGAN, multi-task discriminator and Grad-CAM for malaria blood-smear cells, in one script.

    python rollNumber_05.py                                     the demo set, every task, minutes
    python rollNumber_05.py --data_path DIR_OR_ZIP --task all   gan, then mtd on it, then gradcam
    python rollNumber_05.py --data_path DIR_OR_ZIP --task data  what was found: splits, classes

Results go to results/<task>/, weights to saved_models/. README.txt says what is what.

Sections: config, data, networks, losses, one training step, training, save and load, evaluation,
Grad-CAM, plots, tasks, command line. What the assignment does not ask for is in extras/: finding
and cutting crops, other layouts, dealing splits, augmentation, measures. What is imported at the
top needs nothing but torch and NumPy; the rest is imported where it is used, through extra().
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import itertools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # torch takes seconds to import: Ctrl-C ends that without a traceback.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, WeightedRandomSampler
from tqdm import tqdm

try:
    from extras import UsageError
except ModuleNotFoundError:
    print("error: the folder extras/ is not beside this script; copy it too", file=sys.stderr)
    sys.exit(2)
from extras.averages import averaged, update_average
from extras.command import leave, main, saying_what_is_kept
from extras.devices import (
    check_torchrun,
    is_first_process,
    keep_freed_memory,
    pick_device,
    pick_precision,
    processes,
)
from extras.flags import check_flag, flags_of, make_parser
from extras.labels import LABEL_KINDS, MultiLabel, SingleLabel
from extras.paths import SPLITS
from extras.pixels import to_images, to_pixels
from extras.symmetry import (
    EXACT_TURNS,
    TURNS_BY_SYMMETRY,
    cam_turn_count,
    learnt_symmetry,
    symmetry_of,
    turned_by_noise,
)


def own_path():
    """This script's file; where it was pasted into a notebook, its name in the current folder."""
    return Path(globals().get("__file__", "rollNumber_05.py"))


@functools.cache
def extra(name):
    """The module extras/NAME.py. Raises UsageError if it, or a package it needs, is missing."""
    try:
        return importlib.import_module(f"extras.{name}")
    except ImportError as error:
        raise UsageError(
            f"extras/{name}.py does not import ({error}); pip install -r requirements.txt"
        ) from error


# ============================================ config ============================================

EPOCHS = {"gan": 200, "mtd": 40}
DEMO_EPOCHS = 12

task_flag = flags_of("task")
data_flag = flags_of("data")
network_flag = flags_of("networks")
loss_flag = flags_of("losses")
training_flag = flags_of("training")
output_flag = flags_of("output")


@dataclasses.dataclass(frozen=True)
class Config:
    """Every flag with its default and help text; the only place where they are written."""

    task: str = task_flag(
        "all", "what to do", ("all", "gan", "mtd", "gradcam", "data"), changeable=True
    )
    recipe: str = task_flag(
        "best", "a set of defaults: what measured best, as assigned, or a course's", lambda: RECIPES
    )
    resume: str = task_flag(
        "", "go on from results/<task>/last.pt, or from the checkpoint named", changeable=True
    )
    weights: str = task_flag(
        "",
        "mtd: the DCGAN to start from; gradcam: the MTD to explain, else the last run's",
        changeable=True,
    )
    summary: bool = task_flag(False, "print the layers of G, D and MTD, and stop", changeable=True)

    data_path: str = data_flag(
        "", "folder or zip with the data; empty: the demo set", changeable=True
    )
    dataset: str = data_flag(
        "auto",
        "a published image set, downloaded or in --data_path; auto: what --data_path has",
        lambda: ("auto", *extra("image_sets").IMAGE_SETS),
        reads_data=True,
    )
    view: str = data_flag(
        "cell", "cell: a crop a box, one class; field: whole images", LABEL_KINDS, reads_data=True
    )
    classes: str = data_flag(
        "auto",
        "class names by commas; auto: the life stages, or else every class found",
        reads_data=True,
    )
    microscope: str = data_flag(
        "hcm", "M5 microscope to read", ("hcm", "lcm", "both"), reads_data=True
    )
    magnification: str = data_flag(
        "1000x", "M5 magnification to read", ("1000x", "400x", "100x", "all"), reads_data=True
    )
    image_size: int = data_flag(
        64, "side of the square images, pixels", lambda: SIDES, reads_data=True
    )
    channels: int = data_flag(3, "3 colour, 1 grey", (1, 3), reads_data=True)
    augment: bool = data_flag(
        True, "turn, flip, zoom and tint images, the more the more D overfits (ADA)"
    )
    symmetry: str = data_flag(
        "auto",
        "turns that leave an image what it is, for --augment and what is then drawn; auto: all for "
        "cells, none for digits and .npz, else mirror",
        lambda: ("auto", *TURNS_BY_SYMMETRY),
    )

    max_pixels: int = data_flag(
        100_000_000,
        "an image of more pixels is passed over; reading one takes up to 25 bytes a pixel",
        low=1,
        changeable=True,
    )
    max_unpacked_gb: float = data_flag(
        50.0, "an archive that is larger unpacked is refused", low=0, changeable=True
    )

    latent_dim: int = network_flag(100, "length of the noise vector", low=1, high=4096)
    g_width: int = network_flag(
        128, "channels of G at 4x4, halved at each upsampling", low=8, high=4096
    )
    d_width: int = network_flag(
        128, "channels of D at 4x4, halved towards the image", low=8, high=4096
    )
    d_norm: str = network_flag(
        "auto",
        "what D normalises its feature maps by; auto: batch, none with wgan-gp",
        lambda: ("auto", *NORMS),
    )
    upsamplings: int = network_flag(
        0, "steps of two from G's first maps to the image; 0: from 4x4", low=0, high=5
    )
    smooth: bool = network_flag(
        True, "blur G's maps after each transposed convolution: no checkerboards"
    )
    head_width: int = network_flag(
        128, "units of the head's first fully connected layer", low=2, high=4096
    )
    dropout: float = network_flag(0.5, "dropout between the head's two layers", low=0, high=0.95)
    conditional: bool = network_flag(
        False, "mtd: G draws the class it is given, and learns from the head's J(C)"
    )
    ema: float = network_flag(
        0.999, "decay of the averaged weights, which are evaluated", low=0, high=0.99999
    )

    loss: str = loss_flag("bce", "adversarial loss, on logits", lambda: LOSSES)
    feature_matching: float = loss_flag(
        0.0, "W in J(G) + W * distance of D's mean features of real and generated", low=0
    )
    class_weight: float = loss_flag(10.0, "mtd: W in J(D) + W * J(C)", low=0)
    label_smoothing: float = loss_flag(0.1, "label smoothing of J(C)", low=0, high=0.5)
    fresh_noise: bool = loss_flag(
        False, "new noise for G's step, as in algorithm 1, not the images of D's step"
    )

    epochs: int = training_flag(
        0,
        "passes over the data; 0: gan 200, mtd 40, demo set 12",
        low=0,
        high=1_000_000,
        changeable=True,
    )
    min_steps: int = training_flag(
        100, "an epoch has at least this many steps, for small sets", low=1, high=1_000_000
    )
    batch_size: int = training_flag(32, "images a step", low=2, high=65_536)
    optimizer: str = training_flag("adam", "optimiser of both networks", lambda: OPTIMIZERS)
    optimizer_g: str = training_flag(
        "", "optimiser of G; empty: --optimizer", lambda: ("", *OPTIMIZERS)
    )
    optimizer_d: str = training_flag(
        "", "optimiser of D; empty: --optimizer", lambda: ("", *OPTIMIZERS)
    )
    lr_g: float = training_flag(5e-4, "learning rate of G", low=0)
    lr_d: float = training_flag(1e-3, "learning rate of D and of the MTD", low=0)
    lr_c: float = training_flag(2e-3, "learning rate of the MTD at its steps on J(C) alone", low=0)
    lr_decay: float = training_flag(
        0.2, "last share of the epochs, in which rates fall to zero", low=0, high=1
    )
    beta1_g: float = training_flag(
        0.5, "first beta of G's Adam; momentum of its SGD", low=0, high=0.9999
    )
    beta1_d: float = training_flag(0.5, "the same of D", low=0, high=0.9999)
    beta2_g: float = training_flag(
        0.999, "second beta of G's Adam; alpha of its RMSprop", low=0, high=0.99999
    )
    beta2_d: float = training_flag(0.999, "the same of D", low=0, high=0.99999)
    d_steps: int = training_flag(
        0, "steps of D for one of G; 0: 5 with wgan-gp, else 1", low=0, high=100
    )
    adversarial_every: int = training_flag(
        0,
        "mtd: J(D) at each Nth step; 0: 16 on a DCGAN; 1 from random weights, conditional, demo",
        low=0,
    )
    precision: str = training_flag(
        "auto",
        "arithmetic; auto: bf16 on CPUs that are fast in it, else fp32",
        ("auto", "fp32", "bf16"),
        changeable=True,
    )
    replay: bool = training_flag(
        False, "on a GPU: record a step, and start its kernels all at once", changeable=True
    )
    seed: int = training_flag(0, "seed of weights, batches and noise", low=0, high=2**63 - 1)
    device: str = training_flag(
        "auto",
        "auto: cuda if there is one, else cpu",
        ("auto", "cpu", "cuda", "mps"),
        changeable=True,
    )

    results_dir: str = output_flag(
        "results", "folder for pictures, numbers and checkpoints", changeable=True
    )
    save_dir: str = output_flag(
        "saved_models", "folder for the weights of finished runs", changeable=True
    )
    overwrite: bool = output_flag(
        False, "let a finished run replace weights that are already in --save_dir", changeable=True
    )
    measure_every: int = output_flag(
        10,
        "epochs between measurements of the generated cells; the last is measured too",
        low=1,
        changeable=True,
    )
    tensorboard: bool = output_flag(
        False, "write TensorBoard events too (pip install tensorboard)", changeable=True
    )
    json: bool = output_flag(
        False, "with --task data: print one JSON object, nothing else", changeable=True
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_flag(field, getattr(self, field.name))
        if LOSSES[self.loss].penalty_weight and self.d_norm == "batch":
            raise UsageError(
                f"--d_norm batch: the penalty of {self.loss} is of each image, batch norm mixes "
                "them; give --d_norm instance or none"
            )
        most = len(SIDES[self.image_size])
        if self.upsamplings > most:
            raise UsageError(
                f"--upsamplings {self.upsamplings}: at most {most} with "
                f"--image_size {self.image_size}"
            )

    @property
    def is_demo(self):
        """Whether the data is the demo set, which is drawn where no other is named."""
        return self.data_path == "" and self.dataset == "auto"


def flags_that_read_data():
    """The names of the flags on which the crops depend."""
    fields = dataclasses.fields(Config)
    return [field.name for field in fields if field.metadata.get("reads_data")]


PLAIN = {  # what goes beyond the papers and courses is off
    "augment": False,
    "smooth": False,
    "ema": 0.0,
    "label_smoothing": 0.0,
    "dropout": 0.0,
    "class_weight": 1.0,
    "adversarial_every": 1,
    "lr_g": 2e-4,
    "lr_d": 2e-4,
    "lr_c": 2e-4,
    "lr_decay": 0.0,
}
RECIPES = {
    "best": {},
    # Algorithm 1 to the letter, whatever the loss, and nothing that is not in the assignment.
    "assignment": {**PLAIN, "fresh_noise": True},
    # The compact networks of a common course: 7x7 to 14x14 to 28x28, five epochs.
    "mnist_course": {
        **PLAIN,
        "dataset": "mnist",
        "image_size": 28,
        "channels": 1,
        "upsamplings": 2,
        "batch_size": 64,
        "epochs": 5,
    },
    # The smallest: one transposed convolution in G, one convolution in D before its last.
    "compact": {**PLAIN, "upsamplings": 1, "g_width": 64, "d_width": 64, "batch_size": 64},
}

# ============================================= data =============================================

SIDES = {  # image size: sides of the feature maps between 4x4 and the image
    28: (4, 7, 14),
    32: (4, 8, 16),
    64: (4, 8, 16, 32),
    128: (4, 8, 16, 32, 64),
}

# Readers of the assignment's layouts; extras/layouts.py has those of other data sets. A reader gets
# a DataFolder (extras/fields.py) and yields folder.annotation(file, image names, [(class, box)])
# for every image; what is damaged inside folder.noting_damage(file) is counted and passed over.


def read_iml(folder):
    """IML: [{image_name, objects: [{type, bbox: {x, y, w, h}}]}], numbers often as strings."""
    for path, item in folder.json_items("image_name"):
        with folder.noting_damage(path):
            cells = []
            for entry in item.get("objects", []):
                box = entry["bbox"]
                cells.append((entry["type"], [float(box[key]) for key in "xywh"]))
            yield folder.annotation(path, [item["image_name"]], cells)


def read_voc(folder):
    """Pascal-VOC XML, as in M5; `filename` in it is a second guess at the image's name."""
    from defusedxml import ElementTree

    stated_size = extra("layouts").stated_size
    for path in folder.files(".xml"):
        with folder.noting_damage(path):
            root = ElementTree.parse(path).getroot()
            if root.tag != "annotation":
                continue  # XML of something else
            cells = []
            for entry in root.iter("object"):
                edges = ("xmin", "ymin", "xmax", "ymax")
                left, top, right, bottom = (
                    float(entry.findtext(f"bndbox/{edge}")) for edge in edges
                )
                box = (left, top, right - left, bottom - top)
                cells.append((entry.findtext("name"), box))
            file_name = root.findtext("filename") or path.name
            names = [path.name, file_name]
            if Path(file_name.replace("\\", "/")).stem == path.stem:
                names = [file_name]  # it tells the ending too
            size = stated_size(root.findtext("size/width"), root.findtext("size/height"))
            yield folder.annotation(path, names, cells, size)


def read_class_folders(folder):
    """Folders of crops named by class, split folders above or below them; copies count once.

    Folders that say what kind of file is in them, or whose image it is, are no classes.
    """
    is_known_class = extra("classes").is_known_class
    unique = {}
    for path in sorted(folder.image_files(), key=folder.split_rank):
        class_name = folder.class_of(path, is_known_class)
        if class_name:  # of copies the one in the later of train, val, test stays
            content = hashlib.sha1(path.read_bytes()).digest()
            unique[class_name, content] = path
    unknown = extra("fields").UNKNOWN
    test_rank = SPLITS.index("test")
    class_names = set()
    for (class_name, _), path in unique.items():
        is_unknown_of_test = class_name.lower() in unknown and folder.split_rank(path) == test_rank
        if not is_unknown_of_test:
            class_names.add(class_name)
    for (class_name, _), path in unique.items():
        if class_name not in class_names:
            folder.problem(path, f"{class_name} of test is no class: train has none")
        elif len(class_names) > 1:  # one folder of images alone is no set of classes
            yield folder.annotation(path, [path.name], [(class_name, None)])


def layout_readers():
    """The readers of extras/fields.py's read_fields, in the order in which equals are preferred."""
    layouts = extra("layouts")
    own = {"IML annotations.json": read_iml, "Pascal-VOC XML": read_voc}
    return extra("fields").Readers(
        annotations={**own, **layouts.READERS},
        explain_unread=layouts.explain_unread,
        class_folders=read_class_folders,
        unlabelled=layouts.read_unlabelled,
    )


def load_data(config, device="cpu", some_may_be_missing=False):
    """The MalariaDataset of a config, from the crop cache if data and settings are unchanged.

    some_may_be_missing: whether the data may lack some of --classes.
    Raises UsageError if the data cannot be used.
    """
    crops = extra("crops")
    flags = {name: getattr(config, name) for name in flags_that_read_data()}
    settings = crops.CropSettings(
        **flags, some_may_be_missing=some_may_be_missing, max_pixels=config.max_pixels
    )
    results = Path(config.results_dir)
    image_sets = extra("image_sets")
    with extra("records").naming_source(config.data_path, config.dataset):
        if image_sets.is_image_set(config.dataset, config.data_path):
            images, index = image_sets.load_image_set(
                config.dataset, config.data_path, results, settings
            )
        else:
            images, index = crops.load_crops(
                config.data_path, results, layout_readers(), settings, config.max_unpacked_gb
            )
    return MalariaDataset(torch.from_numpy(images), index, device=device)


@dataclasses.dataclass
class Batch:
    """Images float32 (B, C, S, S) in [-1, 1] and their labels; batch[i] is one (image, label)."""

    images: Tensor
    labels: Tensor

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


class MalariaDataset(Dataset):
    """Labelled images, kept as uint8 (M, S, S, C) on the training device, or memory-mapped.

    index: what is known of all M images, an Index of extras/crops.py; rows: which of them are in,
    by default all.
    """

    def __init__(self, images, index, rows=None, device="cpu"):
        self.index = index
        self.classes = index.classes
        self.label_kind = LABEL_KINDS[index.view]
        self.rows = list(range(len(index.labels))) if rows is None else list(rows)
        self.device = torch.device(device)
        fits_in_memory = images.nbytes < 2**31  # larger sets stay on the disk
        self.images = images.to(self.device) if fits_in_memory else images
        self.row_numbers = torch.tensor(self.rows, dtype=torch.int64, device=self.images.device)
        labels = [index.labels[row] for row in self.rows]
        self.labels = self.label_kind.tensor(labels, self.device)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        """(image float32 (C, S, S) in [-1, 1], label)."""
        return self.__getitems__([i])[0]

    def __getitems__(self, indices):
        """The Batch of some images, in one indexing operation: what a DataLoader asks for."""
        indices = torch.as_tensor(indices, device=self.images.device)
        images = self.images[self.row_numbers[indices]].to(self.device, non_blocking=True)
        return Batch(to_images(images), self.labels[indices.to(self.device)])

    def uint8(self, indices=slice(None)):
        """uint8 numpy (B, S, S, C) of some images, or of all."""
        rows = self.row_numbers.cpu()[indices]
        return self.images[rows.to(self.images.device)].cpu().numpy()

    def sources(self):
        """The image files, relative to the data folder, one an image."""
        return [self.index.sources[row] for row in self.rows]

    def split(self, *names, limit=None):
        """The images of some splits; spread evenly over them if there are more than `limit`."""
        rows = [row for row in self.rows if self.index.splits[row] in names]
        if limit:
            rows = rows[:: max(1, math.ceil(len(rows) / limit))]
        return MalariaDataset(self.images, self.index, rows, self.device)

    def multi_hot(self):
        """float32 (N, n) with a 1 for each class of an image."""
        return self.label_kind.multi_hot(self.labels, len(self.classes))

    def sampling_weights(self):
        """(N,) weights that make every class equally likely; an image counts for its rarest.

        Images of no class weigh as much as the others on average: they stay as likely as they are.
        """
        hot = self.multi_hot()
        weights = (hot / hot.sum(0).clamp(min=1)).amax(1)
        has_none = hot.sum(1) == 0
        return weights + has_none * weights.sum() / (~has_none).sum().clamp(min=1)

    def counts(self):
        """{split: {"images": fields, "cells": {class: n}}}, as --task data reports it."""
        counts = {}
        for split in SPLITS:
            numbers = self.split(split).multi_hot().sum(0).int().tolist()
            cells = dict(zip(self.classes, numbers, strict=True))
            counts[split] = {"images": self.index.image_counts[split], "cells": cells}
        return counts

    def table(self):
        """The splits as text: images, cells and each class."""
        return extra("text").splits_table(self)


def dataset_of_arrays(images, labels, splits, classes, view="cell", layout="arrays", device="cpu"):
    """A MalariaDataset of images that are not from a data folder.

    images: uint8 numpy (N, S, S, C); labels: N class numbers, or lists of 0 and 1 with view
    "field"; splits: N of "train", "val" and "test".
    """
    index = extra("crops").index_of_arrays(labels, splits, classes, view, layout)
    return MalariaDataset(torch.from_numpy(images), index, device=device)


def unlabelled(images, classes, view, device="cpu"):
    """A MalariaDataset of uint8 images (S, S, C) without labels, of a user's or of G's: zeros."""
    label = 0 if LABEL_KINDS[view] is SingleLabel else [0] * len(classes)
    count = len(images)
    return dataset_of_arrays(
        np.stack(images), [label] * count, ["test"] * count, classes, view, device=device
    )


def whole_batch(batch):
    """A Batch as it is: what __getitems__ returns needs no collating."""
    return batch


def in_order(data, batch_size=256):
    """A DataLoader over a dataset from first to last; draws nothing from torch's generator."""
    loader_rng = torch.Generator()  # without one a DataLoader draws from torch's global generator
    return DataLoader(data, batch_size=batch_size, collate_fn=whole_batch, generator=loader_rng)


# =========================================== networks ===========================================


def layer_plan(image_size, width, upsamplings=0):
    """[(side, channels)] of the feature maps up to the image: channels halve, to 8 at least.

    upsamplings: how many steps of two lead from the first maps to the image; 0: all, from 4x4.
    """
    sides = SIDES[image_size]
    if upsamplings:
        sides = sides[-upsamplings:]
    return [(side, max(8, width >> level)) for level, side in enumerate(sides)]


def kernel_size(small, large):
    """The kernel with which stride 2 and padding 1 lead from one side to the other.

    o = (i - 1)*s - 2p + k of a transposed convolution, solved for k: 4, but 3 between 4 and 7.
    """
    return large - 2 * small + 4


def initialise(module):
    """Weights N(0, 0.02), batch-norm scales N(1, 0.02), biases 0 (Radford et al. 2016, sec. 4)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        mean = 0.0
    elif isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)):
        mean = 1.0
    else:
        return
    if module.weight.is_meta:
        return  # only its shape is asked for
    nn.init.normal_(module.weight, mean, 0.02)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """Noise to image: linear -> width x 4 x 4 -> transposed convolutions, ReLU -> tanh.

    Radford et al. 2016, fig. 1. A conditional one (num_classes > 0) takes the class, as one-hot
    numbers, beside the noise (Mirza and Osindero 2014). With fewer upsamplings the first maps are
    larger (layer_plan). symmetry: a key of EXACT_TURNS_BY_SYMMETRY; sample() turns images by it.
    """

    def __init__(
        self,
        *,
        image_size=64,
        channels=3,
        latent_dim=100,
        num_classes=0,
        width=128,
        smooth=True,
        upsamplings=0,
        symmetry="none",
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.symmetry = symmetry
        plan = layer_plan(image_size, width, upsamplings)
        start, _ = plan[0]
        self.project = nn.Sequential(
            nn.Linear(latent_dim + num_classes, width * start * start),
            nn.Unflatten(1, (width, start, start)),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        upsample = extra("smoothing").SmoothConvTranspose2d if smooth else nn.ConvTranspose2d
        blocks = []
        for (small, c_in), (large, c_out) in itertools.pairwise(plan):
            kernel = kernel_size(small, large)
            blocks += [
                upsample(
                    c_in, c_out, kernel, stride=2, padding=1, bias=False
                ),  # (B, c_out, large, large)
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
            ]
        side, c_in = plan[-1]
        kernel = kernel_size(side, image_size)
        blocks += [
            upsample(c_in, channels, kernel, stride=2, padding=1),  # (B, C, S, S)
            nn.Tanh(),
        ]
        self.blocks = nn.Sequential(*blocks)
        self.apply(initialise)

    def forward(self, noise, labels=None):
        """Noise (B, latent_dim), standard normal -> images float32 (B, C, S, S) in [-1, 1].

        labels: of a conditional generator the classes (B,), or multi-hot (B, n).
        """
        if self.num_classes:
            if labels.ndim == 1:
                labels = F.one_hot(labels, self.num_classes)
            noise = torch.cat([noise, labels.to(noise)], 1)
        return self.blocks(self.project(noise)).float()


class DiscriminatorOutput(NamedTuple):
    """What D says of images (B, C, S, S).

    real_logits (B,): high for real. class_logits (B, n): None without a class head. maps
    (B, width, 4, 4): the features that both rest on, in the training precision.
    """

    real_logits: Tensor
    class_logits: Tensor | None = None
    maps: Tensor | None = None


NORMS = {
    "batch": nn.BatchNorm2d,  # Radford et al. 2016, sec. 3
    "instance": functools.partial(nn.InstanceNorm2d, affine=True),  # Ulyanov et al. 2016
    "none": nn.Identity,
}


class Discriminator(nn.Module):
    """Image to real/fake logit: stride-2 convolutions, LeakyReLU 0.2, batch norm but on the first.

    Radford et al. 2016, sec. 3. norm: of NORMS, instead of batch norm.
    """

    def __init__(self, *, image_size=64, channels=3, width=128, norm="batch", upsamplings=0):
        super().__init__()
        plan = layer_plan(image_size, width, upsamplings)[::-1]
        side, c_out = plan[0]
        kernel = kernel_size(side, image_size)
        blocks = [
            nn.Conv2d(channels, c_out, kernel, stride=2, padding=1),  # (B, c_out, S/2, S/2)
            nn.LeakyReLU(0.2),
        ]
        for (large, c_in), (small, c_out) in itertools.pairwise(plan):
            kernel = kernel_size(small, large)
            has_bias = norm == "none"  # a norm takes it out
            blocks += [
                nn.Conv2d(c_in, c_out, kernel, stride=2, padding=1, bias=has_bias),
                NORMS[norm](c_out),  # (B, c_out, small, small)
                nn.LeakyReLU(0.2),
            ]
        self.features = nn.Sequential(*blocks)  # (B, width, 4, 4), or larger with fewer steps
        self.last_side, _ = plan[-1]
        self.levels = len(plan)  # of feature maps
        self.real_fake = nn.Conv2d(width, 1, self.last_side)  # (B, 1, 1, 1)
        self.apply(initialise)

    def feature_layer(self, level):
        """The layer whose output is the feature maps so many levels before the heads.

        Level 0 is the last, 4x4 (larger with fewer upsamplings), 1 is 8x8, 2 is 16x16; of images of
        28 pixels, 4, 7 and 14.
        """
        return self.features[-1 - 3 * level]  # a convolution and its norm come before each

    def forward(self, images):
        """Images (B, C, S, S) in [-1, 1] -> DiscriminatorOutput without class logits."""
        maps = self.features(images)
        return DiscriminatorOutput(self.real_fake(maps).flatten().float(), maps=maps)


class MultiTaskDiscriminator(Discriminator):
    """The discriminator with a second head: two fully connected layers that classify the cell.

    Both heads read the second-last convolution. multi_label: several classes an image.
    """

    def __init__(
        self,
        *,
        num_classes,
        multi_label=False,
        head_width=128,
        dropout=0.5,
        image_size=64,
        channels=3,
        width=128,
        norm="batch",
        upsamplings=0,
    ):
        super().__init__(
            image_size=image_size,
            channels=channels,
            width=width,
            norm=norm,
            upsamplings=upsamplings,
        )
        self.label_kind = MultiLabel if multi_label else SingleLabel
        self.embed = nn.Sequential(
            nn.Flatten(),
            nn.Linear(width * self.last_side**2, head_width),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
        )
        self.classify = nn.Linear(head_width, num_classes)
        self.embed.apply(initialise)
        self.classify.apply(initialise)

    def forward(self, images):
        """Images (B, C, S, S) in [-1, 1] -> DiscriminatorOutput."""
        maps = self.features(images)
        real_logits = self.real_fake(maps).flatten()
        class_logits = self.classify(self.embed(maps))
        return DiscriminatorOutput(real_logits.float(), class_logits.float(), maps)

    def probabilities(self, images):
        """For callers outside: the output layer's softmax, or with multi_label sigmoid, (B, n)."""
        return self.label_kind.activation(self(images).class_logits)


def norm_of(settings):
    """The name in NORMS that a config, as a mapping, asks for."""
    if settings["d_norm"] == "auto":
        return LOSSES[settings["loss"]].norm
    return settings["d_norm"]


def build_networks(task, settings, num_classes):
    """The generator and the discriminator, or MTD, of a task.

    settings: the config as a mapping, which has their sizes.
    """
    image = {name: settings[name] for name in ("image_size", "channels", "upsamplings")}
    generator = Generator(
        **image,
        latent_dim=settings["latent_dim"],
        num_classes=num_classes if task == "mtd" and settings["conditional"] else 0,
        width=settings["g_width"],
        smooth=settings["smooth"],
        symmetry=learnt_symmetry(settings),
    )
    norm = norm_of(settings)
    if task == "gan":
        discriminator = Discriminator(**image, width=settings["d_width"], norm=norm)
    elif task == "mtd":
        discriminator = MultiTaskDiscriminator(
            **image,
            norm=norm,
            num_classes=num_classes,
            multi_label=LABEL_KINDS[settings["view"]] is MultiLabel,
            head_width=settings["head_width"],
            dropout=settings["dropout"],
            width=settings["d_width"],
        )
    else:
        raise ValueError(f"no networks for task {task!r}")
    return generator, discriminator


@contextlib.contextmanager
def evaluating(model):
    """Eval mode inside the block; every submodule's own mode is restored after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def frozen_statistics(model):
    """Batch norm inside the block uses the batch as ever but keeps its running averages."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


# ============================================ losses ============================================
# J(D) and J(G) are pure functions of logits (B,); two terms that may be added to them follow, then
# J(C), of class logits (N, n) and labels.


def bce_discriminator_loss(real_logits, fake_logits):
    """J(D) = -E[log D(x)] - E[log(1 - D(G(z)))] (Goodfellow et al. 2014, eq. 1)."""
    real = F.binary_cross_entropy_with_logits(real_logits, torch.ones_like(real_logits))
    fake = F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))
    return real + fake


def bce_generator_loss(fake_logits):
    """J(G) = -E[log D(G(z))], the non-saturating loss (Goodfellow et al. 2014, sec. 3)."""
    return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))


def lsgan_discriminator_loss(real_logits, fake_logits):
    """J(D) = 1/2 E[(D(x) - 1)^2] + 1/2 E[D(G(z))^2] (Mao et al. 2017, eq. 9)."""
    real = (real_logits - 1).square().mean()
    fake = fake_logits.square().mean()
    return real / 2 + fake / 2


def lsgan_generator_loss(fake_logits):
    """J(G) = E[(D(G(z)) - 1)^2], as in the assignment's algorithm 1."""
    return (fake_logits - 1).square().mean()


def hinge_discriminator_loss(real_logits, fake_logits):
    """J(D) = E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))] (Lim and Ye 2017, "Geometric GAN")."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def wasserstein_discriminator_loss(real_logits, fake_logits):
    """J(D) = E[D(G(z))] - E[D(x)], of a critic (Arjovsky et al. 2017, algorithm 1)."""
    return fake_logits.mean() - real_logits.mean()


def critic_generator_loss(fake_logits):
    """J(G) = -E[D(G(z))], of the hinge and the Wasserstein loss."""
    return -fake_logits.mean()


def gradient_penalty(discriminator, real, fake):
    """E[(|grad D(x)| - 1)^2] at random points x between real and fake images.

    Gulrajani et al. 2017, eq. 3. real, fake: (B, C, S, S).
    """
    mix = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = torch.lerp(real, fake, mix).requires_grad_(True)
    logits = discriminator(between).real_logits
    (gradients,) = torch.autograd.grad(logits.sum(), between, create_graph=True)
    return (gradients.flatten(1).norm(dim=1) - 1).square().mean()


def feature_distance(real_maps, fake_maps):
    """|E f(x) - E f(G(z))|^2, feature matching (Salimans et al. 2016, sec. 3.1).

    Both: D's feature maps (B, c, h, w).
    """
    difference = real_maps.float().mean(0) - fake_maps.float().mean(0)
    return difference.square().sum()


def single_label_loss(logits, labels, smoothing=0.0):
    """J(C) of one class an image, labels int64 (N,): cross-entropy of the softmax, mean in nats."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def multi_label_loss(logits, labels, smoothing=0.0):
    """J(C) of labels (N, n) of 0 and 1: binary cross-entropy of the sigmoid, mean in nats."""
    return F.binary_cross_entropy_with_logits(logits, labels * (1 - smoothing) + smoothing / 2)


CLASS_LOSSES = {SingleLabel: single_label_loss, MultiLabel: multi_label_loss}


class AdversarialLoss(NamedTuple):
    """An adversarial loss, and what goes with it.

    discriminator, generator: J(D) of real and fake logits, and J(G) of fake logits; unit: theirs.
    real_probability: logits -> how real an image is, in [0, 1]; None for a critic, which says more
    or less, not how probable. boundary: the logit at which D is undecided, None if there is none.
    penalty_weight: of gradient_penalty in J(D). norm, d_steps: what --d_norm auto and --d_steps 0
    stand for.
    """

    discriminator: Callable
    generator: Callable
    unit: str
    real_probability: Callable | None = None
    boundary: float | None = None
    penalty_weight: float = 0.0
    norm: str = "batch"
    d_steps: int = 1

    def realness(self, logits):
        """What is shown of D: probabilities of real, or, of a critic, its logits."""
        return logits if self.real_probability is None else self.real_probability(logits)


LOSSES = {
    "bce": AdversarialLoss(
        bce_discriminator_loss,
        bce_generator_loss,
        unit="nats",
        real_probability=torch.sigmoid,
        boundary=0.0,
    ),
    "lsgan": AdversarialLoss(
        lsgan_discriminator_loss,
        lsgan_generator_loss,
        unit="squared error",
        real_probability=functools.partial(torch.clamp, min=0, max=1),
        boundary=0.5,
    ),
    "hinge": AdversarialLoss(
        hinge_discriminator_loss, critic_generator_loss, unit="margin", boundary=0.0
    ),
    "wgan-gp": AdversarialLoss(
        wasserstein_discriminator_loss,
        critic_generator_loss,
        unit="critic's units",
        penalty_weight=10.0,
        norm="none",
        d_steps=5,
    ),
}

# ====================================== one training step ======================================


class DiscriminatorStep(NamedTuple):
    """What an update of D says, detached; J(D) has its penalty, J(C) is 0 without labels."""

    loss_d: Tensor
    loss_c: Tensor
    real_logits: Tensor
    fake_logits: Tensor


def discriminator_step(
    discriminator,
    optimizer,
    real,
    fake,
    *,
    loss="bce",
    label_loss=single_label_loss,
    labels=None,
    head_images=None,
    class_weight=1.0,
):
    """Update D once: min J(D), with labels min J(D) + class_weight * J(C).

    real, fake: images (B, C, S, S) in [-1, 1].
    labels: classes of head_images (N, C, S, S), of the real images if head_images is None; without
    labels no head is trained.
    label_loss: J(C) of class logits and labels.
    Returns DiscriminatorStep(loss_d, loss_c, real_logits, fake_logits).
    """
    adversarial_loss = LOSSES[loss]
    fake = fake.detach()  # no gradient reaches G
    # Real and fake go through D apart: in one batch, batch norm would mix their statistics.
    real_output = discriminator(real)
    class_logits = real_output.class_logits
    if head_images is not None:
        class_logits = discriminator(head_images).class_logits
    with frozen_statistics(discriminator):  # its averages are of real images, as in evaluation
        fake_output = discriminator(fake)

    loss_d = adversarial_loss.discriminator(real_output.real_logits, fake_output.real_logits)
    if adversarial_loss.penalty_weight:
        penalty = gradient_penalty(discriminator, real, fake)
        loss_d = loss_d + adversarial_loss.penalty_weight * penalty
    loss_c = torch.zeros_like(loss_d)
    if labels is not None:
        loss_c = label_loss(class_logits, labels)

    optimizer.zero_grad()
    (loss_d + class_weight * loss_c).backward()
    optimizer.step()
    return DiscriminatorStep(
        loss_d.detach(),
        loss_c.detach(),
        real_output.real_logits.detach(),
        fake_output.real_logits.detach(),
    )


def generator_step(
    discriminator,
    optimizer,
    fake,
    *,
    loss="bce",
    label_loss=single_label_loss,
    labels=None,
    real=None,
    feature_matching=0.0,
):
    """Update G once through the D just updated: min J(G), with labels min J(G) + J(C).

    With feature_matching W also + W * feature_distance, of D's maps of real and fake images.
    fake: G's images (B, C, S, S), which carry its graph; labels: the classes that G was to draw
    (Odena et al. 2017, sec. 3).
    Returns J(G), detached.
    """
    discriminator.requires_grad_(False)  # its gradients are not needed here
    with frozen_statistics(discriminator):
        output = discriminator(fake)

    loss_g = LOSSES[loss].generator(output.real_logits)
    total = loss_g
    if labels is not None:
        total = total + label_loss(output.class_logits, labels)
    if feature_matching:
        with frozen_statistics(discriminator):
            real_maps = discriminator(real).maps
        total = total + feature_matching * feature_distance(real_maps, output.maps)

    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    discriminator.requires_grad_(True)
    return loss_g.detach()


def classifier_step(
    mtd, optimizer, images, labels, *, label_loss=single_label_loss, class_weight=1
):
    """Update an MTD once without the adversarial task: min class_weight * J(C).

    images: (B, C, S, S) in [-1, 1] with their labels. The real/fake head gets a gradient of zero,
    for several processes wait for one of every weight; Adam's momentum still moves it a little.
    Returns J(C), detached.
    """
    output = mtd(images)
    loss_c = label_loss(output.class_logits, labels)
    unused = 0 * output.real_logits.sum()

    optimizer.zero_grad()
    (class_weight * loss_c + unused).backward()
    optimizer.step()
    return loss_c.detach()


# =========================================== training ===========================================


class StepMetrics(NamedTuple):
    """The numbers of a step as 0-d tensors: losses, and D's mean answers about both kinds.

    Of a step that leaves a network as it is, its loss is that of the step before.
    """

    loss_d: Tensor
    loss_c: Tensor
    d_real: Tensor
    d_fake: Tensor
    loss_g: Tensor


HEAD_STRENGTH = 1  # of the head's augmentation: with few cells it overfits at once
ADA_IMAGES = 100_000  # real images in which D's augmentation can go from none to full


class StepData(NamedTuple):
    """The Batches of one step.

    adversarial: real images against fake ones, None if this step is on J(C) alone.
    head: labelled images of J(C), None for a gan; the same object as `adversarial` if one batch
    serves both. trains_generator: whether G learns too, as at every --d_steps adversarial steps.
    """

    adversarial: Batch | None
    head: Batch | None
    trains_generator: bool = False


def adam(parameters, lr, beta1, beta2):
    """Adam (Kingma and Ba 2015)."""
    return torch.optim.Adam(parameters, lr, betas=(beta1, beta2), fused=True)


def rmsprop(parameters, lr, beta1, beta2):
    """RMSprop; beta1 is not used."""
    return torch.optim.RMSprop(parameters, lr, alpha=beta2)


def sgd(parameters, lr, beta1, beta2):
    """SGD with momentum beta1; beta2 is not used."""
    return torch.optim.SGD(parameters, lr, momentum=beta1)


OPTIMIZERS = {"adam": adam, "rmsprop": rmsprop, "sgd": sgd}


def make_optimizer(config, name, parameters):
    """The optimiser that a config asks for; name: "generator" or "discriminator"."""
    settings = {
        "generator": (config.optimizer_g, config.lr_g, config.beta1_g, config.beta2_g),
        "discriminator": (config.optimizer_d, config.lr_d, config.beta1_d, config.beta2_d),
    }
    kind, lr, beta1, beta2 = settings[name]
    return OPTIMIZERS[kind or config.optimizer](parameters, lr, beta1, beta2)


def epoch_seed(config, epoch, stream):
    """Seed of an epoch's draws: it depends on nothing but (seed, epoch, stream).

    stream 0 draws the batches, alike in all processes; 1 + rank draws the noise of a process.
    """
    text = f"{config.seed} {epoch} {stream}"
    return int.from_bytes(hashlib.sha1(text.encode()).digest()[:8], "big")


class Trainer:
    """Trains both networks of a task, and holds all that a checkpoint does.

    task: "gan" or "mtd"; the dicts are by "generator" and "discriminator".
    """

    def __init__(self, task, config, classes, device):
        self.task = task
        self.config = dataclasses.replace(  # the flags of SETTLED; a run that is resumed keeps them
            config,
            adversarial_every=adversarial_interval(task, config),
            d_steps=config.d_steps or LOSSES[config.loss].d_steps,
            symmetry=symmetry_of(vars(config)),
        )
        self.classes = list(classes)
        self.device = torch.device(device)
        self.label_kind = LABEL_KINDS[config.view]
        self.precision = pick_precision(config.precision, self.device)

        torch.manual_seed(config.seed)
        networks = build_networks(task, vars(self.config), len(self.classes))
        self.networks = {}
        for name, network in zip(("generator", "discriminator"), networks, strict=True):
            self.networks[name] = network.to(self.device, memory_format=torch.channels_last)
        self.parallel = self.networks  # wrapped when there are several processes
        self.averages = {}
        self.optimizers = {}
        for name, network in self.networks.items():
            self.averages[name] = averaged(network)
            self.optimizers[name] = make_optimizer(config, name, network.parameters())

        self.run_updates = self.update_networks
        if config.replay:
            replayed = extra("replay").replayed
            self.run_updates = replayed(self.update_networks, self.optimizers, self.device)

        self.strength = torch.zeros((), device=self.device)  # of the augmentation
        self.rate_factor = 1.0  # of all learning rates
        self.epochs = config.epochs or (DEMO_EPOCHS if config.is_demo else EPOCHS[task])
        self.epoch = 0
        self.saved_epoch = 0  # the one that is in last.pt
        self.step = 0
        self.best = -math.inf  # what an epoch has to reach to be kept as best.pt
        self.history = []  # a row of numbers an epoch
        self.traces = torch.zeros(0, len(StepMetrics._fields))  # of every step
        self.trained_on = set()  # names of images

    def wrap_in_ddp(self):
        """Wrap the networks in DistributedDataParallel, if there are several processes."""
        if processes()[1] == 1:
            return
        in_parallel = extra("processes").in_parallel
        self.parallel = {name: in_parallel(network) for name, network in self.networks.items()}

    def autocast(self):
        """Inside the block convolutions and products are in the training precision."""
        enabled = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision, enabled)

    def augmented(self, *groups):
        """Images as the networks see them: randomly changed with --augment.

        groups: pairs of images and the strength. Returns a list of images.
        """
        if not self.config.augment:
            return [images for images, _ in groups]
        return extra("augmentation").augment_groups(groups, self.config.symmetry)

    def label_loss(self, logits, labels):
        """J(C) of labelled images."""
        return CLASS_LOSSES[self.label_kind](logits, labels, self.config.label_smoothing)

    def draw_fakes(self, labels, count):
        """`count` images of G for new noise, with G's graph, and for a conditional G of labels."""
        noise = torch.randn(count, self.config.latent_dim, device=self.device)
        with self.autocast():  # a block of its own: its cache of casts is of weights before a step
            return self.parallel["generator"](noise, labels)

    def set_rate_factor(self, done):
        """Set the factor of all learning rates after a share `done` in [0, 1) of the epochs.

        It is 1, and falls in a line over the last --lr_decay of them.
        """
        decay = self.config.lr_decay
        self.rate_factor = min(1.0, (1 - done) / decay) if decay else 1.0

    def apply_rate(self, name, lr):
        """Set one network's learning rate: lr times the factor."""
        self.optimizers[name].param_groups[0]["lr"] = self.rate_factor * lr

    def average(self, name):
        """Move the average of a network that has just learnt."""
        update_average(self.averages[name], self.networks[name], self.config.ema)

    def adversarial_step(self, real, head, trains_generator=True, previous=None):
        """One update of D, with its head if there is one, and one of G, if it is its turn.

        real, head: Batches, and trains_generator, as in StepData. previous: the StepMetrics of the
        step before, which has J(G) of a step that leaves G as it is. Returns StepMetrics.
        """
        self.apply_rate("discriminator", self.config.lr_d)
        self.apply_rate("generator", self.config.lr_g)
        metrics = self.run_updates(real, head, trains_generator, previous)
        self.average("discriminator")
        if trains_generator:
            self.average("generator")
        return metrics

    def update_networks(self, real, head, trains_generator, previous):
        """The part of adversarial_step that is all work of the device, and can be recorded.

        Arguments and result: as of adversarial_step.
        """
        config = self.config
        labels = None
        if head is not None:
            labels = head.labels
        g_labels = real.labels if self.networks["generator"].num_classes else None

        with torch.set_grad_enabled(trains_generator and not config.fresh_noise):
            generated = self.draw_fakes(g_labels, len(real))
        groups = [(real.images, self.strength), (generated, self.strength)]
        head_images = None
        if head is None or head is real:
            real_images, fake = self.augmented(*groups)
        else:
            real_images, fake, head_images = self.augmented(*groups, (head.images, HEAD_STRENGTH))
        with self.autocast():
            d_step = discriminator_step(
                self.parallel["discriminator"],
                self.optimizers["discriminator"],
                real_images,
                fake,
                loss=config.loss,
                labels=labels,
                head_images=head_images,
                class_weight=config.class_weight,
                label_loss=self.label_loss,
            )
        if trains_generator:
            loss_g = self.train_generator(real_images, fake, g_labels)
        else:
            loss_g = previous.loss_g
        adversarial_loss = LOSSES[config.loss]
        if config.augment and adversarial_loss.boundary is not None:
            margins = d_step.real_logits - adversarial_loss.boundary
            extra("augmentation").adapt_strength(self.strength, margins, len(real) / ADA_IMAGES)
        d_real = adversarial_loss.realness(d_step.real_logits).mean()
        d_fake = adversarial_loss.realness(d_step.fake_logits).mean()
        return StepMetrics(d_step.loss_d, d_step.loss_c, d_real, d_fake, loss_g)

    def train_generator(self, real, fake, labels):
        """One update of G; returns J(G).

        real, fake: the images of D's step; labels: of a conditional G, else None.
        """
        config = self.config
        if config.fresh_noise:  # else G runs once a step for both, which is as good and faster
            [fake] = self.augmented((self.draw_fakes(labels, len(real)), self.strength))
        with self.autocast():
            return generator_step(
                self.networks["discriminator"],  # not parallel: its own gradients are off here
                self.optimizers["generator"],
                fake,
                loss=config.loss,
                labels=labels,
                label_loss=self.label_loss,
                real=real,
                feature_matching=config.feature_matching,
            )

    def head_step(self, head, previous):
        """One update of the MTD on J(C) alone.

        Returns StepMetrics whose adversarial losses are those of `previous`.
        """
        self.apply_rate("discriminator", self.config.lr_c)
        [images] = self.augmented((head.images, HEAD_STRENGTH))
        with self.autocast():
            loss_c = classifier_step(
                self.parallel["discriminator"],
                self.optimizers["discriminator"],
                images,
                head.labels,
                label_loss=self.label_loss,
                class_weight=self.config.class_weight,
            )
        self.average("discriminator")
        return previous._replace(loss_c=loss_c)

    def loader(self, data, rng, balanced, batch_count, batch_size):
        """A DataLoader of so many batches for this process.

        balanced: every class is equally likely; else shuffled passes over the data.
        rng: the torch.Generator that draws them, alike in all processes.
        """
        rank, world_size = processes()
        count = batch_count * batch_size * world_size
        if balanced:
            weights = data.sampling_weights().cpu()
            sampler = WeightedRandomSampler(weights, count, generator=rng)
        else:
            sampler = RandomSampler(data, num_samples=count, generator=rng)
        device = data.row_numbers.device
        batch_sampler = extra("processes").ProcessBatches(
            sampler, batch_size, device, rank, world_size
        )
        loader_rng = torch.Generator()  # as in in_order
        return DataLoader(
            data, batch_sampler=batch_sampler, collate_fn=whole_batch, generator=loader_rng
        )

    def step_data(self, data, steps):
        """An iterator over the StepData of one epoch for this process.

        G learns at every --d_steps-th adversarial step, from the first of the epoch on.
        """
        rng = torch.Generator().manual_seed(epoch_seed(self.config, self.epoch, 0))
        if self.task == "gan":
            return self.gan_step_data(data, rng, steps)
        return self.mtd_step_data(data, rng, steps)

    def gan_step_data(self, data, rng, steps):
        """The StepData of a gan: shuffled passes over the data."""
        config = self.config
        batches = self.loader(
            data, rng, balanced=False, batch_count=steps, batch_size=config.batch_size
        )
        for step, batch in enumerate(batches):
            yield StepData(batch, None, trains_generator=step % config.d_steps == 0)

    def mtd_step_data(self, data, rng, steps):
        """The StepData of an MTD, whose head sees every class equally often.

        With --augment the head's images are changed more than D's, so an adversarial step has a
        batch of its own: in the data's mix of classes (for a conditional G with every class equally
        often), and half as large, for it costs the most. Without, one batch serves both.
        """
        config = self.config
        every = config.adversarial_every
        head_batches = self.loader(
            data, rng, balanced=True, batch_count=steps, batch_size=config.batch_size
        )
        own_batches = None
        if config.augment:
            own_batches = iter(
                self.loader(
                    data,
                    rng,
                    balanced=config.conditional,
                    batch_count=math.ceil(steps / every),
                    batch_size=config.batch_size // 2,
                )
            )
        for step, head in enumerate(head_batches):
            if step % every:
                yield StepData(None, head)
                continue
            real = head if own_batches is None else next(own_batches)
            number = step // every  # of the adversarial steps
            yield StepData(real, head, trains_generator=number % config.d_steps == 0)

    def train_epoch(self, data, steps, bar):
        """One epoch of updates; returns its row of numbers.

        Raises RuntimeError when a loss or a weight is no longer finite.
        """
        start = time.perf_counter()
        rank, world = processes()
        torch.manual_seed(epoch_seed(self.config, self.epoch, rank + 1))
        traces = []
        metrics = None
        for step, batches in enumerate(self.step_data(data, steps), 1):
            if batches.adversarial is None:
                metrics = self.head_step(batches.head, metrics)
            else:
                metrics = self.adversarial_step(
                    batches.adversarial, batches.head, batches.trains_generator, metrics
                )
            traces.append(torch.stack(metrics))
            self.step += 1
            bar.update(self.config.batch_size * world)
            if step % 20 == 0 or step == steps:  # looking waits for the device, so it is seldom
                self.check_finite(traces[-20:], weights_too=step == steps)
                mean = StepMetrics(*torch.stack(traces[-20:]).mean(0).tolist())
                text = f"D {mean.loss_d:.2f} C {mean.loss_c:.2f} G {mean.loss_g:.2f}"
                bar.set_postfix_str(text, refresh=False)
        traces = torch.stack(traces)
        if world > 1:
            dist.all_reduce(traces.div_(world))
            dist.all_reduce(self.strength.div_(world))
        self.traces = torch.cat([self.traces, traces.cpu()])
        self.epoch += 1
        seconds = time.perf_counter() - start
        image_count = steps * self.config.batch_size * world
        row = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": round(seconds, 3),
            "images_per_second": round(image_count / seconds, 1),
        }
        return row | StepMetrics(*traces.mean(0).tolist())._asdict()

    def check_finite(self, traces, weights_too):
        """Raise RuntimeError unless all losses, and weights if asked, are finite."""
        values = [torch.stack(traces)]
        if weights_too:
            for network in self.networks.values():
                values += network.parameters()
        if not all(value.isfinite().all() for value in values):
            raise RuntimeError(
                f"a loss or weight is not finite in epoch {self.epoch + 1}; "
                "try a lower --lr_d, --lr_g or --lr_c"
            )

    def stateful_parts(self):
        """{kind: {name: what has a state_dict}} of a checkpoint."""
        return {"weights": self.networks, "ema": self.averages, "optimizers": self.optimizers}

    def state(self):
        """The checkpoint: tensors and plain values only."""
        state = {
            "format": CHECKPOINT_FORMAT,
            "task": self.task,
            "config": dict(vars(self.config)),
            "classes": self.classes,
            "normalisation": {"scale": 1 / 127.5, "offset": -1.0},
            "trained_on": sorted(self.trained_on),
            "strength": self.strength,
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "history": self.history,
            "traces": self.traces,
        }
        for kind, group in self.stateful_parts().items():
            state[kind] = {name: part.state_dict() for name, part in group.items()}
        return state

    def load(self, state):
        """Go on from a checkpoint's state."""
        for kind, group in self.stateful_parts().items():
            for name, part in group.items():
                part.load_state_dict(state[kind][name])
        self.strength.copy_(state["strength"])
        self.trained_on = set(state["trained_on"])
        self.epoch = state["epoch"]
        self.saved_epoch = self.epoch
        self.step = state["step"]
        self.best = state["best"]
        self.history = state["history"]
        self.traces = state["traces"]
        settled = {name: state["config"][name] for name in SETTLED}
        self.config = dataclasses.replace(self.config, **settled)
        for generator in (self.networks["generator"], self.averages["generator"].module):
            generator.symmetry = learnt_symmetry(vars(self.config))

    def start_from(self, path):
        """Go on from a DCGAN's averaged weights and augmentation strength.

        What it lacks stays random: the head, and a conditional G's weights of the class.
        Raises UsageError if its networks are of other sizes or another norm.
        """
        if processes()[1] > 1:  # the first process may still be writing it
            dist.barrier()
        dcgan = load_checkpoint(path, "gan")
        extra("resuming").check_sizes(path, dcgan.state["config"], vars(self.config), norm_of)
        sources = {"generator": dcgan.generator, "discriminator": dcgan.discriminator}
        for name, source in sources.items():
            for network in (self.networks[name], self.averages[name].module):
                own = network.state_dict()  # of the network's own tensors, to be written into
                for key, value in source.state_dict().items():
                    # A conditional G's first layer has more columns than the DCGAN's.
                    shared_part = tuple(slice(size) for size in value.shape)
                    own[key][shared_part] = value
        self.strength.copy_(dcgan.state["strength"])
        self.trained_on = set(dcgan.state["trained_on"])


# Flags whose value here a run replaces, at its start, by what it stands for; what runs did before
# such a flag was there is in extras/resuming.py.
SETTLED = {"adversarial_every": 0, "d_steps": 0, "symmetry": "auto"}


def adversarial_interval(task, config):
    """At every how many steps J(D) is learnt beside J(C).

    A DCGAN that draws well needs little more of it, and those steps cost the most. From random
    weights, after the demo set's few epochs, or to learn to draw a class, G needs every step.
    """
    if task == "gan":
        return 1
    if config.adversarial_every:
        return config.adversarial_every
    starts_from_dcgan = config.weights != ""
    return 16 if starts_from_dcgan and not config.is_demo and not config.conditional else 1


def restore(trainer, config):
    """Give a new Trainer what it goes on from: a checkpoint, or the weights of a DCGAN, or nothing.

    Raises UsageError if the checkpoint is of other data or another setting of SETTLED, or, one from
    elsewhere, has as many epochs already.
    """
    path = resume_path(config, trainer.task)
    if path is None:
        if config.weights:
            trainer.start_from(config.weights)
        return
    state = load_checkpoint(path, trainer.task).state
    if state["classes"] != trainer.classes:
        raise UsageError(
            f"{path}: trained on {state['classes']}, the data has {trainer.classes}; "
            "give the same data"
        )
    extra("resuming").check_settled(path, trainer.task, state["config"], config, SETTLED)
    checkpoints = extra("checkpoints")
    with checkpoints.refusing_damage(path):
        make_one = functools.partial(make_optimizer, trainer.config)
        checkpoints.check_optimizers(state["optimizers"], trainer.networks, make_one)
    trainer.load(state)
    if path != last_checkpoint(config, trainer.task):
        trainer.best = -math.inf  # its best epoch is in another folder
        if trainer.epoch >= trainer.epochs:
            raise UsageError(
                f"{path}: has {trainer.epoch} of {trainer.epochs} epochs already; "
                "give more --epochs"
            )


def last_checkpoint(config, task):
    """Where a task's state is after every epoch."""
    return Path(config.results_dir, task, "last.pt")


def train(task, config, data):
    """Train "gan" or "mtd", or go on with it: every epoch is saved, sampled and logged.

    Returns the Trainer and its folder. Raises UsageError, or RuntimeError with what was kept.
    """
    extra("checks").check_trainable(task, data)
    extra("checks").check_packages(config)
    keep_freed_memory()
    trainer = Trainer(task, config, data.classes, data.device)
    restore(trainer, config)
    trainer.wrap_in_ddp()
    folder = last_checkpoint(config, task).parent
    if is_first_process():
        if resume_path(config, task) != last_checkpoint(config, task):
            extra("run_folder").move_aside(folder)
            trainer.saved_epoch = 0
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        extra("run_folder").write_about(folder, own_path().name, task, trainer.config, data)
        warn_of_trained_on(task, trainer.trained_on, data)
    run_epochs(trainer, data)
    return trainer, folder


def run_epochs(trainer, data):
    """Train up to the last epoch; the first process validates, saves and logs each."""
    config = trainer.config
    rank, world = processes()
    cells = data.split("train")
    trainer.trained_on.update(cells.sources())
    steps = max(config.min_steps, math.ceil(len(cells) / config.batch_size / world))
    images_per_epoch = steps * config.batch_size * world
    reporter = None
    if rank == 0:
        reporter = EpochReporter(trainer, data)
        if config.tensorboard:
            reporter.events = extra("tensorboard").Events(reporter.folder, trainer.epoch)
    bar_disabled = True if rank > 0 else None  # None: only where there is no terminal
    bar = tqdm(
        total=images_per_epoch * trainer.epochs,
        initial=images_per_epoch * trainer.epoch,
        unit="img",
        unit_scale=True,
        desc=trainer.task,
        disable=bar_disabled,
    )
    last = last_checkpoint(config, trainer.task)
    with bar, saying_what_is_kept(trainer, last):
        while trainer.epoch < trainer.epochs:
            trainer.set_rate_factor(trainer.epoch / trainer.epochs)
            row = trainer.train_epoch(cells, steps, bar)
            if reporter:
                line = reporter.finish_epoch(row)
                bar.write(line, file=sys.stderr)


class EpochReporter:
    """Validates, measures, saves, logs and samples after every epoch."""

    def __init__(self, trainer, data):
        self.trainer = trainer
        self.folder = Path(trainer.config.results_dir, trainer.task)
        self.data = data
        self.subsets = {split: data.split(split, limit=2000) for split in ("train", "val")}
        self.warned_of = set()  # kinds of warnings, each of which is given once
        self.events = None  # for TensorBoard

    def judge_epoch(self, row):
        """Add to an epoch's row what was measured after it; returns whether it is the best."""
        trainer = self.trainer
        is_best = False
        is_last = trainer.epoch == trainer.epochs
        if is_last or trainer.epoch % trainer.config.measure_every == 0:
            generator = trainer.averages["generator"].module
            row |= measure_quality(generator, self.data, trainer.config.seed + 1)
            if trainer.task == "gan":
                is_best = -row["kid_train"] > trainer.best
                trainer.best = max(-row["kid_train"], trainer.best)
        if trainer.task == "mtd":
            scores = self.validate()
            for split, of_split in scores.items():
                for name in ("loss", "accuracy", "balanced_accuracy"):
                    row[f"{split}_{name}"] = of_split[name]
            is_best = self.note_accuracy(row, scores["val"]["standard_error"])
        return is_best

    def finish_epoch(self, row):
        """Complete and log the row of an epoch that has just ended; returns it as a line."""
        drawing = extra("drawing")
        trainer = self.trainer
        extra("checks").import_packages()  # if one is broken, that is told after an epoch
        is_best = self.judge_epoch(row)
        trainer.history.append(row)
        with drawing.attempt("the samples"):  # before last.pt: later weights cannot make them
            write_samples(trainer, self.folder)
            if trainer.epoch % 10 == 0:  # not at first, when all are grey
                as_drawn = fixed_samples(trainer, turned=False)
                self.warn("samples", extra("advice").on_samples(as_drawn, self.subsets["train"]))
        state = trainer.state()
        if is_best:
            save_checkpoint(state, self.folder / "best.pt")
        save_checkpoint(state, self.folder / "last.pt")
        trainer.saved_epoch = trainer.epoch
        if LOSSES[trainer.config.loss].real_probability:
            self.warn("discriminator", extra("advice").on_discriminator(trainer.history))
        extra("files").save_rows(trainer.history, self.folder / "metrics.csv")
        if self.events:
            self.events.write(row)
        if trainer.epoch % 25 == 0:  # drawing takes as long as a fifth of an epoch
            with drawing.attempt("the training"):
                plot_training(trainer, self.folder)
            extra("page").write_pages(self.folder)
        return self.describe(row)

    def validate(self):
        """{split: scores} of the head about the training and the validation images."""
        mtd = self.trainer.averages["discriminator"].module
        loss = self.trainer.config.loss
        scores = {}
        for split, part in self.subsets.items():
            scores[split] = evaluate(part, predict(mtd, part, loss).probabilities)
        return scores

    def note_accuracy(self, row, standard_error):
        """Note an MTD's balanced accuracy on validation; returns whether the epoch is kept.

        The latest epoch is kept whose mean over five epochs is within a standard error of the
        highest such mean; epochs before the first count as 0. With a few dozen cells the best epoch
        itself is often a lucky early draw.
        """
        last_five = [*self.trainer.history, row][-5:]
        mean = sum(epoch["val_balanced_accuracy"] for epoch in last_five) / 5
        is_kept = mean >= self.trainer.best
        self.trainer.best = max(mean - standard_error, self.trainer.best)
        return is_kept

    def warn(self, kind, message):
        """Print the first warning of a kind; message: a line, or None for none."""
        if message is not None and kind not in self.warned_of:
            self.warned_of.add(kind)
            print_warning(message)

    def describe(self, row):
        """An epoch in a line."""
        words = [f"J(D) {row['loss_d']:.3f}", f"J(G) {row['loss_g']:.3f}"]
        if "kid_train" in row:
            words.append(f"KID {row['kid_train']:.3f}")
        if self.trainer.task == "mtd":
            words.append(f"J(C) {row['loss_c']:.3f}")
            balanced = row["val_balanced_accuracy"]
            words.append(f"val {row['val_accuracy']:.3f} balanced {balanced:.3f}")
        words.append(f"{row['images_per_second']:.0f} images/s")
        return f"{self.trainer.task} epoch {row['epoch']}: {'  '.join(words)}"


def fixed_samples(trainer, turned=True):
    """64 images of the averaged generator, from the same noise at every epoch, as of sample()."""
    generator = trainer.averages["generator"].module
    return sample(generator, latents(64, generator, trainer.config.seed), turned=turned)


def write_samples(trainer, folder):
    """samples/epoch_NNNN.png: the fixed samples."""
    drawing = extra("drawing")
    path = folder / f"samples/epoch_{trainer.epoch:04d}.png"
    images = drawing.grid(fixed_samples(trainer))
    drawing.write_image(path, images, f"epoch {trainer.epoch}, fixed noise")


def warn_of_trained_on(who, trained_on, data):
    """Say so if images that weights were trained on, a set of names, are now in val or test."""
    held_out = trained_on & set(data.split("val", "test").sources())
    if held_out:
        print_warning(f"{who} was trained on {len(held_out)} images that are now in val or test")


def print_warning(message):
    """Print a line that helps, above the bar if there is one."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


# ======================================== save and load ========================================

# Raise it when an old file would load and mean something else, or Trainer.state writes other keys:
# the weights in saved_models/ have to be converted then, and KEYS in extras/checkpoints.py changed.
CHECKPOINT_FORMAT = 2


class Checkpoint(NamedTuple):
    """The averaged networks of a checkpoint, in eval mode, and all that is in it."""

    generator: Generator
    discriminator: Discriminator
    state: dict


def save_checkpoint(state, path):
    """Write a state, and wait until it is on the disk."""
    with extra("files").replacing(path) as part, part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def read_state(path):
    """The dict in a checkpoint file, on the CPU. Code in the file cannot run (weights_only)."""
    checkpoints = extra("checkpoints")
    with checkpoints.refusing_unreadable(path):
        extra("files").require_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    checkpoints.check_format(path, state, CHECKPOINT_FORMAT)
    return state


def load_checkpoint(path, task=None, device="cpu"):
    """The Checkpoint in a file, rebuilt from the file alone. task: "gan" or "mtd", None for any.

    Raises UsageError for a file that is missing, damaged, foreign or of another task.
    """
    state = read_state(path)
    with extra("checkpoints").refusing_damage(path):
        config = check_state(state)
        networks = build_networks(state["task"], vars(config), len(state["classes"]))
        for name, network in zip(("generator", "discriminator"), networks, strict=True):
            average = averaged(network)  # "ema" has the names of an AveragedModel
            average.load_state_dict(state["ema"][name])
            network.load_state_dict(average.module.state_dict())
            network.eval().requires_grad_(False)
        if "anomaly" in state:
            shape = (config.image_size, config.image_size, config.channels)
            example = np.zeros(shape, np.uint8)
            extra("anomaly").read_model(state["anomaly"], networks[1], example)
    state["config"] = vars(config)
    if task not in (None, state["task"]):
        raise UsageError(f"{path}: weights of a {state['task']}, not of a {task}")
    generator, discriminator = networks
    return Checkpoint(generator.to(device), discriminator.to(device), state)


def check_state(state):
    """Check a checkpoint, but for optimisers, against what its config leads to; returns the Config.

    Nothing is made in the sizes that a file names before these are found to be its tensors'.
    Raises UsageError or CheckpointError (extras/checkpoints.py).
    """
    checkpoints = extra("checkpoints")
    checkpoints.check_values(state, StepMetrics._fields)
    config = Config(**extra("resuming").with_later_flags(state["config"], SETTLED))
    with torch.device("meta"):
        networks = build_networks(state["task"], vars(config), len(state["classes"]))
    averages = [averaged(network) for network in networks]
    checkpoints.check_networks(state, networks, averages)
    return config


def resume_path(config, task):
    """The checkpoint that a task goes on with, or None to start anew."""
    if not config.resume:
        return None
    own = last_checkpoint(config, task)
    if config.resume == "auto":
        return own if own.exists() else None
    named = Path(config.resume)
    is_own = os.path.realpath(named) == os.path.realpath(own)  # also of a link to itself
    return own if is_own else named


def resumed_config(flags):
    """The config of the run to go on with, changed by {flag: value} as far as they may.

    Raises UsageError if there is no such run, or a flag cannot change.
    """
    command = Config(**flags)
    tasks = ("gan", "mtd") if command.task == "all" else (command.task,)
    made_with = {}
    for task in tasks:
        path = resume_path(command, task)
        if path:
            made_with[path] = load_checkpoint(path, task).state["config"]
    return Config(**extra("resuming").merged_settings(command, flags, made_with, SETTLED))


# ========================================== evaluation ==========================================


class Predictions(NamedTuple):
    """An MTD's answers as numpy: class probabilities (N, n), and D's, how real images are (N,)."""

    probabilities: np.ndarray
    real: np.ndarray


@torch.no_grad()
def predict(mtd, data, loss, symmetry="none"):
    """The Predictions of an MTD about a dataset. loss: the one it was trained with.

    symmetry: of TURNS_BY_SYMMETRY; answers are means over such turns of an image, which the MTD has
    to have learnt.
    """
    turns_of = TURNS_BY_SYMMETRY[symmetry]
    activation = data.label_kind.activation
    probabilities = []
    real = []
    with evaluating(mtd):
        for batch in in_order(data):
            outputs = [mtd(images) for images in turns_of(batch.images)]
            of_turns = torch.stack([activation(output.class_logits) for output in outputs])
            # Resampled images look less real to D, whatever they show.
            exact = torch.stack([output.real_logits for output in outputs[:EXACT_TURNS]])
            probabilities.append(of_turns.mean(0))
            real.append(LOSSES[loss].realness(exact).mean(0))
    probabilities = torch.cat(probabilities).cpu().numpy()
    return Predictions(probabilities, torch.cat(real).cpu().numpy())


def calibrated_predictions(checkpoint, data):
    """The Predictions of a checkpoint's MTD about a dataset, calibrated if that is known."""
    config = checkpoint.state["config"]
    symmetry = learnt_symmetry(config)
    predictions = predict(checkpoint.discriminator, data, config["loss"], symmetry)
    temperature = checkpoint.state.get("temperature", 1.0)
    calibrated = data.label_kind.calibrated(predictions.probabilities, temperature)
    return predictions._replace(probabilities=calibrated)


def prepare_answers(checkpoint, data):
    """Keep in an MTD's checkpoint what answers about any image need beside its weights.

    temperature: fitted on the validation cells (extras/calibration.py); anomaly: what images like
    the training cells have in common, by which others are noticed (extras/anomaly.py).
    """
    state = checkpoint.state
    config = state["config"]
    val = data.split("val", limit=2000)
    predictions = predict(checkpoint.discriminator, val, config["loss"], learnt_symmetry(config))
    fit = extra("calibration").fit_temperature
    state["temperature"] = fit(data.label_kind, predictions.probabilities, val.labels.cpu())
    train = data.split("train", limit=2000)
    model = extra("anomaly").fit_to_checkpoint(checkpoint, train.uint8(), val.uint8())
    state["anomaly"] = model._asdict()


@torch.no_grad()
def head_features(mtd, data):
    """The features (N, head_width) of an MTD's head about a dataset, before its last layer."""
    with evaluating(mtd):
        features = [mtd.embed(mtd.features(batch.images)) for batch in in_order(data)]
    return torch.cat(features).cpu().numpy()


def evaluate(data, probabilities):
    """classification_scores of answers (N, n) about a dataset, with their mean loss in nats."""
    labels = data.labels.cpu()
    scores = extra("scores").classification_scores(
        data.label_kind, labels.numpy(), probabilities, data.classes
    )
    inside = torch.from_numpy(probabilities).double().clamp(1e-7, 1 - 1e-7)
    scores["loss"] = data.label_kind.log_loss(inside, labels).item()
    return scores


# Generated images


def latents(count, generator, seed):
    """Standard normal noise (count, latent_dim), the same for the same seed on every device."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator.latent_dim, generator=draws)


@torch.no_grad()
def sample(generator, noise, labels=None, batch_size=64, turned=True):
    """Images of noise (N, latent_dim): uint8 numpy (N, S, S, C).

    labels: of a conditional generator the classes (N,) or multi-hot (N, n); None: in cycles.
    turned: D saw all images turned and flipped at random, by generator.symmetry, so that G is free
    to draw each cell in one turn only; here the noise chooses the turn. False: as G draws them.
    """
    device = next(generator.parameters()).device
    if generator.num_classes and labels is None:
        labels = torch.arange(len(noise)) % generator.num_classes
    images = []
    with evaluating(generator):
        for start in range(0, len(noise), batch_size):
            part = slice(start, start + batch_size)
            part_labels = labels[part].to(device) if generator.num_classes else None
            generated = generator(noise[part].to(device), part_labels)
            if turned:
                generated = turned_by_noise(generated, noise[part], generator.symmetry)
            images.append(to_pixels(generated))
    return np.concatenate(images)


GENERATED = 500  # cells that a measurement draws


@functools.lru_cache(maxsize=1)
def quality_of(data):
    """The Quality of a dataset (extras/quality.py), whose features are computed once."""
    return extra("quality").Quality(data)


def measure_quality(generator, data, seed):
    """{name: number} of a generator's cells, drawn in the training cells' mix of classes."""
    quality = quality_of(data)
    noise = latents(GENERATED, generator, seed)
    images = sample(generator, noise, quality.labels(GENERATED))
    return quality.measure(images, conditional=generator.num_classes > 0)


# =========================================== Grad-CAM ===========================================


def gradcam_evidence(gradients, maps):
    """Grad-CAM (Selvaraju et al. 2017, eq. 1-2): a feature map's weight is its mean gradient."""
    weights = gradients.mean((2, 3), keepdim=True)
    return (weights * maps).sum(1)


class GradCAM:
    """Grad-CAM on a layer of a discriminator.

        with GradCAM(mtd) as cam:
            maps = cam(images, class_score(labels))

    layer: by default the activations of the second-last convolution, 4x4: those before batch norm
    would carry an offset that hides or makes evidence. evidence: (gradients, maps), both
    (N, C, h, w) -> (N, h, w); others are in extras/cam_methods.py. The network is left as it was.
    """

    def __init__(self, network, layer=None, evidence=gradcam_evidence):
        self.network = network
        self.layer = network.features if layer is None else layer
        self.evidence = evidence
        self.maps = None

    def __enter__(self):
        self.hook = self.layer.register_forward_hook(self.keep_maps)
        return self

    def __exit__(self, *error):
        self.hook.remove()
        self.maps = None

    def keep_maps(self, layer, inputs, output):
        """Forward hook: remember the layer's output."""
        self.maps = output

    def __call__(self, images, score):
        """Raw maps (N, h, w), never negative, of images (N, C, S, S) in [-1, 1].

        score: DiscriminatorOutput -> (N,), a logit of what is to be explained.
        """
        images = images.detach().clone().requires_grad_(True)  # the weights may be frozen
        with evaluating(self.network), torch.enable_grad():
            logits = score(self.network(images))
            if self.maps is None:
                raise RuntimeError("GradCAM sees its layer inside a with block only")
            (gradients,) = torch.autograd.grad(logits.sum(), self.maps)
        return F.relu(self.evidence(gradients, self.maps)).detach()


def class_score(labels):
    """A score for GradCAM: the logit of a class for each image, labels (N,)."""
    return lambda output: output.class_logits.gather(1, labels[:, None])[:, 0]


def real_score(output):
    """A score for GradCAM: what speaks for real."""
    return output.real_logits


def fake_score(output):
    """A score for GradCAM: what speaks for fake."""
    return -output.real_logits


class HeatMaps(NamedTuple):
    """Maps (N, S, S) in [0, 1], and whether each has positive evidence (N,); else it is all 0.

    A map of the same evidence everywhere is all 1.
    """

    maps: Tensor
    has_evidence: Tensor


def heat_maps(raw, size):
    """HeatMaps of raw Grad-CAM maps (N, h, w): resized bilinearly, then scaled to [0, 1]."""
    maps = F.interpolate(raw[:, None], (size, size), mode="bilinear", align_corners=False)
    maps = maps[:, 0]
    low = maps.amin((1, 2), keepdim=True)
    high = maps.amax((1, 2), keepdim=True)
    has_evidence = high > 0
    scaled = (maps - low) / (high - low).clamp(min=1e-12)
    scaled = torch.where(high > low, scaled, has_evidence.float())
    return HeatMaps(scaled, has_evidence.flatten())


def gradcam_maps(network, images, score):
    """HeatMaps of Grad-CAM on the second-last convolution, the default layer."""
    with GradCAM(network) as cam:
        return heat_maps(cam(images, score), images.shape[-1])


def finer_maps(network, images, score, evidence=None, turn_count=EXACT_TURNS):
    """HeatMaps of what speaks for a score at 4x4 and at 16x16: the product of both maps.

    The coarse one knows the class, the fine one the place, as the factors of Guided Grad-CAM do
    (Selvaraju et al. 2017, sec. 3.3). Which maps point best: benchmarks.heatmaps. A network with
    fewer levels gives its finest instead of 16x16. evidence: as of GradCAM, by default LayerCAM's;
    turn_count: how many turns of an image the maps are means over.
    """
    cam_methods = extra("cam_methods")
    if evidence is None:
        evidence = cam_methods.layercam_evidence
    size = images.shape[-1]
    product = images.new_ones(len(images), size, size)
    for level in (0, min(2, network.levels - 1)):
        with GradCAM(network, network.feature_layer(level), evidence) as cam:
            raw = cam_methods.mean_over_turns(cam, images, score, turn_count)
            product *= heat_maps(raw, size).maps
    return heat_maps(product, size)


# ============================================ plots =============================================


def plot_traces(path, task, unit, columns, y_limits=None):
    """A panel for each of two traces, {name: values of every iteration}, with the same y_limits."""
    drawing = extra("drawing")
    with drawing.figure(path, 2, 1, size=(9, 6)) as (_, axes):
        panels = zip(axes[:, 0], drawing.COLOURS, columns.items(), strict=True)
        for axis, colour, (name, values) in panels:
            drawing.draw_trace(axis, values, colour, name)
            axis.set(xlabel="iteration", ylabel=unit, title=f"{task}: {name}")
            if y_limits:
                axis.set_ylim(y_limits)


def plot_training(trainer, folder):
    """losses.png, scores.png, quality.png and, of an MTD, classifier_curves.png."""
    drawing = extra("drawing")
    traces = StepMetrics(*trainer.traces.numpy().T)
    losses = {"J(G)": traces.loss_g, "J(D)": traces.loss_d}
    realness = {"D(x), real": traces.d_real, "D(G(z)), generated": traces.d_fake}
    adversarial_loss = LOSSES[trainer.config.loss]
    unit = f"loss ({adversarial_loss.unit})"
    plot_traces(folder / "losses.png", trainer.task, unit, losses)
    answer = f"D: {drawing.realness_scale(adversarial_loss)}"
    limits = drawing.realness_limits(adversarial_loss)
    plot_traces(folder / "scores.png", trainer.task, answer, realness, limits)
    if any("kid_train" in row for row in trainer.history):
        plot_history(trainer.history, folder / "quality.png", QUALITY_PANELS)
    if trainer.task == "mtd":
        plot_history(trainer.history, folder / "classifier_curves.png", CLASSIFIER_PANELS)


class Panel(NamedTuple):
    """Curves of the history, {column: label}, on an axis that reaches at least to `top`."""

    title: str
    curves: dict[str, str]
    top: float = 0.01


QUALITY_PANELS = (
    Panel(
        f"KID of {GENERATED} cells, lower is better\n(features of EfficientNet-Lite0)",
        {
            "kid_train": "to train cells",
            "kid_val": "to val cells",
            "kid_floor": "floor: real train to real val",
        },
    ),
    Panel(
        "share of cells, higher is better",
        {"precision": "precision", "recall": "recall"},
        top=1,
    ),
)
CLASSIFIER_PANELS = (
    Panel("classification head: loss (nats)", {"train_loss": "train", "val_loss": "val"}),
    Panel(
        "classification head: accuracy (share)",
        {"train_accuracy": "train", "val_accuracy": "val"},
        top=1,
    ),
    Panel(
        "classification head: balanced accuracy (mean recall)",
        {"train_balanced_accuracy": "train", "val_balanced_accuracy": "val"},
        top=1,
    ),
)


def plot_history(history, path, panels):
    """Columns of the history over epochs, in Panels beside each other; returns the figure."""
    size = (4.6 * len(panels), 3.8)
    with extra("drawing").figure(path, 1, len(panels), size) as (figure, axes):
        for axis, panel in zip(axes[0], panels, strict=True):
            for column, label in panel.curves.items():
                rows = [row for row in history if column in row]
                if rows:
                    epochs = [row["epoch"] for row in rows]
                    axis.plot(epochs, [row[column] for row in rows], ".-", label=label)
            axis.set(xlabel="epoch", title=panel.title)
            axis.set_xlim(0, history[-1]["epoch"] + 1)
            high = max(panel.top, axis.dataLim.y1)
            low = min(0, axis.dataLim.y0)
            margin = 0.05 * (high - low)  # a curve at 0 is seen
            axis.set_ylim(low - margin, high + margin)
            axis.grid(alpha=0.3)
            axis.legend()
    return figure


def plot_weights(network, path, side_inches=3.4):
    """The first 144 kernels of every convolution as tiles, blue negative, red positive.

    Returns the figure.
    """
    drawing = extra("drawing")
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    modules = network.named_modules()
    layers = {name: module for name, module in modules if isinstance(module, kinds)}
    size = (side_inches * len(layers), side_inches + 0.2)
    with drawing.figure(path, 1, len(layers), size) as (figure, axes):
        for axis, (name, layer) in zip(axes[0], layers.items(), strict=True):
            kernels = layer.weight.detach().cpu().flatten(0, 1)[:144]
            limit = kernels.abs().max().item()
            tiles = drawing.tile_kernels(kernels)
            colours = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
            shown = axis.imshow(tiles, **colours, interpolation="nearest")
            shape = "x".join(map(str, layer.weight.shape))
            order = "in, out" if isinstance(layer, nn.ConvTranspose2d) else "out, in"
            axis.set(
                title=f"{name}\n{shape}",
                xticks=[],
                yticks=[],
                xlabel=f"{len(kernels)} kernels ({order})",
            )
            figure.colorbar(shown, ax=axis, shrink=0.7)
    return figure


def plot_predictions(folder, data, probabilities, limit=40, columns=8):
    """predictions_right.png and predictions_wrong.png: true label, answer and its probability."""
    drawing = extra("drawing")
    judgement = extra("scores").judge(data, probabilities)
    right = np.flatnonzero(judgement.is_right)
    wrong = np.flatnonzero(~judgement.is_right)
    for name, chosen in (("right", right), ("wrong", wrong)):
        surest_first = chosen[np.argsort(-judgement.confidence[chosen])]
        if name == "right":  # from all of them: the surest alone look alike
            surest_first = surest_first[:: max(1, math.ceil(len(chosen) / limit))]
        shown = surest_first[:limit]
        captions = [judgement.captions[i] for i in shown]
        pictures = list(map(drawing.Picture, data.uint8(shown), captions))
        title = (
            f"{len(chosen)} of {len(data)} test images were answered {name}; {len(shown)} here, "
            "surest first (true label, then answer and its probability)"
        )
        drawing.gallery(folder / f"predictions_{name}.png", title, pictures, columns)


def overlays(images, heat, title):
    """Pictures of images (N, C, S, S) in [-1, 1] under HeatMaps: from blue, none, to red, the most.

    An image without positive evidence is left as it is, and says so.
    """
    drawing = extra("drawing")
    colours = drawing.jet(heat.maps.cpu().numpy())
    originals = to_pixels(images)
    blended = (0.55 * originals + 0.45 * 255 * colours).astype(np.uint8)
    pictures = []
    for original, overlay, has_evidence in zip(originals, blended, heat.has_evidence, strict=True):
        if has_evidence:
            pictures.append(drawing.Picture(overlay, title))
        else:
            pictures.append(drawing.Picture(original, "no positive\nevidence"))
    return pictures


def cam_pictures(network, images, score, captions, turn_count=EXACT_TURNS):
    """Three Pictures of each image (N, C, S, S) in [-1, 1]: itself, Grad-CAM, the finer map.

    turn_count: of the finer map.
    """
    drawing = extra("drawing")
    originals = []
    for image, caption in zip(to_pixels(images), captions, strict=True):
        originals.append(drawing.Picture(image, caption))
    coarse = overlays(images, gradcam_maps(network, images, score), "Grad-CAM")
    fine = overlays(images, finer_maps(network, images, score, turn_count=turn_count), "finer map")
    pictures = []
    for of_one_image in zip(originals, coarse, fine, strict=True):
        pictures += of_one_image
    return pictures


def plot_gradcam(folder, checkpoint, test, seed, limit=24, columns=9):
    """gradcam_right.png, gradcam_wrong.png and gradcam_real_fake.png of a test set.

    checkpoint: an MTD's; the last picture has images of its generator too.
    """
    drawing = extra("drawing")
    folder.mkdir(parents=True, exist_ok=True)
    mtd = checkpoint.discriminator
    config = checkpoint.state["config"]
    probabilities = calibrated_predictions(checkpoint, test).probabilities
    judgement = extra("scores").judge(test, probabilities)
    for name, is_chosen in (("right", judgement.is_right), ("wrong", ~judgement.is_right)):
        chosen = np.random.default_rng(0).permutation(np.flatnonzero(is_chosen))
        chosen = np.sort(chosen[:limit])
        pictures = []
        if len(chosen):
            likeliest = torch.from_numpy(probabilities[chosen].argmax(1)).to(test.device)
            captions = [judgement.captions[i] for i in chosen]
            images = test.__getitems__(chosen).images
            score = class_score(likeliest)
            pictures = cam_pictures(mtd, images, score, captions, cam_turn_count(config))
        title = f"Grad-CAM of the likeliest class, {name} answers (test)"
        drawing.gallery(folder / f"gradcam_{name}.png", title, pictures, columns)
    pictures = real_fake_pictures(checkpoint, test, seed, limit // 4)
    scale = drawing.realness_scale(LOSSES[config["loss"]])
    title = f"Grad-CAM of the real/fake answer (D: {scale})"
    drawing.gallery(folder / "gradcam_real_fake.png", title, pictures, columns)


@torch.no_grad()
def real_fake_pictures(checkpoint, test, seed, count):
    """cam_pictures of real and generated images: what speaks for real, then what for fake."""
    real = test.__getitems__(range(min(count, len(test)))).images
    noise = latents(count, checkpoint.generator, seed)
    fake = to_images(torch.from_numpy(sample(checkpoint.generator, noise))).to(test.device)
    images = torch.cat([real, fake])
    kinds = ["real"] * len(real) + ["generated"] * len(fake)
    mtd = checkpoint.discriminator
    adversarial_loss = LOSSES[checkpoint.state["config"]["loss"]]
    scores = adversarial_loss.realness(mtd(images).real_logits).tolist()
    pictures = []
    for score, meaning in ((real_score, "real"), (fake_score, "fake")):
        captions = []
        for kind, realness in zip(kinds, scores, strict=True):
            captions.append(f"{kind}, D {realness:.2f}\nwhat speaks for {meaning}")
        turn_count = cam_turn_count(checkpoint.state["config"])
        pictures += cam_pictures(mtd, images, score, captions, turn_count)
    return pictures


# ============================================ tasks =============================================


def report_run(trainer, folder, data):
    """Hand over the weights of a trained task, then score them, then draw the run."""
    drawing = extra("drawing")
    more_plots = extra("more_plots")
    task = trainer.task
    config = trainer.config
    best = folder / "best.pt"
    source = best if best.exists() else folder / "last.pt"
    checkpoint = load_checkpoint(source, task, data.device)
    if task == "mtd":
        prepare_answers(checkpoint, data)
        save_checkpoint(checkpoint.state, source)
    place = hand_over(checkpoint, source, config)
    # A kill may have come between last.pt and this.
    extra("files").save_rows(trainer.history, folder / "metrics.csv")
    if task == "mtd":
        report_mtd(folder, data, checkpoint)
    report_generator(folder, config, data, checkpoint)
    with drawing.attempt("cells.png"):
        more_plots.write_data_sheet(folder, data)
    with drawing.attempt("the training"):
        plot_training(trainer, folder)
    with drawing.attempt("the weights"):
        plot_weights(checkpoint.generator, folder / "weights_generator.png")
        plot_weights(checkpoint.discriminator, folder / "weights_discriminator.png")
    with drawing.attempt("samples.gif"):
        write_samples(trainer, folder)  # the last may have been cut off by a kill
        more_plots.animate_samples(folder / "samples")
    extra("page").write_pages(folder)
    print(f"{task}: results in {folder}, weights in {place}")


def hand_over(checkpoint, source, config):
    """Copy a run's weights to --save_dir, unless others are there; says where they are, as text."""
    target = Path(config.save_dir, f"{checkpoint.state['task']}.pt")
    if target.exists() and not config.overwrite:
        return f"{source}; {target} stays as it was (see --overwrite)"
    save_checkpoint(checkpoint.state, target)
    return str(target)


def report_generator(folder, config, data, checkpoint):
    """Measure a generator's cells (quality.json), and draw them beside real ones."""
    drawing = extra("drawing")
    more_plots = extra("more_plots")
    generator = checkpoint.generator
    quality = quality_of(data)
    numbers = measure_quality(generator, data, config.seed + 2)  # not what chose the epoch
    images = sample(generator, latents(32, generator, config.seed + 1))
    neighbours = quality.nearest(images, generator.symmetry)
    numbers["nearest"] = float(np.median(neighbours.distances))
    about = {"epoch": checkpoint.state["epoch"], **quality.about(GENERATED, len(images))}
    extra("files").save_text(json.dumps(numbers | about, indent=1), folder / "quality.json")
    text = " ".join(f"{name} {number:.3f}" for name, number in numbers.items())
    print(f"{checkpoint.state['task']}: generated beside real cells, n {about['n']}: {text}")
    low_recall = extra("advice").on_recall(numbers["recall"])
    if low_recall:
        print_warning(low_recall)

    with drawing.attempt("generated beside real cells"):
        more_plots.plot_nearest(folder / "nearest.png", neighbours)
        more_plots.write_halves(folder / "real_vs_generated.png", data.split("train"), images)


def report_mtd(folder, data, checkpoint):
    """Scores of an MTD on validation and, once, test, with the pictures about them."""
    drawing = extra("drawing")
    more_plots = extra("more_plots")
    mtd = checkpoint.discriminator
    scores = {}
    probabilities = {}
    for split in ("val", "test"):
        part = data.split(split)
        probabilities[split] = calibrated_predictions(checkpoint, part).probabilities
        scores[split] = evaluate(part, probabilities[split])
        found = scores[split]
        print(
            f"mtd: {split} n {found['n']}, accuracy {found['accuracy']:.3g}, balanced accuracy "
            f"{found['balanced_accuracy']:.3g}, standard error {found['standard_error']:.3g}"
        )
        for message in extra("advice").on_supports(split, found["per_class"]):
            print_warning(message)
    state = checkpoint.state
    about = {"best_epoch": state["epoch"], "temperature": state["temperature"]}
    extra("files").save_text(json.dumps(about | scores, indent=1), folder / "scores.json")
    with drawing.attempt("the scores"):
        more_plots.plot_scores(folder, scores)
    with drawing.attempt("the predictions"):
        plot_predictions(folder, data.split("test"), probabilities["test"])
    with drawing.attempt("tsne.png"):
        held_out = data.split("val", "test", limit=1000)
        labels = held_out.labels.cpu().numpy()
        names = [data.label_kind.name(label, data.classes) for label in labels]
        more_plots.plot_tsne(folder / "tsne.png", head_features(mtd, held_out), names)


def weights_to_explain(config):
    """The MTD that --task gradcam is about: the one named, else the last run's, else the saved."""
    if config.weights:
        return Path(config.weights)
    own = Path(config.results_dir, "mtd", "best.pt")
    return own if own.exists() else Path(config.save_dir, "mtd.pt")


def run_gradcam(config, data):
    """Grad-CAM of an MTD: right and wrong answers about test images, and real against fake."""
    weights = weights_to_explain(config)
    checkpoint = load_checkpoint(weights, "mtd", data.device)
    test = data.split("test")
    extra("checks").check_explainable(test)
    made_with = checkpoint.state["config"] | {"classes": checkpoint.state["classes"]}
    here = vars(config) | {"classes": data.classes}
    extra("resuming").check_data_flags(weights, made_with, here, flags_that_read_data())
    warn_of_trained_on(weights, set(checkpoint.state["trained_on"]), data)
    folder = Path(config.results_dir, "gradcam")
    plot_gradcam(folder, checkpoint, test, config.seed)
    explained = dataclasses.replace(config, weights=str(weights))
    extra("run_folder").write_about(folder, own_path().name, "gradcam", explained, data)
    extra("page").write_pages(folder)
    print(f"gradcam: pictures in {folder}, of {weights}")


def compare(config):
    """results/all/before_after.png: samples and curves of the DCGAN and of it with the head."""
    results = Path(config.results_dir)
    dcgan = load_checkpoint(results / "gan" / "last.pt", "gan")
    mtd = load_checkpoint(results / "mtd" / "last.pt", "mtd")
    runs = {}
    for name, checkpoint in (("DCGAN", dcgan), ("with the head", mtd)):
        noise = latents(64, checkpoint.generator, config.seed)
        title = f"{name}, epoch {checkpoint.state['epoch']}, the same noise"
        traces = StepMetrics(*checkpoint.state["traces"].numpy().T)
        runs[title] = (sample(checkpoint.generator, noise), traces)
    adversarial_loss = LOSSES[mtd.state["config"]["loss"]]
    folder = results / "all"
    extra("more_plots").plot_before_after(folder / "before_after.png", runs, adversarial_loss)
    extra("page").write_pages(folder)
    print(f"all: before and after the head in {folder}")


def report_data(config, data):
    """What --task data says and draws."""
    folder = Path(config.results_dir, "data")
    extra("more_plots").write_data_sheet(folder, data)
    extra("page").write_pages(folder)
    if not config.json:
        print(data.table())
        return
    report = {
        "layout": data.index.layout,
        "classes": data.classes,
        "skipped": data.index.skipped,
        "splits": data.counts(),
    }
    print(json.dumps(report))


def print_layers(config):
    """What --summary says: the layers of the generator, the discriminator and the MTD."""
    stages = len(extra("classes").STAGES)  # the data is not read for this
    _, discriminator = build_networks("gan", vars(config), stages)
    generator, mtd = build_networks("mtd", vars(config), stages)
    print(extra("layers").describe_all(generator, discriminator, mtd, config))


def run_tasks(config, data):
    """The tasks of a config, one after the other; the first of several processes reports."""
    first = is_first_process()
    if config.task == "data":
        if first:
            report_data(config, data)
        return
    if first:
        print(data.table())
    if config.task in ("gan", "mtd"):
        train_and_report(config.task, config, data)
    elif config.task == "gradcam":
        if first:
            run_gradcam(config, data)
    elif config.task == "all":
        run_all(config, data)


def run_all(config, data):
    """The DCGAN, the MTD on it, Grad-CAM, and what changed with the head."""
    if is_first_process() and not config.resume:
        with extra("run_folder").held(last_checkpoint(config, "mtd").parent) as earlier_mtd:
            extra("run_folder").move_aside(earlier_mtd)  # it is of an earlier DCGAN
    train_and_report("gan", config, data)
    dcgan = last_checkpoint(config, "gan")  # its averages, after the learning rates have fallen
    train_and_report("mtd", dataclasses.replace(config, weights=str(dcgan)), data)
    if is_first_process():
        run_gradcam(config, data)
        compare(config)


def train_and_report(task, config, data):
    """Train a task, and draw and score it in the first process, which holds the run's folder."""
    if not is_first_process():
        train(task, config, data)
        return
    with extra("run_folder").held(last_checkpoint(config, task).parent):
        trainer, folder = train(task, config, data)
        with saying_what_is_kept(trainer, folder / "last.pt"):
            report_run(trainer, folder, data)


# ========================================= command line =========================================


TASK_OF_WEIGHTS = {"mtd": "gan", "gradcam": "mtd"}  # task: what its --weights have to be of


def config_from(arguments):
    """The Config of a command line: flags over the run to go on with, or over the recipe."""
    flags = vars(make_parser(Config, __doc__).parse_args(arguments))
    if flags.get("weights") and flags.get("task") not in TASK_OF_WEIGHTS:
        raise UsageError(
            "--weights goes with --task mtd or gradcam; --task all takes what it has trained itself"
        )
    if flags.get("resume"):
        if flags.get("task", "all") == "all" and flags["resume"] != "auto":
            raise UsageError(f"--resume {flags['resume']}: give --task gan or mtd with it")
        return resumed_config(flags)
    recipe = RECIPES[Config(**flags).recipe]  # the flags have been checked then
    return Config(**{**recipe, **flags})


def run(arguments):
    """Do what a command line says."""
    config = config_from(arguments)
    if config.summary:
        print_layers(config)
        return
    extra("checks").check_output_folders(config)
    if config.weights and not config.resume:  # told before the data is read, which can take long
        load_checkpoint(config.weights, TASK_OF_WEIGHTS[config.task])
    device = pick_device(config.device)
    check_torchrun()
    with extra("processes").process_group(device):
        with extra("processes").first_process_first():  # it fills the cache for the others
            data = load_data(config, device)
        run_tasks(config, data)


if __name__ == "__main__":
    leave(main(run, sys.argv[1:]))
