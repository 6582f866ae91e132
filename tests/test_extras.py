"""The demo set and the zip that is handed in."""

import json
import re
import shutil
import subprocess
import zipfile
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from conftest import ROOT

from extras import demo_set, hand_in

# The demo set


class DemoSet(NamedTuple):
    """The first fields of the demo set, read from its files."""

    folder: object
    images: list[np.ndarray]
    annotations: list[dict]
    masks: list[np.ndarray]

    def boxes(self, number):
        """[(class, (x, y, w, h))] of a field, in pixels."""
        boxes = []
        for entry in self.annotations[number]["objects"]:
            corners = [int(entry["bbox"][key]) for key in "xywh"]
            boxes.append((entry["type"], corners))
        return boxes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The DemoSet of three fields."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_set, "FIELDS", 3)
        demo_set.write_demo_set(folder)
    annotations = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    names = [item["image_name"] for item in annotations]
    images = [cv2.imread(str(folder / "images" / name)) for name in names]
    with np.load(folder / "masks.npz") as masks:
        parasites = [masks[name.removesuffix(".png")] for name in names]
    return DemoSet(folder, images, annotations, parasites)


def test_the_demo_set_is_the_same_every_time(drawn, tmp_path, monkeypatch):
    """Every file, to the byte."""
    monkeypatch.setattr(demo_set, "FIELDS", 3)
    demo_set.write_demo_set(tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / file).read_bytes() == (drawn.folder / file).read_bytes(), file


def test_fields_of_the_demo_set_have_their_size(drawn):
    """480 by 640 pixels in colour."""
    assert {image.shape for image in drawn.images} == {(480, 640, 3)}


def test_masks_of_the_demo_set_have_the_size_of_their_fields(drawn):
    """480 by 640, true or not."""
    assert {mask.shape for mask in drawn.masks} == {(480, 640)}
    assert {mask.dtype for mask in drawn.masks} == {np.dtype(bool)}


@pytest.mark.parametrize("number", range(3))
def test_every_parasite_of_the_demo_set_is_in_a_box(drawn, number):
    """Or cut off by a border of the field, with less than half of its cell in view."""
    outside = drawn.masks[number].copy()
    for stage, (x, y, w, h) in drawn.boxes(number):
        if stage != "red blood cell":
            outside[max(y - 2, 0) : y + h + 2, max(x - 2, 0) : x + w + 2] = False
    border = 40
    assert not outside[:, border:-border].any()


@pytest.mark.parametrize("number", range(3))
def test_every_box_of_a_parasite_of_the_demo_set_has_one(drawn, number):
    """Some of its pixels are in the mask."""
    for stage, (x, y, w, h) in drawn.boxes(number):
        if stage != "red blood cell":
            assert drawn.masks[number][max(y, 0) : y + h, max(x, 0) : x + w].any()


def test_neighbouring_fields_of_the_demo_set_show_the_same_cells(drawn):
    """In the eighth by which they overlap."""
    overlap = demo_set.WIDTH - demo_set.STEP
    left = drawn.masks[0][:, -overlap:]
    right = drawn.masks[1][:, :overlap]
    assert left.any()
    assert np.array_equal(left, right)


