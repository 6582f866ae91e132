"""Checks that a checkpoint is what its own config says, before anything is made of it.

A file from a stranger can hold whatever torch.load(weights_only=True) reads: values of other types,
tensors of other shapes, an optimiser's state that corrupts memory.
"""

import contextlib
import math

import torch
from torch import Tensor, nn

from extras import UsageError

KEYS = {
    "format",
    "task",
    "config",
    "classes",
    "normalisation",
    "trained_on",
    "strength",
    "epoch",
    "step",
    "best",
    "history",
    "traces",
    "weights",
    "ema",
    "optimizers",
}
MOST_NAMES = 1_000_000
MOST_CLASSES = 1000
MOST_STEPS = 10**12


class CheckpointError(ValueError):
    """What is wrong with a checkpoint; the message is one line."""


@contextlib.contextmanager
def refusing_unreadable(path):
    """A file that is missing, or that torch.load refuses, is a UsageError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        from extras.crops import hint_at_name  # takes long to import

        hint = hint_at_name(str(path))
        raise UsageError(f"{path}: no such file{hint}; --task gan or mtd writes one") from error
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds for files that are damaged or unsafe
        raise UsageError(
            f"{path}: not a checkpoint of this script, or damaged ({type(error).__name__})"
        ) from error


def check_format(path, state, expected):
    """Raise UsageError unless what is in a file is a dict of the expected format, a number."""
    file_format = state.get("format") if isinstance(state, dict) else None
    is_number = type(file_format) is int  # a tensor would compare by element
    if not is_number or file_format != expected:
        raise UsageError(
            f"{path}: not a checkpoint of this script's format {expected}; "
            "--task gan or mtd writes one"
        )


@contextlib.contextmanager
def refusing_damage(path):
    """Whatever a stranger's values lead to inside the block is a UsageError that names the file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, UsageError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{path}: not a checkpoint of this script, or damaged ({reason})"
        ) from error


def require(condition, message):
    """Raise CheckpointError unless a condition holds."""
    if not condition:
        raise CheckpointError(message)


def is_count(value):
    """Whether a value is a whole number that can count steps."""
    return type(value) is int and 0 <= value <= MOST_STEPS


def check_values(state, metrics):
    """Check everything in a checkpoint that is no network and no optimiser.

    metrics: the names of the numbers that a step leaves in the traces.
    """
    missing = KEYS - set(state)
    require(not missing, f"it lacks {', '.join(sorted(missing))}")
    task = state["task"]
    require(type(task) is str and task in ("gan", "mtd"), "its task is neither gan nor mtd")
    config = state["config"]
    require(type(config) is dict and all(type(key) is str for key in config), "config is no dict")
    check_names(state["classes"], "classes", MOST_CLASSES)
    for name in state["classes"]:
        require(0 < len(name) <= 200 and name.isprintable(), f"a class is called {name!r:.80}")
        require("," not in name, f"a class is called {name!r:.80}, with a comma")
    require(len(state["classes"]) > 0, "it has no classes")
    require(len(set(state["classes"])) == len(state["classes"]), "a class is there twice")
    check_names(state["trained_on"], "trained_on", MOST_NAMES)
    require(is_count(state["epoch"]) and is_count(state["step"]), "epoch or step is no count")
    best = state["best"]
    require(type(best) is float and not math.isnan(best), "best is no number")
    temperature = state.get("temperature", 1.0)  # of a delivered MTD
    require(type(temperature) is float and 0.1 < temperature < 10, "temperature is out of range")
    columns = {"epoch", *metrics}
    if task == "mtd":
        columns.add("val_balanced_accuracy")
    check_history(state["history"], state["epoch"], columns)
    traces = torch.empty(state["step"], len(metrics), device="meta")
    check_tensor(state["traces"], traces, "traces")
    check_tensor(state["strength"], torch.empty((), device="meta"), "strength")
    require(0 <= state["strength"] <= 1, "strength is not in [0, 1]")


def check_names(names, what, most):
    """Check a list of text that is not too long."""
    require(type(names) is list and len(names) <= most, f"{what} is no list of up to {most} names")
    require(all(type(name) is str for name in names), f"{what} has a name that is no text")


