"""What batch size, length, optimiser, learning rate and loss do to the GAN: one change at a time.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.sweep --data_path DIR              every setting, two seeds; resumable
    python -m benchmarks.sweep --data_path DIR --seeds 0 --settings default "batch 64"
    python -m benchmarks.sweep --summary                    the table and picture of what is done
    python -m benchmarks.sweep --smoke                      three settings, 20 steps each

A run sees 32,000 images; "epochs" alone change that (the learning rates fall over the last ones,
so that a longer run is not a shorter one continued). Everything not named is the script's default.
"with the head" is the MTD from random weights, whose real against fake has half as many cells a
step. The losses of WGAN-GP are in units of their own, and have axes of their own. Left in the
folder --out: runs.jsonl, a line a run (KID, precision and recall of 500 cells of the averaged
weights after every quarter, losses in 200 means), a strip of samples from the same noise for each
run, sweep.png and the table.
"""

import dataclasses
import itertools
import re
import sys
import time

import numpy as np
import pandas as pd

import rollNumber_05 as malaria
from benchmarks.runs import (
    append_run,
    finished_runs,
    hardware,
    hardware_line,
    make_parser,
    mean_and_range,
    output,
    paragraph,
    read_runs,
    text_of,
)
from extras import crops, drawing


@dataclasses.dataclass(frozen=True)
class Setting:
    """A change of the script's defaults.

    flags: those of the script that differ; length, rates: factors of images seen and of both
    learning rates.
    """

    flags: dict = dataclasses.field(default_factory=dict)
    length: float = 1.0
    rates: float = 1.0


GULRAJANI = {  # Adam as in Gulrajani et al. 2017, algorithm 1
    "lr_g": 1e-4,
    "lr_d": 1e-4,
    "beta1_g": 0.0,
    "beta1_d": 0.0,
    "beta2_g": 0.9,
    "beta2_d": 0.9,
}
SETTINGS = {
    "default": Setting(),
    "batch 16": Setting({"batch_size": 16}),
    "batch 64": Setting({"batch_size": 64}),
    "batch 128": Setting({"batch_size": 128}),
    "epochs x 1/2": Setting(length=0.5),
    "epochs x 2": Setting(length=2),
    "RMSprop": Setting({"optimizer": "rmsprop"}),
    "SGD": Setting({"optimizer": "sgd"}),
    "SGD, rates x 20": Setting({"optimizer": "sgd"}, rates=20),
    "rates x 1/4": Setting(rates=0.25),
    "rates x 2": Setting(rates=2),
    "least squares": Setting({"loss": "lsgan"}),
    "hinge": Setting({"loss": "hinge"}),
    "WGAN-GP": Setting({"loss": "wgan-gp"}),
    "WGAN-GP, its Adam": Setting({"loss": "wgan-gp", **GULRAJANI}),
    "feature matching": Setting({"feature_matching": 0.01}),
    "hinge, epochs x 2": Setting({"loss": "hinge"}, length=2),
    "WGAN-GP, epochs x 2": Setting({"loss": "wgan-gp"}, length=2),
    "feature matching, epochs x 2": Setting({"feature_matching": 0.01}, length=2),
    "no filter": Setting({"smooth": False}),
    "assignment's recipe": Setting({"recipe": "assignment"}),
    "with the head": Setting({"task": "mtd"}),
    "with the head, epochs x 2": Setting({"task": "mtd"}, length=2),
}
CRITIC = "WGAN-GP"  # whose losses are in units of their own
PARTS = 20  # of a run, before each of which its learning rates are set
QUARTER = PARTS // 4  # after which the generated cells are measured
MEANS = 200  # numbers that are left of a run's loss
MEASURES = ("kid_train", "kid_val", "precision", "recall")
LOSSES = {"loss_g": "J(G)", "loss_d": "J(D)"}


def config_of(setting, seed, flags, out):
    """The Config of a run."""
    recipe = malaria.RECIPES[setting.flags.get("recipe", "best")]
    given = {
        "task": "gan",
        **recipe,
        **setting.flags,
        "data_path": flags.data_path,
        "seed": seed,
        "device": flags.device,
        "results_dir": str(out),
    }
    config = malaria.Config(**given)
    return dataclasses.replace(
        config, lr_g=config.lr_g * setting.rates, lr_d=config.lr_d * setting.rates
    )