def test_the_demo_set_goes_into_a_new_folder_only(tmp_path, capsys):
    """Exit code 2, and one line that names the folder."""
    assert demo_set.main([str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {tmp_path} cannot be made")
    assert errors.count("\n") == 1


# The zip that is handed in


@pytest.fixture
def project(tmp_path):
    """A copy of what the zip is made of, with a report of one line."""
    folder = tmp_path / "project"
    for name in ("extras", "saved_models"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("README.txt", "requirements.txt", "rollNumber_05.py", "test.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "Report.pdf").write_text("a report")
    return folder


def run_hand_in(project, *flags):
    """Write the zip of a project beside it; returns the exit code."""
    flags = ["--roll_number", "2021-17", *map(str, flags), "--out", str(project.parent)]
    return hand_in.main(flags, root=project)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder in the zip of this project, unpacked into an empty folder."""
    folder = tmp_path_factory.mktemp("handed_in")
    report = folder / "mine.pdf"
    report.write_text("a report")
    target = hand_in.hand_in(ROOT, "Ada", "2021-17", report, folder)
    with zipfile.ZipFile(target) as archive:
        archive.extractall(folder / "unpacked")
    (inside,) = (folder / "unpacked").iterdir()
    return inside


def names_in(folder):
    """The files of a folder, without bytecode."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(folder).as_posix() for path in files}


def test_the_zip_has_one_folder_of_the_assigned_name(unpacked):
    """FirstName_RollNumber_05."""
    assert unpacked.name == "Ada_2021-17_05"


def test_the_zip_has_the_assigned_files(unpacked):
    """The script under its new name, and no data, results or tests."""
    extras = {f"extras/{path.name}" for path in (ROOT / "extras").glob("*.py")}
    weights = {"saved_models/gan.pt", "saved_models/mtd.pt"}
    others = {"test.py", "Report.pdf", "README.txt", "requirements.txt"}
    others |= {"2021-17_05.py", "2021-17_05.ipynb"}
    assert names_in(unpacked) == others | weights | extras


@pytest.mark.parametrize("name", ["README.txt", "2021-17_05.py", "extras/hand_in.py"])
def test_files_in_the_zip_name_the_script_as_it_is_there(unpacked, name):
    """By its new name."""
    text = (unpacked / name).read_text(encoding="utf-8")
    assert "2021-17_05.py" in text
    assert "rollNumber_05.py" not in text


def test_the_readme_in_the_zip_is_about_its_files_only(unpacked):
    """The title and the sections that hand_in.py names, in their order."""
    text = (unpacked / "README.txt").read_text(encoding="utf-8")
    headings = re.findall(r"^([A-Z][A-Z ,]+)\n-+$", text, flags=re.MULTILINE)
    assert headings == list(hand_in.SECTIONS)
    assert text.startswith((ROOT / "README.txt").read_text(encoding="utf-8").splitlines()[0])
    assert "pip install -r requirements.txt" in text


def test_the_report_in_the_zip_is_the_one_given(unpacked):
    """With --report."""
    assert (unpacked / "Report.pdf").read_text() == "a report"


def test_the_script_in_the_zip_runs(unpacked, python):
    """With what it loads from extras/."""
    done = python("2021-17_05.py", "--summary", cwd=unpacked)
    assert done.returncode == 0, done.stderr
    assert "Generator: " in done.stdout


def test_test_py_in_the_zip_runs(unpacked, python, tmp_path):
    """On the weights beside it."""
    flags = ("--model", "gan", "--num_images", 2, "--out", tmp_path, "--json")
    done = python("test.py", *flags, cwd=unpacked)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["images"]) == 2


def test_the_zip_is_written_and_its_files_are_named(project, capsys):
    """Exit code 0."""
    assert run_hand_in(project, "--name", "Ada") == 0
    assert (project.parent / "Ada_2021-17_05.zip").exists()
    assert "Ada_2021-17_05/2021-17_05.py" in capsys.readouterr().out


def assert_refused(project, capsys, named):
    """One line on standard error, and no zip."""
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert named in errors
    assert not list(project.parent.glob("*.zip"))
    assert not list(project.parent.glob("*.part"))


@pytest.mark.parametrize("name", ["Report.pdf", "saved_models/mtd.pt", "extras/__init__.py"])
def test_a_part_that_is_missing_is_named(project, capsys, name):
    """And no zip is written."""
    (project / name).unlink()
    assert run_hand_in(project, "--name", "Ada") == 2
    assert_refused(project, capsys, str(project / name))


def test_a_part_that_is_empty_is_named(project, capsys):
    """And no zip is written."""
    (project / "test.py").write_text("")
    assert run_hand_in(project, "--name", "Ada") == 2
    assert_refused(project, capsys, "test.py")


def test_a_readme_of_ones_own_has_to_have_the_sections(project, capsys):
    """The first that is missing is named."""
    (project / "README.txt").write_text("MY WORK\n=======\n")
    assert run_hand_in(project, "--name", "Ada") == 2
    assert_refused(project, capsys, f"README.txt has no section {hand_in.SECTIONS[0]}")


def test_a_name_that_cannot_be_a_file_is_refused(project, capsys):
    """The line names the flag."""
    assert run_hand_in(project, "--name", "../Ada") == 2
    assert_refused(project, capsys, "--name '../Ada'")


# What is tracked


def test_no_photograph_is_tracked():
    """No crop cache, array or JPEG, which is how a data set's cells would come in."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pattern = r"(^|/)cache/|\.(npy|jpe?g|tiff?|bmp)$"
    tracked = done.stdout.splitlines()
    photographs = [name for name in tracked if re.search(pattern, name, flags=re.IGNORECASE)]
    assert photographs == []
