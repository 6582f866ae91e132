"""Deals fields to train, val and test in blocks of neighbours, which can show the same cell."""

import itertools
import re

import cv2
import numpy as np

from extras.paths import (
    BETWEEN_WORDS,
    MAGNIFICATIONS,
    MICROSCOPES,
    SPLIT_SPELLINGS,
    is_owner,
    plain,
    stem_key,
)
from extras.records import DataError

BLOCK = 8  # neighbouring places that stay together, fewer in small sets
HELD_OUT_SHARE = 0.15  # of val and of test
# C33P1thinF_IMG_..., C1_thinF_..., C2NThinF_..., C51AP12thinF_..., C68P29N_ThinF_...
NIH_PATIENT = re.compile(r"^(c\d+[a-z]*?(?:p\d+[a-z]*?)?)_?(?:re)?thin")
PHOTOGRAPH = re.compile(r"^(.+?)_cell_?\d+$")  # of cells that were cut out of it
ROBOFLOW_COPY = re.compile(r"\.rf\.[0-9a-z]+$")  # of an augmented image


def place_of(field):
    """What photographs of one place have in common: the words of the path but for some.

    Left out are microscope, magnification, split, and the number of a copy. Cells cut out of one
    photograph, or of one patient's where names say so, are of one place, whatever their folder.
    """
    stem = ROBOFLOW_COPY.sub("", stem_key(field.path))
    for pattern in (NIH_PATIENT, PHOTOGRAPH):
        found = pattern.match(stem)
        if found:
            return (found[1],)
    words = BETWEEN_WORDS.split(f"{plain(field.path.parent.as_posix())}/{stem}")
    ignored = MAGNIFICATIONS | MICROSCOPES | SPLIT_SPELLINGS.keys()
    return tuple(word for word in words if word not in ignored)


def owner_of(field):
    """The folders that say whose or from which slide a field is, or else its place."""
    owners = tuple(plain(name) for name in field.path.parts[:-1] if is_owner(name))
    return owners or place_of(field)


def group_fields(fields, key):
    """{key of a field: the fields that have it}."""
    groups = {}
    for field in fields:
        groups.setdefault(key(field), []).append(field)
    return groups


def deal_splits(fields, classes):
    """Give every field a split: the one given to it or its place, else one that is dealt.

    Given splits stand; if val or test lacks, it is dealt out of train. Returns notes, a line each,
    of classes that a split lacks. Raises DataError if there are too few places.
    """
    if {field.split for field in fields} <= {"val", "test"}:  # all of it is called test, say
        for field in fields:
            field.split = None
    places = group_fields(fields, owner_of)
    if len(places) < 3:  # too few patients to be dealt whole
        places = group_fields(fields, place_of)
    for place in places.values():
        share_split(place)
    used = {field.split for field in fields}
    missing = [split for split in ("val", "test") if split not in used]
    if missing:
        deal_missing(places, missing, classes)
    return notes_of_lacking(fields, classes) + notes_of_shared_copies(fields)


def share_split(place):
    """Give the fields of one place that have no split the one that another has, or else train."""
    given = [field.split for field in place if field.split]
    for field in place:
        if not field.split:
            field.split = min(given, default="train")


def deal_missing(places, missing, classes):
    """Deal the splits that are missing out of the training fields of all places.

    Blocks are as large as may be, and smaller where that keeps a class out of a split.
    """
    groups = []
    for _, place in sorted(places.items()):
        of_train = [field for field in place if field.split == "train"]
        if of_train:
            groups.append(of_train)
    splits = ["train", *missing]
    if len(groups) < len(splits):
        raise DataError(
            f"images of {len(groups)} places are too few to deal {', '.join(splits)}; give more"
        )
    deals = []
    for size, with_seeds in ways_to_deal(len(groups)):
        blocks = blocks_of(groups, size)
        dealt = deal_blocks(blocks, len(splits), classes, with_seeds)
        deals.append((count_lacking(blocks, dealt, len(splits), classes), blocks, dealt))
        if deals[-1][0] == 0:
            break
    _, blocks, dealt = min(deals, key=lambda deal: deal[0])  # the largest blocks of equals
    for block, split in zip(blocks, dealt, strict=True):
        for field in block:
            field.split = splits[split]


