"""Signals that end a process by raising: as objects, made where they are raised.

Python may handle a signal in what librdkafka calls. Up to Python 3.11 confluent-kafka hands on what
is raised there by its value. That of `sys.exit(0)` is a number, and that of Python's own
KeyboardInterrupt is nothing: both become a SystemError.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End this process, from a handler of a signal, with an exit code."""
    raise SystemExit(code)


@contextmanager
def raising_signals(terminated: int) -> Iterator[None]:
    """In the block SIGTERM ends the process with this exit code, and Ctrl-C is KeyboardInterrupt.

    A process that ignores Ctrl-C, as a shell's background job does, goes on ignoring it.
    """

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    # The kernel keeps SIGTERM from the first process of a container that does not ask for it.
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: leave(terminated))}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
