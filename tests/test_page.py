"""The page of a run and the page that compares runs: whole, safe to open, and complete."""

import csv
import fnmatch
import json
import os
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from extras import UsageError, captions, page, tensorboard

ROOT = Path(__file__).resolve().parent.parent
PICTURES = (
    "losses.png",
    "confusion_matrix.png",
    "predictions_right.png",
    "samples.gif",
    "samples/epoch_0001.png",
    "samples/epoch_0002.png",
)
COMMAND = "python rollNumber_05.py --task mtd --data_path 'my <data>.zip' --no-smooth"
FLAGS = {
    "task": "mtd",
    "loss": "bce",
    "data_path": "my data.zip",
    "augment": True,
    "smooth": False,
    "resume": "auto",
    "json": False,
}
ROW = {"epoch": "2", "loss_d": "0.5", "kid_train": "", "d_real": "nan"}


class Links(HTMLParser):
    """What a page's tags say: addresses of links and pictures, their names, its text."""

    def __init__(self, path):
        super().__init__()
        self.pictures = []
        self.links = []
        self.anchors = set()
        self.tags = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        """Note a tag."""
        found = dict(attributes)
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(found["src"])
        if tag == "a":
            self.links.append(found["href"])
        if tag in ("td", "th", "br"):
            self.text += " "
        if "id" in found:
            self.anchors.add(found["id"])

    def handle_data(self, data):
        """Note the text."""
        self.text += data


def write_json(path, content):
    """Write a JSON file."""
    path.write_text(json.dumps(content), encoding="utf-8")


def write_run(folder, ring="ring", **flags):
    """Leave in a folder what a short run leaves, its pictures tiny."""
    (folder / "samples").mkdir(parents=True)
    for name in PICTURES:
        Image.new("RGB", (8, 8)).save(folder / name)
    for name in ("best.pt", "last.pt", "skipped.csv"):
        (folder / name).write_text("")
    cells = {ring: 5, "schizont": 2}
    about = {
        "command": COMMAND,
        "config": {**FLAGS, **flags},
        "processes": 1,
        "splits": {"train": {"images": 3, "cells": cells}, "test": {"images": 1, "cells": cells}},
    }
    write_json(folder / "config.json", about)
    scores = {"precision": 0.5, "recall": 0.25, "f1": float("nan"), "support": 5}
    test_scores = {"n": 7, "accuracy": 0.75, "per_class": {ring: scores}}
    write_json(folder / "scores.json", {"best_epoch": 2, "test": test_scores})
    quality = {"kid_train": 0.125, "epoch": 2, "n": {"generated": 500}, "features": "a network"}
    write_json(folder / "quality.json", quality)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ROW)
        writer.writeheader()
        writer.writerow(ROW)
    return folder


@pytest.fixture
def run_folder(tmp_path):
    """A run's folder, results/mtd."""
    return write_run(tmp_path / "results" / "mtd")


def pages_of(folder):
    """The Links of a run's page and of the comparison above it, which are written."""
    paths = [page.write_page(folder), page.write_comparison(folder.parent)]
    return [(path, Links(path)) for path in paths]


def assert_targets_exist(path, links):
    """Every picture and link of a page leads to a file, or to a place in the page."""
    for target in links.pictures + links.links:
        if target.startswith("#"):
            assert target[1:] in links.anchors
        else:
            assert (path.parent / unquote(target)).is_file(), target


# A whole run


def test_every_target_exists(run_folder):
    """Pictures, weights, tables, the other page and the page's own sections are all there."""
    for path, links in pages_of(run_folder):
        assert links.links
        assert_targets_exist(path, links)


def test_nothing_is_loaded_from_elsewhere(run_folder):
    """A page has no address of the network and no script."""
    for path, links in pages_of(run_folder):
        assert "://" not in path.read_text(encoding="utf-8")
        assert not {"script", "link", "iframe"} & set(links.tags)


