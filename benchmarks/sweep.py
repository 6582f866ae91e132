"""What batch size, length, optimiser, learning rate and loss do to the GAN: one change at a time, at about equal images seen.

    pip install -r benchmarks/requirements.txt
    python benchmarks/sweep.py --data_path DIR                     every setting, two seeds, 32,000 images a run; resumable
    python benchmarks/sweep.py --data_path DIR --seeds 0 --images 16000 --settings default "batch 64"
    python benchmarks/sweep.py --summary                           only the table and the picture of what is done
    python benchmarks/sweep.py --smoke

Everything not named is the script's default; "epochs" alone change how many images are seen (the learning rates fall over
the last epochs, so a longer run is not a shorter one continued). "with the head" is the MTD, from random weights: it plays
real against fake with half as many cells a step. Left in --out: runs.jsonl, a line a run (KID, precision and recall of 500 cells
of the averaged weights after every quarter, losses in 200 means), a strip of samples from the same noise for each run, sweep.png
and the table.
"""
import argparse
import itertools
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import rollNumber_05 as s  # noqa: E402
from peers import append_run, read_runs  # noqa: E402

SETTINGS = {
    "default": {},
    "batch 16": {"batch_size": 16}, "batch 64": {"batch_size": 64}, "batch 128": {"batch_size": 128},
    "epochs x 1/2": {"epochs": 0.5}, "epochs x 2": {"epochs": 2},
    "RMSprop": {"optimizer": "rmsprop"}, "SGD": {"optimizer": "sgd"}, "SGD, rates x 20": {"optimizer": "sgd", "rates": 20},
    "rates x 1/4": {"rates": 0.25}, "rates x 2": {"rates": 2}, "least squares": {"loss": "lsgan"}, "no filter": {"smooth": False},
    "assignment's recipe": {"recipe": "assignment"},
    "with the head": {"task": "mtd"}, "with the head, epochs x 2": {"task": "mtd", "epochs": 2}}
PARTS = 20  # a run is cut into so many parts, after each of which its learning rates are set


def settings_of(change, seed, flags):
    """(Config, images to see) of one run."""
    change = dict(change)
    images, rates = flags.images * change.pop("epochs", 1), change.pop("rates", 1)
    recipe = s.RECIPES[change.get("recipe", "best")]
    given = {"task": "gan", **recipe, **change, "data_path": flags.data_path, "seed": seed, "device": flags.device,
             "results_dir": str(flags.out)}
    config = s.Config(**given)
    return s.Config(**{**given, "lr_g": config.lr_g * rates, "lr_d": config.lr_d * rates}), int(images)


