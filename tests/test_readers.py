"""Every data layout, written to disk as its makers do: what is read, into which split, and that crops show their cells.

Each cell is a disc in its class's colour, so the pixel in the middle of a crop tells whether image, box, axes, colour
order and label belong together.
"""
import json
import re
import types
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import rollNumber_05 as malaria

COLOURS = {"ring": (200, 40, 90), "trophozoite": (40, 90, 200), "schizont": (30, 160, 60), "gametocyte": (230, 190, 20),
           "red blood cell": (140, 80, 40), "leukocyte": (100, 30, 160), "difficult": (20, 20, 20)}  # RGB
PLAIN, RADIUS, WIDTH, HEIGHT = (235, 225, 240), 14, 240, 150
SPOTS = (40, 30), (120, 60), (200, 40), (70, 115), (160, 115)  # x, y

def paint(path, discs, size=(WIDTH, HEIGHT)):
    """Write an image with a disc of its class's colour, any spelling, at every (name, x, y)."""
    image = np.full((size[1], size[0], 3), PLAIN, np.uint8)
    for name, x, y in discs:
        colour = next(c for known, c in COLOURS.items() if known[:5] in name.lower())
        cv2.circle(image, (x, y), RADIUS, colour, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100] if "j" in path.suffix.lower() else [])

def smear(path, *names, shift=0):
    """Write a field with one cell a name; returns [(name, (x, y, w, h))]."""
    discs = [(name, x + shift, y) for name, (x, y) in zip(names, SPOTS)]
    paint(path, discs)
    return [(name, (x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS)) for name, x, y in discs]

def write(path, content):
    """Write text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))

def load(root, **flags):
    """The data set of a folder or zip, its cache beside it."""
    return malaria.load_data(malaria.Config(
        data_path=str(root), results_dir=str(root.parent / "results"), **{"image_size": 32, **flags}))

def tally(data):
    """{split: {class: cells}}, without what is not there."""
    return {s: {c: n for c, n in part["cells"].items() if n} for s, part in data.counts().items()}

def check_crops(data):
    """Every crop shows its class's colour in the middle and plain background in the corner."""
    for crop, label in zip(data.uint8(np.arange(len(data))).astype(int), data.labels.tolist()):
        assert np.abs(crop[16, 16] - COLOURS[data.classes[label]]).max() < 12, data.classes[label]
        assert np.abs(crop[0, 0] - PLAIN).max() < 12

def verify(data, layout, cells, skipped=0):
    """Layout, classes, skipped, cells (by split, or in all where splits are dealt), and every crop."""
    assert layout in data.index["layout"] and layout in data.table()
    assert data.index["skipped"] == skipped and f"skipped: {skipped}" in data.table()
    by_split = tally(data)
    total = {c: sum(part.get(c, 0) for part in by_split.values()) for c in data.classes}
    if "train" in cells:
        assert by_split == cells
    else:
        assert total == cells and all(part["images"] for part in data.counts().values())
    assert data.classes == [c for c in COLOURS if c in total] and len(data) == sum(total.values())
    check_crops(data)

# M5: Pascal-VOC XML

def write_voc(path, cells, filename="", disk=""):
    """A Pascal-VOC file of [(name, (x, y, w, h))]."""
    objects = "".join(f"<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax>"
                      f"<ymax>{y + h}</ymax></bndbox></object>" for name, (x, y, w, h) in cells)
    write(path, f"<annotation><filename>{filename}</filename><path>{disk}</path>{objects}</annotation>")

def write_m5(root, microscope, magnification, cell, shift, lists=False):
    """One microscope at one magnification: stems s0 to s3, with split folders or with split lists."""
    for split, stems in {"train": ["s0", "s1"], "val": ["s2"], "test": ["s3"]}.items():
        folder = root / "Annotations" / microscope / ("." if lists else split) / magnification
        for name in (f"{stem}_{magnification}" for stem in stems):
            cells = smear(root / "Images" / microscope / magnification / f"{name}.png", cell, shift=shift)
            write_voc(folder / f"{name}.xml", cells, f"{name}.png")
        if lists:
            write(root / "Annotations" / microscope / split / f"{split}.txt", "\n".join(stems) + "\n")

