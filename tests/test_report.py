"""The report: what it counts, which runs it takes, and that it is built from what is committed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import rollNumber_05 as malaria
from extras import captions, crops
from report import build, experiments, figures, numbers

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
    monkeypatch.setattr(experiments, "measure_calibration", lambda *arguments: {})
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
    found = build.fingerprints(REPORT / "results", ROOT / "saved_models", REPORT / "panels")
    assert found == noted, "run python -m report.build"


@pytest.fixture(scope="module")
def built(python, tmp_path_factory):
    """The report, built anew from what is committed.

    Every figure and number that report.typ asks for is there, for else the compiler refuses.
    """
    out = tmp_path_factory.mktemp("report") / "Report.pdf"
    done = python("-m", "report.build", "--out", out, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return out


def test_the_report_builds_from_what_is_committed(built):
    """It is as long as a grader reads."""
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", built.read_bytes()))
    assert 8 <= pages <= 14


def test_the_report_is_small(built):
    """It can be mailed."""
    assert built.stat().st_size < 3e6


def test_the_report_has_the_captions_of_the_page(built):
    """Each is there to be printed, and printed."""
    printed = json.loads((built.parent / "report_source" / "numbers.json").read_text())["captions"]
    text = (REPORT / "report.typ").read_text()
    for name, sentence in printed.items():
        assert sentence == captions.caption(name)[1].sentence
        assert f'sentence("{name}")' in text


def test_numbers_of_the_trials_are_from_their_list():
    """Those are typed by hand, but none is that results/trials.txt has not."""
    text = (REPORT / "report.typ").read_text()
    section = text[text.index("<trials>") : text.index("= Limits")]
    listed = (REPORT / "results" / "trials.txt").read_text()
    missing = [number for number in re.findall(r"\d\.\d+", section) if number not in listed]
    assert missing == []


# Numbers


def test_settings_are_in_the_order_of_the_sweep():
    """Whenever their runs were made."""
    runs = pd.DataFrame({"setting": ["hinge", "default", "hinge", "batch 16"]})
    assert [name for name, _ in numbers.in_order(runs)] == ["default", "batch 16", "hinge"]


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (12, [12]), (13, [7, 6]), (23, [12, 11])])
def test_a_long_sweep_is_parted(count, sizes):
    """Into as few pictures as fit on a page."""
    parts = numbers.parts_of(list(range(count)), 12)
    assert [len(part) for part in parts] == sizes
    assert sum(parts, []) == list(range(count))


def test_an_interval_holds_the_mean():
    """Of numbers that are all alike it is a point."""
    found = numbers.interval([0.25] * 10)
    assert found == {"mean": 0.25, "low": 0.25, "high": 0.25}


def test_heat_maps_are_counted_by_seed():
    """Five of each of those that are drawn, at every side of the images."""
    found = numbers.heat_map_numbers(numbers.COMMITTED / "heatmaps_demo.jsonl")
    finer = [row for row in found["maps"] if row["map"] == "finer" and row["every"] == 1]
    assert {row["size"]: row["seeds"] for row in finer} == {32: 5, 64: 5}


def test_areas_less_their_own_are_not_asked_for_twice():
    """The middle is the same map on all cells, so it has none laid on others."""
    found = numbers.faithfulness_numbers(numbers.COMMITTED / "heatmaps_faithfulness.jsonl")
    assert "less other cells" in found["maps"]["finer"]
    assert "less other cells" not in found["maps"]["centre"]


def test_calibration_lowers_the_error_of_the_mtd():
    """Over held-out cells, of which none had a part in its temperature."""
    found = numbers.calibration_numbers(numbers.COMMITTED / "classifiers.jsonl")["mtd"]
    assert found["after"]["high"] < found["before"]["low"]


def test_cells_are_apart_from_what_is_unlike_them():
    """They have no area against themselves."""
    found = numbers.anomaly_numbers(numbers.COMMITTED / "anomaly.jsonl")
    assert found["cells"]["kind"] == "cells"
    assert "cells" not in [kind["kind"] for kind in found["kinds"]]


def digit_run(network, **scores):
    """A line of benchmarks/digits.py."""
    return {"network": network, "seed": 0, "epochs": 5, "trained_on": 90, "n": 10, **scores}


@pytest.fixture
def digits(tmp_path):
    """A file of benchmarks/digits.py with a judge and two DCGANs."""
    shares = {str(digit): 0.1 for digit in range(10)}
    runs = [digit_run("judge", accuracy=0.98)]
    for seed, confidence in enumerate((0.7, 0.9)):
        scores = {"seed": seed, "confidence": confidence, "shares": shares}
        runs.append(digit_run("gan") | scores)
    path = tmp_path / "digits.jsonl"
    path.write_text("\n".join(map(json.dumps, runs)))
    return path


def test_digits_are_averaged_over_the_seeds(digits):
    """With their range."""
    (row,) = numbers.digit_numbers(digits)["networks"]
    assert row["seeds"] == 2
    assert row["confidence"] == {"mean": pytest.approx(0.8), "low": 0.7, "high": 0.9}
    assert row["recognised"]["mean"] is None


def test_without_digits_the_report_has_no_section_on_them(tmp_path):
    """The benchmark may not have been run."""
    assert numbers.digit_numbers(tmp_path / "digits.jsonl") is None


def test_pictures_of_digits_are_taken_where_they_are(tmp_path):
    """The upper half of a sheet, as JPEG."""
    sheet = np.zeros((80, 60, 3), np.uint8)
    Image.fromarray(sheet).save(tmp_path / "digits_gan_0.png")
    figures.draw_digits(tmp_path, tmp_path)
    assert Image.open(tmp_path / "digits_gan.jpg").size == (60, 40)
    assert not (tmp_path / "digits_conditional.jpg").exists()


def test_cells_of_a_panel_are_spread_over_all():
    """The first and the last are among them."""
    assert figures.evenly(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert figures.evenly(np.arange(2), 4).tolist() == [0, 1]


def test_an_anomaly_benchmark_that_was_stopped_is_begun_anew(tmp_path, monkeypatch):
    """It cannot go on; one that has finished is left as it is."""
    (tmp_path / "anomaly.part").write_text("half")
    begun = []

    def benchmark(name, data_path, out, *flags):
        begun.append(name)
        if name == "anomaly":
            assert not out.exists()
            out.write_text("whole")

    monkeypatch.setattr(experiments, "benchmark", benchmark)
    experiments.measure_anomaly("data", tmp_path, [])
    experiments.measure_anomaly("data", tmp_path, [])
    assert begun == ["anomaly"]
    assert (tmp_path / "anomaly.jsonl").read_text() == "whole"


# What is tracked


def test_no_photograph_is_tracked():
    """No crop cache, array or JPEG: so a data set's cells would come in beside generated images."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kinds = r"(^|/)cache/|\.(npy|jpe?g|tiff?|bmp)$"
    tracked = [name for name in done.stdout.splitlines() if re.search(kinds, name, re.IGNORECASE)]
    assert tracked == []