def check_history(history, epoch, columns):
    """Check the rows of numbers, one an epoch at most, each with these columns and maybe others."""
    require(type(history) is list and len(history) <= epoch, "history is of more epochs")
    for row in history:
        require(type(row) is dict, "a row of history is no dict")
        require(columns <= set(row), "a row of history lacks a number")
        for name, value in row.items():
            is_number = type(value) in (int, float)
            require(type(name) is str and is_number, "history has what is no number")


def check_tensor(found, expected, name):
    """Check that a value is a finite tensor of the kind, type and shape of another."""
    require(type(found) is Tensor and found.layout == torch.strided, f"{name} is no tensor")
    require(found.dtype == expected.dtype, f"{name} is of {found.dtype}, not {expected.dtype}")
    shape = tuple(found.shape)
    require(found.shape == expected.shape, f"{name} is {shape}, not {tuple(expected.shape)}")
    require(bool(found.isfinite().all()), f"{name} is not finite")


def check_tensors(found, expected, name):
    """Check a state_dict: the same names, and tensors of the same types and shapes."""
    require(isinstance(found, dict), f"{name} is no dict")
    require(found.keys() == expected.keys(), f"{name} has other layers than its config says")
    for key, value in expected.items():
        check_tensor(found[key], value, f"{name}.{key}")


def check_networks(state, networks, averages):
    """Check the weights in a checkpoint against a generator and a discriminator, and averages."""
    names = ("generator", "discriminator")
    for kind in ("weights", "ema", "optimizers"):
        is_pair = type(state[kind]) is dict and set(state[kind]) == set(names)
        require(is_pair, f"{kind} is not of a generator and a discriminator")
    for name, network, average in zip(names, networks, averages, strict=True):
        check_tensors(state["weights"][name], network.state_dict(), f"weights.{name}")
        check_tensors(state["ema"][name], average.state_dict(), f"ema.{name}")


def check_optimizers(states, networks, make_optimizer):
    """Check the optimisers in a checkpoint against the networks, {name: network}, they train.

    states: {name: state_dict}; make_optimizer: (name, parameters) -> a new optimiser.
    """
    for name, network in networks.items():
        number = nn.Parameter(torch.zeros(1))  # an optimiser that has stepped shows what one keeps
        number.grad = torch.zeros(1)
        example = make_optimizer(name, [number])
        example.step()
        parameters = list(network.parameters())
        check_optimizer(states[name], example, parameters, f"optimizers.{name}")


def check_optimizer(found, optimizer, parameters, name):
    """Check the state_dict of an optimiser of some parameters.

    optimizer: one of the same kind and settings that has stepped once, on any parameter.
    """
    require(isinstance(found, dict) and found.keys() == {"state", "param_groups"}, f"{name} is odd")
    expected = optimizer.state_dict()
    groups = found["param_groups"]
    require(type(groups) is list and len(groups) == 1, f"{name} has not one group of parameters")
    check_group(groups[0], expected["param_groups"][0], len(parameters), name)
    states = found["state"]
    require(isinstance(states, dict), f"{name}.state is no dict")
    require(set(states) <= set(range(len(parameters))), f"{name} has states of no parameter")
    example_state = expected["state"].get(0, {})  # without momentum SGD keeps none
    for number, state in states.items():
        require(
            isinstance(state, dict) and state.keys() == example_state.keys(),
            f"{name} has an odd state",
        )
        for key, value in state.items():
            if value is None and example_state[key] is None:
                continue
            is_count_of_steps = key == "step"
            like = torch.empty((), device="meta") if is_count_of_steps else parameters[number]
            check_tensor(value, like, f"{name}.{number}.{key}")


def check_group(group, expected, count, name):
    """Check the settings of an optimiser; only the learning rate may be another."""
    require(isinstance(group, dict) and set(group) <= set(expected), f"{name} has odd settings")
    numbers = group.get("params")
    is_list = type(numbers) is list and all(type(number) is int for number in numbers)
    require(is_list and numbers == list(range(count)), f"{name} is of other parameters")
    rate = group.get("lr")
    require(type(rate) in (int, float) and 0 <= rate < math.inf, f"{name} has no learning rate")
    for key in set(group) - {"params", "lr"}:
        same_type = type(group[key]) is type(expected[key])
        require(same_type and group[key] == expected[key], f"{name} has another {key}")
