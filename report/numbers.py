"""Reads every number that report.typ prints from the files that the programs left.

A spread is the mean and range of a number over seeds, as {"mean", "low", "high"}; None where it was
not measured.
"""

import json
from pathlib import Path

import pandas as pd

import rollNumber_05 as malaria
from benchmarks import classifier_scores
from benchmarks.runs import read_runs
from extras.layers import layer_table

HERE = Path(__file__).resolve().parent
SWEEP_COLUMNS = ["setting", "failed", "steps", "kid_train", "kid_val", "precision", "recall"]


def read_numbers(results, weights, benchmarks):
    """Everything that report.typ prints, as one nested dict.

    results: what experiments.collect left; weights: the folder of gan.pt and mtd.pt; benchmarks:
    the folder with the results of benchmarks/. Raises UsageError if a benchmark is not complete.
    """
    numbers = {
        "data": read_json(results / "data.json"),
        "mtd_scores": read_json(results / "mtd" / "scores.json"),
        "trials": read_json(HERE / "results" / "trials.json"),
        "pointing": read_json(HERE / "results" / "demo" / "pointing.json"),
        "training": {},
    }
    for task in ("gan", "mtd"):
        numbers[f"{task}_config"] = read_json(results / task / "config.json")
        numbers[f"{task}_quality"] = read_json(results / task / "quality.json")
        history = read_json(results / task / "history.json")
        numbers["training"][task] = training_numbers(history)
    numbers |= network_numbers(weights)
    numbers |= cross_validation_numbers(benchmarks)
    numbers["conditional"] = conditional_numbers(benchmarks / "conditional.jsonl")
    numbers["generators"] = generator_numbers(benchmarks / "generators.jsonl")
    numbers["sweep"] = sweep_numbers(benchmarks / "sweep" / "runs.jsonl")
    return numbers


def read_json(path):
    """What is in a JSON file."""
    return json.loads(path.read_text())


def read_table(path):
    """The runs in a file of JSON lines as a table, a row each. Raises UsageError if none."""
    runs = pd.DataFrame(read_runs(path))
    if runs.empty:
        raise malaria.UsageError(f"{path}: no finished runs; report/README.txt says what writes it")
    return runs


def spread(values):
    """The spread of a column."""
    values = values.dropna()
    if values.empty:
        return {"mean": None, "low": None, "high": None}
    return {
        "mean": float(values.mean()),
        "low": float(values.min()),
        "high": float(values.max()),
    }


def spreads(table, columns):
    """{column: spread} of some columns of a table, which may lack them."""
    table = table.reindex(columns=columns)
    return {column: spread(table[column]) for column in columns}


# The runs


