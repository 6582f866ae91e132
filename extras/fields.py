"""Finds images and annotations under a folder, whatever its layout, and joins the two.

A reader is a function of a DataFolder that yields `folder.annotation(file, image_names, cells)`
for every image that it finds annotated. read_fields takes the reader that finds the most.

An annotation belongs to the image that its own path and the name in it point to. Where two images
fit equally well it belongs to none: a wrong picture with the right label trains silently.
"""

import codecs
import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from extras.box_checks import with_plausible_boxes
from extras.contradictions import (
    is_about_many,
    without_contradictions,
    without_double_labels,
    without_labels_of_other_folders,
)
from extras.links import AmbiguousNameError, ImageIndex, Link, find_image, shortened
from extras.paths import (
    CELL_WORDS,
    IMAGE_ENDINGS,
    MAGNIFICATIONS,
    MASK_FOLDERS,
    MASK_NAME,
    MICROSCOPES,
    PASSED_OVER,
    SPLITS,
    image_tags,
    is_folder_of_copies,
    is_result_of_a_run,
    later_split,
    may_be_class,
    path_tags,
    places,
    plain,
    split_in_path,
    split_of_list,
    stem_key,
    tags_conflict,
)
from extras.records import Annotation, Cell, DataError, Field, Problem, make_box
from extras.unread import (
    note_class_folders,
    note_label_files,
    note_left_out,
    note_other_sources,
    note_unread_files,
    nothing_found,
    shorten_notes,
)

UNKNOWN = {"unknown", "unlabelled", "unlabeled"}
MOST_BYTES = 2**30  # of a file of text; larger ones are not read
LONGEST_NAME = 4096  # of an image with its folders; a system has no longer ones
LONGEST_LABEL = 200
LEAST_FIELDS = 3  # one a split


