"""The script in processes that are killed, or find the disk full, and what is left of their runs.

Each process is forked off one that has imported torch, so that it starts at once.
"""

import csv
import errno
import functools
import hashlib
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib.figure
import torch
from conftest import ROOT, TINY
from PIL import Image

import rollNumber_05 as malaria
from extras import checks, drawing, more_plots, quality

SCALE = float(os.environ.get("ATTACK_SCALE", "1"))  # how many attacks, 1 being ten minutes
TIMES = ("seconds", "images_per_second")  # differ from run to run
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

server = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else None
if server:
    server.set_forkserver_preload(["attacks", "matplotlib.pyplot", *checks.NEEDED_LATER])


class Outcome(NamedTuple):
    """How a process ended: exit code, negative after a signal; what it said; in how many seconds.

    is_killed: whether it still ran when its time was over.
    """

    code: int
    output: str
    errors: str
    seconds: float
    is_killed: bool


def attempt(arguments, folder, *, sabotage=None, seconds=120.0, work=None):
    """The Outcome of a run of the script in a folder, with its reports, in one thread.

    sabotage: a function without arguments, called in the process before the run. seconds: after
    which the process is killed. work: a function of the arguments, by default the script's run.
    """
    folder = Path(folder)
    name = f"{time.monotonic_ns()}"
    streams = [folder.parent / f"{folder.name}.{name}.{stream}.txt" for stream in ("out", "err")]
    arguments = list(map(str, arguments))
    process = server.Process(target=run_here, args=(arguments, folder, streams, sabotage, work))
    start = time.monotonic()
    process.start()
    process.join(seconds)
    is_killed = process.is_alive()
    if is_killed:
        process.kill()
        process.join()
    took = time.monotonic() - start
    texts = [read_and_remove(stream) for stream in streams]
    return Outcome(process.exitcode, *texts, took, is_killed)


def read_and_remove(path):
    """The text of a file, which goes; none where the process did not come to write it."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def run_here(arguments, folder, streams, sabotage, work):
    """Run the script in this process, a fork; its output goes to files."""
    os.chdir(folder)
    for descriptor, stream in enumerate(streams, start=1):
        file = os.open(stream, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(
        2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1
    )
    torch.set_num_threads(1)
    make_reports_quick()
    if sabotage:
        sabotage()
    code = malaria.main(work or malaria.run, arguments)
    sys.stdout.flush()
    sys.exit(code)


def run_tester(arguments):
    """What test.py does with a command line."""
    spec = importlib.util.spec_from_file_location("program_under_test", ROOT / "test.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.run(arguments)


class Averages(torch.nn.Module):
    """A network of features that are made in no time: the mean colours of an image."""

    def extract_features(self, images):
        """(N, 3, S, S) -> (N, 3, S, S)."""
        return images


def save_small_picture(figure, path, **settings):
    """Save a picture of nothing in the place of a figure, as drawing takes seconds."""
    Image.new("RGB", (8, 8)).save(path)


def draw_first_picture(gallery, path, title, pictures, columns=8):
    """A gallery of one of the pictures: each has axes of its own, which take long to make."""
    gallery(path, title, pictures[:1], columns=1)


def make_reports_quick():
    """All files of a run are still written, in their order."""
    small_gallery = functools.partial(draw_first_picture, drawing.gallery)
    drawing.gallery = small_gallery
    more_plots.gallery = small_gallery
    malaria.GENERATED = 40  # cells that a measurement draws
    quality.feature_network = Averages
    matplotlib.figure.Figure.savefig = save_small_picture


# Runs that are stopped, and gone on with


class Job(NamedTuple):
    """A run of the script: its task, its data, and how many epochs."""

    task: str
    data: Path
    epochs: int = 2

    def flags(self):
        """The command line."""
        sizes = [*TINY, "--epochs", self.epochs, "--measure_every", 2]
        return ["--task", self.task, "--data_path", self.data, *sizes]

    def command(self, folder):
        """The command line that a user gives in a folder: with --resume if a run is there."""
        tasks = ("gan", "mtd") if self.task == "all" else (self.task,)
        has_run = any((folder / "results" / task / "last.pt").exists() for task in tasks)
        return [*self.flags(), "--resume"] if has_run else self.flags()


def go_on(job, folder, **settings):
    """The Outcome of going on with a Job in a folder, as a user would."""
    folder.mkdir(exist_ok=True)
    return attempt(job.command(folder), folder, **settings)


def stop_at_random(job, folder, draws, kills, duration):
    """Kill a Job several times at random within its duration; returns the Outcomes."""
    return [go_on(job, folder, seconds=draws.uniform(0, duration)) for _ in range(kills)]


def leavings(folder):
    """{file: what it holds, in a form that can be compared} of a finished run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_part = any(".part" in part for part in name.parts)
        is_cache = name.parts[:2] == ("results", "cache") and not is_part
        if path.is_file() and not is_cache and path.suffix != ".lock":
            found[name.as_posix()] = substance(path)
    return found


