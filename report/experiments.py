"""Runs the experiments of the report, or collects what is already there.

What the report needs of a run is copied beside the other results: numbers, curves and generated
images. Panels that show cells of the data are drawn too, but only where they are not committed.
"""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

import rollNumber_05 as malaria
from benchmarks import classifier_scores
from extras import crops, drawing
from extras.flags import as_flag
from extras.records import DataError
from report import figures

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("gan", "mtd")
DATA_FLAGS = malaria.flags_that_read_data()  # benchmarks know their defaults only
SHOWN_EPOCHS = 7  # of which the report has samples
CAPTION_HEIGHT = 22  # pixels above a grid of samples


def run_experiments(data_path, out, quick):
    """Train, explain and benchmark on a data set; what is done is not done again.

    out: folder for the results; finished runs in results/ are taken too.
    quick: no benchmarks, and a DCGAN and an MTD are trained only where there are none.
    Raises UsageError if the data or the runs cannot be used.
    """
    runs = folder_of_runs(data_path, out, quick)
    try:  # what is wrong with it is said before training
        crops.open_data_path(data_path, runs)
    except DataError as error:
        raise malaria.UsageError(f"--data_path {data_path}: {error}") from error
    train("gan", data_path, runs)
    train("mtd", data_path, runs, "--weights", runs / "gan" / "last.pt")
    weights = out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        best = runs / task / "best.pt"
        source = best if best.exists() else runs / task / "last.pt"
        shutil.copy(source, weights / f"{task}.pt")
    flags = flags_of_data(runs, quick)
    config = malaria.Config(**flags, data_path=data_path, results_dir=str(runs))
    data = malaria.load_data(config)
    collect(data, runs, out)
    calibration = measure_calibration(data, weights / "mtd.pt")
    (out / "calibration.json").write_text(json.dumps(calibration, indent=1))
    figures.draw_panels(data, weights / "mtd.pt", out / "panels")
    if not quick:
        run_benchmarks(data_path, out, weights)


def run_benchmarks(data_path, out, weights):
    """Train a conditional MTD on a DCGAN and run every benchmark on a data set."""
    made_with = malaria.read_state(weights / "gan.pt")["config"]
    flags = ["--conditional", "--weights", weights / "gan.pt"]
    for name in ("latent_dim", "g_width", "d_width", "smooth"):
        flags += as_flag(name, made_with[name]).split()
    train("mtd", data_path, out / "conditional", *flags)
    # The report is about its generator; best.pt would be the head's best epoch.
    conditional = weights / "conditional.pt"
    shutil.copy(out / "conditional" / "mtd" / "last.pt", conditional)

    classifiers = out / "classifiers.jsonl"
    benchmark("sweep", data_path, out / "sweep")
    benchmark("classifiers", data_path, classifiers)
    benchmark("generators", data_path, out / "generators.jsonl")
    benchmark("conditional", data_path, out / "conditional.jsonl", "--weights", conditional)
    benchmark("classifiers", data_path, classifiers, "--time")
    mtd = ["--weights", weights / "mtd.pt"]
    benchmark("heatmaps", data_path, out / "heatmaps_faithfulness.jsonl", *mtd)
    measure_anomaly(data_path, out, mtd)


def measure_anomaly(data_path, out, flags):
    """Run benchmarks/anomaly.py, which does not go on: begun anew until it has finished."""
    finished = out / "anomaly.jsonl"
    if finished.exists():
        return
    unfinished = out / "anomaly.part"
    unfinished.unlink(missing_ok=True)
    benchmark("anomaly", data_path, unfinished, *flags)
    unfinished.rename(finished)


def benchmark(name, data_path, out, *flags):
    """Run one of benchmarks/ on a data set; it goes on where it was stopped."""
    call(["-m", f"benchmarks.{name}", "--data_path", data_path, "--out", out, *flags])


def folder_of_runs(data_path, out, quick):
    """The folder that has the DCGAN and the MTD of the report, or will have them.

    It is results/ if both runs there can be taken.
    """
    results = ROOT / "results"
    if all(can_be_taken(results / task, data_path, quick) for task in TASKS):
        return results
    if quick and any(is_of_data(config_of(results / task), data_path) for task in TASKS):
        raise malaria.UsageError(
            f"{results}: gan and mtd are not both finished runs on this data; "
            "finish them, with --task gan|mtd --resume, or move them away"
        )
    return out / "runs"


