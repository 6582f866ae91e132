"""One page a run, results/<task>/index.html, and one that compares runs, results/index.html.

    python -m extras.page results/gan        writes both pages again

A page is one file that needs no network and no script. Pictures and weights are linked by their
place relative to it, so that it works from disk, from a copied folder and from an unpacked zip.
What is missing or damaged is left out and named.
"""

import argparse
import csv
import dataclasses
import html
import itertools
import json
import math
import re
import sys
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from extras import captions
from extras.drawing import attempt
from extras.files import replacing

PICTURE_ENDINGS = {".png", ".gif", ".jpg", ".jpeg", ".webp"}
TASKS = {
    "gan": "DCGAN",
    "mtd": "Multi-task discriminator",
    "gradcam": "Grad-CAM",
    "all": "Before and after the head",
    "data": "The data",
}
HEADLINE = {  # numbers that stand at the top, in this order
    "test_accuracy": "test accuracy",
    "test_balanced_accuracy": "test balanced accuracy",
    "kid_train": "KID, generated",
    "precision": "precision, generated",
    "recall": "recall, generated",
    "epoch": "epochs",
}
ENVIRONMENT = ("layout", "device_used", "processes", "torch", "python", "system", "git_commit")
SAMPLES_ON_PAGE = 8
WIDE = 800  # pixels; a wider picture is not made narrower than half of that, or LEAST_WIDTH
LEAST_WIDTH = 1000
SIDE_BY_SIDE = ("samples.gif", "real_vs_generated.png", "confusion_matrix.png")
FEW_RUNS = 3  # up to so many runs, every two are compared
NO_NUMBER = "\N{EN DASH}"

# ========================================= what a run left ======================================


@dataclasses.dataclass
class Run:
    """What is in a run's folder.

    about: config.json. scores: scores.json. quality: quality.json. last_epoch: the last row of
    metrics.csv, numbers by name. All are empty where the file is missing or damaged.
    damaged: names of files that cannot be read.
    """

    folder: Path
    about: dict
    scores: dict
    quality: dict
    last_epoch: dict
    damaged: list[str]

    @property
    def name(self):
        """The folder's name: the task, or the task and .old-N."""
        return self.folder.name

    @property
    def task(self):
        """The folder's name without .old-N."""
        return self.name.partition(".old-")[0]

    @property
    def flags(self):
        """{flag: value} of the run."""
        return part_of(self.about, "config")

    @property
    def is_comparable(self):
        """Whether there are flags and numbers to put beside another run's."""
        return bool(self.flags and numbers(self))


def read_run(folder):
    """The Run of a folder, whatever is missing there."""
    damaged = []
    return Run(
        folder=folder,
        about=read_json(folder / "config.json", damaged),
        scores=read_json(folder / "scores.json", damaged),
        quality=read_json(folder / "quality.json", damaged),
        last_epoch=read_last_row(folder / "metrics.csv", damaged),
        damaged=damaged,
    )


def read_json(path, damaged):
    """The dict in a JSON file; an empty one if it is not there, or damaged, which is noted."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content
    damaged.append(path.name)
    return {}


def read_last_row(path, damaged):
    """{column: number} of the last row of a CSV file; an empty dict as in read_json."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        last = {}
        for name, text in rows[-1].items():
            if text:
                last[name] = float(text)
    except (OSError, ValueError, TypeError, LookupError, csv.Error):
        damaged.append(path.name)
        return {}
    return last


def part_of(content, name):
    """A dict inside a dict; an empty one if it is not there or something else."""
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def is_number(value):
    """Whether a value counts as a number: true and false do not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def numbers(run):
    """{name: number} of a run: its scores, its generated cells' quality, its last epoch."""
    found = {}
    for split in ("test", "val"):
        for name, value in part_of(run.scores, split).items():
            if is_number(value):
                found[f"{split}_{name}"] = value
    content = run.quality | run.scores
    content.pop("epoch", None)  # quality.json's is the epoch of the weights, not the last one
    found |= {name: value for name, value in content.items() if is_number(value)}
    for name, value in run.last_epoch.items():
        found.setdefault(name, value)
    return found


def settings(run):
    """{name: value} of what a run depends on: flags, versions, images and cells of the splits."""
    found = {f"--{name}": value for name, value in run.flags.items()}
    for name in ENVIRONMENT:
        if name in run.about:
            found[name] = run.about[name]
    for split, counts in split_counts(run).items():
        for name, count in counts.items():
            found[f"{split}, {name}"] = count
    return found


