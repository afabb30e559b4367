"""One exported file of a run on a board: measured, compared with its references, predicted, judged.

`verify` does this for the file in the run, `precision` for a file of every precision.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime

import luts
from devices import Connection, Status
from lightnas_edge.deploy import evidence as parts
from lightnas_edge.deploy.compare import compare_outputs
from lightnas_edge.deploy.export import load_training_data, pytorch_outputs
from lightnas_edge.deploy.judge import UNITS, Evidence, Judgement, Predicted, judge
from lightnas_edge.deploy.statistics import CONFIDENCE
from lightnas_edge.errors import ExportError, FingerprintError, VerifyError
from lightnas_edge.files import sha256_of_file
from lightnas_edge.graph import Arithmetic
from lightnas_edge.measuring import Job, Settings, measure, network_key, sentinels, write_verify_job
from lightnas_edge.measuring.engines import why_impossible
from lightnas_edge.nn import Network
from lightnas_edge.predictor import Predictor
from lightnas_edge.predictor.counted import CountedPredictor
from lightnas_edge.records.deployment import (
    LATENCY_FIELDS,
    Agreement,
    ExportRecord,
    LatencyEstimate,
    VerificationRecord,
)
from lightnas_edge.runs import Run

ENGINE_FIELDS = ("backend", "provider", "batch", "threads", "cuda_graph", "streams", "board")  # of a fingerprint
MAX_DRIFT = 0.10  # beyond it the sentinels no longer represent the network: caches and clocks differ, not speed alone
SAME_FILE = "the same int8 file in ONNX Runtime on this machine, node by node"
Array = np.ndarray


@dataclass(frozen=True)
class ScoredImages:
    """Labelled validation images in whole batches, and what PyTorch computes for them in float32. None may be left."""

    inputs: Array  # (N, 3, S, S)
    labels: Array  # (N,)
    float_outputs: Array  # (N, classes)

    @classmethod
    def of(cls, run: Run, network: Network, data: str | Path | None, images: int, batch: int) -> ScoredImages:
        """At most `images`, a multiple of `batch`. Raises DataError, as `load_training_data`."""
        inputs, labels = load_training_data(run, data).validation_arrays(images)
        count = len(inputs) // batch * batch  # the engine takes whole batches
        inputs, labels = inputs[:count], labels[:count]
        outputs = pytorch_outputs(network, inputs) if count else np.zeros((0, network.space.classes), np.float32)
        return cls(inputs, labels, outputs)

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Measured:
    """The journal of one file, and the outputs of its engine; None where the board returned none that fit."""

    table: luts.Lut
    entry: luts.Entry
    outputs: Array | None  # (N, classes)


@dataclass(frozen=True)
class Predictions:
    """What predictors of the same engine say of a network. `unused`: in words, those of another one."""

    values: Mapping[str, Predicted] = field(default_factory=dict)  # by metric
    files: Mapping[str, Path] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    @property
    def latencies(self) -> dict[str, LatencyEstimate]:
        """By metric of latency."""
        return {
            metric: LatencyEstimate(latency_ms=value.value, interval_ms=value.interval)
            for metric, value in self.values.items()
            if metric in LATENCY_FIELDS and value.value > 0
        }


def arithmetic_of(record: ExportRecord) -> Arithmetic:
    """Precision and dialect of an exported file."""
    return Arithmetic(record.precision, None if record.quantisation is None else record.quantisation.dialect)


def require_engine(run: Run, record: ExportRecord, backend: str) -> None:
    """Raises VerifyError: the engine has no kernels of the file's precision, or takes int8 in another dialect."""
    again = f"`lightnas-edge export {shlex.quote(str(run.folder))}"
    why = why_impossible(backend, record.precision)
    if why is not None:
        raise VerifyError(f"the exported file is in {record.precision}; {why}", hint=f"{again} --precision PRECISION`")
    wanted = Arithmetic.for_backend(backend, record.precision)
    found = arithmetic_of(record)
    if found != wanted:
        raise VerifyError(
            f"the exported file is {found}, and {backend} takes {wanted}: an int8 file is written for one kind of runtime",
            hint=f"{again} --precision int8 --target {'onnxruntime' if wanted.dialect == 'ort' else 'tensorrt'}`",
        )


