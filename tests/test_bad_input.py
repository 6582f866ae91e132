"""Whatever a user can get wrong ends in exit code 2 and one line that names the flag or file."""

import importlib.util
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY
from layouts import smear, write, write_coco, write_iml, write_m5, yolo_line

import rollNumber_05 as malaria
from extras import checks

STEP = "--epochs 1 --min_steps 1 --batch_size 2 --g_width 8 --d_width 8 --image_size 28"


def assert_one_line(done, named):
    """Exit code 2, and one line on standard error that names what is wrong."""
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr


# What the command lines below name


class Touch:
    """Unpickled by a careless reader, it creates the folder `ran` in the working folder."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def write_yolo(root, names):
    """Write three YOLO fields and data.yaml, in bytes."""
    for number in range(3):
        cells = smear(root / "images" / f"{number}.png", "ring")
        _, box = cells[0]
        write(root / "labels" / f"{number}.txt", yolo_line(0, box))
    (root / "data.yaml").write_bytes(names)


def write_broken_iml(root):
    """Write IML folders that lack something that is needed."""
    write_iml(root / "one_class", [("ring",)] * 4)
    write_iml(root / "pair", [("ring", "trophozoite")] * 2)
    write_iml(root / "no_cells", [()] * 4)
    write_iml(root / "unreadable", [("ring",)] * 4)
    write_iml(root / "no_images", [("ring",)] * 4)
    for number in range(4):
        name = f"IML_Malaria/PA{number:03d}.JPG"
        write(root / "unreadable" / name, "not an image")
        (root / "no_images" / name).unlink()
    write(root / "broken_json" / "annotations.json", '[{"image_name": "a.png", "objects": [')


def write_broken_coco(root):
    """Write COCO files that lack something that is needed."""
    fields = {f"{number}.png": ["ring"] for number in range(4)}
    write_coco(root / "coco" / "cells.json", root / "coco", fields)
    text = (root / "coco" / "cells.json").read_text(encoding="utf-8")
    write(root / "coco_ids" / "cells.json", text.replace("image_id", "image"))
    nothing = {"images": None, "annotations": [], "categories": []}
    write(root / "coco_null" / "cells.json", nothing)


def write_broken_zips(root):
    """Write zips that are cut short, damaged inside, or without data."""
    with zipfile.ZipFile(root / "damaged.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(root / "good" / "annotations.json", "annotations.json")
    content = bytearray((root / "damaged.zip").read_bytes())
    (root / "cut.zip").write_bytes(content[:-30])
    content[46:76] = b"\xff" * 30  # behind the name, where the compressed data begins
    (root / "damaged.zip").write_bytes(content)
    with zipfile.ZipFile(root / "without_data.zip", "w") as archive:
        archive.writestr("note.txt", "nothing here")


def write_checkpoints(root, run_script):
    """Write a GAN trained for one step, a part of its file, and a pickle that runs code."""
    flags = f"--data_path good --task gan {STEP} --results_dir trained --save_dir trained"
    done = run_script(*flags.split(), cwd=root)
    assert done.returncode == 0, done.stderr
    shutil.copy(root / "trained/gan/last.pt", root / "trained/gan.pt")
    (root / "cut.pt").write_bytes((root / "trained/gan.pt").read_bytes()[:2000])
    torch.save({"weights": Touch()}, root / "malicious.pt")


@pytest.fixture(scope="module")
def bench(tmp_path_factory, run_script):
    """A folder with everything that the command lines below name."""
    root = tmp_path_factory.mktemp("bench")
    write_iml(root / "good", [("ring", "trophozoite")] * 4)
    write_iml(root / "other", [("schizont", "gametocyte")] * 4)
    write_broken_iml(root)
    write_broken_coco(root)
    write_broken_zips(root)
    write_yolo(root / "yolo_yaml", b"names: [ring, troph")
    write_yolo(root / "yolo_text", b"names: ring")
    write_m5(root / "m5", "HCM", "1000x", "ring", 0)
    smear(root / "pictures" / "0.png", "ring")
    (root / "empty").mkdir()
    write(root / "note.txt", "not data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(malaria, "report_run", lambda *arguments: None)
        write_checkpoints(root, run_script)
    return root


# Command lines

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")

FLAGS = [  # appended to --data_path good --task data; what the error must name
    ("--epoch 3", "did you mean --epochs?"),
    ("--data-path good", "did you mean --data_path?"),
    ("good", "unrecognized arguments: good"),
    ("--epochs ten", "--epochs"),
    ("--epochs -1", "--epochs"),
    ("--task", "--task"),
    ("--task gam", "gradcam"),
    ("--channels 2", "--channels"),
    ("--lr_g -1", "--lr_g"),
    ("--lr_d nan", "--lr_d"),
    ("--lr_g inf", "--lr_g"),
    ("--batch_size 1", "--batch_size"),
    ("--image_size 65", "128"),
    ("--beta1_g 1.5", "--beta1_g"),
    ("--beta2_d -0.1", "--beta2_d"),
    ("--ema 1", "--ema"),
    ("--label_smoothing 2", "--label_smoothing"),
    ("--optimizer_g lion", "rmsprop"),
    ("--seed -1", "--seed"),
    ("--measure_every 0", "--measure_every"),
    ("--adversarial_every -1", "--adversarial_every"),
    ("--classes ring,parasite", "--classes"),
    ("--classes ,", "--classes"),
    pytest.param("--device cuda", "--device", marks=no_cuda),
    ("--resume", "--resume"),
]

DATA = [  # --data_path of --task data; what the error must name
    ("missing", "--data_path missing"),
    ("~nobody_here/data", "--data_path"),
    ("empty", "empty"),
    ("pictures", "pictures"),
    ("note.txt", "note.txt"),
    ("cut.zip", "cut.zip"),
    ("damaged.zip", "damaged.zip"),
    ("without_data.zip", "without_data.zip"),
    ("broken_json", "annotations.json"),
    ("no_images", "PA000.JPG"),
    ("unreadable", "unreadable"),
    ("no_cells", "no_cells"),
    ("pair", "--data_path"),
    ("coco_ids", "cells.json"),
    ("coco_null", "cells.json"),
    ("yolo_yaml", "data.yaml"),
    ("yolo_text", "data.yaml"),
    ("m5 --magnification 400x", "--magnification 400x"),
    ("m5 --microscope lcm", "--microscope lcm"),
    ("x" * 300, "--data_path"),
]

RUNS = [  # appended to a run of one step on the data `good`; what the error must name
    ("--data_path one_class --task mtd", "--task mtd"),
    ("--task gan --seed 18446744073709551616", "--seed"),
    ("--task gradcam", "mtd.pt"),
    ("--task all --weights trained/gan.pt", "--weights"),
    ("--task gan --weights trained/gan.pt", "--weights"),
    ("--task gradcam --weights nothing.pt", "nothing.pt"),
    ("--task gradcam --weights trained/gan.pt", "trained/gan.pt"),
    ("--task gradcam --weights note.txt", "note.txt"),
    ("--task gradcam --weights malicious.pt", "malicious.pt"),
    ("--task gradcam --weights cut.pt", "cut.pt"),
    ("--task gradcam --weights good", "good"),
    ("--task mtd --weights note.txt --data_path nowhere", "note.txt"),  # before data are read
    ("--task mtd --weights trained/gan.pt --latent_dim 50", "--latent_dim"),
    ("--task mtd --weights nothing.pt", "nothing.pt"),
    ("--task gan --resume", "--resume"),
    ("--task all --resume trained/gan.pt", "give --task gan or mtd"),
    ("--task gan --resume nothing.pt", "nothing.pt"),
    ("--task gan --resume note.txt", "note.txt"),
    ("--task gan --resume malicious.pt", "malicious.pt"),
    ("--task mtd --resume trained/gan.pt", "trained/gan.pt"),
    ("--task gan --epochs 1 --resume trained/gan.pt", "--epochs"),
    ("--task gan --resume --results_dir trained --lr_g 0.1", "--lr_g"),
    (
        "--task gan --resume --results_dir trained --data_path other",
        str(Path("trained/gan/last.pt")),
    ),
]


@pytest.mark.parametrize(("flags", "named"), FLAGS)
def test_a_wrong_flag(bench, run_script, flags, named):
    """The line names it, or what it should have been."""
    done = run_script(*f"--data_path good --task data {flags}".split(), cwd=bench)
    assert_one_line(done, named)


@pytest.mark.parametrize(("data_path", "named"), DATA)
def test_data_that_cannot_be_used(bench, run_script, data_path, named):
    """The line names the path, or the file in it."""
    done = run_script(*f"--task data --data_path {data_path}".split(), cwd=bench)
    assert_one_line(done, named)


@pytest.mark.parametrize(("flags", "named"), RUNS)
def test_a_run_that_cannot_be(bench, run_script, flags, named):
    """The line names the flag or the file; no code in a checkpoint runs."""
    done = run_script(*f"--data_path good {STEP} {flags}".split(), cwd=bench)
    assert_one_line(done, named)
    assert not (bench / "ran").exists()


def test_a_nearest_flag_is_named_for_unknown_ones_only(bench, run_script):
    """A known one with a wrong value needs none."""
    done = run_script("--epochs", "ten", cwd=bench)
    assert "did you mean" not in done.stderr


@pytest.mark.parametrize("runner", ["run_script", "run_tester"])
def test_an_empty_argument(runner, request, tmp_path):
    """What a shell makes of a variable that is not set."""
    done = request.getfixturevalue(runner)("", cwd=tmp_path)
    assert_one_line(done, "argument")


@pytest.mark.parametrize(
    "size",
    [
        "--latent_dim 100000000000000",
        "--latent_dim 100000000000000000000",
        "--g_width 10000000000",
    ],
)
def test_more_memory_than_there_is(tmp_path, run_script, size):
    """A network that cannot be."""
    done = run_script(*f"--summary {size}".split(), cwd=tmp_path)
    assert_one_line(done, size.split()[0])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (malaria.UsageError("wrong\nflag"), 2, "error: wrong flag\n"),
        (RuntimeError("not\n\nfinite"), 1, "failed: not finite\n"),
        (OSError("no space left"), 1, "failed: no space left\n"),
        (MemoryError("too large"), 1, "failed: too large\n"),
        (KeyboardInterrupt("gan: epoch 3"), 130, "\nstopped gan: epoch 3\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_has_its_exit_code_and_a_line(capsys, error, code, line):
    """Whatever program it is in."""

    def work(arguments):
        raise error

    assert malaria.main(work, []) == code
    assert capsys.readouterr().err == line


def test_the_process_ends_as_the_command_line_does(bench, script):
    """As a shell sees it: exit code 2, one line, nothing on standard output."""
    done = script("--epoch", 3, cwd=bench)
    assert_one_line(done, "did you mean --epochs?")
    assert done.stdout == ""


# Checkpoints


def test_the_malicious_pickle_would_run(bench, tmp_path, monkeypatch):
    """The refusals above mean something: a careless reader runs its code."""
    monkeypatch.chdir(tmp_path)
    torch.load(bench / "malicious.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


SMALL_NETWORKS = {"g_width": 8, "d_width": 8, "image_size": 28}
OTHER_VALUES = [
    {"config": SMALL_NETWORKS | {"dropout": 5}},
    {"config": {"channels": 2}},
    {"config": {"lr_g": "x"}},
    {"config": {"game_every": 1}},
    {"config": 3},
    {"classes": 3},
    {"trained_on": None},
    {"format": 1},
    {"task": "cnn"},
    {"ema": {}},
    {"ema": None},
]
MISSING = [
    "format",
    "task",
    "config",
    "classes",
    "trained_on",
    "strength",
    "epoch",
    "step",
    "best",
    "history",
    "traces",
    "weights",
    "ema",
    "optimizers",
]
USES = ["--task mtd --weights", "--task gan --resume"]


def run_with(state, use, bench, run_script):
    """A run that reads a state from made.pt."""
    torch.save(state, bench / "made.pt")
    return run_script(*f"--data_path good {STEP} {use} made.pt".split(), cwd=bench)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("change", OTHER_VALUES, ids=str)
def test_a_checkpoint_with_a_part_of_another_kind(bench, run_script, change, use):
    """In a file of plain values; whoever reads it."""
    state = torch.load(bench / "trained/gan.pt", weights_only=True)
    done = run_with(state | change, use, bench, run_script)
    assert_one_line(done, "made.pt")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", MISSING)
def test_a_checkpoint_without_a_part(bench, run_script, name, use):
    """In a file of plain values; whoever reads it."""
    state = torch.load(bench / "trained/gan.pt", weights_only=True)
    del state[name]
    done = run_with(state, use, bench, run_script)
    assert_one_line(done, "made.pt")


# Files that belong together


def load_program(path):
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location("program_alone", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_without_extras_asks_for_them(tmp_path, python):
    """Exit code 2, and one line that names what is missing."""
    shutil.copy(ROOT / "rollNumber_05.py", tmp_path / "1234_05.py")
    done = python("1234_05.py", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: the folder extras/ is not beside this script; copy it too\n"


def test_test_py_without_the_script_asks_for_it(tmp_path, monkeypatch, capsys):
    """Exit code 2, and one line that names what is missing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        load_program(shutil.copy(ROOT / "test.py", "test.py"))
    errors = capsys.readouterr().err
    assert errors.startswith("error: no script ROLLNUMBER_05.py beside test.py")


