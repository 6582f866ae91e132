"""How well the MTD names cells beside other classifiers: cross-validation on the same cells, folds and draws, resumable.

    pip install -r benchmarks/requirements.txt
    python benchmarks/classifiers.py --data_path DIR --out results/classifiers.jsonl      all models, 5 folds, 3 seeds
    python benchmarks/classifiers.py --data_path DIR --models mtd head --seeds 0          some of it
    python benchmarks/classifiers.py --data_path DIR --time                               how long each takes, minutes
    python benchmarks/classifiers.py --out results/classifiers.jsonl --summary            only the tables of what is done
    python benchmarks/classifiers.py --smoke                                              every model, two steps each

mtd          the MTD as --task all trains it: 40 epochs of 100 steps of 32 (or of a pass if that is longer) on top of a DCGAN,
             real against fake at every sixteenth. The DCGAN is of the fold's training cells: 200 such epochs that are told
             no stage. Every seed and fold has its own, kept beside --out
head         the same classifier, first weights, batches, augmentation, optimiser, steps and their rate, without the
             adversarial task: just J(C)
conditional  mtd with --conditional, real against fake at every step
mtd_scratch, head_scratch     mtd and head from random weights: as --task mtd without --weights, with real against fake at
             every step, and without any
effnet       ImageNet EfficientNet-Lite0, all of it fine-tuned at 112x112: 1000 steps of 32, AdamW, 3e-4 for what is
             pretrained and 3e-3 for the new linear layer, weight decay 0.01, dropout 0.2, stochastic depth 0.2
probe        logistic regression on that network's pooled features, frozen, averaged over eight views and standardised;
             classes balanced, C = 0.01. It draws nothing, so all its seeds are alike
resnet18     torchvision's ResNet-18 from random weights at 64x64, 1000 steps of 32: AdamW, 1e-3, weight decay 0.05

The rates of effnet and resnet18 rise for 5 % of the steps, then fall to zero along a cosine; those of the script's networks
fall over the last fifth, as in the script. What is trained in steps has the script's class-balanced batches, augmentation
(effnet: of the enlarged image), label smoothing and averaged weights. All see the same 64x64 crops; effnet and probe get them
enlarged. An answer is the mean over 24 turns of the cell and its mirror image, as in the script; of effnet and probe it is the
mean over the eight of these that need no resampling: over all effnet was no better (README.txt).

A fold never cuts a block of 8 neighbouring fields in name order, for neighbours show the same cell. Nothing is chosen on
a held-out fold within a run: its length is fixed and the last averaged weights answer once. The recipes of effnet, probe and
resnet18 are common practice, not tuned on any of these cells. The script's dropout, augmentation and rates, the number of steps
and of views and the weight of J(C) were chosen on IML cells, partly on these very folds, which favours its networks there.

Each (model, seed, fold) is a line of --out; those that are there are not done again. One fold of every model comes before
the next fold, and all folds of a seed before the next seed. --time lets all models take a few steps in turn, several times,
and writes beside --out, to classifier_times.json, what a fold's training takes by the medians, in processor seconds: in turn,
because other work on the machine changes them.
"""
import argparse
import copy
import dataclasses
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import rollNumber_05 as s  # noqa: E402
from peers import append_run, read_runs  # noqa: E402

MODELS = ("mtd", "head", "conditional", "mtd_scratch", "head_scratch", "effnet", "probe", "resnet18")
ON_DCGAN = ("mtd", "head", "conditional")
COMPARED = [*((m, "effnet") for m in MODELS if m != "effnet"), ("mtd", "head"), ("conditional", "head"),
            ("conditional", "mtd"), ("mtd_scratch", "head_scratch"), ("mtd", "mtd_scratch"), ("head", "head_scratch")]
BLOCK, SIDE = 8, 112  # neighbouring fields that stay together; pixels that the pretrained network sees
BINS = 15  # of the calibration error
VIEWS, EXACT = len(list(s.views(torch.zeros(1, 1, 4, 4)))), 8  # all of the script's, those that need no resampling
PRETRAINED = "effnet", "probe"  # these see enlarged cells and answer over the exact views


