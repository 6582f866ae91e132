"""Adaptive discriminator augmentation (Karras et al. 2020), differentiable (Zhao et al. 2020)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Symmetry(NamedTuple):
    """How an image can be turned and still show the same.

    quarters: by how many quarter turns; is_mirrored: whether it can be flipped; low, high: by which
    angles beside, in quarter turns.
    """

    quarters: int
    is_mirrored: bool
    low: float
    high: float


SYMMETRIES = {
    "all": Symmetry(4, True, 0, 1),
    "mirror": Symmetry(1, True, -1 / 6, 1 / 6),
    "none": Symmetry(1, False, -1 / 6, 1 / 6),
}


def warp(images, angle, zoom=1.0, mirror=1.0, shift=(0.0, 0.0)):
    """Turn, zoom, mirror and shift images (B, C, S, S) in one resampling, corners reflected.

    angle: radians (B,); zoom (B,): above 1 shows more, smaller; mirror: 1 or -1 (B,); shift: two of
    (B,), in half sides.
    """
    cos = zoom * angle.cos()
    sin = zoom * angle.sin()
    shift_x, shift_y = (
        torch.as_tensor(part, device=angle.device).expand_as(angle) for part in shift
    )
    rows = [cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y]
    theta = torch.stack(rows, 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def augment(images, strength, symmetry="all"):
    """Random changes of images (B, C, S, S); differentiable.

    All are flipped and turned by quarters, as far as the symmetry allows; each, with probability
    `strength` (a number or 0-d tensor), also by an angle (any, or up to 15 degrees) with shift
    (6 %) and zoom (0.8 to 1.25), and, likewise, changed in contrast, brightness and tint. D sees
    all images through it, real and generated alike, so that it cannot memorise the real ones, nor G
    learn the augmentation (Zhao et al. 2020, sec. 3).
    """
    count, channels = images.shape[:2]
    device = images.device
    allowed = SYMMETRIES[symmetry]
    moved, coloured = (torch.rand(2, count, device=device) < strength).float()

    quarters = torch.randint(0, allowed.quarters, (count,), device=device)
    tilt = allowed.low + (allowed.high - allowed.low) * torch.rand(count, device=device)
    angle = math.pi / 2 * (quarters + moved * tilt)
    zoom = 1 + moved * (0.45 * torch.rand(count, device=device) - 0.2)
    lowest = 0 if allowed.is_mirrored else 1
    mirror = torch.randint(lowest, 2, (count,), device=device) * 2 - 1
    shift = moved * (0.24 * torch.rand(2, count, device=device) - 0.12)
    images = warp(images, angle, zoom, mirror, shift)

    def draw(*shape):  # in [-0.5, 0.5), 0 for images that keep their colours
        values = torch.rand(*shape, 1, 1, device=device) - 0.5
        return coloured.view(count, 1, 1, 1) * values

    contrast, brightness = draw(2, count, 1)
    gain, tint = draw(2, count, channels)
    contrast = 1 + 0.8 * contrast
    brightness = 1 + brightness
    gain = 1 + 0.5 * gain
    tint = 0.4 * tint
    # ((images - mean) * contrast + mean * brightness) * gain + tint, in one pass over the images
    mean = images.mean((2, 3), keepdim=True)
    offset = mean * (brightness - contrast) * gain + tint
    return torch.addcmul(offset, images, contrast * gain)


def adapt_strength(strength, margins, speed):
    """Adaptive discriminator augmentation: move a strength in [0, 1] in place by `speed`.

    Up while D holds over 80 % of real images for real, a sign of overfitting, else down: r_t
    against 0.6 (Karras et al. 2020, sec. 3.1). margins: by how much D's answers about real images
    are on the side of real (B,).
    """
    overfitting = margins.sign().mean() - 0.6
    strength.add_(overfitting.sign() * speed).clamp_(0, 1)
