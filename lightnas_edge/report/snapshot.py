"""What a run directory tells. Any part may be absent or damaged: it is then named, with the command that makes it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import luts
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.runs import NETWORKS, read_architecture, read_json, read_run
from lightnas_edge.space import Architecture, ShapedOperator, Space, macs_m, parameters_m

Record = dict[str, Any]
_T = TypeVar("_T")
_SEARCH = "run `lightnas-edge search` to its end"


@dataclass(frozen=True)
class NetworkRow:
    """One block of the network found, and what the table holds for it."""

    place: str  # "stem", "first", "layer 0", ..., "head"
    operator: str
    key: str
    shape: str  # "16 x 32x32 -> 24 x 16x16"
    identity: bool  # adds no node, so it has no entry
    latency_ms: float | None
    spread: float | None  # relative
    share: float | None  # of the sum
    unstable: bool


@dataclass(frozen=True)
class RunSnapshot:
    """The parts of a run. A part is None when `missing` says why and what to do."""

    folder: Path
    run: Record
    space: Space
    architecture: Architecture | None = None
    predicted: Record | None = None  # from architecture.json
    choice: Record | None = None  # from architecture.json: the candidates it was chosen from
    front: list[Record] = field(default_factory=list)  # all networks of the search, where it found several
    lut: luts.Lut | None = None
    predictor: Record | None = None
    steps: list[Record] = field(default_factory=list)
    epochs: list[Record] = field(default_factory=list)
    training: list[Record] = field(default_factory=list)
    trained: Record | None = None  # train/result.json
    export: Record | None = None
    verification: Record | None = None
    refined: Record | None = None  # refine/result.json, of a run that `refine` wrote
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Whether any number behind this report was simulated instead of measured."""
        records = [self.verification, self.predictor]
        return any(bool(record and record.get("simulated")) for record in records) or bool(
            self.lut and self.lut.simulated
        )

    @property
    def target_ms(self) -> float | None:
        """What was verified, or else what was asked."""
        record = self.verification["target"] if self.verification else self.run.get("targets") or {}
        value = record.get("latency_ms")
        return float(value) if value is not None else None

    @property
    def predicted_ms(self) -> float | None:
        for record in ((self.verification or {}).get("predicted"), self.predicted):
            if record and record.get("latency_ms") is not None:
                return float(record["latency_ms"])
        return None

    @property
    def rows(self) -> list[NetworkRow]:
        """The network from input to output."""
        if self.architecture is None:
            return []
        chain = list(self.space.chain(self.architecture))
        places = ["stem", "first", *(f"layer {index}" for index in range(len(self.space.layers))), "head"]
        entries = [self.lut.entries.get(shaped.key) if self.lut else None for shaped in chain]
        total = self.table_sum_ms
        return [
            NetworkRow(
                place=place,
                operator=shaped.block,
                key=shaped.key,
                shape=_shape(shaped),
                identity=shaped.is_identity,
                latency_ms=entry.latency_ms if entry else None,
                spread=entry.spread if entry and math.isfinite(entry.spread) else None,
                share=entry.latency_ms / total if entry and total else None,
                unstable=bool(entry and entry.unstable),
            )
            for place, shaped, entry in zip(places, chain, entries, strict=True)
        ]

    @property
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
    """Read every part of a run directory that is there.

    Raises:
        RunError: the folder is no run directory; every other fault is told in `RunSnapshot.missing`.
    """
    run, space = read_run(folder)
    classes = (run.get("data") or {}).get("classes")
    if isinstance(classes, list) and len(classes) > 1:
        space = space.with_classes(len(classes))  # the head that is trained and deployed
    missing: dict[str, str] = {}
    name = shlex.quote(str(folder))

    def part(key: str, path: str, remedy: str, read: Callable[[Path], _T]) -> _T | None:
        file = folder / path
        if not file.exists():
            missing[key] = f"not available: {remedy}"
            return None
        try:
            return read(file)
        except (LightnasEdgeError, luts.LutError) as error:
            missing[key] = f"not available: {error}; {remedy}"
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            missing[key] = f"not available: {path} is damaged ({type(error).__name__}: {error}); {remedy}"
        return None

    origin = (run.get("refined_from") or {}).get("run")
    below = sorted(str(path.parent) for path in (folder / NETWORKS).glob("*/architecture.json"))
    several = bool(below) and not (folder / "architecture.json").exists()
    search = f"it is told in {origin}, which this run was refined from" if origin else _SEARCH
    found = f"each of the {len(below)} networks has its own, for example {below[0]}" if several else search
    architecture = part("network", "architecture.json", found, lambda path: read_architecture(path.parent, space))
    predicted = part("predicted", "architecture.json", search, _read_predicted) if architecture else None
    lut = part("lut", "lut.jsonl", "search with `--lut` or `--host`, so that the table is kept with the run", luts.read)
    predictor = part("predictor", "predictor.json", found, lambda path: read_json(path, kind="predictor"))
    refined = None
    if origin:
        refine = f"run `lightnas-edge refine` again, with --out {name}"
        refined = part("refined", "refine/result.json", refine, lambda path: read_json(path, kind="refined"))
    choice = part("choice", "architecture.json", search, _read_choice) if architecture else None
    lines = part("search", f"{_searched_in(run)}search/metrics.jsonl", search, _read_lines) or []
    if choice is not None:
        _speak_of(str(choice.get("budget")), lines, first=_is_of_first_board(folder, run), missing=missing)
    front = part("front", "front.json", search, _read_networks) if (folder / "front.json").exists() else None
    train = found if several else f"run `lightnas-edge train {name}`"
    training = part("training", "train/metrics.jsonl", train, _read_lines) or []
    trained = part("trained", "train/result.json", train, _read_object)
    export = part(
        "export",
        "export/export.json",
        found if several else f"run `lightnas-edge export {name}`",
        lambda path: read_json(path, kind="export"),
    )
    verify = found if several else f"run `lightnas-edge verify {name}`"
    verification = part("verification", "verify/verification.json", verify, _read_verification)
    steps = [] if "search" in missing else [line for line in lines if line.get("kind") == "step"]
    epochs = [line for line in lines if line.get("kind") == "epoch"]
    if not steps:
        missing.setdefault("search", f"not available: {search}")
    if not any(line.get("probabilities") for line in epochs):
        missing.setdefault("probabilities", missing.get("search", f"not available: {search}"))
    training = [line for line in training if line.get("kind") == "epoch"]
    if not training:
        missing.setdefault("training", f"not available: {train}")
    return RunSnapshot(
        folder=folder,
        run=run,
        space=space,
        architecture=architecture,
        predicted=predicted,
        choice=choice,
        front=front or [],
        lut=lut,
        predictor=predictor,
        steps=steps,
        epochs=epochs,
        training=training,
        trained=trained,
        export=export,
        verification=verification,
        refined=refined,
        missing=missing,
    )