def write_export_job(
    folder: Path, run: Run, network: Network, content: bytes, settings: Settings, images: ScoredImages | None
) -> Job:
    """The file, the sentinels, and the images to score; None: no image."""
    inputs = None if images is None else images.inputs
    return write_verify_job(folder, network.space, settings, run.architecture, content, inputs=inputs)


def measure_export(
    run: Run,
    network: Network,
    content: bytes,
    connection: Connection,
    journal: Path,
    settings: Settings,
    images: ScoredImages,
    *,
    on_progress: Callable[[Status], None] | None = None,
    sudo_password: str | None = None,
) -> Measured:
    """Measure a file of the run's network; `journal` is continued where it exists.

    Raises:
        VerifyError: the board could not run the network; its journal is removed.
        DeviceError: the board is unreachable or busy.
    """
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as scratch:
        job = write_export_job(Path(scratch), run, network, content, settings, images)
        folder = Path(scratch) / "outputs"
        table = measure(
            connection, job, journal, fresh=not journal.exists(), on_progress=on_progress, outputs=folder,
            sudo_password=sudo_password,
        )  # fmt: skip
        key = network_key(run.architecture)
        path = folder / f"{key}.f32"
        outputs = outputs_of(path.read_bytes() if path.exists() else None, len(images))
    if key not in table.networks:
        failure = table.failed.get(key)
        reason, remedy = (failure.message, failure.remedy) if failure else ("the journal holds no visit of it", "")
        journal.unlink(missing_ok=True)  # or the failure would be resumed
        raise VerifyError(f"{connection.name} could not measure the network: {reason}", hint=remedy)
    return Measured(table, table.networks[key], outputs)


def outputs_of(content: bytes | None, images: int) -> Array | None:
    """(images, classes), or None where the board returned nothing that fits."""
    if not images or not content or len(content) % (4 * images):
        return None
    return np.frombuffer(content, dtype="<f4").reshape(images, -1)


def predictions(
    run: Run,
    predictors: Mapping[Path, Predictor],
    arithmetic: Arithmetic,
    *,
    measured: Mapping[str, object] | None = None,
    confidence: float = CONFIDENCE,
) -> Predictions:
    """What predictors say about a network in this arithmetic; a later one replaces an earlier one of its metric.

    Args:
        measured: fingerprint of the measurement; those of another engine or board are not used. None: of any.
    """
    one_hot = run.architecture.one_hot(run.space)[None]
    values, used, unused = {}, {}, []
    for path, predictor in predictors.items():
        if predictor.metric not in UNITS:
            continue
        found = arithmetic_in_words(predictor.fingerprint)
        differing = [] if found == str(arithmetic) else [found]
        differing += _engine_differences({"streams": 1, **predictor.fingerprint}, measured or {})
        if differing:
            unused.append(f"{path.name} ({'; '.join(differing)})")
            continue
        low, high = predictor.interval(one_hot, confidence)
        values[predictor.metric] = Predicted(float(predictor.predict(one_hot)[0]), (float(low[0]), float(high[0])))
        used[predictor.metric] = path
    return Predictions(values, used, tuple(unused))


