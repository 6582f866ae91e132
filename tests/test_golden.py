"""Data sets, steps, runs and answers beside what golden/*.json holds of them.

`how` in an entry says how it came about. Where the script was meant to change, its test says so.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import layouts
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from tqdm import tqdm

import rollNumber_05 as malaria

REAL_SET = ROOT.parent / "shared" / "data" / "iml_malaria"
needs_real_set = pytest.mark.skipif(not REAL_SET.exists(), reason=f"{REAL_SET} is not there")


def read_golden(name):
    """{name: entry} of a file, without its lines about where it was recorded."""
    path = Path(__file__).with_name("golden") / name
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries.pop("about", None)
    return entries


LAYOUTS = read_golden("layouts.json")
REAL_LAYOUT = LAYOUTS.pop("iml_malaria")
STEPS = read_golden("steps.json")
RUNS = read_golden("runs.json")
ANSWERS = read_golden("answers.json")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums are in the order in which they were recorded: in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fingerprint(network):
    """Sum and norm, in float64, of all floats in a network's state_dict."""
    floats = [value for value in network.state_dict().values() if value.is_floating_point()]
    flat = torch.cat([value.double().flatten() for value in floats])
    return {"sum": flat.sum().item(), "norm": flat.norm().item()}


# Data sets


class Reading(NamedTuple):
    """An entry of layouts.json, and its data set as it is read now."""

    entry: dict
    data: malaria.MalariaDataset


@pytest.fixture(scope="module", params=LAYOUTS)
def reading(request, tmp_path_factory, load):
    """The Reading of each entry."""
    entry = LAYOUTS[request.param]
    root = tmp_path_factory.mktemp("golden") / entry["data_set"]
    layouts.DATA_SETS[entry["data_set"]](root)
    return Reading(entry, load(root, **entry["flags"]))


@pytest.fixture(scope="module")
def real_reading(tmp_path_factory):
    """The Reading of the real data set."""
    results = tmp_path_factory.mktemp("golden")
    flags = REAL_LAYOUT["flags"]
    config = malaria.Config(data_path=str(REAL_SET), results_dir=str(results), **flags)
    return Reading(REAL_LAYOUT, malaria.load_data(config))


def found_of(data):
    """What an Index says of a whole data set."""
    index = data.index
    return {
        "layout": index.layout,
        "classes": index.classes,
        "skipped": index.skipped,
        "images": index.image_counts,
    }


def label_names(index):
    """The class name of each crop, or its list of 0 and 1."""
    if index.view == "field":
        return index.labels
    return [index.classes[label] for label in index.labels]


def box_numbers(boxes):
    """(N, 4) numbers of boxes, -1 where a crop has none."""
    numbers = np.full((len(boxes), 4), -1.0)
    for row, box in zip(numbers, boxes, strict=True):
        if box is not None:
            row[:] = box
    return numbers


def pixel_means(data):
    """The mean of all pixels, in 0 to 255, of each channel."""
    return data.uint8().astype(float).mean((0, 1, 2)).tolist()


def test_what_is_found(reading):
    """Layout, classes, skipped annotations, and how many fields are in each split."""
    expected = {name: reading.entry[name] for name in ("layout", "classes", "skipped", "images")}
    assert found_of(reading.data) == expected


def test_sources_in_order(reading):
    """The crops come from the same images in the same order."""
    assert reading.data.index.sources == [source for source, _, _, _ in reading.entry["cells"]]


def test_boxes(reading):
    """The crops have the same boxes; a YOLO box may differ in its last digit."""
    recorded = [box for _, box, _, _ in reading.entry["cells"]]
    assert box_numbers(reading.data.index.boxes) == pytest.approx(box_numbers(recorded), abs=1e-9)


def test_class_names(reading):
    """The crops have the same labels."""
    assert label_names(reading.data.index) == [name for _, _, name, _ in reading.entry["cells"]]


def test_splits(reading):
    """The crops are in the same splits, whether these are given or dealt."""
    assert reading.data.index.splits == [split for _, _, _, split in reading.entry["cells"]]


def test_pixel_means(reading):
    """The crops show the same, as far as JPEG decoders agree."""
    assert pixel_means(reading.data) == pytest.approx(reading.entry["pixel_means"], abs=0.5)


@needs_real_set
def test_what_is_found_in_the_real_set(real_reading):
    """Layout, classes, skipped annotations, and how many fields are in each split."""
    expected = {name: REAL_LAYOUT[name] for name in ("layout", "classes", "skipped", "images")}
    assert found_of(real_reading.data) == expected


