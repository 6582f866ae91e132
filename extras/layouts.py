"""Readers of other data sets' layouts; fields.py says what a reader is.

READERS find annotations; explain_unread says of layouts that are known and not read what to do.
"""

import csv
import io
import json
import math
import re

from extras.fields import FRACTIONS, DataError, text_of
from extras.paths import SPLIT_SPELLINGS


def read_bbbc041(folder):
    """BBBC041: [{image: {pathname}, objects: [{category, bounding_box: {minimum, maximum}}]}].

    minimum and maximum are {r, c}: row and column of opposite corners, in pixels.
    """
    for path, item in folder.json_items("image"):
        if not isinstance(item.get("image"), dict):
            continue  # CreateML has a name there
        with folder.noting_damage(path):
            cells = []
            for entry in item["objects"]:
                low = entry["bounding_box"]["minimum"]
                high = entry["bounding_box"]["maximum"]
                box = corners(low["c"], low["r"], high["c"], high["r"])
                cells.append((entry["category"], box))
            shape = item["image"].get("shape") or {}
            frame = (shape["c"], shape["r"]) if {"c", "r"} <= set(shape) else None
            yield folder.annotation(path, [item["image"]["pathname"]], cells, frame)


def corners(left, top, right, bottom):
    """(x, y, w, h) of opposite corners."""
    return left, top, right - left, bottom - top


def read_coco(folder):
    """COCO: {images, annotations: [{image_id, category_id, bbox: [x, y, w, h]}], categories}."""
    for path, content in folder.json_files:
        if not isinstance(content, dict):
            continue
        if not {"images", "annotations", "categories"} <= set(content):
            continue
        with folder.noting_damage(path):
            names = {category["id"]: category["name"] for category in content["categories"]}
            cells = {}
            for entry in content["annotations"]:
                cell = (names.get(entry["category_id"]), entry.get("bbox") or ())
                cells.setdefault(entry["image_id"], []).append(cell)
            for image in content["images"]:
                cells_of_image = cells.get(image["id"], [])
                frame = stated_size(image.get("width"), image.get("height"))
                yield folder.annotation(path, [image["file_name"]], cells_of_image, frame)


def stated_size(width, height):
    """(width, height) as numbers, or None where they are not given, or not as sizes."""
    try:
        size = (float(width), float(height))
    except (TypeError, ValueError):
        return None
    return size if min(size) > 0 else None


def read_labelme(folder):
    """LabelMe: {shapes: [{label, points: [[x, y], ...]}], imagePath, imageWidth, imageHeight}."""
    for path, content in folder.json_files:
        if not isinstance(content, dict) or not {"shapes", "imagePath"} <= set(content):
            continue
        with folder.noting_damage(path):
            cells = [(shape["label"], labelme_box(shape)) for shape in content["shapes"]]
            frame = stated_size(content.get("imageWidth"), content.get("imageHeight"))
            yield folder.annotation(path, [path.name, content["imagePath"]], cells, frame)


def labelme_box(shape):
    """(x, y, w, h) around the points of a shape; those of a circle are its middle and one on it."""
    points = shape["points"]
    if shape.get("shape_type") == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, 2 * radius, 2 * radius
    xs = [point[0] for point in points]
    ys = [point[1] for point in points]
    return corners(min(xs), min(ys), max(xs), max(ys))


def read_yolo(folder):
    """YOLO text, one file an image, each line a class index and a box or polygon in fractions."""
    if yolo_class_names(folder) is None:
        return
    for path in yolo_files(folder):
        with folder.noting_damage(path):
            names = yolo_class_names(folder, path)
            if names is None:
                raise ValueError("which of several files has its class names is not clear")
            cells = []
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip():
                    index, *numbers = line.split()
                    box = yolo_box([float(number) for number in numbers])
                    cells.append((names[int(index)], box))
            yield folder.annotation(path, [path.name], cells, FRACTIONS)


def yolo_files(folder):
    """The text files that are named as an image is, or that hold boxes."""
    files = folder.files(".txt")
    return [path for path in files if folder.has_image(path.name) or holds_boxes(path)]


