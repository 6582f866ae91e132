"""Every benchmark runs, a few steps of each part; scores and intervals of known answers are right.

The figures of the short runs are not looked at.
"""

import functools
import importlib.util
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, run_here

import rollNumber_05 as malaria
from benchmarks import classifiers, conditional, generators, results, runs, speed, sweep
from benchmarks.classifier_scores import (
    complete_seeds,
    gain,
    intervals,
    pooled_answers,
    seed_scores,
    share_right,
)
from benchmarks.peers import Loop, SampledGenerator, TutorialLoop
from extras import drawing

run_classifiers = functools.partial(run_here, classifiers.run, "--smoke")
run_conditional = functools.partial(run_here, conditional.run, "--smoke")
run_generators = functools.partial(run_here, generators.run, "--smoke")
run_sweep = functools.partial(run_here, sweep.run, "--smoke")
run_speed = functools.partial(run_here, speed.run, "--smoke")


def rows_of(table):
    """The first words of the lines of a text."""
    return {line.partition(" ")[0] for line in table.splitlines()}


@pytest.fixture
def few_generated(monkeypatch):
    """A measurement draws 20 cells."""
    monkeypatch.setattr(malaria, "GENERATED", 20)


# Files of runs


def test_an_unfinished_line_does_not_count(tmp_path):
    """A kill can leave half a line at the end of a file."""
    path = tmp_path / "runs.jsonl"
    path.write_text('{"seed": 0}\n{"seed": 1, "acc')
    assert runs.read_runs(path) == [{"seed": 0}]


def test_a_run_is_added_after_an_unfinished_line(tmp_path):
    """The new line is whole, the half one stays unread."""
    path = tmp_path / "runs.jsonl"
    path.write_text('{"seed": 0}\n{"seed": 1, "acc')
    runs.append_run(path, {"seed": 2})
    assert runs.read_runs(path) == [{"seed": 0}, {"seed": 2}]


def test_a_file_without_runs_is_refused(tmp_path):
    """There is nothing to sum up."""
    with pytest.raises(malaria.UsageError, match="no finished runs"):
        runs.finished_runs(tmp_path / "runs.jsonl")


def test_a_mean_is_given_with_its_range():
    """As all tables have it."""
    assert runs.mean_and_range(pd.Series([0.1, 0.3]), digits=2) == "0.20 (0.10-0.30)"


def test_the_results_in_the_repository_are_those_of_its_files(monkeypatch):
    """RESULTS.txt is what benchmarks.results writes of report/results/."""
    monkeypatch.setattr(malaria, "GENERATED", 500)  # of which the sweep's table speaks
    text = results.describe_results(ROOT / "report" / "results")
    assert text == (ROOT / "benchmarks" / "RESULTS.txt").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("speed.json", "{} to {} times tutorials' loop with bf16"),
        ("speed_avx2.json", "{} to {} without"),
    ],
)
def test_the_readme_says_how_fast_training_is(name, words):
    """As --task runs, over the tutorials' loop, the slowest and the fastest case."""
    cases = json.loads((ROOT / "report" / "results" / name).read_text())["train"].values()
    ratios = [case["script"]["over_tutorial"] for case in cases]
    sentence = words.format(round(min(ratios), 1), round(max(ratios), 1))
    assert sentence in (ROOT / "README.txt").read_text()


# Scores of classifiers


CLASSES = ["ring", "schizont"]


def run_of(model, seed, is_right, confidence, fold=0):
    """A run of classifiers about cells of two classes in turn.

    is_right: bool (N,); confidence: the probability (N,), or of all, of the answer.
    """
    labels = np.arange(len(is_right)) % 2
    answers = np.where(is_right, labels, 1 - labels)
    confidence = np.broadcast_to(confidence, len(is_right))
    second = np.where(answers == 1, confidence, 1 - confidence)
    return {
        "model": model,
        "seed": seed,
        "fold": fold,
        "labels": labels.tolist(),
        "classes": CLASSES,
        "probabilities": np.stack([1 - second, second], 1).tolist(),
    }


def answers_of(seeds, share, confidence, cells=200):
    """PooledAnswers of which a share is right, with a confidence."""
    draws = np.random.default_rng(0)
    records = []
    for seed in range(seeds):
        is_right = draws.random(cells) < share
        records.append(run_of("mtd", seed, is_right, confidence))
    return pooled_answers(pd.DataFrame(records))


def test_intervals_are_of_every_score():
    """No score of a seed is without one."""
    answers = answers_of(3, 0.8, 0.9)
    assert set(intervals(answers)) == set(seed_scores(answers).columns)


def test_intervals_hold_the_scores():
    """The mean over the seeds lies inside."""
    answers = answers_of(3, 0.8, 0.9)
    means = seed_scores(answers).mean()
    for name, interval in intervals(answers).items():
        assert interval.low < means[name] < interval.high, name


def test_intervals_are_wider_for_fewer_cells():
    """40 cells say less than 200."""
    many = intervals(answers_of(3, 0.8, 0.9))
    few = intervals(answers_of(3, 0.8, 0.9, cells=40))
    for name in many:
        assert many[name].high - many[name].low < few[name].high - few[name].low, name


