"""Write the zip that is handed in: FirstName_RollNumber_05.zip, by the assignment's naming rules.

    python extras/hand_in.py --name FIRST_NAME --roll_number ROLL_NUMBER [--report FILE] [--out DIR]

In its one folder, FirstName_RollNumber_05/: the script as RollNumber_05.py, the notebook as
RollNumber_05.ipynb, test.py, Report.pdf, README.txt, requirements.txt, extras/, and saved_models/
with gan.pt and mtd.pt; no data set, no results. Where the readme and the programs name or import
the script they get its new name, and of the readme only what is about these files goes in. A part
that is missing or empty is named, and no zip is written.
"""

import argparse
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "rollNumber_05.py"
NOTEBOOK = "rollNumber_05.ipynb"
PARTS = (
    SCRIPT,
    "test.py",
    "README.txt",
    "requirements.txt",
    "extras/__init__.py",
    "saved_models/gan.pt",
    "saved_models/mtd.pt",
)
SECTIONS = ("TRAIN ON YOUR DATA", "TEST THE WEIGHTS", "WHAT A RUN LEAVES")  # of the readme
INSTALL = "    pip install -r requirements.txt\n"
IMPORT = rf"^import {Path(SCRIPT).stem} as malaria$"
TEXT_ENDINGS = (".py", ".txt", ".ipynb")


def read_sections(text):
    """The title of a readme, its first two lines, and {name: text} of its sections.

    A section is a line of capitals, underlined with hyphens, and what follows.
    """
    heading = re.compile(r"^([A-Z][A-Z ,]+)\n-+\n", flags=re.MULTILINE)
    start, *rest = heading.split(text)
    title = "\n".join(start.splitlines()[:2])
    return title, dict(zip(rest[::2], rest[1::2], strict=True))


def short_readme(text):
    """The readme of the zip: the title, how to install, and the SECTIONS, in their order.

    Raises ValueError if one lacks.
    """
    title, sections = read_sections(text)
    parts = [f"{title}\n\n{INSTALL}"]
    for name in SECTIONS:
        if name not in sections:
            raise ValueError(f"README.txt has no section {name}")
        underline = "-" * len(name)
        parts.append(f"{name}\n{underline}\n{sections[name].rstrip()}\n")
    return "\n\n".join(parts)


def check_name(flag, value):
    """Raise ValueError unless a value can be part of a file's name."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", value):
        raise ValueError(
            f"{flag} {value!r}: only letters, digits and - can be in it, "
            "for it becomes part of file names"
        )


def has_content(path):
    """Whether a path is a file that is not empty."""
    return path.is_file() and path.stat().st_size > 0


def find_sources(root, report):
    """{name in the zip: file} of all that is handed in.

    Raises ValueError that names what is missing or empty.
    """
    sources = {name: root / name for name in PARTS}
    for path in sorted(root.glob("extras/*.py")):
        sources[f"extras/{path.name}"] = path
    sources[NOTEBOOK] = root / "extras" / NOTEBOOK
    sources["Report.pdf"] = report
    missing = [str(path) for path in sources.values() if not has_content(path)]
    if missing:
        raise ValueError(
            f"missing or empty: {', '.join(missing)}; README.txt says how each is made"
        )
    return sources


def read_text(name, path, script):
    """A text file as it goes into the zip, where the script is called `script`."""
    text = path.read_text(encoding="utf-8")
    if name == "README.txt":
        text = short_readme(text)
    # "import 2021-17_05" would be no Python.
    own_import = f'malaria = __import__("{Path(script).stem}")'
    text = re.sub(IMPORT, own_import, text, flags=re.MULTILINE)
    return text.replace(SCRIPT, script)


def hand_in(root, name, roll_number, report, out):
    """Write the zip of the project in `root` into the folder `out`; returns its path.

    Raises ValueError, in one line, for a bad name or a missing part.
    """
    check_name("--name", name)
    check_name("--roll_number", roll_number)
    script = f"{roll_number}_05.py"
    new_names = {SCRIPT: script, NOTEBOOK: f"{roll_number}_05.ipynb"}
    folder = f"{name}_{roll_number}_05"
    contents = {}
    for part, path in find_sources(root, report).items():
        place = f"{folder}/{new_names.get(part, part)}"
        if path.suffix in TEXT_ENDINGS:
            contents[place] = read_text(part, path, script)
        else:
            contents[place] = path.read_bytes()
    target = out / f"{folder}.zip"
    unfinished = target.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, content in contents.items():
            archive.writestr(place, content)
    return unfinished.replace(target)


def make_parser(root):
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--name", required=True, help="your first name")
    add("--roll_number", required=True)
    add("--report", type=Path, default=root / "Report.pdf", help="default: beside the script")
    add("--out", type=Path, default=Path(), help="folder for the zip; default: here")
    return parser


def main(arguments, root=ROOT):
    """Write the zip of a command line; returns the exit code."""
    flags = make_parser(root).parse_args(arguments)
    try:
        target = hand_in(root, flags.name, flags.roll_number, flags.report, flags.out)
    except (ValueError, OSError) as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 2
    with zipfile.ZipFile(target) as archive:
        names = archive.namelist()
    megabytes = target.stat().st_size / 1e6
    print(f"{target}, {megabytes:.1f} MB:", *names, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
