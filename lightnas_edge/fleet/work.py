"""What is left to measure, in packets, and the queue that units take them from.

A packet is some keys, each with the visits that it still lacks. Packets are dealt out over the job in turn, so that every packet is
a share of everything. A unit measures the sentinels in every packet, because they link its sessions with each other and the units
with one another; all packets together give a sentinel about as many rounds as any other key.
"""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.records.job import JobManifest
from lightnas_edge.records.lut import Visit
from luts.visits import Visits as JournalVisits

PACKETS_PER_UNIT = 4  # fewer cost time at the end, when units wait for the last one; more cost starts of the agent
LEAST_KEYS = 3  # of a packet, where there are enough


class Visits(NamedTuple):
    """Of one key: rounds of latency, and rounds with energy."""

    rounds: int
    energy_rounds: int = 0


Work = Mapping[str, Visits]


@dataclass(frozen=True)
class Packet:
    """Keys with the visits that they lack. `sentinel_rounds`: how many further rounds of every sentinel go with them."""

    work: Work
    sentinel_rounds: int

    @property
    def visits(self) -> int:
        return sum(sum(visits) for visits in self.work.values())


def places(visits: Iterable[Visit]) -> dict[str, set[tuple[int, bool]]]:
    """(round, with energy) of the visits that a journal holds, by key; failed ones do not count."""
    done = _measured(visits)
    found: dict[str, set[tuple[int, bool]]] = {}
    for key, round_, with_energy in zip(
        done.keys.tolist(), _rounds(done).tolist(), done.is_energy.tolist(), strict=True
    ):
        found.setdefault(done.key_names[key], set()).add((round_, with_energy))
    return found


def measured(visits: Iterable[Visit], planned: int) -> dict[str, Visits]:
    """The planned visits that a journal holds, by key; failed ones do not count.

    Args:
        planned: rounds of the protocol; those after them are for energy, or extra.
    """
    done = _measured(visits)
    names = done.key_names
    rounds = np.bincount(done.keys[_rounds(done) < planned], minlength=len(names))
    energy = np.bincount(done.keys[done.is_energy], minlength=len(names))
    return {names[key]: Visits(int(rounds[key]), int(energy[key])) for key in np.unique(done.keys).tolist()}


def _measured(visits: Iterable[Visit]) -> JournalVisits:
    every = JournalVisits.of(visits)
    return every.select(every.is_measured & ~every.is_sustained)


def _rounds(visits: JournalVisits) -> NDArray[np.int64]:
    """(n,)"""
    return np.array([round_ for _, round_ in visits.group_names], np.int64)[visits.groups]


def wanted(manifest: JobManifest) -> dict[str, Visits]:
    """All visits of a job."""
    energy = 0 if manifest.energy is None else manifest.energy.rounds
    return {row.key: Visits(manifest.protocol.rounds, energy) for row in manifest.measurements}


def left(work: Work, *journals: Mapping[str, Visits]) -> dict[str, Visits]:
    """The part of the work that no journal holds."""
    found: dict[str, Visits] = {}
    for key, visits in work.items():
        done = [journal[key] for journal in journals if key in journal]
        rest = Visits(
            max(0, visits.rounds - sum(each.rounds for each in done)),
            max(0, visits.energy_rounds - sum(each.energy_rounds for each in done)),
        )
        if any(rest):
            found[key] = rest
    return found


def deal(work: Work, sentinels: Sequence[str], rounds: int, units: int) -> list[Packet]:
    """The work in packets, about PACKETS_PER_UNIT for every unit; a job of few keys is split by rounds as well.

    Args:
        rounds: of the protocol.
    """
    keys = [key for key in work if key not in sentinels] or list(work)
    pieces: list[tuple[str, Visits]] = [(key, work[key]) for key in keys]
    if len(pieces) < units:
        pieces = [(key, part) for key in keys for part in _shares(work[key], units)]
    if not pieces:
        return []
    count = max(units, min(PACKETS_PER_UNIT * units, len(pieces) // LEAST_KEYS))
    count = min(len(pieces), count - count % units)  # the same number for each: with one more, the others wait for it
    dealt: list[dict[str, Visits]] = [{} for _ in range(count)]
    for index, (key, visits) in enumerate(pieces):
        dealt[index % count][key] = visits
    shared = math.ceil(rounds / count) if any(key in work for key in sentinels) or len(dealt) > 1 else 0
    return [Packet(each, min(shared, rounds)) for each in dealt]


def _shares(visits: Visits, units: int) -> list[Visits]:
    parts = [
        Visits(*(len(range(unit, whole, units)) for whole in visits))  # as even as whole numbers allow
        for unit in range(units)
    ]
    return [part for part in parts if any(part)]


class WorkQueue:
    """Packets that nobody has taken, and how many are being measured. Safe for threads."""

    def __init__(self, packets: Iterable[Packet]) -> None:
        self._packets = collections.deque(packets)
        self._taken = 0
        self._stopped = False
        self._changed = threading.Condition()

    def take(self, host: str) -> Packet | None:
        """The next packet for a host; None when nothing is left and nothing can come back. Waits while others measure: one may be lost."""
        with self._changed:
            while not self._packets and self._taken and not self._stopped:
                self._changed.wait(0.5)
            if self._stopped or not self._packets:
                return None
            self._taken += 1
            return self._packets.popleft()

    def finish(self, returned: Packet | None = None) -> None:
        """The packet that was taken is measured, except for what is returned."""
        with self._changed:
            self._taken -= 1
            if returned is not None and returned.work:
                self._packets.append(returned)
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody gets another packet."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        return self._stopped