def split_counts(run):
    """{split: {"images": n, class: n}}, as far as config.json has them."""
    splits = part_of(run.about, "splits")
    counts = {}
    for split in splits:
        found = part_of(splits, split)
        counts[split] = {"images": found.get("images"), **part_of(found, "cells")}
    return counts


def is_written_half(path):
    """Whether a file is one that is about to take another's place."""
    return path.stem.endswith(".part")


def picture_size(path, damaged):
    """(width, height) of a picture in pixels, None if it cannot be read, which is noted."""
    try:
        with Image.open(path) as image:
            size = image.size
            image.verify()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        damaged.append(path.name)
        return None
    return size


def list_pictures(folder):
    """Pictures in a folder and in its folder samples, in the order of the captions."""
    paths = sorted(folder.iterdir())
    if (folder / "samples").is_dir():
        paths += sorted((folder / "samples").iterdir())
    pictures = [path for path in paths if is_picture(path)]
    return sorted(pictures, key=lambda path: captions.caption(relative(path, folder))[0])


def is_picture(path):
    """Whether a path is named like a picture that is complete."""
    return path.suffix.lower() in PICTURE_ENDINGS and not is_written_half(path)


# ============================================= HTML =============================================


def text_of(value):
    """A value as text that is safe between tags and inside quotes."""
    return html.escape(str(value))


def relative(path, folder):
    """A path as it is seen from a folder above it, with slashes."""
    return path.relative_to(folder).as_posix()


def address(path, folder):
    """The same as the target of a link: percent-encoded."""
    return quote(relative(path, folder), errors="surrogateescape")


def number_text(value):
    """A number in up to four digits; a dash for one that is not there or not finite."""
    if not is_number(value):
        return NO_NUMBER
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return NO_NUMBER
    if value == int(value) and abs(value) >= 1:
        return f"{int(value):,}"
    return f"{value:.4g}"


def share_text(value):
    """A share from 0 to 1 in three digits; a dash as in number_text."""
    if number_text(value) == NO_NUMBER:
        return NO_NUMBER
    return f"{value:.3f}"


def table(head, rows):
    """A table of cells that are HTML already; a wide one scrolls inside its box."""
    lines = ['<div class="scroll"><table>', row_of_cells(head, "th")]
    lines += [row_of_cells(row, "td") for row in rows]
    lines.append("</table></div>")
    return "\n".join(lines)


