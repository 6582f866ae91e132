"""The classifiers that benchmarks.classifiers compares: how each is trained and answers.

All that is trained in steps goes through the script's Trainer, so that first weights, batches,
augmentation and averaging are alike.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import rollNumber_05 as malaria
from extras import symmetry
from extras.quality import feature_network

SIDE = 112  # pixels of the cells that a pretrained network sees
ALL_VIEWS = sum(1 for _ in symmetry.turns(torch.zeros(1, 1, 4, 4)))
SELDOM = 16  # at every how many steps an MTD on a DCGAN tells real from fake, as in the script


class EnlargedCells(malaria.MalariaDataset):
    """The same cells as colour images of SIDE pixels."""

    def __getitems__(self, indices):
        """The Batch of some images."""
        batch = super().__getitems__(indices)
        images = F.interpolate(batch.images, (SIDE, SIDE), mode="bilinear", align_corners=False)
        images = images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        return malaria.Batch(images, batch.labels)


# Training in steps


class HeadTrainer(malaria.Trainer):
    """An MTD's classifier on J(C) alone; its G and the real/fake head do not learn."""

    def __init__(self, config, data):
        # J(C) has nothing to outweigh, and hardly any adversarial batch is to be drawn in vain.
        config = dataclasses.replace(config, class_weight=1.0, adversarial_every=SELDOM)
        super().__init__("mtd", config, data.classes, data.device)
        self.networks["discriminator"].real_fake.requires_grad_(False)

    def step_data(self, data, steps):
        """Yield the StepData of an MTD's epoch without the adversarial part."""
        for batches in super().step_data(data, steps):
            yield malaria.StepData(None, batches.head)

    def head_step(self, head, last):
        """One update; returns StepMetrics, of which only J(C) is not zero."""
        zero = torch.zeros((), device=self.device)
        nothing = malaria.StepMetrics(zero, zero, zero, zero, zero)
        return super().head_step(head, nothing)


class PeerRecipe(NamedTuple):
    """Another network and how AdamW trains it."""

    build: Callable  # number of classes -> network of class logits
    parameter_groups: Callable  # network -> AdamW's groups with their rates
    weight_decay: float


class PeerTrainer(HeadTrainer):
    """Another network in the same loop; its rates rise for 5 % of the steps, then fall to zero."""

    def __init__(self, config, data, recipe, steps):
        super().__init__(config, data)
        self.steps = steps
        network = recipe.build(len(data.classes))
        optimizer = torch.optim.AdamW(
            recipe.parameter_groups(network), weight_decay=recipe.weight_decay, fused=True
        )
        classifier = LogitsOnly(network).to(data.device, memory_format=torch.channels_last)
        self.networks["discriminator"] = classifier
        self.averages["discriminator"] = malaria.averaged(classifier)
        self.optimizers["discriminator"] = optimizer
        self.schedule = LambdaLR(optimizer, self.warm_up_and_cosine)

    def warm_up_and_cosine(self, step):
        """The share of its highest that a rate has at a step."""
        rising = (step + 1) / (0.05 * self.steps + 1)
        falling = (1 + math.cos(math.pi * step / self.steps)) / 2
        return min(rising, falling)

    def set_rate(self, name, lr):
        """Nothing: the schedule sets the rates, at every step."""

    def head_step(self, head, last):
        """One update; returns StepMetrics."""
        losses = super().head_step(head, last)
        self.schedule.step()
        return losses


class LogitsOnly(nn.Module):
    """A network of class logits in the form of an MTD; of real and fake it says nothing."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        """Images (B, C, S, S) in [-1, 1] -> DiscriminatorOutput, real_logits 0."""
        class_logits = self.network(images).float()
        return malaria.DiscriminatorOutput(class_logits.new_zeros(len(images)), class_logits)


def pretrained_network():
    """The script's feature network without its classification layer."""
    network = feature_network()
    network._fc = nn.Identity()
    return network


