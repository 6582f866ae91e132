"""Files from strangers, signals and damaged folders: nothing breaks, nothing is lost.

The long forms: python -m pytest -q -m attack
"""

import copy
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, take_signals

import rollNumber_05 as malaria
from extras import drawing, files, image_sets, signals

ODD_VALUES = [
    "abc", ["a"], "3", None, [1], 0, {}, 5, 16.5, [], -1, 2**70, math.nan, math.inf, True,
    torch.zeros(1), torch.zeros(0), torch.full((2, 2), math.nan), {"a": 1}, b"x", (1, 2), "a,b",
    4096, 1e308, torch.zeros(3, dtype=torch.int32),
]  # fmt: skip


@pytest.fixture(scope="module")
def states(tmp_path_factory, small_data):
    """{task: the state of a run of one epoch} of both tasks."""
    folder = tmp_path_factory.mktemp("states")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(malaria, "report_run", lambda *arguments: None)
        for task in ("gan", "mtd"):
            flags = [
                "--task",
                task,
                "--data_path",
                str(small_data),
                *map(str, TINY),
                "--epochs",
                "1",
            ]
            assert malaria.main(malaria.run, flags) == 0
            found[task] = torch.load(folder / f"results/{task}/last.pt", weights_only=True)
    return found


@pytest.fixture
def resume(tmp_path, small_data, monkeypatch, capsys):
    """A function of a task and a state: resume from it without training; (exit code, error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(malaria, "run_epochs", lambda *arguments: None)
    monkeypatch.setattr(malaria, "report_run", lambda *arguments: None)

    def call(task, state, *more):
        torch.save(state, "stranger.pt")
        flags = ["--task", task, "--data_path", str(small_data), "--resume", "stranger.pt"]
        code = malaria.main(malaria.run, [*flags, "--epochs", "3", *more])
        return code, capsys.readouterr().err

    return call


def places_in(value, path=()):
    """The paths to everything inside dicts, and to the first entries of lists."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from places_in(inside, (*path, key))
    elif isinstance(value, list):
        for number, inside in enumerate(value[:3]):
            yield from places_in(inside, (*path, number))


def mutated(state, draws):
    """A copy of a state of which one part is deleted or something odd."""
    state = copy.deepcopy(state)
    *above, last = draws.choice(list(places_in(state)))
    container = state
    for key in above:
        container = container[key]
    if draws.random() < 0.15:
        del container[last]
        return state
    value = container[last]
    options = list(ODD_VALUES)
    if isinstance(value, torch.Tensor):
        options += [value.double(), value.flatten()[:1].clone(), value.expand(2, *value.shape)]
    if isinstance(value, list):
        options += [value + value, value[:-1]]
    container[last] = draws.choice(options)
    return state


def check_mutants(resume, task, state, seed, count):
    """Resume from mutants: they are taken up, or refused in one line."""
    draws = random.Random(seed)
    for _ in range(count):
        code, error = resume(task, mutated(state, draws))
        assert code in (0, 2), error
        if code == 2:
            assert error.startswith("error: "), error
            assert error.count("\n") == 1, error


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_mutated_checkpoints_are_refused_in_a_line(states, resume, task):
    """No traceback, no crash."""
    check_mutants(resume, task, states[task], seed=0, count=25)


@pytest.mark.attack
@pytest.mark.parametrize("seed", range(1, 21))
@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_many_mutated_checkpoints(states, resume, task, seed):
    """Two thousand of them."""
    check_mutants(resume, task, states[task], seed, count=50)


def test_a_checkpoint_of_the_same_task_is_taken_up(states, resume):
    """The refusals mean something."""
    assert resume("gan", states["gan"])[0] == 0


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_a_run_from_before_a_flag_goes_on(states, small_data, tmp_path, monkeypatch, task):
    """What the flag stands for is settled then, as at a run's start."""
    monkeypatch.chdir(tmp_path)
    state = copy.deepcopy(states[task])
    for name in malaria.SETTLED:
        del state["config"][name]
    torch.save(state, "old.pt")
    flags = ["--task", task, "--data_path", str(small_data), "--resume", "old.pt", "--epochs", "2"]
    assert malaria.main(malaria.run, flags) == 0
    config = malaria.load_checkpoint(f"results/{task}/last.pt").state["config"]
    assert (config["d_steps"], config["adversarial_every"], config["symmetry"]) == (1, 1, "all")


@pytest.mark.parametrize("symmetry", [None, "auto"])
def test_a_checkpoint_does_not_choose_what_is_looked_at(states, tmp_path, monkeypatch, symmetry):
    """Its data_path may be there, be an .npz, or be another's disk."""
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", train_images=np.zeros((4, 28, 28), np.uint8))
    state = copy.deepcopy(states["gan"])
    state["config"] |= {"data_path": "images.npz", "symmetry": symmetry}
    if symmetry is None:
        del state["config"]["symmetry"]
    torch.save(state, "foreign.pt")
    monkeypatch.setattr(image_sets, "find_npz", pytest.fail)
    assert malaria.load_checkpoint("foreign.pt").state["config"]["symmetry"] == "all"


def test_an_optimiser_of_other_shapes_is_refused(states, resume):
    """It would corrupt memory."""
    state = copy.deepcopy(states["gan"])
    for entry in state["optimizers"]["generator"]["state"].values():
        entry["exp_avg"] = torch.zeros(1)
    code, error = resume("gan", state)
    assert code == 2
    assert "optimizers.generator.0.exp_avg" in error


