"""How long a board was occupied by the visits of a table, read from the table's own times."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise

from luts import Lut, Visit


@dataclass(frozen=True)
class BoardTime:
    """Seconds of a board; None where a table does not say.

    From the first visit of a session to its last: loading and measuring, without preparing models, sending them and building
    engines. Of a virtual board, what its samples and their warm-up take.
    """

    table_s: float | None  # of the operators' table
    sentinels_s: float | None  # of the operators that are measured with networks
    network_s: float | None  # of one network, mean


def board_time(lut: Lut | None, samples: Iterable[Lut]) -> BoardTime:
    """Args:
    lut: the operators' table.
    samples: tables of networks, each with its sentinels.
    """
    samples = list(samples)
    networks_s = _total([spent_s(sample, sample.networks) for sample in samples])
    count = sum(len(sample.networks) for sample in samples)
    return BoardTime(
        None if lut is None else spent_s(lut, lut.entries),
        _total([spent_s(sample, sample.entries) for sample in samples]),
        networks_s / count if networks_s is not None and count else None,
    )


def spent_s(table: Lut, keys: Collection[str]) -> float | None:
    """Seconds that the visits to these keys took; None where the table does not say.

    A visit lasts until the next one of its session begins. The last one is taken to last as long as others to its key.
    """
    if table.simulated:
        return sum(_own_s(visit) for visit in table.visits if visit.key in keys)
    sessions: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for visit in table.visits:
        if visit.t_s is None:
            return None
        sessions[visit.session].append((visit.t_s, visit.key))
    lasted: dict[str, list[float]] = defaultdict(list)
    for times in sessions.values():
        for (start_s, key), (next_s, _) in pairwise(sorted(times)):
            lasted[key].append(next_s - start_s)
    every = [seconds for each in lasted.values() for seconds in each]
    if not every:
        return None
    total = sum(sum(lasted[key]) for key in keys if key in lasted)
    for times in sessions.values():
        last = max(times)[1]
        if last in keys:
            total += statistics.median(lasted.get(last, every))
    return total


def _own_s(visit: Visit) -> float:
    """What was timed, and the warm-up before it."""
    return (sum(visit.samples_ms) * max(visit.repeats or 1, 1) + sum(visit.warmup_ms)) / 1000


def _total(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if parts and len(known) == len(parts) else None
