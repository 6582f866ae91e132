"""Both programs end to end, as a user runs them: training, pictures, checkpoints, resuming, the JSON contract."""
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT

import rollNumber_05 as s
from extras import demo_set

SMALL = ("--image_size", 32, "--epochs", 4, "--min_steps", 100)
TINY = ("--image_size", 28, "--min_steps", 4, "--batch_size", 8, "--g_width", 16, "--d_width", 16)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder where the script has run every task on its demo set; (folder, finished process)."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(ROOT / "rollNumber_05.py"), *map(str, SMALL), "--save_dir", "weights"]
    return folder, subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def rows(path):
    """metrics.csv as a list of dicts."""
    head, *lines = path.read_text().split()
    return [dict(zip(head.split(","), (float(v or "nan") for v in line.split(",")))) for line in lines]


def test_every_task_and_every_picture(demo):
    """No flags but sizes: the demo set, all tasks, exit 0, each picture there and not blank."""
    folder, done = demo
    assert done.returncode == 0, done.stderr
    assert "layout: IML annotations.json" in done.stdout and "Traceback" not in done.stderr
    shared = ["losses", "scores", "nearest", "real_vs_generated",
              "weights_generator", "weights_discriminator", "samples/epoch_0004"]
    mtd = ["classifier_curves", "confusion_matrix", "predictions_right", "predictions_wrong", "tsne"]
    wanted = {"gan": shared, "mtd": shared + mtd, "gradcam": ["gradcam_right", "gradcam_wrong", "gradcam_real_fake"],
              "all": ["before_after"]}
    for task, names in wanted.items():
        for name in names:
            picture = cv2.imread(str(folder / "results" / task / f"{name}.png"))
            assert picture is not None and picture.std() > 2, f"{task}/{name}"
    assert (folder / "results/gan/samples.gif").stat().st_size > 10_000
    about = json.loads((folder / "results/mtd/config.json").read_text())
    assert about["config"]["weights"] == str(Path("results/gan/last.pt"))  # the head went on the DCGAN just trained
    assert about["config"]["seed"] == 0 and about["torch"] == torch.__version__ and about["splits"]["train"]["images"] > 0
    assert len(rows(folder / "results/gan/metrics.csv")) == 4
    assert not (folder / "results/gan/quality.png").exists()  # no epoch was measured, and no empty panel is drawn
    found = json.loads((folder / "results/gan/quality.json").read_text())
    assert found["n"]["generated"] == 500 and found["kid_train"] > abs(found["kid_floor"]) and 0 <= found["precision"] <= 1
    assert found["frechet_train"] > 0 < found["frechet_floor"] < found["frechet_val"] and found["nearest"] > 0.5


def test_the_demo_run_learns(demo):
    """After 400 steps the head is far above the majority answer and G's pixels are near the real ones' mean."""
    folder, _ = demo
    scores = json.loads((folder / "results/mtd/scores.json").read_text())
    assert scores["val"]["balanced_accuracy"] > 0.6 and scores["test"]["n"] > 40
    generator, _, _ = s.load_networks(folder / "weights/gan.pt", "gan")
    real = s.load_data(s.Config(image_size=32, results_dir=str(folder / "results")))
    difference = real.uint8(range(len(real))).mean((0, 1, 2)) - s.sample(generator, s.latents(64, generator, 0)).mean((0, 1, 2))
    assert np.abs(difference).max() < 25


