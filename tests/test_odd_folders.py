"""Data folders as they come: what has led, or could lead, to crops that are not what they say.

As in test_readers.py a cell is a disc in its class's colour. Every test writes its own folder.
"""

import csv
import json
import os
import re
import time
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest
from layouts import assert_crops_show_their_cells, cells_by_split, cells_in_all
from PIL import Image

import rollNumber_05 as malaria
from extras import checks
from extras.fields import DataFolder, read_fields
from extras.records import DataError

STAGES = layouts.STAGES
SIZE = (layouts.WIDTH, layouts.HEIGHT)
THREE_STAGES = STAGES[:3]
LIST_SPLITS = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}


@pytest.fixture
def root(tmp_path):
    """The data folder of a test; its cache goes beside it."""
    return tmp_path / "data"


def class_folders(root, names, count=6, start=0):
    """Write class folders with so many crops each, in the colours of known classes or rings'."""
    for name in names:
        known = name if name in layouts.COLOURS else "ring"
        layouts.paint_crops(root / name, known, count, start)


def split_folders(root, names, count=4):
    """Write class folders in train, val and test, with so many crops each."""
    for number, split in enumerate(malaria.SPLITS):
        class_folders(root / split, names, count, start=10 * number)


def refused(load, path, pattern, **flags):
    """Assert that a data path is refused with these words."""
    with pytest.raises(malaria.UsageError, match=pattern):
        load(path, **flags)


def assert_each_class_in_each_split(data):
    """Assert that no split lacks a class."""
    for split, cells in data.counts().items():
        assert all(cells["cells"].values()), split


def splits_by_source(data):
    """{image file relative to the data folder: its split}."""
    return dict(zip(data.index.sources, data.index.splits, strict=True))


# An annotation belongs to one image: names that repeat


def write_patients(root, annotate, patients):
    """Write four fields a patient, of the same names, each with a cell of another class."""
    for row, patient in enumerate(patients):
        for number in range(4):
            name = f"{number:03d}.png"
            label = STAGES[(row + number) % 4]
            cells = layouts.smear(root / patient / "images" / name, label, shift=9 * row)
            annotate(root / patient / "labels" / name, name, cells, SIZE)
    layouts.write(root / "classes.txt", "\n".join(STAGES))


@pytest.mark.parametrize("annotate", layouts.ANNOTATORS.values(), ids=layouts.ANNOTATORS)
@pytest.mark.parametrize("patients", [("patient1", "patient2", "patient3"), ("Olympus", "China")])
def test_names_repeat_in_every_patients_folder(root, annotate, patients, load):
    """patient1/images/000.png with patient1/labels/000.xml, and so on in patient2."""
    write_patients(root, annotate, patients)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(STAGES, len(patients))
    assert_crops_show_their_cells(data)


def test_names_repeat_in_one_coco_file_a_patient(root, load):
    """patient0/annotations/instances.json names 000.png, as does patient1's."""
    names_by_patient = {
        "patient0": ["ring", "schizont"],
        "patient1": ["schizont", "Gametocyte"],
        "patient2": ["Gametocyte", "ring"],
    }
    for patient, names in names_by_patient.items():
        fields = {f"{number:03d}.png": [name] for number, name in enumerate(names)}
        file = root / patient / "annotations" / "instances.json"
        layouts.write_coco(file, root / patient / "images", fields)
    data = load(root)
    assert cells_in_all(data) == {"ring": 2, "schizont": 2, "gametocyte": 2}
    assert_crops_show_their_cells(data)


def test_two_microscopes_of_other_names_lend_each_other_no_image(root, load):
    """Olympus's annotation whose image is lost does not take the one of the same name of China."""
    for row, site in enumerate(("Olympus", "China")):
        for number in range(4):
            name = f"{number:03d}.png"
            image = root / "Images" / site / name
            cells = layouts.smear(image, STAGES[row], shift=9 * row)
            layouts.annotate_in_voc(root / "Annotations" / site / name, name, cells, SIZE)
    (root / "Images" / "Olympus" / "002.png").unlink()
    data = load(root)
    assert cells_in_all(data) == {"ring": 3, "trophozoite": 4}
    assert_crops_show_their_cells(data)


def write_tie(root):
    """Write one annotation for two images of its name, which fit it equally well."""
    layouts.write_voc_fields(root / "sure", [("ring",)] * 4)
    for patient, label in (("patient1", "ring"), ("patient2", "gametocyte")):
        cells = layouts.smear(root / patient / "images" / "000.png", label)
    layouts.annotate_in_voc(root / "labels" / "000.png", "000.png", cells, SIZE)


def test_a_tie_is_never_a_guess(root, load):
    """Neither of two images that fit equally well is used."""
    write_tie(root)
    assert cells_in_all(load(root)) == {"ring": 4}


def test_a_tie_is_a_counted_problem(root, load):
    """The annotation is named, with the images that it fits."""
    write_tie(root)
    ((file, reason),) = load(root).index.problems
    assert Path(file).name == "000.xml"
    assert "patient1/images/000.png" in reason


@pytest.mark.parametrize("annotate", [layouts.annotate_in_voc, layouts.annotate_in_coco])
def test_the_ending_decides_where_nothing_else_does(root, annotate, load):
    """0.jpg is the image, 0.png its mask or a copy."""
    for number in range(4):
        name = f"{number}.jpg"
        cells = layouts.smear(root / "images" / name, "ring", shift=number)
        layouts.smear(root / "images" / f"{number}.png", "difficult", shift=number)
        annotate(root / "annotations" / name, name, cells, SIZE)
    data = load(root)
    assert cells_in_all(data) == {"ring": 4}
    assert_crops_show_their_cells(data)


def test_a_name_and_the_one_inside_of_two_images_is_a_counted_problem(root, load):
    """0.xml says that it is about 1.png, and both images are there."""
    write_patients(root, layouts.annotate_in_voc, ["patient1", "patient2"])
    path = root / "patient1/labels/000.xml"
    text = path.read_text(encoding="utf-8").replace("000.png", "001.png")
    layouts.write(path, text)
    data = load(root)
    assert "patient1/images/000.png" not in data.index.sources
    assert "000.png and 001.png" in problem_reasons(data)
    assert_crops_show_their_cells(data)


def test_of_two_names_the_one_of_an_image_beside_is_right(root, load):
    """The name inside is that of an image in another folder, as of before they were renamed."""
    for number in range(4):
        path = root / "smears" / f"{number}.png"
        cells = layouts.smear(path, "ring", shift=number)
        layouts.annotate_in_voc(path, f"IMG_{number}.png", cells, SIZE)
        layouts.smear(root / "raw" / "phone" / f"IMG_{number}.png", "difficult")
    data = load(root)
    assert cells_in_all(data) == {"ring": 4}
    assert_crops_show_their_cells(data)


def test_of_two_labelme_files_of_an_image_the_closer_one_counts(root, load):
    """labels_old has other cells; it is a problem, not added."""
    for number in range(6):
        name = f"{number}.png"
        cells = layouts.smear(root / "images" / name, "ring", shift=number)
        layouts.annotate_in_labelme(root / "labels" / name, name, cells, SIZE)
        others = [("schizont", cells[0][1])]
        layouts.annotate_in_labelme(root / "labels_old" / name, name, others, SIZE)
    data = load(root)
    assert cells_in_all(data) == {"ring": 6}
    assert data.index.skipped == 6


def test_of_two_versions_of_a_coco_file_none_is_added_to_the_other(root, load):
    """The boxes of the second were moved, and one cell is of another class."""
    for version, change in (("v1", 0), ("v2", 3)):
        fields = {f"{number}.png": ["ring"] for number in range(6)}
        layouts.write_coco(root / version / "annotations.json", root / "images", fields)
        content = json.loads((root / version / "annotations.json").read_text())
        for entry in content["annotations"]:
            entry["bbox"][0] += change
        content["annotations"][0]["category_id"] += bool(change)
        layouts.write(root / version / "annotations.json", content)
    refused(load, root, "says of 0.png what another does not")


# Several sources in one tree


def write_voc_with_coco(root, microscope):
    """Write M5 with XML of every split, and a COCO file of one microscope's training fields."""
    names_by_microscope = {"HCM": "ring", "LCM": "schizont"}
    for name, label in names_by_microscope.items():
        layouts.write_m5(root, name, "1000x", label)
    file = root / "Annotations" / microscope / "train" / "train_1000x.json"
    images = root / "Images" / microscope / "1000x"
    fields = dict.fromkeys(["s0_1000x.png", "s1_1000x.png"], [names_by_microscope[microscope]])
    layouts.write_coco(file, images, fields)


@pytest.mark.parametrize("microscope", ["HCM", "LCM"])
def test_the_source_of_most_wanted_fields_wins(root, microscope, load):
    """A converter's JSON of the training fields lies beside the XML of all."""
    write_voc_with_coco(root, microscope)
    data = load(root)
    assert data.index.layout == "Pascal-VOC XML"
    assert data.index.image_counts == {"train": 2, "val": 1, "test": 1}


@pytest.mark.parametrize("microscope, count", [("HCM", 2), ("LCM", 0)])
def test_other_sources_are_named_with_their_fields(root, microscope, count, load):
    """What else there is, and how many of its fields are wanted."""
    write_voc_with_coco(root, microscope)
    assert re.search(rf"not used: COCO JSON, {count} ", load(root).table())


# Photographs that were turned or resized after labelling


def write_photographs(root, annotate, orientation=6, size=SIZE):
    """Write six phone photographs with a cell of each of three stages, as seen upright."""
    for number in range(6):
        path = root / f"IMG_{number:04d}.jpg"
        cells = layouts.photograph(path, *THREE_STAGES, orientation=orientation, shift=3 * number)
        annotate(path, path.name, cells, size)


with_size = pytest.mark.parametrize(
    "annotate", layouts.ANNOTATORS_WITH_SIZE.values(), ids=layouts.ANNOTATORS_WITH_SIZE
)


@pytest.mark.parametrize("orientation", layouts.TURNS)
def test_fractions_are_of_the_upright_photograph(root, orientation, load):
    """As YOLO's programs read it; their boxes fit either way."""
    layouts.write(root / "classes.txt", "\n".join(THREE_STAGES))
    for number in range(6):
        path = root / f"{number}.jpg"
        cells = layouts.photograph(path, *THREE_STAGES, orientation=orientation, shift=3 * number)
        lines = [layouts.yolo_line(THREE_STAGES.index(name), box) for name, box in cells]
        layouts.write(path.with_suffix(".txt"), "\n".join(lines))
    data = load(root)
    assert_crops_show_their_cells(data)
    assert re.search(r"note: 6 .*orientation", data.table())


@with_size
@pytest.mark.parametrize("orientation", layouts.TURNS)
def test_a_turned_photograph_is_set_upright(root, annotate, orientation, load):
    """The stated size has the sides of the upright photograph, the file those of the lying one."""
    write_photographs(root, annotate, orientation)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


def test_a_photograph_can_be_turned_and_resized(root, load):
    """The stated size is that of the upright photograph, and twice as large."""
    for number in range(6):
        path = root / f"{number}.jpg"
        boxes = []
        for name, box in layouts.photograph(path, *THREE_STAGES, shift=number):
            boxes.append((name, tuple(2 * value for value in box)))
        layouts.annotate_in_coco(path, path.name, boxes, (2 * SIZE[0], 2 * SIZE[1]))
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


def test_turned_photographs_are_reported(root, load):
    """The table says how many, and why."""
    write_photographs(root, layouts.annotate_in_voc)
    assert re.search(r"note: 6 .*orientation", load(root).table())


def test_without_a_stated_size_boxes_outside_say_that_an_image_was_turned(root, load):
    """IML states no size."""
    for number in range(6):
        path = root / f"IMG_{number}.jpg"
        layouts.photograph(path, *STAGES, "ring", shift=number)
        x, y = layouts.SPOTS[2]  # outside the lying photograph
        layouts.annotate_in_iml(
            path, path.name, [("schizont", layouts.box_around(x + number, y))], None
        )
    data = load(root)
    assert cells_in_all(data) == {"schizont": 6}
    assert_crops_show_their_cells(data)


@with_size
def test_boxes_of_the_lying_photograph_leave_it_lying(root, annotate, load):
    """A tool that ignores the orientation states the sides of the file."""
    for number in range(6):
        path = root / f"IMG_{number}.jpg"
        cells = layouts.smear(path, *THREE_STAGES, shift=number)
        with Image.open(path) as image:
            exif = Image.Exif()
            exif[layouts.EXIF_ORIENTATION] = 6
            image.save(path, exif=exif, quality=100, subsampling=0)
        annotate(path, path.name, cells, SIZE)
    assert_crops_show_their_cells(load(root))


