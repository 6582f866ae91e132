"""Writes a set of generated cells: class folders, every class equally often, and a manifest.

    python -m extras.augment_set --weights saved_models/conditional.pt --num 400 --out DIR
    python -m extras.augment_set --weights saved_models/gan.pt --mtd saved_models/mtd.pt ...
    python -m extras.augment_set ... --measure DATA         also what such cells are worth

DIR/CLASS/NNNNN.png    the images; the script reads DIR as class folders (--data_path DIR)
DIR/manifest.csv       file, class, weights (file and start of its SHA-1), seed, noise (its row of
                       noise.npy) and confidence: the MTD's probability of the class
DIR/noise.npy          noise (N, latent_dim), from which the same weights draw the same images

A conditional generator draws the classes asked for. For another one an MTD sorts its images: the
one in --weights, else --mtd. --min_confidence leaves out images that the MTD is less sure of; it
is the same network that a classifier would have to do better than, so this makes a set purer, not
more varied.

--measure runs benchmarks.conditional on a data set: the same classifier trained on its real cells,
on as many generated ones, and on both, scored on unseen real cells. It takes a conditional
generator, and draws its own cells.
"""

import csv
import hashlib
import importlib.util
import io
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import rollNumber_05 as malaria
from extras.drawing import write_image
from extras.files import replacing, save_text
from extras.flags import Parser
from extras.latent_walk import read_judge

BATCH = 256  # images drawn at a time
MOST_DRAWS = 200  # batches, after which a class that hardly ever comes is given up


class Cell(NamedTuple):
    """A generated cell: uint8 (S, S, C), its noise (latent_dim,), class number, confidence."""

    image: np.ndarray
    noise: torch.Tensor
    number: int
    confidence: float


def quotas(total, count):
    """How many images each of `count` classes has, as equal as can be: the first ones one more."""
    each, left_over = divmod(total, count)
    return [each + (number < left_over) for number in range(count)]


def draw_batch(generator, judge, seed):
    """BATCH Cells of a generator, every class of a conditional one in turn."""
    noise = malaria.latents(BATCH, generator, seed)
    images = malaria.sample(generator, noise)
    probabilities = judge.probabilities(images)
    numbers = probabilities.argmax(1)
    if generator.num_classes:
        numbers = np.arange(BATCH) % generator.num_classes
    confidences = probabilities[np.arange(BATCH), numbers]
    return list(map(Cell, images, noise, numbers.tolist(), confidences.tolist()))


def draw_cells(generator, judge, total, seed, min_confidence):
    """`total` Cells, classes as equal as can be, in the order of the classes.

    Batch n has the seed of a run plus n. Raises UsageError if a class does not come often enough.
    """
    wanted = quotas(total, len(judge.classes))
    cells = [[] for _ in judge.classes]
    for batch in range(MOST_DRAWS):
        for cell in draw_batch(generator, judge, seed + batch):
            if len(cells[cell.number]) < wanted[cell.number] and cell.confidence >= min_confidence:
                cells[cell.number].append(cell)
        if list(map(len, cells)) == wanted:
            return [cell for of_class in cells for cell in of_class]
    counts = [f"{name} {len(found)}" for name, found in zip(judge.classes, cells, strict=True)]
    raise malaria.UsageError(
        f"--num {total}: {MOST_DRAWS * BATCH} images gave {', '.join(counts)} only; "
        "give a smaller --num or --min_confidence"
    )


def folder_names(classes):
    """A folder for each class: its name, where it can be one. Raises UsageError for two alike."""
    names = []
    for name in classes:
        plain = re.sub(r"[^\w +-]", "_", name).strip()  # a checkpoint's classes can be any text
        names.append(plain or "_")
    if len({name.lower() for name in names}) < len(names):
        raise malaria.UsageError(f"--weights: classes {', '.join(classes)}: folders would be alike")
    return names


def describe_weights(path):
    """A weights file by its name and the start of its SHA-1."""
    digest = hashlib.sha1(Path(path).read_bytes()).hexdigest()
    return f"{Path(path).name} {digest[:12]}"


def write_set(out, cells, classes, weights, seed):
    """Write Cells as class folders with manifest.csv and noise.npy."""
    folders = folder_names(classes)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class", "weights", "seed", "noise", "confidence"])
    for row, cell in enumerate(cells):
        file = f"{folders[cell.number]}/{row:05d}.png"
        write_image(out / file, cell.image)
        confidence = f"{cell.confidence:.4f}"
        writer.writerow([file, classes[cell.number], weights, seed, row, confidence])
    with replacing(out / "noise.npy") as part:
        np.save(part, torch.stack([cell.noise for cell in cells]).numpy())
    save_text(text.getvalue(), out / "manifest.csv")


def check_output(out):
    """Raise UsageError unless a folder is new or empty: sets must not mix."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise malaria.UsageError(f"--out {out}: is not empty; name a new folder")


def measure(data_path, weights, device):
    """Run benchmarks.conditional. Raises UsageError if it is not beside the script."""
    if importlib.util.find_spec("benchmarks") is None:
        raise malaria.UsageError("--measure: the folder benchmarks/ is not beside the script")
    from benchmarks import conditional

    conditional.run(["--data_path", data_path, "--weights", str(weights), "--device", device])


def make_parser():
    """The parser of the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--weights", default="saved_models/conditional.pt", help="default: %(default)s")
    add("--mtd", default="saved_models/mtd.pt", help="MTD of a DCGAN (default: %(default)s)")
    add("--num", type=int, default=400, help="how many images (default: %(default)s)")
    add("--out", type=Path, required=True, help="a new folder")
    add("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    add("--min_confidence", type=float, default=0.0, help="least of an image (default: all)")
    add("--measure", default="", metavar="DATA", help="data set to run benchmarks.conditional on")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return parser


def run(arguments):
    """Do what a command line says."""
    flags = make_parser().parse_args(arguments)
    if not 1 <= flags.num <= 99_999:
        raise malaria.UsageError(f"--num {flags.num}: give 1 to 99999")
    if flags.seed < 0:
        raise malaria.UsageError(f"--seed {flags.seed}: give 0 or more")
    if not 0 <= flags.min_confidence < 1:
        raise malaria.UsageError(f"--min_confidence {flags.min_confidence}: give 0 to below 1")
    check_output(flags.out)
    checkpoint = malaria.load_checkpoint(flags.weights, device=malaria.pick_device(flags.device))
    if flags.measure and not checkpoint.generator.num_classes:
        raise malaria.UsageError(
            f"--measure: the generator of {flags.weights} is not conditional; leave it out"
        )
    judge = read_judge(flags.mtd, checkpoint)
    cells = draw_cells(checkpoint.generator, judge, flags.num, flags.seed, flags.min_confidence)
    write_set(flags.out, cells, judge.classes, describe_weights(flags.weights), flags.seed)
    print(f"{len(cells)} cells of {', '.join(judge.classes)} and manifest.csv in {flags.out}")
    if flags.measure:
        measure(flags.measure, flags.weights, flags.device)


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
