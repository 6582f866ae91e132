"""Whether heat maps point at the parasite, and whether the answer hangs on what they mark.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.heatmaps --demo                    the maps against known parasites
    python -m benchmarks.heatmaps --data_path DIR --weights saved_models/mtd.pt
    python -m benchmarks.heatmaps [--demo] --summary        the tables of what is done
    python -m benchmarks.heatmaps [--demo] --smoke          a little of everything

Maps of every method (Grad-CAM, HiResCAM, LayerCAM) at every layer (4x4, 8x8, 16x16), of the image
as it lies or the mean over its eight exact turns; and the product of a method's maps at 4x4 and
16x16, as the script's finer map is one.

--demo: DCGANs and MTDs on them are trained on the demo set, 12 epochs each as the script does it,
for every seed and image size, with J(D) at every step (the demo's default) and at every sixteenth
(that of other data). The maps are of the logit of a cell's class, on the cells of val and test.
Pointing game (Zhang et al. 2016, sec. 4): the share of cells whose hottest pixel is on the
parasite, or up to a 32nd of the side beside it. Energy (Wang et al. 2020, Score-CAM): the share of
a map's sum that is on the parasite. Chance of both: the share of pixels that would count. Cells are
in the middle of their images, so there is also a map that is hottest there, the same for all.
Density: mean heat on the parasite over that beside it, which can be large where energy cannot reach
twice its chance because the parasite fills half of the image. A power of a map has another energy,
so there is also the area under the ROC curve of its pixels, which only their order decides.

Without --demo: deletion and insertion (Petsiuk et al. 2018, sec. 3.3) on the test cells. A cell's
pixels are replaced by those of its blurred image, hottest first, 32 steps; or put into the blurred
image. Curves are of the probability of the answer; the area is low for deletion and high for
insertion if the map marks what the answer hangs on. Beside the maps: random ones, bilinear from
4x4, 8x8 or 16x16 random numbers or one for each pixel, means of five; the one that is hottest in
the middle; and each map laid on five other cells.
"""

import dataclasses
import functools
import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torchvision.transforms.functional import gaussian_blur

import rollNumber_05 as malaria
from benchmarks.classifier_scores import resample
from benchmarks.runs import (
    append_run,
    finished_runs,
    hardware,
    hardware_line,
    make_parser,
    mean_and_range,
    output,
    paragraph,
    read_runs,
    text_of,
)
from extras import cam_methods
from extras.crops import crop_cell

LAYERS = ("4x4", "8x8", "16x16")  # by level: how many convolutions before the last one
METHODS = {"grad": malaria.gradcam_evidence, **cam_methods.METHODS}
PRODUCT = "4x4 * 16x16"
CENTRE = "centre"
DRAWS_OF_RANDOM = 5
STEPS = 32  # of a deletion or an insertion
DIGITS = 4  # of the numbers in the files


def centre_maps(images):
    """Maps (N, S, S) that fall evenly from 1 in the middle to 0 in the corners."""
    count, _, size, _ = images.shape
    line = torch.linspace(-1, 1, size, device=images.device)
    distance = torch.hypot(line[:, None], line[None]) / 2**0.5
    return (1 - distance).expand(count, size, size)


class MapKind(NamedTuple):
    """A way to make heat maps: layer, a key of METHODS, over how many views.

    Instead of a layer: PRODUCT, or CENTRE, which needs no method and no network.
    """

    layer: str
    method: str
    views: int

    def __str__(self):
        return f"{self.layer} {self.method}, views {self.views}"

    def maps(self, network, images, score):
        """Heat maps (N, S, S) in [0, 1]."""
        if self.layer == CENTRE:
            return centre_maps(images)
        evidence = METHODS[self.method]
        if self.layer == PRODUCT:
            return malaria.finer_maps(network, images, score, evidence, self.views).maps
        layer = network.feature_layer(LAYERS.index(self.layer))
        with malaria.GradCAM(network, layer, evidence) as cam:
            raw = cam_methods.mean_over_turns(cam, images, score, self.views)
        return malaria.heat_maps(raw, images.shape[-1]).maps


