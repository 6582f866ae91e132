"""Files that are replaced whole: a kill at any moment leaves the old one or the new one."""

import contextlib
import csv
import errno
import io
import itertools
import stat
import tempfile
from pathlib import Path

from extras import UsageError


@contextlib.contextmanager
def replacing(path):
    """A path to write to, whose file takes the name `path` when the block ends well.

    A kill at any moment leaves the old file or the new one, never half of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_text(text, path):
    """Write a text file."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def save_table(rows, path):
    """Write rows of values as a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    save_text(text.getvalue(), path)


def save_rows(rows, path):
    """Write rows {column: value} as a CSV file; a column is empty where a row lacks it."""
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    save_text(text.getvalue(), path)


def try_writing(folder):
    """Make a folder if need be, and write a file that is gone at once. Raises OSError."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"a file")


def require_file(path):
    """Raise OSError unless a path is of a file: a pipe would be waited for, a device has no end."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError("a folder, device or pipe")


def check_folder(flag, folder):
    """Make a folder that a flag names. Raises UsageError if nothing can be written there."""
    try:
        try_writing(folder)
    except (OSError, ValueError) as error:
        raise UsageError(f"{flag} {folder}: cannot be written to ({error})") from error


def in_words(error):
    """What an OSError or another exception says, with a full disk called that."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error})"
    return str(error)