def ways_to_deal(group_count):
    """(size of blocks, whether one of each class goes to each split first), the best way first."""
    sizes = [max(1, min(BLOCK, group_count // 14))]  # at least 14 blocks: two for each 15 %
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    with_seeds = (False, True)
    return [(size, is_seeded) for is_seeded, size in itertools.product(with_seeds, sizes)]


def blocks_of(groups, size):
    """Lists of fields, each of `size` neighbouring groups."""
    starts = range(0, len(groups), size)
    return [list(itertools.chain(*groups[start : start + size])) for start in starts]


def count_cells(fields, classes):
    """(classes,) numbers of cells."""
    counts = np.zeros(len(classes))
    for field in fields:
        for cell in field.cells:
            if cell.label in classes:
                counts[classes.index(cell.label)] += 1
    return counts


def deal_blocks(blocks, split_count, classes, with_seeds=False):
    """The split (blocks,) of each block, 0 being train: rarest cells first, where they lack most.

    It depends on the data alone, on no seed. No split stays empty.
    """
    counts = [[len(block), *count_cells(block, classes)] for block in blocks]
    shares = np.array(counts) / np.maximum(np.sum(counts, 0), 1)
    wanted = np.full(split_count, HELD_OUT_SHARE)
    wanted[0] = 1 - HELD_OUT_SHARE * (split_count - 1)
    filled = np.zeros((split_count, shares.shape[1]))
    dealt = np.zeros(len(blocks), int)
    seeds = one_of_each_class(shares[:, 1:], split_count) if with_seeds else {}
    for block, split in seeds.items():
        dealt[block] = split
        filled[split] += shares[block]
    for block in np.argsort(-shares.max(1), kind="stable"):
        if block in seeds:
            continue
        rarest = shares[block].argmax()
        split = ((filled[:, rarest] + shares[block, rarest]) / wanted).argmin()
        dealt[block] = split
        filled[split] += shares[block]
    for split in range(split_count):
        if split not in dealt:
            sizes = np.bincount(dealt, minlength=split_count)
            can_give = np.flatnonzero(sizes[dealt] > 1)
            dealt[can_give[-1]] = split
    return dealt


def one_of_each_class(shares, split_count):
    """{block: split} that gives every split a block of every class, where there are so many.

    shares: (blocks, classes) of the cells of a class. The class of the fewest blocks comes first,
    and train before val and test.
    """
    seeds = {}
    has_class = shares > 0
    for index in np.argsort(has_class.sum(0), kind="stable"):
        blocks = np.flatnonzero(has_class[:, index])
        served = {seeds[block] for block in blocks if block in seeds}
        lacking = [split for split in range(split_count) if split not in served]
        free = [block for block in blocks if block not in seeds]
        free.sort(key=lambda block: shares[block].max())
        seeds.update(zip(free, lacking, strict=False))
    return seeds


def count_lacking(blocks, dealt, split_count, classes):
    """How many (class, split) pairs have no cell."""
    counts = np.zeros((split_count, len(classes)))
    for block, split in zip(blocks, dealt, strict=True):
        counts[split] += count_cells(block, classes)
    return int((counts == 0).sum())


def notes_of_lacking(fields, classes):
    """A line for each class that is not in every split."""
    found = {}
    for field in fields:
        for cell in field.cells:
            found.setdefault(cell.label, set()).add(field.split)
    notes = []
    for name in classes:
        lacking = [split for split in ("train", "val", "test") if split not in found.get(name, ())]
        if lacking:
            notes.append(f"no cell of class {name} is in {', '.join(lacking)}")
    return notes


def notes_of_shared_copies(fields):
    """A line that counts the photographs whose augmented copies were given different splits."""
    of_copies = [field for field in fields if ROBOFLOW_COPY.search(stem_key(field.path))]
    shared = 0
    for copies in group_fields(of_copies, place_of).values():
        shared += len({field.split for field in copies}) > 1
    if not shared:
        return []
    return [f"{shared} photographs have copies (.rf.) in several splits, as these were given"]


NEAR = 0.8  # grey levels between copies at 8x8, root mean square; other cells are further apart
FAR = 8 * NEAR + 0.1  # no copies are further apart than this in any direction
PART = 1000  # fingerprints that are compared at once


def count_near_copies(path, splits):
    """How many crops of val and test look like one of train, also smaller or saved as JPEG.

    path: the .npy file of crops (N, S, S, C), of which the first len(splits) count.
    """
    images = np.load(path, mmap_mode="r")
    fingerprints = np.empty((len(splits), 64), np.float32)
    for row in range(len(splits)):
        fingerprints[row] = fingerprint(images[row])
    is_train = np.array([split == "train" for split in splits])
    if not is_train.any():
        return 0
    positions = fingerprints @ main_direction(fingerprints)
    order = np.argsort(positions)
    positions = positions[order]
    fingerprints = fingerprints[order]
    is_train = is_train[order]
    train = fingerprints[is_train]
    held_out = fingerprints[~is_train]
    train_positions = positions[is_train]
    positions = positions[~is_train]
    count = 0
    for start in range(0, len(held_out), PART):
        part = held_out[start : start + PART]
        first, last = positions[start : start + PART][[0, -1]]
        low, high = np.searchsorted(train_positions, (first - FAR, last + FAR))
        count += count_near(part, train[low:high])
    return count


def main_direction(fingerprints):
    """float32 (64,): the direction of length 1 in which fingerprints (N, 64) differ most.

    Two are never further apart along it than they are.
    """
    sample = fingerprints[:: max(1, len(fingerprints) // 5000)]
    _, _, directions = np.linalg.svd(sample - sample.mean(0), full_matrices=False)
    return directions[0]


def count_near(fingerprints, others):
    """How many fingerprints (N, 64) are near one of others (M, 64)."""
    count = len(fingerprints)
    for start in range(0, len(others), PART):
        part = others[start : start + PART]
        squares = (fingerprints**2).sum(1)[:, None] + (part**2).sum(1) - 2 * fingerprints @ part.T
        fingerprints = fingerprints[squares.min(1) >= 64 * NEAR**2]
        if not len(fingerprints):
            break
    return count - len(fingerprints)


def fingerprint(image):
    """float32 (64,): the small grey image at 8x8, less its mean."""
    small = cv2.resize(image.astype(np.float32), (8, 8), interpolation=cv2.INTER_AREA)
    grey = small.reshape(64, -1).mean(1)
    return grey - grey.mean()