class DataFolder:
    """Every file under a data folder: images by stem, JSON files, split lists, problems."""

    def __init__(self, root, name):
        self.root = root
        self.name = name  # as the user wrote it
        self.stats = []  # [relative name, bytes, modification time] of every file
        self.json_files = []  # (path, content)
        self.listed_splits = {}  # path: split
        self.has_parallel_folders = False  # one of images, one of annotations, whatever their names
        self.ambiguous_files = set()  # whose names fit images of several places
        self.copy_folders = set()  # names of folders of masks, previews and the like, not read
        self.result_folders = set()  # that are passed over as this program's own
        self.problems = []
        self.notes = []  # what a user should know, a line each
        self._places = {}  # these three are filled when they are asked for
        self._tags = {}
        self._digests = {}
        self.found_images = {}  # (file of an annotation, names in it): image or LookupError
        paths = []
        for path in self.walk():
            info = path.stat()
            relative = path.relative_to(root).as_posix()
            self.stats.append([relative, info.st_size, info.st_mtime_ns])
            if path.suffix.lower() in IMAGE_ENDINGS:
                paths.append(path)
        self.images = ImageIndex(root, self.without_masks(paths))

    def without_masks(self, paths):
        """Images without those that their names, or their folders' names, say are masks."""
        stems = {(path.parent, plain(path.stem)) for path in paths}
        folders = {}  # (folder above that of the image, stem): folders of images
        for path in paths:
            key = (path.parent.parent, stem_key(path.name))
            folders.setdefault(key, set()).add(path.parent)
        kept = []
        for path in paths:
            found = MASK_NAME.fullmatch(plain(path.stem))
            by_name = found is not None and (path.parent, found[1]) in stems
            has_stem_beside = len(folders[path.parent.parent, stem_key(path.name)]) > 1
            by_folder = plain(path.parent.name) in MASK_FOLDERS and has_stem_beside
            if not by_name and not by_folder:
                kept.append(path)
        if len(kept) < len(paths):
            count = len(paths) - len(kept)
            self.notes.append(f"{count} images are masks by their names, and not used")
        return kept

    def walk(self):
        """Every file in order of its path, but hidden ones and those of folders without data.

        Pipes, devices and links to folders above this one are passed over.
        """
        seen = set()  # links can lead in a circle
        own_path = Path(self.root).resolve()
        for folder, folders, files in os.walk(self.root, followlinks=True):
            real_path = Path(folder).resolve()
            is_data = self.can_hold_data(Path(folder), real_path in own_path.parents, files)
            if real_path in seen or not is_data:
                folders.clear()
                continue
            seen.add(real_path)
            folders[:] = self.folders_with_data(Path(folder), sorted(folders))
            for name in sorted(files):
                path = Path(folder, name)
                if not name.startswith(".") and path.is_file():
                    yield path

    def can_hold_data(self, folder, leads_up, files):
        """Whether a folder is none of the program's results, and no link that leads up."""
        if leads_up:
            self.notes.append(f"{folder} links to a folder above the data; not followed")
        elif is_result_of_a_run(files):
            self.result_folders.add(str(self.relative(folder)))
        else:
            return True
        return False

    def folders_with_data(self, folder, names):
        """Those of a folder's folders that can hold images, not copies or results."""
        kept = []
        for name in names:
            is_of_copies = is_folder_of_copies(name) and not has_images_beside_masks(folder / name)
            if is_of_copies:
                self.copy_folders.add(name)
            elif not PASSED_OVER.match(name):
                kept.append(name)
            elif name == "results":
                self.result_folders.add(str(self.relative(folder / name)))
        return kept

    def files(self, *endings):
        """Paths of the files whose names end so, in lower case."""
        names = [name for name, _, _ in self.stats]
        return [self.root / name for name in names if name.lower().endswith(endings)]

    def image_files(self):
        """Every image, in order of its path."""
        return self.images.paths()

    @functools.cached_property
    def image_set(self):
        """The paths of all images, unordered."""
        return set(self.image_files())

    def class_of(self, path, is_known):
        """The folder that names the class of a crop, or None: the last that is no tag, no role.

        A class that is_known, of several folders above each other, is the one.
        """
        folders = self.folders_of(path)
        above = [folders[:depth] for depth in range(len(folders), 0, -1)]
        chosen = [
            parts for parts in above if may_be_class(parts[-1]) or parts in self.class_folders
        ]
        names = [parts[-1] for parts in chosen]
        known = [name for name in names if is_known(name)]
        return next(iter(known + names), None)

    @functools.cached_property
    def class_folders(self):
        """Folders of images that are a class though their names are of another kind.

        It is the folder beside it that says so: cell beside background, valid beside invalid.
        """
        inside = {}  # folder, as its parts: names of the folders with images in it
        for path in self.image_files():
            parts = self.folders_of(path)
            for depth, name in enumerate(parts):
                inside.setdefault(parts[:depth], set()).add(name)
        found = set()
        for parent, names in inside.items():
            classes = {name for name in names if may_be_class(name)}
            for name in names - classes:
                if (*parent, name) not in inside and is_class_beside(name, classes):
                    found.add((*parent, name))
        return found

    def split_of_folders(self, path):
        """The split that the folders above an image tell, or None."""
        folders = self.folders_of(path)
        for depth in range(len(folders), 0, -1):
            split = split_in_path(Path(folders[depth - 1]))
            if split and folders[:depth] not in self.class_folders:
                return split
        return None

    def split_rank(self, path):
        """Sorts images by the split that their folders tell, train first; those of none before."""
        split = self.split_of_folders(path)
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
        return len(self.image_set)

    def relative(self, path):
        """A path of this folder without what is above it."""
        return path.relative_to(self.root)

    def folders_of(self, path):
        """The names of the folders between this one and a file."""
        return self.relative(path).parts[:-1]

    def places_of(self, path):
        """The places that the folders of an image tell."""
        if path not in self._places:
            self._places[path] = places(self.folders_of(path))
        return self._places[path]

    def tags_of(self, path):
        """The image_tags of an image."""
        if path not in self._tags:
            self._tags[path] = image_tags(self.relative(path))
        return self._tags[path]

    def are_copies(self, paths):
        """Whether files are one, or of the same content."""
        if len(paths) == 1:
            return True
        for path in paths:
            if path not in self._digests:
                self._digests[path] = hashlib.sha1(path.read_bytes()).digest()
        return len({self._digests[path] for path in paths}) == 1

    @contextlib.contextmanager
    def noting_damage(self, path):
        """Pass over a file that cannot be parsed, in whatever way, and note it as a problem."""
        try:
            yield
        except DataError as error:
            self.problem(path, str(error))
        except Exception as error:  # files are damaged in more ways than can be listed
            reason = " ".join(str(error).split())[:200]
            self.problem(path, f"damaged ({type(error).__name__}: {reason})")

    def read_shared_files(self):
        """Read what is about many images at once: JSON files and split lists."""
        for path in self.files(".json"):
            with self.noting_damage(path):
                self.json_files.append((path, json.loads(text_of(path))))
        lists = [path for path in self.files(".txt") if split_of_list(path.stem)]
        lists.sort(key=lambda path: SPLITS.index(split_of_list(path.stem)))
        in_two = set()
        indices = {}  # folder: ImageIndex of the images under it
        for path in lists:  # train before val before test, so that the later one stands
            split = split_of_list(path.stem)
            images = self.images_in_list(path, indices)
            if not images:
                self.notes.append(f"{self.relative(path)} lists none of the images")
            for image in images:
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

    def images_in_list(self, path, indices):
        """The images that a list of stems, file names or paths names, one a line.

        Those count that lie under the list's own folder, or the next above that has images, and
        that are not of another patient or microscope. indices: kept from list to list.
        """
        scope = next(parent for parent in path.parents if parent in self.images_under)
        if scope not in indices:
            indices[scope] = ImageIndex(self.root, self.images_under[scope])
        own_places = places(self.folders_of(path)) & self.known_places
        own_tags = path_tags(self.relative(path)) - set(SPLITS)
        found = []
        for line in dict.fromkeys(text_of(path).splitlines()):
            first_word = line.strip().split(" ")[0]  # what follows can be a VOC flag
            for name in {line.strip(), first_word}:
                for image in indices[scope].listed(name[-LONGEST_NAME:].replace("\\", "/")):
                    is_of_place = own_places <= self.places_of(image)
                    if is_of_place and not tags_conflict(own_tags, self.tags_of(image)):
                        found.append(image)
        return found

    @functools.cached_property
    def images_under(self):
        """{folder: the images in it and in its folders}, for this folder in any case."""
        found = {self.root: []}
        for path in self.image_files():
            for folder in list(path.parents)[: len(self.folders_of(path)) + 1]:
                found.setdefault(folder, []).append(path)
        return found

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

        frame: (width, height) of the image that the boxes are in, if the file says it. Raises
        DataError if a class has a name of more than LONGEST_LABEL characters.
        """
        boxed = []
        for label, box in cells:
            label = str(label)
            if len(label) > LONGEST_LABEL:
                raise DataError(f"{shortened(label)} is no name of a class: it is too long")
            boxed.append(Cell(label, None if box is None else make_box(box, frame)))
        names = [str(name)[-LONGEST_NAME:].replace("\\", "/") for name in image_names]
        return Annotation(file, names, boxed, split)

    def has_image(self, name):
        """Whether there is an image of that stem."""
        return stem_key(name) in self.images.by_stem

    def field(self, annotation):
        """The Field of an annotation; None, and noted, if its image is not there."""
        try:
            path = find_image(self, annotation)
        except LookupError as error:
            self.problem(annotation.file, str(error.args[0]))
            if isinstance(error, AmbiguousNameError):
                self.ambiguous_files.add(annotation.file)
            return None
        split = (
            self.listed_splits.get(path)
            or annotation.split
            or self.split_of_folders(path)
            or self.split_of_annotation(annotation, path)
        )
        tags = path_tags(self.relative(annotation.file)) | path_tags(self.relative(path))
        return Field(path, annotation.cells, split, tags | path_tags(annotation.image_names[0]))

    def split_of_annotation(self, annotation, path):
        """The split that the place of an annotation tells, or None, as where it is the image."""
        if annotation.file == path:
            return None
        relative = self.relative(annotation.file)
        return split_in_path(relative if is_about_many(annotation) else relative.parent)


def has_images_beside_masks(folder):
    """Whether a folder that is named after masks or segmentation has images in folders of its own.

    As in "Malaria Segmentation Dataset", which holds images and masks.
    """
    with contextlib.suppress(OSError):
        names = [path.name for path in folder.iterdir() if path.is_dir()]
        has_copies = any(map(is_folder_of_copies, names))
        return has_copies and not all(map(is_folder_of_copies, names))
    return False


def is_class_beside(name, classes):
    """Whether a folder whose name is no class's is one, as the classes beside it say."""
    is_of_cells = plain(name) in CELL_WORDS and len(classes) == 1
    is_opposite = f"in{plain(name)}" in map(plain, classes)
    return is_of_cells or is_opposite


