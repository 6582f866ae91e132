"""Says what lies in a data folder and is not read, so that nothing is dropped in silence."""

import re
from collections import Counter
from pathlib import PurePosixPath

from extras.paths import (
    UNREAD_DATA_ENDINGS,
    UNREAD_IMAGE_ENDINGS,
    may_be_class,
    path_tags,
    split_of_list,
)

MOST_NOTES = 30
LABEL_ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".xml")
NO_LABELS = re.compile(
    r"readme|licen[cs]e|requirements|classes|label_?map|labels?_?names|(trainval|default|all)\.txt$"
)


def note_other_sources(folder, sources, best):
    """Name the Sources that are there and not used."""
    for source in sources:
        if source is not best:
            folder.notes.append(
                f"also there, and not used: {source.layout}, {len(source.wanted)} wanted fields"
            )


def shorten_notes(folder):
    """Keep the first MOST_NOTES notes, and say how many more there are."""
    more = len(folder.notes) - MOST_NOTES
    if more > 0:
        folder.notes = [*folder.notes[:MOST_NOTES], f"{more} more notes of this kind"]


def note_left_out(folder, source, unwanted):
    """Count the images of other microscopes and magnifications, and those without annotation."""
    other = {field.path for field in source.fields if field.tags & unwanted}
    if other:
        folder.notes.append(
            f"{len(other)} images of another microscope or magnification are left out; "
            "see --microscope and --magnification"
        )
    bare = without_annotation(folder, source, unwanted)
    if bare:
        name = folder.relative(bare[0]).as_posix()
        folder.notes.append(f"{len(bare)} images have no annotation, such as {name}; not used")
        names = {folder.class_of(path, may_be_class) for path in bare} - {None}
        if source.layout != "class folders" and len(names) > 1:
            note_class_folders(folder, bare, f"not used: there is {source.layout}")


def without_annotation(folder, source, unwanted):
    """The images that no field of a Source is about, but for those of unwanted tags."""
    annotated = {field.path for field in source.fields}
    bare = [path for path in folder.image_files() if path not in annotated]
    return [path for path in bare if not path_tags(folder.relative(path)) & unwanted]


def note_class_folders(folder, paths, reason):
    """Name the folders of images that look like classes, and say why they are none."""
    counts = Counter(folder.class_of(path, may_be_class) for path in paths)
    counts.pop(None, None)
    if counts:
        names = ", ".join(f"{name} {count}" for name, count in counts.most_common(5))
        folder.notes.append(f"class folders ({names}): {reason}")


def note_label_files(folder, files):
    """Name what may hold labels, and is not among the files that were read."""
    names = []
    for path in folder.files(*LABEL_ENDINGS):
        if path in files:
            continue
        is_list = path.suffix.lower() == ".txt" and split_of_list(path.stem)
        is_explained = any(path.name in note for note in folder.notes)
        is_other = is_list or is_explained or NO_LABELS.match(path.name.lower())
        if not is_other:
            names.append(folder.relative(path).as_posix())
    if names:
        folder.notes.append(f"no labels were found in {len(names)} files: {', '.join(names[:3])}")
    if folder.copy_folders:
        folder.notes.append(note_of_copies(folder))


def note_of_copies(folder):
    """Which folders of masks and the like are not read, in a line."""
    names = ", ".join(sorted(folder.copy_folders)[:5])
    return (
        f"not read: the folders {names}; "
        "masks do not tell of which class a cell is, give boxes or class folders"
    )


def note_unread_files(folder):
    """Count files that look like images or data and are not read, by their ending.

    Each of those that look like images is a problem too.
    """
    endings = Counter()
    for name, _, _ in folder.stats:
        if PurePosixPath(name).name == "masks.npz":
            continue  # of the demo set: where the parasites are
        ending = PurePosixPath(name).suffix.lower()
        if ending in UNREAD_IMAGE_ENDINGS:
            reason = f"{ending} files are not read; convert them to PNG or JPEG"
            folder.problem(folder.root / name, reason)
        if ending in UNREAD_IMAGE_ENDINGS or ending in UNREAD_DATA_ENDINGS:
            endings[ending] += 1
    notes = []
    for ending, count in endings.items():
        mend = UNREAD_DATA_ENDINGS.get(ending, "convert them to PNG or JPEG")
        notes.append(f"{count} {ending} files are not read; {mend}")
    folder.notes += notes
    return notes


def nothing_found(folder, problems, readers):
    """Why a folder cannot be used, in a line."""
    reason = "no annotations, no class folders"
    if problems:
        reason = f"{problems[0].file}: {problems[0].reason}"
    else:
        notes = note_unread_files(folder)
        if folder.copy_folders:
            notes = [*notes, note_of_copies(folder)]
        if folder.result_folders:
            names = ", ".join(sorted(folder.result_folders)[:5])
            notes = [*notes, f"taken for results of this program: {names}; rename what is data"]
        reason = "; ".join(notes) or reason
    return (
        f"no data found: {folder.image_count()} images, {reason}; "
        f"layouts: {', '.join(readers.annotations)}, class folders"
    )
