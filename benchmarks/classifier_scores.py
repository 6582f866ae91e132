"""Scores of cross-validated classifiers: by seed, with bootstrap intervals, and one by another.

A run is one (model, seed, fold): the labels and probabilities of its held-out cells. Runs are a
DataFrame with a row each, as finished_runs reads them from a file of benchmarks.classifiers.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

import rollNumber_05 as malaria
from benchmarks.classifier_models import MODELS
from benchmarks.runs import hardware_line, mean_and_range, paragraph, text_of
from extras import scores
from extras.calibration import fit_temperature

# Pairs of models in the table of differences: the first less the second.
PAIRS = [
    *((model, "effnet") for model in MODELS if model != "effnet"),
    ("mtd", "head"),
    ("conditional", "head"),
    ("conditional", "mtd"),
    ("mtd_scratch", "head_scratch"),
    ("mtd", "mtd_scratch"),
    ("head", "head_scratch"),
]
BINS = 15  # of the calibration error
DRAWS = 2000  # of a bootstrap


class Interval(NamedTuple):
    """The ends of a 95 % bootstrap interval."""

    low: float
    high: float


class Gain(NamedTuple):
    """A difference of two models' accuracies and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


class PooledAnswers(NamedTuple):
    """The answers of one model about all N cells, its folds pooled, from S seeds."""

    labels: np.ndarray  # (N,)
    probabilities: np.ndarray  # (S, N, n)
    classes: list[str]


def complete_seeds(runs):
    """The runs of those seeds of a model that have all the folds which any model has."""
    folds_done = runs.groupby(["model", "seed"])["fold"].transform("nunique")
    return runs[folds_done == runs["fold"].nunique()]


def models_of(runs):
    """{model: its runs of complete seeds}, in the order of MODELS."""
    by_model = dict(list(complete_seeds(runs).groupby("model")))
    return {model: by_model[model] for model in MODELS if model in by_model}


def pooled_answers(runs):
    """The PooledAnswers of one model's runs of complete seeds."""
    probabilities = []
    for _, of_seed in runs.sort_values("fold").groupby("seed"):
        labels = np.concatenate(of_seed["labels"].tolist())
        probabilities.append(np.concatenate(of_seed["probabilities"].tolist()))
    return PooledAnswers(labels, np.stack(probabilities), runs["classes"].iloc[0])


def calibrate_folds(runs):
    """The runs with calibrated probabilities, and the temperature of each.

    A fold's is fitted on the answers about the cells of all other folds of its seed, which the
    models of those folds had not seen either: none on the cells that it is applied to.
    """
    calibrated = []
    for _, of_seed in runs.groupby("seed"):
        for _, fold in of_seed.iterrows():
            others = of_seed[of_seed["fold"] != fold["fold"]]
            labels = torch.from_numpy(np.concatenate(others["labels"].tolist()))
            answers = np.concatenate(others["probabilities"].tolist())
            temperature = fit_temperature(malaria.SingleLabel, answers, labels)
            own = np.array(fold["probabilities"])
            probabilities = malaria.SingleLabel.calibrated(own, temperature)
            changes = {"probabilities": probabilities, "temperature": temperature}
            calibrated.append({**fold, **changes})
    return pd.DataFrame(calibrated)


