"""Precision, several processes and GPUs: the same training, only faster."""

import json
import platform
import sys
from typing import NamedTuple

import pytest
import torch
from conftest import ROOT

import rollNumber_05 as malaria
from extras import classes

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
TRAIN_IN_PROCESSES = ROOT / "tests/train_in_processes.py"

FLAGS = {
    "task": "mtd",
    "image_size": 28,
    "g_width": 16,
    "d_width": 16,
    "batch_size": 8,
    "min_steps": 4,
    "epochs": 2,
    "adversarial_every": 3,
    "precision": "fp32",
    "device": "cpu",
    "results_dir": "r",
}

torchrun_works = pytest.mark.skipif(
    sys.platform == "win32", reason="torchrun on Windows depends on how torch was built"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")


# Several processes


@pytest.fixture(scope="module")
def torchrun(python):
    """A function that runs a script in several processes of one thread each."""

    def run(processes, script, *arguments, cwd):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
        return python(*launcher, script, *arguments, cwd=cwd, PYTHONPATH=str(ROOT))

    return run


class TwoProcesses(NamedTuple):
    """What two processes held at the end of a task, as train_in_processes.py says; metrics.csv."""

    task: str
    first: dict
    second: dict
    metrics: str


def write_flags(folder, **flags):
    """Write config.json with FLAGS and further flags."""
    (folder / "config.json").write_text(json.dumps(FLAGS | flags), encoding="utf-8")


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory, torchrun):
    """A folder where two processes have trained both tasks for two epochs."""
    folder = tmp_path_factory.mktemp("two_processes")
    here = FLAGS | {"results_dir": str(folder / "r")}
    malaria.load_data(malaria.Config(**here))  # the processes find the cache
    write_flags(folder)
    done = torchrun(2, TRAIN_IN_PROCESSES, "config.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def outcomes(trained_folder):
    """{task: TwoProcesses}."""
    outcomes = {}
    for task in ("gan", "mtd"):
        outcomes[task] = TwoProcesses(
            task=task,
            first=torch.load(trained_folder / f"r/{task}0.pt", weights_only=True),
            second=torch.load(trained_folder / f"r/{task}1.pt", weights_only=True),
            metrics=(trained_folder / f"r/{task}/metrics.csv").read_text(encoding="utf-8"),
        )
    return outcomes


@pytest.fixture(params=["gan", "mtd"])
def two_processes(request, outcomes):
    """The TwoProcesses of each task."""
    return outcomes[request.param]


@torchrun_works
@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_two_processes_hold_the_same_weights(two_processes, network):
    """Bit for bit, for gradients are averaged; batch statistics are each process's own."""
    second_weights = two_processes.second["weights"][network]
    for name, weight in two_processes.first["weights"][network].items():
        if "running" not in name:
            assert torch.equal(weight, second_weights[name]), name


@torchrun_works
def test_two_processes_hold_the_same_augmentation_strength(two_processes):
    """The mean of what each has come to."""
    assert torch.equal(two_processes.first["strength"], two_processes.second["strength"])


@torchrun_works
def test_two_processes_hold_the_same_traces(two_processes):
    """The mean losses of each step."""
    assert torch.equal(two_processes.first["traces"], two_processes.second["traces"])


@torchrun_works
def test_two_processes_take_half_as_many_steps(two_processes):
    """293 cells are 19 steps of twice 8 images, in each of two epochs."""
    assert len(two_processes.first["traces"]) == 2 * 19


@torchrun_works
def test_two_processes_see_different_images(two_processes):
    """Each its own part of a batch."""
    assert not torch.equal(two_processes.first["images"], two_processes.second["images"])


@torchrun_works
def test_each_of_two_processes_has_a_batch_of_its_own(two_processes):
    """--batch_size is that of a process; half of it is for real against fake in an MTD."""
    expected = {"gan": 8, "mtd": 4}
    assert len(two_processes.first["images"]) == expected[two_processes.task]


@torchrun_works
def test_two_processes_have_moved_the_weights(two_processes):
    """From those of the same seed before any step."""
    config = malaria.Config(**FLAGS)
    trainer = malaria.Trainer(two_processes.task, config, classes.STAGES, CPU)
    before = trainer.networks["generator"].project[0].weight
    after = two_processes.first["weights"]["generator"]["project.0.weight"]
    assert not torch.equal(after, before)


@pytest.mark.long
@torchrun_works
def test_two_processes_train_a_critic_alike(tmp_path, torchrun):
    """The gradient penalty and feature matching are averaged too."""
    write_flags(tmp_path, loss="wgan-gp", feature_matching=0.01)
    done = torchrun(2, TRAIN_IN_PROCESSES, "config.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (
        torch.load(tmp_path / "r" / f"mtd{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert torch.equal(first["traces"], second["traces"])
    for name, weight in first["weights"]["discriminator"].items():
        if "running" not in name:
            assert torch.equal(weight, second["weights"]["discriminator"][name]), name


@torchrun_works
def test_only_the_first_process_writes_metrics(two_processes):
    """A line for each of two epochs, under the head."""
    assert len(two_processes.metrics.splitlines()) == 3


@pytest.fixture(scope="module")
def resumed_folder(trained_folder, outcomes, torchrun, python):
    """The folder when one process has gone on for an epoch, then two; `outcomes` are read."""
    write_flags(trained_folder, epochs=3, resume="auto")
    done = python(TRAIN_IN_PROCESSES, "config.json", cwd=trained_folder, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    write_flags(trained_folder, epochs=4, resume="auto")
    done = torchrun(2, TRAIN_IN_PROCESSES, "config.json", cwd=trained_folder)
    assert done.returncode == 0, done.stderr
    return trained_folder


@pytest.fixture(params=["gan", "mtd"])
def resumed_state(request, resumed_folder):
    """The last checkpoint of each task."""
    return malaria.read_state(resumed_folder / f"r/{request.param}/last.pt")


@torchrun_works
def test_a_run_goes_on_with_another_number_of_processes(resumed_state):
    """Two epochs of two processes, one of one, one of two."""
    assert [row["epoch"] for row in resumed_state["history"]] == [1, 2, 3, 4]


@torchrun_works
def test_steps_go_on_with_another_number_of_processes(resumed_state):
    """Twice 19, then 37, and 19 again."""
    assert resumed_state["step"] == 2 * 19 + 37 + 19


@torchrun_works
@pytest.mark.long
def test_two_processes_report_once(tmp_path, torchrun):
    """Only the first prints the table of splits, draws and scores."""
    small = ["--image_size", 28, "--g_width", 16, "--d_width", 16, "--min_steps", 4]
    flags = ["--task", "gan", "--epochs", 1, "--device", "cpu", *small]
    done = torchrun(2, ROOT / "rollNumber_05.py", *flags, cwd=tmp_path)
    assert (done.returncode, done.stdout.count("layout:")) == (0, 1), done.stderr


@pytest.fixture(scope="module")
def wrong_usage(tmp_path_factory, torchrun):
    """A finished run of two processes whose data is not there."""
    folder = tmp_path_factory.mktemp("wrong_usage")
    flags = ["--device", "cpu", "--data_path", "nowhere"]
    return torchrun(2, ROOT / "rollNumber_05.py", *flags, cwd=folder)


@torchrun_works
def test_wrong_usage_ends_all_processes(wrong_usage):
    """None waits for another."""
    assert wrong_usage.returncode != 0


@torchrun_works
def test_wrong_usage_of_several_processes_has_the_message_of_one(wrong_usage):
    """Cause and mend in a line."""
    assert "error: --data_path nowhere: no such folder or zip" in wrong_usage.stderr


# A GPU for each process


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(("rank", "device"), [("0", "cuda:0"), ("1", "cuda:1")])
def test_every_process_has_a_gpu_of_its_own(rank, device, two_gpus, monkeypatch):
    """The one with its number."""
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert malaria.pick_device("auto") == torch.device(device)


def test_a_process_without_a_gpu_of_its_own_says_so(two_gpus, monkeypatch):
    """The third of three."""
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(malaria.UsageError, match="--nproc_per_node.* 2;.*--device cpu"):
        malaria.pick_device("auto")


def test_any_number_of_processes_can_share_the_processor(two_gpus, monkeypatch):
    """The third of three too."""
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert malaria.pick_device("cpu") == CPU


# Precision


class FirstStep(NamedTuple):
    """The losses (5,) of a first step, and its Trainer."""

    losses: torch.Tensor
    trainer: malaria.Trainer


def first_step(task, config):
    """The FirstStep of a config, from weights, images and noise that are always the same."""
    trainer = malaria.Trainer(task, config, classes.STAGES, CPU)
    torch.manual_seed(1)
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    batch = malaria.Batch(images, torch.arange(8) % 4)
    head = batch if task == "mtd" else None
    losses = trainer.adversarial_step(batch, head)
    return FirstStep(torch.stack(losses), trainer)


@pytest.fixture(scope="module", params=["gan", "mtd"])
def in_bf16(request, small_config):
    """The FirstStep of each task in bf16."""
    return first_step(request.param, small_config(precision="bf16"))


@pytest.fixture
def in_fp32(in_bf16, small_config):
    """The FirstStep of the same task in fp32."""
    return first_step(in_bf16.trainer.task, small_config(precision="fp32"))


def test_losses_in_bf16_are_those_in_fp32(in_bf16, in_fp32):
    """Within bf16's three digits."""
    torch.testing.assert_close(in_bf16.losses, in_fp32.losses, rtol=0.03, atol=0.03)


def test_bf16_is_another_arithmetic(in_bf16, in_fp32):
    """Else the test above would compare fp32 with itself."""
    assert not torch.equal(in_bf16.losses, in_fp32.losses)


@pytest.mark.parametrize("part", ["weights", "ema"])
@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_weights_stay_in_fp32(in_bf16, part, network):
    """Those that learn and their averages, when the arithmetic is bf16."""
    kinds = {value.dtype for value in in_bf16.trainer.state()[part][network].values()}
    assert kinds == {torch.float32, torch.int64}


def test_images_stay_in_fp32(in_bf16):
    """G's own, when the arithmetic is bf16."""
    assert in_bf16.trainer.draw_fakes(None, 2).dtype == torch.float32


PROCESSORS = [
    ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, torch.float32),
    ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
    ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "AMD EPYC"}, torch.bfloat16),
    ({"avx2": True}, torch.float32),
]


@pytest.fixture
def pretend(monkeypatch):
    """A function that makes torch see a processor with given capabilities."""

    def pretend(capabilities):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)

    return pretend


