"""What a GPU makes of a training step, in one go of under eight minutes; JSON lines in --out.

    python -m benchmarks.gpu_day                all cases that fit into --minutes, on the demo set
    python -m benchmarks.gpu_day --summary      the table of what is in --out
    python -m benchmarks.gpu_day --smoke        a few steps of each loop, on a CPU too

Three loops take turns, with equal networks and batches:

tutorial   PyTorch's DCGAN loop as its users tune it for a GPU: an ImageFolder of PNG crops, workers
           that stay, pinned memory
eager      the script as it runs
replayed   the script's step as one CUDA graph: recorded once, then replayed on new batches. The
           averages are moved outside of it, and learning rates do not fall. Where there is no CUDA
           the same code runs without a graph

A line says for a loop: images/s (median, lowest and highest of the rounds) and how much that is of
the tutorial's; of a step, how often the CPU launches work, how many kernels run and what share of
the time the GPU is busy (torch.profiler; on a CPU, launches are operators called); the most memory;
seconds to make the loop and take its first step; of the replayed one, how far its losses are from
those of the eager step at most, from the same weights on the same batches and random numbers. The
last lines have the seconds from the command to the end of the first step.
"""

import argparse
import contextlib
import copy
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
from benchmarks.peers import Loop, ScriptLoop, TutorialLoop, png_loader, write_png_folder
from benchmarks.runs import (
    ROOT,
    append_run,
    finished_runs,
    hardware,
    make_parser,
    output,
    text_of,
)
from benchmarks.speed_training import NETWORKS, interleaved

WARM_UP = 5  # steps before a graph is recorded: libraries choose and load their kernels


class Case(NamedTuple):
    """What is trained; networks: a key of NETWORKS, side: of the images, pixels."""

    task: str
    networks: str
    side: int
    batch_size: int


