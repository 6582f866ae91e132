"""Every data layout, as its makers write it: what is read, into which split, and what crops show.

A cell is a disc in its class's colour, so the pixel in the middle of a crop tells whether image,
box, axes, colour order and label belong together.
"""

from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest
import torch
from layouts import assert_crops_show_their_cells, cells_by_split, cells_in_all
from PIL import Image

from extras import classes, crops
from extras.fields import merge_fields, stem_key
from extras.records import Cell, DataError, Field
from extras.splits import deal_splits

SPLITS = ("train", "val", "test")
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue


@pytest.fixture
def root(tmp_path):
    """The data folder of a test; its cache goes beside it."""
    return tmp_path / "data"


def distinct_images(data):
    """How many images of a dataset differ from each other."""
    return len(np.unique(data.uint8().reshape(len(data), -1), axis=0))


def photograph(path, label="ring", split=None):
    """A field of one cell."""
    return Field(Path(path), [Cell(label, None)], split, set())


# What all layouts share


@pytest.mark.parametrize("writer", layouts.DATA_SETS.values(), ids=layouts.DATA_SETS)
def test_every_crop_shows_its_cell(root, writer, load):
    """Image, box, axes, colour order and label belong together in every layout."""
    writer(root)
    assert_crops_show_their_cells(load(root))


@pytest.mark.parametrize("writer", layouts.DATA_SETS.values(), ids=layouts.DATA_SETS)
def test_every_split_has_images(root, writer, load):
    """Given or dealt, no split is empty."""
    writer(root)
    images = load(root).index.image_counts
    assert all(images[split] for split in SPLITS)


def test_table(root, load):
    """The text of --task data tells layout, skipped annotations, and the cells of each split."""
    layouts.bbbc041(root)
    data = load(root)
    lines = data.table().splitlines()
    assert lines[0] == "layout: BBBC041 JSON, skipped: 2"
    assert lines[-5].split() == ["split", "images", "cells", *data.classes]
    assert lines[-1].split()[:3] == ["total", "39", "71"]


def test_stages_come_in_the_order_of_a_life(root, load):
    """The classes are in the order of the stages, whatever order the cells have."""
    layouts.write_iml(root, [("gametocyte", "schizont", "trophozoite", "ring")] * 3)
    assert load(root).classes == list(classes.STAGES)


# M5: Pascal-VOC XML

M5_READ = [  # flags, and the classes that they let in
    ({}, ["ring"]),
    ({"magnification": "400x"}, ["trophozoite"]),
    ({"microscope": "lcm"}, ["schizont"]),
    ({"magnification": "all"}, ["ring", "trophozoite"]),
    ({"microscope": "both", "magnification": "all"}, ["ring", "trophozoite", "schizont"]),
]


@pytest.mark.parametrize("lists", [False, True], ids=["split folders", "split lists"])
@pytest.mark.parametrize("flags, classes", M5_READ)
def test_m5_microscopes_magnifications_and_splits(root, flags, classes, lists, load):
    """The same stems at every microscope and magnification: each box finds the image of its own."""
    layouts.write_m5(root, "HCM", "1000x", "ring", 0, lists)
    layouts.write_m5(root, "HCM", "400x", "trophozoite", 20, lists)
    layouts.write_m5(root, "LCM", "1000x", "schizont", -20, lists)
    data = load(root, **flags)
    assert data.index.layout == "Pascal-VOC XML"
    assert cells_by_split(data) == {
        "train": dict.fromkeys(classes, 2),
        "val": dict.fromkeys(classes, 1),
        "test": dict.fromkeys(classes, 1),
    }
    assert_crops_show_their_cells(data)


def test_m5_never_borrows_an_image(root, load):
    """An annotation without image is skipped, though another magnification has the same stem."""
    layouts.write_m5(root, "HCM", "1000x", "ring", 0)
    layouts.write_m5(root, "HCM", "400x", "trophozoite", 20)
    (root / "Images" / "HCM" / "400x" / "s0_400x.png").unlink()
    data = load(root, magnification="all")
    assert data.index.skipped == 1
    assert cells_by_split(data)["train"] == {"ring": 2, "trophozoite": 1}
    assert_crops_show_their_cells(data)


VOC_NAMES = {  # image, annotation, and what the XML has as filename and path
    "no suffix in xml": ("Images/HCM/1000x/s{}_1000x.png", "Annotations/HCM/1000x/s{}.xml", "", ""),
    "no suffix in image": (
        "Images/HCM/1000x/s{}.png",
        "Annotations/HCM/1000x/s{}_1000x.xml",
        "",
        "",
    ),
    "space and ending": (
        "Images/HCM/1000x/smear {}.png",
        "Annotations/HCM/1000x/smear{}_1000x.xml",
        "smear {}.jpg",
        r"D:\scans\smear {}.jpg",
    ),
    "by filename alone": (
        "Images/HCM/1000x/smear{}.png",
        "Annotations/HCM/1000x/00{}.xml",
        "smear {}.JPG",
        r"C:\M5 set\smear {}.JPG",
    ),
    "beside the images": ("s{}.png", "s{}.xml", "elsewhere.png", "/home/someone/elsewhere.png"),
}


