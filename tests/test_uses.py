"""What a trained DCGAN is for: walks, arithmetic, generated sets; and what explains it."""

import csv
import functools
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import config_of_small_networks, run_here
from PIL import Image

import rollNumber_05 as malaria
from extras import augment_set, explain, latent_walk
from extras.classes import STAGES

run_walk = functools.partial(run_here, latent_walk.run)
run_set = functools.partial(run_here, augment_set.run)


class Weights(NamedTuple):
    """Checkpoints of small untrained networks: a DCGAN, an MTD and a conditional one."""

    gan: object
    mtd: object
    conditional: object


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The Weights, in a folder."""
    folder = tmp_path_factory.mktemp("weights")
    kinds = {"gan": ("gan", {}), "mtd": ("mtd", {}), "conditional": ("mtd", {"conditional": True})}
    paths = {}
    for name, (task, flags) in kinds.items():
        trainer = malaria.Trainer(task, config_of_small_networks(**flags), STAGES, "cpu")
        paths[name] = folder / f"{name}.pt"
        malaria.save_checkpoint(trainer.state(), paths[name])
    return Weights(**paths)


def judge_by(rule):
    """A Judge of two classes whose answers, numbers (N,), a rule gives of uint8 images."""

    class ByRule(latent_walk.Judge):
        def probabilities(self, images):
            return np.eye(2)[rule(images)]

    return ByRule(None, ["dark", "bright"], "cell")


def is_bright(images):
    """Whether an image's first channel is bright, as a number (N,)."""
    return (images[..., 0].mean((1, 2)) > 127).astype(int)


class FirstNumberDraws(torch.nn.Module):
    """A generator whose images are all of one value, the first number of the noise."""

    latent_dim = 16
    symmetry = "none"
    num_classes = 0

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, noise, labels=None):
        """Noise (B, 16) -> images (B, 3, 8, 8)."""
        return (self.one * noise[:, 0]).clamp(-1, 1).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


# Walks


def test_spherical_starts_and_ends_at_its_stops():
    """At t = 0 and t = 1."""
    first, second = torch.randn(2, 100)
    torch.testing.assert_close(latent_walk.spherical(first, second, 0.0), first)
    torch.testing.assert_close(latent_walk.spherical(first, second, 1.0), second)


def test_spherical_stays_on_the_sphere():
    """Between two vectors of length 1, all are of length 1."""
    first, second = F.normalize(torch.randn(2, 100))
    lengths = [latent_walk.spherical(first, second, t / 10).norm() for t in range(11)]
    torch.testing.assert_close(torch.stack(lengths), torch.ones(11))