def views_of(model):
    """How many of the script's views a model's answer is the mean over."""
    return EXACT if model in PRETRAINED else VIEWS


def folds_of(data, count):
    """[(training rows, held-out rows), ...], the same for every model and seed: whole blocks, classes spread evenly."""
    from sklearn.model_selection import StratifiedGroupKFold
    sources = [data.index["sources"][r] for r in data.rows]
    block = {field: i // BLOCK for i, field in enumerate(sorted(set(sources)))}
    if not 2 <= count <= (blocks := len(set(block.values()))):
        raise s.UsageError(f"--folds {count}: has to be from 2 to {blocks}, the number of blocks of {BLOCK} fields")
    cutter, rows = StratifiedGroupKFold(count, shuffle=True, random_state=0), np.array(data.rows)
    parts = cutter.split(rows, data.labels.cpu().numpy(), [block[field] for field in sources])
    return [tuple(rows[part].tolist() for part in fold) for fold in parts]


class Enlarged(s.MalariaDataset):
    """The same cells as images of SIDE pixels."""

    def batch(self, indices):
        images = F.interpolate(super().batch(indices), (SIDE, SIDE), mode="bilinear", align_corners=False)
        return images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


class Supervised(s.Trainer):
    """The MTD's classifier trained on J(C) alone; first weights, batches, optimiser and averaging are the Trainer's."""

    def __init__(self, config, data):
        super().__init__("mtd", config, data.classes, data.device)
        for parts in (self.nets, self.averages, self.optimizers):
            del parts["generator"]
        self.nets["discriminator"].real_fake.requires_grad_(False)

    def batches(self, data, steps):
        """The head's part."""
        return super().batches(data, steps)[:, -self.config.batch_size:]

    def update(self, real, labels, before=None):
        """One step; returns the script's five TRACES, of which only J(C) is not zero."""
        network, images = self.nets["discriminator"], s.augment(real, 1) if self.config.augment else real
        if isinstance(network, s.Discriminator):
            both = network
        else:  # classes are all it answers
            def both(images):
                return (logits := network(images)), logits
        with self.autocast():
            j_c = s.classifier_step(both, self.optimizers["discriminator"], images, labels, self.config.label_smoothing)
        return torch.stack([j_c if name == "loss_c" else torch.zeros_like(j_c) for name in s.TRACES])


class Scheduled(Supervised):
    """The same loop for another network, with AdamW; the rates rise for 5 % of the steps, then fall along a cosine.

    build(n) makes a network of n classes, rates gives {its submodule: the learning rate}.
    """

    def __init__(self, config, data, build, rates, weight_decay, steps):
        super().__init__(config, data)
        network = build(len(data.classes)).to(data.device, memory_format=torch.channels_last)
        groups = [{"params": list(part.parameters()), "lr": lr} for part, lr in rates(network).items()]
        optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
        self.nets["discriminator"], self.optimizers["discriminator"] = network, optimizer
        self.averages["discriminator"] = copy.deepcopy(network).eval().requires_grad_(False)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda t: min((t + 1) / (0.05 * steps + 1), (1 + math.cos(math.pi * t / steps)) / 2))

    def set_rates(self, done):
        """Nothing: the schedule sets the rates, at every step."""

    def update(self, *arguments):
        traces = super().update(*arguments)
        self.schedule.step()
        return traces


def pretrained():
    """The script's feature network without its classification layer."""
    network = s.feature_network()
    network._fc = nn.Identity()
    return network


class FineTuned(nn.Module):
    """The pretrained network with a new linear layer."""

    def __init__(self, num_classes):
        super().__init__()
        self.backbone, self.classify = pretrained(), nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, images):
        """images (B, 3, SIDE, SIDE) in [-1, 1] -> class logits (B, n)."""
        return self.classify(self.backbone.extract_features(images).mean((2, 3))).float()


