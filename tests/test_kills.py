"""Kills at any moment, and two runs at once: what is finished stays, and the end is the same.

The long forms: python -m pytest -q -m attack; ATTACK_SCALE=3 makes three times as many.
"""

import functools
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attacks
import pytest
import torch

TASKS = ("gan", "mtd", "all")
AIMED_KILLS = max(2, int(40 * attacks.SCALE))

pytestmark = pytest.mark.skipif(attacks.server is None, reason="no processes to fork")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, small_data):
    """The StraightRuns of small data."""
    return attacks.StraightRuns(tmp_path_factory.mktemp("straight"), small_data)


# Random kills


def check_random_kills(straight, folder, seed, kills):
    """A run is killed again and again, and ends as one that was not."""
    draws = random.Random(seed)
    for outcome in attacks.stop_at_random(straight.job, folder, draws, kills, straight.seconds):
        assert outcome.is_killed or outcome.code == 0, outcome.errors
    attacks.assert_ends_as(straight, folder)


def test_random_kills(straight, tmp_path):
    """Each a SIGKILL at any moment of a run that goes on with the one before."""
    check_random_kills(straight("all"), tmp_path / "run", seed=0, kills=3)


@pytest.mark.attack
@pytest.mark.parametrize("seed", range(1, 1 + int(14 * attacks.SCALE)))
@pytest.mark.parametrize("task", TASKS)
def test_many_random_kills(straight, tmp_path, task, seed):
    """Two hundred of them."""
    check_random_kills(straight(task), tmp_path / "run", seed, kills=5)


# Kills aimed at writes


def check_aimed_kill(straight, folder, share):
    """A run that is killed at one of its changes, at a share of them, ends as one that is not."""
    number = 1 + round(share * (len(straight.changes) - 1))
    sabotage = functools.partial(attacks.kill_at_change, number)
    outcome = attacks.go_on(straight.job, folder, sabotage=sabotage)
    assert outcome.code == -signal.SIGKILL, straight.changes[number - 1]
    attacks.assert_ends_as(straight, folder)


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_a_kill_while_a_file_is_written(straight, tmp_path, share):
    """Half of the new file is there; the old one stays."""
    check_aimed_kill(straight("gan"), tmp_path / "run", share)


@pytest.mark.attack
@pytest.mark.parametrize("number", range(AIMED_KILLS))
@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_kills_at_each_write(straight, tmp_path, task, number):
    """At nearly every file that is opened to be written, or renamed."""
    check_aimed_kill(straight(task), tmp_path / "run", number / (AIMED_KILLS - 1))


# Two runs at once


def run_at_once(job, folder):
    """The Outcomes of two processes that are started at once; all states can be read meanwhile."""
    folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(attacks.attempt, job.flags(), folder) for _ in range(2)]
        while not all(run.done() for run in runs):
            for path in Path(folder, "results").glob("*/last.pt"):
                torch.load(path, weights_only=True)
            time.sleep(0.05)
    return [run.result() for run in runs]


def check_two_at_once(straight, folder):
    """One of two runs in a folder is finished; the other is refused, or comes after it."""
    outcomes = run_at_once(straight.job, folder)
    codes = sorted(outcome.code for outcome in outcomes)
    assert codes in ([0, 0], [0, 2]), [outcome.errors for outcome in outcomes]
    for outcome in outcomes:
        if outcome.code == 2:
            assert "is training here" in outcome.errors
            assert outcome.errors.count("\n") == 1
    found = attacks.leavings(folder)
    for name, content in straight.leavings.items():
        assert found[name] == content, name


def test_two_runs_at_once(straight, tmp_path):
    """They do not destroy each other's files."""
    check_two_at_once(straight("gan"), tmp_path / "run")


@pytest.mark.attack
@pytest.mark.parametrize("number", range(int(20 * attacks.SCALE)))
def test_two_runs_at_once_many_times(straight, tmp_path, number):
    """Of both tasks."""
    task = ("gan", "mtd")[number % 2]
    check_two_at_once(straight(task), tmp_path / "run")