def test_heat_maps_point_at_the_parasites(demo):
    """Pointing game: the peak of the class's map lies on the parasite more often than a random pixel of the crop.

    Five trainings: gametocytes and schizonts 1.00 (chance 0.68 and 0.69), trophozoites 0.59 to 0.97 (0.29), rings 0.31 to 0.50
    (0.18). Rings are not held to it: in one training of another recipe they had 0.17. That the map itself is right
    is tested with planted evidence and against Captum.
    """
    folder, _ = demo
    _, model, _ = s.load_networks(folder / "weights/mtd.pt", "mtd")
    data = s.load_data(s.Config(image_size=32, results_dir=str(folder / "results"))).split("val", "test")
    masks = np.load(folder / "results/demo_data/masks.npz")
    crops = []
    for row in data.rows:
        field = masks[data.index["sources"][row].split("/")[-1][:-4]].astype(np.uint8) * 255
        crops.append(s.crop_cell(field[:, :, None], data.index["boxes"][row], 32)[:, :, 0] > 127)
    wide = np.stack([cv2.dilate(c.astype(np.uint8), np.ones((5, 5))) for c in crops]).reshape(len(crops), -1)
    images = data.batch(torch.arange(len(data)))
    maps, evidence = s.heat_maps(s.grad_cam(model, images, lambda out: out[1].gather(1, data.labels[:, None])[:, 0]), 32)
    hits = wide[np.arange(len(crops)), maps.flatten(1).argmax(1).numpy()]
    assert evidence.float().mean() > 0.95
    for i, name in enumerate(data.classes):
        mine = data.labels.numpy() == i
        assert name == "ring" or hits[mine].mean() > wide[mine].mean() + 0.1, (name, hits[mine].mean(), wide[mine].mean())


def test_gradcam_needs_test_cells(demo):
    """A given test split can lack every class that is asked for: one line."""
    config = s.Config(image_size=32, results_dir=str(demo[0] / "results"), weights=str(demo[0] / "weights/mtd.pt"))
    with pytest.raises(s.UsageError, match="no cell of these classes is in the test split"):
        s.run_gradcam(config, s.load_data(config).split("train"))


@pytest.mark.parametrize("conditional", [False, True])
def test_an_mtd_starts_from_a_dcgan(demo, conditional):
    """Networks and averages are the DCGAN's averages, and its augmentation strength; the head and a told G's weights of the
    class are new."""
    path = demo[0] / "weights/gan.pt"
    dcgan = s.read_checkpoint(path)
    assert not torch.equal(*(dcgan[kind]["generator"]["project.0.weight"] for kind in ("weights", "ema")))
    trainer = s.Trainer("mtd", s.Config(image_size=32, conditional=conditional), s.STAGES, torch.device("cpu"))
    new = {k: v.clone() for k, v in trainer.nets["generator"].state_dict().items()}
    trainer.start_from(path)
    state = trainer.state()
    for kind in ("weights", "ema"):
        assert all(torch.equal(v, state[kind]["discriminator"][k]) for k, v in dcgan["ema"]["discriminator"].items())
        assert all(torch.equal(v, state[kind]["generator"][k][:, :100] if v.shape == (2048, 100) else state[kind]["generator"][k])
                   for k, v in dcgan["ema"]["generator"].items())
        assert torch.equal(new["project.0.weight"][:, 100:], state[kind]["generator"]["project.0.weight"][:, 100:])
    assert state["strength"] == dcgan["strength"]
    with pytest.raises(s.UsageError, match="not of a gan"):
        trainer.start_from(demo[0] / "weights/mtd.pt")
    plain = s.Trainer("mtd", s.Config(image_size=32, smooth=False), s.STAGES, torch.device("cpu"))
    with pytest.raises(s.UsageError, match="made with --smooth; give the same"):
        plain.start_from(path)


@pytest.mark.parametrize("flags, steps, every", [
    ({}, 0, 1), (dict(game_every=3), 0, 3), ({}, 4999, 1), ({}, 5000, 16), (dict(augment=False), 5000, 16),
    (dict(game_every=3), 5000, 3), (dict(conditional=True), 5000, 1), (s.RECIPES["assignment"], 5000, 1)])