# Words that fit


def complaint(run_script, cwd, *flags):
    """The one line in which a command line is refused."""
    done = run_script(*flags, cwd=cwd)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_an_address_is_not_a_folder(run_script, tmp_path):
    """The mend is to download it."""
    said = complaint(run_script, tmp_path, "--data_path", "https://host/cells.zip")
    assert "an address has to be downloaded first" in said


def test_a_pattern_is_not_looked_up(run_script, tmp_path):
    """The mend is to give the folder."""
    assert "give the folder" in complaint(run_script, tmp_path, "--data_path", "cells/*.png")


def test_an_address_of_weights(run_tester, tmp_path):
    """In test.py too."""
    flags = ("--model", "gan", "--weights", "https://host/gan.pt")
    assert "downloaded first" in complaint(run_tester, tmp_path, *flags)


def test_one_learning_rate_is_explained_by_both(run_script, tmp_path):
    """--lr is what users type first."""
    said = complaint(run_script, tmp_path, "--lr", "0.001")
    assert "--lr_g" in said
    assert "--lr_d" in said


@pytest.mark.parametrize("name", ["batch_size", "min_steps", "epochs"])
def test_absurd_numbers_have_an_upper_end(run_script, tmp_path, name):
    """It is said."""
    said = complaint(run_script, tmp_path, f"--{name}", "1000000000")
    assert f"--{name} 1000000000 is out of range" in said