def _read_predicted(path: Path) -> Record | None:
    """Older architectures hold a bare number; both forms are read."""
    predicted = json.loads(path.read_text(encoding="utf-8")).get("predicted")
    if isinstance(predicted, (int, float)):
        return {"latency_ms": float(predicted)}
    return predicted if isinstance(predicted, dict) else None


def _read_choice(path: Path) -> Record | None:
    choice = json.loads(path.read_text(encoding="utf-8")).get("choice")
    return choice if isinstance(choice, dict) else None


def _read_networks(path: Path) -> list[Record]:
    networks = read_json(path, kind="front")["networks"]
    return [row for row in networks if row["metrics"] and "supernet" in row]


def _searched_in(run: Record) -> str:
    """A network of a search that found several lies two folders below it; nowhere else is looked."""
    return "../../" if run.get("search") == "../.." else ""


def _is_of_first_board(folder: Path, run: Record) -> bool:
    """Whether the latencies in the search's metrics are of this run's board: they are of the first budget's."""
    path = folder / _searched_in(run) / "run.json"
    try:
        searched = read_json(path, kind="run")
    except LightnasEdgeError:
        return False
    asked = (searched.get("budgets") or [searched])[0]
    return bool(asked.get("fingerprint") == run.get("fingerprint"))


def _speak_of(budget: str, lines: list[Record], *, first: bool, missing: dict[str, str]) -> None:
    """Leave in the lines of a search what is about this budget: they are written for the first one.

    Epochs tell the multiplier and the most probable network of every budget that the search knew.
    """
    told = [line for line in lines if line.get("budgets")]
    if not told:
        return
    if next(iter(told[0]["budgets"][0].get("derived") or {}), None) != "latency_ms":
        for line in lines:  # the first of its limits, in another unit
            line["derived_ms"] = line["sampled_ms"] = None
    if told[0]["budgets"][0].get("name") == budget:
        return
    epochs = {line.get("epoch"): row for line in told for row in line["budgets"] if row.get("name") == budget}
    for line in lines:
        row = epochs.get(line.get("epoch")) or {}
        line["derived_ms"] = (row.get("derived") or {}).get("latency_ms")
        line["lambda"] = next(iter((row.get("lambda") or {}).values()), None)
        if not first:
            line["sampled_ms"] = None
        line.pop("probabilities", None)
    missing["probabilities"] = "not available: the search notes them for the first of its budgets"
    if not epochs:
        missing["search"] = "not available: this network was added when the search had ended"


def _read_verification(path: Path) -> Record:
    """With every field that the page relies on, or an error that names the one that is not there."""
    record = read_json(path, kind="verification")
    for outer, inner in (("target", ("latency_ms",)), ("measured", ("latency_ms", "p95_ms", "n", "samples_ms"))):
        for name in inner:
            if name not in record[outer]:
                raise KeyError(f"{outer}.{name}")
    if record["verdict"] not in ("met", "missed", "inconclusive"):
        raise ValueError(f"unknown verdict {record['verdict']!r}")
    for name in ("reason", "confidence"):
        record[name]
    return {"corrected": None, "drift": None, "predicted": None, "outputs": None, "accuracy": None, **record}


def _read_object(path: Path) -> Record:
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError("not a table of fields")
    return record


def _read_lines(path: Path) -> list[Record]:
    """The JSON lines that are whole; a torn last one belongs to a run that was cut short."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            lines.append(record)
    return lines


def _shape(shaped: ShapedOperator) -> str:
    side_in, side_out = shaped.input_size, shaped.output_size
    if shaped.block == "head":
        inner = " → ".join(map(str, shaped.hidden_channels))
        return f"{shaped.in_channels} × {side_in}² → {inner} → {shaped.out_channels}"
    return f"{shaped.in_channels} × {side_in}² → {shaped.out_channels} × {side_out}²"