def resnet18(num_classes):
    """torchvision's ResNet-18 with random weights."""
    from torchvision import models
    return models.resnet18(weights=None, num_classes=num_classes)


@torch.no_grad()
def mean_over_views(answer, data, count):
    """numpy (N, n): the mean of answer(images) over the first `count` of the script's views."""
    out = []
    for indices in torch.arange(len(data)).split(64):
        out.append(sum(map(answer, itertools.islice(s.views(data.batch(indices)), count))) / count)
    return torch.cat(out).cpu().numpy()


def length(model, flags, config, cells):
    """(epochs, steps an epoch) that a model trains on a number of cells."""
    if model == "probe":
        return 0, 0
    if flags.smoke:
        return 1, 2
    if model in ("effnet", "resnet18"):
        return 1, flags.peer_steps
    return flags.gan_epochs if model == "dcgan" else flags.epochs, max(config.min_steps, math.ceil(cells / config.batch_size))


def make_trainer(model, config, data, steps):
    """The Trainer of a model that is trained in steps."""
    if model == "effnet":  # on a CPU its depthwise convolutions are slower in bf16
        config = dataclasses.replace(config, precision="fp32")
        return Scheduled(config, data, FineTuned, lambda m: {m.backbone: 3e-4, m.classify: 3e-3}, 0.01, steps)
    if model == "resnet18":
        return Scheduled(config, data, resnet18, lambda m: {m: 1e-3}, 0.05, steps)
    if model in ("head", "head_scratch"):  # at the rate that its MTD has without the game
        return Supervised(dataclasses.replace(config, lr_d=config.lr_c) if model == "head" else config, data)
    if model == "dcgan":
        return s.Trainer("gan", config, data.classes, data.device)
    told = model == "conditional"
    config = dataclasses.replace(config, conditional=told, game_every=16 if model == "mtd" else 1)  # told: --time has no DCGAN
    return s.Trainer("mtd", config, data.classes, data.device)


def run_epochs(trainer, data, epochs, steps, after_epoch=lambda: None):
    """Train until there are `epochs` epochs."""
    while trainer.epoch < epochs:
        trainer.set_rates(trainer.epoch / epochs)
        trainer.train_epoch(data, steps, s.tqdm(disable=True))
        after_epoch()


def train_dcgan(config, data, epochs, steps, path):
    """Train the DCGAN under an MTD, its state in path after every epoch; goes on from what is there. Raises UsageError."""
    trainer = make_trainer("dcgan", dataclasses.replace(config, task="gan", epochs=epochs), data, epochs * steps)
    if path.exists():
        state = s.read_checkpoint(path, "gan")
        if state["config"] != vars(trainer.config):
            raise s.UsageError(f"{path}: made with other settings; delete it or give another --out")
        trainer.load(state)
    run_epochs(trainer, data, epochs, steps, lambda: s.write_checkpoint(trainer.state(), path))


def train_and_answer(model, config, train, held_out, epochs, steps, start=None):
    """(probabilities (N, n) of the held-out cells, trained parameters of what answers). start: the DCGAN's file."""
    trainer = make_trainer(model, config, train, epochs * steps)
    if start:
        trainer.start_from(start)
    run_epochs(trainer, train, epochs, steps)
    average = trainer.averages["discriminator"]
    if model in ("effnet", "resnet18"):
        probabilities = mean_over_views(lambda images: average(images).softmax(1), held_out, views_of(model))
    else:
        probabilities = s.predict(average, held_out, config.loss, turned=True)["probabilities"]
    return probabilities, sum(p.numel() for p in trainer.nets["discriminator"].parameters() if p.requires_grad)


