"""The hand-in zip runs when unpacked; the report's inputs are all there and no older than what they were made from."""
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import rollNumber_05 as s
import torch
from conftest import ROOT

PARTS = ("README.txt", "requirements.txt", "rollNumber_05.py", "test.py", "Report.pdf")


@pytest.fixture
def project(tmp_path):
    """A copy of what the zip is made of."""
    for name in PARTS:
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("saved_models", "extras"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def hand_in(project, *flags):
    """A finished run of extras/hand_in.py in the project's folder."""
    return subprocess.run([sys.executable, "extras/hand_in.py", *flags], cwd=project, capture_output=True, text=True)


def test_the_zip_has_the_assigned_names_and_runs(project):
    done = hand_in(project, "--name", "Ada", "--roll_number", "2021-17")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(project / "Ada_2021-17_05.zip") as archive:
        names = archive.namelist()
        archive.extractall(project / "unpacked")
    inside = project / "unpacked/Ada_2021-17_05"
    assert all(name.startswith("Ada_2021-17_05/") for name in names) and [n for n in names if n.endswith("_05.py")] == [
        "Ada_2021-17_05/2021-17_05.py"]
    assert {"Ada_2021-17_05/test.py", "Ada_2021-17_05/Report.pdf", "Ada_2021-17_05/README.txt"} <= set(names)
    assert "python 2021-17_05.py" in (inside / "README.txt").read_text() and not any(
        "rollNumber_05" in p.read_text() or "extras/hand_in" in p.read_text() for p in inside.glob("*.txt"))
    assert "python 2021-17_05.py" in (inside / "2021-17_05.py").read_text()
    ran = subprocess.run([sys.executable, "test.py", "--model", "gan", "--num_images", "2", "--json"], cwd=inside,
                         capture_output=True, text=True)
    assert ran.returncode == 0 and len(json.loads(ran.stdout)["images"]) == 2, ran.stderr


@pytest.mark.parametrize("missing", ["Report.pdf", "saved_models/mtd.pt"])
def test_a_missing_part_is_named_and_nothing_is_written(project, missing):
    (project / missing).unlink()
    done = hand_in(project, "--name", "Ada", "--roll_number", "1234")
    assert done.returncode == 2 and missing in done.stderr and done.stderr.count("\n") == 1 and not list(project.glob("*.zip"))


def test_a_readme_of_ones_own_has_to_have_the_sections(project):
    (project / "README.txt").write_text("MY WORK\n=======\n")
    done = hand_in(project, "--name", "Ada", "--roll_number", "1234")
    assert done.returncode == 2 and "TRAIN ON YOUR DATA" in done.stderr and done.stderr.count("\n") == 1
    assert not [*project.glob("*.zip"), *project.glob("*.part")]


def test_a_name_that_cannot_be_a_file_is_refused(project):
    done = hand_in(project, "--name", "../Ada", "--roll_number", "1234")
    assert done.returncode == 2 and "--name" in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture
def report():
    """report/build.py as a module."""
    spec = importlib.util.spec_from_file_location("report_build", ROOT / "report/build.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.mark.parametrize("rows", [2, 100])
def test_near_copies_are_counted(report, rows):
    """Cells 0 and 2 are alike and in two splits, 3 and 5, of neighbouring fields, in one; 1 and 4 are of one field."""
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    images[2], images[5], images[4] = images[0], 255 - (255 - images[3]) // 2, images[1]
    index = {"rows": range(6), "labels": [0, 0, 1, 0, 0, 0], "sources": list("abcdbf"), "classes": ["x", "y"],
             "splits": ["train", "train", "val", "test", "train", "test"]}
    found = report.leak(s.MalariaDataset(torch.from_numpy(images), index, range(6)), rows=rows)
    assert [found[k] for k in ("pairs", "neighbours", "other_label", "parted_by_blocks")] == [2, 1, 1, 1]
    assert found["parted_at_random"] == pytest.approx(2 * (1 - (3 * 2 + 2 * 1) / (6 * 5)))


@pytest.mark.parametrize("mtd, named", [
    ({}, None), ({"conditional": True}, None), ({"image_size": 32}, "--image_size 64"), ({"view": "field"}, "--view cell"),
    ("{", "config.json"), (None, "--resume")])
def test_the_runs_that_a_quick_report_takes(report, tmp_path, monkeypatch, mtd, named):
    """A student's two finished runs are taken as they are; what does not fit is named, and nothing is trained anew."""
    for task in ("gan", "mtd"):
        (folder := tmp_path / "results" / task).mkdir(parents=True)
        given = dict(data_path=str(tmp_path)) | (mtd if task == "mtd" and isinstance(mtd, dict) else {})
        text = mtd if task == "mtd" and isinstance(mtd, str) else json.dumps({"config": vars(s.Config(**given))})
        for name in ("config.json", "best.pt", *(["quality.json"] if task == "gan" or mtd is not None else [])):
            (folder / name).write_text(text)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(s, "load_data", lambda config: config)
    for name in ("collect", "draw_panels"):
        monkeypatch.setattr(report, name, lambda *arguments: None)
    monkeypatch.setattr(report, "call", lambda command: pytest.fail(f"ran {command}"))
    if named:
        with pytest.raises(s.UsageError, match=named):
            report.run_experiments(str(tmp_path), tmp_path / "out", quick=True)
    else:
        report.run_experiments(str(tmp_path), tmp_path / "out", quick=True)
        assert (tmp_path / "out/weights/mtd.pt").exists()


def test_a_report_on_data_that_is_not_there(report, tmp_path):
    with pytest.raises(s.UsageError, match="--data_path nowhere: no such folder"):
        report.run_experiments("nowhere", tmp_path / "out", quick=True)
    assert not (tmp_path / "out").exists()


def test_the_report_is_not_older_than_its_sources():
    """report/build.py notes the fingerprints of all it read: a figure or number that changed since asks for a new build."""
    noted = json.loads((ROOT / "report/built_from.json").read_text())
    results = {p.relative_to(ROOT).as_posix() for p in (ROOT / "report/results").rglob("*") if p.is_file()}
    assert results <= set(noted), "results that the report was not built from; run python report/build.py"
    for name, fingerprint in noted.items():
        found = hashlib.sha1((ROOT / name).read_bytes()).hexdigest() if (ROOT / name).exists() else "missing"
        assert found == fingerprint, f"{name} is missing or has changed; run python report/build.py"


def test_the_report_builds_from_what_is_committed(tmp_path):
    """Every figure and number that report.typ asks for is there: the compiler refuses else; between 8 and 12 pages come out."""
    out = tmp_path / "Report.pdf"
    done = subprocess.run([sys.executable, str(ROOT / "report/build.py"), "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", out.read_bytes()))
    assert 8 <= pages <= 12, f"{pages} pages"


def test_no_photograph_is_tracked():
    """No crop cache, array or JPEG, which is how a data set's cells would come in beside generated images."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    assert not re.findall(r"^.*(?:(?:^|/)cache/.*|\.(?:npy|jpe?g|tiff?|bmp))$", done.stdout, re.MULTILINE | re.IGNORECASE)