def row_of_cells(cells, tag):
    """A row of a table."""
    inner = "".join(f"<{tag}>{cell}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def section(title, *parts):
    """A part of a page under a heading that the list of contents leads to."""
    anchor = anchor_of(title)
    return "\n".join(
        [f'<section id="{anchor}">', f"<h2>{text_of(title)}</h2>", *parts, "</section>"]
    )


def anchor_of(title):
    """The name of a place in the page."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def contents(sections):
    """Links to the sections of a page."""
    titles = re.findall(r"<h2>(.*?)</h2>", "\n".join(sections))
    links = [f'<a href="#{anchor_of(html.unescape(title))}">{title}</a>' for title in titles]
    return f"<nav>{' '.join(links)}</nav>"


def figure(path, folder, size):
    """A picture with its heading and the sentence that says how to read it."""
    _, caption = captions.caption(relative(path, folder))
    opening = "<figure>"
    if size[0] > WIDE:  # on a phone it scrolls
        least = min(size[0] // 2, LEAST_WIDTH)
        opening = f'<figure class="wide" style="--least: {least}px">'
    return f"""{opening}
<h3>{text_of(caption.title)} <code>{text_of(relative(path, folder))}</code></h3>
<figcaption>{text_of(caption.sentence)}</figcaption>
<div class="scroll">{picture(path, folder, size, caption.title)}</div>
</figure>"""


def small_figure(path, folder, size, title):
    """A picture under a short title, one of several beside each other."""
    return f"""<figure><figcaption>{text_of(title)}</figcaption>
{picture(path, folder, size, title)}</figure>"""


def picture(path, folder, size, title):
    """A picture that leads to its file, in a page that lies in `folder`."""
    target = address(path, folder)
    width, height = size
    return (
        f'<a href="{target}"><img src="{target}" alt="{text_of(title)}" '
        f'width="{width}" height="{height}" loading="lazy"></a>'
    )


# =========================================== the page ===========================================


def write_pages(folder):
    """Write a run's page, and that of the folder above it; if that fails, say so and go on."""
    with attempt("index.html"):
        write_page(folder)
        write_comparison(folder.parent)


def write_page(folder):
    """Write index.html into a run's folder; returns its path."""
    folder = Path(folder).absolute()
    run = read_run(folder)
    sections = [
        *headline_section(run),
        *command_section(run),
        *class_section(run),
        *picture_sections(run),
        *split_section(run),
        *numbers_section(run),
        *file_section(run),
        *flags_section(run),
    ]
    sections += damage_section(run)  # last: the others find what is damaged
    task = TASKS.get(run.task, run.task)
    title = f"{task}: {run.name}"
    lead = '<p class="lead"><a href="../index.html">All runs</a></p>'
    return write_html(folder / "index.html", title, [lead, contents(sections), *sections])


def headline_section(run):
    """The few numbers that a run is about, large."""
    found = numbers(run)
    tiles = []
    for name, label in HEADLINE.items():
        if name in found:
            value = number_text(found[name])
            tiles.append(f"<div><dd>{value}</dd><dt>{text_of(label)}</dt></div>")
    if tiles:
        yield f'<dl class="tiles">{"".join(tiles)}</dl>'


def command_section(run):
    """The command line that repeats a run."""
    command = run.about.get("command")
    if isinstance(command, str):
        yield section("Command", f"<pre>{text_of(command)}</pre>")


def class_section(run):
    """Precision and recall of every class, a table for each split."""
    parts = []
    for split in ("test", "val"):
        rows = class_rows(part_of(part_of(run.scores, split), "per_class"))
        if rows:
            parts.append(f"<h3>{split}</h3>")
            parts.append(table(["class", "precision", "recall", "F1", "cells"], rows))
    if parts:
        yield section("Classes", *parts)


def class_rows(per_class):
    """A row for each of {class: scores}."""
    rows = []
    for name in per_class:
        values = part_of(per_class, name)
        shares = [share_text(values.get(key)) for key in ("precision", "recall", "f1")]
        rows.append([text_of(name), *shares, number_text(values.get("support"))])
    return rows


def picture_sections(run):
    """All pictures; samples of single epochs are folded away."""
    figures = []
    samples = []
    for path in list_pictures(run.folder):
        size = picture_size(path, run.damaged)
        if size and path.parent == run.folder:
            figures.append(figure(path, run.folder, size))
        elif size:
            samples.append((path, size))
    if samples:
        figures.append(folded_samples(samples, run.folder))
    if figures:
        yield section("Pictures", *figures)


def folded_samples(samples, folder):
    """Samples (path, size) of single epochs: some as pictures, the others as links."""
    _, caption = captions.caption(relative(samples[0][0], folder))
    step = math.ceil(len(samples) / SAMPLES_ON_PAGE)
    chosen = samples[::-1][::step][::-1]  # the last is among them
    figures = [small_figure(path, folder, size, path.stem) for path, size in chosen]
    links = []
    for path, _ in samples:
        links.append(f'<a href="{address(path, folder)}">{text_of(path.stem)}</a>')
    return f"""<details><summary>{text_of(caption.title)}: {len(samples)} of them</summary>
<p>{text_of(caption.sentence)}</p>
<div class="side">{"".join(figures)}</div>
<p>{" ".join(links)}</p>
</details>"""


def split_section(run):
    """Images and cells of every split and class."""
    counts = split_counts(run)
    names = {}  # in the order in which they come
    for found in counts.values():
        names |= dict.fromkeys(found)
    rows = []
    for name in names:
        cells = [number_text(found.get(name)) for found in counts.values()]
        rows.append([text_of(name), *cells])
    if rows:
        note = "<p>Images, then cells of each class. The test split is scored once, at the end.</p>"
        yield section("Splits", note, table(["", *map(text_of, counts)], rows))


def numbers_section(run):
    """Every number with its meaning."""
    rows = []
    for name, value in numbers(run).items():
        meaning = captions.sentence(name, captions.NUMBERS)
        label = f"<code>{text_of(name)}</code><br>{text_of(meaning)}"
        rows.append([label, number_text(value)])
    if rows:
        notes = []
        if "features" in run.quality:
            notes.append(f"<p>{text_of(quality_note(run.quality))}</p>")
        yield section("Numbers", *notes, table(["number", "value"], rows))


def quality_note(quality):
    """What KID, precision and recall were measured on."""
    counts = [f"{count} {name}" for name, count in part_of(quality, "n").items()]
    of_cells = f" of {', '.join(counts)} cells" if counts else ""
    return f"KID, precision and recall{of_cells}, in features of {quality['features']}."


def file_section(run):
    """Links to weights, tables and what else is there."""
    sentences = captions.FILES | captions.WEIGHTS
    rows = []
    for path in sorted(run.folder.iterdir()):
        is_other = path.suffix.lower() in {*PICTURE_ENDINGS, ".html"} or is_written_half(path)
        if path.is_file() and not is_other:
            link = f'<a href="{address(path, run.folder)}">{text_of(path.name)}</a>'
            sentence = text_of(captions.sentence(path.name, sentences))
            rows.append([f"{link}<br>{sentence}", size_text(path.stat().st_size)])
    if rows:
        yield section("Files", table(["file", "size"], rows))


def size_text(count):
    """A number of bytes as text that does not break between number and unit."""
    if count < 1e3:
        return f"{count}&nbsp;B"
    if count < 1e6:
        return f"{count / 1e3:.1f}&nbsp;kB"
    return f"{count / 1e6:.1f}&nbsp;MB"


def flags_section(run):
    """All flags and what the run was on, folded away."""
    rows = []
    for name, value in settings(run).items():
        rows.append([f"<code>{text_of(name)}</code>", setting_text(value)])
    if rows:
        folded = table(["setting", "value"], rows)
        yield section(
            "Flags and versions", f"<details><summary>Show all</summary>{folded}</details>"
        )


def setting_text(value):
    """A setting's value in a table; None is one that a run does not have."""
    if value is None:
        return NO_NUMBER
    if value == "":
        return "<i>empty</i>"
    return f'<span class="value">{text_of(value)}</span>'


def damage_section(run):
    """The files that cannot be read."""
    if run.damaged:
        names = ", ".join(map(text_of, run.damaged))
        yield section("Damaged", f"<p>These files cannot be read and are left out: {names}.</p>")


# ========================================= the comparison =======================================


def write_comparison(results_dir):
    """Write index.html into a folder of runs: links to them, and runs side by side; its path."""
    results_dir = Path(results_dir).absolute()
    runs = list_runs(results_dir)
    sections = [section("Runs", table(["run", "numbers"], run_rows(runs)))]
    for first, second in pairs([run for run in runs if run.is_comparable]):
        sections.append(section(f"{first.name} and {second.name}", *comparison(first, second)))
    parts = [contents(sections), *sections]
    return write_html(results_dir / "index.html", "Runs", parts)


def list_runs(results_dir):
    """The Runs in a folder by task, the latest of each task first."""
    pages = {path.parent for path in results_dir.glob("*/index.html")}
    trained = {path.parent for path in results_dir.glob("*/config.json")}
    return sorted(map(read_run, pages | trained), key=place_of_run)


def place_of_run(run):
    """What runs are sorted by: the task, then from the latest to the first."""
    tasks = list(TASKS)
    number = run.name.rpartition(".old-")[2]
    age = -int(number) if number.isdecimal() else -math.inf
    known = tasks.index(run.task) if run.task in tasks else len(tasks)
    return known, run.task, age


def run_rows(runs):
    """A row for each run: its link, and the numbers that stand at the top of its page."""
    rows = []
    for run in runs:
        name = text_of(run.name)
        page = run.folder / "index.html"
        if page.is_file():
            name = f'<a href="{address(page, run.folder.parent)}">{name}</a>'
        found = numbers(run)
        results = []
        for key, label in HEADLINE.items():
            if key in found:
                results.append(f"{text_of(label)}: {number_text(found[key])}")
        what = text_of(TASKS.get(run.task, run.task))
        rows.append([f"{name}<br>{what}", "<br>".join(results)])
    return rows


def pairs(runs):
    """The Runs to put side by side, of one task the earlier one first.

    Every two of a few; of many, the latest two of each task.
    """
    chosen = []
    for first, second in itertools.combinations(runs, 2):
        if first.task == second.task:
            chosen.append((second, first))
        else:
            chosen.append((first, second))
    if len(runs) <= FEW_RUNS:
        return chosen
    latest = {}
    for earlier, later in chosen:
        if earlier.task == later.task:
            latest.setdefault(later.task, (earlier, later))
    return list(latest.values())


def comparison(first, second):
    """What differs between two Runs: flags, versions, numbers, pictures."""
    names = [text_of(first.name), text_of(second.name)]
    changed = changed_rows(first, second)
    if changed:
        yield "<h3>What changed</h3>"
        yield table(["setting", *names], changed)
    else:
        yield "<p>The same flags and versions.</p>"
    rows = number_rows(numbers(first), numbers(second))
    yield "<h3>Numbers</h3>"
    yield table(["number", *names], rows)
    yield from pictures_side_by_side(first, second)


def changed_rows(first, second):
    """A row for every flag, version and size of a split that two Runs do not share."""
    left = settings(first)
    right = settings(second)
    rows = []
    for name in left | right:
        before = left.get(name)
        after = right.get(name)
        if before != after:
            cells = [setting_text(before), setting_text(after)]
            rows.append([f"<code>{text_of(name)}</code>", *cells])
    return rows


def number_rows(left, right):
    """A row for every number of either of two runs; below the second, what it is more or less."""
    rows = []
    for name in left | right:
        before = left.get(name)
        after = right.get(name)
        cells = [number_text(before), number_text(after) + difference_text(before, after)]
        rows.append([f"<code>{text_of(name)}</code>", *cells])
    return rows


def difference_text(before, after):
    """By how much a number has changed, on a line of its own; empty if it has not."""
    if NO_NUMBER in (number_text(before), number_text(after)) or before == after:
        return ""
    return f"<br><small>{after - before:+.3g}</small>"


def pictures_side_by_side(first, second):
    """The pictures that both Runs have, of those that show most."""
    for name in SIDE_BY_SIDE:
        figures = []
        for run in (first, second):
            path = run.folder / name
            size = picture_size(path, []) if path.is_file() else None
            if size:
                figures.append(small_figure(path, run.folder.parent, size, run.name))
        if len(figures) == 2:
            _, caption = captions.caption(name)
            yield f"<h3>{text_of(caption.title)}</h3><p>{text_of(caption.sentence)}</p>"
            yield f'<div class="side">{"".join(figures)}</div>'


# ============================================ the file ==========================================

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --paper: #fbfbfa;
  --card: #ffffff; --line: #d9dee5; --accent: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #a3aebd; --paper: #14181e; --card: #1d232b; --line: #38424f;
    --accent: #8ec2ff; }
  img { filter: brightness(0.88); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1rem 0 0.2rem; }
h3 code { font-weight: normal; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; }
nav a { padding: 0.3rem 0; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9rem; }
code { color: var(--soft); }
pre { white-space: pre-wrap; background: var(--card); border: 1px solid var(--line);
  border-radius: 0.5rem; padding: 0.8rem; overflow-wrap: anywhere; }
pre span { display: inline-block; }
.lead { margin: 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 0.6rem; margin: 1rem 0; }
.tiles div { flex: 1 1 8rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 0.5rem; padding: 0.6rem 0.8rem; }
.tiles dd { margin: 0; font-size: 1.6rem; font-weight: 600; }
.tiles dt { color: var(--soft); font-size: 0.9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.8rem 0.3rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: normal; }
td code { white-space: nowrap; }
small { color: var(--soft); font-size: 0.9rem; }
.value { display: inline-block; min-width: 6rem; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; }
figure { margin: 0 0 1.5rem; }
figcaption { margin-bottom: 0.5rem; }
img { display: block; max-width: 100%; height: auto; border-radius: 0.3rem; background: white; }
.wide img { min-width: var(--least); }
@media (max-width: 44rem) {
  .wide figcaption::after { content: " Swipe, or tap to enlarge."; color: var(--soft); }
}
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr));
  gap: 1rem; }
details p { line-height: 2; }
summary { cursor: pointer; padding: 0.4rem 0; color: var(--accent); }
"""


def write_html(path, title, parts):
    """Write a page of parts that are HTML already; returns its path."""
    body = "\n".join(parts)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text_of(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{text_of(title)}</h1>
{body}
</body>
</html>
"""
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8", errors="replace")  # of names that are not UTF-8
    return path


def main(arguments=None):
    """Write the pages of the run folders named, and that of the folders they are in.

    Returns the exit code.
    """
    parser = argparse.ArgumentParser("extras.page", description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="results/TASK")
    folders = parser.parse_args(arguments).folders
    for folder in folders:
        if not folder.is_dir():
            print(f"{folder}: no such folder; name the folder of a run", file=sys.stderr)
            return 2
    for folder in folders:
        print(write_page(folder))
    for results_dir in sorted({folder.absolute().parent for folder in folders}):
        print(write_comparison(results_dir))
    return 0


if __name__ == "__main__":
    sys.exit(main())
