"""Write every data layout to disk as its makers do; every image is painted here.

Each cell is a disc in its class's colour, so that the pixel in the middle of a crop tells whether
image, box, axes, colour order and label belong together. `DATA_SETS` names complete small data
sets; nothing here is random, so a data set is the same every time it is written.
"""

import json
import math
import shutil
import zipfile

import cv2
import numpy as np
from PIL import Image

COLOURS = {  # RGB
    "ring": (200, 40, 90),
    "trophozoite": (40, 90, 200),
    "schizont": (30, 160, 60),
    "gametocyte": (230, 190, 20),
    "red blood cell": (140, 80, 40),
    "leukocyte": (100, 30, 160),
    "difficult": (20, 20, 20),
}
STAGES = ("ring", "trophozoite", "schizont", "gametocyte")
PLAIN = (235, 225, 240)  # the background, RGB
WIDTH = 240
HEIGHT = 150
RADIUS = 14  # of a disc, pixels
SPOTS = [(40, 30), (120, 60), (200, 40), (70, 115), (160, 115)]  # x, y of a field's cells

BAD_BOXES = [  # x, y, w, h: no width, negative width, negative height, outside the image
    (60, 60, 0, 20),
    (60, 60, -9, 20),
    (60, 60, 20, -1),
    (WIDTH + 5, 5, 20, 20),
]

# The class names of the cells of one field each.
SPECIMEN = [
    ("ring", "red blood cell", "difficult"),
    ("gametocyte", "red blood cell"),
    ("ring", "trophozoite"),
    ("red blood cell",),
]
MIXES = [
    ("ring", "red blood cell", "difficult"),
    ("gametocyte", "red blood cell"),
    ("ring", "trophozoite"),
    ("red blood cell",),
    ("gametocyte", "gametocyte", "ring", "red blood cell"),
    ("schizont", "leukocyte"),
    ("ring", "ring", "trophozoite", "red blood cell", "gametocyte"),
]
SPELLINGS = ["Ring", "RING ", "trophozoites", "Schizonts", "P_vivax_gametocyte"]


