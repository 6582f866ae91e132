"""Training end to end, as a user runs it: pictures, numbers, resuming, Ctrl-C and locks."""

import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from attacks import flat
from conftest import ROOT, TINY, leave_out_reports, take_signals
from PIL import Image
from tqdm import tqdm

import rollNumber_05 as malaria
from extras import classes, demo_set, run_folder


def number(text):
    """A value in metrics.csv, NaN where nothing was measured."""
    return float(text) if text else math.nan


def read_metrics(path):
    """The rows of a metrics.csv as {column: number}."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = []
    for row in rows:
        numbers = {name: number(text) for name, text in row.items()}
        metrics.append(numbers)
    return metrics


def read_json(path):
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def stop(*arguments):
    """What Ctrl-C does."""
    raise KeyboardInterrupt


def stop_before_epoch(patch, epoch):
    """Make trainings stop as by Ctrl-C when so many epochs are finished."""
    train_epoch = malaria.Trainer.train_epoch

    def train_or_stop(trainer, *arguments):
        if trainer.epoch == epoch:
            stop()
        return train_epoch(trainer, *arguments)

    patch.setattr(malaria.Trainer, "train_epoch", train_or_stop)


# The demo run: every task on the demo set

PICTURES = {
    "gan": (
        "losses",
        "scores",
        "nearest",
        "real_vs_generated",
        "weights_generator",
        "weights_discriminator",
        "samples/epoch_0002",
    ),
    "mtd": (
        "losses",
        "scores",
        "nearest",
        "real_vs_generated",
        "weights_generator",
        "weights_discriminator",
        "samples/epoch_0002",
        "classifier_curves",
        "confusion_matrix",
        "predictions_right",
        "predictions_wrong",
        "tsne",
    ),
    "gradcam": ("gradcam_right", "gradcam_wrong", "gradcam_real_fake"),
    "all": ("before_after",),
}


def picture_names():
    """Every picture as task/name."""
    names = []
    for task, pictures in PICTURES.items():
        names += [f"{task}/{picture}.png" for picture in pictures]
    return names


def test_the_demo_run_ends_well(demo):
    """Exit code 0."""
    assert demo.done.returncode == 0, demo.done.stderr


def test_the_demo_run_says_what_it_reads(demo):
    """The demo set is in the layout of IML."""
    assert "layout: IML annotations.json" in demo.done.stdout


@pytest.mark.parametrize("name", picture_names())
def test_a_picture_is_there_and_not_blank(demo, name):
    """Of every task."""
    picture = cv2.imread(str(demo.folder / "results" / name))
    assert picture is not None
    assert picture.std() > 2


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_the_samples_are_an_animation_too(demo, task):
    """With both epochs in it."""
    with Image.open(demo.folder / "results" / task / "samples.gif") as animation:
        assert animation.n_frames == 2


def test_without_a_measured_epoch_there_is_no_picture_of_quality(tmp_path, small_config):
    """No empty panel is drawn, as long as none has been measured."""
    trainer = malaria.Trainer("gan", small_config(), classes.STAGES, "cpu")
    trainer.history = [{"epoch": 1}]
    trainer.traces = torch.zeros(2, len(malaria.StepMetrics._fields))
    malaria.plot_training(trainer, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["losses.png", "scores.png"]


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_the_last_epoch_is_measured(demo, task):
    """Though --measure_every is 10."""
    rows = read_metrics(demo.folder / "results" / task / "metrics.csv")
    assert [math.isnan(row["kid_train"]) for row in rows] == [True, False]


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_metrics_have_a_row_an_epoch(demo, task):
    """Two."""
    rows = read_metrics(demo.folder / "results" / task / "metrics.csv")
    assert [row["epoch"] for row in rows] == [1, 2]


def test_the_head_goes_on_the_dcgan_just_trained(demo):
    """As config.json of the MTD has it."""
    about = read_json(demo.folder / "results/mtd/config.json")
    assert about["config"]["weights"] == str(Path("results/gan/last.pt"))


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_config_json_names_seed_version_and_splits(demo, task):
    """What is needed to repeat the run."""
    about = read_json(demo.folder / "results" / task / "config.json")
    assert about["config"]["seed"] == 0
    assert about["torch"] == torch.__version__
    assert about["splits"]["train"]["images"] == 44


def test_quality_names_its_numbers_of_cells(demo):
    """100 generated ones, all real ones, and those whose neighbours are looked for."""
    numbers = read_json(demo.folder / "results/gan/quality.json")["n"]
    assert numbers == {"generated": 100, "nearest": 32, "train": 293, "val": 55}


def test_generated_cells_of_a_short_run_are_further_off_than_real_ones(demo):
    """Than real validation cells are from real training cells."""
    quality = read_json(demo.folder / "results/gan/quality.json")
    assert quality["kid_train"] > abs(quality["kid_floor"])


def test_generated_cells_of_a_short_run_are_not_learnt_by_heart(demo):
    """They are not nearer to training cells than these are to each other."""
    assert read_json(demo.folder / "results/gan/quality.json")["nearest"] > 0.5


@pytest.mark.parametrize("name", ["precision", "recall"])
def test_precision_and_recall_are_shares(demo, name):
    """From 0 to 1."""
    assert 0 <= read_json(demo.folder / "results/gan/quality.json")[name] <= 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_head_learns(demo, split):
    """Far above 0.25, which is what one answer to everything has."""
    scores = read_json(demo.folder / "results/mtd/scores.json")
    assert scores[split]["balanced_accuracy"] > 0.6


def test_the_test_split_is_scored_as_a_whole(demo):
    """56 cells."""
    assert read_json(demo.folder / "results/mtd/scores.json")["test"]["n"] == 56


def test_the_generator_learns_the_colours(demo):
    """The mean of each channel comes near that of real cells."""
    generator = malaria.load_checkpoint(demo.gan, "gan").generator
    generated = malaria.sample(generator, malaria.latents(64, generator, 0))
    real = demo.data().uint8()
    difference = real.mean((0, 1, 2)) - generated.mean((0, 1, 2))
    assert np.abs(difference).max() < 25


def test_gradcam_needs_test_cells(demo):
    """A given test split can lack every class that is asked for."""
    config = malaria.Config(image_size=32, weights=str(demo.mtd))
    with pytest.raises(malaria.UsageError, match="no cell of these classes is in the test split"):
        malaria.run_gradcam(config, demo.data().split("train"))


def test_json_of_task_data_has_the_keys_of_the_contract(demo, run_script):
    """One JSON object on standard output, nothing else."""
    done = run_script("--task", "data", "--json", "--image_size", 32, cwd=demo.folder)
    assert json.loads(done.stdout).keys() == {"layout", "classes", "splits", "skipped"}


def test_json_of_task_data_counts_what_the_demo_set_has(demo, run_script):
    """All fields, in three splits; nothing is skipped."""
    done = run_script("--task", "data", "--json", "--image_size", 32, cwd=demo.folder)
    report = json.loads(done.stdout)
    assert report["classes"] == list(classes.STAGES)
    assert report["skipped"] == 0
    assert report["splits"].keys() == set(malaria.SPLITS)
    images = [split["images"] for split in report["splits"].values()]
    assert sum(images) == demo_set.FIELDS


# Other choices run to the end

OTHER_CHOICES = {
    "whole fields": ("--view", "field", "--optimizer_g", "rmsprop", "--optimizer_d", "sgd"),
    "grey, conditional": (
        "--channels",
        1,
        "--loss",
        "lsgan",
        "--recipe",
        "assignment",
        "--conditional",
        "--measure_every",
        1,
    ),
}


@pytest.fixture(scope="module")
def other_runs(tmp_path_factory, small_data, run_script):
    """{name: folder} of a finished --task all of each of OTHER_CHOICES, which draws few cells."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(malaria, "GENERATED", 40)
        for name, flags in OTHER_CHOICES.items():
            folders[name] = tmp_path_factory.mktemp("other")
            common = ("--data_path", small_data, *TINY, "--epochs", 1)
            done = run_script(*common, *flags, cwd=folders[name])
            assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("name", OTHER_CHOICES)
