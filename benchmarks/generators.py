"""How real the generated cells are, beside other DCGANs in the same wall-clock time; resumable.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.generators --data_path DIR         every model, 20 minutes, seed 0
    python -m benchmarks.generators --data_path DIR --models script --seeds 0 1 2 --minutes 5
    python -m benchmarks.generators --data_path DIR --weights saved_models/gan.pt
                                                            only measure, three draws of noise
    python -m benchmarks.generators --summary               the table of what is done
    python -m benchmarks.generators --smoke                 every model, two seconds each
    python -m benchmarks.generators --data_path DIR --device cuda --minutes 2 --models ON_GPU
                                                            what users of a GPU would pick

script       the script's --task gan with its defaults
assignment   the same networks with --recipe assignment
tutorial     the DCGAN of the paper's size (512 channels at 4x4) as tutorials train it:
             ImageFolder, DataLoader, Adam 2e-4
torchgan     torchgan 0.1.0's own DCGAN of that size and its Trainer's step
replayed     as script, with --replay; only if named
lightweight  lightweight-gan 1.2.1 with its defaults (benchmarks/lightweight.py); only if named
ON_GPU       replayed, lightweight, script, torchgan and tutorial

Time is training only. After each tenth of it kid_train is taken too, which gives the seconds to the
first that is at most 0.3. Measured are 500 cells of the last weights (the script's: averaged), from
the same seed, in pooled features of EfficientNet-Lite0 (ImageNet, 112x112, not Inception):
kid_train and kid_unseen, mean of 50 subsets of 100, to the training cells and to those of the val
and test fields together; frechet to the training cells; precision and recall. The floor is the
same for real cells: one half of the training cells to the other in kid_train (they share fields,
so it is low), training cells to unseen ones in the rest.
"""

import contextlib
import functools
import io
import itertools
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

import rollNumber_05 as malaria
from benchmarks.lightweight import LightweightLoop
from benchmarks.peers import ScriptLoop, TorchganLoop, TutorialLoop, write_png_folder
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
from extras import drawing
from extras.quality import Quality, kernel_distance, share_within

MEASURES = ("kid_train", "kid_unseen", "frechet", "precision", "recall")
GOOD_KID = 0.3  # kid_train; about that of saved_models/gan.pt
STOPS = 10  # in a training, at which kid_train is taken
PAPER_WIDTH = 512  # channels at 4x4 (Radford et al. 2016, fig. 1)


class GivenFeatures(nn.Identity):
    """For torchmetrics a network whose features are what it is given."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features


def frechet_distance(features, others):
    """Frechet distance of feature sets (N, F), more for fewer cells (Heusel et al. 2017, eq. 6)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(GivenFeatures(features.shape[1]))
    distance.update(features, real=True)
    distance.update(others, real=False)
    return distance.compute().item()


class Measurement:
    """What generators are measured against: features of the training and of the unseen cells."""

    def __init__(self, data):
        self.quality = Quality(data)
        self.train = self.quality.real["train"]
        self.unseen = self.quality.features(data.split("val", "test").uint8())

    def generated(self, generator, seed):
        """Features of the cells that a generator draws, in the training cells' mix of classes."""
        noise = malaria.latents(malaria.GENERATED, generator, seed + 1)
        labels = self.quality.labels(malaria.GENERATED)
        return self.quality.features(malaria.sample(generator, noise, labels))

    def kid_train(self, generator, seed):
        """The first of the MEASURES alone."""
        return kernel_distance(self.train, self.generated(generator, seed))

    def measure(self, generator, seed):
        """The MEASURES of a generator."""
        fake = self.generated(generator, seed)
        return {
            "kid_train": kernel_distance(self.train, fake),
            "kid_unseen": kernel_distance(self.unseen, fake),
            "frechet": frechet_distance(self.train, fake),
            "precision": share_within(self.train, fake),
            "recall": share_within(fake, self.train),
        }

    def floor(self):
        """The MEASURES of real cells."""
        return {
            "kid_train": kernel_distance(self.train[::2], self.train[1::2]),
            "kid_unseen": kernel_distance(self.train, self.unseen),
            "frechet": frechet_distance(self.train, self.unseen),
            "precision": share_within(self.train, self.unseen),
            "recall": share_within(self.unseen, self.train),
        }

    def about(self):
        """What every record has: the floor and the numbers of cells."""
        numbers = {
            "train": len(self.train),
            "unseen": len(self.unseen),
            "generated": malaria.GENERATED,
        }
        return {
            "floor": self.floor(),
            "n": numbers,
            "threads": torch.get_num_threads(),
            "hardware": hardware(self.quality.device),
        }