def pooled_features(backbone, images):
    """Images (B, 3, SIDE, SIDE) in [-1, 1] -> features (B, 1280)."""
    return backbone.extract_features(images).mean((2, 3))


class FineTuned(nn.Module):
    """The pretrained network with a new linear layer."""

    def __init__(self, num_classes):
        super().__init__()
        self.backbone = pretrained_network()
        self.classify = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, images):
        """Images (B, 3, SIDE, SIDE) in [-1, 1] -> class logits (B, n)."""
        return self.classify(pooled_features(self.backbone, images))


def fine_tuned_groups(network):
    """AdamW's groups of a FineTuned: what is pretrained learns more slowly."""
    return [
        {"params": network.backbone.parameters(), "lr": 3e-4},
        {"params": network.classify.parameters(), "lr": 3e-3},
    ]


def resnet18(num_classes):
    """ResNet-18 (He et al. 2016) of torchvision with random weights."""
    from torchvision import models

    return models.resnet18(weights=None, num_classes=num_classes)


def resnet18_groups(network):
    """AdamW's group of a ResNet-18."""
    return [{"params": network.parameters(), "lr": 1e-3}]


EFFNET = PeerRecipe(FineTuned, fine_tuned_groups, weight_decay=0.01)
RESNET18 = PeerRecipe(resnet18, resnet18_groups, weight_decay=0.05)


def make_dcgan(config, data):
    """The Trainer of the DCGAN under an MTD."""
    return malaria.Trainer("gan", config, data.classes, data.device)


def make_mtd(config, data, steps, *, every=1, conditional=False):
    """The Trainer of an MTD. every: at every how many steps real is told from fake."""
    config = dataclasses.replace(config, adversarial_every=every, conditional=conditional)
    return malaria.Trainer("mtd", config, data.classes, data.device)


def make_head(config, data, steps):
    """The Trainer of the head on a DCGAN, at the rate of its MTD's steps on J(C) alone."""
    return HeadTrainer(config, data)


def make_head_scratch(config, data, steps):
    """The Trainer of the head from random weights, at the rate of its MTD's every step."""
    return HeadTrainer(dataclasses.replace(config, lr_c=config.lr_d), data)


def make_effnet(config, data, steps):
    """The Trainer of the fine-tuned network; on a CPU its convolutions are slower in bf16."""
    return PeerTrainer(dataclasses.replace(config, precision="fp32"), data, EFFNET, steps)


def make_resnet18(config, data, steps):
    """The Trainer of the ResNet-18."""
    return PeerTrainer(config, data, RESNET18, steps)


class Model(NamedTuple):
    """A classifier of the comparison.

    make_trainer: (config, cells, steps in all) -> Trainer; None: it is not trained in steps.
    length: whose number of steps it has, "script" or "peer".
    on_dcgan: whether it starts from the weights of a DCGAN of its training cells.
    pretrained: whether it sees enlarged cells and answers over the exact views only.
    settings: names of the flags that are noted with its results.
    """

    make_trainer: Callable | None
    length: str = "script"
    on_dcgan: bool = False
    pretrained: bool = False
    settings: tuple = ()

    @property
    def views(self):
        """Over how many views of a cell its answer is the mean."""
        return symmetry.EXACT_TURNS if self.pretrained else ALL_VIEWS

    def cells(self, data, rows):
        """Some rows of the data as it sees them."""
        kind = EnlargedCells if self.pretrained else malaria.MalariaDataset
        return kind(data.images, data.index, rows, data.device)


MODELS = {
    "mtd": Model(
        functools.partial(make_mtd, every=SELDOM), on_dcgan=True, settings=("smooth", "lr_c")
    ),
    "head": Model(make_head, on_dcgan=True, settings=("smooth", "lr_c")),
    "conditional": Model(
        functools.partial(make_mtd, conditional=True), on_dcgan=True, settings=("smooth",)
    ),
    "mtd_scratch": Model(make_mtd, settings=("smooth",)),
    "head_scratch": Model(make_head_scratch),
    "effnet": Model(make_effnet, length="peer", pretrained=True),
    "probe": Model(None, length="none", pretrained=True),
    "resnet18": Model(make_resnet18, length="peer"),
}