def test_other_choices_run_to_the_end(other_runs, name):
    """The last pictures of --task all are there."""
    results = other_runs[name] / "results"
    assert (results / "gradcam/gradcam_real_fake.png").exists()
    assert (results / "all/before_after.png").exists()


def test_several_classes_an_image_have_no_picture_of_confusion(other_runs):
    """Their scores are in scores.json."""
    results = other_runs["whole fields"] / "results"
    assert not (results / "mtd/confusion_matrix.png").exists()
    assert (results / "mtd/scores.json").exists()


def test_measured_epochs_are_drawn(other_runs):
    """With --measure_every 1."""
    assert (other_runs["grey, conditional"] / "results/gan/quality.png").exists()


def test_a_conditional_generator_is_measured_in_each_class(other_runs):
    """In the classes with enough cells, beside all together."""
    path = other_runs["grey, conditional"] / "results/mtd/metrics.csv"
    columns = read_metrics(path)[0].keys()
    assert {"kid_train", "kid_ring", "kid_gametocyte"} <= columns


# What an MTD starts from


def small_gan(path):
    """The checkpoint of a small DCGAN whose weights and averages differ."""
    config = malaria.Config(image_size=28, batch_size=8, g_width=16, d_width=16)
    trainer = malaria.Trainer("gan", config, classes.STAGES, "cpu")
    for _ in range(3):
        images = torch.rand(8, 3, 28, 28) * 2 - 1
        trainer.adversarial_step(malaria.Batch(images, torch.zeros(8)), None)
    trainer.strength.fill_(0.25)
    malaria.save_checkpoint(trainer.state(), path)
    return malaria.load_checkpoint(path)


