"""How unlike the training cells an image is: in D's feature maps, by inversion of G, and by both.

Three scores, each a number an image, the higher the more unlike:

scores             Mahalanobis distance from the training cells in D's pooled feature maps (Lee et
                   al. 2018, "A simple unified framework for detecting out-of-distribution samples",
                   sec. 2.1, with one mean for all classes)
inversion_scores   how far the nearest image that G can draw stays away, in pixels and in D's
                   feature maps (AnoGAN; Schlegl et al. 2017, sec. 2.2), relative to the image's
                   sharpness: else smooth images, which G draws well whatever they show, are the
                   most usual ones. Noise, sharper than any cell, passes: use it beside the first
combined           the mean of both in units of the validation cells' spread

An AnomalyModel is what the first needs: plain tensors, which a checkpoint can hold.

    model = fit(mtd, train_cells, val_cells)          uint8 images (N, S, S, C)
    state["anomaly"] = model._asdict()                three tensors, 66 kB for 128 feature maps
    model = read_model(state["anomaly"], mtd, like)   checked; raises ValueError
    is_unlike(scores(mtd, images, model), model)      numpy (N,) of True and False

Networks have to be in eval mode, as load_checkpoint returns them.

The first score is the one to use: the others take far longer, and notice little more. What is like
the training cells is not therefore one of their classes: a red blood cell without parasite differs
little from a cell with a ring, and most of them are not noticed (see benchmarks.anomaly).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from extras.pixels import to_images
from extras.symmetry import EXACT_TURNS_BY_SYMMETRY, exact_turns, symmetry_of, unturned

BATCH = 128
QUANTILE = 0.95  # of the validation cells; those above it are called unlike
NAMES = ("mean", "precision", "threshold")


class AnomalyModel(NamedTuple):
    """The training cells' features: mean (F,), precision (F, F) and a threshold () of distances."""

    mean: Tensor
    precision: Tensor
    threshold: Tensor


@torch.no_grad()
def pooled_features(mtd, pixels, turns_of=exact_turns):
    """Features (N, F), float64 numpy, of images uint8 (N, S, S, C).

    Means over each map of D's second-last convolution and over the turns of an image: what turns
    with a cell tells nothing, and without it distances are far less noisy. Raises ValueError in
    train mode.
    """
    if mtd.training:
        raise ValueError("the network is in train mode: its batch norm would mix the images")
    device = next(mtd.parameters()).device
    features = []
    for start in range(0, len(pixels), BATCH):
        images = to_images(torch.from_numpy(pixels[start : start + BATCH]).to(device))
        pooled = [mtd.features(view).mean((2, 3)) for view in turns_of(images)]
        features.append(torch.stack(pooled).mean(0).double().cpu())
    return torch.cat(features).numpy()


def fit(mtd, train_cells, val_cells, turns_of=exact_turns):
    """The AnomalyModel of an MTD, or of a Discriminator.

    train_cells, val_cells: uint8 (N, S, S, C); training cells give mean and precision (shrunk,
    Ledoit and Wolf 2004), validation cells the threshold: 5 % of them are above it.
    """
    from sklearn.covariance import LedoitWolf

    features = pooled_features(mtd, train_cells, turns_of)
    scale = features.std(0) + 1e-6
    shrunk = LedoitWolf().fit(features / scale)
    mean = torch.from_numpy(features.mean(0)).float()
    precision = torch.from_numpy(shrunk.precision_ / np.outer(scale, scale)).float()
    model = AnomalyModel(mean, precision, torch.tensor(0.0))
    distances = scores(mtd, val_cells, model, turns_of)
    threshold = torch.tensor(float(np.quantile(distances, QUANTILE)))
    return model._replace(threshold=threshold)


def scores(mtd, images, model, turns_of=exact_turns):
    """Mahalanobis distances (N,) of images uint8 (N, S, S, C) from the training cells."""
    apart = pooled_features(mtd, images, turns_of) - model.mean.double().numpy()
    squares = (apart @ model.precision.double().numpy() * apart).sum(1)
    return np.sqrt(squares.clip(min=0))


def is_unlike(distances, model):
    """Whether images of these distances (N,) are unlike the training cells."""
    return distances > model.threshold.item()


def fit_to_checkpoint(checkpoint, train_cells, val_cells):
    """The AnomalyModel of a script's Checkpoint, over the turns that its images allow."""
    turns_of = EXACT_TURNS_BY_SYMMETRY[symmetry_of(checkpoint.state["config"])]
    return fit(checkpoint.discriminator, train_cells, val_cells, turns_of)


