"""Whether a generator that is told the class draws that class, and whether its cells can stand in for real ones.

    pip install -r benchmarks/requirements.txt
    python rollNumber_05.py --data_path DIR --task mtd --conditional --weights saved_models/gan.pt
    python benchmarks/conditional.py --data_path DIR --weights results/mtd/last.pt --out results/conditional.jsonl
    python benchmarks/conditional.py --smoke

For each seed the same classifier (the MTD's, J(C) alone, as `head` in classifiers.py, with the script's defaults) is trained
three times: on the real training cells, on as many generated cells, every class equally often, and on both together. The
generator saw the real training cells only. Each is scored on the real cells of the val and test fields. What was trained on
real cells also says how many of 500 other generated cells are of the class that was asked for: its weights, batches and
views come from another seed than the generator's and neither network saw the other.
"""
import argparse
import dataclasses
import hashlib
import math
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import rollNumber_05 as s  # noqa: E402
from classifiers import VIEWS, train_and_answer  # noqa: E402
from peers import append_run, read_runs  # noqa: E402


def cells(images, labels, classes, device):
    """A MalariaDataset of uint8 images (N, S, S, C) and class indices."""
    index = {"classes": classes, "rows": list(range(len(images))), "labels": list(map(int, labels))}
    return s.MalariaDataset(torch.from_numpy(images), index, range(len(images)), device)


def draw(generator, n, classes, seed, device):
    """n generated cells, every class in turn, labelled with the class asked for."""
    return cells(s.sample(generator, s.latents(n, generator, seed)), np.arange(n) % len(classes), classes, device)


def joined(a, b):
    """Both datasets in one."""
    images, labels = (np.concatenate(parts) for parts in zip(*((d.uint8(range(len(d))), d.labels.cpu()) for d in (a, b))))
    return cells(images, labels, a.classes, a.device)


def run_all(flags, generator, state):
    """A line of --out for each seed and kind of training cells that --out lacks; state: the generator's checkpoint."""
    config = s.Config(data_path="" if flags.smoke else flags.data_path, task="mtd", results_dir=str(flags.out.parent),
                      device=flags.device)
    data, done = s.load_data(config, s.pick_device(flags.device)), {(r["cells"], r["seed"]): r for r in read_runs(flags.out)}
    made_by = "" if flags.smoke else hashlib.sha1(flags.weights.read_bytes()).hexdigest()
    real, unseen = data.split("train"), data.split("val", "test")
    if not generator.num_classes or any(state["config"][k] != getattr(config, k) for k in ("image_size", "channels")) or (
            state["classes"] != data.classes):
        raise s.UsageError(f"--weights {flags.weights}: not of a generator that is told one of {', '.join(data.classes)} and "
                           f"draws cells of {config.image_size} pixels and {config.channels} channels")
    count = 8 if flags.smoke else 500
    epochs, steps = (1, 2) if flags.smoke else (s.EPOCHS["mtd"], max(config.min_steps, math.ceil(len(real) / 32)))
    for seed in flags.seeds:
        made = draw(generator, len(real), data.classes, seed, data.device)
        asked = draw(generator, count, data.classes, seed + 1000, data.device)
        judged = joined(unseen, asked)
        for kind, part in (("real", real), ("generated", made), ("both", joined(real, made))):
            if record := done.get((kind, seed)):
                if [record.get(k) for k in ("weights", "n", "steps", "views")] != [made_by, len(unseen), epochs * steps, VIEWS]:
                    raise s.UsageError(f"{flags.out}: has results of other weights, cells, steps or views; give another --out")
                continue
            chances, _ = train_and_answer("head_scratch", dataclasses.replace(config, seed=seed), part, judged, epochs, steps)
            scores = s.classification_scores(unseen.labels.cpu().numpy(), chances[:len(unseen)], data.classes)
            record = {"cells": kind, "seed": seed, "trained_on": len(part), "n": len(unseen), "weights": made_by,
                      "steps": epochs * steps, "views": VIEWS}
            record |= {k: scores[k] for k in ("accuracy", "balanced_accuracy")}
            if kind == "real":
                right = chances[len(unseen):].argmax(1) == asked.labels.cpu().numpy()
                record |= {"recognised": right.mean().item(), "asked": count, "recognised_per_class": {
                    c: right[i::len(data.classes)].mean().item() for i, c in enumerate(data.classes)}}
            append_run(flags.out, record)


def summary(runs):
    """A row for each kind of training cells, mean over the seeds and range, and the share of generated cells recognised."""
    rows, balanced = [["trained on", "cells", "seeds", "accuracy", "balanced accuracy", "of real"]], {}
    for kind in dict.fromkeys(r["cells"] for r in runs):
        mine = [r for r in runs if r["cells"] == kind]
        columns = [[r[k] for r in mine] for k in ("accuracy", "balanced_accuracy")]
        balanced[kind] = statistics.mean(columns[1])
        rows.append([kind, mine[0]["trained_on"], len(mine), *(
            f"{statistics.mean(v):.3f} ({min(v):.3f}-{max(v):.3f})" for v in columns), f"{balanced[kind] / balanced['real']:.2f}"])
    judges = [r for r in runs if "recognised" in r]
    parts = [f"{c} {statistics.mean(r['recognised_per_class'][c] for r in judges):.2f}" for c in judges[0]["recognised_per_class"]]
    shares = [r["recognised"] for r in judges]
    return (f"{s.text_table(rows)}\nof {judges[0]['asked']} generated cells recognised as what was asked for: "
            f"{statistics.mean(shares):.3f} ({min(shares):.3f}-{max(shares):.3f}); {', '.join(parts)}")


def run(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="", help="default: the demo set")
    parser.add_argument("--weights", type=Path, default=Path("results/mtd/last.pt"), help="checkpoint of a conditional MTD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("results/conditional.jsonl"))
    parser.add_argument("--summary", action="store_true", help="only print the table of --out")
    parser.add_argument("--smoke", action="store_true", help="an untrained generator, the demo set, one seed, two steps")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if flags.smoke:
            flags.out, flags.seeds = Path(folder, "conditional.jsonl"), [1]
        if not flags.summary:
            generator, state = s.Generator(num_classes=len(s.STAGES)), {"config": vars(s.Config()), "classes": list(s.STAGES)}
            if not flags.smoke:
                generator, _, state = s.load_networks(flags.weights, "mtd")
            run_all(flags, generator, state)
        if not (runs := read_runs(flags.out)):
            raise s.UsageError(f"--out {flags.out}: no finished runs to sum up")
        print(summary(runs))


if __name__ == "__main__":
    sys.exit(s.main(run, sys.argv[1:]))
