"""How right a classifier's answers are."""

import math
from typing import NamedTuple

import numpy as np


def classification_scores(label_kind, labels, probabilities, classes):
    """How right answers are, as a dict. labels, probabilities: numpy, (N,) or (N, n), and (N, n).

    With several labels an image, of the yes/no answers about each class. balanced_accuracy: the
    mean recall of the classes that are present; standard_error: its binomial one.
    """
    from sklearn.metrics import classification_report

    answers = label_kind.answers(probabilities)
    matrices = label_kind.confusion_matrices(labels, answers, len(classes))
    report = classification_report(
        labels,
        answers,
        labels=range(len(classes)),
        target_names=classes,
        output_dict=True,
        zero_division=0,
    )
    per_class = {}
    for name in classes:
        per_class[name] = {
            "precision": report[name]["precision"],
            "recall": report[name]["recall"],
            "f1": report[name]["f1-score"],
            "support": int(report[name]["support"]),
        }
    balanced, standard_error = balanced_accuracy(matrices)
    return {
        "n": len(labels),
        "accuracy": float((answers == labels).mean()),
        "balanced_accuracy": balanced,
        "standard_error": standard_error,
        "per_class": per_class,
        "confusion_matrix": (matrices[0] if len(matrices) == 1 else matrices).tolist(),
        "classes": list(classes),
    }


def balanced_accuracy(matrices):
    """Mean recall over the classes that are present, and its standard error.

    matrices: (1, n, n), or a [[tn, fp], [fn, tp]] for each class, whose recalls are specificity
    and sensitivity.
    """
    means = []
    variances = []
    for matrix in matrices:
        present = matrix.sum(1) > 0
        support = matrix.sum(1)[present]
        recalls = np.diag(matrix)[present] / support
        means.append(recalls.mean())
        variances += (recalls * (1 - recalls) / support).tolist()
    standard_error = math.sqrt(sum(variances)) / max(1, len(variances))
    return float(np.mean(means)), standard_error


class Judgement(NamedTuple):
    """Answers about N images: right or not, how sure, and 'true label, answer' in words."""

    is_right: np.ndarray
    confidence: np.ndarray
    captions: list[str]


def judge(data, probabilities):
    """The Judgement of answers (N, n) about a dataset."""
    kind = data.label_kind
    labels = data.labels.cpu().numpy()
    answers = kind.answers(probabilities)
    confidence = kind.confidence(probabilities)
    captions = []
    for label, answer, sure in zip(labels, answers, confidence, strict=True):
        true_name = kind.name(label, data.classes)
        captions.append(f"true {true_name}\n{kind.name(answer, data.classes)} {sure:.2f}")
    return Judgement(kind.is_right(answers, labels), confidence, captions)