def write_resized(root, annotate, factor):
    """Write six fields that were labelled at other sizes; factor: (of the width, of the height)."""
    for number in range(6):
        path = root / f"{number}.png"
        boxes = []
        for name, (x, y, w, h) in layouts.smear(path, *THREE_STAGES, shift=number):
            box = (x * factor[0], y * factor[1], w * factor[0], h * factor[1])
            boxes.append((name, box))
        annotate(path, path.name, boxes, (SIZE[0] * factor[0], SIZE[1] * factor[1]))


@with_size
@pytest.mark.parametrize("factor", [(2, 2), (8, 8), (0.5, 0.5)])
def test_boxes_of_a_resized_image_are_scaled(root, annotate, factor, load):
    """The stated size is in proportion to the image's."""
    write_resized(root, annotate, factor)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


@with_size
def test_an_image_of_other_proportions_is_a_counted_problem(root, annotate, load):
    """Neither turned nor resized: a cell of it is not known to be where the box is."""
    write_resized(root, annotate, (1, 1))
    odd = root / "odd.png"
    annotate(odd, odd.name, layouts.smear(odd, "ring"), (SIZE[0], 2 * SIZE[1]))
    data = load(root)
    assert [Path(file).name for file, _ in data.index.problems] == ["odd.png"]
    assert len(data) == 18


def test_a_stated_size_of_nought_says_nothing(root, load):
    """Some tools write 0 for what they do not know."""
    for number in range(4):
        path = root / f"{number}.png"
        cells = layouts.smear(path, *THREE_STAGES, shift=number)
        layouts.annotate_in_voc(path, path.name, cells, (0, 0))
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 4)
    assert_crops_show_their_cells(data)


def test_boxes_far_outside_are_a_counted_problem(root, load):
    """Without a stated size: most cells of a field lie outside its image."""
    layouts.write_iml(root, [("ring",)] * 5)
    far = [("ring", (x, 20, 28, 28)) for x in (900, 1300, 1700)]
    layouts.smear(root / "far.png", "ring")
    near = [("ring", (150, 90, 28, 28))]  # inside by chance
    layouts.annotate_in_iml(root / "far.png", "far.png", far + near, None)
    data = load(root)
    assert len(data) == 5
    assert {Path(file).name for file, _ in data.index.problems} == {"far.png"}


@pytest.mark.parametrize("orientation", [2, 3, 4])
@pytest.mark.parametrize("annotate", [layouts.annotate_in_coco, layouts.annotate_in_iml])
def test_boxes_of_a_photograph_upside_down_are_a_counted_problem(root, annotate, orientation, load):
    """Its sides are the same either way, so that nothing tells what the boxes are of."""
    for number in range(6):
        path = root / f"{number}.jpg"
        cells = layouts.smear(path, *THREE_STAGES, shift=number)
        annotate(path, path.name, cells, SIZE)
        if number < 2:
            turn_by_exif(path, orientation)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 4)
    assert len(re.findall("save it upright", problem_reasons(data))) == 2
    assert_crops_show_their_cells(data)


def turn_by_exif(path, orientation):
    """Make an image say that it is to be turned."""
    with Image.open(path) as image:
        exif = Image.Exif()
        exif[layouts.EXIF_ORIENTATION] = orientation
        image.save(path, exif=exif, quality=100, subsampling=0)


def test_boxes_that_fit_a_photograph_either_way_are_a_counted_problem(root, load):
    """Without a stated size, all of them in the part that both have."""
    layouts.write_iml(root, [("ring",)] * 5)
    path = root / "phone.jpg"
    cells = layouts.photograph(path, "ring")
    layouts.annotate_in_iml(path, path.name, cells, None)
    data = load(root)
    assert len(data) == 5
    assert "save it upright" in problem_reasons(data)


# Split lists


def write_listed(root, line="PA_{}", ending="\n", encoding="utf-8"):
    """Write ten fields, and train.txt, val.txt and test.txt that name them."""
    for number in range(10):
        path = root / "Images" / f"PA_{number}_1000x.png"
        cells = layouts.smear(path, "ring", shift=number)
        layouts.annotate_in_voc(root / "Annotations" / path.name, path.name, cells, SIZE)
    for split, numbers in LIST_SPLITS.items():
        text = "".join(line.format(number) + ending for number in numbers)
        path = root / "Splits" / f"{split}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode(encoding))


LISTS = {
    "byte-order mark": {"encoding": "utf-8-sig"},
    "CRLF": {"ending": "\r\n"},
    "byte-order mark and CRLF": {"encoding": "utf-8-sig", "ending": "\r\n"},
    "blank lines": {"ending": "\r\n\r\n"},
    "ending": {"line": "PA_{}.jpg"},
    "another ending": {"line": "PA_{}.tif"},
    "capitals": {"line": "pa_{}.PNG"},
    "path": {"line": "data/Images/PA_{}.png"},
    "path of Windows": {"line": r"D:\M5\Images\PA_{}.png"},
    "magnification": {"line": "PA_{}_1000x"},
    "magnification and ending": {"line": "PA_{}_1000x.png"},
    "name of the annotation": {"line": "PA_{}_1000x.xml"},
}


@pytest.mark.parametrize("how", LISTS.values(), ids=LISTS)
def test_split_lists_as_editors_leave_them(root, how, load):
    """Marks, line ends, endings, paths and magnifications do not matter."""
    write_listed(root, **how)
    assert load(root).index.image_counts == {"train": 6, "val": 2, "test": 2}


def test_split_lists_as_powershell_writes_them(root, load):
    """UTF-16 with its byte-order mark, by `dir -Name > train.txt`."""
    write_listed(root, encoding="utf-16", ending="\r\n")
    assert load(root).index.image_counts == {"train": 6, "val": 2, "test": 2}


def test_the_lists_of_one_patient_are_of_no_other(root, load):
    """patient1/ImageSets/train.txt and patient2/ImageSets/test.txt name the same stems."""
    write_patients(root, layouts.annotate_in_voc, ["patient1", "patient2", "patient3"])
    for patient, split in (("patient1", "train"), ("patient2", "test"), ("patient3", "val")):
        lines = "\n".join(f"{number:03d}" for number in range(4))
        layouts.write(root / patient / "ImageSets" / "Main" / f"{split}.txt", lines)
    splits = {source.split("/")[0]: split for source, split in splits_by_source(load(root)).items()}
    assert splits == {"patient1": "train", "patient2": "test", "patient3": "val"}


def test_the_lists_of_one_microscope_are_of_no_other(root, load):
    """In a folder of lists that has a folder for each."""
    for microscope in ("Olympus", "China"):
        for number in range(4):
            path = root / "Images" / microscope / f"{number}.png"
            cells = layouts.smear(path, "ring", shift=number)
            layouts.annotate_in_voc(root / "xml" / microscope / path.name, path.name, cells, SIZE)
    layouts.write(root / "lists" / "Olympus" / "train.txt", "0\n1\n2\n3")
    layouts.write(root / "lists" / "China" / "test.txt", "0\n1\n2\n3")
    for source, split in splits_by_source(load(root)).items():
        assert (split == "test") == source.startswith("Images/China")


@pytest.mark.parametrize("name", ["train_list", "trainset", "Train-Files", "train2017"])
def test_names_of_split_lists(root, name, load):
    """What they mostly are called."""
    write_listed(root)
    (root / "Splits" / "train.txt").rename(root / "Splits" / f"{name}.txt")
    assert load(root).index.image_counts == {"train": 6, "val": 2, "test": 2}


def test_a_list_of_none_of_the_images_is_noted(root, load):
    """It may be of another set."""
    write_listed(root)
    layouts.write(root / "Splits" / "test.txt", "XY_1\nXY_2\n")
    assert "test.txt lists none of the images" in load(root).table()


def add_to_list(root, split, *lines):
    """Add lines to a list of write_listed."""
    with (root / "Splits" / f"{split}.txt").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    "split, later", [("train", "val"), ("val", "test"), ("train", "test")], ids=str
)
def test_an_image_in_two_lists_stays_in_the_later_split(root, split, later, load):
    """Of train, val and test."""
    write_listed(root)
    number = LIST_SPLITS[later][0]
    add_to_list(root, split, f"PA_{number}")
    data = load(root)
    assert splits_by_source(data)[f"Images/PA_{number}_1000x.png"] == later
    assert data.index.image_counts == {"train": 6, "val": 2, "test": 2}


def test_images_in_two_lists_are_counted(root, load):
    """The table says how many, and where they stay."""
    write_listed(root)
    add_to_list(root, "train", "PA_6", "PA_8")
    assert re.search(r"note: 2 images .*later of train, val, test", load(root).table())


def test_lists_tell_images_of_the_same_name_apart_by_their_paths(root, load):
    """patient1/images/000.png is in train, patient2/images/000.png in test."""
    splits = {"patient1": "train", "patient2": "val", "patient3": "test"}
    write_patients(root, layouts.annotate_in_voc, splits)
    for patient, split in splits.items():
        lines = [f"{patient}/images/{number:03d}.png" for number in range(4)]
        layouts.write(root / f"{split}.txt", "\n".join(lines))
    for source, split in splits_by_source(load(root)).items():
        assert splits[Path(source).parts[0]] == split


def write_in_two_coco_files(root):
    """Write COCO files in split folders; two images are named in those of two splits."""
    numbers_by_split = {"train": range(5), "val": [5, 6, 4], "test": [7, 8, 0]}
    for split, numbers in numbers_by_split.items():
        for number in numbers:
            name = f"{number}.png"
            cells = layouts.smear(root / "images" / name, "ring", "schizont", shift=number)
            path = root / "annotations" / split / name
            layouts.annotate_in_coco(path, name, cells, SIZE)


@pytest.mark.parametrize("number, split", [pytest.param(4, "val"), (0, "test")])
def test_an_image_in_the_files_of_two_splits_stays_in_the_later_one(root, number, split, load):
    """Two COCO files of different splits name the same image."""
    write_in_two_coco_files(root)
    assert splits_by_source(load(root))[f"images/{number}.png"] == split


def test_images_in_the_files_of_two_splits_are_counted(root, load):
    """As those in two lists."""
    write_in_two_coco_files(root)
    assert re.search(r"note: 2 images .*later of train, val, test", load(root).table())


SPLIT_FOLDERS = [
    ("trainset", "validation", "testing"),
    ("TrainData", "dev", "TestA"),
    ("training_images", "eval", "holdout"),
    ("1_train", "2_val", "3_test"),
]


@pytest.mark.parametrize("folders", SPLIT_FOLDERS, ids=str)
def test_names_of_split_folders(root, folders, load):
    """As data sets have them."""
    for row, folder in enumerate(folders):
        class_folders(root / folder, ["ring", "schizont"], 4, start=10 * row)
    assert load(root).index.image_counts == {"train": 8, "val": 8, "test": 8}


def test_an_images_name_tells_no_split(root, load):
    """test_3.png lies in train, and its annotation in a file that says so."""
    for split in ("train", "val", "test"):
        numbers = [f"test_{number}.png" for number in range(3)]
        fields = dict.fromkeys(numbers, ["ring"])
        layouts.write_coco(root / f"{split}.json", root / "images" / split, fields)
    data = load(root)
    assert data.index.image_counts == {"train": 3, "val": 3, "test": 3}
    assert data.index.skipped == 0


def test_copies_of_roboflow_across_given_splits_are_counted(root, load):
    """The photograph is what stands before .rf."""
    for row, split in enumerate(("train", "valid", "test")):
        for number in range(4):
            photograph = number if number < 2 else 10 * row + number
            path = root / split / f"smear_{photograph}_jpg.rf.{40 * row + number:032x}.png"
            cells = layouts.smear(path, "ring", "schizont", shift=4 * row + number)
            layouts.annotate_in_voc(path, path.name, cells, SIZE)
    assert "note: 2 photographs have copies (.rf.) in several splits" in load(root).table()


# Classes: names


def test_red_cell_shapes_are_classes_of_their_own(root, load):
    """A schistocyte is a broken red cell, no schizont."""
    names = ["Macrocyte", "Normal", "Schistocyte", "Spherocyte", "Stomatocyte", "Target"]
    class_folders(root, names, 12)
    assert cells_in_all(load(root)) == dict.fromkeys(names, 12)


@pytest.mark.parametrize(
    "names",
    [
        ["WBC_neutrophil", "WBC_lymphocyte"],
        ["normal RBC", "sickle RBC"],
        ["pencil cell", "ringed sideroblast"],
        ["stage 1", "stage 2"],
    ],
    ids=lambda names: names[0],
)
def test_names_are_shown_as_the_data_has_them(root, names, load):
    """Classes that are no stage keep their names, and are not put together."""
    class_folders(root, names)
    assert cells_in_all(load(root)) == dict.fromkeys(sorted(names, key=str.lower), 6)


