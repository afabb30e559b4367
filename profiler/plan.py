"""Which key is visited when: the planned rounds, then extra visits to unstable keys, then the rounds with energy.

A session with new keys only could not be compared with the sessions before it: the drift between them would look like
cost. Such a session visits the sentinels again, together with its own keys.

Planned rounds have the numbers from 0, those with energy the numbers from `rounds`, extra ones the numbers after those.
The order of a round depends on the keys, the seed and the round alone, so a resumed run visits what is missing.
"""

import collections
import math
import random
from typing import Counter, DefaultDict, Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

from profiler.journal import PastVisit
from profiler.manifest import Manifest

UNSTABLE_SHARE = 0.25  # of the keys; when more vary, the host is unstable and measuring again does not help
UNSTABLE_LEAST = 5  # keys
FEW_VISITS = 6  # too few for a spread
LINKS = 4  # keys that two sessions must share for the drift between them to be known


class PlannedVisit(NamedTuple):
    key: str
    round: int
    with_energy: bool = False
    is_extra: bool = False


class Plan:
    """What is left to do, given a manifest and the visits so far."""

    def __init__(self, manifest: Manifest, past: Sequence[PastVisit]) -> None:
        protocol = manifest.protocol
        self._keys = [measurement.key for measurement in manifest.measurements]
        self._sentinels = [key for key in manifest.sentinels if key in self._keys]
        self._seed = protocol.seed
        self._rounds = protocol.rounds
        self._rounds_of = {
            row.key: protocol.rounds if row.rounds is None else row.rounds for row in manifest.measurements
        }
        self._spread_limit = protocol.spread_limit if protocol.spread_limit is not None else math.inf
        self._extra_rounds = protocol.extra_rounds if protocol.spread_limit is not None else 0
        self._energy_rounds = manifest.energy.rounds if manifest.energy is not None else 0
        self._energy_rounds_of = {
            row.key: self._energy_rounds if row.energy_rounds is None else min(row.energy_rounds, self._energy_rounds)
            for row in manifest.measurements
        }
        # A verification is about its network: the sentinels show drift, and half a minute of energy for each shows nothing.
        without = set(self._sentinels) if manifest.purpose == "verify" else set()
        self._energy_keys = [key for key in self._keys if key not in without]
        self._done: Set[Tuple[str, int]] = set()
        self._with_energy: Counter[str] = collections.Counter()
        self._centres: DefaultDict[str, List[float]] = collections.defaultdict(list)  # median of each visit
        self.unstable_host = ""  # why unstable keys are not measured again
        for visit in past:
            self.note(visit)
        self.left: Dict[str, int] = {}
        planned: Dict[str, List[int]] = {}
        for key in self._keys:
            planned[key] = [round_ for round_ in range(self._rounds_of[key]) if (key, round_) not in self._done]
            self.left[key] = len(planned[key])
        for key in self._energy_keys:
            self.left[key] += max(0, self._energy_rounds_of[key] - self._with_energy[key])
        self.total = sum(self._rounds_of.values()) + sum(self._energy_rounds_of[key] for key in self._energy_keys)
        self._links = self._find_links(planned)
        rounds = len({round_ for rounds in planned.values() for round_ in rounds})
        for key in self._links:
            self.left[key] += rounds
            self.total += rounds

    @property
    def done(self) -> int:
        return self.total - sum(self.left.values())

    def note(self, visit: PastVisit) -> None:
        """Count a visit of the journal as done."""
        if not visit.failed:
            self._done.add((visit.key, visit.round))
            self._centres[visit.key].append(_median(visit.samples_ms))
            if visit.has_energy:
                self._with_energy[visit.key] += 1

    def visits(self, failures: Dict[str, int]) -> Iterator[PlannedVisit]:
        """Everything left, in order. `failures`: keys that failed, which get no extra visits."""
        for round_ in range(max(self._rounds_of.values(), default=0)):
            wanted = {key for key in self._keys if round_ < self._rounds_of[key] and (key, round_) not in self._done}
            if wanted:
                wanted.update(self._links)
            for key in visiting_order(self._keys, self._seed, round_):
                if key in wanted:
                    yield PlannedVisit(key, round_)
                    self.left[key] -= 1
        for visit in self._extra(failures):
            yield visit
            self.left[visit.key] -= 1
        for number in range(self._energy_rounds):
            round_ = self._rounds + number
            for key in visiting_order(self._energy_keys, self._seed, round_):
                if self._with_energy[key] <= number < self._energy_rounds_of[key]:
                    yield PlannedVisit(key, round_, with_energy=True)
                    self.left[key] -= 1

    def _find_links(self, planned: Dict[str, List[int]]) -> List[str]:
        """The sentinels, where the planned visits alone would not link this session to the earlier ones."""
        measured = {key for key, centres in self._centres.items() if centres}
        is_new = any(rounds and key not in measured for key, rounds in planned.items())
        shared = [key for key in measured if planned.get(key)]
        if not is_new or len(shared) >= min(LINKS, len(measured)):
            return []
        return [key for key in self._sentinels if key in measured and not planned[key]]

    def _extra(self, failures: Dict[str, int]) -> Iterator[PlannedVisit]:
        first = self._rounds + self._energy_rounds
        for round_ in range(first, first + self._extra_rounds):
            unstable = [
                key for key in self._keys if key not in failures and spread(self._centres[key]) > self._spread_limit
            ]
            if len(unstable) > max(UNSTABLE_LEAST, UNSTABLE_SHARE * len(self._keys)):
                self.unstable_host = (
                    "unstable host: {} of {} keys vary by more than {:g} % between rounds; no extra visits".format(
                        len(unstable), len(self._keys), 100 * self._spread_limit
                    )
                )
                return
            if not unstable:
                return
            wanted = [key for key in set(unstable + self._sentinels) if (key, round_) not in self._done]
            self.total += len(wanted)
            for key in wanted:
                self.left[key] += 1
            for key in visiting_order(wanted, self._seed, round_):
                yield PlannedVisit(key, round_, is_extra=True)


def visiting_order(keys: Sequence[str], seed: int, round_: int) -> List[str]:
    """The order of one round: a permutation that depends on the keys, the seed and the round alone."""
    shuffled = sorted(keys)
    random.Random("{}/{}".format(seed, round_)).shuffle(shuffled)
    return shuffled


def spread(centres: Sequence[float]) -> float:
    """Robust relative standard deviation between visits; 0 for fewer than FEW_VISITS."""
    if len(centres) < FEW_VISITS:
        return 0.0
    ordered = sorted(centres)
    quarter = len(ordered) // 4
    centre = _median(ordered)
    return 0.7413 * (ordered[-1 - quarter] - ordered[quarter]) / centre if centre > 0 else 0.0


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
