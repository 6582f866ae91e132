"""benchmarks/gpu_day.py: a smoke run, loops that fail, and the replayed step beside the eager one.

The figures of the short run are not looked at.
"""

import pytest
import torch
from conftest import run_here

import rollNumber_05 as malaria
from benchmarks import gpu_day, runs
from extras import replay

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory, small_data):
    """(the finished smoke run on the CPU, the records it wrote)."""
    folder = tmp_path_factory.mktemp("gpu_day")
    out = folder / "gpu_day.jsonl"
    flags = ("--smoke", "--device", "cpu", "--data_path", small_data, "--out", out)
    finished = run_here(gpu_day.run, *flags, cwd=folder)
    return finished, runs.read_runs(out)


@pytest.fixture(scope="module")
def steps_of(smoke_run):
    """The function of a task that returns its records."""
    _, records = smoke_run

    def records_of(task):
        return [record for record in records if record.get("task") == task]

    return records_of


def test_a_smoke_run_ends_well(smoke_run):
    """With exit code 0 and nothing but tables."""
    finished, _ = smoke_run
    assert finished.returncode == 0, finished.stderr
    assert "over_tutorial" in finished.stdout


@pytest.mark.parametrize(
    ("task", "loops"), [("gan", gpu_day.OWN + gpu_day.OTHERS), ("mtd", gpu_day.OWN)]
)
def test_each_loop_is_timed(steps_of, task, loops):
    """Those of torch.compile of the DCGAN only."""
    assert [record["loop"] for record in steps_of(task)] == list(loops)
    assert all(record["images_per_second"] > 0 for record in steps_of(task))


def test_no_loop_fails(smoke_run):
    """Not even those of torch.compile."""
    _, records = smoke_run
    assert not [record["failed"] for record in records if "failed" in record]


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_launches_are_counted(steps_of, task):
    """A step takes some."""
    assert all(record["launches"] > 0 for record in steps_of(task))


def test_the_first_step_is_timed_from_the_command(smoke_run):
    """Of both loops of the script."""
    _, records = smoke_run
    names = [record["loop"] for record in records if "seconds_from_command" in record]
    assert names == ["eager", "replayed"]


def test_no_case_begins_when_the_minutes_are_over(tmp_path, monkeypatch):
    """A lent GPU goes back in time."""
    monkeypatch.setattr(gpu_day, "measure_first_steps", lambda flags: [])
    monkeypatch.setattr(gpu_day, "summary", lambda path: "")
    finished = run_here(gpu_day.run, "--smoke", "--device", "cpu", "--minutes", "0", cwd=tmp_path)
    assert finished.stdout.count("not measured") == 3


def test_a_loop_that_fails_is_noted_beside_the_others(monkeypatch, small_config, random_data):
    """A compiler can be missing, and a graph impossible to record."""

    def failing(*arguments):
        raise RuntimeError("no compiler\nis here")

    monkeypatch.setitem(gpu_day.LOOPS, "equal", failing)
    data = random_data([row % 4 for row in range(40)])
    case = gpu_day.Case("gan", "the assignment's", 32, 8)
    monkeypatch.setitem(gpu_day.LOOPS, "tutorial", gpu_day.eager_loop)
    names = ("tutorial", "equal")
    first, second = gpu_day.measure_case(case, names, small_config(), data, None, smoke=True)
    assert first["images_per_second"] > 0
    assert second["failed"] == "RuntimeError: no compiler is here"


@needs_cuda
@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_the_replayed_step_has_the_losses_of_the_eager_one(small_config, random_data, task):
    """From the same weights, on the same batches and random numbers."""
    config = small_config(device="cuda", adversarial_every=1)
    data = random_data([row % 4 for row in range(40)])
    data = malaria.MalariaDataset(data.images, data.index, device="cuda")
    loop = gpu_day.replayed_loop(task, config, data, None)
    loop.run(replay.WARM_UP + 2)
    assert gpu_day.difference_of_losses(loop, 5) < 1e-3