MORE_THAN_STAGES = ["ring", "trophozoite", "WBC_neutrophil", "Schistocyte"]


def test_the_table_says_which_classes_were_found_and_how_often(root, load):
    """Also those that are not used, by the names that the data has."""
    class_folders(root, MORE_THAN_STAGES)
    (line,) = [line for line in load(root).table().splitlines() if "found" in line]
    for name in MORE_THAN_STAGES:
        assert re.search(rf"\b{name}\W+6\b", line), name


def test_the_table_says_which_classes_are_used(root, load):
    """Of those that were found."""
    class_folders(root, MORE_THAN_STAGES)
    assert re.search(r"used: ring, trophozoite$", load(root).table(), re.M)


def test_classes_left_out_are_named(root, load):
    """--classes auto takes the stages; the note names the rest as the data does."""
    class_folders(root, MORE_THAN_STAGES)
    (note,) = [note for note in load(root).index.notes if "not used" in note]
    assert "WBC_neutrophil" in note
    assert "Schistocyte" in note


def test_the_note_of_classes_left_out_says_how_to_ask_for_them(root, load):
    """What it says works."""
    class_folders(root, MORE_THAN_STAGES)
    asked = re.search(r'--classes "(.+)"', load(root).table())[1]
    assert sum(cells_in_all(load(root, classes=asked)).values()) == 24


def test_red_cells_leukocytes_and_difficult_ones_are_left_out_without_a_note(root, load):
    """As ever; the table counts them."""
    class_folders(root, ["ring", "schizont", "red blood cell", "leukocyte", "difficult"])
    data = load(root)
    assert not [note for note in data.index.notes if "not used" in note]
    assert data.index.found["leukocyte"] == 6


def test_stages_in_another_language_are_not_dropped_in_silence(root, load):
    """Beside one that is known they are left out, and named."""
    class_folders(root, ["ring", "schizont", "Gametozyt", "滋养体"])
    assert re.search("not used: .*滋养体", load(root).table(), re.I)


@pytest.mark.parametrize("split, lacking", [("val", "train, test"), ("test", "train, val")])
def test_a_class_that_train_lacks_is_named(root, split, lacking, load):
    """With the splits that lack it."""
    split_folders(root, ["ring", "trophozoite"])
    class_folders(root / split, ["schizont"])
    assert re.search(f"note: .*schizont is in {lacking}", load(root).table())


# Classes: folders that are none


NO_CLASSES = {
    "kinds of images": ["img", "raw images"],
    "two names of images": ["images", "photos"],
    "patients": ["patient_1", "patient_2", "patient_3"],
    "samples of blood": ["sample 1", "sample 2"],
    "slides": ["slide-01", "slide-02"],
}


@pytest.mark.parametrize("folders", NO_CLASSES.values(), ids=NO_CLASSES)
def test_folders_that_are_no_classes(root, folders, load):
    """The images in them are without labels."""
    for row, folder in enumerate(folders):
        layouts.paint_crops(root / folder, STAGES[row], 6)
    data = load(root)
    assert len(data.classes) == 1
    assert len(data) == 6 * len(folders)


@pytest.mark.parametrize("name", ["gt", "labels", "ground truth"])
def test_images_beside_others_of_the_same_names_are_masks(root, name, load):
    """By what their folder is called; they are counted in a note."""
    layouts.paint_crops(root / "img", "ring", 6)
    layouts.paint_crops(root / name, "trophozoite", 6)
    data = load(root)
    assert len(data) == 6
    assert "6 images are masks by their names" in data.table()


def test_labels_of_other_sites_are_not_borrowed(root, load):
    """Where the image of one site is lost; the sites' names are parts of the folders'."""
    for site, stage in (("A", "ring"), ("B", "gametocyte")):
        for number in range(6):
            cells = layouts.smear(root / f"smear-{site}/images/{number}.png", stage)
            layouts.write_voc(root / f"smear-{site}/labels/{number}.xml", cells)
    (root / "smear-A/images/0.png").unlink()
    data = load(root)
    assert {name: split_total(data, name) for name in data.classes} == {"ring": 5, "gametocyte": 6}
    assert data.index.skipped == 1


def split_total(data, name):
    """How many cells of a class there are in all splits."""
    return sum(count["cells"][name] for count in data.counts().values())


def test_labels_of_two_versions_are_not_mixed(root, load):
    """Those of the folder that is named like the images' count; the others are problems."""
    for number in range(6):
        cells = layouts.smear(root / f"images/{number}.png", "ring")
        layouts.write_voc(root / f"labels/{number}.xml", cells)
        shifted = [("gametocyte", (box[0] + 5, *box[1:])) for _, box in cells]
        layouts.write_voc(root / f"labels_old/{number}.xml", shifted)
    data = load(root)
    assert data.classes == ["ring"]
    assert data.index.skipped == 6


def test_patients_stay_together(root, load):
    """Each one's images are in one split."""
    for patient in range(12):
        for number in range(4):
            path = root / f"patient_{patient:02d}/{number}.png"
            layouts.write_voc(path.with_suffix(".xml"), layouts.smear(path, STAGES[number % 2]))
    index = load(root).index
    splits = {}
    for source, split in zip(index.sources, index.splits, strict=True):
        splits.setdefault(source.split("/")[0], set()).add(split)
    assert [len(found) for found in splits.values()] == [1] * 12


def test_a_table_of_something_else_is_noted(root, load):
    """It names no image."""
    for stage in ("ring", "trophozoite"):
        layouts.paint_crops(root / stage, stage, 6)
    layouts.write(root / "patients.csv", "id,diagnosis,label\nanna,malaria,1\n")
    data = load(root)
    assert data.index.layout == "class folders"
    assert "patients.csv names none of the images" in data.table()


def test_images_without_annotation_are_counted(root, load):
    """In a note that names one."""
    for number in range(8):
        cells = layouts.smear(root / f"{number}.png", STAGES[number % 2])
        if number < 6:
            layouts.write_voc(root / f"{number}.xml", cells)
    assert "note: 2 images have no annotation, such as 6.png; not used" in load(root).table()


def test_other_magnifications_are_counted(root, load):
    """In a note that names the flags."""
    layouts.write_m5(root, "HCM", "1000x", "ring", 0)
    layouts.write_m5(root, "LCM", "1000x", "ring", 0)
    table = load(root).table()
    assert "note: 4 images of another microscope or magnification are left out" in table


def test_a_file_of_answers_is_no_file_of_labels(root, load):
    """A submission's labels are made up; it is named in a note."""
    for split in ("train", "test"):
        for stage in ("ring", "trophozoite"):
            layouts.paint_crops(root / split / stage, stage, 4)
    layouts.write(root / "sample_submission.csv", "image,label\n0.png,ring\n")
    data = load(root)
    assert data.index.layout == "class folders"
    assert "sample_submission.csv is taken for answers" in data.table()


@pytest.mark.parametrize("columns", ["id,filename,label", "label,id,filename"])
def test_the_column_of_the_image_is_the_one_that_names_images(root, columns, load):
    """Numbers that happen to be names of other images lose."""
    lines = [columns]
    for number in range(8):
        stage = STAGES[number % 2]
        layouts.smear(root / f"images/{number}.png", stage)
        row = {"id": str(number + 1), "filename": f"{number}.png", "label": stage}
        row["filename"] = f"images/{number}.png"
        lines.append(",".join(row[column] for column in columns.split(",")))
    layouts.write(root / "labels.csv", "\n".join(lines))
    data = load(root)
    found = dict(zip(data.index.sources, data.index.labels, strict=True))
    assert all(label == int(Path(file).stem) % 2 for file, label in found.items())


@pytest.mark.parametrize("folder", ["2019-05-03", "Leica", "40x", "1"])
def test_a_known_class_above_another_folder_is_the_class(root, folder, load):
    """The folder between is of a day, a microscope or a number."""
    for stage in ("ring", "gametocyte"):
        layouts.paint_crops(root / stage / folder, stage, 6)
    assert load(root).classes == ["ring", "gametocyte"]


@pytest.mark.parametrize("copies", ["previews", "masks", "thumbnails"])
def test_copies_of_images_are_no_class(root, copies, load):
    """Smaller ones, or their masks, in a folder beside them."""
    layouts.paint_crops(root / "images", "ring", 14)
    for number in range(14):
        discs = [("ring", 10, 6 + number % 3)]
        layouts.paint(root / copies / f"{number:03d}.png", discs, size=(20, 15))
    data = load(root)
    assert len(data) == 14
    assert len(data.classes) == 1


def test_masks_beside_the_crops_are_no_cells(root, load):
    """As in BUSI: ring (1).png and ring (1)_mask.png."""
    for label in ("ring", "trophozoite"):
        for number in range(6):
            path = root / label / f"{label} ({number}).png"
            layouts.paint(path, layouts.crop_discs(label, number), layouts.CROP)
            mask = path.with_stem(f"{path.stem}_mask")
            layouts.paint(mask, layouts.crop_discs("difficult", number), layouts.CROP)
    assert_crops_show_their_cells(load(root))


@pytest.mark.parametrize("pattern", ["patient{0}/{1}", "{1}/patient{0}"])
def test_patients_above_and_below_class_folders_are_no_classes(root, pattern, load):
    """The stage is the class, whoever's it is."""
    for patient in range(4):
        for name in ("ring", "schizont"):
            folder = root / pattern.format(patient, name)
            layouts.paint_crops(folder, name, 3, start=10 * patient)
    data = load(root)
    assert cells_in_all(data) == {"ring": 12, "schizont": 12}
    assert_crops_show_their_cells(data)


def test_unknown_of_test_is_no_class(root, load):
    """What was not labelled cannot be scored."""
    split_folders(root, ["ring", "trophozoite"])
    class_folders(root / "test", ["unknown"])
    assert cells_by_split(load(root))["test"] == {"ring": 4, "trophozoite": 4}


def test_images_of_unknown_are_counted(root, load):
    """What is not used is not dropped in silence."""
    split_folders(root, ["ring", "trophozoite"])
    class_folders(root / "test", ["unknown"])
    assert "unknown" in load(root).table()


def test_unknown_of_every_split_is_a_class(root, load):
    """It is one that can be learnt."""
    split_folders(root, ["Basophil", "unknown"])
    assert cells_by_split(load(root))["test"] == {"Basophil": 4, "unknown": 4}


def write_results(folder):
    """Write what a training leaves in its folder."""
    for name in ("config.json", "metrics.csv", "last.pt"):
        layouts.write(folder / name, "{}")
    layouts.paint_crops(folder / "samples", "schizont", 3)
    layouts.paint(folder / "losses.png", [])


def write_generated(folder):
    """Write what test.py leaves of a generator, beside its grid."""
    for number in range(3):
        layouts.paint(folder / f"{number:04d}.png", layouts.crop_discs("schizont", number))
    layouts.paint(folder / "grid.png", [])


OWN_RESULTS = {
    "results": ("results/gan", write_results),
    "a run": ("gan", write_results),
    "a run in a folder": ("my runs/mtd", write_results),
    "a run that was moved aside": ("gan_1", write_results),
    "generated images": ("generated", write_generated),
}


@pytest.mark.parametrize("place, write_own", OWN_RESULTS.values(), ids=OWN_RESULTS)
@pytest.mark.parametrize("folders", [["ring", "trophozoite"], ["images"]], ids=str)
def test_the_scripts_own_results_are_no_data(root, place, write_own, folders, load):
    """They lie in the data folder, as after --results_dir DATA."""
    for row, folder in enumerate(folders):
        layouts.paint_crops(root / folder, STAGES[row], 8)
    write_own(root / place)
    data = load(root)
    assert len(data) == 8 * len(folders)
    assert len(data.classes) == len(folders)


def test_data_in_a_folder_named_results_is_named(root, load):
    """It is taken for the program's own; the line says what to do."""
    class_folders(root / "results", ["ring", "trophozoite"])
    refused(load, root, "results of this program: results; rename")


LABEL_FILES = {
    "labels.csv": "negative;remark\n000;1\n",
    "labels.json": '{"000": "ring"}',
    "labels.txt": "000 ring\n001 ring\n",
    "labels.tsv": "negative\tremark\n000\t1\n",
}


@pytest.mark.parametrize("name, text", LABEL_FILES.items(), ids=LABEL_FILES)
@pytest.mark.parametrize("folders", [["A", "B"], ["images"]], ids=str)
def test_label_files_that_are_not_understood_are_named(root, name, text, folders, load):
    """Beside folders of images, which may not be what the labels are."""
    for row, folder in enumerate(folders):
        layouts.paint_crops(root / folder, STAGES[row], 6)
    layouts.write(root / name, text)
    assert re.search(rf"note: .*{name}", load(root).table())