CASES = [  # the most wanted first
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


class StepTrainer(malaria.Trainer):
    """A Trainer whose averages are moved apart from the step: their decay is no tensor."""

    def average(self, name):
        """Not yet."""

    def move_averages(self):
        """Move the averages of both networks, which have just learnt."""
        for name in self.networks:
            super().average(name)


class ReplayedLoop(Loop):
    """The script's training, its step recorded as a CUDA graph at the first one."""

    def __init__(self, task, config, data):
        self.trainer = StepTrainer(task, config, data.classes, data.device)
        self.data = data.split("train")
        for optimizer in self.trainer.optimizers.values():
            for group in optimizer.param_groups:
                group["capturable"] = data.device.type == "cuda"
        self.batches = None  # the StepData whose tensors the graph reads
        self.graph = None
        self.losses = None  # the StepMetrics that it writes

    def step(self, batches):
        """One step on a StepData; returns its losses (5,)."""
        if self.batches is None:
            self.record(batches)
        self.fill(batches)
        if self.graph is None:
            self.losses = self.trainer.adversarial_step(*self.batches)
        else:
            self.graph.replay()
        self.trainer.move_averages()
        return torch.stack(self.losses)

    def fill(self, batches):
        """Copy new images and labels to where the graph reads them."""
        for own, new in zip(self.batches[:2], batches[:2], strict=True):
            if new is not None:
                own.images.copy_(new.images)
                own.labels.copy_(new.labels)

    def record(self, batches):
        """Record the graph of a step, where there is CUDA, after some steps of warming up."""
        self.batches = copy.deepcopy(batches)
        if self.trainer.device.type != "cuda":
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.trainer.adversarial_step(*self.batches)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.losses = self.trainer.adversarial_step(*self.batches)

    def run(self, steps):
        """Train for some steps."""
        losses = [self.step(batches) for batches in self.trainer.step_data(self.data, steps)]
        if not torch.stack(losses).isfinite().all():
            raise RuntimeError("a loss of the replayed step is not finite")
        self.trainer.epoch += 1


def make_loop(name, case, config, data, files):
    """The loop of a name; files: the folder with the training cells as PNG."""
    if name == "tutorial":
        return TunedTutorialLoop(case.task, config, files, len(data.classes), data.device)
    if name == "eager":
        return ScriptLoop(case.task, config, data)
    return ReplayedLoop(case.task, config, data)


LOOPS = ("tutorial", "eager", "replayed")


# What is measured


def run_quietly(loop, steps):
    """Train for some steps, without the line that the tutorials print at each; wait for the GPU."""
    with contextlib.redirect_stdout(io.StringIO()):
        loop.run(steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def first_step(make, device):
    """(a new loop, its seconds from nothing to the end of its first step, GiB it needed).

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
    memory = (torch.cuda.max_memory_allocated(device) - before) / 2**30 if on_gpu else None
    return loop, seconds, memory


def work_of_steps(loop, steps, device):
    """{"launches", "kernels" of a step, "busy": share of the time in which the GPU works}."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        run_quietly(loop, steps)
        seconds = time.perf_counter() - start
    events = profiler.events()
    if device.type != "cuda":
        operators = [event for event in events if is_outermost_operator(event)]
        return {"launches": len(operators) / steps, "kernels": None, "busy": None}
    launches = [event for event in events if is_launch(event)]
    kernels = [event for event in events if is_kernel(event)]
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1e6
    return {
        "launches": len(launches) / steps,
        "kernels": len(kernels) / steps,
        "busy": busy / seconds,
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
    """The largest difference of a loss between replayed and eager steps from the same start."""
    trainer = replayed.trainer
    eager = malaria.Trainer(trainer.task, trainer.config, trainer.classes, trainer.device)
    eager.load(copy.deepcopy(trainer.state()))
    batches = [copy.deepcopy(part) for part in trainer.step_data(replayed.data, steps)]
    losses = []
    for step in (replayed.step, lambda parts: torch.stack(eager.adversarial_step(*parts))):
        torch.manual_seed(0)
        losses.append(torch.stack([step(parts) for parts in batches]))
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


def rates(images, seconds, tutorial_seconds):
    """Images/s of rounds of so many images: median, range, and over the tutorial's median."""
    median = statistics.median(seconds)
    return {
        "images_per_second": images / median,
        "lowest": images / max(seconds),
        "highest": images / min(seconds),
        "over_tutorial": statistics.median(tutorial_seconds) / median,
    }


def measure_case(case, config, data, files, smoke):
    """A record for each loop of a case."""
    lengths = lengths_of(case, smoke)
    loops = {}
    records = {}
    for name in LOOPS:
        make = functools.partial(make_loop, name, case, config, data, files)
        loops[name], seconds, memory = first_step(make, data.device)
        records[name] = {
            **case._asdict(),
            "loop": name,
            "seconds_to_first_step": seconds,
            "memory_gib": memory,
        }
    seconds = interleaved(loops, lengths.rounds, lengths.steps, data.device)
    images = lengths.steps * case.batch_size
    for name, record in records.items():
        record |= rates(images, seconds[name], seconds["tutorial"])
        record |= work_of_steps(loops[name], lengths.profiled, data.device)
    difference = difference_of_losses(loops["replayed"], lengths.profiled)
    records["replayed"]["loss_difference"] = difference
    return list(records.values())


def measure_first_steps(flags):
    """Seconds from a command to its end after one step, for both of the script's loops."""
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
        for case in CASES[:2] if flags.smoke else CASES:
            if time.perf_counter() > end:
                print(f"not measured, --minutes {flags.minutes} are over: {case}")
                continue
            config = config_of(case, folder, flags)
            if case.side not in prepared:
                data = malaria.load_data(config, device)
                files = folder / f"png{case.side}"
                write_png_folder(data, files)
                prepared[case.side] = (data, files)
            for record in measure_case(case, config, *prepared[case.side], flags.smoke):
                append_run(out, about | record)
            print(f"measured {case}", flush=True)


def take_first_step(flags):
    """What a user waits for before the first step is done, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(CASES[0], folder, flags)
        data = malaria.load_data(config, malaria.pick_device(flags.device))
        run_quietly(make_loop(flags.first_step, CASES[0], config, data, None), 1)


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
    parts += ["", "From the command to the end after one step, s:", text_of(waits)]
    return "\n".join(parts)


def run(arguments):
    """Do what a command line says."""
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=6.0, help="no new case begins after them")
    parser.add_argument("--first_step", choices=LOOPS[1:], help=argparse.SUPPRESS)
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
