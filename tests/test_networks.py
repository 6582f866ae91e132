"""The networks: sizes, the smoothing filter, initialisation, the class head, conditional G."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from torch import nn

import rollNumber_05 as malaria
from extras.layers import layer_table, size_formula, trace_layers
from extras.smoothing import SmoothConvTranspose2d

# Sizes


@pytest.fixture(params=malaria.SIDES)
def size(request):
    """Each side that an image can have."""
    return request.param


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def channels(request):
    """Each number of colour channels."""
    return request.param


@pytest.fixture
def generator(size, channels):
    """A small generator in eval mode."""
    return malaria.Generator(image_size=size, channels=channels, width=16).eval()


@pytest.fixture
def discriminator(size, channels):
    """A small discriminator in eval mode."""
    return malaria.Discriminator(image_size=size, channels=channels, width=16).eval()


def sides_of_convolutions(network, example):
    """[(layer, input side, output side)] of every convolution, in the order they run."""
    sides = []
    for _, layer, input_shape, output_shape in trace_layers(network, example):
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            sides.append((layer, input_shape[-1], output_shape[-1]))
    return sides


def test_transposed_convolutions_keep_to_the_size_formula(generator):
    """The side that comes out is o = (i - 1)*s - 2p + k."""
    for layer, i, o in sides_of_convolutions(generator, torch.zeros(1, 100)):
        k = layer.kernel_size[0]
        s = layer.stride[0]
        p = layer.padding[0]
        assert o == (i - 1) * s - 2 * p + k


def test_convolutions_keep_to_the_size_formula(discriminator, size, channels):
    """The side that comes out is o = (i + 2p - k)/s + 1."""
    image = torch.zeros(1, channels, size, size)
    for layer, i, o in sides_of_convolutions(discriminator, image):
        k = layer.kernel_size[0]
        s = layer.stride[0]
        p = layer.padding[0]
        assert o == (i + 2 * p - k) // s + 1


def test_the_layer_table_works_out_the_side_of_transposed_convolutions(generator):
    """The formula as text ends in the side that the layer has."""
    for layer, i, o in sides_of_convolutions(generator, torch.zeros(1, 100)):
        assert size_formula(layer, i).endswith(f"= {o}")


def test_the_layer_table_works_out_the_side_of_convolutions(discriminator, size, channels):
    """The formula as text ends in the side that the layer has."""
    image = torch.zeros(1, channels, size, size)
    for layer, i, o in sides_of_convolutions(discriminator, image):
        assert size_formula(layer, i).endswith(f"= {o}")


def test_the_layer_table_counts_every_parameter(generator):
    """The column of parameters adds up to those of the network."""
    rows = layer_table(generator, torch.zeros(1, 100))[1:]
    counts = [int(row[3].replace(",", "")) for row in rows]
    assert sum(counts) == sum(parameter.numel() for parameter in generator.parameters())


def test_the_generator_draws_images_of_the_size_asked_for(generator, size, channels):
    """(B, C, S, S) of noise (B, 100)."""
    assert generator(torch.zeros(2, 100)).shape == (2, channels, size, size)


def test_the_discriminator_ends_in_maps_of_4x4_and_one_number(discriminator, size, channels):
    """The last two convolutions; the head of an MTD reads the output of the first of them."""
    sides = sides_of_convolutions(discriminator, torch.zeros(1, channels, size, size))
    assert [o for _, _, o in sides[-2:]] == [4, 1]


# The assigned networks


def test_the_assigned_linear_layer_makes_128_maps_of_4x4():
    """G's default width."""
    maps = malaria.Generator().project(torch.zeros(2, 100))
    assert maps.shape == (2, 128, 4, 4)


def test_the_generator_of_the_papers_figure_1():
    """1024 channels at 4x4, halved at each transposed convolution; three colours at the end."""
    generator = malaria.Generator(width=1024)
    layers = [layer for layer in generator.blocks if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in layers] == [512, 256, 128, 3]


def test_the_assigned_discriminator_has_128_maps_of_4x4():
    """D's default width."""
    maps = malaria.Discriminator().features(torch.zeros(1, 3, 64, 64))
    assert maps.shape == (1, 128, 4, 4)


def test_the_discriminator_gives_a_logit_an_image():
    """real_logits (B,)."""
    output = malaria.Discriminator()(torch.zeros(2, 3, 64, 64))
    assert output.real_logits.shape == (2,)


def test_the_discriminator_has_no_class_logits():
    """None, where an MTD has some."""
    output = malaria.Discriminator()(torch.zeros(2, 3, 64, 64))
    assert output.class_logits is None


def test_the_mtd_gives_a_real_fake_logit_an_image(mtd, images):
    """real_logits (B,)."""
    assert mtd(images).real_logits.shape == (6,)


def test_the_mtd_gives_a_logit_a_class(mtd, images):
    """class_logits (B, n)."""
    assert mtd(images).class_logits.shape == (6, 4)


# The smoothing filter