def can_be_taken(run, data_path, quick):
    """Whether a folder has a finished run on this data that the report can be about.

    A conditional MTD is for a quick report only: the benchmark of classifiers is about one that is
    not.
    """
    config = config_of(run)
    if not is_of_data(config, data_path) or not (run / "quality.json").exists():
        return False
    return quick or not config["conditional"]


def config_of(run):
    """The flags of a run's folder over today's defaults, or None if there is no run.

    Raises UsageError if its file is damaged.
    """
    path = run / "config.json"
    if not path.exists():
        return None
    try:
        return vars(malaria.Config()) | json.loads(path.read_text())["config"]
    except (ValueError, LookupError, TypeError) as error:
        raise malaria.UsageError(f"{path}: damaged; move {run} away") from error


def is_of_data(config, data_path):
    """Whether there is a run's config and it names this data."""
    return config is not None and Path(config["data_path"]).resolve() == Path(data_path).resolve()


def flags_of_data(runs, quick):
    """{flag: value} with which both runs read their data, where it is not the default.

    Raises UsageError if the report cannot be about such runs.
    """
    dcgan = config_of(runs / "gan")
    mtd = config_of(runs / "mtd")
    for name in DATA_FLAGS:
        if mtd[name] != dcgan[name]:
            raise malaria.UsageError(
                f"{runs}: gan was made with {as_flag(name, dcgan[name])}, mtd with "
                f"{mtd[name]}; the report needs them alike"
            )
    if mtd["view"] == "field":
        raise malaria.UsageError(
            f"{runs / 'mtd'}: made with --view field, the report is about --view cell; "
            "move the runs away"
        )
    defaults = vars(malaria.Config())
    flags = {name: mtd[name] for name in DATA_FLAGS if mtd[name] != defaults[name]}
    if flags and not quick:
        name, value = next(iter(flags.items()))
        raise malaria.UsageError(
            f"{runs / 'mtd'}: made with {as_flag(name, value)}, the benchmarks are about "
            "the default flags; give --quick, or move the runs away"
        )
    return flags


def train(task, data_path, folder, *flags):
    """Train a task into folder/task, go on with it, or leave it if it is finished.

    Raises UsageError if there is a run of other data.
    """
    run = folder / task
    config = config_of(run)
    if config and not is_of_data(config, data_path):
        raise malaria.UsageError(f"{run}: a run of {config['data_path']}; move it away")
    if (run / "quality.json").exists():
        return
    command = [ROOT / "rollNumber_05.py", "--data_path", data_path, "--task", task]
    command += ["--results_dir", folder, "--save_dir", folder, "--overwrite", *flags]
    if (run / "last.pt").exists():
        command.append("--resume")
    call(command)


def call(arguments):
    """Run Python with some arguments, its output on the terminal.

    Raises UsageError or RuntimeError if it ends badly, as its exit code says.
    """
    command = [str(argument) for argument in arguments]
    code = subprocess.run([sys.executable, *command], check=False).returncode
    if code:
        kind = malaria.UsageError if code == 2 else RuntimeError
        raise kind(
            f"{' '.join(command)} ended with exit code {code}; the same command goes on from there"
        )


def collect(data, runs, out):
    """Copy what the report needs of both runs: numbers, curves and generated images, no cell."""
    out.mkdir(parents=True, exist_ok=True)
    about = {
        "layout": data.index.layout,
        "classes": data.classes,
        "splits": data.counts(),
        "leak": leak(data),
    }
    (out / "data.json").write_text(json.dumps(about, indent=1))
    for task in TASKS:
        collect_run(task, runs / task, out / task)
    shutil.copy(runs / "mtd" / "scores.json", out / "mtd" / "scores.json")
    collect_samples(runs / "gan" / "samples", out / "gan" / "samples", data.images.shape[1])