CLASS_PAIRS = [("cell", "background"), ("valid", "invalid"), ("Cells", "Debris")]


@pytest.mark.parametrize("names", CLASS_PAIRS, ids=str)
def test_a_class_whose_name_means_something_else(root, names, load):
    """The folder beside it says that it is one."""
    for row, name in enumerate(names):
        layouts.paint_crops(root / name, STAGES[row], 12)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(sorted(names, key=str.lower), 12)
    assert_each_class_in_each_split(data)


def test_one_class_folder_beside_images_is_noted(root, load):
    """All of them are taken for one class."""
    layouts.paint_crops(root / "images", "ring", 8)
    layouts.paint_crops(root / "infected", "schizont", 8)
    assert re.search(r"note: class folders \(infected 8\): no classes", load(root).table())


def test_class_folders_beside_annotations_are_named(root, load):
    """As another source that is there."""
    layouts.write_voc_fields(root / "fields", [("ring", "schizont")] * 6)
    class_folders(root / "crops", ["ring", "schizont"], 5)
    assert re.search(r"note: class folders \(ring 5, schizont 5\): not used", load(root).table())


UNREAD_DATA = ["labels.xlsx", "cells.mat", "images.npz", "a.h5", "b.tfrecord", "c.pkl"]
UNREAD_DATA += ["d.parquet", "e.xls", "f.arff", "more.zip", "more.tar.gz", "more.rar"]


@pytest.mark.parametrize("name", UNREAD_DATA)
def test_data_of_another_kind_is_counted_and_named(root, name, load):
    """Beside what is read, and alone."""
    class_folders(root, ["ring", "trophozoite"])
    layouts.write(root / "more" / name, "of another program")
    ending = Path(name).suffix
    assert re.search(rf"note: 1 \{ending} files are not read; \w+", load(root).table())


def test_a_folder_of_nothing_but_other_data_names_it(root, load):
    """Not only that there are no images."""
    layouts.write(root / "cells.mat", "of Matlab")
    refused(load, root, r"1 \.mat files are not read; save images as PNG")


def test_annotation_files_that_no_reader_understands_are_named(root, load):
    """Beside those that are read."""
    layouts.write_voc_fields(root / "fields", [("ring", "schizont")] * 6)
    layouts.write(root / "more" / "cells.json", {"cells": [1, 2]})
    assert re.search(r"note: no labels were found in 1 files: more/cells\.json", load(root).table())


def test_a_data_set_named_after_segmentation_is_read(root, load):
    """It holds images beside masks."""
    folder = root / "Malaria Segmentation Dataset"
    class_folders(folder / "images", ["ring", "schizont"], 6)
    layouts.paint_crops(folder / "masks", "difficult", 6)
    data = load(root)
    assert cells_in_all(data) == {"ring": 6, "schizont": 6}
    assert "not read: the folders masks" in data.table()


@pytest.mark.parametrize("name", ["SegmentationClass", "masks", "Cell Masks", "segmentation"])
def test_folders_of_masks_are_not_read(root, name, load):
    """Also in a folder a split."""
    for split in ("train", "test"):
        layouts.paint_crops(root / "images" / split, "ring", 6, start=6 * (split == "test"))
        layouts.paint_crops(root / name / split, "difficult", 6, start=6 * (split == "test"))
    data = load(root)
    assert len(data) == 12
    assert f"not read: the folders {name}" in data.table()


# Images without labels


@pytest.mark.parametrize("folder", ["", "celeba", "img_align/faces", "train"])
def test_images_without_labels_are_one_class(root, folder, load):
    """A flat folder, or one in a folder, as in PyTorch's DCGAN tutorial."""
    layouts.paint_crops(root / folder, "ring", 40)
    data = load(root)
    assert len(data.classes) == 1
    assert len(data) == 40


def test_a_gan_trains_on_images_without_labels(root, load):
    """It needs none."""
    layouts.paint_crops(root, "ring", 40)
    checks.check_trainable("gan", load(root))


def test_an_mtd_says_what_images_without_labels_lack(root, run_script, tmp_path):
    """It needs classes."""
    layouts.paint_crops(root, "ring", 40)
    done = run_script("--data_path", root, "--task", "mtd", "--image_size", 28, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search("class|label", done.stderr)


# Splits


def test_few_crops_in_class_folders(root, load):
    """Four times thirty crops: neighbours are of one class, but every split has every class."""
    class_folders(root, STAGES, 30)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(STAGES, 30)
    assert_each_class_in_each_split(data)


@pytest.mark.parametrize("count", [pytest.param(3), pytest.param(5), 8, 12, 20])
def test_fewer_crops_in_class_folders(root, count, load):
    """Every class that can be in every split is."""
    class_folders(root, THREE_STAGES, count)
    assert_each_class_in_each_split(load(root))


def test_a_rare_class_is_in_every_split(root, load):
    """Four crops among a hundred."""
    class_folders(root, ["ring", "trophozoite"], 50)
    class_folders(root, ["schizont"], 4)
    assert_each_class_in_each_split(load(root))


def test_a_class_that_a_split_lacks_is_noted(root, load):
    """Two crops cannot be in three splits: the note names class and split."""
    class_folders(root, ["ring", "trophozoite"], 20)
    class_folders(root, ["schizont"], 2)
    assert re.search(r"note: .*schizont.* (val|test)", load(root).table())


def splits_of_groups(data, pattern):
    """{what a pattern finds first in the name of an image: the splits it is in}."""
    groups = {}
    for source, split in splits_by_source(data).items():
        group = re.search(pattern, Path(source).name)[0]
        groups.setdefault(group, set()).add(split)
    return groups


def assert_groups_stay_together(data, pattern, count):
    """Assert that so many groups of images are in one split each, and no split is empty."""
    groups = splits_of_groups(data, pattern)
    assert len(groups) == count
    assert all(len(splits) == 1 for splits in groups.values()), groups
    assert set.union(*groups.values()) == {"train", "val", "test"}


@pytest.mark.parametrize("name", ["smear{0:02d}_cell_{1}.png", "IMG {0:02d}_Cell{1}.png"])
def test_cells_of_one_photograph_stay_together(root, name, load):
    """The photograph is the part of the name before _cell_N, in every class folder."""
    for row, label in enumerate(("ring", "trophozoite")):
        for photograph in range(12):
            for number in range(2):
                path = root / label / name.format(photograph, 2 * number + row)
                discs = layouts.crop_discs(label, 4 * photograph + number)
                layouts.paint(path, discs, layouts.CROP)
    assert_groups_stay_together(load(root), r"\d\d(?=_[cC]ell)", 12)


NIH_PATIENTS = {
    "C33P1thinF": "C33P1thinF_IMG_201506{0:02d}_114756a_cell_{1}.png",
    "C100P61ThinF": "C100P61ThinF_IMG_201509{0:02d}_144104_cell_{1}.png",
    "C39P4thinF": "C39P4thinF_original_IMG_201506{0:02d}_105253_cell_{1}.png",
    "C1_thinF": "C1_thinF_IMG_201506{0:02d}_104722_cell_{1}.png",
    "C2NThinF": "C2NThinF_IMG_201506{0:02d}_115238_cell_{1}.png",
    "C51AP12thinF": "C51AP12thinF_IMG_201507{0:02d}_153313_cell_{1}.png",
    "C68P29N": "C68P29N_ThinF_IMG_201507{0:02d}_120000_cell_{1}.png",
    "C3thin": "C3thin_original_IMG_201506{0:02d}_162922_cell_{1}.png",
}
NIH_PATIENT = "^" + "|^".join(NIH_PATIENTS)


def write_nih(root, folder="cell_images"):
    """Write an NIH set: patients with two photographs of six cells, of both classes."""
    for row, pattern in enumerate(NIH_PATIENTS.values()):
        for photograph in range(2):
            for number in range(6):
                label = ("Parasitized", "Uninfected")[number % 2]
                path = root / folder / label / pattern.format(photograph, number)
                discs = layouts.crop_discs("ring", 6 * row + number + 3 * photograph)
                layouts.paint(path, discs, layouts.CROP)
    layouts.write(root / folder / "Parasitized" / "Thumbs.db", "of Windows")


def test_cells_of_an_nih_patient_stay_together(root, load):
    """Whatever the photograph: the patient is what the name begins with."""
    write_nih(root)
    data = load(root, classes="Parasitized,Uninfected")
    assert_groups_stay_together(data, NIH_PATIENT, len(NIH_PATIENTS))


def test_cells_of_an_nih_photograph_stay_together(root, load):
    """Parasitized and Uninfected ones."""
    write_nih(root)
    data = load(root, classes="Parasitized,Uninfected")
    assert_groups_stay_together(data, r"^.+(?=_cell)", 2 * len(NIH_PATIENTS))


def test_the_copy_that_the_nih_set_holds_of_itself_counts_once(root, load):
    """cell_images/cell_images, as on Kaggle."""
    write_nih(root)
    images = load(root).index.sources
    write_nih(root, "cell_images/cell_images")
    assert len(load(root)) == len(images)


def test_copies_of_roboflow_stay_together(root, load):
    """What stands before .rf. is the photograph, of which there are augmented copies."""
    for number in range(12):
        for copy in range(3):
            path = root / f"smear_{number:02d}_jpg.rf.{7 * number + copy:032x}.png"
            cells = layouts.smear(path, "ring", "schizont", shift=copy)
            layouts.annotate_in_voc(path, path.name, cells, SIZE)
    assert_groups_stay_together(load(root), r"smear_\d\d", 12)


# Near copies


def textured_crop(number):
    """A crop with a texture of its own, as of a real cell."""
    draws = np.random.default_rng(number)
    coarse = draws.integers(60, 200, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (48, 48), interpolation=cv2.INTER_CUBIC)


def same_again(image):
    """The image as it is."""
    return image


def smaller_and_back(image):
    """An image that was made smaller, as for a preview."""
    return cv2.resize(image, (40, 40), interpolation=cv2.INTER_AREA)


def as_jpeg(image):
    """An image that was saved as a JPEG in between."""
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return cv2.imdecode(content, cv2.IMREAD_COLOR)


def brighter(image):
    """An image that is a little brighter."""
    return np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8)


CHANGES = [
    pytest.param(same_again, id="the same in another class"),
    pytest.param(smaller_and_back, id="made smaller"),
    pytest.param(as_jpeg, id="saved as JPEG"),
    pytest.param(brighter, id="brighter"),
]


def write_textured(root, change):
    """Write crops in splits; `change` makes four of test out of four of train."""
    for split, start in (("train", 0), ("val", 100), ("test", 200)):
        for number in range(start, start + 8):
            path = root / split / STAGES[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), textured_crop(number))
    for number in range(4 if change else 0):
        path = root / "test" / STAGES[(number + 1) % 2] / f"copy{number}.png"
        cv2.imwrite(str(path), change(textured_crop(number)))


@pytest.mark.parametrize("change", CHANGES)
def test_near_copies_across_splits_are_counted(root, change, load):
    """In one line."""
    write_textured(root, change)
    assert re.search(r"note: 4 crops .*train", load(root).table())


def test_other_cells_are_no_near_copies(root, load):
    """Cells that only are of the same colours."""
    write_textured(root, None)
    assert "crops of val or test" not in load(root).table()


# Zips


def write_renamed_zip(path, folder, renamed):
    """Write a zip of a folder's files by the names that `renamed` makes of theirs."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                entry = zipfile.ZipInfo(renamed(file.relative_to(folder).as_posix()))
                archive.writestr(entry, file.read_bytes())


def with_backslashes(name):
    """A name as PowerShell's Compress-Archive writes it."""
    return "cell_images\\" + name.replace("/", "\\")


def as_on_a_mac(name):
    """A name in the form that macOS has."""
    return unicodedata.normalize("NFD", name)


def test_a_zip_with_backslashes(root, tmp_path, load):
    """Windows PowerShell separates folders by them."""
    class_folders(root, ["Parasitized", "Uninfected"], 15)
    write_renamed_zip(tmp_path / "data.zip", root, with_backslashes)
    assert cells_in_all(load(tmp_path / "data.zip")) == {"Parasitized": 15, "Uninfected": 15}


def test_a_zip_with_names_of_macos(root, tmp_path, load):
    """An accent is a character of its own there, but not in the annotations."""
    for number in range(4):
        name = f"Größe_{number}.png"
        cells = layouts.smear(root / "Zürich" / name, "ring", shift=number)
        layouts.annotate_in_coco(root / "annotations" / f"{number}.json", name, cells, SIZE)
    write_renamed_zip(tmp_path / "data.zip", root, as_on_a_mac)
    data = load(tmp_path / "data.zip")
    assert cells_in_all(data) == {"ring": 4}
    assert data.index.skipped == 0