@pytest.fixture(params=[(3, 8), (16, 3)], ids=str)
def upsampling(request):
    """(filtered, plain): two transposed convolutions with the same weights."""
    filtered = SmoothConvTranspose2d(*request.param, 4, 2, 1)
    plain = nn.ConvTranspose2d(*request.param, 4, 2, 1)
    plain.load_state_dict(filtered.state_dict())
    return filtered, plain


def inside_of_flat_map(layer):
    """A layer's output for one flat colour, away from the border, where zero padding shows."""
    maps = layer(torch.ones(1, layer.in_channels, 6, 6))
    return maps[:, :, 3:-3, 3:-3]


def test_a_plain_transposed_convolution_leaves_a_checkerboard(upsampling):
    """A stride of 2 makes a pattern of period 2 of one flat colour."""
    _, plain = upsampling
    assert inside_of_flat_map(plain).std((2, 3)).min() > 0.01


def test_a_filtered_one_leaves_no_checkerboard(upsampling):
    """A flat colour stays flat."""
    filtered, _ = upsampling
    assert inside_of_flat_map(filtered).std((2, 3)).max() < 1e-6


def test_the_filter_keeps_the_mean(upsampling):
    """Its numbers add up to 1."""
    means = [inside_of_flat_map(layer).mean((2, 3)) for layer in upsampling]
    torch.testing.assert_close(*means, rtol=0, atol=1e-6)


def test_the_filter_is_scipys(upsampling):
    """(1 2 1)/4 along both sides, edges repeated."""
    filtered, plain = upsampling
    maps = torch.randn(2, filtered.in_channels, 5, 5)
    line = np.array([1, 2, 1]) / 4
    kernel = np.outer(line, line)[None, None]
    expected = convolve(plain(maps).detach().numpy(), kernel, mode="nearest")
    np.testing.assert_allclose(filtered(maps).detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("sides", [(4, 6), (1, 2)], ids=str)
def test_the_gradient_of_the_filter_is_that_of_small_differences(sides):
    """Edges too, of maps as small as one pixel, in double precision."""
    layer = SmoothConvTranspose2d(2, 3, 4, 2, 1).double()
    maps = torch.rand(2, 2, *sides, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, maps)


def test_the_filter_keeps_the_precision_of_autocast(upsampling):
    """It is not widened to float32 and back, and differs by rounding only."""
    filtered, _ = upsampling
    maps = torch.randn(2, filtered.in_channels, 5, 5)
    expected = filtered(maps)
    with torch.autocast("cpu", torch.bfloat16):
        result = filtered(maps)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("smooth", "kind"), [(True, SmoothConvTranspose2d), (False, nn.ConvTranspose2d)]
)
def test_smooth_says_whether_the_generator_filters(smooth, kind):
    """All transposed convolutions of a generator are of one kind."""
    generator = malaria.Generator(smooth=smooth, width=16)
    layers = [layer for layer in generator.blocks if isinstance(layer, nn.ConvTranspose2d)]
    assert {type(layer) for layer in layers} == {kind}


# Initialisation: Radford et al. 2016, section 4


def test_weights_start_with_mean_0():
    """Of N(0, 0.02)."""
    weight = malaria.Generator(width=512).blocks[0].weight
    assert weight.mean().item() == pytest.approx(0, abs=0.001)


def test_weights_start_with_standard_deviation_002():
    """Of N(0, 0.02)."""
    weight = malaria.Generator(width=512).blocks[0].weight
    assert weight.std().item() == pytest.approx(0.02, abs=0.001)


def test_batch_norm_scales_start_with_mean_1():
    """Of N(1, 0.02)."""
    scales = malaria.Generator(width=512).project[2].weight
    assert scales.mean().item() == pytest.approx(1, abs=0.01)


def test_batch_norm_scales_start_with_standard_deviation_002():
    """Of N(1, 0.02)."""
    scales = malaria.Generator(width=512).project[2].weight
    assert scales.std().item() == pytest.approx(0.02, abs=0.003)


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_biases_start_at_0(task, small_config):
    """Of every layer of both networks."""
    networks = malaria.build_networks(task, vars(small_config()), 4)
    for name, parameter in nn.ModuleList(networks).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name


# The MTD


def test_the_mtd_adds_only_its_head_to_the_discriminator(mtd):
    """What a discriminator's weights lack."""
    discriminator = malaria.Discriminator(image_size=32, width=16)
    missing, _ = mtd.load_state_dict(discriminator.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing} == {"embed", "classify"}


def test_the_mtd_has_all_of_the_discriminator(mtd):
    """No weight of a discriminator is left over."""
    discriminator = malaria.Discriminator(image_size=32, width=16)
    _, unexpected = mtd.load_state_dict(discriminator.state_dict(), strict=False)
    assert unexpected == []


def test_the_mtd_with_a_discriminators_weights_tells_real_from_fake_as_it_does(mtd, images):
    """The head does not disturb the trunk."""
    discriminator = malaria.Discriminator(image_size=32, width=16)
    mtd.load_state_dict(discriminator.state_dict(), strict=False)
    assert torch.equal(mtd(images).real_logits, discriminator(images).real_logits)


def test_the_head_has_two_fully_connected_layers(mtd):
    """And the trunk none."""
    assert sum(isinstance(module, nn.Linear) for module in mtd.modules()) == 2