def probe(train, held_out):
    """The same two of the logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    backbone = pretrained().eval().to(train.device)

    def features(data):
        return mean_over_views(lambda images: backbone.extract_features(images).mean((2, 3)), data, views_of("probe"))

    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000))
    fitted.fit(features(train), train.labels.cpu().numpy())
    probabilities = np.zeros((len(held_out), len(train.classes)))
    probabilities[:, fitted.classes_] = fitted.predict_proba(features(held_out))  # a rare class may lack in training
    return probabilities, fitted[-1].coef_.size + fitted[-1].intercept_.size


def known_runs(path):
    """{(model, seed, fold): record} of a results file."""
    return {(r["model"], r["seed"], r["fold"]): r for r in read_runs(path)}


def complete_seeds(runs, model):
    """The records of a model by fold, a list for each seed that has all the folds which any model has."""
    folds = {fold for _, _, fold in runs}
    mine = {seed: [r for (m, s, _), r in sorted(runs.items()) if (m, s) == (model, seed)] for _, seed, _ in runs}
    return [records for _, records in sorted(mine.items()) if len(records) == len(folds)]


def load(flags):
    """(config, all cells, their folds) of a command line."""
    config = s.Config(data_path="" if flags.smoke else flags.data_path, task="mtd", results_dir=str(flags.out.parent),
                      device=flags.device)
    data = s.load_data(config, s.pick_device(flags.device))
    if flags.smoke:
        data = s.MalariaDataset(data.images, data.index, data.rows[::6], data.device)
    return config, data, folds_of(data, flags.folds)


def cells_of(model, data, rows):
    """Some cells as a model sees them."""
    kind = Enlarged if model in PRETRAINED else s.MalariaDataset
    return kind(data.images, data.index, rows, data.device)


def do_runs(flags):
    """Do what of the models, seeds and folds --out lacks. Raises UsageError if what it has is of other cells or steps."""
    (config, data, folds), runs = load(flags), known_runs(flags.out)
    for seed, (fold, rows), model in itertools.product(flags.seeds, enumerate(folds), flags.models):
        train, held_out = (cells_of(model, data, r) for r in rows)
        epochs, steps = length(model, flags, config, len(train))
        record = {"model": model, "seed": seed, "fold": fold, "n": len(held_out), "steps": epochs * steps,
                  "classes": data.classes, "labels": held_out.labels.tolist(), "views": views_of(model)}
        if model in ON_DCGAN or model == "mtd_scratch":
            record["smooth"] = config.smooth
        if model in ("mtd", "head"):
            record["lr_c"] = config.lr_c
        if done := runs.get((model, seed, fold)):
            if any(done.get(k) != v for k, v in record.items()):
                raise s.UsageError(f"{flags.out}: {model} of fold {fold} has other cells, steps or settings; give another --out")
            continue
        mine = dataclasses.replace(config, seed=seed)
        start = flags.out.with_name(f"{flags.out.stem}_dcgan_{seed}_{fold}.pt") if model in ON_DCGAN else None
        if start:
            train_dcgan(mine, train, *length("dcgan", flags, config, len(train)), start)
        probabilities, parameters = probe(train, held_out) if model == "probe" else train_and_answer(
            model, mine, train, held_out, epochs, steps, start)
        append_run(flags.out, {**record, "parameters": parameters, "probabilities": [
            [round(float(p), 4) for p in row] for row in probabilities]})
        right = (probabilities.argmax(1) == held_out.labels.cpu().numpy()).sum()
        print(f"seed {seed} fold {fold} {model}: {right} of {len(held_out)} cells right", flush=True)


def time_models(flags):
    """Write {model: processor seconds of training the first fold} to classifier_times.json and print it; the probe in full.

    Those on a DCGAN are without it: it has a row of its own."""
    (config, data, folds), rounds = load(flags), 1 if flags.smoke else 5
    models = [*flags.models, *(["dcgan"] if set(ON_DCGAN) & set(flags.models) else [])]
    trains, seconds = {m: cells_of(m, data, folds[0][0]) for m in models}, {m: [] for m in models}
    totals = {m: math.prod(length(m, flags, config, len(train))) for m, train in trains.items()}
    trainers = {m: make_trainer(m, config, trains[m], totals[m]) for m in models if m != "probe"}
    some = {m: 1 if flags.smoke else 8 if isinstance(trainer, Scheduled) else 100 for m, trainer in trainers.items()}
    for _, model in itertools.product(range(rounds), trainers):
        start = time.process_time()
        trainers[model].train_epoch(trains[model], some[model], s.tqdm(disable=True))
        seconds[model].append((time.process_time() - start) * totals[model] / some[model])
    if "probe" in flags.models:
        start = time.process_time()
        probe(trains["probe"], trains["probe"])
        seconds["probe"].append(time.process_time() - start)
    found = {m: round(statistics.median(v), 2) for m, v in seconds.items()}
    Path(flags.out.parent, "classifier_times.json").write_text(json.dumps(found, indent=1))
    print(s.text_table([["model", "processor seconds a fold", "over effnet"], *(
        [m, f"{v:.0f}", f"{v / found['effnet']:.3f}" if "effnet" in found else ""] for m, v in found.items())]))


def scores(records):
    """{name: number} of the pooled answers of some folds: accuracies, each class's recall, calibration error (BINS bins)."""
    from torchmetrics.classification import MulticlassCalibrationError
    classes = records[0]["classes"]
    labels, probabilities = (np.concatenate([r[k] for r in records]) for k in ("labels", "probabilities"))
    found = s.classification_scores(labels, probabilities, classes)
    error = MulticlassCalibrationError(len(classes), n_bins=BINS)(torch.from_numpy(probabilities), torch.from_numpy(labels))
    return {"accuracy": found["accuracy"], "balanced": found["balanced_accuracy"], "calibration error": error.item(),
            **{f"recall {c}": found["per_class"][c]["recall"] for c in classes}}


