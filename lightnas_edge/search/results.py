"""What a search hands over: a network per budget, why it was chosen, and the front of them all, as files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightnas_edge.data import DataSet
from lightnas_edge.errors import RunError
from lightnas_edge.predictor import CountedPredictor, Predictor
from lightnas_edge.predictor.energy import predict_energy
from lightnas_edge.records.run import (
    BestNetwork,
    BudgetRecord,
    CandidateRecord,
    ChoiceRecord,
    ConfirmationRecord,
    DeployedScore,
    FrontNetwork,
    FrontRecord,
    MetricPrediction,
    NetworkPrediction,
    PredictedEnergy,
    PredictedRecord,
    SampledPaths,
    SupernetScore,
)
from lightnas_edge.runs import NETWORKS, Run, write_lock
from lightnas_edge.search.candidates import Candidate
from lightnas_edge.search.config import SearchConfig
from lightnas_edge.search.constraints import Budget, precision_of, question_of
from lightnas_edge.search.images import check_images
from lightnas_edge.space import Architecture, Space

# Budget -> further predictors of its board, and the board's table.
Sources = Mapping[str, tuple[Sequence[Predictor], Path | None]]


@dataclass(frozen=True)
class SearchResult:
    """The network found for one budget.

    `others` are the candidates it was compared with, best first; `top_scored` is the network of the highest operator
    scores, before that comparison; `derived` what is most probable, budget or not (the published answer).
    """

    budget: Budget
    chosen: Candidate
    others: tuple[Candidate, ...]
    top_scored: Architecture
    derived: Architecture
    multipliers: dict[str, float]  # metric -> multiplier; above zero, the constraint shaped the search
    probabilities: np.ndarray[Any, Any]  # (L, K) how probable each operator is in the end
    confidence: float | None
    epochs: int
    elapsed_s: float  # of the search, over all sessions
    choosing_s: float  # of this budget's choice alone
    sampled_paths: SampledPaths | None  # None where the search had no step on held-out images
    confirmation: ConfirmationRecord | None = None  # where networks were measured before one was handed over

    @property
    def architecture(self) -> Architecture:
        return self.chosen.selection.architecture

    @property
    def fault(self) -> str | None:
        """Why its precision cannot compute the network: no candidate of the budget could be computed. None where it can."""
        return None if self.chosen.penalty is None else self.chosen.penalty.fault

    @property
    def simulated(self) -> bool:
        """Whether a predictor comes from a board that does not exist."""
        return any(constraint.predictor.simulated for constraint in self.budget.constraints)

    @property
    def predicted(self) -> dict[str, float]:
        """Metric -> prediction, in the unit of its name."""
        return _named(self.budget, self.chosen.selection.predicted)

    @property
    def upper(self) -> dict[str, float] | None:
        """Metric -> upper bound at the confidence; None without a confidence."""
        upper = self.chosen.selection.upper
        return None if upper is None else _named(self.budget, upper)

    @property
    def used(self) -> dict[str, float]:
        """Metric -> share of the target that the prediction (its upper bound, with a confidence) takes.

        At most 1, but for a network that was measured before it was handed over: its measurement decides, not this prediction.
        """
        bounds = self.upper or self.predicted
        return {metric: bounds[metric] / target for metric, target in self.budget.targets.items()}

    @property
    def binding(self) -> str:
        """The metric that leaves the least room."""
        return max(self.used, key=lambda metric: self.used[metric])

    @property
    def energy(self) -> PredictedEnergy | None:
        """Of one batch; None where the board's energy is not known."""
        predictor = self.budget.energy_predictor
        return None if predictor is None else predict_energy(predictor, self.architecture)

    @property
    def predicted_record(self) -> PredictedRecord:
        metrics = {
            metric: MetricPrediction(
                value=self.predicted[metric],
                upper=None if self.upper is None else self.upper[metric],
                target=target,
                violation=self.predicted[metric] / target - 1,
                multiplier=self.multipliers[metric],
            )
            for metric, target in self.budget.targets.items()
        }
        one_hot = self.derived.one_hot(self.budget.constraints[0].predictor.space)[None]
        derived = {each.metric: float(each.predictor.predict(one_hot)[0]) for each in self.budget.constraints}
        return PredictedRecord(
            confidence=self.confidence,
            simulated=self.simulated,
            metrics=metrics,
            binding=self.binding,
            derived=NetworkPrediction(operators=self.derived.names, metrics=derived),
            energy=self.energy,
        )

    @property
    def choice_record(self) -> ChoiceRecord:
        return ChoiceRecord(
            budget=self.budget.name,
            exact=self.chosen.selection.exact,
            top_scored=self.top_scored.names,
            supernet=_score(self.chosen),
            others=tuple(
                CandidateRecord(
                    operators=other.selection.architecture.names,
                    metrics=_named(self.budget, other.selection.predicted),
                    supernet=_score(other),
                )
                for other in self.others
            ),
            sampled_paths=self.sampled_paths,
            confirmation=self.confirmation,
        )

    def to_json(self) -> dict[str, Any]:
        """The network, with what is predicted of it and why it was chosen."""
        return {
            "operators": list(self.architecture.names),
            "predicted": self.predicted_record.to_json(),
            "choice": self.choice_record.to_json(),
        }


