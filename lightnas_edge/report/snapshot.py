"""A run directory read whole. A part that is missing, damaged or made from other files leaves the others readable; its
message names the command that makes it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import luts
from lightnas_edge.errors import LightnasEdgeError, PredictorError, RunError, StaleRecordError
from lightnas_edge.records.deployment import ExportRecord, TrainingRecord, VerificationRecord
from lightnas_edge.records.fleet import FleetRecord
from lightnas_edge.records.metrics import SearchEpoch, SearchStep, TrainingEpoch, read_metrics
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.records.precision import PrecisionRecord
from lightnas_edge.records.predictor import PredictorRecord
from lightnas_edge.records.report import BlockReport
from lightnas_edge.records.run import FoundNetwork, FrontNetwork, RefinedRecord, RunRecord
from lightnas_edge.report import wording
from lightnas_edge.runs import NETWORKS, Run
from lightnas_edge.space import Architecture, ShapedOperator, Space, macs_m, parameters_m

MAX_FAULTS = 3  # named, of the damaged lines of one file
_SEARCH = "run the same `lightnas-edge search` again; it continues to its end"
_T = TypeVar("_T")


@dataclass(frozen=True)
class SearchTrace:
    """The search as one of its budgets saw it. All lists are as long as `steps` or `epochs`; None leaves a gap."""

    budget: str
    metric: str  # of all predictions here
    unit: str
    target: float | None
    steps: tuple[SearchStep, ...]
    epochs: tuple[SearchEpoch, ...]
    sampled: tuple[float | None, ...]  # by step
    derived: tuple[float | None, ...]  # by step, of the most probable network
    multipliers: tuple[float | None, ...]  # by step
    first: bool  # whether the probabilities in the epochs are this budget's


@dataclass(frozen=True)
class RunSnapshot:
    """The parts of a run. A part is None when `missing` says why and what to do."""

    run: Run
    space: Space  # with the head of the run's classes
    found: FoundNetwork | None
    architecture: Architecture | None
    front: tuple[FrontNetwork, ...]  # all networks of the search, where it found several
    lut: luts.Lut | None
    predictor: PredictorRecord | None
    predictor_path: Path | None
    search: SearchTrace | None
    epochs: tuple[TrainingEpoch, ...]  # of the training
    training: TrainingRecord | None
    export: ExportRecord | None
    verification: VerificationRecord | None
    fleet: FleetRecord | None  # all units of the model; None without a word where no two units were verified
    precision: PrecisionRecord | None  # the network in every precision; None without a word where that was not measured
    refined: RefinedRecord | None  # of a run that `refine` wrote
    missing: dict[str, str]
    faults: tuple[str, ...]  # damaged lines of files that are read line by line

    @property
    def simulated(self) -> bool:
        """Whether any number behind this report was simulated instead of measured."""
        parts = (self.verification, self.precision, *self.front)
        return self.simulated_prediction or any(part.simulated for part in parts if part is not None)

    @property
    def simulated_prediction(self) -> bool:
        """Whether the table or what it predicts comes from a simulated board."""
        parts = (self.predictor, self.lut, self.found.predicted if self.found else None)
        return any(part.simulated for part in parts if part is not None)

    @cached_property
    def blocks(self) -> tuple[BlockReport, ...]:
        """The network from input to output."""
        if self.architecture is None:
            return ()
        chain = list(self.space.chain(self.architecture))
        places = ["stem", "first", *(f"layer {index}" for index in range(len(self.space.layers))), "head"]
        entries = [self.lut.entries.get(shaped.key) if self.lut else None for shaped in chain]
        total = self.table_sum_ms
        return tuple(
            BlockReport(
                place=place,
                operator=shaped.block,
                key=shaped.key,
                shape=_shape(shaped),
                stride=shaped.stride,
                identity=shaped.is_identity,
                latency_ms=entry.latency_ms if entry else None,
                spread=entry.spread if entry and math.isfinite(entry.spread) else None,
                share=min(1.0, entry.latency_ms / total) if entry and total else None,
                unstable=bool(entry and entry.unstable),
            )
            for place, shaped, entry in zip(places, chain, entries, strict=True)
        )

    @cached_property
    def table_sum_ms(self) -> float | None:
        """Sum of the table's entries of this network; None unless the table holds them all."""
        if self.architecture is None or self.lut is None:
            return None
        keys = [shaped.key for shaped in self.space.chain(self.architecture) if not shaped.is_identity]
        if not self.lut.coverage(keys).complete:
            return None
        return sum(self.lut.entries[key].latency_ms for key in keys)

    @property
    def cost(self) -> tuple[float, float] | None:
        """(millions of multiply-accumulates, millions of parameters) of the network."""
        if self.architecture is None:
            return None
        return macs_m(self.space, self.architecture), parameters_m(self.space, self.architecture)