def train(config, images, data, bar):
    """One run of so many images: its numbers as a dict, and the averaged generator."""
    trainer = malaria.Trainer(config.task, config, data.classes, data.device)
    generator = trainer.averages["generator"].module
    cells = data.split("train")
    steps = max(1, images // config.batch_size // PARTS)
    seconds = 0.0
    history = []
    for part in range(PARTS):
        start = time.perf_counter()
        trainer.set_rate_factor(part / PARTS)
        trainer.train_epoch(cells, steps, bar)
        seconds += time.perf_counter() - start
        if (part + 1) % QUARTER == 0:
            measured = malaria.measure_quality(generator, data, config.seed + 1)
            history.append({"images": trainer.step * config.batch_size, **measured})
    numbers = {
        "batch_size": config.batch_size,
        "steps": trainer.step,
        "seconds": round(seconds, 1),
        **history[-1],
        "history": history,
    }
    for name in LOSSES:
        trace = trainer.traces[:, malaria.StepMetrics._fields.index(name)].numpy()
        numbers[name] = means_of(trace)
    return numbers, generator


def means_of(trace):
    """A loss of every step in MEANS means, or as it is if there are fewer."""
    parts = np.array_split(trace, min(MEANS, len(trace)))
    return [part.mean().item() for part in parts]


def strip_file(folder, setting, seed):
    """Where the samples of a run are."""
    name = re.sub(r"[^0-9A-Za-z]+", "_", setting)
    return folder / f"{name}_{seed}.png"


def run_all(flags, out):
    """Do what --out lacks. Raises UsageError if what it has is of other cells or settings."""
    config = malaria.Config(data_path=flags.data_path, results_dir=str(out))
    data = malaria.load_data(config, malaria.pick_device(flags.device))
    done = {(run["setting"], run["seed"]): run for run in read_runs(out / "runs.jsonl")}
    for seed, name in itertools.product(flags.seeds, flags.settings):
        config = config_of(SETTINGS[name], seed, flags, out)
        record = {
            "setting": name,
            "seed": seed,
            "asked": flags.images,
            "cells": len(data.split("train")),
            "smooth": config.smooth,
        }
        earlier = done.get((name, seed))
        if earlier is None:
            record["hardware"] = hardware(data.device)
            images = int(flags.images * SETTINGS[name].length)
            record |= run_setting(config, images, data, strip_file(out, name, seed))
            append_run(out / "runs.jsonl", record)
        elif not record.items() <= earlier.items():
            raise malaria.UsageError(
                f"{out}: has a run of {name} of other cells, settings or --images; "
                "give another --out"
            )


def run_setting(config, images, data, strip):
    """The numbers of one run as a dict, its samples in the file `strip`.

    A loss that is not finite is a result too, and noted as one.
    """
    try:
        with malaria.tqdm(total=images, unit="img", disable=None) as bar:
            numbers, generator = train(config, images, data, bar)
    except RuntimeError as failure:
        if "not finite" not in str(failure):
            raise
        return {"failed": str(failure)}
    samples = malaria.sample(generator, malaria.latents(8, generator, 0))
    drawing.write_image(strip, drawing.grid(samples))
    return numbers


def measured_runs(runs):
    """The runs whose losses stayed finite."""
    if "failed" in runs:
        return runs[runs["failed"].isna()]
    return runs


def setting_table(runs):
    """A row for each setting: mean and range over its seeds."""
    by_setting = runs.groupby("setting", sort=False)
    table = pd.DataFrame(
        {
            "seeds": by_setting["seed"].nunique(),
            "steps": by_setting["steps"].first(),
            "images": by_setting["images"].first(),
        }
    )
    if "seconds" in runs:
        table["seconds"] = by_setting["seconds"].median().round().astype(int)
    present = [name for name in MEASURES if name in runs]
    measures = by_setting[present].agg(mean_and_range, digits=2)
    return table.join(measures.rename(columns={"kid_train": "KID to train", "kid_val": "to val"}))


def picture(runs, folder, path):
    """Draw a row for each setting: its losses, KID over images seen, samples of the same noise.

    runs: records as read_runs returns them; folder: where their strips of samples are.
    """
    runs = measured_runs(pd.DataFrame(runs))
    settings = runs.groupby("setting", sort=False)
    size = (10, 0.8 * len(settings) + 0.5)
    shared = {"sharex": "col", "width_ratios": [1, 1, 1, 2.9]}
    with drawing.figure(path, len(settings), 4, size, dpi=150, **shared) as (figure, axes):
        for row, (name, of_setting) in zip(axes, settings, strict=True):
            draw_curves(row, of_setting)
            strip = strip_file(folder, name, of_setting["seed"].iloc[0])
            row[3].imshow(crops.read_image(strip))
            row[3].set(xticks=[], yticks=[], frame_on=False)
            row[0].set_ylabel(name.replace(" ", "\n", 1), rotation=0, ha="right", va="center")
        for row, (name, _) in zip(axes, settings, strict=True):
            *of_losses, of_kid = limits(runs)
            row[2].set_ylim(0, of_kid)
            if not name.startswith(CRITIC):
                row[0].set_ylim(0, of_losses[0])
                row[1].set_ylim(0, of_losses[1])
        titles = [*LOSSES.values(), "KID to train cells", f"samples, seed {runs['seed'].iloc[0]}"]
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title)
        for axis in axes[-1, :3]:
            axis.set_xlabel("images seen")
        axes[0, 0].legend(fontsize=7)
    return figure


