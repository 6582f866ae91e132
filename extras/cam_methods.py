"""Beside Grad-CAM: two further ways to weigh a layer's maps, and means over an image's turns.

The script's GradCAM takes what METHODS has as `evidence`: a function of gradients and feature maps
(N, C, h, w) that returns (N, h, w), of which negative values are dropped.
"""

import itertools

import torch
import torch.nn.functional as F

from extras.symmetry import EXACT_TURNS, turned_back, turns


def hirescam_evidence(gradients, maps):
    """HiResCAM (Draelos and Carin 2020): every place is weighed by its own gradient."""
    return (gradients * maps).sum(1)


def layercam_evidence(gradients, maps):
    """LayerCAM (Jiang et al. 2021): as HiResCAM, but by positive gradients only."""
    return (F.relu(gradients) * maps).sum(1)


METHODS = {"hires": hirescam_evidence, "layer": layercam_evidence}


def mean_over_turns(cam, images, score, turn_count=EXACT_TURNS):
    """Means (N, h, w) of raw maps over so many of the EXACT_TURNS of images (N, C, S, S).

    cam: a GradCAM; score: as it takes one. Raises ValueError for a wrong number of turns: the
    others cannot be turned back exactly.
    """
    if not 1 <= turn_count <= EXACT_TURNS:
        raise ValueError(f"turn_count {turn_count}: 1 to {EXACT_TURNS}")
    maps = []
    for number, turned in enumerate(itertools.islice(turns(images), turn_count)):
        maps.append(turned_back(cam(turned, score), number))
    return torch.stack(maps).mean(0)