@pytest.mark.parametrize(("capabilities", "precision"), PROCESSORS)
def test_auto_takes_bf16_only_where_it_is_fast(capabilities, precision, pretend):
    """On processors with AMX or, but for Intel's, AVX-512."""
    pretend(capabilities)
    assert malaria.pick_precision("auto", CPU) == precision


def test_auto_takes_fp32_on_a_gpu(pretend):
    """Whatever the processor can."""
    pretend({"amx_bf16": True})
    assert malaria.pick_precision("auto", CUDA) == torch.float32


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize(("name", "precision"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_a_precision_that_is_named_is_taken(name, precision, device, pretend):
    """On a processor that is not fast in bf16 too."""
    pretend({"avx2": True})
    assert malaria.pick_precision(name, device) == precision


# Memory


PAGE_FAULTS = """
import resource

import torch

from extras.devices import keep_freed_memory


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        tensors = [torch.ones(2**21) for _ in range(6)]  # 8 MiB each
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept(python, tmp_path):
    """Tensors of a later step lie where those of an earlier one lay."""
    (tmp_path / "faults.py").write_text(PAGE_FAULTS)
    done = python("faults.py", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert int(done.stdout) < 1000  # of 245,760 pages


# On a GPU


class Step(NamedTuple):
    """All numbers of one SGD step of D and of G, as lists of tensors on the CPU in float64."""

    losses: list
    d_gradients: list
    g_gradients: list
    d_state: list


def numbers(tensors):
    """Tensors of any device and kind on the CPU in float64."""
    return [tensor.detach().cpu().double() for tensor in tensors]


def one_step(task, device):
    """The Step of weights, images and noise that are the same on every device."""
    torch.manual_seed(0)
    config = malaria.Config(image_size=32, dropout=0.0, optimizer="sgd", precision="fp32")
    trainer = malaria.Trainer(task, config, classes.STAGES, device)
    generator, discriminator = trainer.networks.values()
    optimizer_g, optimizer_d = trainer.optimizers.values()
    real = torch.rand(16, 3, 32, 32) * 2 - 1
    noise = torch.randn(16, 100)
    labels = torch.arange(16).to(device) % 4 if task == "mtd" else None

    fake = generator(noise.to(device))
    d_step = malaria.discriminator_step(
        discriminator, optimizer_d, real.to(device), fake, labels=labels
    )
    d_gradients = numbers(parameter.grad for parameter in discriminator.parameters())
    loss_g = malaria.generator_step(discriminator, optimizer_g, fake)
    return Step(
        losses=numbers([d_step.loss_d, d_step.loss_c, loss_g]),
        d_gradients=d_gradients,
        g_gradients=numbers(parameter.grad for parameter in generator.parameters()),
        d_state=numbers(discriminator.state_dict().values()),
    )


@needs_cuda
@pytest.mark.parametrize("part", Step._fields)
@pytest.mark.parametrize("task", ["gan", "mtd"])
def test_a_step_on_cuda_equals_one_on_the_processor(task, part):
    """Within 1 %, in fp32 without the shorter fractions of tf32."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        on_cuda = getattr(one_step(task, CUDA), part)
    on_cpu = getattr(one_step(task, CPU), part)
    for ours, expected in zip(on_cuda, on_cpu, strict=True):
        assert (ours - expected).norm() <= 0.01 * expected.norm() + 1e-6


@pytest.fixture(scope="module")
def travelled(tmp_path_factory, script):
    """A folder with a gan's run of three epochs: on the processor, the GPU, the processor."""
    folder = tmp_path_factory.mktemp("travelled")
    flags = ["--task", "gan", "--image_size", 28, "--min_steps", 4, "--batch_size", 8]
    legs = [("cpu", []), ("cuda", ["--resume"]), ("cpu", ["--resume"])]
    for epochs, (device, resume) in enumerate(legs, 1):
        done = script(*flags, *resume, "--epochs", epochs, "--device", device, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@needs_cuda
def test_a_run_goes_on_on_another_device(travelled):
    """A line in metrics.csv for each of the three epochs, under the head."""
    text = (travelled / "results/gan/metrics.csv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 4


@needs_cuda
def test_a_run_says_which_device_it_used_last(travelled):
    """In config.json."""
    about = json.loads((travelled / "results/gan/config.json").read_text(encoding="utf-8"))
    assert about["device_used"].startswith("cpu")


@needs_cuda
def test_the_same_weights_draw_the_same_picture_on_every_device(travelled):
    """Within 2 of 255."""
    pictures = []
    for device in (CPU, CUDA):
        path = travelled / "results/gan/last.pt"
        generator = malaria.load_checkpoint(path, "gan", device).generator
        noise = malaria.latents(16, generator, 0)
        pictures.append(malaria.sample(generator, noise).astype(int))
    on_cpu, on_cuda = pictures
    assert abs(on_cpu - on_cuda).max() <= 2


@needs_cuda
def test_weights_from_several_devices_go_through_test_py(travelled, tester):
    """On the GPU, which is what it takes if there is one."""
    flags = ["--model", "gan", "--weights", "results/gan/last.pt", "--out", "out"]
    done = tester(*flags, cwd=travelled)
    assert done.returncode == 0, done.stderr


@needs_cuda
@torchrun_works
def test_torchrun_on_a_gpu_goes_to_the_end_of_all_tasks(tmp_path, torchrun):
    """One process talks NCCL to itself."""
    flags = ["--device", "cuda", "--image_size", 28, "--min_steps", 4, "--epochs", 1]
    done = torchrun(1, ROOT / "rollNumber_05.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/all/before_after.png").exists()
