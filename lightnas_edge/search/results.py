"""What a search hands over: a network per budget, why it was chosen, and the front of them all, as files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightnas_edge.data import DataSet
from lightnas_edge.errors import RunError
from lightnas_edge.predictor import CountedPredictor, Predictor
from lightnas_edge.runs import NETWORKS, create_run, read_json, write_json
from lightnas_edge.search.candidates import Candidate
from lightnas_edge.search.config import SearchConfig
from lightnas_edge.search.constraints import Budget, Constraint
from lightnas_edge.space import Architecture, Space

SCHEMA = 1


@dataclass(frozen=True)
class SearchResult:
    """The network found for one budget.

    `others` are the candidates it was compared with, best first; `preferred` is what the search preferred before they
    were; `derived` what is most probable, budget or not (the published answer).
    """

    budget: Budget
    chosen: Candidate
    others: tuple[Candidate, ...]
    preferred: Architecture
    derived: Architecture
    multipliers: dict[str, float]  # metric -> multiplier; above zero, the constraint shaped the search
    probabilities: np.ndarray[Any, Any]  # (L, K) how probable each operator is in the end
    confidence: float | None
    epochs: int
    elapsed_s: float  # of the search, over all sessions
    choosing_s: float  # of this budget's choice alone

    @property
    def architecture(self) -> Architecture:
        return self.chosen.selection.architecture

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
        """Metric -> upper bound at the confidence; None when none was asked for."""
        held = self.chosen.selection.upper
        return None if held is None else _named(self.budget, held)

    @property
    def used(self) -> dict[str, float]:
        """Metric -> share of the target that the prediction (its upper bound, with a confidence) takes; at most 1."""
        held = self.upper or self.predicted
        return {metric: held[metric] / target for metric, target in self.budget.targets.items()}

    @property
    def binding(self) -> str:
        """The metric that leaves the least room."""
        return max(self.used, key=lambda metric: self.used[metric])

    def to_json(self) -> dict[str, Any]:
        """architecture.json: the network, with what was predicted of it and why it was chosen."""
        metrics = {
            metric: {
                "value": self.predicted[metric],
                "upper": None if self.upper is None else self.upper[metric],
                "target": target,
                "violation": self.predicted[metric] / target - 1,
                "multiplier": self.multipliers[metric],
            }
            for metric, target in self.budget.targets.items()
        }
        predicted: dict[str, Any] = {
            "confidence": self.confidence,
            "simulated": self.simulated,
            "metrics": metrics,
            "binding": self.binding,
        }
        if "latency_ms" in metrics:
            latency = metrics["latency_ms"]
            predicted |= {
                "latency_ms": latency["value"],
                "upper_ms": latency["upper"],
                "target_ms": latency["target"],
                "violation": latency["violation"],
            }
        one_hot = self.derived.one_hot(self.budget.constraints[0].predictor.space)[None]
        predicted["derived"] = {
            "operators": _names(self.derived),
            **{each.metric: float(each.predictor.predict(one_hot)[0]) for each in self.budget.constraints},
        }
        return {
            **self.architecture.to_json(),
            "predicted": predicted,
            "choice": {
                "budget": self.budget.name,
                "exact": self.chosen.selection.exact,
                "preferred": _names(self.preferred),
                "supernet": _scores(self.chosen),
                "others": [
                    {
                        "operators": _names(other.selection.architecture),
                        **_named(self.budget, other.selection.predicted),
                        **_scores(other),
                    }
                    for other in self.others
                ],
            },
        }


def begin_run(
    folder: Path,
    space: Space,
    data: DataSet,
    budgets: Sequence[Budget],
    config: SearchConfig,
    *,
    table: Path | None = None,
    fresh: bool = False,
) -> bool:
    """Begin a run directory for a search, or go on with the one that is there.

    Args:
        table: the look-up table behind the predictors, to be kept with the run.
        fresh: move an earlier run to `.old` and begin anew.

    Returns:
        True when an earlier run with the same question is gone on with.

    Raises:
        RunError: the directory holds another search; the fields that differ are named.
    """
    resumed = create_run(folder, {**_question(space, data, config), **_asked(budgets)}, fresh=fresh)
    if len(budgets) == 1:
        _keep_predictors(folder, budgets[0].constraints)
    if table is not None:
        keep_table(folder, table)
    return resumed


def keep_table(folder: Path, table: Path) -> None:
    """A copy of the look-up table in a run that has none, so that `verify` can tell drift from the network."""
    if not (folder / "lut.jsonl").exists():
        part = folder / "lut.jsonl.part"
        shutil.copyfile(table, part)
        part.replace(folder / "lut.jsonl")


def write_results(folder: Path, results: Sequence[SearchResult], *, added: bool = False) -> list[Path]:
    """One network goes into the run itself; several, and those added later, each into a run of its own below it.

    Returns:
        The run directory of every result: what train, export and verify take.
    """
    if len(results) == 1 and not added:
        write_json(folder / "architecture.json", results[0].to_json())
        places = [folder]
    else:
        places = [folder / NETWORKS / result.budget.name for result in results]
        held = read_json(folder / "run.json", kind="run") if (folder / "run.json").exists() else None
        for place, result in zip(places, results, strict=True):
            place.mkdir(parents=True, exist_ok=True)
            if held is not None and not (place / "run.json").exists():
                question = {name: held[name] for name in ("space", "data", "config", "seed")}
                question["config"] = {**question["config"], "confidence": result.confidence}  # may be its own
                board = result.budget.board
                create_run(place, {**question, **_asked([result.budget]), "search": "../..", "board": board})
                _keep_predictors(place, result.budget.constraints)
            write_json(place / "architecture.json", result.to_json())
    write_front(folder)
    return places


def read_front(folder: Path) -> list[dict[str, Any]]:
    """The networks of a run and of those below it: name, folder, predictions, supernet's scores; cheapest first."""
    rows = []
    for path in [folder / "architecture.json", *sorted((folder / NETWORKS).glob("*/architecture.json"))]:
        if not path.exists():
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        predicted, choice = record.get("predicted"), record.get("choice") or {}
        if not isinstance(predicted, dict) or "metrics" not in predicted:
            continue
        place = path.parent
        run = read_json(place / "run.json", kind="run") if (place / "run.json").exists() else {}
        rows.append(
            {
                "name": choice.get("budget", place.name),
                "folder": str(place.relative_to(folder)),
                "board": run.get("board") or (run.get("fingerprint") or {}).get("board"),
                "simulated": bool(predicted.get("simulated")),
                "operators": record["operators"],
                "metrics": predicted["metrics"],
                "binding": predicted["binding"],
                "confidence": predicted["confidence"],
                "supernet": choice.get("supernet"),
            }
        )
    return sorted(rows, key=lambda row: (str(row["board"]), [m["target"] for m in row["metrics"].values()]))


