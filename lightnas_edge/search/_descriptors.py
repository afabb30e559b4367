"""Keeps compiled libraries from printing to standard output."""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LOCK = threading.Lock()  # descriptors belong to the process, not to a thread


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What is written to file descriptor 1 inside the block goes to descriptor 2; without one, to nowhere.

    The buffers of Python and of C are flushed before and after, so that results keep their order and their place.
    """
    with _LOCK:
        _flush()
        target = _standard_error()  # before 1 is copied, or a missing 2 would be that copy
        try:
            saved = os.dup(1)
        except OSError:  # the process has no standard output
            os.close(target)
            yield
            return
        os.dup2(target, 1)
        os.close(target)
        try:
            yield
        finally:
            _flush()
            os.dup2(saved, 1)
            os.close(saved)


def _standard_error() -> int:
    """A copy of descriptor 2; nowhere where a process that began without one has a file there that it only reads."""
    with suppress(OSError):
        found = os.dup(2)
        if fcntl.fcntl(found, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
            return found
        os.close(found)
    return os.open(os.devnull, os.O_WRONLY)


def _flush() -> None:
    ctypes.CDLL(None).fflush(None)  # a pipe's C buffer would otherwise be written when the process ends
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()
