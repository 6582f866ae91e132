"""Networks, losses, gradients and Grad-CAM against hand-worked values and Captum."""
import ast
import math

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from conftest import ROOT

import rollNumber_05 as s

SIZES = [(size, channels) for size in s.SIDES for channels in (1, 3)]


def leaves_with_shapes(model, example):
    """[(layer, input side, output side)] of every convolution, in the order of the forward pass."""
    seen = []
    for layer in model.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            layer.register_forward_hook(lambda m, i, o: seen.append((m, i[0].shape[-1], o.shape[-1])))
    model.eval()(example)
    return seen


@pytest.mark.parametrize("size, channels", SIZES)
def test_every_layer_keeps_to_the_size_formula(size, channels):
    """o = (i - 1)*s - 2p + k for transposed convolutions, (i + 2p - k)/s + 1 for convolutions."""
    g = s.Generator(image_size=size, channels=channels)
    d = s.MultiTaskDiscriminator(num_classes=4, image_size=size, channels=channels)
    seen = leaves_with_shapes(g, torch.zeros(2, 100)) + leaves_with_shapes(d, torch.zeros(2, channels, size, size))
    for layer, i, o in seen:
        k, stride, p = layer.kernel_size[0], layer.stride[0], layer.padding[0]
        transposed = isinstance(layer, torch.nn.ConvTranspose2d)
        assert o == ((i - 1) * stride - 2 * p + k if transposed else (i + 2 * p - k) // stride + 1)
        assert s.size_formula(layer, i).endswith(f"= {o}")
    assert g(torch.zeros(2, 100)).shape == (2, channels, size, size)
    assert [o for _, _, o in seen if o in (1, 4)][-2:] == [4, 1]


def test_the_assigned_shapes_and_the_papers():
    """128x4x4 after the linear layer by default; 1024 channels at 4x4 on request, as in the paper's figure 1."""
    assert s.Generator().project(torch.zeros(2, 100)).shape == (2, 128, 4, 4)
    assert [m.out_channels for m in s.Generator(width=1024).blocks if hasattr(m, "out_channels")] == [512, 256, 128, 3]
    assert s.Discriminator().features(torch.zeros(1, 3, 64, 64)).shape == (1, 128, 4, 4)
    real, classes = s.MultiTaskDiscriminator(num_classes=4)(torch.zeros(2, 3, 64, 64))
    assert real.shape == (2,) and classes.shape == (2, 4)


@pytest.mark.parametrize("c_in, c_out", [(3, 8), (16, 3)])
def test_a_filtered_transposed_convolution_leaves_no_checkerboard(c_in, c_out):
    """Of one colour a stride of 2 makes a pattern of period 2; the filter leaves its mean. It is scipy's, edges repeated."""
    from scipy.ndimage import convolve
    torch.manual_seed(0)
    layer = s.SmoothConvTranspose2d(c_in, c_out, 4, 2, 1)
    plain = torch.nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)
    plain.load_state_dict(layer.state_dict())
    flat, maps = torch.ones(1, c_in, 6, 6), torch.randn(2, c_in, 5, 5)
    inside = (slice(None), slice(None), slice(3, -3), slice(3, -3))  # zero padding shows further out
    before, after = plain(flat)[inside], layer(flat)[inside]
    assert before.std((2, 3)).min() > 0.01 and after.std((2, 3)).max() < 1e-6
    assert torch.allclose(after.mean((2, 3)), before.mean((2, 3)), atol=1e-6)
    wanted = [[convolve(m, [[1 / 16, 1 / 8, 1 / 16], [1 / 8, 1 / 4, 1 / 8], [1 / 16, 1 / 8, 1 / 16]], mode="nearest")
               for m in image] for image in plain(maps).detach().numpy()]
    assert np.allclose(layer(maps).detach().numpy(), wanted, atol=1e-6)
    assert all((type(m) is s.SmoothConvTranspose2d) == smooth for smooth in (True, False)
               for m in s.Generator(smooth=smooth).blocks if isinstance(m, torch.nn.ConvTranspose2d))


