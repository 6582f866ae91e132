"""Unpacks zips and tars as they come: from PowerShell, macOS, Google Drive, also a zip in a zip.

What is not used is left in; what would fill the disk, or cannot be read, is refused beforehand.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from extras.paths import IMAGE_ENDINGS, UNREAD_DATA_ENDINGS, UNREAD_IMAGE_ENDINGS

READ_ENDINGS = IMAGE_ENDINGS | {
    ".csv", ".json", ".jsonl", ".labels", ".names", ".tsv", ".txt", ".xml", ".yaml", ".yml", ".zip",
}  # fmt: skip
# of these it is enough to know that they are there
NAMED_ENDINGS = UNREAD_IMAGE_ENDINGS | {".pt"} | (UNREAD_DATA_ENDINGS.keys() - {".zip"})
MAX_MEMBERS = 1_000_000
MAX_DEPTH = 4  # zips in zips
MAX_UNPACKED_GB = 50
GIGABYTE = 10**9
READ_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # one read of others has no upper end
IS_LOCKED = 0x1  # flags of a member
IS_UTF_8 = 0x800
MANIFEST = ".unpacked.json"  # says that all is there, and how much that is
OTHER_ARCHIVES = {
    b"Rar!\x1a\x07": "RAR",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"\x28\xb5\x2f\xfd": "zstd",
}
CYRILLIC = re.compile(rb"[\x80-\xaf\xe0-\xf1]{3,}")  # three letters together, in code page 866
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)


class ArchiveError(ValueError):
    """An archive that is not unpacked; the message is one line with the mend, without its name."""


class Member(NamedTuple):
    """A file in an archive: its name as a safe relative path, bytes, and how to open it."""

    name: Path
    size: int
    open: Callable


class Allowance:
    """How many bytes and files may still be unpacked, zips in zips counted in."""

    def __init__(self, max_unpacked_gb):
        self.max_unpacked_gb = max_unpacked_gb
        self.size = max_unpacked_gb * GIGABYTE
        self.count = MAX_MEMBERS

    def take(self, members):
        """Count members in. Raises ArchiveError if they are too many, or too large."""
        self.size -= sum(member.size for member in members)
        self.count -= len(members)
        if self.count < 0:
            raise ArchiveError(f"more than {MAX_MEMBERS} files; unpack it, and give the folder")
        if self.size < 0:
            raise ArchiveError(
                f"unpacked it is larger than --max_unpacked_gb {self.max_unpacked_gb}; raise it"
            )


def unpack_all(paths, target, max_unpacked_gb=MAX_UNPACKED_GB):
    """Unpack several archives into one folder, or, if they have names in common, into one each.

    Raises ArchiveError, OSError, zipfile.BadZipFile or what else a damaged archive leads to.
    """
    target.mkdir(parents=True, exist_ok=True)
    beside = [path for path in paths if is_beside(path)]
    paths = [path for path in paths if path not in beside]
    allowance = Allowance(max_unpacked_gb)
    names = names_inside(paths, allowance)
    check_free_space(target, allowance)
    is_apart = len(set(names)) < len(names) and len(paths) > 1
    for path in paths:
        place = target / path.stem if is_apart else target
        if zipfile.is_zipfile(path):
            unpack_zip(path, place, allowance)
        else:
            unpack_tar(path, place, allowance)
    for path in beside:
        shutil.copyfile(path, target / path.name)
    write_manifest(target)


def names_inside(paths, allowance):
    """The names of all members of the zips among archives, whose sizes are taken off an Allowance.

    Raises ArchiveError for archives of other kinds.
    """
    names = []
    for path in paths:
        check_kind(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = zip_members(archive)
            allowance.take(members)
            names += [member.name for member in members]
    return names


def check_kind(path):
    """Raise ArchiveError unless a path is of a zip or a tar, compressed or not."""
    if not path.is_file():
        raise ArchiveError("a device or pipe; give a folder or a zip")
    if zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
        return
    with path.open("rb") as file:
        start = file.read(8)
    for signature, name in OTHER_ARCHIVES.items():
        if start.startswith(signature):
            raise ArchiveError(f"{name} archives are not read; unpack it, and give the folder")
    raise ArchiveError("neither a folder nor a zip that can be unpacked; give one of these")


def check_free_space(target, allowance):
    """Raise ArchiveError if the disk has no place for what an allowance has counted in."""
    needed = allowance.max_unpacked_gb * GIGABYTE - allowance.size
    free = shutil.disk_usage(target).free
    if needed > free:
        raise ArchiveError(
            f"unpacked it takes {needed / GIGABYTE:.1f} GB, and {free / GIGABYTE:.1f} are free; "
            "make place, or give --results_dir on another disk"
        )


def zip_members(archive):
    """The Members of a zip that are used. Raises ArchiveError if some are locked, or not read."""
    members = []
    for entry in archive.infolist():
        name = safe_name(member_name(entry))
        if name is None or entry.is_dir() or entry.filename.endswith("\\") or not is_used(name):
            continue
        if entry.flag_bits & IS_LOCKED:
            raise ArchiveError("locked with a password; unpack it, and give the folder")
        if entry.compress_type not in READ_METHODS:
            raise ArchiveError(
                "compressed in a way that is not read; unpack it, and give the folder"
            )
        size = 0 if is_only_named(name) else entry.file_size
        members.append(Member(name, size, functools.partial(archive.open, entry)))
    return members


def unpack_zip(path, target, allowance, depth=1):
    """Unpack a zip that an Allowance has counted in, and zips in it, into a folder."""
    with zipfile.ZipFile(path) as archive:
        for member in zip_members(archive):
            place = write_member(member, target)
            if place.suffix.lower() == ".zip" and zipfile.is_zipfile(place):
                unpack_inner_zip(place, allowance, depth + 1)


def unpack_inner_zip(path, allowance, depth):
    """Replace a zip by a folder of what is in it."""
    if depth > MAX_DEPTH:
        raise ArchiveError(f"zips in zips, more than {MAX_DEPTH} deep; unpack it, give the folder")
    with zipfile.ZipFile(path) as archive:
        allowance.take(zip_members(archive))
    unpack_zip(path, path.with_suffix(""), allowance, depth)
    path.unlink()


def unpack_tar(path, target, allowance):
    """Unpack the files of a tar, compressed or not; links and devices in it are passed over."""
    with tarfile.open(path) as archive:
        for entry in archive:  # one after the other: to measure beforehand is to decompress
            name = safe_name(entry.name)
            opened = functools.partial(archive.extractfile, entry)
            allowance.take([Member(name, entry.size, opened)])  # what is passed over costs time too
            if entry.isreg() and name is not None and is_used(name):
                write_member(Member(name, entry.size, opened), target)
            archive.members = []  # they would be kept


def write_member(member, target):
    """Write a Member into a folder; returns its path. It ends at the size that it says it has."""
    place = target / member.name
    place.parent.mkdir(parents=True, exist_ok=True)
    if is_only_named(place):
        place.touch()
        return place
    with member.open() as source, place.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)
    return place


def is_only_named(path):
    """Whether a file is unpacked without what is in it."""
    return path.suffix.lower() in NAMED_ENDINGS


def is_used(name):
    """Whether a file of that relative path can be part of a data set."""
    is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not is_hidden and name.suffix.lower() in READ_ENDINGS | NAMED_ENDINGS


def member_name(entry):
    """The name of a zip's member, also where it is in UTF-8 or Russian, and does not say so."""
    if entry.flag_bits & IS_UTF_8:
        return entry.filename
    try:
        raw = entry.filename.encode("cp437")  # how zipfile has read it, as the standard has it
    except UnicodeEncodeError:
        return entry.filename
    with contextlib.suppress(UnicodeDecodeError):
        return raw.decode("utf-8")
    return raw.decode("cp866" if CYRILLIC.search(raw) else "cp437")


