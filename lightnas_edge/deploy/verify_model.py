"""Any ONNX file on the board: measured, its outputs compared, and a verdict. No run directory is needed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import luts
from devices import Connection, Status
from lightnas_edge.deploy import evidence as parts
from lightnas_edge.deploy.judge import Evidence, Judgement, check_targets, judge
from lightnas_edge.deploy.profile_model import convolution_groups, timed_layers
from lightnas_edge.deploy.references import Arrays, Reference, compare
from lightnas_edge.deploy.statistics import CONFIDENCE
from lightnas_edge.deploy.turns import unfinished_journal
from lightnas_edge.deploy.verify import Verification
from lightnas_edge.deploy.verify_export import why_not_measured
from lightnas_edge.errors import ModelError, RecordError, VerifyError
from lightnas_edge.measuring import Settings, measure, model_key, write_model_job
from lightnas_edge.models import Model, inputs_bytes, outputs_from_bytes
from lightnas_edge.profiles import profile_record
from lightnas_edge.records.deployment import AccuracyRecord, VerificationRecord
from lightnas_edge.records.model_profile import LayerProfileFile, ModelProfileRecord

RECORD = "verification.json"


@dataclass(frozen=True)
class VerifiedModel(Verification):
    """With the times of its layers, where the board's runtime times them."""

    profile: ModelProfileRecord | None = None


def verify_model(
    model: Model,
    connection: Connection,
    folder: Path,
    targets: Mapping[str, float],
    settings: Settings,
    reference: Reference,
    *,
    confidence: float = CONFIDENCE,
    on_progress: Callable[[Status], None] | None = None,
    sudo_password: str | None = None,
    command: str = "lightnas-edge verify --model FILE",
) -> VerifiedModel:
    """Measure a model on the board of the connection and judge it; writes verification.json and journal.jsonl to `folder`.

    The layers are timed after everything that is judged, in a run of their own.

    An interrupted verification of the same model is resumed; the last finished one stays until this one is finished.

    Args:
        targets: metric -> budget, at least one.
        reference: inputs to run on the board, and the outputs that are expected.
        command: that measures it, without its number of rounds; remedies repeat it.

    Raises:
        BudgetError: no budget, or one that is no positive number.
        VerifyError: the board could not run the model.
        DeviceError: the board is unreachable or busy.
    """
    check_targets(targets)
    folder.mkdir(parents=True, exist_ok=True)
    journal = unfinished_journal(folder, model.facts.sha256, connection.name, settings)
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as scratch:
        job = write_model_job(
            Path(scratch) / "job", settings, model.content, model.facts.to_json(),
            inputs=inputs_bytes(model, reference.inputs), runs=reference.runs, layer_profile=True,
        )  # fmt: skip
        (key,) = job.keys
        outputs_folder = Path(scratch) / "outputs"
        table = measure(
            connection, job, journal, fresh=not journal.exists(), on_progress=on_progress, outputs=outputs_folder,
            sudo_password=sudo_password,
        )  # fmt: skip
        output = outputs_folder / f"{key}.f32"
        returned = output.read_bytes() if output.exists() else None
        layers, why_no_layers = _layers(outputs_folder, key)

    if key not in table.networks:
        failure = table.failed.get(key)
        reason, remedy = (failure.message, failure.remedy) if failure else ("the journal holds no visit of it", "")
        journal.unlink(missing_ok=True)  # or the failure would be resumed
        raise VerifyError(f"{connection.name} could not measure {model.path.name}: {reason}", hint=remedy)
    judgement, record = judge_model(
        model, table, returned, reference, targets, settings, connection.name, confidence=confidence, command=command,
        also=(why_no_layers,) if why_no_layers else (),
    )  # fmt: skip
    journal.replace(folder / "journal.jsonl")
    path = folder / RECORD
    record.save(path)
    profile = None
    if layers is not None:
        profile = profile_record(
            layers, record.measured, model=model.facts, host=connection.name,
            source="simulated" if table.simulated else settings.backend, precision=settings.precision,
            fingerprint=table.fingerprint, simulated=table.simulated, groups=convolution_groups(model),
            energy=record.energy, peak_memory_mb=record.peak_memory_mb, warnings=(),
        )  # fmt: skip
    return VerifiedModel(judgement, record, path, profile)


