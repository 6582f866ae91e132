"""Exponential moving averages of a network's weights, which are what a run is judged by."""

import torch
from torch.optim.swa_utils import AveragedModel


def averaged(network):
    """An AveragedModel of a network, batch statistics too, in eval mode."""
    average = AveragedModel(network, use_buffers=True)
    return average.eval().requires_grad_(False)


def state_tensors(network):
    """A network's weights and batch statistics, and its counters of batches: two lists."""
    tensors = [*network.parameters(), *network.buffers()]
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    counters = [tensor for tensor in tensors if not tensor.is_floating_point()]
    return floats, counters


@torch.no_grad()
def update_average(average, network, decay):
    """Average a network that has just learnt: keep a share `decay` of the average, less at first.

    After n updates at most (1 + n)/(10 + n) is kept, so that early weights are soon forgotten; the
    first is a copy. AveragedModel's own update takes a call for each counter, six times as many:
    on a GPU a call costs more than its work.
    """
    updates = int(average.n_averaged)  # a counter on the CPU: no waiting for the GPU
    kept = min(decay, (1 + updates) / (10 + updates)) if updates else 0.0
    floats, counters = state_tensors(average.module)
    new_floats, new_counters = state_tensors(network)
    torch._foreach_lerp_(floats, new_floats, 1 - kept)
    if counters:  # of batch norm
        torch._foreach_copy_(counters, new_counters)
    average.n_averaged += 1