DRAWN = {  # in the script's galleries
    "Grad-CAM": MapKind("4x4", "grad", 1),
    "finer": MapKind(PRODUCT, "layer", malaria.EXACT_TURNS),
}
MIDDLE = MapKind(CENTRE, "none", 1)
RANDOM = "random 16x16"  # what the maps are held against: as fine as the finest of them


def map_kinds(flags):
    """Every MapKind of a network, the assigned one first; of a smoke run those that are drawn."""
    if flags.smoke:
        return list(DRAWN.values())
    views = (1, malaria.EXACT_TURNS)
    layers = (*LAYERS, PRODUCT)
    return list(itertools.starmap(MapKind, itertools.product(layers, METHODS, views)))


def rounded(values):
    """A list of numbers as they are written."""
    return np.round(np.asarray(values, float), DIGITS).tolist()


# Against known parasites

CHANCES = {"hit": "hit_chance", "energy": "energy_chance"}
WORDS = {
    "hit": "Pointing game: share of the cells",
    "energy over chance": "Energy on the parasite over its chance",
    "density": "Heat of a pixel on the parasite over that of one beside it",
    "auc": "Area under the ROC curve of the pixels",
}


class Training(NamedTuple):
    """A DCGAN and an MTD on it that are scored: side of the images, seed, steps for each J(D)."""

    image_size: int
    seed: int
    adversarial_every: int


def demo_config(flags, runs, training):
    """The Config of a Training, whose results are in a folder of its own."""
    shape = {}
    if flags.smoke:
        shape = {"epochs": 1, "min_steps": 2, "g_width": 16, "d_width": 16}
    return malaria.Config(
        image_size=training.image_size,
        seed=training.seed,
        device=flags.device,
        measure_every=1000,  # the generated cells are not looked at
        resume="auto",
        results_dir=str(runs / f"{training.image_size}_{training.seed}"),
        **shape,
    )


def trained_mtd(flags, runs, training, data):
    """The best MTD of a Training, which is done or gone on with if need be."""
    config = demo_config(flags, runs, training)
    malaria.train("gan", config, data)
    dcgan = malaria.last_checkpoint(config, "gan")
    every = training.adversarial_every
    folder = config.results_dir if every == 1 else f"{config.results_dir}_every{every}"
    config = dataclasses.replace(
        config, weights=str(dcgan), adversarial_every=every, results_dir=folder
    )
    malaria.train("mtd", config, data)
    best = malaria.last_checkpoint(config, "mtd").with_name("best.pt")
    return malaria.load_checkpoint(best, "mtd", data.device).discriminator


def parasite_masks(folder, data):
    """Where the parasite of each cell of the demo set in `folder` is: bool (N, S, S)."""
    with np.load(folder / "masks.npz") as file:
        fields = dict(file)
    size = data.images.shape[1]
    masks = []
    for row in data.rows:
        field = fields[Path(data.index.sources[row]).stem].astype(np.uint8) * 255
        crop = crop_cell(field[:, :, None], data.index.boxes[row], size)
        masks.append(crop[:, :, 0] > 127)
    return np.stack(masks)


def widened(masks):
    """Masks (N, S, S) with what is up to a 32nd of the side beside them."""
    reach = masks.shape[1] // 32
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return np.stack([cv2.dilate(mask.astype(np.uint8), square) > 0 for mask in masks])


def cell_scores(maps, masks):
    """A DataFrame with a row a cell: hit, energy, their chances, and auc.

    maps: (N, S, S) in [0, 1]; masks: bool (N, S, S) of the parasites.
    """
    from sklearn.metrics import roc_auc_score

    near = widened(masks).reshape(len(maps), -1)
    inside = masks.reshape(len(maps), -1)
    heat = maps.reshape(len(maps), -1)
    total = heat.sum(1)
    aucs = [roc_auc_score(*pixels) for pixels in zip(inside, heat, strict=True)]
    return pd.DataFrame(
        {
            "hit": near[np.arange(len(maps)), heat.argmax(1)],
            "hit_chance": near.mean(1),
            "energy": (heat * inside).sum(1) / np.where(total > 0, total, 1),
            "energy_chance": inside.mean(1),
            "auc": aucs,
        }
    )


