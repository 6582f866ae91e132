"""Temperature scaling: probabilities that say how often the answers are right."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY

import rollNumber_05 as malaria
from extras.calibration import fit_temperature

KINDS = [malaria.SingleLabel, malaria.MultiLabel]


@pytest.mark.parametrize("kind", KINDS)
def test_calibrated_probabilities_are_those_of_divided_logits(kind):
    """Softmax and sigmoid of logits over the temperature."""
    logits = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, 0.0]])
    probabilities = kind.activation(logits).numpy()
    expected = kind.activation(logits / 2).numpy()
    assert kind.calibrated(probabilities, 2.0) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_temperature_of_one_changes_nothing(kind):
    """That of a checkpoint without one."""
    probabilities = kind.activation(torch.randn(5, 3)).numpy()
    assert kind.calibrated(probabilities, 1.0) == pytest.approx(probabilities, abs=1e-6)


def answers_of(sure, right, count=1000):
    """Two-class answers, all this sure, of which a share is right; and the labels."""
    probabilities = np.tile([sure, 1 - sure], (count, 1))
    labels = torch.ones(count, dtype=torch.int64)
    labels[: round(right * count)] = 0
    return probabilities, labels


@pytest.mark.parametrize(("sure", "right"), [(0.99, 0.8), (0.7, 0.9)])
def test_fitted_probabilities_are_shares_of_right_answers(sure, right):
    """An MTD that is too sure, and one that is not sure enough."""
    probabilities, labels = answers_of(sure, right)
    temperature = fit_temperature(malaria.SingleLabel, probabilities, labels)
    calibrated = malaria.SingleLabel.calibrated(probabilities, temperature)
    assert calibrated[0, 0] == pytest.approx(right, abs=0.01)


def test_several_labels_are_calibrated_too():
    """Each yes or no counts."""
    probabilities = np.full((100, 2), 0.99)
    labels = torch.ones(100, 2)
    labels[:20] = 0
    temperature = fit_temperature(malaria.MultiLabel, probabilities, labels)
    assert malaria.MultiLabel.calibrated(probabilities, temperature)[0, 0] == pytest.approx(
        0.8, abs=0.01
    )


def test_no_cells_leave_the_answers_as_they_are():
    """A validation without any."""
    nothing = np.zeros((0, 3))
    assert fit_temperature(malaria.SingleLabel, nothing, torch.zeros(0, dtype=torch.int64)) == 1


@pytest.fixture(scope="module")
def finished(run_script, small_data, tmp_path_factory):
    """A folder in which a small MTD has been trained."""
    folder = tmp_path_factory.mktemp("calibrated")
    flags = ("--task", "mtd", "--data_path", small_data, *TINY, "--epochs", 1)
    done = run_script(*flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_delivered_weights_know_their_temperature(finished):
    """It is in the scores as well."""
    state = malaria.read_state(finished / "saved_models/mtd.pt")
    scores = json.loads((finished / "results/mtd/scores.json").read_text())
    assert state["temperature"] == scores["temperature"]


def test_answers_are_calibrated(finished, small_data):
    """Those of the network itself have another temperature."""
    checkpoint = malaria.load_checkpoint(finished / "saved_models/mtd.pt")
    config = checkpoint.state["config"]
    data = malaria.load_data(
        malaria.Config(
            data_path=str(small_data), image_size=28, results_dir=str(finished / "results")
        )
    )
    plain = malaria.predict(checkpoint.discriminator, data, config["loss"], "all")
    expected = malaria.SingleLabel.calibrated(plain.probabilities, checkpoint.state["temperature"])
    answers = malaria.calibrated_predictions(checkpoint, data).probabilities
    assert answers == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.0, float("nan"), 1e9, 1, "1", torch.tensor(1.0)])
def test_a_temperature_that_is_none_is_refused(finished, tmp_path, temperature):
    """A stranger's checkpoint can hold anything."""
    state = malaria.read_state(finished / "saved_models/mtd.pt")
    malaria.save_checkpoint({**state, "temperature": temperature}, tmp_path / "odd.pt")
    with pytest.raises(malaria.UsageError, match="temperature"):
        malaria.load_checkpoint(tmp_path / "odd.pt")