@needs_real_set
def test_counts_of_the_real_set(real_reading):
    """How many cells of each class are in each split."""
    counts = real_reading.data.counts()
    assert {split: part["cells"] for split, part in counts.items()} == REAL_LAYOUT["counts"]


@needs_real_set
def test_cells_of_the_real_set(real_reading):
    """Image, box, class and split of every cell, in order."""
    index = real_reading.data.index
    columns = zip(index.sources, index.boxes, label_names(index), index.splits, strict=True)
    text = json.dumps([list(cell) for cell in columns])
    assert hashlib.sha256(text.encode()).hexdigest() == REAL_LAYOUT["cells_sha256"]


@needs_real_set
def test_pixel_means_of_the_real_set(real_reading):
    """The crops show the same, as far as JPEG decoders agree."""
    assert pixel_means(real_reading.data) == pytest.approx(REAL_LAYOUT["pixel_means"], abs=0.5)


# Steps


class Setting(NamedTuple):
    """What the update of a network starts from."""

    generator: malaria.Generator
    discriminator: malaria.Discriminator
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    real: torch.Tensor
    labels: torch.Tensor
    fake: torch.Tensor


def images_of_seed(seed):
    """Eight images of uniform noise (8, 3, 32, 32) in [-1, 1]."""
    torch.manual_seed(seed)
    return torch.rand(8, 3, 32, 32) * 2 - 1


@pytest.fixture
def setting(small_config):
    """The function of a task and flags that makes a Setting."""

    def make(task, **flags):
        config = small_config(head_width=128, dropout=0.0, **flags)
        torch.manual_seed(0)
        generator, discriminator = malaria.build_networks(task, vars(config), 4)
        real = images_of_seed(1)
        labels = torch.arange(8) % 4
        torch.manual_seed(2)
        fake = generator(torch.randn(8, config.latent_dim), labels)
        optimizer_g = malaria.make_optimizer(config, "generator", generator.parameters())
        optimizer_d = malaria.make_optimizer(config, "discriminator", discriminator.parameters())
        return Setting(generator, discriminator, optimizer_g, optimizer_d, real, labels, fake)

    return make


SMOOTHING = 0.1
CLASS_WEIGHT = 10.0
SINGLE_LABEL_LOSS = functools.partial(malaria.single_label_loss, smoothing=SMOOTHING)
MULTI_LABEL_LOSS = functools.partial(malaria.multi_label_loss, smoothing=SMOOTHING)


def multi_hot_row(row):
    """The 0 or 1 of each class of image `row` where images have several classes."""
    return [int((row + column) % 3 == 0) for column in range(4)]


def assert_weights(setting, entry):
    """Assert that both networks are what they were after a step."""
    for name in ("generator", "discriminator"):
        weights = fingerprint(getattr(setting, name))
        assert weights["norm"] == pytest.approx(entry[name]["norm"], rel=1e-6), name
        assert weights["sum"] == pytest.approx(entry[name]["sum"], abs=1e-3), name


def assert_discriminator_step(step, entry, loss_d):
    """Assert that the losses and logits of an update of D are those recorded."""
    assert step.loss_d.item() == pytest.approx(loss_d, abs=1e-5)
    assert step.loss_c.item() == pytest.approx(entry["loss_c"], abs=1e-5)
    assert step.real_logits.mean().item() == pytest.approx(entry["real_logits_mean"], abs=1e-5)
    assert step.fake_logits.mean().item() == pytest.approx(entry["fake_logits_mean"], abs=1e-5)


def test_discriminator_step_bce(setting):
    """An update of a GAN's D, cross-entropy."""
    entry = STEPS["discriminator_gan_bce"]
    start = setting("gan")
    step = malaria.discriminator_step(
        start.discriminator, start.optimizer_d, start.real, start.fake
    )
    assert_discriminator_step(step, entry, entry["loss_d"])
    assert_weights(start, entry)


def test_discriminator_step_lsgan(setting):
    """An update of a GAN's D, least squares; J(D) had no 1/2 when it was recorded.

    Adam makes the same step of half the loss.
    """
    entry = STEPS["discriminator_gan_lsgan"]
    start = setting("gan", loss="lsgan")
    step = malaria.discriminator_step(
        start.discriminator, start.optimizer_d, start.real, start.fake, loss="lsgan"
    )
    assert_discriminator_step(step, entry, entry["loss_d"] / 2)
    assert_weights(start, entry)