@pytest.mark.parametrize("lists", [False, True], ids=["split folders", "split lists"])
def test_m5_microscopes_magnifications_and_splits(tmp_path, lists):
    """The same stems at every microscope and magnification: each box finds the image of its own."""
    root = tmp_path / "M5"
    write_m5(root, "HCM", "1000x", "ring", 0, lists)
    write_m5(root, "HCM", "400x", "trophozoite", 20, lists)
    write_m5(root, "LCM", "1000x", "schizont", -20, lists)
    three = ["ring", "trophozoite", "schizont"]
    for flags, names in (({}, three[:1]), ({"magnification": "400x"}, three[1:2]), ({"microscope": "lcm"}, three[2:]),
                         ({"magnification": "all"}, three[:2]), ({"microscope": "both", "magnification": "all"}, three)):
        verify(load(root, **flags), "VOC", {s: dict.fromkeys(names, n) for s, n in (("train", 2), ("val", 1), ("test", 1))})

def test_m5_never_borrows_an_image(tmp_path):
    """An annotation whose image is missing is skipped, though the same stem is there at another magnification."""
    write_m5(tmp_path / "M5", "HCM", "1000x", "ring", 0)
    write_m5(tmp_path / "M5", "HCM", "400x", "trophozoite", 20)
    (tmp_path / "M5" / "Images" / "HCM" / "400x" / "s0_400x.png").unlink()
    both = {"ring": 1, "trophozoite": 1}
    verify(load(tmp_path / "M5", magnification="all"), "VOC",
           {"train": {"ring": 2, "trophozoite": 1}, "val": both, "test": both}, skipped=1)

@pytest.mark.parametrize("image, annotation, filename, disk", [
    ("Images/HCM/1000x/s{}_1000x.png", "Annotations/HCM/1000x/s{}.xml", "", ""),
    ("Images/HCM/1000x/s{}.png", "Annotations/HCM/1000x/s{}_1000x.xml", "", ""),
    ("Images/HCM/1000x/smear {}.png", "Annotations/HCM/1000x/smear{}_1000x.xml", "smear {}.jpg", r"D:\scans\smear {}.jpg"),
    ("Images/HCM/1000x/smear{}.png", "Annotations/HCM/1000x/00{}.xml", "smear {}.JPG", r"C:\M5 set\smear {}.JPG"),
    ("s{}.png", "s{}.xml", "elsewhere.png", "/home/someone/elsewhere.png")],
    ids=["no suffix in xml", "no suffix in image", "space and ending", "by filename alone", "beside the images"])
def test_voc_image_names(tmp_path, image, annotation, filename, disk):
    """An annotation finds its image however the two are named."""
    for i in range(3):
        cells = smear(tmp_path / "data" / image.format(i), "ring", "gametocyte", shift=10 * i)
        write_voc(tmp_path / "data" / annotation.format(i), cells, filename.format(i), disk.format(i))
    verify(load(tmp_path / "data"), "VOC", {"ring": 3, "gametocyte": 3})

def test_voc_class_spellings_and_bad_boxes(tmp_path):
    """Any case and spelling of a class; a box without area or outside the image is skipped and counted."""
    names = "Ring", "RING ", "trophozoites", "Schizonts", "P_vivax_gametocyte"
    for i in range(3):
        cells = smear(tmp_path / "data" / f"s{i}.png", *names)
        bad = [("ring", box) for box in ((60, 60, 0, 20), (60, 60, -9, 20), (60, 60, 20, -1), (WIDTH + 5, 5, 20, 20))]
        write_voc(tmp_path / "data" / f"s{i}.xml", cells + bad)
    verify(load(tmp_path / "data"), "VOC", {"ring": 6, "trophozoite": 3, "schizont": 3, "gametocyte": 3}, skipped=12)

# IML

def write_iml(root, fields, images="IML_Malaria", ending="JPG", numbers=str):
    """annotations.json and its images, of one tuple of class names a field."""
    content = []
    for i, names in enumerate(fields):
        cells = smear(root / images / f"PA{i:03d}.{ending}", *names, shift=i % 4)
        content.append({"image_name": f"PA{i:03d}.{ending}", "objects": [
            {"type": name, "bbox": dict(zip("xywh", map(numbers, box)))} for name, box in cells]})
    write(root / "annotations.json", content)
    return content

SPECIMEN = [("ring", "red blood cell", "difficult"), ("gametocyte", "red blood cell"), ("ring", "trophozoite"),
            ("red blood cell",)]

@pytest.mark.parametrize("numbers", [str, int, float])
def test_iml_reads_the_stages(tmp_path, numbers):
    """Numbers as strings or not; red blood cells and difficult cells only when asked for."""
    write_iml(tmp_path / "iml", SPECIMEN, numbers=numbers)
    verify(load(tmp_path / "iml"), "IML", {"ring": 2, "trophozoite": 1, "gametocyte": 1})
    verify(load(tmp_path / "iml", classes="Ring,RBC,difficult"), "IML", {"ring": 2, "red blood cell": 3, "difficult": 1})

