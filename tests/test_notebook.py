"""The notebook runs from top to bottom, also from the zip, and a notebook's figures are left alone.

Its cells are executed as Jupyter does, in a copy of the project, on the demo set; one epoch of a
few steps each, and without the installation.
"""

import importlib.util
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT

from extras import hand_in

NOTEBOOK = ROOT / "extras" / hand_in.NOTEBOOK
INSTALLATION = "%pip install -q -r requirements.txt"
SHORT = {"EPOCHS = 12": "EPOCHS = 1", "SIZE = 32": "SIZE = 28"}

DRAWING = """
import sys
import matplotlib.pyplot as plt

before = plt.get_backend()
number = plt.figure().number
sys.path.insert(0, ".")
from test import malaria
from extras.drawing import figure

with figure("own.png") as (_, axes):
    axes[0, 0].plot([0, 1])
print(plt.get_backend() == before, plt.fignum_exists(number))
"""

needs_jupyter = pytest.mark.skipif(
    importlib.util.find_spec("nbclient") is None or importlib.util.find_spec("ipykernel") is None,
    reason="nbclient or ipykernel is not installed",
)


def read_notebook(path=NOTEBOOK):
    """A notebook, without its installation, its training short."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace(INSTALLATION, "")
        for long, short in SHORT.items():
            cell.source = cell.source.replace(long, short)
    return notebook


def notebook_of(*sources):
    """A notebook of some code cells."""
    from nbformat.v4 import new_code_cell, new_notebook

    return new_notebook(cells=[new_code_cell(source) for source in sources])


def execute(notebook, folder, monkeypatch):
    """Run all cells of a notebook that lies in a folder. Raises CellExecutionError."""
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()


def pictures(cell):
    """How many pictures stand under a cell."""
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def printed(cell):
    """What a cell wrote on standard output."""
    texts = [output.text for output in cell.outputs if output.get("name") == "stdout"]
    return "".join(texts)


def cell_with(notebook, text):
    """The one code cell that contains a text."""
    (cell,) = [cell for cell in notebook.cells if text in cell.source]
    return cell


@pytest.fixture
def project(tmp_path):
    """A copy of what the notebook needs."""
    for name in ("rollNumber_05.py", "test.py", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "extras", tmp_path / "extras")
    return tmp_path


@needs_jupyter
def test_twelve_cells_without_output():
    """None is longer than a screen."""
    notebook = read_notebook()
    assert len(notebook.cells) == 12
    assert max(len(cell.source.splitlines()) for cell in notebook.cells) <= 15
    assert not any(cell.get("outputs") for cell in notebook.cells)


@needs_jupyter
def test_importing_leaves_figures_and_back_end_alone(project, monkeypatch):
    """A figure that is open stays open, and inline pictures stay inline."""
    notebook = notebook_of(DRAWING)
    execute(notebook, project, monkeypatch)
    assert printed(notebook.cells[0]) == "True True\n"


@needs_jupyter
def test_the_script_is_importable_where_there_is_no_file(project, monkeypatch):
    """As pasted into a cell: it has no __file__, and the next cell can use it."""
    source = (project / "rollNumber_05.py").read_text(encoding="utf-8")
    source = source.partition('if __name__ == "__main__":')[0]
    notebook = notebook_of(source, "print(extra('classes').STAGES[0])")
    execute(notebook, project, monkeypatch)
    assert printed(notebook.cells[1]) == "ring\n"


@needs_jupyter
@pytest.mark.long
def test_the_notebook_runs(project, monkeypatch):
    """From its place in extras/: both tasks, Grad-CAM and the test function, with pictures."""
    notebook = read_notebook()
    execute(notebook, project / "extras", monkeypatch)
    assert pictures(cell_with(notebook, "losses.png")) == 2
    assert pictures(cell_with(notebook, "classifier_curves.png")) == 2
    assert pictures(cell_with(notebook, "# Grad-CAM")) == 3
    assert pictures(cell_with(notebook, "# The test function")) == 1
    assert "real_probability" in str(notebook.cells[-1].outputs)
    assert (project / "results/mtd/best.pt").exists()


class Zip(NamedTuple):
    """What is handed in, and the folder that it has in it, unpacked."""

    path: Path
    unpacked: Path


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """The Zip of this project."""
    folder = tmp_path_factory.mktemp("handed_in")
    report = folder / "Report.pdf"
    report.write_text("a report")
    path = hand_in.hand_in(ROOT, "Ada", "2021-17", report, folder)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return Zip(path, folder / "Ada_2021-17_05")


@needs_jupyter
def test_the_notebook_finds_the_project_in_an_uploaded_zip(handed_in, tmp_path, monkeypatch):
    """As on Colab, under the script's new name."""
    shutil.copy(handed_in.path, tmp_path)
    notebook = read_notebook(handed_in.unpacked / "2021-17_05.ipynb")
    notebook.cells = notebook.cells[:5]  # up to the imports
    execute(notebook, tmp_path, monkeypatch)
    assert "device: c" in printed(notebook.cells[4])


def test_programs_in_the_zip_find_the_script(handed_in, python):
    """They import it, whose new name need not be one that Python can import."""
    imports = "import extras.explain, extras.latent_walk, extras.augment_set"
    done = python("-c", imports, cwd=handed_in.unpacked)
    assert done.returncode == 0, done.stderr
