"""Lines that tell a user how a training goes, and what is there after a disk or a kill."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, take_signals

import rollNumber_05 as malaria
from extras import advice, classes, files

LOSSES = {"loss_d": 0.01, "d_real": 0.999, "d_fake": 0.001}


def test_a_discriminator_that_wins_is_told():
    """After ten epochs of it."""
    assert "D has told real from generated" in advice.on_discriminator([LOSSES] * 10)


def test_nine_epochs_are_not_long():
    """It can still turn."""
    assert advice.on_discriminator([LOSSES] * 9) is None


def test_one_good_epoch_of_the_generator_counts():
    """Among the last ten."""
    rows = [LOSSES] * 9 + [LOSSES | {"d_fake": 0.4}]
    assert advice.on_discriminator(rows) is None


def test_generated_cells_that_are_alike_are_told(random_data):
    """Their spread is far below that of real cells."""
    data = random_data([0, 1, 2, 3] * 4)
    one_cell = data.uint8(slice(0, 1))
    assert "nearly alike" in advice.on_samples(np.repeat(one_cell, 16, 0), data)


def test_generated_cells_that_differ_are_fine(random_data):
    """As the real ones do."""
    data = random_data([0, 1, 2, 3] * 4)
    assert advice.on_samples(data.uint8()[::-1], data) is None


def test_one_cell_in_all_turns_is_told(tmp_path, small_config, random_data, monkeypatch, capsys):
    """What G draws is looked at, before it is turned."""
    config = small_config(results_dir=str(tmp_path), epochs=10)
    trainer = malaria.Trainer("gan", config, classes.STAGES, "cpu")
    trainer.epoch = 10
    one_cell = torch.rand(3, 32, 32)

    def draw(noise, labels):
        return one_cell.repeat(len(noise), 1, 1, 1)

    monkeypatch.setattr(trainer.averages["generator"].module, "forward", draw)
    assert malaria.fixed_samples(trainer).std(0).mean() > 20  # they look varied
    reporter = malaria.EpochReporter(trainer, random_data([0, 1, 2, 3] * 4))
    monkeypatch.setattr(reporter, "judge_epoch", lambda row: False)
    (tmp_path / "gan/samples").mkdir(parents=True)
    losses = dict.fromkeys(malaria.StepMetrics._fields, 0.5)
    reporter.finish_epoch({"epoch": 10, "images_per_second": 1.0, **losses})
    assert "nearly alike" in capsys.readouterr().err


@pytest.mark.parametrize(("recall", "is_told"), [(0.01, True), (0.3, False)])
def test_low_recall_is_told(recall, is_told):
    """At the end of a run."""
    assert (advice.on_recall(recall) is not None) == is_told


def test_classes_of_few_cells_are_told():
    """Not those without any, which a note of the data names."""
    per_class = {"ring": {"support": 40}, "schizont": {"support": 3}, "other": {"support": 0}}
    (line,) = advice.on_supports("test", per_class)
    assert line == "test has 3 of class schizont: too few to judge it by"


def test_a_warning_is_given_once(run_script, small_data, tmp_path, monkeypatch):
    """Not after every epoch."""
    monkeypatch.setattr(advice, "ALIKE", 100)
    flags = ("--task", "gan", "--data_path", small_data, *TINY, "--min_steps", 1, "--epochs", 12)
    done = run_script(*flags, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("nearly alike") == 1


# What is left where, and what is said of it


def test_a_full_disk_is_called_that():
    """Whatever the system says."""
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert files.in_words(error).startswith("the disk is full")


def test_what_was_kept_is_said_when_the_report_fails(run_script, small_data, tmp_path, monkeypatch):
    """The training is on the disk."""
    flags = ("--task", "gan", "--data_path", small_data, *TINY, "--epochs", 1)
    (tmp_path / "saved_models/gan.pt").mkdir(parents=True)
    done = run_script(*flags, "--overwrite", cwd=tmp_path)
    assert done.returncode == 1
    assert "epoch 1 of 1 is in results/gan/last.pt" in done.stderr


def read_again(run_script, small_data, cwd):
    """Run --task data, which has to end well; returns what is in its cache, by file name."""
    done = run_script("--data_path", small_data, "--task", "data", *TINY, cwd=cwd)
    assert done.returncode == 0
    return {path.name: path for path in (cwd / "results/cache").glob("*/*")}


def test_a_cut_cache_is_made_again(run_script, small_data, tmp_path):
    """As after a full disk or a copy that was broken off."""
    images = read_again(run_script, small_data, tmp_path)["images.npy"]
    whole = images.read_bytes()
    images.write_bytes(whole[:1000])
    read_again(run_script, small_data, tmp_path)
    assert images.read_bytes() == whole


def test_a_damaged_index_is_made_again(run_script, small_data, tmp_path):
    """It is JSON of something else."""
    index = read_again(run_script, small_data, tmp_path)["index.json"]
    whole = index.read_text()
    index.write_text("{}")
    read_again(run_script, small_data, tmp_path)
    assert index.read_text() == whole


def test_parts_that_a_kill_has_left_are_removed(run_script, small_data, tmp_path):
    """At the next start, of whatever data they were."""
    part = tmp_path / "results/cache/0123456789abcdef.part"
    part.mkdir(parents=True)
    (part / "images.npy").write_bytes(b"half of it")
    read_again(run_script, small_data, tmp_path)
    assert not part.exists()


def test_the_noted_command_repeats_a_run(run_script, small_data, tmp_path):
    """config.json has it; the weights are equal bit for bit."""
    flags = ("--task", "gan", "--data_path", small_data, *TINY, "--epochs", 2, "--seed", 3)
    assert run_script(*flags, "--no-smooth", cwd=tmp_path).returncode == 0
    first = torch.load(tmp_path / "results/gan/last.pt", weights_only=True)
    command = json.loads((tmp_path / "results/gan/config.json").read_text())["command"]
    _, program, *arguments = shlex.split(command)
    assert program == "rollNumber_05.py"
    again = tmp_path / "again"
    again.mkdir()
    assert run_script(*arguments, cwd=again).returncode == 0
    second = torch.load(again / "results/gan/last.pt", weights_only=True)
    torch.testing.assert_close(second["weights"], first["weights"], rtol=0, atol=0)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no telling what is imported")
def test_ctrl_c_during_imports_is_no_traceback():
    """Torch takes seconds to import; the signal comes when its library is being loaded."""
    program = [sys.executable, ROOT / "rollNumber_05.py", "--help"]
    process = subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=take_signals
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