@pytest.fixture
def dcgan(tmp_path):
    """The Checkpoint of a small DCGAN, in gan.pt."""
    return small_gan(tmp_path / "gan.pt")


def small_mtd(**flags):
    """A new Trainer of an MTD that fits on the small DCGAN."""
    sizes = {"image_size": 28, "g_width": 16, "d_width": 16}
    config = malaria.Config(**{**sizes, **flags})
    return malaria.Trainer("mtd", config, classes.STAGES, "cpu")


def state_of(trainer, name):
    """The weights of one of a trainer's networks, and those of its average."""
    return trainer.networks[name].state_dict(), trainer.averages[name].module.state_dict()


def test_the_weights_of_the_small_dcgan_are_not_its_averages(dcgan):
    """So that the tests below tell them apart."""
    weights = dcgan.state["weights"]["generator"]["project.0.weight"]
    assert not torch.equal(weights, dcgan.generator.project[0].weight)


def test_an_mtd_starts_from_the_averages_of_a_discriminator(dcgan, tmp_path):
    """The network and its average; the class head is new."""
    trainer = small_mtd()
    trainer.start_from(tmp_path / "gan.pt")
    for state in state_of(trainer, "discriminator"):
        for name, value in dcgan.discriminator.state_dict().items():
            assert torch.equal(state[name], value), name


def test_an_mtd_starts_from_the_averages_of_a_generator(dcgan, tmp_path):
    """The network and its average."""
    trainer = small_mtd()
    trainer.start_from(tmp_path / "gan.pt")
    for state in state_of(trainer, "generator"):
        for name, value in dcgan.generator.state_dict().items():
            assert torch.equal(state[name], value), name


def test_a_conditional_mtd_takes_a_generators_weights_of_the_noise(dcgan, tmp_path):
    """All else of it, too."""
    trainer = small_mtd(conditional=True)
    trainer.start_from(tmp_path / "gan.pt")
    for state in state_of(trainer, "generator"):
        for name, value in dcgan.generator.state_dict().items():
            found = state[name]
            if name == "project.0.weight":
                found = found[:, : dcgan.generator.latent_dim]
            assert torch.equal(found, value), name


def test_a_conditional_mtd_keeps_its_own_weights_of_the_class(dcgan, tmp_path):
    """A DCGAN has none."""
    trainer = small_mtd(conditional=True)
    weight = trainer.networks["generator"].project[0].weight
    of_the_class = weight[:, dcgan.generator.latent_dim :].clone()
    trainer.start_from(tmp_path / "gan.pt")
    for state in state_of(trainer, "generator"):
        assert torch.equal(state["project.0.weight"][:, dcgan.generator.latent_dim :], of_the_class)


def test_an_mtd_starts_with_the_augmentation_strength_of_its_dcgan(dcgan, tmp_path):
    """D overfits as before."""
    trainer = small_mtd()
    trainer.start_from(tmp_path / "gan.pt")
    assert trainer.strength == 0.25


def test_an_mtd_cannot_start_from_an_mtd(tmp_path):
    """The line says what the weights are of."""
    malaria.save_checkpoint(small_mtd().state(), tmp_path / "mtd.pt")
    with pytest.raises(malaria.UsageError, match="weights of a mtd, not of a gan"):
        small_mtd().start_from(tmp_path / "mtd.pt")


@pytest.mark.parametrize(
    ("setting", "made_with"),
    [
        ({"smooth": False}, "--smooth"),
        ({"d_width": 32}, "--d_width 16"),
        ({"d_norm": "instance"}, "--d_norm batch"),
        ({"loss": "wgan-gp"}, "--d_norm batch"),  # whose D has none
    ],
)
def test_an_mtd_of_other_layers_cannot_start_from_a_dcgan(dcgan, tmp_path, setting, made_with):
    """The line says what the DCGAN was made with."""
    with pytest.raises(malaria.UsageError, match=f"made with {made_with}"):
        small_mtd(**setting).start_from(tmp_path / "gan.pt")


# How often real is told from fake


@pytest.mark.parametrize(
    ("task", "flags", "every"),
    [
        ("gan", {}, 1),
        ("gan", {"adversarial_every": 3}, 1),
        ("gan", {"weights": "gan.pt"}, 1),
        ("mtd", {}, 1),
        ("mtd", {"adversarial_every": 3}, 3),
        ("mtd", {"weights": "gan.pt", "data_path": "data"}, 16),
        ("mtd", {"weights": "gan.pt"}, 1),  # on the demo set
        ("mtd", {"weights": "gan.pt", "data_path": "data", "augment": False}, 16),
        ("mtd", {"weights": "gan.pt", "adversarial_every": 3}, 3),
        ("mtd", {"weights": "gan.pt", "conditional": True}, 1),
        ("mtd", {"weights": "gan.pt", **malaria.RECIPES["assignment"]}, 1),
    ],
)
def test_how_often_real_is_told_from_fake(task, flags, every):
    """On a DCGAN seldom, unless its generator learns the classes; what is asked for goes first."""
    assert malaria.adversarial_interval(task, malaria.Config(**flags)) == every


