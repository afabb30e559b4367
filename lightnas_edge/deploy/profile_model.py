"""Any ONNX file on the board: its latency, energy and memory, and the time of every layer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

from devices import Connection, Status
from lightnas_edge.deploy import evidence
from lightnas_edge.errors import LightnasEdgeError, RecordError
from lightnas_edge.measuring import Settings, measure, write_model_job
from lightnas_edge.models import Model
from lightnas_edge.models.walk import nodes
from lightnas_edge.profiles import profile_record
from lightnas_edge.profiles.agent import read_layers
from lightnas_edge.records.model_profile import LayerProfileFile, ModelProfileRecord


class ProfileError(LightnasEdgeError):
    """The board could not run the model."""


def profile_model(
    model: Model,
    connection: Connection,
    settings: Settings,
    folder: Path,
    *,
    fresh: bool = False,
    on_progress: Callable[[Status], None] | None = None,
    sudo_password: str | None = None,
) -> ModelProfileRecord:
    """Measure a model and its layers on the board of the connection; leaves journal.jsonl in `folder`.

    An interrupted measurement of the same model is resumed, unless `fresh`.

    Raises:
        ProfileError: the board could not run the model.
        DeviceError: the board is unreachable or busy.
        RecordError: what the board says of the layers is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / f"unfinished-{model.facts.sha256[:12]}.jsonl"
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as scratch:
        job = write_model_job(
            Path(scratch) / "job", settings, model.content, model.facts.to_json(), layer_profile=True
        )  # fmt: skip
        (key,) = job.keys
        outputs = Path(scratch) / "outputs"
        table = measure(
            connection, job, journal, fresh=fresh or not journal.exists(), on_progress=on_progress, outputs=outputs,
            sudo_password=sudo_password,
        )  # fmt: skip
        if key not in table.networks:
            failure = table.failed.get(key)
            reason, remedy = (failure.message, failure.remedy) if failure else ("the journal holds no visit of it", "")
            journal.unlink(missing_ok=True)  # or the failure would be resumed
            raise ProfileError(f"{connection.name} could not measure {model.path.name}: {reason}", hint=remedy)
        layers = timed_layers(outputs, key)
    entry = table.networks[key]
    warnings = list(evidence.one_of_each_kind(entry.warnings))
    if layers is None:
        warnings.append("the runtime of the board timed no layers; the agent's log says why")
    memory = entry.quantity("peak_memory_mb")
    record = profile_record(
        layers,
        evidence.measured_latency(entry, batch=model.facts.batch),
        model=model.facts,
        host=connection.name,
        source="simulated" if table.simulated else settings.backend,
        precision=settings.precision,
        fingerprint=table.fingerprint,
        simulated=table.simulated,
        groups=convolution_groups(model),
        energy=evidence.energy(entry),
        peak_memory_mb=None if memory is None else memory.value,
        warnings=warnings,
    )
    journal.replace(folder / "journal.jsonl")
    return record


def timed_layers(outputs: Path, key: str) -> LayerProfileFile | None:
    """What the agent wrote of the layers; None where its runtime times none.

    Raises:
        RecordError: the file is damaged.
    """
    path = outputs / f"{key}.layers.json"
    if not path.exists():
        return None
    try:
        return read_layers(path)
    except RecordError as error:
        text = str(error).replace(str(path), "the times of layers from the board")
        raise RecordError(
            text, hint="update the agent on the board: it is copied again when the host's version differs"
        ) from error


def convolution_groups(model: Model) -> dict[str, int]:
    """Groups of the convolutions, by the name of the node."""
    graph = onnx.load_model_from_string(model.content).graph
    return {
        node.name: next((each.i for each in node.attribute if each.name == "group"), 1)
        for node in nodes(graph)
        if node.op_type == "Conv" and node.name
    }
