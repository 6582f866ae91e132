"""Whether a conditional generator draws the class asked for, and what its cells are worth.

    pip install -r benchmarks/requirements.txt
    python rollNumber_05.py --data_path DIR --task mtd --conditional --weights saved_models/gan.pt
    python -m benchmarks.conditional --data_path DIR --weights results/mtd/last.pt
    python -m benchmarks.conditional --summary              the tables of what is done
    python -m benchmarks.conditional --smoke                an untrained generator, two steps

For each seed the same classifier (head_scratch of benchmarks.classifiers) is trained three times:
on the real training cells, on as many generated cells, every class equally often, and on both
together. The generator saw the real training cells only. Each is scored on the real cells of the
val and test fields. What was trained on real cells also says how many of 500 other generated cells
are of the class that was asked for: it has another seed than the generator, and neither network
saw the other.
"""

import dataclasses
import hashlib
import itertools
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

import rollNumber_05 as malaria
from benchmarks.classifier_models import ALL_VIEWS, Length, train_and_answer
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
from extras import classes
from extras.flags import as_flag

KINDS = ("real", "generated", "both")  # of training cells


class Source(NamedTuple):
    """The generator whose cells are judged: its Checkpoint, and a fingerprint of its file."""

    checkpoint: malaria.Checkpoint
    fingerprint: str


def untrained_source():
    """The Source of a smoke run."""
    generator = malaria.Generator(num_classes=len(classes.STAGES))
    state = {"config": vars(malaria.Config()), "classes": list(classes.STAGES)}
    return Source(malaria.Checkpoint(generator, None, state), "")


def read_source(path):
    """The Source in a checkpoint of a conditional MTD."""
    checkpoint = malaria.load_checkpoint(path, "mtd")
    return Source(checkpoint, hashlib.sha1(path.read_bytes()).hexdigest())


def check_source(source, config, data, path):
    """Raise UsageError unless the generator draws the classes and size of the data's cells."""
    state = source.checkpoint.state
    if not source.checkpoint.generator.num_classes:
        raise malaria.UsageError(f"--weights {path}: its generator is not conditional")
    if state["classes"] != data.classes:
        raise malaria.UsageError(
            f"--weights {path}: draws {', '.join(state['classes'])}, "
            f"the data has {', '.join(data.classes)}"
        )
    for name in ("image_size", "channels"):
        made_with = state["config"][name]
        if made_with != getattr(config, name):
            raise malaria.UsageError(
                f"--weights {path}: made with {as_flag(name, made_with)}; "
                "the benchmark is about the default"
            )


def joined(first, second):
    """Two datasets in one."""
    images = np.concatenate([first.uint8(), second.uint8()])
    labels = torch.cat([first.labels, second.labels]).cpu()
    return train_set(images, labels, first)


def train_set(images, labels, like):
    """A training set of uint8 images (N, S, S, C) and class numbers (N,), on another's device."""
    splits = ["train"] * len(images)
    return malaria.dataset_of_arrays(
        images, labels.tolist(), splits, like.classes, device=like.device
    )


class Experiment:
    """What all runs of a command line share: config, real cells, generator and length."""

    def __init__(self, flags, out, source):
        self.flags = flags
        self.out = out
        self.source = source
        self.config = malaria.Config(
            data_path=flags.data_path, task="mtd", results_dir=str(out.parent), device=flags.device
        )
        self.data = malaria.load_data(self.config, malaria.pick_device(flags.device))
        check_source(source, self.config, self.data, flags.weights)
        self.real = self.data.split("train")
        self.unseen = self.data.split("val", "test")
        self.number_asked = 8 if flags.smoke else 500
        one_pass = math.ceil(len(self.real) / self.config.batch_size)
        self.length = Length(malaria.EPOCHS["mtd"], max(self.config.min_steps, one_pass))
        if flags.smoke:
            self.length = Length(1, 2)

    def generate(self, number, seed):
        """Generated cells, every class in turn, labelled with the class asked for."""
        generator = self.source.checkpoint.generator
        images = malaria.sample(generator, malaria.latents(number, generator, seed))
        labels = np.arange(number) % len(self.data.classes)
        return train_set(images, labels, self.data)

    def training_cells(self, kind, seed):
        """The cells of a kind: "real", "generated" or "both"."""
        if kind == "real":
            return self.real
        generated = self.generate(len(self.real), seed)
        return {"generated": generated, "both": joined(self.real, generated)}[kind]

    def record(self, kind, seed, cells):
        """What a run is about: the part of its line that is known before it."""
        return {
            "cells": kind,
            "seed": seed,
            "trained_on": len(cells),
            "n": len(self.unseen),
            "weights": self.source.fingerprint,
            "steps": self.length.all_steps,
            "views": ALL_VIEWS,
        }

    def run(self, kind, seed, cells):
        """Train the classifier on some cells and score its answers, as a dict.

        Accuracies are about the unseen cells. Trained on real ones, it also says how many
        generated cells it takes for the class asked for.
        """
        asked = self.generate(self.number_asked, seed + 1000)
        config = dataclasses.replace(self.config, seed=seed)
        held_out = joined(self.unseen, asked)
        answers = train_and_answer("head_scratch", config, cells, held_out, self.length)
        scores = malaria.evaluate(self.unseen, answers.probabilities[: len(self.unseen)])
        found = {name: scores[name] for name in ("accuracy", "balanced_accuracy")}
        if kind == "real":
            about_asked = answers.probabilities[len(self.unseen) :]
            found["asked"] = len(asked)
            found |= recognised(asked, about_asked)
        return found