def test_spherical_halfway_between_right_angles():
    """The middle of (1, 0) and (0, 1) is at 45 degrees."""
    middle = latent_walk.spherical(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    torch.testing.assert_close(middle, torch.full((2,), 0.5**0.5))


def test_spherical_of_equal_vectors():
    """Nothing is divided by zero."""
    vector = torch.randn(100)
    torch.testing.assert_close(latent_walk.spherical(vector, vector, 0.3), vector)


def test_a_walk_is_closed():
    """Each stop starts its leg; the last leg goes back to the first stop."""
    points = latent_walk.walk(torch.tensor([[0.0], [10.0]]), 2, torch.lerp)
    assert points.flatten().tolist() == [0, 5, 10, 5]


def test_walk_of_a_gan(weights, tmp_path):
    """The strip has a leg a row, the GIF an image a step."""
    flags = ["--weights", weights.gan, "--mtd", weights.mtd, "--stops", 3, "--steps", 4]
    run_walk(*flags, "--out", "walk", cwd=tmp_path)
    assert Image.open(tmp_path / "walk/walk.png").size == (4 * 66 + 2, 3 * 66 + 2 + 22)
    assert Image.open(tmp_path / "walk/walk.gif").n_frames == 12


def test_walk_of_a_conditional_gan(weights, tmp_path):
    """There is one between the classes, and all classes of the same noise."""
    done = run_walk("--weights", weights.conditional, "--steps", 3, "--out", "walk", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "walk/class_walk.gif").n_frames == 12
    assert Image.open(tmp_path / "walk/classes.png").size == (8 * 66 + 2, 4 * 66 + 2 + 22)


@pytest.mark.parametrize("flags", [("--stops", 1), ("--steps", 101), ("--seed", -1)])
def test_a_walk_of_wrong_length_is_refused(flags, tmp_path):
    """In one line that names the flag."""
    done = run_walk(*flags, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {flags[0]} {flags[1]}: give")


# Arithmetic of class means


def test_class_means_are_of_what_the_judge_says():
    """Bright images come of noise whose first number is above 0."""
    drawn = latent_walk.draw(FirstNumberDraws(), judge_by(is_bright), 500, 0)
    means = latent_walk.class_means(drawn, 2)
    assert means[0][0] < -0.5
    assert means[1][0] > 0.5


def test_moved_noise_is_of_the_other_class():
    """Dark images become bright ones, nearly all."""
    generator = FirstNumberDraws()
    judge = judge_by(is_bright)
    means = latent_walk.class_means(latent_walk.draw(generator, judge, 500, 0), 2)
    drawn = latent_walk.draw(generator, judge, 200, 1)
    _, dark, *_ = latent_walk.moved_table(generator, judge, drawn, means)
    name, _, unmoved, moved = dark
    assert name == "dark"
    assert float(unmoved) == 1
    assert float(moved) > 0.8


def test_arithmetic_is_drawn_and_printed(tmp_path, capsys):
    """A row of cells before the move and one after; of the table, a row a class and one of all."""
    latent_walk.write_arithmetic(tmp_path, FirstNumberDraws(), judge_by(is_bright), 0)
    assert Image.open(tmp_path / "classes.png").size == (8 * 66 + 2, 2 * 66 + 2 + 22)
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert names == ["dark", "bright", "any, not moved"]


def test_moved_noise_keeps_its_length():
    """For G was trained on that length."""
    noise = torch.randn(5, 100)
    moved = latent_walk.move(noise, torch.randn(100), torch.randn(100))
    torch.testing.assert_close(moved.norm(dim=1), noise.norm(dim=1))


def test_one_class_has_no_means_to_move_between():
    """That is said in one line."""
    drawn = latent_walk.Drawn(torch.randn(10, 4), np.zeros(10))
    with pytest.raises(malaria.UsageError, match="fewer than two classes"):
        latent_walk.class_means(drawn, 2)


def test_an_mtd_of_another_size_is_refused(weights, tmp_path):
    """It is named with the flag that it was made with."""
    other = malaria.Config(image_size=28, g_width=16, d_width=16)
    path = tmp_path / "other.pt"
    malaria.save_checkpoint(malaria.Trainer("mtd", other, STAGES, "cpu").state(), path)
    with pytest.raises(malaria.UsageError, match="made with --image_size 28"):
        latent_walk.read_judge(path, malaria.load_checkpoint(weights.gan))


# Generated sets


class GeneratedSet(NamedTuple):
    """A folder that augment_set has written, and the rows of its manifest."""

    folder: object
    rows: list[dict]


@pytest.fixture(scope="module")
def generated_set(weights, tmp_path_factory):
    """Thirty images of a conditional generator."""
    folder = tmp_path_factory.mktemp("generated")
    done = run_set("--weights", weights.conditional, "--num", 30, "--out", "set", cwd=folder)
    assert done.returncode == 0, done.stderr
    with (folder / "set/manifest.csv").open() as file:
        return GeneratedSet(folder / "set", list(csv.DictReader(file)))


def test_classes_of_a_set_are_as_equal_as_can_be(generated_set):
    """Thirty of four classes are eight, eight, seven and seven."""
    counts = [len(list((generated_set.folder / stage).glob("*.png"))) for stage in STAGES]
    assert counts == [8, 8, 7, 7]


def test_a_manifest_names_every_file(generated_set):
    """With its class."""
    for row in generated_set.rows:
        assert (generated_set.folder / row["file"]).exists()
        assert row["file"].startswith(row["class"])
    assert len(generated_set.rows) == 30


def test_images_can_be_drawn_again(generated_set, weights):
    """From the weights, the row of noise.npy and the class in the manifest."""
    generator = malaria.load_checkpoint(weights.conditional).generator
    noise = torch.from_numpy(np.load(generated_set.folder / "noise.npy"))
    for row in generated_set.rows[::7]:
        label = torch.tensor([STAGES.index(row["class"])])
        image = malaria.sample(generator, noise[int(row["noise"])][None], label)[0]
        np.testing.assert_array_equal(image, Image.open(generated_set.folder / row["file"]))


def test_a_manifest_has_the_confidence_in_the_class(generated_set, weights):
    """The MTD's probability of it."""
    checkpoint = malaria.load_checkpoint(weights.conditional)
    judge = latent_walk.read_judge("", checkpoint)
    row = generated_set.rows[-1]
    image = np.array(Image.open(generated_set.folder / row["file"]))
    probability = judge.probabilities(image[None])[0, STAGES.index(row["class"])]
    assert float(row["confidence"]) == pytest.approx(probability, abs=1e-3)


@pytest.mark.parametrize("without_manifest", [False, True])
def test_the_script_reads_a_set(generated_set, without_manifest, load, tmp_path):
    """All images, each of the class that its folder names."""
    copy = tmp_path / "set"
    for file in generated_set.folder.glob("*/*.png"):
        (copy / file.parent.name).mkdir(parents=True, exist_ok=True)
        (copy / file.parent.name / file.name).write_bytes(file.read_bytes())
    if not without_manifest:
        manifest = (generated_set.folder / "manifest.csv").read_text()
        (copy / "manifest.csv").write_text(manifest)
    data = load(copy)
    assert len(data) == 30
    names = [data.classes[label] for label in data.labels]
    assert names == [source.partition("/")[0] for source in data.sources()]


def test_an_mtd_sorts_the_images_of_another_generator():
    """As many bright images as dark ones, each taken for what it is."""
    cells = augment_set.draw_cells(FirstNumberDraws(), judge_by(is_bright), 20, 0, 0.5)
    numbers = [cell.number for cell in cells]
    assert numbers == [0] * 10 + [1] * 10
    assert is_bright(np.stack([cell.image for cell in cells])).tolist() == numbers


def test_a_class_that_never_comes_is_given_up(monkeypatch):
    """With the numbers of what came."""
    monkeypatch.setattr(augment_set, "MOST_DRAWS", 2)
    never_bright = judge_by(lambda images: np.zeros(len(images), int))
    with pytest.raises(malaria.UsageError, match="512 images gave dark 2, bright 0 only"):
        augment_set.draw_cells(FirstNumberDraws(), never_bright, 4, 0, 0)


def test_a_class_cannot_name_a_folder_elsewhere():
    """The classes of a stranger's checkpoint can be any text."""
    assert augment_set.folder_names(["../ring", "a/b", "P. vivax"]) == [
        "___ring",
        "a_b",
        "P_ vivax",
    ]


def test_classes_of_one_folder_are_refused():
    """Else their images would mix."""
    with pytest.raises(malaria.UsageError, match="would be alike"):
        augment_set.folder_names(["a/b", "a:b"])


def test_a_set_does_not_go_into_a_folder_with_files(weights, tmp_path):
    """Two sets must not mix."""
    (tmp_path / "file").touch()
    done = run_set("--weights", weights.conditional, "--out", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "is not empty" in done.stderr


def test_measuring_calls_the_benchmark(weights, tmp_path, monkeypatch):
    """With the data and the same weights."""
    from benchmarks import conditional

    calls = []
    monkeypatch.setattr(conditional, "run", calls.append)
    flags = ["--weights", weights.conditional, "--num", 4, "--device", "cpu", "--measure", "cells"]
    done = run_set(*flags, "--out", "set", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    paths = ["--data_path", "cells", "--weights", str(weights.conditional)]
    assert calls == [[*paths, "--device", "cpu"]]


def test_only_a_conditional_generator_is_measured(weights, tmp_path):
    """Said before anything is drawn."""
    flags = ["--weights", weights.gan, "--measure", "cells", "--out", "set"]
    done = run_set(*flags, cwd=tmp_path)
    assert done.returncode == 2
    assert "is not conditional" in done.stderr
    assert not (tmp_path / "set").exists()


# What explains it


@pytest.fixture(scope="module")
def gradients():
    """{formula of a Step: its gradients}."""
    return {step.formula.strip(): step.gradients for step in explain.training_steps()}


def test_detach_keeps_the_gradient_of_d_from_g(gradients):
    """Without it G gets one."""
    assert gradients["1. J(D), with G(z).detach()"]["G"] is None
    assert gradients["J(D), with G(z)"]["G"] > 0


def test_detach_changes_nothing_for_d(gradients):
    """Its gradient is the same."""
    with_it = gradients["1. J(D), with G(z).detach()"]
    without_it = gradients["J(D), with G(z)"]
    assert with_it["D's convolutions"] == pytest.approx(without_it["D's convolutions"])


def test_a_frozen_d_lets_the_gradient_through(gradients):
    """G's is the same as without freezing, D has none."""
    frozen = gradients["3. J(G), with G(z), D frozen"]
    assert frozen["G"] == pytest.approx(gradients["J(G), with G(z), D not frozen"]["G"])
    assert frozen["D's convolutions"] is None


def test_detached_images_teach_g_nothing(gradients):
    """In G's step .detach() is wrong."""
    assert gradients["J(G), with G(z).detach()"]["G"] is None


def test_the_class_loss_leaves_the_other_head(gradients):
    """It reaches the shared convolutions and its own head."""
    of_classes = gradients["2. J(C), the class of real images"]
    assert of_classes["real/fake head"] is None
    assert of_classes["class head"] > 0
    assert of_classes["D's convolutions"] > 0


@pytest.mark.parametrize("setting", explain.SETTINGS, ids=lambda setting: setting.file_name)
def test_a_stretched_input_and_a_turned_kernel_give_the_output(setting):
    """By a plain convolution, and of the size that the formula says."""
    stages = explain.work_out(setting)
    by_hand = explain.convolve(stages.stretched, stages.turned_kernel)
    torch.testing.assert_close(by_hand, stages.output)
    assert len(stages.output) == setting.output_side


def test_a_pixel_worked_out_by_hand():
    """Kernel 2, stride 1: the middle of the output meets all four pixels."""
    stages = explain.work_out(explain.Setting(2, 2, 1, 0, ""))
    assert explain.sum_in_words(stages, 1, 1) == "1*4 + 2*3 + 3*2 + 4*1 = 20"


def test_explanations_are_drawn(tmp_path):
    """A picture of the gradients, and one of each setting."""
    done = run_here(explain.run, "--out", "pictures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    settings = {setting.file_name for setting in explain.SETTINGS}
    assert names == {"gradients.txt", "gradients.png", *settings}
