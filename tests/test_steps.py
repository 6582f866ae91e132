"""One training step: gradients, what each update moves, augmentation, noise, averages, batches."""

import copy
import itertools
import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rollNumber_05 as malaria
from extras import augmentation, classes, symmetry

LABELS = torch.tensor([0, 1, 2, 3, 0, 1])  # of the six images of the fixture `images`


# Gradients of an MTD's trunk


def trunk_gradient(mtd, loss):
    """The gradient of a loss on the weights of the first convolution."""
    (gradient,) = torch.autograd.grad(loss, mtd.features[0].weight, retain_graph=True)
    return gradient


def adversarial_loss_of(output):
    """J(G) of all images: as good as J(D) to see whether the real/fake head has a gradient."""
    return malaria.LOSSES["bce"].generator(output.real_logits)


def class_loss_of(output):
    """J(C) of the images of the fixture `images`."""
    return malaria.single_label_loss(output.class_logits, LABELS)


def test_the_adversarial_loss_reaches_the_trunk(mtd, images):
    """Through the real/fake head."""
    assert trunk_gradient(mtd, adversarial_loss_of(mtd(images))).abs().max() > 0


def test_the_class_loss_reaches_the_trunk(mtd, images):
    """Through the class head."""
    assert trunk_gradient(mtd, class_loss_of(mtd(images))).abs().max() > 0


def test_gradients_of_both_losses_add_up_in_the_trunk(mtd, images):
    """The gradient of the sum is the sum of the gradients."""
    output = mtd(images)
    adversarial = adversarial_loss_of(output)
    class_loss = class_loss_of(output)
    both = trunk_gradient(mtd, adversarial + class_loss)
    apart = trunk_gradient(mtd, adversarial) + trunk_gradient(mtd, class_loss)
    torch.testing.assert_close(both, apart, rtol=1e-3, atol=1e-6)


# What each update moves


def numbers_of(network):
    """A copy of all weights and running averages of a network, by name."""
    state = copy.deepcopy(network.state_dict())
    return {name: value for name, value in state.items() if "tracked" not in name}


def changes(before, after):
    """The names of the tensors that differ."""
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def names_of_weights(network):
    """The names of the weights of convolutions and fully connected layers."""
    return {name for name, value in network.named_parameters() if value.ndim > 1}


class Updates(NamedTuple):
    """Names of what a step of D and, after it, a step of G changed in each network."""

    d_weights: set
    g_weights: set
    of_d_by_d: set
    of_g_by_d: set
    of_d_by_g: set
    of_g_by_g: set
    d_learns: bool  # whether weights of D still take gradients after G's step


@pytest.fixture(
    scope="module", params=itertools.product(malaria.LOSSES, malaria.OPTIMIZERS), ids="-".join
)
def updates(request, small_config):
    """The Updates of one step of D and G with each loss and optimiser."""
    loss, optimizer = request.param
    config = small_config(optimizer=optimizer, loss=loss, lr_g=1e-2, lr_d=1e-2)
    torch.manual_seed(0)
    generator, mtd = malaria.build_networks("mtd", vars(config), 4)
    optimizer_g = malaria.make_optimizer(config, "generator", generator.parameters())
    optimizer_d = malaria.make_optimizer(config, "discriminator", mtd.parameters())
    real = torch.randn(6, 3, 32, 32)
    fake = augmentation.augment(generator(torch.randn(6, 100)), torch.ones(()))

    g_before = numbers_of(generator)
    d_before = numbers_of(mtd)
    malaria.discriminator_step(mtd, optimizer_d, real, fake, loss=loss, labels=LABELS)
    g_between = numbers_of(generator)
    d_between = numbers_of(mtd)
    malaria.generator_step(mtd, optimizer_g, fake, loss=loss)
    g_after = numbers_of(generator)
    d_after = numbers_of(mtd)
    return Updates(
        d_weights=names_of_weights(mtd),
        g_weights=names_of_weights(generator),
        of_d_by_d=changes(d_before, d_between),
        of_g_by_d=changes(g_before, g_between),
        of_d_by_g=changes(d_between, d_after),
        of_g_by_g=changes(g_between, g_after),
        d_learns=all(parameter.requires_grad for parameter in mtd.parameters()),
    )


