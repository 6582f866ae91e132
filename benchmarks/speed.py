"""How fast the script is, beside the tutorial way of doing the same, in one run; pairs interleaved, medians and ratios.

    pip install -r benchmarks/requirements.txt
    python benchmarks/speed.py                  all sections on the demo set, about 20 minutes on two cores
    python benchmarks/speed.py --smoke          a few steps of each, to see that it works
    python benchmarks/speed.py --only train flops start answer epoch --data_path DIR --out speed.json

train   images/s of --task gan and --task mtd against the tutorial loop with equal networks and batch: an ImageFolder of PNG
        crops, a DataLoader with 2 workers and transforms, plain Adam, a printed line each step; and against the step of
        torchgan 0.1.0. For the assignment's networks (128 channels at 4x4) on the stages alone, where the tutorial starts
        its workers anew every few steps, and with red blood cells, where it hardly ever does; for the paper's (512).
        "script" is what --task runs: with augmentation, averaged weights and G's filter, and an mtd's game is played with half as
        many cells; "equal work" is without these three, and with whole batches
flops   achieved rate of a step, counted with torch.utils.flop_counter, over the fp32 matrix-product rate measured beside it,
        and the time of each layer
start   seconds from command to the end of the first step, cold and warm cache, and peak memory, for 1, 4, 16 times the cells
answer  test.py on one image, from command to answer, over python -c "import torch"
epoch   what pictures (drawing the 500 measured cells too), metrics of these, validation and checkpoints take of a run of 40
        epochs; of the mtd with the game at every step, and seldom, at every sixteenth, as on a DCGAN
"""
import argparse
import contextlib
import importlib
import dataclasses
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import rollNumber_05 as s  # noqa: E402
from extras import demo_set  # noqa: E402
from peers import ScriptLoop, TorchganLoop, TutorialLoop, write_png_folder  # noqa: E402

NETWORKS = {"the assignment's": 128, "the paper's": 512}


def config_for(width, folder, flags, classes="auto"):
    """The config of a run of the GAN with networks of a width."""
    return s.Config(data_path=flags.data_path, task="gan", classes=classes, g_width=width, d_width=width,
                    results_dir=str(folder), device=flags.device)


def interleaved(loops, rounds, steps, device):
    """{name: seconds of every round of loop.run(steps)}, the loops in turn; the first round warms up and does not count."""
    seconds = {name: [] for name in loops}
    for r in range(rounds + 1):
        for name, loop in loops.items():
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                loop.run(steps)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if r:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def bench_train(folder, flags):
    """Section train."""
    device, out, few, many = s.pick_device(flags.device), {}, "auto", ",".join(demo_set.SHARES)
    sets = [(few, "the assignment's"), (many, "the assignment's"), (many, "the paper's")]
    for i, (classes, name) in enumerate(sets):
        width = NETWORKS[name]
        data, files = s.load_data(config_for(width, folder, flags, classes), device), folder / f"png{i}"
        write_png_folder(data, files)
        for task in ("gan", "mtd"):
            out[f"{task}, {name} networks, {len(data.split('train'))} cells"] = train_rates(
                task, config_for(width, folder, flags, classes), data, files, flags.smoke)
    return out


def train_rates(task, config, data, files, smoke):
    """{loop: images/s and their ratio to the tutorial's} of one task, networks and data set."""
    plain, device = {"augment": False, "ema": 0.0, "smooth": False}, data.device
    variants = {"script": {}, "script, equal work": plain}
    if s.pick_precision("auto", device) != torch.float32:
        variants["script, equal work, fp32"] = {"precision": "fp32", **plain}
    loops = {k: ScriptLoop(task, dataclasses.replace(config, **v), data) for k, v in variants.items()}
    loops["tutorial"] = TutorialLoop(task, config, files, device, len(data.classes))
    if task == "gan":
        loops["torchgan"] = TorchganLoop(config, files, device)
    steps, rounds = (2, 1) if smoke else ((40, 7) if config.d_width == 128 else (12, 5))
    seconds = interleaved(loops, rounds, steps, device)
    return {"batch": config.batch_size, "rounds": rounds, "steps a round": steps, **{k: {
        "images_per_second": steps * config.batch_size / statistics.median(v),
        "over_tutorial": statistics.median(t / o for o, t in zip(v, seconds["tutorial"]))} for k, v in seconds.items()}}


