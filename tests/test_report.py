"""The report: what it counts, which runs it takes, and that it is built from what is committed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import rollNumber_05 as malaria
from extras import crops
from report import build, experiments, figures

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "report"


# Near copies of cells


@pytest.fixture
def cells():
    """Six cells: 2 is a copy of 0, 5 a paler copy of 3, 4 a copy of 1 in the same field."""
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    images[2] = images[0]
    images[4] = images[1]
    images[5] = 255 - (255 - images[3]) // 2
    index = crops.Index(
        layout="random images",
        view="cell",
        classes=["x", "y"],
        found={},
        problems=[],
        notes=[],
        image_counts={"train": 3, "val": 1, "test": 2},
        boxes=[None] * 6,
        labels=[0, 0, 1, 0, 0, 0],
        splits=["train", "train", "val", "test", "train", "test"],
        sources=list("abcdbf"),
    )
    return malaria.MalariaDataset(torch.from_numpy(images), index)


def test_near_copies_in_different_fields_are_counted(cells):
    """Cells 0 and 2, cells 3 and 5; not 1 and 4, which are of one field."""
    assert experiments.leak(cells)["pairs"] == 2


def test_near_copies_of_neighbouring_fields_are_counted(cells):
    """The fields of 3 and 5, d and f, follow one another, those of 0 and 2, a and c, do not."""
    assert experiments.leak(cells)["neighbours"] == 1


def test_near_copies_with_different_labels_are_counted(cells):
    """Cells 0 and 2."""
    assert experiments.leak(cells)["other_label"] == 1


def test_near_copies_in_different_splits_are_counted(cells):
    """Cells 0 and 2."""
    assert experiments.leak(cells)["parted_by_blocks"] == 1


def test_near_copies_that_a_random_split_would_part(cells):
    """Of six cells in splits of 3, 1 and 2 two are together with probability (3*2 + 2*1)/(6*5)."""
    assert experiments.leak(cells)["parted_at_random"] == pytest.approx(2 * (1 - 8 / 30))


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_near_copies_do_not_depend_on_how_many_are_compared_at_a_time(cells, rows):
    """Pairs have the lower number first."""
    pairs = experiments.near_copies(cells, 0.93, rows)
    assert sorted(pairs.tolist()) == [[0, 2], [1, 4], [3, 5]]


# The runs that a quick report takes


def write_run(folder, data_path, **flags):
    """What a finished run leaves, with weights that nobody loads."""
    folder.mkdir(parents=True)
    config = malaria.Config(data_path=str(data_path), **flags)
    (folder / "config.json").write_text(json.dumps({"config": vars(config)}))
    (folder / "quality.json").write_text("{}")
    (folder / "best.pt").write_text(f"weights of {folder.name}")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder results/ with a finished gan, of a project where nothing can be run."""
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    monkeypatch.setattr(malaria, "load_data", lambda config: config)
    monkeypatch.setattr(experiments, "collect", lambda *arguments: None)
    monkeypatch.setattr(figures, "draw_panels", lambda *arguments: None)
    monkeypatch.setattr(experiments, "call", lambda command: pytest.fail(f"ran {command}"))
    write_run(tmp_path / "results" / "gan", tmp_path)
    return tmp_path / "results"


def run_quickly(project):
    """The experiments of a quick report on the data in the project's folder."""
    experiments.run_experiments(str(project), project / "out", quick=True)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_quick_report_takes_finished_runs(runs, tmp_path, conditional):
    """Nothing is trained, and the kept weights are copied."""
    write_run(runs / "mtd", tmp_path, conditional=conditional)
    run_quickly(tmp_path)
    assert (tmp_path / "out" / "weights" / "mtd.pt").read_text() == "weights of mtd"


def test_a_full_report_takes_no_conditional_mtd(runs, tmp_path):
    """The benchmark of classifiers is about one that is not conditional."""
    write_run(runs / "mtd", tmp_path, conditional=True)
    folder = experiments.folder_of_runs(tmp_path, tmp_path / "out", quick=False)
    assert folder == tmp_path / "out" / "runs"


@pytest.mark.parametrize(
    ("flags", "named"),
    [({"image_size": 32}, "--image_size 64"), ({"view": "field"}, "--view cell")],
)
def test_a_quick_report_refuses_runs_that_read_the_data_differently(runs, tmp_path, flags, named):
    """The message names the flag of the DCGAN."""
    write_run(runs / "mtd", tmp_path, **flags)
    with pytest.raises(malaria.UsageError, match=named):
        run_quickly(tmp_path)


def test_a_quick_report_refuses_a_damaged_run(runs, tmp_path):
    """The message names the file."""
    write_run(runs / "mtd", tmp_path)
    (runs / "mtd" / "config.json").write_text("{")
    with pytest.raises(malaria.UsageError, match=r"config\.json"):
        run_quickly(tmp_path)


def test_a_quick_report_refuses_an_unfinished_run(runs, tmp_path):
    """It does not train beside it; the message says how to finish it."""
    write_run(runs / "mtd", tmp_path)
    (runs / "mtd" / "quality.json").unlink()
    with pytest.raises(malaria.UsageError, match="--resume"):
        run_quickly(tmp_path)


def test_a_report_on_data_that_is_not_there(tmp_path):
    """It says so before it makes a folder."""
    with pytest.raises(malaria.UsageError, match="--data_path nowhere: no such folder"):
        experiments.run_experiments("nowhere", tmp_path / "out", quick=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [["--quick"], ["--demo", "--data_path", "."]])
def test_flags_that_do_not_go_together_are_refused(flags):
    """Before anything is run."""
    with pytest.raises(malaria.UsageError, match=f"{flags[0]} goes with"):
        build.run(flags)


# What is committed


def test_the_report_is_not_older_than_its_sources():
    """The files that it is built from, and their fingerprints, are those of the last build."""
    noted = json.loads((REPORT / "built_from.json").read_text())
    found = build.fingerprints(REPORT / "results", ROOT / "saved_models")
    assert found == noted, "run python -m report.build"


def test_the_report_builds_from_what_is_committed(python, tmp_path):
    """Every figure and number that report.typ asks for is there, for else the compiler refuses."""
    out = tmp_path / "Report.pdf"
    done = python("-m", "report.build", "--out", out, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", out.read_bytes()))
    assert 8 <= pages <= 12


def test_no_photograph_is_tracked():
    """No crop cache, array or JPEG: so a data set's cells would come in beside generated images."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kinds = r"(^|/)cache/|\.(npy|jpe?g|tiff?|bmp)$"
    tracked = [name for name in done.stdout.splitlines() if re.search(kinds, name, re.IGNORECASE)]
    assert tracked == []