def test_the_step_of_d_moves_all_weights_of_d(updates):
    """Those of the trunk and of both heads."""
    assert updates.of_d_by_d >= updates.d_weights


def test_the_step_of_d_leaves_g_alone(updates):
    """Weights and running averages."""
    assert updates.of_g_by_d == set()


def test_the_step_of_g_moves_all_weights_of_g(updates):
    """Through D and the augmentation."""
    assert updates.of_g_by_g >= updates.g_weights


def test_the_step_of_g_leaves_d_alone(updates):
    """Weights and running averages."""
    assert updates.of_d_by_g == set()


def test_d_goes_on_learning_after_the_step_of_g(updates):
    """Its weights are frozen within that step only."""
    assert updates.d_learns


def test_the_step_of_d_puts_no_gradient_on_g(mtd, images):
    """The fake images are cut off from their graph."""
    generator = malaria.Generator(image_size=32, width=16)
    fake = generator(torch.randn(6, 100))
    malaria.discriminator_step(mtd, torch.optim.SGD(mtd.parameters()), images, fake)
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_running_averages_of_d_follow_real_images_only(mtd, images):
    """Evaluation is of real images; a step of D leaves what a look at them alone would."""
    looked = copy.deepcopy(mtd)
    looked(images)
    fake = torch.randn(6, 3, 32, 32)
    malaria.discriminator_step(mtd, torch.optim.SGD(mtd.parameters()), images, fake)
    torch.testing.assert_close(mtd.features[3].running_var, looked.features[3].running_var)


def test_without_labels_a_step_of_d_has_no_class_loss(mtd, images):
    """J(C) is 0."""
    fake = torch.randn(6, 3, 32, 32)
    step = malaria.discriminator_step(mtd, torch.optim.SGD(mtd.parameters()), images, fake)
    assert step.loss_c == 0


def test_the_head_learns_from_images_of_its_own_if_it_has_some(mtd, images):
    """J(C) is that of these images and labels."""
    labels = torch.tensor([3, 2, 1])
    head_images = torch.randn(3, 3, 32, 32)
    expected = malaria.single_label_loss(mtd(head_images).class_logits, labels)
    fake = torch.randn(6, 3, 32, 32)
    optimizer = torch.optim.SGD(mtd.parameters())
    step = malaria.discriminator_step(
        mtd, optimizer, images, fake, labels=labels, head_images=head_images
    )
    torch.testing.assert_close(step.loss_c, expected.detach())


def test_a_conditional_g_learns_from_the_class_loss_too(mtd):
    """With labels the gradient of G is that of J(G) + J(C)."""
    generator = malaria.Generator(image_size=32, width=16)
    weight = generator.project[0].weight
    fake = generator(torch.randn(6, 100))
    output = mtd(fake)
    total = adversarial_loss_of(output) + class_loss_of(output)
    (expected,) = torch.autograd.grad(total, weight, retain_graph=True)
    malaria.generator_step(mtd, torch.optim.SGD(generator.parameters()), fake, labels=LABELS)
    torch.testing.assert_close(weight.grad, expected)


def changes_by_a_classifier_step(mtd, images):
    """The names of what a step on J(C) alone changed in an MTD."""
    before = numbers_of(mtd)
    malaria.classifier_step(mtd, torch.optim.SGD(mtd.parameters(), 0.1), images, LABELS)
    return changes(before, numbers_of(mtd))


def test_a_step_on_the_class_loss_alone_moves_trunk_and_class_head(mtd, images):
    """All their weights."""
    learning = {name for name in names_of_weights(mtd) if not name.startswith("real_fake")}
    assert changes_by_a_classifier_step(mtd, images) >= learning