def collect_run(task, run, out):
    """config.json, quality.json, history.json and traces.npz of a run."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "quality.json"):
        shutil.copy(run / name, out / name)
    state = malaria.load_checkpoint(run / "last.pt", task).state  # best.pt's history ends earlier
    history = {"strength": float(state["strength"]), "rows": state["history"]}
    (out / "history.json").write_text(json.dumps(history))
    columns = state["traces"].numpy().astype(np.float16).T
    traces = dict(zip(malaria.StepMetrics._fields, columns, strict=True))
    np.savez_compressed(out / "traces.npz", **traces)


def collect_samples(source, target, image_size):
    """The first row of the samples of some epochs, early ones denser.

    image_size: side of a generated image; in a grid small ones are enlarged.
    """
    files = sorted(source.glob("*.png"))
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    height = math.ceil(64 / image_size) * image_size + 4  # with the border above and below
    epochs = np.geomspace(1, len(files), SHOWN_EPOCHS).round().astype(int)
    for epoch in np.unique(epochs):
        file = files[epoch - 1]
        row = crops.read_image(file)[CAPTION_HEIGHT : CAPTION_HEIGHT + height]
        drawing.write_image(target / file.name, row)


def measure_calibration(data, weights):
    """The calibration error of an MTD about val and test cells, before and after its temperature.

    Returns {"temperature", split: {"n", "before", "after"}}. Val is where it was fitted.
    """
    checkpoint = malaria.load_checkpoint(weights, "mtd", data.device)
    config = checkpoint.state["config"]
    symmetry = malaria.learnt_symmetry(config)
    numbers = {"temperature": checkpoint.state["temperature"]}
    for split in ("val", "test"):
        part = data.split(split)
        before = malaria.predict(checkpoint.discriminator, part, config["loss"], symmetry)
        after = malaria.calibrated_predictions(checkpoint, part)
        numbers[split] = {
            "n": len(part),
            "before": calibration_error(part, before.probabilities),
            "after": calibration_error(part, after.probabilities),
        }
    return numbers


def calibration_error(data, probabilities):
    """Expected calibration error of answers (N, n) about a dataset (Guo et al. 2017, sec. 2)."""
    error = multiclass_calibration_error(
        torch.from_numpy(probabilities),
        data.labels.cpu(),
        num_classes=len(data.classes),
        n_bins=classifier_scores.BINS,
    )
    return error.item()


def leak(data):
    """How many near copies of cells there are, and how many of them each way of splitting parts.

    Parted: in different splits; at random: the mean over all ways to deal the cells into splits of
    these sizes.
    """
    threshold = 0.93
    pairs = near_copies(data, threshold)
    _, field_numbers = np.unique(data.sources(), return_inverse=True)
    fields = field_numbers[pairs]
    is_between_fields = fields[:, 0] != fields[:, 1]
    pairs = pairs[is_between_fields]
    fields = fields[is_between_fields]
    labels = data.labels.cpu().numpy()[pairs]
    splits = np.array([data.index.splits[row] for row in data.rows])
    _, sizes = np.unique(splits, return_counts=True)
    share_together = (sizes * (sizes - 1)).sum() / (len(data) * (len(data) - 1))
    return {
        "threshold": threshold,
        "pairs": len(pairs),
        "neighbours": int((abs(fields[:, 0] - fields[:, 1]) == 1).sum()),
        "other_label": int((labels[:, 0] != labels[:, 1]).sum()),
        "parted_by_blocks": int((splits[pairs[:, 0]] != splits[pairs[:, 1]]).sum()),
        "parted_at_random": float(len(pairs) * (1 - share_together)),
    }


def near_copies(data, threshold, rows=1000):
    """Pairs (P, 2) of numbers of cells whose crops correlate above a threshold.

    rows: how many cells are held against all others at a time.
    """
    images = data.uint8().reshape(len(data), -1).astype(np.float32)
    images -= images.mean(1, keepdims=True)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    pairs = []
    for start in range(0, len(images), rows):
        correlation = images[start : start + rows] @ images[start:].T
        is_near = np.triu(correlation > threshold, 1)
        pairs.append(np.argwhere(is_near) + start)
    return np.concatenate(pairs)


def draw_demo(out):
    """Draw the panels that show cells, of networks trained on the demo set."""
    demo = ROOT / "results" / "report_demo"
    train("gan", "", demo)
    train("mtd", "", demo, "--weights", demo / "gan" / "last.pt")
    # The long run leaves hardly a wrong answer to show, one epoch of 40 steps leaves some.
    train("mtd", "", demo / "short", "--epochs", 1, "--min_steps", 40)
    data = malaria.load_data(malaria.Config(results_dir=str(demo)))
    figures.draw_panels(data, demo / "short" / "mtd" / "last.pt", out, ("wrong",))
    figures.draw_panels(data, demo / "mtd" / "best.pt", out, ("right", "real_fake"))