def test_iml_boxes_at_and_past_the_border(tmp_path):
    """A box that touches or passes the border gives a square inside the image with the cell at its edge."""
    discs = [("ring", 5, 70), ("gametocyte", WIDTH - 5, 70), ("trophozoite", 120, 3), ("schizont", 120, HEIGHT - 1 - RADIUS)]
    for i in range(3):
        paint(tmp_path / "iml" / f"{i}.png", discs)
    boxes = [{"type": n, "bbox": {"x": x - RADIUS, "y": y - RADIUS, "w": 28, "h": 28}} for n, x, y in discs]
    write(tmp_path / "iml" / "annotations.json", [{"image_name": f"{i}.png", "objects": boxes} for i in range(3)])
    data = load(tmp_path / "iml")
    assert tally(data)["test"] == dict.fromkeys(malaria.STAGES, 1) and data.index["skipped"] == 0
    place = {"ring": (16, 5), "gametocyte": (16, 26), "trophozoite": (3, 16), "schizont": (17, 16)}  # row, column
    for crop, label in zip(data.uint8(np.arange(len(data))).astype(int), data.labels.tolist()):
        name = data.classes[label]
        assert np.abs(crop[place[name]] - COLOURS[name]).max() < 5

# BBBC041

def test_bbbc041(tmp_path):
    """test.json is the test split; val is dealt out of training.json; stages only, unless asked."""
    def item(stem, *names):
        objects = [{"bounding_box": {"minimum": {"r": y, "c": x}, "maximum": {"r": y + h, "c": x + w}}, "category": name}
                   for name, (x, y, w, h) in smear(tmp_path / "malaria" / "images" / f"{stem}.png", *names)]
        return {"image": {"checksum": "0", "pathname": f"/images/{stem}.png"}, "objects": objects}

    write(tmp_path / "malaria" / "training.json", [item(stem, "trophozoite", "red blood cell", "leukocyte") for stem in "abcd"])
    write(tmp_path / "malaria" / "test.json", [item(stem, "ring", "schizont", "red blood cell") for stem in "ef"])
    data = load(tmp_path / "malaria")
    assert tally(data)["test"] == {"ring": 2, "schizont": 2}
    assert set(tally(data)["train"]) == set(tally(data)["val"]) == {"trophozoite"}
    verify(data, "BBBC041", {"ring": 2, "trophozoite": 4, "schizont": 2})
    data = load(tmp_path / "malaria", classes="red blood cell,leukocyte")
    verify(data, "BBBC041", {"red blood cell": 6, "leukocyte": 4})
    assert tally(data)["test"] == {"red blood cell": 2}

# COCO

def write_coco(path, images, fields):
    """A COCO file and its images, of {file name: class names}."""
    names, content = ["parasites", "ring", "Gametocyte"], {"images": [], "annotations": []}
    for i, (file, cells) in enumerate(fields.items()):
        content["images"].append({"id": 7 + i, "file_name": file, "width": WIDTH, "height": HEIGHT})
        for name, box in smear(images / file, *cells, shift=i):
            content["annotations"].append({"id": len(content["annotations"]), "image_id": 7 + i, "bbox": box,
                                           "category_id": names.index(name), "area": box[2] * box[3], "iscrowd": 0})
    write(path, {"info": {}, **content, "categories": [{"id": i, "name": n} for i, n in enumerate(names)]})

def test_coco_beside_the_images(tmp_path):
    """Roboflow's export: _annotations.coco.json in train, valid and test; the same file name may be in each."""
    for split, n in (("train", 3), ("valid", 1), ("test", 2)):
        cells = ("ring", "Gametocyte") if split == "train" else ("Gametocyte", "ring", "ring")
        write_coco(tmp_path / "coco" / split / "_annotations.coco.json", tmp_path / "coco" / split,
                   {f"smear-{i}_png.rf.0a{i}.png": cells for i in range(n)})
    verify(load(tmp_path / "coco"), "COCO", {"train": {"ring": 3, "gametocyte": 3}, "val": {"ring": 2, "gametocyte": 1},
                                             "test": {"ring": 4, "gametocyte": 2}})

def test_coco_as_published(tmp_path):
    """instances_train2017.json and instances_val2017.json beside train2017/ and val2017/: test is dealt out of train."""
    for split, n in (("train", 4), ("val", 2)):
        write_coco(tmp_path / "coco" / "annotations" / f"instances_{split}2017.json", tmp_path / "coco" / f"{split}2017",
                   {f"{i:012d}.png": ["ring", "Gametocyte"][: 1 + (split == "val")] for i in range(n)})
    data = load(tmp_path / "coco")
    verify(data, "COCO", {"ring": 6, "gametocyte": 2})
    assert tally(data)["val"] == {"ring": 2, "gametocyte": 2} and tally(data)["test"]["ring"] >= 1

