"""Every benchmark runs: a few steps of each section, no figures are checked."""
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