def begin_run(
    folder: Path,
    space: Space,
    data: DataSet,
    budgets: Sequence[Budget],
    config: SearchConfig,
    *,
    table: Path | None = None,
    host: str | None = None,
    fresh: bool = False,
) -> tuple[Run, bool]:
    """Begin a run directory for a search, or resume the one in `folder`.

    Args:
        table: the look-up table behind the predictors; a copy is kept in the run.
        host: how the board of the table is reached; `verify` measures there.
        fresh: move an earlier run to `.old` and begin again.

    Returns:
        The run, and whether an earlier one under the same question is resumed.

    Raises:
        DataError: no search can learn from the images.
        RunError: the directory holds another search (the message names the fields that differ), or another process writes there.
    """
    check_images(data, config)
    with write_lock(folder, "search"):
        question = {**_question(space, data, config), **_budget_fields(budgets), "host": host}
        run, resumed = Run.begin(folder, question, fresh=fresh)
        if (
            len(budgets) == 1 and not (folder / "architecture.json").exists()
        ):  # a network keeps those it was chosen with
            keep_predictors(run, [constraint.predictor for constraint in budgets[0].constraints])
        if table is not None:
            keep_table(run, table)
    return run, resumed


def keep_table(run: Run, table: Path) -> None:
    """A copy of the look-up table in a run that has none, so that `verify` can separate drift from the network."""
    if not (run.folder / "lut.jsonl").exists():
        run.save_table(table.read_bytes())


def keep_predictors(run: Run, predictors: Iterable[Predictor]) -> None:
    """A run carries what its network was predicted with. Counted metrics need no file."""
    for predictor in predictors:
        if not isinstance(predictor, CountedPredictor):
            run.save_predictor(predictor.metric, json.dumps(predictor.to_record().to_json(), allow_nan=False))


def write_results(
    run: Run,
    results: Sequence[SearchResult],
    *,
    sources: Sources | None = None,
    below: bool,
) -> list[Run]:
    """The only network of a search goes into the run itself; several, and those added later, each into a run of its own below it.

    Args:
        sources: predictors and tables that `verify` compares with, beyond the predictors of the budget.
        below: every network into a run of its own.

    Returns:
        The run of every result: what train, export and verify take.
    """
    sources = sources or {}
    runs = []
    with run.writing("search"):
        for result in results:
            place = _network_run(run, result) if below else run
            predictors, table = sources.get(result.budget.name, ((), None))
            # Last those that the network was chosen with: they may have learned since.
            keep_predictors(place, [*predictors, *(each.predictor for each in result.budget.constraints)])
            if table is not None:
                keep_table(place, table)
            place.save_found(result.architecture, result.predicted_record, result.choice_record)
            runs.append(place)
        run.save_front(read_front(run))
    return runs


def is_scored(run: Run) -> bool:
    """Whether the network of a run was compared on held-out images, or cannot be: it has an estimated loss or a fault."""
    choice = run.found.choice
    return choice is not None and (
        choice.supernet.estimate is not None
        or (choice.supernet.deployed is not None and choice.supernet.deployed.fault is not None)
    )


