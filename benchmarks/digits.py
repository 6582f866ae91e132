"""What the networks of --recipe mnist_course make of MNIST, read by a network that knows digits.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.digits --data_path DIR             a torchvision root with MNIST in it
    python -m benchmarks.digits --summary                   the tables of what is done
    python -m benchmarks.digits --smoke                     random images, a few steps of each

The judge, a small convolutional network, learns the real training digits; how many of the real
test digits it reads right stands beside all that it says. For each seed it reads the digits of

gan          the DCGAN: how sure the judge is of each, and how evenly the ten digits come (entropy
             of their shares: 3.32 bits if all are as frequent)
conditional  the generator of a conditional MTD, asked for every digit equally often

mtd          the MTD that goes on from the DCGAN: how many of the real test digits it reads right
default_mtd  the same of the script's default recipe, from random weights, in ten epochs

Each of the others is trained for the recipe's five epochs, or --epochs.
"""

import dataclasses
import math
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

import rollNumber_05 as malaria
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

DIGITS = [str(digit) for digit in range(10)]
NETWORKS = ("gan", "conditional", "mtd", "default_mtd")
DEFAULT_MTD = {"dataset": "mnist", "image_size": 28, "channels": 1, "epochs": 10}
GENERATED = 1000  # digits that the judge reads
JUDGE_EPOCHS = 12
JUDGE_SEED = 1000  # other than those of the generators


