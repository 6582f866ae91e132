"""From bytes to what networks see, and back."""

import torch


def to_images(pixels):
    """uint8 tensor (N, S, S, C) -> float32 images (N, C, S, S) in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(images):
    """The way back: images (N, C, S, S) in [-1, 1] -> uint8 numpy (N, S, S, C)."""
    pixels = (images.detach().cpu() + 1) * 127.5
    pixels = pixels.round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()