@pytest.mark.parametrize("inner", ["archive.zip", "download/IML.zip"])
def test_a_zip_in_a_zip(root, tmp_path, inner, load):
    """However deep it is."""
    layouts.write_iml(root, layouts.SPECIMEN)
    layouts.write_zip(tmp_path / "inner.zip", root)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", inner)
    assert cells_in_all(load(tmp_path / "outer.zip")) == cells_in_all(load(root))


def write_part_zips(root, folder):
    """Write the files of a folder into three zips, as Google Drive does."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    root.mkdir()
    for part in range(3):
        path = root / f"drive-download-20210621T101548Z-{part + 1:03d}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in files[part::3]:
                archive.write(file, f"IML/{file.relative_to(folder).as_posix()}")


def test_a_folder_of_part_zips(root, tmp_path, load):
    """Images and their annotations are in different ones."""
    layouts.write_iml(tmp_path / "unpacked", layouts.SPECIMEN)
    write_part_zips(root, tmp_path / "unpacked")
    assert cells_in_all(load(root)) == cells_in_all(load(tmp_path / "unpacked"))


@pytest.mark.parametrize("name", ["README.txt", "desktop.ini"])
def test_a_folder_of_part_zips_and_another_file(root, tmp_path, name, load):
    """What a download or a system leaves there does not matter."""
    layouts.write_iml(tmp_path / "unpacked", layouts.SPECIMEN)
    write_part_zips(root, tmp_path / "unpacked")
    layouts.write(root / name, "about these files")
    assert cells_in_all(load(root)) == cells_in_all(load(tmp_path / "unpacked"))


EVIL_NAMES = ["../evil.png", "/evil.png", "a/../../evil.png", r"..\evil.png", r"C:\evil.png"]


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_a_zip_cannot_write_elsewhere(root, tmp_path, name, load):
    """Entries whose path leads out of the folder are passed over."""
    class_folders(root, ["ring", "trophozoite"])
    layouts.write_zip(tmp_path / "data.zip", root)
    with zipfile.ZipFile(tmp_path / "data.zip", "a") as archive:
        archive.writestr(name, (root / "ring" / "000.png").read_bytes())
    assert len(load(tmp_path / "data.zip")) == 12
    assert not list(tmp_path.rglob("*evil*"))


# Image files


def test_jfif_is_a_jpeg(root, load):
    """By another ending, in either case."""
    for label in ("ring", "trophozoite"):
        layouts.paint_crops(root / label, label, 6)
        for number, ending in enumerate((".jfif", ".JFIF", ".jpe")):
            path = root / label / f"web{number}.jpg"
            layouts.paint(path, layouts.crop_discs(label, 20 + number), layouts.CROP)
            path.rename(path.with_suffix(ending))
    data = load(root)
    assert cells_in_all(data) == {"ring": 9, "trophozoite": 9}
    assert_crops_show_their_cells(data)


UNREAD_ENDINGS = [".HEIC", ".heif", ".gif", ".CR2", ".NEF", ".ARW", ".dng"]
UNLISTED_ENDINGS = [pytest.param(ending) for ending in (".ORF", ".RW2", ".avif")]


@pytest.mark.parametrize("ending", UNREAD_ENDINGS + UNLISTED_ENDINGS)
def test_what_looks_like_an_image_is_counted_and_named(root, ending, load):
    """Phones and cameras have endings that are not read."""
    class_folders(root, ["ring", "trophozoite"])
    for number in range(5):
        layouts.write(root / "ring" / f"IMG_{number}{ending}", "of a phone or camera")
    data = load(root)
    assert re.search(rf"note: 5 .*{ending}", data.table(), re.I)
    assert data.index.skipped == 5


@pytest.mark.parametrize("ending", [".HEIC", ".gif"])
def test_a_folder_of_nothing_else_names_what_is_not_read(root, ending, load):
    """Not only that there are no images."""
    for number in range(5):
        layouts.write(root / "ring" / f"IMG_{number}{ending}", "of a phone")
    refused(load, root, f"(?i)5 .*{ending}")


def crop_levels(label, number):
    """A painted crop as floats in [0, 1], blue first, as OpenCV writes it."""
    image = layouts.painted(layouts.crop_discs(label, number), layouts.CROP)
    return image[:, :, ::-1].astype(np.float32) / 255


def write_levels(root, levels_of, grey=False):
    """Write TIFFs in class folders; levels_of: makes what is stored of floats in [0, 1]."""
    for label in ("ring", "trophozoite"):
        for number in range(6):
            levels = crop_levels(label, number)
            if grey:
                levels = levels.mean(2)
            path = root / label / f"{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), levels_of(levels))


def assert_levels_are_read(data, grey):
    """Assert that crops have the brightness in their middle that was painted."""
    for crop, label in zip(data.uint8().astype(int), data.labels.tolist(), strict=True):
        colour = np.array(layouts.COLOURS[data.classes[label]])
        if grey:
            colour[:] = colour.mean()
        assert np.abs(crop[16, 16] - colour).max() <= 4


def twelve_bits(levels):
    """Levels as a camera of 12 bits has them, in 16; the brightest is that of the background."""
    return np.round(levels * 4095).astype(np.uint16)


def unchanged(levels):
    """Levels as they are."""
    return levels


def of_255(levels):
    """Levels up to 255, as floats."""
    return levels * 255


def of_4095(levels):
    """Levels up to 4095, as floats."""
    return levels * 4095


FLOATS = [
    pytest.param(unchanged, id="to 1"),
    pytest.param(of_255, id="to 255"),
    pytest.param(of_4095, id="to 4095"),
]


LEVELS = [pytest.param(True, id="grey"), pytest.param(False, id="colour")]


@pytest.mark.parametrize("grey", LEVELS)
def test_a_tiff_of_12_bits_in_16_is_not_black(root, grey, load):
    """Its brightest value is 4095."""
    write_levels(root, twelve_bits, grey)
    assert_levels_are_read(load(root), grey)


@pytest.mark.parametrize("grey", LEVELS)
def test_the_bits_of_a_tiff_are_reported(root, grey, load):
    """They are taken from the whole set's brightest value."""
    write_levels(root, twelve_bits, grey)
    assert re.search("note: .*12 bits", load(root).table())


def test_a_dark_tiff_stays_darker_than_the_others(root, load):
    """The scale is the set's own, not the image's."""
    write_levels(root, twelve_bits, grey=True)
    path = root / "ring" / "5.tif"
    dark = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) // 8
    cv2.imwrite(str(path), dark)
    data = load(root)
    row = data.index.sources.index("ring/5.tif")
    assert data.uint8()[row].max() == pytest.approx(layouts.PLAIN[0] / 8, abs=3)


@pytest.mark.parametrize("grey", [True, False], ids=["grey", "colour"])
@pytest.mark.parametrize("levels_of", FLOATS)
def test_a_float_tiff_is_read_or_named(root, levels_of, grey, load):
    """Never black or white."""
    write_levels(root, levels_of, grey)
    try:
        data = load(root)
    except malaria.UsageError as error:
        assert re.search("float", str(error))
        return
    assert_levels_are_read(data, grey)


def see_through(label, number, mode):
    """A crop whose border lets through, where it has another colour hidden, in a Pillow mode."""
    image = layouts.painted(layouts.crop_discs(label, number), layouts.CROP)
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[:, :4] = 0
    image[:, :4] = (10, 250, 10)
    picture = Image.fromarray(np.dstack([image, alpha]))
    if mode == "P":
        palette = Image.fromarray(image).quantize(8)
        return palette, {"transparency": palette.getpixel((0, 0))}
    return picture.convert(mode), {}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_has_the_borders_colour(root, mode, load):
    """The colour hidden under it does not show."""
    for label in ("ring", "trophozoite"):
        for number in range(6):
            picture, options = see_through(label, number, mode)
            path = root / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, **options)
    hidden = load(root).uint8()[:, :, 1].astype(int)
    plain = np.array(layouts.PLAIN)
    if mode == "LA":
        plain[:] = Image.new("RGB", (1, 1), layouts.PLAIN).convert("L").getpixel((0, 0))
    assert np.abs(hidden - plain).max() < 8


def test_cut_out_cells_lie_on_a_colour_of_their_own(root, load):
    """Where all of the border is transparent, the colour is one that can be seen in the image."""
    for label in ("ring", "trophozoite"):
        for number in range(6):
            image = layouts.painted([(label, 24, 24)], (48, 48))
            alpha = np.zeros((48, 48), np.uint8)
            cv2.circle(alpha, (24, 24), 10 + number, 255, -1)
            image[alpha == 0] = (10, 250, 10)
            path = root / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.dstack([image, alpha])).save(path)
    corners = load(root).uint8()[:, 0, 0].astype(int)
    assert np.abs(corners - (10, 250, 10)).max(1).min() > 50


# Tables


def write_fields(root, count=6):
    """Write fields of three cells; returns the rows of a table, one a box."""
    rows = []
    for number in range(count):
        image = Path("images", f"f{number}.png")
        for label, box in layouts.smear(root / image, *THREE_STAGES, shift=3 * number):
            rows.append(layouts.table_values(image, label, box))
    return rows


BOX_TABLES = [
    "filename,class,xmin,ymin,xmax,ymax",
    "ymax,label,xmin,image_path,xmax,ymin",
    "Image,X1,Y1,X2,Y2,Label",
    "image,x,y,w,h,label",
    "category,x,y,width,height,image_id",
]


@pytest.mark.parametrize("heads", BOX_TABLES)
@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_a_table_with_a_row_a_box(root, heads, separator, load):
    """Whatever the order of its columns."""
    rows = write_fields(root)
    layouts.write(root / "boxes.csv", layouts.table(heads, rows, separator))
    data = load(root)
    assert data.index.layout == "CSV"
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


SIX_SPLITS = ["train", "train", "valid", "TRAIN", "train", "Test"]


def write_crops_of_a_table(root):
    """Write ten crops of each of three stages in one folder; returns the rows of a table."""
    rows = []
    for row, label in enumerate(THREE_STAGES):
        layouts.paint_crops(root / "images", label, 10, start=10 * row)
        for number in range(10 * row, 10 * row + 10):
            image = Path("images", f"{number:03d}.png")
            rows.append(layouts.table_values(image, label, split=SIX_SPLITS[number % 6]))
    return rows


@pytest.mark.parametrize("heads", ["filename,label", "Class,image_path", "id,diagnosis"])
def test_a_table_with_a_row_an_image(root, heads, load):
    """image,label as Kaggle's sets have it."""
    rows = write_crops_of_a_table(root)
    layouts.write(root / "labels.csv", layouts.table(heads, rows))
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 10)
    assert_crops_show_their_cells(data)
    assert_each_class_in_each_split(data)


def test_a_table_that_excel_has_saved(root, load):
    """With a byte-order mark, semicolons and CRLF."""
    text = layouts.table("filename,label", write_crops_of_a_table(root), ";")
    (root / "labels.csv").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert cells_in_all(load(root)) == dict.fromkeys(THREE_STAGES, 10)


@pytest.mark.parametrize("head", ["split", "set", "Subset"])
def test_a_table_with_a_column_of_splits(root, head, load):
    """They are used, in any spelling."""
    rows = write_crops_of_a_table(root)
    layouts.write(root / "labels.csv", layouts.table(f"image_id,{head},label", rows))
    assert load(root).index.image_counts == {"train": 20, "val": 5, "test": 5}


def test_a_table_a_split(root, load):
    """train.csv, val.csv and test.csv."""
    rows = write_crops_of_a_table(root)
    rows_by_split = {"train": rows[::2], "val": rows[1::4], "test": rows[3::4]}
    for split, chosen in rows_by_split.items():
        layouts.write(root / f"{split}.csv", layouts.table("filename,label", chosen))
    assert load(root).index.image_counts == {"train": 15, "val": 8, "test": 7}


def test_an_image_in_two_splits_of_a_table_stays_in_the_later_one(root, load):
    """Its rows differ."""
    rows = write_fields(root, 8)
    for row, split in zip(rows, ["train"] * 12 + ["val"] * 6 + ["test"] * 6, strict=True):
        row["split"] = split
    rows[1]["split"] = "test"  # of the first image's second cell
    layouts.write(root / "boxes.csv", layouts.table("image,label,x,y,w,h,split", rows))
    assert splits_by_source(load(root))["images/f0.png"] == "test"


@pytest.mark.parametrize("values", [",,,", "a,b,c,d"], ids=["no box", "no numbers"])
def test_a_row_that_cannot_be_read_loses_no_other_row(root, values, load):
    """An image without cells has a row without a box in many tables."""
    text = layouts.table("image,x,y,w,h,label", write_fields(root))
    head, rows = text.split("\n", 1)
    layouts.smear(root / "images" / "empty.png")
    layouts.write(root / "boxes.csv", f"{head}\nempty.png,{values},ring\n{rows}")
    assert cells_in_all(load(root)) == dict.fromkeys(THREE_STAGES, 6)