def test_on_a_long_dcgan_the_game_is_at_every_sixteenth_step(flags, steps, every, tmp_path):
    """At the others an MTD learns J(C) alone, at a rate of its own: G stays and the traces of the game repeat.
    steps: of the DCGAN, 0: none."""
    rates, config = [], s.Config(image_size=28, batch_size=4, g_width=16, d_width=16, **flags)
    index = {"rows": range(12), "labels": [i % 4 for i in range(12)], "classes": list(s.STAGES)}
    data = s.MalariaDataset(torch.randint(0, 255, (12, 28, 28, 3), dtype=torch.uint8), index, range(12))
    trainer = s.Trainer("mtd", config, s.STAGES, torch.device("cpu"))
    if steps:
        dcgan = s.Trainer("gan", config, s.STAGES, torch.device("cpu"))
        dcgan.step = steps
        s.write_checkpoint(dcgan.state(), tmp_path / "gan.pt")
        trainer.start_from(tmp_path / "gan.pt")
    trainer.set_rates(0.9)
    trainer.optimizers["discriminator"].register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    trainer.train_epoch(data, 20, s.tqdm(disable=True))
    assert rates == [trainer.factor * (config.lr_c if i % every else config.lr_d) for i in range(20)]
    changed = dict(zip(s.TRACES, (trainer.traces[1:] != trainer.traces[:-1]).T))
    for name in ("loss_d", "loss_g", "d_real", "d_fake"):
        assert changed[name].tolist() == [i % every == 0 for i in range(1, 20)]
    assert changed["loss_c"].all() and s.Trainer("gan", config, s.STAGES, torch.device("cpu")).game_every == 1
    moves = [trainer.optimizers[k].state_dict()["state"][0]["step"] for k in ("generator", "discriminator")]
    assert moves == [math.ceil(20 / every), 20]


def test_a_resumed_run_keeps_what_it_started_from(demo, monkeypatch):
    """--resume of the MTD alone knows its DCGAN, whatever --weights says now; --task all takes what it trained anyway."""
    monkeypatch.chdir(demo[0])
    assert s.config_from(["--task", "mtd", "--resume", "--weights", "other.pt"]).weights == str(Path("results/gan/last.pt"))
    assert s.config_from(["--task", "all", "--resume"]).weights == ""


def test_a_finished_run_never_replaces_weights_silently(demo, script):
    """A second run leaves the weights, keeps the first run's folder beside its own and says so."""
    folder, _ = demo
    before = (folder / "weights/gan.pt").read_bytes()
    done = script("--task", "gan", *TINY, "--epochs", 1, "--save_dir", "weights", cwd=folder)
    assert done.returncode == 0 and "stays as it was" in done.stdout and "gan.old-1" in done.stderr
    assert (folder / "weights/gan.pt").read_bytes() == before and (folder / "results/gan.old-1/last.pt").exists()


def test_all_goes_on_with_its_own_mtd_only(tmp_path, demo, monkeypatch):
    """An earlier MTD in the way of --task all is moved aside at once: stopped in its GAN and resumed, the run makes its own."""
    monkeypatch.chdir(tmp_path)
    common = ["--data_path", str(demo[0] / "results/demo_data"), *map(str, TINY), "--epochs", "2"]
    assert s.main(s.run, [*common, "--task", "mtd"]) == 0

    def stopped():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        whole = s.Trainer.train_epoch
        patch.setattr(s.Trainer, "train_epoch", lambda self, *a: stopped() if self.epoch else whole(self, *a))
        assert s.main(s.run, [*common, "--task", "all", "--seed", "1"]) == 130
    assert not Path("results/mtd").exists() and Path("results/mtd.old-1/last.pt").exists()
    assert s.main(s.run, [*common, "--task", "all", "--seed", "1", "--resume"]) == 0
    assert s.read_checkpoint("results/mtd/last.pt")["config"]["seed"] == 1 and not Path("results/mtd.old-2").exists()


def test_images_that_changed_sides_are_told(tmp_path, demo, monkeypatch, capsys, tester):
    """Weights remember the images they are from; where these are in val or test now, training and scoring warn."""
    monkeypatch.chdir(tmp_path)
    common = ["--data_path", str(demo[0] / "results/demo_data"), *map(str, TINY), "--epochs", "1"]
    assert s.main(s.run, [*common, "--task", "gan"]) == 0 and "warning" not in capsys.readouterr().err
    state, data = s.read_checkpoint("results/gan/last.pt"), s.load_data(s.config_from(common))
    sources = {k: {n for n, where in zip(data.index["sources"], data.index["splits"]) if where == k} for k in s.SPLITS}
    assert set(state["seen"]) == sources["train"]
    state["seen"] += sorted(sources["test"])[:3]
    s.write_checkpoint(state, tmp_path / "other.pt")
    assert s.main(s.run, [*common, "--task", "mtd", "--weights", "other.pt"]) == 0
    assert "warning: mtd was trained on 3 images" in capsys.readouterr().err
    scored = "--model", "mtd", "--weights", "results/mtd/last.pt", "--data_path", common[1], "--json", "--split"
    assert "trained on 3 images" in tester(*scored, "test", cwd=tmp_path).stderr
    assert "warning" not in tester(*scored, "val", cwd=tmp_path).stderr