def class_scores(maps, masks, labels, classes):
    """{class: {"n", "hit", "energy", "density", "auc", and the chances}}: means over its cells."""
    scores = cell_scores(maps, masks)
    found = {}
    for number, name in enumerate(classes):
        of_class = scores[labels == number]
        means = of_class.mean()
        ratio = means["energy"] / means["energy_chance"]
        ratio_beside = (1 - means["energy"]) / (1 - means["energy_chance"])
        means["density"] = ratio / max(ratio_beside, 1e-4)
        found[name] = {"n": len(of_class)} | dict(zip(means.index, rounded(means), strict=True))
    return found


def score_training(flags, runs, training, kinds):
    """Yield a line for each of some kinds of map of a Training."""
    device = malaria.pick_device(flags.device)
    reading = malaria.Config(image_size=training.image_size, results_dir=str(runs / "data"))
    data = malaria.load_data(reading, device)
    mtd = trained_mtd(flags, runs, training, data)
    unseen = data.split("val", "test")
    masks = parasite_masks(runs / "data" / "demo_data", unseen)
    images = unseen.__getitems__(range(len(unseen))).images
    labels = unseen.labels.cpu().numpy()
    for kind in kinds:
        maps = kind.maps(mtd, images, malaria.class_score(unseen.labels)).cpu().numpy()
        line = training._asdict() | kind._asdict()
        line["scores"] = class_scores(maps, masks, labels, unseen.classes)
        line["hardware"] = hardware(device)
        yield line


def score_trainings(flags, out):
    """A line of --out for each map of each Training that it lacks."""
    names = (*Training._fields, *MapKind._fields)
    done = set()
    for line in read_runs(out):
        done.add(tuple(line[name] for name in names))
    for about in itertools.product(flags.sizes, flags.seeds, flags.intervals):
        every_kind = [*map_kinds(flags), MIDDLE]
        kinds = [kind for kind in every_kind if (*about, *kind) not in done]
        if kinds:
            runs = out.parent / "heatmaps_runs"
            for line in score_training(flags, runs, Training(*about), kinds):
                append_run(out, line)


def one_row_a_class(runs):
    """The lines of a file as a DataFrame with a row for each class of each."""
    rows = []
    for line in runs.to_dict("records"):
        for name, scores in line["scores"].items():
            about = {key: line[key] for key in (*Training._fields, *MapKind._fields)}
            rows.append(about | {"class": name} | scores)
    rows = pd.DataFrame(rows)
    for name, chance in CHANCES.items():
        rows[f"{name} over chance"] = rows[name] / rows[chance]
    return rows


def worst_table(rows, score):
    """For every kind of map the lowest mean of each class over seeds and sizes."""
    by_kind = rows.groupby([*MapKind._fields, "class"], sort=False)[score].min()
    table = by_kind.unstack("class")[list(rows["class"].unique())].round(2)
    table.index = [str(MapKind(*kind)) for kind in table.index]
    return table


def drawn_table(rows, score):
    """A row for each map that is drawn, and the middle, image size and interval: over the seeds."""
    by_kind = dict(list(rows.groupby(list(MapKind._fields))))
    in_words = functools.partial(mean_and_range, digits=2)
    parts = {}
    for name, kind in (DRAWN | {CENTRE: MIDDLE}).items():
        by_training = by_kind[kind].groupby(["image_size", "adversarial_every"])
        for (size, interval), part in by_training:
            by_class = part.groupby("class", sort=False)[score]
            parts[f"{name}, {size} px, every {interval}"] = by_class.agg(in_words)
    return pd.DataFrame(parts).T


