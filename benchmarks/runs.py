"""What the programs share: files of finished runs, text tables, and the common flags."""

import contextlib
import json
import os
import platform
import tempfile
import textwrap
from pathlib import Path

import pandas as pd
import torch

import rollNumber_05 as malaria
from extras.flags import Parser

ROOT = Path(__file__).resolve().parent.parent


def read_runs(path):
    """The records in a file of JSON lines; a line that a kill left unfinished does not count."""
    records = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
    return records


def append_run(path, record):
    """Add a record as a line, after the end of one that was left unfinished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record) + "\n"
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        line = "\n" + line
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def finished_runs(path):
    """read_runs as a DataFrame, a row a run. Raises UsageError if there is none."""
    runs = pd.DataFrame(read_runs(path))
    if runs.empty:
        raise malaria.UsageError(f"--out {path}: no finished runs to sum up")
    return runs


def hardware(device, precision="auto"):
    """The processor, its arithmetic in training and the version of PyTorch, in words."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        cores = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
        name = f"{processor_name()} ({cores}, {torch.backends.cpu.get_cpu_capability()})"
    bits = torch.finfo(malaria.pick_precision(precision, device)).bits
    arithmetic = {16: "bf16", 32: "fp32"}[bits]
    return f"{name}, {arithmetic}, PyTorch {torch.__version__}"


def processor_name():
    """The name of the processor, or at least its kind."""
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities().get("cpu_name", platform.machine())
    return platform.machine()


def hardware_line(runs, column):
    """What runs were made on, in words; where that differs, for which values of a column."""
    values = runs.groupby("hardware", sort=False)[column].unique()
    if len(values) == 1:
        return paragraph(f"Hardware: {values.index[0]}.")
    lines = []
    for name, names in values.items():
        lines.append(paragraph(f"Hardware of {', '.join(names)}: {name}."))
    return "\n".join(lines)


def paragraph(text):
    """Text in lines of at most 100 characters."""
    return textwrap.fill(text, 100)


def mean_and_range(values, digits=3):
    """Numbers in words: '0.904 (0.900-0.910)'; one number alone without the range."""
    mean = f"{values.mean():.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({values.min():.{digits}f}-{values.max():.{digits}f})"


def text_of(table):
    """A DataFrame as aligned text, its rows named by its index."""
    table = table.rename_axis(index=None, columns=None)
    lines = table.to_string(na_rep="", line_width=None).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def make_parser(description):
    """A parser with the flags that all programs have."""
    parser = Parser(description)
    add = parser.add_argument
    add("--data_path", default="", help="folder or zip with the data; default: the demo set")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--out", type=Path, help="where the results are; default: in results/")
    add("--summary", action="store_true", help="only sum up what is in --out")
    add("--smoke", action="store_true", help="a little of everything, to see that it works")
    return parser


@contextlib.contextmanager
def output(flags, name):
    """--out, or else results/NAME, or of a smoke run a place that is thrown away."""
    if flags.out:
        yield flags.out
    elif flags.smoke:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, name)
    else:
        yield Path("results", name)