def test_intervals_of_answers_that_are_all_right_are_points():
    """Nothing is spread; a confidence of 0.8 is an error of 0.2."""
    found = intervals(answers_of(2, 1, 0.8))
    assert found.pop("calibration error") == pytest.approx((0.2, 0.2))
    for name, interval in found.items():
        assert interval == pytest.approx((1, 1)), name


def test_drawing_anew_does_not_raise_the_interval_of_the_calibration_error():
    """Answers right as often as they claim: percentiles would lie above the error."""
    confidence = np.linspace(0.5, 1, 300)
    is_right = np.random.default_rng(1).random(300) < confidence
    answers = pooled_answers(pd.DataFrame([run_of("mtd", 0, is_right, confidence)]))
    interval = intervals(answers)["calibration error"]
    error = seed_scores(answers)["calibration error"].item()
    assert interval.low < 0.5 * error
    assert interval.high < 1.5 * error


def test_a_seed_that_lacks_a_fold_is_not_complete():
    """Seed 1 has one of the two folds."""
    is_right = np.ones(4, bool)
    table = pd.DataFrame(
        [
            run_of("mtd", 0, is_right, 0.9, fold=0),
            run_of("mtd", 0, is_right, 0.9, fold=1),
            run_of("mtd", 1, is_right, 0.9, fold=0),
        ]
    )
    assert complete_seeds(table)["seed"].tolist() == [0, 0]


def test_a_gain_is_the_difference_of_the_shares_that_are_right():
    """All right against half right."""
    is_half_right = np.arange(8) < 4
    table = pd.DataFrame(
        [run_of("mtd", 0, np.ones(8, bool), 0.9), run_of("head", 0, is_half_right, 0.9)]
    )
    found = gain(share_right(table), "mtd", "head")
    assert found.mean == 0.5
    assert found.low < 0.5 < found.high


def test_models_without_a_common_fold_have_no_gain():
    """Their cells are not the same."""
    is_right = np.ones(4, bool)
    table = pd.DataFrame(
        [run_of("mtd", 0, is_right, 0.9, fold=0), run_of("head", 0, is_right, 0.9, fold=1)]
    )
    assert gain(share_right(table), "mtd", "head") is None


# Frechet distance


def test_the_frechet_distance_of_shifted_features_is_the_shift_squared():
    """Their covariances are equal: 8 features, each shifted by 2."""
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert generators.frechet_distance(features, features + 2) == pytest.approx(8 * 2**2, rel=1e-4)


def test_the_frechet_distance_is_that_of_gaussians_whose_traces_are_known():
    """For S = A^T A the trace of (S_a S_b)^1/2 is the nuclear norm of A B^T."""
    draws = torch.Generator().manual_seed(0)
    features = torch.rand(30, 40, generator=draws).double()
    others = torch.rand(20, 40, generator=draws).double() ** 2
    a = (features - features.mean(0)) / 29**0.5
    b = (others - others.mean(0)) / 19**0.5
    means = features.mean(0).dist(others.mean(0)) ** 2
    trace = torch.linalg.matrix_norm(a @ b.T, "nuc")
    expected = means + a.norm() ** 2 + b.norm() ** 2 - 2 * trace
    found = generators.frechet_distance(features, others)
    assert found == pytest.approx(expected.item(), rel=1e-4)


# Time to a quality


class IdleLoop(Loop):
    """A loop whose steps take no work."""

    def run(self, steps):
        """Nothing."""


def test_the_quality_is_taken_at_the_end_of_a_short_training():
    """Once, for it takes longer than the training."""
    steps, _, stops = generators.train(IdleLoop(), 0.01, lambda: 0.5)
    assert [(stop.steps, stop.kid_train) for stop in stops] == [(steps, 0.5)]


def test_the_quality_is_taken_after_each_tenth_of_a_long_training(monkeypatch):
    """A clock that goes on by seven seconds a turn; measuring takes none of them."""
    clock = itertools.count(0, 7)
    monkeypatch.setattr(generators.time, "perf_counter", lambda: next(clock))
    _, seconds, stops = generators.train(IdleLoop(), 100, lambda: 0.5)
    assert len(stops) == generators.STOPS
    assert stops[-1].seconds == seconds


def test_the_seconds_to_a_quality_are_those_of_the_first_stop_that_has_it():
    """A later one can be worse again."""
    stops = [generators.Stop(10.0 * i, i, kid) for i, kid in enumerate([0.9, 0.31, 0.3, 0.4])]
    assert generators.seconds_to_good(stops) == 20.0
    assert generators.seconds_to_good(stops[:2]) is None


# Sweep


def test_a_run_whose_loss_is_not_finite_is_named_and_not_averaged(tmp_path):
    """One of two seeds failed."""
    shared = {"setting": "default", "hardware": "a machine", "cells": 9}
    measured = {"steps": 20, "images": 640, "seconds": 3.0, "kid_train": 1.25}
    runs.append_run(tmp_path / "runs.jsonl", {**shared, "seed": 0, **measured})
    runs.append_run(tmp_path / "runs.jsonl", {**shared, "seed": 1, "failed": "not finite"})
    text = sweep.summary(tmp_path)
    assert "1.25\n" in text
    assert "default (seed 1)" in text