def script_loop(given, data, folder):
    """The script with its defaults."""
    return ScriptLoop("gan", malaria.Config(**given), data)


def assignment_loop(given, data, folder):
    """The script with the assignment's recipe."""
    config = malaria.Config(**malaria.RECIPES["assignment"], **given)
    return ScriptLoop("gan", config, data)


def tutorial_loop(given, data, folder):
    """The tutorials' way of training networks of the paper's size."""
    config = malaria.Config(**given, g_width=PAPER_WIDTH, d_width=PAPER_WIDTH)
    return TutorialLoop("gan", config, folder, len(data.classes), data.device)


def torchgan_loop(given, data, folder):
    """Torchgan's way of training its networks of that size."""
    config = malaria.Config(**given, g_width=PAPER_WIDTH, d_width=PAPER_WIDTH)
    return TorchganLoop(config, folder, data.device)


def replayed_loop(given, data, folder):
    """The script with its defaults and its step as one graph."""
    return ScriptLoop("gan", malaria.Config(replay=True, **given), data)


def lightweight_loop(given, data, folder):
    """lightweight-gan's way of training its networks."""
    return LightweightLoop(malaria.Config(**given), folder, data.device)


# {name: (flags given, data, folder of the training cells as files) -> an untrained Loop}
MODELS = {
    "script": script_loop,
    "assignment": assignment_loop,
    "tutorial": tutorial_loop,
    "torchgan": torchgan_loop,
    "replayed": replayed_loop,
    "lightweight": lightweight_loop,
}
ON_CPU = ("script", "assignment", "tutorial", "torchgan")
ON_GPU = ("replayed", "lightweight", "script", "torchgan", "tutorial")


class Stop(NamedTuple):
    """What a training has come to after some seconds and steps."""

    seconds: float
    steps: int
    kid_train: float


def train(loop, seconds, kid_train):
    """Train for so many seconds; returns the steps and seconds that it took, and its Stops.

    kid_train: the function that measures the loop's generator; its time does not count.
    """
    is_long = seconds >= 60
    steps_a_turn = 50 if is_long else 1
    stops_asked = STOPS if is_long else 1
    stops = []
    steps = 0
    spent = 0.0
    while spent < seconds:
        loop.set_rate_factor(spent / seconds)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            loop.run(steps_a_turn)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent += time.perf_counter() - start
        steps += steps_a_turn
        if spent >= seconds * (len(stops) + 1) / stops_asked:
            stops.append(Stop(round(spent, 1), steps, kid_train()))
    return steps, spent, stops


def seconds_to_good(stops):
    """Seconds to the first Stop with at most GOOD_KID, None if there is none."""
    good = (stop.seconds for stop in stops if stop.kid_train <= GOOD_KID)
    return next(good, None)


def measure_weights(flags, out, data):
    """Add a line to --out for each of three draws of noise of the generator in --weights."""
    checkpoint = malaria.load_checkpoint(flags.weights, device=data.device)
    measurement = Measurement(data)
    about = measurement.about()
    for seed in (1, 2, 3):
        record = {
            "model": str(flags.weights),
            "seed": seed,
            "minutes": 0,
            "steps": checkpoint.state["step"],
            **measurement.measure(checkpoint.generator, seed),
            **about,
        }
        append_run(out, record)