# YOLO

def yolo_line(index, box, polygon=False):
    """A label line: index, then centre and size, or corner points, in fractions of the image."""
    x, y, w, h = np.divide(box, (WIDTH, HEIGHT, WIDTH, HEIGHT))
    angles = np.arange(0, 2 * np.pi, np.pi / 4)
    points = np.stack([x + w / 2 + w / 2 * np.cos(angles), y + h / 2 + h / 2 * np.sin(angles)], 1).ravel()
    return " ".join(map(str, [index, *(points if polygon else (x + w / 2, y + h / 2, w, h))]))

@pytest.mark.parametrize("names", [
    {"data.yaml": "train: images/train\nnc: 2\nnames: [ring, Gametocyte]\n"},
    {"malaria.yml": "names:\n  0: ring\n  1: Gametocyte\n"},
    {"classes.txt": "ring\nGametocyte\n"}, {"labels/classes.txt": "ring\nGametocyte\n"}],
    ids=["yaml list", "yaml dict", "classes.txt", "classes.txt in labels"])
@pytest.mark.parametrize("pattern", ["images/{s}/{i}.png labels/{s}/{i}.txt", "{s}/images/{i}.png {s}/labels/{i}.txt"])
def test_yolo(tmp_path, names, pattern):
    """Boxes and polygons; the same stems in every split; an image without cells has an empty file."""
    for split, n in (("train", 2), ("valid", 1), ("test", 1)):
        for i in range(n):
            image, label = (tmp_path / "yolo" / p.format(s=split, i=i) for p in pattern.split())
            (_, a), (_, b) = smear(image, "ring", "gametocyte", shift={"train": 0, "valid": 9, "test": 18}[split])
            write(label, f"{yolo_line(0, a)}\n{yolo_line(1, b, polygon=True)}\n")
        smear(image.with_name("empty.png"))
        write(label.with_name("empty.txt"), "")
    for file, text in names.items():
        write(tmp_path / "yolo" / file, text)
    both = {"ring": 1, "gametocyte": 1}
    verify(load(tmp_path / "yolo"), "YOLO", {"train": {"ring": 2, "gametocyte": 2}, "val": both, "test": both})

# class folders

@pytest.mark.parametrize("pattern", ["{c}/{i}.png", "{s}/{c}/{i}.png", "{c}/{s}/{i}.png"])
def test_class_folders(tmp_path, pattern):
    """Whole images named by their folder; the same file name in two class folders stays two images."""
    for c in ("Rings", "gametocyte"):
        for i, s in enumerate(("train", "train", "val", "test", "test")):
            paint(tmp_path / "cells" / pattern.format(c=c, s=s, i=i), [(c, 18 + i, 15)], size=(40, 30))
    each = {s: {"ring": n, "gametocyte": n} for s, n in (("train", 2), ("val", 1), ("test", 2))}
    verify(load(tmp_path / "cells"), "class folders", each if "{s}" in pattern else {"ring": 5, "gametocyte": 5})

def test_split_folders_with_set_in_their_name(tmp_path):
    """TrainSet, test_data and valset are splits, above the class folders as below them."""
    for c in ("ring", "gametocyte"):
        for i, (s, below) in enumerate((("TrainSet", 0), ("test_data", 0), ("valset", 1))):
            paint(tmp_path / "cells" / (f"{c}/{s}/{i}.png" if below else f"{s}/{c}/{i}.png"), [(c, 18 + i, 15)], size=(40, 30))
    one = {"ring": 1, "gametocyte": 1}
    verify(load(tmp_path / "cells"), "class folders", {"train": one, "val": one, "test": one})

def test_copies_of_a_crop_count_once(tmp_path):
    """A tree that holds itself once more, as a public set does, gives no image twice; the same image in two classes stays."""
    for i in range(6):
        for c in ("ring", "gametocyte"):
            for above in ("cells", "cells/cells"):
                paint(tmp_path / above / c / f"{i}.png", [("ring" if i == 5 else c, 14 + i, 15)], size=(40, 30))
    data = load(tmp_path / "cells")
    assert data.index["layout"] == "class folders" and sum(map(len, tally(data).values())) >= 3
    assert data.labels.bincount().tolist() == [6, 6] and len(np.unique(data.uint8(range(12)).reshape(12, -1), axis=0)) == 11

