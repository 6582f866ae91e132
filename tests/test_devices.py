"""Precision and several processes: the same training, only faster."""
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import rollNumber_05 as s

TINY = dict(task="mtd", image_size=28, min_steps=4, batch_size=8, g_width=16, d_width=16, epochs=2, precision="fp32",
            game_every=3)
PROCESS = """
import os, sys, torch
sys.path.insert(0, {root!r})
import rollNumber_05 as s
config = s.Config(**{config!r})
with s.process_group(torch.device("cpu")):
    data = s.load_data(config)
    for task in ("gan", "mtd"):
        trainer, _ = s.train(task, s.dataclasses.replace(config, weights="r/gan/last.pt" if task == "mtd" else ""), data)
        held = {{"weights": trainer.state()["weights"], "strength": trainer.strength, "traces": trainer.traces}}
        torch.save({{**held, "first": trainer.batches(data, 2)}}, f"{{config.results_dir}}/{{task}}{{s.processes()[0]}}.pt")
sys.stdout.flush()
os._exit(0)
"""


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun on Windows depends on how torch was built")


def torchrun(processes, script, *arguments, cwd):
    """A finished run of a script in several processes of one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, script, *arguments]
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """A folder where two processes have trained both tasks for two epochs; what each held at the end is in r/<task>0|1.pt."""
    folder = tmp_path_factory.mktemp("twins")
    s.load_data(s.Config(results_dir=str(folder / "r"), **TINY))
    (folder / "process.py").write_text(PROCESS.format(root=str(ROOT), config=dict(TINY, results_dir="r")))
    done = torchrun(2, "process.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_two_processes_hold_the_same_weights_from_different_batches(task, twins):
    """Gradients are averaged: equal parameters bit for bit, from other cells in each process, which no single one gives."""
    one, two = (torch.load(twins / f"r/{task}{r}.pt") for r in (0, 1))
    parameters = [k for k in one["weights"]["discriminator"] if "running" not in k and "tracked" not in k]
    for network in ("generator", "discriminator"):
        for k in set(one["weights"][network]) & set(parameters):
            assert torch.equal(one["weights"][network][k], two["weights"][network][k]), k
    assert torch.equal(one["strength"], two["strength"])
    assert torch.equal(one["traces"], two["traces"]) and len(one["traces"]) == 38
    assert not torch.equal(one["first"], two["first"]) and one["first"].shape == (2, 8 if task == "gan" else 4 + 8)
    rows = (twins / f"r/{task}/metrics.csv").read_text().splitlines()
    assert len(rows) == 3  # a head and two epochs, each written once
    alone = s.Trainer(task, s.Config(**TINY), s.STAGES, torch.device("cpu"))
    first = "project.0.weight"
    assert not torch.equal(alone.state()["weights"]["generator"][first], one["weights"]["generator"][first])


def test_a_run_goes_on_with_another_number_of_processes(twins, script):
    """Two processes' state is taken up by one process, and that by two again."""
    assert script("--task", "mtd", "--resume", "--epochs", 3, "--results_dir", "r", cwd=twins).returncode == 0
    done = torchrun(2, ROOT / "rollNumber_05.py", "--task", "mtd", "--resume", "--epochs", 4, "--results_dir", "r",
                    "--device", "cpu", cwd=twins)
    assert done.returncode == 0 and done.stdout.count("layout:") == 1, done.stderr
    state = s.read_checkpoint(twins / "r/mtd/last.pt", "mtd")
    assert [row["epoch"] for row in state["history"]] == [1, 2, 3, 4] and state["step"] == 94


def test_wrong_usage_of_two_processes_ends_all_of_them(tmp_path):
    """A data path that is not there: no process waits for another."""
    done = torchrun(2, ROOT / "rollNumber_05.py", "--device", "cpu", "--data_path", "nowhere", cwd=tmp_path)
    assert done.returncode != 0 and "error: --data_path nowhere: no such folder or zip" in done.stderr