def test_the_trunk_of_the_mtd_is_the_discriminators():
    """The same trunk: a discriminator's weights fit, and only the head is new."""
    d, mtd = s.Discriminator(), s.MultiTaskDiscriminator(num_classes=4)
    missing, unexpected = mtd.load_state_dict(d.state_dict(), strict=False)
    assert not unexpected and {m.split(".")[0] for m in missing} == {"embed", "classify"}
    assert sum(isinstance(m, torch.nn.Linear) for m in mtd.modules()) == 2


def test_initialisation_is_the_papers():
    """Weights N(0, 0.02), batch-norm scales N(1, 0.02), biases zero."""
    torch.manual_seed(0)
    g = s.Generator(width=512)
    assert abs(g.blocks[0].weight.std().item() - 0.02) < 0.001 and abs(g.blocks[0].weight.mean().item()) < 0.001
    assert abs(g.project[2].weight.mean().item() - 1) < 0.01 and g.project[0].bias.abs().max() == 0


def test_losses_by_hand():
    """BCE at zero logits: 2 ln 2 and ln 2. LSGAN at D(x)=1, D(G(z))=0: 0 and 1. Others worked out on paper."""
    zero, one = torch.zeros(8), torch.ones(8)
    assert s.discriminator_loss(zero, zero, "bce").item() == pytest.approx(2 * math.log(2))
    assert s.generator_loss(zero, "bce").item() == pytest.approx(math.log(2))
    assert s.discriminator_loss(one, zero, "lsgan").item() == 0 and s.generator_loss(zero, "lsgan").item() == 1
    assert s.discriminator_loss(torch.tensor([3.0]), torch.tensor([-1.0]), "lsgan").item() == 5
    x = math.log(3)  # sigmoid(x) = 3/4
    assert s.discriminator_loss(torch.tensor([x]), torch.tensor([x]), "bce").item() == pytest.approx(-math.log(3 / 16))
    logits, label = torch.tensor([[math.log(2), 0.0, 0.0]]), torch.tensor([0])
    assert s.classification_loss(logits, label).item() == pytest.approx(math.log(2))
    smooth = 0.7 * math.log(2) + 0.3 * (math.log(2) + 2 * math.log(4)) / 3
    assert s.classification_loss(logits, label, 0.3).item() == pytest.approx(smooth)
    multi = s.classification_loss(torch.tensor([[x, -x]]), torch.tensor([[1.0, 1.0]]))
    assert multi.item() == pytest.approx((-math.log(3 / 4) - math.log(1 / 4)) / 2)


def test_probabilities_of_real():
    """A bce logit goes through the sigmoid, a least-squares score is clamped."""
    assert s.real_probability(torch.tensor([0.0, math.log(3)]), "bce").tolist() == pytest.approx([0.5, 0.75])
    assert s.real_probability(torch.tensor([-2.0, 0.25, 3.0]), "lsgan").tolist() == [0.0, 0.25, 1.0]


def trunk_gradient(loss_of):
    """Gradient of a loss on the first convolution of a small MTD."""
    torch.manual_seed(0)
    mtd = s.MultiTaskDiscriminator(num_classes=3, image_size=32, width=32)
    loss_of(*mtd(torch.randn(6, 3, 32, 32))).backward()
    return mtd.features[0].weight.grad


