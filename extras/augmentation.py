"""Adaptive discriminator augmentation (Karras et al. 2020), differentiable (Zhao et al. 2020)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


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

BILINEAR = 0  # numbers by which torch's own operators name what F.grid_sample has words for
REFLECTION = 2


def warp_grid(side, angle, zoom=1.0, mirror=1.0, shift=None):
    """Where images are sampled to be turned, zoomed, mirrored and shifted: (B, S, S, 2).

    side: S; angle: radians (B, 1); zoom (B, 1): above 1 shows more, smaller; mirror: 1 or -1
    (B, 1); shift (B, 2): to the right and down, in half sides.
    """
    cos = zoom * angle.cos()
    sin = zoom * angle.sin()
    middles = (2 * torch.arange(side, device=angle.device) + 1) / side - 1  # of pixels, in -1 to 1
    x_part = torch.cat([cos, sin], 1) * mirror
    y_part = torch.cat([-sin, cos], 1)
    by_column = x_part[:, :, None] * middles  # (B, 2, S)
    by_row = y_part[:, :, None] * middles
    if shift is not None:
        by_row = by_row + shift[:, :, None]
    # F.affine_grid gives the same, but takes longer over its products of small matrices.
    places = by_column[:, :, None, :] + by_row[:, :, :, None]  # (B, 2, S, S)
    return places.permute(0, 2, 3, 1)


def warp(images, grid):
    """Images (B, C, S, S) sampled at a warp_grid, corners reflected."""
    images = images.contiguous()  # sampled twice as fast as in channels_last
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


class Changes(NamedTuple):
    """Random changes of B images.

    grid (B, S, S, 2): where they are sampled; contrast, mean_gain, tint (B, C, 1, 1): the colours
    become contrast * image + mean_gain * its mean + tint.
    """

    grid: torch.Tensor
    contrast: torch.Tensor
    mean_gain: torch.Tensor
    tint: torch.Tensor

    def part(self, start, count):
        """Those of `count` images from one on."""
        return Changes(*(values[start : start + count] for values in self))


def draw_changes(strengths, channels, side, symmetry="all"):
    """Changes of images (B, C, S, S) of strengths (B,), from one draw of random numbers."""
    allowed = SYMMETRIES[symmetry]
    sizes = [2, 4, 2, 2, 2 * channels]
    numbers = torch.rand(len(strengths), sum(sizes), device=strengths.device)
    chances, poses, places, lights, tints = numbers.split(sizes, 1)
    moved, coloured = (chances < strengths[:, None]).float().split(1, 1)  # each (B, 1), 0 or 1
    turn, flip, tilt, size = poses.split(1, 1)
    contrast_change, brightness_change = (coloured * (lights - 0.5)).split(1, 1)

    quarters = (allowed.quarters * turn).floor()
    between_quarters = allowed.low + (allowed.high - allowed.low) * tilt
    angle = math.pi / 2 * (quarters + moved * between_quarters)
    zoom = 1 + moved * (0.45 * size - 0.2)
    mirror = torch.ones_like(flip)
    if allowed.is_mirrored:
        mirror = 2 * flip.round() - 1
    shift = moved * (0.24 * places - 0.12)
    grid = warp_grid(side, angle, zoom, mirror, shift)

    contrast = 1 + 0.8 * contrast_change
    brightness = 1 + brightness_change
    gain, tint = (coloured * (tints - 0.5)).split(channels, 1)  # each (B, C)
    gain = 1 + 0.5 * gain
    # ((image - mean) * contrast + mean * brightness) * gain + 0.4 * tint
    colours = (contrast * gain, (brightness - contrast) * gain, 0.4 * tint)
    return Changes(grid, *(values[:, :, None, None] for values in colours))


class Change(torch.autograd.Function):
    """What changed() does, with its own gradient, of the images alone.

    Autograd's takes longer: it sums in channels_last, and widens the mean's part to whole images.
    """

    @staticmethod
    def forward(context, images, grid, contrast, mean_gain, tint):
        """Images (B, C, S, S) and the fields of their Changes -> images in channels_last."""
        context.save_for_backward(grid, contrast, mean_gain)
        warped = warp(images, grid)
        mean = warped.mean((2, 3), keepdim=True)
        offset = torch.addcmul(tint, mean, mean_gain)
        result = torch.addcmul(offset, warped, contrast)
        return result.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(context, gradients):
        """The gradient of the images; the Changes have none."""
        grid, contrast, mean_gain = context.saved_tensors
        gradients = gradients.contiguous()
        mean = gradients.mean((2, 3), keepdim=True)
        gradients = torch.addcmul(mean * mean_gain, gradients, contrast)
        images = gradients  # only their shape counts where the grid has no gradient
        gradients, _ = torch.ops.aten.grid_sampler_2d_backward(
            gradients, images, grid, BILINEAR, REFLECTION, False, [True, False]
        )
        return gradients.contiguous(memory_format=torch.channels_last), None, None, None, None


def changed(images, changes):
    """Images (B, C, S, S) after their Changes; in channels_last, as D's convolutions want them."""
    return Change.apply(images, *changes)


def augment_groups(groups, symmetry="all"):
    """Change several tensors of images as augment does, with one draw of random numbers.

    groups: pairs of images (B, C, S, S) and their strength. Returns a list of images.
    """
    strengths = [strength * images.new_ones(len(images)) for images, strength in groups]
    _, channels, side, _ = groups[0][0].shape
    changes = draw_changes(torch.cat(strengths), channels, side, symmetry)
    results = []
    start = 0
    for images, _ in groups:  # apart: no gradient goes through the resampling of real images
        results.append(changed(images, changes.part(start, len(images))))
        start += len(images)
    return results


def augment(images, strength, symmetry="all"):
    """Random changes of images (B, C, S, S); differentiable.

    All are flipped and turned by quarters, as far as the symmetry allows; each, with probability
    `strength` (a number or 0-d tensor), also by an angle (any, or up to 15 degrees) with shift
    (6 %) and zoom (0.8 to 1.25), and, likewise, changed in contrast, brightness and tint. D sees
    all images through it, real and generated alike, so that it cannot memorise the real ones, nor G
    learn the augmentation (Zhao et al. 2020, sec. 3).
    """
    [result] = augment_groups([(images, strength)], symmetry)
    return result


def adapt_strength(strength, margins, step):
    """Adaptive discriminator augmentation: move a strength in [0, 1] in place by `step`.

    Up while D holds over 80 % of real images for real, a sign of overfitting, else down: r_t
    against 0.6 (Karras et al. 2020, sec. 3.1). margins: by how much D's answers about real images
    are on the side of real (B,).
    """
    overfitting = margins.sign().mean() - 0.6
    strength.add_(overfitting.sign() * step).clamp_(0, 1)