def text_of(path):
    """The text of a file in UTF-8, in UTF-16 if its mark says so, or else in Windows' Latin.

    PowerShell writes UTF-16, Excel often the last. Raises DataError if it is larger than
    MOST_BYTES.
    """
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"larger than {MOST_BYTES // 2**20} MiB; split it up")
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


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
    """What one reader found.

    annotation_count: how many annotations. wanted: the fields that are not left out.
    in_two_splits: images of wanted fields that different splits are told of.
    files: those that it read.
    """

    layout: str
    annotation_count: int
    fields: list[Field]
    wanted: list[Field]
    problems: list[Problem]
    in_two_splits: set[Path]
    files: set[Path]


def read_source(folder, layout, reader, unwanted):
    """The Source of one reader. unwanted: tags of fields that are left out."""
    shared_problems = folder.problems
    folder.problems = []
    annotations = list(reader(folder))
    folder.has_parallel_folders = are_parallel(folder, annotations)
    folder.found_images = {}
    found = [(annotation, folder.field(annotation)) for annotation in annotations]
    sure = [pair for pair in found if pair[1] and folder.is_sure(*pair)]
    fields = [field for _, field in without_contradictions(folder, sure)]
    wanted = [field for field in fields if not field.tags & unwanted]
    in_two = in_two_splits(wanted)
    wanted = without_double_labels(folder, merge_fields(wanted))
    wanted = without_labels_of_other_folders(folder, wanted)
    problems = folder.problems
    folder.problems = shared_problems
    files = {annotation.file for annotation in annotations}
    files.update(problem.file for problem in problems)
    return Source(layout, len(found), fields, wanted, problems, in_two, files)