def safe_name(name):
    """A member's name as a relative path in one form of Unicode; None if it leads elsewhere."""
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    if path.is_absolute() or not path.parts or ".." in path.parts or ":" in path.parts[0]:
        return None
    parts = path.parts
    if os.name == "nt":
        parts = [name_for_windows(part) for part in parts]
    return Path(*parts)


def name_for_windows(name):
    """A file's or folder's name without what Windows does not have, such as aux.png and a?b.png."""
    name = re.sub(r'[<>:"|?*\x00-\x1f]', "_", name).rstrip(". ")
    return f"_{name}" if WINDOWS_DEVICES.match(name) or not name else name


def write_manifest(folder):
    """Note how much was unpacked."""
    (folder / MANIFEST).write_text(json.dumps(contents(folder)), encoding="utf-8")


def is_whole(folder):
    """Whether all that was unpacked into a folder is there."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8")) == contents(folder)
    return False


def contents(folder):
    """[number of files, bytes in them] in a folder, but for its manifest."""
    sizes = []
    for parent, _, names in os.walk(folder):
        sizes += [Path(parent, name).stat().st_size for name in names if name != MANIFEST]
    return [len(sizes), sum(sizes)]


def zips_in(folder):
    """The zips in a folder without images or folders, as a download in parts leaves them.

    Files beside them that can hold labels come last, as train.csv beside train.zip.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if any(map(holds_data, files)):
        return []
    zips = [path for path in files if path.suffix.lower() == ".zip" and path.is_file()]
    if not zips:
        return []
    return zips + list(filter(is_beside, files))


def holds_data(path):
    """Whether a path is a folder, or an image by its name."""
    return path.is_dir() or path.suffix.lower() in IMAGE_ENDINGS


def is_beside(path):
    """Whether a file can hold labels of images that are in a zip beside it."""
    return path.suffix.lower() in READ_ENDINGS - IMAGE_ENDINGS - {".zip"} and path.is_file()
