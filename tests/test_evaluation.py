"""Data sets as torch takes them, answers, scores and generated images."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.utils.data import DataLoader, SequentialSampler

import rollNumber_05 as malaria
from extras import processes, symmetry
from extras import scores as scoring
from extras.quality import Quality, kernel_distance, share_within

# MalariaDataset


@pytest.fixture
def data(random_data):
    """Ten cells of four classes."""
    return random_data([0, 1, 2, 3, 0, 1, 2, 3, 0, 1])


def test_len_counts_the_images(data):
    """What a sampler asks for."""
    assert len(data) == 10


def test_an_item_is_an_image_with_its_label(data):
    """The label is a class number."""
    _, label = data[3]
    assert label == 3


def test_an_image_is_of_floats_with_channels_first(data):
    """float32 (C, S, S)."""
    image, _ = data[3]
    assert (image.dtype, tuple(image.shape)) == (torch.float32, (3, 32, 32))


@pytest.mark.parametrize(("pixel", "value"), [(0, -1.0), (255, 1.0)])
def test_pixels_are_scaled_to_plus_and_minus_1(data, pixel, value):
    """Black is -1 and white is 1."""
    data.images[3] = pixel
    image, _ = data[3]
    assert (image == value).all()


def test_an_image_is_that_of_its_row(data):
    """Colours and places are kept."""
    image, _ = data[3]
    (pixels,) = malaria.to_pixels(image[None])
    assert np.array_equal(pixels, data.images[3].numpy())


def test_every_pixel_value_survives_the_way_there_and_back():
    """uint8 to [-1, 1] to uint8."""
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    assert np.array_equal(malaria.to_pixels(malaria.to_images(pixels)), pixels.numpy())


def test_a_batch_has_the_images_of_its_items(data):
    """__getitems__ is __getitem__ for several indices at once."""
    batch = data.__getitems__([7, 0, 7])
    images = torch.stack([data[i][0] for i in (7, 0, 7)])
    assert torch.equal(batch.images, images)


def test_a_batch_has_the_labels_of_its_items(data):
    """In the order asked for."""
    assert data.__getitems__([7, 0, 7]).labels.tolist() == [3, 0, 3]


def test_a_part_of_the_data_has_the_images_of_its_rows(data):
    """rows: numbers of images of the index."""
    part = malaria.MalariaDataset(data.images, data.index, rows=[6, 2])
    expected = data.__getitems__([6, 2]).images
    assert torch.equal(part.__getitems__([0, 1]).images, expected)


def test_a_part_of_the_data_has_the_labels_of_its_rows(data):
    """Both rows are of class 2."""
    part = malaria.MalariaDataset(data.images, data.index, rows=[6, 2])
    assert part.labels.tolist() == [2, 2]


def test_pixels_are_the_images_as_they_are_kept(data):
    """uint8 (B, S, S, C)."""
    rows = [6, 2]
    assert np.array_equal(data.uint8(rows), data.images[rows].numpy())


def test_a_plain_data_loader_gives_every_image_in_order(data):
    """With default collate, as in any tutorial; the last batch is smaller."""
    batches = list(DataLoader(data, batch_size=4))
    images = torch.cat([images for images, _ in batches])
    assert torch.equal(images, data.__getitems__(range(10)).images)


def test_a_plain_data_loader_gives_every_label_in_order(data):
    """As a tensor a batch."""
    labels = torch.cat([labels for _, labels in DataLoader(data, batch_size=4)])
    assert torch.equal(labels, data.labels)


def test_a_plain_data_loader_keeps_to_its_batch_size(data):
    """Ten images by four."""
    sizes = [len(labels) for _, labels in DataLoader(data, batch_size=4)]
    assert sizes == [4, 4, 2]


@pytest.fixture
def shuffled_rows(data):
    """The rows of `data` in the order in which a plain shuffling DataLoader gives its images."""
    batches = list(DataLoader(data, batch_size=4, shuffle=True))
    images = torch.cat([images for images, _ in batches])
    pixels = torch.from_numpy(malaria.to_pixels(images))
    is_row = (pixels[:, None] == data.images[None]).flatten(2).all(2)
    return is_row.int().argmax(1).tolist()


def test_a_plain_data_loader_shuffles(shuffled_rows):
    """Another order."""
    assert shuffled_rows != list(range(10))


def test_a_plain_data_loader_shuffles_every_image_once(shuffled_rows):
    """None is lost, none comes twice."""
    assert sorted(shuffled_rows) == list(range(10))


def test_a_shuffled_image_keeps_its_label(data):
    """Each image is found again under its label."""
    for images, labels in DataLoader(data, batch_size=4, shuffle=True):
        for image, label in zip(images, labels, strict=True):
            of_label = data.__getitems__(torch.nonzero(data.labels == label)[:, 0]).images
            assert (of_label == image).flatten(1).all(1).any()


def test_a_plain_data_loader_gives_labels_of_several_classes(random_data):
    """(B, n)."""
    expected = [[1, 0], [1, 1], [0, 0]]
    data = random_data(expected, classes=["a", "b"], view="field")
    ((_, labels),) = DataLoader(data, batch_size=3)
    assert labels.tolist() == expected


def test_in_order_gives_every_image_from_first_to_last(data):
    """In Batches."""
    images = torch.cat([batch.images for batch in malaria.in_order(data, batch_size=4)])
    assert torch.equal(images, data.__getitems__(range(10)).images)


def test_in_order_leaves_torchs_global_generator_alone(data):
    """A look at the data does not change what a training run draws next."""
    before = torch.get_rng_state()
    list(malaria.in_order(data))
    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_weights_make_classes_equally_likely(random_data):
    """Three cells of class 0 have together the weight of one of class 1."""
    weights = random_data([0, 0, 0, 1], classes=["a", "b"]).sampling_weights()
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])


def test_an_image_of_several_classes_counts_for_its_rarest(random_data):
    """Class "a" is in three images, "b" in one of these."""
    labels = [[1, 0], [1, 1], [1, 0]]
    weights = random_data(labels, classes=["a", "b"], view="field").sampling_weights()
    assert weights.tolist() == pytest.approx([1 / 3, 1, 1 / 3])


def test_images_without_a_class_are_drawn_too(random_data):
    """One image in four has a fourth of all weight."""
    labels = [[1, 0], [0, 1], [1, 1], [0, 0]]
    weights = random_data(labels, classes=["a", "b"], view="field").sampling_weights()
    assert weights[3].item() == pytest.approx(weights.sum().item() / 4)


@pytest.fixture
def batches_of_two_processes():
    """The index tensors that each of two processes takes of 24 draws, in batches of 3."""
    draws = SequentialSampler(range(24))
    first = processes.ProcessBatches(draws, 3, "cpu", rank=0, world=2)
    second = processes.ProcessBatches(draws, 3, "cpu", rank=1, world=2)
    return first, second


def test_processes_have_equally_many_batches(batches_of_two_processes):
    """24 draws are four batches of 3 for each of two."""
    assert [len(list(batches)) for batches in batches_of_two_processes] == [4, 4]


def test_the_length_of_process_batches_is_their_number(batches_of_two_processes):
    """What a DataLoader asks for."""
    assert [len(batches) for batches in batches_of_two_processes] == [4, 4]


def test_processes_share_all_draws_without_overlap(batches_of_two_processes):
    """Each draw goes to one of them."""
    first, second = batches_of_two_processes
    draws = torch.cat([*first, *second]).tolist()
    assert sorted(draws) == list(range(24))


def test_one_process_takes_the_draws_as_they_come():
    """Without torchrun."""
    batches = processes.ProcessBatches(SequentialSampler(range(6)), 3, "cpu")
    assert torch.cat(list(batches)).tolist() == list(range(6))


# Predictions


@pytest.fixture
def decided_mtd(mtd):
    """An MTD whose class probabilities differ from view to view."""
    mtd.classify.weight.data *= 1000
    return mtd.eval()


@torch.no_grad()
def outputs_of_views(mtd, data):
    """An MTD's output for each of the 24 views of all images."""
    images = data.__getitems__(range(len(data))).images
    return [mtd(view) for view in symmetry.turns(images)]