@pytest.fixture
def trainer_of_seven_steps(small_config, random_data):
    """An MTD's Trainer after an epoch of 7 steps, real against fake at each third.

    Its `rates` are those of D at each step.
    """
    trainer = malaria.Trainer("mtd", small_config(adversarial_every=3), classes.STAGES, "cpu")
    trainer.rates = []

    def keep_rate(optimizer, *arguments):
        trainer.rates.append(optimizer.param_groups[0]["lr"])

    trainer.optimizers["discriminator"].register_step_pre_hook(keep_rate)
    trainer.set_rate_factor(0.9)
    trainer.train_epoch(random_data([0, 1, 2, 3] * 3), 7, tqdm(disable=True))
    return trainer


def test_steps_on_the_class_loss_alone_have_a_rate_of_their_own(trainer_of_seven_steps):
    """It falls with the others."""
    config = trainer_of_seven_steps.config
    factor = trainer_of_seven_steps.rate_factor
    adversarial = factor * config.lr_d
    alone = factor * config.lr_c
    expected = [adversarial, alone, alone, adversarial, alone, alone, adversarial]
    assert trainer_of_seven_steps.rates == expected


@pytest.mark.parametrize("name", ["loss_d", "loss_g", "d_real", "d_fake"])
def test_adversarial_traces_repeat_between_adversarial_steps(trainer_of_seven_steps, name):
    """At other steps there is nothing new to say."""
    column = malaria.StepMetrics._fields.index(name)
    trace = trainer_of_seven_steps.traces[:, column]
    changed = trace[1:] != trace[:-1]
    assert changed.tolist() == [False, False, True, False, False, True]


def test_the_class_loss_is_new_at_every_step(trainer_of_seven_steps):
    """The head learns at each."""
    trace = trainer_of_seven_steps.traces[:, malaria.StepMetrics._fields.index("loss_c")]
    assert (trace[1:] != trace[:-1]).all()


@pytest.mark.parametrize(
    ("name", "updates"), [("generator", math.ceil(7 / 3)), ("discriminator", 7)]
)
def test_the_generator_learns_at_adversarial_steps_only(trainer_of_seven_steps, name, updates):
    """The discriminator at each step."""
    states = trainer_of_seven_steps.optimizers[name].state_dict()["state"]
    assert states[0]["step"] == updates


# Rates and recipes


@pytest.mark.parametrize(("done", "factor"), [(0, 1), (0.5, 1), (0.75, 0.5), (0.9, 0.2)])
def test_rates_are_constant_then_fall(done, factor):
    """With --lr_decay 0.5: whole until half of the epochs, then in a line."""
    config = malaria.Config(lr_decay=0.5, g_width=8, d_width=8)
    trainer = malaria.Trainer("gan", config, classes.STAGES, "cpu")
    trainer.set_rate_factor(done)
    assert trainer.rate_factor == pytest.approx(factor)


@pytest.mark.parametrize(("name", "rate"), [("generator", 1e-4), ("discriminator", 2e-4)])
def test_each_network_has_a_rate_of_its_own(name, rate, small_config, random_data):
    """At an adversarial step, times the factor."""
    config = small_config(lr_decay=0.5, lr_g=1e-3, lr_d=2e-3)
    trainer = malaria.Trainer("gan", config, classes.STAGES, "cpu")
    trainer.set_rate_factor(0.95)
    trainer.train_epoch(random_data([0, 1, 2, 3] * 3), 1, tqdm(disable=True))
    assert trainer.optimizers[name].param_groups[0]["lr"] == pytest.approx(rate)


def test_without_flags_the_config_has_the_defaults():
    """The recipe "best"."""
    assert malaria.config_from([]) == malaria.Config()


@pytest.mark.parametrize(("name", "value"), malaria.RECIPES["assignment"].items())
def test_a_recipe_is_a_set_of_defaults(name, value):
    """That of the assignment switches the extras off."""
    config = malaria.config_from(["--recipe", "assignment"])
    assert getattr(config, name) == value


def test_a_flag_wins_over_the_recipe():
    """What is asked for goes first."""
    assert malaria.config_from(["--recipe", "assignment", "--ema", "0.9"]).ema == 0.9


# Which epoch is kept


def best_epoch(folder, task):
    """The epoch in best.pt."""
    return malaria.read_state(folder / "results" / task / "best.pt")["epoch"]


