"""What a GPU makes of a training step, in one go of under eight minutes; JSON lines in --out.

    python -m benchmarks.gpu_day                all cases that fit into --minutes, on the demo set
    python -m benchmarks.gpu_day --summary      the table of what is in --out
    python -m benchmarks.gpu_day --smoke        a few steps of each loop, on a CPU too

Loops take turns, with equal networks and batches:

tutorial   PyTorch's DCGAN loop as its users tune it for a GPU: an ImageFolder of PNG crops, workers
           that stay, pinned memory
eager      the script without --replay
replayed   the script with --replay: its step recorded as one CUDA graph
equal      the same without augmentation, averages and filter, which the tutorial lacks
traced     the script's networks as CUDA graphs of torch.compile (backend "cudagraphs")
compiled   the script's networks by torch.compile (mode "reduce-overhead")

The last two are measured after all others, in some cases. Where there is no CUDA the same code
runs without graphs.

A line says for a loop: images/s (median, lowest and highest of the rounds) and how much that is of
the tutorial's; of a step its ms, how often the CPU launches work, how many kernels run, and what
share of the ms the GPU is busy (torch.profiler; on a CPU, launches are operators called); the most
memory; seconds to make the loop and take its first step; of the replayed one, how far its losses
are from those of the eager step at most, from the same weights on the same batches and random
numbers. Of a loop that fails it says why. The first lines have the seconds from the command to the
end of six steps, of which the last is the first that is replayed.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import io
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

import rollNumber_05 as malaria
from benchmarks.peers import ScriptLoop, TutorialLoop, png_loader, write_png_folder
from benchmarks.runs import (
    ROOT,
    append_run,
    finished_runs,
    hardware,
    make_parser,
    output,
    text_of,
)
from benchmarks.speed_training import EQUAL_WORK, NETWORKS, interleaved
from extras.replay import WARM_UP

COMPILED_CASES = 3


class Case(NamedTuple):
    """What is trained; networks: a key of NETWORKS, side: of the images, pixels."""

    task: str
    networks: str
    side: int
    batch_size: int


CASES = [  # the most wanted first; torch.compile is tried with the first three
    Case("gan", "the assignment's", 64, 32),
    Case("mtd", "the assignment's", 64, 32),
    Case("gan", "the paper's", 64, 32),
    Case("gan", "the paper's", 64, 128),
    Case("gan", "the assignment's", 64, 128),
    Case("gan", "the paper's", 128, 32),
    Case("gan", "the assignment's", 128, 32),
    Case("mtd", "the paper's", 64, 32),
    Case("gan", "the paper's", 128, 128),
    Case("gan", "the assignment's", 128, 128),
]


# Loops


class TunedTutorialLoop(TutorialLoop):
    """The tutorials' loop with workers that stay and pinned memory."""

    def __init__(self, task, config, folder, num_classes, device):
        super().__init__(task, config, folder, num_classes, device)
        dataset = png_loader(folder, config.batch_size).dataset
        resize, crop, *_ = dataset.transform.transforms
        resize.size = crop.size = (config.image_size, config.image_size)
        self.loader = DataLoader(
            dataset,
            config.batch_size,
            shuffle=True,
            num_workers=2,
            drop_last=True,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )


class CompiledLoop(ScriptLoop):
    """The script's training, its networks through torch.compile."""

    def __init__(self, task, config, data, **settings):
        super().__init__(task, config, data)
        if data.device.type != "cuda":
            settings = {"backend": "eager"}  # compiling for a CPU takes minutes and gains nothing
        for network in self.trainer.networks.values():
            network.compile(**settings)


def tuned_tutorial_loop(task, config, data, files):
    """The tutorials' loop; files: the folder with the training cells as PNG."""
    return TunedTutorialLoop(task, config, files, len(data.classes), data.device)


def eager_loop(task, config, data, files):
    """The script, one kernel after the other."""
    return ScriptLoop(task, dataclasses.replace(config, replay=False), data)


def replayed_loop(task, config, data, files):
    """The script's step as one graph."""
    return ScriptLoop(task, dataclasses.replace(config, replay=True), data)


def equal_loop(task, config, data, files):
    """The same without what the tutorials lack."""
    return ScriptLoop(task, dataclasses.replace(config, replay=True, **EQUAL_WORK), data)


def traced_loop(task, config, data, files):
    """Each pass of a network as a graph."""
    return CompiledLoop(task, config, data, backend="cudagraphs")


