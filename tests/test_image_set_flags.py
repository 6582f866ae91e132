"""What --dataset, --symmetry, --upsamplings and the recipes for published sets do."""

import image_files
import pytest
import torch
from torch import nn

import rollNumber_05 as malaria
from extras.augmentation import SYMMETRIES, augment

SMALL = ("--g_width", 16, "--d_width", 16, "--head_width", 16)
SHORT = (*SMALL, "--epochs", 1, "--min_steps", 2, "--batch_size", 8)


@pytest.fixture
def digits(tmp_path):
    """A torchvision root with a few digits."""
    image_files.write_mnist(tmp_path / "data/MNIST/raw")
    return tmp_path / "data"


@pytest.fixture
def grey():
    """Six grey images (6, 1, 28, 28) without any symmetry."""
    return torch.randn(6, 1, 28, 28)


# --symmetry


@pytest.mark.parametrize(
    ("dataset", "symmetry", "expected"),
    [
        ("auto", "auto", "all"),
        ("mnist", "auto", "none"),
        ("fashion_mnist", "auto", "mirror"),
        ("cifar10", "auto", "mirror"),
        ("mnist", "all", "all"),
        ("auto", "none", "none"),
    ],
)
def test_symmetry_fits_the_data_unless_it_is_given(dataset, symmetry, expected):
    """A cell has no up or down, a 6 does."""
    config = malaria.Config(dataset=dataset, symmetry=symmetry)
    assert malaria.symmetry_of(vars(config)) == expected


def test_each_symmetry_has_views_and_an_augmentation():
    """By the same names."""
    assert malaria.TURNS_BY_SYMMETRY.keys() == SYMMETRIES.keys()


@pytest.mark.parametrize(("symmetry", "count"), [("all", 24), ("mirror", 2), ("none", 1)])
def test_number_of_views(symmetry, count, grey):
    """Of an image that is answered about."""
    assert len(list(malaria.TURNS_BY_SYMMETRY[symmetry](grey))) == count


def test_mirrored_views(grey):
    """The image and its mirror image."""
    views = list(malaria.TURNS_BY_SYMMETRY["mirror"](grey))
    assert torch.equal(views[0], grey)
    assert torch.equal(views[1], grey.flip(3))


def test_without_symmetry_nothing_is_turned_at_strength_0(grey):
    """Nor flipped; only resampled."""
    result = augment(grey, torch.zeros(()), "none")
    assert torch.allclose(result, grey, atol=1e-4)


