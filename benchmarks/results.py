"""Write benchmarks/RESULTS.txt: what every program has measured, from report/results/.

python -m benchmarks.results [--results DIR --out FILE]
"""

import sys
from pathlib import Path

import pandas as pd

import rollNumber_05 as malaria
from benchmarks import (
    anomaly,
    classifier_scores,
    classifiers,
    conditional,
    digits,
    generators,
    heatmaps,
    speed,
    sweep,
)
from benchmarks.runs import ROOT, finished_runs
from extras.flags import Parser

HEAD = """\
RESULTS OF THE BENCHMARKS
=========================

Written by python -m benchmarks.results from the files in report/results/. What is compared, and
how, is in the docstring of the program that each heading names.
"""


def section(title, text):
    """A heading and the text under it."""
    return f"\n\n{title}\n{'-' * len(title)}\n{text}\n"


# Sections that a folder of results may lack: each is a list of one, or empty


def again_section(results):
    """The MTD beside the fine-tuned network as it was trained once more on another machine."""
    path = results / "classifiers_intel.jsonl"
    if not path.exists():
        return []
    runs = finished_runs(results / "classifiers.jsonl")
    of_both = pd.concat([runs[runs["model"] == "mtd"], finished_runs(path)])
    title = "The same, effnet trained once more"
    return [section(title, classifier_scores.describe(of_both))]


def lengths_section(results):
    """The default recipe at several lengths, after each quarter of a run."""
    files = sorted(results.glob("steps_*/runs.jsonl"))
    if not files:
        return []
    runs = pd.concat(map(finished_runs, files)).sort_values(["steps", "seed"])
    runs = runs.drop(columns="seconds")  # they are of whole runs
    quarters = []
    for run in runs.to_dict("records"):
        for measured in run["history"]:
            steps = measured["images"] // run["batch_size"]
            name = f"{steps} of {run['steps']} steps"
            quarters.append({**run, **measured, "steps": steps, "setting": name})
    title = "What more steps buy: benchmarks.sweep --settings default --images"
    return [section(title, sweep.describe(pd.DataFrame(quarters)))]


def slower_cpu_section(results):
    """Speed where the kernels were limited to AVX2."""
    path = results / "speed_avx2.json"
    if not path.exists():
        return []
    title = "Speed on a CPU without AVX-512 and bf16: benchmarks.speed --precision fp32"
    return [section(title, speed.summary(path))]


def describe_results(results):
    """All tables of a folder of results as text."""
    parts = [
        HEAD,
        section(
            "How real the cells are: benchmarks.generators",
            generators.summary(results / "generators.jsonl"),
        ),
        section(
            "Naming the stage: benchmarks.classifiers",
            classifiers.summary(results / "classifiers.jsonl"),
        ),
        *again_section(results),
        section(
            "What a conditional generator's cells are worth: benchmarks.conditional",
            conditional.summary(results / "conditional.jsonl"),
        ),
        section(
            "Batch size, length, optimiser, rates, loss: benchmarks.sweep",
            sweep.summary(results / "sweep"),
        ),
        *lengths_section(results),
        section("Digits: benchmarks.digits", digits.summary(results / "digits.jsonl")),
        section(
            "Where heat maps point: benchmarks.heatmaps --demo",
            heatmaps.demo_summary(results / "heatmaps_demo.jsonl"),
        ),
        section(
            "What answers hang on: benchmarks.heatmaps",
            heatmaps.faithfulness_summary(results / "heatmaps_faithfulness.jsonl"),
        ),
        section(
            "What is unlike the training cells: benchmarks.anomaly",
            anomaly.summary(results / "anomaly.jsonl"),
        ),
        section("Speed: benchmarks.speed", speed.summary(results / "speed.json")),
        *slower_cpu_section(results),
    ]
    return "".join(parts)


def run(arguments):
    """Do what a command line says."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--results", type=Path, default=ROOT / "report" / "results", help="folder to read")
    add("--out", type=Path, default=ROOT / "benchmarks" / "RESULTS.txt", help="file to write")
    flags = parser.parse_args(arguments)
    flags.out.write_text(describe_results(flags.results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