def test_split_lists_that_name_folders(tmp_path):
    """Images numbered anew in each class folder: the folder in the line says which one it is."""
    where = {"train": (("ring", 0), ("ring", 1), ("gametocyte", 2)), "val": (("ring", 2), ("gametocyte", 0)),
             "test": (("gametocyte", 1),)}
    for split, images in where.items():
        write(tmp_path / "cells" / f"{split}.txt", "\n".join(f"cells/{c}/{i}.png" for c, i in images))
        for c, i in images:
            paint(tmp_path / "cells" / c / f"{i}.png", [(c, 18 + i, 15)], size=(40, 30))
    verify(load(tmp_path / "cells"), "class folders", {
        "train": {"ring": 2, "gametocyte": 1}, "val": {"ring": 1, "gametocyte": 1}, "test": {"gametocyte": 1}})

def test_an_image_in_two_files_is_one_field(tmp_path):
    """One JSON a class, and one image told of in both: its cells come together, a repeated one once, none in two splits."""
    for i in range(9):
        cells = smear(tmp_path / "data" / f"{i}.png", "ring", "gametocyte")
        for k, file in enumerate(("rings.json", "rest.json", "old.json")):
            told = [] if not (path := tmp_path / "data" / file).exists() else json.loads(path.read_text())
            told.append({"image_name": f"{i}.png", "objects": [
                {"type": t, "bbox": dict(zip("xywh", map(str, box)))} for t, box in cells[k % 2:k % 2 + 1]]})
            write(path, told)
    data = load(tmp_path / "data")
    verify(data, "IML", {"ring": 9, "gametocyte": 9})
    split = dict(zip(data.index["sources"], data.index["splits"]))
    assert all(split[n] == s for n, s in zip(data.index["sources"], data.index["splits"]))

# zip

def test_zip_reads_as_its_folder(tmp_path):
    """A zip of a data folder gives the same images and labels, with an outer folder or without one."""
    write_iml(tmp_path / "iml", SPECIMEN)
    expected = load(tmp_path / "iml")
    for outer in ("", "IML/"):
        with zipfile.ZipFile(tmp_path / "iml.zip", "w") as archive:
            for path in (tmp_path / "iml").rglob("*.*"):
                archive.write(path, outer + path.relative_to(tmp_path / "iml").as_posix())
        data = load(tmp_path / "iml.zip")
        verify(data, "IML", {"ring": 2, "trophozoite": 1, "gametocyte": 1})
        assert np.array_equal(data.uint8(np.arange(4)), expected.uint8(np.arange(4)))

# what all layouts share

def write_pairs(root, layout):
    """Folders a and b that hold images of the same name, each with a ring of its own place."""
    for shift, (folder, cell) in enumerate((("a", "ring"), ("b", "gametocyte"))):
        for i in range(3):
            cells = smear(root / "images" / folder / f"{i}.png", cell, shift=40 * shift)
            if layout == "VOC":
                write_voc(root / "xml" / folder / f"{i}.xml", cells)
            if layout == "YOLO":
                write(root / "labels" / folder / f"{i}.txt", yolo_line(shift, cells[0][1]))
    write(root / "classes.txt", "ring\ngametocyte\n")

@pytest.mark.parametrize("layout", ["VOC", "YOLO"])
def test_same_name_in_parallel_folders(tmp_path, layout):
    """Folder trees side by side whose file names repeat: every annotation finds the image of its own folder."""
    write_pairs(tmp_path / "data", layout)
    verify(load(tmp_path / "data"), layout, {"ring": 3, "gametocyte": 3})

def test_same_name_in_folders_of_a_coco_file(tmp_path):
    """file_name may carry a folder: 'a/0.png' and 'b/0.png' are two images."""
    cells = {"a": ["ring"], "b": ["ring", "Gametocyte"]}
    write_coco(tmp_path / "data" / "annotations.json", tmp_path / "data" / "images",
               {f"{folder}/{i}.png": cells[folder] for folder in cells for i in range(3)})
    verify(load(tmp_path / "data"), "COCO", {"ring": 6, "gametocyte": 3})
    data = load(tmp_path / "data", view="field")
    assert len(np.unique(data.uint8(np.arange(6)).reshape(6, -1), axis=0)) == 6