def test_discriminator_step_with_labels(setting):
    """An update of an MTD: J(C) is of the real images."""
    entry = STEPS["discriminator_mtd_labels"]
    start = setting("mtd")
    step = malaria.discriminator_step(
        start.discriminator,
        start.optimizer_d,
        start.real,
        start.fake,
        label_loss=SINGLE_LABEL_LOSS,
        labels=start.labels,
        class_weight=CLASS_WEIGHT,
    )
    assert_discriminator_step(step, entry, entry["loss_d"])
    assert_weights(start, entry)


def test_discriminator_step_with_head_images(setting):
    """An update of an MTD: J(C) is of images of its own."""
    entry = STEPS["discriminator_mtd_cells"]
    start = setting("mtd")
    step = malaria.discriminator_step(
        start.discriminator,
        start.optimizer_d,
        start.real,
        start.fake,
        label_loss=SINGLE_LABEL_LOSS,
        labels=start.labels,
        head_images=images_of_seed(3),
        class_weight=CLASS_WEIGHT,
    )
    assert_discriminator_step(step, entry, entry["loss_d"])
    assert_weights(start, entry)


def test_discriminator_step_with_several_labels(setting):
    """An update of an MTD: J(C) of several classes an image."""
    entry = STEPS["discriminator_mtd_multi_hot"]
    start = setting("mtd")
    step = malaria.discriminator_step(
        start.discriminator,
        start.optimizer_d,
        start.real,
        start.fake,
        label_loss=MULTI_LABEL_LOSS,
        labels=torch.tensor([multi_hot_row(row) for row in range(8)]).float(),
        class_weight=CLASS_WEIGHT,
    )
    assert_discriminator_step(step, entry, entry["loss_d"])
    assert_weights(start, entry)


def test_classifier_step(setting):
    """An update of an MTD on J(C) alone."""
    entry = STEPS["classifier_mtd_labels"]
    start = setting("mtd")
    loss_c = malaria.classifier_step(
        start.discriminator,
        start.optimizer_d,
        start.real,
        start.labels,
        label_loss=SINGLE_LABEL_LOSS,
        class_weight=CLASS_WEIGHT,
    )
    assert loss_c.item() == pytest.approx(entry["loss_c"], abs=1e-5)
    assert_weights(start, entry)


@pytest.mark.parametrize("loss", ["bce", "lsgan"])
def test_generator_step(setting, loss):
    """An update of a GAN's G."""
    entry = STEPS[f"generator_gan_{loss}"]
    start = setting("gan", loss=loss)
    loss_g = malaria.generator_step(start.discriminator, start.optimizer_g, start.fake, loss=loss)
    assert loss_g.item() == pytest.approx(entry["loss_g"], abs=1e-5)
    assert_weights(start, entry)


def test_generator_step_with_labels(setting):
    """An update of a conditional G: min J(G) + J(C)."""
    entry = STEPS["generator_mtd_conditional"]
    start = setting("mtd", conditional=True)
    loss_g = malaria.generator_step(
        start.discriminator, start.optimizer_g, start.fake, labels=start.labels
    )
    assert loss_g.item() == pytest.approx(entry["loss_g"], abs=1e-5)
    assert_weights(start, entry)


# Runs of 20 steps

EPOCHS = ["gan", "gan_lsgan", "mtd_plain", "mtd_multi_label"]
ADVERSARIAL_EVERY = {"mtd_by_hand": 1, "mtd_by_hand_every_4th": 4}


class Tolerance(NamedTuple):
    """How far a run may be from what was recorded."""

    losses: float
    norm: float  # of all weights, relative
    sum: float  # of all weights
    strength: float  # of the augmentation


# Adam moves a weight by its whole rate either way when the gradient is almost 0, so that rounding
# can come up within 20 steps. With other instruction sets, or two threads, four runs were up to
# 0.04 away in a loss, the others 4e-6.
STEADY = Tolerance(losses=1e-4, norm=1e-6, sum=1e-3, strength=1e-7)
SENSITIVE = Tolerance(losses=0.1, norm=1e-3, sum=1.0, strength=2e-4)
TOLERANCES = {
    "gan": STEADY,
    "gan_lsgan": SENSITIVE,
    "mtd_plain": SENSITIVE,
    "mtd_multi_label": SENSITIVE,
    "mtd_by_hand": STEADY,
    "mtd_by_hand_every_4th": SENSITIVE,
}
FIRST_STEPS = {  # which agree however sums are rounded
    "gan": 10,
    "gan_lsgan": 4,
    "mtd_plain": 10,
    "mtd_multi_label": 10,
    "mtd_by_hand": 10,
    "mtd_by_hand_every_4th": 10,
}


