"""The sections of benchmarks.speed that train in their own process: train, flops and epoch."""

import contextlib
import dataclasses
import importlib
import io
import itertools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import rollNumber_05 as malaria
from benchmarks.peers import ScriptLoop, TorchganLoop, TutorialLoop, write_png_folder
from extras.demo_set import SHARES

NETWORKS = {"the assignment's": 128, "the paper's": 512}  # channels at 4x4
STAGES_ONLY = "auto"
ALL_CLASSES = ",".join(SHARES)
EQUAL_WORK = {"augment": False, "ema": 0.0, "smooth": False}  # what the other loops lack too


def config_for(width, folder, flags, classes=STAGES_ONLY):
    """The Config of a DCGAN with networks of a width."""
    return malaria.Config(
        data_path=flags.data_path,
        task="gan",
        classes=classes,
        g_width=width,
        d_width=width,
        results_dir=str(folder),
        device=flags.device,
        precision=flags.precision,
    )


# train


def measure_train(folder, flags):
    """{"task, networks, cells": rates of the loops}."""
    device = malaria.pick_device(flags.device)
    cases = [
        (STAGES_ONLY, "the assignment's"),
        (ALL_CLASSES, "the assignment's"),
        (ALL_CLASSES, "the paper's"),
    ]
    results = {}
    for number, (classes, networks) in enumerate(cases):
        config = config_for(NETWORKS[networks], folder, flags, classes)
        data = malaria.load_data(config, device)
        files = folder / f"png{number}"
        write_png_folder(data, files)
        cells = len(data.split("train"))
        for task in ("gan", "mtd"):
            loops = make_loops(task, config, data, files)
            steps, rounds = length_of(config, flags)
            case = f"{task}, {networks} networks, {cells} cells"
            results[case] = loop_rates(loops, config.batch_size, rounds, steps, device)
    return results


def make_loops(task, config, data, files):
    """{name: loop} of a task; files: the folder with the training cells as PNG."""
    settings = {"script": {}, "script, equal work": EQUAL_WORK}
    if malaria.pick_precision(config.precision, data.device) != torch.float32:
        settings["script, equal work, fp32"] = {"precision": "fp32", **EQUAL_WORK}
    loops = {}
    for name, changes in settings.items():
        loops[name] = ScriptLoop(task, dataclasses.replace(config, **changes), data)
    loops["tutorial"] = TutorialLoop(task, config, files, len(data.classes), data.device)
    if task == "gan":
        loops["torchgan"] = TorchganLoop(config, files, data.device)
    return loops


def length_of(config, flags):
    """(steps of a round, rounds)."""
    if flags.smoke:
        return 2, 1
    if config.d_width == NETWORKS["the assignment's"]:
        return 40, 7
    return 12, 5


def interleaved(loops, rounds, steps, device):
    """{name: seconds of each round of steps}, the loops in turn; a round before them warms up."""
    seconds = {name: [] for name in loops}
    for number, (name, loop) in itertools.product(range(rounds + 1), loops.items()):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            loop.run(steps)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number > 0:
            seconds[name].append(time.perf_counter() - start)
    return seconds


def loop_rates(loops, batch_size, rounds, steps, device):
    """{loop: images/s and its ratio to the tutorials'}, and what was measured."""
    seconds = interleaved(loops, rounds, steps, device)
    rates = {"batch": batch_size, "rounds": rounds, "steps a round": steps}
    for name, own in seconds.items():
        ratios = [other / mine for mine, other in zip(own, seconds["tutorial"], strict=True)]
        rates[name] = {
            "images_per_second": steps * batch_size / statistics.median(own),
            "over_tutorial": statistics.median(ratios),
        }
    return rates


# flops


def measure_flops(folder, flags):
    """{"networks, precision": rates of a step, "layers of a network": rows}; on the CPU."""
    precisions = ["fp32"]
    if malaria.pick_precision("auto", torch.device("cpu")) != torch.float32:
        precisions.append("bf16")
    results = {}
    for (networks, width), precision in itertools.product(NETWORKS.items(), precisions):
        config = config_for(width, folder, flags)
        config = dataclasses.replace(config, precision=precision, device="cpu")
        data = malaria.load_data(config)
        loops = {
            "as run": ScriptLoop("gan", config, data),
            "networks alone": ScriptLoop("gan", dataclasses.replace(config, **EQUAL_WORK), data),
        }
        steps = 20 if networks == "the assignment's" else 4
        results[f"{networks} networks, {precision}"] = flop_shares(loops, steps, flags.smoke)
    generator, discriminator = loops["as run"].trainer.networks.values()
    noise = torch.randn(32, generator.latent_dim)
    images = torch.rand(32, 3, 64, 64).to(memory_format=torch.channels_last)
    rounds = 1 if flags.smoke else 15
    for network, example in ((generator, noise), (discriminator, images)):
        case = f"layers of the paper's {type(network).__name__}, fp32: GFLOP, GFLOP/s, ms"
        results[case] = layer_times(network, example, rounds)
    return results