def test_a_step_on_the_class_loss_alone_leaves_the_real_fake_head_alone(mtd, images):
    """Its gradient is 0."""
    changed = changes_by_a_classifier_step(mtd, images)
    assert not changed & {"real_fake.weight", "real_fake.bias"}


# Optimisers


def optimizer_of(name, config):
    """A network's optimiser, of a single parameter."""
    return malaria.make_optimizer(config, name, [nn.Parameter(torch.zeros(1))])


def test_both_networks_have_the_optimizer_asked_for(small_config):
    """--optimizer."""
    config = small_config(optimizer="rmsprop")
    kinds = [type(optimizer_of(name, config)) for name in ("generator", "discriminator")]
    assert kinds == [torch.optim.RMSprop, torch.optim.RMSprop]


def test_each_network_can_have_an_optimizer_of_its_own(small_config):
    """--optimizer_g and --optimizer_d."""
    config = small_config(optimizer_g="rmsprop", optimizer_d="sgd")
    kinds = [type(optimizer_of(name, config)) for name in ("generator", "discriminator")]
    assert kinds == [torch.optim.RMSprop, torch.optim.SGD]


@pytest.mark.parametrize(
    ("name", "rate", "betas"),
    [("generator", 0.1, (0.3, 0.5)), ("discriminator", 0.2, (0.4, 0.6))],
)
def test_each_network_has_rates_of_its_own(name, rate, betas, small_config):
    """The learning rate and both betas of Adam."""
    config = small_config(lr_g=0.1, lr_d=0.2, beta1_g=0.3, beta1_d=0.4, beta2_g=0.5, beta2_d=0.6)
    (group,) = optimizer_of(name, config).param_groups
    assert (group["lr"], group["betas"]) == (rate, betas)


# Augmentation


def eight_exact_views(image):
    """The quarter turns of an image (C, S, S), then those of its mirror image."""
    turns = [torch.rot90(image, quarters, (1, 2)) for quarters in range(4)]
    mirror_image = image.flip(2)
    return turns + [torch.rot90(mirror_image, quarters, (1, 2)) for quarters in range(4)]


def largest_difference(image, other):
    """Of any pixel."""
    return (image - other).abs().max().item()


def test_augmentation_keeps_the_shape(images):
    """(B, C, S, S)."""
    assert augmentation.augment(images, torch.ones(())).shape == images.shape


def test_augmentation_differs_from_draw_to_draw(images):
    """Of the same images."""
    once = augmentation.augment(images, torch.ones(()))
    again = augmentation.augment(images, torch.ones(()))
    assert not torch.equal(once, again)


def test_augmentation_is_differentiable(images):
    """A gradient reaches every image."""
    images.requires_grad_(True)
    augmentation.augment(images, torch.ones(())).sum().backward()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()