def chance_line(rows):
    """How many cells a class has, and its chances, in words."""
    parts = []
    for name, part in rows.groupby("class", sort=False):
        hit, energy = (part[chance].mean() for chance in CHANCES.values())
        parts.append(f"{name} {part['n'].iloc[0]} ({hit:.2f}, {energy:.2f})")
    return paragraph(f"Cells and chances (pointing, energy): {'; '.join(parts)}.")


def demo_summary(path):
    """The tables of a file of --demo as text."""
    runs = finished_runs(path)
    rows = one_row_a_class(runs)
    trainings = rows.groupby(["image_size", "adversarial_every"])["seed"].nunique()
    seeds = [f"{size} px, every {every}: {n}" for (size, every), n in trainings.items()]
    parts = [
        paragraph(
            "Demo set. Rows: the side of the images, and at every how many steps the MTD had J(D). "
            f"Seeds: {'; '.join(seeds)}. Mean (lowest-highest) over them."
        ),
        hardware_line(runs, "seed"),
        chance_line(rows),
    ]
    for score, words in WORDS.items():
        parts += ["", f"{words}.", text_of(drawn_table(rows, score))]
    default = rows[rows["adversarial_every"] == 1]
    for score in ("hit", "energy over chance"):
        line = f"{WORDS[score]}: all maps, J(D) at every step, the lowest of all seeds and sizes."
        parts += ["", paragraph(line), text_of(worst_table(default, score))]
    return "\n".join(parts)


# Deletion and insertion


class Question(NamedTuple):
    """What curves are about: an MTD, images (N, C, S, S) and blurred ones, the answers (N,)."""

    network: malaria.MultiTaskDiscriminator
    images: torch.Tensor
    blurred: torch.Tensor
    answers: torch.Tensor

    @torch.no_grad()
    def probability(self, images):
        """That of the answers, for other images: (N,)."""
        probabilities = self.network.probabilities(images)
        return probabilities.gather(1, self.answers[:, None])[:, 0]


class Curves(NamedTuple):
    """Probabilities of the answers after each step, (N, STEPS + 1): two curves for each cell."""

    deletion: torch.Tensor
    insertion: torch.Tensor

    def areas(self):
        """{"deletion", "insertion"}: the areas (N,) under the curves, from 0 to 1."""
        areas = {}
        for name, curve in self._asdict().items():
            areas[name] = torch.trapezoid(curve, dx=1 / STEPS, dim=1).cpu().numpy()
        return areas


def blur(images):
    """Images (N, C, S, S) under a Gaussian whose standard deviation is an eighth of the side."""
    sigma = images.shape[-1] // 8
    return gaussian_blur(images, 6 * sigma + 1, sigma)


@torch.no_grad()
def ask(network, images):
    """The Question about images as they lie, whose answers are the likeliest classes."""
    answers = network.probabilities(images).argmax(1)
    return Question(network, images, blur(images), answers)


def ranks(maps):
    """The place of each pixel of maps (N, S, S) from the hottest, 0, on: (N, 1, S, S).

    Equal ones, such as those without evidence, are in an order drawn by lot.
    """
    draws = torch.Generator().manual_seed(0)
    lots = torch.rand(maps.shape, generator=draws).to(maps.device).flatten(1)
    by_lot = lots.argsort(dim=1)
    heat = maps.flatten(1).gather(1, by_lot)
    order = by_lot.gather(1, heat.argsort(dim=1, descending=True, stable=True))
    return order.argsort(dim=1).view(maps.shape)[:, None]


def curves_of(question, maps):
    """The Curves of a Question, by maps (N, S, S)."""
    places = ranks(maps)
    pixels = maps[0].numel()
    deletion = []
    insertion = []
    for step in range(STEPS + 1):
        is_marked = places < pixels * step // STEPS
        deleted = torch.where(is_marked, question.blurred, question.images)
        inserted = torch.where(is_marked, question.images, question.blurred)
        deletion.append(question.probability(deleted))
        insertion.append(question.probability(inserted))
    return Curves(torch.stack(deletion, 1), torch.stack(insertion, 1))


