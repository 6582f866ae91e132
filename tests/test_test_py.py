"""The program test.py: its JSON, images, noise, labels and the test function."""

import io
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT

import rollNumber_05 as malaria
from extras import classes, crops

ANSWER = {"label", "probabilities", "real_probability", "unlike_training_cells"}
IMAGE = "results/demo_data/images/demo_000.png"  # of the demo run


# Images to answers: --image


def cell_pictures():
    """{file name: array} of every kind of image file, as cv2 writes them."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (50, 70, 3), np.uint8)
    grey = colour[:, :, 0]
    return {
        "grey.png": grey,
        "rgba.png": np.dstack([colour, grey]),
        "rgb.jpg": colour,
        "deep.png": colour.astype(np.uint16) * 257,
        "tiny.bmp": colour[:3, :2],
        "wide.tif": grey,
    }


@pytest.fixture(scope="module")
def answered_folder(tmp_path_factory, demo, run_tester):
    """test.py's finished run on a folder of cell_pictures and a damaged one, with --json."""
    folder = tmp_path_factory.mktemp("answered")
    (folder / "cells").mkdir()
    for name, image in cell_pictures().items():
        cv2.imwrite(str(folder / "cells" / name), image)
    (folder / "cells/broken.png").write_bytes(b"no image")
    flags = ("--model", "mtd", "--weights", demo.mtd, "--image", "cells", "--json")
    done = run_tester(*flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def predictions(answered_folder):
    """What its JSON says."""
    return json.loads(answered_folder.stdout)["predictions"]


def test_every_readable_image_in_a_folder_has_a_prediction(predictions):
    """By its file name, in order."""
    names = [prediction["image"].replace("\\", "/") for prediction in predictions]
    assert names == sorted(f"cells/{name}" for name in cell_pictures())


def test_an_unreadable_image_in_a_folder_is_named(answered_folder):
    """On standard error."""
    assert "passed over: cells" in answered_folder.stderr
    assert "broken.png" in answered_folder.stderr


def test_a_prediction_has_the_keys_of_the_contract(predictions):
    """No others."""
    for prediction in predictions:
        assert prediction.keys() == {"image", *ANSWER}


def test_probabilities_are_of_the_four_stages(predictions):
    """By name."""
    for prediction in predictions:
        assert list(prediction["probabilities"]) == list(classes.STAGES)


def test_probabilities_sum_to_one(predictions):
    """As those of one class an image do."""
    for prediction in predictions:
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_the_label_is_the_likeliest_class(predictions):
    """Of the probabilities beside it."""
    for prediction in predictions:
        probabilities = prediction["probabilities"]
        assert prediction["label"] == max(probabilities, key=probabilities.get)


def test_the_real_probability_is_one(predictions):
    """From 0 to 1."""
    for prediction in predictions:
        assert 0 <= prediction["real_probability"] <= 1


def test_without_json_an_answer_is_a_line_of_a_table(demo, run_tester):
    """Under a line of column names."""
    done = run_tester("--model", "mtd", "--image", IMAGE, cwd=demo.folder)
    head, line = done.stdout.splitlines()
    assert head.split() == ["image", "label", *classes.STAGES, "real"]
    assert line.split()[0] == IMAGE


def test_a_name_that_the_terminal_cannot_write_is_escaped(demo, tmp_path, monkeypatch, program):
    """As on Windows, where output to a file is in cp1252."""
    shutil.copy(demo.folder / IMAGE, tmp_path / "клетка.png")
    monkeypatch.chdir(tmp_path)
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="cp1252"))
    flags = ["--model", "mtd", "--weights", str(demo.mtd), "--image", "клетка.png"]
    assert malaria.main(program.run, flags) == 0
    sys.stdout.flush()
    assert rb"\u043a" in output.getvalue()


# A data set to scores: --data_path


