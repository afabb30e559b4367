"""Several files of one network on one board, measured in turns.

One job of the agent has one precision, so several of them take turns: in each pass every job measures a part of its
rounds, in reversed order in every second pass. What slows the machine for minutes then slows all of them, a steady drift
cancels over two passes, and the ratio of two latencies is taken within a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import luts
from devices import AgentFailedError, Connection, Status
from lightnas_edge.files import sha256_of
from lightnas_edge.measuring import Job, Settings, measure
from lightnas_edge.records.job import JobManifest

PASSES = 4


@dataclass(frozen=True)
class Unavailable:
    """Why something is not measured, and what to do."""

    reason: str
    remedy: str = ""


class Turn:
    """One job on its way through the passes.

    Args:
        key: of the network in the job.
        journal: on this side; continued where it exists.
    """

    def __init__(self, name: str, key: str, job: Job, journal: Path) -> None:
        self.name = name
        self.journal = journal
        self.failed: Unavailable | None = None
        self.outputs: bytes | None = None  # of the evaluation; None where the board returned none
        self._key = key
        self._job = job
        self._manifest = JobManifest.load(job.folder / "manifest.json")
        self._table: luts.Lut | None = None

    @property
    def table(self) -> luts.Lut:
        """After the last pass, unless it failed."""
        assert self._table is not None
        return self._table

    @property
    def entry(self) -> luts.Entry:
        return self.table.networks[self._key]

    def take(
        self,
        connection: Connection,
        number: int,
        passes: int,
        on_progress: Callable[[Status], None] | None,
        sudo_password: str | None,
    ) -> None:
        """Measure up to the end of one pass. The first one computes the outputs, the last one measures energy.

        A job that the agent refuses in the first pass has failed; the agent may take that of another precision.
        """
        rounds = self._first_round(number + 1, passes)
        if 0 < number < passes - 1 and self._measured_rounds() >= rounds:
            return  # measured before an interruption
        part = {
            "protocol": self._manifest.protocol.model_copy(update={"rounds": rounds}),
            "evaluations": () if number else self._manifest.evaluations,
            "energy": self._manifest.energy if number == passes - 1 else None,
        }
        self._manifest.model_copy(update=part).save(self._job.folder / "manifest.json")
        folder = self._job.folder / "outputs"
        try:
            self._table = measure(
                connection, replace(self._job, rounds=rounds), self.journal, fresh=not self.journal.exists(),
                on_progress=on_progress, outputs=folder, sudo_password=sudo_password,
            )  # fmt: skip
        except AgentFailedError as error:
            if number:
                raise
            self.failed = Unavailable(str(error), error.hint)
            return
        if self._key not in self._table.networks:
            failure = self._table.failed.get(self._key)
            reason = failure.message if failure else "the journal holds no visit of it"
            self.failed = Unavailable(
                f"{connection.name} could not measure it: {reason}", failure.remedy if failure else ""
            )
            self.journal.unlink(missing_ok=True)  # or the failure would be resumed
            return
        path = folder / f"{self._key}.f32"
        if not number and path.exists():
            self.outputs = path.read_bytes()

    def p50_by_pass(self, passes: int) -> tuple[float | None, ...]:
        """None for a pass in which every visit failed."""
        by_pass: list[list[float]] = [[] for _ in range(passes)]
        for visit in self.entry.visits:
            ends = (number for number in range(passes) if visit.round < self._first_round(number + 1, passes))
            by_pass[next(ends, passes - 1)].extend(visit.samples_ms)  # rounds of energy come behind the last one
        return tuple(float(np.median(samples)) if samples else None for samples in by_pass)

    def _first_round(self, number: int, passes: int) -> int:
        """Of a pass; that of the pass behind the last one is the number of rounds."""
        return self._manifest.protocol.rounds * number // passes

    def _measured_rounds(self) -> int:
        entry = None if self._table is None else self._table.networks.get(self._key)
        return 0 if entry is None else 1 + max(visit.round for visit in entry.visits)


def take_turns(
    turns: Sequence[Turn],
    connection: Connection,
    passes: int,
    on_progress: Callable[[str, Status], None] | None,
    sudo_password: str | None,
) -> None:
    """A, B, B, A, ...; one that fails is left out of the passes that follow. `on_progress`: takes a title too.

    Raises:
        DeviceError: the board is unreachable or busy, or an agent failed after the first pass; the journals keep what
            was measured.
    """
    for number in range(passes):
        for turn in turns if number % 2 == 0 else reversed(turns):
            if turn.failed is not None:
                continue
            title = f"{turn.name} on {connection.name}, pass {number + 1} of {passes}"

            def report(status: Status, title: str = title) -> None:
                if on_progress is not None:
                    on_progress(title, status)

            turn.take(connection, number, passes, report, sudo_password)


def unfinished_journal(folder: Path, sha256: str, host: str, settings: Settings | None = None) -> Path:
    """Of an interrupted measurement of this file on this board; those of other files are removed.

    One board does not continue what another one measured: two units would stand in one verdict. Nor does one in other
    streams, in another power mode, or after another load.
    """
    of_file = f"unfinished-{sha256[:12]}-"
    for path in folder.glob("unfinished-*.jsonl"):
        if not path.name.startswith(of_file):
            path.unlink()
    state = ""
    load_s = 0.0 if settings is None else settings.protocol.sustained_s
    if settings is not None and (settings.streams > 1 or settings.board_setup is not None or load_s):
        of_state = (settings.streams, settings.lock_clocks, settings.power_mode, *([load_s] if load_s else []))
        state = f"-{sha256_of(repr(of_state).encode())[:8]}"
    return folder / f"{of_file}{sha256_of(host.encode())[:8]}{state}.jsonl"