def fractions_of(row):
    """A row whose box is in fractions of the image."""
    width, height = SIZE
    sides = {"left": width, "right": width, "top": height, "bottom": height}
    return row | {name: row[name] / size for name, size in sides.items()}


def one_column_of(row):
    """A row whose box is in one column."""
    return row | {"box": '"[{left}, {top}, {width}, {height}]"'.format(**row)}


def centre_of(row):
    """A row that has the middle of its box."""
    middle = {
        "centre_x": row["left"] + row["width"] / 2,
        "centre_y": row["top"] + row["height"] / 2,
    }
    return row | middle


OTHER_BOXES = {
    "fractions": ("image,label,xmin,ymin,xmax,ymax", fractions_of),
    "one column": ("image,label,bbox", one_column_of),
    "centre": ("image,label,x_center,y_center,width,height", centre_of),
}


@pytest.mark.parametrize("heads, changed", OTHER_BOXES.values(), ids=OTHER_BOXES)
def test_boxes_of_another_kind_are_read_or_named(root, heads, changed, load):
    """Not taken for pixels, nor the whole field for the cell."""
    rows = [changed(row) for row in write_fields(root)]
    layouts.write(root / "boxes.csv", layouts.table(heads, rows))
    try:
        data = load(root)
    except malaria.UsageError as error:
        assert "boxes.csv" in str(error)
        return
    if "boxes.csv" not in data.table():
        assert_crops_show_their_cells(data)


def write_whole_crops(root, count=18):
    """Write crops of three stages in turn, images/000.png and so on; returns [(name, stage)]."""
    rows = []
    for number in range(count):
        stage = THREE_STAGES[number % 3]
        layouts.paint_crops(root / "images", stage, 1, start=number)
        rows.append((f"{number:03d}.png", stage))
    return rows


def problem_reasons(data):
    """The reasons of all problems, a line each."""
    return "\n".join(reason for _, reason in data.index.problems)


def test_an_image_with_two_labels_is_a_counted_problem(root, load):
    """In one table: which of the two is right cannot be told."""
    rows = write_whole_crops(root)
    lines = [f"{name},{stage}" for name, stage in rows]
    layouts.write(root / "labels.csv", "\n".join(["image,label", *lines, "000.png,schizont"]))
    data = load(root)
    assert "images/000.png" not in data.index.sources
    assert "labelled ring and schizont" in problem_reasons(data)
    assert data.index.skipped == 1


def test_an_image_with_two_labels_in_two_tables_is_a_counted_problem(root, load):
    """The second table has one of its labels wrong."""
    rows = write_whole_crops(root)
    for name in ("a.csv", "b.csv"):
        lines = [f"{name},{stage}" for name, stage in rows]
        if name == "b.csv":
            lines[0] = "000.png,schizont"
        layouts.write(root / name, "\n".join(["image,label", *lines]))
    data = load(root)
    assert "images/000.png" not in data.index.sources
    assert_crops_show_their_cells(data)


@pytest.mark.parametrize("annotate", layouts.ANNOTATORS.values(), ids=layouts.ANNOTATORS)
def test_a_box_with_two_labels_is_a_counted_problem(root, annotate, load):
    """In any format; the other cells of the field are used."""
    layouts.write(root / "classes.txt", "\n".join(STAGES))
    for number in range(6):
        path = root / f"{number}.png"
        cells = layouts.smear(path, *THREE_STAGES, shift=number)
        if number == 0:
            cells.append(("gametocyte", cells[0][1]))
        annotate(path, path.name, cells, SIZE)
    data = load(root)
    assert cells_in_all(data) == {"ring": 5, "trophozoite": 6, "schizont": 6}
    assert "ring and gametocyte" in problem_reasons(data)


@pytest.mark.parametrize("one, zero", [("1", "0"), ("1.0", "0.0"), ("True", "False")])
def test_a_column_a_class(root, one, zero, load):
    """Of 0 and 1, as on Kaggle; the row of several classes is a problem."""
    lines = ["image,ring,trophozoite,schizont"]
    for name, stage in write_whole_crops(root):
        values = [one if stage == column else zero for column in THREE_STAGES]
        stem = name.removesuffix(".png")
        lines.append(",".join([stem, *values]))
    lines[1] = f"000,{one},{one},{zero}"
    layouts.write(root / "train.csv", "\n".join(lines))
    data = load(root)
    assert cells_in_all(data) == {"ring": 5, "trophozoite": 6, "schizont": 6}
    assert_crops_show_their_cells(data)
    assert "000 is ring and trophozoite" in problem_reasons(data)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["image first", "label first"])
def test_a_table_without_heads(root, order, load):
    """An image and its label a row."""
    rows = write_whole_crops(root)
    lines = []
    for row in rows:
        values = [row[column] for column in order]
        lines.append(",".join(values))
    layouts.write(root / "labels.csv", "\n".join(lines))
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


def test_boxes_without_heads_ask_for_them(root, load):
    """Corners, or sides: it cannot be told."""
    line = "{name},{left},{top},{right},{bottom},{label}"
    lines = [line.format(**row) for row in write_fields(root)]
    layouts.write(root / "boxes.csv", "\n".join(lines))
    refused(load, root, r"boxes\.csv.*line of heads")


def test_a_table_that_names_its_separator(root, load):
    """sep=; in the first line, as Excel wants it."""
    text = layouts.table("filename,label", write_crops_of_a_table(root), ";")
    layouts.write(root / "labels.csv", f"sep=;\n{text}")
    assert cells_in_all(load(root)) == dict.fromkeys(THREE_STAGES, 10)


def test_a_table_in_latin_1(root, load):
    """As Excel saves it in the west of Europe."""
    lines = ["Bild;image;label"]
    for number in range(12):
        stage = THREE_STAGES[number % 3]
        path = root / "Größe" / f"Präparat_{number}.png"
        layouts.paint_crops(root / "Größe", stage, 1, start=number)
        (root / "Größe" / f"{number:03d}.png").rename(path)
        lines.append(f"Nr. {number};{path.name};{stage}")
    (root / "labels.csv").write_bytes("\r\n".join(lines).encode("latin-1"))
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 4)
    assert_crops_show_their_cells(data)


@pytest.mark.parametrize("separator", [";", "\t"], ids=["semicolon", "tab"])
def test_decimal_commas(root, separator, load):
    """Pixels with a fraction, as a German Excel writes them."""
    rows = write_fields(root)
    text = layouts.table("image,label,x,y,w,h", rows, separator)
    numbers = re.sub(rf"{separator}(\d+)(?={separator}|\n)", rf"{separator}\1,25", text)
    layouts.write(root / "boxes.csv", numbers)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


KAGGLE_HEADS = ["id_code,diagnosis", "image_id,dx", "image,level", "Image Name,Cell Type"]


@pytest.mark.parametrize("heads", KAGGLE_HEADS)
def test_heads_of_kaggles_tables(root, heads, load):
    """With the stem of the image, or its name."""
    lines = [heads]
    for name, stage in write_whole_crops(root):
        lines.append(f"{name.removesuffix('.png')},{stage}")
    layouts.write(root / "train.csv", "\n".join(lines))
    assert_crops_show_their_cells(load(root))


@pytest.mark.parametrize("name", ["{}Labels.csv", "{}_set.csv", "{}labels.csv", "labels{}.csv"])
def test_the_name_of_a_table_tells_the_split(root, name, load):
    """trainLabels.csv and testLabels.csv."""
    rows = write_whole_crops(root)
    for split, part in (("train", rows[:9]), ("Test", rows[9:])):
        split = split if name.startswith("{}L") else split.title()
        lines = [f"{image},{stage}" for image, stage in part]
        layouts.write(root / name.format(split), "\n".join(["image,label", *lines]))
    splits = splits_by_source(load(root))
    assert {splits[f"images/{number:03d}.png"] for number in range(9, 18)} == {"test"}
    assert {splits[f"images/{number:03d}.png"] for number in range(9)} == {"train", "val"}


def test_a_table_without_labels_is_noted(root, load):
    """Kaggle's test.csv, or a list of scores."""
    rows = write_whole_crops(root)
    layouts.write(root / "train.csv", "\n".join(["image,label", *map(",".join, rows[:12])]))
    layouts.write(root / "test.csv", "\n".join(["image,age", *(f"{n},7" for n, _ in rows[12:])]))
    assert re.search("note: test.csv has no column of labels", load(root).table())


def test_a_table_of_points_is_named_with_the_mend(root, load):
    """Columns x and y alone are no box."""
    rows = write_fields(root)
    layouts.write(root / "boxes.csv", layouts.table("image,x,y,label", rows))
    refused(load, root, r"boxes\.csv.*points, not boxes")


def test_a_table_of_images_with_split_and_label_without_heads(root, load):
    """As MedMNIST's: TRAIN,train0_7.png,7."""
    rows = write_whole_crops(root)
    lines = []
    for number, (name, stage) in enumerate(rows):
        lines.append(f"{('TRAIN', 'VALIDATION', 'TEST')[number // 6]},{name},{stage}")
    layouts.write(root / "set.csv", "\n".join(lines))
    data = load(root)
    assert data.index.image_counts == {"train": 6, "val": 6, "test": 6}
    assert_crops_show_their_cells(data)


@pytest.mark.parametrize("head", ["parasite_type", "Cell Class", "wbc-label"])
def test_a_longer_head_of_the_labels(root, head, load):
    """Its last word says what it is."""
    text = layouts.table("filename,class,xmin,ymin,xmax,ymax", write_fields(root))
    layouts.write(root / "boxes.csv", text.replace("class", head, 1))
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


@pytest.mark.parametrize("change", ["second corner", "size of the image"])
def test_boxes_that_reach_out_of_their_images_are_refused(root, change, load):
    """What is said to be width and height is something else."""
    content = coco_of_discs(root, 8)
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x, y, x + w, y + h] if change == "second corner" else [x, y, *SIZE]
    layouts.write(root / "coco.json", content)
    refused(load, root, "boxes reach out of their images: .* second corner")


@pytest.mark.parametrize(
    "annotate", [layouts.annotate_in_coco, layouts.annotate_in_voc, layouts.annotate_in_iml]
)
def test_fractions_in_a_format_of_pixels_are_refused(root, annotate, load):
    """They would all be of the first pixel."""
    for number in range(6):
        path = root / f"{number}.png"
        cells = []
        for label, (x, y, w, h) in layouts.smear(path, *THREE_STAGES, shift=number):
            box = (x / SIZE[0], y / SIZE[1], w / SIZE[0], h / SIZE[1])
            cells.append((label, box))
        annotate(path, path.name, cells, SIZE)
    refused(load, root, "boxes are in fractions")


def test_a_label_that_contradicts_the_folder_is_a_counted_problem(root, load):
    """The image lies in the folder of another class of the table."""
    lines = ["image,label"]
    for label in THREE_STAGES:
        for number in range(6):
            path = root / label / f"{label[:2]}{number}.png"
            layouts.paint(path, layouts.crop_discs(label, number), layouts.CROP)
            lines.append(f"{path.name},{label}")
    lines[1] = "ri0.png,schizont"
    layouts.write(root / "labels.csv", "\n".join(lines))
    data = load(root)
    assert cells_in_all(data) == {"ring": 5, "trophozoite": 6, "schizont": 6}
    assert "lies in ring, and is labelled schizont" in problem_reasons(data)


@pytest.mark.parametrize(
    "sides", ["min_r,min_c,max_r,max_c", "row,col,size", "bbox_x,bbox_y,bbox_w,bbox_h"]
)
def test_boxes_in_columns_of_other_names_are_named(root, sides, load):
    """The whole field is not taken for the cell."""
    lines = [f"image,label,{sides}"]
    for number in range(6):
        layouts.smear(root / f"{number}.png", "ring", "schizont")
        values = ",".join("1234"[: len(sides.split(","))])
        lines.append(f"{number}.png,{THREE_STAGES[number % 2]},{values}")
    layouts.write(root / "boxes.csv", "\n".join(lines))
    refused(load, root, r"boxes\.csv: column \w+ is not read; give columns x, y, w, h")


# Hugging Face, LabelMe


def write_lines(path, items):
    """Write objects as JSON, one a line."""
    layouts.write(path, "\n".join(map(json.dumps, items)) + "\n")


