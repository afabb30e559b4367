"""Before a network is handed over: measure it on the board, learn from it, and choose again.

A search takes, of all networks, the one that its predictor likes most, and so the one that the predictor is most likely to be wrong
about. Measuring the finalists themselves is the remedy. Each round measures finalists, half of what is left of the allowance; the
predictor takes them in, its intervals are recalibrated on them, and the same operator scores choose again. It ends when the network to be
handed over is one that was measured, and with it no better one is worth measuring, or when the allowance is used.

Without a confidence, finalists are the network that would be handed over and those of the highest scores. With one, the network that would
be handed over is a cautious choice: its upper bound keeps the budget. Better networks whose predictions keep the budget, bound or not, are
measured first, since the measurement decides about them; the last measurement of the allowance is kept for the cautious one.

A measured network is judged by its measurement: one that breaks a limit is not chosen again, and one that keeps all of them stays a
candidate. Of several finalists those whose measurements came out low are the ones that seem to keep a limit; so an estimate that also counts what
the others say of the network (`AdditivePredictor.of_measured`) must keep it too, and with a confidence its upper bound.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import luts
from devices import Connection, Status
from lightnas_edge.errors import InfeasibleBudgetError, PredictorError, RunError
from lightnas_edge.measuring import MeasurementProtocol, Settings, measure, network_key, write_sample_job
from lightnas_edge.measuring.same_board import require_same_board
from lightnas_edge.measuring.tables import ENERGY_ROUNDS
from lightnas_edge.predictor import AdditivePredictor, CountedPredictor, Observations, load_observations
from lightnas_edge.predictor.recalibration import recalibrated
from lightnas_edge.records.base import Fingerprint
from lightnas_edge.records.confirm import ConfirmPlan, PlannedMetric, PlannedNetwork
from lightnas_edge.records.differences import fingerprint_differences
from lightnas_edge.records.run import ConfirmationRecord, MeasuredMetric, MeasuredNetwork
from lightnas_edge.runs import Run
from lightnas_edge.search.candidates import Known
from lightnas_edge.search.choice import Choice
from lightnas_edge.search.constraints import Budget, Constraint
from lightnas_edge.search.results import SearchResult, Sources, predictor_sha256
from lightnas_edge.space import Architecture, Space

FOLDER = "confirm"
ROUNDS = 15  # visits of each network, as `sample` makes
_CONFIDENCE = 0.95  # at which the widths of intervals are compared
_log = logging.getLogger(__name__)

Names = tuple[str, ...]


@dataclass(frozen=True)
class Confirming:
    """Where finalists are measured, and how many of them.

    Args:
        networks: of every budget, at most.
        on_preparing: models written, and how many there are.
        on_progress: the board's status while it measures.
    """

    connection: Connection
    networks: int
    rounds: int = ROUNDS
    on_preparing: Callable[[int, int], None] | None = None
    on_progress: Callable[[Status], None] | None = None


def require_confirmable(budgets: Sequence[Budget], connection: Connection) -> None:
    """Check, before anything is trained, that the board is that of every predictor and that the predictors can learn.

    Raises:
        PredictorError: a predictor that cannot take in further networks, or none that is measured.
        FingerprintError: the board is another one, or in another state.
        DeviceError: it is out of reach.
    """
    checked: list[Fingerprint] = []
    for budget in budgets:
        for predictor in _learning(budget).values():
            if predictor.fingerprint not in checked:
                require_same_board(connection, predictor.fingerprint, f"the predictor of {budget.name}")
                checked.append(predictor.fingerprint)


def require_tables(sources: Sources) -> None:
    """Read, before anything is trained, the tables that drift is corrected with. Raises LutFormatError."""
    for table in {table for _, table in sources.values() if table is not None}:
        luts.read(table)


def confirm_choice(
    run: Run,
    choice: Choice,
    results: list[SearchResult],
    contested: Sequence[bool],
    elapsed_s: float,
    sources: Sources,
    how: Confirming,
) -> tuple[list[SearchResult], list[InfeasibleBudgetError]]:
    """The results after measuring: in each the network to be handed over, and the record of what was measured.

    Args:
        results: what would be handed over without measuring, one for each budget of the search.
        contested, elapsed_s: as of `Choice.networks`.
        sources: the tables that show the drift since the predictor's session.

    Returns:
        The results of the budgets that some network keeps, and an error for each of the others.

    Raises:
        DeviceError: the board is busy or unreachable. What was measured is kept; the same command continues.
    """
    budgets = [result.budget for result in results]
    boards: dict[str, _Board] = {}
    of = {}
    for budget in budgets:
        board = _Board(run.folder, budget, sources.get(budget.name, ((), None))[1], how)
        of[budget.name] = boards.setdefault(board.stem, board)
    first = {result.budget.name: result.architecture for result in results}
    confidence = choice.state.context.config.confidence
    impossible: list[InfeasibleBudgetError] = []
    while True:
        for board in boards.values():
            board.measure_planned()
        if any(board.measured or board.failed for board in boards.values()):
            results, impossible = [], []
            for index, budget in enumerate(budgets):
                board = of[budget.name]
                known = board.known(budget, confidence)
                try:
                    results.append(choice.network(index, board.updated(budget), known, contested[index], elapsed_s))
                except InfeasibleBudgetError as error:
                    impossible.append(_impossible(run, budget, board, error))
        planned = [of[result.budget.name].plan(result, choice) for result in results]
        if not any(planned):
            break
        for board in boards.values():
            board.save()
    concluded = []
    for result in results:
        board = of[result.budget.name]
        result = board.best_measured(result, board.known(result.budget, confidence))
        record = board.record(result, first[result.budget.name], confidence)
        concluded.append(replace(result, confirmation=record))
    return concluded, impossible


def _impossible(run: Run, budget: Budget, board: _Board, error: InfeasibleBudgetError) -> InfeasibleBudgetError:
    number, failed = len(board.measured), len(board.failed)
    after = f"{number} measured network{'s'[: number != 1]}{', none of which keeps it' if number else ''}"
    after += f", and {failed} that could not be measured" if failed else ""
    found = InfeasibleBudgetError(
        f"{budget.name}, after {after}: {error}",
        hint=f"the search is kept: `lightnas-edge search --from {shlex.quote(str(run.folder))}` takes a larger budget",
    )
    found.__cause__ = error
    return found


@dataclass(frozen=True)
class _Measured:
    """One network: metric -> (value, standard error)."""

    values: dict[str, tuple[float, float]]
    round: int


class _Board:
    """The networks measured under one set of predictors, and what the predictors are after them."""

    def __init__(self, run_folder: Path, budget: Budget, table: Path | None, how: Confirming) -> None:
        self.before = _learning(budget)
        self.how = how
        hashes = {metric: predictor_sha256(predictor) for metric, predictor in self.before.items()}
        identity = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:8]
        self.stem = f"{self._any.fingerprint.get('precision', 'networks')}-{identity}"
        folder = run_folder / FOLDER
        self.path = folder / f"{self.stem}.json"
        self.table = None if table is None else luts.read(table)
        remedy = f"remove {folder} to measure again"
        plan = ConfirmPlan(host=how.connection.name, predictor_sha256=hashes)
        if self.path.exists():
            plan = ConfirmPlan.load(self.path, error=RunError, remedy=remedy)
            if plan.predictor_sha256 != hashes:
                raise RunError(f"{self.path} is about other predictors than its name says", hint=remedy)
            for network in (network for each in plan.rounds for network in each):
                try:
                    Architecture.from_names(self.space, network.operators)
                except ValueError as error:
                    raise RunError(f"{self.path}: {error}", hint=remedy) from error
                if set(network.predicted) != set(hashes):
                    raise RunError(f"{self.path} has predictions of other metrics than its predictors", hint=remedy)
        self.rounds = [list(each) for each in plan.rounds]
        self._plan = plan
        self._open: list[PlannedNetwork] = []
        self.measured: dict[Names, _Measured] = {}
        self.failed: set[Names] = set()
        self.after: dict[str, AdditivePredictor] = self.before
        self.notes: tuple[str, ...] = ()

    @property
    def _any(self) -> AdditivePredictor:
        return next(iter(self.before.values()))

    @property
    def space(self) -> Space:
        """Of the predictors: with the head that their networks were measured with."""
        return self._any.space

    # -- measuring ------------------------------------------------------------------------------------------

    def measure_planned(self) -> None:
        """Measure what the last round planned, as far as it is not measured yet, and learn from everything measured."""
        if not self.rounds:
            return
        last = self._journal(len(self.rounds))
        begun = last.exists() and last.stat().st_size > 0  # a power cut may leave an empty file
        if not begun or not self._is_complete(luts.read(last)):
            self._measure(last)
        self._learn([luts.read(self._journal(number)) for number in range(1, len(self.rounds) + 1)])

    def _journal(self, number: int) -> Path:
        """Of one round. Sessions far apart in time are separate tables, and the drift of each is corrected."""
        return self.path.with_name(f"{self.stem}-{number}.lut.jsonl")

    def _last(self) -> list[Architecture]:
        return list(dict.fromkeys(self._architecture(each.operators) for each in self.rounds[-1]))

    def _is_complete(self, found: luts.Lut) -> bool:
        """Whether every network of the last round has its visits, or cannot be measured."""
        keys = [network_key(architecture) for architecture in self._last()]
        return all(
            key in found.failed or (key in found.networks and len(found.networks[key].visits) >= self.how.rounds)
            for key in keys
        )

    def _measure(self, journal: Path) -> None:
        settings = replace(
            Settings.like(self._any.fingerprint, MeasurementProtocol(rounds=self.how.rounds)),
            energy_rounds=ENERGY_ROUNDS if any("energy" in metric for metric in self.before) else 0,
        )
        networks = self._last()
        _log.info("measuring %d networks that the search would hand over, round %d", len(networks), len(self.rounds))
        with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as folder:
            job = write_sample_job(Path(folder), self.space, settings, networks, on_progress=self.how.on_preparing)
            found = measure(self.how.connection, job, journal, on_progress=self.how.on_progress)
        for key in job.keys:
            if key in found.failed:
                _log.warning("%s could not be measured: %s", key, found.failed[key].message)

    def _learn(self, tables: Sequence[luts.Lut]) -> None:
        round_of: dict[Names, int] = {}
        for number, networks in enumerate(self.rounds, start=1):
            for network in networks:
                round_of.setdefault(network.operators, number)
        values: dict[Names, dict[str, tuple[float, float]]] = {names: {} for names in round_of}
        notes: list[str] = []
        self.after = {}
        for metric, before in self.before.items():
            if not any(table.networks for table in tables):
                self.after[metric] = before
                continue
            observed = self._observations(tables, metric)
            notes += observed.notes
            # Of a measurement relative to the predictor's session: its own error, and that of the session's drift.
            errors = np.sqrt(observed.standard_error**2 + (observed.common_error**2).sum(axis=1))
            rows = []
            for row, indices in enumerate(observed.indices):
                names = Architecture.from_indices(self.space, indices).names
                if names in values:
                    values[names][metric] = (float(observed.value[row]), float(errors[row]))
                    rows.append(row)
            self.after[metric] = recalibrated(before, observed.take(np.array(rows))) if rows else before
        if self._comparable(tables) is None:
            why = "no table to compare with" if self.table is None else "the table is of another state of the board"
            notes.append(f"{why}: the drift since the predictor's session is not known")
        self.notes = tuple(dict.fromkeys(notes))
        complete = {names: each for names, each in values.items() if len(each) == len(self.before)}
        self.measured = {names: _Measured(each, round_of[names]) for names, each in complete.items()}
        self.failed = set(values) - set(complete)

    def _observations(self, tables: Sequence[luts.Lut], metric: str) -> Observations:
        """Raises FingerprintError: the board is not in the state in which the predictor was measured."""
        self.before[metric].require_same_board(tables[-1].fingerprint, f"the networks in {tables[-1].path}")
        return load_observations(self.space, tables, self._comparable(tables), metric=metric)

    def _comparable(self, tables: Sequence[luts.Lut]) -> luts.Lut | None:
        """The table, where it is of the same state of the board."""
        same = self.table is not None and not fingerprint_differences(self.table.fingerprint, tables[-1].fingerprint)
        return self.table if same else None

    # -- what is known then ---------------------------------------------------------------------------------

    def updated(self, budget: Budget) -> Budget:
        """Under the predictors that have learned."""
        return replace(
            budget,
            constraints=tuple(
                Constraint(self.after.get(each.metric, each.predictor), each.target) for each in budget.constraints
            ),
        )

    def known(self, budget: Budget, confidence: float | None) -> Known:
        """What the measurements say about one budget."""
        keeps = {names: self._keeps(names, budget, confidence) for names in self.measured}
        kept = tuple(self._architecture(names) for names, does in keeps.items() if does)
        broken = tuple(self._architecture(names) for names, does in keeps.items() if not does)
        return Known(kept, broken + tuple(map(self._architecture, sorted(self.failed))))

    def _keeps(self, names: Names, budget: Budget, confidence: float | None) -> bool:
        for constraint in budget.constraints:
            if constraint.metric in self.before:
                value, _ = self.measured[names].values[constraint.metric]
                estimate, std = self._estimate(names, constraint.metric)
                quantile = 0.0 if confidence is None else self.after[constraint.metric].quantile(confidence)
                if max(value, estimate + quantile * std) > constraint.target:
                    return False
            elif constraint.predictor.predict_one(self._architecture(names)) > constraint.target:
                return False
        return True

    def _estimate(self, names: Names, metric: str) -> tuple[float, float]:
        """Of a measured network itself, and its standard deviation: see `AdditivePredictor.of_measured`."""
        one_hot = self._architecture(names).one_hot(self.space)[None]
        value, error = self.measured[names].values[metric]
        estimate, std = self.after[metric].of_measured(one_hot, np.array([value]), np.array([error]))
        return float(estimate[0]), float(std[0])

    def plan(self, result: SearchResult, choice: Choice) -> bool:
        """Plan a further round for a budget. False where nothing is worth measuring or its allowance is used."""
        name = result.budget.name
        used = sum(network.budget == name for networks in self.rounds for network in networks)
        left = self.how.networks - used
        if left <= 0:
            return False
        tried = {*self.measured, *self.failed}
        new = [each for each in self._finalists(result, choice, left) if each.names not in tried]
        self._open += [self._planned(result.budget, each, result.confidence) for each in new]
        return bool(new)

    def _finalists(self, result: SearchResult, choice: Choice, left: int) -> list[Architecture]:
        """What the next round should measure of a budget, measured or not."""
        known, cautious = self.known(result.budget, result.confidence), result.architecture
        reserved = 0 if result.confidence is None or cautious.names in self.measured else 1
        count = math.ceil((left - reserved) / 2)
        better = choice.promising(result.budget, known, count)
        if result.confidence is not None:
            return better or [cautious]
        if cautious.names in self.measured:
            return []
        return list(dict.fromkeys([cautious, *better]))[:count]

    def _planned(self, budget: Budget, architecture: Architecture, confidence: float | None) -> PlannedNetwork:
        predicted = {}
        one_hot = architecture.one_hot(self.space)[None]
        for metric in self.before:
            predictor = self.after[metric]
            upper = None if confidence is None else float(predictor.upper(one_hot, confidence)[0])
            predicted[metric] = PlannedMetric(value=float(predictor.predict(one_hot)[0]), upper=upper)
        return PlannedNetwork(budget=budget.name, operators=architecture.names, predicted=predicted)

    def save(self) -> None:
        """The round that was planned since the last one."""
        if self._open:
            self.rounds.append(self._open)
            self._open = []
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._plan.model_copy(update={"rounds": tuple(map(tuple, self.rounds))}).save(self.path)

    def best_measured(self, result: SearchResult, known: Known) -> SearchResult:
        """Where the allowance is used before the best network was measured: the best one that was and keeps the budget."""
        candidates = [result.chosen, *result.others]
        kept = [each for each in candidates if each.selection.architecture in known.kept]
        if result.architecture.names in self.measured or not kept:
            return result
        return replace(result, chosen=kept[0], others=tuple(each for each in candidates if each is not kept[0]))

    def record(self, result: SearchResult, first: Architecture, confidence: float | None) -> ConfirmationRecord:
        """What happened, for the run."""
        budget = result.budget
        planned = {
            network.operators: network
            for networks in self.rounds
            for network in networks
            if network.budget == budget.name or network.operators == result.architecture.names
        }
        networks = tuple(
            MeasuredNetwork(
                operators=names,
                round=self.measured[names].round,
                metrics=self._metrics(network, budget),
                keeps=self._keeps(names, budget, confidence),
            )
            for names, network in planned.items()
            if names in self.measured
        )
        return ConfirmationRecord(
            host=self.how.connection.name,
            tables=tuple(f"{FOLDER}/{self._journal(number).name}" for number in range(1, len(self.rounds) + 1)),
            allowed=self.how.networks,
            networks=networks,
            failed=tuple(names for names in planned if names in self.failed),
            others=len(self.measured) - len(networks),
            first=first.names,
            changed=result.architecture != first,
            measured=result.architecture.names in self.measured,
            interval_factor={metric: self._factor(metric) for metric in self.before} if self.measured else {},
            predictor_sha256=self._plan.predictor_sha256,
            notes=self.notes,
        )

    def _metrics(self, network: PlannedNetwork, budget: Budget) -> dict[str, MeasuredMetric]:
        one_hot = self._architecture(network.operators).one_hot(self.space)[None]
        found = {}
        for metric, (value, error) in self.measured[network.operators].values.items():
            before = network.predicted[metric]
            estimate, std = self._estimate(network.operators, metric)
            found[metric] = MeasuredMetric(
                target=budget.targets[metric], before=before.value, before_upper=before.upper, measured=value,
                standard_error=error, after=float(self.after[metric].predict(one_hot)[0]), estimate=estimate, estimate_std=std,
            )  # fmt: skip
        return found

    def _factor(self, metric: str) -> float:
        """Width of an interval of the measured networks relative to that before, mean over them."""
        one_hot = np.stack([self._architecture(names).one_hot(self.space) for names in self.measured])
        before, after = (
            each[metric].quantile(_CONFIDENCE) * each[metric].deviation(one_hot) for each in (self.before, self.after)
        )
        return float(np.mean(after) / np.mean(before)) if np.mean(before) > 0 else 1.0

    def _architecture(self, names: Names) -> Architecture:
        return Architecture.from_names(self.space, names)


def _learning(budget: Budget) -> dict[str, AdditivePredictor]:
    """Metric -> predictor, of the limits that a board measures.

    Raises:
        PredictorError: one cannot take in further networks, or there is none.
    """
    found = {}
    for constraint in budget.constraints:
        predictor = constraint.predictor
        if isinstance(predictor, AdditivePredictor):
            found[constraint.metric] = predictor
        elif not isinstance(predictor, CountedPredictor):
            raise PredictorError(
                f"the predictor of {constraint.metric} is of type {predictor.type}: only additive predictors take in further networks",
                hint=f"fit one with `lightnas-edge fit --space {predictor.space.option} --lut FILE --samples FILE --method calibrated`, "
                "or search without --confirm",
            )
    if not found:
        raise PredictorError(
            f"{budget.name}: no limit is measured, so there is nothing to confirm", hint="search without --confirm"
        )
    return found
