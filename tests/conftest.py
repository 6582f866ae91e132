"""What several test files share: both programs, small data and networks, and the demo run."""

import contextlib
import functools
import importlib.util
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import layouts
import pytest
import torch

import rollNumber_05 as malaria
from extras import classes, crops

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def seed_torch():
    """Every test starts from the same state of torch's global generator."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Each of pytest's workers computes in one thread."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def few_generated_cells():
    """A measurement in this process draws 40 cells, not 500: their features take the longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(malaria, "GENERATED", 40)
        yield


# Programs


def take_signals():
    """In a process about to start: INT and HUP reach it, also where the tests run under nohup."""
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def run_python(*arguments, cwd, **environment):
    """A finished run of Python in the folder `cwd`, in one thread; its output is text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="session")
def python():
    """The function run_python."""
    return run_python


@pytest.fixture(scope="session")
def script():
    """The function run_python, for rollNumber_05.py with given arguments."""
    return functools.partial(run_python, ROOT / "rollNumber_05.py")


@pytest.fixture(scope="session")
def tester():
    """The function run_python, for test.py with given arguments."""
    return functools.partial(run_python, ROOT / "test.py")


# Small data and networks: 32 pixels, 16 channels at 4x4


def config_of_small_networks(**flags):
    """A Config whose networks and batches are small, in fp32."""
    small = {
        "image_size": 32,
        "g_width": 16,
        "d_width": 16,
        "head_width": 16,
        "batch_size": 8,
        "precision": "fp32",
    }
    return malaria.Config(**{**small, **flags})


def data_of_random_images(labels, classes=classes.STAGES, view="cell"):
    """A MalariaDataset of random images 32x32 with these labels, all in train."""
    count = len(labels)
    index = crops.Index(
        layout="random images",
        view=view,
        classes=list(classes),
        found={},
        problems=[],
        notes=[],
        image_counts={"train": count, "val": 0, "test": 0},
        boxes=[None] * count,
        labels=list(labels),
        splits=["train"] * count,
        sources=[f"{row}.png" for row in range(count)],
    )
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=draws)
    return malaria.MalariaDataset(images, index)


@pytest.fixture(scope="session")
def small_config():
    """The function config_of_small_networks."""
    return config_of_small_networks


@pytest.fixture(scope="session")
def random_data():
    """The function data_of_random_images."""
    return data_of_random_images


@pytest.fixture
def mtd():
    """A small MultiTaskDiscriminator of the four stages, without dropout, in train mode."""
    return malaria.MultiTaskDiscriminator(
        num_classes=4, image_size=32, width=16, head_width=16, dropout=0.0
    )


@pytest.fixture
def images():
    """Six images of noise (6, 3, 32, 32)."""
    draws = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 32, 32, generator=draws)


# Data on disk


def load_folder(path, **flags):
    """The MalariaDataset of a folder or zip, read at 32 pixels, its cache beside it."""
    flags = {"image_size": 32, **flags}
    results = path.parent / "results"
    return malaria.load_data(malaria.Config(data_path=str(path), results_dir=str(results), **flags))


@pytest.fixture(scope="session")
def load():
    """The function load_folder."""
    return load_folder


# Runs in this process: as those of the programs, but torch is imported once for all of them


TINY = ("--image_size", 28, "--min_steps", 4, "--batch_size", 8, "--g_width", 16, "--d_width", 16)
DEMO = ("--image_size", 32, "--epochs", 2, "--min_steps", 60, "--adversarial_every", 1)


def run_here(work, *arguments, cwd):
    """What main(work, arguments) does in the folder `cwd`, as run_python returns it."""
    arguments = list(map(str, arguments))
    output = io.StringIO()
    errors = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        patch.chdir(cwd)
        code = malaria.main(work, arguments)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


@pytest.fixture(scope="session")
def run_script():
    """A function like that of `script`, which runs in this process."""
    return functools.partial(run_here, malaria.run)


@pytest.fixture(scope="session")
def program():
    """test.py as a module; not imported by its name, which the standard library has too."""
    spec = importlib.util.spec_from_file_location("program_under_test", ROOT / "test.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def run_tester(program):
    """A function like that of `tester`, which runs in this process."""
    return functools.partial(run_here, program.run)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A folder of 39 painted fields in the IML layout: 69 cells of the four stages."""
    folder = tmp_path_factory.mktemp("small_data")
    layouts.iml(folder)
    return folder


def leave_out_reports(patch):
    """Make runs end after training: no scores, no pictures, no weights handed over."""
    for name in ("report_run", "run_gradcam", "compare"):
        patch.setattr(malaria, name, lambda *arguments: None)


@pytest.fixture
def without_reports(monkeypatch):
    """Runs of the test end after training."""
    leave_out_reports(monkeypatch)


class DemoRun(NamedTuple):
    """The folder in which the script has run every task on the demo set, and what it said."""

    folder: Path
    done: subprocess.CompletedProcess

    @property
    def gan(self):
        """The trained DCGAN."""
        return self.folder / "saved_models" / "gan.pt"

    @property
    def mtd(self):
        """The trained MTD."""
        return self.folder / "saved_models" / "mtd.pt"

    def data(self):
        """The demo set, as the run has read it."""
        results = str(self.folder / "results")
        return malaria.load_data(malaria.Config(image_size=32, results_dir=results))


@pytest.fixture(scope="session")
def demo(tmp_path_factory, run_script):
    """The DemoRun that tests share; they leave its folder as it is."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(malaria, "GENERATED", 100)  # cells that a measurement draws
        done = run_script(*DEMO, cwd=folder)
    return DemoRun(folder, done)
