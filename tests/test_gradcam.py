"""Grad-CAM against Captum, what it leaves behind, and its maps as pictures."""

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

import rollNumber_05 as malaria

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


def gradcam(mtd, images, score, layer=None):
    """Raw maps (N, h, w)."""
    with malaria.GradCAM(mtd, layer) as cam:
        return cam(images, score)


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
def bright_spot(request, brightness_mtd):
    """(row, column, HeatMaps) of the one bright spot of a dark image, and what Grad-CAM says."""
    row, column = request.param
    image = torch.full((1, 3, 32, 32), -1.0)
    image[:, :, row - 4 : row + 4, column - 4 : column + 4] = 1
    raw = gradcam(brightness_mtd, image, malaria.class_score(torch.tensor([0])))
    return row, column, malaria.heat_maps(raw, 32)


def test_planted_evidence_is_found(bright_spot):
    """There is some."""
    _, _, heat = bright_spot
    assert heat.has_evidence.all()


def test_a_heat_map_peaks_at_planted_evidence(bright_spot):
    """Within a place of the 4x4 map, 8 pixels wide."""
    row, column, heat = bright_spot
    peak = torch.tensor(divmod(heat.maps[0].argmax().item(), 32))
    assert (peak - torch.tensor([row, column])).abs().max() <= 6