def training_numbers(history):
    """What a run took and how it ended."""
    rows = pd.DataFrame(history["rows"])
    ends = max(1, min(10, len(rows) // 4))  # epochs that count as the end
    last = rows.tail(ends).drop(columns=["epoch", "step"])
    return {
        "epochs": len(rows),
        "ends": ends,
        "steps": int(rows["step"].iloc[-1]),
        "minutes": float(rows["seconds"].sum() / 60),
        "last": last.dropna(axis="columns").mean().to_dict(),
        "strength": history["strength"],
    }


def network_numbers(weights):
    """Number of parameters and table of layers of each network."""
    dcgan = malaria.load_checkpoint(weights / "gan.pt", "gan")
    mtd = malaria.load_checkpoint(weights / "mtd.pt", "mtd")
    noise = malaria.latents(1, dcgan.generator, 0)
    image = dcgan.generator(noise)
    networks = {
        "generator": (dcgan.generator, noise),
        "discriminator": (dcgan.discriminator, image),
        "mtd": (mtd.discriminator, image),
    }
    numbers = {"parameters": {}, "layers": {}}
    for name, (network, example) in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        numbers["parameters"][name] = count
        numbers["layers"][name] = layer_table(network, example)[1:]  # without the head
    return numbers


# The benchmarks


def cross_validation_numbers(benchmarks):
    """Numbers of benchmarks/classifiers.py.

    "benchmarks": what was classified; "classifiers": scores; "again": those of models that were
    trained once more on another machine, beside the MTD, or None.
    """
    path = benchmarks / "classifiers.jsonl"
    runs = read_table(path)
    complete = classifier_scores.models_of(runs)
    missing = {"mtd", "head", "head_scratch", "effnet"} - set(complete)
    if missing:
        raise malaria.UsageError(
            f"{path}: lacks folds of {', '.join(sorted(missing))}; run benchmarks.classifiers, "
            "which goes on"
        )
    seconds = read_json(benchmarks / "classifier_times.json")["seconds"]
    folds = complete["mtd"].drop_duplicates("fold")
    numbers = {
        "benchmarks": {
            "cells": int(folds["n"].sum()),
            "classes": folds["classes"].iloc[0],
            "views": int(folds["views"].iloc[0]),
        },
        "classifiers": classifier_numbers(runs, seconds),
        "again": None,
    }
    again = benchmarks / "classifiers_intel.jsonl"
    if again.exists():
        of_both = pd.concat([complete["mtd"], read_table(again)])
        numbers["again"] = classifier_numbers(of_both, seconds)
    return numbers


def classifier_numbers(runs, seconds):
    """Scores of every model that has all folds, and the differences between models.

    seconds: {model, or the DCGAN under some: processor seconds of training a fold}.
    """
    models = {}
    for model, rows in classifier_scores.models_of(runs).items():
        answers = classifier_scores.pooled_answers(rows)
        scores = classifier_scores.seed_scores(answers)
        models[model] = {
            "runs": len(rows),
            "seeds": len(scores),
            "parameters": int(rows["parameters"].iloc[0]),
            "seconds": seconds[model],
            "intervals": classifier_scores.intervals(answers),
            **spreads(scores, list(scores.columns)),
        }
    gains = {}
    shares = classifier_scores.share_right(runs)
    for first, second in classifier_scores.PAIRS:
        gain = classifier_scores.gain(shares, first, second)
        if gain:
            gains[f"{first}-{second}"] = gain._asdict()
    return {"models": models, "gains": gains, "dcgan_seconds": seconds["dcgan"]}


def conditional_numbers(path):
    """A classifier's scores by the cells it was trained on, and what it says of generated ones."""
    runs = read_table(path)
    numbers = {}
    for cells, rows in runs.groupby("cells", sort=False):
        numbers[cells] = {
            "trained_on": int(rows["trained_on"].iloc[0]),
            "n": int(rows["n"].iloc[0]),
            "seeds": len(rows),
            **spreads(rows, ["accuracy", "balanced_accuracy", "recognised"]),
        }
    per_class = pd.DataFrame(runs["recognised_per_class"].dropna().tolist())
    numbers["per_class"] = per_class.mean().to_dict()
    return numbers


def generator_numbers(path):
    """A row for each generator that benchmarks/generators.py trained, and real cells' numbers.

    "measured": KID of the weights that it only measured, over their draws of noise.
    Raises UsageError if a generator that the text is about is missing.
    """
    columns = ["kid_train", "kid_unseen", "frechet", "precision", "recall"]
    runs = read_table(path)
    measured = runs[runs["minutes"] == 0]  # weights that were not trained here, several draws
    trained = runs[runs["minutes"] > 0]
    missing = {"script", "assignment", "tutorial"} - set(trained["model"])
    if missing:
        raise malaria.UsageError(
            f"{path}: lacks {', '.join(sorted(missing))}; run benchmarks.generators, which goes on"
        )
    models = []
    for model, rows in trained.groupby("model", sort=False):
        first = rows.iloc[0]
        numbers = {
            "model": model,
            "seeds": len(rows),
            "minutes": float(first["minutes"]),
            "parameters": int(first["generator_parameters"]),
        }
        models.append(numbers | spreads(rows, ["steps", *columns]))
    last = trained.iloc[-1]
    return {
        "models": models,
        "floor": {column: last["floor"][column] for column in columns},
        "n": last["n"],
        "threads": int(last["threads"]),
        "measured": {"draws": len(measured), "kid_train": spread(measured["kid_train"])},
    }


def sweep_numbers(path):
    """A row for each setting of benchmarks/sweep.py; without numbers if all of its runs failed."""
    runs = read_table(path).reindex(columns=SWEEP_COLUMNS)
    settings = []
    for setting, rows in runs.groupby("setting", sort=False):
        finished = rows[rows["failed"].isna()]
        numbers = {"setting": setting, "seeds": len(finished)}
        if len(finished):
            numbers["steps"] = int(finished["steps"].iloc[0])
            numbers |= spreads(finished, ["kid_train", "kid_val", "precision", "recall"])
        settings.append(numbers)
    return settings