def flop_shares(loops, steps, smoke):
    """What share of the matrix-product rate rounds of steps of some loops achieve.

    The FLOPs counted are those of the networks alone.
    """
    with FlopCounterMode(display=False) as counter:
        loops["networks alone"].run(1)
    flops = counter.get_total_flops()
    shares = {name: [] for name in loops}
    rates = []
    rounds = 7
    seconds = 1.0  # of matrix products a round
    if smoke:
        rounds = steps = 1
        seconds = 0.1
    for _ in range(rounds):
        rates.append(matrix_rate(seconds))
        for name, loop in loops.items():
            start = time.perf_counter()
            loop.run(steps)
            rate = steps * flops / (time.perf_counter() - start)
            shares[name].append(rate / rates[-1])
    results = {
        "gflop_a_step": flops / 1e9,
        "matrix_gflops_fp32": statistics.median(rates) / 1e9,
        "threads": torch.get_num_threads(),
    }
    for name, values in shares.items():
        results[f"share, {name}"] = statistics.median(values)
    return results


def matrix_rate(seconds):
    """fp32 FLOP/s of a 2048 x 2048 matrix product, the median over some seconds."""
    a = torch.randn(2048, 2048)
    b = torch.randn(2048, 2048)
    rates = []
    end = time.perf_counter() + seconds
    while not rates or time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        rates.append(2 * 2048**3 / (time.perf_counter() - start))
    return statistics.median(rates)


def layer_times(network, example, rounds):
    """[layer, output shape, GFLOP, GFLOP/s, ms] of both passes of each layer, one by one."""
    rows = []
    maps = example
    for name, layer in network.named_modules():
        if list(layer.children()) or isinstance(layer, nn.Dropout):
            continue
        maps = maps.detach().requires_grad_()
        with FlopCounterMode(display=False) as counter:
            layer(maps).sum().backward()
        gflop = counter.get_total_flops() / 1e9
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            output = layer(maps)
            output.backward(torch.ones_like(output))
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        shape = "x".join(str(side) for side in output.shape[1:])
        kind = type(layer).__name__
        row = [f"{name} {kind}", shape, round(gflop, 3), round(gflop / median, 1)]
        rows.append([*row, round(median * 1e3, 2)])
        maps = output
    return rows


# epoch


def measure_epoch(folder, flags):
    """{run: its seconds, and the shares of them that are not training}."""
    importlib.import_module("torchmetrics.image.kid")  # takes seconds, once a process
    lengths = {"epochs": 40}
    if flags.smoke:
        lengths = {"epochs": 1, "min_steps": 2, "measure_every": 1}
    cases = {
        "gan": {"task": "gan"},
        "mtd": {"task": "mtd"},
        "mtd_seldom": {"task": "mtd", "adversarial_every": 16},
    }
    results = {}
    for case, settings in cases.items():
        config = malaria.Config(
            data_path=flags.data_path,
            results_dir=str(folder / case),
            device=flags.device,
            precision=flags.precision,
            **settings,
            **lengths,
        )
        results[case] = epoch_shares(config, repeats=1 if flags.smoke else 5)
    return results


def epoch_shares(config, repeats):
    """What a run takes, and what share of it is beside training.

    Each kind of work after an epoch is done once more when the run is over, and counted as often
    as the run did it.
    """
    data = malaria.load_data(config, malaria.pick_device(config.device))
    start = time.perf_counter()
    trainer, folder = malaria.train(config.task, config, data)
    seconds = time.perf_counter() - start
    trained = sum(row["seconds"] for row in trainer.history)
    results = {
        "epochs": config.epochs,
        "seconds": seconds,
        "all beside training": 1 - trained / seconds,
    }
    for work in work_after_epochs(trainer, folder, data):
        share = work.count * median_seconds(work.function, repeats) / seconds
        results[work.kind] = results.get(work.kind, 0.0) + share
    return results


class Work(NamedTuple):
    """Something that is done after epochs, and how often a run did it."""

    kind: str
    function: Callable
    count: int


def work_after_epochs(trainer, folder, data):
    """All Work of a finished run but best.pt, whose number of writes is not known."""
    reporter = malaria.EpochReporter(trainer, data)
    generator = trainer.averages["generator"].module
    epochs = len(trainer.history)
    measured = sum("kid_train" in row for row in trainer.history)
    validated = epochs if trainer.task == "mtd" else 0

    def plot():
        malaria.plot_training(trainer, folder)

    def draw_samples():
        malaria.write_samples(trainer, folder)

    def measure():
        malaria.measure_quality(generator, data, trainer.config.seed + 1)

    def validate():
        if validated:
            reporter.validate()

    def save():
        malaria.save_checkpoint(trainer.state(), folder / "last.pt")

    return [
        Work("pictures", draw_samples, epochs),
        Work("pictures", plot, epochs // 25),
        Work("metrics", measure, measured),
        Work("validation", validate, validated),
        Work("checkpoints", save, epochs),
    ]


def median_seconds(function, repeats):
    """Median of the seconds of some calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