def substance(path):
    """What is in a file of a run, but for times and how the run was started; None of a picture."""
    if path.suffix == ".pt":
        state = malaria.read_state(path)
        del state["config"]
        return digest(state)
    if path.suffix == ".csv" and path.name == "metrics.csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [without_times(row) for row in csv.DictReader(file)]
    if path.suffix == ".json" and path.name != "config.json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix in (".png", ".gif"):
        with Image.open(path) as image:
            image.load()
    return None


def without_times(row):
    """A row without what differs from run to run."""
    return {name: value for name, value in row.items() if name not in TIMES}


def digest(value):
    """A hash of all that a nested state holds, tensors to the bit, but for times."""
    total = hashlib.sha256()
    for name, part in flat(value):
        if isinstance(part, torch.Tensor):
            part = (part.dtype, part.shape, part.contiguous().numpy().tobytes())
        total.update(repr((name, part)).encode())
    return total.hexdigest()


def flat(value, name=""):
    """Yield (name, value) of all that a nested state holds, but for times."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, part in items:
        if key not in TIMES:
            yield from flat(part, f"{name}.{key}")


class Straight(NamedTuple):
    """A Job, what it leaves when it is never stopped, its changes, and its seconds."""

    job: Job
    leavings: dict
    changes: list
    seconds: float


class StraightRuns:
    """The Straight run of each task on a data set, made when it is first asked for."""

    def __init__(self, folder, data):
        self.folder = folder
        self.data = data
        self.runs = {}

    def __call__(self, task):
        """The Straight run of "gan", "mtd" or "all"."""
        if task not in self.runs:
            job = Job(task, self.data)
            changes = changes_of(job, self.folder / f"{task}_noted")
            done = go_on(job, self.folder / task)
            assert done.code == 0, done.errors
            self.runs[task] = Straight(job, leavings(self.folder / task), changes, done.seconds)
        return self.runs[task]


def assert_ends_as(straight, folder):
    """Going on with a stopped run ends well, and leaves what the run never stopped does."""
    done = go_on(straight.job, folder)
    assert done.code == 0, done.errors
    found = leavings(folder)
    differing = found.keys() ^ straight.leavings.keys()
    assert not differing, f"files of one of the two runs only: {sorted(differing)}"
    for name, content in found.items():
        expected = straight.leavings[name]
        assert content == expected, f"{name}: {content}, and without a stop {expected}"


# Sabotage: what happens to a process when it changes something in its folder


def changed_path(event, arguments):
    """The path, relative to here, that an audit event (PEP 578) is about to write, or None."""
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, (str, bytes, os.PathLike)) or not flags & WRITING:
            return None
    elif event in ("os.rename", "os.mkdir"):
        path = arguments[0]
    else:
        return None
    path = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # links are to stay
    here = f"{Path.cwd()}{os.sep}"
    if not path.startswith(here) or path.endswith("lock"):
        return None
    return path.removeprefix(here)


def at_changes(action):
    """Call action(number, event, path) before this process writes, renames or makes something.

    number: how many files were opened to be written, or renamed, so far.
    """
    count = 0
    is_inside = False

    def hook(event, arguments):
        nonlocal count, is_inside
        path = None if is_inside else changed_path(event, arguments)
        if path is None:
            return
        is_inside = True  # what the action itself does is not of the run
        count += event != "os.mkdir"
        try:
            action(count, event, path)
        finally:
            is_inside = False

    sys.addaudithook(hook)


def note_changes(log):
    """Write each change of this process into a file, a line each."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT)

    def action(number, event, path):
        if event != "os.mkdir":
            os.write(file, f"{event} {path}\n".encode())

    at_changes(action)


def kill_at_change(wanted):
    """Kill this process at a change; a file that was to be renamed has only its first half."""

    def action(number, event, path):
        if number != wanted or event == "os.mkdir":
            return
        if event == "os.rename" and Path(path).is_file():
            os.truncate(path, Path(path).stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    at_changes(action)


def fill_disk_at_change(wanted):
    """From a change on, nothing that this process writes into its folder finds place."""

    def action(number, event, path):
        if number < wanted:
            return
        is_mapped = path.endswith(".npy")  # into memory, as no device can be
        if is_mapped or (event == "os.mkdir" and not Path(path).exists()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if event == "open" and not Path(path).is_dir():
            Path(path).unlink(missing_ok=True)
            Path(path).symlink_to("/dev/full")

    at_changes(action)


def refuse_to_reserve():
    """No space can be reserved by this process."""

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.posix_fallocate = refuse


def make_place(folder):
    """Take away what fill_disk_at_change has put in the place of files."""
    for path in folder.rglob("*"):
        if path.is_symlink() and path.readlink() == Path("/dev/full"):
            path.unlink()


def changes_of(job, folder):
    """The changes (event, path) that a Job makes in a new folder, in their order."""
    log = folder.parent / f"{folder.name}.changes.txt"
    done = go_on(job, folder, sabotage=functools.partial(note_changes, log))
    assert done.code == 0, done.errors
    lines = log.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(" ", 1)) for line in lines]