def judge_export(
    run: Run,
    export: ExportRecord,
    content: bytes,
    measured: Measured,
    images: ScoredImages,
    predicted: Predictions,
    asked: Mapping[str, float],
    settings: Settings,
    host: str,
    *,
    confidence: float = CONFIDENCE,
    command: str | None = None,
) -> tuple[Judgement, VerificationRecord]:
    """The verdict about a measured file, and its record.

    The outputs of an int8 file are compared with those of the same file in ONNX Runtime on this machine: does the engine
    compute what the file says? What rounding costs is the difference from PyTorch in float32, in accuracy on the same images.

    Args:
        command: that measured, without its number of rounds.
    """
    quoted = shlex.quote(str(run.folder))
    named = f"{quoted} --host {shlex.quote(host)}"
    named += f" --streams {settings.streams}" if settings.streams > 1 else ""
    command = command or f"lightnas-edge verify {named}"
    table, entry = measured.table, replace(measured.entry, run=named)
    agreement, float_agreement, reference = _agreements(export, content, measured.outputs, images)
    evidence = _evidence(run, table, entry, predicted.values, confidence, settings.batch)
    if measured.outputs is not None:
        accuracy = parts.accuracy(
            images.labels, measured.outputs, images.float_outputs, confidence, inputs=images.inputs
        )
        evidence = replace(evidence, accuracy=accuracy)
    judgement = judge(
        asked, evidence, agreement=agreement, command=command,
        export_again="measure with another precision, or export again for this runtime: "
        f"`lightnas-edge export {quoted} --target RUNTIME`",
    )  # fmt: skip
    arithmetic = arithmetic_of(export)
    of_run = arithmetic_in_words(run.record.fingerprint)
    in_streams = f" and {settings.streams} streams" if settings.streams > 1 else ""
    lut, drift, warnings = None, None, list[str]()
    if of_run == str(arithmetic) and (run.record.fingerprint.get("streams") or 1) == settings.streams:
        lut = run.table
        drift, warnings = _drift(run, lut, table)
    warnings += _about_drift(drift)
    if predicted.unused and not predicted.values:
        warnings.append(
            f"there is no prediction in {arithmetic}{in_streams}: {', '.join(predicted.unused)} predicts something else and is not used"
        )
    warnings += parts.about_fallbacks(entry.fell_back, export.precision)
    again = f"lightnas-edge verify {named}"  # of the warnings of an entry
    warnings += [
        f"{entry.key}: {warning.replace(again, command)}" for warning in parts.one_of_each_kind(entry.warnings)
    ]
    if agreement is None:
        warnings.append("the outputs were not compared: the board returned none")
    latencies = predicted.latencies
    compared = next((metric for metric in LATENCY_FIELDS if metric in latencies), None)
    protocol = settings.protocol
    record = VerificationRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        host=host,
        model_sha256=export.sha256,
        weights_sha256=export.weights_sha256,
        data_sha256=export.data_sha256,
        predictor_sha256=None if compared is None else sha256_of_file(predicted.files[compared]),
        table_sha256=None if lut is None else sha256_of_file(lut),
        verdict=judgement.verdict,
        reason=judgement.reason,
        remedy=judgement.remedy,
        budgets=judgement.budgets,
        confidence=confidence,
        measured=evidence.measured,
        comparison=None
        if compared is None
        else parts.comparison(entry, compared, evidence.measured, latencies[compared], drift, confidence),
        sustained=parts.sustained(table.sustained, protocol.sustained_s) if protocol.sustained_s else None,
        outputs=agreement,
        reference=reference,
        float_outputs=float_agreement,
        accuracy=evidence.accuracy,
        energy=evidence.energy,
        peak_memory_mb=evidence.peak_memory_mb,
        params_m=evidence.params_m,
        macs_m=evidence.macs_m,
        batch=settings.batch,
        precision=settings.precision,
        ran_in=entry.ran_in,
        fell_back=entry.fell_back,
        engine_bytes=entry.engine_bytes,
        fingerprint=table.fingerprint,
        simulated=table.simulated,
        warnings=tuple(warnings),
    )
    return judgement, record


def why_not_measured(table: luts.Lut, key: str) -> dict[str, str]:
    """Metric -> the reason why a board did not measure it, and metric.remedy -> what to do."""
    energy = table.why_unknown("energy_mj", [key]).strip().replace("\n", "; ")
    memory = "this runtime does not report the memory of an engine"
    reasons = {"energy_mj": energy, "net_energy_mj": energy, "peak_memory_mb": memory}
    reasons["accuracy"] = reasons["accuracy_drop"] = "no labelled images were scored"
    return {
        **{metric: reason for metric, reason in reasons.items() if reason},
        **{f"{metric}.remedy": hint for metric, hint in luts.HOW_TO_MEASURE.items() if metric == "peak_memory_mb"},
    }


