"""Readers of other data sets' layouts: BBBC041, COCO and YOLO; fields.py says what a reader is."""

import numpy as np


def read_bbbc041(folder):
    """BBBC041: [{image: {pathname}, objects: [{category, bounding_box: {minimum, maximum}}]}].

    minimum and maximum are {r, c}: row and column of opposite corners, in pixels.
    """
    for path, item in folder.json_items("image"):
        with folder.noting_damage(path):
            cells = []
            for entry in item["objects"]:
                low = entry["bounding_box"]["minimum"]
                high = entry["bounding_box"]["maximum"]
                box = (low["c"], low["r"], high["c"] - low["c"], high["r"] - low["r"])
                cells.append((entry["category"], box))
            yield folder.annotation(path, [item["image"]["pathname"]], cells)


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
                cell = (names.get(entry["category_id"]), entry.get("bbox") or (0, 0, 0, 0))
                cells.setdefault(entry["image_id"], []).append(cell)
            for image in content["images"]:
                yield folder.annotation(path, [image["file_name"]], cells.get(image["id"], []))


def read_yolo(folder):
    """YOLO text, one file an image, each line a class index and a box or polygon in fractions."""
    names = yolo_class_names(folder)
    if names is None:
        return
    for path in folder.files(".txt"):
        if not folder.has_image(path.name):
            continue
        with folder.noting_damage(path):
            cells = []
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip():
                    index, *numbers = line.split()
                    cells.append((names[int(index)], yolo_box(np.array(numbers, float))))
            yield folder.annotation(path, [path.name], cells, relative=True)


def yolo_box(numbers):
    """(x, y, w, h) in fractions of centre x, centre y, w, h or of a polygon x, y, x, y, ..."""
    if len(numbers) > 5:
        xs = numbers[0::2]
        ys = numbers[1::2]
        box = (xs.min(), ys.min(), xs.max() - xs.min(), ys.max() - ys.min())
    else:
        x, y, w, h = numbers[:4]
        box = (x - w / 2, y - h / 2, w, h)
    return [float(number) for number in box]


def yolo_class_names(folder):
    """{index: class} of a YOLO set from data.yaml, classes.txt or the like, or None."""
    files = folder.files(".yaml", ".yml")
    files += folder.files("classes.txt", ".names", "_darknet.labels")
    for path in files:
        with folder.noting_damage(path):
            names = parse_class_names(path)
            if names:
                return names
    return None


def parse_class_names(path):
    """{index: class} in a YAML file under `names`, or in a text file, one a line."""
    text = path.read_text(encoding="utf-8", errors="replace")
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


READERS = {"BBBC041 JSON": read_bbbc041, "COCO JSON": read_coco, "YOLO text labels": read_yolo}
