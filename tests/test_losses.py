"""Losses, label kinds and probabilities against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

import rollNumber_05 as malaria
from extras import classes

LOG_2 = math.log(2)
LOG_3 = math.log(3)  # sigmoid(LOG_3) is 3/4, sigmoid(-LOG_3) is 1/4


# J(D) and J(G)


def discriminator_loss(loss, real_logit, fake_logit):
    """J(D) where all real images have one logit and all fake ones another."""
    real_logits = torch.full((8,), real_logit)
    fake_logits = torch.full((8,), fake_logit)
    return malaria.LOSSES[loss].discriminator(real_logits, fake_logits).item()


def generator_loss(loss, fake_logit):
    """J(G) where all fake images have this logit."""
    return malaria.LOSSES[loss].generator(torch.full((8,), fake_logit)).item()


def test_bce_of_an_undecided_discriminator():
    """J(D) at logits 0: -log(1/2) for real and as much for fake images."""
    assert discriminator_loss("bce", 0.0, 0.0) == pytest.approx(2 * LOG_2)


def test_bce_of_a_discriminator_that_calls_everything_real():
    """J(D) where D(x) and D(G(z)) are 3/4: -log(3/4) - log(1/4)."""
    assert discriminator_loss("bce", LOG_3, LOG_3) == pytest.approx(-math.log(3 / 16))


def test_bce_of_a_discriminator_that_is_sure_and_wrong_is_finite():
    """J(D) is of logits: 1000 for each kind of image, where log(sigmoid) would be infinite."""
    assert discriminator_loss("bce", -1000.0, 1000.0) == 2000


def test_bce_of_a_generator_under_an_undecided_discriminator():
    """J(G) at logit 0: -log(1/2)."""
    assert generator_loss("bce", 0.0) == pytest.approx(LOG_2)


def test_bce_of_a_generator_is_the_non_saturating_loss():
    """J(G) where D(G(z)) is 1/4: -log(1/4), not log(3/4)."""
    assert generator_loss("bce", -LOG_3) == pytest.approx(-math.log(1 / 4))


@pytest.mark.parametrize(
    ("real", "fake", "expected"),
    [
        (1.0, 0.0, 0.0),
        (0.0, 0.0, 0.5),
        (3.0, 0.0, 2.0),
        (1.0, -1.0, 0.5),
        (3.0, -1.0, 2.5),
    ],
)
def test_least_squares_of_a_discriminator(real, fake, expected):
    """J(D) = 1/2 (D(x) - 1)^2 + 1/2 D(G(z))^2."""
    assert discriminator_loss("lsgan", real, fake) == expected


@pytest.mark.parametrize(("fake", "expected"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 4.0)])
def test_least_squares_of_a_generator(fake, expected):
    """J(G) = (D(G(z)) - 1)^2."""
    assert generator_loss("lsgan", fake) == expected


def test_losses_are_means_over_the_batch():
    """Least squares of two different images: 1/2 of the mean of 0 and 4, and 0."""
    real_logits = torch.tensor([1.0, 3.0])
    loss = malaria.LOSSES["lsgan"].discriminator(real_logits, torch.zeros(2))
    assert loss.item() == 1


# How real a logit says an image is


def real_probabilities(loss, logits):
    """What a loss makes of a list of logits."""
    return malaria.LOSSES[loss].real_probability(torch.tensor(logits)).tolist()


def test_a_bce_logit_goes_through_the_sigmoid():
    """Logits 0 and log 3."""
    assert real_probabilities("bce", [0.0, LOG_3]) == pytest.approx([0.5, 0.75])


def test_a_least_squares_score_is_cut_off_at_0_and_1():
    """In between it is the probability itself."""
    assert real_probabilities("lsgan", [-2.0, 0.25, 3.0]) == [0, 0.25, 1]


# J(C) of one class an image. Class probabilities are 1/2, 1/4 and 1/4.

ONE_CLASS_LOGITS = torch.tensor([[LOG_2, 0.0, 0.0]])
ONE_CLASS_LABEL = torch.tensor([0])


def test_cross_entropy_of_one_class():
    """-log of the true class's probability."""
    loss = malaria.single_label_loss(ONE_CLASS_LOGITS, ONE_CLASS_LABEL)
    assert loss.item() == pytest.approx(LOG_2)


def test_cross_entropy_of_one_class_with_smoothed_labels():
    """Smoothing takes 0.3 of the true class and gives each of the three classes 0.1."""
    loss = malaria.single_label_loss(ONE_CLASS_LOGITS, ONE_CLASS_LABEL, smoothing=0.3)
    assert loss.item() == pytest.approx(0.8 * LOG_2 + 0.2 * math.log(4))


def test_log_loss_of_one_class():
    """J(C) of the probabilities is that of the logits they came from."""
    probabilities = torch.tensor([[0.5, 0.25, 0.25]])
    loss = malaria.SingleLabel.log_loss(probabilities, ONE_CLASS_LABEL)
    assert loss.item() == pytest.approx(LOG_2)


