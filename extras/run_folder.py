"""A run's folder: held by one process, never written over by another run; what it was run on."""

import contextlib
import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from filelock import FileLock, Timeout


class FolderInUseError(Exception):
    """Another process is training in the folder; the message is one line that says which."""


@contextlib.contextmanager
def held(folder):
    """Inside the block no other run can hold the folder. Raises FolderInUseError.

    The lock is beside the folder and goes with its process, so that a kill leaves none. Parts of
    files that a kill has left in the folder are removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    holder = folder.with_name(f"{folder.name}.holder.txt")
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FolderInUseError(
            f"{folder}: {holder_named_in(holder)} is training here; wait for it, or give another "
            "--results_dir"
        ) from error
    try:
        now = datetime.datetime.now().isoformat(" ", "seconds")
        holder.write_text(f"process {os.getpid()} (since {now})")
        remove_parts(folder)
        yield
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
    """Rename a folder to the first free FOLDER.old-N; returns its new path."""
    number = 1
    while folder.with_name(f"{folder.name}.old-{number}").exists():
        number += 1
    return folder.rename(folder.with_name(f"{folder.name}.old-{number}"))


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