def test_the_gradient_of_augmentation_is_that_of_small_differences():
    """Of all changes at once, in double precision."""
    images = torch.rand(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    drawn = augmentation.draw_changes(torch.ones(2), 3, 5)
    changes = augmentation.Changes(*(values.double() for values in drawn))
    assert torch.autograd.gradcheck(lambda x: augmentation.changed(x, changes), images)


def test_augmentation_of_strength_0_only_turns_and_flips():
    """Each result is one of the eight exact views of its image."""
    images = torch.rand(16, 3, 8, 8)
    results = augmentation.augment(images, torch.zeros(()))
    for image, result in zip(images, results, strict=True):
        differences = [largest_difference(view, result) for view in eight_exact_views(image)]
        assert min(differences) < 1e-5


def test_groups_are_changed_each_by_its_strength(images):
    """At 0 only turned and flipped, so that the mean stays; at 1 changed in brightness too."""
    results = augmentation.augment_groups([(images, 0), (images, 1)])
    means = images.mean((1, 2, 3))
    moves = [(result.mean((1, 2, 3)) - means).abs().max() for result in results]
    assert moves[0] < 1e-5
    assert moves[1] > 1e-3


def test_groups_keep_their_sizes(images):
    """Each comes back as many as it was."""
    results = augmentation.augment_groups([(images, 1), (images[:2], 1)])
    assert [len(result) for result in results] == [6, 2]


def test_no_gradient_goes_through_a_group_that_needs_none(images):
    """Real images beside those of G."""
    generated = images.clone().requires_grad_()
    real, fake = augmentation.augment_groups([(images, 1), (generated, 1)])
    assert not real.requires_grad
    assert fake.requires_grad


def test_the_grid_of_a_warp_is_that_of_affine_grid():
    """Turned, zoomed, mirrored and shifted."""
    angle, zoom, shift = torch.tensor([[0.4]]), torch.tensor([[1.2]]), torch.tensor([[0.1, -0.2]])
    a = 1.2 * math.cos(0.4)
    b = 1.2 * math.sin(0.4)
    theta = torch.tensor([[[-a, -b, 0.1], [-b, a, -0.2]]])
    expected = F.affine_grid(theta, (1, 3, 32, 32), align_corners=False)
    grid = augmentation.warp_grid(32, angle, zoom, torch.tensor([[-1.0]]), shift)
    torch.testing.assert_close(grid, expected, rtol=0, atol=1e-6)


def strength_after(start, real_probabilities, speed):
    """An augmentation strength after D has said how real some real images are."""
    strength = torch.tensor(start)
    augmentation.adapt_strength(strength, torch.tensor(real_probabilities) - 0.5, speed)
    return strength.item()


def test_augmentation_grows_where_d_holds_all_real_images_for_real():
    """A sign of overfitting."""
    assert strength_after(0.0, [0.9] * 10, 0.1) == pytest.approx(0.1)


def test_augmentation_shrinks_where_d_holds_70_percent_for_real():
    """Anything below 80 %."""
    assert strength_after(0.5, [0.9] * 7 + [0.1] * 3, 0.1) == pytest.approx(0.4)


def test_augmentation_is_not_weaker_than_0():
    """However fast it shrinks."""
    assert strength_after(0.1, [0.1] * 10, 0.3) == 0


def test_augmentation_is_not_stronger_than_1():
    """However fast it grows."""
    assert strength_after(0.1, [1.0] * 10, 5.0) == 1


# Views


@pytest.fixture
def views():
    """The views of one random image (1, 3, 32, 32), and the image."""
    image = torch.rand(1, 3, 32, 32)
    return list(symmetry.turns(image)), image


def test_there_are_24_views(views):
    """Turns by 30 degrees, and those of the mirror image."""
    turned, _ = views
    assert len(turned) == 24


def test_views_keep_the_shape(views):
    """(B, C, S, S)."""
    turned, image = views
    assert {view.shape for view in turned} == {image.shape}


def test_all_views_differ(views):
    """Each from each other one."""
    turned, _ = views
    for view, other in itertools.combinations(turned, 2):
        assert largest_difference(view, other) > 0.1


def test_the_first_eight_views_are_exact(views):
    """Quarter turns and mirror images, pixel for pixel."""
    turned, image = views
    exact = torch.stack(eight_exact_views(image[0]))
    assert torch.equal(torch.cat(turned[: symmetry.EXACT_TURNS]), exact)


PLACE = torch.linspace(-1, 1, 32)  # of a row or a column
ROW = PLACE[:, None]
RADIUS = (ROW**2 + PLACE**2).sqrt()
WITHIN = RADIUS < 0.95  # what no turn moves out of the image
DISC = (torch.sigmoid(8 * (0.6 - RADIUS)) * WITHIN)[None, None]


def test_a_disc_looks_the_same_in_all_views():
    """They turn about the middle of the image and keep its scale."""
    for view in symmetry.turns(DISC):
        assert largest_difference(view * WITHIN, DISC * WITHIN) < 0.05


def test_the_ninth_view_is_turned_by_30_degrees():
    """The centre of mass of a wedge that pointed straight down."""
    wedge = (0.5 * PLACE.abs() < ROW) * DISC
    turned = list(symmetry.turns(wedge))[symmetry.EXACT_TURNS] * WITHIN
    across = (turned * PLACE).sum()
    down = (turned * ROW).sum()
    angle = math.degrees(math.atan2(across, down))
    assert abs(angle) == pytest.approx(30, abs=2)


# A step of the Trainer


def make_trainer(task, config):
    """A Trainer of the four stages on the CPU."""
    return malaria.Trainer(task, config, classes.STAGES, "cpu")


def assignment_config(small_config):
    """The Config of small networks with the recipe "assignment"."""
    return small_config(**malaria.RECIPES["assignment"])


def real_batch(count=8):
    """A Batch of random images with labels in turn."""
    images = torch.rand(count, 3, 32, 32) * 2 - 1
    return malaria.Batch(images, torch.arange(count) % 4)


class Spy:
    """What goes into a network and comes out of it, call by call."""

    def __init__(self, network):
        self.inputs = []
        self.outputs = []
        network.register_forward_hook(self.keep)

    def keep(self, network, inputs, output):
        """Forward hook: remember a call."""
        self.inputs.append(inputs[0].detach().clone())
        self.outputs.append(output)


def test_by_default_g_runs_once_a_step(small_config):
    """The same images serve both updates."""
    trainer = make_trainer("gan", small_config())
    spy = Spy(trainer.networks["generator"])
    trainer.adversarial_step(real_batch(), None)
    assert len(spy.inputs) == 1


def test_a_step_draws_the_changes_of_all_its_images_at_once(small_config, monkeypatch):
    """Real, generated and the head's: one call of torch.rand, of a row an image."""
    trainer = make_trainer("mtd", small_config())
    real = real_batch(4)
    head = real_batch(8)
    draw = torch.rand
    sizes = []

    def counted(*size, **options):
        sizes.append(size)
        return draw(*size, **options)

    monkeypatch.setattr(torch, "rand", counted)
    trainer.adversarial_step(real, head)
    assert [size[0] for size in sizes] == [16]


def test_by_default_both_updates_see_the_same_images(small_config):
    """Calls of D: on real images, on fake ones in its own step, on fake ones in that of G."""
    trainer = make_trainer("gan", small_config())
    spy = Spy(trainer.networks["discriminator"])
    trainer.adversarial_step(real_batch(), None)
    _, fake_for_d, fake_for_g = spy.inputs
    assert torch.equal(fake_for_d, fake_for_g)


def test_as_assigned_g_runs_twice_a_step(small_config):
    """For its own update it draws anew."""
    trainer = make_trainer("gan", assignment_config(small_config))
    spy = Spy(trainer.networks["generator"])
    trainer.adversarial_step(real_batch(), None)
    assert len(spy.inputs) == 2


def test_as_assigned_each_update_has_noise_of_its_own(small_config):
    """The two draws differ."""
    trainer = make_trainer("gan", assignment_config(small_config))
    spy = Spy(trainer.networks["generator"])
    trainer.adversarial_step(real_batch(), None)
    noise_for_d, noise_for_g = spy.inputs
    assert not torch.equal(noise_for_d, noise_for_g)


def test_as_assigned_g_learns_from_the_images_of_the_new_noise(small_config):
    """What D sees in the step of G is what G made of its second draw."""
    trainer = make_trainer("gan", assignment_config(small_config))
    generator_spy = Spy(trainer.networks["generator"])
    discriminator_spy = Spy(trainer.networks["discriminator"])
    trainer.adversarial_step(real_batch(), None)
    assert torch.equal(discriminator_spy.inputs[2], generator_spy.outputs[1].detach())


def test_as_assigned_a_step_of_the_mtd_draws_new_noise_too(small_config):
    """Its head learns from the same real images."""
    trainer = make_trainer("mtd", assignment_config(small_config))
    spy = Spy(trainer.networks["generator"])
    batch = real_batch()
    trainer.adversarial_step(batch, batch)
    noise_for_d, noise_for_g = spy.inputs
    assert not torch.equal(noise_for_d, noise_for_g)


# Averaged weights


@pytest.fixture
def network():
    """A single weight, which starts at 0, without bias."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    return network


def average_over(network, weights, decay):
    """The averaged weight after the network has had these weights, one after the other."""
    average = malaria.averaged(network)
    for weight in weights:
        nn.init.constant_(network.weight, weight)
        malaria.update_average(average, network, decay)
    return average.module.weight.item()


def test_an_average_starts_as_the_network_is(network):
    """After its first update."""
    assert average_over(network, [1.0], 0.999) == 1


def test_an_average_moves_fast_at_first(network):
    """The second update has the decay 2/11, however large the one asked for."""
    assert average_over(network, [1.0, 12.0], 0.999) == pytest.approx(1 * 2 / 11 + 12 * 9 / 11)


def test_an_average_moves_by_the_decay_asked_for_if_it_is_the_smaller(network):
    """The second update with 0.1."""
    assert average_over(network, [1.0, 12.0], 0.1) == pytest.approx(1 * 0.1 + 12 * 0.9)


def test_an_average_moves_slowly_in_the_end(network):
    """After very many updates the decay is the one asked for."""
    average = malaria.averaged(network)
    average.n_averaged.fill_(1_000_000)
    nn.init.constant_(network.weight, 1.0)
    malaria.update_average(average, network, 0.999)
    assert average.module.weight.item() == pytest.approx(0.001)


def test_an_average_with_decay_0_is_the_network(network):
    """As the recipe "assignment" has it."""
    assert average_over(network, [1.0, 12.0], 0.0) == 12


def test_an_average_takes_batch_statistics_along():
    """They belong to the weights."""
    network = nn.BatchNorm2d(1)
    average = malaria.averaged(network)
    for mean in (1.0, 12.0):
        network.running_mean.fill_(mean)
        malaria.update_average(average, network, 0.1)
    assert average.module.running_mean.item() == pytest.approx(1 * 0.1 + 12 * 0.9)


def test_an_average_copies_the_counters_of_batch_norm():
    """How many batches the statistics are of."""
    network = nn.BatchNorm2d(1)
    average = malaria.averaged(network)
    network.num_batches_tracked.fill_(7)
    malaria.update_average(average, network, 0.999)
    assert average.module.num_batches_tracked == 7


def test_an_average_is_in_eval_mode(mtd):
    """All of its modules, whatever the network's mode."""
    average = malaria.averaged(mtd)
    assert not any(module.training for module in average.modules())


def test_an_average_does_not_learn(mtd):
    """None of its weights takes a gradient."""
    average = malaria.averaged(mtd)
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_both_averages_move_in_an_adversarial_step(small_config):
    """Once each."""
    trainer = make_trainer("mtd", small_config())
    trainer.adversarial_step(real_batch(4), real_batch())
    counts = [int(average.n_averaged) for average in trainer.averages.values()]
    assert counts == [1, 1]


def test_the_average_of_g_rests_in_a_step_on_the_class_loss_alone(small_config):
    """It moves when its network does."""
    trainer = make_trainer("mtd", small_config())
    last = trainer.adversarial_step(real_batch(4), real_batch())
    trainer.head_step(real_batch(), last)
    counts = {name: int(average.n_averaged) for name, average in trainer.averages.items()}
    assert counts == {"generator": 1, "discriminator": 2}


# The images of an epoch's steps


STEPS = 200


@pytest.fixture(scope="module")
def unbalanced_data(random_data):
    """A hundred images of two classes, of which nine in ten are of class 0."""
    return random_data([0] * 90 + [1] * 10, classes=["a", "b"])


@pytest.fixture
def steps_of(unbalanced_data, small_config):
    """A function of a task and flags: the StepData of STEPS steps."""

    def steps(task, **flags):
        trainer = malaria.Trainer(task, small_config(**flags), unbalanced_data.classes, "cpu")
        return list(trainer.step_data(unbalanced_data, STEPS))

    return steps


def adversarial_labels(steps):
    """Labels (STEPS, B) of the real images that are told from fake ones."""
    return torch.stack([step.adversarial.labels for step in steps])


def head_labels(steps):
    """Labels (STEPS, B) of the images that the head learns from."""
    return torch.stack([step.head.labels for step in steps])


def share_of_class_1(labels):
    """Of all labels."""
    return labels.float().mean().item()


def test_a_gan_has_whole_batches(steps_of):
    """--batch_size images against as many fake ones."""
    assert adversarial_labels(steps_of("gan")).shape == (STEPS, 8)


def test_a_gan_sees_the_datas_own_mix_of_classes(steps_of):
    """One in ten, in whole passes."""
    assert share_of_class_1(adversarial_labels(steps_of("gan"))) == pytest.approx(0.1)


def test_a_gan_sees_every_image_equally_often(steps_of):
    """200 steps of 8 images are 16 shuffled passes over 100."""
    seen = torch.cat([step.adversarial.images for step in steps_of("gan")])
    _, counts = seen.flatten(1).unique(dim=0, return_counts=True)
    assert counts.tolist() == [16] * 100


def test_a_gan_has_no_images_for_a_head(steps_of):
    """Nor labels."""
    assert {step.head for step in steps_of("gan")} == {None}


def test_the_head_has_whole_batches(steps_of):
    """--batch_size images."""
    assert head_labels(steps_of("mtd")).shape == (STEPS, 8)


def test_the_head_sees_every_class_equally_often(steps_of):
    """One in two, by draws."""
    assert share_of_class_1(head_labels(steps_of("mtd"))) == pytest.approx(0.5, abs=0.05)


def test_real_against_fake_of_an_mtd_has_half_batches(steps_of):
    """Of images of its own."""
    assert adversarial_labels(steps_of("mtd")).shape == (STEPS, 4)


def test_real_against_fake_of_an_mtd_has_the_datas_own_mix_of_classes(steps_of):
    """One in ten, so that G keeps to it."""
    assert share_of_class_1(adversarial_labels(steps_of("mtd"))) == pytest.approx(0.1)


def test_a_conditional_g_sees_every_class_equally_often(steps_of):
    """One in two, by draws, for it learns to draw each."""
    labels = adversarial_labels(steps_of("mtd", conditional=True))
    assert share_of_class_1(labels) == pytest.approx(0.5, abs=0.06)


def test_what_the_head_sees_does_not_depend_on_a_conditional_g(steps_of):
    """The same draws."""
    conditional = head_labels(steps_of("mtd", conditional=True))
    assert torch.equal(conditional, head_labels(steps_of("mtd")))


def test_what_the_head_sees_does_not_depend_on_augmentation(steps_of):
    """The same draws."""
    plain = head_labels(steps_of("mtd", augment=False))
    assert torch.equal(plain, head_labels(steps_of("mtd")))


def test_without_augmentation_one_batch_serves_both(steps_of):
    """Real against fake, and the head."""
    steps = steps_of("mtd", augment=False)
    assert all(step.adversarial is step.head for step in steps)


def test_real_against_fake_is_at_every_nth_step(steps_of):
    """The steps between are on J(C) alone."""
    steps = steps_of("mtd", adversarial_every=3)
    has_adversarial = [step.adversarial is not None for step in steps]
    assert has_adversarial[:7] == [True, False, False, True, False, False, True]