def test_the_mtds_kept_epoch_is_the_latest_within_a_standard_error(
    tmp_path, small_data, monkeypatch, run_script, without_reports
):
    """Means of five: 0.90 after epoch 6, 0.86 after 8, 0.72 after 9; the error is 0.05."""
    validation = iter([0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.2])

    def scripted_scores(data, probabilities):
        is_validation = data.index.splits[data.rows[0]] == "val"
        accuracy = next(validation) if is_validation else 1.0
        return {
            "loss": 1.0,
            "accuracy": accuracy,
            "balanced_accuracy": accuracy,
            "standard_error": 0.05,
        }

    monkeypatch.setattr(malaria, "evaluate", scripted_scores)
    flags = ("--task", "mtd", "--data_path", small_data, *TINY, "--epochs", 9)
    assert run_script(*flags, cwd=tmp_path).returncode == 0
    assert best_epoch(tmp_path, "mtd") == 8


def test_the_dcgans_kept_epoch_has_the_lowest_kid(
    tmp_path, small_data, monkeypatch, run_script, without_reports
):
    """To the training cells, of the measured epochs: 2, 4, 6 and the last."""
    distances = iter([3.0, 1.0, 2.0, 4.0])

    def scripted_quality(generator, data, seed):
        return {"kid_train": next(distances)}

    monkeypatch.setattr(malaria, "measure_quality", scripted_quality)
    flags = ("--task", "gan", "--data_path", small_data, *TINY, "--epochs", 7, "--measure_every", 2)
    assert run_script(*flags, cwd=tmp_path).returncode == 0
    assert best_epoch(tmp_path, "gan") == 4
    assert list(distances) == []