def test_same_stem_with_two_endings_in_a_class_folder(tmp_path):
    """1.png and 1.jpg in one class folder are two images."""
    for c in ("ring", "gametocyte"):
        for shift, name in enumerate(("1.png", "1.jpg", "2.png")):
            paint(tmp_path / "cells" / c / name, [(c, 15 + shift, 16)], size=(32, 32))
    data = load(tmp_path / "cells")
    verify(data, "class folders", {"ring": 3, "gametocyte": 3})
    assert len(np.unique(data.uint8(np.arange(6)).reshape(6, -1), axis=0)) == 6

@pytest.mark.parametrize("layout", ["VOC", "IML", "COCO"])
def test_damaged_annotation_among_good_ones(tmp_path, layout):
    """An annotation file that cannot be parsed is skipped, counted and named; the rest is read."""
    root = tmp_path / "data"
    if layout == "VOC":
        for i in range(3):
            write_voc(root / f"{i}.xml", smear(root / f"{i}.png", "ring"))
    if layout == "IML":
        write_iml(root, [("ring",)] * 3)
    if layout == "COCO":
        write_coco(root / "train" / "a.json", root / "train", {f"{i}.png": ["ring"] for i in range(3)})
    write(root / "broken.xml" if layout == "VOC" else root / "broken.json", "[{<annotation>")
    data = load(root)
    verify(data, layout, {"ring": 3}, skipped=1)
    assert "broken" in data.table()

@pytest.mark.parametrize("bad", [
    [30, 20, float("inf"), 9], [30, float("nan"), 9, 9], [30, 20, 9], [], None, ["26", "16", "28", "28"]],
    ids=["infinite", "nan", "three numbers", "empty", "null", "strings"])
def test_unusable_box_among_good_ones(tmp_path, bad):
    """A box that is not four finite numbers is skipped and counted (as strings it may also be read)."""
    write_coco(tmp_path / "data" / "coco.json", tmp_path / "data", {f"{i}.png": ["ring"] for i in range(5)})
    content = json.loads((tmp_path / "data" / "coco.json").read_text())
    content["annotations"][0]["bbox"] = bad
    write(tmp_path / "data" / "coco.json", content)
    data = load(tmp_path / "data")
    assert len(data) + data.index["skipped"] == 5 and len(data) >= 4
    check_crops(data)

@pytest.mark.parametrize("damage", ["cut.png", "cut.jpg", "text.png", "missing.jpg"])
def test_bad_image_among_good_ones(tmp_path, damage):
    """A file that ends too early, holds something else or is not there is skipped and counted."""
    kind, ending = damage.split(".")
    write_iml(tmp_path / "iml", [("ring",)] * 5, ending=ending)
    path = tmp_path / "iml" / "IML_Malaria" / f"PA002.{ending}"
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2] if kind == "cut" else b"not an image")
    if kind == "missing":
        path.unlink()
    data = load(tmp_path / "iml")
    assert len(data) == 4 and data.index["skipped"] == 1
    check_crops(data)

def test_second_load_comes_from_the_cache(tmp_path):
    """Nothing is written the second time; a changed annotation file is noticed."""
    content = write_iml(tmp_path / "iml", SPECIMEN)
    first = load(tmp_path / "iml")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("*")}
    again = load(tmp_path / "iml")
    assert stamps and stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("*")}
    assert np.array_equal(first.uint8(np.arange(4)), again.uint8(np.arange(4))) and first.index == again.index
    content[3]["objects"].append({"type": "schizont", "bbox": {"x": "1", "y": "1", "w": "20", "h": "20"}})
    write(tmp_path / "iml" / "annotations.json", content)
    assert load(tmp_path / "iml").classes == ["ring", "trophozoite", "schizont", "gametocyte"]

def test_field_view_is_multi_label(tmp_path):
    """--view field: whole images with a 0/1 label a class, fields without a stage too."""
    write_iml(tmp_path / "iml", SPECIMEN)
    data = load(tmp_path / "iml", view="field")
    assert data.classes == ["ring", "trophozoite", "gametocyte"] and data.labels.dtype.is_floating_point
    assert data.labels.tolist() == [[1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]] and data.uint8([0]).shape == (1, 32, 32, 3)

def test_grey(tmp_path):
    """--channels 1: the luma of every crop, in [-1, 1] when batched."""
    write_iml(tmp_path / "iml", SPECIMEN, ending="png")
    data = load(tmp_path / "iml", channels=1)
    crops = data.uint8(np.arange(len(data)))
    for crop, label in zip(crops, data.labels.tolist()):
        assert abs(crop[16, 16, 0] - np.dot(COLOURS[data.classes[label]], (0.299, 0.587, 0.114))) < 2
    images = data.batch(data.where)
    assert crops.shape == (4, 32, 32, 1) and images.shape == (4, 1, 32, 32) and -1 <= images.min() <= images.max() <= 1