def compiled_loop(task, config, data, files):
    """The same with kernels that are put together."""
    return CompiledLoop(task, config, data, mode="reduce-overhead")


LOOPS = {
    "tutorial": tuned_tutorial_loop,
    "eager": eager_loop,
    "replayed": replayed_loop,
    "equal": equal_loop,
    "traced": traced_loop,
    "compiled": compiled_loop,
}
OWN = ("tutorial", "eager", "replayed", "equal")
OTHERS = ("tutorial", "eager", "traced", "compiled")


# What is measured


def run_quietly(loop, steps):
    """Train for some steps, without the line that the tutorials print at each; wait for the GPU."""
    with contextlib.redirect_stdout(io.StringIO()):
        loop.run(steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def first_step(make, device):
    """(a new loop, its seconds from nothing to the end of its first step, GiB of its first steps).

    make: the function that makes it. Memory is of a GPU, None on a CPU.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    loop = make()
    run_quietly(loop, 1)
    seconds = time.perf_counter() - start
    run_quietly(loop, WARM_UP + 1)
    memory = (torch.cuda.max_memory_allocated(device) - before) / 2**30 if on_gpu else None
    return loop, seconds, memory


def work_of_steps(loop, steps, device):
    """{"launches", "kernels", "busy_ms": ms in which the GPU works} of a step."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        run_quietly(loop, steps)
    events = profiler.events()
    if device.type != "cuda":
        operators = [event for event in events if is_outermost_operator(event)]
        return {"launches": len(operators) / steps, "kernels": None, "busy_ms": None}
    launches = [event for event in events if is_launch(event)]
    kernels = [event for event in events if is_kernel(event)]
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1e3
    return {
        "launches": len(launches) / steps,
        "kernels": len(kernels) / steps,
        "busy_ms": busy / steps,
    }


def is_launch(event):
    """Whether a profiled event is a call that starts a kernel or a graph: cudaLaunchKernel etc."""
    return event.name.startswith("cu") and "Launch" in event.name


def is_kernel(event):
    """Whether a profiled event is work of the GPU, copies included."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def is_outermost_operator(event):
    """Whether a profiled event is an operator that no other operator called."""
    parent = event.cpu_parent
    is_inner = parent is not None and parent.name.startswith("aten::")
    return event.name.startswith("aten::") and not is_inner


def difference_of_losses(replayed, steps):
    """The largest difference of a loss between replayed and eager steps from the same start.

    replayed: a ScriptLoop with --replay that has recorded its step.
    """
    trainer = replayed.trainer
    config = dataclasses.replace(trainer.config, replay=False)
    eager = malaria.Trainer(trainer.task, config, trainer.classes, trainer.device)
    eager.load(copy.deepcopy(trainer.state()))
    batches = [copy.deepcopy(part) for part in trainer.step_data(replayed.data, steps)]
    losses = []
    for step in (trainer.adversarial_step, eager.adversarial_step):
        torch.manual_seed(0)
        losses.append(torch.stack([torch.stack(step(*parts)) for parts in batches]))
    return (losses[0] - losses[1]).abs().max().item()


class Lengths(NamedTuple):
    """Rounds, and steps of a round and of what is profiled and compared."""

    rounds: int
    steps: int
    profiled: int


def lengths_of(case, smoke):
    """The Lengths of a case: some seconds a round on a data centre's GPU."""
    if smoke:
        return Lengths(rounds=1, steps=2, profiled=2)
    steps = 100 if case.networks == "the assignment's" else 40
    return Lengths(rounds=4, steps=steps, profiled=20)


def rates(case, steps, seconds, tutorial_seconds):
    """Images/s of rounds of steps: median, range, and over the tutorial's median; ms of a step."""
    median = statistics.median(seconds)
    images = steps * case.batch_size
    return {
        "images_per_second": images / median,
        "lowest": images / max(seconds),
        "highest": images / min(seconds),
        "over_tutorial": statistics.median(tutorial_seconds) / median,
        "step_ms": 1e3 * median / steps,
    }


def measure_case(case, names, config, data, files, smoke):
    """A record for each loop of a case, also for one that fails."""
    lengths = lengths_of(case, smoke)
    loops = {}
    records = {}
    for name in names:
        records[name] = {**case._asdict(), "loop": name}
        make = functools.partial(LOOPS[name], case.task, config, data, files)
        with noting_failure(records[name]):
            loops[name], seconds, memory = first_step(make, data.device)
            records[name] |= {"seconds_to_first_step": seconds, "memory_gib": memory}
    seconds = interleaved(loops, lengths.rounds, lengths.steps, data.device)
    for name, loop in loops.items():
        with noting_failure(records[name]):
            records[name] |= rates(case, lengths.steps, seconds[name], seconds["tutorial"])
            records[name] |= work_of_steps(loop, lengths.profiled, data.device)
    if "replayed" in loops:
        with noting_failure(records["replayed"]):
            difference = difference_of_losses(loops["replayed"], lengths.profiled)
            records["replayed"]["loss_difference"] = difference
    return list(records.values())


@contextlib.contextmanager
def noting_failure(record):
    """An error inside the block becomes a part of the record: what other loops say is not lost."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        record["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        print(f"failed: {record}", flush=True)


def measure_first_steps(flags):
    """Seconds from a command to its end after the first steps, without and with --replay."""
    records = []
    for name in ("eager", "replayed"):
        command = [sys.executable, "-m", "benchmarks.gpu_day", "--first_step", name]
        command += ["--device", flags.device, "--data_path", flags.data_path]
        if flags.smoke:
            command.append("--smoke")
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
        records.append({"loop": name, "seconds_from_command": seconds})
    return records


def config_of(case, folder, flags):
    """The script's Config of a case; small networks in a smoke run."""
    width = 16 if flags.smoke else NETWORKS[case.networks]
    g_width = 2 * width if case.networks == "the paper's" else width  # 1024, as it had them
    return malaria.Config(
        data_path=flags.data_path,
        task=case.task,
        results_dir=str(folder),
        device=flags.device,
        image_size=case.side,
        batch_size=case.batch_size,
        adversarial_every=1,
        g_width=g_width,
        d_width=width,
    )


def measure(flags, out):
    """Measure the cases one after the other, each written when it is done."""
    end = time.perf_counter() + 60 * flags.minutes
    device = malaria.pick_device(flags.device)
    about = {"hardware": hardware(device)}
    prepared = {}  # side of the images: data, and the folder of its training cells
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for record in measure_first_steps(flags):
            append_run(out, about | record)
        for case, names in cases(flags.smoke):
            if time.perf_counter() > end:
                print(f"not measured, --minutes {flags.minutes} are over: {case} {names}")
                continue
            config = config_of(case, folder, flags)
            if case.side not in prepared:
                data = malaria.load_data(config, device)
                files = folder / f"png{case.side}"
                write_png_folder(data, files)
                prepared[case.side] = (data, files)
            together = {**case._asdict(), "loop": ", ".join(names)}
            with noting_failure(together):
                for record in measure_case(case, names, config, *prepared[case.side], flags.smoke):
                    append_run(out, about | record)
            if "failed" in together:
                append_run(out, about | together)
            print(f"measured {case} {names}", flush=True)


def cases(smoke):
    """(Case, names of its loops), the most wanted first."""
    if smoke:
        return [(CASES[0], OWN), (CASES[1], OWN), (CASES[0], OTHERS)]
    own = [(case, OWN) for case in CASES]
    others = [(case, OTHERS) for case in CASES[:COMPILED_CASES]]
    return own + others


def take_first_step(flags):
    """What a user waits for before steps are as fast as they get, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(CASES[0], folder, flags)
        data = malaria.load_data(config, malaria.pick_device(flags.device))
        run_quietly(LOOPS[flags.first_step](CASES[0].task, config, data, None), WARM_UP + 1)


def summary(path):
    """The lines of a file as tables. Raises UsageError if there is none."""
    runs = finished_runs(path)
    steps = runs.dropna(subset="task").drop(columns=["hardware", "seconds_from_command"])
    starts = runs.dropna(subset="seconds_from_command")
    parts = [f"Hardware: {', '.join(runs.hardware.unique())}.", ""]
    keys = list(Case._fields)
    numbers = steps.astype({"side": int, "batch_size": int}).set_index([*keys, "loop"]).round(3)
    parts.append(numbers.to_string(na_rep=""))
    waits = starts.set_index("loop")[["seconds_from_command"]].round(1)
    parts += ["", f"From the command to its end after {WARM_UP + 1} steps, s:", text_of(waits)]
    return "\n".join(parts)


def run(arguments):
    """Do what a command line says."""
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=6.0, help="no new case begins after them")
    parser.add_argument("--first_step", choices=OWN[1:], help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.first_step:
        take_first_step(flags)
        return
    with output(flags, "gpu_day.jsonl") as out:
        if not flags.summary:
            measure(flags, out)
        print(summary(out))


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