@pytest.mark.parametrize("place", ["format", "task", "epoch", "best", "strength"])
def test_a_tensor_in_the_place_of_a_plain_value_is_refused(states, resume, place):
    """Compared by element it has no truth."""
    state = copy.deepcopy(states["gan"])
    state[place] = torch.zeros(2, 2)
    code, error = resume("gan", state)
    assert code == 2
    assert error.count("\n") == 1


@pytest.mark.parametrize("value", [torch.zeros(2, 2), [torch.zeros(2, 2)], None])
def test_odd_numbers_of_parameters_are_refused(states, resume, value):
    """Of an optimiser's one group."""
    state = copy.deepcopy(states["gan"])
    state["optimizers"]["generator"]["param_groups"][0]["params"] = value
    code, error = resume("gan", state)
    assert code == 2
    assert "of other parameters" in error


@pytest.mark.parametrize("kind", ["weights", "ema"])
def test_weights_that_are_not_finite_are_refused(states, resume, kind):
    """--json would print NaN."""
    state = copy.deepcopy(states["gan"])
    list(state[kind]["generator"].values())[-1].fill_(math.nan)
    code, error = resume("gan", state)
    assert code == 2
    assert "not finite" in error


def test_a_checkpoint_does_not_ask_for_memory(states, resume):
    """The sizes in its config have to be those of its tensors before anything is made."""
    state = copy.deepcopy(states["gan"])
    state["config"]["g_width"] = 4096
    code, error = resume("gan", state)
    assert code == 2
    assert "weights.generator" in error


@pytest.mark.parametrize("name", ["results_dir", "save_dir"])
def test_a_checkpoint_does_not_choose_where_files_go(states, resume, tmp_path, name):
    """These come from the command line."""
    state = copy.deepcopy(states["gan"])
    state["config"][name] = "elsewhere"
    assert resume("gan", state)[0] == 0
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("damage", [b"", b"cut off"])
def test_a_damaged_sample_does_not_keep_a_run_from_its_end(
    run_script, small_data, tmp_path, damage
):
    """The weights are delivered, and the animation is of the other samples."""
    flags = ("--task", "gan", "--data_path", small_data, *TINY)
    assert run_script(*flags, "--epochs", 1, cwd=tmp_path).returncode == 0
    (tmp_path / "results/gan/samples/epoch_0001.png").write_bytes(b"cut off")
    (tmp_path / "saved_models/gan.pt").unlink()
    assert run_script(*flags, "--epochs", 2, "--resume", cwd=tmp_path).returncode == 0
    assert (tmp_path / "saved_models/gan.pt").exists()
    assert (tmp_path / "results/gan/samples.gif").stat().st_size > 0


def test_a_picture_that_fails_is_a_warning(run_script, small_data, tmp_path, monkeypatch):
    """Weights and scores are delivered all the same."""

    def fail(*arguments, **settings):
        raise ValueError("no such font")

    monkeypatch.setattr(drawing, "gallery", fail)
    flags = ("--task", "mtd", "--data_path", small_data, *TINY, "--epochs", 1)
    done = run_script(*flags, cwd=tmp_path)
    assert done.returncode == 0
    assert "warning: the predictions was not drawn (ValueError: no such font)" in done.stderr
    assert (tmp_path / "saved_models/mtd.pt").exists()
    assert (tmp_path / "results/mtd/scores.json").exists()


def test_a_file_is_replaced_or_stays(tmp_path):
    """What fails while a file is written leaves the old one, and no part."""
    path = tmp_path / "numbers.txt"
    files.save_text("old", path)
    with pytest.raises(OSError, match="disk"), files.replacing(path) as part:
        part.write_text("half of the n")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_class_can_have_dollars_in_its_name(tmp_path):
    """They are no formula."""
    import numpy as np

    picture = drawing.Picture(np.zeros((8, 8, 3), np.uint8), "a$b$ 1_2^")
    drawing.gallery(tmp_path / "picture.png", "$", [picture])
    assert (tmp_path / "picture.png").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_keep_what_is_finished(small_data, tmp_path, number, code):
    """Exit code 128 and the number, one line that says how to go on, no traceback."""
    flags = ["--task", "gan", "--data_path", small_data, *TINY, "--epochs", 100000]
    command = [sys.executable, ROOT / "rollNumber_05.py", *flags]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=take_signals,
    )
    second = tmp_path / "results/gan/samples/epoch_0002.png"
    deadline = time.time() + 120
    while not second.exists() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert "--resume goes on" in error
    assert "Traceback" not in error


def test_a_signal_while_a_checkpoint_is_written_is_no_failure(
    run_script, small_data, tmp_path, monkeypatch
):
    """What torch.save says of a file that was broken off is not what happened."""

    def break_off(state, file):
        try:
            raise signals.Stopped(signal.SIGINT)
        finally:
            raise RuntimeError("unexpected pos 492928 vs 492816")

    monkeypatch.setattr(torch, "save", break_off)
    flags = ("--task", "gan", "--data_path", small_data, *TINY, "--epochs", 1)
    done = run_script(*flags, cwd=tmp_path)
    assert done.returncode == 130
    assert "stopped gan: no epoch was finished" in done.stderr