def test_the_kept_epoch_is_the_latest_within_a_standard_error(tmp_path, demo, monkeypatch):
    """Means of five epochs: 0.90 after epoch 6, 0.86 after 8, 0.72 after 9; with an error of 0.05 epoch 8 is kept."""
    monkeypatch.chdir(tmp_path)
    values = iter([0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.2])

    def evaluate(data, probabilities):
        value = next(values) if data.index["splits"][data.rows[0]] == "val" else 1.0
        return {"loss": 1.0, "accuracy": value, "balanced_accuracy": value, "standard_error": 0.05}

    monkeypatch.setattr(s, "evaluate", evaluate)
    flags = ["--task", "mtd", "--data_path", str(demo[0] / "results/demo_data"), *map(str, TINY), "--epochs", "9"]
    config = s.Config(**s.parse_flags(flags))
    s.train("mtd", config, s.load_data(config))
    assert s.read_checkpoint(tmp_path / "results/mtd/best.pt")["epoch"] == 8


def assert_same(a, b, where=""):
    """Two states are equal to the bit, but for how long an epoch took."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, (dict, list, tuple)):
        assert len(a) == len(b), where
        for k in a if isinstance(a, dict) else range(len(a)):
            if k not in ("seconds", "images_per_second"):
                assert_same(a[k], b[k], f"{where}.{k}")
    else:
        assert a == b, where


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_resuming_equals_never_having_stopped(task, tmp_path, demo, monkeypatch):
    """Bit for bit on the CPU: weights, averages, optimisers, traces and numbers of 4 epochs, straight and stopped after 2."""
    monkeypatch.chdir(tmp_path)
    common = ["--task", task, "--data_path", str(demo[0] / "results/demo_data"), *map(str, TINY), "--lr_decay", "0.75",
              "--game_every", "3"]

    def train(*flags, stop=None):
        whole = s.Trainer.train_epoch
        with monkeypatch.context() as patch:
            patch.setattr(s.Trainer, "train_epoch", lambda self, *a: stopped() if self.epoch == stop else whole(self, *a))
            train_until(*flags)

    def stopped():
        raise KeyboardInterrupt

    def train_until(*flags):
        given = s.parse_flags([*common, *flags] if "--resume" not in flags else ["--task", task, *flags])
        config = s.resumed_config(given) if "resume" in given else s.Config(**given)
        s.train(task, config, s.load_data(config))

    train("--epochs", "4", "--results_dir", "straight")
    with pytest.raises(KeyboardInterrupt):
        train("--epochs", "4", "--results_dir", "halves", stop=2)
    train("--results_dir", "halves", "--resume")
    one, two = (s.read_checkpoint(tmp_path / r / task / "last.pt") for r in ("straight", "halves"))

    for key in set(one) - {"config"}:
        assert_same(one[key], two[key], key)
    assert one["epoch"] == 4 and rows(tmp_path / "halves" / task / "metrics.csv")[-1]["epoch"] == 4


def test_ctrl_c_keeps_the_finished_epochs_and_resume_goes_on(tmp_path, demo):
    """SIGINT in the middle: exit 130, one line that tells how to go on, and the run can be finished."""
    common = [sys.executable, str(ROOT / "rollNumber_05.py"), "--task", "gan", "--data_path", str(demo[0] / "results/demo_data")]
    process = subprocess.Popen([*common, *map(str, TINY), "--epochs", "100000"], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # nohup and & ignore it
    last = tmp_path / "results/gan/last.pt"
    deadline = time.time() + 120
    while not last.exists() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in err and "last.pt" in err and "Traceback" not in err, err
    epoch = s.read_checkpoint(last, "gan")["epoch"]
    done = subprocess.run([*common, "--resume", "--epochs", str(epoch + 1)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert s.read_checkpoint(last, "gan")["epoch"] == epoch + 1


def test_a_run_from_before_some_flags_goes_on(tmp_path, demo, script):
    """A checkpoint without newer flags, columns and the augmentation strength: G stays unfiltered, numbers in their columns."""
    common = ("--task", "mtd", "--data_path", demo[0] / "results/demo_data")
    assert script(*common, *TINY, "--epochs", 1, cwd=tmp_path).returncode == 0
    last = tmp_path / "results/mtd/last.pt"
    state = s.read_checkpoint(last)
    for key in ("recipe", "smooth", "conditional", "measure_every", "game_every", "lr_c"):
        del state["config"][key]
    del state["strength"], state["game_every"], state["history"][0]["loss_c"]
    state["config"]["weights"] = "gan.pt"  # with which a new MTD would play seldom
    s.write_checkpoint(state, last)
    done = script(*common, "--resume", "--epochs", 2, "--measure_every", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    state_now = s.read_checkpoint(last)
    assert not state_now["config"]["smooth"] and type(s.load_networks(last)[0].blocks[0]) is torch.nn.ConvTranspose2d
    assert state_now["game_every"] == 1 and state_now["config"]["lr_c"] == state_now["config"]["lr_d"]
    first, second = rows(tmp_path / "results/mtd/metrics.csv")
    assert first["val_loss"] == state["history"][0]["val_loss"] and second["epoch"] == 2


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_kept_weights(tmp_path, demo, script):
    """A learning rate beyond reason: exit 1, one line with the mend; nothing that is not finite is kept."""
    done = script("--task", "gan", "--data_path", demo[0] / "results/demo_data", *TINY, "--lr_d", "1e30", "--lr_g", "1e30",
                  "--optimizer", "sgd", "--epochs", 3, cwd=tmp_path)
    assert done.returncode == 1 and "not finite" in done.stderr and "--lr_d" in done.stderr and "Traceback" not in done.stderr
    last = tmp_path / "results/gan/last.pt"
    assert not last.exists() or all(v.isfinite().all() for v in s.read_checkpoint(last)["weights"]["generator"].values())


@pytest.mark.parametrize("flags", [("--view", "field", "--optimizer_g", "rmsprop", "--optimizer_d", "sgd"),
                                   ("--channels", 1, "--loss", "lsgan", "--recipe", "assignment", "--conditional",
                                    "--measure_every", 1)])
def test_other_views_losses_and_optimisers_run_to_the_end(flags, tmp_path, demo, script):
    """Every picture-making path works for multi-label fields, grey images and the other choices."""
    data = demo[0] / "results/demo_data"
    done = script("--task", "all", "--data_path", data, *TINY, "--epochs", 1, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/gradcam/gradcam_real_fake.png").exists()
    assert (tmp_path / "results/gan/quality.png").exists() == ("--measure_every" in flags)
    measured = rows(tmp_path / "results/mtd/metrics.csv")[0]
    assert {"kid_ring", "frechet_ring", "frechet_floor", "nearest"} <= measured.keys() or "--conditional" not in flags


def test_rates_are_constant_then_fall():
    """With --lr_decay 0.5: whole until half of the epochs, then in a line; each network's from its own rate."""
    trainer = s.Trainer("gan", s.Config(lr_decay=0.5, lr_g=1e-3, lr_d=2e-3), s.STAGES, torch.device("cpu"))
    for done, factor in ((0, 1), (0.5, 1), (0.75, 0.5), (0.9, 0.2)):
        trainer.set_rates(done)
        rates = [trainer.optimizers[k].param_groups[0]["lr"] for k in ("generator", "discriminator")]
        assert rates == pytest.approx([1e-3 * factor, 2e-3 * factor])


