"""What a user should know of a run, in a line each: signs that a training does not go well."""

import math

EPOCHS_IN_A_ROW = 10
CERTAIN = 0.98  # D(x) - D(G(z)) of a D that hardly errs
ALIKE = 0.25  # of the spread of real cells
MOST_COMPARED = 64  # real images
LOW_RECALL = 0.05
FEW_CELLS = 5


def on_discriminator(history):
    """Whether D has won for long, as a line, or None. history: a row of numbers an epoch."""
    last = history[-EPOCHS_IN_A_ROW:]
    if len(last) < EPOCHS_IN_A_ROW:
        return None
    margins = [row["d_real"] - row["d_fake"] for row in last]
    if min(margins) < CERTAIN:
        return None
    return (
        f"D has told real from generated cells without error for {EPOCHS_IN_A_ROW} epochs "
        f"(J(D) {last[-1]['loss_d']:.3f}): G learns little from it; try a lower --lr_d, --augment"
    )


def on_samples(generated, data):
    """Whether generated images, uint8 numpy (N, S, S, C), are more alike than a dataset's.

    Returns a line, or None.
    """
    some = slice(0, len(data), math.ceil(len(data) / MOST_COMPARED))
    real = data.uint8(some)
    spread = generated.std(0).mean()
    real_spread = real.std(0).mean()
    if spread >= ALIKE * real_spread:
        return None
    return (
        f"the generated cells are nearly alike (their spread is {spread:.1f} grey levels, that of "
        f"real cells {real_spread:.1f}): mode collapse; try another --seed, or a lower --lr_g"
    )


def on_recall(recall):
    """Whether G draws few of the kinds of real cells, as a line, or None."""
    if recall >= LOW_RECALL:
        return None
    return f"recall {recall:.2f}: generated cells are like few of the real ones; more --epochs help"


def on_supports(split, per_class):
    """A line on each class whose score rests on few cells. per_class: {class: {"support": n}}."""
    lines = []
    for name, scores in per_class.items():
        if 0 < scores["support"] < FEW_CELLS:
            lines.append(f"{split} has {scores['support']} of class {name}: too few to judge it by")
    return lines
