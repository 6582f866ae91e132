"""Finds images and annotations under a folder, whatever its layout, and joins the two.

A reader is a function of a DataFolder that yields `folder.annotation(file, image_names, cells)`
for every image that it finds annotated. read_fields takes the reader that finds the most.

An annotation belongs to the image that its own path and the name in it point to. Where two images
fit equally well it belongs to none: a wrong picture with the right label trains silently.
"""

import codecs
import contextlib
import dataclasses
import functools
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from extras.paths import (
    BETWEEN_WORDS,
    COPY_WORDS,
    IMAGE_ENDINGS,
    MAGNIFICATIONS,
    MICROSCOPES,
    ROLE_WORDS,
    SPLIT_SPELLINGS,
    SPLITS,
    UNREAD_IMAGE_ENDINGS,
    later_split,
    path_tags,
    places,
    places_differ,
    plain,
    split_in_path,
    stem_key,
    tags_conflict,
)

PASSED_OVER = re.compile(r"\.|__MACOSX|results$")  # folders without data
OWNER = re.compile(
    r"(patient|subject|person|donor|case|specimen|slide|smear|sample|batch|day|site|pt?|s)[ _-]*\d+"
)
NO_CLASS = re.compile(  # a date, a magnification, a part of a download
    r"\d{4}[-_. ]\d\d([-_. ]\d\d)?$|\d+x$|part[ _-]*\d+$"
)
MASK_FOLDERS = {"gt", "label", "labels", "ground truth", "ground_truth", "groundtruth"}
UNKNOWN = {"unknown", "unlabelled", "unlabeled"}
MASK_NAME = re.compile(r"(.+?)[_\- ]*(masks?|overlay|segmentation)[_\- ]*\d*")  # of a file
MANY_IN_ONE = (".json", ".jsonl", ".csv", ".tsv")  # files that can be about many images
FRACTIONS = (1, 1)  # the frame of a box in fractions of the image


class DataError(ValueError):
    """Data that cannot be used; the message is one line, without the name of the data folder."""


class AmbiguousNameError(LookupError):
    """The name of an image fits several equally well."""


class Box(NamedTuple):
    """A rectangle: left, top, width and height in units of a frame.

    frame: (width, height) of the image as the annotation says it is; None: pixels of the file.
    """

    x: float
    y: float
    w: float
    h: float
    frame: tuple[float, float] | None = None

    def in_pixels(self, image):
        """(x, y, w, h) in pixels of an image (H, W, C)."""
        if self.frame is None:
            return self[:4]
        height, width = image.shape[:2]
        scale_x = width / self.frame[0]
        scale_y = height / self.frame[1]
        return self.x * scale_x, self.y * scale_y, self.w * scale_x, self.h * scale_y


NO_BOX = Box(0, 0, 0, 0)  # cannot be cut out, so that it is counted among what is skipped


def make_box(numbers, frame=None):
    """The Box of x, y, w, h, numbers or text; NO_BOX if these are not four numbers."""
    try:
        x, y, w, h = (float(number) for number in numbers)
    except (TypeError, ValueError, OverflowError):
        return NO_BOX
    return Box(x, y, w, h, frame)


class Cell(NamedTuple):
    """One annotated cell: its class, and its box, or None if it is the whole image."""

    label: str
    box: Box | None


class Annotation(NamedTuple):
    """What a file says of one image: the names the image may have, its cells, its split if told."""

    file: Path
    image_names: list[str]
    cells: list[Cell]
    split: str | None


@dataclasses.dataclass
class Field:
    """One microscope image, its cells, its split if one is known, and what its path says."""

    path: Path
    cells: list[Cell]
    split: str | None
    tags: set[str]


class Problem(NamedTuple):
    """A file, or a part of it, that is not used, and why."""

    file: Path
    reason: str