def onnxruntime_outputs(content: bytes, inputs: Array, batch: int) -> Array:
    """(N, classes) of what a file says, on this machine: its nodes one by one in float, without kernels for 8 bits.

    N is a multiple of the batch size.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # without its remarks on constants that no node uses
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    chunks = [inputs[start : start + batch] for start in range(0, len(inputs), batch)]
    return np.concatenate([session.run(["output"], {"input": chunk})[0] for chunk in chunks])


def _agreements(
    export: ExportRecord, content: bytes, outputs: Array | None, images: ScoredImages
) -> tuple[Agreement | None, Agreement | None, str | None]:
    """With the reference, with PyTorch in float32 where that is another one, and what the reference is."""
    if outputs is None:
        return None, None, None
    floats = compare_outputs(images.float_outputs, outputs)
    if export.precision != "int8":
        return floats, None, "PyTorch"
    return compare_outputs(onnxruntime_outputs(content, images.inputs, export.batch), outputs), floats, SAME_FILE


def _evidence(
    run: Run, table: luts.Lut, entry: luts.Entry, predicted: Mapping[str, Predicted], confidence: float, batch: int
) -> Evidence:
    """Everything but the accuracy, which needs images."""
    one_hot, classes = run.architecture.one_hot(run.space)[None], len(run.data.classes)
    memory = entry.quantity("peak_memory_mb")
    return Evidence(
        measured=parts.measured_latency(entry, confidence, batch=batch),
        energy=parts.energy(entry),
        peak_memory_mb=None if memory is None else memory.value,
        params_m=float(CountedPredictor(run.space, "params_m", classes).predict(one_hot)[0]),
        macs_m=float(CountedPredictor(run.space, "macs_m", classes).predict(one_hot)[0]),
        predicted=predicted,
        why_not=why_not_measured(table, entry.key),
        failed=entry.failed_visits,
    )


def arithmetic_in_words(fingerprint: Mapping[str, object]) -> str:
    """`int8 ort`: of a table or a predictor. One that does not say its precision is of float32."""
    precision = str(fingerprint.get("precision") or "fp32")
    try:
        return str(Arithmetic.for_backend(str(fingerprint.get("backend")), precision))
    except ExportError:
        return precision


def _engine_differences(predicted: Mapping[str, object], measured: Mapping[str, object]) -> list[str]:
    """`batch 8, not 1` for every field of the engine and the board that both name with another value."""
    both = (name for name in ENGINE_FIELDS if name in predicted and name in measured)
    return [f"{name} {predicted[name]!r}, not {measured[name]!r}" for name in both if predicted[name] != measured[name]]


def _about_drift(drift: luts.Ratio | None) -> list[str]:
    """A machine in another state than during profiling says little about the prediction. The verdict does not use it."""
    if drift is None or abs(drift.value - 1) <= MAX_DRIFT:
        return []
    return [
        f"the machine runs {100 * abs(drift.value - 1):.1f} % {'slower' if drift.value > 1 else 'faster'} than in the reference "
        f"session of the LUT, beyond {100 * MAX_DRIFT:.0f} %: the verdict holds for the machine as it is, and prediction and "
        "measurement cannot be compared well; restore its power mode and clocks, or re-profile the LUT"
    ]


def _drift(run: Run, path: Path | None, table: luts.Lut) -> tuple[luts.Ratio | None, list[str]]:
    """The drift since the run's table at `path` was measured, or None and why."""
    if path is None:
        return None, [
            "the run holds no table, so drift since it was measured is unknown and the median is judged as it is"
        ]
    try:
        return luts.drift_ratio(luts.read(path), table, [shaped.key for shaped in sentinels(run.space)]), []
    except FingerprintError as error:
        return None, [f"verified on another board or in another state than the table's, so drift is unknown: {error}"]
    except luts.LutMissError as error:
        return None, [f"drift is unknown: {error}"]