def test_every_picture_is_shown(run_folder):
    """All pictures of a run are on its page."""
    (_, links), _ = pages_of(run_folder)
    assert sorted(links.pictures) == sorted(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_has_its_sentence(run_folder, name):
    """The sentence that says how to read a picture is on the page."""
    (_, links), _ = pages_of(run_folder)
    _, caption = captions.caption(name)
    assert caption != captions.NOT_DESCRIBED
    assert caption.sentence in links.text


def test_of_many_samples_the_last_is_shown(run_folder):
    """Of a long run some samples are shown, the last among them; all are linked."""
    for epoch in range(1, 101):
        Image.new("RGB", (8, 8)).save(run_folder / f"samples/epoch_{epoch:04d}.png")
    (_, links), _ = pages_of(run_folder)
    shown = [name for name in links.pictures if name.startswith("samples/")]
    assert len(shown) <= page.SAMPLES_ON_PAGE
    assert "samples/epoch_0100.png" in shown
    assert len({name for name in links.links if name.startswith("samples/")}) == 100


def test_numbers_are_on_the_page(run_folder):
    """A score, a measure of quality and a number of the last epoch are there, with words."""
    (_, links), _ = pages_of(run_folder)
    for name, value in {"test_accuracy": "0.75", "kid_train": "0.125", "loss_d": "0.5"}.items():
        assert name in links.text
        assert value in links.text
        assert captions.sentence(name, captions.NUMBERS) in links.text
    assert "500 generated cells, in features of a network" in links.text


def test_what_is_no_number_is_a_dash(run_folder):
    """NaN is not shown as a number; what was not measured has no row."""
    (_, links), _ = pages_of(run_folder)
    assert "nan" not in links.text.lower()
    assert page.number_text(float("nan")) == page.NO_NUMBER
    assert page.share_text(None) == page.NO_NUMBER


def test_page_shows_the_command(run_folder):
    """As config.json has it."""
    page.write_page(run_folder)
    assert COMMAND in Links(run_folder / "index.html").text


def test_page_can_be_moved(run_folder, tmp_path):
    """A copy of the results elsewhere has all that its pages link."""
    pages_of(run_folder)
    copied = shutil.copytree(run_folder.parent, tmp_path / "elsewhere")
    for path in (copied / "index.html", copied / "mtd/index.html"):
        assert_targets_exist(path, Links(path))


# Odd names and damaged files


def test_names_are_escaped(tmp_path):
    """A class named like a tag, and a file with odd letters in its name, stay text."""
    folder = write_run(tmp_path / "results" / "mtd", ring="<script>alert(1)</script>")
    odd = "a picture #1 & 50%'.png"
    Image.new("RGB", (8, 8)).save(folder / odd)
    for path, links in pages_of(folder):
        assert "script" not in links.tags
        assert_targets_exist(path, links)
    (_, links), _ = pages_of(folder)
    assert "<script>alert(1)</script>" in links.text
    assert odd in map(unquote, links.pictures)
    assert captions.NOT_DESCRIBED.sentence in links.text


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_name_that_is_no_text(run_folder):
    """A file whose name is not UTF-8 is linked."""
    name = os.fsdecode(b"caf\xe9.txt")
    (run_folder / name).write_text("")
    page.write_page(run_folder)
    assert "caf%E9.txt" in Links(run_folder / "index.html").links


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"config": 3, "splits": [], "test": {"n": "x"}}']
)
@pytest.mark.parametrize("name", ["config.json", "scores.json", "quality.json", "metrics.csv"])
def test_damaged_numbers(run_folder, name, content):
    """A page is written whatever is in a file of numbers, and shows the pictures."""
    (run_folder / name).write_text(content)
    for path, links in pages_of(run_folder):
        assert_targets_exist(path, links)
    (_, links), _ = pages_of(run_folder)
    assert "losses.png" in links.pictures


def test_damaged_files_are_named(run_folder):
    """What cannot be read is left out and said to be."""
    (run_folder / "scores.json").write_text("{")
    picture = run_folder / "losses.png"
    picture.write_bytes(picture.read_bytes()[:40])
    (_, links), _ = pages_of(run_folder)
    assert "losses.png" not in links.pictures
    assert "These files cannot be read and are left out: scores.json, losses.png." in links.text


def test_folder_with_pictures_alone(tmp_path):
    """A folder without numbers, as Grad-CAM leaves one, has a page too."""
    folder = tmp_path / "results" / "gradcam"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "gradcam_right.png")
    (_, links), _ = pages_of(folder)
    assert links.pictures == ["gradcam_right.png"]


def test_empty_folder(tmp_path):
    """An empty folder has a page."""
    folder = tmp_path / "results" / "gan"
    folder.mkdir(parents=True)
    for path, links in pages_of(folder):
        assert_targets_exist(path, links)


