"""A run's folder: held by one process, never written over by another run; what it was run on."""

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from extras import UsageError
from extras.devices import processes
from extras.files import save_text
from extras.flags import as_flag


@contextlib.contextmanager
def held(folder):
    """Inside the block no other run can hold the folder. Raises UsageError that says which.

    The lock is beside the folder and goes with its process, so that a kill leaves none. Parts of
    files that a kill has left in the folder are removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    holder = folder.with_name(f"{folder.name}.holder.txt")
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"{folder}: {holder_named_in(holder)} is training here; wait for it, or give another "
            "--results_dir"
        ) from error
    try:
        now = datetime.datetime.now().isoformat(" ", "seconds")
        holder.write_text(f"process {os.getpid()} (since {now})")
        remove_parts(folder)
        yield folder
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def holder_named_in(path):
    """Who holds a folder; a process that has just taken it or is about to leave has no name."""
    with contextlib.suppress(OSError):
        name = path.read_text()
        if name:
            return name
    return "another process"


def remove_parts(folder):
    """Remove the files that were being written (extras/files.py) when a run was killed."""
    for part in folder.rglob("*.part.*"):
        part.unlink(missing_ok=True)


def move_aside(folder):
    """Rename an earlier run's folder to the first free FOLDER.old-N, and say so."""
    if not (folder / "last.pt").exists():
        return
    number = 1
    while folder.with_name(f"{folder.name}.old-{number}").exists():
        number += 1
    kept = folder.rename(folder.with_name(f"{folder.name}.old-{number}"))
    print(f"{folder} held an earlier run; it is now {kept}", file=sys.stderr)


def command_of(program, task, config):
    """The command line that repeats a run of a script with this name."""
    world_size = processes()[1]
    start = f"torchrun --nproc_per_node={world_size}" if world_size > 1 else "python"
    parts = [start, program, f"--task {task}"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default and field.name not in ("task", "resume", "recipe"):
            parts.append(as_flag(field.name, value))
    return " ".join(parts)


def write_about(folder, program, task, config, data):
    """Write config.json into a run's folder: what is run, on what, and how to repeat it."""
    about = {
        "command": command_of(program, task, config),
        "config": vars(config),
        **environment(data.device),
        "processes": processes()[1],
        "layout": data.index.layout,
        "splits": data.counts(),
    }
    save_text(json.dumps(about, indent=1), folder / "config.json")


def environment(device):
    """What a run is on: versions, system, device and the commit of the script, as plain values."""
    name = f"{device}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    return {
        "python": sys.version,
        "torch": torch.__version__,
        "system": sys.platform,
        "device_used": name,
        "git_commit": git_commit(),
    }


def git_commit():
    """The commit of these files, or None where there is none."""
    if not shutil.which("git"):
        return None
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