@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "16-bit colour", "16-bit grey"])
def test_image_modes(tmp_path, mode):
    """Every PNG mode comes as uint8 RGB, or as grey when asked."""
    rgb = np.zeros((6, 9, 3), np.uint8) + np.uint8((250, 120, 10))
    rgb[:3] = 10, 200, 90
    if "L" == mode or "grey" in mode:
        rgb[:] = rgb[:, :, :1]
    if "16" in mode:
        wide = rgb.astype(np.uint16) * 257
        cv2.imwrite(str(tmp_path / "x.png"), wide[:, :, ::-1] if "colour" in mode else wide[:, :, 0])
    else:
        Image.fromarray(rgb).convert(mode, palette=Image.Palette.ADAPTIVE).save(tmp_path / "x.png")
    image = malaria.read_image(tmp_path / "x.png")
    assert image.dtype == np.uint8 and image.shape == rgb.shape and np.abs(image.astype(int) - rgb).max() <= 1
    grey = malaria.read_image(tmp_path / "x.png", channels=1)
    assert grey.shape == (6, 9, 1) and np.abs(grey[..., 0] - rgb @ (0.299, 0.587, 0.114)).max() <= 1.5

def test_read_image_refuses_other_files(tmp_path):
    """Text, an empty file, a folder and nothing at all are named in a UsageError."""
    write(tmp_path / "text.png", "not an image")
    write(tmp_path / "empty.png", "")
    for name in ("text.png", "empty.png", "missing.png", "."):
        with pytest.raises(malaria.UsageError, match=str(tmp_path / name)):
            malaria.read_image(tmp_path / name)

@pytest.mark.parametrize("box, corner, side", [
    ((40, 30, 10, 20), (34, 29), 22), ((90, 70, 20, 20), (78, 58), 22), ((-8, -8, 20, 20), (0, 0), 22),
    ((0, 35, 4, 10), (0, 35), 11), ((-50, -50, 400, 300), (10, 0), 80), ((50, 40, 0.5, 0.5), (50, 40), 1)])
def test_crop_is_a_square_inside_the_image(box, corner, side):
    """1.1 times the longer side, centred, and shifted rather than padded at the border."""
    y, x = np.mgrid[:80, :100]
    crop = malaria.crop_cell(np.stack([x, y, 0 * x], 2).astype(np.uint8), box, side).astype(int)
    assert crop.shape == (side, side, 3) and np.abs(crop[0, 0, :2] - corner).max() <= (60 if side == 80 else 1)
    assert (np.diff(crop[0, :, 0]) == 1).all() and (np.diff(crop[:, 0, 1]) == 1).all()

@pytest.mark.parametrize("box", [(10, 10, 0, 5), (10, 10, 5, -1), (100, 10, 5, 5), (10, -9, 5, 9)])
def test_crop_of_nothing(box):
    """A box without area in the image is refused."""
    with pytest.raises(ValueError):
        malaria.crop_cell(np.zeros((80, 100, 3), np.uint8), box, 32)

# splits

def dealt(n, classes=("ring", "gametocyte"), given=lambda i: None):
    """The splits that deal_splits gives to n fields in name order."""
    fields = [photograph(f"{i:03}.png", classes[i * i % len(classes)], given(i)) for i in range(n)]
    malaria.deal_splits(fields, list(classes))
    return [f.split for f in fields]

def photograph(path, cell, split=None):
    """A field of one cell."""
    return types.SimpleNamespace(path=Path(path), split=split, cells=[(cell, None)])

def test_splits_keep_neighbours_together():
    """Blocks of eight stay whole; val and test get about 15 % each; it is the same every time."""
    splits = dealt(160)
    assert all(len(set(splits[i:i + 8])) == 1 for i in range(0, 160, 8))
    assert all(0.1 <= splits.count(s) / 160 <= 0.2 for s in ("val", "test")) and splits == dealt(160)

def test_photographs_of_one_place_stay_together():
    """Both microscopes and every magnification of a place share a split, however they say so, and its neighbours' too."""
    names = ["HCM/100x/s{:03}_100x.png", "HCM/1000x/s{:03}.png", "LCM/s{:03}.jpg", "lcm_1000x/s{:03}_1000x.png",
             "hcm 400x/S{:03}400x.png"]
    fields = [photograph(name.format(i), "ring") for n, name in enumerate(names) for i in range(n % 2, 96, 1 + n % 2)]
    malaria.deal_splits(fields, ["ring"])
    by_place = {}
    for f in fields:
        by_place.setdefault(re.search(r"/[sS](\d{3})", str(f.path))[1], set()).add(f.split)
    assert [by_place[f"{i:03}"] for i in range(96)] == [{split} for split in dealt(96, ("ring",))]