def matrix_rate(seconds):
    """fp32 FLOP/s of a 2048 x 2048 matrix product, the median over `seconds`."""
    a, b, rates, end = torch.randn(2048, 2048), torch.randn(2048, 2048), [], time.perf_counter() + seconds
    while time.perf_counter() < end or not rates:
        start = time.perf_counter()
        a @ b
        rates.append(2 * 2048 ** 3 / (time.perf_counter() - start))
    return statistics.median(rates)


def layer_times(model, example, rounds):
    """[(layer, its output shape, GFLOP of both passes, GFLOP/s, ms of both passes)], the layers one by one."""
    rows, x = [], example
    for name, layer in model.named_modules():
        if list(layer.children()) or isinstance(layer, torch.nn.Dropout):
            continue
        x = x.detach().requires_grad_()
        with FlopCounterMode(display=False) as counter:
            layer(x).sum().backward()
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            out = layer(x)
            out.backward(torch.ones_like(out))
            seconds.append(time.perf_counter() - start)
        gflop, median = counter.get_total_flops() / 1e9, statistics.median(seconds)
        rows.append([f"{name} {type(layer).__name__}", "x".join(map(str, out.shape[1:])), round(gflop, 3),
                     round(gflop / median, 1), round(median * 1e3, 2)])
        x = out
    return rows


def bench_flops(folder, flags):
    """Section flops."""
    out, precisions = {}, ["fp32"] + ["auto"] * (s.pick_precision("auto", torch.device("cpu")) != torch.float32)
    for (name, width), precision in itertools.product(NETWORKS.items(), precisions):
        config = dataclasses.replace(config_for(width, folder, flags), precision=precision, device="cpu")
        loop, bare = (ScriptLoop("gan", c, s.load_data(c)) for c in (
            config, dataclasses.replace(config, augment=False, ema=0.0, smooth=False)))
        with FlopCounterMode(display=False) as counter:
            bare.run(1)
        shares, rates, steps = {"as run": [], "networks alone": []}, [], 1 if flags.smoke else (20 if width == 128 else 4)
        for _ in range(1 if flags.smoke else 7):
            rates.append(matrix_rate(0.1 if flags.smoke else 1))
            for kind, timed_loop in zip(shares, (loop, bare)):
                start = time.perf_counter()
                timed_loop.run(steps)
                shares[kind].append(steps * counter.get_total_flops() / (time.perf_counter() - start) / rates[-1])
        key = f"{name} networks, {'fp32' if loop.trainer.precision == torch.float32 else 'bf16'}"
        out[key] = {"gflop_a_step": counter.get_total_flops() / 1e9, "matrix_gflops_fp32": statistics.median(rates) / 1e9,
                    "threads": torch.get_num_threads(), **{f"share, {k}": statistics.median(v) for k, v in shares.items()}}
    g, d = loop.trainer.nets.values()
    for network, example in ((g, torch.randn(32, 100)), (d, torch.rand(32, 3, 64, 64).to(memory_format=torch.channels_last))):
        out[f"layers of the paper's {type(network).__name__}, fp32: GFLOP, GFLOP/s, ms"] = layer_times(
            network, example, 1 if flags.smoke else 15)
    return out


def timed(command, cwd):
    """(seconds, peak memory in MB) of a process that has to succeed; memory is that of the largest process so far."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    if sys.platform == "win32":
        return seconds, float("nan")
    import resource
    unit = 2 ** 20 if sys.platform == "darwin" else 2 ** 10  # macOS counts bytes, Linux kilobytes
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit


def repeat_demo(source, target, times):
    """The demo set `times` over, its images linked under new names."""
    (target / "images").mkdir(parents=True)
    fields = []
    for k in range(times):
        for item in json.loads((source / "annotations.json").read_text()):
            name = f"{k:02d}_{item['image_name']}"
            os.link(source / "images" / item["image_name"], target / "images" / name)
            fields.append({**item, "image_name": name})
    (target / "annotations.json").write_text(json.dumps(fields))
    return sum(len(f["objects"]) for f in fields)


FIRST_STEP = """
import os, sys
sys.path.insert(0, {root!r})
import rollNumber_05 as s
update = s.Trainer.update
def once(*arguments):
    update(*arguments)[0].item()
    os._exit(0)
