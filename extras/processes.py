"""Several processes that torchrun started: one of them writes, all of them train."""

import contextlib
import datetime
import inspect
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import Sampler

from extras.devices import processes


@contextlib.contextmanager
def process_group(device):
    """Inside the block the processes that torchrun started can talk.

    They wait for hours, for the first reading of large data can take long.
    """
    if "LOCAL_RANK" not in os.environ:
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        if dist.is_nccl_available():
            backend = "nccl"
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=6))
    yield
    dist.destroy_process_group()  # not after an error: the others may wait, torchrun ends them


@contextlib.contextmanager
def first_process_first():
    """The other processes run the block when the first one has."""
    rank, world = processes()
    if rank > 0:
        dist.barrier()
    yield
    if rank == 0 and world > 1:
        dist.barrier()


class ProcessBatches(Sampler):
    """A sampler's draws cut into batches, of which each of several processes takes its own.

    Yields index tensors (batch_size,) on the device of the images.
    """

    def __init__(self, sampler, batch_size, device, rank=0, world=1):
        self.sampler = sampler
        self.batch_size = batch_size
        self.device = device
        self.rank = rank
        self.world = world

    def __len__(self):
        return len(self.sampler) // (self.batch_size * self.world)

    def __iter__(self):
        draws = torch.tensor(list(self.sampler)).to(self.device)
        for batches in draws.view(len(self), self.world, self.batch_size):
            yield batches[self.rank]


def in_parallel(network):
    """A network in DistributedDataParallel.

    Running averages stay apart: the first process's are saved.
    """
    wrap = nn.parallel.DistributedDataParallel
    renamed = "forward_sync_buffers" in inspect.signature(wrap).parameters  # by torch 2.15
    name = "forward_sync_buffers" if renamed else "broadcast_buffers"
    return wrap(network, **{name: False})