# Short runs


def test_classifiers_train_answer_and_go_on(tmp_path, small_data):
    """Two models; a second run finds all of it done."""
    flags = ["--data_path", small_data, "--out", "out.jsonl", "--models", "mtd", "probe"]
    done = run_classifiers(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows_of(done.stdout) >= {"mtd", "probe"}
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == 4  # two models, two folds

    again = run_classifiers(*flags, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out.jsonl").read_text().splitlines() == lines


def test_no_peer_is_turned(small_config, tmp_path):
    """Their discriminators saw nothing turned."""
    (tmp_path / "ring").mkdir()
    drawing.write_image(tmp_path / "ring/0.png", np.zeros((64, 64, 3), np.uint8))
    config = small_config(image_size=64)
    tutorial = TutorialLoop("gan", config, tmp_path, 1, torch.device("cpu"))
    assert tutorial.generator.symmetry == SampledGenerator.symmetry == "none"


def test_runs_of_other_steps_are_not_mixed(tmp_path, small_data):
    """A file with a longer training is refused."""
    flags = ["--data_path", small_data, "--out", "out.jsonl", "--models", "head_scratch"]
    run_classifiers(*flags, cwd=tmp_path)
    line = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    (tmp_path / "out.jsonl").write_text(json.dumps({**line, "steps": 4000}) + "\n")
    done = run_classifiers(*flags, cwd=tmp_path)
    assert done.returncode == 2
    assert "out.jsonl" in done.stderr


def test_a_conditional_generator_is_judged(tmp_path, small_data):
    """An untrained one; every kind of training cells has its row."""
    done = run_conditional("--data_path", small_data, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows_of(done.stdout) >= {"real", "generated", "both", "ring"}


def test_a_generator_that_is_not_conditional_is_refused(tmp_path, small_data):
    """It cannot be asked for a class."""
    weights = ROOT / "saved_models" / "mtd.pt"
    done = run_here(conditional.run, "--data_path", small_data, "--weights", weights, cwd=tmp_path)
    assert done.returncode == 2
    assert "not conditional" in done.stderr


def test_a_summary_without_results_is_refused(tmp_path):
    """The message names the file."""
    done = run_here(speed.run, "--summary", "--out", "none.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "none.json" in done.stderr


def test_sweep_trains_and_draws(tmp_path, small_data, few_generated):
    """One setting leaves its samples and the picture of all."""
    flags = ["--data_path", small_data, "--out", "sweep", "--settings", "default"]
    done = run_here(sweep.run, *flags, "--seeds", 0, "--images", 640, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "default" in rows_of(done.stdout)
    assert (tmp_path / "sweep" / "default_0.png").exists()
    assert (tmp_path / "sweep" / "sweep.png").exists()


@pytest.mark.long
def test_all_classifiers(tmp_path):
    """Each has its rows."""
    done = run_classifiers(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows_of(done.stdout) >= set(classifiers.MODELS)


@pytest.mark.long
def test_times_of_all_classifiers(tmp_path):
    """Each has its processor seconds, and so has the DCGAN."""
    done = run_classifiers("--time", "--out", "out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    seconds = json.loads((tmp_path / "classifier_times.json").read_text())["seconds"]
    assert set(seconds) == {"dcgan", *classifiers.MODELS}
    assert min(seconds.values()) > 0


@pytest.mark.long
def test_all_generators(tmp_path, few_generated):
    """Each has its row, and a picture of its cells."""
    done = run_generators("--out", "out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows_of(done.stdout) >= {"floor", *generators.ON_CPU}
    for model in generators.ON_CPU:
        assert (tmp_path / f"out_{model}_0.png").exists(), model


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("lightweight_gan") is None, reason="lightweight-gan is not installed"
)
def test_generators_that_are_only_trained_if_named(tmp_path, small_data, few_generated):
    """lightweight-gan on a CPU too, which stands in for the GPU that it asks for."""
    flags = ["--data_path", small_data, "--out", "out.jsonl", "--device", "cpu"]
    done = run_generators(*flags, "--models", "lightweight", "replayed", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows_of(done.stdout) >= {"lightweight", "replayed"}


@pytest.mark.long
def test_sweep_of_three_settings(tmp_path, few_generated):
    """Each has its row."""
    done = run_sweep(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows_of(done.stdout) >= {"default", "batch", "SGD"}


@pytest.mark.long
@pytest.mark.parametrize("section", speed.SECTIONS)
def test_speed(section, tmp_path, few_generated):
    """Each section writes its numbers."""
    done = run_speed("--only", section, "--out", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())[section]


@pytest.mark.long
def test_speed_measures_sections_in_processes_of_their_own(tmp_path):
    """Two sections end up in one file."""
    flags = ["--only", "answer", "flops", "--out", tmp_path / "out.json"]
    done = run_speed(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(json.loads((tmp_path / "out.json").read_text())) == {"hardware", "answer", "flops"}
