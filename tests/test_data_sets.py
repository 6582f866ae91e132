"""README.txt's table: every data set can be trained on, explained and tested."""

import json
from pathlib import Path

import image_files
import layouts
import pytest
from conftest import ROOT, leave_out_reports

import rollNumber_05 as malaria

FEW_STEPS = ("--epochs", 1, "--min_steps", 2, "--batch_size", 8, "--g_width", 16, "--d_width", 16)


def write_fields(root, annotate):
    """Write 24 fields of two cells, each with a file of annotations beside it."""
    for number in range(24):
        path = root / f"{number:03d}.png"
        names = [layouts.STAGES[(number + shift) % 4] for shift in (0, 1)]
        annotate(path, path.name, layouts.smear(path, *names), (layouts.WIDTH, layouts.HEIGHT))


def write_labelme(root):
    """LabelMe JSON beside each image."""
    write_fields(root, layouts.annotate_in_labelme)


def write_csv(root):
    """One table for all images."""
    lines = ["filename,class,xmin,ymin,xmax,ymax"]

    def note(path, image, cells, size):
        for name, (x, y, w, h) in cells:
            values = (image, name, x, y, x + w, y + h)
            lines.append(",".join(map(str, values)))

    write_fields(root, note)
    layouts.write(root / "cells.csv", "\n".join(lines) + "\n")


def write_jsonl(root):
    """metadata.jsonl, as on Hugging Face."""
    lines = []

    def note(path, image, cells, size):
        objects = {"bbox": [list(box) for _, box in cells], "category": [name for name, _ in cells]}
        lines.append(json.dumps({"file_name": image, "objects": objects}))

    write_fields(root, note)
    layouts.write(root / "metadata.jsonl", "\n".join(lines) + "\n")


def write_unlabelled(root):
    """Images in one folder."""
    write_fields(root, lambda *ignored: None)


FOLDERS = {  # row of the table: what writes such a set into a folder
    "M5": layouts.m5_published,
    "Pascal VOC": lambda root: write_fields(root, layouts.annotate_in_voc),
    "IML": layouts.iml,
    "BBBC041": layouts.bbbc041,
    "COCO": layouts.coco_published,
    "LabelMe": write_labelme,
    "YOLO": layouts.yolo_yaml,
    "CSV": write_csv,
    "metadata.jsonl": write_jsonl,
    "class folders": layouts.class_folders,
}
IMAGE_SETS = {  # row of the table: flags, and what writes the files
    "MNIST": ("mnist", lambda root: image_files.write_mnist(root / "MNIST/raw")),
    "Fashion-MNIST": ("fashion_mnist", lambda r: image_files.write_mnist(r / "FashionMNIST/raw")),
    "CIFAR-10": ("cifar10", lambda root: image_files.write_cifar(root / "cifar-10-batches-py")),
    "MedMNIST": ("auto", lambda root: image_files.write_npz(root / "cells.npz")),
}


@pytest.fixture
def train(run_script, tmp_path):
    """A function that runs a task on the folder `data`, without its report; it has to end well."""

    def run(task, *flags):
        with pytest.MonkeyPatch.context() as patch:
            leave_out_reports(patch)
            common = ("--task", task, "--data_path", "data", "--image_size", 28, *FEW_STEPS)
            done = run_script(*common, *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return tmp_path / "results" / task / "last.pt"

    return run


def train_both_and_test(train, run_script, run_tester, cwd, *flags):
    """Train a gan and an mtd on it; explain it, and ask test.py about an image."""
    dcgan = train("gan", *flags)
    mtd = train("mtd", "--weights", dcgan, *flags)
    reading = ("--data_path", "data", "--image_size", 28, *flags)
    done = run_script("--task", "gradcam", "--weights", mtd, *reading, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert (cwd / "results/gradcam/gradcam_real_fake.png").exists()
    image = cwd / "one.png"
    layouts.smear(image, "ring")
    done = run_tester("--model", "mtd", "--weights", mtd, "--image", image, cwd=cwd)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("row", FOLDERS)
def test_every_layout_is_trained_on(row, train, run_script, run_tester, tmp_path):
    """Both tasks, Grad-CAM and test.py."""
    FOLDERS[row](tmp_path / "data")
    train_both_and_test(train, run_script, run_tester, tmp_path)


@pytest.mark.parametrize("row", IMAGE_SETS)
def test_every_image_set_is_trained_on(row, train, run_script, run_tester, tmp_path):
    """Both tasks, Grad-CAM and test.py."""
    dataset, write = IMAGE_SETS[row]
    write(tmp_path / "data")
    train_both_and_test(train, run_script, run_tester, tmp_path, "--dataset", dataset)


def test_images_without_labels_are_trained_on(train, tmp_path):
    """By a gan."""
    write_unlabelled(tmp_path / "data")
    train("gan")


def test_the_table_of_the_readme_is_tested_here():
    """Each of its rows is one of these, or two."""
    text = (ROOT / "README.txt").read_text(encoding="utf-8")
    table = text.partition("gan  mtd, gradcam\n")[2].partition("\n\n")[0]
    names = []
    for line in table.splitlines():
        first_column = line.partition("  x")[0].strip()
        names += first_column.split(", ")
    assert set(names) == {*FOLDERS, *IMAGE_SETS, "no labels"}


def test_sizes_and_channels_of_an_image_set(train, tmp_path):
    """Grey digits at 64 pixels in colour."""
    image_files.write_mnist(tmp_path / "data/MNIST/raw")
    last = train("gan", "--dataset", "mnist", "--image_size", 64, "--channels", 3)
    assert malaria.read_state(Path(last))["config"]["channels"] == 3
