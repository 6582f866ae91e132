"""Temperature scaling: probabilities that say how often the answers are right (Guo et al. 2017)."""

import numpy as np
import torch
from scipy.optimize import minimize_scalar

LOWEST = 0.2
HIGHEST = 5.0


def fit_temperature(label_kind, probabilities, labels):
    """The temperature in [LOWEST, HIGHEST] whose calibrated answers have the least log loss.

    One number for all classes (Guo et al. 2017, sec. 4.2), so that no answer changes, only how sure
    it is. label_kind: of the script's LABEL_KINDS; probabilities: numpy (N, n) of cells that were
    not trained on; labels: their tensor. 1 without any cells.
    """
    if len(labels) == 0:
        return 1.0

    def log_loss(log_temperature):
        calibrated = label_kind.calibrated(probabilities, np.exp(log_temperature))
        inside = torch.from_numpy(calibrated).double().clamp(1e-7, 1 - 1e-7)
        return label_kind.log_loss(inside, labels).item()

    bounds = np.log([LOWEST, HIGHEST])
    return float(np.exp(minimize_scalar(log_loss, bounds=bounds, method="bounded").x))