def class_probabilities(outputs):
    """(views, N, n)."""
    return torch.stack([output.class_logits for output in outputs]).softmax(2).numpy()


def real_probabilities(outputs):
    """(views, N)."""
    return torch.stack([output.real_logits for output in outputs]).sigmoid().numpy()


def test_class_probabilities_are_those_of_the_image_itself(decided_mtd, data):
    """Where views are not asked for."""
    found = malaria.predict(decided_mtd, data, "bce")
    expected = class_probabilities(outputs_of_views(decided_mtd, data))[0]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_the_real_probability_is_that_of_the_image_itself(decided_mtd, data):
    """Where views are not asked for."""
    found = malaria.predict(decided_mtd, data, "bce")
    expected = real_probabilities(outputs_of_views(decided_mtd, data))[0]
    np.testing.assert_allclose(found.real, expected, atol=1e-5)


def test_class_probabilities_are_means_over_all_views(decided_mtd, data):
    """24 of them, turned by 30 degrees each."""
    found = malaria.predict(decided_mtd, data, "bce", symmetry="all")
    expected = class_probabilities(outputs_of_views(decided_mtd, data)).mean(0)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_the_real_probability_is_a_mean_over_the_exact_views(decided_mtd, data):
    """Eight: those that need no resampling."""
    found = malaria.predict(decided_mtd, data, "bce", symmetry="all")
    expected = real_probabilities(outputs_of_views(decided_mtd, data))[:8].mean(0)
    np.testing.assert_allclose(found.real, expected, atol=1e-5)