class Run(NamedTuple):
    """A Trainer at the end of a run, and the losses (20, 5) of every step."""

    trainer: malaria.Trainer
    losses: torch.Tensor


class Start(NamedTuple):
    """A Trainer at the start of a run, and its data."""

    trainer: malaria.Trainer
    data: malaria.MalariaDataset


def labels_of(case):
    """The labels of the 40 images of a run."""
    if case["flags"].get("view") == "field":
        return [multi_hot_row(row) for row in range(40)]
    return [row % 4 for row in range(40)]


def train_an_epoch(start):
    """Train for an epoch of 20 steps; returns their losses."""
    with tqdm(disable=True) as bar:
        start.trainer.train_epoch(start.data, 20, bar)
    return start.trainer.traces


def train_by_hand(start, case, every):
    """Train on the images that a case names, D against G at each `every`th step."""
    rows = []
    losses = None
    for step, head_indices in enumerate(case["head"]):
        torch.manual_seed(100 + step)
        head = start.data.__getitems__(head_indices)
        if step % every == 0:
            real = start.data.__getitems__(case["adversarial"][step])
            losses = start.trainer.adversarial_step(real, head)
        else:
            losses = start.trainer.head_step(head, losses)
        rows.append(torch.stack(losses))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def start_of(small_config, random_data):
    """The function of a run's name that makes its Start."""

    def make(name):
        case = RUNS[name]
        config = small_config(head_width=128, **case["flags"])
        data = random_data(labels_of(case), view=config.view)
        return Start(malaria.Trainer(case["task"], config, data.classes, "cpu"), data)

    return make


@pytest.fixture(scope="module")
def run_of(start_of):
    """The function of a run's name that trains it, the first time, and returns the Run."""

    @functools.cache
    def train(name):
        start = start_of(name)
        if name in EPOCHS:
            losses = train_an_epoch(start)
        else:
            losses = train_by_hand(start, RUNS[name], ADVERSARIAL_EVERY[name])
        return Run(start.trainer, losses)

    return train


def recorded_losses(name):
    """The losses (20, 5) of a run; those of LSGAN's D were recorded without their 1/2."""
    losses = np.array(RUNS[name]["traces"])
    if RUNS[name]["flags"].get("loss") == "lsgan":
        losses[:, 0] /= 2
    return losses


@pytest.mark.parametrize("name", EPOCHS)
def test_seed_of_an_epoch(start_of, name):
    """The seed of the noise of the first epoch."""
    assert malaria.epoch_seed(start_of(name).trainer.config, 0, 1) == RUNS[name]["torch_seed"]


@pytest.mark.parametrize("name", EPOCHS)
def test_batches_of_an_epoch(start_of, name):
    """The images that the sampler draws."""
    trainer, data = start_of(name)
    drawn = [batches.adversarial.images for batches in trainer.step_data(data, 20)]
    recorded = [data.__getitems__(indices).images for indices in RUNS[name]["indices"]]
    assert torch.equal(torch.stack(drawn), torch.stack(recorded))