@pytest.mark.parametrize(
    "image, annotation, filename, disk", VOC_NAMES.values(), ids=VOC_NAMES.keys()
)
def test_voc_image_names(root, image, annotation, filename, disk, load):
    """An annotation finds its image however the two are named."""
    for number in range(3):
        image_path = root / image.format(number)
        cells = layouts.smear(image_path, "ring", "gametocyte", shift=10 * number)
        xml_path = root / annotation.format(number)
        layouts.write_voc(xml_path, cells, filename.format(number), disk.format(number))
    data = load(root)
    assert cells_in_all(data) == {"ring": 3, "gametocyte": 3}
    assert_crops_show_their_cells(data)


@pytest.mark.parametrize(
    "images, annotations",
    [
        (["fotos/s {}.png", "fotos/s{}.png"], ["marken/s {}.xml", "marken/s{}.xml"]),
        (["png/s{}.png", "png-HCM-1000x/s{}.png"], ["xml/s{}.xml", "xml-HCM-1000x/s{}.xml"]),
    ],
    ids=["same stem", "same microscope and magnification"],
)
def test_voc_of_two_images_the_closer_one(root, images, annotations, load):
    """Where two images may be meant, it is the one whose name or folder says the same."""
    for column, name in enumerate(["ring", "gametocyte"]):
        for number in range(3):
            image_path = root / images[column].format(number)
            cells = layouts.smear(image_path, name, shift=20 * column)
            layouts.write_voc(root / annotations[column].format(number), cells)
    data = load(root)
    assert cells_in_all(data) == {"ring": 3, "gametocyte": 3}
    assert_crops_show_their_cells(data)


def test_voc_class_spellings(root, load):
    """Classes may be written in any case, in plural, with other words."""
    layouts.write_voc_fields(root, [layouts.SPELLINGS] * 3)
    assert cells_in_all(load(root)) == {
        "ring": 6,
        "trophozoite": 3,
        "schizont": 3,
        "gametocyte": 3,
    }


@pytest.mark.parametrize("box", layouts.BAD_BOXES)
def test_voc_bad_boxes(root, box, load):
    """A box without area or outside the image is skipped and counted."""
    layouts.write_voc_fields(root, [("ring",)] * 3)
    layouts.add_to_voc(root / "s00.xml", [("ring", box)])
    data = load(root)
    assert data.index.skipped == 1
    assert cells_in_all(data) == {"ring": 3}


# IML


@pytest.mark.parametrize("numbers", [str, int, float])
def test_iml_numbers(root, numbers, load):
    """A box's numbers may be strings."""
    layouts.write_iml(root, layouts.SPECIMEN, numbers=numbers)
    data = load(root)
    assert data.index.layout == "IML annotations.json"
    assert cells_in_all(data) == {"ring": 2, "trophozoite": 1, "gametocyte": 1}
    assert_crops_show_their_cells(data)


def test_iml_red_blood_cells_only_when_asked_for(root, load):
    """--classes lets in what is not a stage, difficult cells too."""
    layouts.write_iml(root, layouts.SPECIMEN)
    data = load(root, classes="Ring,RBC,difficult")
    assert cells_in_all(data) == {"ring": 2, "red blood cell": 3, "difficult": 1}
    assert_crops_show_their_cells(data)


def write_border_cells(root):
    """Write three IML fields with a cell over each border of the image, or just touching it."""
    discs = [
        ("ring", 5, 70),
        ("gametocyte", layouts.WIDTH - 5, 70),
        ("trophozoite", 120, 3),
        ("schizont", 120, layouts.HEIGHT - 1 - layouts.RADIUS),
    ]
    objects = []
    for name, x, y in discs:
        box = (x - layouts.RADIUS, y - layouts.RADIUS, 2 * layouts.RADIUS, 2 * layouts.RADIUS)
        objects.append(layouts.iml_object(name, box))
    fields = []
    for number in range(3):
        layouts.paint(root / f"{number}.png", discs)
        fields.append({"image_name": f"{number}.png", "objects": objects})
    layouts.write(root / "annotations.json", fields)


def test_boxes_past_the_border_are_used(root, load):
    """A box that touches or passes the border is no bad box."""
    write_border_cells(root)
    data = load(root)
    assert data.index.skipped == 0
    assert cells_by_split(data)["test"] == dict.fromkeys(classes.STAGES, 1)


def test_crops_at_the_border(root, load):
    """The square is shifted into the image, so that the cell is at the crop's edge."""
    write_border_cells(root)
    data = load(root)
    places = {  # row, column of each disc's middle, of 32
        "ring": (16, 5),
        "gametocyte": (16, 26),
        "trophozoite": (3, 16),
        "schizont": (17, 16),
    }
    for crop, label in zip(data.uint8().astype(int), data.labels.tolist(), strict=True):
        name = data.classes[label]
        assert np.abs(crop[places[name]] - layouts.COLOURS[name]).max() < 5, name


# BBBC041