def judge_model(
    model: Model,
    table: luts.Lut,
    returned: bytes | None,
    reference: Reference,
    targets: Mapping[str, float],
    settings: Settings,
    host: str,
    *,
    floats: Reference | None = None,
    confidence: float = CONFIDENCE,
    command: str = "lightnas-edge verify --model FILE",
    also: Sequence[str] = (),
) -> tuple[Judgement, VerificationRecord]:
    """The verdict about a model file that was measured, and its record.

    Args:
        table: holds the model.
        returned: all outputs of the board for the inputs of the reference; None where it returned none.
        floats: the same inputs with the outputs of the float32 file, where the model is a rounded one.
        also: further warnings.
    """
    key = model_key(model.content)
    entry = replace(table.networks[key], run=command)
    again = f"lightnas-edge verify {command}"  # of the warnings of an entry
    warnings = [
        *parts.about_fallbacks(entry.fell_back, settings.precision),
        *(warning.replace(again, command) for warning in parts.one_of_each_kind(entry.warnings)),
        *also,
    ]
    outputs, agreement, float_agreement = None, None, None
    if returned is None:
        warnings.append("the outputs were not compared: the board returned none")
    else:
        try:
            outputs = outputs_from_bytes(model, returned, reference.runs)
            agreement = compare(reference, outputs)
            float_agreement = None if floats is None else compare(floats, outputs)
        except ModelError as error:
            warnings.append(f"the outputs were not compared: {error}")
    memory = entry.quantity("peak_memory_mb")
    evidence = Evidence(
        measured=parts.measured_latency(entry, confidence, batch=model.facts.batch),
        energy=parts.energy(entry),
        accuracy=_accuracy(floats or reference, outputs, confidence),
        peak_memory_mb=None if memory is None else memory.value,
        params_m=None if model.facts.parameters is None else model.facts.parameters / 1e6,
        macs_m=None if model.facts.macs is None else model.facts.macs / (model.facts.batch or 1) / 1e6,
        why_not={
            **why_not_measured(table, key),
            "macs_m": model.facts.macs_unknown or "they cannot be counted",
            "params_m": "the parameters of the model cannot be counted",
        },
        failed=entry.failed_visits,
    )
    judgement = judge(
        targets, evidence, agreement=agreement, command=command,
        export_again="measure with another precision, or export the model again for this runtime",
    )  # fmt: skip
    sustained_s = settings.protocol.sustained_s
    record = VerificationRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        host=host,
        model=model.facts,
        model_sha256=model.facts.sha256,
        weights_sha256=None,
        data_sha256=None,
        predictor_sha256=None,
        table_sha256=None,
        verdict=judgement.verdict,
        reason=judgement.reason,
        remedy=judgement.remedy,
        budgets=judgement.budgets,
        confidence=confidence,
        measured=evidence.measured,
        comparison=None,
        sustained=parts.sustained(table.sustained, sustained_s) if sustained_s else None,
        outputs=agreement,
        reference=None if agreement is None else reference.name,
        float_outputs=float_agreement,
        accuracy=evidence.accuracy,
        energy=evidence.energy,
        peak_memory_mb=evidence.peak_memory_mb,
        params_m=evidence.params_m,
        macs_m=evidence.macs_m,
        batch=model.facts.batch,
        precision=settings.precision,
        ran_in=entry.ran_in,
        fell_back=entry.fell_back,
        engine_bytes=entry.engine_bytes,
        fingerprint=table.fingerprint,
        simulated=table.simulated,
        warnings=tuple(warnings),
    )
    return judgement, record


def _layers(outputs: Path, key: str) -> tuple[LayerProfileFile | None, str]:
    """The layers, or why there are none. They are not judged, so that their faults cost a warning."""
    try:
        return timed_layers(outputs, key), ""
    except RecordError as error:
        return None, f"the layers are not shown: {'; '.join(line.strip() for line in str(error).splitlines())}"


def _accuracy(reference: Reference, outputs: Arrays | None, confidence: float) -> AccuracyRecord | None:
    """Of the first output, where the inputs are labelled images."""
    if reference.labels is None or outputs is None:
        return None
    name, expected = next(iter(reference.outputs.items()))
    classes = expected.shape[-1]
    return parts.accuracy(
        reference.labels, outputs[name].reshape(-1, classes), expected.reshape(-1, classes), confidence,
        inputs=next(iter(reference.inputs.values())),
    )  # fmt: skip