@pytest.mark.parametrize("rank, device", [("0", "cuda:0"), ("1", "cuda:1"), ("2", None)])
def test_every_process_has_a_gpu_of_its_own(rank, device, monkeypatch):
    """The third of three processes on a machine with two GPUs says so; on the CPU there can be any number."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert s.pick_device("cpu") == torch.device("cpu")
    if device:
        assert s.pick_device("auto") == torch.device(device)
    else:
        with pytest.raises(s.UsageError, match="--nproc_per_node.* 2;.*--device cpu"):
            s.pick_device("auto")


@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_bf16_follows_fp32(task):
    """The first step's losses agree within bf16's three digits; weights, averages and images stay float32."""
    traces = {}
    for precision in ("fp32", "bf16"):
        trainer = s.Trainer(task, s.Config(precision=precision, image_size=32, batch_size=8), s.STAGES, torch.device("cpu"))
        torch.manual_seed(1)
        traces[precision] = trainer.update(torch.rand(16, 3, 32, 32) * 2 - 1, torch.arange(16) % 4)
        assert {v.dtype for v in trainer.state()["ema"]["generator"].values()} <= {torch.float32, torch.int64}
        assert trainer.nets["generator"](torch.randn(2, 100)).dtype == torch.float32
    torch.testing.assert_close(traces["bf16"], traces["fp32"], rtol=0.03, atol=0.03)


@pytest.mark.parametrize("processor, fast", [
    (dict(avx512_bf16=True, amx_bf16=False, cpu_name="Intel Xeon"), False),
    (dict(avx512_bf16=True, amx_bf16=True, cpu_name="Intel Xeon"), True),
    (dict(avx512_bf16=True, amx_bf16=False, cpu_name="AMD EPYC"), True), (dict(avx2=True), False)])
def test_auto_takes_bf16_only_where_it_is_fast(monkeypatch, processor, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor, raising=False)
    assert s.pick_precision("auto", torch.device("cpu")) == (torch.bfloat16 if fast else torch.float32)
    for device in map(torch.device, ("cpu", "cuda")):
        assert s.pick_precision("bf16", device) == torch.bfloat16
        assert s.pick_precision("fp32", device) == torch.float32
    assert s.pick_precision("auto", torch.device("cuda")) == torch.float32


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")


def one_step(task, device):
    """All numbers of one SGD step of D and of G on a device, from weights, images and noise that are the same on every one."""
    torch.manual_seed(0)
    config = s.Config(image_size=32, dropout=0.0, optimizer="sgd")
    trainer = s.Trainer(task, config, s.STAGES, torch.device(device))
    (g, d), (opt_g, opt_d) = trainer.nets.values(), trainer.optimizers.values()
    real, noise = torch.rand(16, 3, 32, 32) * 2 - 1, torch.randn(16, 100)
    labels = torch.arange(16).to(device) % 4 if task == "mtd" else None
    fake = g(noise.to(device))
    losses = s.discriminator_step(d, opt_d, real.to(device), fake, loss="bce", labels=labels)
    slopes = [p.grad for p in d.parameters()]
    losses = *losses, s.generator_step(d, opt_g, fake, loss="bce")
    return [x.detach().cpu().double() for x in (*losses, *slopes, *(p.grad for p in g.parameters()), *d.state_dict().values())]


@cuda
@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_a_step_on_cuda_equals_one_on_the_processor(task):
    """Losses, gradients of D and G, weights and batch statistics within 1 %, in fp32 without tf32's shorter fractions."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        pairs = list(zip(one_step(task, "cuda"), one_step(task, "cpu")))
    for on_cuda, on_cpu in pairs:
        assert (on_cuda - on_cpu).norm() <= 0.01 * on_cpu.norm() + 1e-6


@cuda
def test_a_run_goes_on_and_answers_on_another_device(tmp_path, script, tester):
    """Trained on the processor, then on the GPU, then on the processor; the same picture from the weights on both."""
    flags = ("--task", "gan", "--image_size", 28, "--min_steps", 4, "--batch_size", 8)
    for epochs, device, more in ((1, "cpu", ()), (2, "cuda", ("--resume",)), (3, "cpu", ("--resume",))):
        done = script(*flags, "--epochs", epochs, "--device", device, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    used = json.loads((tmp_path / "results/gan/config.json").read_text())["device_used"]
    assert used.startswith("cpu") and len((tmp_path / "results/gan/metrics.csv").read_text().splitlines()) == 4
    images = [s.sample(g, s.latents(16, g, 0)).astype(int) for g, _, _ in (
        s.load_networks(tmp_path / "results/gan/last.pt", device=d) for d in ("cpu", "cuda"))]
    assert abs(images[0] - images[1]).max() <= 2
    assert tester("--model", "gan", "--weights", "results/gan/last.pt", "--out", "out", cwd=tmp_path).returncode == 0


@cuda
def test_torchrun_on_a_gpu(tmp_path):
    """One process under torchrun talks NCCL to itself; --task all goes to its end."""
    done = torchrun(1, ROOT / "rollNumber_05.py", "--device", "cuda", "--image_size", 28, "--min_steps", 4, "--epochs", 1,
                    cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/all/before_after.png").exists()