def write_six_bbbc041_images(root):
    """Write four training and two test images of a BBBC041 set."""
    training = dict.fromkeys("abcd", ("trophozoite", "red blood cell", "leukocyte"))
    test = dict.fromkeys("ef", ("ring", "schizont", "red blood cell"))
    layouts.write_bbbc041(root, training, test)


def test_bbbc041_splits(root, load):
    """test.json is the test split; val is dealt out of training.json."""
    write_six_bbbc041_images(root)
    data = load(root)
    assert data.index.layout == "BBBC041 JSON"
    cells = cells_by_split(data)
    assert cells["test"] == {"ring": 2, "schizont": 2}
    assert set(cells["train"]) == {"trophozoite"}
    assert set(cells["val"]) == {"trophozoite"}
    assert cells_in_all(data)["trophozoite"] == 4


def test_bbbc041_blood_cells_only_when_asked_for(root, load):
    """--classes lets in red blood cells and leukocytes, in the order given."""
    write_six_bbbc041_images(root)
    data = load(root, classes="red blood cell,leukocyte")
    assert data.classes == ["red blood cell", "leukocyte"]
    assert cells_in_all(data) == {"red blood cell": 6, "leukocyte": 4}
    assert cells_by_split(data)["test"] == {"red blood cell": 2}
    assert_crops_show_their_cells(data)


# COCO


def test_coco_beside_the_images(root, load):
    """Roboflow's export: the same file name may be in train, valid and test."""
    names_by_split = {
        "train": ["ring", "Gametocyte"],
        "valid": ["Gametocyte", "ring", "ring"],
        "test": ["Gametocyte", "ring", "ring"],
    }
    for split, count in (("train", 3), ("valid", 1), ("test", 2)):
        files = [f"smear-{number}_png.rf.0a{number}.png" for number in range(count)]
        fields = dict.fromkeys(files, names_by_split[split])
        layouts.write_coco(root / split / "_annotations.coco.json", root / split, fields)
    data = load(root)
    assert data.index.layout == "COCO JSON"
    assert cells_by_split(data) == {
        "train": {"ring": 3, "gametocyte": 3},
        "val": {"ring": 2, "gametocyte": 1},
        "test": {"ring": 4, "gametocyte": 2},
    }
    assert_crops_show_their_cells(data)


def test_coco_as_published(root, load):
    """instances_val2017.json is the val split; test is dealt out of train."""
    names_by_split = {"train": ["ring"], "val": ["ring", "Gametocyte"]}
    for split, count in (("train", 4), ("val", 2)):
        files = [f"{number:012d}.png" for number in range(count)]
        fields = dict.fromkeys(files, names_by_split[split])
        annotations = root / "annotations" / f"instances_{split}2017.json"
        layouts.write_coco(annotations, root / f"{split}2017", fields)
    data = load(root)
    assert cells_in_all(data) == {"ring": 6, "gametocyte": 2}
    assert cells_by_split(data)["val"] == {"ring": 2, "gametocyte": 2}
    assert cells_by_split(data)["test"]["ring"] >= 1
    assert_crops_show_their_cells(data)


def test_same_name_in_folders_of_a_coco_file(root, load):
    """file_name may carry a folder: 'a/0.png' and 'b/0.png' are two images."""
    fields = {}
    for folder, names in (("a", ["ring"]), ("b", ["ring", "Gametocyte"])):
        for number in range(3):
            fields[f"{folder}/{number}.png"] = names
    layouts.write_coco(root / "annotations.json", root / "images", fields)
    assert cells_in_all(load(root)) == {"ring": 6, "gametocyte": 3}
    assert distinct_images(load(root, view="field")) == 6


# YOLO

CLASS_NAME_FILES = {
    "yaml list": ("data.yaml", "train: images/train\nnc: 2\nnames: [ring, Gametocyte]\n"),
    "yaml dict": ("malaria.yml", "names:\n  0: ring\n  1: Gametocyte\n"),
    "classes.txt": ("classes.txt", "ring\nGametocyte\n"),
    "classes.txt in labels": ("labels/classes.txt", "ring\nGametocyte\n"),
}
YOLO_PLACES = {
    "images/SPLIT": ("images/{split}", "labels/{split}"),
    "SPLIT/images": ("{split}/images", "{split}/labels"),
}


def write_yolo_splits(root, image_folder, label_folder):
    """Write 2 + 1 + 1 images with a boxed ring and an outlined gametocyte; stems repeat."""
    for split, count, shift in (("train", 2, 0), ("valid", 1, 9), ("test", 1, 18)):
        images = root / image_folder.format(split=split)
        labels = root / label_folder.format(split=split)
        for number in range(count):
            layouts.write_yolo(
                images / f"{number}.png",
                labels / f"{number}.txt",
                ["ring", "Gametocyte"],
                shift,
                polygons=True,
            )
        layouts.write_yolo(images / "empty.png", labels / "empty.txt", [])


