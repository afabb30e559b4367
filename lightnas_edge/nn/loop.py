"""The loop that search and train share: when to write metrics, when to save, how to stop and how to resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import torch

from lightnas_edge.nn.checkpoint import load_checkpoint, require_same, save_checkpoint
from lightnas_edge.nn.device import peak_memory_mb, random_state, restore_random_state
from lightnas_edge.nn.interruption import Interruptible, WorkAbandoned
from lightnas_edge.nn.metrics_log import MetricsLog
from lightnas_edge.nn.ranks import Ranks
from lightnas_edge.records.base import Record

FLUSH_S = 0.5  # metrics wait this long at most: reading a loss earlier would make a device wait
AGREE_S, AGREE_STEPS = 1.0, 8  # several processes ask each other this often, at least, whether to stop or to save
TIME_FROM_STEPS = 30  # of a shorter run only the steps are counted: timing a few would take a tenth of it and more
Event = dict[str, Any]
Batch = TypeVar("Batch")


class Learner(Protocol):
    """What a loop drives."""

    def flush(self) -> None:
        """Write the metrics of the steps since the last call."""

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, as tensors and plain values; the loop adds the state of random numbers."""

    def undo(self) -> Callable[[], None]:
        """A function that restores what an abandoned step may have changed."""


class TrainingLoop:
    """Checkpoints, metrics and interruption of one long loop. Entered, it runs; `open` comes first.

        state = loop.open(resume=True)
        with loop:
            for batch in loop.steps(batches):
                with loop.abandonable():
                    ...                         # forward and backward passes
                ...                             # the step that changes weights
                loop.tick(step)

    The first Ctrl-C takes effect inside `abandonable` or while a batch is loaded, else at the next `tick`: the step is
    undone, the last finished step is saved, and a KeyboardInterrupt is raised. Several ranks stop only at a `tick` that
    they agree on, since one that stopped earlier would leave the others waiting: about once a second, or after each step that
    is longer.

    Args:
        what: the run in an error message: "the search in runs/tiny".
        identity: the settings that a checkpoint belongs to.
        checkpoint_s: seconds between checkpoints.
        on_event: called with every line of the metrics on the first rank, and with an estimate of the cost.
    """

    def __init__(
        self,
        learner: Learner,
        folder: Path,
        *,
        what: str,
        schema: int,
        identity: dict[str, Any],
        device: torch.device,
        checkpoint_s: float,
        on_event: Callable[[Event], None],
        ranks: Ranks | None = None,
    ) -> None:
        self._learner, self._what, self._schema, self._identity = learner, what, schema, identity
        self._device, self._checkpoint_s, self._on_event = device, checkpoint_s, on_event
        self._ranks = ranks or Ranks()
        self._metrics_path, self.checkpoint_path = folder / "metrics.jsonl", folder / "checkpoint.pt"
        self._metrics: MetricsLog | None = None
        self._position = 0
        self._interrupt = Interruptible()
        self._undo: Callable[[], None] | None = None
        self._started = self._saved = self._flushed = self._agreed_s = time.monotonic()
        self._silent, self._agree_after = 0, 1  # steps since the last agreement, and from one to the next

    @property
    def elapsed_s(self) -> float:
        """Of all processes that worked on this run, one after the other."""
        return round(time.monotonic() - self._started, 3)

    @elapsed_s.setter
    def elapsed_s(self, value: float) -> None:
        self._started = time.monotonic() - value

    def open(self, *, resume: bool) -> dict[str, Any] | None:
        """The state at the last checkpoint, with the random numbers restored; None where the run begins.

        Raises:
            RunError: the checkpoint is damaged or belongs to other settings.
        """
        if resume and self.checkpoint_path.exists():
            state = load_checkpoint(self.checkpoint_path, schema=self._schema)
            require_same(state["identity"], self._identity, self._what)
            mine = {name: values[self._ranks.rank] for name, values in state["random"].items()}
            restore_random_state(mine, self._device)
            self._position = state["metrics_bytes"]
            self.elapsed_s = state["elapsed_s"]
            return state
        self._ranks.wait()  # until every rank has looked for the checkpoint
        if self._ranks.first:
            self.checkpoint_path.unlink(missing_ok=True)
        return None

    def __enter__(self) -> TrainingLoop:
        if self._ranks.first:
            self._metrics = MetricsLog(self._metrics_path, self._position)
        self._saved = self._flushed = time.monotonic()
        self._interrupt.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, WorkAbandoned):
                if self._undo is not None:
                    self._undo()
                self.save()
        finally:
            self._interrupt.__exit__(kind, error, trace)
            if self._metrics is not None:
                self._metrics.close()

    def steps(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches. Each begins a step, which ends with `tick`."""
        source = iter(batches)
        while True:
            with self.abandonable():
                batch = next(source, None)
            if batch is None:
                return
            self._undo = self._learner.undo()
            yield batch

    def abandonable(self) -> AbstractContextManager[None]:
        """Work that Ctrl-C may stop anywhere, because `undo` restores all that it changes."""
        return self._interrupt.abandonable() if self._ranks.world == 1 else nullcontext()

    def tick(self, step: int) -> None:
        """A step has ended, the `step`-th of its epoch and phase.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when the checkpoint is saved.
        """
        self._undo = None
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()
        self._save_or_stop(step)

    def end_epoch(self, *, last: bool) -> None:
        """As `tick`, after all that belongs to an epoch; the last one is always saved."""
        self._save_or_stop(0, always=last)

    def flush(self) -> None:
        self._flushed = time.monotonic()
        self._learner.flush()

    def write(self, lines: Sequence[Record]) -> None:
        """Append to the metrics and send as events."""
        if self._metrics is None:
            return
        events = [line.to_json() for line in lines]
        self._metrics.write(events)
        for event in events:
            self._on_event(event)

    def save(self) -> None:
        """A checkpoint of the last finished step."""
        self.flush()
        random = {name: self._ranks.gather(value) for name, value in random_state(self._device).items()}
        state = self._learner.state()
        if self._metrics is not None:
            self._metrics.sync()
            common = {
                "schema": self._schema,
                "identity": self._identity,
                "random": random,
                "metrics_bytes": self._metrics.position,
                "elapsed_s": self.elapsed_s,
            }
            save_checkpoint(self.checkpoint_path, common | state)
        self._saved = time.monotonic()

    def estimate(self, steps: int, seconds: Callable[[], float], *, together: bool = False) -> None:
        """Send what the remaining steps will cost: their number, and time and memory unless they are few.

        Args:
            seconds: times a few steps, without a change to what is trained, and answers for all remaining ones.
            together: all ranks time them, since their passes wait for each other; else the first one alone.
        """
        if not steps or not (self._ranks.first or together):
            return
        total_s = memory_mb = None
        if steps >= TIME_FROM_STEPS:
            with self.abandonable(), torch.random.fork_rng():
                total_s = seconds()
            memory_mb = peak_memory_mb(self._device)
        if self._ranks.first:
            self._on_event({"kind": "estimate", "steps": steps, "seconds": total_s, "memory_mb": memory_mb})

    def _save_or_stop(self, step: int, *, always: bool = False) -> None:
        stop, save = self._agree(step)
        if save or always:
            self.save()
        if stop:
            raise KeyboardInterrupt

    def _agree(self, step: int) -> tuple[bool, bool]:
        """(stop, save): the same answer on every rank."""
        stop = self._interrupt.requested
        save = stop or time.monotonic() - self._saved > self._checkpoint_s
        if self._ranks.world == 1:
            return stop, save
        self._silent += 1
        if step and self._silent < self._agree_after:
            return False, False
        now_s = time.monotonic()
        fits = (
            AGREE_S * self._silent / max(now_s - self._agreed_s, 1e-9)
        )  # steps in AGREE_S, by those since the last time
        after = min(AGREE_STEPS, max(1, int(fits)))
        self._silent, self._agreed_s = 0, now_s
        first = self._ranks.first
        requested = torch.tensor([float(stop), float(save and first), float(after) if first else 0.0])
        self._ranks.average([requested])
        self._agree_after = round(float(requested[2]) * self._ranks.world)
        return bool(requested[0] > 0), bool((requested[:2] > 0).any())
