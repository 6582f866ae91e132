"""How fast the script is, beside the tutorial way of doing the same, in one run; pairs interleaved, medians and ratios.

    pip install -r benchmarks/requirements.txt
    python benchmarks/speed.py                  all sections on the demo set, about ten minutes on two cores
    python benchmarks/speed.py --smoke          a few steps of each, to see that it works
    python benchmarks/speed.py --only train flops start answer epoch --data_path DIR --out speed.json

train   images/s of --task gan against the tutorial loop with equal networks and batch: an ImageFolder of PNG crops, a
        DataLoader with 2 workers and transforms, plain Adam, a printed line each step; for the assignment's networks
        (128 channels at 4x4) and the paper's (512). Ours does more in a step: augmentation and averaged weights.
flops   achieved rate of a step, counted with torch.utils.flop_counter, over the fp32 matrix-product rate measured beside it
start   seconds and peak memory of --task data with a cold and a warm cache, for 1, 4 and 16 times the cells
answer  test.py on one image, from command to answer, over python -c "import torch"
epoch   what validation, checkpoint, numbers and sample grid take of an epoch
"""
import argparse
import contextlib
import io
import json
import os
import resource
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

NETWORKS = {"the assignment's": 128, "the paper's": 512}


def config_for(width, folder, data_path=""):
    return s.Config(data_path=data_path, task="gan", g_width=width, d_width=width, results_dir=str(folder), device="cpu")


def write_png_folder(data, folder):
    """The training crops as PNG files in one folder a class, as ImageFolder wants them."""
    part = data.split("train")
    for i in range(len(part)):
        target = folder / part.classes[int(part.labels[i])]
        target.mkdir(parents=True, exist_ok=True)
        s.write_image(target / f"{i:05d}.png", part.uint8([i])[0])


class TutorialLoop:
    """Everyone's DCGAN loop: files decoded in every epoch, two BCE passes, a print each step."""

    def __init__(self, folder, width, batch_size):
        from torchvision import datasets, transforms
        steps = [transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        self.loader = torch.utils.data.DataLoader(
            datasets.ImageFolder(folder, transforms.Compose(steps)), batch_size, shuffle=True, num_workers=2, drop_last=True)
        self.g, self.d = s.Generator(width=width), s.Discriminator(width=width)
        self.opt_g, self.opt_d = (torch.optim.Adam(m.parameters(), 2e-4, betas=(0.5, 0.999)) for m in (self.g, self.d))
        self.batches = iter(())

    def run(self, steps):
        bce = torch.nn.BCEWithLogitsLoss()
        for _ in range(steps):
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.loader)
                batch = next(self.batches)
            real, ones, zeros = batch[0], torch.ones(len(batch[0])), torch.zeros(len(batch[0]))
            self.d.zero_grad()
            loss_real = bce(self.d(real), ones)
            loss_real.backward()
            fake = self.g(torch.randn(len(real), 100))
            loss_fake = bce(self.d(fake.detach()), zeros)
            loss_fake.backward()
            self.opt_d.step()
            self.g.zero_grad()
            loss_g = bce(self.d(fake), ones)
            loss_g.backward()
            self.opt_g.step()
            print(f"D {loss_real.item() + loss_fake.item():.3f} G {loss_g.item():.3f}")


class OurLoop:
    """The script's own steps on its own data."""

    def __init__(self, config, data):
        self.trainer, self.data = s.Trainer("gan", config, data.classes, torch.device("cpu")), data.split("train")

    def run(self, steps):
        for indices in self.trainer.batches(self.data, steps):
            self.trainer.update(self.data.batch(indices), None).tolist()


def paired(a, b, rounds, steps):
    """Seconds of a.run(steps) and b.run(steps), in turn; the first round of each warms up and does not count."""
    seconds = [], []
    for r in range(rounds + 1):
        for loop, kept in ((a, seconds[0]), (b, seconds[1])):
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                loop.run(steps)
            if r:
                kept.append(time.perf_counter() - start)
    return seconds


def bench_train(folder, data_path, smoke):
    """Section train."""
    data = s.load_data(config_for(128, folder, data_path))
    write_png_folder(data, folder / "png")
    out = {}
    for name, width in NETWORKS.items():
        config = config_for(width, folder, data_path)
        steps, rounds = (2, 1) if smoke else ((30, 7) if width == 128 else (6, 5))
        ours, theirs = paired(OurLoop(config, data), TutorialLoop(folder / "png", width, config.batch_size), rounds, steps)
        images = steps * config.batch_size
        out[name] = {"images_per_second": images / statistics.median(ours), "tutorial": images / statistics.median(theirs),
                     "ratio": statistics.median(t / o for o, t in zip(ours, theirs)), "batch": config.batch_size, "rounds": rounds}
    return out