def recognised(asked, probabilities):
    """The share of generated cells that are answered as the class asked for; that of each class."""
    labels = asked.labels.cpu().numpy()
    is_right = probabilities.argmax(1) == labels
    by_class = {}
    for i, name in enumerate(asked.classes):
        by_class[name] = float(is_right[labels == i].mean())
    return {"recognised": float(is_right.mean()), "recognised_per_class": by_class}


def do_runs(experiment):
    """A line of --out for each seed and kind of training cells that it lacks.

    Raises UsageError if what it has is of other weights, cells or steps.
    """
    out = experiment.out
    done = {(run["cells"], run["seed"]): run for run in read_runs(out)}
    for seed, kind in itertools.product(experiment.flags.seeds, KINDS):
        cells = experiment.training_cells(kind, seed)
        record = experiment.record(kind, seed, cells)
        earlier = done.get((kind, seed))
        if earlier is None:
            record["hardware"] = hardware(experiment.data.device)
            append_run(out, record | experiment.run(kind, seed, cells))
        elif not record.items() <= earlier.items():
            raise malaria.UsageError(
                f"{out}: has results of other weights, cells or steps; give another --out"
            )


def accuracy_table(runs):
    """A row for each kind of training cells: accuracies, mean and range over the seeds."""
    by_kind = runs.groupby("cells", sort=False)
    table = by_kind[["accuracy", "balanced_accuracy"]].agg(mean_and_range)
    balanced = by_kind["balanced_accuracy"].mean()
    table.insert(0, "number", by_kind["trained_on"].first())
    table.insert(1, "seeds", by_kind["seed"].nunique())
    table["over real"] = (balanced / balanced["real"]).round(2)
    return table.rename(columns={"balanced_accuracy": "balanced accuracy"})


def recognised_table(runs):
    """The share of generated cells that classifiers trained on real ones recognise, by class."""
    judges = runs[runs["cells"] == "real"]
    shares = pd.DataFrame(judges["recognised_per_class"].tolist())
    shares.insert(0, "all", judges["recognised"].tolist())
    return shares.apply(mean_and_range).to_frame("recognised")


def summary(path):
    """The tables of a file of runs as text."""
    runs = finished_runs(path)
    if not (runs["cells"] == "real").any():
        raise malaria.UsageError(f"--out {path}: no finished run on real cells to compare with")
    first = runs.iloc[0]
    parts = [
        paragraph(
            "A classifier trained on each kind of cells, scored on "
            f"{first['n']} unseen real cells: mean (lowest-highest) over the seeds."
        ),
        hardware_line(runs, "cells"),
        text_of(accuracy_table(runs)),
        "",
        paragraph(
            f"Share of {first['asked']:.0f} generated cells that the classifier trained on real "
            "cells takes for the class asked for, by class."
        ),
        text_of(recognised_table(runs)),
    ]
    return "\n".join(parts)


def run(arguments):
    """Do what a command line says."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--weights",
        type=Path,
        default=Path("results/mtd/last.pt"),
        help="checkpoint of a conditional MTD",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    flags = parser.parse_args(arguments)
    with output(flags, "conditional.jsonl") as out:
        if flags.smoke:
            flags.seeds = [1]
        if not flags.summary:
            source = untrained_source() if flags.smoke else read_source(flags.weights)
            do_runs(Experiment(flags, out, source))
        print(summary(out))


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