def drawn_anew(groups, draws=2000):
    """[(draws, n) for each array (n,)]: its values drawn anew with replacement, the same whenever the sizes are."""
    rng = np.random.default_rng(0)
    return [group[rng.integers(0, len(group), (draws, len(group)))] for group in groups]


def intervals(seeds):
    """{name: (low, high)} of the scores of a model's complete_seeds: 95 % bootstrap intervals of their means over the seeds.

    Cells are drawn anew within classes, the same for all seeds. Of accuracies and recalls low and high are percentiles. Drawing
    anew raises the calibration error, so its interval is the basic one, twice the error less the percentiles, at least 0
    (Davison and Hinkley 1997, sec. 5.2). All leave out how far other seeds would differ and that neighbouring cells are alike.
    """
    labels, classes = np.concatenate([r["labels"] for r in seeds[0]]), seeds[0][0]["classes"]
    probabilities = np.array([np.concatenate([r["probabilities"] for r in records]) for records in seeds])
    right, sure = probabilities.argmax(2) == labels, probabilities.max(2)
    gaps = (right - sure)[..., None] * np.eye(BINS + 2)[np.digitize(sure, np.linspace(0, 1, BINS + 1))]  # (seeds, cells, bins)

    def error(cells):
        return np.abs(gaps[:, cells].mean(1)).sum(1).mean()

    rows = drawn_anew([np.flatnonzero(labels == k) for k in np.unique(labels)])
    recalls = {f"recall {classes[k]}": right.mean(0)[cells].mean(1) for k, cells in zip(np.unique(labels), rows)}
    cells = np.concatenate(rows, 1)
    shares = {"accuracy": right.mean(0)[cells].mean(1), "balanced": np.mean(list(recalls.values()), 0), **recalls}
    basic = np.maximum(0, 2 * error(np.arange(len(labels))) - np.percentile(list(map(error, cells)), (97.5, 2.5)))
    return {**{name: tuple(np.percentile(v, (2.5, 97.5))) for name, v in shares.items()}, "calibration error": tuple(basic)}


def interval_table(runs):
    """Text table of the intervals, a model a row."""
    found = {m: intervals(seeds) for m in MODELS if (seeds := complete_seeds(runs, m))}
    names = list(dict.fromkeys(name for one in found.values() for name in one))
    rows = [[m, *("{:.3f} to {:.3f}".format(*one[name]) for name in names)] for m, one in found.items()]
    return s.text_table([["95 % interval", *names], *rows])


