"""Reads every number that report.typ prints from the files that the programs left.

A spread is the mean and range of a number over seeds, as {"mean", "low", "high"}; None where it was
not measured.
"""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

import rollNumber_05 as malaria
from benchmarks import classifier_scores, heatmaps, sweep
from benchmarks.runs import read_runs
from extras import captions
from extras.layers import layer_table

HERE = Path(__file__).resolve().parent
COMMITTED = HERE / "results"
SWEEP_COLUMNS = [
    "setting",
    "failed",
    "hardware",
    "steps",
    "kid_train",
    "kid_val",
    "precision",
    "recall",
]
HEAT_MAPS = {**heatmaps.DRAWN, heatmaps.CENTRE: heatmaps.MIDDLE}  # {name in the report: MapKind}
HEAT_SCORES = ["hit", "energy over chance"]
DIGIT_SCORES = ["confidence", "sure", "entropy", "recognised", "accuracy"]
PICTURES = (  # of those that a run leaves, the ones whose sentence the report prints
    "losses.png",
    "quality.png",
    "weights_generator.png",
    "classifier_curves.png",
    "confusion_matrix.png",
    "predictions_right.png",
    "gradcam_right.png",
)


def read_numbers(results, weights, benchmarks):
    """Everything that report.typ prints, as one nested dict.

    results: what experiments.collect left; weights: the folder of gan.pt and mtd.pt; benchmarks:
    the folder with the results of benchmarks/. Raises UsageError if a benchmark is not complete.
    """
    numbers = {
        "data": read_json(results / "data.json"),
        "mtd_scores": read_json(results / "mtd" / "scores.json"),
        "captions": {name: captions.caption(name)[1].sentence for name in PICTURES},
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
    numbers["calibration"] = calibration_numbers(benchmarks / "classifiers.jsonl")
    numbers["shipped_calibration"] = read_json_if_there(results / "calibration.json")
    numbers["faithfulness"] = faithfulness_numbers(benchmarks / "heatmaps_faithfulness.jsonl")
    numbers["anomaly"] = anomaly_numbers(benchmarks / "anomaly.jsonl")
    # These are of the demo set and of MNIST, whatever the other results are of.
    numbers["heatmaps"] = heat_map_numbers(COMMITTED / "heatmaps_demo.jsonl")
    numbers["digits"] = digit_numbers(COMMITTED / "digits.jsonl")
    return numbers


def read_json(path):
    """What is in a JSON file."""
    return json.loads(path.read_text())


def read_json_if_there(path):
    """What is in a JSON file, or None if there is no such file."""
    return read_json(path) if path.exists() else None


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


def interval(values):
    """The mean of numbers (N,) and the ends of its 95 % bootstrap interval, as a dict."""
    values = np.asarray(values)
    (draws,) = classifier_scores.resample([values])
    low, high = np.percentile(draws.mean(1), (2.5, 97.5))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


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
    for setting, rows in in_order(runs):
        finished = rows[rows["failed"].isna()]
        numbers = {
            "setting": setting,
            "seeds": len(finished),
            "hardware": rows["hardware"].iloc[0],
        }
        if len(finished):
            numbers["steps"] = int(finished["steps"].iloc[0])
            numbers |= spreads(finished, ["kid_train", "kid_val", "precision", "recall"])
        settings.append(numbers)
    return settings


def in_order(runs):
    """(setting, its runs) in the order of benchmarks/sweep.py, whenever they were made."""
    by_setting = dict(list(runs.groupby("setting")))
    return [(name, by_setting[name]) for name in sweep.SETTINGS if name in by_setting]


def parts_of(values, limit):
    """A list in as few parts of about the same length as can be, each of at most `limit`."""
    count = max(1, math.ceil(len(values) / limit))
    return [part.tolist() for part in np.array_split(values, count)]


def calibration_numbers(path):
    """{model: its calibration error before and after temperature scaling, and the temperatures}.

    "before", "after": the spread over seeds, and as "interval" that of drawing cells anew.
    """
    numbers = {}
    for model, runs in classifier_scores.models_of(read_table(path)).items():
        calibrated = classifier_scores.calibrate_folds(runs)
        numbers[model] = {
            "before": calibration_error(runs),
            "after": calibration_error(calibrated),
            "temperature": spread(calibrated["temperature"]),
        }
    return numbers


def calibration_error(runs):
    """The calibration error of a model's runs: its spread over the seeds, and its interval."""
    answers = classifier_scores.pooled_answers(runs)
    (cells,) = classifier_scores.resample([np.arange(len(answers.labels))])
    errors = classifier_scores.seed_scores(answers)["calibration error"]
    return spread(errors) | {"interval": classifier_scores.calibration_interval(answers, cells)}


# Heat maps


def heat_map_numbers(path):
    """Where the HEAT_MAPS point on the demo set.

    "tried": how many kinds of map there are, without the middle. "chances": {class: {"n", "hit",
    "energy"}}. "maps": a row for each map, side of the images and
    number of steps for each J(D), with {class: {score: spread over the seeds}}.
    """
    rows = heatmaps.one_row_a_class(read_table(path))
    chances = {}
    for name, cells in rows.groupby("class", sort=False):
        chances[name] = {
            "n": int(cells["n"].iloc[0]),
            "hit": float(cells["hit_chance"].mean()),
            "energy": float(cells["energy_chance"].mean()),
        }
    by_kind = dict(list(rows.groupby(list(heatmaps.MapKind._fields))))
    maps = []
    for name, kind in HEAT_MAPS.items():
        for (size, every), part in by_kind[kind].groupby(["image_size", "adversarial_every"]):
            maps.append(
                {
                    "map": name,
                    "size": int(size),
                    "every": int(every),
                    "seeds": int(part["seed"].nunique()),
                    "scores": scores_by_class(part),
                }
            )
    return {"tried": len(by_kind) - 1, "chances": chances, "maps": maps}


def scores_by_class(rows):
    """{class: {score: spread}} of the rows of one_row_a_class."""
    by_class = rows.groupby("class", sort=False)
    return {name: spreads(of_class, HEAT_SCORES) for name, of_class in by_class}


def faithfulness_numbers(path):
    """Areas under the deletion and insertion curves of the HEAT_MAPS and of random ones.

    "maps": {map: {"area": {curve: interval}, and the areas less those of others}}. "blurred": the
    class that most cells are answered once blurred, and how many of the "n" are.
    """
    runs = read_table(path)
    first = runs.iloc[0]
    by_map = runs.set_index("map")
    names = {name: str(kind) for name, kind in HEAT_MAPS.items()}
    names |= {heatmaps.CENTRE: heatmaps.CENTRE, "random": heatmaps.RANDOM}
    areas = {name: by_map.loc[row, "areas"] for name, row in names.items()}
    maps = {}
    for name, row in names.items():
        others = {"less random": areas["random"], "less centre": areas[heatmaps.CENTRE]}
        laid_on_others = by_map.loc[row, "on_other_cells"]
        if isinstance(laid_on_others, dict):  # those that differ from cell to cell
            others["less other cells"] = laid_on_others["areas"]
        numbers = {"area": {curve: interval(values) for curve, values in areas[name].items()}}
        for key, less in others.items():
            numbers[key] = differences(areas[name], less)
        maps[name] = numbers
    counts = pd.Series(first["answers_blurred"]).value_counts()
    return {
        "n": int(first["n"]),
        "blurred": {"class": first["classes"][counts.index[0]], "count": int(counts.iloc[0])},
        "maps": maps,
    }


def differences(areas, others):
    """{curve: interval of the areas less others, cell by cell}."""
    return {curve: interval(np.subtract(areas[curve], others[curve])) for curve in areas}


# Uses and other data


def anomaly_numbers(path):
    """How well an MTD notices images unlike its training cells, of the test fields.

    "cells": how many there are and the share that is called unlike. "kinds": a row for each kind of
    image, with {method: area under the ROC curve and its interval} and the share that is noticed.
    """
    runs = read_table(path)
    runs = runs[runs["split"] == "test"]
    kinds = []
    for kind, rows in runs.groupby("kind", sort=False):
        by_method = rows.set_index("method")
        numbers = {"kind": kind, "n": int(rows["n"].iloc[0])}
        numbers["noticed"] = by_method["noticed"].to_dict()
        if kind != "cells":
            areas = by_method[["area", "low", "high"]].rename(columns={"area": "mean"})
            numbers["areas"] = areas.to_dict("index")
        kinds.append(numbers)
    return {"cells": kinds[0], "kinds": kinds[1:]}


def digit_numbers(path):
    """What benchmarks/digits.py measured, or None while it has no DCGAN and judge.

    "judge": how it reads real digits. "networks": a row for each kind of network, with the spreads
    of its scores over the seeds and, of generators, the share of each digit.
    """
    runs = pd.DataFrame(read_runs(path))
    if runs.empty or not {"judge", "gan"} <= set(runs["network"]):
        return None
    judge = runs[runs["network"] == "judge"].iloc[0]
    networks = []
    others = runs[runs["network"] != "judge"]
    for (network, epochs), rows in others.groupby(["network", "epochs"], sort=False):
        shares = pd.DataFrame(rows["shares"].dropna().tolist())
        networks.append(
            {
                "network": network,
                "epochs": int(epochs),
                "seeds": int(rows["seed"].nunique()),
                "n": int(rows["n"].iloc[0]),
                "shares": shares.mean().to_dict(),
                **spreads(rows, DIGIT_SCORES),
            }
        )
    return {
        "trained_on": int(judge["trained_on"]),
        "judge": {"n": int(judge["n"]), "accuracy": float(judge["accuracy"])},
        "networks": networks,
    }
