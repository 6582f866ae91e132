"""Puts the repository root on the import path and offers the two programs as real processes."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

def runner(program):
    """A function that runs a program of the repository root in the folder `cwd` and returns the CompletedProcess."""
    def call(*arguments, cwd):
        return subprocess.run([sys.executable, str(ROOT / program), *map(str, arguments)], cwd=cwd, capture_output=True,
                              check=False, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return call

@pytest.fixture
def script():
    """script(*arguments, cwd): a run of rollNumber_05.py."""
    return runner("rollNumber_05.py")

@pytest.fixture
def tester():
    """tester(*arguments, cwd): a run of test.py."""
    return runner("test.py")
