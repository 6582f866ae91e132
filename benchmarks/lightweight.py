"""lightweight-gan, which users of a GPU take for few images, as a Loop beside those of peers.py.

    pip install lightweight-gan==1.2.1

Its own Trainer with the defaults of its command, but for the side of the images: a batch of 10 four
times a step, hinge loss with a penalty at every fourth step, cutout and translation. Sampled is its
generator, not its average, which is a copy of it up to step 20,000. It asks for CUDA by name; a CPU
stands in for that with networks and batches of next to nothing, to try the program.
"""

import contextlib
import importlib
from unittest import mock

import torch
from torch import nn

from benchmarks.peers import Loop, SampledGenerator

DEFAULTS = {  # of lightweight_gan.cli.train_from_folder; those of its Trainer are others
    "batch_size": 10,
    "gradient_accumulate_every": 4,
    "attn_res_layers": [32],
    "disc_output_size": 1,
    "aug_types": ["cutout", "translation"],
    "num_image_tiles": 8,
    "use_aim": False,
}
ON_CPU = {"batch_size": 2, "gradient_accumulate_every": 1, "fmap_max": 16, "num_image_tiles": 3}


class TorchOnCpu:
    """The module torch, whose devices are the CPU."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def device(self, name):
        """Whatever is asked for."""
        return torch.device("cpu")


def left_where_it_is(thing, rank):
    """In place of moving a tensor or module to a GPU."""
    return thing


@contextlib.contextmanager
def cuda_or_stand_in(device):
    """Inside the block the module lightweight_gan.lightweight_gan, which works on a device."""
    name = "lightweight_gan.lightweight_gan"
    if device.type == "cuda":
        yield importlib.import_module(name)
        return
    with mock.patch.object(torch.cuda, "is_available", return_value=True):
        library = importlib.import_module(name)
    with (
        mock.patch.object(torch.Tensor, "cuda", left_where_it_is),
        mock.patch.object(nn.Module, "cuda", left_where_it_is),
        mock.patch.object(library, "torch", TorchOnCpu()),
    ):
        yield library


class ScaledGenerator(SampledGenerator):
    """A generator whose images are in [0, 1]."""

    def forward(self, noise, labels=None):
        """Noise (B, latent_dim) -> images (B, C, S, S) in [-1, 1]."""
        return 2 * self.network(noise).clamp(0, 1) - 1


class LightweightLoop(Loop):
    """The Trainer's steps; folder: with the training cells as files."""

    def __init__(self, config, folder, device):
        self.device = device
        settings = DEFAULTS
        if device.type == "cpu":
            settings = DEFAULTS | ON_CPU
        place = folder.parent / "lightweight"
        with cuda_or_stand_in(device) as library:
            self.trainer = library.Trainer(base_dir=place, image_size=config.image_size, **settings)
            self.trainer.clear()  # its folders
            self.trainer.init_GAN()
            self.trainer.set_data_src(folder)
        self.generator = ScaledGenerator(self.trainer.GAN.G, self.trainer.latent_dim)

    def run(self, steps):
        """Train for some steps; its pictures and checkpoints are a part of them."""
        with cuda_or_stand_in(self.device):
            for _ in range(steps):
                self.trainer.train()
