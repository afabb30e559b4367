"""Synthetic power traces with a known truth: what a board draws, through its sensor's filter, sampled and rounded.

Nothing here was measured. A case is idle, busy, idle; the truth is what the load draws in the long run, not what it drew in
these seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from profiler.power import SensorDescription, Window

FINE_S = 0.01
PERIOD_S = 0.1  # of the samples
SETTLE_S = 2.2
CHUNK_S = 0.05  # between two readings of the clock while busy
JITTER = 0.1  # of a period of the background: relative

Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """How power and speed vary. Milliwatts and seconds."""

    name: str
    noise_mw: float = 80.0  # fluctuation of the load: standard deviation
    memory_s: float = 0.1  # its correlation time
    idle_noise: float = 0.1  # share of the fluctuation that the idle board has
    background_mw: float = 0.0  # amplitude of a background load, idle and busy
    background_s: float = 1.0  # its period
    pulse: float = 0.0  # share of the period in which the background is on; 0: a sine
    drift_mw: float = 0.0  # of the whole board from the first second to the last
    slower: float = 0.0  # share of the clock that is lost half way
    gap_s: float = 0.0  # without samples, somewhere while busy
    visit_mw: float = 0.0  # standard deviation of the load between visits
    tau_s: float = 0.44
    true_tau_s: float | None = None  # where the sensor is faster than its description
    step_mw: float = 40.0
    steady_s: float = 10.0  # of the busy window, after settling
    idle_s: float = 5.0  # of each idle one
    visits: int = 1

    def with_visits(self, visits: int) -> World:
        return replace(self, visits=visits, name=f"{self.name}, {visits} visits")


@dataclass(frozen=True)
class Visit:
    """One measurement of a load, and the truth."""

    trace: list[tuple[float, float | None]]
    before: Window
    busy: Window
    after: Window
    progress: list[tuple[float, int]]  # (time, batches done)
    gross_mj: float
    net_mj: float

    @property
    def runs(self) -> int:
        return self.progress[-1][1]


def sensor(world: World) -> SensorDescription:
    return SensorDescription(
        sensor="made-up", rails=("VDD_IN",), total=("VDD_IN",), total_reason="", resolution_mw={"VDD_IN": world.step_mw or None},
        tau_s=world.tau_s, min_period_s=PERIOD_S, cumulative=False, details={},
    )  # fmt: skip


def loads(world: World, count: int, seed: int) -> Iterator[list[Visit]]:
    """`count` loads, each with the world's number of visits."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        idle_mw, load_mw = draw.uniform(3000, 6000), draw.uniform(3000, 10000)
        phase, batch_s = draw.uniform(), draw.uniform(0.001, 0.02)
        yield [_visit(world, draw, idle_mw, load_mw, phase, batch_s) for _ in range(world.visits)]


def _visit(
    world: World, draw: np.random.Generator, idle_mw: float, load_mw: float, phase: float, batch_s: float
) -> Visit:
    start_s = SETTLE_S + world.idle_s
    stop_s = start_s + SETTLE_S + world.steady_s
    end_s = stop_s + start_s
    busy_end_s = stop_s
    t_s: Array = np.arange(round(end_s / FINE_S)) * np.float64(FINE_S)
    busy = (t_s >= start_s) & (t_s < stop_s)
    slow = t_s >= (start_s + stop_s) / 2 if world.slower else np.zeros(len(t_s), bool)
    curve = math.exp(draw.uniform(-1.6, 1.6))
    drift_mw = world.drift_mw * (t_s / end_s) ** curve * (1 if draw.uniform() < 0.5 else -1)
    noise_mw = _first_order(draw.normal(size=len(t_s)), world.memory_s) * world.noise_mw
    own_mw = load_mw + world.visit_mw * draw.normal()
    drawn_mw = own_mw * np.where(slow, (1 - world.slower) ** 2.5, 1.0)  # of the load; its clock falls by `slower`
    true_mw = idle_mw + drift_mw + _background(world, draw, t_s)
    true_mw = true_mw + np.where(busy, drawn_mw + noise_mw, world.idle_noise * noise_mw)
    seen_mw = _filtered(true_mw, world.tau_s if world.true_tau_s is None else world.true_tau_s)
    shift = phase * world.step_mw
    shown_mw = np.round((seen_mw - shift) / world.step_mw) * world.step_mw + shift if world.step_mw else seen_mw
    each = round(PERIOD_S / FINE_S)
    gap_from_s = start_s + SETTLE_S + draw.uniform(0, world.steady_s - world.gap_s)
    kept = [i for i in range(0, len(t_s), each) if not gap_from_s <= t_s[i] < gap_from_s + world.gap_s]

    rate = np.where(slow, 1 - world.slower, 1.0) / batch_s
    done = np.concatenate([[0.0], np.cumsum(rate[busy]) * FINE_S])
    each_batches = max(1, round(CHUNK_S / batch_s))
    counts = [*range(0, int(done[-1]), each_batches), int(done[-1])]
    at_s = np.interp(counts, done, start_s + np.arange(len(done)) * FINE_S)  # the clock is read between two batches
    progress = [(float(t), count) for t, count in zip(at_s, counts, strict=True)]
    stop_s = progress[-1][0]
    busy = busy & (t_s < stop_s)
    steady = busy & (t_s >= start_s + SETTLE_S)
    batches = rate[steady].sum() * FINE_S
    common_mj = float((idle_mw + drift_mw[steady]).sum()) * FINE_S / batches
    net_mj = float((drawn_mw[steady] - own_mw + load_mw).sum()) * FINE_S / batches
    return Visit(
        [(float(t_s[i]), float(shown_mw[i])) for i in kept], Window(0.0, start_s), Window(start_s, stop_s),
        Window(busy_end_s, end_s), progress, common_mj + net_mj, net_mj,
    )  # fmt: skip


def _background(world: World, draw: np.random.Generator, t_s: Array) -> Array:
    """Of mean zero: what it draws on average is part of the idle level."""
    period_s = world.background_s * math.exp(draw.uniform(-JITTER, JITTER))
    position = (t_s / period_s + draw.uniform()) % 1.0
    if world.pulse:
        return np.asarray(world.background_mw * ((position < world.pulse) - world.pulse), np.float64)
    return np.asarray(world.background_mw * np.sin(2 * math.pi * position), np.float64)


def _first_order(shocks: Array, memory_s: float) -> Array:
    """First-order noise of standard deviation 1."""
    from scipy.signal import lfilter

    keep = math.exp(-FINE_S / memory_s)
    found, _ = lfilter([math.sqrt(1 - keep * keep)], [1, -keep], shocks[1:], zi=[keep * shocks[0]])
    return np.concatenate([shocks[:1], np.asarray(found, np.float64)])


def _filtered(mw: Array, tau_s: float) -> Array:
    from scipy.signal import lfilter

    if not tau_s:
        return mw
    keep = math.exp(-FINE_S / tau_s)
    found, _ = lfilter([1 - keep], [1, -keep], mw, zi=[keep * mw[0]])
    return np.asarray(found, np.float64)
