"""Flags as fields of a frozen dataclass: their defaults, checks, and the parser made of them."""

import argparse
import dataclasses
import difflib
import functools
import math
import shlex

from extras import UsageError


def flag(group, default, help, choices=None, low=None, high=None, **kinds):
    """A dataclass field that is also a command-line flag.

    group: its heading in --help; default: its value where it is not given; help: its line there.
    choices: the valid values, or a function that returns them, of a table further down.
    low, high: inclusive range of a number; high None is no limit.
    kinds: changeable=True, if it may differ when a run is resumed: all else is part of what is
    trained; reads_data=True, if the crops that are read depend on it.
    """
    metadata = {
        "group": group,
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        **kinds,
    }
    return dataclasses.field(default=default, metadata=metadata)


def flags_of(group):
    """The function `flag` for the flags of one group."""
    return functools.partial(flag, group)


def choices_of(field):
    """The valid values of a flag, or None if it is free."""
    choices = field.metadata["choices"]
    if choices is None:
        return None
    return tuple(choices()) if callable(choices) else tuple(choices)


def check_flag(field, value):
    """Raise UsageError unless a value has the flag's type, is one of its choices and in range."""
    accepted = (float, int) if field.type is float else (field.type,)
    if type(value) not in accepted:
        raise UsageError(f"--{field.name} {value!r}: has to be of type {field.type.__name__}")
    choices = choices_of(field)
    if choices and value not in choices:
        raise UsageError(f"--{field.name} {value!r} is not one of {', '.join(map(str, choices))}")
    low = field.metadata["low"]
    high = field.metadata["high"]
    if low is None:  # no number, or one of its choices
        return
    if not low <= value < math.inf or (high is not None and value > high):
        limit = "any number" if high is None else high
        raise UsageError(f"--{field.name} {value} is out of range: from {low} to {limit}")


def as_flag(name, value):
    """A setting as it is written on the command line."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {shlex.quote(str(value))}"


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are UsageErrors of one line that name the nearest flag.

    description: shown as it stands. Flags cannot be cut short.
    """

    def __init__(self, description, **settings):
        as_it_stands = argparse.RawDescriptionHelpFormatter
        super().__init__(
            description=description, formatter_class=as_it_stands, allow_abbrev=False, **settings
        )

    def error(self, message):
        """Raise UsageError for a wrong command line."""
        unknown = message.partition("unrecognized arguments: ")[2]
        name = unknown.partition(" ")[0].partition("=")[0]
        flags = list(self._option_string_actions)
        near = [flag for flag in flags if name and flag.startswith(f"{name}_")]  # --lr: both rates
        near = near or difflib.get_close_matches(name, flags, 1)
        mend = f"did you mean {' or '.join(near)}?" if near else "see --help"
        raise UsageError(f"{message}; {mend}")


def make_parser(config_class, description):
    """The parser of a Config's flags, in groups; what is not given is not in its result."""
    parser = Parser(description, argument_default=argparse.SUPPRESS)
    groups = {}
    for field in dataclasses.fields(config_class):
        name = field.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        text = field.metadata["help"].replace("%", "%%")
        if field.default != "":
            text += f" (default: {field.default})"
        if field.name == "resume":
            kind = {"nargs": "?", "const": "auto", "metavar": "FILE"}
        elif field.type is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        else:
            kind = {"type": field.type, "choices": choices_of(field)}
        groups[name].add_argument(f"--{field.name}", help=text, **kind)
    return parser
