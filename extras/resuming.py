"""Whether a checkpoint goes with a command: what may change when a run is resumed, what may not."""

import dataclasses

from extras import UsageError
from extras.flags import as_flag

# What is done, and where it is written, is the command's: no checkpoint chooses that.
OF_THE_COMMAND = ("task", "resume", "results_dir", "save_dir", "json", "overwrite", "summary")

# What has to be equal for the weights of one network to fit another.
SIZES = ("image_size", "channels", "latent_dim", "g_width", "d_width", "smooth", "upsamplings")


# What runs did that have no value of their own for a settled flag.
BEFORE_SETTLED = {"adversarial_every": 1, "d_steps": 1, "symmetry": "all"}


def merged_settings(command, flags, made_with, settled):
    """The settings of a run that goes on, as a dict.

    command: its Config; flags: those that were written, {name: value}; made_with: {checkpoint file:
    the settings in it}, of --task all those of both runs; settled: {flag: the value of it that a
    run replaces by what it stands for}. Raises UsageError if there is no run, or a flag cannot
    change.
    """
    if not made_with:
        raise UsageError(
            f"--resume: no run of --task {command.task} to go on with in {command.results_dir}; "
            "leave --resume out"
        )
    first = next(iter(made_with.values()))
    settings = {**first, **flags}
    # With --task all both runs have to agree with each other and with the flags.
    for path, settings_of_run in made_with.items():
        check_unchanged(path, settings_of_run, settings, command, settled)
    for name in OF_THE_COMMAND:
        settings[name] = getattr(command, name)
    if command.weights not in ("", first["weights"]):
        raise UsageError(f"--weights {command.weights}: the run started from {first['weights']!r}")
    settings["weights"] = first["weights"]
    if command.task == "all":
        settings["weights"] = ""
        for name in settled:
            settings[name] = flags.get(name, settled[name])
    return settings


def with_later_flags(made_with, settled):
    """The settings in a checkpoint, with what runs did before a settled flag was there.

    settled: as in merged_settings.
    """
    settings = settled | made_with
    for name, stands_for_another in settled.items():
        if settings[name] == stands_for_another:
            settings[name] = BEFORE_SETTLED[name]
    return settings


def check_unchanged(path, made_with, settings, config, settled):
    """Raise UsageError if a setting that is not changeable differs from a checkpoint's.

    config: any Config, whose fields say what is changeable; settled: see check_settled.
    """
    for field in dataclasses.fields(config):
        name = field.name
        if field.metadata.get("changeable") or name in settled:
            continue
        if settings[name] != made_with[name]:
            raise UsageError(
                f"--resume: {path} was made with {as_flag(name, made_with[name])}; "
                "this cannot change"
            )


def check_settled(path, task, made_with, config, settled):
    """Raise UsageError if a command's value of a settled flag is another than a checkpoint's.

    made_with: the settings in the checkpoint; settled: as in merged_settings.
    """
    for name, stands_for_another in settled.items():
        applies = name != "adversarial_every" or task == "mtd"
        if applies and getattr(config, name) not in (stands_for_another, made_with[name]):
            raise UsageError(f"{path}: made with --{name} {made_with[name]}; this cannot change")


def check_sizes(path, made_with, settings, norm_of):
    """Raise UsageError unless networks made with some settings fit those of another config.

    norm_of: settings -> the name of D's norm.
    """
    for name in SIZES:
        if made_with[name] != settings[name]:
            raise UsageError(f"--weights {path}: made with {as_flag(name, made_with[name])}")
    norm = norm_of(made_with)
    if norm != norm_of(settings):
        raise UsageError(f"--weights {path}: made with {as_flag('d_norm', norm)}")


def check_data_flags(path, made_with, settings, names):
    """Raise UsageError unless the settings on which crops depend are those of a checkpoint."""
    for name in names:
        if settings[name] != made_with[name]:
            raise UsageError(
                f"{path}: made with {name} {made_with[name]}, here it is {settings[name]}; "
                f"give --{name} and data to match"
            )
