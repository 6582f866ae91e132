"""How real the generated cells are, beside other DCGANs given the same cells and the same wall-clock time; resumable.

    pip install -r benchmarks/requirements.txt
    python benchmarks/generators.py --data_path DIR --out results/generators.jsonl        every model, 20 minutes, seed 0
    python benchmarks/generators.py --data_path DIR --models script --seeds 0 1 2 --minutes 5
    python benchmarks/generators.py --data_path DIR --weights saved_models/gan.pt         only measure, three draws of noise
    python benchmarks/generators.py --out results/generators.jsonl --summary              only the table of what is done
    python benchmarks/generators.py --smoke                                               every model, a few seconds each

script       the script's --task gan with its defaults
assignment   the same networks with --recipe assignment
tutorial     the DCGAN of the paper's size (512 channels at 4x4) as tutorials train it: ImageFolder, DataLoader, Adam 2e-4
torchgan     torchgan 0.1.0's own DCGAN of that size and its Trainer's step

Time is training only, measuring left out. Measured are 500 cells of the last weights (the script's: averaged), from the
same seed, in pooled features of EfficientNet-Lite0 (ImageNet, 112x112, not Inception): kid_train and kid_unseen, mean of 50
subsets of 100, to the training cells and to those of the val and test fields together; frechet to the training cells;
precision and recall. The floor is the same for real cells: one half of the training cells to the other in kid_train (they
share fields, so it is low), training cells to unseen ones in the rest.
"""
import argparse
import contextlib
import io
import itertools
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import rollNumber_05 as s  # noqa: E402
from peers import ScriptLoop, TorchganLoop, TutorialLoop, append_run, read_runs, write_png_folder  # noqa: E402

MODELS = ("script", "assignment", "tutorial", "torchgan")
COLUMNS = ("kid_train", "kid_unseen", "frechet", "precision", "recall")


def make_loop(model, seed, data, folder, flags):
    """An untrained model as an object with run(steps) and its generator g."""
    torch.manual_seed(seed)
    given = {"data_path": flags.data_path, "task": "gan", "seed": seed, "device": flags.device}
    if model in ("script", "assignment"):
        return ScriptLoop("gan", s.Config(**s.RECIPES["best" if model == "script" else model], **given), data)
    config = s.Config(**given, g_width=512, d_width=512)
    if model == "tutorial":
        return TutorialLoop("gan", config, folder, data.device, len(data.classes))
    return TorchganLoop(config, folder, data.device)


def measure(generator, quality, unseen, seed):
    """The COLUMNS of a generator."""
    noise = s.latents(quality.GENERATED, generator, seed + 1) if hasattr(generator, "num_classes") else torch.randn(
        quality.GENERATED, 100, generator=torch.Generator().manual_seed(seed + 1))
    fake, real = quality.features(s.sample(generator, noise)), quality.real["train"]
    return {"kid_train": quality.kid(real, fake), "kid_unseen": quality.kid(unseen, fake), "frechet": quality.frechet(real, fake),
            "precision": s.share_within(real, fake), "recall": s.share_within(fake, real)}


def train(loop, seconds):
    """Train for so many seconds; returns steps, seconds that it took."""
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        if isinstance(loop, ScriptLoop):
            loop.trainer.set_rates(min((time.perf_counter() - start) / seconds, 0.999))
        with contextlib.redirect_stdout(io.StringIO()):
            loop.run(50 if seconds > 60 else 1)
        steps += 50 if seconds > 60 else 1
    return steps, time.perf_counter() - start


def floor_of(quality, unseen):
    """The COLUMNS of real cells."""
    real = quality.real["train"]
    return {"kid_train": quality.kid(real[::2], real[1::2]), "kid_unseen": quality.kid(real, unseen),
            "frechet": quality.frechet(real, unseen),
            "precision": s.share_within(real, unseen), "recall": s.share_within(unseen, real)}


def run_all(flags, folder):
    """Do what is not done yet, a line of --out each; with --weights only measure those, with three seeds of noise."""
    data = s.load_data(s.Config(data_path=flags.data_path, results_dir=str(flags.out.parent)), s.pick_device(flags.device))
    quality, others = s.Quality(data), data.split("val", "test")
    unseen = quality.features(others.uint8(range(len(others))))
    n = {"train": len(quality.real["train"]), "unseen": len(unseen), "generated": quality.GENERATED}
    shared = {"floor": floor_of(quality, unseen), "n": n, "threads": torch.get_num_threads()}
    if flags.weights:
        generator, _, state = s.load_networks(flags.weights, device=data.device)
        for seed in (1, 2, 3):
            found = measure(generator, quality, unseen, seed)
            append_run(flags.out, {"model": str(flags.weights), "seed": seed, "minutes": 0, "steps": state["step"],
                                   **found, **shared})
        return
    write_png_folder(data, folder)
    for seed, model in itertools.product(flags.seeds, flags.models):
        key = {"model": model, "seed": seed, "minutes": flags.minutes, "cells": n["train"]}
        if any(all(line.get(k) == v for k, v in key.items()) for line in read_runs(flags.out)):
            continue
        loop = make_loop(model, seed, data, folder, flags)
        steps, seconds = train(loop, flags.minutes * 60)
        record = {**key, "steps": steps, "seconds": round(seconds, 1), **measure(loop.g, quality, unseen, seed), **shared,
                  "generator_parameters": sum(p.numel() for p in loop.g.parameters())}
        images = s.sample(loop.g, torch.randn(64, 100, generator=torch.Generator().manual_seed(seed)))
        s.write_image(flags.out.with_name(f"{flags.out.stem}_{model}_{seed}.png"), s.tile(images))
        append_run(flags.out, record)
        print(json.dumps(record), flush=True)


def summary(lines):
    """The table of all finished runs, their floor last."""
    rows = [["model", "seed", "minutes", "steps", *COLUMNS]]
    for line in lines:
        rows.append([line["model"], line["seed"], round(line["minutes"], 2), line["steps"], *(f"{line[c]:.3f}" for c in COLUMNS)])
    if lines:
        rows.append(["floor", "", "", "", *(f"{lines[-1]['floor'][c]:.3f}" for c in COLUMNS)])
    return s.text_table(rows)


def run(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="", help="default: the demo set")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--weights", type=Path, help="a gan's checkpoint that is measured; nothing is trained")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("results/generators.jsonl"))
    parser.add_argument("--summary", action="store_true", help="only print the table of --out")
    parser.add_argument("--smoke", action="store_true", help="two seconds a model")
    flags = parser.parse_args(arguments)
    flags.data_path = flags.data_path and os.path.abspath(flags.data_path)
    warnings.filterwarnings("ignore", module="torchmetrics")
    with tempfile.TemporaryDirectory() as folder:
        if flags.smoke:
            flags.minutes, flags.out = 2 / 60, Path(folder, "generators.jsonl")
        if not flags.summary:
            run_all(flags, Path(folder, "png"))
        print(summary(read_runs(flags.out)))


if __name__ == "__main__":
    sys.exit(s.main(run, sys.argv[1:]))
