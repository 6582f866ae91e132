"""Readers of other data sets' layouts; fields.py says what a reader is.

READERS find annotations; explain_unread says of layouts that are known and not read what to do.
Those of tables are in tables.py.
"""

import math
import re

from extras.fields import text_of
from extras.links import shortened
from extras.paths import places
from extras.records import FRACTIONS, DataError
from extras.tables import corners, read_csv, read_jsonl, stated_size

MOST_BYTES_OF_NAMES = 2**20  # of a file that tells the names of classes
UNREAD_LISTS = {  # keys of the entries: whose JSON it is
    frozenset({"image", "annotations"}): "CreateML's JSON",
    frozenset({"image", "annotator"}): "Label Studio's JSON-MIN",
}
UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of a file


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


def json_objects(folder, *keys):
    """(path, content) of every JSON file that is an object with these keys."""
    for path, content in folder.json_files:
        if isinstance(content, dict) and set(keys) <= set(content):
            yield path, content


def read_coco(folder):
    """COCO: {images, annotations: [{image_id, category_id, bbox: [x, y, w, h]}], categories}.

    Where bbox lacks it is that of the polygons in segmentation.
    """
    for path, content in json_objects(folder, "images", "annotations", "categories"):
        with folder.noting_damage(path):
            names = coco_names(content["categories"])
            cells = {str(image["id"]): [] for image in content["images"]}
            for entry in content["annotations"]:
                category = str(entry["category_id"])
                if category not in names:
                    folder.problem(path, f"category {category} is not among its categories")
                elif str(entry["image_id"]) not in cells:
                    folder.problem(path, f"image {entry['image_id']} is not among its images")
                else:
                    cell = (names[category], coco_box(entry))
                    cells[str(entry["image_id"])].append(cell)
            for image in coco_images(folder, path, content["images"]):
                frame = stated_size(image.get("width"), image.get("height"))
                names_of_image = [image["file_name"]]
                yield folder.annotation(path, names_of_image, cells[str(image["id"])], frame)


def coco_names(categories):
    """{id as text: name} of COCO's categories. Raises DataError if an id has two names."""
    names = {}
    for category in categories:
        name = names.setdefault(str(category["id"]), category["name"])
        if name != category["name"]:
            raise DataError(f"category {category['id']} is both {name} and {category['name']}")
    return names


def coco_images(folder, path, images):
    """COCO's images but for those whose id is also another's: which one has the boxes is open."""
    names_by_id = {}
    for image in images:
        names_by_id.setdefault(str(image["id"]), set()).add(image["file_name"])
    for image in images:
        if len(names_by_id[str(image["id"])]) == 1:
            yield image
        else:
            folder.problem(path, f"{image['file_name']} has id {image['id']}, as another image has")


def coco_box(entry):
    """(x, y, w, h) of an entry of COCO: its bbox, or that of its polygons; () if it has neither."""
    if entry.get("bbox"):
        return entry["bbox"]
    polygons = entry.get("segmentation")
    if not isinstance(polygons, list) or not polygons:
        return ()
    numbers = [float(number) for polygon in polygons for number in polygon]
    return box_of_points(list(zip(numbers[0::2], numbers[1::2], strict=True)))


def box_of_points(points):
    """(x, y, w, h) around [(x, y), ...]."""
    xs = [point[0] for point in points]
    ys = [point[1] for point in points]
    return corners(min(xs), min(ys), max(xs), max(ys))


def read_labelme(folder):
    """LabelMe: {shapes: [{label, points: [[x, y], ...]}], imagePath, imageWidth, imageHeight}."""
    for path, content in json_objects(folder, "shapes", "imagePath"):
        with folder.noting_damage(path):
            cells = []
            for shape in content["shapes"]:
                if len(shape["points"]) > 1:
                    cells.append((shape["label"], labelme_box(shape)))
                else:
                    folder.problem(path, f"a point of {shape['label']} is no box; draw rectangles")
            frame = stated_size(content.get("imageWidth"), content.get("imageHeight"))
            yield folder.annotation(path, [path.name, content["imagePath"]], cells, frame)


def labelme_box(shape):
    """(x, y, w, h) around the points of a shape; those of a circle are its middle and one on it."""
    points = shape["points"]
    if shape.get("shape_type") == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, 2 * radius, 2 * radius
    return box_of_points(points)