@pytest.mark.parametrize("folder", ["", "test/"])
def test_a_place_has_the_split_given_to_one_photograph(folder):
    """A test list or folder that has one magnification holds for the others, though these are in neither."""
    told = [(m, i, m == "1000x" and i < 8) for m in ("100x", "1000x") for i in range(40)]
    fields = [photograph(f"{m}/{folder * test}s{i:03}_{m}.png", "ring", "test" if test else None) for m, i, test in told]
    malaria.deal_splits(fields, ["ring"])
    assert [f.split for f in fields[:8] + fields[40:48]] == ["test"] * 16
    assert {f.split for f in fields[8:40] + fields[48:]} == {"train", "val"}

def test_numbered_names_are_places_of_their_own():
    """train1, train2, ... are images, not one image's splits."""
    fields = [photograph(f"train{i}.png", "ring") for i in range(40)]
    malaria.deal_splits(fields, ["ring"])
    assert {f.split for f in fields} == set(malaria.SPLITS)

@pytest.mark.parametrize("n", [3, 4, 5, 7, 15, 29])
def test_no_split_stays_empty(n):
    """Every split gets an image, with three images too, and train most of them."""
    splits = dealt(n)
    assert set(splits) == {"train", "val", "test"} and splits.count("train") >= n / 3

@pytest.mark.parametrize("rest", ["train", None])
def test_given_splits_are_used(rest):
    """A given test split stays, whether the rest is called train or nothing; only val is dealt, out of the rest."""
    splits = dealt(20, given=lambda i: "test" if i % 2 else rest)
    assert all(s == "test" for s in splits[1::2]) and set(splits[::2]) == {"train", "val"}

@pytest.mark.parametrize("line", ["PA_{}", "PA_{}_1000x.jpg", "images/PA_{}.png", "PA_{} 1", "PA {}", "PA {}.jpg"])
def test_lines_of_split_lists(tmp_path, line):
    """Stems or file names, with a folder or a VOC flag after them, with spaces where the image's name has them."""
    lists = {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}
    for split, numbers in lists.items():
        write(tmp_path / "data" / "ImageSets" / f"{split}.txt", "\r\n".join(map(line.format, numbers)))
        for i in numbers:
            name = tmp_path / "data" / f"PA{' ' if 'PA ' in line else '_'}{i}.png"
            write_voc(name.with_suffix(".xml"), smear(name, "ring"))
    verify(load(tmp_path / "data"), "VOC", {split: {"ring": len(numbers)} for split, numbers in lists.items()})

# names

@pytest.mark.parametrize("spelling, name", [
    ("P_vivax Rings", "ring"), ("RING ", "ring"), ("YoungTrophozoite", "trophozoite"), ("late-trophs", "trophozoite"),
    ("SCHISONT", "schizont"), ("gametocytes.", "gametocyte"), ("RedBloodCell", "red blood cell"),
    ("Uninfected", "red blood cell"), ("Healthy RBC", "red blood cell"), ("Infected RBC", "infected rbc"),
    ("Parasitized red-blood-cells", "parasitized red blood cells"), ("cells, other", "cells other"),
    ("leucocyte", "leukocyte"), ("string", "string"), ("Babesia  Bovis", "babesia bovis")])
def test_canonical_class(spelling, name):
    """Known classes in any spelling; unknown ones in lower case."""
    assert malaria.canonical_class(spelling) == name

def test_classes_that_the_data_lacks():
    """Names that are not there are refused, for they may be misspelt, but not where a comma at the end allows it (test.py)."""
    assert malaria.choose_classes({"cat", "dog"}, "bird,cat,dog,") == ["bird", "cat", "dog"]
    for asked in ("bird,cat,dog", "bird,"):
        with pytest.raises(malaria.UsageError, match="cat, dog"):
            malaria.choose_classes({"cat", "dog"}, asked)

def test_stem_key():
    """Folders of either kind, case, spaces, ending and magnification do not count; other dots and numbers do."""
    same = ("Images/HCM/Smear 1_1000x.PNG", r"D:\M5\smear 1.jpg", "smear1-400x.xml", "SMEAR1", "smear1_100x")
    assert {malaria.stem_key(name) for name in same} == {malaria.stem_key("smear1.png")}
    assert len({malaria.stem_key(n) for n in ("a.rf.01.png", "a.rf.02.png", "a1000x1.png", "a.png", "a_1.png")}) == 5
