"""A command's end: its exit code, and the one line that says why it came too early."""

import contextlib
import os
import sys

from extras import UsageError, signals
from extras.files import in_words


@contextlib.contextmanager
def saying_what_is_kept(trainer, last):
    """Whatever ends the block too early says as well which epoch of a Trainer's is saved.

    last: the checkpoint of the latest.
    """
    try:
        yield
    except (KeyboardInterrupt, RuntimeError, OSError) as error:
        kept = "no epoch was finished"
        if trainer.saved_epoch:
            number = f"epoch {trainer.saved_epoch} of {trainer.epochs}"
            kept = f"{number} is in {last}, --resume goes on with it"
        stopped = signals.stopped_behind(error)
        if stopped:
            raise type(stopped)(stopped.args[0], f"{trainer.task}: {kept}") from error
        reason = in_words(error)
        reason = f"{reason}; " if reason else ""
        text = f"{trainer.task}: {reason}{kept}"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(text) from error
        raise RuntimeError(text) from error


def main(work, arguments):
    """Run work(arguments); returns the exit code.

    0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 and 129 the signals TERM and HUP.
    """
    if hasattr(sys.stdout, "reconfigure"):  # for names that a terminal cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with signals.handled_signals():
            work(arguments)
    except UsageError as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 2
    except signals.Stopped as stopped:
        print("\nstopped", *stopped.args[1:], file=sys.stderr)
        return 128 + stopped.args[0]
    except (RuntimeError, OSError, MemoryError) as error:
        stopped = signals.stopped_behind(error)
        if stopped:
            print("\nstopped", *stopped.args[1:], file=sys.stderr)
            return 128 + stopped.args[0]
        print("failed:", *in_words(error).split(), file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print("\nstopped", *stopped.args, file=sys.stderr)
        return 130
    return 0


def leave(code):
    """End the process with an exit code."""
    if "LOCAL_RANK" in os.environ:  # threads of gloo may hold tensors; freed late, they abort
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
