"""Readers of tables with a row an image or a box, and of Hugging Face's metadata.jsonl."""

import csv
import io
import json
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from extras.fields import text_of
from extras.paths import IMAGE_ENDINGS, SPLITS, path_tags
from extras.records import FRACTIONS, DataError

# The first column whose head, in lower case with _ between words, is one of these has that meaning.
COLUMNS = {
    "image": (
        "image", "images", "filename", "file_name", "file", "image_name", "imagename", "img",
        "img_name", "image_path", "filepath", "file_path", "path", "image_id", "imageid", "id",
        "id_code", "img_id", "image_file", "filenames", "image_names", "fname", "name", "picture",
    ),
    "label": (
        "label", "labels", "class", "class_name", "classname", "category", "stage", "species",
        "type", "diagnosis", "target", "dx", "level", "grade", "cell_type", "celltype",
        "class_label", "label_name", "labelname", "finding", "cell_class", "class_id",
    ),
    "split": ("split", "set", "subset", "partition"),
    "middle_x": ("x_center", "x_centre", "center_x", "centre_x", "xc", "cx"),
    "middle_y": ("y_center", "y_centre", "center_y", "centre_y", "yc", "cy"),
    "left": ("xmin", "x_min", "left", "x1", "x"),
    "top": ("ymin", "y_min", "top", "y1", "y"),
    "right": ("xmax", "x_max", "right", "x2"),
    "bottom": ("ymax", "y_max", "bottom", "y2"),
    "box_width": ("w", "box_width", "bbox_width"),
    "box_height": ("h", "box_height", "bbox_height"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
}  # fmt: skip
BOX_SIDES = (
    "left", "top", "right", "bottom", "box_width", "box_height", "middle_x", "middle_y",
)  # fmt: skip
LABEL_HEAD = re.compile(  # parasite_type, cell_class
    r"(?!image|img|file|annotation|box).+_(label|class|category|type|stage|species|diagnosis)"
)
OTHER_BOXES = re.compile(
    r"box|region|polygon|segmentation|points|coord"
    r"|^((min|max)_?[rcxy]|[rc]_?(min|max)|row|col|column|radius)$",
    re.IGNORECASE,
)
ANSWERS = re.compile(r"submission|predict|(^|_)results?($|_)|sample_")
TRUE_OR_FALSE = {"0": False, "1": True, "0.0": False, "1.0": True}
TRUE_OR_FALSE |= {"false": False, "true": True, "": False}


class Table(NamedTuple):
    """The cells of a table as text: its heads, [] if it has none, and its rows."""

    heads: list[str]
    rows: list[list[str]]


def read_csv(folder):
    """CSV tables with a row an image or a box: image, label and x, y, w, h or corners, any order.

    The separator is a comma, semicolon or tab; a split column counts; the classes may be columns
    of 0 and 1. Boxes of which no side is above 1 are in fractions of the image.
    """
    for path in folder.files(".csv", ".tsv"):
        if ANSWERS.search(path.stem.lower()):
            folder.notes.append(f"{path.name} is taken for answers, not labels, and not read")
            continue
        with folder.noting_damage(path):
            rows = read_rows(folder, path)
            if rows:
                yield from annotate(folder, path, rows)


def annotate(folder, path, rows):
    """The annotations of the rows of one table; those of an image and a split are one."""
    in_fractions = rows_are_fractions(rows)
    by_image = {}
    for row in rows:
        splits = path_tags(row.get("split", "")) & set(SPLITS)
        split = min(splits, default=None)
        by_image.setdefault((row["image"], split), []).append(row)
    for (name, split), rows_of_image in by_image.items():
        with folder.noting_damage(path):
            frame = FRACTIONS if in_fractions else stated_frame(rows_of_image[0])
            cells = row_cells(folder, path, rows_of_image)
            yield folder.annotation(path, [name], cells, frame, split)


def read_rows(folder, path):
    """The rows of a table that are about images, as dicts by the meanings of COLUMNS.

    Empty, and the reason noted, if they tell of no image, or no label of any. Raises DataError if
    boxes or classes are in columns of another kind.
    """
    table = parse_table(folder, text_of(path))
    if not table.rows:
        folder.notes.append(f"{path.name} has no rows")
        return []
    meanings = column_meanings(folder, table)
    table = rows_of_images(table, meanings)
    rows = [meant_values(row, meanings) for row in table.rows]
    if not any(folder.has_image(row["image"]) for row in rows):
        folder.notes.append(f"{path.name} names none of the images, and is not read")
        return []
    check_columns(table, meanings)
    if not has_labels(rows):
        add_one_hot_labels(table, meanings, rows)
    if not has_labels(rows):
        heads = ", ".join(table.heads[:8])
        folder.notes.append(f"{path.name} has no column of labels among {heads}; call it label")
        return []
    return rows


def rows_of_images(table, meanings):
    """A Table without the rows that name no image; none of them does if no column can."""
    columns = [column for column, meaning in meanings.items() if meaning == "image"]
    return Table(table.heads, [row for row in table.rows if columns and row[columns[0]]])


def has_labels(rows):
    """Whether any row has a label, or several."""
    return any(row.get("label") or row.get("labels") for row in rows)


def meant_values(row, meanings):
    """{meaning: value} of the values of a row that have one."""
    return {meaning: row[column] for column, meaning in meanings.items()}


def parse_table(folder, text):
    """A Table of text; what separates its columns is what the first line has most of."""
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep="):  # Excel's, of what separates columns
        text = rest
        first = rest.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    rows = []
    for row in csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True):
        values = [value.strip() for value in row]
        if separator != ",":
            values = [with_decimal_point(value) for value in values]
        if any(values):
            rows.append(values)
    if not rows:
        return Table([], [])
    width = len(rows[0])
    rows = [row[:width] + [""] * (width - len(row)) for row in rows]
    if is_without_heads(folder, rows[0]):
        return Table([], rows)
    return Table(rows[0], rows[1:])


