"""How unlike the training cells an image is: distances, inversion, the model in a checkpoint."""

import numpy as np
import pytest
import torch
from conftest import run_here
from torch import nn

import rollNumber_05 as malaria
from benchmarks import anomaly as benchmark
from extras import anomaly

# Networks of known answers


class ChannelMeans(nn.Module):
    """A "discriminator" whose feature maps are the image's channels."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def features(self, images):
        """Images (B, C, S, S) as they are."""
        return self.scale * images


class FlatColours(nn.Module):
    """A generator whose images have one colour, the noise (B, 3)."""

    latent_dim = 3
    num_classes = 0

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, noise, labels=None):
        """Noise (B, 3) -> images (B, 3, 8, 8)."""
        return (self.scale * noise)[:, :, None, None].expand(-1, -1, 8, 8)


def flat_images(colours):
    """uint8 images (N, 8, 8, 3) of one colour each, (N, 3)."""
    colours = np.asarray(colours, np.uint8)
    return np.broadcast_to(colours[:, None, None], (len(colours), 8, 8, 3)).copy()


def cells_around(mean, number, seed=0):
    """Flat images whose colours scatter around a mean with a standard deviation of 10."""
    colours = np.random.default_rng(seed).normal(mean, 10, (number, 3))
    return flat_images(colours.clip(0, 255))


@pytest.fixture
def network():
    """ChannelMeans in eval mode."""
    return ChannelMeans().eval()


@pytest.fixture
def model(network):
    """The AnomalyModel of 400 cells around grey."""
    return anomaly.fit(network, cells_around(128, 400), cells_around(128, 200, seed=1))


# Distances


def test_the_mean_is_that_of_the_training_cells(network, model):
    """Of their features."""
    features = anomaly.pooled_features(network, cells_around(128, 400))
    np.testing.assert_allclose(model.mean, features.mean(0), rtol=1e-5, atol=1e-6)


def test_distances_are_in_standard_deviations(network, model):
    """Ten grey levels in one channel are one standard deviation, forty are four."""
    mean = (model.mean.numpy() + 1) * 127.5
    images = flat_images([mean.round(), mean.round() + [10, 0, 0], mean.round() + [40, 0, 0]])
    distances = anomaly.scores(network, images, model)
    np.testing.assert_allclose(distances, [0, 1, 4], atol=0.3)


def test_one_in_twenty_validation_cells_is_above_the_threshold(network, model):
    """It is their 95th percentile."""
    distances = anomaly.scores(network, cells_around(128, 200, seed=1), model)
    assert anomaly.is_unlike(distances, model).sum() == 10


def test_black_is_unlike_grey(network, model):
    """And grey is not."""
    distances = anomaly.scores(network, flat_images([[0, 0, 0], [128, 128, 128]]), model)
    assert anomaly.is_unlike(distances, model).tolist() == [True, False]


def test_turned_cells_are_as_far(mtd):
    """Every exact turn has the features of the cell."""
    cell = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    turned = np.rot90(cell, axes=(1, 2))
    features = anomaly.pooled_features(mtd.eval(), np.concatenate([cell, turned]))
    np.testing.assert_allclose(features[0], features[1], atol=1e-5)


def test_without_turns_a_turned_image_differs(mtd):
    """Of a digit up and down tell something."""
    cell = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    images = np.concatenate([cell, np.rot90(cell, axes=(1, 2))])
    features = anomaly.pooled_features(mtd.eval(), images, anomaly.unturned)
    assert np.abs(features[0] - features[1]).max() > 1e-4


def test_train_mode_is_refused(network):
    """Batch norm would mix the images of a batch."""
    with pytest.raises(ValueError, match="train mode"):
        anomaly.pooled_features(network.train(), cells_around(128, 2))


def test_fewer_cells_than_features(mtd):
    """The precision is shrunk, so that it exists."""
    cells = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    model = anomaly.fit(mtd.eval(), cells, cells)
    assert all(tensor.isfinite().all() for tensor in model)


# In a checkpoint


def test_a_model_comes_back_from_a_file(network, model, tmp_path):
    """Of plain tensors, which weights_only reads."""
    torch.save({"anomaly": model._asdict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = anomaly.read_model(state["anomaly"], network, flat_images([[0, 0, 0]])[0])
    for before, after in zip(model, again, strict=True):
        torch.testing.assert_close(before, after)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mean", [0.0, 0.0, 0.0], "anomaly.mean is not a tensor"),
        ("mean", torch.zeros(3).double(), "anomaly.mean is not a tensor of float32"),
        ("mean", torch.zeros(4), r"anomaly.mean is \(4,\), not \(3,\)"),
        ("precision", torch.zeros(3), r"anomaly.precision is \(3,\), not \(3, 3\)"),
        ("threshold", torch.tensor(float("nan")), "anomaly.threshold is not finite"),
        ("other", torch.zeros(3), "anomaly has to hold mean, precision, threshold"),
    ],
)
def test_a_damaged_model_is_refused(name, value, message, network, model):
    """In one line that says what is wrong."""
    values = {**model._asdict(), name: value}
    with pytest.raises(ValueError, match=message):
        anomaly.read_model(values, network, flat_images([[0, 0, 0]])[0])


def test_no_model_at_all_is_refused(network):
    """Whatever stands in its place."""
    with pytest.raises(ValueError, match="has to hold"):
        anomaly.read_model(torch.zeros(3), network, flat_images([[0, 0, 0]])[0])


# Inversion and both


def test_inversion_finds_the_noise_of_an_image(network):
    """The colour itself, in [-1, 1]."""
    images = flat_images([[255, 0, 128]])
    found = anomaly.invert(FlatColours(), network, images, steps=300, rate=0.05)
    torch.testing.assert_close(found.noise, torch.tensor([[1.0, -1.0, 0.0]]), atol=0.05, rtol=0)


def test_inversion_of_what_g_cannot_draw_leaves_a_loss(network):
    """Stripes have no single colour."""
    striped = flat_images([[128, 128, 128]])
    striped[:, ::2] = 0
    images = np.concatenate([flat_images([[200, 100, 50]]), striped])
    of_flat, of_striped = anomaly.inversion_losses(FlatColours(), network, images, steps=200)
    assert of_striped > 5 * of_flat


def test_sharpness_worked_out():
    """Rows of 0 and 51 in turn: 51 down, 0 across, one grey level more, of 127.5."""
    striped = flat_images([[51, 51, 51]])
    striped[:, ::2] = 0
    assert anomaly.sharpness(striped).tolist() == pytest.approx([(51 / 2 + 1) / 127.5])


def test_inversion_scores_are_relative_to_sharpness(network):
    """Of the loss."""
    images = cells_around(128, 3)
    images[:, ::2] = 0
    scores = anomaly.inversion_scores(FlatColours(), network, images, steps=5)
    losses = anomaly.inversion_losses(FlatColours(), network, images, steps=5)
    np.testing.assert_allclose(scores * anomaly.sharpness(images), losses, rtol=1e-5)


def test_inversion_loss_worked_out():
    """0.9 times the mean difference of pixels, 0.1 times that of features."""
    images = torch.zeros(1, 3, 2, 2)
    features = torch.zeros(1, 5, 1, 1)
    loss = anomaly.inversion_loss(images, images + 2, features, features - 4, 0.1)
    assert loss.tolist() == pytest.approx([0.9 * 2 + 0.1 * 4])


def test_inversion_of_a_conditional_generator(images):
    """It is asked for the classes that the MTD sees."""
    generator = malaria.Generator(image_size=32, width=16, num_classes=4).eval()
    mtd = malaria.MultiTaskDiscriminator(num_classes=4, image_size=32, width=16, head_width=16)
    pixels = malaria.to_pixels(images)
    found = anomaly.invert(generator, mtd.eval(), pixels, steps=1)
    assert found.losses.shape == (6,)


def test_both_scores_count_alike():
    """Whatever their units."""
    val_scores = [np.array([1.0, 2.0, 4.0]), np.array([100.0, 200.0, 400.0])]
    values = anomaly.combined([np.array([2.0, 4.0]), np.array([200.0, 400.0])], val_scores)
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert values[1] == pytest.approx(1.2247, abs=1e-3)


# The benchmark


def test_the_area_worked_out():
    """Of four pairs three are in the right order."""
    assert benchmark.area(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == 0.75


def test_equal_scores_count_half():
    """An area of a half is chance."""
    assert benchmark.area(np.ones(3), np.ones(5)) == 0.5


def test_fields_are_drawn_whole():
    """All cells of a field or none."""
    rows = benchmark.rows_by_field(["a", "b", "a", "c"])
    draws = benchmark.resampled(rows, np.random.default_rng(0)).tolist()
    assert draws.count(0) == draws.count(2)


def test_shifted_cells_are_mirrored_at_the_edge():
    """By half: the right half, then its mirror image."""
    row = np.arange(4, dtype=np.uint8)
    pixels = np.broadcast_to(row[None, None, :, None], (1, 4, 4, 3))
    cells = benchmark.Group(pixels, ["a"])
    assert benchmark.shifted(cells, 1 / 2).pixels[0, 0, :, 0].tolist() == [2, 3, 3, 2]


def test_the_first_of_one_colour_is_black():
    """And each has one colour."""
    cells = benchmark.Group(np.full((3, 4, 4, 3), 9, np.uint8), ["a", "b", "c"])
    pixels = benchmark.one_colour_like(cells).pixels
    assert not pixels[0].any()
    assert (pixels == pixels[:, :1, :1]).all()


@pytest.mark.long
def test_the_benchmark_runs_twice_into_different_files(tmp_path):
    """Every kind has its rows, red blood cells of the same fields among them."""
    flags = ["--smoke", "--out", "out.jsonl"]
    done = run_here(benchmark.run, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "red blood cells, n 8" in done.stdout
    again = run_here(benchmark.run, *flags, cwd=tmp_path)
    assert again.returncode == 2
    assert "has results of --split test" in again.stderr
