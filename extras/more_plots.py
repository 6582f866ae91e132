"""Pictures beyond those that the assignment asks for."""

import contextlib
import math
from pathlib import Path

import numpy as np
from PIL import Image

from extras.drawing import (
    COLOURS,
    Picture,
    draw_trace,
    figure,
    gallery,
    grid,
    realness_limits,
    realness_scale,
    save_animation,
    write_image,
)
from extras.files import save_table, save_text
from extras.paths import SPLITS
from extras.text import text_table


def plot_cells(path, data, per_class=4):
    """A few crops of every split and class, evenly spread, with the files they are from."""
    pictures = []
    for split in SPLITS:
        part = data.split(split)
        hot = part.multi_hot().cpu()
        for i, name in enumerate(data.classes):
            rows = hot[:, i].nonzero()[:, 0]
            rows = rows[:: max(1, math.ceil(len(rows) / per_class))]
            sources = part.sources()
            for row, image in zip(rows.tolist(), part.uint8(rows), strict=True):
                file = Path(sources[row]).name
                pictures.append(Picture(image, f"{split}, {name}\n{file[-24:]}"))
    gallery(path, "crops of every split and class: is each what its label says?", pictures)


def write_data_sheet(folder, data):
    """cells.png, crops to look at, and skipped.csv, the files that are not used and why."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_cells(folder / "cells.png", data)
    rows = [["file", "reason"], *data.index.problems]
    save_table(rows, folder / "skipped.csv")


def plot_nearest(path, neighbours):
    """Generated images, each beside the training cell that is nearest to it.

    neighbours: Neighbours (extras/quality.py).
    """
    title = (
        "generated cells, turned, each beside its nearest training cell; "
        "1 is the usual distance of a training cell to its nearest other"
    )
    pictures = []
    for distance, image, cell in zip(*neighbours, strict=True):
        pictures.append(Picture(image, "generated"))
        pictures.append(Picture(cell, f"nearest real\n{distance:.2f} of usual"))
    gallery(path, title, pictures)


def write_halves(path, real, images):
    """32 images of a dataset on the left, as many generated ones (N, S, S, C) on the right."""
    chosen = np.random.default_rng(0).choice(len(real), 32, replace=len(real) < 32)
    halves = [grid(real.uint8(chosen), columns=4), grid(images, columns=4)]
    write_image(path, np.hstack(halves), "left: real (train), right: generated")


def plot_tsne(path, features, names):
    """t-SNE (van der Maaten and Hinton 2008) of features (N, n), coloured by N names of classes."""
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(features) - 1) / 3)
    places = TSNE(perplexity=perplexity, random_state=0, init="pca").fit_transform(features)
    names = np.array(names)
    with figure(path, size=(6.5, 5.5)) as (_, axes):
        axis = axes[0, 0]
        for name in sorted(set(names)):
            is_of_class = names == name
            axis.scatter(*places[is_of_class].T, s=16, label=f"{name} ({is_of_class.sum()})")
        title = f"t-SNE of the penultimate features, {len(names)} images (val, test)"
        axis.set(title=title, xlabel="axis 1", ylabel="axis 2")
        axis.legend()


def animate_samples(samples):
    """samples.gif beside the folder of samples: up to 60 of them, in 12 seconds."""
    files = sorted(samples.glob("*.png"))
    if not files:
        return
    frames = []
    for file in files[:: math.ceil(len(files) / 60)]:
        with contextlib.suppress(OSError):  # cut off by a kill
            frames.append(Image.open(file).quantize(128))
    save_animation(frames, samples.with_suffix(".gif"), 12_000 // max(12, len(frames)))


def plot_scores(folder, scores):
    """per_class.txt and, for one class an image, confusion_matrix.png of {split: scores}."""
    columns = ("precision", "recall", "f1")
    rows = [["split", "class", *columns, "support"]]
    for split, found in scores.items():
        for name, values in found["per_class"].items():
            numbers = [f"{values[column]:.3f}" for column in columns]
            rows.append([split, name, *numbers, values["support"]])
        accuracy = f"accuracy {found['accuracy']:.3f}"
        balanced = f"balanced {found['balanced_accuracy']:.3f}"
        rows.append([split, "all", accuracy, balanced, "", found["n"]])
    save_text(text_table(rows) + "\n", folder / "per_class.txt")
    if all(np.ndim(found["confusion_matrix"]) == 2 for found in scores.values()):
        plot_confusion(folder / "confusion_matrix.png", scores)


def plot_confusion(path, scores):
    """A confusion matrix for each of {split: scores}; returns the figure."""
    from sklearn.metrics import ConfusionMatrixDisplay

    size = (4.5 * len(scores), 4)
    with figure(path, 1, len(scores), size, dpi=150) as (sheet, axes):
        for axis, (split, found) in zip(axes[0], scores.items(), strict=True):
            matrix = np.array(found["confusion_matrix"])
            display = ConfusionMatrixDisplay(matrix, display_labels=found["classes"])
            display.plot(
                ax=axis, cmap="Blues", xticks_rotation=30, im_kw={"vmin": 0}, colorbar=False
            )
            title = f"{split}, n = {found['n']} (cells)"
            axis.set(title=title, xlabel="answer", ylabel="true class")
    return sheet


def plot_before_after(path, runs, adversarial_loss):
    """Samples and curves of a DCGAN and of it with the head, over iterations since that was added.

    runs: {title: (samples uint8 (N, S, S, C), StepMetrics of traces as numpy)} of both, in this
    order. adversarial_loss: theirs, of the script's LOSSES.
    """
    (_, before), (_, after) = runs.values()
    scale = realness_scale(adversarial_loss)
    axis_limits = realness_limits(adversarial_loss)
    panels = {  # name in StepMetrics: (title, limits of the axis)
        "loss_g": ("J(G)", None),
        "loss_d": ("J(D)", None),
        "d_real": (f"D(x): {scale}", axis_limits),
        "d_fake": (f"D(G(z)): {scale}", axis_limits),
    }
    with figure(path, 2, 3, size=(15, 9.5)) as (_, axes):
        for axis, (title, (images, _)) in zip(axes[0, :2], runs.items(), strict=True):
            axis.imshow(grid(images))
            axis.set(title=title, xticks=[], yticks=[])
        curve_axes = (axes[0, 2], *axes[1])
        for axis, (name, (title, limits)) in zip(curve_axes, panels.items(), strict=True):
            earlier = getattr(before, name)[-len(after.loss_g) :]
            draw_trace(axis, earlier, COLOURS[0], "DCGAN", start=-len(earlier))
            draw_trace(axis, getattr(after, name), COLOURS[1], "with the head")
            axis.set(xlabel="iterations since the head was added", ylabel=title, title=title)
            if limits:
                axis.set_ylim(limits)
