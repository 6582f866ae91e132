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


def describe_again(results):
    """The MTD beside the fine-tuned network as it was trained once more on another machine."""
    runs = finished_runs(results / "classifiers.jsonl")
    again = finished_runs(results / "classifiers_intel.jsonl")
    of_both = pd.concat([runs[runs["model"] == "mtd"], again])
    return classifier_scores.describe(of_both)


def describe_lengths(files):
    """The default recipe at several lengths, after each quarter: files of benchmarks.sweep."""
    runs = pd.concat(map(finished_runs, files)).sort_values(["steps", "seed"])
    quarters = []
    for run in runs.drop(columns="seconds").to_dict("records"):
        for measured in run["history"]:
            steps = measured["images"] // run["batch_size"]
            name = f"{steps} of {run['steps']} steps"
            quarters.append({**run, **measured, "steps": steps, "setting": name})
    return sweep.describe(pd.DataFrame(quarters))


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
        section(
            "What a conditional generator's cells are worth: benchmarks.conditional",
            conditional.summary(results / "conditional.jsonl"),
        ),
        section(
            "Batch size, length, optimiser, rates, loss: benchmarks.sweep",
            sweep.summary(results / "sweep"),
        ),
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
    ]
    if (results / "speed_avx2.json").exists():
        title = "Speed on a CPU without AVX-512 and bf16: benchmarks.speed --precision fp32"
        parts.append(section(title, speed.summary(results / "speed_avx2.json")))
    lengths = sorted(results.glob("steps_*/runs.jsonl"))
    if lengths:
        title = "What more steps buy: benchmarks.sweep --settings default --images"
        after_sweep = 5
        parts.insert(after_sweep, section(title, describe_lengths(lengths)))
    if (results / "classifiers_intel.jsonl").exists():
        again = section("The same, effnet trained once more", describe_again(results))
        parts.insert(3, again)
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
