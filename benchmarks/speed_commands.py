"""The sections of benchmarks.speed that time whole commands: start and answer."""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from benchmarks.runs import ROOT
from extras import crops
from extras.demo_set import SHARES


class Command(NamedTuple):
    """What a process took: seconds, and the memory of the largest process so far in MB."""

    seconds: float
    peak_mb: float


def timed(*arguments):
    """Run Python with some arguments in the repository root; returns Command.

    Raises RuntimeError if it fails.
    """
    command = [sys.executable, *map(str, arguments)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr}")
    return Command(seconds, peak_memory())


def peak_memory():
    """Memory of the largest child process so far in MB; not known on Windows."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux kilobytes
    return peak / unit


def repeat_demo(source, target, times):
    """Write the demo set `times` over, images linked under new names; returns its cells."""
    (target / "images").mkdir(parents=True)
    annotations = json.loads((source / "annotations.json").read_text())
    repeated = []
    for number in range(times):
        for item in annotations:
            name = f"{number:02d}_{item['image_name']}"
            os.link(source / "images" / item["image_name"], target / "images" / name)
            repeated.append({**item, "image_name": name})
    (target / "annotations.json").write_text(json.dumps(repeated))
    return sum(len(item["objects"]) for item in repeated)


def measure_start(folder, flags):
    """{"cells": seconds to the end of the first step, cold and warm, and memory}."""
    demo = crops.demo_folder(folder)
    repeats = 1 if flags.smoke else 5
    imports = [timed("-c", "import torch, cv2, tqdm").seconds for _ in range(repeats)]
    imports = statistics.median(imports)
    results = {}
    for times in (1,) if flags.smoke else (1, 4, 16):
        data_path = folder / f"demo_{times}"
        cells = repeat_demo(demo, data_path, times)
        command = ["-m", "benchmarks.first_step", "--task", "gan", "--data_path", data_path]
        command += ["--classes", ",".join(SHARES), "--results_dir", folder / f"results_{times}"]
        cold = timed(*command)
        warm = statistics.median(timed(*command).seconds for _ in range(repeats))
        results[f"{cells} cells"] = {
            "cold_s": cold.seconds,
            "warm_s": warm,
            "imports_s": imports,
            "warm_beyond_imports_s": warm - imports,
            "peak_mb": cold.peak_mb,
            "cache_mb": cells * 64 * 64 * 3 / 2**20,
        }
    return results


def measure_answer(folder, flags):
    """Seconds of test.py on one image, of importing torch, and the ratio of both."""
    image = crops.demo_folder(folder) / "images" / "demo_000.png"
    weights = ROOT / "saved_models" / "mtd.pt"
    repeats = 1 if flags.smoke else 9
    answers = []
    imports = []
    for _ in range(repeats):
        answer = timed("test.py", "--model", "mtd", "--weights", weights, "--image", image)
        answers.append(answer.seconds)
        imports.append(timed("-c", "import torch").seconds)
    ratios = [mine / other for mine, other in zip(answers, imports, strict=True)]
    return {
        "test_s": statistics.median(answers),
        "import_torch_s": statistics.median(imports),
        "ratio": statistics.median(ratios),
    }