def test_a_recipe_is_a_set_of_defaults():
    """The assignment's recipe switches the extras off; a flag that is given wins over it."""
    plain = s.config_from(["--recipe", "assignment", "--ema", "0.9"])
    assert not plain.augment and not plain.smooth and plain.dropout == 0 and plain.ema == 0.9 and plain.recipe == "assignment"
    assert s.config_from([]) == s.Config()


def test_json_of_task_data(demo, script):
    """One JSON object with the keys of the contract, and a warm start that agrees."""
    folder, _ = demo
    done = script("--task", "data", "--json", cwd=folder)
    found = json.loads(done.stdout)
    assert set(found) == {"layout", "classes", "splits", "skipped"} and found["classes"] == list(s.STAGES)
    assert sum(sum(v["cells"].values()) for v in found["splits"].values()) > 300 and found["skipped"] == 0
    assert set(found["splits"]) == set(s.SPLITS) and sum(v["images"] for v in found["splits"].values()) == demo_set.FIELDS


def test_json_of_images(demo, tester, tmp_path):
    """A folder of every kind of image file: one prediction each, probabilities that sum to one, a bad file passed over."""
    folder, _ = demo
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (50, 70, 3), np.uint8)
    files = {"grey.png": colour[:, :, 0], "rgba.png": np.dstack([colour, colour[:, :, :1]]), "rgb.jpg": colour,
             "deep.png": colour.astype(np.uint16) * 257, "tiny.bmp": colour[:3, :2], "wide.tif": colour[:, :, 0]}
    (tmp_path / "cells").mkdir()
    for name, image in files.items():
        cv2.imwrite(str(tmp_path / "cells" / name), image)
    (tmp_path / "cells/broken.png").write_bytes(b"no image")
    done = tester("--model", "mtd", "--weights", folder / "weights/mtd.pt", "--image", tmp_path / "cells", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)["predictions"]
    assert done.returncode == 0 and "broken.png" in done.stderr and len(found) == len(files)
    for p in found:
        assert set(p) == {"image", "label", "probabilities", "real_probability"} and p["label"] in s.STAGES
        assert sum(p["probabilities"].values()) == pytest.approx(1, abs=1e-4) and 0 <= p["real_probability"] <= 1


