"""Takes out what annotations say of an image where they contradict each other: it is counted."""

import numpy as np

from extras.links import Link
from extras.paths import MANY_IN_ONE, plain, stem_key

COMPARED = 1000  # boxes of a file that are compared with those of another about the same image


def without_contradictions(folder, pairs):
    """The (annotation, field) pairs but for those that say of one image what another's is.

    Where annotations that cannot both be of an image differ in their cells, only the closest
    counts, or none; the others are problems.
    """
    by_path = {}
    for annotation, field in pairs:
        by_path.setdefault(field.path, []).append((annotation, field))
    kept = []
    for path, of_image in by_path.items():
        if len(of_image) == 1 or not contradict([annotation for annotation, _ in of_image]):
            kept += of_image
            continue
        closeness = []
        for annotation, _ in of_image:
            link = Link(folder, annotation, annotation.image_names[0])
            closeness.append(link.closeness(path))
        best = max(closeness)
        for pair, value in zip(of_image, closeness, strict=True):
            if value == best and closeness.count(best) == 1:
                kept.append(pair)
            else:
                folder.problem(pair[0].file, f"says of {path.name} what another does not")
    return kept


def contradict(annotations):
    """Whether annotations of one image differ, and cannot add to each other.

    Those of files about many images can: one of train, one of test, say, or one a class. But not
    if they have other cells in the same place.
    """
    if len({tuple(annotation.cells) for annotation in annotations}) == 1:
        return False
    entries = {(annotation.file, annotation.split) for annotation in annotations}
    has_two_entries = len(entries) < len(annotations)
    if has_two_entries or not any(map(is_about_many, annotations)):
        return True
    first, *others = annotations
    return any(have_other_cells_in_place(first.cells, other.cells) for other in others)


def is_about_many(annotation):
    """Whether the file of an annotation can be about many images: it is not named as this one."""
    if annotation.file.suffix.lower() not in MANY_IN_ONE:
        return False
    stems = {stem_key(annotation.file.name), stem_key(annotation.file.stem)}
    return stem_key(annotation.image_names[0]) not in stems


def have_other_cells_in_place(cells, others):
    """Whether a cell covers one of others by half, but is not the same."""
    shared = set(cells) & set(others)
    boxes = compared_boxes(cells, shared)
    other_boxes = compared_boxes(others, shared)
    return bool((overlap(boxes, other_boxes) > 0.5).any())


def compared_boxes(cells, left_out):
    """(N, 4) the boxes of the first COMPARED cells that have one and are not left out."""
    boxes = [cell.box[:4] for cell in cells if cell.box and cell not in left_out]
    return np.array(boxes[:COMPARED], dtype=float).reshape(-1, 4)


def overlap(boxes, others):
    """(N, M) intersection over union of boxes (N, 4) and others (M, 4), as x, y, w, h."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    ends = boxes[:, :2] + boxes[:, 2:]
    other_ends = others[:, :2] + others[:, 2:]
    high = np.minimum(ends[:, None], other_ends[None])
    shared = np.clip(high - low, 0, None).prod(2)
    union = boxes[:, 2:].prod(1)[:, None] + others[:, 2:].prod(1)[None] - shared
    return shared / np.maximum(union, 1e-9)


def without_double_labels(folder, fields):
    """The fields without cells of which one box, or the whole image, has several labels."""
    kept = []
    for field in fields:
        doubtful = boxes_of_several_labels(field.cells)
        for box, labels in doubtful.items():
            what = "the image" if box is None else f"one box, {box[:4]},"
            reason = f"{what} is labelled {' and '.join(labels)}; give it one label"
            folder.problem(field.path, reason)
        if doubtful:
            field.cells = [cell for cell in field.cells if cell.box not in doubtful]
        if field.cells or not doubtful:
            kept.append(field)
    return kept


def without_labels_of_other_folders(folder, fields):
    """The fields but for images in the folder of a class that are said to be of another one."""
    labels = set().union(*(labels_of_image(field) for field in fields))
    kept = []
    for field in fields:
        own = labels_of_image(field)
        classes = labels.intersection(map(plain, folder.folders_of(field.path)))
        if own and classes and not classes & own:
            names = " and ".join(sorted(classes))
            folder.problem(field.path, f"lies in {names}, and is labelled {' and '.join(own)}")
        else:
            kept.append(field)
    return kept


def labels_of_image(field):
    """The labels of a field that are of the whole image, in lower case."""
    return {plain(cell.label) for cell in field.cells if cell.box is None}


def boxes_of_several_labels(cells):
    """{box: its labels} of the boxes, None being the whole image, that have more than one."""
    labels = {}  # box: {plain label: label}
    for cell in cells:
        if box_is_given(cell.box):
            labels.setdefault(cell.box, {})[plain(cell.label).strip()] = cell.label
    return {box: list(names.values()) for box, names in labels.items() if len(names) > 1}


def box_is_given(box):
    """Whether a box is one of an image, or None, the whole of it; not one that is unreadable."""
    return box is None or bool(box.w or box.h)