def test_both_heads_reach_the_trunk():
    """J(D) alone, J(C) alone and their sum move the trunk; the sum's gradient is the sum of the gradients."""
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    j_d = trunk_gradient(lambda real, _: s.generator_loss(real, "bce"))
    j_c = trunk_gradient(lambda _, classes: s.classification_loss(classes, labels))
    both = trunk_gradient(lambda real, classes: s.generator_loss(real, "bce") + s.classification_loss(classes, labels))
    assert j_d.abs().max() > 0 and j_c.abs().max() > 0
    torch.testing.assert_close(both, j_d + j_c, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", ["bce", "lsgan"])
@pytest.mark.parametrize("kind", s.OPTIMIZERS)
def test_each_step_moves_its_own_network_only(loss, kind):
    """D's step leaves G's weights alone and G's step leaves D's; D's flags and running averages survive G's step."""
    torch.manual_seed(0)
    config = s.Config(optimizer=kind, image_size=32, lr_g=1e-2, lr_d=1e-2)
    g, d = s.build_models("mtd", vars(config), 3)
    opt = {n: s.make_optimizer(config, n, m.parameters()) for n, m in (("g", g), ("d", d))}

    def snapshot(model):
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def averages(model):
        return torch.cat([b.detach().float().flatten() for n, b in model.named_buffers() if "running" in n])

    before_g, before_d = snapshot(g), snapshot(d)
    fake = s.augment(g(torch.randn(4, 100)), torch.ones(()))
    s.discriminator_step(d, opt["d"], torch.randn(4, 3, 32, 32), fake, loss=loss, labels=torch.tensor([0, 1, 2, 0]))
    assert torch.equal(before_g, snapshot(g)) and not torch.equal(before_d, snapshot(d))
    before_d, statistics = snapshot(d), averages(d)
    s.generator_step(d, opt["g"], fake, loss=loss)
    assert not torch.equal(before_g, snapshot(g)) and torch.equal(before_d, snapshot(d))
    assert torch.equal(statistics, averages(d)) and all(p.requires_grad for p in d.parameters())


def test_augmentation_is_differentiable_and_keeps_the_shape():
    """Gradients flow to every image, and two draws differ."""
    images = torch.rand(5, 3, 64, 64, requires_grad=True)
    once, again = s.augment(images, torch.ones(())), s.augment(images, torch.ones(()))
    once.sum().backward()
    assert once.shape == images.shape and not torch.equal(once, again)
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()


def test_weak_augmentation_only_turns_and_flips():
    """At strength 0 every result is one of the eight flips and turns of its image."""
    images = torch.rand(16, 3, 8, 8)
    for image, result in zip(images, s.augment(images, torch.zeros(()))):
        eight = [torch.rot90(i, k, (1, 2)) for i in (image, image.flip(2)) for k in range(4)]
        assert min((e - result).abs().max() for e in eight) < 1e-5


def test_views_are_turns_of_a_cell_and_its_mirror_image():
    """24 different ones: the first eight exact; a disc stays one, and the ninth is turned by 30 degrees."""
    image = torch.rand(1, 3, 32, 32)
    seen = list(s.views(image))
    assert len(seen) == 24 and all(v.shape == image.shape for v in seen)
    assert min((a - b).abs().max() for i, a in enumerate(seen) for b in seen[:i]) > 0.1
    eight = [torch.rot90(i, k, (2, 3)) for i in (image, image.flip(3)) for k in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(seen, eight))
    side = torch.linspace(-1, 1, 32)
    radius = (side[:, None] ** 2 + side ** 2).sqrt()
    disc = torch.sigmoid(8 * (0.6 - radius))[None, None] * (radius < 0.95)
    assert max(((v - disc) * (radius < 0.95)).abs().max() for v in s.views(disc)) < 0.05
    wedge = list(s.views((side[:, None] > 0.5 * side.abs()) * disc))[8] * (radius < 0.95)  # its centre of mass was below
    assert abs(abs(math.degrees(math.atan2((wedge * side).sum(), (wedge * side[:, None]).sum()))) - 30) < 2


@pytest.mark.parametrize("turned", [False, True])
def test_predict_takes_the_mean_over_all_views_or_the_image_itself(turned):
    """Of the stage over 24 views, of real against fake over the eight that are exact."""
    model = s.MultiTaskDiscriminator(num_classes=4, image_size=32, width=16).eval()
    model.classify.weight.data *= 100
    index = {"rows": range(5), "labels": [0, 1, 2, 3, 0], "classes": list(s.STAGES)}
    data = s.MalariaDataset(torch.randint(0, 255, (5, 32, 32, 3), dtype=torch.uint8), index, range(5))
    with torch.no_grad():
        reals, stages = zip(*[model(v) for v in s.views(data.batch(torch.arange(5)))])
    found, count = s.predict(model, data, "bce", turned, batch_size=2), 24 if turned else 1
    assert abs(found["probabilities"] - torch.stack(stages[:count]).softmax(2).mean(0).numpy()).max() < 1e-5
    assert abs(found["real"] - torch.stack(reals[:min(8, count)]).sigmoid().mean(0).numpy()).max() < 1e-5
    assert abs(found["probabilities"] - stages[3].softmax(1).numpy()).max() > 1e-3


def test_augmentation_grows_as_d_overfits_only():
    """All real images held for real: stronger; 80 % or fewer: weaker; it stays in [0, 1]."""
    strength = torch.zeros(())
    s.adapt(strength, torch.full((10,), 0.9), 0.1)
    assert strength.item() == pytest.approx(0.1)
    s.adapt(strength, torch.tensor([0.9] * 7 + [0.1] * 3), 0.3)
    assert strength.item() == 0
    s.adapt(strength, torch.ones(10), 5.0)
    assert strength.item() == 1


def cam_model():
    torch.manual_seed(0)
    return s.MultiTaskDiscriminator(num_classes=4, image_size=64, width=64), torch.randn(6, 3, 64, 64)


def test_grad_cam_equals_captum():
    """Raw maps of class logits and of the real/fake logit equal Captum's LayerGradCam with relu_attributions."""
    model, images = cam_model()
    model.eval()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    ours = s.grad_cam(model, images, lambda out: out[1].gather(1, labels[:, None])[:, 0])
    theirs = LayerGradCam(lambda x: model(x)[1], model.features).attribute(images, labels, relu_attributions=True)
    torch.testing.assert_close(ours, theirs[:, 0].detach(), rtol=0, atol=1e-7)
    ours = s.grad_cam(model, images, lambda out: out[0])
    theirs = LayerGradCam(lambda x: model(x)[0], model.features).attribute(images, relu_attributions=True)
    torch.testing.assert_close(ours, theirs[:, 0].detach(), rtol=0, atol=1e-7)
    assert ours.max() > 0


def test_grad_cam_leaves_the_model_as_it_was():
    """Train mode, frozen flags, running averages, gradients and hooks are untouched."""
    model, images = cam_model()
    model.train().requires_grad_(False)
    model.real_fake.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    s.grad_cam(model, images, lambda out: out[0])
    assert model.training and not model.real_fake.training and not any(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters()) and not model.features._forward_hooks
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_heat_maps_scale_and_say_when_there_is_nothing():
    """Scaled to [0, 1] after bilinear resizing; a map without positive evidence stays zero and is flagged."""
    raw = torch.zeros(2, 4, 4)
    raw[0, 1, 2] = 3.0
    maps, evidence = s.heat_maps(raw, 64)
    assert maps.shape == (2, 64, 64) and evidence.tolist() == [True, False]
    assert maps[0].max() == 1 and maps[0].min() == 0 and maps[1].abs().max() == 0
    row, column = divmod(maps[0].argmax().item(), 64)
    assert 16 <= row < 32 and 32 <= column < 48


def test_scores_by_hand():
    """Accuracy, balanced accuracy over the classes present, and the confusion matrix of six answers."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    found = s.classification_scores(labels, np.eye(3)[[0, 0, 0, 1, 1, 2]], ["a", "b", "c"])
    assert found["accuracy"] == pytest.approx(4 / 6) and found["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["confusion_matrix"] == [[3, 1, 0], [0, 1, 1], [0, 0, 0]] and found["per_class"]["a"]["precision"] == 1
    assert found["standard_error"] == pytest.approx(((3 / 4 * 1 / 4 / 4 + 1 / 2 * 1 / 2 / 2) ** 0.5) / 2)
    multi = s.classification_scores(np.array([[1, 0], [1, 1]]), np.array([[0.9, 0.8], [0.2, 0.7]]), ["a", "b"])
    assert multi["accuracy"] == 0.5 and multi["balanced_accuracy"] == 0.5


@pytest.mark.parametrize("row, column", [(4, 4), (4, 24), (20, 12), (26, 26)])
def test_heat_maps_peak_at_planted_evidence(row, column):
    """A head that answers to brightness, wherever it is: the map's peak lies on the one bright spot of a dark image."""
    model = s.MultiTaskDiscriminator(num_classes=2, image_size=32, width=16).eval()
    for layer in model.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    image = torch.full((1, 3, 32, 32), -1.0)
    image[:, :, row - 4:row + 4, column - 4:column + 4] = 1
    raw = s.grad_cam(model, image, lambda out: out[1][:, 0])
    maps, evidence = s.heat_maps(raw, 32)
    y, x = divmod(maps[0].argmax().item(), 32)
    assert evidence.all() and abs(y - row) <= 6 and abs(x - column) <= 6


def test_quality_tells_alike_from_apart():
    """KID is about 0 for two halves of one cloud and large for another cloud; all of a cloud is within itself, none far off."""
    torch.manual_seed(0)
    quality, cloud = s.Quality.__new__(s.Quality), torch.randn(200, 16)
    assert abs(quality.kid(cloud[:100], cloud[100:])) < 0.2 < 1 < quality.kid(cloud, cloud + 3)
    assert quality.frechet(cloud, cloud) == 0 and quality.frechet(cloud, cloud + 3) == pytest.approx(16 * 3 ** 2)
    assert s.share_within(cloud, cloud) == 1 and s.share_within(cloud, cloud + 50) == 0
    assert s.share_within(cloud, cloud[:100].repeat(2, 1)) == 1 > s.share_within(cloud[:1].repeat(200, 1), cloud)


@pytest.mark.parametrize("cells", ((200, 150), (10, 40)))
def test_frechet_distance_is_torchmetrics(cells):
    """Fewer and more cells than features: the nuclear norm gives what torchmetrics gets from the covariances' eigenvalues."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    torch.manual_seed(0)
    mix = torch.randn(20, 20)
    a, b = torch.randn(cells[0], 20) @ mix, torch.randn(cells[1], 20) * 1.5 + 0.3
    features = torch.nn.Identity()
    features.num_features = 20
    metric = FrechetInceptionDistance(features)
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert s.Quality.frechet(None, a, b) == pytest.approx(metric.compute().item(), rel=1e-4, abs=0.01)


def test_a_conditional_generator_is_told_its_class():
    """The class follows the noise, one-hot, in turn; another class gives another image; only an MTD's G can be told."""
    settings = vars(s.Config(conditional=True, image_size=28))
    plain, told = (s.build_models(task, settings, 3)[0].eval() for task in ("gan", "mtd"))
    noise = s.latents(5, told, 0)
    assert noise.shape == (5, 103) and noise[:, 100:].argmax(1).tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(noise[:, :100], s.latents(5, plain, 0))
    other = torch.cat([noise[:, :100], noise[:, 100:].roll(1, 1)], 1)
    assert not torch.allclose(told(noise), told(other))


def test_the_game_of_an_mtd_has_the_datas_own_classes_and_the_head_balanced_ones():
    """Nine cells in ten are of class 0: so are the game's, half a batch, and half of the head's, a whole batch after it."""
    index = {"classes": ["a", "b"], "rows": range(100), "labels": [0] * 90 + [1] * 10}
    data = s.MalariaDataset(torch.zeros(100, 32, 32, 3, dtype=torch.uint8), index, range(100))

    def classes(task="mtd", **flags):
        trainer = s.Trainer(task, s.Config(batch_size=8, image_size=32, **flags), index["classes"], torch.device("cpu"))
        return data.labels[trainer.batches(data, 500)]

    assert classes("gan").shape == (500, 8) and classes("gan").float().mean() == pytest.approx(0.1, abs=0.02)
    assert classes()[:, :4].float().mean() == pytest.approx(0.1, abs=0.02)
    assert classes()[:, 4:].shape == (500, 8) and classes()[:, 4:].float().mean() == pytest.approx(0.5, abs=0.03)
    told, shared = classes(conditional=True), classes(augment=False)
    assert torch.equal(told[:, :4], told[:, 4:8]) and torch.equal(told[:, 4:], shared)


def test_the_script_stays_short():
    """At most 1,500 lines, no function of more than 40."""
    text = (ROOT / "rollNumber_05.py").read_text(encoding="utf-8")
    lengths = {n.name: n.end_lineno - n.lineno + 1 for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)}
    assert text.count("\n") <= 1500 and max(lengths.values()) <= 40, max(lengths, key=lengths.get)
