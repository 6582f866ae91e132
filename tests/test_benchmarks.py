"""Every benchmark runs: a few steps of each part, no figures are checked."""
import json
import subprocess
import sys

import pytest
from conftest import ROOT


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