def read_supervisely(folder):
    """Supervisely: {size, objects: [{classTitle, points: {exterior: [[x, y], ...]}}]}, an image."""
    for path, content in json_objects(folder, "objects", "size"):
        with folder.noting_damage(path):
            cells = []
            for entry in content["objects"]:
                if entry.get("geometryType") in ("rectangle", "polygon"):
                    box = box_of_points(entry["points"]["exterior"])
                    cells.append((entry["classTitle"], box))
                else:
                    folder.problem(
                        path, f"a {entry.get('geometryType')} is no box; draw rectangles"
                    )
            frame = stated_size(content["size"]["width"], content["size"]["height"])
            yield folder.annotation(path, [path.stem], cells, frame)


def read_label_studio(folder):
    """Label Studio: [{data: {image}, annotations: [{result: [{type, value}]}]}], in per cent.

    An image with several annotations that differ is a problem, as they are of several people.
    """
    for path, task in folder.json_items("data"):
        with folder.noting_damage(path):
            name = task["data"].get("image") or task["data"]["img"]
            file = str(name).replace("\\", "/").rpartition("/")[2]
            answers = [a for a in task["annotations"] if not a.get("was_cancelled")]
            for answer in answers:
                cells = []
                frames = [None]
                for result in answer["result"]:
                    cell, frame = label_studio_cell(result)
                    cells.append(cell)
                    frames.append(frame)
                names = [name, UPLOAD.sub("", file)]
                yield folder.annotation(path, names, cells, frames[-1])


def label_studio_cell(result):
    """((class, box or None), (width, height)) of a result of Label Studio.

    Raises DataError for what is neither a box, a polygon nor a choice.
    """
    kind = result["type"]
    value = result["value"]
    if kind == "choices" and len(value["choices"]) == 1:
        return (value["choices"][0], None), None
    width, height = result["original_width"], result["original_height"]
    if kind == "rectanglelabels" and not value.get("rotation"):
        x, y, w, h = (value[side] for side in ("x", "y", "width", "height"))
    elif kind == "polygonlabels":
        x, y, w, h = box_of_points(value["points"])
    else:
        raise DataError(f"{kind} that is turned, or no box, is not read; draw upright rectangles")
    box = (x * width / 100, y * height / 100, w * width / 100, h * height / 100)
    return (value[kind][0], box), (width, height)


def read_yolo(folder):
    """YOLO text, one file an image, each line a class index and a box or polygon in fractions."""
    names_by_folder = yolo_class_names(folder)
    if not names_by_folder:
        return
    lines_by_file = {}
    name_paths = set(name_files(folder))
    for path in yolo_files(folder):
        if path not in name_paths:
            with folder.noting_damage(path):
                lines_by_file[path] = list(yolo_lines(path))
    indices = {index for lines in lines_by_file.values() for index, _ in lines}
    for path, lines in lines_by_file.items():
        with folder.noting_damage(path):
            names = nearest_names(names_by_folder, path)
            check_indices(indices, names)
            cells = [(name_of(index, names), box) for index, box in lines]
            yield folder.annotation(path, [path.name], cells, FRACTIONS)


def yolo_lines(path):
    """(class index, box) of every line of a label file. Raises ValueError if one is damaged."""
    for line in text_of(path).splitlines():
        if line.strip():
            index, *numbers = line.split()
            box = yolo_box([float(number) for number in numbers])
            yield int(index), box


def check_indices(indices, names):
    """Raise DataError if the classes of a set count from 1: all of them would be another one."""
    if 0 not in indices and len(names) in indices and 0 in names and len(names) not in names:
        raise DataError("classes count from 1, names from 0; put a line before the first name")


def name_of(index, names):
    """The name of a class index. Raises DataError if it has none."""
    if index not in names:
        raise DataError(f"class {shortened(str(index))} is beyond the {len(names)} names")
    return names[index]


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
        return box_of_points(list(zip(numbers[0::2], numbers[1::2], strict=True)))
    if len(numbers) < 4:
        raise DataError("has points, not boxes; give a class, x, y, width and height a line")
    x, y, w, h = numbers[:4]
    return x - w / 2, y - h / 2, w, h


def yolo_class_names(folder):
    """{folder: {index: class}} of a YOLO set from data.yaml, classes.txt or the like.

    Where two files of a folder differ it is {}.
    """
    found = {}
    for path in name_files(folder):
        with folder.noting_damage(path):
            names = parse_class_names(path)
            if names and found.setdefault(path.parent, names) != names:
                found[path.parent] = {}
                raise DataError("other files of its folder name other classes; keep one")
    return found