class DataFolder:
    """Every file under a data folder: images by stem, JSON files, split lists, problems."""

    def __init__(self, root, name):
        self.root = root
        self.name = name  # as the user wrote it
        self.stats = []  # [relative name, bytes, modification time] of every file
        self.images = {}  # stem_key: paths
        self.json_files = []  # (path, content)
        self.listed_splits = {}  # path: split
        self.has_parallel_folders = False  # one of images, one of annotations, whatever their names
        self.ambiguous_files = set()  # whose names fit images of several places
        self.copy_folders = set()  # names of folders of masks, previews and the like, not read
        self.problems = []
        self.notes = []  # what a user should know, a line each
        for path in self.walk():
            info = path.stat()
            relative = path.relative_to(root).as_posix()
            self.stats.append([relative, info.st_size, info.st_mtime_ns])
            if path.suffix.lower() in IMAGE_ENDINGS:
                self.images.setdefault(stem_key(path.name), []).append(path)
        self.leave_out_masks()

    def leave_out_masks(self):
        """Take out images that their names, or their folders' names, say are masks of others."""
        stems = {(path.parent, plain(path.stem)) for path in self.image_files()}
        masks = []
        for path in self.image_files():
            found = MASK_NAME.fullmatch(plain(path.stem))
            by_name = found is not None and (path.parent, found[1]) in stems
            by_folder = plain(path.parent.name) in MASK_FOLDERS and self.has_stem_beside(path)
            if by_name or by_folder:
                masks.append(path)
        for path in masks:
            self.images[stem_key(path.name)].remove(path)
        if masks:
            self.notes.append(f"{len(masks)} images are masks by their names, and not used")

    def has_stem_beside(self, path):
        """Whether a folder beside a file's has an image of the same stem."""
        for other in self.images.get(stem_key(path.name), []):
            if other.parent != path.parent and other.parent.parent == path.parent.parent:
                return True
        return False

    def walk(self):
        """Every file in order of its path, but hidden ones and those of folders without data."""
        seen = set()  # links can lead back up
        for folder, folders, files in os.walk(self.root, followlinks=True):
            real_path = os.path.realpath(folder)
            if real_path in seen:
                folders.clear()
                continue
            seen.add(real_path)
            if is_result_of_a_run(files):
                folders.clear()
                continue
            self.copy_folders.update(name for name in folders if is_folder_of_copies(name))
            folders[:] = sorted(name for name in folders if is_data_folder(name))
            for name in sorted(files):
                path = Path(folder, name)
                if not name.startswith(".") and path.is_file():
                    yield path

    def files(self, *endings):
        """Paths of the files whose names end so, in lower case."""
        names = [name for name, _, _ in self.stats]
        return [self.root / name for name in names if name.lower().endswith(endings)]

    def image_files(self):
        """Every image, in order of its path."""
        return sorted(path for paths in self.images.values() for path in paths)

    def class_of(self, path, is_known):
        """The folder that names the class of a crop, or None: the last that is no tag, no role.

        A class that is_known, of several folders above each other, is the one.
        """
        names = [name for name in reversed(self.folders_of(path)) if may_be_class(name)]
        known = [name for name in names if is_known(name)]
        return next(iter(known + names), None)

    def split_rank(self, path):
        """Sorts images by the split that their folders tell, train first; those of none before."""
        split = split_in_path(self.relative(path.parent))
        return SPLITS.index(split) if split else -1

    def problem(self, file, reason):
        """Note a file, or a part of it, that is not used."""
        self.problems.append(Problem(file, reason))

    def is_sure(self, annotation, field):
        """Whether a field's image is the right one for all that is known; if not, a problem.

        Where some names in a file fit images of several places, so may those that fit one by
        chance, the others being lost.
        """
        if annotation.file not in self.ambiguous_files or not self.folders_of(field.path):
            return True
        for name in annotation.image_names:
            if Link(self, annotation, name).shares_place(field.path):
                return True
        self.problem(annotation.file, f"names {field.path.name} without saying of which place")
        return False

    @functools.cached_property
    def known_places(self):
        """The places of all images."""
        return set().union(*(places(self.folders_of(path)) for path in self.image_files()))

    def image_count(self):
        """How many images there are."""
        return sum(len(paths) for paths in self.images.values())

    def relative(self, path):
        """A path of this folder without what is above it."""
        return path.relative_to(self.root)

    def folders_of(self, path):
        """The names of the folders between this one and a file."""
        return self.relative(path).parts[:-1]

    @contextlib.contextmanager
    def noting_damage(self, path):
        """Pass over a file that cannot be parsed, in whatever way, and note it as a problem."""
        try:
            yield
        except Exception as error:  # files are damaged in more ways than can be listed
            reason = " ".join(str(error).split())[:200]
            self.problems.append(Problem(path, f"damaged ({type(error).__name__}: {reason})"))

    def read_shared_files(self):
        """Read what is about many images at once: JSON files and split lists."""
        for path in self.files(".json"):
            with self.noting_damage(path):
                content = json.loads(path.read_text(encoding="utf-8-sig"))
                self.json_files.append((path, content))
        lists = [path for path in self.files(".txt") if path.stem.lower() in SPLIT_SPELLINGS]
        lists.sort(key=lambda path: SPLITS.index(SPLIT_SPELLINGS[path.stem.lower()]))
        in_two = set()
        for path in lists:  # train before val before test, so that the later one stands
            split = SPLIT_SPELLINGS[path.stem.lower()]
            for image in self.images_in_list(path):
                if self.listed_splits.get(image, split) != split:
                    in_two.add(image)
                self.listed_splits[image] = split
        self.note_in_two_splits(in_two)

    def note_in_two_splits(self, paths):
        """Say how many images are named in two splits, if any are."""
        if paths:
            self.notes.append(
                f"{len(paths)} images are named in two splits, such as {min(paths).name}; "
                "each stays in the later of train, val, test"
            )

    def images_in_list(self, path):
        """The images that a list of stems, file names or paths names, one a line."""
        for line in text_of(path).splitlines():
            first_word = line.strip().split(" ")[0]  # what follows can be a VOC flag
            for name in (line.strip(), first_word):
                candidates = self.images.get(stem_key(name), [])
                listed = name.replace("\\", "/")
                shared = [shared_folders(image, listed) for image in candidates]
                for image, count in zip(candidates, shared, strict=True):
                    if count == max(shared):
                        yield image

    def json_items(self, key):
        """(path, item) of every JSON file that is a list of objects with `key`."""
        for path, content in self.json_files:
            if not isinstance(content, list) or not content:
                continue
            if isinstance(content[0], dict) and key in content[0]:
                for item in content:
                    yield path, item

    def annotation(self, file, image_names, cells, frame=None, split=None):
        """An Annotation of plain values: cells are (class, (x, y, w, h) or None) pairs.

        frame: (width, height) of the image that the boxes are in, if the file says it.
        """
        boxed = []
        for label, box in cells:
            boxed.append(Cell(str(label), None if box is None else make_box(box, frame)))
        names = [str(name).replace("\\", "/") for name in image_names]
        return Annotation(file, names, boxed, split)

    def has_image(self, name):
        """Whether there is an image of that stem."""
        return stem_key(name) in self.images

    def find_image(self, annotation):
        """The image that an annotation is about. Raises LookupError, which says why, if none is."""
        reason = f"names {annotation.image_names[0]}, which is not among the images"
        for name in annotation.image_names:
            candidates = self.images.get(stem_key(name), [])
            link = Link(self, annotation, name)
            possible = [path for path in candidates if link.is_possible(path)]
            if possible:
                return link.best(possible)
            if candidates:
                reason = f"names {name}; {candidates[0]} has that name, but is of another place"
        raise LookupError(reason)

    def field(self, annotation):
        """The Field of an annotation; None, and noted, if its image is not there."""
        try:
            path = self.find_image(annotation)
        except LookupError as error:
            self.problem(annotation.file, str(error.args[0]))
            if isinstance(error, AmbiguousNameError):
                self.ambiguous_files.add(annotation.file)
            return None
        about_many = annotation.file.suffix.lower() in MANY_IN_ONE
        annotated_in = annotation.file if about_many else annotation.file.parent
        split = (
            self.listed_splits.get(path)
            or annotation.split
            or split_in_path(self.relative(path.parent))
            or split_in_path(self.relative(annotated_in))
        )
        tags = path_tags(self.relative(annotation.file)) | path_tags(self.relative(path))
        return Field(path, annotation.cells, split, tags | path_tags(annotation.image_names[0]))