def read_snapshot(folder: Path) -> RunSnapshot:
    """Read every part of a run directory.

    Raises:
        RunError: the folder is no run directory; `RunSnapshot.missing` lists every other fault.
        SpaceError: the space of the run is none.
    """
    return _Reader(Run.open(folder)).snapshot()


class _Reader:
    """Reads part after part and notes what is missing."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.missing: dict[str, str] = {}
        self.faults: list[str] = []
        self.errors: dict[str, LightnasEdgeError] = {}  # by part

    def snapshot(self) -> RunSnapshot:
        run = self.run
        found = self._read("network", lambda: run.found)
        architecture = self._read("network", lambda: run.architecture) if found else None
        predictor_path, predictor = self._read("predictor", self._predictor) or (None, None)
        training = self._read("training", lambda: run.weights.record)
        verification = self._read("verification", lambda: run.verification)
        snapshot = RunSnapshot(
            run=run,
            space=run.space.with_classes(len(run.data.classes)),
            found=found if architecture else None,
            architecture=architecture,
            front=self._read("front", self._front) or (),
            lut=self._read("table", self._table),
            predictor=predictor,
            predictor_path=predictor_path,
            search=self._read("search", lambda: self._search(found), remedy="" if run.record.refined_from else _SEARCH),
            epochs=self._read(
                "epochs", self._epochs, remedy=f"run `lightnas-edge train {shlex.quote(str(run.folder))}`"
            )
            or (),
            training=training,
            export=self._read("export", lambda: run.export.record),
            verification=verification,
            fleet=self._read("all units", lambda: run.fleet) if verification else None,
            precision=self._precision(),
            refined=self._read("refined", lambda: run.refined) if run.record.refined_from else None,
            missing=self.missing,
            faults=tuple(self.faults),
        )
        self._leave_out_what_is_of_networks(snapshot)
        return snapshot

    def _read(self, part: str, read: Callable[[], _T], *, remedy: str = "") -> _T | None:
        try:
            return read()
        except LightnasEdgeError as error:
            hint = error.hint or remedy
            self.missing[part] = f"not available: {_one_line(str(error))}" + (f"; {_one_line(hint)}" if hint else "")
            self.errors[part] = error
        except OSError as error:
            self.missing[part] = f"not available: {_one_line(str(error))}" + (f"; {remedy}" if remedy else "")
        return None

    def _precision(self) -> PrecisionRecord | None:
        if not (self.run.precision_folder / "precision.json").exists():
            return None
        return self._read("precision", lambda: self.run.precision)

    def _front(self) -> tuple[FrontNetwork, ...]:
        front = self.run.front
        return front.networks if front else ()

    def _table(self) -> luts.Lut:
        path = self.run.table
        if path is None:
            raise RunError(
                f"{self.run.folder} holds no table",
                hint="search with `--lut` or `--host`; the run then keeps the table",
            )
        lut = luts.read(path)
        self._note([f"{path} line {fault.line}: {fault.what}" for fault in lut.faults])
        return lut

    def _predictor(self) -> tuple[Path, PredictorRecord]:
        """That of the latency, or of the first metric where the latency is not limited."""
        paths = self.run.predictors
        if not paths:
            raise RunError(f"{self.run.folder} holds no predictor", hint=_SEARCH)
        path = paths.get("latency_ms") or next(iter(paths.values()))
        return path, PredictorRecord.load(path, error=PredictorError, remedy=_SEARCH)

    def _search(self, found: FoundNetwork | None) -> SearchTrace:
        """What the metrics of the search say of this run's budget: steps are written for the first one only."""
        run, searched = self.run, self.run
        if run.record.refined_from:
            raise RunError(f"the search is in {run.record.refined_from.run}, from which this run was refined")
        if run.record.search is not None:
            searched = Run.open(run.folder / run.record.search)
        lines, faults = read_metrics(searched.search_folder / "metrics.jsonl")
        self._note(faults)
        steps = tuple(line for line in lines if isinstance(line, SearchStep))
        epochs = tuple(line for line in lines if isinstance(line, SearchEpoch))
        if not steps:
            raise RunError(f"{searched.search_folder} holds no step of the search yet")
        first = epochs[0].budgets[0].name if epochs else None
        budget = found.choice.budget if found and found.choice else first
        targets = run.targets or next((each.targets for each in run.record.budgets if each.name == budget), {})
        metric = next(iter(targets), None) or next(iter(steps[0].derived), "latency_ms")
        if first is None or budget == first:
            derived = tuple(step.derived.get(metric) for step in steps)
            multipliers: tuple[float | None, ...] = tuple(step.multiplier for step in steps)
        else:
            progress = {epoch.epoch: each for epoch in epochs for each in epoch.budgets if each.name == budget}
            if not progress:
                raise RunError(
                    "this network was added after the search had ended",
                    hint="the search has no record of its budget; the other networks of the search have theirs",
                )
            rows = [progress.get(step.epoch) for step in steps]
            derived = tuple(row.derived.get(metric) if row else None for row in rows)
            multipliers = tuple(row.multipliers.get(metric) if row else None for row in rows)
        same_board = _first_fingerprint(searched.record) == run.record.fingerprint or not run.targets
        return SearchTrace(
            budget=budget or "",
            metric=metric,
            unit=wording.unit(metric),
            target=targets.get(metric),
            steps=steps,
            epochs=epochs,
            sampled=tuple(step.sampled.get(metric) if same_board else None for step in steps),
            derived=derived,
            multipliers=multipliers,
            first=budget == first,
        )

    def _epochs(self) -> tuple[TrainingEpoch, ...]:
        """Of a training that still runs, or of the one that made the weights."""
        if isinstance(self.errors.get("training"), StaleRecordError):
            raise self.errors["training"]
        path = self.run.train_folder / "metrics.jsonl"
        lines, faults = read_metrics(path)
        self._note(faults)
        epochs = tuple(line for line in lines if isinstance(line, TrainingEpoch))
        if not epochs:
            raise RunError(f"{path} holds no finished epoch")
        return epochs

    def _note(self, faults: list[str]) -> None:
        self.faults += [_one_line(fault) for fault in faults[:MAX_FAULTS]]
        if len(faults) > MAX_FAULTS:
            self.faults.append(f"and {len(faults) - MAX_FAULTS} more damaged lines in the same file")

    def _leave_out_what_is_of_networks(self, snapshot: RunSnapshot) -> None:
        """A search with several networks has none of its own: its parts are in their folders, and none is missing here."""
        below = any((self.run.folder / NETWORKS).glob("*/architecture.json"))
        if not below or (self.run.folder / "architecture.json").exists():
            return
        for part, value in (
            ("network", snapshot.architecture), ("predictor", snapshot.predictor), ("table", snapshot.lut),
            ("epochs", snapshot.epochs), ("training", snapshot.training), ("export", snapshot.export),
            ("verification", snapshot.verification),
        ):  # fmt: skip
            if not value:
                self.missing.pop(part, None)


def _first_fingerprint(record: RunRecord) -> object:
    """Of the board that the predictions in the steps of a search are for: that of its first budget."""
    return record.budgets[0].fingerprint if record.budgets else record.fingerprint


def _one_line(text: str) -> str:
    """The lines of a message, joined."""
    return clean_text("; ".join(line.strip() for line in text.splitlines()).replace(":;", ":"))


def _shape(shaped: ShapedOperator) -> str:
    side_in, side_out = shaped.input_size, shaped.output_size
    if shaped.block == "head":
        inner = " → ".join(map(str, shaped.hidden_channels))
        return f"{shaped.in_channels} × {side_in}² → {inner} → {shaped.out_channels}"
    return f"{shaped.in_channels} × {side_in}² → {shaped.out_channels} × {side_out}²"