class Judge(nn.Module):
    """Digits float32 (B, 1, 28, 28) in [-1, 1] to class logits (B, 10)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, 32, 14, 14)
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, 64, 7, 7)
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(64 * 7 * 7, 10),
        )

    def forward(self, images):
        """Images to logits."""
        return self.layers(images)


class Reading(NamedTuple):
    """The likeliest digit of N images and its probability, as numpy."""

    digits: np.ndarray
    confidence: np.ndarray


def train_judge(data, epochs):
    """A Judge that has learnt a dataset: Adam at 1e-3, batches of 64."""
    torch.manual_seed(JUDGE_SEED)
    judge = Judge().to(data.device)
    optimizer = torch.optim.Adam(judge.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(data)).split(64):
            batch = data.__getitems__(rows)
            loss = F.cross_entropy(judge(batch.images), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return judge.eval()


@torch.no_grad()
def read_digits(judge, data):
    """The Reading of a dataset."""
    logits = [judge(batch.images) for batch in malaria.in_order(data)]
    confidence, digits = torch.cat(logits).softmax(1).max(1)
    return Reading(digits.cpu().numpy(), confidence.cpu().numpy())


def entropy(shares):
    """Entropy of shares that sum to 1, in bits."""
    shares = np.asarray(shares)
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum())


def how_evenly(reading):
    """How sure a Reading is, and how evenly the ten digits come, as a dict."""
    shares = np.bincount(reading.digits, minlength=10) / len(reading.digits)
    return {
        "confidence": float(reading.confidence.mean()),
        "sure": float((reading.confidence > 0.9).mean()),
        "shares": dict(zip(DIGITS, shares.tolist(), strict=True)),
        "entropy": entropy(shares),
    }


def recognised(reading, asked):
    """The share of digits that are read as the ones asked for (N,), and that of each."""
    is_right = reading.digits == asked
    shares = [float(is_right[asked == digit].mean()) for digit in range(10)]
    return {
        "recognised": float(is_right.mean()),
        "recognised_per_digit": dict(zip(DIGITS, shares, strict=True)),
    }


def random_digits(device):
    """A dataset of random images for a smoke run."""
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (300, 28, 28, 1), np.uint8)
    labels = np.arange(300) % 10
    splits = ["train"] * 200 + ["val"] * 50 + ["test"] * 50
    return malaria.dataset_of_arrays(images, labels.tolist(), splits, DIGITS, device=device)


class Experiment:
    """What all runs of a command line share: the digits, the judge, the recipe's config."""

    def __init__(self, flags, out):
        self.out = out
        given = {
            **malaria.RECIPES["mnist_course"],
            "data_path": flags.data_path,
            "device": flags.device,
            "results_dir": str(out.parent),
        }
        device = malaria.pick_device(flags.device)
        if flags.epochs:
            given["epochs"] = flags.epochs
        if flags.smoke:
            given |= {"epochs": 1, "min_steps": 2}
            self.data = random_digits(device)
        else:
            self.data = malaria.load_data(malaria.Config(**given), device)
        self.config = malaria.Config(**given)
        self.number = 40 if flags.smoke else GENERATED
        self.judge = train_judge(self.data.split("train"), 1 if flags.smoke else JUDGE_EPOCHS)

    def epochs_of(self, network):
        """How long a network is trained."""
        is_default = network == "default_mtd" and self.config.epochs > 1  # 1 in a smoke run
        return DEFAULT_MTD["epochs"] if is_default else self.config.epochs

    def record(self, network, seed):
        """What a run is about: the part of its line that is known before it."""
        return {
            "network": network,
            "seed": seed,
            "epochs": self.epochs_of(network),
            "trained_on": len(self.data.split("train")),
        }

    def judge_scores(self):
        """How the judge reads the real test digits, as a dict."""
        test = self.data.split("test")
        reading = read_digits(self.judge, test)
        is_right = reading.digits == test.labels.cpu().numpy()
        return {
            "n": len(test),
            "accuracy": float(is_right.mean()),
            "confidence": float(reading.confidence.mean()),
        }

    def train(self, folder, task, seed, **settings):
        """The Checkpoint of a task that is trained in a folder, as the script hands it over."""
        settings = {"task": task, "seed": seed, "results_dir": str(folder), **settings}
        config = dataclasses.replace(self.config, **settings)
        return self.train_with(config, task)

    def train_with(self, config, task):
        """The same of a Config."""
        _, run_folder = malaria.train(task, config, self.data)
        best = run_folder / "best.pt"
        path = best if best.exists() else run_folder / "last.pt"
        return malaria.load_checkpoint(path, task, self.data.device)

    def score(self, checkpoint):
        """How many of the real test digits an MTD reads right, as a dict."""
        test = self.data.split("test")
        scores = malaria.evaluate(
            test, malaria.calibrated_predictions(checkpoint, test).probabilities
        )
        return {"n": len(test), "accuracy": scores["accuracy"]}

    def read_generated(self, generator, name, seed):
        """The Reading of generated digits, of which a picture goes beside --out.

        A conditional generator draws all digits in turn.
        """
        images = malaria.sample(generator, malaria.latents(self.number, generator, seed))
        picture = self.out.parent / f"digits_{name}_{seed}.png"
        drawing.write_image(picture, drawing.grid(images[:80], columns=10))
        data = malaria.unlabelled(images, DIGITS, "cell", self.data.device)
        return read_digits(self.judge, data)

    def run_gan(self, folder, seed):
        """Numbers of the DCGAN's digits."""
        generator = self.train(folder, "gan", seed).generator
        reading = self.read_generated(generator, "gan", seed)
        return {"n": self.number, **how_evenly(reading)}

    def run_conditional(self, folder, seed):
        """Numbers of a conditional generator's digits."""
        own = folder / "conditional"  # the MTD of the same seed goes into folder / "mtd"
        generator = self.train(own, "mtd", seed, conditional=True).generator
        reading = self.read_generated(generator, "conditional", seed)
        asked = np.arange(self.number) % 10
        return {"n": self.number, **recognised(reading, asked), **how_evenly(reading)}

    def run_mtd(self, folder, seed):
        """The score of the MTD that goes on from the DCGAN, about the real test digits."""
        dcgan = folder / "gan" / "last.pt"
        if not dcgan.exists():
            self.train(folder, "gan", seed)
        return self.score(self.train(folder, "mtd", seed, weights=str(dcgan)))

    def run_default_mtd(self, folder, seed):
        """The score of an MTD of the default recipe, about the real test digits."""
        settings = DEFAULT_MTD | {"epochs": self.epochs_of("default_mtd")}
        config = malaria.Config(
            **settings,
            task="mtd",
            seed=seed,
            min_steps=self.config.min_steps,
            device=self.config.device,
            results_dir=str(folder / "default"),
        )
        return self.score(self.train_with(config, "mtd"))


