"""Three virtual boards against one, in the boards' own time: the whole published space, shared from one queue.

Virtual time passes only while an engine runs, so the boards take turns here: the one with the least time behind it takes the next
packet, as it would if all of them ran at once. Starting agents and building engines take no virtual time; the last row counts engines.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import devices
import luts
from lightnas_edge.fleet import FleetResult, Unit, measure_fleet, units_of
from lightnas_edge.fleet.work import Packet, WorkQueue
from lightnas_edge.measuring import MeasurementProtocol, Settings, write_profile_job
from lightnas_edge.space import load_space

UNITS = 3
ROUNDS = 25


def rows() -> list[tuple[str, str, str]]:
    space = load_space("lightnas")
    settings = Settings(backend="simulated", precision="fp16", protocol=MeasurementProtocol(rounds=ROUNDS))
    with tempfile.TemporaryDirectory() as scratch, _home(Path(scratch) / "home"):
        job = write_profile_job(Path(scratch) / "job", space, settings)

        def run(numbers: Iterable[int], name: str) -> tuple[FleetResult, dict[str, float]]:
            connections = [devices.connect(f"virtual:jetson-orin-nano#{number}") for number in numbers]
            found = units_of([(connection, devices.probe(connection)) for connection in connections])
            units = [Unit(connection.name, connection, found[connection.name]) for connection in connections]
            folder = Path(scratch) / name
            clocks = {unit.host: _clock(folder, unit.host) for unit in units}
            result = measure_fleet(
                units, job, folder, fresh=True, queue_of=lambda packets: InVirtualTime(packets, clocks)
            )
            return result, {host: _busy_s(lut) for host, lut in result.tables.items()}

        (alone, one), (shared, three) = run([1], "one"), run(range(2, 2 + UNITS), "three")
        pooled = luts.write_pooled(list(shared.tables.values()), Path(scratch) / "pooled.lut.jsonl")
        table = next(iter(alone.tables.values()))
        against = luts.drift_ratio(table, pooled)
    keys = [shaped.key for shaped in space.shaped_operators()]
    built = max(len(lut.entries) for lut in shared.tables.values())
    return [
        ("operators measured by one board / by three", f"{len(table.entries)} / {len(pooled.entries)}", f"{len(keys)}"),
        (f"{UNITS} boards, virtual time", f"{max(one.values()) / max(three.values()):.2f} times one", ">= 2.6"),
        ("visits of the busiest board", f"{max(len(lut.visits) for lut in shared.tables.values())} of {len(table.visits)}", "-"),
        ("speed of the middle unit against the one board", f"{100 * (against.value - 1):+.2f} %", "-"),
        ("engines that the busiest board builds", f"{built} of {len(keys)}", "sentinels are built on every board"),
    ]  # fmt: skip


class InVirtualTime(WorkQueue):
    """Hands a packet to the board with the least virtual time behind it, while no other measures."""

    def __init__(self, packets: Sequence[Packet], clocks: Mapping[str, Callable[[], float]]) -> None:
        super().__init__(packets)
        self._clocks = clocks
        self._waiting: set[str] = set()

    def take(self, host: str) -> Packet | None:
        with self._changed:
            self._waiting.add(host)
            self._changed.notify_all()
            while self._packets and not self._stopped and not self._is_next(host):
                self._changed.wait(0.5)
            self._waiting.discard(host)
            return super().take(host)

    def _is_next(self, host: str) -> bool:
        if self._taken or len(self._waiting) < len(self._clocks):
            return False
        return host == min(self._clocks, key=lambda each: (self._clocks[each](), each))


def _clock(folder: Path, host: str) -> Callable[[], float]:
    from lightnas_edge.fleet.campaign import file_name

    path = folder / f"{file_name(host)}.lut.jsonl"
    return lambda: _busy_s(luts.read(path)) if path.exists() else 0.0


def _busy_s(lut: luts.Lut) -> float:
    """The virtual time in which the engine ran."""
    return sum(sum(visit.warmup_ms) + sum(visit.samples_ms) * (visit.repeats or 0) for visit in lut.visits) / 1e3


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """A home of its own for the virtual boards: new ones, which are removed afterwards."""
    before = os.environ.get("LIGHTNAS_EDGE_HOME")
    os.environ["LIGHTNAS_EDGE_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LIGHTNAS_EDGE_HOME"]
        else:
            os.environ["LIGHTNAS_EDGE_HOME"] = before