def test_with_mirror_symmetry_some_are_mirrored_at_strength_0(grey):
    """And the others are as they were."""
    images = grey.repeat(10, 1, 1, 1)
    results = augment(images, torch.zeros(()), "mirror")
    is_same = (results - images).abs().amax((1, 2, 3)) < 1e-4
    is_mirrored = (results - images.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert (is_same ^ is_mirrored).all()
    assert is_same.any()
    assert is_mirrored.any()


@pytest.mark.parametrize("symmetry", ["mirror", "none"])
def test_what_has_an_up_is_tilted_by_15_degrees_at_most(symmetry):
    """A bright upper half stays above."""
    images = torch.zeros(200, 1, 28, 28)
    images[:, :, :14] = 1
    results = augment(images, torch.ones(()), symmetry)
    assert (results[:, 0, 6, 14] > results[:, 0, 21, 14]).all()


# --upsamplings


@pytest.mark.parametrize("size", malaria.SIDES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_upsamplings_are_the_transposed_convolutions(size, count):
    """As many in G, and as many convolutions in D before its last."""
    generator = malaria.Generator(image_size=size, width=16, upsamplings=count)
    discriminator = malaria.Discriminator(image_size=size, width=16, upsamplings=count)
    up = [m for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    down = [m for m in discriminator.features.modules() if isinstance(m, nn.Conv2d)]
    assert len(up) == len(down) == count
    images = generator(torch.randn(2, 100))
    assert images.shape == (2, 3, size, size)
    assert discriminator(images).real_logits.shape == (2,)


def test_an_mtd_of_two_convolutions(grey):
    """Its head reads the maps of 7x7."""
    mtd = malaria.MultiTaskDiscriminator(
        num_classes=10, image_size=28, channels=1, width=16, upsamplings=2
    )
    assert mtd(grey).class_logits.shape == (6, 10)


def test_more_upsamplings_than_there_are_sides_are_refused():
    """From 4x4 to 28x28 there are three."""
    with pytest.raises(malaria.UsageError, match="--upsamplings 4: at most 3 with --image_size 28"):
        malaria.Config(image_size=28, upsamplings=4)


# Recipes


def shapes_of(network, kind):
    """The weights' shapes of a network's layers of a kind."""
    return [tuple(m.weight.shape) for m in network.modules() if isinstance(m, kind)]


def test_mnist_course_has_the_compact_networks():
    """128 maps of 7x7, 64 of 14x14, the image; and back."""
    config = malaria.Config(**malaria.RECIPES["mnist_course"])
    generator, discriminator = malaria.build_networks("gan", vars(config), 10)
    assert shapes_of(generator, nn.Linear) == [(128 * 7 * 7, 100)]
    assert shapes_of(generator, nn.ConvTranspose2d) == [(128, 64, 4, 4), (64, 1, 4, 4)]
    assert shapes_of(discriminator, nn.Conv2d) == [(64, 1, 4, 4), (128, 64, 4, 4), (1, 128, 7, 7)]


def test_mnist_course_trains_as_the_course_does():
    """Batches of 64, Adam at 2e-4 with 0.5, BCE, five epochs, no augmentation."""
    config = malaria.Config(**malaria.RECIPES["mnist_course"])
    assert (config.batch_size, config.epochs, config.loss) == (64, 5, "bce")
    assert (config.lr_g, config.lr_d, config.beta1_g, config.beta1_d) == (2e-4, 2e-4, 0.5, 0.5)
    assert not config.augment
    assert not config.ema


@pytest.mark.parametrize("latent_dim", [2, 300])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", malaria.SIDES)
def test_compact_draws_any_size_of_any_noise(size, channels, latent_dim):
    """By one transposed convolution."""
    flags = {"image_size": size, "channels": channels, "latent_dim": latent_dim, "g_width": 16}
    config = malaria.Config(**{**malaria.RECIPES["compact"], **flags})
    generator, _ = malaria.build_networks("gan", vars(config), 10)
    assert generator(torch.randn(2, latent_dim)).shape == (2, channels, size, size)


# Through the script


def test_digits_are_loaded(digits, tmp_path):
    """With the names and splits of the set."""
    config = malaria.Config(
        dataset="mnist", data_path=str(digits), image_size=28, channels=1, results_dir=str(tmp_path)
    )
    data = malaria.load_data(config)
    assert data.classes == [str(digit) for digit in range(10)]
    assert len(data.split("test")) == 20


def test_an_npz_is_found_without_a_flag(tmp_path, load):
    """As any other data."""
    image_files.write_npz(tmp_path / "data" / "blood.npz")
    assert len(load(tmp_path / "data", image_size=28)) == 64


def test_a_missing_file_is_one_line(run_script, tmp_path):
    """Exit code 2."""
    (tmp_path / "empty").mkdir()
    done = run_script("--dataset", "mnist", "--data_path", "empty", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --data_path empty: no file train-images-idx3-ubyte")
    assert done.stderr.count("\n") == 1


def test_both_tasks_run_on_digits_and_test_py_reads_them(
    run_script, run_tester, without_reports, digits, tmp_path
):
    """The networks of the course, the head for ten digits."""
    run = ("--recipe", "mnist_course", "--data_path", digits, *SHORT)
    for task in ("gan", "mtd"):
        done = run_script(*run, "--task", task, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = run_tester(
        "--model", "mtd", "--weights", "results/mtd/last.pt", "--data_path", digits, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("test: n 20, ")