def probabilities_of_logits(logits, multi_label, images):
    """MTD.probabilities of a head whose class logits are these numbers for every image."""
    mtd = malaria.MultiTaskDiscriminator(
        num_classes=len(logits), multi_label=multi_label, image_size=32, width=16
    )
    nn.init.zeros_(mtd.classify.weight)
    mtd.classify.bias.data = torch.tensor(logits).float()
    return mtd.eval().probabilities(images)[0].tolist()


def test_class_probabilities_are_softmax(images):
    """Logits log 1, log 2, log 3 and log 4: one tenth, two, three and four."""
    logits = np.log([1.0, 2.0, 3.0, 4.0])
    probabilities = probabilities_of_logits(logits, False, images)
    assert probabilities == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_class_probabilities_of_several_labels_are_sigmoid(images):
    """Logits log 1, log 3 and log 4: 1/2, 3/4 and 4/5, each for itself."""
    logits = np.log([1.0, 3.0, 4.0])
    probabilities = probabilities_of_logits(logits, True, images)
    assert probabilities == pytest.approx([0.5, 0.75, 0.8])


@pytest.mark.parametrize(
    ("view", "kind"), [("cell", malaria.SingleLabel), ("field", malaria.MultiLabel)]
)
def test_the_view_says_how_many_labels_an_image_has(view, kind, small_config):
    """A cell is of one class, a field has several."""
    _, mtd = malaria.build_networks("mtd", vars(small_config(view=view)), 3)
    assert mtd.label_kind is kind


# The conditional generator


@pytest.fixture
def conditional_generator(small_config):
    """The generator of an MTD run with --conditional, of three classes, in eval mode."""
    generator, _ = malaria.build_networks("mtd", vars(small_config(conditional=True)), 3)
    return generator.eval()


def test_the_generator_of_a_gan_is_never_conditional(small_config):
    """Only an MTD says whether the class that G was given is in its image."""
    generator, _ = malaria.build_networks("gan", vars(small_config(conditional=True)), 3)
    assert generator.num_classes == 0


def test_another_class_gives_another_image(conditional_generator):
    """Of the same noise."""
    noise = torch.randn(3, 100)
    image = conditional_generator(noise, torch.tensor([0, 1, 2]))
    other = conditional_generator(noise, torch.tensor([1, 2, 0]))
    assert not torch.allclose(image, other)


def test_a_class_number_stands_for_its_one_hot_row(conditional_generator):
    """Labels (B,), and the same as (B, n)."""
    noise = torch.randn(3, 100)
    labels = torch.tensor([2, 0, 1])
    image = conditional_generator(noise, labels)
    assert torch.equal(image, conditional_generator(noise, torch.eye(3)[labels]))


def test_several_classes_can_be_asked_for_at_once(conditional_generator):
    """The rows of multi-label data, here two classes and none."""
    noise = torch.randn(2, 100)
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert conditional_generator(noise, labels).shape == (2, 3, 32, 32)


# Modes


def set_some_modes(mtd):
    """Put an MTD in train mode, but for its class head."""
    mtd.train()
    mtd.classify.eval()


def modes_of(network):
    """Whether each submodule is in train mode."""
    return [module.training for module in network.modules()]


def test_evaluating_puts_every_module_in_eval_mode(mtd):
    """Inside the block."""
    set_some_modes(mtd)
    with malaria.evaluating(mtd):
        assert not any(modes_of(mtd))


def test_evaluating_restores_every_modules_own_mode(mtd):
    """After the block."""
    set_some_modes(mtd)
    before = modes_of(mtd)
    with malaria.evaluating(mtd):
        pass
    assert modes_of(mtd) == before


def test_evaluating_restores_modes_after_an_exception(mtd):
    """As after the block's own end."""
    set_some_modes(mtd)
    before = modes_of(mtd)
    with pytest.raises(ZeroDivisionError), malaria.evaluating(mtd):
        _ = 1 / 0
    assert modes_of(mtd) == before


def running_averages(network):
    """The running means and variances of a network's batch norms, as one vector."""
    averages = []
    for name, buffer in network.named_buffers():
        if "running" in name:
            averages.append(buffer.flatten())
    return torch.cat(averages)


def test_frozen_statistics_keep_the_running_averages(mtd, images):
    """A batch inside the block leaves them alone."""
    before = running_averages(mtd)
    with malaria.frozen_statistics(mtd):
        mtd(images)
    assert torch.equal(running_averages(mtd), before)


def test_after_frozen_statistics_running_averages_move_again(mtd, images):
    """The momentum is restored."""
    before = running_averages(mtd)
    with malaria.frozen_statistics(mtd):
        pass
    mtd(images)
    assert not torch.equal(running_averages(mtd), before)


@pytest.mark.parametrize(("flags", "inputs"), [([], 100), (["--conditional"], 104)])
def test_the_summary_shows_the_generator_that_is_trained(run_script, tmp_path, flags, inputs):
    """A conditional one takes the four life stages beside the noise."""
    done = run_script("--summary", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{(inputs + 1) * 128 * 16:,}" in done.stdout
