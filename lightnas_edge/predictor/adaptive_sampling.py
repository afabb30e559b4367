"""Measure networks on a board in rounds, until the predictor is certain enough.

Each round measures the most informative networks; or, for the frontier, random networks come first, and each round measures networks
such as a search would choose under the predictor of all earlier ones.

The record next to the table names the networks of a round before they are measured, so that an interrupted sampling
resumes with the same networks.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import luts
from devices import Connection, Status
from lightnas_edge.errors import PredictorError
from lightnas_edge.measuring import Settings, measure, reference_architectures, sample_architectures, write_sample_job
from lightnas_edge.predictor.adaptive import assess, choose_batch, stopping_reason
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.fit import fit_additive
from lightnas_edge.predictor.frontier import FRONTIER_SHARE, frontier_networks
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.records.adaptive import AdaptiveSamplingRecord, FitProgress, SamplingGoal
from lightnas_edge.records.run import Operators
from lightnas_edge.space import Architecture, Space

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdaptiveSamplingConfig:
    """What to learn, and how much to spend on it.

    Args:
        metric: what the predictor predicts.
        around: a value of the metric; the networks of interest are those near it, or all of the space when None.
        until: stop when the 90 % interval of a network reaches this far to each side, relative to its prediction.
        max_networks: stop here at the latest.
        round_networks: networks measured between two assessments.
        frontier: learn of the networks that a search chooses, within `around` where it is given.
    """

    metric: str = "latency_ms"
    around: float | None = None
    until: float = 0.01
    max_networks: int = 60
    round_networks: int = 5
    frontier: bool = False


@dataclass(frozen=True)
class AdaptiveSampling:
    """How it ended. `complete`: every network and every sentinel operator could be measured."""

    record: AdaptiveSamplingRecord
    complete: bool

    @property
    def progress(self) -> FitProgress:
        """After the last round."""
        return self.record.curve[-1]


def sampling_record_path(table: Path) -> Path:
    """`nets.adaptive.json` for the table `nets.lut.jsonl`."""
    return table.with_name(table.name.removesuffix(".jsonl").removesuffix(".lut") + ".adaptive.json")


def sample_adaptively(
    connection: Connection,
    space: Space,
    settings: Settings,
    table: Path,
    config: AdaptiveSamplingConfig | None = None,
    *,
    lut: luts.Lut | None = None,
    prior: AdditivePredictor | None = None,
    fresh: bool = False,
    sudo_password: str | None = None,
    on_preparing: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Status], None] | None = None,
    on_assessed: Callable[[FitProgress], None] | None = None,
) -> AdaptiveSampling:
    """Measure whole networks into a table, as many as the goal needs.

    Args:
        table: of whole networks, on this side; existing measurements are reused.
        lut: the operators' table to start from.
        prior: the predictor of another board to start from.
        fresh: measure everything again; the earlier table and record are kept as .old.
        on_preparing: models written, and how many there are.
        on_progress: the board's status while it measures.
        on_assessed: how certain the predictor is after each round.

    Raises:
        PredictorError: the earlier record cannot be resumed, or not one network of a round could be measured.
        DeviceError: the board is busy or unreachable; what was measured is kept.
    """
    config = config or AdaptiveSamplingConfig()
    path = sampling_record_path(table)
    record = _resume(path, table, space, config, fresh=fresh)
    planned = [Architecture.from_names(space, names) for names in record.planned]
    if not planned and not record.curve:
        planned = _first_round(space, config)
        record = record.model_copy(update={"tried": record.tried + _names_of(planned)})
    measured = luts.read(table) if record.curve else None
    complete = True

    def measure_round(networks: Sequence[Architecture], *, first: int) -> luts.Lut:
        nonlocal complete
        _log.info("measuring networks %d to %d of at most %d", first, first + len(networks) - 1, config.max_networks)
        with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as folder:
            job = write_sample_job(Path(folder), space, settings, networks, on_progress=on_preparing)
            found = measure(
                connection, job, table, fresh=fresh and first == 1, on_progress=on_progress, sudo_password=sudo_password
            )
        complete &= all(key in found.entries or key in found.networks for key in job.keys)
        for key in job.keys:
            if key in found.failed:
                _log.warning("%s could not be measured: %s", key, found.failed[key].message)
        if not any(key in found.networks for key in job.keys):
            raise PredictorError(
                f"none of the {len(networks)} networks could be measured",
                hint="the warnings above give the reasons; earlier measurements are kept",
            )
        return found

    while True:
        if planned:
            measured = measure_round(planned, first=len(measured.networks) + 1 if measured else 1)
        assert measured is not None
        observations = load_observations(space, [measured], lut, metric=config.metric)
        predictor = fit_additive(space, lut, observations, prior=prior)
        progress = assess(predictor, observations, config.around, frontier=config.frontier)
        curve = record.curve
        if not curve or curve[-1].networks != progress.networks:
            curve = (*curve, progress)
        if on_assessed:
            on_assessed(progress)
        stop = stopping_reason(progress, config.until, config.max_networks)
        planned = [] if stop else _next_round(predictor, observations, record, config, progress.networks)
        if stop is None and not planned:
            stop = "count"  # the space has no further network
        names = _names_of(planned)
        record = record.model_copy(
            update={"curve": curve, "planned": names, "tried": record.tried + names, "stopped": stop}
        )
        record.save(path)
        if stop is not None:
            return AdaptiveSampling(record, complete)


def _names_of(networks: Sequence[Architecture]) -> tuple[Operators, ...]:
    return tuple(tuple(operator.name for operator in each.operators) for each in networks)


def _first_round(space: Space, config: AdaptiveSamplingConfig) -> list[Architecture]:
    """The reference networks; for the frontier the share of random ones, which begins with them."""
    if not config.frontier:
        return reference_architectures(space)[: config.max_networks]
    return sample_architectures(space, config.max_networks - round(FRONTIER_SHARE * config.max_networks), seed=0)


def _next_round(
    predictor: AdditivePredictor,
    observations: Observations,
    record: AdaptiveSamplingRecord,
    config: AdaptiveSamplingConfig,
    measured: int,
) -> list[Architecture]:
    space = predictor.space
    known = {Architecture.from_indices(space, row) for row in observations.indices}
    known |= {Architecture.from_names(space, names) for names in record.tried}
    wanted = min(config.round_networks, config.max_networks - measured)
    if config.frontier:
        random = _first_round(space, config)
        missing = [network for network in random if network not in known]
        if missing:  # where --count was smaller before
            return missing[: config.max_networks - measured]
        return frontier_networks(predictor, wanted, seed=measured, limit=config.around, known=known)
    return choose_batch(predictor, known, wanted, config.around)


def _resume(
    path: Path, table: Path, space: Space, config: AdaptiveSamplingConfig, *, fresh: bool
) -> AdaptiveSamplingRecord:
    """The record to continue with: the earlier one, or an empty one."""
    goal = SamplingGoal(metric=config.metric, around=config.around, until=config.until, frontier=config.frontier)
    empty = AdaptiveSamplingRecord(space=space.name, table=table.name, goal=goal)
    if fresh or not path.exists() or not table.exists():
        if path.exists():
            os.replace(path, path.with_name(path.name + ".old"))
        return empty
    remedy = "remove it to continue from the table's networks, or measure again with --fresh"
    record = AdaptiveSamplingRecord.load(path, error=PredictorError, remedy=remedy)
    if record.space != space.name:
        raise PredictorError(f"{path} is of space {record.space}, not {space.name}", hint=remedy)
    for names in (*record.planned, *record.tried):
        try:
            Architecture.from_names(space, names)
        except ValueError as error:
            raise PredictorError(f"{path}: {error}", hint=remedy) from error
    # Intervals of another goal are of other networks: not one curve.
    return (
        record if record.goal == goal else empty.model_copy(update={"planned": record.planned, "tried": record.tried})
    )
