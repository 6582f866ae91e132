"""--replay: the step that is recorded on a GPU and replayed, and where it is left as it is.

Without a GPU a graph is stood in for by the step itself, taken anew on the tensors of the first
batch: what would be baked into a graph, and what it reads, is the same.
"""

import contextlib
import copy
import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import rollNumber_05 as malaria
from extras import replay

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
STEPS = replay.WARM_UP + 4


class NoGraph:
    """In place of a CUDAGraph: takes a ReplayedStep's step and writes its metrics."""

    def __init__(self, owner):
        self.owner = owner

    def replay(self):
        """A step on the batches and rates that a graph would read."""
        plain = [group["lr"] for group in self.owner.groups]
        for group, rate in zip(self.owner.groups, self.owner.rates, strict=True):
            group["lr"] = rate
        metrics = self.owner.step(*self.owner.batches, True, None)
        for group, lr in zip(self.owner.groups, plain, strict=True):
            group["lr"] = lr
        for own, new in zip(self.owner.metrics, metrics, strict=True):
            own.copy_(new)


class StepWithoutGraph(replay.ReplayedStep):
    """A ReplayedStep that needs no GPU."""

    def warm_up(self, real, head):
        """A step as ever."""
        return self.step(real, head, True, None)

    def record(self, real, head):
        """Fix the batches and where metrics are written."""
        self.batches = copy.deepcopy((real, head))
        self.metrics = malaria.StepMetrics(*(torch.zeros(()) for _ in range(5)))
        self.graph = NoGraph(self)


@pytest.fixture
def make_trainer(small_config, random_data):
    """The function (task, device, flags) -> (Trainer, its data); replay stands in on a CPU."""

    def make(task, device="cpu", **flags):
        settings = {"adversarial_every": 1, "precision": "fp32"}
        config = small_config(device=device, **{**settings, **flags})
        data = random_data([row % 4 for row in range(40)])
        data = malaria.MalariaDataset(data.images, data.index, device=device)
        trainer = malaria.Trainer(task, config, data.classes, device)
        if config.replay and device == "cpu":
            trainer.run_updates = StepWithoutGraph(
                trainer.update_networks, trainer.optimizers, trainer.device
            )
        return trainer, data

    return make


