"""A full disk at any stage: said as that, with what was kept, and the run can be finished.

The disk is full by /dev/full: files that are opened to be written are links to it.
The long forms: python -m pytest -q -m attack
"""

import functools
import re
from pathlib import Path

import attacks
import pytest

STAGES = max(2, int(11 * attacks.SCALE))
IS_FULL = re.compile("No space left|disk full")

pytestmark = pytest.mark.skipif(
    attacks.server is None or not Path("/dev/full").exists(), reason="no /dev/full"
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, small_data):
    """The StraightRuns of small data."""
    return attacks.StraightRuns(tmp_path_factory.mktemp("straight"), small_data)


def check_full_disk(straight, folder, sabotage):
    """The run fails in a line, or has only lost pictures; with new place it ends well."""
    outcome = attacks.go_on(straight.job, folder, sabotage=sabotage)
    attacks.make_place(folder)
    assert outcome.code in (0, 1, 2), outcome.errors  # 2: found before anything was begun
    assert "Traceback" not in outcome.errors
    about_disk = [line for line in outcome.errors.splitlines() if IS_FULL.search(line)]
    assert about_disk, outcome.errors
    if outcome.code == 0:
        assert all(line.startswith("warning: ") for line in about_disk), outcome.errors
        assert (folder / "saved_models" / f"{straight.job.task}.pt").exists()
    else:
        assert outcome.errors.splitlines()[-1].startswith(("failed: ", "error: ")), outcome.errors
    attacks.assert_ends_as(straight, folder)


def check_stage(straight, folder, share):
    """The disk is full from a change on, at a share of those in which files are opened."""
    numbers = [n for n, (event, _) in enumerate(straight.changes, start=1) if event == "open"]
    number = numbers[round(share * (len(numbers) - 1))]
    check_full_disk(straight, folder, functools.partial(attacks.fill_disk_at_change, number))


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_full_disk(straight, tmp_path, share):
    """While the crops are cut, and in training."""
    check_stage(straight("gan"), tmp_path / "run", share)


@pytest.mark.attack
@pytest.mark.parametrize("number", range(STAGES))
@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_a_full_disk_at_each_stage(straight, tmp_path, task, number):
    """From the cache of crops to the last picture."""
    check_stage(straight(task), tmp_path / "run", number / (STAGES - 1))


def test_no_place_for_the_crops(straight, tmp_path):
    """Space is reserved before it is used, or the process would be killed (SIGBUS)."""
    check_full_disk(straight("gan"), tmp_path / "run", attacks.refuse_to_reserve)