def test_views_differ_enough_to_be_told_apart_here(decided_mtd, data):
    """Else the tests above would hold for any of them."""
    answers = class_probabilities(outputs_of_views(decided_mtd, data))
    assert abs(answers.mean(0) - answers[3]).max() > 1e-3


def test_the_real_probability_of_least_squares_is_the_score_cut_off(decided_mtd, data):
    """Not its sigmoid."""
    found = malaria.predict(decided_mtd, data, "lsgan")
    scores = outputs_of_views(decided_mtd, data)[0].real_logits.clamp(0, 1)
    np.testing.assert_allclose(found.real, scores, atol=1e-5)


def test_predict_goes_through_the_data_in_batches(mtd, random_data):
    """More images than one batch holds."""
    data = random_data([0] * 300)
    assert malaria.predict(mtd, data, "bce").probabilities.shape == (300, 4)


def test_predict_leaves_the_mtd_in_train_mode(mtd, data):
    """If it was."""
    mtd.train()
    malaria.predict(mtd, data, "bce")
    assert mtd.training


# Scores of one class an image: six answers about three classes, of which "c" is not there


LABELS = np.array([0, 0, 0, 0, 1, 1])
ANSWERS = np.array([0, 0, 0, 1, 1, 2])


@pytest.fixture
def scores():
    """The scores of ANSWERS."""
    probabilities = np.eye(3)[ANSWERS]
    kind = malaria.SingleLabel
    return scoring.classification_scores(kind, LABELS, probabilities, ["a", "b", "c"])


def test_n_counts_the_images(scores):
    """All of them."""
    assert scores["n"] == 6


def test_accuracy_is_the_share_of_right_answers(scores):
    """Four of six."""
    assert scores["accuracy"] == pytest.approx(4 / 6)


