"""A training step recorded once on a GPU, as a CUDA graph, and replayed on new batches.

Small networks leave a GPU waiting for the CPU, which starts some hundred kernels a step one by one.
A graph starts them all at once. It reads and writes the same tensors at each replay, so batches
and learning rates are copied to where it reads them.
"""

import copy

import torch

from extras.devices import processes

WARM_UP = 5  # steps taken one kernel at a time: libraries choose and load their kernels


def replayed(step, optimizers, device):
    """A step as one that is replayed; as it is where that is not possible.

    step: (real, head, trains_generator, previous) -> a NamedTuple of tensors, as
    Trainer.update_networks; optimizers: {name: torch.optim.Optimizer}. Needed are CUDA, one process
    and fused Adam, the only optimiser here whose learning rate and counter can be on the GPU.
    """
    has_fused_adam = all(
        isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["fused"]
        for optimizer in optimizers.values()
    )
    if device.type != "cuda" or processes()[1] > 1 or not has_fused_adam:
        return step
    return ReplayedStep(step, optimizers, device)


class ReplayedStep:
    """Called like the step that it records after WARM_UP calls and replays from then on.

    A step that leaves G as it is is not replayed. What is returned is overwritten by the next call.
    """

    def __init__(self, step, optimizers, device):
        self.step = step
        self.groups = [optimizer.param_groups[0] for optimizer in optimizers.values()]
        self.rates = [torch.zeros((), device=device) for _ in self.groups]
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.calls = 0
        self.batches = None  # (real, head) that the graph reads
        self.graph = None
        self.metrics = None  # what it writes

    def __call__(self, real, head, trains_generator=True, previous=None):
        """Take a step with these Batches; all of one ReplayedStep have the same shapes."""
        if not trains_generator:
            return self.step(real, head, trains_generator, previous)
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.warm_up(real, head)
        if self.graph is None:
            self.record(real, head)
        for own, new in zip(self.batches, (real, head), strict=True):
            if new is not None:
                own.images.copy_(new.images)
                own.labels.copy_(new.labels)
        for rate, group in zip(self.rates, self.groups, strict=True):
            rate.fill_(group["lr"])
        self.graph.replay()
        return self.metrics

    def warm_up(self, real, head):
        """A step as ever, on a stream of its own as is asked for before recording."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            metrics = self.step(real, head, True, None)
        torch.cuda.current_stream().wait_stream(self.stream)
        return metrics

    def record(self, real, head):
        """Record the graph, which takes no step yet. Raises RuntimeError if that fails."""
        self.batches = copy.deepcopy((real, head))
        plain = [group["lr"] for group in self.groups]
        for group, rate in zip(self.groups, self.rates, strict=True):
            group["lr"] = rate
            group["capturable"] = True
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph):
                self.metrics = self.step(*self.batches, True, None)
        except RuntimeError as error:
            raise RuntimeError(
                f"--replay: a step cannot be recorded here ({error}); give --no-replay"
            ) from error
        finally:  # a checkpoint is to have plain numbers
            for group, lr in zip(self.groups, plain, strict=True):
                group["lr"] = lr
                group["capturable"] = False