def calibration_table(runs):
    """A row for each model: its calibration error as it answers and calibrated, and how sure."""
    rows = {}
    for model, of_model in models_of(runs).items():
        calibrated = calibrate_folds(of_model)
        before = pooled_answers(of_model)
        after = pooled_answers(calibrated)
        cells = np.stack(resample([np.arange(len(after.labels))])).reshape(DRAWS, -1)
        low, high = calibration_interval(after, cells)
        rows[model] = {
            "as it answers": mean_and_range(seed_scores(before)["calibration error"]),
            "calibrated": mean_and_range(seed_scores(after)["calibration error"]),
            "95 % over cells": f"{low:.3f} to {high:.3f}",
            "temperature": mean_and_range(calibrated["temperature"], digits=2),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def seed_scores(answers):
    """A row for each seed of PooledAnswers: accuracies, calibration error, every class's recall."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    classes = answers.classes
    labels = torch.from_numpy(answers.labels)
    rows = []
    for probabilities in answers.probabilities:
        found = scores.classification_scores(
            malaria.SingleLabel, answers.labels, probabilities, classes
        )
        error = multiclass_calibration_error(
            torch.from_numpy(probabilities), labels, len(classes), n_bins=BINS
        )
        row = {
            "accuracy": found["accuracy"],
            "balanced": found["balanced_accuracy"],
            "calibration error": error.item(),
        }
        for name in classes:
            row[f"recall {name}"] = found["per_class"][name]["recall"]
        rows.append(row)
    return pd.DataFrame(rows)


def resample(groups):
    """[(DRAWS, n) for each array (n,)]: its values drawn with replacement.

    The draws are the same whenever the sizes are.
    """
    generator = np.random.default_rng(0)
    resampled = []
    for group in groups:
        draws = generator.integers(0, len(group), (DRAWS, len(group)))
        resampled.append(group[draws])
    return resampled


def intervals(answers):
    """{name: Interval} of the scores of PooledAnswers, of their means over the seeds.

    Cells are drawn anew within classes, the same for all seeds. This leaves out how far other
    seeds would differ and that neighbouring cells are alike.
    """
    labels = answers.labels
    share_right = (answers.probabilities.argmax(2) == labels).mean(0)
    present = np.unique(labels)
    draws = resample([np.flatnonzero(labels == label) for label in present])
    recalls = {}
    for label, cells in zip(present, draws, strict=True):
        recalls[f"recall {answers.classes[label]}"] = share_right[cells].mean(1)
    all_cells = np.concatenate(draws, 1)
    shares = {
        "accuracy": share_right[all_cells].mean(1),
        "balanced": np.mean(list(recalls.values()), 0),
        **recalls,
    }
    found = {}
    for name, values in shares.items():
        found[name] = Interval(*np.percentile(values, (2.5, 97.5)))
    found["calibration error"] = calibration_interval(answers, all_cells)
    return found


def calibration_interval(answers, draws):
    """The Interval of the calibration error over draws of cells (DRAWS, N).

    Drawing anew raises the error, so it is the basic one, twice the error less the percentiles, at
    least 0 (Davison and Hinkley 1997, sec. 5.2).
    """
    confidence = answers.probabilities.max(2)
    is_right = answers.probabilities.argmax(2) == answers.labels
    bins = np.digitize(confidence, np.linspace(0, 1, BINS + 1))
    in_bin = np.eye(BINS + 2)[bins]
    gaps = (is_right - confidence)[..., None] * in_bin  # (S, N, bins)

    def error(cells):
        return np.abs(gaps[:, cells].mean(1)).sum(1).mean()

    errors = [error(cells) for cells in draws]
    low_percentile, high_percentile = np.percentile(errors, (2.5, 97.5))
    measured = error(np.arange(len(answers.labels)))
    low = 2 * measured - high_percentile
    high = 2 * measured - low_percentile
    return Interval(max(0, low), max(0, high))


def share_right(runs):
    """For each cell (fold, cell, label) and model the share of its seeds that named it right."""
    cells = runs.explode(["labels", "probabilities"])
    cells["cell"] = cells.groupby(["model", "seed", "fold"]).cumcount()
    cells["is_right"] = cells["probabilities"].map(np.argmax) == cells["labels"]
    return cells.pivot_table("is_right", ["fold", "cell", "labels"], "model")


def gain(shares, first, second, balanced=True):
    """The Gain of one model over another, or None if no fold was done by both.

    shares: what share_right returns. The interval is of drawing cells anew, within classes if the
    accuracies are balanced, the same for both models; it leaves out what those of intervals() do.
    """
    if not {first, second} <= set(shares.columns):
        return None
    gains = (shares[first] - shares[second]).dropna()
    if gains.empty:
        return None
    groups = [gains.to_numpy()]
    if balanced:
        groups = [of_class.to_numpy() for _, of_class in gains.groupby("labels")]
    mean = np.mean([group.mean() for group in groups])
    drawn = np.mean([values.mean(1) for values in resample(groups)], 0)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Gain(float(mean), float(low), float(high))


def score_table(runs):
    """A row for each model: its scores, mean and range over its seeds."""
    rows = {}
    for model, of_model in models_of(runs).items():
        scores = seed_scores(pooled_answers(of_model))
        rows[model] = {"seeds": len(scores), **scores.apply(mean_and_range)}
    return pd.DataFrame.from_dict(rows, orient="index")


def interval_table(runs):
    """A row for each model: the intervals of its scores."""
    rows = {}
    for model, of_model in models_of(runs).items():
        found = intervals(pooled_answers(of_model))
        rows[model] = {name: f"{low:.3f} to {high:.3f}" for name, (low, high) in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def gain_table(runs):
    """A row for each of the PAIRS that was done: the gains of both accuracies."""
    shares = share_right(runs)
    rows = {}
    for first, second in PAIRS:
        row = {}
        for name, balanced in (("accuracy", False), ("balanced accuracy", True)):
            found = gain(shares, first, second, balanced)
            if found:
                row[name] = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
        if row:
            rows[f"{first} - {second}"] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def describe(runs, times=None):
    """The tables of runs as text; times: what benchmarks.classifiers --time has measured.

    Raises UsageError if no model has a seed with all its folds.
    """
    scores = score_table(runs)
    if scores.empty:
        raise malaria.UsageError("no model has a seed with all its folds; run it once more")
    cells = runs.drop_duplicates("fold")["n"].sum()
    folds = runs["fold"].nunique()
    parts = [
        paragraph(
            f"Cross-validation of {cells} cells in {folds} folds, which are pooled within a seed; "
            "a seed has its own first weights, batches and DCGAN."
        ),
        hardware_line(runs, "model"),
        "",
        "Mean (lowest-highest) over the seeds.",
        tables_of_scores(scores),
        "",
        "95 % bootstrap intervals over the cells, of the means over the seeds.",
        tables_of_scores(interval_table(runs)),
    ]
    gains = gain_table(runs)
    if not gains.empty:
        parts += ["", "Differences of accuracies, with 95 % bootstrap intervals.", text_of(gains)]
    if folds > 1:
        sentence = (
            "Calibration error, and after dividing the logits by one temperature, fitted for each "
            "fold on the cells of the others."
        )
        parts += ["", paragraph(sentence), text_of(calibration_table(runs))]
    parts += ["", "Trained parameters.", text_of(parameter_table(runs))]
    if times:
        parts += ["", describe_times(times)]
    return "\n".join(parts)


def tables_of_scores(table):
    """A table of scores as text, the recalls in a table of their own."""
    recalls = table.filter(like="recall ")
    return "\n".join([text_of(table.drop(columns=recalls.columns)), text_of(recalls)])


def parameter_table(runs):
    """A row for each model: how many parameters it trains."""
    parameters = runs.groupby("model", sort=False)["parameters"].first()
    return parameters.map("{:,}".format).to_frame()


def describe_times(times):
    """What benchmarks.classifiers --time has measured, as text."""
    seconds = pd.Series(times["seconds"], name="seconds")
    table = seconds.to_frame()
    if "effnet" in seconds:
        table["over effnet"] = seconds / seconds["effnet"]
    line = "Processor seconds of training a fold, without the DCGAN, which has its own row."
    return "\n".join([line, f"Hardware: {times['hardware']}.", text_of(table.round(3))])
