"""Odd paths and absurd values on the command line: they work, or are refused in a line.

The long forms, a hundred of each: python -m pytest -q -m attack
"""

import dataclasses
import os
import socket
from pathlib import Path

import attacks
import layouts
import numpy as np
import pytest
from conftest import TINY

import rollNumber_05 as malaria

pytestmark = pytest.mark.skipif(attacks.server is None, reason="no processes to fork")

SECONDS = 100  # for one command
GIBIBYTE = 2**30
ODD_NAMES = {
    "space": "with a space",
    "quotes": "\"double\" 'single' `back`",
    "percent": "100%s %n %(name)s {0}",
    "newline": "two\nlines",
    "emoji": "malaria 🦟",
    "surrogate": "lone \udcff",
    "255 bytes": "n" * 255,
    "too long": "n" * 300,
    "leading dash": "-dash",
    "pattern": "*.png",
    "dollar": "$HOME ~ \\t",
    "combining": "Zu\u0308rich",
}
MADE = {
    "loop": "a link to itself",
    "pipe": "a FIFO",
    "socket": "a socket",
    "broken link": "a link to nothing",
    "folder": "an empty folder",
    "empty file": "a file of no bytes",
    "text file": "a file of text",
}
PLAIN = {
    "device": "/dev/zero",
    "full device": "/dev/full",
    "nothing": "",
    "in a device": "/dev/null/inside",
    "no place to make": "/proc/nothing",
    "URL": "https://example.org/data.zip",
    "nobody's home": "~nobody-at-all/data",
}
KINDS = [*ODD_NAMES, *MADE, *PLAIN]
FLAGS = (
    "--data_path", "--results_dir", "--save_dir", "--resume", "--weights",
    "test --weights", "test --image", "test --noise", "test --out", "test --data_path",
)  # fmt: skip
SOME = [("--data_path", "pipe"), ("test --image", "device"), ("--results_dir", "text file")]


def odd_path(folder, kind):
    """A path of a kind, as it is written on the command line, with what is there made."""
    if kind in PLAIN:
        return PLAIN[kind]
    path = Path(folder, ODD_NAMES.get(kind, kind))
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(path, Path.cwd()))
    elif kind == "broken link":
        path.symlink_to("nothing")
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "text file":
        path.write_text("not what is expected")
    elif kind == "leading dash":
        return path.name
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_data):
    """A folder with a trained DCGAN and MTD, an image and noise, of which `flags_of` makes use."""
    folder = tmp_path_factory.mktemp("place")
    for task in ("gan", "mtd"):
        done = attacks.go_on(attacks.Job(task, small_data, epochs=1), folder)
        assert done.code == 0, done.errors
    layouts.smear(folder / "cell.png", "ring")
    np.save(folder / "noise.npy", np.zeros((1, 100), np.float32))
    return folder


def flags_of(flag, value, small_data):
    """(whether it is for test.py, command line) in which a flag has a value."""
    train = ["--task", "gan", *TINY, "--epochs", 1]
    if not flag.startswith("test "):
        if flag == "--weights":
            train[1] = "mtd"
        data = [] if flag == "--data_path" else ["--data_path", small_data]
        return False, [*train, *data, f"{flag}={value}"]
    name = flag.removeprefix("test ")
    model = "mtd" if name in ("--image", "--data_path") else "gan"
    return True, ["--model", model, f"{name}={value}"]


def stop_after_start():
    """In this process trainings have no epochs, and no reports: all before them is as usual."""
    malaria.run_epochs = lambda *arguments: None
    malaria.report_run = lambda *arguments: None


def assert_one_line(outcome, what):
    """A process ended with exit code 0, or with 2 and one line that says why."""
    assert not outcome.is_killed, f"{what}: took more than {SECONDS} seconds"
    assert outcome.code in (0, 2), f"{what}: {outcome.code} {outcome.errors}"
    assert "Traceback" not in outcome.errors, f"{what}: {outcome.errors}"
    if outcome.code == 2:
        assert outcome.errors.startswith("error: "), f"{what}: {outcome.errors}"
        assert outcome.errors.count("\n") == 1, f"{what}: {outcome.errors}"


def check_path(place, small_data, flag, kind, folder):
    """A program works with a path of that kind for a flag, or refuses it."""
    is_tester, flags = flags_of(flag, odd_path(folder, kind), small_data)
    if is_tester:
        outcome = attacks.attempt(flags, place, work=attacks.run_tester, seconds=SECONDS)
    else:
        outcome = attacks.attempt(flags, place, sabotage=stop_after_start, seconds=SECONDS)
    assert_one_line(outcome, f"{flag} {kind}")


@pytest.mark.parametrize(("flag", "kind"), SOME)
def test_odd_paths(place, small_data, tmp_path, flag, kind):
    """That would be waited for, or written over."""
    check_path(place, small_data, flag, kind, tmp_path)


@pytest.mark.attack
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flag", FLAGS)
def test_many_odd_paths(place, small_data, tmp_path, flag, kind):
    """Every flag that takes a path, with every kind."""
    check_path(place, small_data, flag, kind, tmp_path)


# Absurd values

ABSURD = {
    int: ["-1", "0", "1000000000", str(2**70), "1.5", "one", "", "nan", "9" * 5000],
    float: ["-1", "nan", "inf", "1e308", "1e-320", "0", "much", "", "1,5"],
    str: ["", "nothing", "a,b", "n" * 5000, "--", "\udcff", "a\nb"],
}
PATHS = {"data_path", "results_dir", "save_dir", "weights", "resume"}


def absurd_values():
    """(flag, value) of every flag that is no path and no switch."""
    pairs = []
    for field in dataclasses.fields(malaria.Config):
        if field.name not in PATHS and field.type is not bool:
            pairs += [(field.name, value) for value in ABSURD[field.type]]
    return pairs


def limit_memory():
    """This process starts a run, with at most 24 GiB of addresses, and does not train."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (24 * GIBIBYTE, 24 * GIBIBYTE))
    stop_after_start()


def check_value(place, small_data, name, value):
    """A value is taken, or refused in a line."""
    flags = ["--task", "mtd", "--data_path", small_data, *TINY, f"--{name}={value}"]
    outcome = attacks.attempt(flags, place, sabotage=limit_memory, seconds=SECONDS)
    assert_one_line(outcome, f"--{name} {value[:50]!r}")


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", "1000000000"), ("min_steps", "1000000000"), ("epochs", "1000000000")],
)
def test_numbers_beyond_reason_are_refused(name, value):
    """They would take all memory, or for ever."""
    with pytest.raises(malaria.UsageError, match="out of range"):
        malaria.config_from([f"--{name}", value])


@pytest.mark.attack
@pytest.mark.parametrize(("name", "value"), absurd_values())
def test_absurd_values(place, small_data, name, value):
    """Of every flag."""
    check_value(place, small_data, name, value)
