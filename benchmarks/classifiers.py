"""How well the MTD names cells beside other classifiers: cross-validation, resumable.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.classifiers --data_path DIR        all models, 5 folds, 3 seeds
    python -m benchmarks.classifiers --data_path DIR --models mtd head --seeds 0
    python -m benchmarks.classifiers --data_path DIR --time how long each takes, minutes
    python -m benchmarks.classifiers --summary              the tables of what is done
    python -m benchmarks.classifiers --smoke                every model, two steps each

mtd          the MTD as --task all trains it: 40 epochs of 100 steps of 32 (or of a pass if that
             is longer) on top of a DCGAN, real against fake at every sixteenth step. The DCGAN is
             of the fold's training cells, unlabelled, 200 such epochs; every seed and fold has
             its own, in a file beside --out
head         the same classifier, first weights, batches, augmentation, optimiser, steps and rate,
             on J(C) alone
conditional  mtd with --conditional, real against fake at every step
mtd_scratch, head_scratch   mtd and head from random weights: real against fake at every step, or
             at none
effnet       ImageNet EfficientNet-Lite0, fine-tuned at 112x112, in fp32: 1000 steps of 32, AdamW,
             3e-4 for what is pretrained and 3e-3 for the new linear layer, weight decay 0.01,
             dropout 0.2, stochastic depth 0.2
probe        logistic regression on that network's pooled features, frozen, averaged over eight
             views and standardised; classes balanced, C = 0.01. It draws nothing: one seed is all
resnet18     torchvision's ResNet-18 from random weights, 1000 steps of 32: AdamW, 1e-3, weight
             decay 0.05

The rates of effnet and resnet18 rise for 5 % of the steps, then fall along a cosine; those of the
script's networks fall over the last fifth. All have the script's class-balanced batches,
augmentation, label smoothing and averaged weights, and see the same 64x64 crops; effnet and probe
get them enlarged. An answer is the mean over 24 turns of the cell and of its mirror image; of
effnet and probe over the eight of these that need no resampling.

A fold never cuts a block of 8 neighbouring fields, for neighbours show the same cell. Nothing is
chosen on a held-out fold within a run. The recipes of effnet, probe and resnet18 are common
practice; the script's was chosen on IML cells, partly on these folds, which favours it there.

One fold of every model comes before the next fold, and all folds of a seed before the next seed.
--time lets all models take a few steps in turn, several times, and writes what a fold takes by
the medians, in processor seconds, to classifier_times.json beside --out.
"""

import dataclasses
import itertools
import json
import math
import statistics
import sys
import time

import numpy as np

import rollNumber_05 as malaria
from benchmarks.classifier_models import (
    MODELS,
    Length,
    make_dcgan,
    probe_answers,
    train_and_answer,
    train_dcgan,
)
from benchmarks.classifier_scores import describe, describe_times
from benchmarks.runs import append_run, finished_runs, hardware, make_parser, output, read_runs

BLOCK = 8  # neighbouring fields that stay together
SMOKE_CELLS = 64
TIMES = "classifier_times.json"


