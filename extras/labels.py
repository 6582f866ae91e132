"""All that differs between images of one class (--view cell) and of several (--view field).

Both kinds have the same functions; their J(C) are with the other losses, in the script. `labels`,
`logits` and what `activation` and `log_loss` take are tensors, other probabilities numpy arrays.
"""

import numpy as np
import torch
import torch.nn.functional as F


class SingleLabel:
    """One class an image: labels int64 (N,), softmax and cross-entropy."""

    counted = "cells"  # what the table of splits counts

    @staticmethod
    def tensor(labels, device):
        """Labels of an Index as a tensor."""
        return torch.tensor(labels, dtype=torch.int64, device=device)

    @staticmethod
    def multi_hot(labels, num_classes):
        """float32 (N, n) with a 1 for each class of an image."""
        return F.one_hot(labels, num_classes).float()

    @staticmethod
    def activation(logits):
        """Class probabilities (..., n), which sum to 1."""
        return logits.softmax(-1)

    @staticmethod
    def log_loss(probabilities, labels):
        """J(C) of probabilities (N, n) in (0, 1), without smoothing."""
        return F.nll_loss(probabilities.log(), labels)

    @staticmethod
    def calibrated(probabilities, temperature):
        """The softmax of logits over a temperature, from its probabilities (N, n) without one."""
        powers = probabilities ** (1 / temperature)
        return powers / powers.sum(1, keepdims=True)

    @staticmethod
    def answers(probabilities):
        """The likeliest class (N,) of numpy probabilities (N, n)."""
        return probabilities.argmax(1)

    @staticmethod
    def confidence(probabilities):
        """The probability (N,) of the answer."""
        return probabilities.max(1)

    @staticmethod
    def is_right(answers, labels):
        """Whether each answer (N,) is its label."""
        return answers == labels

    @staticmethod
    def name(answer, classes):
        """An answer or label in words."""
        return classes[int(answer)]

    @staticmethod
    def confusion_matrices(labels, answers, num_classes):
        """(1, n, n): rows are true classes, columns answers."""
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(labels, answers, labels=range(num_classes))[None]


class MultiLabel:
    """Several classes an image: labels float32 (N, n) of 0 and 1, sigmoid and cross-entropy."""

    counted = "labels"

    @staticmethod
    def tensor(labels, device):
        """Labels of an Index as a tensor."""
        return torch.tensor(labels, dtype=torch.float32, device=device)

    @staticmethod
    def multi_hot(labels, num_classes):
        """The labels themselves; (0, n) where there are none."""
        return labels.reshape(len(labels), num_classes)

    @staticmethod
    def activation(logits):
        """Probability (..., n) of each class for itself."""
        return logits.sigmoid()

    @staticmethod
    def log_loss(probabilities, labels):
        """J(C) of probabilities (N, n) in (0, 1), without smoothing."""
        return F.binary_cross_entropy(probabilities, labels.to(probabilities))

    @staticmethod
    def calibrated(probabilities, temperature):
        """The sigmoid of logits over a temperature, from its probabilities (N, n) without one."""
        powers = probabilities ** (1 / temperature)
        others = (1 - probabilities) ** (1 / temperature)
        return powers / (powers + others)

    @staticmethod
    def answers(probabilities):
        """(N, n) of 0 and 1: which classes have a probability above 1/2."""
        return (probabilities > 0.5).astype(int)

    @staticmethod
    def confidence(probabilities):
        """The least sure (N,) of an image's answers."""
        return np.maximum(probabilities, 1 - probabilities).min(1)

    @staticmethod
    def is_right(answers, labels):
        """Whether all answers about an image are right, (N,)."""
        return (answers == labels).all(1)

    @staticmethod
    def name(answer, classes):
        """An answer or label in words: 'ring+schizont'."""
        present = [name for name, there in zip(classes, answer, strict=True) if there]
        return "+".join(present) or "none"

    @staticmethod
    def confusion_matrices(labels, answers, num_classes):
        """(n, 2, 2): [[true negative, false positive], [false negative, true positive]]."""
        from sklearn.metrics import multilabel_confusion_matrix

        return multilabel_confusion_matrix(labels, answers, labels=range(num_classes))


LABEL_KINDS = {"cell": SingleLabel, "field": MultiLabel}