# Earlier runs and weights stay


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, small_data, run_script):
    """A folder with two trainings of a DCGAN, and what the second one said."""
    folder = tmp_path_factory.mktemp("two_runs")
    flags = ("--task", "gan", "--data_path", small_data, *TINY, "--epochs", 1)
    with pytest.MonkeyPatch.context() as patch:
        leave_out_reports(patch)
        assert run_script(*flags, cwd=folder).returncode == 0
        done = run_script(*flags, "--seed", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_second_run_says_where_the_first_one_is_now(two_runs):
    """Beside it, under a number."""
    _, done = two_runs
    assert f"it is now {Path('results/gan.old-1')}" in done.stderr


@pytest.mark.parametrize(("name", "seed"), [("gan.old-1", 0), ("gan", 1)])
def test_a_second_run_keeps_the_first_one(two_runs, name, seed):
    """Each has a folder."""
    folder, _ = two_runs
    state = malaria.read_state(folder / "results" / name / "last.pt")
    assert state["config"]["seed"] == seed


def hand_over_to(save_dir, demo, **flags):
    """Hand over the weights of the demo set's DCGAN; returns what is said of their place."""
    checkpoint = malaria.load_checkpoint(demo.gan)
    config = malaria.Config(save_dir=str(save_dir), **flags)
    return malaria.hand_over(checkpoint, Path("best.pt"), config)


def test_weights_are_handed_over(demo, tmp_path):
    """To --save_dir."""
    assert hand_over_to(tmp_path, demo) == str(tmp_path / "gan.pt")
    assert malaria.read_state(tmp_path / "gan.pt")["task"] == "gan"


def test_weights_that_are_there_stay(demo, tmp_path):
    """The line says so."""
    (tmp_path / "gan.pt").write_text("shipped")
    assert "stays as it was (see --overwrite)" in hand_over_to(tmp_path, demo)
    assert (tmp_path / "gan.pt").read_text() == "shipped"


def test_weights_that_are_there_are_replaced_if_asked(demo, tmp_path):
    """With --overwrite."""
    (tmp_path / "gan.pt").write_text("shipped")
    hand_over_to(tmp_path, demo, overwrite=True)
    assert malaria.read_state(tmp_path / "gan.pt")["task"] == "gan"


# Images that weights were trained on


def sources_of(data, split):
    """The image files of a split, each once."""
    return sorted(set(data.split(split).sources()))


@pytest.fixture(scope="module")
def leaky_runs(tmp_path_factory, small_data, run_script):
    """A folder with a DCGAN, and an MTD on it after it was said to have seen two test images.

    Beside it what was said when each was trained.
    """
    folder = tmp_path_factory.mktemp("leaky")
    flags = ("--data_path", small_data, *TINY, "--epochs", 1)
    with pytest.MonkeyPatch.context() as patch:
        leave_out_reports(patch)
        first = run_script("--task", "gan", *flags, cwd=folder)
        state = malaria.read_state(folder / "results/gan/last.pt")
        data = malaria.load_data(
            malaria.Config(data_path=str(small_data), results_dir=str(folder / "results"))
        )
        state["trained_on"] += sources_of(data, "test")[:2]
        malaria.save_checkpoint(state, folder / "leaky.pt")
        second = run_script("--task", "mtd", "--weights", "leaky.pt", *flags, cwd=folder)
    return folder, first, second


def test_a_checkpoint_names_the_images_that_it_was_trained_on(leaky_runs, small_data):
    """Those of train."""
    folder, _, _ = leaky_runs
    state = malaria.read_state(folder / "results/gan/last.pt")
    config = malaria.Config(data_path=str(small_data), results_dir=str(folder / "results"))
    assert state["trained_on"] == sources_of(malaria.load_data(config), "train")


def test_training_on_images_of_train_gives_no_warning(leaky_runs):
    """All is as it should be."""
    _, first, _ = leaky_runs
    assert "warning" not in first.stderr


def test_training_warns_of_weights_that_have_seen_test_images(leaky_runs):
    """Where images were added and the splits dealt anew."""
    _, _, second = leaky_runs
    assert "warning: mtd was trained on 2 images that are now in val or test" in second.stderr


@pytest.mark.parametrize(("split", "warns"), [("test", True), ("val", False)])
def test_scoring_warns_of_weights_that_have_seen_the_images(
    leaky_runs, small_data, run_tester, split, warns
):
    """An MTD inherits what its DCGAN has seen."""
    folder, _, _ = leaky_runs
    flags = ("--model", "mtd", "--weights", "results/mtd/last.pt", "--split", split)
    done = run_tester(*flags, "--data_path", small_data, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert ("was trained on 2 images" in done.stderr) == warns


# Going on with a run


def is_same(value, other):
    """Whether two values are equal, tensors to the bit."""
    if isinstance(value, torch.Tensor):
        return torch.equal(value, other)
    return value == other


def test_a_run_can_be_watched(tmp_path, small_data, run_script, monkeypatch):
    """Its curves and its page are drawn every 25 epochs; a stopped run has them too."""
    leave_out_reports(monkeypatch)
    stop_before_epoch(monkeypatch, 25)
    flags = ("--task", "gan", "--data_path", small_data, *TINY, "--epochs", 30)
    assert run_script(*flags, cwd=tmp_path).returncode == 130
    assert (tmp_path / "results/gan/losses.png").exists()
    assert "losses.png" in (tmp_path / "results/gan/index.html").read_text()


@pytest.fixture(scope="module", params=["gan", "mtd"])
def straight_and_resumed(request, tmp_path_factory, small_data, run_script):
    """Folders of a task's four epochs: straight through, and stopped after two and resumed."""
    task = request.param
    folder = tmp_path_factory.mktemp("resumed")
    flags = ("--task", task, "--data_path", small_data, *TINY, "--epochs", 4)
    flags += ("--lr_decay", 0.75, "--adversarial_every", 3)
    with pytest.MonkeyPatch.context() as patch:
        leave_out_reports(patch)
        straight = run_script(*flags, "--results_dir", "straight", cwd=folder)
        with pytest.MonkeyPatch.context() as stopping:
            stop_before_epoch(stopping, 2)
            stopped = run_script(*flags, "--results_dir", "resumed", cwd=folder)
        resumed = run_script("--task", task, "--resume", "--results_dir", "resumed", cwd=folder)
    assert [straight.returncode, stopped.returncode, resumed.returncode] == [0, 130, 0]
    return folder / "straight" / task, folder / "resumed" / task


def test_resuming_equals_never_having_stopped(straight_and_resumed):
    """Bit for bit on the CPU: weights, averages, optimisers, traces and numbers."""
    states = []
    for folder in straight_and_resumed:
        state = malaria.read_state(folder / "last.pt")
        del state["config"]  # it has --resume and --results_dir
        states.append(dict(flat(state)))
    straight, resumed = states
    assert straight.keys() == resumed.keys()
    different = [name for name, value in straight.items() if not is_same(value, resumed[name])]
    assert different == []


def test_a_resumed_run_has_all_epochs(straight_and_resumed):
    """Each once, in metrics.csv."""
    _, resumed = straight_and_resumed
    rows = read_metrics(resumed / "metrics.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


@pytest.mark.parametrize("flags", [[], ["--weights", str(Path("results/gan/last.pt"))]])
def test_a_resumed_mtd_knows_its_dcgan(demo, monkeypatch, flags):
    """With the same command and --resume, or without --weights."""
    monkeypatch.chdir(demo.folder)
    config = malaria.config_from(["--task", "mtd", "--resume", *flags])
    assert config.weights == str(Path("results/gan/last.pt"))


def test_a_resumed_mtd_cannot_start_from_another_dcgan(demo, run_script):
    """It is refused, in a line that names the one it did start from."""
    done = run_script("--task", "mtd", "--resume", "--weights", "other.pt", cwd=demo.folder)
    assert done.returncode == 2
    assert "other.pt: the run started from 'results/gan/last.pt'" in done.stderr


def test_a_resumed_mtd_keeps_its_interval_of_adversarial_steps(demo, run_script):
    """Another one is refused, in a line that names the one it was made with."""
    flags = ("--task", "mtd", "--resume", "--adversarial_every", 5)
    done = run_script(*flags, cwd=demo.folder)
    assert done.returncode == 2
    assert "made with --adversarial_every 1; this cannot change" in done.stderr


@pytest.mark.parametrize(
    ("flag", "value"), [("--adversarial_every", "0"), ("--d_steps", "0"), ("--symmetry", "auto")]
)
def test_a_resumed_command_may_repeat_what_a_run_replaces(demo, monkeypatch, flag, value):
    """It stands for what the run was made with."""
    monkeypatch.chdir(demo.folder)
    config = malaria.config_from(["--task", "mtd", "--resume", flag, value])
    trainer = malaria.Trainer("mtd", config, classes.STAGES, "cpu")
    malaria.restore(trainer, config)
    assert trainer.epoch == 2


@pytest.mark.parametrize("flags", [{"beta1_g": 0.0, "beta1_d": 0.0}, {}])
def test_a_run_with_sgd_is_resumed(tmp_path, small_config, random_data, flags):
    """Without momentum SGD keeps nothing of its own."""
    config = small_config(optimizer="sgd", results_dir=str(tmp_path), **flags)
    trainer = malaria.Trainer("gan", config, classes.STAGES, "cpu")
    trainer.train_epoch(random_data([0, 1, 2, 3] * 3), 1, tqdm(disable=True))
    malaria.save_checkpoint(trainer.state(), tmp_path / "gan/last.pt")
    config = dataclasses.replace(config, resume="auto")
    resumed = malaria.Trainer("gan", config, classes.STAGES, "cpu")
    malaria.restore(resumed, config)
    assert resumed.epoch == 1


def test_a_resumed_task_all_has_no_weights(demo, monkeypatch):
    """It takes what it trains itself."""
    monkeypatch.chdir(demo.folder)
    assert malaria.config_from(["--task", "all", "--resume"]).weights == ""


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_a_resumed_task_all_turns_cells_as_before(tmp_path, small_config, random_data, task):
    """Though its command says no more than --task all --resume."""
    first = small_config(symmetry="mirror", results_dir=str(tmp_path))
    trainer = malaria.Trainer(task, first, classes.STAGES, "cpu")
    trainer.train_epoch(random_data([0, 1, 2, 3] * 3), 1, tqdm(disable=True))
    trainer.history = [{"epoch": 1, **dict.fromkeys(malaria.StepMetrics._fields, 0.0)}]
    trainer.history[0]["val_balanced_accuracy"] = 0.5
    malaria.save_checkpoint(trainer.state(), tmp_path / f"{task}/last.pt")
    again = small_config(resume="auto", results_dir=str(tmp_path))
    resumed = malaria.Trainer(task, again, classes.STAGES, "cpu")
    malaria.restore(resumed, again)
    generators = [resumed.networks["generator"], resumed.averages["generator"].module]
    assert [generator.symmetry for generator in generators] == ["mirror", "mirror"]


@pytest.fixture
def stopped_all(tmp_path, small_data, run_script, without_reports):
    """The flags of a --task all that was stopped in its DCGAN, after an MTD alone was trained."""
    flags = ("--data_path", small_data, *TINY, "--epochs", 2)
    assert run_script("--task", "mtd", *flags, cwd=tmp_path).returncode == 0
    flags = ("--task", "all", "--seed", 1, *flags)
    with pytest.MonkeyPatch.context() as patch:
        stop_before_epoch(patch, 1)
        assert run_script(*flags, cwd=tmp_path).returncode == 130
    return flags


def test_task_all_moves_an_earlier_mtd_aside_at_once(stopped_all, tmp_path):
    """Or it would be resumed in place of its own."""
    assert not (tmp_path / "results/mtd").exists()
    assert (tmp_path / "results/mtd.old-1/last.pt").exists()


def test_a_resumed_task_all_trains_its_own_mtd(stopped_all, tmp_path, run_script):
    """And moves nothing aside a second time."""
    assert run_script(*stopped_all, "--resume", cwd=tmp_path).returncode == 0
    assert malaria.read_state(tmp_path / "results/mtd/last.pt")["config"]["seed"] == 1
    assert not (tmp_path / "results/mtd.old-2").exists()


# Failures


@pytest.fixture
def diverged(tmp_path, small_data, run_script, without_reports):
    """A finished run at rates beyond reason."""
    rates = ("--lr_d", "1e30", "--lr_g", "1e30", "--optimizer", "sgd")
    flags = ("--task", "gan", "--data_path", small_data, *TINY, "--epochs", 3)
    return run_script(*flags, *rates, cwd=tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(diverged):
    """Exit code 1, and a line with the mend."""
    assert diverged.returncode == 1
    assert "not finite" in diverged.stderr
    assert "--lr_d" in diverged.stderr


def test_weights_that_are_not_finite_are_not_kept(diverged, tmp_path):
    """No epoch was finished here."""
    assert "no epoch was finished" in diverged.stderr
    assert not (tmp_path / "results/gan/last.pt").exists()


# Processes that end early


class Training:
    """A process that trains a DCGAN in a folder for ever; at the end of the block it is killed."""

    def __init__(self, folder, data):
        self.folder = folder
        self.last = folder / "results/gan/last.pt"
        self.errors = folder / "errors.txt"
        self.flags = ("--task", "gan", "--data_path", data, *TINY)

    def __enter__(self):
        command = [sys.executable, ROOT / "rollNumber_05.py", *self.flags, "--epochs", 1_000_000]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                preexec_fn=take_signals,
            )
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()

    def wait_for_epochs(self):
        """Return when two epochs are saved, which comes before the third one's samples."""
        picture = self.folder / "results/gan/samples/epoch_0003.png"
        deadline = time.monotonic() + 120
        while not picture.exists():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def end(self, signal_number):
        """Send a signal; returns the exit code and standard error."""
        self.process.send_signal(signal_number)
        code = self.process.wait(timeout=60)
        return code, self.errors.read_text()


has_signals = pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT and SIGKILL to send")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, small_data):
    """A Training after Ctrl-C, its exit code and what it said."""
    with Training(tmp_path_factory.mktemp("interrupted"), small_data) as training:
        training.wait_for_epochs()
        return training, *training.end(signal.SIGINT)


@has_signals
def test_ctrl_c_is_told_in_a_line(interrupted):
    """Exit code 130, and how to go on."""
    _, code, errors = interrupted
    assert code == 130
    assert errors.endswith("last.pt, --resume goes on with it\n")
    assert "Traceback" not in errors


@has_signals
def test_after_ctrl_c_a_run_can_be_finished(interrupted, run_script, without_reports):
    """With --resume, from the last finished epoch."""
    training, _, _ = interrupted
    epoch = malaria.read_state(training.last)["epoch"]
    assert epoch >= 2
    done = run_script(*training.flags, "--resume", "--epochs", epoch + 1, cwd=training.folder)
    assert done.returncode == 0, done.stderr
    assert malaria.read_state(training.last)["epoch"] == epoch + 1


@has_signals
def test_a_folder_in_use_is_refused_until_its_process_is_killed(
    tmp_path, small_data, run_script, without_reports
):
    """The line names the process; the lock file that it leaves stops nobody."""
    with Training(tmp_path, small_data) as training:
        training.wait_for_epochs()
        flags = (*training.flags, "--epochs", 1)
        refused = run_script(*flags, cwd=tmp_path)
        assert refused.returncode == 2
        assert f"process {training.process.pid} (since " in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert not (tmp_path / "results/gan.old-1").exists()

        training.end(signal.SIGKILL)
        assert (tmp_path / "results/gan.lock").exists()
        done = run_script(*flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path):
    """The message names its process."""
    with run_folder.held(tmp_path / "gan"):
        named = f"process {os.getpid()} "
        with (
            pytest.raises(malaria.UsageError, match=named),
            run_folder.held(tmp_path / "gan"),
        ):
            pytest.fail("the folder is held twice")


def test_task_all_leaves_an_mtd_in_training_where_it_is(
    tmp_path, small_data, run_script, without_reports
):
    """It is refused before it has moved anything aside."""
    flags = ("--data_path", small_data, *TINY, "--epochs", 1)
    assert run_script("--task", "mtd", *flags, cwd=tmp_path).returncode == 0
    with run_folder.held(tmp_path / "results/mtd"):
        done = run_script("--task", "all", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert f"process {os.getpid()} " in done.stderr
    assert (tmp_path / "results/mtd/last.pt").exists()


def test_a_folder_is_free_again_when_its_run_has_ended(tmp_path):
    """And nothing says that a process holds it."""
    for _ in range(2):
        with run_folder.held(tmp_path / "gan"):
            assert (tmp_path / "gan.holder.txt").exists()
        assert not (tmp_path / "gan.holder.txt").exists()


def test_folders_beside_each_other_can_be_held_together(tmp_path):
    """The DCGAN's and the MTD's."""
    with run_folder.held(tmp_path / "gan"), run_folder.held(tmp_path / "mtd"):
        assert (tmp_path / "gan.lock").exists()
        assert (tmp_path / "mtd.lock").exists()


def test_folders_are_moved_aside_under_the_first_free_number(tmp_path):
    """Nothing that is there is written over."""
    for number in (1, 2):
        (tmp_path / "gan").mkdir()
        (tmp_path / "gan/last.pt").write_text(f"run {number}")
        run_folder.move_aside(tmp_path / "gan")
        assert (tmp_path / f"gan.old-{number}/last.pt").read_text() == f"run {number}"
    assert not (tmp_path / "gan").exists()
