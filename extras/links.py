"""Finds the image that an annotation is about, by what their paths and names share.

Where two images fit equally well it is none of them: a wrong picture with the right label trains
silently.
"""

import functools
from collections import Counter
from pathlib import PurePosixPath

from extras.paths import (
    MANY_IN_ONE,
    image_tags,
    path_tags,
    places,
    places_differ,
    plain,
    stem_key,
    tags_conflict,
)

DEPTH = 8  # folders above an image that are compared with those of a name


class AmbiguousNameError(LookupError):
    """The name of an image fits several equally well."""


class ImageIndex:
    """Images of a data folder by their stems, by their places and by the folders above them."""

    def __init__(self, root, paths):
        self.root = root
        self.by_stem = {}  # stem_key: paths
        for path in paths:
            self.by_stem.setdefault(stem_key(path.name), []).append(path)

    def paths(self):
        """Every image, in order of its path."""
        return sorted(path for paths in self.by_stem.values() for path in paths)

    @functools.cached_property
    def by_folders(self):
        """{(stem, names of 0, 1, ... folders directly above it): images}."""
        found = {}
        for key, paths in self.by_stem.items():
            for path in paths:
                above = folders_above(path.relative_to(self.root))
                for count in range(len(above) + 1):
                    found.setdefault((key, *above[:count]), []).append(path)
        return found

    @functools.cached_property
    def by_place(self):
        """{(stem, place): images}; the place of those that tell none is ""."""
        found = {}
        for key, paths in self.by_stem.items():
            for path in paths:
                for place in places(path.relative_to(self.root).parts[:-1]) or {""}:
                    found.setdefault((key, place), []).append(path)
        return found

    def listed(self, name):
        """The images of a name that share most folders directly above it."""
        key = stem_key(name)
        above = folders_above(name)
        for count in range(len(above), -1, -1):
            found = self.by_folders.get((key, *above[:count]))
            if found:
                return found
        return []

    def by_shared_places(self, key, hints):
        """Lists of the images of a stem that share places: those that share most come first."""
        counts = Counter()
        for place in hints:
            counts.update(self.by_place.get((key, place), ()))
        by_count = {}
        for path, count in counts.items():
            by_count.setdefault(count, []).append(path)
        return [by_count[count] for count in sorted(by_count, reverse=True)]


def folders_above(path):
    """The names of the folders above a file, the nearest first."""
    return [plain(name) for name in PurePosixPath(path).parts[-2::-1][:DEPTH]]


class Link:
    """How an annotation points to images by one of the names in it."""

    def __init__(self, folder, annotation, name):
        self.folder = folder
        self.file = annotation.file
        self.name = name
        is_about_many = annotation.file.suffix.lower() in MANY_IN_ONE
        relative = folder.relative(annotation.file)
        self.tags = path_tags(relative) if is_about_many else image_tags(relative)
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
        if is_about_many:
            self.hints = self.hints | places([annotation.file.stem])

    def is_possible(self, path):
        """Whether an image is not plainly of another split, microscope or place."""
        if tags_conflict(self.tags, self.folder.tags_of(path)):
            return False
        if self.folder.has_parallel_folders:
            return True
        return not places_differ(self.places, self.folder.places_of(path))

    def shares_place(self, path):
        """Whether an annotation says of an image which patient, microscope or split it is from."""
        relative = self.folder.relative(path)
        shared_tags = self.tags & path_tags(relative.parent)
        return bool(shared_tags or self.hints & places(relative.parts[:-1]))

    def nearness(self, path):
        """What the place of an annotation and that of an image share, the weightiest first."""
        return (
            len(self.hints & self.folder.places_of(path)),
            shared_from_root(self.folder.relative(path), self.folder.relative(self.file)),
            path.parent == self.file.parent,
        )

    def closeness(self, path):
        """What an annotation and an image share, the weightiest first."""
        image_places = self.folder.places_of(path)
        tags = self.folder.tags_of(path)
        name = PurePosixPath(self.name)
        return (
            path == self.file,
            len(self.hints & image_places),
            shared_folders(path, self.name),
            shared_from_root(self.folder.relative(path), self.folder.relative(self.file)),
            path.parent == self.file.parent,
            plain(path.stem) == plain(name.stem),
            path.stem == name.stem,
            plain(path.suffix) == plain(name.suffix),
            -len(image_places - self.hints),
            -len(self.hints - image_places),
            shared_folders(path, self.file),
            len(self.tags & tags),
            -len(tags - self.tags),
        )

    def closest(self):
        """The closest of the images that the name fits, or None if it fits none that is possible.

        Raises AmbiguousNameError if several are the closest, and are not copies.
        """
        images = self.folder.images
        key = stem_key(self.name)
        groups = images.by_shared_places(key, self.hints)
        if self.places and not self.folder.has_parallel_folders:
            groups.append(images.by_place.get((key, ""), []))  # others are of another place
        else:
            groups.append(images.by_stem.get(key, []))
        for paths in groups:
            possible = [path for path in paths if self.is_possible(path)]
            if possible:
                return self.best(possible)
        return None

    def best(self, paths):
        """The closest of some images. Raises AmbiguousNameError as closest() does."""
        values = [self.closeness(path) for path in paths]
        closest = max(values)
        best = [path for path, value in zip(paths, values, strict=True) if value == closest]
        if not self.folder.are_copies(best):
            names = ", ".join(str(self.folder.relative(path)) for path in sorted(best)[:3])
            raise AmbiguousNameError(f"names {self.name}, which fits {names} equally well")
        return min(best)


def find_image(folder, annotation):
    """The image that an annotation is about. Raises LookupError, which says why, if none is.

    Where its names are those of different images, the one that shares its place is meant.
    """
    if annotation.file in folder.image_set:  # the image is its own annotation
        return annotation.file
    key = (annotation.file, *annotation.image_names)
    if key not in folder.found_images:
        try:
            folder.found_images[key] = search_image(folder, annotation)
        except LookupError as error:
            folder.found_images[key] = error
    found = folder.found_images[key]
    if isinstance(found, LookupError):
        raise type(found)(*found.args)
    return found


def search_image(folder, annotation):
    """The same for an annotation that is not the image itself."""
    reason = f"names {shortened(annotation.image_names[0])}, which is not among the images"
    found = {}  # image: nearness
    for name in annotation.image_names:
        link = Link(folder, annotation, name)
        path = link.closest()
        if path:
            found.setdefault(path, link.nearness(path))
        elif folder.has_image(name):
            other = folder.images.by_stem[stem_key(name)][0]
            reason = f"names {name}; {other} has that name, but is of another place"
    if not found:
        raise LookupError(reason)
    nearest = max(found.values())
    best = [path for path, nearness in found.items() if nearness == nearest]
    if not folder.are_copies(best):
        names = " and ".join(path.name for path in best)
        raise AmbiguousNameError(f"its own name and the one in it are of {names}; rename one")
    return best[0]


def shortened(text):
    """A text of at most eighty characters, for a message."""
    return text if len(text) <= 80 else f"{text[:40]}...{text[-37:]}"


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
