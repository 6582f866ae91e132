"""Write the zip that is handed in: FirstName_RollNumber_05.zip, by the assignment's naming rules.

    python extras/hand_in.py --name FIRST_NAME --roll_number ROLL_NUMBER [--report FILE] [--out DIR]

In its one folder, FirstName_RollNumber_05/: the script as RollNumber_05.py, test.py, Report.pdf, README.txt,
requirements.txt and saved_models/ with gan.pt and mtd.pt; no data set, no results. Where the readme and the programs'
help name the script they get its new name, and of the readme only what is about these files goes in. A part that is missing
or empty is named, and no zip is written.
"""

import argparse
import os
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "rollNumber_05.py"
PARTS = (
    SCRIPT,
    "test.py",
    "README.txt",
    "requirements.txt",
    "saved_models/gan.pt",
    "saved_models/mtd.pt",
)
SECTIONS = ("TRAIN ON YOUR DATA", "WHAT A RUN LEAVES", "TEST THE WEIGHTS")  # of the readme


def readme(text):
    """The readme of the zip: title, how to install, and the SECTIONS, in their order. Raises ValueError if one lacks."""
    title, *rest = re.split(r"^([A-Z][A-Z ,]+)\n-+\n", text, flags=re.M)
    sections = dict(zip(rest[::2], rest[1::2]))
    if lacking := [name for name in SECTIONS if name not in sections]:
        raise ValueError(f"README.txt has no section {lacking[0]}")
    head = "\n".join(title.splitlines()[:2]) + "\n\n    pip install -r requirements.txt\n\n\n"
    return (
        head
        + "".join(f"{name}\n{'-' * len(name)}\n{sections[name]}" for name in SECTIONS).rstrip()
        + "\n"
    )


def hand_in(name, roll_number, report, out, root=ROOT):
    """Write the zip into the folder `out`; returns its path. Raises ValueError, in one line, for a bad name or a missing part."""
    for flag, value in (("--name", name), ("--roll_number", roll_number)):
        if not re.fullmatch(r"[A-Za-z0-9-]+", value):
            raise ValueError(
                f"{flag} {value!r}: only letters, digits and - can be in it, for it becomes part of file names"
            )
    sources = {part: root / part for part in PARTS} | {"Report.pdf": report}
    missing = [
        str(path) for path in sources.values() if not path.is_file() or not path.stat().st_size
    ]
    if missing:
        raise ValueError(
            f"missing or empty: {', '.join(missing)}; README.txt says how each is made"
        )
    folder, script = f"{name}_{roll_number}_05", f"{roll_number}_05.py"
    texts = {
        name: path.read_text(encoding="utf-8")
        for name, path in sources.items()
        if path.suffix in (".py", ".txt")
    }
    texts["README.txt"] = readme(texts["README.txt"])
    target = out / f"{folder}.zip"
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sources.items():
            if name in texts:
                archive.writestr(
                    f"{folder}/{name.replace(SCRIPT, script)}", texts[name].replace(SCRIPT, script)
                )
            else:
                archive.write(path, f"{folder}/{name}")
    os.replace(part, target)
    return target


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="your first name")
    parser.add_argument("--roll_number", required=True)
    parser.add_argument(
        "--report",
        type=Path,
        default=ROOT / "Report.pdf",
        help="default: the one beside the script",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder for the zip; default: here"
    )
    flags = parser.parse_args()
    try:
        target = hand_in(flags.name, flags.roll_number, flags.report, flags.out)
    except (ValueError, OSError) as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 2
    with zipfile.ZipFile(target) as archive:
        print(f"{target}, {target.stat().st_size / 1e6:.1f} MB:", *archive.namelist(), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