def mix(number):
    """Return the class names of field `number`, in an order without a period that splits share."""
    return MIXES[(number * number + number // 5) % len(MIXES)]


# Images and files


def colour_of(name):
    """Return the RGB colour of a class name in any spelling."""
    for known, colour in COLOURS.items():
        if known[:5] in name.lower():
            return colour
    raise KeyError(name)


def painted(discs, size=(WIDTH, HEIGHT)):
    """Return an image with a disc of its class's colour, any spelling, at every (name, x, y)."""
    width, height = size
    image = np.full((height, width, 3), PLAIN, np.uint8)
    for name, x, y in discs:
        cv2.circle(image, (x, y), RADIUS, colour_of(name), -1)
    return image


def paint(path, discs, size=(WIDTH, HEIGHT)):
    """Write an image with a disc of its class's colour, any spelling, at every (name, x, y)."""
    image = painted(discs, size)
    settings = []
    if path.suffix.lower() in (".jpg", ".jpeg"):
        settings = [cv2.IMWRITE_JPEG_QUALITY, 100]
    path.parent.mkdir(parents=True, exist_ok=True)
    blue_first = image[:, :, ::-1]
    assert cv2.imwrite(str(path), blue_first, settings)


def box_around(x, y):
    """Return the box (x, y, w, h) of the disc at x, y."""
    return (x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS)


def smear(path, *names, shift=0):
    """Write a field with one cell a name, `shift` pixels to the right.

    Returns [(name, (x, y, w, h))], the boxes in pixels.
    """
    discs = []
    cells = []
    for name, (x, y) in zip(names, SPOTS, strict=False):
        discs.append((name, x + shift, y))
        cells.append((name, box_around(x + shift, y)))
    paint(path, discs)
    return cells


CROP = (40, 30)  # width and height of a painted crop


def crop_discs(name, number):
    """Return the disc of a crop as [(name, x, y)], elsewhere for each of sixty numbers."""
    return [(name, 15 + number % 10, 12 + number // 10 % 6)]


def paint_crops(folder, name, count, start=0):
    """Write crops of a class, 000.png and so on, no two alike."""
    for number in range(start, start + count):
        paint(folder / f"{number:03d}.png", crop_discs(name, number), CROP)


TURNS = {  # EXIF orientation: what turns an upright image into the stored one
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
EXIF_ORIENTATION = 0x0112


def photograph(path, *names, orientation=6, shift=0):
    """Write a JPEG as of a phone held upright: stored lying, with its EXIF orientation.

    Returns [(name, (x, y, w, h))], the boxes in pixels of the upright image.
    """
    cells = smear(path, *names, shift=shift)
    with Image.open(path) as upright:
        stored = upright.transpose(TURNS[orientation])
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored.save(path, exif=exif, quality=100, subsampling=0)
    return cells


def write(path, content):
    """Write text as it is and anything else as JSON."""
    if not isinstance(content, str):
        content = json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def write_zip(path, folder, outer=""):
    """Write a zip of a folder's files, under the folder `outer`, such as "IML/", or without one."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, outer + file.relative_to(folder).as_posix())


# Pascal-VOC XML, as in M5


def voc_objects(cells):
    """Return the XML of [(name, (x, y, w, h))]."""
    objects = []
    for name, (x, y, w, h) in cells:
        edges = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
        objects.append(f"<object><name>{name}</name><bndbox>{edges}</bndbox></object>")
    return "".join(objects)


def write_voc(path, cells, filename="", disk="", size=None):
    """Write a Pascal-VOC file of [(name, (x, y, w, h))]; size: (width, height) that it states."""
    head = f"<filename>{filename}</filename><path>{disk}</path>"
    if size:
        width, height = size
        head += f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    write(path, f"<annotation>{head}{voc_objects(cells)}</annotation>")


def add_to_voc(path, cells):
    """Add [(name, (x, y, w, h))] to the end of a Pascal-VOC file."""
    text = path.read_text(encoding="utf-8")
    start = text.removesuffix("</annotation>")
    write(path, f"{start}{voc_objects(cells)}</annotation>")


def write_voc_fields(root, fields):
    """Write s00.png and s00.xml beside it, and so on, of one tuple of class names a field."""
    for number, names in enumerate(fields):
        cells = smear(root / f"s{number:02d}.png", *names, shift=number % 8)
        write_voc(root / f"s{number:02d}.xml", cells, f"s{number:02d}.png")


M5_SPLITS = {"train": ["s0", "s1"], "val": ["s2"], "test": ["s3"]}


def write_m5(root, microscope, magnification, name, shift=0, lists=False):
    """Write one microscope at one magnification, each field with one cell called `name`.

    The splits are folders of the annotations; with `lists` they are lists of stems.
    """
    for split, stems in M5_SPLITS.items():
        for stem in stems:
            write_m5_field(root, microscope, magnification, split, stem, [name], shift, lists)
        if lists:
            write_m5_list(root, microscope, split, stems)


def write_m5_field(root, microscope, magnification, split, stem, names, shift=0, lists=False):
    """Write the image and the annotation of one field; with `lists` no folder tells its split."""
    file = f"{stem}_{magnification}"
    cells = smear(root / "Images" / microscope / magnification / f"{file}.png", *names, shift=shift)
    folder = root / "Annotations" / microscope
    if not lists:
        folder = folder / split
    write_voc(folder / magnification / f"{file}.xml", cells, f"{file}.png")


def write_m5_list(root, microscope, split, stems):
    """Write the stems of one split, without magnification."""
    path = root / "Annotations" / microscope / split / f"{split}.txt"
    write(path, "\n".join(stems) + "\n")


M5_PARTS = [  # microscope, magnification, shift of its discs
    ("HCM", "1000x", 0),
    ("HCM", "400x", 5),
    ("LCM", "1000x", -5),
]
M5_STEMS = {
    "train": ["s00", "s01", "s02", "s05", "s06", "s09", "s10", "s11"],
    "val": ["s03", "s07"],
    "test": ["s04", "s08"],
}


def write_m5_parts(root, lists):
    """Write twelve fields a microscope and magnification; one has no image, two have a bad box."""
    for part, (microscope, magnification, shift) in enumerate(M5_PARTS):
        for split, stems in M5_STEMS.items():
            for stem in stems:
                names = mix(int(stem[1:]) + 2 * part)
                write_m5_field(root, microscope, magnification, split, stem, names, shift, lists)
            if lists:
                write_m5_list(root, microscope, split, stems)
    (root / "Images" / "HCM" / "400x" / "s02_400x.png").unlink()
    for microscope in ("HCM", "LCM"):
        folder = root / "Annotations" / microscope
        if not lists:
            folder = folder / "val"
        add_to_voc(folder / "1000x" / "s03_1000x.xml", [("ring", BAD_BOXES[0])])


def m5_split_folders(root):
    """Write M5 with the splits as folders of the annotations."""
    write_m5_parts(root, lists=False)


def m5_split_lists(root):
    """Write M5 with the splits as lists of stems."""
    write_m5_parts(root, lists=True)


def m5_published(root):
    """Write M5 as published: split folders for images too, lists in Splits, long names."""
    stems_by_split = {"train": [], "val": [], "test": []}
    for number in range(16):
        split = ("train", "train", "val", "train", "train", "test")[number % 6]
        stem = f"Malaria_CM1_21Jun2021101548_{number:04d}_127.9_10.{number}"
        stems_by_split[split].append(stem)
        for microscope, magnification in (("HCM", "1000x"), ("HCM", "100x"), ("LCM", "1000x")):
            file = f"{stem}_{magnification}"
            if microscope == "HCM" and number % 4 == 0:
                file = f"HCM_{file}"
            place = f"{microscope}/{split}/{magnification}/{file}"
            cells = smear(root / "Images" / f"{place}.png", *mix(number), shift=number % 8)
            write_voc(root / "Annotations" / f"{place}.xml", cells, f"{file}.png")
    for split, stems in stems_by_split.items():
        write(root / "Splits" / f"{split}.txt", "\n".join(stems) + "\n")


def voc_beside_images(root):
    """Write 40 fields with the XML beside the image, in many spellings, without splits.

    Two boxes are bad, and one image is missing.
    """
    fields = []
    for number in range(40):
        first = number * number % 5
        fields.append((SPELLINGS + SPELLINGS)[first : first + 1 + number % 3])
    write_voc_fields(root, fields)
    bad_cells = [("ring", box) for box in BAD_BOXES[2:]]
    add_to_voc(root / "s07.xml", bad_cells)
    (root / "s11.png").unlink()


def write_pairs(root, layout):
    """Write folders a and b that hold images of the same names, each with a cell of its own place.

    layout: "voc" or "yolo".
    """
    for index, (folder, name) in enumerate([("a", "ring"), ("b", "gametocyte")]):
        for number in range(3):
            image = root / "images" / folder / f"{number}.png"
            cells = smear(image, name, shift=40 * index)
            if layout == "voc":
                write_voc(root / "xml" / folder / f"{number}.xml", cells)
            if layout == "yolo":
                _, box = cells[0]
                write(root / "labels" / folder / f"{number}.txt", yolo_line(index, box))
    write(root / "classes.txt", "ring\ngametocyte\n")


def voc_parallel_folders(root):
    """Write folder trees side by side, with XML, whose file names repeat."""
    write_pairs(root, "voc")


# IML


def write_iml(root, fields, images="IML_Malaria", ending="JPG", numbers=str):
    """Write annotations.json and its images, of one tuple of class names a field.

    numbers: what makes a box's numbers what they are in the file. Returns the file's content.
    """
    content = []
    for number, names in enumerate(fields):
        file = f"PA{number:03d}.{ending}"
        cells = smear(root / images / file, *names, shift=number % 4)
        objects = [iml_object(name, box, numbers) for name, box in cells]
        content.append({"image_name": file, "objects": objects})
    write(root / "annotations.json", content)
    return content


def iml_object(name, box, numbers=str):
    """Return one object of an IML file."""
    values = [numbers(value) for value in box]
    return {"type": name, "bbox": dict(zip("xywh", values, strict=True))}


def iml(root):
    """Write 40 IML fields without splits; two boxes are bad, and one image is missing."""
    fields = [mix(number) for number in range(40)]
    content = write_iml(root, fields)
    for number, box in zip((4, 21), BAD_BOXES, strict=False):
        content[number]["objects"].append(iml_object("ring", box))
    write(root / "annotations.json", content)
    (root / "IML_Malaria" / "PA013.JPG").unlink()


def iml_two_files(root):
    """Write two files that tell of the same 9 images, one class each, and a copy of the first."""
    rings = []
    others = []
    for number in range(9):
        file = f"{number}.png"
        cells = smear(root / file, "ring", "gametocyte")
        rings.append({"image_name": file, "objects": [iml_object(*cells[0])]})
        others.append({"image_name": file, "objects": [iml_object(*cells[1])]})
    write(root / "rings.json", rings)
    write(root / "rest.json", others)
    write(root / "old.json", rings)


# BBBC041


def bbbc041_item(root, stem, names, shift=0):
    """Write one image of a BBBC041 set; returns its entry of training.json or test.json."""
    objects = []
    for name, box in smear(root / "images" / f"{stem}.png", *names, shift=shift):
        objects.append(bbbc041_object(name, box))
    image = {"checksum": "0", "pathname": f"/images/{stem}.png"}
    return {"image": image, "objects": objects}


def bbbc041_object(name, box):
    """Return one object of a BBBC041 file."""
    x, y, w, h = box
    corners = {"minimum": {"r": y, "c": x}, "maximum": {"r": y + h, "c": x + w}}
    return {"bounding_box": corners, "category": name}


def write_bbbc041(root, training, test):
    """Write training.json, test.json and the images, of {stem: class names} each."""
    for file, fields in (("training.json", training), ("test.json", test)):
        items = []
        for number, (stem, names) in enumerate(fields.items()):
            items.append(bbbc041_item(root, stem, names, shift=number % 8))
        write(root / file, items)


def bbbc041(root):
    """Write 32 training and 8 test images; one box is bad, and one image is missing."""
    training = {f"train-{number:02d}": mix(number) for number in range(32)}
    test = {f"test-{number:02d}": mix(number + 3) for number in range(8)}
    write_bbbc041(root, training, test)
    content = json.loads((root / "training.json").read_text(encoding="utf-8"))
    content[6]["objects"].append(bbbc041_object("gametocyte", BAD_BOXES[0]))
    write(root / "training.json", content)
    (root / "images" / "train-17.png").unlink()


# COCO

COCO_NAMES = ["parasites", "ring", "Gametocyte", "schizont"]


def write_coco(path, images, fields):
    """Write a COCO file, and its images into the folder `images`, of {file name: class names}."""
    entries = []
    annotations = []
    for number, (file, names) in enumerate(fields.items()):
        image_id = 7 + number
        entries.append({"id": image_id, "file_name": file, "width": WIDTH, "height": HEIGHT})
        for name, box in smear(images / file, *names, shift=number % 8):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": COCO_NAMES.index(name),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(COCO_NAMES)]
    content = {"info": {}, "images": entries, "annotations": annotations, "categories": categories}
    write(path, content)


def spoil_coco_boxes(path, boxes):
    """Put other values into the place of the first boxes of a COCO file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for annotation, box in zip(content["annotations"], boxes, strict=False):
        annotation["bbox"] = box
    write(path, content)


COCO_MIXES = [("ring", "Gametocyte"), ("Gametocyte",), ("ring", "ring", "schizont"), ("ring",)]


def coco_roboflow(root):
    """Write Roboflow's export: _annotations.coco.json beside the images of each split.

    The same file name may be in each split; three boxes are bad.
    """
    for split, count in (("train", 12), ("valid", 4), ("test", 5)):
        fields = {}
        for number in range(count):
            names = COCO_MIXES[(number + count) % len(COCO_MIXES)]
            fields[f"smear-{number}_png.rf.0a{number}.png"] = names
        write_coco(root / split / "_annotations.coco.json", root / split, fields)
    spoil_coco_boxes(root / "train" / "_annotations.coco.json", [[], None, [30, 20, 9]])


def coco_published(root):
    """Write instances_train2017.json and instances_val2017.json beside their image folders.

    There is no test split; one image is missing.
    """
    for split, count in (("train", 30), ("val", 6)):
        fields = {}
        for number in range(count):
            names = COCO_MIXES[number * number % len(COCO_MIXES)]
            fields[f"{number:012d}.png"] = names
        annotations = root / "annotations" / f"instances_{split}2017.json"
        write_coco(annotations, root / f"{split}2017", fields)
    (root / "train2017" / f"{9:012d}.png").unlink()


# YOLO

YOLO_NAMES = ["ring", "Gametocyte", "schizont"]
YOLO_MIXES = [("ring", "Gametocyte"), ("Gametocyte",), ("ring", "schizont", "ring"), ()]


def yolo_line(index, box, polygon=False):
    """Return a label line: index, then centre and size, or corner points, in fractions."""
    x, y, w, h = box
    centre_x = (x + w / 2) / WIDTH
    centre_y = (y + h / 2) / HEIGHT
    if polygon:
        values = []
        for step in range(8):
            angle = step * math.pi / 4
            values.append(centre_x + w / WIDTH / 2 * math.cos(angle))
            values.append(centre_y + h / HEIGHT / 2 * math.sin(angle))
    else:
        values = [centre_x, centre_y, w / WIDTH, h / HEIGHT]
    words = [f"{value:.6f}" for value in values]
    return " ".join([str(index), *words])


def write_yolo(image, label, names, shift=0, polygons=False):
    """Write one image and its label file; with `polygons` every second cell is outlined."""
    lines = []
    for number, (name, box) in enumerate(smear(image, *names, shift=shift)):
        outlined = polygons and number % 2 == 1
        lines.append(yolo_line(YOLO_NAMES.index(name), box, outlined))
    write(label, "".join(f"{line}\n" for line in lines))


def yolo_yaml(root):
    """Write images/SPLIT and labels/SPLIT with data.yaml; the same stems are in every split.

    One box is bad, and one label file has its image in another split only.
    """
    for split, count in (("train", 10), ("valid", 4), ("test", 4)):
        for number in range(count):
            names = YOLO_MIXES[(number + count) % len(YOLO_MIXES)]
            image = root / "images" / split / f"{number}.png"
            label = root / "labels" / split / f"{number}.txt"
            write_yolo(image, label, names, shift=number % 8)
    write(root / "data.yaml", f"train: images/train\nnc: 3\nnames: [{', '.join(YOLO_NAMES)}]\n")
    bad_line = yolo_line(0, BAD_BOXES[0])
    label = root / "labels" / "train" / "4.txt"
    write(label, label.read_text(encoding="utf-8") + bad_line + "\n")
    (root / "images" / "train" / "2.png").unlink()


def yolo_classes_txt(root):
    """Write 40 images with polygons too, classes.txt and no splits; two label files are damaged."""
    for number in range(40):
        names = YOLO_MIXES[number * number % 7 % len(YOLO_MIXES)]
        image = root / "images" / f"{number:02d}.png"
        label = root / "labels" / f"{number:02d}.txt"
        write_yolo(image, label, names, shift=number % 8, polygons=True)
    write(root / "classes.txt", "\n".join(YOLO_NAMES) + "\n")
    write(root / "labels" / "12.txt", "0 0.5 half 0.1 0.1\n")
    write(root / "labels" / "25.txt", "9 0.5 0.5 0.1 0.1\n")


def yolo_parallel_folders(root):
    """Write folder trees side by side, with YOLO labels, whose file names repeat."""
    write_pairs(root, "yolo")


# One image in a file of its own, in several formats


def annotate_in_voc(path, image, cells, size):
    """Write a Pascal-VOC file of [(name, (x, y, w, h))] in an image of that name and size."""
    write_voc(path.with_suffix(".xml"), cells, image, size=size)


def annotate_in_coco(path, image, cells, size):
    """Write a COCO file of [(name, (x, y, w, h))] in an image of that name and size."""
    names = sorted({name for name, _ in cells})
    annotations = []
    for name, box in cells:
        annotations.append({"image_id": 1, "category_id": names.index(name), "bbox": box})
    width, height = size
    content = {
        "images": [{"id": 1, "file_name": image, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
    }
    write(path.with_suffix(".json"), content)


def annotate_in_labelme(path, image, cells, size):
    """Write a LabelMe file of [(name, (x, y, w, h))] in an image of that name and size."""
    shapes = []
    for name, (x, y, w, h) in cells:
        points = [[x, y], [x + w, y + h]]
        shapes.append({"label": name, "points": points, "shape_type": "rectangle"})
    width, height = size
    content = {"version": "5.4.1", "shapes": shapes, "imagePath": image, "imageData": None}
    write(path.with_suffix(".json"), content | {"imageWidth": width, "imageHeight": height})


def annotate_in_csv(path, image, cells, size):
    """Write a table of [(name, (x, y, w, h))] in an image of that name and size."""
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for name, (x, y, w, h) in cells:
        values = (image, *size, name, x, y, x + w, y + h)
        lines.append(",".join(map(str, values)))
    write(path.with_suffix(".csv"), "\n".join(lines) + "\n")


COLUMNS = {  # head: what is in that column
    **dict.fromkeys(["filename", "file_name", "image"], "name"),
    **dict.fromkeys(["id", "image_id"], "stem"),
    **dict.fromkeys(["image_path", "filepath"], "path"),
    **dict.fromkeys(["label", "class", "category", "diagnosis"], "label"),
    **dict.fromkeys(["x", "xmin", "x1"], "left"),
    **dict.fromkeys(["y", "ymin", "y1"], "top"),
    **dict.fromkeys(["xmax", "x2"], "right"),
    **dict.fromkeys(["ymax", "y2"], "bottom"),
    **dict.fromkeys(["w", "width"], "width"),
    **dict.fromkeys(["h", "height"], "height"),
    **dict.fromkeys(["split", "set", "subset"], "split"),
    "bbox": "box",
    "x_center": "centre_x",
    "y_center": "centre_y",
}


def table_values(image, label, box=None, split=""):
    """Return what may be in the columns of a row; image: its path; box: x, y, w, h."""
    values = {"name": image.name, "stem": image.stem, "path": image.as_posix()}
    values |= {"label": label, "split": split}
    if box:
        x, y, w, h = box
        values |= {"left": x, "top": y, "right": x + w, "bottom": y + h, "width": w, "height": h}
    return values


def table(heads, rows, separator=","):
    """Return the text of a table of [table_values]; heads: the columns by commas."""
    lines = [heads.replace(",", separator)]
    for row in rows:
        values = [str(row[COLUMNS[head.lower()]]) for head in heads.split(",")]
        lines.append(separator.join(values))
    return "\n".join(lines) + "\n"


def annotate_in_iml(path, image, cells, size):
    """Write an IML file of [(name, (x, y, w, h))] in an image of that name; it states no size."""
    objects = [iml_object(name, box) for name, box in cells]
    write(path.with_suffix(".json"), [{"image_name": image, "objects": objects}])


def annotate_in_yolo(path, image, cells, size):
    """Write a YOLO file of [(name, (x, y, w, h))], indices of STAGES; it names no image."""
    lines = [yolo_line(STAGES.index(name), box) for name, box in cells]
    write(path.with_suffix(".txt"), "\n".join(lines) + "\n")


ANNOTATORS_WITH_SIZE = {
    "VOC": annotate_in_voc,
    "COCO": annotate_in_coco,
    "LabelMe": annotate_in_labelme,
    "CSV": annotate_in_csv,
}
ANNOTATORS = {
    **ANNOTATORS_WITH_SIZE,
    "IML": annotate_in_iml,
    "YOLO": annotate_in_yolo,
}


# class folders


def write_class_folders(root, pattern, folders, splits):
    """Write whole images named by their folder, one a name in `splits` and class folder.

    pattern: where an image goes, such as "{split}/{folder}/{number}.png".
    """
    for folder in folders:
        for number, split in enumerate(splits):
            path = root / pattern.format(folder=folder, split=split, number=number)
            paint(path, [(folder, 13 + number, 15)], size=(40, 30))


def class_folders(root):
    """Write 44 images in four class folders without splits.

    The file names repeat in every folder; the tree holds a part of itself once more, as a public
    set does; one image cannot be read.
    """
    folders = ["Rings", "gametocyte", "Trophozoites", "red blood cells"]
    write_class_folders(root, "{folder}/{number}.png", folders, ["none"] * 11)
    for folder in folders[:2]:
        (root / "cells" / folder).mkdir(parents=True)
        for number in range(3):
            name = f"{number}.png"
            shutil.copyfile(root / folder / name, root / "cells" / folder / name)
    write(root / "gametocyte" / "5.png", "not an image")


def class_folders_in_splits(root):
    """Write class folders with split folders above and below them; one image cannot be read."""
    folders = ["ring", "gametocyte", "Schizonts"]
    above = "{split}/{folder}/{number}.png"
    below = "{folder}/{split}/{number}.png"
    write_class_folders(root, above, folders, ["TrainSet"] * 5 + ["test_data"] * 2)
    write_class_folders(root, below, folders, ["valset"] * 2)
    write(root / "TrainSet" / "ring" / "3.png", "not an image")


def class_folders_listed(root):
    """Write class folders that number their images anew; lists name folder and image."""
    lines_by_split = {"train": [], "val": [], "test": []}
    for number in range(6):
        for index, folder in enumerate(["ring", "gametocyte"]):
            split = ("train", "val", "test", "train")[(number + index) % 4]
            lines_by_split[split].append(f"cells/{folder}/{number}.png")
            path = root / folder / f"{number}.png"
            paint(path, [(folder, 14 + number, 15)], size=(40, 30))
    for split, lines in lines_by_split.items():
        write(root / f"{split}.txt", "\n".join(lines))


DATA_SETS = {
    "m5_split_folders": m5_split_folders,
    "m5_split_lists": m5_split_lists,
    "m5_published": m5_published,
    "voc_beside_images": voc_beside_images,
    "voc_parallel_folders": voc_parallel_folders,
    "iml": iml,
    "iml_two_files": iml_two_files,
    "bbbc041": bbbc041,
    "coco_roboflow": coco_roboflow,
    "coco_published": coco_published,
    "yolo_yaml": yolo_yaml,
    "yolo_classes_txt": yolo_classes_txt,
    "yolo_parallel_folders": yolo_parallel_folders,
    "class_folders": class_folders,
    "class_folders_in_splits": class_folders_in_splits,
    "class_folders_listed": class_folders_listed,
}


# What a dataset read from them has


def cells_by_split(data):
    """{split: {class: cells}}, without classes that a split has none of."""
    cells = {}
    for split, part in data.counts().items():
        cells[split] = {name: number for name, number in part["cells"].items() if number}
    return cells


def cells_in_all(data):
    """{class: cells} of all splits together."""
    numbers = data.multi_hot().sum(0).int().tolist()
    return dict(zip(data.classes, numbers, strict=True))


def assert_crops_show_their_cells(data):
    """Assert that every crop has its class's colour in the middle, plain background in a corner."""
    for crop, label in zip(data.uint8().astype(int), data.labels.tolist(), strict=True):
        name = data.classes[label]
        assert np.abs(crop[16, 16] - COLOURS[name]).max() < 12, name
        assert np.abs(crop[0, 0] - PLAIN).max() < 12, name
