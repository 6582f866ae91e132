"""Views of an image that still show the same: turned by 30 degrees, mirrored, or as it is."""

import itertools
import math

import torch

from extras.augmentation import warp, warp_grid

EXACT_TURNS = 8  # of the 24: those that need no resampling


def turns(images):
    """Yield images (B, C, S, S) in 24 turns, by 30 degrees, plain and mirrored; exact ones first.

    A cell has no up or down.
    """
    for degrees in (0, 30, 60):
        turned = images
        if degrees:
            angle = images.new_full((len(images), 1), math.radians(degrees))
            turned = warp(images, warp_grid(images.shape[2], angle))
        for mirrored in (turned, turned.flip(3)):
            for quarters in range(4):
                yield torch.rot90(mirrored, quarters, (2, 3))


def exact_turns(images):
    """Yield the first EXACT_TURNS of `turns`, which need no resampling."""
    return itertools.islice(turns(images), EXACT_TURNS)


def turned_back(maps, number):
    """Maps (B, h, w) of the exact turn that `turns` yields at `number`, as the image lies."""
    is_mirrored = number >= EXACT_TURNS // 2
    maps = torch.rot90(maps, -number, (1, 2))
    return maps.flip(2) if is_mirrored else maps


def mirrored(images):
    """Yield the images and their mirror images."""
    yield images
    yield images.flip(3)


def unturned(images):
    """Yield the images as they are."""
    yield images


TURNS_BY_SYMMETRY = {"all": turns, "mirror": mirrored, "none": unturned}  # by --symmetry
EXACT_TURNS_BY_SYMMETRY = {"all": exact_turns, "mirror": mirrored, "none": unturned}


def turned_by_noise(images, noise, symmetry):
    """Images (B, C, S, S), each in the exact turn that the signs of its noise choose.

    noise: (B, latent_dim), standard normal. Its first three signs are the binary digits of one of
    eight turns, the first sign that of one of two, so that all are equally frequent. symmetry: a
    key of EXACT_TURNS_BY_SYMMETRY.
    """
    views = torch.stack(list(EXACT_TURNS_BY_SYMMETRY[symmetry](images)))
    turn_count, image_count = views.shape[:2]
    digits = (noise[:, : turn_count.bit_length() - 1] > 0).long()
    worth = 2 ** torch.arange(digits.shape[1], device=noise.device)
    turn_numbers = (digits * worth).sum(1).to(images.device)
    return views[turn_numbers, torch.arange(image_count, device=images.device)]


def symmetry_of(settings):
    """The name in TURNS_BY_SYMMETRY that a config, as a mapping, asks for.

    auto: what its images allow. A cell has no up or down; of a .npz nothing is known.
    """
    from extras import image_sets  # here, for the script loads this file before anything is read

    if settings["symmetry"] != "auto":
        return settings["symmetry"]
    if settings["dataset"] != "auto":
        return image_sets.IMAGE_SETS[settings["dataset"]].symmetry
    is_npz = image_sets.is_image_set("auto", settings["data_path"])
    return "none" if is_npz else "all"


def learnt_symmetry(settings):
    """The symmetry that networks have learnt: only with --augment have they seen turned images."""
    return symmetry_of(settings) if settings["augment"] else "none"


def cam_turn_count(settings):
    """Over how many of the EXACT_TURNS finer maps are averaged: over those that an MTD learnt."""
    return EXACT_TURNS if learnt_symmetry(settings) == "all" else 1