def holds_boxes(path):
    """Whether the first line of a text file is a class index and at least four numbers."""
    with path.open(encoding="utf-8", errors="replace") as file:
        words = file.readline(10_000).split()
    return len(words) > 4 and all(is_number(word) for word in words)


def is_number(word):
    """Whether a word is a number as YOLO writes them."""
    return word.replace(".", "", 1).replace("e-", "", 1).isdigit()


def yolo_box(numbers):
    """(x, y, w, h) in fractions of centre x, centre y, w, h or of a polygon x, y, x, y, ..."""
    if len(numbers) > 5:
        xs = numbers[0::2]
        ys = numbers[1::2]
        return corners(min(xs), min(ys), max(xs), max(ys))
    x, y, w, h = numbers[:4]
    return x - w / 2, y - h / 2, w, h


def yolo_class_names(folder, label_file=None):
    """{index: class} of a YOLO set from data.yaml, classes.txt or the like, or None.

    label_file: for which the names in the nearest folder above it count; if there are none above,
    those that all files agree in.
    """
    found = {}  # folder: names
    for path in name_files(folder):
        with folder.noting_damage(path):
            names = parse_class_names(path)
            if names:
                found.setdefault(path.parent, names)
    if label_file is None:
        return next(iter(found.values()), None)
    for above in label_file.parents:
        if above in found:
            return found[above]
    all_agree = len({tuple(sorted(names.items())) for names in found.values()}) == 1
    return next(iter(found.values())) if all_agree else None


def name_files(folder):
    """The files that may tell a YOLO set's class names."""
    files = folder.files(".yaml", ".yml")
    return files + folder.files("classes.txt", ".names", "_darknet.labels")


def parse_class_names(path):
    """{index: class} in a YAML file under `names`, or in a text file, one a line."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if path.suffix.lower() not in (".yaml", ".yml"):
        names = [line.strip() for line in text.splitlines() if line.strip()]
        return dict(enumerate(names))
    import yaml

    names = (yaml.safe_load(text) or {}).get("names", [])
    if isinstance(names, dict):
        return {int(index): name for index, name in names.items()}
    if isinstance(names, list):
        return dict(enumerate(names))
    raise ValueError(f"names: {names} is neither a list nor a mapping")


# Tables: the first column whose head is one of these names has that meaning.
COLUMNS = {
    "image": (
        "image", "images", "filename", "file_name", "file", "image_name", "imagename", "img",
        "img_name", "image_path", "filepath", "path", "image_id", "id", "name",
    ),
    "label": (
        "label", "labels", "class", "class_name", "classname", "category", "stage", "species",
        "type", "diagnosis", "target",
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
OTHER_BOXES = re.compile(r"box|region|polygon|segmentation|points|coord", re.IGNORECASE)


ANSWERS = re.compile(r"submission|predict|(^|_)results?($|_)|sample_")


def read_csv(folder):
    """CSV tables with a row an image or a box: image, label and x, y, w, h or corners, any order.

    The separator is a comma, semicolon or tab; a split column counts. Boxes of which no side is
    above 1 are in fractions of the image.
    """
    for path in folder.files(".csv", ".tsv"):
        if ANSWERS.search(path.stem.lower()):
            folder.notes.append(f"{path.name} is taken for answers, not labels, and not read")
            continue
        with folder.noting_damage(path):
            rows = [row for row in read_rows(folder, path) if row.get("image")]
            if not count_images(folder, rows, "image"):
                folder.notes.append(f"{path.name} names none of the images, and is not read")
                continue
            in_fractions = are_fractions(rows)
            by_image = {}
            for row in rows:
                split = SPLIT_SPELLINGS.get(row.get("split", "").strip().lower())
                by_image.setdefault((row["image"], split), []).append(row)
            if not any(row.get("label") for row in rows):
                continue
            for (name, split), rows_of_image in by_image.items():
                first = rows_of_image[0]
                has_corners = "right" in first or "box_width" in first  # else they are the box's
                frame = None
                if in_fractions:
                    frame = FRACTIONS
                elif has_corners:
                    frame = stated_size(first.get("width"), first.get("height"))
                yield folder.annotation(path, [name], row_cells(rows_of_image), frame, split)


def are_fractions(rows):
    """Whether rows have boxes, and none of their sides is above 1."""
    sides = []
    for row in rows:
        sides += [row[side] for side in BOX_SIDES if row.get(side)]
    try:
        return bool(sides) and max(map(float, sides)) <= 1
    except ValueError:
        return False


def row_cells(rows):
    """The (class, box) pairs of the rows of one image; a row without class or box has no cell."""
    cells = []
    for row in rows:
        sides = [row[side] for side in BOX_SIDES if side in row]
        is_empty = bool(sides) and not any(sides)
        if row.get("label") and not is_empty:
            cells.append((row["label"], row_box(row)))
    return cells


def read_rows(folder, path):
    """The rows of a table as dicts by the meanings of COLUMNS.

    Of several columns that can name the image it is the one whose names are those of most images,
    of others the first in COLUMNS. Raises ValueError if boxes are in a column of another meaning.
    """
    text = text_of(path)
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=separator)
    rows = list(reader)
    meanings = {}
    for meaning, names in COLUMNS.items():
        columns = [column for column in reader.fieldnames or () if column not in meanings]
        fitting = [column for column in columns if column.strip().lower() in names]
        fitting.sort(key=lambda column: names.index(column.strip().lower()))
        if meaning == "image":
            fitting.sort(key=lambda column: -count_images(folder, rows, column))
        if fitting:
            meanings[fitting[0]] = meaning
    others = [column for column in reader.fieldnames or () if column not in meanings]
    for column in others:
        if OTHER_BOXES.search(column) and not set(BOX_SIDES) & set(meanings.values()):
            raise ValueError(
                f"column {column} is not read; give x, y, w, h or xmin, ymin, xmax, ymax"
            )
    return [rename_columns(row, meanings) for row in rows]


def count_images(folder, rows, column):
    """How many values of a column are names of images."""
    return sum(folder.has_image(row[column] or "") for row in rows)


def rename_columns(row, meanings):
    """The columns of a row that have a meaning, by it."""
    return {meanings[name]: value or "" for name, value in row.items() if name in meanings}


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


def read_jsonl(folder):
    """Hugging Face's metadata.jsonl: {file_name, label} or {file_name, objects: {bbox, ...}}."""
    for path in folder.files(".jsonl"):
        for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            if not line.strip():
                continue
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


