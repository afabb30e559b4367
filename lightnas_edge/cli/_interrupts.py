"""Ctrl-C is acknowledged at once, whatever the program is doing.

Python runs a signal's handler only between two of its own instructions, which a long step of PyTorch or of the solver
delays. The byte that the interpreter writes to the wake-up descriptor comes at once, and a thread waits for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

ACKNOWLEDGED = "Interrupting; press Ctrl-C again to stop immediately"
_END = b"\0"  # no signal has this number
_GRACE_S = 2.0  # from the second Ctrl-C to the end of the process

_ENDING = (signal.SIGTERM, signal.SIGHUP)

_guards_forks = False


@contextlib.contextmanager
def acknowledge_interrupts() -> Iterator[None]:
    """Answer the first Ctrl-C on standard error; end the process soon after the second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = [number for number in _ENDING if signal.getsignal(number) == signal.SIG_DFL]  # `nohup` stays in force
    for number in ending:
        signal.signal(number, _end)
    _leave_children_alone()
    read, write = os.pipe()
    os.set_blocking(write, False)
    previous = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(read,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.set_blocking(write, True)
        os.write(write, _END)  # closing is not enough: processes that decode images have inherited the descriptor
        watcher.join()
        os.close(write)
        os.close(read)
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    """End the command as an error does, so that its temporary folders go; a second signal ends it at once.

    An agent on a board continues, as after a lost connection.
    """
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)


def _watch(read: int) -> None:
    interrupts = 0
    while True:
        stopping = interrupts > 1
        if stopping and not select.select([read], [], [], _GRACE_S)[0]:
            os._exit(130)
        signals = os.read(read, 64)
        if _END in signals:  # the command has ended
            return
        for number in signals:
            if number != signal.SIGINT:
                continue
            interrupts += 1
            if interrupts == 1:
                with contextlib.suppress(OSError, ValueError):
                    print(f"\n{ACKNOWLEDGED}", file=sys.stderr, flush=True)


def _leave_children_alone() -> None:
    """A forked process inherits the descriptor and the handlers; its own signals are not ours."""
    global _guards_forks
    if not _guards_forks:
        os.register_at_fork(after_in_child=_forget_descriptor)
        _guards_forks = True


def _forget_descriptor() -> None:
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
        for number in _ENDING:
            if signal.getsignal(number) is _end:
                signal.signal(number, signal.SIG_DFL)