@pytest.mark.parametrize("name", ["results_dir", "save_dir"])
def test_an_output_folder_that_is_a_file(run_script, tmp_path, name):
    """It is found before anything is read or trained."""
    (tmp_path / "file").write_text("a file")
    said = complaint(run_script, tmp_path, "--task", "gan", f"--{name}", "file")
    assert f"--{name} file: cannot be written to" in said


def test_the_environment_of_torchrun_in_part(run_script, tmp_path, monkeypatch):
    """It is named, not a traceback of torch."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "LOCAL_RANK is set, but not RANK" in complaint(run_script, tmp_path, "--task", "data")


def test_a_library_that_does_not_load(monkeypatch):
    """As OpenCV without libGL."""

    def fail(name):
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(malaria.importlib, "import_module", fail)
    malaria.extra.cache_clear()
    with pytest.raises(malaria.UsageError, match=r"libGL.so.1.*requirements.txt"):
        malaria.extra("crops")


def test_a_package_that_is_not_installed(monkeypatch):
    """It is told before a training."""
    monkeypatch.setattr(checks, "NEEDED_LATER", ("no_such_package.part",))
    with pytest.raises(malaria.UsageError, match="no_such_package is not installed"):
        checks.check_packages(malaria.Config())


def test_a_package_that_is_broken(monkeypatch, tmp_path, small_data, run_script):
    """It is told after the first epoch, not at the end of the run."""
    (tmp_path / "broken_package.py").write_text("raise AttributeError('of another version')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(checks, "NEEDED_LATER", ("broken_package",))
    flags = ("--task", "gan", "--data_path", small_data, *TINY, "--epochs", 9)
    said = complaint(run_script, tmp_path, *flags)
    assert "broken_package does not import (of another version)" in said


def test_a_recipe_that_is_a_dash(run_script, tmp_path):
    """What argparse makes of it is no name."""
    assert "--recipe" in complaint(run_script, tmp_path, "--recipe", "--")


def test_weights_of_a_name_that_is_too_long(run_tester, tmp_path):
    """They are no checkpoint."""
    flags = ("--model", "gan", "--weights", "n" * 5000)
    assert "not a checkpoint" in complaint(run_tester, tmp_path, *flags)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--task", "data")])
def test_opencv_without_its_libraries_is_one_line(script, tmp_path, arguments):
    """As on a server without libGL; nothing at the script's top needs it."""
    write(tmp_path / "broken" / "cv2.py", "raise ImportError('libGL.so.1: cannot open')")
    done = script(*arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    assert_one_line(done, "libGL.so.1")