READERS = {
    "BBBC041 JSON": read_bbbc041,
    "COCO JSON": read_coco,
    "LabelMe JSON": read_labelme,
    "Hugging Face metadata": read_jsonl,
    "CSV": read_csv,
    "YOLO text labels": read_yolo,
}


def read_unlabelled(folder):
    """Images without any labels, as for a gan: all are of one class, "image"."""
    for paths in folder.images.values():
        for path in paths:
            yield folder.annotation(path, [path.name], [("image", None)])


def explain_unread(folder):
    """Raise DataError for annotations of a known layout that is not read, with the mend."""
    for path, content in folder.json_files:
        kind = unread_json(content)
        if kind:
            raise DataError(f"{path}: {kind} is not read; export it as COCO JSON or Pascal VOC")
    for path in folder.files(".xml"):
        if b"<annotations>" in path.read_bytes()[:2000]:
            raise DataError(f"{path}: CVAT's XML is not read; export it as COCO or Pascal VOC")
    for path in folder.files(".csv"):
        if "region_shape_attributes" in text_of(path).partition("\n")[0]:
            raise DataError(
                f"{path}: VIA's table is not read; export it as COCO JSON or Pascal VOC"
            )
    if any(map(holds_boxes, yolo_files(folder))) and not yolo_class_names(folder):
        files = ", ".join(path.name for path in name_files(folder))
        without = f", which {files} does not tell" if files else ""
        raise DataError(
            f"YOLO labels without class names{without}; add a file classes.txt with a name a line"
        )


def unread_json(content):
    """The name of the layout of a JSON file that is known and not read, or None."""
    if isinstance(content, dict):
        if "_via_img_metadata" in content:
            return "VIA's JSON"
        entries = [entry for entry in content.values() if isinstance(entry, dict)]
        if any("regions" in entry for entry in entries):
            return "VIA's JSON"
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and {"image", "annotations"} <= set(first):
        return "CreateML's JSON"
    return None