def nearest_names(names_by_folder, label_file):
    """The class names in the nearest folder above a label file, or else those that all agree in.

    Raises DataError if there are none.
    """
    above = [parent for parent in label_file.parents if parent in names_by_folder]
    for parent in above[:1]:
        further = [other for other in above[1:] if not places(parent.relative_to(other).parts)]
        if any(names_by_folder[other] != names_by_folder[parent] for other in further):
            raise DataError("two files above it name other classes; keep one")
        return names_by_folder[parent]
    if len({tuple(sorted(names.items())) for names in names_by_folder.values()}) > 1:
        raise DataError("which of several files has its class names is not clear")
    return next(iter(names_by_folder.values()))


def name_files(folder):
    """The files that may tell a YOLO set's class names."""
    files = folder.files(".yaml", ".yml")
    return files + folder.files("classes.txt", ".names", "_darknet.labels")


def parse_class_names(path):
    """{index: class} in a YAML file under `names`, or in a text file, one a line."""
    if path.stat().st_size > MOST_BYTES_OF_NAMES:
        raise DataError("too large for a file of class names")
    text = text_of(path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        names = [line.strip() for line in text.splitlines() if line.strip()]
        return dict(enumerate(names))
    content = load_yaml(text)
    names = content.get("names", []) if isinstance(content, dict) else []
    if isinstance(names, dict):
        return {int(index): name for index, name in names.items()}
    if isinstance(names, list):
        return dict(enumerate(names))
    raise DataError(f"names: {shortened(str(names))} is neither a list nor a mapping")


def load_yaml(text):
    """The plain values of a YAML text. Raises DataError if it has aliases, which can grow large."""
    import yaml

    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.SafeLoader)):
        raise DataError("YAML with aliases is not read; write the names out")
    return yaml.safe_load(text)


READERS = {
    "BBBC041 JSON": read_bbbc041,
    "COCO JSON": read_coco,
    "LabelMe JSON": read_labelme,
    "Supervisely JSON": read_supervisely,
    "Label Studio JSON": read_label_studio,
    "Hugging Face metadata": read_jsonl,
    "CSV": read_csv,
    "YOLO text labels": read_yolo,
}


def read_unlabelled(folder):
    """Images without any labels, as for a gan: all are of one class, "image"."""
    for path in folder.image_files():
        yield folder.annotation(path, [path.name], [("image", None)])


def explain_unread(folder):
    """Raise DataError for annotations of a known layout that is not read, with the mend."""
    for path, content in folder.json_files:
        kind = unread_json(content)
        if kind:
            raise DataError(f"{path}: {kind} is not read; export it as COCO JSON or Pascal VOC")
    for path in folder.files(".xml"):
        if holds_text(path, b"<annotations>"):
            raise DataError(f"{path}: CVAT's XML is not read; export it as COCO or Pascal VOC")
    for path in folder.files(".csv"):
        if holds_text(path, b"region_shape_attributes"):
            raise DataError(
                f"{path}: VIA's table is not read; export it as COCO JSON or Pascal VOC"
            )
    explain_yolo_without_names(folder)


def holds_text(path, text):
    """Whether a text is in the beginning of a file."""
    with path.open("rb") as file:
        return text in file.read(2000)


def explain_yolo_without_names(folder):
    """Raise DataError if there are YOLO labels, but not the names of their classes."""
    if any(map(holds_boxes, yolo_files(folder))) and not yolo_class_names(folder):
        files = ", ".join(path.name for path in name_files(folder))
        without = f", which {files} does not tell" if files else ""
        raise DataError(
            f"YOLO labels without class names{without}; add a file classes.txt with a name a line"
        )


def unread_json(content):
    """The name of the layout of a JSON file that is known and not read, or None."""
    if isinstance(content, dict):
        return unread_json_object(content)
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict):
        for keys, name in UNREAD_LISTS.items():
            if keys <= set(first):
                return name
    return None


def unread_json_object(content):
    """The same of a JSON file that is an object."""
    if "_via_img_metadata" in content:
        return "VIA's JSON"
    if {"categories", "items"} <= set(content):
        return "Datumaro's JSON"
    entries = [entry for entry in content.values() if isinstance(entry, dict)]
    if any("regions" in entry for entry in entries):
        return "VIA's JSON"
    return None