@pytest.mark.parametrize("names_file, text", CLASS_NAME_FILES.values(), ids=CLASS_NAME_FILES.keys())
@pytest.mark.parametrize("folders", YOLO_PLACES.values(), ids=YOLO_PLACES.keys())
def test_yolo(root, folders, names_file, text, load):
    """Boxes and polygons, wherever images, labels and the names of the classes are."""
    write_yolo_splits(root, *folders)
    layouts.write(root / names_file, text)
    data = load(root)
    assert data.index.layout == "YOLO text labels"
    assert cells_by_split(data) == {
        "train": {"ring": 2, "gametocyte": 2},
        "val": {"ring": 1, "gametocyte": 1},
        "test": {"ring": 1, "gametocyte": 1},
    }
    assert_crops_show_their_cells(data)


def test_yolo_image_without_cells(root, load):
    """An empty label file tells of an image without cells, which is not skipped."""
    write_yolo_splits(root, *YOLO_PLACES["images/SPLIT"])
    layouts.write(root / "classes.txt", "ring\nGametocyte\n")
    data = load(root)
    assert data.index.skipped == 0
    assert data.index.image_counts == {"train": 3, "val": 2, "test": 2}


# Class folders

CLASS_FOLDERS = ["Rings", "gametocyte"]


@pytest.mark.parametrize(
    "pattern", ["{split}/{folder}/{number}.png", "{folder}/{split}/{number}.png"]
)
def test_class_folders_and_split_folders(root, pattern, load):
    """Whole images named by their folder, with split folders above or below it."""
    splits = ["train", "train", "val", "test", "test"]
    layouts.write_class_folders(root, pattern, CLASS_FOLDERS, splits)
    data = load(root)
    assert data.index.layout == "class folders"
    assert cells_by_split(data) == {
        "train": {"ring": 2, "gametocyte": 2},
        "val": {"ring": 1, "gametocyte": 1},
        "test": {"ring": 2, "gametocyte": 2},
    }
    assert_crops_show_their_cells(data)


def test_same_name_in_two_class_folders(root, load):
    """The same file name in two class folders is two images."""
    layouts.write_class_folders(root, "{folder}/{number}.png", CLASS_FOLDERS, ["none"] * 5)
    data = load(root)
    assert cells_in_all(data) == {"ring": 5, "gametocyte": 5}
    assert_crops_show_their_cells(data)


def test_same_stem_with_two_endings_in_a_class_folder(root, load):
    """1.png and 1.jpg in one class folder are two images."""
    for folder in CLASS_FOLDERS:
        for shift, file in enumerate(("1.png", "1.jpg", "2.png")):
            layouts.paint(root / folder / file, [(folder, 15 + shift, 16)], size=(32, 32))
    data = load(root)
    assert cells_in_all(data) == {"ring": 3, "gametocyte": 3}
    assert distinct_images(data) == 6


@pytest.mark.parametrize(
    "folder, split",
    [("TrainSet", "train"), ("test_data", "test"), ("valset", "val"), ("train2017", "train")],
)
@pytest.mark.parametrize(
    "pattern", ["{split}/{folder}/{number}.png", "{folder}/{split}/{number}.png"]
)
def test_split_folders_with_more_in_their_name(root, pattern, folder, split, load):
    """TrainSet, test_data and valset are splits, above the class folders as below them."""
    others = {"train", "val", "test"} - {split}
    layouts.write_class_folders(root, pattern, CLASS_FOLDERS, [folder, *sorted(others)])
    data = load(root)
    assert cells_by_split(data)[split] == {"ring": 1, "gametocyte": 1}


def test_copies_of_a_crop_count_once(root, load):
    """A tree that holds itself once more, as a public set does, gives no image twice."""
    for pattern in ("{folder}/{number}.png", "cells/{folder}/{number}.png"):
        layouts.write_class_folders(root, pattern, CLASS_FOLDERS, ["none"] * 6)
    data = load(root)
    assert cells_in_all(data) == {"ring": 6, "gametocyte": 6}
    assert distinct_images(data) == 12


def test_one_image_in_two_classes_stays_in_both(root, load):
    """Which of two labels of the same image is right cannot be told."""
    layouts.write_class_folders(root, "{folder}/{number}.png", CLASS_FOLDERS, ["none"] * 6)
    for folder in CLASS_FOLDERS:
        layouts.paint(root / folder / "6.png", [("ring", 19, 15)], size=(40, 30))
    data = load(root)
    assert cells_in_all(data) == {"ring": 7, "gametocyte": 7}
    assert distinct_images(data) == 13


def test_split_lists_that_name_folders(root, load):
    """Images numbered anew in each class folder: the folder in the line says which one it is."""
    images_by_split = {
        "train": [("ring", 0), ("ring", 1), ("gametocyte", 2)],
        "val": [("ring", 2), ("gametocyte", 0)],
        "test": [("gametocyte", 1)],
    }
    for split, images in images_by_split.items():
        lines = []
        for folder, number in images:
            lines.append(f"cells/{folder}/{number}.png")
            path = root / folder / f"{number}.png"
            layouts.paint(path, [(folder, 18 + number, 15)], size=(40, 30))
        layouts.write(root / f"{split}.txt", "\n".join(lines))
    data = load(root)
    assert cells_by_split(data) == {
        "train": {"ring": 2, "gametocyte": 1},
        "val": {"ring": 1, "gametocyte": 1},
        "test": {"gametocyte": 1},
    }
    assert_crops_show_their_cells(data)