def text_of(path):
    """The text of a file in UTF-8, or in UTF-16 if its mark says so, as PowerShell writes it."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="replace")


def is_role(name):
    """Whether a folder's name only says what kind of file is in it: images, cell_images, img2."""
    words = [word.rstrip("0123456789") for word in BETWEEN_WORDS.split(plain(name))]
    return any(words) and all(word in ROLE_WORDS or not word for word in words)


def may_be_class(name):
    """Whether a folder's name can be that of a class."""
    if path_tags(name) or is_role(name) or is_owner(name):
        return False
    return not NO_CLASS.match(plain(name))


def is_owner(name):
    """Whether a folder's name says whose or from where its images are: patient_3, slide 7."""
    return bool(OWNER.match(plain(name)))


def is_folder_of_copies(name):
    """Whether a folder of that name holds masks, previews or the like, not the images."""
    words = set(re.split(r"[\s_\-.]+", plain(name)))
    return bool(words & COPY_WORDS)


def is_data_folder(name):
    """Whether a folder of that name can hold the images themselves, not copies or results."""
    return not PASSED_OVER.match(name) and not is_folder_of_copies(name)


def is_result_of_a_run(files):
    """Whether files of one folder are what this program leaves: a run, or generated images."""
    names = set(files)
    is_run = {"config.json", "last.pt"} <= names or {"metrics.csv", "last.pt"} <= names
    is_sheet = {"cells.png", "skipped.csv"} <= names
    is_generated = {"grid.png", "0000.png"} <= names
    return is_run or is_sheet or is_generated or "gradcam_right.png" in names


