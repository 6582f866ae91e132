"""Train a DCGAN and an MTD on it, and keep what this process holds at the end.

    python -m torch.distributed.run --nproc_per_node 2 tests/train_in_processes.py CONFIG.json

CONFIG.json has the flags. A process writes RESULTS_DIR/TASK RANK.pt, such as gan0.pt.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch

import rollNumber_05 as malaria
from extras import processes


def train_and_keep(task, config, data):
    """Train a task; keep weights, strength and traces, and the images of a step to come."""
    trainer, folder = malaria.train(task, config, data)
    step = next(trainer.step_data(data.split("train"), 1))
    kept = {
        "weights": trainer.state()["weights"],
        "strength": trainer.strength,
        "traces": trainer.traces,
        "images": step.adversarial.images,
    }
    rank, _ = malaria.processes()
    torch.save(kept, folder.with_name(f"{task}{rank}.pt"))


def main(path):
    """Train both tasks with the flags in a JSON file."""
    config = malaria.Config(**json.loads(Path(path).read_text(encoding="utf-8")))
    with processes.process_group(torch.device("cpu")):
        data = malaria.load_data(config)
        train_and_keep("gan", config, data)
        dcgan = Path(config.results_dir, "gan", "last.pt")
        train_and_keep("mtd", dataclasses.replace(config, weights=str(dcgan)), data)


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may hold tensors; freed late, they abort