# Images and annotations that repeat, lack or are damaged


def test_cells_of_an_image_in_two_files_come_together(root, load):
    """One JSON a class, and a copy of one of them: every cell counts once."""
    layouts.iml_two_files(root)
    data = load(root)
    assert cells_in_all(data) == {"ring": 9, "gametocyte": 9}
    assert_crops_show_their_cells(data)


def test_an_image_in_two_files_is_in_one_split(root, load):
    """The cells of an image share its split, whichever file tells of them."""
    layouts.iml_two_files(root)
    index = load(root).index
    assert len(set(index.sources)) == 9
    assert len(set(zip(index.sources, index.splits, strict=True))) == 9


@pytest.mark.parametrize("splits", [("val", None), (None, "val")], ids=["first", "last"])
def test_of_an_image_with_and_without_split_only_the_former_counts(splits):
    """A second list of the same images, which tells no split, adds nothing to them."""
    fields = []
    for split in splits:
        label = "gametocyte" if split is None else "ring"
        fields.append(photograph("0.png", label, split))
    (merged,) = merge_fields(fields)
    assert merged.split == "val"
    assert merged.cells == [Cell("ring", None)]


@pytest.mark.parametrize("layout", ["voc", "yolo"])
def test_same_name_in_parallel_folders(root, layout, load):
    """File names repeat: every annotation finds the image of its own folder."""
    layouts.write_pairs(root, layout)
    data = load(root)
    assert cells_in_all(data) == {"ring": 3, "gametocyte": 3}
    assert_crops_show_their_cells(data)


def write_five_rings_voc(root):
    """Write five fields with a ring each, and an XML file that cannot be parsed."""
    layouts.write_voc_fields(root, [("ring",)] * 5)
    layouts.write(root / "broken.xml", "[{<annotation>")


def write_five_rings_iml(root):
    """Write five fields with a ring each, and a JSON file that cannot be parsed."""
    layouts.write_iml(root, [("ring",)] * 5)
    layouts.write(root / "broken.json", "[{<annotation>")


def write_five_rings_coco(root):
    """Write five fields with a ring each, and a JSON file that cannot be parsed."""
    fields = dict.fromkeys([f"{number}.png" for number in range(5)], ["ring"])
    layouts.write_coco(root / "coco.json", root, fields)
    layouts.write(root / "broken.json", "[{<annotation>")


@pytest.mark.parametrize(
    "writer", [write_five_rings_voc, write_five_rings_iml, write_five_rings_coco]
)
def test_damaged_annotation_among_good_ones(root, writer, load):
    """An annotation file that cannot be parsed is skipped, counted and named; the rest is read."""
    writer(root)
    data = load(root)
    assert data.index.skipped == 1
    assert "broken" in data.table()
    assert cells_in_all(data) == {"ring": 5}


UNUSABLE_BOXES = {
    "infinite": [30, 20, float("inf"), 9],
    "nan": [30, float("nan"), 9, 9],
    "three numbers": [30, 20, 9],
    "empty": [],
    "null": None,
}


def write_rings_and_box(root, box):
    """Write five fields with a ring each, the first with this value as its box."""
    fields = dict.fromkeys([f"{number}.png" for number in range(5)], ["ring"])
    layouts.write_coco(root / "coco.json", root, fields)
    layouts.spoil_coco_boxes(root / "coco.json", [box])


@pytest.mark.parametrize("box", UNUSABLE_BOXES.values(), ids=UNUSABLE_BOXES.keys())
def test_unusable_box_among_good_ones(root, box, load):
    """A box that is not four finite numbers is skipped and counted."""
    write_rings_and_box(root, box)
    data = load(root)
    assert data.index.skipped == 1
    assert len(data) == 4
    assert_crops_show_their_cells(data)


def test_coco_box_of_strings(root, load):
    """A box of strings is read as numbers or skipped and counted, but never read amiss."""
    write_rings_and_box(root, ["26", "16", "28", "28"])
    data = load(root)
    assert len(data) + data.index.skipped == 5
    assert len(data) >= 4
    assert_crops_show_their_cells(data)


def cut_short(path):
    """Leave only the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def replace_by_text(path):
    """Put text into an image file."""
    path.write_bytes(b"not an image")


BAD_IMAGES = {
    "cut png": ("png", cut_short),
    "cut jpg": ("jpg", cut_short),
    "text": ("png", replace_by_text),
    "missing": ("jpg", Path.unlink),
}


@pytest.mark.parametrize("ending, damage", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_bad_image_among_good_ones(root, ending, damage, load):
    """An image that ends too early, is none or is not there is skipped and counted."""
    layouts.write_iml(root, [("ring",)] * 5, ending=ending)
    damage(root / "IML_Malaria" / f"PA002.{ending}")
    data = load(root)
    assert data.index.skipped == 1
    assert len(data) == 4
    assert_crops_show_their_cells(data)


# Zip and cache


@pytest.mark.parametrize("outer", ["", "IML/"])
def test_zip_reads_as_its_folder(root, tmp_path, outer, load):
    """A zip of a data folder gives the same, with an outer folder or without one."""
    layouts.write_iml(root, layouts.SPECIMEN)
    layouts.write_zip(tmp_path / "data.zip", root, outer)
    folder_data = load(root)
    zip_data = load(tmp_path / "data.zip")
    assert zip_data.index.layout == "IML annotations.json"
    assert np.array_equal(zip_data.uint8(), folder_data.uint8())
    assert torch.equal(zip_data.labels, folder_data.labels)


def modification_times(folder):
    """{path: time of the last change} of everything in a folder."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_second_load_writes_nothing(root, tmp_path, load):
    """What was read once comes from the cache."""
    layouts.write_iml(root, layouts.SPECIMEN)
    load(root)
    times = modification_times(tmp_path / "results")
    load(root)
    assert times
    assert modification_times(tmp_path / "results") == times


