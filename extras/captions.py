"""How to read what a run leaves: one table for its page, the readme and the report.

The readme's section lists exactly these lines, as `readme_lines` writes them.
"""

import fnmatch
import textwrap
from typing import NamedTuple


class Caption(NamedTuple):
    """A heading, and one sentence that says how to read what is below it."""

    title: str
    sentence: str


# {heading in the readme: {file name pattern: its Caption}}; the first pattern that fits counts.
PICTURES_OF = {
    "results/gan, results/mtd": {
        "samples.gif": Caption(
            "Samples, epoch by epoch", "One noise after every epoch: cells emerge, and stay varied."
        ),
        "samples/epoch_*.png": Caption(
            "Samples of an epoch", "One noise after every epoch: cells emerge, and stay varied."
        ),
        "real_vs_generated.png": Caption(
            "Real and generated cells", "Real left, generated right: what differs?"
        ),
        "nearest.png": Caption(
            "Nearest training cells",
            "Generated beside nearest training cells: equal pairs are copies.",
        ),
        "quality.png": Caption(
            "Quality over the epochs", "KID is best at its floor, precision and recall at 1."
        ),
        "losses.png": Caption("Losses", "J(G) and J(D): neither should stay at 0."),
        "scores.png": Caption("Answers of D", "D(x) and D(G(z)): where they meet, D cannot tell."),
        "weights_*.png": Caption(
            "Kernels", "Red positive, blue negative: patterns were learnt, speckle was not."
        ),
        "cells.png": Caption("Cells of every split", "Is each crop what its label says?"),
    },
    "results/mtd, also": {
        "classifier_curves.png": Caption(
            "The head's training", "Where validation leaves training, the head overfits."
        ),
        "confusion_matrix.png": Caption(
            "Confusion matrix", "Rows are true classes, columns answers."
        ),
        "predictions_*.png": Caption(
            "Answers about test cells", "True label, answer and its probability, surest first."
        ),
        "tsne.png": Caption("Features, t-SNE", "Groups are what the head can tell apart."),
    },
    "results/gradcam, results/all": {
        "gradcam_real_fake.png": Caption(
            "Heat maps of real or fake", "Red spoke most for the answer, blue not at all."
        ),
        "gradcam_*.png": Caption(
            "Heat maps of the class", "Red spoke most for the answer, blue not at all."
        ),
        "before_after.png": Caption(
            "Before and after the head",
            "Samples and curves before (blue) and after (red) the head.",
        ),
    },
}
NOT_DESCRIBED = Caption("A further picture", "Its file name says what it shows.")

# {file name pattern: what is in it}; the readme lists the weights alone, the page links the rest.
FILES = {
    "metrics.csv": "The numbers of every epoch.",
    "config.json": "Flags, versions, seed and splits.",
    "scores.json": "Scores on validation and test, of every class.",
    "per_class.txt": "The same scores as a table.",
    "quality.json": "How near generated cells are to real ones.",
    "skipped.csv": "Files of the data that were not used, and why.",
}
WEIGHTS = {
    "best.pt": "Weights of the kept epoch.",
    "last.pt": "The state that --resume goes on from.",
}

# {pattern of a number's name: how to read it}
NUMBERS = {
    "test_accuracy": "Share of right answers about cells that neither trained nor chose anything.",
    "*_balanced_accuracy": "Mean recall of the classes: rare ones count as much as frequent ones.",
    "*_accuracy": "Share of right answers.",
    "*_standard_error": "Of the balanced accuracy: two to either side are a 95% interval, roughly.",
    "temperature": "Logits were divided by it: below 1 for answers that were not sure enough.",
    "*_ece": "Gap between probability and share of right answers; 0 is calibrated.",
    "*_loss": "Cross-entropy, nats; lower is better.",
    "*_n": "Images that were scored.",
    "kid_floor": "KID of real training to real validation cells: as low as it can get.",
    "kid_*": "KID of generated to real cells; lower is better, compare with the floor.",
    "precision": "Share of generated cells that look like real ones.",
    "recall": "Share of real cells that generated ones look like.",
    "nearest": "Distance to the nearest training cell; 1 is usual, far below 1 is learnt by heart.",
    "loss_d": "J(D), mean over the epoch.",
    "loss_g": "J(G), mean over the epoch.",
    "loss_c": "J(C), mean over the epoch.",
    "d_real": "D(x): mean probability of real for real images.",
    "d_fake": "D(G(z)): mean probability of real for generated images.",
    "strength": "Strength of D's augmentation, 0 to 1.",
    "images_per_second": "Real images trained on in a second.",
    "seconds": "Duration of the last epoch.",
    "step": "Updates until then.",
    "epoch": "Passes over the training cells.",
    "best_epoch": "The epoch whose weights were kept.",
}


def pictures():
    """{file name pattern: Caption} of all pictures, in the order in which a page shows them."""
    table = {}
    for part in PICTURES_OF.values():
        table.update(part)
    return table


def caption(name):
    """(place in the order, Caption) of a picture, named relative to its run's folder."""
    table = pictures()
    for place, (pattern, found) in enumerate(table.items()):
        if fnmatch.fnmatchcase(name, pattern):
            return place, found
    return len(table), NOT_DESCRIBED


def sentence(name, table):
    """The sentence of FILES or NUMBERS about a name; empty if there is none."""
    for pattern, found in table.items():
        if fnmatch.fnmatchcase(name, pattern):
            return found
    return ""


def readme_lines():
    """The lines of the readme's section on results: files, and how to read them."""
    lines = []
    for heading, part in PICTURES_OF.items():
        lines.append(heading)
        patterns = {}  # {sentence: the patterns that share it}
        for pattern, found in part.items():
            patterns.setdefault(found.sentence, []).append(pattern)
        for text, names in patterns.items():
            lines.append(readme_line(shortest(names), text))
    lines.append("weights")
    for name, text in WEIGHTS.items():
        lines.append(readme_line(name, text))
    return lines


def shortest(patterns):
    """The patterns as a reader needs them: without those that another one covers."""
    kept = []
    for pattern in patterns:
        others = [other for other in patterns if other != pattern]
        if not any(fnmatch.fnmatchcase(pattern, other) for other in others):
            kept.append(pattern)
    return ", ".join(kept)


def readme_line(names, text):
    """A line of the readme: files, then the sentence in its column."""
    return textwrap.indent(f"{names:<36}  {text}", "    ")