def add_score(run: Run, candidate: Candidate) -> None:
    """The score of a network that was chosen without one, into its architecture.json."""
    found = run.found
    if found.choice is not None:
        choice = found.choice.model_copy(update={"supernet": _score(candidate)})
        found.model_copy(update={"choice": choice}).save(run.folder / "architecture.json")


def run_question(run: Run) -> str:
    """`Budget.question` of the network of a run."""
    return question_of(run.record.board, run.record.fingerprint, run.targets)


def read_front(run: Run) -> FrontRecord:
    """The networks of a run and of those below it, in the order of board and target, and the best one of every budget."""
    rows: list[tuple[FrontNetwork, str]] = []
    for place in [run, *run.networks]:
        if not (place.folder / "architecture.json").exists():
            continue
        found = place.found
        row = FrontNetwork(
            name=found.choice.budget if found.choice else place.folder.name,
            folder=str(place.folder.relative_to(run.folder)),
            board=place.record.board or _board(place.record.fingerprint),
            precision=precision_of(place.record.fingerprint),
            simulated=found.predicted.simulated,
            operators=found.operators,
            metrics=found.predicted.metrics,
            binding=found.predicted.binding,
            confidence=found.predicted.confidence,
            energy=found.predicted.energy,
            supernet=found.choice.supernet if found.choice else None,
            confirmation=found.choice.confirmation if found.choice else None,
        )
        rows.append((row, run_question(place)))
    rows.sort(key=lambda each: (str(each[0].board), [metric.target for metric in each[0].metrics.values()]))
    by_question: dict[str, list[FrontNetwork]] = {}
    for row, question in rows:
        by_question.setdefault(question, []).append(row)
    return FrontRecord(
        networks=tuple(row for row, _ in rows), best=tuple(_best(several) for several in by_question.values())
    )


def _best(networks: Sequence[FrontNetwork]) -> BestNetwork:
    """Of the networks of one budget in one or several precisions: the one with the lowest estimated loss.

    Of equal ones, the more precise one. One that was not scored stands behind those that were, and one that its precision
    cannot compute behind all others.
    """
    order = sorted(
        networks,
        key=lambda each: (_estimate(each), _fault(each) is not None, -_BITS.get(each.precision or "", 0)),
    )
    best, others = order[0], order[1:]
    if math.isfinite(_estimate(best)) and others:
        reason = "; ".join(_why_better(best, other) for other in others)
    elif others:
        faults = "; ".join(f"{each.name}: {_fault(each) or 'no score on held-out images'}" for each in order)
        reason = f"none of {len(networks)} networks has an estimated loss: {faults}"
    else:
        fault = _fault(best)
        reason = "the only network of this budget" + (f": {fault}" if fault else "")
    return BestNetwork(
        board=best.board,
        targets=best.targets,
        network=best.name,
        folder=best.folder,
        precision=best.precision,
        compared=len(networks),
        reason=reason,
    )


_BITS = {"fp32": 32, "fp16": 16, "int8": 8}


def _estimate(network: FrontNetwork) -> float:
    known = network.supernet is not None and network.supernet.estimate is not None
    return network.supernet.estimate if known else math.inf  # type: ignore[union-attr, return-value]  # checked in `known`


def _fault(network: FrontNetwork) -> str | None:
    """Why its precision cannot compute it; None where it can, or where that was not tried."""
    deployed = network.supernet.deployed if network.supernet else None
    return deployed.fault if deployed else None


def _why_better(best: FrontNetwork, other: FrontNetwork) -> str:
    if not math.isfinite(_estimate(other)):
        return f"{other.name} is left out: {_fault(other) or 'it has no score on held-out images'}"
    difference = _estimate(other) - _estimate(best)
    if difference == 0:
        return f"as good as {other.name} by the estimated loss, and no less precise"
    text = f"estimated loss {difference:.3g} lower than that of {other.name}"
    accuracies = [each.supernet.deployed_accuracy for each in (best, other) if each.supernet]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    if len(known) < 2:
        return text
    return f"{text} (top-1 accuracy on held-out images {100 * known[0]:.1f} % and {100 * known[1]:.1f} %)"