def plain_head(head):
    """The head of a column in lower case with _ between its words."""
    return re.sub(r"[\s\-]+", "_", head.strip().lower())


def with_decimal_point(value):
    """A number such as 0,25 with a point; any other text as it is."""
    return value.replace(",", ".") if re.fullmatch(r"-?\d+,\d+", value) else value


def is_without_heads(folder, row):
    """Whether the first row of a table names an image, and so has no heads of columns."""
    if {plain_head(value) for value in row} & set(COLUMNS["image"]):
        return False
    endings = {PurePosixPath(value.lower()).suffix for value in row}
    return bool(endings & IMAGE_ENDINGS) or any(map(folder.has_image, row))


def column_meanings(folder, table):
    """{number of a column: its meaning in COLUMNS}.

    Of several columns that can name the image it is the one whose names are those of most images,
    of others the first in COLUMNS.
    """
    if not table.heads:
        return meanings_without_heads(folder, table)
    heads = dict(enumerate(map(plain_head, table.heads)))  # those without a meaning so far
    meanings = {}
    for meaning in COLUMNS:
        fitting = fitting_columns(heads, meaning)
        if meaning == "image":
            fitting.sort(key=lambda column: -count_images(folder, table, column))
        for column in fitting[:1]:
            meanings[column] = meaning
            heads.pop(column)
    return meanings


def fitting_columns(heads, meaning):
    """The columns of {column: head} that can have a meaning, in the order of COLUMNS."""
    names = COLUMNS[meaning]
    fitting = [column for column, head in heads.items() if head in names]
    if meaning == "label" and not fitting:
        return [column for column, head in heads.items() if LABEL_HEAD.fullmatch(head)]
    return sorted(fitting, key=lambda column: names.index(heads[column]))


def meanings_without_heads(folder, table):
    """The meanings of columns without heads: image, label and split; of more, only the image's."""
    columns = set(range(len(table.rows[0])))
    image = max(columns, key=lambda column: count_images(folder, table, column))
    meanings = {image: "image"}
    for column in columns - {image}:
        values = {row[column] for row in table.rows}
        if all(path_tags(value) & set(SPLITS) for value in values):
            meanings[column] = "split"
    others = columns - set(meanings)
    if len(others) == 1:
        meanings[others.pop()] = "label"
    return meanings


def count_images(folder, table, column):
    """How many values of a column are names of images."""
    values = {row[column] for row in table.rows}
    return sum(map(folder.has_image, values))