def test_balanced_accuracy_is_the_mean_recall_of_classes_that_are_there(scores):
    """3/4 of "a" and 1/2 of "b"."""
    assert scores["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_balanced_accuracy_of_one_class_an_image_is_sklearns(scores):
    """Which warns of a class that is answered but not there."""
    with pytest.warns(UserWarning, match="classes not in y_true"):
        expected = balanced_accuracy_score(LABELS, ANSWERS)
    assert scores["balanced_accuracy"] == pytest.approx(expected)


def test_the_standard_error_is_the_binomial_one_of_the_mean_recall(scores):
    """The variance of a recall r of n cells is r (1 - r) / n."""
    variance_of_a = 3 / 4 * 1 / 4 / 4
    variance_of_b = 1 / 2 * 1 / 2 / 2
    expected = (variance_of_a + variance_of_b) ** 0.5 / 2
    assert scores["standard_error"] == pytest.approx(expected)


def test_rows_of_the_confusion_matrix_are_true_classes(scores):
    """Columns are answers."""
    assert scores["confusion_matrix"] == [[3, 1, 0], [0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("precision", 0.5), ("recall", 0.5), ("f1", 0.5), ("support", 2)],
)
def test_scores_of_a_class(scores, name, expected):
    """Of "b": two answers, one of them right, and two cells, one of them found."""
    assert scores["per_class"]["b"][name] == pytest.approx(expected)


def test_the_precision_of_a_class_without_wrong_answers_is_1(scores):
    """Of "a"."""
    assert scores["per_class"]["a"]["precision"] == 1


def test_the_recall_of_a_class_that_is_not_there_is_0(scores):
    """Of "c", without a warning."""
    assert scores["per_class"]["c"]["recall"] == 0


# Scores of several classes an image: three images, "a" in all of them and "b" in two; both are
# answered wrongly once.


SEVERAL_LABELS = np.array([[1, 0], [1, 1], [1, 1]])
SEVERAL_PROBABILITIES = np.array([[0.9, 0.8], [0.7, 0.6], [0.2, 0.7]])


def scores_of_several(labels, probabilities):
    """The scores of answers about "a" and "b"."""
    kind = malaria.MultiLabel
    return scoring.classification_scores(kind, labels, probabilities, ["a", "b"])


@pytest.fixture
def several_scores():
    """The scores of SEVERAL_PROBABILITIES."""
    return scores_of_several(SEVERAL_LABELS, SEVERAL_PROBABILITIES)


def test_accuracy_of_several_classes_is_the_share_of_right_answers(several_scores):
    """Yes or no for each class of each image: four of six."""
    assert several_scores["accuracy"] == pytest.approx(4 / 6)


def test_balanced_accuracy_of_several_classes_is_the_mean_over_classes(several_scores):
    """Of "a", which is never absent, 2/3 are found; of "b" all are, and its absence is not."""
    recall_of_a = 2 / 3
    mean_recall_of_b = (1 + 0) / 2
    expected = (recall_of_a + mean_recall_of_b) / 2
    assert several_scores["balanced_accuracy"] == pytest.approx(expected)


def test_several_classes_have_a_confusion_matrix_each(several_scores):
    """[[true negative, false positive], [false negative, true positive]]."""
    assert several_scores["confusion_matrix"] == [[[0, 0], [1, 2]], [[0, 1], [0, 2]]]


def test_balanced_accuracy_of_several_classes_is_sklearns_mean_over_classes():
    """Of each class's yes and no, here both present."""
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, (40, 2))
    probabilities = draws.random((40, 2))
    answers = probabilities > 0.5
    expected = [balanced_accuracy_score(labels[:, i], answers[:, i]) for i in range(2)]
    found = scores_of_several(labels, probabilities)["balanced_accuracy"]
    assert found == pytest.approx(np.mean(expected))


def test_evaluate_adds_the_mean_loss_of_one_class(random_data):
    """-log of the true classes' probabilities, 1/2 and 1/4."""
    data = random_data([0, 1], classes=["a", "b"])
    scores = malaria.evaluate(data, np.array([[0.5, 0.5], [0.75, 0.25]]))
    assert scores["loss"] == pytest.approx((np.log(2) + np.log(4)) / 2)


def test_evaluate_adds_the_mean_loss_of_several_classes(random_data):
    """-log of the true answers' probabilities, 1/2 and 1/4."""
    data = random_data([[1, 0]], classes=["a", "b"], view="field")
    scores = malaria.evaluate(data, np.array([[0.5, 0.75]]))
    assert scores["loss"] == pytest.approx((np.log(2) + np.log(4)) / 2)


