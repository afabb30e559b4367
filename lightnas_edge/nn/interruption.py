"""The first Ctrl-C stops a loop where it can resume, the second one stops it immediately."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from torch import Tensor


class WorkAbandoned(KeyboardInterrupt):
    """The first Ctrl-C, raised in the middle of work that changes nothing yet."""


class Interruptible:
    """While it is entered, the first Ctrl-C sets `requested`; inside `abandonable` it also raises WorkAbandoned.

    The second Ctrl-C does what it did before. Only the main thread receives signals; elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self.requested = False
        self._abandonable = False
        self._previous: Any = None

    def __enter__(self) -> Interruptible:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Work that can stop anywhere: what it changes is either discarded or restored.

        Raises:
            WorkAbandoned: at the first Ctrl-C, also at one that came before.
        """
        if self.requested:
            raise WorkAbandoned
        try:
            self._abandonable = True
            yield
        finally:
            self._abandonable = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()
        if self._abandonable:
            raise WorkAbandoned

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


def interruptible_backward(x: Tensor) -> Tensor:
    """The same tensor. Python handles signals between its own instructions, of which a backward pass has none without
    this.
    """
    if x.requires_grad:
        x.register_hook(_do_nothing)  # type: ignore[no-untyped-call]  # torch has no type for it
    return x


def _do_nothing(gradient: Tensor) -> None:
    return None