def test_metadata_of_hugging_face_with_labels(root, load):
    """A file_name and a label a line, a file a split."""
    for split in ("train", "validation", "test"):
        items = []
        for label in THREE_STAGES:
            layouts.paint_crops(root / split / label[:2], label, 4)
            names = [f"{label[:2]}/{number:03d}.png" for number in range(4)]
            items += [{"file_name": name, "label": label} for name in names]
        write_lines(root / split / "metadata.jsonl", items)
    data = load(root)
    assert data.index.image_counts == {"train": 12, "val": 12, "test": 12}
    assert_crops_show_their_cells(data)


def test_metadata_of_hugging_face_with_boxes(root, load):
    """Objects with boxes x, y, w, h and categories."""
    boxes = {}
    for row in write_fields(root):
        objects = boxes.setdefault(row["name"], {"bbox": [], "categories": []})
        objects["bbox"].append([row[side] for side in ("left", "top", "width", "height")])
        objects["categories"].append(row["label"])
    items = [{"file_name": image, "objects": objects} for image, objects in boxes.items()]
    write_lines(root / "images" / "metadata.jsonl", items)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


def labelme_shapes(path, image, shapes):
    """Write a LabelMe file of [(class, kind of shape, points)]."""
    content = {"shapes": [], "imagePath": image, "imageWidth": SIZE[0], "imageHeight": SIZE[1]}
    for label, kind, points in shapes:
        content["shapes"].append({"label": label, "shape_type": kind, "points": points})
    layouts.write(path, content)


def opposite_corners(x, y):
    """A rectangle drawn from the upper right corner."""
    radius = layouts.RADIUS
    return "rectangle", [[x + radius, y - radius], [x - radius, y + radius]]


def outline(x, y):
    """A polygon around a cell."""
    radius = layouts.RADIUS
    return "polygon", [[x - radius, y], [x, y - radius], [x + radius, y], [x, y + radius]]


def circle(x, y):
    """A circle: its middle, and a point on it."""
    return "circle", [[x, y], [x + layouts.RADIUS * 0.6, y + layouts.RADIUS * 0.8]]


LABELME_SHAPES = [opposite_corners, outline, pytest.param(circle)]


@pytest.mark.parametrize("shape", LABELME_SHAPES)
def test_labelme(root, shape, load):
    """A JSON beside each image, with shapes of several kinds."""
    for number in range(6):
        discs = []
        shapes = []
        for label, (x, y) in zip(THREE_STAGES, layouts.SPOTS, strict=False):
            discs.append((label, x + number, y))
            shapes.append((label, *shape(x + number, y)))
        layouts.paint(root / f"s{number}.png", discs)
        labelme_shapes(root / f"s{number}.json", f"..\\scans\\s{number}.png", shapes)
    data = load(root)
    assert data.index.layout == "LabelMe JSON"
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)
    assert {round(box[2]) for box in data.index.boxes} == {2 * layouts.RADIUS}


def coco_of_discs(root, count=6):
    """Write a COCO file of fields of three cells each; returns its content."""
    rows = write_fields(root, count)
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(THREE_STAGES)]
    for number in range(count):
        image = {"id": number, "file_name": f"f{number}.png", "width": SIZE[0], "height": SIZE[1]}
        content["images"].append(image)
    for row in rows:
        box = [row[side] for side in ("left", "top", "width", "height")]
        entry = {"image_id": int(row["stem"][1:]), "bbox": box}
        content["annotations"].append(entry | {"category_id": THREE_STAGES.index(row["label"])})
    return content


def test_coco_polygons_have_boxes(root, load):
    """Where bbox is empty or not there."""
    content = coco_of_discs(root)
    for number, entry in enumerate(content["annotations"]):
        x, y, w, h = entry.pop("bbox")
        if number % 2:
            entry["bbox"] = []
        middle = [x, y + h / 2, x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h]
        entry["segmentation"] = [middle[:6], middle[4:]]
    layouts.write(root / "coco.json", content)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


def lose_a_category(content):
    """Take the last category out."""
    content["categories"].pop()


def lose_an_image(content):
    """Take the last image out."""
    content["images"].pop()


def repeat_an_id(content):
    """Give two images one id."""
    content["images"][1]["id"] = 0


def give_a_category_two_names(content):
    """Give two categories one id."""
    content["categories"][1]["id"] = 0


COCO_DAMAGE = {
    "category": (lose_a_category, 6, "category 2 is not among its categories"),
    "image": (lose_an_image, 3, "image 5 is not among its images"),
    "ids": (repeat_an_id, 2, "has id 0, as another image has"),
}


@pytest.mark.parametrize("damage, count, reason", COCO_DAMAGE.values(), ids=COCO_DAMAGE)
def test_what_coco_does_not_join_is_a_counted_problem(root, damage, count, reason, load):
    """Never None as a class, nor another image's boxes."""
    content = coco_of_discs(root)
    damage(content)
    layouts.write(root / "coco.json", content)
    data = load(root)
    assert len(data) < 18
    assert "None" not in data.classes
    assert len(re.findall(reason, problem_reasons(data))) == count
    assert_crops_show_their_cells(data)


def test_a_category_of_two_names_is_named(root, load):
    """Which of the two a cell is cannot be told."""
    content = coco_of_discs(root)
    give_a_category_two_names(content)
    layouts.write(root / "coco.json", content)
    refused(load, root, "category 0 is both ring and trophozoite")


def test_points_of_labelme_are_named_with_the_mend(root, load):
    """The other shapes of a file are used."""
    for number in range(6):
        path = root / f"s{number}.png"
        layouts.paint(path, [("ring", 40 + number, 30), ("schizont", 120, 60)])
        shapes = [("ring", *outline(40 + number, 30)), ("schizont", "point", [[120, 60]])]
        labelme_shapes(path.with_suffix(".json"), path.name, shapes)
    data = load(root)
    assert cells_in_all(data) == {"ring": 6}
    assert len(re.findall("a point of schizont is no box", problem_reasons(data))) == 6


def test_a_yolo_class_beyond_the_names_is_named(root, load):
    """As of a data.yaml of another set."""
    for number in range(6):
        path = root / f"{number}.png"
        cells = layouts.smear(path, "ring", "schizont", shift=number)
        layouts.annotate_in_yolo(path, path.name, cells[: 1 + number % 2], SIZE)
    layouts.write(root / "classes.txt", "ring\ntrophozoite")
    data = load(root)
    assert cells_in_all(data)["ring"] == 3
    assert len(re.findall("class 2 is beyond the 2 names", problem_reasons(data))) == 3


def test_yolo_classes_that_count_from_1_are_refused(root, load):
    """Those of the last name are beyond, all others would be of the name before theirs."""
    for number in range(6):
        path = root / f"{number}.png"
        cells = layouts.smear(path, *THREE_STAGES[: 1 + number % 3], shift=number)
        lines = [layouts.yolo_line(1 + STAGES.index(label), box) for label, box in cells]
        layouts.write(path.with_suffix(".txt"), "\n".join(lines))
    layouts.write(root / "classes.txt", "\n".join(THREE_STAGES))
    refused(load, root, "count from 1")


def test_points_of_yolo_are_named_with_the_mend(root, load):
    """A class and x, y: as in Chula's set."""
    for number in range(6):
        path = root / f"{number}.png"
        layouts.smear(path, "ring", shift=number)
        layouts.write(path.with_suffix(".txt"), "0 0.5 0.5\n")
    layouts.write(root / "classes.txt", "ring")
    refused(load, root, "points, not boxes")


def write_supervisely(root, geometry="rectangle"):
    """Write a Supervisely project: ds0/img/NAME and ds0/ann/NAME.json."""
    for number in range(6):
        path = root / "ds0" / "img" / f"s{number}.png"
        objects = []
        for label, (x, y, w, h) in layouts.smear(path, *THREE_STAGES, shift=number):
            points = {"exterior": [[x, y], [x + w, y + h]], "interior": []}
            objects.append({"classTitle": label, "geometryType": geometry, "points": points})
        size = {"width": SIZE[0], "height": SIZE[1]}
        content = {"description": "", "tags": [], "size": size, "objects": objects}
        layouts.write(root / "ds0" / "ann" / f"s{number}.png.json", content)
    layouts.write(root / "meta.json", {"classes": [], "tags": []})


def test_supervisely(root, load):
    """A JSON an image, by the image's name."""
    write_supervisely(root)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


def test_bitmaps_of_supervisely_are_named_with_the_mend(root, load):
    """They are no boxes."""
    write_supervisely(root, "bitmap")
    refused(load, root, "a bitmap is no box")


def label_studio_task(root, number, names=THREE_STAGES):
    """Write a field; returns its task in an export of Label Studio, in per cent."""
    name = f"s{number}.png"
    results = []
    for label, (x, y, w, h) in layouts.smear(root / "images" / name, *names, shift=number):
        value = {"x": 100 * x / SIZE[0], "y": 100 * y / SIZE[1], "rotation": 0}
        value |= {"width": 100 * w / SIZE[0], "height": 100 * h / SIZE[1]}
        value["rectanglelabels"] = [label]
        result = {"type": "rectanglelabels", "value": value, "from_name": "label"}
        results.append(result | {"original_width": SIZE[0], "original_height": SIZE[1]})
    answer = {"id": number, "result": results, "was_cancelled": False}
    upload = f"/data/upload/1/{number:08x}-{name}"
    return {"id": number, "data": {"image": upload}, "annotations": [answer]}


def test_label_studio(root, load):
    """Its JSON, with names as they were uploaded."""
    tasks = [label_studio_task(root, number) for number in range(6)]
    layouts.write(root / "project-1-at-2024.json", tasks)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 6)
    assert_crops_show_their_cells(data)


def test_two_people_who_differ_in_label_studio_are_a_counted_problem(root, load):
    """None of the two is a guess."""
    tasks = [label_studio_task(root, number) for number in range(6)]
    second = json.loads(json.dumps(tasks[0]["annotations"][0]))
    second["result"][0]["value"]["rectanglelabels"] = ["gametocyte"]
    tasks[0]["annotations"].append(second)
    layouts.write(root / "project.json", tasks)
    data = load(root)
    assert cells_in_all(data) == dict.fromkeys(THREE_STAGES, 5)
    assert data.index.skipped == 2


# Annotations that are known and not read


def via_regions():
    """One region of VIA."""
    shape = {"name": "rect", "x": 26, "y": 16, "width": 28, "height": 28}
    return [{"shape_attributes": shape, "region_attributes": {"stage": "ring"}}]