class Link:
    """How an annotation points to images by one of the names in it."""

    def __init__(self, folder, annotation, name):
        self.folder = folder
        self.file = annotation.file
        self.name = name
        self.tags = path_tags(folder.relative(annotation.file))
        inner = PurePosixPath(name)
        inner_places = places(inner.parts[:-1])
        self.places = places(folder.folders_of(annotation.file))
        self.hints = self.places | inner_places  # may tell a place that is not of this tree
        is_absolute = inner.is_absolute() or ":" in name
        if is_absolute:  # of another machine, but a place of this tree is meant
            inner_places = inner_places & folder.known_places
        self.places = self.places | inner_places
        if not is_absolute:
            self.tags = self.tags | path_tags(inner.parent)
        if annotation.file.suffix.lower() in MANY_IN_ONE:
            self.hints = self.hints | places([annotation.file.stem])

    def is_possible(self, path):
        """Whether an image is not plainly of another split, microscope or place."""
        if tags_conflict(self.tags, path_tags(self.folder.relative(path))):
            return False
        if self.folder.has_parallel_folders:
            return True
        return not places_differ(self.places, places(self.folder.folders_of(path)))

    def shares_place(self, path):
        """Whether an annotation says of an image which patient, microscope or split it is from."""
        relative = self.folder.relative(path)
        shared_tags = self.tags & path_tags(relative.parent)
        return bool(shared_tags or self.hints & places(relative.parts[:-1]))

    def closeness(self, path):
        """What an annotation and an image share, the weightiest first."""
        image_places = places(self.folder.folders_of(path))
        image_tags = path_tags(self.folder.relative(path))
        return (
            path == self.file,
            len(self.hints & image_places),
            shared_folders(path, self.name),
            shared_from_root(self.folder.relative(path), self.folder.relative(self.file)),
            path.parent == self.file.parent,
            plain(path.stem) == plain(PurePosixPath(self.name).stem),
            path.stem == PurePosixPath(self.name).stem,
            plain(path.suffix) == plain(PurePosixPath(self.name).suffix),
            -len(image_places - self.hints),
            -len(self.hints - image_places),
            shared_folders(path, self.file),
            len(self.tags & image_tags),
            -len(image_tags - self.tags),
        )

    def best(self, paths):
        """The closest of some images. Raises LookupError if several are, and are not copies."""
        closest = max(map(self.closeness, paths))
        best = [path for path in paths if self.closeness(path) == closest]
        if len(best) > 1 and len({path.read_bytes() for path in best}) > 1:
            names = ", ".join(str(self.folder.relative(path)) for path in best[:3])
            raise AmbiguousNameError(f"names {self.name}, which fits {names} equally well")
        return best[0]