def folds_of(data, count):
    """[(training rows, held-out rows)] of whole blocks, classes spread evenly.

    They are the same for every model and seed. Raises UsageError if there are too few blocks.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    sources = data.sources()
    blocks = {field: i // BLOCK for i, field in enumerate(sorted(set(sources)))}
    number = len(set(blocks.values()))
    if not 2 <= count <= number:
        raise malaria.UsageError(
            f"--folds {count}: has to be from 2 to {number}, the number of blocks of {BLOCK} fields"
        )
    rows = np.array(data.rows)
    groups = [blocks[field] for field in sources]
    cutter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    folds = []
    for train, held_out in cutter.split(rows, data.labels.cpu().numpy(), groups):
        folds.append((rows[train].tolist(), rows[held_out].tolist()))
    return folds


class Experiment:
    """What all runs of a command line share: flags, config, cells and folds."""

    def __init__(self, flags, out):
        self.flags = flags
        self.out = out
        self.config = malaria.Config(
            data_path=flags.data_path,
            task="mtd",
            results_dir=str(out.parent),
            device=flags.device,
        )
        data = malaria.load_data(self.config, malaria.pick_device(flags.device))
        if flags.smoke:
            some_rows = data.rows[:: max(1, len(data) // SMOKE_CELLS)]
            data = malaria.MalariaDataset(data.images, data.index, some_rows, data.device)
        self.data = data
        self.folds = folds_of(data, flags.folds)

    def length(self, kind, cells):
        """The Length of a training of a kind ("script", "dcgan", "peer", "none") on some cells."""
        flags = self.flags
        if kind == "none":
            return Length(0, 0)
        if flags.smoke:
            return Length(1, 2)
        if kind == "peer":
            return Length(1, flags.peer_steps)
        epochs = {"script": flags.epochs, "dcgan": flags.gan_epochs}[kind]
        one_pass = math.ceil(len(cells) / self.config.batch_size)
        return Length(epochs, max(self.config.min_steps, one_pass))

    def record(self, name, seed, fold):
        """What a run is about: the part of its line that is known before it."""
        model = MODELS[name]
        train, held_out = (model.cells(self.data, rows) for rows in self.folds[fold])
        record = {
            "model": name,
            "seed": seed,
            "fold": fold,
            "n": len(held_out),
            "steps": self.length(model.length, train).all_steps,
            "classes": self.data.classes,
            "labels": held_out.labels.tolist(),
            "views": model.views,
        }
        for setting in model.settings:
            record[setting] = getattr(self.config, setting)
        return record

    def run(self, name, seed, fold):
        """Train a model on the other folds and let it answer about one: its Answers."""
        model = MODELS[name]
        config = dataclasses.replace(self.config, seed=seed)
        train, held_out = (model.cells(self.data, rows) for rows in self.folds[fold])
        dcgan = None
        if model.on_dcgan:
            dcgan = self.out.with_name(f"{self.out.stem}_dcgan_{seed}_{fold}.pt")
            train_dcgan(config, train, self.length("dcgan", train), dcgan)
        length = self.length(model.length, train)
        return train_and_answer(name, config, train, held_out, length, dcgan)


def do_runs(experiment):
    """Do what of the models, seeds and folds --out lacks.

    Raises UsageError if what it has is of other cells, steps or settings.
    """
    flags = experiment.flags
    out = experiment.out
    done = {(run["model"], run["seed"], run["fold"]): run for run in read_runs(out)}
    for seed, fold, name in itertools.product(flags.seeds, range(flags.folds), flags.models):
        record = experiment.record(name, seed, fold)
        earlier = done.get((name, seed, fold))
        if earlier:
            if not record.items() <= earlier.items():
                raise malaria.UsageError(
                    f"{out}: {name} of fold {fold} has other cells, steps or settings; "
                    "give another --out"
                )
            continue
        answers = experiment.run(name, seed, fold)
        record["hardware"] = hardware(experiment.data.device)
        record["parameters"] = answers.parameters
        record["probabilities"] = answers.probabilities.astype(float).round(4).tolist()
        append_run(out, record)
        right = (answers.probabilities.argmax(1) == np.array(record["labels"])).sum()
        print(f"seed {seed} fold {fold} {name}: {right} of {record['n']} cells right", flush=True)


class TimedTraining:
    """A training of which some steps are timed, now and then."""

    def __init__(self, trainer, cells, all_steps):
        self.trainer = trainer
        self.cells = cells
        self.all_steps = all_steps
        self.steps = min(100, max(1, all_steps // 40))  # of a measurement
        self.measured = []

    def measure(self):
        """Take some steps."""
        start = time.process_time()
        self.trainer.train_epoch(self.cells, self.steps, malaria.tqdm(disable=True))
        self.measured.append(time.process_time() - start)

    def seconds(self):
        """Processor seconds of the whole training, by the median."""
        return round(statistics.median(self.measured) * self.all_steps / self.steps, 2)


def timed_trainings(experiment):
    """{model: TimedTraining} of the first fold; the DCGAN under some has a row of its own."""
    rows = experiment.folds[0][0]
    trainings = {}
    for name in experiment.flags.models:
        model = MODELS[name]
        if model.make_trainer is None:
            continue
        cells = model.cells(experiment.data, rows)
        steps = experiment.length(model.length, cells).all_steps
        trainer = model.make_trainer(experiment.config, cells, steps)
        trainings[name] = TimedTraining(trainer, cells, steps)
        if model.on_dcgan and "dcgan" not in trainings:
            steps = experiment.length("dcgan", cells).all_steps
            trainer = make_dcgan(experiment.config, cells)
            trainings["dcgan"] = TimedTraining(trainer, cells, steps)
    return trainings


def time_models(experiment):
    """Processor seconds of training the first fold, as in the file TIMES; of the probe in full."""
    trainings = timed_trainings(experiment)
    rounds = 1 if experiment.flags.smoke else 5
    for _, training in itertools.product(range(rounds), trainings.values()):
        training.measure()
    seconds = {name: training.seconds() for name, training in trainings.items()}
    if "probe" in experiment.flags.models:
        cells = MODELS["probe"].cells(experiment.data, experiment.folds[0][0])
        start = time.process_time()
        probe_answers(cells, cells)
        seconds["probe"] = round(time.process_time() - start, 2)
    return {"hardware": hardware(experiment.data.device), "seconds": seconds}


def summary(path):
    """All tables of a file of runs, and of the times beside it, as text."""
    times = None
    if path.with_name(TIMES).exists():
        times = json.loads(path.with_name(TIMES).read_text())
    return describe(finished_runs(path), times)


def parse_flags(arguments):
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--folds", type=int, default=5)
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--epochs", type=int, default=malaria.EPOCHS["mtd"], help="of the script's networks")
    add("--gan_epochs", type=int, default=malaria.EPOCHS["gan"], help="of the DCGAN under them")
    add("--peer_steps", type=int, default=1000, help="of effnet and resnet18")
    add("--time", action="store_true", help="only time a few steps of every model")
    flags = parser.parse_args(arguments)
    if flags.smoke:
        flags.folds = 2
        flags.seeds = [0]
    return flags


def run(arguments):
    """Do what a command line says."""
    flags = parse_flags(arguments)
    with output(flags, "classifiers.jsonl") as out:
        if flags.time:
            times = time_models(Experiment(flags, out))
            out.with_name(TIMES).write_text(json.dumps(times, indent=1) + "\n")
            print(describe_times(times))
            return
        if not flags.summary:
            do_runs(Experiment(flags, out))
        print(summary(out))


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