VIA_EXPORT = {"0.png9": {"filename": "0.png", "size": 9, "regions": via_regions()}}
CREATEML = [
    {
        "image": "0.png",
        "annotations": [
            {"label": "ring", "coordinates": {"x": 40, "y": 30, "width": 28, "height": 28}}
        ],
    }
]
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><image id="0" name="0.png" width="240" height="150">
<box label="ring" xtl="26" ytl="16" xbr="54" ybr="44"></box></image></annotations>
"""
VIA_TABLE = """\
filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes
0.png,9,{},1,0,"{""name"":""rect"",""x"":26,""y"":16}","{""stage"":""ring""}"
"""
UNREAD = {
    "VIA export": ("via.json", VIA_EXPORT, "VIA"),
    "VIA project": ("via.json", {"_via_img_metadata": VIA_EXPORT, "_via_settings": {}}, "VIA"),
    "CVAT": ("annotations.xml", CVAT, "CVAT"),
    "CreateML": ("_annotations.createml.json", CREATEML, "CreateML"),
    "Datumaro": ("default.json", {"info": {}, "categories": {}, "items": []}, "Datumaro"),
    "JSON-MIN": ("p.json", [{"image": "0.png", "label": [], "annotator": 1}], "Label Studio"),
}


@pytest.mark.parametrize("file, content, name", UNREAD.values(), ids=UNREAD)
def test_annotations_that_are_not_read_are_named_with_the_mend(root, file, content, name, load):
    """Not called damaged, or none."""
    layouts.write(root / file, content)
    for number in range(6):
        layouts.smear(root / f"{number}.png", "ring")
    refused(load, root, rf"{name}.*export it as COCO")


def test_a_table_of_via_is_named_with_the_mend(root, load):
    """Its boxes are JSON in a column."""
    layouts.write(root / "via.csv", VIA_TABLE)
    for number in range(6):
        layouts.smear(root / f"{number}.png", "ring")
    refused(load, root, "VIA.*export it as COCO")


def write_yolo_in_splits(root):
    """Write a YOLO set in the folders of Roboflow, without the names of its classes."""
    for split in ("train", "valid", "test"):
        for number in range(4):
            stem = f"smear_{number}_jpg.rf.{number:032x}"
            image = root / split / "images" / f"{stem}.png"
            label = root / split / "labels" / f"{stem}.txt"
            layouts.write_yolo(image, label, ["ring", "schizont"], shift=number)


def test_yolo_without_names_asks_for_them(root, load):
    """The labels are there, only their names are not."""
    write_yolo_in_splits(root)
    refused(load, root, r"YOLO.*classes\.txt")


@pytest.mark.parametrize("text", ["train: ../train/images\nnc: 3\n", ""], ids=["no names", "empty"])
def test_yolo_with_a_yaml_that_tells_no_names_asks_for_them(root, text, load):
    """As without the file."""
    write_yolo_in_splits(root)
    layouts.write(root / "data.yaml", text)
    refused(load, root, r"YOLO.*classes\.txt")


@pytest.mark.parametrize("folder", ["", "labels/", "labels/train/"])
def test_two_files_of_class_names_that_differ_are_named(root, folder, load):
    """Which one has the right order cannot be told."""
    for number in range(6):
        image = root / "images" / f"{number}.png"
        label = root / f"{folder or 'labels/'}{number}.txt"
        layouts.write_yolo(image, label, ["ring", "schizont"], shift=number)
    layouts.write(root / "data.yaml", "names: [ring, Gametocyte, schizont]")
    layouts.write(root / f"{folder}classes.txt", "schizont\nring\nGametocyte")
    refused(load, root, "name other classes; keep one")


def test_each_of_two_sets_has_its_own_class_names(root, load):
    """The files of names lie in the folders of the sets."""
    for name, order in (("setA", ("ring", "schizont")), ("setB", ("schizont", "ring"))):
        for number in range(4):
            stem = f"{name}_{number}"
            cells = layouts.smear(root / name / "images" / f"{stem}.png", *order, shift=number)
            lines = [layouts.yolo_line(order.index(label), box) for label, box in cells]
            layouts.write(root / name / "labels" / f"{stem}.txt", "\n".join(lines))
        layouts.write(root / name / "data.yaml", f"names: [{', '.join(order)}]")
    data = load(root)
    assert cells_in_all(data) == {"ring": 8, "schizont": 8}
    assert_crops_show_their_cells(data)


def test_masks_alone_are_named(root, load):
    """They tell where cells are, not of which class."""
    layouts.paint_crops(root / "images", "ring", 8)
    layouts.paint_crops(root / "masks", "schizont", 8)
    try:
        said = load(root).table()
    except malaria.UsageError as error:
        said = str(error)
    assert re.search("masks", said)


# Files that are none, or of strange sizes


def read_in(root, seconds):
    """The fields of a folder, which have to be read in so many seconds."""
    start = time.monotonic()
    _, fields = read_fields(DataFolder(root, str(root)), malaria.layout_readers())
    assert time.monotonic() - start < seconds
    return fields


def write_large(root, annotate, count):
    """Write a field of so many cells, and three of one."""
    for number in range(4):
        path = root / f"{number}.png"
        layouts.smear(path, "ring")
        places = range(count if number == 0 else 1)
        cells = [("ring", (place % 200, place // 200 % 120, 20, 20.5)) for place in places]
        annotate(path, path.name, cells, SIZE)
    layouts.write(root / "classes.txt", "\n".join(STAGES))


def write_patients_of_one_name(root, annotate, count):
    """Write so many patients, each with the field 000.png; also a list a patient."""
    for number in range(count):
        patient = root / f"patient_{number}"
        cells = layouts.smear(patient / "images" / "000.png", "ring")
        annotate(patient / "labels" / "000.png", "000.png", cells, SIZE)
        split = malaria.SPLITS[number % 3]
        layouts.write(patient / "ImageSets" / f"{split}.txt", "000\n")
    layouts.write(root / "classes.txt", "\n".join(STAGES))


each_format = pytest.mark.parametrize(
    "annotate", layouts.ANNOTATORS.values(), ids=layouts.ANNOTATORS
)


@each_format
def test_many_cells_of_one_image(root, annotate):
    """Their number does not count twice."""
    write_large(root, annotate, 5000)
    assert len(read_in(root, seconds=10)) == 4


@pytest.mark.attack
@each_format
def test_very_many_cells_of_one_image(root, annotate):
    """Sixty thousand."""
    write_large(root, annotate, 60_000)
    assert len(read_in(root, seconds=60)) == 4


@each_format
def test_many_patients_with_images_of_one_name(root, annotate):
    """Nobody's image is compared with that of every other one."""
    write_patients_of_one_name(root, annotate, 90)
    fields = read_in(root, seconds=15)
    splits = Counter(field.split for field in fields)
    assert splits == {"train": 30, "val": 30, "test": 30}


@pytest.mark.attack
@each_format
def test_very_many_patients_with_images_of_one_name(root, annotate):
    """Two thousand."""
    write_patients_of_one_name(root, annotate, 2000)
    assert len(read_in(root, seconds=120)) == 2000


@pytest.mark.attack
def test_a_file_of_very_many_cells(root):
    """Seven hundred thousand of seven hundred images."""
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": 0, "name": "ring"}]
    for number in range(700):
        layouts.smear(root / "images" / f"{number}.png", "ring")
        content["images"].append({"id": number, "file_name": f"{number}.png"})
        for place in range(1000):
            box = [place % 200, place // 200 * 20, 20, 20]
            entry = {"image_id": number, "category_id": 0, "bbox": box}
            content["annotations"].append(entry)
    layouts.write(root / "coco.json", content)
    assert len(read_in(root, seconds=120)) == 700


LONG_WORDS = ["9" * 40_000, "9" * 40_000 + "x", "a9" * 20_000, "/" * 40_000, "train" * 9000]


@pytest.mark.parametrize("word", LONG_WORDS, ids=lambda word: word[:5])
def test_names_and_classes_of_many_letters_are_counted_problems(root, word):
    """Neither slow nor in the way of the others."""
    content = coco_of_discs(root)
    content["images"][0]["file_name"] = word
    content["images"][1]["file_name"] = f"{word}/f1.jpeg"
    content["categories"][2]["name"] = word
    layouts.write(root / "coco.json", content)
    folder = DataFolder(root, str(root))
    start = time.monotonic()
    with pytest.raises(DataError):
        read_fields(folder, malaria.layout_readers())
    assert time.monotonic() - start < 10


def test_a_number_of_many_digits_is_a_counted_problem(root, load):
    """In JSON; so is an entry of another kind."""
    layouts.write_iml(root, [("ring",)] * 6)
    layouts.write(root / "odd.json", '[{"image_name": ' + "9" * 40_000 + "}]")
    layouts.write(root / "odder.json", json.dumps([{"image_name": "PA000.JPG", "objects": 7}]))
    data = load(root)
    assert len(data) == 6
    assert data.index.skipped == 2


def test_yaml_that_grows_is_refused(root, load):
    """Names that are lists of lists of lists."""
    write_yolo_in_splits(root)
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        above = ", ".join([f"*a{level - 1}"] * 9)
        text += f"a{level}: &a{level} [{above}]\n"
    layouts.write(root / "data.yaml", f"{text}names: *a11\n")
    refused(load, root, r"YOLO.*classes\.txt")


def test_a_large_file_of_names_is_refused(root, load):
    """It is none."""
    write_yolo_in_splits(root)
    layouts.write(root / "data.yaml", "names: [ring]\n" + "# more\n" * 200_000)
    refused(load, root, r"YOLO.*classes\.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
@pytest.mark.parametrize("name", ["a.json", "a.xml", "a.csv", "a.png", "train.txt", "data.yaml"])
def test_pipes_and_devices_are_passed_over(root, name, load):
    """Nothing waits for them."""
    class_folders(root, ["ring", "trophozoite"])
    os.mkfifo(root / name)
    (root / "ring" / name).symlink_to("/dev/zero")
    assert len(load(root)) == 12


def test_links_to_folders_above_are_not_followed(root, load):
    """Other data lies there; links to elsewhere are."""
    class_folders(root.parent / "other", ["difficult"])
    class_folders(root.parent / "elsewhere", ["schizont"])
    class_folders(root, ["ring", "trophozoite"])
    (root / "ring" / "up").symlink_to(root.parent, target_is_directory=True)
    (root / "ring" / "round").symlink_to(root, target_is_directory=True)
    (root / "more").symlink_to(root.parent / "elsewhere", target_is_directory=True)
    data = load(root)
    assert cells_in_all(data) == {"ring": 6, "trophozoite": 6, "schizont": 6}
    assert "links to a folder above the data; not followed" in data.table()


# To look at


@pytest.fixture
def pictures(monkeypatch):
    """The pictures of every gallery that a test draws."""
    drawn = []

    def remember(path, title, pictures, columns=8):
        drawn.extend(pictures)
        path.write_bytes(b"a picture")

    monkeypatch.setattr("extras.more_plots.gallery", remember)
    return drawn


def run_task_data(run_script, root, cwd, *flags):
    """Run --task data at 32 pixels in a folder; it has to end well."""
    done = run_script("--data_path", root, "--task", "data", "--image_size", 32, *flags, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def write_with_problems(root):
    """Write class folders with an image that cannot be read and one of a phone."""
    class_folders(root, THREE_STAGES, 10)
    layouts.write(root / "ring" / "broken.png", "not an image")
    layouts.write(root / "ring" / "IMG_1.HEIC", "of a phone")


def test_task_data_draws_crops(root, tmp_path, run_script):
    """results/data/cells.png is a picture."""
    write_with_problems(root)
    run_task_data(run_script, root, tmp_path)
    with Image.open(tmp_path / "results" / "data" / "cells.png") as image:
        assert image.convert("L").getextrema()[0] < 200


def test_the_sheet_has_crops_of_every_class_and_split(root, tmp_path, run_script, pictures):
    """A few of each."""
    write_with_problems(root)
    run_task_data(run_script, root, tmp_path)
    shown = Counter(picture.caption.partition("\n")[0] for picture in pictures)
    expected = {f"{split}, {name}" for split in malaria.SPLITS for name in THREE_STAGES}
    assert set(shown) == expected
    assert max(shown.values()) <= 8


def test_the_sheet_names_files(root, tmp_path, run_script, pictures):
    """Under every crop is the file it is from."""
    write_with_problems(root)
    run_task_data(run_script, root, tmp_path)
    for picture in pictures:
        assert re.search(r"\d{3}\.png$", picture.caption)


def test_the_sheets_crops_are_of_their_classes(root, tmp_path, run_script, pictures):
    """As the caption says."""
    write_with_problems(root)
    run_task_data(run_script, root, tmp_path)
    for picture in pictures:
        name = re.search(r", (\w+)", picture.caption)[1]
        middle = picture.image[16, 16].astype(int)
        assert np.abs(middle - layouts.COLOURS[name]).max() < 12


def test_task_data_lists_what_is_skipped(root, tmp_path, run_script, pictures):
    """results/data/skipped.csv: file and reason, a line each."""
    write_with_problems(root)
    run_task_data(run_script, root, tmp_path)
    path = tmp_path / "results" / "data" / "skipped.csv"
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["file", "reason"]
    assert {Path(name).name for name, _ in rows} == {"broken.png", "IMG_1.HEIC"}
    assert all(reason for _, reason in rows)


def test_json_stays_alone_on_standard_output(root, tmp_path, run_script, pictures):
    """The sheet adds nothing to it."""
    write_with_problems(root)
    done = run_task_data(run_script, root, tmp_path, "--json")
    assert json.loads(done.stdout)["skipped"] == 2


def test_results_in_the_data_folder_are_not_read_the_next_time(root, run_script, pictures):
    """--results_dir in the data folder: both runs find the same."""
    layouts.paint_crops(root, "ring", 20)
    flags = ("--results_dir", root / "out", "--json")
    first = run_task_data(run_script, root, root, *flags)
    second = run_task_data(run_script, root, root, *flags)
    assert json.loads(first.stdout)["splits"] == json.loads(second.stdout)["splits"]


@pytest.fixture
def run_of_a_gan(root, tmp_path, run_script, monkeypatch, pictures):
    """The folder of a run of --task gan on images without labels."""
    for name in ("report_generator", "plot_training", "plot_weights"):
        monkeypatch.setattr(malaria, name, lambda *arguments: None)
    monkeypatch.setattr("extras.more_plots.animate_samples", lambda *arguments: None)
    layouts.paint_crops(root / "celeba", "ring", 40)
    layouts.write(root / "celeba" / "broken.png", "not an image")
    small = ("--image_size", 28, "--g_width", 8, "--d_width", 8, "--batch_size", 4)
    short = ("--epochs", 1, "--min_steps", 1, "--task", "gan")
    done = run_script("--data_path", root, *small, *short, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "results" / "gan"


def test_a_run_has_the_sheet_of_its_data(run_of_a_gan, pictures):
    """Training writes what --task data writes."""
    assert (run_of_a_gan / "cells.png").exists()
    assert len(pictures) >= 3


def test_a_run_lists_what_is_skipped(run_of_a_gan):
    """In its own folder."""
    assert "broken.png" in (run_of_a_gan / "skipped.csv").read_text(encoding="utf-8")