def test_json_of_a_data_set_agrees_with_the_run(demo, tester):
    """test.py on the test split gives the scores that the run wrote."""
    folder, _ = demo
    done = tester("--model", "mtd", "--weights", "weights/mtd.pt", "--data_path", "results/demo_data", "--json", cwd=folder)
    found, wrote = json.loads(done.stdout), json.loads((folder / "results/mtd/scores.json").read_text())["test"]
    assert set(found) == {"split", "n", "accuracy", "balanced_accuracy", "per_class", "confusion_matrix", "classes"}
    assert found["split"] == "test" and set(found["per_class"]["ring"]) == {"precision", "recall", "f1", "support"}
    assert all(found[k] == wrote[k] for k in ("n", "accuracy", "balanced_accuracy", "confusion_matrix"))


def test_images_from_noise(demo, tester, tmp_path):
    """One PNG an image beside the grid, the same for the same seed, and noise from a file."""
    folder, _ = demo
    weights = folder / "weights/gan.pt"
    for out in ("a", "b"):
        done = tester("--model", "gan", "--weights", weights, "--num_images", 3, "--seed", 5, "--out", out, cwd=tmp_path)
        assert done.returncode == 0
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["0000.png", "0001.png", "0002.png", "grid.png"]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    np.save(tmp_path / "z.npy", s.latents(3, s.Generator(), 5).numpy())
    assert tester("--model", "gan", "--weights", weights, "--noise", "z.npy", "--out", "c", cwd=tmp_path).returncode == 0
    assert (tmp_path / "c/0002.png").read_bytes() == (tmp_path / "a/0002.png").read_bytes()


def test_a_generator_that_is_told_the_class_draws_it(tester, tmp_path):
    """--label chooses the class of a conditional MTD's generator; without it every class in turn; a wrong one is refused."""
    config = s.Config(conditional=True, task="mtd", image_size=32)
    s.write_checkpoint(s.Trainer("mtd", config, s.STAGES, torch.device("cpu")).state(), tmp_path / "told.pt")
    common = ("--model", "gan", "--weights", "told.pt", "--num_images", 4)
    assert tester(*common, "--out", "all", cwd=tmp_path).returncode == 0
    assert tester(*common, "--label", "schizont", "--out", "one", cwd=tmp_path).returncode == 0
    same = [(tmp_path / "all" / n).read_bytes() == (tmp_path / "one" / n).read_bytes() for n in map("{:04d}.png".format, range(4))]
    assert same == [False, False, True, False]
    done = tester(*common, "--label", "leukocyte", cwd=tmp_path)
    assert done.returncode == 2 and "--label leukocyte" in done.stderr and done.stderr.count("\n") == 1