s.Trainer.update = once
s.main(s.run, sys.argv[1:])
"""


def bench_start(folder, flags):
    """Section start."""
    demo, out, repeats = s.demo_set(folder / "demo_data"), {}, 1 if flags.smoke else 5
    python, imports = [sys.executable, "-c"], "import torch, cv2, tqdm"
    bare = statistics.median(timed([*python, imports], folder)[0] for _ in range(repeats))
    for times in (1,) if flags.smoke else (1, 4, 16):
        cells = repeat_demo(demo, folder / f"demo_{times}", times)
        command = [*python, FIRST_STEP.format(root=str(ROOT)), "--task", "gan", "--data_path", f"demo_{times}", "--classes",
                   ",".join(demo_set.SHARES)]
        (cold, memory), warm = timed(command, folder), [timed(command, folder)[0] for _ in range(repeats)]
        out[f"{cells} cells"] = {"cold_s": cold, "warm_s": statistics.median(warm), "imports_s": bare,
                                 "warm_beyond_imports_s": statistics.median(warm) - bare, "peak_mb": memory,
                                 "cache_mb": cells * 64 * 64 * 3 / 2 ** 20}
    return out


def bench_answer(folder, flags):
    """Section answer."""
    image = s.demo_set(folder / "demo_data") / "images/demo_000.png"
    test = [sys.executable, str(ROOT / "test.py"), "--model", "mtd", "--weights", str(ROOT / "saved_models/mtd.pt")]
    bare = [sys.executable, "-c", "import torch"]
    pairs = [(timed([*test, "--image", str(image)], folder)[0], timed(bare, folder)[0]) for _ in range(1 if flags.smoke else 9)]
    return {"test_s": statistics.median(a for a, _ in pairs), "import_torch_s": statistics.median(b for _, b in pairs),
            "ratio": statistics.median(a / b for a, b in pairs)}


@contextlib.contextmanager
def watched(names):
    """{name: seconds so far} of some functions of the script, by their own time and all they call."""
    spent, kept = dict.fromkeys(names, 0.0), {}

    def timed_call(name, function):
        def call(*arguments, **keywords):
            start = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                spent[name] += time.perf_counter() - start
        return call

    for name in names:
        owner, attribute = (s.Quality, "of") if name == "Quality.of" else (s, name)
        kept[name] = (owner, attribute, getattr(owner, attribute))
        setattr(owner, attribute, timed_call(name, getattr(owner, attribute)))
    try:
        yield spent
    finally:
        for owner, attribute, function in kept.values():
            setattr(owner, attribute, function)


def bench_epoch(folder, flags):
    """Section epoch."""
    importlib.import_module("torchmetrics.image.kid")  # takes seconds, once a process
    out, names = {}, {"plot_training": "pictures", "sample": "pictures", "tile": "pictures", "write_image": "pictures",
                      "Quality.of": "metrics", "evaluate": "validation", "write_checkpoint": "checkpoints"}
    for case in ("gan", "mtd", "mtd_seldom"):
        task, game_every, small = case[:3], 16 if case == "mtd_seldom" else 0, dict(epochs=1, min_steps=2, measure_every=1)
        config = s.Config(data_path=flags.data_path, task=task, game_every=game_every, results_dir=str(folder),
                          device=flags.device, **(small if flags.smoke else dict(epochs=40)))
        data = s.load_data(config, s.pick_device(flags.device))
        with watched([*names, "finish_epoch"]) as spent:
            start = time.perf_counter()
            s.train(task, config, data)
            total = time.perf_counter() - start
        shares = dict.fromkeys(names.values(), 0.0)
        for name, kind in names.items():
            shares[kind] += spent[name] / total
        out[case] = {"epochs": config.epochs, "seconds": total, "all beside training": spent["finish_epoch"] / total, **shares}
    return out


SECTIONS = {"train": bench_train, "flops": bench_flops, "start": bench_start, "answer": bench_answer, "epoch": bench_epoch}


def run(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--data_path", default="", help="default: the demo set")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="for train and epoch")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", help="write the numbers as JSON to this file as well")
    flags = parser.parse_args(arguments)
    flags.data_path, results = flags.data_path and os.path.abspath(flags.data_path), {}
    with tempfile.TemporaryDirectory() as folder:
        if len(flags.only) == 1:
            results = {flags.only[0]: SECTIONS[flags.only[0]](Path(folder), flags)}
            print(json.dumps(results, indent=1), flush=True)
        else:  # each section in a process of its own, so that none inherits another's memory or threads
            for name in flags.only:
                part = Path(folder, f"{name}.json")
                command = [sys.executable, __file__, "--only", name, "--data_path", flags.data_path, "--device", flags.device,
                           "--out", str(part)]
                if code := subprocess.run(command + ["--smoke"] * flags.smoke).returncode:
                    raise RuntimeError(f"--only {name} ended with exit code {code}")
                results |= json.loads(part.read_text())
    if flags.out:
        Path(flags.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(s.main(run, sys.argv[1:]))