def test_the_loss_of_a_sure_and_wrong_answer_is_finite(random_data):
    """Probabilities of 0 are cut off."""
    data = random_data([0], classes=["a", "b"])
    assert np.isfinite(malaria.evaluate(data, np.array([[0.0, 1.0]]))["loss"])


# Generated images


@pytest.fixture
def conditional_generator():
    """A small generator of three classes in train mode."""
    return malaria.Generator(image_size=32, width=16, num_classes=3)


def test_latents_are_as_long_as_the_generator_wants(conditional_generator):
    """The class is not among them."""
    assert malaria.latents(5, conditional_generator, 0).shape == (5, 100)


def test_latents_of_a_seed_are_always_the_same(conditional_generator):
    """Whatever torch's global generator is at."""
    once = malaria.latents(5, conditional_generator, 0)
    torch.rand(1)
    assert torch.equal(once, malaria.latents(5, conditional_generator, 0))


def test_latents_of_another_seed_differ(conditional_generator):
    """All of them."""
    once = malaria.latents(5, conditional_generator, 0)
    assert not torch.isin(once, malaria.latents(5, conditional_generator, 1)).any()


def test_latents_do_not_depend_on_whether_the_generator_is_conditional(conditional_generator):
    """The same noise for the generator before and after a head was added."""
    plain = malaria.Generator(image_size=32, width=16)
    expected = malaria.latents(5, plain, 0)
    assert torch.equal(malaria.latents(5, conditional_generator, 0), expected)


def test_samples_are_images_as_they_are_kept(conditional_generator):
    """uint8 (N, S, S, C)."""
    images = malaria.sample(conditional_generator, torch.randn(5, 100))
    assert (images.dtype, images.shape) == (np.uint8, (5, 32, 32, 3))


def test_samples_do_not_depend_on_the_batch_size(conditional_generator):
    """They are drawn in eval mode."""
    noise = torch.randn(5, 100)
    images = malaria.sample(conditional_generator, noise)
    assert np.array_equal(malaria.sample(conditional_generator, noise, batch_size=2), images)


def test_samples_leave_the_generator_in_train_mode(conditional_generator):
    """If it was."""
    malaria.sample(conditional_generator, torch.randn(5, 100))
    assert conditional_generator.training


def test_a_conditional_generator_draws_its_classes_in_turn(conditional_generator):
    """Where none are given."""
    noise = torch.randn(5, 100)
    expected = malaria.sample(conditional_generator, noise, torch.tensor([0, 1, 2, 0, 1]))
    assert np.array_equal(malaria.sample(conditional_generator, noise), expected)


def test_a_conditional_generator_draws_the_classes_given(conditional_generator):
    """Others give other images."""
    noise = torch.randn(5, 100)
    images = malaria.sample(conditional_generator, noise, torch.tensor([0, 1, 2, 0, 1]))
    others = malaria.sample(conditional_generator, noise, torch.tensor([1, 2, 0, 1, 2]))
    assert not np.array_equal(images, others)


@pytest.fixture
def noise_of_all_turns():
    """Noise (8, 100) that chooses each of the eight turns once."""
    noise = torch.ones(8, 100)
    noise[:, :3] = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3))).flip(1)
    return noise


def test_noise_chooses_each_exact_turn(noise_of_all_turns):
    """In their order, by the signs of its first three numbers."""
    image = torch.rand(1, 3, 4, 4)
    turned = symmetry.turned_by_noise(image.repeat(8, 1, 1, 1), noise_of_all_turns, "all")
    assert torch.equal(turned, torch.cat(list(symmetry.exact_turns(image))))


def test_noise_flips_every_second_image_of_what_has_a_top(noise_of_all_turns):
    """By the sign of its first number."""
    images = torch.rand(8, 3, 4, 4)
    turned = symmetry.turned_by_noise(images, noise_of_all_turns, "mirror")
    assert torch.equal(turned[::2], images[::2])
    assert torch.equal(turned[1::2], images[1::2].flip(3))