def shared_from_root(path, other):
    """How many folders two relative paths share from the root on."""
    count = 0
    for folder, other_folder in zip(path.parts[:-1], other.parts[:-1], strict=False):
        if plain(folder) != plain(other_folder):
            break
        count += 1
    return count


def shared_folders(path, other):
    """How many folders directly above two files have the same names."""
    folders = PurePosixPath(path).parts[-2::-1]
    other_folders = PurePosixPath(other).parts[-2::-1]
    count = 0
    for folder, other_folder in zip(folders, other_folders, strict=False):
        if plain(folder) != plain(other_folder):
            break
        count += 1
    return count


def merge_fields(fields):
    """One field an image: several annotations of it are put together.

    Where an image is annotated with and without a split, as by a second list of the same images,
    only what has a split counts.
    """
    with_split = {field.path for field in fields if field.split}
    merged = {}
    known = {}
    for field in fields:
        if field.path in with_split and not field.split:
            continue
        first = merged.setdefault(field.path, field)
        cells = known.setdefault(field.path, set(first.cells))
        if first is not field:
            first.split = later_split(first.split, field.split)
            first.cells.extend(cell for cell in field.cells if cell not in cells)
            cells.update(field.cells)
    return list(merged.values())


def in_two_splits(fields):
    """The images that different splits are told of."""
    splits = {}
    for field in fields:
        if field.split:
            splits.setdefault(field.path, set()).add(field.split)
    return {path for path, names in splits.items() if len(names) > 1}


class Readers(NamedTuple):
    """What read_fields tries: {layout: reader} of annotations, then the rest where there are none.

    explain_unread: raises DataError for annotations of a known layout that is not read.
    """

    annotations: dict
    explain_unread: Callable
    class_folders: Callable
    unlabelled: Callable


class Source(NamedTuple):
    """What one reader found: how many annotations, their fields, those wanted, and problems.

    in_two_splits: images of wanted fields that different splits are told of.
    """

    layout: str
    annotation_count: int
    fields: list[Field]
    wanted: list[Field]
    problems: list[Problem]
    in_two_splits: set[Path]


def read_source(folder, layout, reader, unwanted):
    """The Source of one reader. unwanted: tags of fields that are left out."""
    shared_problems = folder.problems
    folder.problems = []
    annotations = list(reader(folder))
    folder.has_parallel_folders = are_parallel(folder, annotations)
    found = [(annotation, folder.field(annotation)) for annotation in annotations]
    sure = [pair for pair in found if pair[1] and folder.is_sure(*pair)]
    fields = [field for _, field in without_contradictions(folder, sure)]
    problems = folder.problems
    folder.problems = shared_problems
    wanted = [field for field in fields if not field.tags & unwanted]
    in_two = in_two_splits(wanted)
    return Source(layout, len(found), fields, merge_fields(wanted), problems, in_two)


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
    """Whether annotations of one image differ, and are entries of one file or of files alike.

    Files about many images add to each other: one of train, one of test, say.
    """
    if len({tuple(annotation.cells) for annotation in annotations}) == 1:
        return False
    files = [annotation.file for annotation in annotations]
    about_many = any(file.suffix.lower() in MANY_IN_ONE for file in files)
    entries = {(annotation.file, annotation.split) for annotation in annotations}
    has_two_entries = len(entries) < len(files)
    return has_two_entries or not about_many


def are_parallel(folder, annotations):
    """Whether all images are of one place, and all annotations, so that nothing can be mixed up."""
    image_places = {frozenset(places(folder.folders_of(path))) for path in folder.image_files()}
    annotation_places = set()
    for annotation in annotations:
        for name in annotation.image_names:
            annotation_places.add(frozenset(Link(folder, annotation, name).places))
    return len(image_places) == 1 and len(annotation_places) == 1


def read_sources(folder, readers, unwanted):
    """The Sources that have any fields. Raises DataError if there is none.

    Folders are taken for classes, and images for unlabelled, only where no annotation is about
    images: what cannot be joined to its image is not to be passed over.
    """
    sources = [read_source(folder, *item, unwanted) for item in readers.annotations.items()]
    problems = list(folder.problems)
    for source in sources:
        problems += source.problems
    if not any(source.fields for source in sources):
        readers.explain_unread(folder)
    if not any(source.annotation_count for source in sources):
        note_label_files(folder)
        sources = [read_source(folder, "class folders", readers.class_folders, unwanted)]
        if not sources[0].fields and not problems:
            sources = [read_source(folder, "images without labels", readers.unlabelled, unwanted)]
    sources = [source for source in sources if source.fields]
    if not sources:
        raise DataError(nothing_found(folder, problems, readers))
    return sources