def test_second_load_gives_the_same(root, load):
    """The cache holds images and index as they were read."""
    layouts.write_iml(root, layouts.SPECIMEN)
    first = load(root)
    second = load(root)
    assert np.array_equal(first.uint8(), second.uint8())
    assert first.index == second.index


def test_changed_annotations_are_read_again(root, load):
    """The cache is not used after a file of the data has changed."""
    content = layouts.write_iml(root, layouts.SPECIMEN)
    load(root)
    content[3]["objects"].append(layouts.iml_object("schizont", (1, 1, 20, 20)))
    layouts.write(root / "annotations.json", content)
    assert "schizont" in load(root).classes


# Views and images


def test_field_view_has_a_label_for_every_class(root, load):
    """--view field: a 0 or 1 for each class, for fields without a stage too."""
    layouts.write_iml(root, layouts.SPECIMEN)
    data = load(root, view="field")
    assert data.classes == ["ring", "trophozoite", "gametocyte"]
    assert data.labels.tolist() == [[1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert data.labels.dtype == torch.float32


def test_field_view_has_whole_images(root, load):
    """--view field: images are whole, one a field, in the size asked for."""
    layouts.write_iml(root, layouts.SPECIMEN)
    data = load(root, view="field")
    assert data.index.boxes == [None] * 4
    assert data.uint8().shape == (4, 32, 32, 3)


def test_grey_crops(root, load):
    """--channels 1: crops are the luma of what is in the images."""
    layouts.write_iml(root, layouts.SPECIMEN, ending="png")
    data = load(root, channels=1)
    crops = data.uint8()
    assert crops.shape == (4, 32, 32, 1)
    for crop, label in zip(crops, data.labels.tolist(), strict=True):
        luma = np.dot(layouts.COLOURS[data.classes[label]], LUMA)
        assert crop[16, 16, 0] == pytest.approx(luma, abs=2)


def test_grey_batches(root, load):
    """--channels 1: batches have one channel, in [-1, 1]."""
    layouts.write_iml(root, layouts.SPECIMEN)
    images = load(root, channels=1).__getitems__([0, 1, 2, 3]).images
    assert images.shape == (4, 1, 32, 32)
    assert images.min() >= -1
    assert images.max() <= 1


def two_colours(grey=False):
    """An image uint8 (6, 9, 3): one colour above another, or two shades of grey."""
    image = np.full((6, 9, 3), (250, 120, 10), np.uint8)
    image[:3] = (10, 200, 90)
    if grey:
        image[:] = image[:, :, :1]
    return image


def write_colour_mode(path, mode):
    """Write two_colours in a mode of Pillow's; returns what is to be read."""
    expected = two_colours(grey=mode == "L")
    image = Image.fromarray(expected).convert(mode, palette=Image.Palette.ADAPTIVE)
    image.save(path)
    return expected


def write_16_bits(path, mode):
    """Write two_colours as PNG of 16 bits a channel; returns what is to be read."""
    expected = two_colours(grey=mode == "grey")
    wide = expected.astype(np.uint16) * 257
    if mode == "grey":
        cv2.imwrite(str(path), wide[:, :, 0])
    else:
        cv2.imwrite(str(path), wide[:, :, ::-1])
    return expected


IMAGE_MODES = {
    "RGB": (write_colour_mode, "RGB"),
    "RGBA": (write_colour_mode, "RGBA"),
    "palette": (write_colour_mode, "P"),
    "grey": (write_colour_mode, "L"),
    "16-bit colour": (write_16_bits, "colour"),
    "16-bit grey": (write_16_bits, "grey"),
}


@pytest.mark.parametrize("writer, mode", IMAGE_MODES.values(), ids=IMAGE_MODES.keys())
def test_image_modes_in_colour(tmp_path, writer, mode):
    """Every PNG mode comes as uint8 RGB."""
    expected = writer(tmp_path / "x.png", mode)
    image = crops.read_image(tmp_path / "x.png")
    assert image.dtype == np.uint8
    assert image.shape == (6, 9, 3)
    assert image.astype(int) == pytest.approx(expected.astype(int), abs=1)


@pytest.mark.parametrize("writer, mode", IMAGE_MODES.values(), ids=IMAGE_MODES.keys())
def test_image_modes_in_grey(tmp_path, writer, mode):
    """Every PNG mode comes as its luma when grey is asked for."""
    expected = writer(tmp_path / "x.png", mode)
    image = crops.read_image(tmp_path / "x.png", channels=1)
    assert image.shape == (6, 9, 1)
    assert image[:, :, 0].astype(int) == pytest.approx(expected @ LUMA, abs=1.5)


@pytest.mark.parametrize("name", ["text.png", "empty.png", "missing.png", "."])
def test_read_image_refuses_other_files(tmp_path, name):
    """Text, an empty file, nothing at all and a folder are a DataError that says what is wrong."""
    layouts.write(tmp_path / "text.png", "not an image")
    layouts.write(tmp_path / "empty.png", "")
    with pytest.raises(DataError, match="no such file|not a readable image|folder"):
        crops.read_image(tmp_path / name)


SQUARES = {  # box; left, top and side of its square in an image of 100 x 80
    "longer side": ((40, 30, 10, 20), (34, 29, 22)),
    "lower right corner": ((90, 70, 20, 20), (78, 58, 22)),
    "upper left corner": ((-8, -8, 20, 20), (0, 0, 22)),
    "left border": ((0, 35, 4, 10), (0, 34, 11)),
    "larger than the image": ((-50, -50, 400, 300), (20, 0, 80)),
    "smaller than a pixel": ((50, 40, 0.5, 0.5), (50, 40, 1)),
}


@pytest.mark.parametrize("box, square", SQUARES.values(), ids=SQUARES.keys())
def test_crop_is_a_square_inside_the_image(box, square):
    """1.1 times the longer side, centred, and shifted rather than padded at the border."""
    y, x = np.mgrid[:80, :100]
    image = np.stack([x, y, 0 * x], 2).astype(np.uint8)
    left, top, side = square
    crop = crops.crop_cell(image, box, side)
    assert np.array_equal(crop, image[top : top + side, left : left + side])


@pytest.mark.parametrize("box", [(10, 10, 0, 5), (10, 10, 5, -1), (100, 10, 5, 5), (10, -9, 5, 9)])
def test_crop_of_nothing(box):
    """A box without area in the image is refused."""
    image = np.zeros((80, 100, 3), np.uint8)
    with pytest.raises(ValueError, match="no area"):
        crops.crop_cell(image, box, 32)


# Splits


def splits_of(fields):
    """The splits of fields after they were dealt."""
    deal_splits(fields, ["ring", "gametocyte"])
    return [field.split for field in fields]


def row_of_fields(count):
    """`count` fields in name order without a split, of rings and gametocytes."""
    fields = []
    for number in range(count):
        label = ("ring", "gametocyte")[number * number % 2]
        fields.append(photograph(f"{number:03}.png", label))
    return fields


def test_splits_keep_neighbours_together():
    """Blocks of eight neighbours stay whole."""
    splits = splits_of(row_of_fields(160))
    for start in range(0, 160, 8):
        assert len(set(splits[start : start + 8])) == 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_share_of_dealt_splits(split):
    """Val and test get about 15 % each."""
    share = splits_of(row_of_fields(160)).count(split) / 160
    assert 0.1 <= share <= 0.2


def test_splits_are_dealt_alike_every_time():
    """Dealing depends on the data alone."""
    assert splits_of(row_of_fields(160)) == splits_of(row_of_fields(160))


@pytest.mark.parametrize("count", [3, 4, 5, 7, 15, 29])
def test_no_split_stays_empty(count):
    """Every split gets an image, with three images too, and train a third of them at least."""
    splits = splits_of(row_of_fields(count))
    assert set(splits) == {"train", "val", "test"}
    assert splits.count("train") >= count / 3


def test_photographs_of_one_place_stay_together():
    """Both microscopes and every magnification of a place share the split that it has alone."""
    patterns = [
        "HCM/100x/s{:03}_100x.png",
        "HCM/1000x/s{:03}.png",
        "LCM/s{:03}.jpg",
        "lcm_1000x/s{:03}_1000x.png",
        "hcm 400x/S{:03}400x.png",
    ]
    fields = []
    places = []
    for column, pattern in enumerate(patterns):
        step = 1 + column % 2  # some photograph every second place only
        for place in range(column % 2, 96, step):
            fields.append(photograph(pattern.format(place)))
            places.append(place)
    alone = splits_of([photograph(f"{place:03}.png") for place in range(96)])
    assert splits_of(fields) == [alone[place] for place in places]


@pytest.mark.parametrize("folder", ["", "test/"], ids=["list", "folder"])
def test_a_place_has_the_split_given_to_one_photograph(folder):
    """A test list or folder of one magnification holds for the others, which are in neither."""
    low = [photograph(f"100x/s{place:03}_100x.png") for place in range(40)]
    high = [photograph(f"1000x/s{place:03}_1000x.png") for place in range(8, 40)]
    tested = []
    for place in range(8):
        path = f"1000x/{folder}s{place:03}_1000x.png"
        tested.append(photograph(path, split="test"))
    splits_of(low + tested + high)
    assert {field.split for field in low[:8] + tested} == {"test"}
    assert {field.split for field in low[8:] + high} == {"train", "val"}


def test_numbered_names_are_places_of_their_own():
    """train1, train2, ... are images, not one image's splits."""
    fields = [photograph(f"train{number}.png") for number in range(40)]
    assert set(splits_of(fields)) == set(SPLITS)


@pytest.mark.parametrize("rest", ["train", None])
def test_given_splits_are_used(rest):
    """A given test split stays, whatever the rest is called; only val is dealt, out of the rest."""
    fields = row_of_fields(20)
    for number, field in enumerate(fields):
        field.split = "test" if number % 2 else rest
    splits = splits_of(fields)
    assert splits[1::2] == ["test"] * 10
    assert set(splits[::2]) == {"train", "val"}


LIST_LINES = {  # a line, and the name of its image
    "stem": ("PA_{}", "PA_{}.png"),
    "magnification": ("PA_{}_1000x.jpg", "PA_{}.png"),
    "folder": ("images/PA_{}.png", "PA_{}.png"),
    "flag": ("PA_{} 1", "PA_{}.png"),
    "space": ("PA {}", "PA {}.png"),
    "space and ending": ("PA {}.jpg", "PA {}.png"),
}


@pytest.mark.parametrize("line, file", LIST_LINES.values(), ids=LIST_LINES.keys())
def test_lines_of_split_lists(root, line, file, load):
    """Stems or file names, with a folder or a VOC flag, with spaces where the image's has them."""
    numbers_by_split = {"train": [0, 1, 2], "val": [3], "test": [4, 5]}
    for split, numbers in numbers_by_split.items():
        lines = [line.format(number) for number in numbers]
        layouts.write(root / "ImageSets" / f"{split}.txt", "\r\n".join(lines))
        for number in numbers:
            image = root / file.format(number)
            layouts.write_voc(image.with_suffix(".xml"), layouts.smear(image, "ring"))
    assert cells_by_split(load(root)) == {
        "train": {"ring": 3},
        "val": {"ring": 1},
        "test": {"ring": 2},
    }


# Names


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("P_vivax Rings", "ring"),
        ("RING ", "ring"),
        ("YoungTrophozoite", "trophozoite"),
        ("late-trophs", "trophozoite"),
        ("SCHISONT", "schizont"),
        ("gametocytes.", "gametocyte"),
        ("RedBloodCell", "red blood cell"),
        ("Uninfected", "red blood cell"),
        ("Healthy RBC", "red blood cell"),
        ("Infected RBC", "infected rbc"),
        ("Parasitized red-blood-cells", "parasitized red blood cells"),
        ("cells, other", "cells other"),
        ("leucocyte", "leukocyte"),
        ("non_schizont", "non schizont"),
        ("ring-trophozoite", "ring trophozoite"),
        ("signet ring cell", "signet ring cell"),
        ("string", "string"),
        ("ring-form", "ring"),
        ("early_ring_stage", "ring"),
        ("Schistocyte", "schistocyte"),
        ("ringed sideroblast", "ringed sideroblast"),
        ("WBC_neutrophil", "wbc neutrophil"),
        ("WBC_lymphocyte", "wbc lymphocyte"),
        ("normal RBC", "normal rbc"),
        ("sickle RBC", "sickle rbc"),
        ("burr cell", "burr cell"),
        ("Babesia  Bovis", "babesia bovis"),
    ],
)
def test_canonical_class(spelling, name):
    """Known classes in any spelling; unknown ones in lower case."""
    assert classes.canonical_class(spelling) == name


