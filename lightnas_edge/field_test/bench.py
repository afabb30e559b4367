"""The board of a field test, and what the steps have learnt of it so far."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import luts
from devices import Connection, Status
from lightnas_edge.field_test.plan import Plan
from lightnas_edge.field_test.records import Snapshot, take_snapshot
from lightnas_edge.field_test.scrub import Scrubber
from lightnas_edge.measuring import Job, measure
from lightnas_edge.records.base import PositiveFloat
from lightnas_edge.records.board import ProbeResult

_RESTORED_S = 150.0  # a guard without an agent waits 90 s for it, then restores
_LIMITS = re.compile(
    r"sys/(class/devfreq/[^/]+/(min_freq|max_freq|governor)|devices/system/cpu/cpufreq/policy\d+/scaling_(min_freq|max_freq|governor)"
    r"|kernel/debug/.*(mrq_rate_locked|clk_state))$"
)  # fmt: skip


class Skip(Exception):
    """A step that cannot be carried out on this board, which is no failure of it."""


class StepTimeUp(KeyboardInterrupt):
    """The time of a step is used up. As Ctrl-C it stops the agent, and its measurements are fetched."""


@dataclass
class Found:
    """What a step found."""

    findings: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    latency_ms: dict[str, PositiveFloat] = field(default_factory=dict)

    def add(self, text: str) -> None:
        self.findings.append(text)


class Bench:
    """Args:
    folder: of the files that go into the archive.
    on_status: takes the board's progress within a job.
    """

    def __init__(
        self,
        connection: Connection,
        folder: Path,
        plan: Plan,
        *,
        scrubber: Scrubber,
        sudo_password: str | None = None,
        on_status: Callable[[Status], None] | None = None,
    ) -> None:
        self.connection, self.folder, self.plan = connection, folder, plan
        self.scrubber, self.sudo_password = scrubber, sudo_password
        self.probe: ProbeResult | None = None
        self.before: Snapshot | None = None
        self.engines: dict[str, str] = {}  # that work -> their version
        self.unavailable: dict[str, str] = {}  # the others -> why
        self.operators: luts.Lut | None = None
        self.networks: luts.Lut | None = None
        self.deadline_s = float("inf")  # of the present step, monotonic
        self._on_status = on_status

    def measure(
        self,
        write: Callable[[Path], Job],
        name: str,
        found: Found,
        *,
        on_status: Callable[[Status], None] | None = None,
    ) -> luts.Lut:
        """Run a job; its journal goes into the archive.

        Raises:
            DeviceError, LutError: as `measuring.measure`; what was measured is kept.
            StepTimeUp: the step takes too long; what was measured is kept.
        """
        file = f"journals/{name}.jsonl"
        path = self.folder / file

        def watch(status: Status) -> None:
            self.watch(status)
            if on_status is not None:
                on_status(status)

        with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as scratch:
            job = write(Path(scratch) / "job")
            try:
                table = measure(
                    self.connection, job, path, fresh=True, on_progress=watch, sudo_password=self.sudo_password
                )
            finally:
                if path.exists():
                    found.files.append(file)
        for key, entry in {**table.entries, **table.networks}.items():
            found.latency_ms[key] = entry.latency_ms
        return table

    def watch(self, status: Status) -> None:
        """Progress of the board. Raises StepTimeUp."""
        if self._on_status is not None:
            self._on_status(status)
        if time.monotonic() > self.deadline_s:
            raise StepTimeUp

    def changed(self) -> list[str]:
        """What of the board's mode, clocks and governors differs from the beginning; restoring is waited for."""
        if self.before is None:
            raise Skip("the state at the beginning is not known")
        until_s = time.monotonic() + _RESTORED_S
        while True:
            differences = _differences(limits(self.before), limits(take_snapshot(self.connection)))
            if not differences or time.monotonic() > until_s:
                return differences
            time.sleep(max(1.0, self.connection.poll_s))


def limits(snapshot: Snapshot) -> dict[str, str]:
    """What a board setup changes: power mode, limits and locks of clocks, governors; by name."""
    found = {path: text.strip() for path, text in snapshot.files.items() if _LIMITS.fullmatch(path)}
    mode = re.search(r"^NV Power Mode:[ \t]*(\S+)", snapshot.tools.get("nvpmodel -q", ""), re.MULTILINE)
    if mode is not None:
        found["power mode"] = mode[1]
    return found


def _differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    return [
        f"{name}: {before.get(name, 'missing')} before, {now.get(name, 'missing')} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
