"""The code is laid out as `ruff format` has it, and `ruff check` finds no fault in it."""

import importlib.util

import pytest
from conftest import ROOT

needs_ruff = pytest.mark.skipif(
    importlib.util.find_spec("ruff") is None, reason="ruff is not installed"
)


@needs_ruff
@pytest.mark.parametrize("command", [("format", "--check"), ("check",)], ids=" ".join)
def test_ruff_has_nothing_to_say(python, command):
    """With .ruff.toml, of all files."""
    done = python("-m", "ruff", *command, "--no-cache", ".", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