def test_a_name_that_the_terminal_cannot_write(demo, tester, tmp_path, monkeypatch):
    """As on Windows, where output to a file is in cp1252: the name is escaped, the answer is there."""
    shutil.copy(demo[0] / "results/demo_data/images/demo_000.png", tmp_path / "клетка.png")
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    done = tester("--model", "mtd", "--weights", demo[0] / "weights/mtd.pt", "--image", "клетка.png", cwd=tmp_path)
    assert done.returncode == 0 and r"\u043a" in done.stdout, done.stderr


@pytest.fixture(scope="session")
def module():
    """test.py as a module; not by its name, which the standard library has too."""
    spec = importlib.util.spec_from_file_location("hand_in_test", ROOT / "test.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_test_function(demo, module):
    """test(architecture, weights, sample) with a name or a network, a file or an array, one or several."""
    folder, _ = demo
    one = module.test("gan", folder / "weights/gan.pt", np.zeros(100))
    assert one.shape == (32, 32, 3) and one.dtype == np.uint8
    assert module.test(s.Generator(image_size=32), folder / "weights/gan.pt", np.zeros((2, 100))).shape == (2, 32, 32, 3)
    image = folder / "results/demo_data/images/demo_000.png"
    answer = module.test("mtd", folder / "weights/mtd.pt", image)
    again = module.test(s.MultiTaskDiscriminator(num_classes=4, image_size=32), folder / "weights/mtd.pt", s.read_image(image))
    assert answer == again and answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
    deep, grey = np.full((9, 9), 40000, np.uint16), np.full((9, 9), 40000 / 65535)
    several = module.test("mtd", folder / "weights/mtd.pt", [deep, grey])
    assert several[0]["probabilities"] == pytest.approx(several[1]["probabilities"], abs=0.02)
    with pytest.raises(s.UsageError, match="weights of a gan"):
        module.test("mtd", folder / "weights/gan.pt", image)
    for wrong in (np.array([["cell"]]), torch.zeros(9, 9, requires_grad=True)):
        with pytest.raises(s.UsageError, match="array"):
            module.test("mtd", folder / "weights/mtd.pt", wrong)
    with pytest.raises(s.UsageError, match="finite"):
        module.test("gan", folder / "weights/gan.pt", np.full(100, 1e300))
    with pytest.raises(s.UsageError, match="does not fit"):
        module.test(s.Generator(image_size=64), folder / "weights/gan.pt", np.zeros(100))
    with pytest.raises(s.UsageError, match="does not fit .* smooth"):
        module.test(s.Generator(image_size=32, smooth=False), folder / "weights/gan.pt", np.zeros(100))


@pytest.mark.parametrize("arguments, names", [
    (("--model", "cnn"), "--model"), ((), "--model"), (("--model", "mtd"), "--image"),
    (("--model", "mtd", "--image", "nowhere.png"), "nowhere.png"), (("--model", "gan", "--num_images", 0), "--num_images"),
    (("--model", "gan", "--noise", "nowhere.npy"), "nowhere.npy"), (("--model", "gan", "--wieghts", "x"), "--weights"),
    (("--model", "mtd", "--data_path", "nowhere"), "nowhere"), (("--model", "gan", "--seed", -1), "--seed"),
    (("--model", "mtd", "--image", "x" * 300), "xxx")])
def test_wrong_usage_of_test_py(arguments, names, demo, module, capsys):
    """One line on standard error that names the flag or file, exit code 2."""
    weights = ("--weights", demo[0] / f"weights/{arguments[1]}.pt") if len(arguments) > 2 and "--wieghts" not in arguments else ()
    assert s.main(module.run, [*map(str, arguments), *map(str, weights)]) == 2
    found = capsys.readouterr()
    assert found.err.startswith("error:") and names in found.err and found.err.count("\n") == 1 and not found.out