def check_columns(table, meanings):
    """Raise DataError if a table has boxes in columns of another kind, or only points."""
    if not table.heads and len(meanings) < len(table.rows[0]):
        raise DataError("has no line of heads; add one, such as image,xmin,ymin,xmax,ymax,label")
    found = set(meanings.values()) & set(BOX_SIDES)
    for column, head in enumerate(table.heads):
        if column not in meanings and OTHER_BOXES.search(head) and not found:
            raise DataError(
                f"column {head} is not read; give columns x, y, w, h or xmin, ymin, xmax, ymax"
            )
    has_corners = {"left", "top", "right", "bottom"} <= found
    sizes = {"box_width", "box_height", "width", "height"} & set(meanings.values())
    if found and not has_corners and len(sizes) < 2:
        raise DataError("has points, not boxes; give columns x, y, w, h or xmin, ymin, xmax, ymax")


def add_one_hot_labels(table, meanings, rows):
    """Give rows the labels of the columns of 0 and 1 that have a 1, where these are two or more."""
    columns = []
    for column, head in enumerate(table.heads):
        if head and column not in meanings and is_one_hot(table, column):
            columns.append(column)
    if len(columns) < 2:
        return
    for row, values in zip(rows, table.rows, strict=True):
        ones = [column for column in columns if TRUE_OR_FALSE[values[column].lower()]]
        row["labels"] = [table.heads[column] for column in ones]


def is_one_hot(table, column):
    """Whether a column has only 0 and 1, or false and true."""
    values = {row[column].lower() for row in table.rows}
    return values <= TRUE_OR_FALSE.keys() and any(values)


def rows_are_fractions(rows):
    """Whether rows have boxes, and none of their sides is above 1."""
    sides = []
    for row in rows:
        sides += [row[side] for side in BOX_SIDES if row.get(side)]
    try:
        return bool(sides) and max(map(float, sides)) <= 1
    except ValueError:
        return False


def stated_frame(row):
    """(width, height) of the image that a row states, or None; without corners they are a box's."""
    if "right" in row or "box_width" in row:
        return stated_size(row.get("width"), row.get("height"))
    return None


def stated_size(width, height):
    """(width, height) as numbers, or None where they are not given, or not as sizes."""
    try:
        size = (float(width), float(height))
    except (TypeError, ValueError):
        return None
    return size if min(size) > 0 else None


def row_cells(folder, path, rows):
    """The (class, box) pairs of the rows of one image; a row without class or box has no cell.

    A row of several classes is a problem.
    """
    cells = []
    for row in rows:
        sides = [row[side] for side in BOX_SIDES if side in row]
        is_empty = bool(sides) and not any(sides)
        labels = row.get("labels") or [row.get("label")]
        if len(labels) > 1:
            folder.problem(path, f"{row['image']} is {' and '.join(labels)}; give it one class")
        elif labels[0] and not is_empty:
            cells.append((labels[0], row_box(row)))
    return cells


def row_box(row):
    """(x, y, w, h) of a row; None if it has no box, the image being the cell; () if it is bad."""
    if not set(BOX_SIDES) & set(row):
        return None
    numbers = {}
    for name in (*BOX_SIDES, "width", "height"):
        try:
            numbers[name] = float(row[name])
        except (KeyError, ValueError):
            continue
    width = numbers.get("box_width", numbers.get("width"))
    height = numbers.get("box_height", numbers.get("height"))
    if {"left", "top", "right", "bottom"} <= set(numbers):
        return corners(*(numbers[side] for side in ("left", "top", "right", "bottom")))
    if width is None or height is None:
        return ()
    if {"middle_x", "middle_y"} <= set(numbers):
        return numbers["middle_x"] - width / 2, numbers["middle_y"] - height / 2, width, height
    if {"left", "top"} <= set(numbers):
        return numbers["left"], numbers["top"], width, height
    return ()


def corners(left, top, right, bottom):
    """(x, y, w, h) of opposite corners."""
    return left, top, right - left, bottom - top


def read_jsonl(folder):
    """Hugging Face's metadata.jsonl: {file_name, label} or {file_name, objects: {bbox, ...}}."""
    for path in folder.files(".jsonl"):
        lines = []
        with folder.noting_damage(path):
            lines = text_of(path).splitlines()
        for line in lines:
            if line.strip():
                with folder.noting_damage(path):
                    item = json.loads(line)
                    yield folder.annotation(path, [item["file_name"]], jsonl_cells(item))


def jsonl_cells(item):
    """The (class, box) pairs of one line of a metadata.jsonl."""
    objects = item.get("objects")
    if objects is None:
        label = item.get("label", item.get("text"))
        return [] if label is None else [(label, None)]
    names = objects.get("categories", objects.get("category", objects.get("label")))
    return list(zip(names, objects["bbox"], strict=True))