def score_table(runs):
    """Text table, a model a row: folds pooled within a complete seed, mean over seeds, of the first three scores the range."""
    rows = []
    for model in (m for m in MODELS if complete_seeds(runs, m)):
        mine, seeds = sum(complete_seeds(runs, model), []), list(map(scores, complete_seeds(runs, model)))
        columns = {name: [found[name] for found in seeds] for name in seeds[0]}
        ranges = [f" ({min(v):.3f}-{max(v):.3f})" if i < 3 else "" for i, v in enumerate(columns.values())]
        means = [f"{statistics.mean(v):.3f}{r}" for v, r in zip(columns.values(), ranges)]
        rows.append([model, len(mine), *means, f"{mine[0]['parameters']:,}"])
    return s.text_table([["model", "runs", *columns, "parameters"], *rows])


def gain(runs, a, b, balanced=True):
    """(runs of a, difference a - b of their accuracies, low, high) over the folds both did, or None if there is none.

    A cell counts with the mean over the seeds of each. low and high are the 95 % interval of drawing cells anew, within classes
    if the accuracies are balanced, the same for both models. It leaves out how far other seeds would differ and that
    neighbouring cells are alike.
    """
    def right(model, fold):
        mine = [r for (m, _, f), r in runs.items() if (m, f) == (model, fold)]
        return np.mean([np.argmax(r["probabilities"], 1) == np.array(r["labels"]) for r in mine], 0)

    folds = sorted({f for m, _, f in runs if m == a} & {f for m, _, f in runs if m == b})
    if not folds:
        return None
    truth = {f: r["labels"] for (_, _, f), r in runs.items()}
    labels, gains = (np.concatenate(parts) for parts in zip(*((truth[f], right(a, f) - right(b, f)) for f in folds)))
    parts = [gains[labels == k] for k in np.unique(labels)] if balanced else [gains]
    drawn = np.mean([part.mean(1) for part in drawn_anew(parts)], 0)
    done = sum(m == a and f in folds for m, _, f in runs)
    return done, np.mean([part.mean() for part in parts]), *np.percentile(drawn, (2.5, 97.5))


def gain_table(runs):
    """Text table of both gains for every pair COMPARED."""
    rows = []
    for a, b in COMPARED:
        if all(found := [gain(runs, a, b, balanced) for balanced in (False, True)]):
            rows.append([f"{a} - {b}", found[0][0], *(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for _, mean, low, high in found)])
    return s.text_table([["difference, 95 % interval", "runs of the first", "accuracy", "balanced accuracy"], *rows])


def parse_flags(arguments):
    """The command line; where --out is left out, a smoke run writes to a file that is thrown away."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="", help="default: the demo set")
    parser.add_argument("--out", type=Path, help="JSON lines; default: results/classifiers.jsonl")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=s.EPOCHS["mtd"], help="of the script's networks")
    parser.add_argument("--gan_epochs", type=int, default=s.EPOCHS["gan"], help="of the DCGAN under them")
    parser.add_argument("--peer_steps", type=int, default=1000, help="of effnet and resnet18")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--time", action="store_true", help="only time a few steps of every model")
    parser.add_argument("--summary", action="store_true", help="only print the tables of --out")
    parser.add_argument("--smoke", action="store_true", help="a part of the demo set, 2 folds, 1 seed, 2 steps a model")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.folds, flags.seeds = 2, [0]
    return flags


def run(arguments):
    """Do what a command line says."""
    flags = parse_flags(arguments)
    with tempfile.TemporaryDirectory() as folder:
        flags.out = flags.out or Path(folder if flags.smoke else "results", "classifiers.jsonl")
        if flags.time:
            return time_models(flags)
        if not flags.summary:
            do_runs(flags)
        if not (runs := known_runs(flags.out)):
            raise s.UsageError(f"--out {flags.out}: no finished runs to sum up")
        print("\nfolds pooled within a seed; mean (lowest-highest) over seeds", score_table(runs), "", interval_table(runs), "",
              gain_table(runs), sep="\n")


if __name__ == "__main__":
    sys.exit(s.main(run, sys.argv[1:]))
