"""How well an MTD notices images that are unlike its training cells.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.anomaly --data_path DIR --weights saved_models/mtd.pt [--digits MNIST_ROOT]
    python -m benchmarks.anomaly --summary      the tables of what is done
    python -m benchmarks.anomaly --smoke        an untrained MTD on the demo set

Staged cells of the test fields, against, from the same fields: red blood cells, and the staged
cells blurred (standard deviation 2 and 4 pixels of 64) or shifted (a quarter and half of the
side, edges mirrored); and foreign images: MNIST's digits, noise, and images of one colour, the
first black. Methods, see extras/anomaly.py:

features     Mahalanobis distance in D's pooled second-last feature maps, mean of eight turns
one view     the same without turns
neighbours   mean distance of the same features to the 5 nearest training cells
AnoGAN       the loss of the nearest image of G after 100 steps
inversion    the same, relative to the sharpness of the image
both         features and inversion

The area under the ROC curve is 0.5 where the two cannot be told apart, and 1 where every such
image is more unlike than every cell. Its interval is the middle 95 % of 1000 bootstrap draws of
whole fields. "noticed" is the share above the threshold, which 5 % of the validation cells exceed.
--split val has the same for the validation fields, where methods are to be compared and chosen.
"""

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from sklearn.neighbors import NearestNeighbors

import rollNumber_05 as malaria
from benchmarks.runs import (
    append_run,
    finished_runs,
    hardware,
    hardware_line,
    make_parser,
    output,
    paragraph,
    read_runs,
    text_of,
)
from extras import anomaly
from extras.classes import STAGES

DRAWS = 1000  # of the bootstrap
NEIGHBOURS = 5
BOTH = ("features", "inversion")


class Group(NamedTuple):
    """Images uint8 (N, S, S, C) and the field (N,) of each."""

    pixels: np.ndarray
    fields: list[str]