def read_fields(folder, readers, microscope="both", magnification="all"):
    """(layout, fields in name order) of one microscope and magnification, or of all.

    Of several sources in one tree the one with most wanted fields is taken, the first of equals.
    Raises DataError if nothing is found or wanted.
    """
    folder.read_shared_files()
    unwanted = set()
    if microscope != "both":
        unwanted |= MICROSCOPES - {microscope}
    if magnification != "all":
        unwanted |= MAGNIFICATIONS - {magnification}
    sources = read_sources(folder, readers, unwanted)
    best = max(sources, key=lambda source: len(source.wanted))
    if not best.wanted:
        tags = set().union(*(field.tags for field in best.fields)) - set(SPLITS)
        raise DataError(
            f"--microscope {microscope} --magnification {magnification} "
            f"leave out all fields, which are {', '.join(sorted(tags))}"
        )
    for source in sources:
        if source is not best:
            folder.notes.append(
                f"also there, and not used: {source.layout}, {len(source.wanted)} wanted fields"
            )
    note_left_out(folder, best, unwanted)
    folder.note_in_two_splits(best.in_two_splits)
    folder.problems = folder.problems + best.problems
    note_unread_images(folder)
    return best.layout, sorted(
        best.wanted, key=lambda field: folder.relative(field.path).as_posix()
    )


def note_left_out(folder, source, unwanted):
    """Count the images of other microscopes and magnifications, and those without annotation."""
    other = {field.path for field in source.fields if field.tags & unwanted}
    if other:
        folder.notes.append(
            f"{len(other)} images of another microscope or magnification are left out; "
            "see --microscope and --magnification"
        )
    annotated = {field.path for field in source.fields}
    bare = [path for path in folder.image_files() if path not in annotated]
    bare = [path for path in bare if not path_tags(folder.relative(path)) & unwanted]
    if bare:
        name = folder.relative(bare[0]).as_posix()
        folder.notes.append(f"{len(bare)} images have no annotation, such as {name}; not used")


def note_label_files(folder):
    """Name files that may hold labels, where none of them was understood."""
    names = []
    for path in folder.files(".csv", ".tsv", ".json", ".jsonl", ".txt", ".xml"):
        is_text = path.suffix.lower() == ".txt"
        is_list = path.stem.lower() in SPLIT_SPELLINGS
        is_about = re.match(r"readme|licen[cs]e|requirements|classes", path.name.lower())
        if not (is_text and is_list) and not is_about:
            names.append(folder.relative(path).as_posix())
    if names:
        folder.notes.append(f"no labels were found in {', '.join(names[:3])}")
    if folder.copy_folders:
        folder.notes.append(
            f"not read: the folders {', '.join(sorted(folder.copy_folders))}; "
            "masks do not tell of which class a cell is, give boxes or class folders"
        )


def note_unread_images(folder):
    """Count files that look like images and are not read, by their ending."""
    endings = Counter()
    for name, _, _ in folder.stats:
        ending = PurePosixPath(name).suffix.lower()
        if ending in UNREAD_IMAGE_ENDINGS:
            endings[ending] += 1
            reason = f"{ending} files are not read; convert them to PNG or JPEG"
            folder.problems.append(Problem(folder.root / name, reason))
    notes = []
    for ending, count in endings.items():
        notes.append(f"{count} {ending} files are not read; convert them to PNG or JPEG")
    folder.notes += notes
    return notes


def nothing_found(folder, problems, readers):
    """Why a folder cannot be used, in a line."""
    reason = "no annotations, no class folders"
    if problems:
        reason = f"{problems[0].file}: {problems[0].reason}"
    else:
        reason = "; ".join(note_unread_images(folder)) or reason
    return (
        f"no data found: {folder.image_count()} images, {reason}; "
        f"layouts: {', '.join(readers.annotations)}, class folders"
    )
