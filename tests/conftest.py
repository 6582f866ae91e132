"""What several test files share: the two programs as processes, and small data and networks."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rollNumber_05 as malaria

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def seed_torch():
    """Every test starts from the same state of torch's global generator."""
    torch.manual_seed(0)


# Programs


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
    """python(*arguments, cwd, **environment): a run of Python."""
    return run_python


@pytest.fixture(scope="session")
def script():
    """script(*arguments, cwd): a run of rollNumber_05.py."""
    return functools.partial(run_python, ROOT / "rollNumber_05.py")


@pytest.fixture(scope="session")
def tester():
    """tester(*arguments, cwd): a run of test.py."""
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


def data_of_random_images(labels, classes=malaria.STAGES, view="cell"):
    """A MalariaDataset of random images 32x32 with these labels, all in train."""
    count = len(labels)
    index = malaria.Index(
        layout="random images",
        view=view,
        classes=list(classes),
        skipped=0,
        problems=[],
        images={"train": count, "val": 0, "test": 0},
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
    """small_config(**flags): a Config of small networks."""
    return config_of_small_networks


@pytest.fixture(scope="session")
def random_data():
    """random_data(labels, classes=STAGES, view="cell"): a MalariaDataset."""
    return data_of_random_images


@pytest.fixture
def mtd(seed_torch):
    """A small MultiTaskDiscriminator of the four stages, without dropout, in train mode."""
    return malaria.MultiTaskDiscriminator(
        num_classes=4, image_size=32, width=16, head_width=16, dropout=0.0
    )


@pytest.fixture
def images(seed_torch):
    """Six images of noise (6, 3, 32, 32)."""
    draws = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 32, 32, generator=draws)
