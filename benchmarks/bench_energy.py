"""Energy of synthetic traces with a known truth: coverage, width and bias of the estimate, world by world.

SYNTHETIC: the traces are drawn from benchmarks/energy_worlds.py, no board was measured. "Needed" is the half-width that a
perfectly calibrated interval around the same estimate has: the 95 % quantile of the magnitude of its error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.energy_worlds import Visit, World, loads, sensor
from benchmarks.notes import note
from lightnas_edge.records.lut import EnergyEstimate
from luts.energy import Energy, combine
from profiler.power import estimate, fluctuation

TRACES, SEED = 300, 0
TOLD_TRACES = 150
OTHER_SEED = 1000  # of the worlds in between: the estimator was not chosen on them
COVERAGE, WIDTH, BIAS, ORACLE = 0.93, 1.5, 0.005, 0.03

ALONE = World("load alone")
QUIET = World("quiet load", noise_mw=30.0)
WORLDS = [
    ALONE,
    ALONE.with_visits(3),
    ALONE.with_visits(5),
    World("background, 1 s", noise_mw=30.0, background_mw=150.0, background_s=1.0),
    World("background, 10 s", noise_mw=30.0, background_mw=150.0, background_s=10.0),
    World("drift of 100 mW", drift_mw=100.0),
    World("memory of 0.5 s", memory_s=0.5),
    World("memory of 2 s", memory_s=2.0),
    World("clock 30 % down half way", slower=0.3),
    World("gap of 0.9 s", gap_s=0.9),
]
BETWEEN = [
    World("rounding alone", noise_mw=0.0),
    World("memory of 1 s", memory_s=1.0),
    World("noise of 200 mW", noise_mw=200.0, memory_s=0.2),
    World("pulses of 300 mW, 3 s", noise_mw=30.0, background_mw=300.0, background_s=3.0, pulse=0.3),
    World("background, 20 s", noise_mw=30.0, background_mw=150.0, background_s=20.0),
    World("drift of 300 mW", drift_mw=300.0),
    World("clock 10 % down half way", slower=0.1),
    World("sensor of 0.05 s called 0.44 s", true_tau_s=0.054),
    World("visits differ by 60 mW", visit_mw=60.0).with_visits(5),
]


# What the estimator would reach if it were told more than a trace contains: worlds it misses, and the only memories that it then
# holds possible.
SHORT, LONG = World("memory of 0.5 s", memory_s=0.5), World("memory of 2 s", memory_s=2.0)
HUM = World("background, 1 s", noise_mw=30.0, background_mw=150.0, background_s=1.0)
TOLD = [
    (SHORT, (0.5,)),
    (SHORT, (0.5, 2.0)),
    (LONG, (2.0,)),
    (LONG, (0.5, 2.0)),
    (HUM, (0.1,)),
    (replace(HUM, name="background, 1 s, steps of 5 mW", step_mw=5.0), None),
    (QUIET, None),
]


@dataclass(frozen=True)
class Score:
    """Of one world and one kind of energy. Shares and ratios."""

    unavailable: float
    coverage: float
    needed: float  # relative to the truth
    width: float  # mean half-width / needed
    bias: float

    @property
    def meets(self) -> bool:
        return (
            self.coverage >= COVERAGE
            and 1.0 <= self.width <= WIDTH
            and abs(self.bias) < BIAS
            and (self.unavailable == 0 or self.needed > ORACLE)
        )

    def __str__(self) -> str:
        return (
            f"{self.coverage:.1%} covered, width {self.width:.2f} of {self.needed:.2%} needed, bias {self.bias:+.2%}"
            + (f", {self.unavailable:.0%} not available" if self.unavailable else "")
        )


def measured(visit: Visit, world: World) -> EnergyEstimate:
    """The agent's estimate, as a journal holds it."""
    found = estimate(visit.trace, visit.busy, visit.progress, visit.before, visit.after, sensor(world))
    return EnergyEstimate.model_validate_json(json.dumps(found.to_json()))


def score(world: World, traces: int = TRACES, seed: int = SEED) -> dict[str, Score]:
    """By kind of energy: gross and net."""
    found = [(visits, combine(measured(visit, world) for visit in visits)) for visits in loads(world, traces, seed)]
    return {kind: _score(found, kind) for kind in ("gross", "net")}


@contextmanager
def only(memories_s: tuple[float, ...] | None) -> Iterator[None]:
    """The estimator holds these memories alone possible, equally; None: as it is."""
    before = fluctuation.MEMORIES_S, fluctuation.TWO_WEIGHT
    if memories_s is not None:
        fluctuation.MEMORIES_S, fluctuation.TWO_WEIGHT = memories_s, 1e-12
    fluctuation.forget()
    try:
        yield
    finally:
        fluctuation.MEMORIES_S, fluctuation.TWO_WEIGHT = before
        fluctuation.forget()


def rows() -> list[tuple[str, str, str]]:
    wanted = f"{COVERAGE:.0%}, width 1.0 to {WIDTH}, bias below {BIAS:.1%}"
    table = []
    for worlds, seed, target in ((WORLDS, SEED, wanted), (BETWEEN, OTHER_SEED, "")):
        for world in worlds:
            note(world.name)
            for kind, each in score(world, seed=seed).items():
                verdict = "" if not target else f"{target}: {'met' if each.meets else 'MISSED'}"
                table.append((f"synthetic, {world.name}: {kind}", str(each), verdict))
    for world, memories_s in TOLD:
        told = "" if memories_s is None else f", told a memory of {' or '.join(map(str, memories_s))} s"
        note(world.name + told)
        with only(memories_s):
            for kind, each in score(world, TOLD_TRACES).items():
                table.append((f"synthetic, limits: {world.name}{told}: {kind}", str(each), ""))
    return table


def _score(found: list[tuple[list[Visit], Energy | None]], kind: str) -> Score:
    errors, halves = [], []
    for visits, energy in found:
        interval = None if energy is None else getattr(energy, f"{kind}_interval_mj")
        if interval is None:
            continue
        truth = float(np.mean([getattr(visit, f"{kind}_mj") for visit in visits]))
        errors.append(getattr(energy, f"{kind}_mj") / truth - 1)
        halves.append((interval[1] - interval[0]) / 2 / truth)
    error, half = np.array(errors), np.array(halves)
    needed = float(np.quantile(np.abs(error), 0.95))
    return Score(
        unavailable=1 - len(errors) / len(found),
        coverage=float(np.mean(np.abs(error) <= half)),
        needed=needed,
        width=float(half.mean()) / needed,
        bias=float(error.mean()),
    )
