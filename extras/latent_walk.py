"""Walks through the latent space of a trained generator: between cells, and between classes.

    python -m extras.latent_walk --weights saved_models/gan.pt --out DIR
    python -m extras.latent_walk --weights saved_models/conditional.pt --out DIR

walk.png, walk.gif    from cell to cell; the noise moves on the sphere (White 2016)
classes.png           a generator without classes: cells of one class, moved by the difference of
                      two class means (Radford et al. 2016, sec. 6.3.2); a conditional one: the
                      same noise in every class
class_walk.png, class_walk.gif   of a conditional generator: the same noise from class to class

The class means of a generator without classes are those of the noise whose images an MTD says to
be of the class: the one in --weights, else the one in --mtd. Radford et al. chose three images
each by eye. What is printed, the share that the same MTD takes for the class moved to, is
therefore no independent measure of the images: the MTD also chose the means.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import rollNumber_05 as malaria
from extras.drawing import grid, save_animation, write_image
from extras.files import check_folder
from extras.flags import Parser, as_flag
from extras.text import text_table

CHOSEN_FROM = 2000  # images among which an MTD finds those of each class, for its mean
LEAST_OF_CLASS = 3  # noise vectors in a mean, as in the paper
MEASURED = 500  # other images, which are moved from class to class and asked about
FRAME_SIDE = 256  # of the animations, pixels
FRAME_MILLISECONDS = 80


def spherical(first, second, t):
    """Noise between two vectors (d,), t of the way along the arc from the first to the second.

    t: number in [0, 1]. Normal noise lies near a sphere of radius sqrt(d); on a straight line it
    would come too near the middle, where G has seen nothing (White 2016, sec. 2.1).
    """
    cosine = F.cosine_similarity(first, second, dim=0).clamp(-1, 1)
    angle = cosine.acos()
    if angle.sin() < 1e-4:  # the same direction, or the opposite one, to which every arc leads
        return torch.lerp(first, second, t)
    return (((1 - t) * angle).sin() * first + (t * angle).sin() * second) / angle.sin()


def walk(stops, steps, between):
    """All points (len(stops) * steps, ...) of a closed walk over stops (N, ...).

    between: function of two stops and t in [0, 1). Every stop comes once, at the start of its leg.
    """
    points = []
    for first, second in zip(stops, stops.roll(-1, 0), strict=True):
        points += [between(first, second, step / steps) for step in range(steps)]
    return torch.stack(points)


def write_animation(path, images):
    """Write images uint8 (N, S, S, C) as a GIF that goes round without end."""
    frames = []
    for image in images:
        frame = Image.fromarray(image.squeeze())
        frames.append(frame.resize((FRAME_SIDE, FRAME_SIDE), Image.Resampling.BICUBIC))
    save_animation(frames, path, FRAME_MILLISECONDS)


def write_walk(out, generator, stops, steps, seed):
    """walk.png, a leg a row, and walk.gif: from cell to cell."""
    noise = walk(malaria.latents(stops, generator, seed), steps, spherical)
    first_class = torch.zeros(len(noise), dtype=torch.int64)  # asked for by a conditional one only
    images = malaria.sample(generator, noise, first_class, turned=False)
    caption = "each row starts at a cell and goes towards the next row's"
    write_image(out / "walk.png", grid(images, steps), caption)
    write_animation(out / "walk.gif", images)


def write_class_walk(out, generator, classes, steps, seed):
    """class_walk.png, a leg a row, and class_walk.gif: one noise, its one-hot class moves."""
    one_hot = torch.eye(len(classes))
    labels = walk(one_hot, steps, torch.lerp)
    noise = malaria.latents(1, generator, seed).expand(len(labels), -1)
    images = malaria.sample(generator, noise, labels)
    caption = f"rows start at {', '.join(classes)}; one noise"
    write_image(out / "class_walk.png", grid(images, steps), caption)
    write_animation(out / "class_walk.gif", images)


def write_same_noise(out, generator, classes, seed):
    """classes.png of a conditional generator: the same eight noise vectors in every class."""
    noise = malaria.latents(8, generator, seed).repeat(len(classes), 1)
    labels = torch.arange(len(classes)).repeat_interleave(8)
    images = malaria.sample(generator, noise, labels)
    caption = f"rows: {', '.join(classes)}; columns: the same noise"
    write_image(out / "classes.png", grid(images, 8), caption)


# Arithmetic of class means


class Judge(NamedTuple):
    """An MTD that says which of its classes an image is of; view: as in the config."""

    mtd: malaria.MultiTaskDiscriminator
    classes: list[str]
    view: str

    def probabilities(self, images):
        """Of each class, numpy (N, n), about images uint8 (N, S, S, C)."""
        device = next(self.mtd.parameters()).device
        data = malaria.unlabelled(list(images), self.classes, self.view, device)
        loss = "bce"  # names the real/fake head's probability, which is not asked for
        return malaria.predict(self.mtd, data, loss).probabilities


def read_judge(path, checkpoint):
    """The Judge of a checkpoint's images: its own MTD, or else the one in another checkpoint.

    Raises UsageError if that one's images are of another size.
    """
    own = checkpoint
    if checkpoint.state["task"] != "mtd":
        device = next(checkpoint.generator.parameters()).device
        own = malaria.load_checkpoint(path, "mtd", device)
    config = own.state["config"]
    for name in ("image_size", "channels"):
        if config[name] != checkpoint.state["config"][name]:
            raise malaria.UsageError(
                f"--mtd {path}: made with {as_flag(name, config[name])}; "
                "give one that fits --weights"
            )
    return Judge(own.discriminator, own.state["classes"], config["view"])


class Drawn(NamedTuple):
    """Noise (N, latent_dim) and the class number (N,) that a judge gives each image of it."""

    noise: torch.Tensor
    answers: np.ndarray

    def of_class(self, number):
        """The noise of one class."""
        return self.noise[self.answers == number]


def draw(generator, judge, count, seed):
    """Drawn of a generator."""
    noise = malaria.latents(count, generator, seed)
    images = malaria.sample(generator, noise, turned=False)  # to be judged as it is shown
    return Drawn(noise, judge.probabilities(images).argmax(1))


def class_means(drawn, count):
    """{class number: mean noise (latent_dim,)} of those of `count` classes that come often enough.

    Raises UsageError if these are fewer than two.
    """
    means = {}
    for number in range(count):
        noise = drawn.of_class(number)
        if len(noise) >= LEAST_OF_CLASS:
            means[number] = noise.mean(0)
    if len(means) < 2:
        raise malaria.UsageError(
            f"--mtd: of {len(drawn.noise)} generated cells fewer than two classes have "
            f"{LEAST_OF_CLASS} or more; take other weights"
        )
    return means


def move(noise, source, target):
    """Noise (N, latent_dim) of one class, moved to another: z - source + target, the class means.

    Its length is kept, for G was trained on noise of about that length only.
    """
    sums = noise - source + target
    return sums * noise.norm(dim=1, keepdim=True) / sums.norm(dim=1, keepdim=True)


def write_moved(out, generator, judge, drawn, means):
    """classes.png: eight cells of the most frequent class, and the same moved to each other."""
    source = max(means, key=lambda number: len(drawn.of_class(number)))
    noise = drawn.of_class(source)[:8]
    rows = [malaria.sample(generator, noise, turned=False)]
    names = [judge.classes[source]]
    for target, mean in means.items():
        if target != source:
            moved = move(noise, means[source], mean)
            rows.append(malaria.sample(generator, moved, turned=False))
            names.append(f"moved to {judge.classes[target]}")
    caption = f"rows: {', '.join(names)}"
    write_image(out / "classes.png", grid(np.concatenate(rows), len(noise)), caption)


def moved_table(generator, judge, drawn, means):
    """Rows of text: of cells of each class, the share a judge takes for each class after the move.

    Where nothing moved, the share is 1, for the judge chose the cells.
    """
    names = [judge.classes[number] for number in means]
    table = [["cells of", "n", *(f"to {name}" for name in names)]]
    for source, name in zip(means, names, strict=True):
        noise = drawn.of_class(source)
        if not len(noise):
            continue
        shares = []
        for target, mean in means.items():
            images = malaria.sample(generator, move(noise, means[source], mean), turned=False)
            is_target = judge.probabilities(images).argmax(1) == target
            shares.append(f"{is_target.mean():.2f}")
        table.append([name, len(noise), *shares])
    frequencies = [f"{(drawn.answers == number).mean():.2f}" for number in means]
    table.append(["any, not moved", len(drawn.noise), *frequencies])
    return table


def write_arithmetic(out, generator, judge, seed):
    """classes.png of a generator without classes; prints how often the move arrives.

    The means are of other noise than what is moved.
    """
    means = class_means(draw(generator, judge, CHOSEN_FROM, seed), len(judge.classes))
    drawn = draw(generator, judge, MEASURED, seed + 1)
    write_moved(out, generator, judge, drawn, means)
    print("share of generated cells that the MTD takes for the class they are moved to:")
    print(text_table(moved_table(generator, judge, drawn, means)))


def make_parser():
    """The parser of the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--weights", default="saved_models/gan.pt", help="checkpoint (default: %(default)s)")
    add("--mtd", default="saved_models/mtd.pt", help="MTD of a DCGAN (default: %(default)s)")
    add("--out", type=Path, default=Path("results/latent_walk"), help="default: %(default)s")
    add("--stops", type=int, default=6, help="cells of the walk (default: %(default)s)")
    add("--steps", type=int, default=10, help="images from stop to stop (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    return parser


def run(arguments):
    """Do what a command line says."""
    flags = make_parser().parse_args(arguments)
    for name in ("stops", "steps"):
        if not 2 <= getattr(flags, name) <= 100:
            raise malaria.UsageError(f"--{name} {getattr(flags, name)}: give 2 to 100")
    if flags.seed < 0:
        raise malaria.UsageError(f"--seed {flags.seed}: give 0 or more")
    check_folder("--out", flags.out)
    checkpoint = malaria.load_checkpoint(flags.weights, device=malaria.pick_device(flags.device))
    generator = checkpoint.generator
    write_walk(flags.out, generator, flags.stops, flags.steps, flags.seed)
    if generator.num_classes:
        classes = checkpoint.state["classes"]
        write_same_noise(flags.out, generator, classes, flags.seed)
        write_class_walk(flags.out, generator, classes, flags.steps, flags.seed)
    else:
        judge = read_judge(flags.mtd, checkpoint)
        write_arithmetic(flags.out, generator, judge, flags.seed)
    print(f"pictures in {flags.out}")


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