def train(trainer, data, epochs, steps=STEPS, start=0):
    """Some epochs, the learning rates falling over the last of them."""
    for epoch in range(start, epochs):
        trainer.set_rate_factor(epoch / epochs)
        trainer.train_epoch(data, steps, malaria.tqdm(disable=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("gan", {}),
        ("gan", {"augment": False, "loss": "hinge"}),
        ("gan", {"d_steps": 2}),
        ("mtd", {}),
        ("mtd", {"augment": False}),
        ("mtd", {"adversarial_every": 2}),
        ("mtd", {"conditional": True}),
    ],
)
def test_replayed_training_is_that_without(make_trainer, device, task, flags):
    """Losses, strength of the augmentation and averages, while learning rates fall."""
    eager, data = make_trainer(task, device, lr_decay=0.5, **flags)
    replayed, _ = make_trainer(task, device, lr_decay=0.5, replay=True, **flags)
    for trainer in (eager, replayed):
        train(trainer, data, epochs=3, steps=5)  # in some thirty steps rounding grows to 1e-2
    assert replayed.run_updates.graph is not None
    torch.testing.assert_close(replayed.traces, eager.traces, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(replayed.strength, eager.strength)
    for name, average in eager.averages.items():
        for own, other in zip(
            replayed.averages[name].parameters(), average.parameters(), strict=True
        ):
            torch.testing.assert_close(own, other, atol=1e-3, rtol=1e-3)


def test_learning_rates_of_zero_stop_a_replayed_training(make_trainer):
    """A graph reads the rates of the epoch, not of the step that it was recorded from."""
    trainer, data = make_trainer("gan", replay=True)
    train(trainer, data, epochs=1)
    before = copy.deepcopy(trainer.networks["generator"].state_dict()["blocks.0.weight"])
    trainer.rate_factor = 0.0
    trainer.train_epoch(data, 3, malaria.tqdm(disable=True))
    after = trainer.networks["generator"].state_dict()["blocks.0.weight"]
    assert torch.equal(before, after)


@pytest.mark.parametrize("device", DEVICES)
def test_a_checkpoint_of_a_replayed_training_is_like_any(make_trainer, device, tmp_path):
    """Numbers of the optimisers are plain, and a run goes on from it."""
    trainer, data = make_trainer("gan", device, replay=True)
    train(trainer, data, epochs=1)
    path = tmp_path / "last.pt"
    malaria.save_checkpoint(trainer.state(), path)
    resumed, _ = make_trainer("gan", device)
    malaria.restore(resumed, dataclasses.replace(resumed.config, resume=str(path)))
    assert resumed.epoch == 1


def test_a_resumed_training_equals_one_without_a_stop(make_trainer):
    """But for rounding: its first steps are warm-up again."""
    through, data = make_trainer("gan", replay=True)
    train(through, data, epochs=2)
    first, _ = make_trainer("gan", replay=True)
    train(first, data, epochs=1)
    resumed, _ = make_trainer("gan", replay=True)
    resumed.load(copy.deepcopy(first.state()))
    train(resumed, data, epochs=2, start=1)
    torch.testing.assert_close(resumed.traces, through.traces, atol=1e-3, rtol=1e-3)


def test_a_step_that_cannot_be_recorded_is_one_line(make_trainer, monkeypatch):
    """It names the flag to go without, and leaves the optimisers as they were."""

    def failing(graph):
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", failing)
    trainer, data = make_trainer("gan")
    step = replay.ReplayedStep(trainer.update_networks, trainer.optimizers, CPU)
    with pytest.raises(RuntimeError, match=r"operation not permitted.*--no-replay"):
        step.record(data.__getitems__([0, 1]), None)
    assert step.groups[0]["lr"] == trainer.config.lr_g
    assert not step.groups[0]["capturable"]


class TensorsOnCpu(TorchDispatchMode):
    """Inside the block `operators` gets those that read or make a tensor on the CPU."""

    def __init__(self):
        super().__init__()
        self.operators = []

    def __torch_dispatch__(self, operator, types, arguments=(), settings=None):
        """Call an operator."""
        result = operator(*arguments, **(settings or {}))
        values = tree_leaves((arguments, settings, result))
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.operators.append(str(operator))
        return result


def batch_without_numbers(count, config):
    """A Batch on the meta device, whose tensors have shapes only."""
    images = torch.empty(count, 3, config.image_size, config.image_size, device="meta")
    return malaria.Batch(images, torch.empty(count, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("gan", {}),
        ("gan", {"loss": "wgan-gp"}),
        ("gan", {"feature_matching": 0.1, "fresh_noise": True}),
        ("mtd", {}),
        ("mtd", {"conditional": True}),
    ],
)
def test_a_step_neither_waits_for_the_device_nor_copies_to_it(
    small_config, monkeypatch, task, flags
):
    """What a graph cannot record: on the meta device a look at a number is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *settings, **more: contextlib.nullcontext())
    config = small_config(optimizer="sgd", **flags)  # fused Adam is not for the meta device
    trainer = malaria.Trainer(task, config, ["ring", "schizont"], "meta")
    head = batch_without_numbers(16, config) if task == "mtd" else None
    with TensorsOnCpu() as seen:
        trainer.update_networks(batch_without_numbers(8, config), head, True, None)
    assert seen.operators == []


def test_without_a_gpu_nothing_is_replayed(make_trainer):
    """The flag asks for nothing on a CPU."""
    trainer, _ = make_trainer("gan")
    step = replay.replayed(trainer.update_networks, trainer.optimizers, CPU)
    assert step == trainer.update_networks


def test_another_optimiser_is_not_replayed(make_trainer):
    """Its learning rate is a number on the CPU."""
    trainer, _ = make_trainer("gan", optimizer="sgd")
    cuda = torch.device("cuda")  # is not used: nothing is put there
    step = replay.replayed(trainer.update_networks, trainer.optimizers, cuda)
    assert step == trainer.update_networks
