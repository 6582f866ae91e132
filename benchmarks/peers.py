"""Training loops that are held against each other: the script's, the tutorials' and torchgan's.

Each has run(steps) and set_rate_factor(done), and its generator is sampled like the script's.
"""

import contextlib
import io
import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import rollNumber_05 as malaria
from extras import drawing

ADAM = {"lr": 2e-4, "betas": (0.5, 0.999)}  # Radford et al. 2016, sec. 4


def write_png_folder(data, folder):
    """Write the training crops as PNG files in one folder a class, as ImageFolder wants them."""
    part = data.split("train")
    for name in part.classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, (image, label) in enumerate(zip(part.uint8(), part.labels, strict=True)):
        drawing.write_image(folder / part.classes[label] / f"{i:05d}.png", image)


def png_loader(folder, batch_size):
    """The tutorials' data path: an ImageFolder, decoded anew in every epoch by two workers."""
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [
            transforms.Resize(64),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    images = datasets.ImageFolder(folder, transform, allow_empty=True)
    return DataLoader(images, batch_size, shuffle=True, num_workers=2, drop_last=True)


def batches_of(loader, steps):
    """A number of batches; each call and each epoch starts the loader's workers anew."""
    epochs = itertools.repeat(loader)
    return itertools.islice(itertools.chain.from_iterable(epochs), steps)


class Loop:
    """What is common to all: rates are constant unless a loop sets them."""

    def set_rate_factor(self, done):
        """Set the learning rates after a share `done` in [0, 1) of the training."""


class ScriptLoop(Loop):
    """The script's own training on its own data; the averaged generator is sampled.

    Freed memory is kept, as in train(), by the whole process, so for the other loops too.
    """

    def __init__(self, task, config, data):
        malaria.keep_freed_memory()
        self.trainer = malaria.Trainer(task, config, data.classes, data.device)
        self.data = data.split("train")
        self.generator = self.trainer.averages["generator"].module

    def set_rate_factor(self, done):
        """As in the script's training."""
        self.trainer.set_rate_factor(done)

    def run(self, steps):
        """Train for some steps."""
        self.trainer.train_epoch(self.data, steps, malaria.tqdm(disable=True))


class TutorialLoop(Loop):
    """Everyone's DCGAN loop: two backward passes for D, plain Adam, a line printed each step.

    As in PyTorch's DCGAN tutorial; an mtd has the head's loss on the real images too.
    """

    def __init__(self, task, config, folder, num_classes, device):
        settings = vars(config) | {"smooth": False, "augment": False}
        generator, discriminator = malaria.build_networks(task, settings, num_classes)
        self.device = device
        self.generator = generator.to(device)
        self.discriminator = discriminator.to(device)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), **ADAM)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), **ADAM)
        self.loader = png_loader(folder, config.batch_size)

    def run(self, steps):
        """Train for some steps."""
        for images, labels in batches_of(self.loader, steps):
            self.step(images.to(self.device), labels.to(self.device))

    def step(self, real, labels):
        """One update of D and one of G."""
        bce = F.binary_cross_entropy_with_logits
        ones = torch.ones(len(real), device=self.device)
        zeros = torch.zeros(len(real), device=self.device)

        self.discriminator.zero_grad()
        output = self.discriminator(real)
        loss_real = bce(output.real_logits, ones)
        loss = loss_real
        if output.class_logits is not None:
            loss = loss_real + F.cross_entropy(output.class_logits, labels)
        loss.backward()
        noise = torch.randn(len(real), self.generator.latent_dim, device=self.device)
        fake = self.generator(noise)
        loss_fake = bce(self.discriminator(fake.detach()).real_logits, zeros)
        loss_fake.backward()
        self.optimizer_d.step()

        self.generator.zero_grad()
        loss_g = bce(self.discriminator(fake).real_logits, ones)
        loss_g.backward()
        self.optimizer_g.step()
        print(f"D {loss_real.item() + loss_fake.item():.3f} G {loss_g.item():.3f}")


class SampledGenerator(nn.Module):
    """Another library's generator with what the script's sampling asks of one."""

    num_classes = 0
    symmetry = "none"

    def __init__(self, network, latent_dim):
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim

    def forward(self, noise, labels=None):
        """Noise (B, latent_dim) -> images (B, C, S, S) in [-1, 1]."""
        return self.network(noise)


def torchgan_networks(config):
    """What torchgan's Trainer makes its networks and their optimisers from."""
    from torchgan import models

    generator = {
        "encoding_dims": config.latent_dim,
        "out_size": 64,
        "out_channels": 3,
        "step_channels": config.g_width // 8,  # at 32x32; doubled at each halving
        "nonlinearity": nn.ReLU(),
        "last_nonlinearity": nn.Tanh(),
    }
    discriminator = {
        "in_size": 64,
        "in_channels": 3,
        "step_channels": config.d_width // 8,
        "nonlinearity": nn.LeakyReLU(0.2),
        "last_nonlinearity": nn.Identity(),
    }
    adam = {"name": torch.optim.Adam, "args": ADAM}
    return {
        "generator": {"name": models.DCGANGenerator, "args": generator, "optimizer": adam},
        "discriminator": {
            "name": models.DCGANDiscriminator,
            "args": discriminator,
            "optimizer": adam,
        },
    }


class TorchganLoop(Loop):
    """The step of torchgan 0.1.0's own Trainer on its own DCGAN, fed like the tutorials' loop."""

    def __init__(self, config, folder, device):
        from torchgan import losses, trainer

        place = str(folder.parent / "torchgan")
        with contextlib.redirect_stdout(io.StringIO()):
            self.trainer = trainer.Trainer(
                torchgan_networks(config),
                [losses.MinimaxGeneratorLoss(), losses.MinimaxDiscriminatorLoss()],
                device=device,
                sample_size=16,
                epochs=1,
                checkpoints=place,
                recon=place,
                log_dir=place,
            )
        self.trainer.batch_size = config.batch_size
        self.device = device
        self.generator = SampledGenerator(self.trainer.generator, config.latent_dim)
        self.loader = png_loader(folder, config.batch_size)

    def run(self, steps):
        """Train for some steps."""
        for images, labels in batches_of(self.loader, steps):
            self.trainer.real_inputs = images.to(self.device)
            self.trainer.labels = labels.to(self.device)
            self.trainer.train_iter()
