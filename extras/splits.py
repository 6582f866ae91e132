"""Deals fields to train, val and test in blocks of neighbours, which can show the same cell."""

import itertools

import numpy as np

from extras.fields import (
    BETWEEN_WORDS,
    MAGNIFICATIONS,
    MICROSCOPES,
    SPLIT_SPELLINGS,
    DataError,
    stem_key,
)

BLOCK = 8  # neighbouring places that stay together, fewer in small sets
HELD_OUT_SHARE = 0.15  # of val and of test


def place_of(field):
    """The words of a field's path that remain the same at another magnification or microscope."""
    words = BETWEEN_WORDS.split(f"{field.path.parent.as_posix().lower()}/{stem_key(field.path)}")
    ignored = MAGNIFICATIONS | MICROSCOPES | SPLIT_SPELLINGS.keys()
    return tuple(word for word in words if word not in ignored)


def deal_splits(fields, classes):
    """Give every field a split: the one given to it or its place, else one that is dealt.

    Given splits stand; if val or test lacks, it is dealt out of train. Raises DataError if there
    are too few places.
    """
    if {field.split for field in fields} <= {"val", "test"}:  # all of it is called test, say
        for field in fields:
            field.split = None
    places = {}
    for field in fields:
        places.setdefault(place_of(field), []).append(field)
    for place in places.values():
        share_split(place)
    used = {field.split for field in fields}
    missing = [split for split in ("val", "test") if split not in used]
    if missing:
        blocks = blocks_of_neighbours(places)
        if len(blocks) < len(missing) + 1:
            raise DataError(
                f"--data_path: images of {len(blocks)} places are too few "
                f"to deal train, {', '.join(missing)}; give more"
            )
        deal_blocks(blocks, ["train", *missing], classes)


def share_split(place):
    """Give the fields of one place that have no split the one that another has, or else train."""
    given = [field.split for field in place if field.split]
    for field in place:
        if not field.split:
            field.split = min(given, default="train")


def blocks_of_neighbours(places):
    """The training fields of all places in name order, in blocks of up to BLOCK places."""
    groups = []
    for _, place in sorted(places.items()):
        of_train = [field for field in place if field.split == "train"]
        if of_train:
            groups.append(of_train)
    size = max(1, min(BLOCK, len(groups) // 14))  # at least 14 blocks: two for each 15 %
    starts = range(0, len(groups), size)
    return [list(itertools.chain(*groups[start : start + size])) for start in starts]


def shares_of_blocks(blocks, classes):
    """(blocks, 1 + classes) shares of all fields and of all cells of each class, by block."""
    counts = np.zeros((len(blocks), 1 + len(classes)))
    for row, block in zip(counts, blocks, strict=True):
        row[0] = len(block)
        for field in block:
            for cell in field.cells:
                if cell.label in classes:
                    row[1 + classes.index(cell.label)] += 1
    return counts / np.maximum(counts.sum(0), 1)


def deal_blocks(blocks, splits, classes):
    """Deal blocks to splits, "train" first: rarest cells first, to the split that lacks them most.

    It depends on the data alone, on no seed. No split stays empty.
    """
    shares = shares_of_blocks(blocks, classes)
    wanted = np.full(len(splits), HELD_OUT_SHARE)
    wanted[0] = 1 - HELD_OUT_SHARE * (len(splits) - 1)
    filled = np.zeros((len(splits), shares.shape[1]))
    dealt = np.zeros(len(blocks), int)
    for block in np.argsort(-shares.max(1), kind="stable"):
        rarest = shares[block].argmax()
        split = ((filled[:, rarest] + shares[block, rarest]) / wanted).argmin()
        dealt[block] = split
        filled[split] += shares[block]
    for split in range(len(splits)):
        if split not in dealt:
            counts = np.bincount(dealt, minlength=len(splits))
            can_give = np.flatnonzero(counts[dealt] > 1)
            dealt[can_give[-1]] = split
    for block, split in zip(blocks, dealt, strict=True):
        for field in block:
            field.split = splits[split]
