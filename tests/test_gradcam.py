"""Grad-CAM and its kin against other implementations, what they leave behind, their pictures."""

import itertools

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import nn

import rollNumber_05 as malaria
from extras import cam_methods, symmetry

LABELS = torch.tensor([0, 1, 2, 3, 0, 1])  # of the six images of the fixture `images`


@pytest.fixture
def images():
    """Six images of noise (6, 3, 64, 64)."""
    return torch.randn(6, 3, 64, 64)


@pytest.fixture
def mtd():
    """An MTD of four classes at 64 pixels in eval mode, whose maps are far from 0."""
    network = malaria.MultiTaskDiscriminator(num_classes=4, width=64)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data *= 4
    return network.eval()


# Raw maps


METHODS = {"grad": malaria.gradcam_evidence, **cam_methods.METHODS}


def gradcam(mtd, images, score, layer=None, method="grad", turn_count=1):
    """Raw maps (N, h, w), means over the turns of an image."""
    with malaria.GradCAM(mtd, layer, METHODS[method]) as cam:
        return cam_methods.mean_over_turns(cam, images, score, turn_count)


def captum(forward, layer, images, target=None):
    """Captum's raw maps (N, h, w) of a function of images."""
    explainer = LayerGradCam(forward, layer)
    return explainer.attribute(images, target, relu_attributions=True)[:, 0].detach()


