"""Hinge and Wasserstein losses, the gradient penalty, feature matching, D's norm and steps."""

import json

import pytest
import torch
from conftest import TINY
from torch import nn

import rollNumber_05 as malaria
from extras import classes, drawing

CRITICS = ("hinge", "wgan-gp")


def losses_of(loss, real_logits, fake_logits):
    """(J(D), J(G)) of two lists of logits."""
    real = torch.tensor(real_logits)
    fake = torch.tensor(fake_logits)
    adversarial_loss = malaria.LOSSES[loss]
    return adversarial_loss.discriminator(real, fake).item(), adversarial_loss.generator(
        fake
    ).item()


def test_hinge_of_two_images_of_each_kind():
    """J(D): means of 0 and 1.5 for real, 0 and 1.25 for fake; J(G): minus the mean of the fakes."""
    found = losses_of("hinge", [2.0, -0.5], [-3.0, 0.25])
    assert found == pytest.approx((0.75 + 0.625, 1.375))


def test_hinge_has_no_gradient_beyond_the_margin():
    """A real image at 2 is right enough; one at 0 pulls with half the mean's weight."""
    real = torch.tensor([2.0, 0.0], requires_grad=True)
    malaria.LOSSES["hinge"].discriminator(real, torch.tensor([-2.0])).backward()
    assert real.grad.tolist() == [0, -0.5]


def test_wasserstein_of_two_images_of_each_kind():
    """J(D): -1 less 2 is -3; J(G): minus the mean of -3 and 1."""
    assert losses_of("wgan-gp", [3.0, 1.0], [-3.0, 1.0]) == pytest.approx((-3.0, 1.0))


class Slope(nn.Module):
    """A critic whose logit is the sum of the image times a slope: its gradient is known."""

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, images):
        """Logits of images (B, C, S, S)."""
        return malaria.DiscriminatorOutput(self.slope * images.sum((1, 2, 3)))


def penalty_of(slope):
    """The penalty of a Slope on images of 1x2x2 pixels, and its gradient to the slope."""
    critic = Slope(slope)
    draws = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 3, 1, 2, 2, generator=draws)
    penalty = malaria.gradient_penalty(critic, real, fake)
    penalty.backward()
    return penalty.item(), critic.slope.grad.item()


@pytest.mark.parametrize(
    ("slope", "penalty", "gradient"),
    [(0.5, 0.0, 0.0), (1.0, 1.0, 4.0), (2.0, 9.0, 12.0)],
)
def test_gradient_penalty_of_a_linear_critic(slope, penalty, gradient):
    """4 pixels: the norm of the gradient is 2 |slope|; (2s - 1)^2 has the derivative 4 (2s - 1)."""
    assert penalty_of(slope) == pytest.approx((penalty, gradient), abs=1e-5)


def test_the_penalty_is_part_of_the_loss_of_the_discriminator():
    """Ten times."""
    critic = Slope(2.0)
    optimizer = torch.optim.SGD(critic.parameters(), 0.0)
    images = torch.zeros(3, 1, 2, 2)
    step = malaria.discriminator_step(critic, optimizer, images, images, loss="wgan-gp")
    assert step.loss_d.item() == pytest.approx(90)


def test_feature_distance_is_of_means():
    """Means 2 and 0 in the first feature, 1 and 4 in the second: 4 + 9."""
    real = torch.tensor([[1.0, 1.0], [3.0, 1.0]])[:, :, None, None]
    fake = torch.tensor([[0.0, 3.0], [0.0, 5.0]])[:, :, None, None]
    assert malaria.feature_distance(real, fake).item() == 13


def generator_after_a_step(weight):
    """The first weights of a small G after one step, feature matching weighted so."""
    torch.manual_seed(0)
    generator = malaria.Generator(image_size=28, width=16)
    discriminator = malaria.Discriminator(image_size=28, width=16)
    optimizer = torch.optim.SGD(generator.parameters(), 1.0)
    fake = generator(torch.randn(4, 100))
    real = torch.rand(4, 3, 28, 28)
    malaria.generator_step(
        discriminator, optimizer, fake, real=real, feature_matching=weight, loss="bce"
    )
    return generator.project[0].weight.detach()


def test_feature_matching_moves_the_generator():
    """Another way than J(G) alone."""
    assert not torch.equal(generator_after_a_step(0.0), generator_after_a_step(1.0))


# What is known of a critic


@pytest.mark.parametrize("loss", CRITICS)
def test_the_answer_of_a_critic_is_no_probability(loss):
    """Its logits are shown as they are, and the words say so."""
    adversarial_loss = malaria.LOSSES[loss]
    logits = torch.tensor([-3.0, 7.0])
    assert adversarial_loss.real_probability is None
    assert adversarial_loss.realness(logits) is logits
    assert drawing.realness_scale(adversarial_loss) == "higher is more real"