def found_before(run: Run, budget: Budget, confidence: float | None, *, confirmed: int = 0) -> Path | None:
    """Where a network is that answers the very same question: below the run under that name, or in the run itself.

    Args:
        confirmed: only one before which as many networks might be measured, if there are any.

    Raises:
        RunError: it answers another one: other limits, another predictor or another confidence.
    """
    place = run.folder / NETWORKS / budget.name
    if (place / "architecture.json").exists():
        below = Run.open(place)
        same, enough = _answers(below, budget, confidence, confirmed)
        if not same:
            limits = " and ".join(f"{metric} {target:g}" for metric, target in below.targets.items())
            raise RunError(
                f"{place} already holds a network, found for {limits} by another predictor or at another confidence",
                hint="rename or remove that folder to choose again",
            )
        return place if enough else None
    own = (run.folder / "architecture.json").exists() and run_question(run) == budget.question
    return run.folder if own and all(_answers(run, budget, confidence, confirmed)) else None


def _answers(place: Run, budget: Budget, confidence: float | None, confirmed: int) -> tuple[bool, bool]:
    """Whether the network of a run was found for this budget, and whether after as many networks might be measured."""
    predicted, choice = place.found.predicted, place.found.choice
    confirmation = choice.confirmation if choice is not None else None
    learned_from = confirmation.predictor_sha256 if confirmation else {}
    one_hot = place.architecture.one_hot(budget.constraints[0].predictor.space)[None]
    same = all(
        each.metric in predicted.metrics
        and (
            math.isclose(predicted.metrics[each.metric].value, each.predictor.predict(one_hot)[0], rel_tol=1e-9)
            or (each.metric in learned_from and learned_from[each.metric] == predictor_sha256(each.predictor))
        )
        for each in budget.constraints
    )
    same = same and place.targets == budget.targets and predicted.confidence == confidence
    return same, not confirmed or (confirmation is not None and confirmation.allowed >= confirmed)


def predictor_sha256(predictor: Predictor) -> str:
    """Of the content of its file."""
    content = json.dumps(predictor.to_record().to_json(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _network_run(run: Run, result: SearchResult) -> Run:
    """The run of one network of a search with several."""
    record = run.record
    question: dict[str, Any] = {
        "space": record.space,
        "data": record.data,
        "config": {**record.config, "confidence": result.confidence},  # an added budget may have its own
        "seed": record.seed,
        "host": record.host,
        **_budget_fields([result.budget]),
        "search": "../..",
        "board": result.budget.board,
    }
    return Run.begin(run.folder / NETWORKS / result.budget.name, question)[0]


def _question(space: Space, data: DataSet, config: SearchConfig) -> dict[str, Any]:
    return {"space": space.to_json(), "data": data.record, "config": asdict(config), "seed": config.seed}


def _budget_fields(budgets: Sequence[Budget]) -> dict[str, Any]:
    if len(budgets) == 1:
        return {"targets": budgets[0].targets, "fingerprint": budgets[0].fingerprint}
    return {
        "targets": {},
        "budgets": tuple(
            BudgetRecord(name=budget.name, targets=budget.targets, fingerprint=budget.fingerprint) for budget in budgets
        ),
    }


def _board(fingerprint: Mapping[str, Any]) -> str | None:
    board = fingerprint.get("board")
    return None if board is None else str(board)


def _named(budget: Budget, values: Sequence[float]) -> dict[str, float]:
    return {metric: float(value) for metric, value in zip(budget.targets, values, strict=True)}


def _score(candidate: Candidate) -> SupernetScore:
    estimate = candidate.estimate
    return SupernetScore(
        loss=candidate.loss,
        accuracy=candidate.accuracy,
        deployed=_deployed(candidate),
        estimate=estimate if estimate is not None and math.isfinite(estimate) else None,
    )


def _deployed(candidate: Candidate) -> DeployedScore | None:
    penalty = candidate.penalty
    if penalty is None:
        return None
    precision = penalty.arithmetic.precision
    assert precision != "fp32"  # has no penalty
    return DeployedScore(
        precision=precision,
        dialect=penalty.arithmetic.dialect,
        loss=penalty.loss,
        accuracy=penalty.accuracy,
        penalty=penalty.mean,
        penalty_error=penalty.error,
        fault=penalty.fault,
    )
