"""Unpacks zips as they come: from PowerShell, macOS and Google Drive, also a zip in a zip."""

import unicodedata
import zipfile
from pathlib import Path, PurePosixPath

from extras.paths import IMAGE_ENDINGS


def unpack(path, target):
    """Unpack a zip, and zips in it, into a folder.

    Raises zipfile.BadZipFile, OSError or what else a damaged zip leads to.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = safe_name(entry.filename)
            if entry.is_dir() or entry.filename.endswith("\\") or name is None:
                continue
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, place.open("wb") as file:
                while part := source.read(2**20):
                    file.write(part)
            if place.suffix.lower() == ".zip" and zipfile.is_zipfile(place):
                unpack(place, place.with_suffix(""))
                place.unlink()


def unpack_all(paths, target):
    """Unpack several zips into one folder, or, if they have names in common, into one each."""
    names = []
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            names += [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    is_apart = len(set(names)) < len(names)
    for path in paths:
        unpack(path, target / path.stem if is_apart else target)


def safe_name(name):
    """A name in a zip as a relative path in one form of Unicode; None if it leads elsewhere."""
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return None
    return Path(*path.parts)


def zips_in(folder):
    """The zips in a folder without images or folders, as a download in parts leaves them."""
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    zips = sorted(path for path in files if path.suffix.lower() == ".zip")
    has_data = any(path.is_dir() or path.suffix.lower() in IMAGE_ENDINGS for path in files)
    return [] if has_data else zips