def run_all(flags, out, data):
    """Train and measure what --out lacks, a line each."""
    measurement = Measurement(data)
    about = measurement.about()
    earlier = read_runs(out)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "png")
        write_png_folder(data, files)
        for seed, model in itertools.product(flags.seeds, flags.models):
            identity = {
                "model": model,
                "seed": seed,
                "minutes": flags.minutes,
                "cells": about["n"]["train"],
            }
            if any(identity.items() <= run.items() for run in earlier):
                continue
            torch.manual_seed(seed)
            given = {"task": "gan", "seed": seed, "device": flags.device}
            loop = MODELS[model](given, data, files)
            numbers = train_and_measure(loop, flags.minutes, measurement, seed)
            images = malaria.sample(loop.generator, malaria.latents(64, loop.generator, seed))
            picture = out.with_name(f"{out.stem}_{model}_{seed}.png")
            drawing.write_image(picture, drawing.grid(images))
            record = identity | numbers | about
            append_run(out, record)
            print(json.dumps(record), flush=True)


def train_and_measure(loop, minutes, measurement, seed):
    """Train a Loop for so long; what it took and the MEASURES of its generator, as a dict."""
    kid_train = functools.partial(measurement.kid_train, loop.generator, seed)
    steps, seconds, stops = train(loop, minutes * 60, kid_train)
    parameters = sum(weights.numel() for weights in loop.generator.parameters())
    return {
        "steps": steps,
        "seconds": round(seconds, 1),
        "seconds_to_good": seconds_to_good(stops),
        "stops": stops,
        **measurement.measure(loop.generator, seed),
        "generator_parameters": parameters,
    }


def measure_table(runs):
    """A row for each model: its measures, mean and range over the seeds; the floor last."""
    by_model = runs.groupby("model", sort=False)
    table = by_model[list(MEASURES)].agg(mean_and_range, digits=2)
    table.insert(0, "seeds", by_model["seed"].nunique())
    table.insert(1, "minutes", by_model["minutes"].first().round(2))
    table.insert(2, "steps", by_model["steps"].first())
    if "seconds_to_good" in runs:
        table[f"s to KID {GOOD_KID}"] = by_model["seconds_to_good"].median()
    floor = pd.DataFrame(runs["floor"].tolist(), index=runs["model"]).tail(1)
    floor = floor.apply(mean_and_range, digits=2).to_frame("floor").T
    return pd.concat([table.astype(object), floor])


def summary(path):
    """The table of a file of runs as text."""
    runs = finished_runs(path)
    numbers = runs["n"].iloc[-1]
    parts = [
        paragraph(
            f"{numbers['generated']} generated cells against {numbers['train']} training and "
            f"{numbers['unseen']} unseen real ones, in features of EfficientNet-Lite0: mean "
            "(lowest-highest) over the seeds, which of weights in a file (0 minutes of training "
            "here) are those of the noise; the floor is of real cells."
        ),
        hardware_line(runs, "model"),
        text_of(measure_table(runs)),
    ]
    return "\n".join(parts)


def run(arguments):
    """Do what a command line says."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=[*MODELS, "ON_GPU"], default=list(ON_CPU))
    add("--seeds", nargs="+", type=int, default=[0])
    add("--weights", type=Path, help="a checkpoint that is measured; nothing is trained")
    add("--minutes", type=float, default=20, help="of training each model")
    flags = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="torchmetrics")
    if "ON_GPU" in flags.models:
        flags.models = list(ON_GPU)
    with output(flags, "generators.jsonl") as out:
        if flags.smoke:
            flags.minutes = 2 / 60
        if not flags.summary:
            config = malaria.Config(data_path=flags.data_path, results_dir=str(out.parent))
            data = malaria.load_data(config, malaria.pick_device(flags.device))
            if flags.weights:
                measure_weights(flags, out, data)
            else:
                run_all(flags, out, data)
        print(summary(out))


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
