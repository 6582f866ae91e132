"""Every benchmark runs, a few steps of each part, whose figures are not checked; intervals of known answers are."""
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import classifiers  # noqa: E402


@pytest.mark.parametrize("section", ["train", "flops", "start", "answer", "epoch"])
def test_speed(section, tmp_path):
    """The smoke form of one section writes its numbers."""
    command = [sys.executable, ROOT / "benchmarks/speed.py", "--smoke", "--only", section, "--out", tmp_path / "out.json"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())[section]


@pytest.mark.parametrize("program", ["generators", "classifiers", "conditional", "sweep"])
def test_smoke_forms(program, tmp_path):
    """Every model of a comparison trains a little and has its row in the table."""
    command = [sys.executable, ROOT / f"benchmarks/{program}.py", "--smoke"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    models = {"generators": ["script", "tutorial", "torchgan", "floor"],
              "classifiers": ["mtd", "head", "mtd_scratch", "effnet", "resnet18"],
              "conditional": ["real", "generated", "both", "of 8 generated"], "sweep": ["default", "batch 16", "SGD"]}
    assert all(any(line.startswith(model) for line in table) for model in models[program])


def test_times_of_classifiers(tmp_path):
    """Every classifier has its processor seconds."""
    command = [sys.executable, ROOT / "benchmarks/classifiers.py", "--smoke", "--time", "--out", tmp_path / "out.jsonl"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    times = json.loads((tmp_path / "classifier_times.json").read_text())
    assert set(times) == {"mtd", "head", "conditional", "dcgan", "mtd_scratch", "head_scratch", "effnet", "probe", "resnet18"}
    assert min(times.values()) > 0


def answers(seeds, right, sure, cells=200):
    """[records of one seed, ...] of cells of two classes: a share is right, with a probability of sure."""
    rng, labels = np.random.default_rng(0), np.arange(cells) % 2
    seeds = [np.where(rng.random(cells) < right, labels, 1 - labels) for _ in range(seeds)]
    return [[{"labels": labels.tolist(), "classes": ["ring", "schizont"], "probabilities": [
        [sure, 1 - sure] if a == 0 else [1 - sure, sure] for a in said]}] for said in seeds]


def test_intervals_lie_about_the_scores():
    """They hold what is scored, are wider for fewer cells, and without any spread they are a point."""
    seeds = answers(3, 0.8, 0.9)
    found, few = classifiers.intervals(seeds), classifiers.intervals(answers(3, 0.8, 0.9, 40))
    means = {k: np.mean([classifiers.scores(records)[k] for records in seeds]) for k in found}
    assert all(low < means[k] < high and high - low < few[k][1] - few[k][0] for k, (low, high) in found.items())
    assert set(found) == {"accuracy", "balanced", "calibration error", "recall ring", "recall schizont"}
    for name, interval in classifiers.intervals(answers(2, 1, 0.8)).items():
        assert interval == pytest.approx((0.2,) * 2 if name == "calibration error" else (1, 1)), name


def test_the_calibration_errors_interval_is_not_raised_by_drawing_anew():
    """Answers right as often as they claim: percentiles would lie above the error, the basic interval reaches far below it."""
    rng, sure = np.random.default_rng(1), np.linspace(0.5, 1, 300)
    said = rng.random(300) < sure
    records = [{"labels": [0] * 300, "classes": ["ring", "schizont"], "probabilities": [
        [p, 1 - p] if r else [1 - p, p] for p, r in zip(sure.tolist(), said)]}]
    (low, high), error = classifiers.intervals([records])["calibration error"], classifiers.scores(records)["calibration error"]
    assert low < 0.5 * error and high < 1.5 * error
