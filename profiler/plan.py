"""Which key is visited when: the planned rounds, then what varied too much once more, then the rounds with energy.

A session that only has keys to measure which no earlier session saw could not be compared with those: the drift between
them would pass for cost. So it visits the sentinels once more beside its own keys.

Rounds are numbered on: planned ones from 0, those with energy from `rounds`, extra ones from there. Each round has an
order of its own that depends on the keys, the seed and the round alone, so a resumed run visits what is missing.
"""

import collections
import random
from typing import Any, Dict, Iterator, List, NamedTuple

RESTLESS_SHARE = 0.25  # of the keys; when more vary, the machine is the trouble and measuring again does not help
RESTLESS_LEAST = 5
FEW_VISITS = 6
LINKS = 4  # keys that two sessions must share for the drift between them to be known


class Visit(NamedTuple):
    key: str
    round: int
    with_energy: bool = False
    is_extra: bool = False


class Plan:
    """What is left to do, given a manifest and the visits so far."""

    def __init__(self, manifest: Dict[str, Any], past: List[Dict[str, Any]]) -> None:
        protocol = manifest["protocol"]
        self._keys = [row["key"] for row in manifest["measurements"]]
        self._sentinels = [key for key in manifest["sentinels"] if key in self._keys]
        self._seed = protocol["seed"]
        self._rounds = protocol["rounds"]
        self._spread_limit = protocol.get("spread_limit")
        self._extra_rounds = protocol.get("extra_rounds", 0) if self._spread_limit is not None else 0
        self._energy_rounds = manifest["energy"]["rounds"] if manifest.get("energy") else 0
        self._done = set()  # type: Any
        self._with_energy = collections.Counter()  # type: Any
        self._centres = collections.defaultdict(list)  # type: Any  # key -> the median of each visit
        self.restless = ""  # why unstable keys were not measured again
        for line in past:
            self.note(line)
        self.left = {}  # type: Dict[str, int]
        planned = {}  # type: Dict[str, List[int]]
        for key in self._keys:
            planned[key] = [round_ for round_ in range(self._rounds) if (key, round_) not in self._done]
            self.left[key] = len(planned[key]) + max(0, self._energy_rounds - self._with_energy[key])
        self.total = len(self._keys) * (self._rounds + self._energy_rounds)
        self._links = self._find_links(planned)
        rounds = len({round_ for rounds in planned.values() for round_ in rounds})
        for key in self._links:
            self.left[key] += rounds
            self.total += rounds

    @property
    def done(self) -> int:
        return self.total - sum(self.left.values())

    def note(self, line: Dict[str, Any]) -> None:
        """A visit of the journal: what is done need not be done again."""
        if line["error"] is None:
            self._done.add((line["key"], line["round"]))
            self._centres[line["key"]].append(_median(line["samples_ms"]))
            if line["energy"] is not None and line["energy"]["gross_mj"] is not None:
                self._with_energy[line["key"]] += 1

    def visits(self, failures: Dict[str, int]) -> Iterator[Visit]:
        """Everything left, in order. `failures`: keys that failed, which get no extra visits."""
        for round_ in range(self._rounds):
            wanted = {key for key in self._keys if (key, round_) not in self._done}
            if wanted:
                wanted.update(self._links)
            for key in visiting_order(self._keys, self._seed, round_):
                if key in wanted:
                    yield Visit(key, round_)
                    self.left[key] -= 1
        for visit in self._extra(failures):
            yield visit
            self.left[visit.key] -= 1
        for number in range(self._energy_rounds):
            round_ = self._rounds + number
            for key in visiting_order(self._keys, self._seed, round_):
                if self._with_energy[key] <= number:
                    yield Visit(key, round_, with_energy=True)
                    self.left[key] -= 1

    def _find_links(self, planned: Dict[str, List[int]]) -> List[str]:
        """The sentinels, where the planned visits alone would not tie this session to the earlier ones."""
        measured = {key for key, centres in self._centres.items() if centres}
        is_new = any(rounds and key not in measured for key, rounds in planned.items())
        shared = [key for key in measured if planned.get(key)]
        if not is_new or len(shared) >= min(LINKS, len(measured)):
            return []
        return [key for key in self._sentinels if key in measured and not planned[key]]

    def _extra(self, failures: Dict[str, int]) -> Iterator[Visit]:
        first = self._rounds + self._energy_rounds
        for round_ in range(first, first + self._extra_rounds):
            unstable = [
                key for key in self._keys if key not in failures and spread(self._centres[key]) > self._spread_limit
            ]
            if len(unstable) > max(RESTLESS_LEAST, RESTLESS_SHARE * len(self._keys)):
                self.restless = (
                    "{} of {} keys vary by more than {:g} % between rounds: the machine is restless, they are not "
                    "measured again".format(len(unstable), len(self._keys), 100 * self._spread_limit)
                )
                return
            if not unstable:
                return
            wanted = [key for key in set(unstable + self._sentinels) if (key, round_) not in self._done]
            self.total += len(wanted)
            for key in wanted:
                self.left[key] += 1
            for key in visiting_order(wanted, self._seed, round_):
                yield Visit(key, round_, is_extra=True)


def visiting_order(keys: List[str], seed: int, round_: int) -> List[str]:
    """The order of one round: a permutation that depends on the keys, the seed and the round alone."""
    shuffled = sorted(keys)
    random.Random("{}/{}".format(seed, round_)).shuffle(shuffled)
    return shuffled


def spread(centres: List[float]) -> float:
    """Robust relative standard deviation between visits; 0 where they are too few to say."""
    if len(centres) < FEW_VISITS:
        return 0.0
    ordered = sorted(centres)
    quarter = len(ordered) // 4
    return 0.7413 * (ordered[-1 - quarter] - ordered[quarter]) / _median(ordered)


def _median(values: List[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
