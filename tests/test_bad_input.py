"""Whatever a user can get wrong ends in one line that names the flag or the file, and in exit code 2."""
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_readers import smear, write, write_coco, write_iml, write_m5, yolo_line

import rollNumber_05 as malaria


class Touch:
    """Unpickled by a careless reader, it creates the file 'ran' in the working folder."""

    def __reduce__(self):
        return os.mkdir, ("ran",)

TINY = "--epochs 1 --min_steps 1 --batch_size 2 --g_width 8 --d_width 8 --image_size 28"

def write_yolo(root, names_file, names):
    """Three YOLO fields and the file with their class names, bytes."""
    for i in range(3):
        (_, box), = smear(root / "images" / f"{i}.png", "ring")
        write(root / "labels" / f"{i}.txt", yolo_line(0, box))
    (root / names_file).write_bytes(names)

def write_zips(root):
    """Zips that are cut short, damaged inside, without data; from the folder good."""
    with zipfile.ZipFile(root / "damaged.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(root / "good" / "annotations.json", "annotations.json")
    content = bytearray((root / "damaged.zip").read_bytes())
    (root / "cut.zip").write_bytes(content[:-30])
    content[46:76] = b"\xff" * 30  # behind the name, where the compressed data begins
    (root / "damaged.zip").write_bytes(content)
    with zipfile.ZipFile(root / "without_data.zip", "w") as archive:
        archive.writestr("note.txt", "nothing here")

def write_checkpoints(root):
    """A GAN trained for one step, half of its file, and a pickle that runs code."""
    assert malaria.main(malaria.run, f"--data_path good --task gan {TINY} --results_dir trained --save_dir trained".split()) == 0
    (root / "cut.pt").write_bytes((root / "trained" / "gan.pt").read_bytes()[:2000])
    torch.save({"weights": Touch()}, root / "malicious.pt")

@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A folder with everything that the command lines below name."""
    root = tmp_path_factory.mktemp("bench")
    write_iml(root / "good", [("ring", "trophozoite")] * 4)
    write_iml(root / "other", [("schizont", "gametocyte")] * 4)
    write_iml(root / "one_class", [("ring",)] * 4)
    write_iml(root / "pair", [("ring", "trophozoite")] * 2)
    write_iml(root / "no_cells", [()] * 4)
    write_iml(root / "unreadable", [("ring",)] * 4)
    write_iml(root / "no_images", [("ring",)] * 4)
    for i in range(4):
        write(root / "unreadable" / "IML_Malaria" / f"PA{i:03d}.JPG", "not an image")
        (root / "no_images" / "IML_Malaria" / f"PA{i:03d}.JPG").unlink()
        smear(root / "pictures" / f"{i}.png", "ring")
    write_m5(root / "m5", "HCM", "1000x", "ring", 0)
    (root / "empty").mkdir()
    write(root / "note.txt", "not data")
    write(root / "broken_json" / "annotations.json", '[{"image_name": "a.png", "objects": [')
    write_coco(root / "coco" / "cells.json", root / "coco", {f"{i}.png": ["ring"] for i in range(4)})
    text = (root / "coco" / "cells.json").read_text()
    write(root / "coco_ids" / "cells.json", text.replace("image_id", "image"))
    write(root / "coco_null" / "cells.json", '{"images": null, "annotations": [], "categories": []}')
    write_yolo(root / "yolo_yaml", "data.yaml", b"names: [ring, troph")
    write_yolo(root / "yolo_text", "data.yaml", b"names: ring")
    write_zips(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_checkpoints(root)
    return root

FLAGS = [  # appended to --data_path good --task data; what the error must name
    ("--epoch 3", "--epochs"), ("--data-path good", "--data_path"), ("good", "good"), ("--epochs ten", "--epochs"),
    ("--epochs -1", "--epochs"), ("--task", "--task"), ("--task gam", "gradcam"), ("--channels 2", "--channels"),
    ("--lr_g -1", "--lr_g"), ("--lr_d nan", "--lr_d"), ("--lr_g inf", "--lr_g"), ("--batch_size 1", "--batch_size"),
    ("--image_size 65", "128"), ("--beta1_g 1.5", "--beta1_g"), ("--beta2_d -0.1", "--beta2_d"), ("--ema 1", "--ema"),
    ("--label_smoothing 2", "--label_smoothing"), ("--optimizer_g lion", "rmsprop"), ("--seed -1", "--seed"),
    ("--classes ring,parasite", "--classes"), ("--classes ,", "--classes"),
    pytest.param("--device cuda", "--device", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")),
    ("--resume", "--resume")]

DATA = [  # --data_path of --task data; what the error must name
    ("missing", "--data_path missing"), ("~nobody_here/data", "--data_path"), ("empty", "empty"), ("pictures", "pictures"),
    ("note.txt", "note.txt"), ("cut.zip", "cut.zip"), ("damaged.zip", "damaged.zip"), ("without_data.zip", "without_data.zip"),
    ("broken_json", "annotations.json"), ("no_images", "PA000.JPG"), ("unreadable", "unreadable"), ("no_cells", "no_cells"),
    ("pair", "--data_path"), ("coco_ids", "cells.json"), ("coco_null", "cells.json"), ("yolo_yaml", "data.yaml"),
    ("yolo_text", "data.yaml"), ("m5 --magnification 400x", "--magnification 400x"), ("x" * 300, "--data_path"),
    ("m5 --microscope lcm", "--microscope lcm")]

RUNS = [  # appended to a tiny run; what the error must name
    ("--data_path one_class --task mtd", "--task mtd"), ("--task gan --seed 18446744073709551616", "--seed"),
    ("--task gradcam", "mtd.pt"), ("--task all --weights trained/gan.pt", "--weights"),
    ("--task gan --weights trained/gan.pt", "--weights"), ("--task gradcam --weights nothing.pt", "nothing.pt"),
    ("--task gradcam --weights trained/gan.pt", "trained/gan.pt"),
    ("--task mtd --weights trained/gan.pt --latent_dim 50", "--latent_dim"),
    ("--task mtd --weights nothing.pt", "nothing.pt"), ("--task gradcam --weights note.txt", "note.txt"),
    ("--task gradcam --weights malicious.pt", "malicious.pt"), ("--task gradcam --weights cut.pt", "cut.pt"),
    ("--task gradcam --weights good", "good"),
    ("--task gan --resume", "--resume"), ("--task gan --resume nothing.pt", "nothing.pt"),
    ("--task gan --resume note.txt", "note.txt"), ("--task gan --resume malicious.pt", "malicious.pt"),
    ("--task mtd --resume trained/gan.pt", "trained/gan.pt"), ("--task gan --epochs 1 --resume trained/gan.pt", "--epochs"),
    ("--task gan --resume --results_dir trained --lr_g 0.1", "--lr_g"),
    ("--task gan --resume --results_dir trained --data_path other", "trained/gan/last.pt")]

def expanded(cases, before):
    """The cases as whole command lines, each its own test id."""
    for case in cases:
        values, marks = (case.values, case.marks) if hasattr(case, "marks") else (case, ())
        yield pytest.param(before + values[0], values[1], marks=marks, id=values[0])

@pytest.mark.parametrize("command, named", [
    *expanded(FLAGS, "--data_path good --task data "), *expanded(DATA, "--task data --data_path "),
    *expanded(RUNS, f"--data_path good {TINY} ")])
def test_bad_input(bench, monkeypatch, capsys, command, named):
    """Exit code 2 and one line on standard error that names the flag or file; no code in a checkpoint runs."""
    monkeypatch.chdir(bench)
    code = malaria.main(malaria.run, command.split())
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n")
    assert named in error and "Traceback" not in error
    assert "did you mean" not in error or "unrecognized" in error
    assert not Path("ran").exists()

@pytest.mark.parametrize("program", ["script", "tester"])
def test_an_empty_argument(program, request, tmp_path):
    """What a shell makes of a variable that is not set."""
    done = request.getfixturevalue(program)("", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1

@pytest.mark.parametrize("change", [
    {"config": {"g_width": 8, "d_width": 8, "image_size": 28, "dropout": 5}}, {"config": {"channels": 2}},
    {"config": {"lr_g": "x"}}, {"config": 3}, {"classes": 3}, {"seen": None}, {"format": 2}, {"ema": {}},
    {"ema": None}, *({k: ...} for k in ("config", "classes", "weights", "ema", "optimizers", "history", "step"))], ids=str)
def test_checkpoints_made_by_hand(bench, monkeypatch, capsys, tmp_path, change):
    """Parts that are missing (...) or of another kind in a file of plain values: one line that names it, whoever reads it."""
    monkeypatch.chdir(bench)
    state = {k: v for k, v in {**torch.load("trained/gan.pt"), **change}.items() if v is not ...}
    torch.save(state, tmp_path / "made.pt")
    for flags in ("--task mtd --weights", "--task gan --resume"):
        code = malaria.main(malaria.run, f"--data_path good {TINY} {flags} {tmp_path}/made.pt".split())
        error = capsys.readouterr().err
        assert code == 2 and "made.pt" in error and error.count("\n") == 1, error

@pytest.mark.parametrize("size", ["--latent_dim 100000000000000", "--latent_dim 100000000000000000000", "--g_width 10000000000"])
def test_more_memory_than_there_is(bench, monkeypatch, capsys, size):
    """A network that cannot be is a failed run or a wrong flag, and one line."""
    monkeypatch.chdir(bench)
    code = malaria.main(malaria.run, f"--summary {size}".split())
    error = capsys.readouterr().err
    assert code in (1, 2) and error.startswith(("failed: ", "error: ")) and error.count("\n") == 1

def test_the_malicious_pickle_would_run(bench, tmp_path, monkeypatch):
    """The proof that the refusals above mean something: a careless reader runs its code."""
    monkeypatch.chdir(tmp_path)
    torch.load(bench / "malicious.pt", weights_only=False)
    assert Path("ran").exists()

@pytest.mark.parametrize("command, named", [("--epoch 3", "did you mean --epochs?"), ("--data_path missing", "missing")])
def test_exit_code_of_the_process(bench, script, command, named):
    """The same as seen by a shell: exit code 2, one line, nothing on standard output."""
    done = script(*command.split(), cwd=bench)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and named in done.stderr


def test_the_script_alone_asks_for_data(tmp_path):
    """Without extras/ beside it there is no demo set: one line that names the flag, exit 2."""
    alone = shutil.copy(ROOT / "rollNumber_05.py", tmp_path / "1234_05.py")
    done = subprocess.run([sys.executable, alone], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "--data_path" in done.stderr and done.stderr.count("\n") == 1