@pytest.fixture(scope="module")
def scores(demo, run_tester):
    """What test.py says, with --json, of the demo set's test split."""
    flags = ("--model", "mtd", "--data_path", "results/demo_data", "--json")
    done = run_tester(*flags, cwd=demo.folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_scores_have_the_keys_of_the_contract(scores):
    """No others."""
    assert scores.keys() == {
        "split",
        "n",
        "accuracy",
        "balanced_accuracy",
        "per_class",
        "confusion_matrix",
        "classes",
    }


def test_scores_of_a_class_have_the_keys_of_the_contract(scores):
    """No others."""
    for numbers in scores["per_class"].values():
        assert numbers.keys() == {"precision", "recall", "f1", "support"}


def test_scores_are_of_the_test_split(scores):
    """Unless another one is asked for."""
    assert scores["split"] == "test"


@pytest.mark.parametrize("name", ["n", "accuracy", "balanced_accuracy", "confusion_matrix"])
def test_scores_agree_with_those_of_the_run(demo, scores, name):
    """In scores.json."""
    text = (demo.folder / "results/mtd/scores.json").read_text(encoding="utf-8")
    assert scores[name] == json.loads(text)["test"][name]


@pytest.mark.parametrize(("split", "count"), [("val", 55), ("all", 404)])
def test_other_splits_can_be_scored(demo, run_tester, split, count):
    """One of them, or all together."""
    flags = ("--model", "mtd", "--data_path", "results/demo_data", "--json", "--split", split)
    done = run_tester(*flags, cwd=demo.folder)
    assert json.loads(done.stdout)["n"] == count


def test_without_json_scores_are_a_table(demo, run_tester):
    """A line for all, column names, and a line a class."""
    flags = ("--model", "mtd", "--data_path", "results/demo_data")
    lines = run_tester(*flags, cwd=demo.folder).stdout.splitlines()
    assert lines[0].startswith("test: n 56, accuracy 0.")
    assert [line.split()[0] for line in lines[1:]] == ["class", *classes.STAGES]


# Noise to images: --model gan


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, demo, run_tester):
    """A folder where test.py has drawn three images twice with one seed, and from its noise."""
    folder = tmp_path_factory.mktemp("drawn")
    generator = malaria.load_checkpoint(demo.gan).generator
    np.save(folder / "z.npy", malaria.latents(3, generator, 5).numpy())
    flags = ("--model", "gan", "--weights", demo.gan, "--out")
    three = ("--num_images", 3, "--seed", 5)
    for out, how in (("first", three), ("again", three), ("noise", ("--noise", "z.npy"))):
        done = run_tester(*flags, out, *how, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_every_image_is_a_file_beside_the_grid(drawn):
    """Numbered from 0000.png."""
    names = sorted(path.name for path in (drawn / "first").iterdir())
    assert names == ["0000.png", "0001.png", "0002.png", "grid.png"]


@pytest.mark.parametrize("out", ["again", "noise"])
@pytest.mark.parametrize("name", ["0000.png", "0001.png", "0002.png", "grid.png"])
def test_the_same_noise_gives_the_same_images(drawn, out, name):
    """From the same seed, or from a file."""
    assert (drawn / out / name).read_bytes() == (drawn / "first" / name).read_bytes()


def test_json_of_images_from_noise_names_the_files(demo, tmp_path, run_tester):
    """One object on standard output."""
    flags = ("--model", "gan", "--weights", demo.gan, "--num_images", 2, "--out", "out", "--json")
    found = json.loads(run_tester(*flags, cwd=tmp_path).stdout)
    assert found.keys() == {"grid", "images"}
    for name in (found["grid"], *found["images"]):
        assert (tmp_path / name).exists()


def test_an_mtds_generator_draws_too(demo, tmp_path, run_tester):
    """With --model gan and the weights of an MTD."""
    flags = ("--model", "gan", "--weights", demo.mtd, "--num_images", 1, "--out", "out")
    assert run_tester(*flags, cwd=tmp_path).returncode == 0
    assert (tmp_path / "out/0000.png").exists()


# A conditional generator draws the class that it is asked for


@pytest.fixture(scope="module")
def conditional_folder(tmp_path_factory, run_tester):
    """A folder with conditional.pt, and four images of it: of all classes, and of schizonts."""
    folder = tmp_path_factory.mktemp("conditional")
    config = malaria.Config(conditional=True, image_size=28, g_width=16, d_width=16)
    trainer = malaria.Trainer("mtd", config, classes.STAGES, "cpu")
    malaria.save_checkpoint(trainer.state(), folder / "conditional.pt")
    flags = ("--model", "gan", "--weights", "conditional.pt", "--num_images", 4, "--out")
    for out, label in (("all", ()), ("schizonts", ("--label", "Schizonts"))):
        done = run_tester(*flags, out, *label, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("number", range(4))
def test_a_label_chooses_the_class(conditional_folder, number):
    """Without one the classes come in turn, of which the schizont is the third."""
    name = f"{number:04d}.png"
    of_all = (conditional_folder / "all" / name).read_bytes()
    of_schizonts = (conditional_folder / "schizonts" / name).read_bytes()
    is_schizont = classes.STAGES[number] == "schizont"
    assert (of_all == of_schizonts) == is_schizont


def test_a_label_that_is_no_class_is_refused(conditional_folder, run_tester):
    """In one line that names it."""
    flags = ("--model", "gan", "--weights", "conditional.pt", "--label", "leukocyte")
    done = run_tester(*flags, cwd=conditional_folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --label leukocyte: not a class of conditional.pt")
    assert done.stderr.count("\n") == 1


def test_a_label_for_a_plain_generator_is_refused(demo, run_tester):
    """In one line that says why."""
    done = run_tester("--model", "gan", "--label", "ring", cwd=demo.folder)
    assert done.returncode == 2
    assert "is not conditional" in done.stderr


# The test function


def test_noise_of_one_image_gives_one_image(program, demo):
    """An array (S, S, C) of uint8."""
    image = program.test("gan", demo.gan, np.zeros(100))
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8


def test_noise_of_several_images_gives_several(program, demo):
    """An array (N, S, S, C)."""
    assert program.test("gan", demo.gan, np.zeros((2, 100))).shape == (2, 32, 32, 3)


def test_noise_can_be_a_file(program, demo, tmp_path):
    """As an array of it."""
    noise = np.random.default_rng(0).normal(size=(2, 100))
    np.save(tmp_path / "z.npy", noise)
    from_file = program.test("gan", demo.gan, tmp_path / "z.npy")
    assert np.array_equal(from_file, program.test("gan", demo.gan, noise))


def test_the_architecture_can_be_a_generator(program, demo):
    """Its weights are then those of the file."""
    generator = malaria.Generator(image_size=32)
    images = program.test(generator, demo.gan, np.ones((2, 100)))
    assert np.array_equal(images, program.test("gan", demo.gan, np.ones((2, 100))))
    trained = malaria.load_checkpoint(demo.gan).generator
    assert torch.equal(generator.project[0].weight, trained.project[0].weight)
    assert generator.symmetry == trained.symmetry == "all"


def test_an_image_gives_an_answer(program, demo):
    """With the keys of the contract but the image's name."""
    answer = program.test("mtd", demo.mtd, demo.folder / IMAGE)
    assert answer.keys() == ANSWER


def test_an_image_can_be_an_array(program, demo):
    """As a file of it."""
    array = crops.read_image(demo.folder / IMAGE)
    answer = program.test("mtd", demo.mtd, array)
    assert answer == program.test("mtd", demo.mtd, demo.folder / IMAGE)


def test_the_architecture_can_be_an_mtd(program, demo):
    """The answer is that of the file's weights."""
    mtd = malaria.MultiTaskDiscriminator(num_classes=4, image_size=32)
    answer = program.test(mtd, demo.mtd, demo.folder / IMAGE)
    assert answer == program.test("mtd", demo.mtd, demo.folder / IMAGE)


def test_several_images_give_several_answers(program, demo):
    """A list of them, in order, each as alone."""
    images = [np.zeros((9, 9), np.uint8), crops.read_image(demo.folder / IMAGE)]
    answers = program.test("mtd", demo.mtd, images)
    alone = [program.test("mtd", demo.mtd, image) for image in images]
    for answer, expected in zip(answers, alone, strict=True):
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)


@pytest.mark.parametrize(
    "array",
    [
        np.full((9, 9), 40000, np.uint16),
        np.full((9, 9), 40000 / 65535),
        np.full((9, 9, 1), 156, np.uint8),
        np.full((9, 9, 3), 156, np.int64),
        np.full((9, 9, 4), 156, np.uint8),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_arrays_of_every_kind_are_the_same_image(program, demo, array):
    """Of the grey value 156 of 255."""
    answer = program.test("mtd", demo.mtd, array)
    expected = program.test("mtd", demo.mtd, np.full((9, 9), 156, np.uint8))
    assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([["cell"]]),
        torch.zeros(9, 9, requires_grad=True),
        np.zeros(9),
        np.full((9, 9), np.nan),
    ],
    ids=["text", "needs a gradient", "one row", "not finite"],
)
def test_an_array_that_is_no_image_is_refused(program, demo, wrong):
    """The line says what an image is."""
    with pytest.raises(malaria.UsageError, match="array"):
        program.test("mtd", demo.mtd, wrong)


@pytest.mark.parametrize(
    "wrong",
    [np.full(100, 1e300), np.zeros(99), np.zeros((0, 100)), np.zeros((1, 1, 100))],
    ids=["infinite in float32", "too short", "none", "three axes"],
)
def test_an_array_that_is_no_noise_is_refused(program, demo, wrong):
    """The line says what noise is."""
    with pytest.raises(malaria.UsageError, match="--noise: needs finite numbers of shape"):
        program.test("gan", demo.gan, wrong)


@pytest.mark.parametrize("wrong", [np.full(100, 1j), np.full(100, "z")], ids=["complex", "text"])
def test_noise_of_other_things_than_numbers_is_refused(program, demo, wrong):
    """The line says so."""
    with pytest.raises(malaria.UsageError, match="not an array or .npy file of numbers"):
        program.test("gan", demo.gan, wrong)


def test_weights_of_another_kind_are_refused(program, demo):
    """The line says of which they are."""
    with pytest.raises(malaria.UsageError, match="weights of a gan, not of a mtd"):
        program.test("mtd", demo.gan, demo.folder / IMAGE)


def test_weights_of_another_size_are_refused(program, demo):
    """They do not fit the architecture."""
    with pytest.raises(malaria.UsageError, match="does not fit this architecture"):
        program.test(malaria.Generator(image_size=64), demo.gan, np.zeros(100))


def test_weights_of_other_layers_are_refused(program, demo):
    """A fixed filter has no weights that could be missing."""
    generator = malaria.Generator(image_size=32, smooth=False)
    with pytest.raises(malaria.UsageError, match="does not fit .* smooth"):
        program.test(generator, demo.gan, np.zeros(100))


# Wrong usage


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("", "--model"),
        ("--model cnn", "--model"),
        ("--model mtd", "--image"),
        ("--model mtd --image nowhere.png", "nowhere.png"),
        ("--model mtd --image " + "x" * 300, "xxx"),
        ("--model mtd --data_path nowhere", "nowhere"),
        ("--model mtd --image a.png --split val", "--split"),
        ("--model gan --split val", "--split"),
        ("--model mtd --image a.png --data_path b", "--image"),
        ("--model mtd --image a.png --label ring", "--label"),
        ("--model mtd --weights saved_models/gan.pt --image a.png", "saved_models/gan.pt"),
        ("--model gan --weights nowhere.pt", "nowhere.pt"),
        ("--model gan --wieghts x", "did you mean --weights?"),
        ("--model gan --image a.png", "--image"),
        ("--model gan --num_images 0", "--num_images"),
        ("--model gan --noise nowhere.npy", "nowhere.npy"),
        ("--model gan --seed -1", "--seed"),
        ("--model gan --out saved_models/gan.pt", "--out"),
    ],
)
def test_wrong_usage_of_test_py(demo, run_tester, command, named):
    """Exit code 2, and one line on standard error that names the flag or file."""
    done = run_tester(*command.split(), cwd=demo.folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr


# From where, and what


def test_weights_beside_test_py_are_found_from_elsewhere(tmp_path, run_tester):
    """Whether they are named or not."""
    for flags in (("--weights", "saved_models/gan.pt"), ()):
        done = run_tester("--model", "gan", *flags, "--num_images", 1, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_weights_here_come_first(demo, run_tester, tmp_path):
    """saved_models/ of the working folder, as a run there has left it."""
    (tmp_path / "saved_models").mkdir()
    (tmp_path / "saved_models/gan.pt").write_bytes(b"not a checkpoint")
    done = run_tester("--model", "gan", cwd=tmp_path)
    assert done.returncode == 2
    assert "saved_models/gan.pt: not a checkpoint" in done.stderr


def test_folders_of_classes_are_walked(demo, run_tester, tmp_path):
    """An answer for each image, by its path."""
    image = next((demo.folder / "results/demo_data").rglob("*.png"))
    for name in ("ring", "schizont"):
        (tmp_path / "cells" / name).mkdir(parents=True)
        shutil.copy(image, tmp_path / "cells" / name / "cell.png")
    flags = ("--model", "mtd", "--weights", demo.mtd, "--image", "cells", "--json")
    done = run_tester(*flags, cwd=tmp_path)
    names = [prediction["image"] for prediction in json.loads(done.stdout)["predictions"]]
    expected = [Path("cells", name, "cell.png") for name in ("ring", "schizont")]
    assert names == list(map(str, expected))


def test_the_process_prints_json_alone(demo, tmp_path, tester):
    """As a shell sees it: exit code 0, one object on standard output."""
    flags = ("--model", "mtd", "--weights", demo.mtd, "--image", demo.folder / IMAGE, "--json")
    done = tester(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["predictions"]) == 1


# Images that are unlike the training cells


def test_a_black_picture_is_unlike_the_training_cells(program):
    """The shipped weights say so."""
    answer = program.test("mtd", str(ROOT / "saved_models/mtd.pt"), np.zeros((64, 64, 3), np.uint8))
    assert answer["unlike_training_cells"]


def test_the_table_says_that_an_image_is_unlike(demo, run_tester, tmp_path):
    """Beside the class that it would be."""
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((64, 64, 3), np.uint8))
    weights = ROOT / "saved_models/mtd.pt"
    flags = ("--model", "mtd", "--weights", weights, "--image", "black.png")
    assert ", but unlike the training cells" in run_tester(*flags, cwd=tmp_path).stdout


@pytest.mark.parametrize("name", ["mean", "precision", "threshold"])
def test_a_damaged_anomaly_model_is_refused(demo, tmp_path, name):
    """As any other tensor of a stranger's checkpoint."""
    state = malaria.read_state(demo.mtd)
    state["anomaly"][name] = torch.full((3,), float("nan"))
    malaria.save_checkpoint(state, tmp_path / "odd.pt")
    with pytest.raises(malaria.UsageError, match="anomaly"):
        malaria.load_checkpoint(tmp_path / "odd.pt")


# Heat maps: --gradcam


def size_of_sheet(run_tester, demo, cwd, image):
    """The size of the sheet of heat maps of --image."""
    flags = ("--model", "mtd", "--weights", demo.mtd, "--image", image, "--gradcam", "maps.png")
    done = run_tester(*flags, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "predictions" in json.loads(done.stdout)
    return cv2.imread(str(cwd / "maps.png")).shape


def test_heat_maps_of_an_image_are_a_row(demo, run_tester, tmp_path):
    """Itself, Grad-CAM and the finer map."""
    height, width, _ = size_of_sheet(run_tester, demo, tmp_path, demo.folder / IMAGE)
    assert width > 1.5 * height


def test_heat_maps_of_a_folder_are_one_sheet(demo, run_tester, tmp_path):
    """Three images a row."""
    for number in range(4):
        shutil.copy(demo.folder / IMAGE, tmp_path / f"{number}.png")
    one_row, width_of_one, _ = size_of_sheet(run_tester, demo, tmp_path, "0.png")
    height, width, _ = size_of_sheet(run_tester, demo, tmp_path, ".")
    assert height > 1.5 * one_row
    assert width > 2.5 * width_of_one


@pytest.mark.parametrize("out", ["maps.nothing", "folder"])
def test_heat_maps_that_cannot_be_written(demo, run_tester, tmp_path, out):
    """One line that names the flag."""
    (tmp_path / "folder").mkdir()
    flags = ("--model", "mtd", "--weights", demo.mtd, "--image", demo.folder / IMAGE)
    done = run_tester(*flags, "--gradcam", out, cwd=tmp_path)
    assert done.returncode == 2
    assert f"--gradcam {out}: cannot be written" in done.stderr
