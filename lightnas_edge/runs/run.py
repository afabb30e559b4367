"""`Run`: the only reader and the only writer of a run directory. Its files: docs/formats.md.

Every record names what it was made from by hash, and reading one checks that chain:

    run.json <- architecture.json <- train/result.json <- export/export.json <- verify/verification.json
                predictor, table     weights              ONNX file             journal
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from lightnas_edge._version import __version__
from lightnas_edge.errors import RunError, StaleRecordError
from lightnas_edge.files import sha256_of, sha256_of_file, write_atomic
from lightnas_edge.records.base import read_bounded
from lightnas_edge.records.deployment import ExportRecord, TrainingRecord, VerificationRecord
from lightnas_edge.records.differences import changes
from lightnas_edge.records.fleet import FLEET_RECORD, FleetRecord
from lightnas_edge.records.html_table import html_table
from lightnas_edge.records.precision import PrecisionRecord
from lightnas_edge.records.quantisation import CalibrationRecord
from lightnas_edge.records.run import (
    ChoiceRecord,
    DataRecord,
    FoundNetwork,
    FrontRecord,
    PredictedRecord,
    RefinedRecord,
    RunRecord,
    SearchSources,
)
from lightnas_edge.runs.lock import LOCK, write_lock
from lightnas_edge.space import Architecture, Space

NETWORKS = "networks"  # folder of the runs of a search that found several networks
_SEARCH = "run the same `lightnas-edge search` again; it continues to its end"
_MAX_ONNX_BYTES = 2**31  # the limit of the format


@dataclass(frozen=True)
class Weights:
    """The trained weights and the record of the training that made them."""

    record: TrainingRecord
    path: Path


@dataclass(frozen=True)
class Export:
    """The ONNX file and its record."""

    record: ExportRecord
    path: Path
    content: bytes
    calibration: CalibrationRecord | None = None  # of an int8 file
    warnings: tuple[str, ...] = ()  # about the images of a calibration; known when it is made


class Run:
    """One run directory. Every property reads its file again and checks that it belongs to the files it was made from.

    Raises of every property: RunError where the part is missing or damaged, and its subclass StaleRecordError where
    the part was made from other files than those in the directory.
    """

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder = Path(folder)
        self.record = record
        self.space = Space.from_json(record.space, source=str(self.folder / "run.json"))

    def __repr__(self) -> str:
        limits = ", ".join(f"{metric} {target:g}" for metric, target in self.targets.items())
        return f"<Run {self.folder}: {self.space.name}, {limits or 'several budgets'}>"

    def _repr_html_(self) -> str:
        parts = [
            ("network", self.folder / "architecture.json"), ("weights", self.train_folder / "weights.safetensors"),
            ("ONNX file", self.folder / "export" / "export.json"), ("verification", self.verify_folder / "verification.json"),
            ("report", self.folder / "report.html"),
        ]  # fmt: skip
        rows = [(name, path if path.exists() else "not yet") for name, path in parts]
        return html_table(repr(self).strip("<>"), (), rows)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """An existing run directory.

        Raises:
            RunError: there is none, or run.json is damaged; all errors in one message.
            SpaceError: its space is none.
        """
        folder = Path(folder)
        record = RunRecord.load(
            folder / "run.json", error=RunError, remedy="`lightnas-edge search` writes a run directory"
        )
        return cls(folder, record)

    @classmethod
    def begin(cls, folder: str | Path, question: Mapping[str, Any], *, fresh: bool = False) -> tuple[Self, bool]:
        """Begin a run directory, or resume the one in `folder`. Call it within `write_lock(folder, ...)`.

        Args:
            question: the fields of a RunRecord but `created` and `version`.
            fresh: move an existing run to `.old` and begin again.

        Returns:
            The run, and whether an earlier one under the same question is resumed.

        Raises:
            RunError: the directory holds another search; the fields that differ are named.
        """
        folder = Path(folder)
        record = _record(question)
        if fresh and (folder / "run.json").exists():
            move_aside(folder)
        if (folder / "run.json").exists():
            existing = cls.open(folder)
            differing = [
                line
                for line in changes(_question(existing.record), _question(record))
                if not line.startswith("  host:")  # how the board is reached is no part of the question
            ]
            if differing:
                raise RunError(
                    f"{folder} holds another search\n" + "\n".join(differing),
                    hint="choose another --out, or --fresh to begin again (the earlier run is kept as .old)",
                )
            return existing, True
        if folder.exists() and any(entry.name != LOCK for entry in folder.iterdir()):
            raise RunError(f"{folder} is not empty and holds no run", hint="choose another --out")
        run = cls(folder, record)
        record.save(folder / "run.json")
        return run, False

    @classmethod
    def write(cls, folder: str | Path, question: Mapping[str, Any]) -> Self:
        """run.json, in place of an earlier one: for a run of which every part is written again after it."""
        run = cls(Path(folder), _record(question))
        run.record.save(run.folder / "run.json")
        return run

    def writing(self, purpose: str) -> AbstractContextManager[None]:
        """Hold the lock of the directory; every writer does. Raises RunError where another process holds it."""
        return write_lock(self.folder, purpose)

    # -- the question -------------------------------------------------------------------------------------

    @property
    def data(self) -> DataRecord:
        """The images of the search."""
        return self.record.data

    @property
    def targets(self) -> dict[str, float]:
        """Metric -> budget, in the metric's unit; empty where the search had several budgets."""
        return dict(self.record.targets)

    # -- what was found -----------------------------------------------------------------------------------

    @property
    def found(self) -> FoundNetwork:
        """architecture.json."""
        path = self.folder / "architecture.json"
        if not path.exists():
            below = [str(run.folder) for run in self.networks if (run.folder / "architecture.json").exists()]
            if below:
                raise RunError(
                    f"{self.folder} holds {len(below)} networks: name one of them, or add --best or --all",
                    hint="\n".join(below),
                )
            raise RunError(f"{self.folder} holds no network yet", hint=f"the search has not ended: {_SEARCH}")
        record = FoundNetwork.load(path, error=RunError, remedy=_SEARCH)
        if record.made_from.run_sha256 != self.record.sha256:
            raise StaleRecordError(
                f"{path} belongs to another run: it answers another run.json than the one in this folder",
                hint=f"copy no files between runs; {_SEARCH}",
            )
        return record

    @property
    def architecture(self) -> Architecture:
        """The network that was found. Raises ArchitectureError where it does not fit the space."""
        record = self.found
        return Architecture.from_json(record.to_json(), self.space)

    @property
    def networks(self) -> list[Run]:
        """The runs of a search that found several networks, by name."""
        return [Run.open(path.parent) for path in sorted((self.folder / NETWORKS).glob("*/run.json"))]

    @property
    def with_network(self) -> list[Run]:
        """This run and those below it that hold a network, in the order of their names.

        Raises:
            RunError: none does.
        """
        found = [run for run in [self, *self.networks] if (run.folder / "architecture.json").exists()]
        if not found:
            raise RunError(f"{self.folder} holds no network yet", hint=f"the search has not ended: {_SEARCH}")
        return found

    @property
    def front(self) -> FrontRecord | None:
        """All networks of the search; None where it found one."""
        path = self.folder / "front.json"
        return FrontRecord.load(path, error=RunError, remedy=_SEARCH) if path.exists() else None

    @property
    def refined(self) -> RefinedRecord:
        """The evidence of a refined run."""
        remedy = f"run `lightnas-edge refine RUN --out {shlex.quote(str(self.folder))}` again"
        return RefinedRecord.load(self.folder / "refine" / "result.json", error=RunError, remedy=remedy)

    @property
    def predictors(self) -> dict[str, Path]:
        """Metric -> predictor file, those that the network was chosen with."""
        paths = {_metric_of(path): path for path in sorted(self.folder.glob("predictor*.json"))}
        if (self.folder / "architecture.json").exists():
            for metric, expected in self.found.made_from.predictor_sha256.items():
                path = self.folder / predictor_name(metric)
                if not path.exists():
                    raise RunError(f"{path} is missing", hint=_SEARCH)
                if sha256_of_file(path) != expected:
                    raise StaleRecordError(
                        f"{path} has changed since the network was chosen with it",
                        hint=f"put the earlier predictor back, or {_SEARCH}",
                    )
        return paths

    @property
    def table(self) -> Path | None:
        """The look-up table behind the predictor; None where the run holds none."""
        path = self.folder / "lut.jsonl"
        if not path.exists():
            return None
        if (self.folder / "architecture.json").exists():
            expected = self.found.made_from.table_sha256
            if expected is not None and sha256_of_file(path) != expected:
                raise StaleRecordError(
                    f"{path} has changed since the network was chosen", hint="put the earlier table back"
                )
        return path

    # -- what was made of it ------------------------------------------------------------------------------

    @property
    def weights(self) -> Weights:
        """The weights of the network that was found."""
        remedy = f"`lightnas-edge train {self._quoted}` trains the network"
        architecture = self.architecture  # first: of a search with several networks, one has to be named
        record = TrainingRecord.load(self.train_folder / "result.json", error=RunError, remedy=remedy)
        path = self.train_folder / "weights.safetensors"
        again = f"`lightnas-edge train {self._quoted} --fresh` trains this network"
        names = tuple(operator.name for operator in architecture.operators)
        space = self.space.with_classes(len(record.data.classes))
        if record.operators != names or record.space_sha256 != space.sha256:
            raise StaleRecordError(f"the weights in {self.train_folder} are of another architecture", hint=again)
        if not path.exists():
            raise RunError(f"{path} is missing", hint=again)
        if sha256_of_file(path) != record.weights_sha256:
            raise StaleRecordError(f"{path} is not the file that result.json describes", hint=again)
        return Weights(record, path)

    @property
    def quantised(self) -> Weights | None:
        """The weights that were trained with rounding to 8 bits, batch norm folded in; None where there are none.

        Raises:
            StaleRecordError: also where they were trained from other float weights than those of the run.
        """
        folder = self.quantised_folder
        if not (folder / "result.json").exists():
            return None
        again = f"`lightnas-edge train {self._quoted} --quantize int8 --fresh` trains them again"
        record = TrainingRecord.load(folder / "result.json", error=RunError, remedy=again)
        path = folder / "weights.safetensors"
        floats = self.weights.record.weights_sha256
        if record.quantised is None or record.quantised.float_weights_sha256 != floats:
            raise StaleRecordError(f"the int8 weights in {folder} were trained from other float weights", hint=again)
        if not path.exists():
            raise RunError(f"{path} is missing", hint=again)
        if sha256_of_file(path) != record.weights_sha256:
            raise StaleRecordError(f"{path} is not the file that result.json describes", hint=again)
        return Weights(record, path)

    @property
    def export(self) -> Export:
        """The ONNX file of these weights."""
        remedy = f"`lightnas-edge export {self._quoted}` writes it"
        folder = self.folder / "export"
        record = ExportRecord.load(folder / "export.json", error=RunError, remedy=remedy)
        if record.weights_sha256 != self.weights.record.weights_sha256:
            raise StaleRecordError(f"the export in {folder} is older than the weights", hint=remedy)
        path = folder / record.model
        content = read_bounded(path, error=RunError, remedy=remedy, max_bytes=_MAX_ONNX_BYTES)
        if sha256_of(content) != record.sha256:
            raise StaleRecordError(
                f"{path} is not the file that export.json describes: it has changed since", hint=remedy
            )
        calibration = self._calibration_of(record, remedy)
        if record.quantisation is not None and record.quantisation.fine_tuned:
            self._require_fine_tuned(calibration, str(path), remedy)
        return Export(record, path, content, calibration)

    def _require_fine_tuned(self, calibration: CalibrationRecord | None, made: str, remedy: str) -> None:
        """Raises StaleRecordError where the int8 weights were trained again since."""
        found = self.quantised
        if found is None or calibration is None or found.record.weights_sha256 != calibration.weights_sha256:
            raise StaleRecordError(
                f"{made} was made from other fine-tuned weights than those in {self.quantised_folder}", hint=remedy
            )

    def _calibration_of(self, export: ExportRecord, remedy: str) -> CalibrationRecord | None:
        if export.quantisation is None:
            return None
        path = self.folder / "export" / "calibration.json"
        record = CalibrationRecord.load(path, error=RunError, remedy=remedy)
        if record.sha256 != export.quantisation.calibration_sha256:
            raise StaleRecordError(f"{path} is not the calibration that export.json describes", hint=remedy)
        return record

    @property
    def verification(self) -> VerificationRecord:
        """The last finished verification of this export."""
        remedy = f"`lightnas-edge verify {self._quoted}` measures the network"
        path = self.folder / "verify" / "verification.json"
        record = VerificationRecord.load(path, error=RunError, remedy=remedy)
        export = self.export.record
        if record.model_sha256 != export.sha256:
            raise StaleRecordError(f"{path} is about another export than {export.model}", hint=remedy)
        return record

    @property
    def fleet(self) -> FleetRecord | None:
        """What verified units say about all units of their model, for the last verification; None: they say nothing, or none was verified."""
        path = self.verify_folder / FLEET_RECORD
        if not path.exists():
            return None
        remedy = f"`lightnas-edge verify {self._quoted} --host HOST,HOST,...` measures the network on several units"
        record = FleetRecord.load(path, error=RunError, remedy=remedy)
        if not record.guarantees:
            return None
        if record.model_sha256 is None:
            raise RunError(
                f"{path} is of an earlier version and does not say which file its units measured", hint=remedy
            )
        if not record.is_about(self.verification):
            raise StaleRecordError(f"{path} is about another file or state than the last verification", hint=remedy)
        return record

    @property
    def precision(self) -> PrecisionRecord:
        """The network in every precision of a board, by the last finished `precision`."""
        remedy = f"`lightnas-edge precision {self._quoted} --host HOST` measures the network in every precision"
        path = self.precision_folder / "precision.json"
        record = PrecisionRecord.load(path, error=RunError, remedy=remedy)
        if record.weights_sha256 != self.weights.record.weights_sha256:
            raise StaleRecordError(f"{path} is about other weights than those in {self.train_folder}", hint=remedy)
        for row in record.rows:
            if row.fine_tuned:
                ranges = self.precision_folder / row.precision / "calibration.json"
                calibration = CalibrationRecord.load(ranges, error=RunError, remedy=remedy)
                self._require_fine_tuned(calibration, str(path), remedy)
        return record

    @property
    def precision_folder(self) -> Path:
        """precision.json, and a folder for every precision: file, calibration, journal."""
        return self.folder / "precision"

    @property
    def search_folder(self) -> Path:
        """Metrics and checkpoint of the search."""
        return self.folder / "search"

    @property
    def search_checkpoint(self) -> Path | None:
        """Of the search that found this network, with its supernet; None where there is no such file."""
        search = self.folder if self.record.search is None else self.folder / self.record.search
        path = search / "search" / "checkpoint.pt"
        return path if path.exists() else None

    @property
    def train_folder(self) -> Path:
        """Metrics, checkpoint and weights of the training."""
        return self.folder / "train"

    @property
    def quantised_folder(self) -> Path:
        """As `train_folder`, of a training with rounding to 8 bits."""
        return self.folder / "train-int8"

    @property
    def verify_folder(self) -> Path:
        """The journal of the last finished verification, and that of an interrupted one."""
        return self.folder / "verify"

    # -- writing ------------------------------------------------------------------------------------------

    def save_predictor(self, metric: str, content: str) -> Path:
        path = self.folder / predictor_name(metric)
        write_atomic(path, content)
        return path

    def save_table(self, content: bytes) -> Path:
        path = self.folder / "lut.jsonl"
        write_atomic(path, content)
        return path

    def save_found(self, architecture: Architecture, predicted: PredictedRecord, choice: ChoiceRecord | None) -> None:
        """architecture.json, with the hashes of the predictors and the table in the directory."""
        table = self.folder / "lut.jsonl"
        sources = SearchSources(
            run_sha256=self.record.sha256,
            data_sha256=self.record.data.sha256,
            predictor_sha256={
                _metric_of(path): sha256_of_file(path) for path in sorted(self.folder.glob("predictor*.json"))
            },
            table_sha256=sha256_of_file(table) if table.exists() else None,
        )
        FoundNetwork(
            space=architecture.space,
            operators=tuple(operator.name for operator in architecture.operators),
            predicted=predicted,
            choice=choice,
            made_from=sources,
        ).save(self.folder / "architecture.json")

    def save_front(self, record: FrontRecord) -> None:
        record.save(self.folder / "front.json")

    def save_refined(self, record: RefinedRecord) -> None:
        record.save(self.folder / "refine" / "result.json")

    def save_training(self, record: TrainingRecord, weights: bytes) -> Path:
        """The weights first: a power cut between the files leaves weights that no record describes."""
        if sha256_of(weights) != record.weights_sha256:
            raise ValueError("the record describes other weights")
        folder = self.train_folder if record.quantised is None else self.quantised_folder
        path = folder / "weights.safetensors"
        write_atomic(path, weights, durable=True)
        record.save(folder / "result.json")
        return path

    def save_export(self, record: ExportRecord, model: bytes, calibration: CalibrationRecord | None = None) -> Path:
        """The file, its record, and the ranges of an int8 one; those of an earlier one are removed."""
        path = self.folder / "export" / record.model
        write_atomic(path, model)
        if calibration is None:
            path.with_name("calibration.json").unlink(missing_ok=True)
        else:
            calibration.save(path.with_name("calibration.json"))
        record.save(path.with_name("export.json"))
        return path

    def save_verification(self, record: VerificationRecord, journal: Path) -> Path:
        """The record, and the journal it was computed from in place of that of the verification before."""
        os.replace(journal, self.verify_folder / "journal.jsonl")
        path = self.verify_folder / "verification.json"
        record.save(path)
        return path

    def save_precision(self, record: PrecisionRecord) -> Path:
        path = self.precision_folder / "precision.json"
        record.save(path)
        return path

    @property
    def _quoted(self) -> str:
        return shlex.quote(str(self.folder))


def predictor_name(metric: str) -> str:
    """Of the file in a run: `predictor.json` for the latency, `predictor-METRIC.json` for every other metric."""
    return "predictor.json" if metric == "latency_ms" else f"predictor-{metric}.json"


def _metric_of(path: Path) -> str:
    return path.stem.removeprefix("predictor").removeprefix("-") or "latency_ms"


def _record(question: Mapping[str, Any]) -> RunRecord:
    return RunRecord(created=datetime.now(UTC).isoformat(timespec="seconds"), version=__version__, **question)


def _question(record: RunRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"kind", "schema_", "created", "version"})


def move_aside(folder: Path) -> None:
    """Everything but the lock, which this process holds, to `.old` in place of what was there."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    old.mkdir()
    for entry in folder.iterdir():
        if entry.name != LOCK:
            os.replace(entry, old / entry.name)
