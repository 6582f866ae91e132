"""Signals that ask a run to stop: Ctrl-C, TERM and HUP become one exception, raised once."""

import contextlib
import signal
import threading


class Stopped(KeyboardInterrupt):
    """A signal has asked to stop, as Ctrl-C does; args[0] is its number."""


def stop(number, frame):
    """Signal handler: stop once; later signals are ignored while what there is is put in order."""
    for other in stopping_signals():
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


def stopped_behind(error):
    """The Stopped that led to an error, or None: a library that is broken off raises its own."""
    while error is not None:
        if isinstance(error, Stopped):
            return error
        error = error.__context__
    return None


def stopping_signals():
    """The signals that ask to stop, as far as this system has them and they are not ignored.

    nohup ignores HUP, and a shell INT for what it runs in the background: that stays so.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


@contextlib.contextmanager
def handled_signals():
    """Inside the block stopping signals raise Stopped; before and after, they do what they did."""
    if threading.current_thread() is not threading.main_thread():
        yield  # of a program that imports this one: signals are not ours
        return
    before = {number: signal.signal(number, stop) for number in stopping_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