def are_parallel(folder, annotations):
    """Whether all images are of one place, and all annotations, so that nothing can be mixed up."""
    image_places = {folder.places_of(path) for path in folder.image_files()}
    if len(image_places) != 1:
        return False
    annotation_places = set()
    for annotation in annotations:
        for name in annotation.image_names:
            annotation_places.add(frozenset(Link(folder, annotation, name).places))
    return len(annotation_places) == 1


def read_sources(folder, readers, unwanted):
    """The Sources that have any fields, and the files that any reader read.

    Folders are taken for classes, and images for unlabelled, only where no annotation is about
    images: what cannot be joined to its image is not to be passed over. Raises DataError if there
    is none.
    """
    sources = [read_source(folder, *item, unwanted) for item in readers.annotations.items()]
    problems, files = problems_and_files(folder, sources)
    if not any(source.fields for source in sources):
        readers.explain_unread(folder)
    if not any(source.annotation_count for source in sources):
        sources = [read_unannotated(folder, readers, unwanted, may_lack_labels=not problems)]
    sources = [source for source in sources if source.fields]
    if not sources:
        raise DataError(nothing_found(folder, problems, readers))
    return sources, files


def problems_and_files(folder, sources):
    """(problems, files) of Sources, and of what was read before them."""
    problems = list(folder.problems)
    files = {problem.file for problem in problems}
    for source in sources:
        problems += source.problems
        files |= source.files
    return problems, files


def read_unannotated(folder, readers, unwanted, may_lack_labels):
    """The Source of class folders, or else, if they may lack labels, of images without."""
    source = read_source(folder, "class folders", readers.class_folders, unwanted)
    if source.fields or not may_lack_labels:
        return source
    if any(not folder.class_of(path, may_be_class) for path in folder.image_files()):
        note_class_folders(folder, folder.image_files(), "no classes, which take two folders")
    return read_source(folder, "images without labels", readers.unlabelled, unwanted)


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
    sources, files = read_sources(folder, readers, unwanted)
    folder.json_files = []  # they can be large
    best = max(sources, key=lambda source: len(source.wanted))
    if not best.wanted:
        flags = f"--microscope {microscope} --magnification {magnification}"
        raise DataError(nothing_wanted(best, unwanted, flags))
    note_other_sources(folder, sources, best)
    note_left_out(folder, best, unwanted)
    folder.note_in_two_splits(best.in_two_splits)
    folder.problems = folder.problems + best.problems
    note_label_files(folder, files)
    note_unread_files(folder)
    shorten_notes(folder)
    fields = with_plausible_boxes(folder, best.wanted)
    if len(fields) < LEAST_FIELDS and folder.problems:
        first = folder.problems[0]
        raise DataError(f"{len(fields)} images are too few; {first.file}: {first.reason}")
    return best.layout, sorted(fields, key=lambda field: folder.relative(field.path).as_posix())


def nothing_wanted(source, unwanted, flags):
    """Why none of the fields of a Source is wanted, in a line. flags: those that leave some out."""
    if any(not field.tags & unwanted for field in source.fields):
        return f"{source.problems[-1].file}: {source.problems[-1].reason}"
    tags = set().union(*(field.tags for field in source.fields)) - set(SPLITS)
    return f"{flags} leave out all fields, which are {', '.join(sorted(tags))}"