def do_runs(experiment, seeds):
    """A line of --out for the judge and for each seed and network that it lacks."""
    out = experiment.out
    done = {(run["network"], run["seed"], run["epochs"]) for run in read_runs(out)}
    about_hardware = {"hardware": hardware(experiment.data.device)}
    if ("judge", JUDGE_SEED, JUDGE_EPOCHS) not in done:
        record = experiment.record("judge", JUDGE_SEED) | {"epochs": JUDGE_EPOCHS}
        append_run(out, record | about_hardware | experiment.judge_scores())
    runs = {
        "gan": experiment.run_gan,
        "conditional": experiment.run_conditional,
        "mtd": experiment.run_mtd,
        "default_mtd": experiment.run_default_mtd,
    }
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            for network in NETWORKS:
                if (network, seed, experiment.epochs_of(network)) in done:
                    continue
                numbers = runs[network](Path(folder), seed)
                append_run(out, experiment.record(network, seed) | about_hardware | numbers)


def generated_table(runs):
    """A row for each kind of generator: confidence, evenness, and, if asked, obedience."""
    by_network = runs[runs["shares"].notna()].groupby("what", sort=False)
    names = ["confidence", "sure", "entropy", "recognised"]
    present = [name for name in names if name in runs]
    table = by_network[present].agg(mean_and_range)
    table.insert(0, "seeds", by_network["seed"].nunique())
    return table.replace({"nan (nan-nan)": "", "nan": ""})


def share_table(runs, column):
    """A row for each kind of generator, a column for each digit: its share, mean of the seeds."""
    rows = {}
    for what, part in runs[runs[column].notna()].groupby("what", sort=False):
        shares = pd.DataFrame(part[column].tolist())
        rows[what] = shares.mean().map("{:.3f}".format)
    return pd.DataFrame(rows).T


def summary(path):
    """The tables of a file of runs as text."""
    runs = finished_runs(path)
    judges = runs[runs["network"] == "judge"]
    generated = runs[runs["network"] == "gan"]
    if judges.empty or generated.empty:
        raise malaria.UsageError(f"--out {path}: no finished run of a gan and its judge to sum up")
    judge = judges.iloc[0]
    runs["what"] = runs["network"] + ", " + runs["epochs"].astype(str) + " epochs"
    parts = [
        paragraph(
            f"--recipe mnist_course on {judge['trained_on']} real digits. The judge reads "
            f"{judge['accuracy']:.3f} of {judge['n']} real test digits right, mean confidence "
            f"{judge['confidence']:.3f}. It reads {generated.iloc[0]['n']} generated digits of "
            "each seed: mean confidence, share read with more than 0.9, entropy of the ten "
            f"digits' shares (at most {math.log2(10):.2f} bits), share read as the digit asked "
            "for; mean (lowest-highest) over the seeds."
        ),
        hardware_line(runs, "what"),
        text_of(generated_table(runs)),
        "",
        "Share of each digit among the generated ones, mean of the seeds:",
        text_of(share_table(runs, "shares")),
    ]
    if "recognised_per_digit" in runs:
        parts += [
            "",
            "Share of each digit asked for that is read as it, mean of the seeds:",
            text_of(share_table(runs, "recognised_per_digit")),
        ]
    scored = runs[runs["network"].isin(["mtd", "default_mtd"])]
    for what, mtds in scored.groupby("what", sort=False):
        accuracy = mean_and_range(mtds["accuracy"])
        parts += ["", f"{what}: {accuracy} of {mtds['n'].iloc[0]} real test digits read right."]
    return "\n".join(parts)


def run(arguments):
    """Do what a command line says."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--seeds", nargs="+", type=int, default=[0, 1])
    add("--epochs", type=int, default=0, help="of every training; default: the recipe's")
    flags = parser.parse_args(arguments)
    with output(flags, "digits.jsonl") as out:
        if flags.smoke:
            flags.seeds = [0]
        if not flags.summary:
            do_runs(Experiment(flags, out), flags.seeds)
        print(summary(out))


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