def train(config, images, data, quality, bar):
    """One run: its numbers as a record for runs.jsonl, and the averaged generator."""
    trainer, cells, history, seconds = s.Trainer(config.task, config, data.classes, data.device), data.split("train"), [], 0
    generator, steps = trainer.averages["generator"], max(1, images // config.batch_size // PARTS)
    for part in range(1, PARTS + 1):
        start = time.perf_counter()
        trainer.set_rates((part - 1) / PARTS)
        trainer.train_epoch(cells, steps, bar)
        seconds += time.perf_counter() - start
        if part % (PARTS // 4) == 0:
            history.append({"images": trainer.step * config.batch_size, **quality.of(generator, config.seed + 1)})
    losses = {k: [part.mean().item() for part in np.array_split(trainer.traces[:, s.TRACES.index(k)].numpy(), 200) if len(part)]
              for k in ("loss_g", "loss_d")}
    return {"batch_size": config.batch_size, "steps": trainer.step, "seconds": round(seconds, 1), **history[-1],
            "history": history, **losses}, generator


def strip_file(folder, setting, seed):
    """Where the samples of a run are."""
    return folder / f"{re.sub(r'[^0-9A-Za-z]+', '_', setting)}_{seed}.png"


def run_all(flags):
    """Do what --out lacks; a loss that is not finite is a result too, and noted as one."""
    data = s.load_data(s.Config(data_path=flags.data_path, results_dir=str(flags.out)), s.pick_device(flags.device))
    quality, done = s.Quality(data), {(r["setting"], r["seed"]): r for r in read_runs(flags.out / "runs.jsonl")}
    key = {"asked": flags.images, "cells": len(data.split("train"))}
    if any(r[k] != v for r in done.values() for k, v in key.items()) or any(
            r.get("smooth", False) != settings_of(SETTINGS[name], seed, flags)[0].smooth for (name, seed), r in done.items()):
        raise s.UsageError(f"--out {flags.out}: has runs of other cells, settings or --images; give another --out")
    todo = [(*settings_of(SETTINGS[name], seed, flags), name) for seed, name in itertools.product(flags.seeds, flags.settings)
            if (name, seed) not in done]
    with s.tqdm(total=sum(images for _, images, _ in todo), unit="img", unit_scale=True, desc="sweep", disable=None) as bar:
        for config, images, name in todo:
            record = {"setting": name, "seed": config.seed, **key, "smooth": config.smooth}
            try:
                numbers, generator = train(config, images, data, quality, bar)
                strip = s.sample(generator, s.latents(8, generator, 0))
                s.write_image(strip_file(flags.out, name, config.seed), s.tile(strip))
            except RuntimeError as failure:
                if "not finite" not in str(failure):
                    raise
                numbers = {"failed": str(failure)}
            append_run(flags.out / "runs.jsonl", {**record, **numbers})


def table(runs):
    """A row for each setting: mean and range over its seeds."""
    rows = [["setting", "seeds", "steps", "images", "seconds", "KID to train", "KID to val", "precision", "recall"]]
    for name in dict.fromkeys(r["setting"] for r in runs):
        mine = [r for r in runs if r["setting"] == name and "failed" not in r]
        if not mine:
            rows.append([name, 0, "a loss was not finite"])
            continue
        cells = []
        for key in ("kid_train", "kid_val", "precision", "recall"):
            values = [r[key] for r in mine if r.get(key, "") != ""]
            cells.append(f"{statistics.mean(values):.2f} ({min(values):.2f}-{max(values):.2f})" if values else "")
        rows.append([name, len(mine), mine[0]["steps"], mine[0]["images"], round(statistics.median(r["seconds"] for r in mine)),
                     *cells])
    width = len(rows[0])
    return s.text_table([row + [""] * (width - len(row)) for row in rows])


def picture(runs, folder, path):
    """A row for each setting with J(G), J(D), KID over images seen and samples from the same noise."""
    names = list(dict.fromkeys(r["setting"] for r in runs if "failed" not in r))
    figure, axes = s.pyplot().subplots(len(names), 4, figsize=(10, 0.8 * len(names) + 0.5), squeeze=False, sharex="col",
                                       width_ratios=[1, 1, 1, 2.9])
    limits = {key: 1.05 * max(np.quantile(r[key], 0.98) for r in runs if "failed" not in r) for key in ("loss_g", "loss_d")}
    highest = 1.2 * np.quantile([h["kid_train"] for r in runs if "failed" not in r for h in r["history"]], 0.9)
    for row, name in zip(axes, names):
        mine = [r for r in runs if r["setting"] == name and "failed" not in r]
        for r in mine:
            for axis, key in zip(row, limits):
                axis.plot(np.linspace(0, r["images"], len(r[key])), r[key], linewidth=0.8, label=f"seed {r['seed']}")
                axis.set_ylim(0, limits[key])
            row[2].plot([h["images"] for h in r["history"]], [h["kid_train"] for h in r["history"]], ".-")
        row[3].imshow(s.read_image(strip_file(folder, name, mine[0]["seed"])))
        row[3].set(xticks=[], yticks=[], frame_on=False)
        row[2].set_ylim(0, highest)
        row[0].set_ylabel(name.replace(" ", "\n", 1), rotation=0, ha="right", va="center")
    for axis, title in zip(axes[0], ("J(G)", "J(D)", "KID to train cells", f"samples, seed {runs[0]['seed']}")):
        axis.set_title(title)
    for axis in axes[-1, :3]:
        axis.set_xlabel("images seen")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=150)


def run(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="", help="default: the demo set")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--images", type=int, default=32_000, help="that a run sees")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("results/sweep"))
    parser.add_argument("--summary", action="store_true", help="only the table and picture of what is in --out")
    parser.add_argument("--smoke", action="store_true", help="three settings, one seed, 20 steps each")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if flags.smoke:
            flags.out, flags.seeds, flags.images = Path(folder), [0], 640
            flags.settings = ["default", "batch 16", "SGD"]
        flags.out.mkdir(parents=True, exist_ok=True)
        if not flags.summary:
            run_all(flags)
        if not (runs := read_runs(flags.out / "runs.jsonl")):
            raise s.UsageError(f"--out {flags.out}: no finished runs to sum up")
        text = table(runs)
        (flags.out / "table.txt").write_text(text + "\n")
        if any("failed" not in r for r in runs):
            picture(runs, flags.out, flags.out / "sweep.png")
        print(text)


if __name__ == "__main__":
    sys.exit(s.main(run, sys.argv[1:]))
