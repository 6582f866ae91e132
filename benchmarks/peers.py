"""What the benchmarks share: the script's training, what it is held against (the tutorial way of training a DCGAN, torchgan's
Trainer, on the same cells as files), and files of finished runs."""
import contextlib
import io
import itertools
import json

import torch

import rollNumber_05 as s


def in_epochs(loader, steps):
    """Batches for a number of steps; every call and every epoch starts the loader's workers anew, as the tutorial does."""
    return itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), steps)


def write_png_folder(data, folder):
    """The training crops as PNG files in one folder a class, as ImageFolder wants them."""
    part = data.split("train")
    for i in range(len(part)):
        target = folder / part.classes[int(part.labels[i])]
        target.mkdir(parents=True, exist_ok=True)
        s.write_image(target / f"{i:05d}.png", part.uint8([i])[0])


def png_loader(folder, batch_size):
    """The tutorial's data path: an ImageFolder of crops, decoded and normalised anew in every epoch by 2 workers."""
    from torchvision import datasets, transforms
    steps = [transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    return torch.utils.data.DataLoader(
        datasets.ImageFolder(folder, transforms.Compose(steps)), batch_size, shuffle=True, num_workers=2, drop_last=True)


class ScriptLoop:
    """The script's own training on its own data; g is what is sampled."""

    def __init__(self, task, config, data):
        self.trainer, self.data = s.Trainer(task, config, data.classes, data.device), data.split("train")
        self.g = self.trainer.averages["generator"]

    def run(self, steps):
        self.trainer.train_epoch(self.data, steps, s.tqdm(disable=True))


class TutorialLoop:
    """Everyone's DCGAN loop: two passes and two backward calls for D, plain Adam, a print each step; mtd: the head's loss too."""

    def __init__(self, task, config, folder, device, classes):
        self.task, self.device = task, device
        self.g, self.d = (m.to(device) for m in s.build_models(task, {**vars(config), "smooth": False}, classes))
        self.opt_g, self.opt_d = (torch.optim.Adam(m.parameters(), 2e-4, betas=(0.5, 0.999)) for m in (self.g, self.d))
        self.loader = png_loader(folder, config.batch_size)

    def run(self, steps):
        bce, heads = torch.nn.BCEWithLogitsLoss(), (lambda out: out) if self.task == "mtd" else (lambda out: (out, None))
        for real, labels in in_epochs(self.loader, steps):
            real, labels = real.to(self.device), labels.to(self.device)
            ones, zeros = torch.ones(len(real), device=self.device), torch.zeros(len(real), device=self.device)
            self.d.zero_grad()
            logits, classes = heads(self.d(real))
            loss_real = bce(logits, ones)
            (loss_real if classes is None else loss_real + torch.nn.functional.cross_entropy(classes, labels)).backward()
            fake = self.g(torch.randn(len(real), 100, device=self.device))
            loss_fake = bce(heads(self.d(fake.detach()))[0], zeros)
            loss_fake.backward()
            self.opt_d.step()
            self.g.zero_grad()
            loss_g = bce(heads(self.d(fake))[0], ones)
            loss_g.backward()
            self.opt_g.step()
            print(f"D {loss_real.item() + loss_fake.item():.3f} G {loss_g.item():.3f}")


class TorchganLoop:
    """The step of torchgan 0.1.0's own Trainer on its own DCGAN of the same widths, fed like the tutorial's."""

    def __init__(self, config, folder, device):
        from torchgan import losses, models, trainer
        shared = {"step_channels": config.d_width // 8}
        adam = {"name": torch.optim.Adam, "args": {"lr": 2e-4, "betas": (0.5, 0.999)}}
        shape = {"generator": {"encoding_dims": 100, "out_size": 64, "out_channels": 3, "nonlinearity": torch.nn.ReLU(),
                               "last_nonlinearity": torch.nn.Tanh()},
                 "discriminator": {"in_size": 64, "in_channels": 3, "nonlinearity": torch.nn.LeakyReLU(0.2),
                                   "last_nonlinearity": torch.nn.Identity()}}
        kinds = {"generator": models.DCGANGenerator, "discriminator": models.DCGANDiscriminator}
        network = {k: {"name": kinds[k], "args": {**shape[k], **shared}, "optimizer": adam} for k in shape}
        with contextlib.redirect_stdout(io.StringIO()):
            self.trainer = trainer.Trainer(
                network, [losses.MinimaxGeneratorLoss(), losses.MinimaxDiscriminatorLoss()], device=device, sample_size=16,
                epochs=1, **dict.fromkeys(("checkpoints", "recon", "log_dir"), str(folder.parent / "torchgan")))
        self.trainer.batch_size, self.g = config.batch_size, self.trainer.generator
        self.device, self.loader = device, png_loader(folder, config.batch_size)

    def run(self, steps):
        for real, labels in in_epochs(self.loader, steps):
            self.trainer.real_inputs, self.trainer.labels = real.to(self.device), labels.to(self.device)
            self.trainer.train_iter()


def read_runs(path):
    """The records in a file of JSON lines; a line that a kill left unfinished does not count."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def append_run(path, record):
    """Add a line, after the end of one that was left unfinished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a") as file:
        file.write("\n" * unfinished + json.dumps(record) + "\n")