def matrix_rate(seconds):
    """fp32 FLOP/s of a 2048 x 2048 matrix product, the median over `seconds`."""
    a, b, rates, end = torch.randn(2048, 2048), torch.randn(2048, 2048), [], time.perf_counter() + seconds
    while time.perf_counter() < end or not rates:
        start = time.perf_counter()
        a @ b
        rates.append(2 * 2048 ** 3 / (time.perf_counter() - start))
    return statistics.median(rates)


def bench_flops(folder, data_path, smoke):
    """Section flops."""
    out = {}
    for name, width in NETWORKS.items():
        config = config_for(width, folder, data_path)
        loop = OurLoop(config, s.load_data(config))
        with FlopCounterMode(display=False) as counter:
            loop.run(1)
        shares, rates = [], []
        for _ in range(1 if smoke else 5):
            rates.append(matrix_rate(0.1 if smoke else 1))
            start = time.perf_counter()
            loop.run(steps := 1 if smoke else (20 if width == 128 else 4))
            shares.append(steps * counter.get_total_flops() / (time.perf_counter() - start) / rates[-1])
        out[name] = {"gflop_a_step": counter.get_total_flops() / 1e9, "matrix_gflops": statistics.median(rates) / 1e9,
                     "share_of_matrix_rate": statistics.median(shares), "threads": torch.get_num_threads()}
    return out


def timed(command, cwd):
    """(seconds, peak memory in MB) of a process that has to succeed; memory is that of the largest process so far."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


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


def bench_start(folder, _, smoke):
    """Section start."""
    demo, out = s.write_demo_set(folder / "demo_data"), {}
    bare = statistics.median(timed([sys.executable, "-c", "import torch, cv2, tqdm"], folder)[0] for _ in range(1 if smoke else 5))
    for times in (1,) if smoke else (1, 4, 16):
        cells = repeat_demo(demo, folder / f"demo_{times}", times)
        command = [sys.executable, str(ROOT / "rollNumber_05.py"), "--task", "data", "--data_path", f"demo_{times}", "--classes",
                   ",".join(s.DEMO_SHARES)]
        (cold, memory), warm = timed(command, folder), [timed(command, folder)[0] for _ in range(1 if smoke else 3)]
        out[f"{cells} cells"] = {"cold_s": cold, "warm_s": statistics.median(warm), "imports_s": bare,
                                 "warm_beyond_imports_s": statistics.median(warm) - bare, "peak_mb": memory}
    return out


def bench_answer(folder, data_path, smoke):
    """Section answer."""
    image = s.write_demo_set(folder / "demo_data") / "images/demo_000.png"
    test = [sys.executable, str(ROOT / "test.py"), "--model", "mtd", "--weights", str(ROOT / "saved_models/mtd.pt"), "--image", str(image)]
    pairs = [(timed(test, folder)[0], timed([sys.executable, "-c", "import torch"], folder)[0]) for _ in range(1 if smoke else 9)]
    return {"test_s": statistics.median(a for a, _ in pairs), "import_torch_s": statistics.median(b for _, b in pairs),
            "ratio": statistics.median(a / b for a, b in pairs)}


def bench_epoch(folder, data_path, smoke):
    """Section epoch."""
    out, spent = {}, [0.0]
    finish = s.finish_epoch

    def watched(*arguments):
        start = time.perf_counter()
        finish(*arguments)
        spent[0] += time.perf_counter() - start

    for task in ("gan", "mtd"):
        config = s.Config(data_path=data_path, task=task, epochs=1 if smoke else 4, min_steps=2 if smoke else 100,
                          results_dir=str(folder), device="cpu")
        data, spent[0] = s.load_data(config), 0.0
        s.finish_epoch, start = watched, time.perf_counter()
        s.train(task, config, data)
        s.finish_epoch = finish
        out[task] = {"share_beside_training": spent[0] / (time.perf_counter() - start), "seconds_an_epoch": spent[0] / config.epochs}
    return out


SECTIONS = {"train": bench_train, "flops": bench_flops, "start": bench_start, "answer": bench_answer, "epoch": bench_epoch}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--data_path", default="", help="default: the demo set")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", help="write the numbers as JSON to this file as well")
    flags = parser.parse_args()
    data_path, results = flags.data_path and os.path.abspath(flags.data_path), {}
    with tempfile.TemporaryDirectory() as folder:
        if len(flags.only) == 1:
            results = {flags.only[0]: SECTIONS[flags.only[0]](Path(folder), data_path, flags.smoke)}
            print(json.dumps(results, indent=1), flush=True)
        else:  # each section in a process of its own, so that none inherits another's memory or threads
            for name in flags.only:
                part = Path(folder, f"{name}.json")
                command = [sys.executable, __file__, "--only", name, "--data_path", data_path, "--out", str(part)]
                subprocess.run(command + ["--smoke"] * flags.smoke, check=True)
                results |= json.loads(part.read_text())
    if flags.out:
        Path(flags.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