@pytest.mark.parametrize("loss", malaria.LOSSES)
def test_the_boundary_of_a_loss_is_where_its_discriminator_is_undecided(loss):
    """Where there are probabilities it is that of 1/2; wgan-gp has none."""
    adversarial_loss = malaria.LOSSES[loss]
    if adversarial_loss.real_probability:
        boundary = torch.tensor(adversarial_loss.boundary)
        assert adversarial_loss.real_probability(boundary) == 0.5
    assert (adversarial_loss.boundary is None) == (loss == "wgan-gp")


def trainer_of(small_config, **flags):
    """A small Trainer of a gan."""
    return malaria.Trainer("gan", small_config(**flags), classes.STAGES, "cpu")


def norms_of(trainer):
    """The kinds of norm in a Trainer's D."""
    kinds = (nn.BatchNorm2d, nn.InstanceNorm2d)
    modules = trainer.networks["discriminator"].modules()
    return {type(module).__name__ for module in modules if isinstance(module, kinds)}


@pytest.mark.parametrize(
    ("flags", "norms"),
    [
        ({}, {"BatchNorm2d"}),
        ({"loss": "hinge"}, {"BatchNorm2d"}),
        ({"loss": "wgan-gp"}, set()),
        ({"loss": "wgan-gp", "d_norm": "instance"}, {"InstanceNorm2d"}),
        ({"d_norm": "none"}, set()),
    ],
)
def test_the_norm_of_the_discriminator(small_config, flags, norms):
    """As asked for, or as the loss wants it."""
    assert norms_of(trainer_of(small_config, **flags)) == norms


def test_the_penalty_does_not_go_with_batch_norm(small_config):
    """The mend is in the message."""
    with pytest.raises(malaria.UsageError, match="--d_norm instance or none"):
        small_config(loss="wgan-gp", d_norm="batch")


def turns_of_the_generator(trainer, data, steps):
    """Whether G learns, step by step."""
    return [batches.trains_generator for batches in trainer.step_data(data, steps)]


def test_the_generator_waits_for_the_critic(small_config, random_data):
    """With wgan-gp it learns at every fifth step, from the first of an epoch on."""
    trainer = trainer_of(small_config, loss="wgan-gp")
    turns = turns_of_the_generator(trainer, random_data([0] * 8), 12)
    assert [step for step, is_turn in enumerate(turns) if is_turn] == [0, 5, 10]


def test_steps_of_the_discriminator_can_be_asked_for(small_config, random_data):
    """Of an MTD, of its adversarial steps."""
    config = small_config(d_steps=2, adversarial_every=3)
    trainer = malaria.Trainer("mtd", config, classes.STAGES, "cpu")
    data = random_data([0, 1, 2, 3] * 2)
    steps = list(trainer.step_data(data, 13))
    assert [step for step, it in enumerate(steps) if it.adversarial] == [0, 3, 6, 9, 12]
    turns = [it.trains_generator for it in steps if it.adversarial]
    assert turns == [True, False, True, False, True]


def test_a_waiting_generator_stays_as_it_is(small_config):
    """And its loss is that of the step before."""
    trainer = trainer_of(small_config, loss="wgan-gp")
    batch = malaria.Batch(torch.rand(8, 3, 32, 32), torch.zeros(8))
    last = trainer.adversarial_step(batch, None)
    before = [weight.clone() for weight in trainer.networks["generator"].parameters()]
    losses = trainer.adversarial_step(batch, None, trains_generator=False, previous=last)
    after = trainer.networks["generator"].parameters()
    assert all(map(torch.equal, before, after))
    assert losses.loss_g is last.loss_g


def test_the_augmentation_of_a_critic_is_not_adapted(small_config):
    """Its answers have no middle."""
    trainer = trainer_of(small_config, loss="wgan-gp")
    batch = malaria.Batch(torch.rand(8, 3, 32, 32), torch.zeros(8))
    for _ in range(3):
        trainer.adversarial_step(batch, None)
    assert trainer.strength == 0


# Whole runs


@pytest.mark.parametrize(
    "flags",
    [
        ("--loss", "hinge"),
        ("--loss", "wgan-gp"),
        ("--loss", "wgan-gp", "--d_norm", "instance", "--conditional"),
        ("--feature_matching", "0.1"),
    ],
)
def test_an_mtd_is_trained_with_each_loss(run_script, run_tester, small_data, tmp_path, flags):
    """And resumed, explained and tested; test.py gives no probability of a critic."""
    common = ("--data_path", small_data, *TINY, "--min_steps", 12)
    done = run_script("--task", "mtd", *common, *flags, "--epochs", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    resumed = ("--task", "mtd", "--data_path", small_data, "--resume", "--epochs", 2)
    done = run_script(*resumed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_script("--task", "gradcam", *common, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    image = next(small_data.rglob("*.JPG"))
    flags_of_test = ("--model", "mtd", "--weights", "saved_models/mtd.pt", "--image", image)
    done = run_tester(*flags_of_test, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (prediction,) = json.loads(done.stdout)["predictions"]
    is_critic = flags[1] in CRITICS
    assert (prediction["real_probability"] is None) == is_critic
    assert run_tester(*flags_of_test, cwd=tmp_path).returncode == 0