def draw_curves(axes, runs):
    """The losses and the KID of one setting's runs, a line a seed, in three axes."""
    for run in runs.itertuples():
        for axis, name in zip(axes, LOSSES, strict=False):
            losses = getattr(run, name)
            images = np.linspace(0, run.images, len(losses))
            axis.plot(images, losses, linewidth=0.8, label=f"seed {run.seed}")
        history = pd.DataFrame(run.history)
        axes[2].plot(history["images"], history["kid_train"], ".-")


def limits(runs):
    """The upper ends of the axes of J(G), J(D) and KID, alike for all settings but CRITIC's."""
    with_units_alike = runs[~runs["setting"].str.startswith(CRITIC)]
    upper = []
    for name in LOSSES:
        highest = max(np.quantile(losses, 0.98) for losses in with_units_alike[name])
        upper.append(1.05 * highest)
    history = pd.DataFrame(runs["history"].explode().tolist())
    upper.append(1.2 * history["kid_train"].quantile(0.9))
    return upper


def summary(folder):
    """The table of a folder of runs as text."""
    return describe(finished_runs(folder / "runs.jsonl"))


def describe(runs):
    """The table of runs as text."""
    parts = [
        paragraph(
            f"Each setting trained on {runs['cells'].iloc[0]} cells; {malaria.GENERATED} generated "
            "ones against the training and the val cells: mean (lowest-highest) over the seeds."
        ),
        hardware_line(runs, "setting"),
    ]
    measured = measured_runs(runs)
    if not measured.empty:
        parts.append(text_of(setting_table(measured)))
    failed = runs.drop(measured.index)
    if not failed.empty:
        names = ", ".join(failed["setting"] + " (seed " + failed["seed"].astype(str) + ")")
        parts.append(paragraph(f"A loss was not finite: {names}."))
    return "\n".join(parts)


def run(arguments):
    """Do what a command line says."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    add("--seeds", nargs="+", type=int, default=[0, 1])
    add("--images", type=int, default=32_000, help="that a run sees")
    flags = parser.parse_args(arguments)
    with output(flags, "sweep") as out:
        if flags.smoke:
            flags.seeds = [0]
            flags.images = 640
            flags.settings = ["default", "batch 16", "SGD"]
        if not flags.summary:
            run_all(flags, out)
        text = summary(out)
        (out / "table.txt").write_text(text + "\n")
        runs = finished_runs(out / "runs.jsonl")
        if not measured_runs(runs).empty:
            picture(runs, out, out / "sweep.png")
        print(text)


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