@pytest.mark.parametrize("name", RUNS)
def test_losses_of_the_first_steps(run_of, name):
    """J(D), J(C), D(x), D(G(z)) and J(G), before rounding can come up."""
    first = slice(FIRST_STEPS[name])
    losses = run_of(name).losses.numpy()
    assert losses[first] == pytest.approx(recorded_losses(name)[first], abs=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_losses_of_all_steps(run_of, name):
    """J(D), J(C), D(x), D(G(z)) and J(G) of 20 steps."""
    tolerance = TOLERANCES[name].losses
    losses = run_of(name).losses.numpy()
    assert losses == pytest.approx(recorded_losses(name), abs=tolerance)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("name", RUNS)
def test_networks_at_the_end(run_of, name, network):
    """All weights and running averages after 20 steps."""
    tolerance = TOLERANCES[name]
    recorded = RUNS[name][network]
    weights = fingerprint(run_of(name).trainer.networks[network])
    assert weights["norm"] == pytest.approx(recorded["norm"], rel=tolerance.norm)
    assert weights["sum"] == pytest.approx(recorded["sum"], abs=tolerance.sum)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("name", EPOCHS)
def test_averages_at_the_end(run_of, name, network):
    """The averaged weights after 20 steps, loosely.

    They start as a copy of the first step's weights; those recorded were blended with the random
    start. That makes 3e-4 of their norm, while the weights themselves are 2e-3 away or more.
    """
    average = fingerprint(run_of(name).trainer.averages[network].module)
    recorded = RUNS[name][f"{network}_average"]
    assert average["norm"] == pytest.approx(recorded["norm"], rel=1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_augmentation_strength_at_the_end(run_of, name):
    """What the augmentation has adapted to; without any it stays 0."""
    trainer = run_of(name).trainer
    expected = RUNS[name]["strength"] if trainer.config.augment else 0
    assert trainer.strength.item() == pytest.approx(expected, abs=TOLERANCES[name].strength)


# Answers of the shipped weights


@pytest.fixture(scope="module")
def shipped():
    """The function of a name that loads shipped weights."""

    @functools.cache
    def load_weights(name):
        return malaria.load_checkpoint(ROOT / "saved_models" / f"{name}.pt")

    return load_weights


@pytest.mark.parametrize("name", ["gan", "conditional"])
def test_generator_output(shipped, name):
    """The raw images of eight latent vectors, of all classes in turn where they have one."""
    generator = shipped(name).generator
    labels = torch.arange(8) % max(1, generator.num_classes)
    images = generator(malaria.latents(8, generator, 0), labels)
    assert images.double().sum().item() == pytest.approx(ANSWERS[name]["forward_sum"], abs=0.1)


@pytest.mark.parametrize("name", ["gan", "conditional"])
def test_generated_pixels(shipped, name):
    """The same as 8-bit images, as G draws them."""
    generator = shipped(name).generator
    noise = malaria.latents(8, generator, 0)
    images = malaria.sample(generator, noise, turned=False).astype(int)
    recorded = ANSWERS[name]
    assert images.mean() == pytest.approx(recorded["mean"], abs=0.01)
    assert images.std() == pytest.approx(recorded["std"], abs=0.01)
    assert images[:, 32, 32, 0].tolist() == pytest.approx(recorded["pixels"], abs=1)


@pytest.fixture(scope="module")
def smooth_data(random_data):
    """Six smooth images 64 x 64 as a MalariaDataset."""
    draws = torch.Generator().manual_seed(5)
    small = torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8, generator=draws)
    small = small.permute(0, 3, 1, 2).float().contiguous()
    large = F.interpolate(small, size=(64, 64), mode="bilinear", align_corners=False)
    images = large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return malaria.MalariaDataset(images, random_data([0] * 6).index)


def test_smooth_images(smooth_data):
    """The images that the MTD is asked about are those of the record."""
    assert smooth_data.images.long().sum().item() == ANSWERS["mtd"]["images_sum"]


@pytest.mark.parametrize("views", ["turned", "plain"])
def test_classifier_answers(shipped, smooth_data, views):
    """Probabilities of the classes and of being real, of 24 views and of the image alone."""
    mtd = shipped("mtd").discriminator
    symmetry = {"turned": "all", "plain": "none"}[views]
    answers = malaria.predict(mtd, smooth_data, "bce", symmetry)
    recorded = ANSWERS["mtd"][views]
    assert answers.probabilities == pytest.approx(np.array(recorded["probabilities"]), abs=1e-4)
    assert answers.real == pytest.approx(np.array(recorded["real"]), abs=1e-4)


def test_classes_of_the_classifier(shipped):
    """The shipped MTD knows the four stages."""
    assert shipped("mtd").state["classes"] == ANSWERS["mtd"]["classes"]


@pytest.fixture(scope="module")
def real_data(tmp_path_factory):
    """The real data set as test.py reads it for the shipped MTD."""
    results = tmp_path_factory.mktemp("golden")
    flags = {**ANSWERS["iml_malaria"]["flags"], "classes": ",".join(ANSWERS["mtd"]["classes"])}
    config = malaria.Config(data_path=str(REAL_SET), results_dir=str(results), **flags)
    return malaria.load_data(config, some_may_be_missing=True)


@needs_real_set
@pytest.mark.parametrize("split", ["val", "test"])
def test_scores_of_the_classifier_on_the_real_set(shipped, real_data, split):
    """How right the shipped MTD is about real cells."""
    part = real_data.split(split)
    answers = malaria.predict(shipped("mtd").discriminator, part, "bce", symmetry="all")
    scores = malaria.evaluate(part, answers.probabilities)
    recorded = ANSWERS["iml_malaria"][split]
    assert {name: scores[name] for name in recorded} == recorded