def write_front(folder: Path) -> None:
    write_json(folder / "front.json", {"kind": "front", "schema": SCHEMA, "networks": read_front(folder)})


def open_network_run(folder: Path, name: str) -> None:
    """Raises RunError when a run below already has that name."""
    place = folder / NETWORKS / name
    if (place / "architecture.json").exists():
        targets = read_json(place / "run.json", kind="run").get("targets") or {}
        limits = " and ".join(f"{metric} {target:g}" for metric, target in targets.items())
        raise RunError(
            f"{place} already holds a network, found for {limits}",
            hint="rename or remove that folder to choose again, or under other limits beside the first",
        )


def _question(space: Space, data: DataSet, config: SearchConfig) -> dict[str, Any]:
    return {"space": space.to_json(), "data": data.to_json(), "config": asdict(config), "seed": config.seed}


def _asked(budgets: Sequence[Budget]) -> dict[str, Any]:
    if len(budgets) == 1:
        return {"targets": budgets[0].targets, "fingerprint": _fingerprint(budgets[0].constraints)}
    return {
        "targets": {},
        "budgets": [
            {"name": budget.name, "targets": budget.targets, "fingerprint": _fingerprint(budget.constraints)}
            for budget in budgets
        ],
    }


def _fingerprint(constraints: Sequence[Constraint]) -> dict[str, Any]:
    """The board's: counted metrics have none."""
    return next((each.predictor.fingerprint for each in constraints if each.predictor.fingerprint), {})


def _keep_predictors(folder: Path, constraints: Sequence[Constraint]) -> None:
    """A run carries what it was predicted with: `predictor.json` for the latency, others beside it by their metric."""
    for constraint in constraints:
        keep_predictor(folder, constraint.predictor)


def keep_predictor(folder: Path, predictor: Predictor) -> None:
    if isinstance(predictor, CountedPredictor):
        return
    name = "predictor.json" if predictor.metric == "latency_ms" else f"predictor-{predictor.metric}.json"
    predictor.save(folder / name)


def _named(budget: Budget, values: Sequence[float]) -> dict[str, float]:
    return dict(zip(budget.targets, values, strict=True))


def _names(architecture: Architecture) -> list[str]:
    return [operator.name for operator in architecture.operators]


def _scores(candidate: Candidate) -> dict[str, float | None]:
    return {"loss": candidate.loss, "accuracy": candidate.accuracy}