def group_of(data, limit=None):
    """The Group of a MalariaDataset; spread evenly over it if it has more than `limit`."""
    step = 1
    if limit:
        step = -(-len(data) // limit)
    return Group(data.uint8()[::step], data.sources()[::step])


def foreign(pixels):
    """A Group of images each of which stands for itself."""
    return Group(pixels, [f"image {number}" for number in range(len(pixels))])


# Images that are unlike the cells


def blurred(cells, share):
    """The cells under a Gaussian of `share` of their side."""
    side = cells.pixels.shape[1]
    images = [cv2.GaussianBlur(image, (0, 0), share * side) for image in cells.pixels]
    return cells._replace(pixels=np.stack(images).reshape(cells.pixels.shape))


def shifted(cells, share):
    """The cells moved to the left by `share` of their side; what is missing is mirrored."""
    side = cells.pixels.shape[1]
    width = round(share * side)
    missing = ((0, 0), (0, 0), (0, width), (0, 0))
    return cells._replace(pixels=np.pad(cells.pixels, missing, "symmetric")[:, :, width:])


def noise_like(cells):
    """Images of evenly distributed noise, as many as there are cells."""
    rng = np.random.default_rng(0)
    return foreign(rng.integers(0, 256, cells.pixels.shape, dtype=np.uint8))


def one_colour_like(cells):
    """Images of one colour, as many as there are cells; the first is black."""
    rng = np.random.default_rng(0)
    number, *_, channels = cells.pixels.shape
    colours = rng.integers(0, 256, (number, 1, 1, channels), dtype=np.uint8)
    colours[0] = 0
    return foreign(np.broadcast_to(colours, cells.pixels.shape).copy())


def red_blood_cells(config, data, split, limit):
    """The Group of red blood cells in the fields of a split, or None if none is annotated.

    The split of a field is that of its staged cells.
    """
    of_red_cells = dataclasses.replace(config, classes="red blood cell")
    try:
        red_cells = malaria.load_data(of_red_cells, data.device, some_may_be_missing=True)
    except malaria.UsageError:
        return None
    fields = set(data.split(split).sources())
    rows = [row for row, source in enumerate(red_cells.index.sources) if source in fields]
    if not rows:
        return None
    of_split = malaria.MalariaDataset(red_cells.images, red_cells.index, rows, data.device)
    return group_of(of_split, limit)


def digits(root, config, limit):
    """The Group of MNIST's test digits in a torchvision root."""
    from extras.image_sets import read_image_set

    images = read_image_set("mnist", root, config.image_size, config.channels)
    of_test = np.array(images.splits) == "test"
    return foreign(images.images[of_test][:limit])


def unlike_groups(flags, config, data, cells):
    """{kind: Group} of what is to be noticed."""
    groups = {}
    red_cells = red_blood_cells(config, data, flags.split, flags.limit)
    if red_cells:
        groups["red blood cells"] = red_cells
    groups["blurred, 1/32"] = blurred(cells, 1 / 32)
    groups["blurred, 1/16"] = blurred(cells, 1 / 16)
    groups["shifted, 1/4"] = shifted(cells, 1 / 4)
    groups["shifted, 1/2"] = shifted(cells, 1 / 2)
    if flags.digits:
        groups["digits"] = digits(flags.digits, config, flags.limit)
    groups["noise"] = noise_like(cells)
    groups["one colour"] = one_colour_like(cells)
    return groups


# Methods


class Methods:
    """The scores of all methods, fitted to the training cells of a checkpoint."""

    def __init__(self, checkpoint, train_cells, val_cells, steps):
        self.generator = checkpoint.generator
        self.mtd = checkpoint.discriminator
        self.steps = steps
        self.model = anomaly.fit(self.mtd, train_cells, val_cells)
        self.one_view = anomaly.fit(self.mtd, train_cells, val_cells, anomaly.unturned)
        features = anomaly.pooled_features(self.mtd, train_cells)
        self.scale = features.std(0) + 1e-6
        self.nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(features / self.scale)
        self.val_scores = self.single_scores(val_cells)
        self.thresholds = {}
        for name, values in self.with_both(self.val_scores).items():
            self.thresholds[name] = np.quantile(values, anomaly.QUANTILE)

    def neighbour_distances(self, pixels):
        """Mean distances (N,) to the nearest training cells, features in standard units."""
        features = anomaly.pooled_features(self.mtd, pixels)
        distances, _ = self.nearest.kneighbors(features / self.scale)
        return distances.mean(1)

    def single_scores(self, pixels):
        """{method: scores (N,)} of images, without "both"."""
        losses = anomaly.inversion_losses(self.generator, self.mtd, pixels, steps=self.steps)
        return {
            "features": anomaly.scores(self.mtd, pixels, self.model),
            "one view": anomaly.scores(self.mtd, pixels, self.one_view, anomaly.unturned),
            "neighbours": self.neighbour_distances(pixels),
            "AnoGAN": losses,
            "inversion": losses / anomaly.sharpness(pixels),
        }

    def with_both(self, scores):
        """The same scores, and "both" of them."""
        pair = [scores[name] for name in BOTH]
        val_pair = [self.val_scores[name] for name in BOTH]
        return {**scores, "both": anomaly.combined(pair, val_pair)}

    def scores(self, pixels):
        """{method: scores (N,)} of images."""
        return self.with_both(self.single_scores(pixels))


# The area under the ROC curve


def area(of_cells, of_unlike):
    """The area under the ROC curve: the share of pairs in the right order, half for equal ones."""
    differences = of_unlike[:, None] - of_cells
    return (np.sign(differences).mean() + 1) / 2


def rows_by_field(fields):
    """[row numbers of each field], in the order of their names."""
    names = np.array(fields)
    return [np.flatnonzero(names == name) for name in np.unique(names)]


def resampled(rows, rng):
    """Row numbers of as many fields as there are, drawn with replacement."""
    chosen = rng.integers(len(rows), size=len(rows))
    return np.concatenate([rows[number] for number in chosen])


def interval(cells, unlike, of_cells, of_unlike):
    """The middle 95 % (low, high) of bootstrap areas of two Groups with their scores."""
    rows_of_cells = rows_by_field(cells.fields)
    rows_of_unlike = rows_by_field(unlike.fields)
    areas = []
    for draw in range(DRAWS):
        # The same draws for both: where they are of the same fields, they keep together.
        chosen = resampled(rows_of_cells, np.random.default_rng(draw))
        chosen_unlike = resampled(rows_of_unlike, np.random.default_rng(draw))
        areas.append(area(of_cells[chosen], of_unlike[chosen_unlike]))
    return np.quantile(areas, [0.025, 0.975]).tolist()


def measure(methods, cells, groups):
    """Yield a record for each method and kind; the kind "cells" has the false alarms."""
    scores_of_cells = methods.scores(cells.pixels)
    for method, values in scores_of_cells.items():
        noticed = (values > methods.thresholds[method]).mean()
        yield {"method": method, "kind": "cells", "n": len(values), "noticed": float(noticed)}
    for kind, group in groups.items():
        for method, values in methods.scores(group.pixels).items():
            of_cells = scores_of_cells[method]
            low, high = interval(cells, group, of_cells, values)
            yield {
                "method": method,
                "kind": kind,
                "n": len(values),
                "noticed": float((values > methods.thresholds[method]).mean()),
                "area": float(area(of_cells, values)),
                "low": low,
                "high": high,
            }


# The command line


def untrained(config, classes):
    """The Checkpoint of a smoke run."""
    generator, mtd = malaria.build_networks("mtd", vars(config), len(classes))
    state = {"config": vars(config), "classes": classes, "trained_on": []}
    return malaria.Checkpoint(generator.eval(), mtd.eval(), state)


def config_of(flags, checkpoint):
    """The Config that reads cells as they were read for a checkpoint's training."""
    made_with = checkpoint.state["config"]
    settings = {name: made_with[name] for name in malaria.flags_that_read_data()}
    settings["classes"] = ",".join(checkpoint.state["classes"])
    return malaria.Config(**settings, data_path=flags.data_path, results_dir=str(flags.out.parent))


def check_out(flags):
    """Raise UsageError if --out has results of this split already."""
    splits = {record["split"] for record in read_runs(flags.out)}
    if flags.split in splits:
        raise malaria.UsageError(
            f"--out {flags.out}: has results of --split {flags.split}; give another"
        )


def do_runs(flags):
    """Write a record of every method and kind into --out."""
    check_out(flags)
    device = malaria.pick_device(flags.device)
    if flags.smoke:
        checkpoint = untrained(malaria.Config(image_size=32), list(STAGES))
        fingerprint = ""
    else:
        checkpoint = malaria.load_checkpoint(flags.weights, "mtd", device)
        fingerprint = hashlib.sha1(flags.weights.read_bytes()).hexdigest()
    config = config_of(flags, checkpoint)
    data = malaria.load_data(config, device)
    malaria.warn_of_trained_on(flags.weights, set(checkpoint.state["trained_on"]), data)
    cells = group_of(data.split(flags.split), flags.limit)
    train_cells = data.split("train", limit=2000).uint8()
    val_cells = data.split("val", limit=flags.limit).uint8()
    methods = Methods(checkpoint, train_cells, val_cells, flags.steps)
    about = {"split": flags.split, "weights": fingerprint, "steps": flags.steps}
    about["hardware"] = hardware(device)
    for record in measure(methods, cells, unlike_groups(flags, config, data, cells)):
        append_run(flags.out, about | record)


def area_in_words(run):
    """'0.93 (0.88-0.97)'; nothing for the cells themselves."""
    if np.isnan(run["area"]):
        return ""
    return f"{run['area']:.2f} ({run['low']:.2f}-{run['high']:.2f})"


def split_tables(runs):
    """The two tables of a split as text."""
    runs = runs.assign(words=runs.apply(area_in_words, axis=1))
    runs["noticed"] = runs["noticed"].map("{:.2f}".format)
    counts = runs.groupby("kind", sort=False)["n"].first()
    kinds = {kind: f"{kind}, n {n}" for kind, n in counts.items()}
    texts = []
    for column in ("words", "noticed"):
        table = runs.pivot(index="kind", columns="method", values=column)
        table = table.loc[list(kinds), runs["method"].unique()].rename(index=kinds)
        if column == "words":
            table = table.drop(index=kinds["cells"])
        texts.append(text_of(table))
    areas, noticed = texts
    return ["Area under the ROC curve (interval):", areas, "", "Noticed:", noticed]


def summary(path):
    """The tables of a file of runs as text."""
    runs = finished_runs(path)
    parts = []
    for split, of_split in runs.groupby("split", sort=False):
        heading = f"Staged cells of the {split} fields against what is unlike the training cells."
        parts += [paragraph(heading), *split_tables(of_split), ""]
    parts.append(hardware_line(runs, "split"))
    return "\n".join(parts)


def run(arguments):
    """Do what a command line says."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--weights", type=Path, default=Path("saved_models/mtd.pt"), help="default: %(default)s")
    add("--digits", help="a torchvision root with MNIST; default: no digits")
    add("--split", default="test", choices=("val", "test"), help="default: %(default)s")
    add("--limit", type=int, default=100, help="images of a kind, at most (default: %(default)s)")
    add("--steps", type=int, default=100, help="of the inversion (default: %(default)s)")
    flags = parser.parse_args(arguments)
    with output(flags, "anomaly.jsonl") as out:
        flags.out = out
        if flags.smoke:
            flags.limit = 8
            flags.steps = 2
        if not flags.summary:
            do_runs(flags)
        print(summary(out))


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
