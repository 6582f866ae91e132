"""How fast the script is, beside the tutorials' way of doing the same, in one run.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.speed                  all on the demo set, some 20 minutes on two cores
    python -m benchmarks.speed --only train answer --data_path DIR --out speed.json
    python -m benchmarks.speed --summary        the tables of what is done
    python -m benchmarks.speed --smoke          a few steps of each, to see that it works

--precision fp32, with ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
in the environment, makes of a processor with AVX-512 and bf16 one without.

train   images/s of --task gan and --task mtd against the tutorials' loop with equal networks and
        batch: an ImageFolder of PNG crops, a DataLoader with two workers and transforms, plain
        Adam, a printed line each step; and against the step of torchgan 0.1.0. For the
        assignment's networks (128 channels at 4x4) on the stages alone, where the tutorials' loop
        starts its workers anew every few steps, and with red blood cells, where it hardly ever
        does; for the paper's networks (512). "script" is what --task runs; "equal work" is without
        augmentation, averaged weights and G's filter, and, in an mtd, with whole batches for real
        against fake, of which the script takes half
flops   share of the fp32 matrix-product rate, measured beside it, that a step achieves, its FLOPs
        counted with torch.utils.flop_counter; and the time of each layer
start   seconds from command to the end of the first step, cold and warm cache, and peak memory,
        for 1, 4 and 16 times the cells
answer  test.py on one image, from command to answer, over python -c "import torch"
epoch   what pictures, metrics of generated cells, validation and checkpoints take of a run of 40
        epochs: of the gan, of the mtd, and of the mtd that tells real from fake at every sixteenth
        step only (mtd_seldom), as on a DCGAN

Loops that are compared take turns; numbers are medians over rounds, ratios medians of ratios.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

import rollNumber_05 as malaria
from benchmarks import speed_commands, speed_training
from benchmarks.runs import ROOT, hardware, make_parser, output, text_of


class Section(NamedTuple):
    """A part of the measurements.

    measure: (folder to work in, flags) -> results; about: what they are, a sentence;
    describe: results -> tables as text.
    """

    measure: Callable
    about: str
    describe: Callable


def rows_of(results):
    """{row: {column: value}} as a DataFrame."""
    return pd.DataFrame.from_dict(results, orient="index")


def describe_train(results):
    """A row for each task, networks and cells."""
    rows = {}
    for case, found in results.items():
        row = {"rounds": f"{found['rounds']} of {found['steps a round']}"}
        for name, rates in found.items():
            if isinstance(rates, dict):
                row[name] = f"{rates['images_per_second']:.0f} ({rates['over_tutorial']:.2f})"
        rows[case] = row
    return text_of(rows_of(rows))


def describe_flops(results):
    """A row for each precision and networks, then a table for each network's layers."""
    rates = {case: found for case, found in results.items() if isinstance(found, dict)}
    parts = [text_of(rows_of(rates).round(2))]
    for case, layers in results.items():
        if isinstance(layers, list):
            columns = ["layer", "output", "GFLOP", "GFLOP/s", "ms"]
            table = pd.DataFrame(layers, columns=columns).set_index("layer")
            parts += ["", f"The {case}.", text_of(table)]
    return "\n".join(parts)


def describe_start(results):
    """A row for each number of cells."""
    return text_of(rows_of(results).round(2))


def describe_answer(results):
    """One row."""
    return text_of(rows_of({"test.py": results}).round(2))


def describe_epoch(results):
    """A row for each run."""
    table = rows_of(results).astype({"epochs": int})
    shares = table.columns.drop(["epochs", "seconds"])
    table[shares] = 100 * table[shares]
    return text_of(table.round(1))


SECTIONS = {
    "train": Section(
        speed_training.measure_train,
        "Training, images/s (over the tutorials' loop), medians of rounds of steps.",
        describe_train,
    ),
    "flops": Section(
        speed_training.measure_flops,
        "Steps of the DCGAN: FLOPs, the fp32 matrix-product rate, and the shares of it achieved.",
        describe_flops,
    ),
    "start": Section(
        speed_commands.measure_start,
        "From command to the end of the first step, s; imports: of torch, cv2 and tqdm alone.",
        describe_start,
    ),
    "answer": Section(
        speed_commands.measure_answer,
        'test.py on one image, s, beside python -c "import torch", and the median of ratios.',
        describe_answer,
    ),
    "epoch": Section(
        speed_training.measure_epoch,
        "Runs of some epochs: seconds, and what of them is not training, %.",
        describe_epoch,
    ),
}


def measure_apart(name, flags, folder):
    """The results of a section in a process of its own, which inherits no memory or threads."""
    part = Path(folder, f"{name}.json")
    command = [sys.executable, "-m", "benchmarks.speed", "--only", name, "--out", str(part)]
    command += ["--data_path", flags.data_path, "--device", flags.device]
    command += ["--precision", flags.precision]
    if flags.smoke:
        command.append("--smoke")
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        raise RuntimeError(f"--only {name} ended with exit code {code}")
    return json.loads(part.read_text())


def measure(flags):
    """{"hardware": text, section: results} of the sections of a command line."""
    results = {"hardware": hardware(malaria.pick_device(flags.device), flags.precision)}
    with tempfile.TemporaryDirectory() as folder:
        if len(flags.only) == 1:
            name = flags.only[0]
            results[name] = SECTIONS[name].measure(Path(folder), flags)
            return results
        for name in flags.only:
            results |= measure_apart(name, flags, folder)
    return results


def describe(results):
    """All tables of results as text."""
    parts = [f"Hardware: {results['hardware']}."]
    for name, section in SECTIONS.items():
        if name in results:
            parts += ["", section.about, section.describe(results[name])]
    return "\n".join(parts)


def summary(path):
    """The tables of a file of results as text. Raises UsageError if there is none."""
    if not path.exists():
        raise malaria.UsageError(f"--out {path}: no such file; a run without --summary writes it")
    return describe(json.loads(path.read_text()))


def run(arguments):
    """Do what a command line says."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    flags = parser.parse_args(arguments)
    with output(flags, "speed.json") as out:
        if not flags.summary:
            results = measure(flags)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(results, indent=1) + "\n")
        print(summary(out))


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