def test_images_without_symmetry_are_not_turned(noise_of_all_turns):
    """Digits."""
    images = torch.rand(8, 1, 4, 4)
    assert torch.equal(symmetry.turned_by_noise(images, noise_of_all_turns, "none"), images)


def test_noise_of_a_single_number_chooses_a_turn():
    """--latent_dim 1."""
    images = torch.rand(2, 3, 4, 4)
    turned = symmetry.turned_by_noise(images, torch.tensor([[-1.0], [1.0]]), "all")
    assert torch.equal(turned[0], images[0])
    assert torch.equal(turned[1], torch.rot90(images[1], 1, (1, 2)))


@pytest.mark.parametrize(("flags", "expected"), [({}, "all"), ({"augment": False}, "none")])
def test_a_generator_is_turned_as_its_augmentation_was(small_config, flags, expected):
    """What D saw turned."""
    generator, _ = malaria.build_networks("gan", vars(small_config(**flags)), 4)
    assert generator.symmetry == expected


def test_samples_are_turned_unless_they_are_to_lie_alike(noise_of_all_turns):
    """Equal turns are for noise that moves."""
    generator = malaria.Generator(image_size=32, width=16, symmetry="all")
    noise = noise_of_all_turns * torch.rand(100)
    images = malaria.sample(generator, noise, turned=False)
    expected = symmetry.turned_by_noise(torch.from_numpy(images).movedim(3, 1), noise, "all")
    assert np.array_equal(malaria.sample(generator, noise), expected.movedim(1, 3).numpy())


# Distances of generated images from real ones, in feature space


@pytest.fixture(scope="module")
def quality(random_data):
    """The Quality of 16 random images."""
    return Quality(random_data([0, 1, 2, 3] * 4))


def test_a_cell_learnt_by_heart_is_found_in_every_turn(quality):
    """D cannot tell G which way round it lay."""
    cells = quality.parts["train"].uint8()
    copies = np.rot90(cells[3:7], 1, (1, 2)).copy()
    neighbours = quality.nearest(copies, "all")
    assert max(neighbours.distances) < 0.01
    assert np.array_equal(neighbours.images, cells[3:7])
    assert np.array_equal(neighbours.cells, cells[3:7])


def test_other_cells_are_not_taken_for_copies(quality):
    """They are as far off as is usual."""
    others = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), np.uint8)
    assert min(quality.nearest(others, "all").distances) > 0.5


def test_cells_that_were_not_turned_are_not_turned_back(quality):
    """--symmetry none."""
    cells = quality.parts["train"].uint8(slice(3, 7))
    assert np.array_equal(quality.nearest(cells, "none").images, cells)


@pytest.fixture
def cloud():
    """Features (200, 16) of what could be 200 images."""
    return torch.randn(200, 16)


def test_kid_of_two_halves_of_a_cloud_is_about_0(cloud):
    """They are draws of the same distribution."""
    assert kernel_distance(cloud[:100], cloud[100:]) == pytest.approx(0, abs=0.2)


def test_kid_of_a_cloud_and_one_beside_it_is_large(cloud):
    """Three standard deviations away in every direction."""
    assert kernel_distance(cloud, cloud + 3) > 1


def test_kid_is_the_same_at_every_call(cloud):
    """Its subsets are drawn from a seed of their own."""
    once = kernel_distance(cloud, cloud + 3)
    assert kernel_distance(cloud, cloud + 3) == once


def test_all_of_a_cloud_is_within_it(cloud):
    """Precision 1."""
    assert share_within(cloud, cloud) == 1


def test_nothing_far_off_is_within_a_cloud(cloud):
    """Precision 0."""
    assert share_within(cloud, cloud + 50) == 0


def test_half_of_a_cloud_is_within_all_of_it(cloud):
    """Precision 1, though each point came twice."""
    assert share_within(cloud, cloud[:100].repeat(2, 1)) == 1


def test_a_cloud_is_not_within_one_point_of_it(cloud):
    """Recall of a generator that draws one image only."""
    assert share_within(cloud[:1].repeat(200, 1), cloud) < 1