@pytest.mark.parametrize("asked", ["bird,cat,dog", "bird"])
def test_classes_that_the_data_lacks_are_refused(asked):
    """A name that is not there may be misspelt; the message says which are."""
    with pytest.raises(DataError, match="cat, dog"):
        classes.choose_classes({"cat", "dog"}, asked)


def test_some_classes_may_be_missing():
    """So test.py asks for the classes of a model, of which the data may have some only."""
    chosen = classes.choose_classes({"cat", "dog"}, "bird,cat,dog", some_may_be_missing=True)
    assert chosen == ["bird", "cat", "dog"]


def test_not_all_classes_may_be_missing():
    """Data without any of a model's classes cannot be used."""
    with pytest.raises(DataError, match="cat, dog"):
        classes.choose_classes({"cat", "dog"}, "bird", some_may_be_missing=True)


@pytest.mark.parametrize(
    "name",
    [
        "Images/HCM/Smear 1_1000x.PNG",
        r"D:\M5\smear 1.jpg",
        "smear1-400x.xml",
        "SMEAR1",
        "smear1_100x",
    ],
)
def test_stem_key_leaves_out_what_does_not_identify(name):
    """Folders of either kind, case, spaces, ending and magnification do not count."""
    assert stem_key(name) == stem_key("smear1.png")


def test_stem_key_keeps_what_identifies():
    """Dots and numbers within a name count."""
    names = ["a.rf.01.png", "a.rf.02.png", "a1000x1.png", "a.png", "a_1.png"]
    assert len({stem_key(name) for name in names}) == 5