def unlike_training_cells(checkpoint, images):
    """Whether each image, uint8 (N, S, S, C), is unlike what an MTD was trained on, or None.

    None of a checkpoint that a run has not delivered, which has no AnomalyModel.
    """
    if "anomaly" not in checkpoint.state:
        return None
    model = AnomalyModel(**checkpoint.state["anomaly"])
    turns_of = EXACT_TURNS_BY_SYMMETRY[symmetry_of(checkpoint.state["config"])]
    return is_unlike(scores(checkpoint.discriminator, images, model, turns_of), model)


def read_model(values, mtd, example):
    """The AnomalyModel in a dict of a checkpoint, checked.

    example: an image uint8 (S, S, C) of the size that the MTD takes. Raises ValueError, in one
    line, unless these are its three tensors, finite, and as many features as the MTD has.
    """
    if not isinstance(values, dict) or set(values) != set(NAMES):
        raise ValueError(f"anomaly has to hold {', '.join(NAMES)}")
    count = pooled_features(mtd, example[None], unturned).shape[1]
    shapes = {"mean": (count,), "precision": (count, count), "threshold": ()}
    for name, shape in shapes.items():
        tensor = values[name]
        if type(tensor) is not Tensor or tensor.dtype != torch.float32:
            raise ValueError(f"anomaly.{name} is not a tensor of float32")
        if tensor.shape != shape:
            raise ValueError(f"anomaly.{name} is {tuple(tensor.shape)}, not {shape}")
        if not tensor.isfinite().all():
            raise ValueError(f"anomaly.{name} is not finite")
    return AnomalyModel(**values)


# Inversion of G


class Inversion(NamedTuple):
    """Noise (N, latent_dim), G's images (N, C, S, S) of it, and their losses (N,) to the images."""

    noise: Tensor
    images: Tensor
    losses: Tensor


def inversion_loss(images, drawn, features, drawn_features, feature_weight):
    """(1 - w) * residual + w * feature loss of each image, (N,); both mean absolute differences.

    Schlegl et al. 2017, eq. 1, 4 and 5, means instead of sums; w is their lambda.
    """
    residual = (images - drawn).abs().mean((1, 2, 3))
    feature = (features - drawn_features).abs().mean((1, 2, 3))
    return (1 - feature_weight) * residual + feature_weight * feature


def invert(generator, mtd, pixels, *, steps=100, rate=0.1, feature_weight=0.1, seed=0):
    """The Inversion of images uint8 (N, S, S, C): the noise whose image is nearest, by Adam.

    A conditional generator is asked for the mixture of classes that the MTD sees in an image.
    """
    device = next(generator.parameters()).device
    images = to_images(torch.from_numpy(pixels).to(device))
    draws = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(images), generator.latent_dim, generator=draws).to(device)
    noise.requires_grad_(True)
    optimizer = torch.optim.Adam([noise], rate)
    labels = None
    with torch.no_grad():
        features = mtd.features(images)
        if generator.num_classes:
            labels = mtd.probabilities(images)

    def losses_of(drawn):
        drawn_features = mtd.features(drawn)
        return inversion_loss(images, drawn, features, drawn_features, feature_weight)

    for _ in range(steps):
        loss = losses_of(generator(noise, labels)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = generator(noise, labels)
        return Inversion(noise.detach(), drawn, losses_of(drawn))


def inversion_losses(generator, mtd, pixels, **settings):
    """The losses (N,) of invert as numpy, in batches: AnoGAN's score."""
    losses = []
    for start in range(0, len(pixels), BATCH):
        part = pixels[start : start + BATCH]
        losses.append(invert(generator, mtd, part, **settings).losses.cpu())
    return torch.cat(losses).double().numpy()


def sharpness(pixels):
    """Mean absolute difference (N,) of neighbouring pixels of images uint8, range [0, 2].

    It has one grey level more, so that it can be divided by for images of one colour.
    """
    values = np.asarray(pixels, np.float32)
    across = np.abs(np.diff(values, axis=2)).mean((1, 2, 3))
    down = np.abs(np.diff(values, axis=1)).mean((1, 2, 3))
    return ((across + down) / 2 + 1) / 127.5


def inversion_scores(generator, mtd, pixels, **settings):
    """inversion_losses (N,) relative to the sharpness of the images."""
    return inversion_losses(generator, mtd, pixels, **settings) / sharpness(pixels)


def combined(scores_by_method, val_scores_by_method):
    """The mean (N,) of several scores, each first in standard units of the validation cells.

    Both are lists of positive arrays, in the same order; units are of the logarithms.
    """
    standardised = []
    for values, val_values in zip(scores_by_method, val_scores_by_method, strict=True):
        logs = np.log(val_values)
        standardised.append((np.log(values) - logs.mean()) / logs.std())
    return np.mean(standardised, axis=0)