def test_probabilities_of_one_class():
    """Softmax."""
    probabilities = malaria.SingleLabel.activation(ONE_CLASS_LOGITS)
    assert probabilities[0].tolist() == pytest.approx([0.5, 0.25, 0.25])


# J(C) of several classes an image. Probabilities are 3/4 and 1/4.

TWO_CLASS_LOGITS = torch.tensor([[LOG_3, -LOG_3]])
BOTH_CLASSES = torch.tensor([[1.0, 1.0]])


def test_cross_entropy_of_several_classes():
    """The mean over classes of -log of the true answer's probability."""
    loss = malaria.multi_label_loss(TWO_CLASS_LOGITS, BOTH_CLASSES)
    assert loss.item() == pytest.approx(-math.log(3 / 16) / 2)


@pytest.mark.parametrize(("label", "smoothed"), [(1.0, 0.9), (0.0, 0.1)])
def test_cross_entropy_of_several_classes_with_smoothed_labels(label, smoothed):
    """With smoothing 0.2 a class that is there has the label 0.9, another one 0.1."""
    logits = torch.tensor([[LOG_3]])
    labels = torch.tensor([[label]])
    loss = malaria.multi_label_loss(logits, labels, smoothing=0.2)
    expected = -smoothed * math.log(3 / 4) - (1 - smoothed) * math.log(1 / 4)
    assert loss.item() == pytest.approx(expected)


def test_log_loss_of_several_classes():
    """J(C) of the probabilities is that of the logits they came from."""
    loss = malaria.MultiLabel.log_loss(torch.tensor([[0.75, 0.25]]), BOTH_CLASSES)
    assert loss.item() == pytest.approx(-math.log(3 / 16) / 2)


def test_probabilities_of_several_classes():
    """Sigmoid, each for itself."""
    probabilities = malaria.MultiLabel.activation(TWO_CLASS_LOGITS)
    assert probabilities[0].tolist() == pytest.approx([0.75, 0.25])


# Labels and answers of one class an image

ONE_CLASS_PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])


def test_one_class_is_a_number():
    """What torch's cross-entropy wants."""
    labels = malaria.SingleLabel.tensor([2, 0], "cpu")
    assert labels.dtype == torch.int64


def test_one_class_as_multi_hot():
    """A single 1 in each row."""
    hot = malaria.SingleLabel.multi_hot(torch.tensor([2, 0]), 3)
    assert hot.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_the_answer_of_one_class_is_the_likeliest():
    """Its number."""
    assert malaria.SingleLabel.answers(ONE_CLASS_PROBABILITIES).tolist() == [0, 2]


def test_the_confidence_in_one_class_is_its_probability():
    """The largest of a row."""
    assert malaria.SingleLabel.confidence(ONE_CLASS_PROBABILITIES).tolist() == [0.5, 0.7]


def test_an_answer_of_one_class_is_right_if_it_is_the_label():
    """One answer an image."""
    answers = np.array([0, 2])
    labels = np.array([0, 1])
    right = malaria.SingleLabel.is_right(answers, labels)
    assert right.tolist() == [True, False]


def test_the_name_of_one_class():
    """Its own."""
    assert malaria.SingleLabel.name(2, classes.STAGES) == "schizont"


# Labels and answers of several classes an image

SEVERAL_PROBABILITIES = np.array([[0.9, 0.8, 0.4], [0.2, 0.3, 0.1]])


def test_several_classes_are_numbers_0_and_1():
    """What torch's binary cross-entropy wants."""
    labels = malaria.MultiLabel.tensor([[1, 0, 1], [0, 0, 0]], "cpu")
    assert labels.dtype == torch.float32


def test_several_classes_as_multi_hot():
    """The labels themselves."""
    labels = torch.tensor([[1.0, 0.0, 1.0]])
    assert torch.equal(malaria.MultiLabel.multi_hot(labels, 3), labels)


def test_the_answer_of_several_classes_is_all_above_a_half():
    """There can be several, or none."""
    answers = malaria.MultiLabel.answers(SEVERAL_PROBABILITIES)
    assert answers.tolist() == [[1, 1, 0], [0, 0, 0]]


def test_the_confidence_in_several_classes_is_that_of_the_least_sure_answer():
    """Class 2 is not there with 0.6; class 1 is not there with 0.7."""
    confidence = malaria.MultiLabel.confidence(SEVERAL_PROBABILITIES)
    assert confidence.tolist() == pytest.approx([0.6, 0.7])


def test_an_answer_of_several_classes_is_right_if_all_of_it_is():
    """The second image lacks one."""
    answers = np.array([[1, 0], [1, 0]])
    labels = np.array([[1, 0], [1, 1]])
    assert malaria.MultiLabel.is_right(answers, labels).tolist() == [True, False]


def test_the_name_of_several_classes():
    """Joined by plus signs."""
    assert malaria.MultiLabel.name([1, 0, 1, 0], classes.STAGES) == "ring+schizont"


def test_the_name_of_no_class():
    """A field of healthy cells."""
    assert malaria.MultiLabel.name([0, 0, 0, 0], classes.STAGES) == "none"