def test_maps_of_class_logits_are_captums(mtd, images):
    """Of another class for each image."""
    ours = gradcam(mtd, images, malaria.class_score(LABELS))
    theirs = captum(lambda x: mtd(x).class_logits, mtd.features, images, LABELS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_maps_of_what_speaks_for_real_are_captums(mtd, images):
    """Of the real/fake logit."""
    ours = gradcam(mtd, images, malaria.real_score)
    theirs = captum(lambda x: mtd(x).real_logits, mtd.features, images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_maps_of_what_speaks_for_fake_are_captums(mtd, images):
    """Of the real/fake logit with the other sign."""
    ours = gradcam(mtd, images, malaria.fake_score)
    theirs = captum(lambda x: -mtd(x).real_logits, mtd.features, images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_maps_of_another_layer_are_captums(mtd, images):
    """The first convolution, 32x32."""
    layer = mtd.features[0]
    ours = gradcam(mtd, images, malaria.class_score(LABELS), layer)
    theirs = captum(lambda x: mtd(x).class_logits, layer, images, LABELS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_maps_of_a_plain_discriminator_are_captums(images):
    """It has a real/fake logit too."""
    discriminator = malaria.Discriminator(width=16).eval()
    ours = gradcam(discriminator, images, malaria.real_score)
    theirs = captum(lambda x: discriminator(x).real_logits, discriminator.features, images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


class ClassLogits(nn.Module):
    """An MTD as a classifier that returns logits (B, n)."""

    def __init__(self, mtd):
        super().__init__()
        self.mtd = mtd

    def forward(self, images):
        """Class logits (B, n)."""
        return self.mtd(images).class_logits


def jacob_gil(name, mtd, layer, images):
    """Heat maps (N, S, S) in [0, 1] of a method of pytorch-grad-cam; the test needs the package."""
    package = pytest.importorskip("pytorch_grad_cam")
    targets_of = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    targets = [targets_of.ClassifierOutputTarget(label) for label in LABELS.tolist()]
    with getattr(package, name)(ClassLogits(mtd), [layer]) as cam:
        return torch.from_numpy(cam(images, targets))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_hirescam_is_captums_gradient_times_activation(mtd, images, level):
    """Summed over the feature maps, at each layer."""
    layer = mtd.feature_layer(level)
    ours = gradcam(mtd, images, malaria.class_score(LABELS), layer, "hires")
    explainer = LayerGradientXActivation(ClassLogits(mtd), layer)
    theirs = explainer.attribute(images, LABELS).sum(1).relu().detach()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(
    ("method", "theirs"), [("grad", "GradCAM"), ("hires", "HiResCAM"), ("layer", "LayerCAM")]
)
def test_heat_maps_are_those_of_pytorch_grad_cam(mtd, images, method, theirs, level):
    """Resized and scaled, of each method at each layer."""
    layer = mtd.feature_layer(level)
    raw = gradcam(mtd, images, malaria.class_score(LABELS), layer, method)
    expected = jacob_gil(theirs, mtd, layer, images)
    torch.testing.assert_close(malaria.heat_maps(raw, 64).maps, expected, rtol=0, atol=1e-5)


def test_layercam_weighs_by_positive_gradients_only(mtd, images):
    """So it is HiResCAM where no gradient is negative: on weights and inputs that are positive."""
    for parameter in mtd.parameters():
        parameter.data.abs_()
    score = malaria.class_score(LABELS)
    hires, layer = (gradcam(mtd, images, score, None, method) for method in ("hires", "layer"))
    torch.testing.assert_close(layer, hires)


@pytest.mark.parametrize("size", [28, 32, 64, 128])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_activations_are_those_of_the_last_convolutions(size, level):
    """4x4, 8x8 and 16x16; 7x7 and 14x14 of images of 28 pixels."""
    network = malaria.MultiTaskDiscriminator(num_classes=4, image_size=size, width=16)
    image = torch.zeros(1, 3, size, size)
    maps = gradcam(network, image, malaria.real_score, network.feature_layer(level))
    assert maps.shape[1] == malaria.SIDES[size][level]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_activations_come_after_the_nonlinearity(mtd, level):
    """Those before it would carry evidence that the network does not pass on."""
    assert isinstance(mtd.feature_layer(level), nn.LeakyReLU)


@pytest.mark.parametrize("number", range(symmetry.EXACT_TURNS))
def test_a_map_is_turned_back_as_its_image_was_turned(number):
    """Each of the exact turns of an image, taken for a map."""
    images = torch.rand(2, 1, 5, 5)
    turned = list(itertools.islice(symmetry.turns(images), symmetry.EXACT_TURNS))[number]
    assert torch.equal(symmetry.turned_back(turned[:, 0], number), images[:, 0])


def test_maps_over_views_are_means_of_maps_turned_back(mtd, images):
    """Each as the image lies."""
    score = malaria.class_score(LABELS)
    expected = []
    views = itertools.islice(symmetry.turns(images), symmetry.EXACT_TURNS)
    for number, view in enumerate(views):
        expected.append(symmetry.turned_back(gradcam(mtd, view, score), number))
    ours = gradcam(mtd, images, score, None, "grad", symmetry.EXACT_TURNS)
    torch.testing.assert_close(ours, torch.stack(expected).mean(0))


def test_maps_over_views_turn_with_the_image(mtd, images):
    """By a quarter turn."""
    score = malaria.class_score(LABELS)
    arguments = (mtd.feature_layer(2), "layer", symmetry.EXACT_TURNS)
    maps = gradcam(mtd, images, score, *arguments)
    of_turned = gradcam(mtd, torch.rot90(images, 1, (2, 3)), score, *arguments)
    torch.testing.assert_close(of_turned, torch.rot90(maps, 1, (1, 2)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("views", [0, 9])
def test_other_numbers_of_views_are_refused(mtd, images, views):
    """The further turns need resampling and cannot be turned back exactly."""
    score = malaria.class_score(LABELS)
    with pytest.raises(ValueError, match=f"turn_count {views}: 1 to 8"):
        gradcam(mtd, images, score, turn_count=views)


@pytest.mark.parametrize(
    "score", [malaria.class_score(LABELS), malaria.real_score, malaria.fake_score]
)
def test_the_maps_compared_hold_evidence(mtd, images, score):
    """Else the tests above would compare zeros."""
    assert gradcam(mtd, images, score).max() > 1e-3


def test_maps_are_those_of_the_activations_of_the_second_last_convolution(mtd, images):
    """4x4 by default."""
    assert gradcam(mtd, images, malaria.real_score).shape == (6, 4, 4)


def test_maps_are_the_same_without_gradients_around(mtd, images):
    """Grad-CAM switches them on for itself."""
    expected = gradcam(mtd, images, malaria.real_score)
    with torch.no_grad():
        assert torch.equal(gradcam(mtd, images, malaria.real_score), expected)


def test_maps_of_a_network_in_train_mode_are_those_of_eval_mode(mtd, images):
    """Dropout and the batch's own statistics would change them."""
    expected = gradcam(mtd, images, malaria.class_score(LABELS))
    assert torch.equal(gradcam(mtd.train(), images, malaria.class_score(LABELS)), expected)


# What is left behind


def failing_score(output):
    """A score that cannot be computed."""
    raise ZeroDivisionError


def test_the_hook_is_removed_at_the_end_of_the_block(mtd, images):
    """No later pass through the network pays for it."""
    gradcam(mtd, images, malaria.real_score)
    assert not mtd.features._forward_hooks


def test_the_hook_is_removed_after_an_exception(mtd, images):
    """Here in the score."""
    with pytest.raises(ZeroDivisionError):
        gradcam(mtd, images, failing_score)
    assert not mtd.features._forward_hooks


def test_train_mode_is_restored(mtd, images):
    """For each module by itself: here the real/fake head is in eval mode."""
    mtd.train()
    mtd.real_fake.eval()
    gradcam(mtd, images, malaria.real_score)
    assert (mtd.training, mtd.real_fake.training) == (True, False)


def test_train_mode_is_restored_after_an_exception(mtd, images):
    """Here in the score."""
    mtd.train()
    with pytest.raises(ZeroDivisionError):
        gradcam(mtd, images, failing_score)
    assert mtd.training


def test_frozen_weights_stay_frozen(mtd, images):
    """And do not keep Grad-CAM from its gradients."""
    mtd.requires_grad_(False)
    gradcam(mtd, images, malaria.real_score)
    assert not any(parameter.requires_grad for parameter in mtd.parameters())


def test_weights_get_no_gradient(mtd, images):
    """An optimiser would add it to its next step."""
    gradcam(mtd, images, malaria.real_score)
    assert all(parameter.grad is None for parameter in mtd.parameters())


def test_weights_and_running_averages_stay_as_they_are(mtd, images):
    """In train mode too."""
    mtd.train()
    before = {name: value.clone() for name, value in mtd.state_dict().items()}
    gradcam(mtd, images, malaria.real_score)
    for name, value in mtd.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_images_take_no_gradient(mtd, images):
    """The caller's tensor is left as it was."""
    gradcam(mtd, images, malaria.real_score)
    assert (images.requires_grad, images.grad) == (False, None)


# Heat maps


@pytest.fixture
def heat():
    """HeatMaps 64x64 of two raw maps 4x4: one number in row 1, column 2, and nothing."""
    raw = torch.zeros(2, 4, 4)
    raw[0, 1, 2] = 3.0
    return malaria.heat_maps(raw, 64)


def test_heat_maps_have_the_size_of_the_image(heat):
    """(N, S, S)."""
    assert heat.maps.shape == (2, 64, 64)


def test_a_heat_map_reaches_from_0_to_1(heat):
    """Each for itself."""
    low, high = heat.maps[0].aminmax()
    assert (low, high) == (0, 1)


def test_a_heat_map_says_whether_there_is_evidence(heat):
    """The second has none."""
    assert heat.has_evidence.tolist() == [True, False]


def test_the_same_evidence_everywhere_is_evidence():
    """No place stands out of a map that is all 1."""
    heat = malaria.heat_maps(torch.full((1, 4, 4), 0.5), 8)
    assert heat.has_evidence.all()
    assert torch.equal(heat.maps, torch.ones(1, 8, 8))


def test_maps_are_made_inside_a_with_block_only(mtd, images):
    """Outside nothing has seen the layer; the line says so."""
    cam = malaria.GradCAM(mtd)
    with cam:
        cam(images, malaria.real_score)
    with pytest.raises(RuntimeError, match="with block"):
        cam(images, malaria.real_score)


def test_a_heat_map_without_evidence_stays_0(heat):
    """It is not stretched to red."""
    assert not heat.maps[1].any()


def test_a_heat_map_is_red_where_the_raw_map_is_large(heat):
    """Rows 16 to 31, columns 32 to 47 are the place of that one number."""
    row, column = divmod(heat.maps[0].argmax().item(), 64)
    assert (row // 16, column // 16) == (1, 2)


@pytest.fixture
def brightness_mtd():
    """An MTD whose every weight is alike, so that its logits answer to brightness, anywhere."""
    network = malaria.MultiTaskDiscriminator(num_classes=2, image_size=32, width=16)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    return network.eval()


@pytest.fixture(params=[(4, 4), (4, 24), (20, 12), (26, 26)], ids=str)
def spot(request):
    """Row and column of the middle of the one bright spot, 8 pixels wide, of a dark image."""
    return request.param


@pytest.fixture
def spot_image(spot):
    """The dark image (1, 3, 32, 32) with its bright spot."""
    row, column = spot
    image = torch.full((1, 3, 32, 32), -1.0)
    image[:, :, row - 4 : row + 4, column - 4 : column + 4] = 1
    return image


def distance_of_peak(heat, spot):
    """How far the peak of HeatMaps of one image is from a place, along rows or columns."""
    peak = torch.tensor(divmod(heat.maps[0].argmax().item(), heat.maps.shape[-1]))
    return (peak - torch.tensor(spot)).abs().max()


@pytest.fixture
def bright_spot(brightness_mtd, spot_image):
    """The HeatMaps of what Grad-CAM says of the bright spot."""
    raw = gradcam(brightness_mtd, spot_image, malaria.class_score(torch.tensor([0])))
    return malaria.heat_maps(raw, 32)


def test_planted_evidence_is_found(bright_spot):
    """There is some."""
    assert bright_spot.has_evidence.all()


def test_a_heat_map_peaks_at_planted_evidence(bright_spot, spot):
    """Within a place of the 4x4 map, 8 pixels wide."""
    assert distance_of_peak(bright_spot, spot) <= 6


# The finer map


def test_a_finer_map_is_the_product_of_a_coarse_one_and_a_fine_one(mtd, images):
    """Scaled to [0, 1]."""
    score = malaria.class_score(LABELS)
    product = torch.ones(len(images), 64, 64)
    for level in (0, 2):
        raw = gradcam(mtd, images, score, mtd.feature_layer(level), "layer", symmetry.EXACT_TURNS)
        product *= malaria.heat_maps(raw, 64).maps
    expected = malaria.heat_maps(product, 64).maps
    torch.testing.assert_close(malaria.finer_maps(mtd, images, score).maps, expected)


def test_a_finer_map_reaches_from_0_to_1(mtd, images):
    """Each for itself."""
    heat = malaria.finer_maps(mtd, images, malaria.real_score)
    lows, highs = heat.maps.aminmax(dim=2)
    assert (lows.amin(1), highs.amax(1)) == (pytest.approx(np.zeros(6)), pytest.approx(np.ones(6)))


def test_a_finer_map_peaks_at_planted_evidence(brightness_mtd, spot_image, spot):
    """On the spot, near its middle."""
    heat = malaria.finer_maps(brightness_mtd, spot_image, malaria.class_score(torch.tensor([0])))
    assert distance_of_peak(heat, spot) <= 2


def test_a_finer_map_lies_on_planted_evidence(brightness_mtd, spot_image):
    """Nearly all of its sum, though the spot is a sixteenth of the image."""
    heat = malaria.finer_maps(brightness_mtd, spot_image, malaria.class_score(torch.tensor([0])))
    on_spot = heat.maps[spot_image[:, 0] > 0].sum()
    assert on_spot / heat.maps.sum() > 0.8
