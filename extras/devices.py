"""Where a run is: device, precision, memory, and which of several processes this is."""

import ctypes
import os
import sys

import torch
import torch.distributed as dist

from extras import UsageError

M_TRIM_THRESHOLD = -1  # constants of malloc.h
M_MMAP_THRESHOLD = -3


def pick_device(name):
    """torch.device for auto, cpu, cuda or mps; each of several processes gets a GPU of its own.

    Raises UsageError.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if torch.backends.mps.is_available():
        available.append("mps")  # only if asked for: it is not tested
    if name == "auto":
        name = available[0]
    if name not in available:
        raise UsageError(
            f"--device {name} is not available here; use --device {' or '.join(available)}"
        )
    if name != "cuda":
        return torch.device(name)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    gpus = torch.cuda.device_count()
    if rank >= gpus:
        raise UsageError(
            f"--nproc_per_node: every process needs a GPU of its own, here are {gpus}; "
            "or give --device cpu"
        )
    return torch.device("cuda", rank)


def pick_precision(name, device):
    """torch.dtype of convolutions and matrix products in training.

    auto: bf16 where it was measured to be faster: on CPUs with AMX, and on AMD's with AVX-512's.
    On GPUs these small networks were no faster in it.
    """
    if name == "bf16":
        return torch.bfloat16
    if name == "auto" and device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        is_intel = "Intel" in has.get("cpu_name", "")
        if has.get("amx_bf16") or (has.get("avx512_bf16") and not is_intel):
            return torch.bfloat16
    return torch.float32


def keep_freed_memory():
    """Let the C library keep what a training step on the CPU frees, for the next step.

    Otherwise it goes back to Linux, and each page of it that the next step writes is a fault. Only
    glibc can be told so.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # bytes; the most that every glibc takes
        mallopt(M_TRIM_THRESHOLD, 2**30)


def processes():
    """(number of this process, number of all processes) of a torchrun, else (0, 1)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_first_process():
    """Whether this process is the one that writes, draws and evaluates."""
    return processes()[0] == 0


def check_torchrun():
    """Raise UsageError if the environment says that torchrun is at work, but lacks its parts."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in os.environ]
    if "LOCAL_RANK" in os.environ and missing:
        raise UsageError(
            f"LOCAL_RANK is set, but not {', '.join(missing)}; start it with torchrun, or unset it"
        )