def test_no_such_folder(tmp_path, capsys):
    """The program names a folder that is not there."""
    assert page.main([str(tmp_path / "nothing")]) == 2
    assert "nothing: no such folder" in capsys.readouterr().err


def test_program_writes_both_pages(run_folder):
    """The program writes the page of a folder, and the one above it."""
    assert page.main([str(run_folder)]) == 0
    assert (run_folder / "index.html").is_file()
    assert (run_folder.parent / "index.html").is_file()


# Runs side by side


def test_comparison_shows_what_changed(run_folder):
    """Flags and numbers that differ are there with both values; flags that agree are not."""
    write_run(run_folder.with_name("mtd.old-1"), loss="lsgan")
    write_json(run_folder / "quality.json", {"kid_train": 0.375})
    _, (_, links) = pages_of(run_folder)
    changed = links.text.partition("What changed")[2].partition("Numbers")[0]
    assert changed.split() == ["setting", "mtd.old-1", "mtd", "--loss", "lsgan", "bce"]
    assert "+0.25" in links.text


def test_comparison_of_equal_runs(run_folder):
    """Two runs of the same flags are said to be so."""
    write_run(run_folder.with_name("mtd.old-1"))
    _, (_, links) = pages_of(run_folder)
    assert "The same flags and versions." in links.text


def run_names(tmp_path, *names):
    """The names of the pairs that runs in these folders are compared in."""
    results = tmp_path / "results"
    for name in names:
        write_run(results / name)
    pairs = page.pairs(page.list_runs(results))
    return [(first.name, second.name) for first, second in pairs]


def test_few_runs_are_all_compared(tmp_path):
    """Of three runs every two are compared, the earlier of a task first."""
    found = run_names(tmp_path, "gan", "gan.old-1", "mtd")
    assert found == [("gan.old-1", "gan"), ("gan", "mtd"), ("gan.old-1", "mtd")]


def test_of_many_runs_the_latest_are_compared(tmp_path):
    """Of many runs the latest two of a task are compared; the tenth is later than the ninth."""
    found = run_names(tmp_path, "gan", "mtd", "mtd.old-1", "mtd.old-9", "mtd.old-10")
    assert found == [("mtd.old-10", "mtd")]


# What the script leaves, and the readme


def pictures_of_runs(results):
    """The names of all pictures in the folders of runs, each relative to its run."""
    names = set()
    for task in page.TASKS:
        folder = results / task
        if folder.is_dir():
            names |= {page.relative(path, folder) for path in page.list_pictures(folder)}
    return names


def test_every_picture_of_the_demo_is_described(demo):
    """The table of captions knows every picture that the script writes."""
    for name in pictures_of_runs(demo.folder / "results"):
        assert captions.caption(name)[1] != captions.NOT_DESCRIBED, name


def test_every_caption_is_of_a_picture(demo):
    """The script writes every picture that the table of captions knows."""
    names = pictures_of_runs(demo.folder / "results")
    for pattern in captions.pictures():
        assert fnmatch.filter(names, pattern), pattern


def test_every_number_of_the_demo_is_described(demo):
    """The table of numbers knows every number that the script writes."""
    for task in ("gan", "mtd"):
        for name in page.numbers(page.read_run(demo.folder / "results" / task)):
            assert captions.sentence(name, captions.NUMBERS), name


def test_readme_has_the_same_sentences():
    """The readme's section on results is the table of captions."""
    lines = (ROOT / "README.txt").read_text(encoding="utf-8").splitlines()
    missing = [line for line in captions.readme_lines() if line not in lines]
    assert missing == []


# TensorBoard


def test_events_have_the_names_of_the_metrics(tmp_path):
    """Every number of an epoch is a scalar of the same name; a resumed run goes on with them."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tensorboard.Events(tmp_path, 0).write({"epoch": 1, "loss_d": 0.5})
    tensorboard.Events(tmp_path, 1).write({"epoch": 2, "loss_d": 0.25, "kid_train": 0.125})
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"epoch", "loss_d", "kid_train"}
    assert [(event.step, event.value) for event in events.Scalars("loss_d")] == [
        (1, 0.5),
        (2, 0.25),
    ]


def test_events_without_the_package(tmp_path, monkeypatch):
    """Without the package the error names the flag and the mend."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="--tensorboard.*pip install"):
        tensorboard.Events(tmp_path, 0)