class Length(NamedTuple):
    """Epochs of a training and the steps of each."""

    epochs: int
    steps: int

    @property
    def all_steps(self):
        """Steps of the whole training."""
        return self.epochs * self.steps


def run_epochs(trainer, cells, length):
    """Train until the epochs of a Length are done; yields after each."""
    while trainer.epoch < length.epochs:
        trainer.set_rate_factor(trainer.epoch / length.epochs)
        trainer.train_epoch(cells, length.steps, malaria.tqdm(disable=True))
        yield trainer.epoch


def train_dcgan(config, cells, length, path):
    """Train the DCGAN under an MTD, its state in `path` after every epoch.

    Goes on from what is there. Raises UsageError if that was made with other settings.
    """
    config = dataclasses.replace(config, task="gan", epochs=length.epochs)
    trainer = make_dcgan(config, cells)
    if path.exists():
        state = malaria.load_checkpoint(path, "gan").state
        if state["config"] != vars(trainer.config):
            raise malaria.UsageError(
                f"{path}: made with other settings; delete it or give another --out"
            )
        trainer.load(state)
    for _ in run_epochs(trainer, cells, length):
        malaria.save_checkpoint(trainer.state(), path)


# Answers


class Answers(NamedTuple):
    """Class probabilities (N, n) of held-out cells, and how many parameters were trained."""

    probabilities: np.ndarray
    parameters: int


def train_and_answer(name, config, train, held_out, length, dcgan=None):
    """The Answers about held-out cells of one of MODELS after its training.

    dcgan: the checkpoint that it starts from.
    """
    model = MODELS[name]
    if model.make_trainer is None:
        return probe_answers(train, held_out)
    trainer = model.make_trainer(config, train, length.all_steps)
    if dcgan:
        trainer.start_from(dcgan)
    for _ in run_epochs(trainer, train, length):
        pass
    network = trainer.networks["discriminator"]
    trained = [weights for weights in network.parameters() if weights.requires_grad]
    parameters = sum(weights.numel() for weights in trained)
    average = trainer.averages["discriminator"].module
    if not model.pretrained:
        found = malaria.predict(average, held_out, config.loss, symmetry="all")
        return Answers(found.probabilities, parameters)

    def probabilities(images):
        return average(images).class_logits.softmax(1)

    return Answers(mean_over_exact_views(probabilities, held_out), parameters)


@torch.no_grad()
def mean_over_exact_views(answer, data):
    """Mean of answer(images) over the views that need no resampling, as numpy (N, n)."""
    means = []
    for batch in malaria.in_order(data, batch_size=64):
        views = itertools.islice(symmetry.turns(batch.images), symmetry.EXACT_TURNS)
        means.append(torch.stack([answer(view) for view in views]).mean(0))
    return torch.cat(means).cpu().numpy()


def probe_answers(train, held_out):
    """The Answers of a logistic regression on the pretrained network's features.

    They are standardised and the classes balanced.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    backbone = pretrained_network().eval().to(train.device)
    features_of = functools.partial(pooled_features, backbone)
    features = mean_over_exact_views(features_of, train)
    regression = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    fitted = make_pipeline(StandardScaler(), regression)
    fitted.fit(features, train.labels.cpu().numpy())
    # A rare class may lack in training; it gets probability 0.
    probabilities = np.zeros((len(held_out), len(train.classes)))
    found = fitted.predict_proba(mean_over_exact_views(features_of, held_out))
    probabilities[:, fitted.classes_] = found
    return Answers(probabilities, regression.coef_.size + regression.intercept_.size)