def mean_curves(question, several):
    """The Curves of a Question, means over several sets of maps (N, S, S)."""
    curves = [curves_of(question, maps) for maps in several]
    return Curves(*(torch.stack(parts).mean(0) for parts in zip(*curves, strict=True)))


def random_maps(count, side, size, seed):
    """Heat maps (N, size, size) of random numbers (N, side, side), the same for the same seed."""
    draws = torch.Generator().manual_seed(seed)
    raw = torch.rand(count, side, side, generator=draws)
    return malaria.heat_maps(raw, size).maps


def on_other_cells(maps):
    """Each map laid on another cell, DRAWS_OF_RANDOM times: no cell has its own, none one twice."""
    step = max(1, len(maps) // (DRAWS_OF_RANDOM + 1))
    return [maps.roll(step * draw, 0) for draw in range(1, DRAWS_OF_RANDOM + 1)]


def blind_sets(question):
    """{name: sets of maps} that know nothing of a cell, which the others are held against."""
    count, _, _, size = question.images.shape
    sides = {f"random {layer}": int(layer.partition("x")[0]) for layer in LAYERS}
    sides["random pixels"] = size
    sets = {}
    for name, side in sides.items():
        draws = range(DRAWS_OF_RANDOM)
        maps = [random_maps(count, side, size, seed) for seed in draws]
        sets[name] = [of_draw.to(question.images.device) for of_draw in maps]
    sets[CENTRE] = [centre_maps(question.images)]
    return sets


def record_of(curves):
    """What is written of Curves: the area for each cell, and the mean curves."""
    means = {name: rounded(curve.mean(0).cpu()) for name, curve in curves._asdict().items()}
    areas = {name: rounded(area) for name, area in curves.areas().items()}
    return {"areas": areas, "curves": means}


def test_cells(flags, out):
    """The MTD of --weights and the test cells of --data_path. Raises UsageError."""
    checkpoint = malaria.load_checkpoint(flags.weights, "mtd", malaria.pick_device(flags.device))
    made_with = checkpoint.state["config"]
    reading = {name: made_with[name] for name in malaria.flags_that_read_data()}
    reading["classes"] = ",".join(checkpoint.state["classes"])
    config = malaria.Config(data_path=flags.data_path, results_dir=str(out.parent), **reading)
    data = malaria.load_data(config, malaria.pick_device(flags.device))
    test = data.split("test")
    if not len(test):
        raise malaria.UsageError(f"--data_path {flags.data_path}: no cell in the test split")
    return checkpoint.discriminator, test


def measure_faithfulness(flags, out):
    """A line of --out for each kind of map that it lacks, and for each random one."""
    network, test = test_cells(flags, out)
    if flags.smoke:
        test = test.split("test", limit=8)
    question = ask(network, test.__getitems__(range(len(test))).images)
    score = malaria.class_score(question.answers)
    about = {
        "n": len(test),
        "weights": hashlib.sha1(flags.weights.read_bytes()).hexdigest(),
        "answers": question.answers.tolist(),
        "answers_blurred": ask(network, question.blurred).answers.tolist(),
        "classes": test.classes,
        "hardware": hardware(test.device),
    }
    done = {line["map"]: line for line in read_runs(out)}
    for line in done.values():
        if line["weights"] != about["weights"] or line["n"] != about["n"]:
            raise malaria.UsageError(f"{out}: has results of other weights; give another --out")
    for name, sets in blind_sets(question).items():
        if name not in done:
            append_run(out, {"map": name} | about | record_of(mean_curves(question, sets)))
    for kind in map_kinds(flags):
        name = str(kind)
        if name not in done:
            maps = kind.maps(network, question.images, score)
            line = {"map": name} | about | record_of(curves_of(question, maps))
            line["on_other_cells"] = record_of(mean_curves(question, on_other_cells(maps)))
            append_run(out, line)


def with_interval(values, sign=""):
    """The mean of numbers (N,) in words, with its 95 % bootstrap interval; sign "+": always one."""
    (draws,) = resample([np.asarray(values)])
    low, high = np.percentile(draws.mean(1), (2.5, 97.5))
    return f"{np.mean(values):{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def area_table(runs):
    """A row a map: the areas under its curves."""
    rows = {}
    for run in runs.to_dict("records"):
        rows[run["map"]] = {name: with_interval(areas) for name, areas in run["areas"].items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def areas_less(areas, others, cells):
    """{curve: the mean of its areas less others, in words} of the cells where bool (N,) is true."""
    row = {}
    for name, values in areas.items():
        difference = np.subtract(values, others[name])[cells]
        row[name] = with_interval(difference, "+")
    return row


def less_table(runs, other, cells):
    """A row a map: its areas less those of another one."""
    areas = dict(zip(runs["map"], runs["areas"], strict=True))
    others = areas.pop(other)
    rows = {name: areas_less(values, others, cells) for name, values in areas.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def less_others_table(runs, cells):
    """A row a map that is not a random one: its areas less those of the same on other cells."""
    rows = {}
    for run in runs.dropna(subset="on_other_cells").to_dict("records"):
        others = run["on_other_cells"]["areas"]
        rows[run["map"]] = areas_less(run["areas"], others, cells)
    return pd.DataFrame.from_dict(rows, orient="index")


def faithfulness_summary(path):
    """The tables of a file of deletion and insertion as text."""
    runs = finished_runs(path)
    first = runs.iloc[0]
    every_cell = np.ones(first["n"], bool)
    is_changed = np.not_equal(first["answers"], first["answers_blurred"])
    parts = [
        paragraph(
            f"Areas under the deletion (lower is better) and insertion curves (higher is better) "
            f"of {first['n']} test cells, with 95 % bootstrap intervals over the cells."
        ),
        hardware_line(runs, "map"),
        text_of(area_table(runs)),
        "",
        f"Less the areas of {RANDOM}.",
        text_of(less_table(runs, RANDOM, every_cell)),
        "",
        "Less the areas of the map that is hottest in the middle.",
        text_of(less_table(runs, CENTRE, every_cell)),
        "",
        "Less the areas of the same maps laid on other cells.",
        text_of(less_others_table(runs, every_cell)),
    ]
    if is_changed.any():
        common, count = Counter(first["answers_blurred"]).most_common(1)[0]
        line = (
            f"Blurred, {count} of the cells are answered {first['classes'][common]}. Less the "
            f"areas of {RANDOM}, of the {is_changed.sum()} cells whose answer the blur changes."
        )
        parts += ["", paragraph(line), text_of(less_table(runs, RANDOM, is_changed))]
    return "\n".join(parts)


class Program(NamedTuple):
    """One of the two things that are measured: its file, what writes it, what sums it up."""

    file: str
    measure: Callable
    summary: Callable


DEMO = Program("heatmaps_demo.jsonl", score_trainings, demo_summary)
FAITHFULNESS = Program("heatmaps_faithfulness.jsonl", measure_faithfulness, faithfulness_summary)


def run(arguments):
    """Do what a command line says."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--demo", action="store_true", help="train on the demo set and score against its masks")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of --demo")
    add("--sizes", nargs="+", type=int, default=[32, 64], help="of --demo: sides of the images")
    add("--intervals", nargs="+", type=int, default=[1, 16], help="of --demo: steps for each J(D)")
    add("--weights", type=Path, default=Path("saved_models/mtd.pt"), help="checkpoint of an MTD")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.seeds = [0]
        flags.sizes = [32]
        flags.intervals = [1]
    program = DEMO if flags.demo else FAITHFULNESS
    with output(flags, program.file) as out:
        if not flags.summary:
            program.measure(flags, out)
        print(program.summary(out))


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
