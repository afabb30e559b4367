"""From the layers that our agent timed to the record of a profiled model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lightnas_edge.profiles.findings import find
from lightnas_edge.profiles.layers import ratio, with_shares
from lightnas_edge.records.base import Fingerprint, parse_json, read_bounded
from lightnas_edge.records.deployment import EnergyRecord, MeasuredLatency
from lightnas_edge.records.model import ModelRecord, TensorRecord
from lightnas_edge.records.model_profile import (
    MAX_FILE_BYTES,
    LayerProfileFile,
    LayerRecord,
    LayerTensor,
    ModelProfileRecord,
    TimedLayer,
)

_DEVICES = {"onnxruntime": "cpu", "tensorrt": "gpu", "simulated": None}


def read_layers(path: Path) -> LayerProfileFile:
    """Raises RecordError: missing, too large, or not such a file."""
    content = read_bounded(path, max_bytes=MAX_FILE_BYTES)
    parse_json(content, str(path))  # of bounded depth, before the fields are read
    return LayerProfileFile.parse(content, str(path))


def profile_record(
    found: LayerProfileFile | None,
    measured: MeasuredLatency,
    *,
    model: ModelRecord,
    host: str,
    source: str,
    precision: str,
    fingerprint: Fingerprint,
    simulated: bool,
    groups: Mapping[str, int] | None = None,
    energy: EnergyRecord | None = None,
    peak_memory_mb: float | None = None,
    build_s: float | None = None,
    warnings: Sequence[str] = (),
) -> ModelProfileRecord:
    """The record of a model that the agent measured.

    Args:
        found: None where the runtime has no profiler of layers.
        source: the engine, where there are no layers to say it.
        precision: that was asked for.
        groups: of convolutions of the model, by the name of their node.
    """
    layers = [] if found is None else [_layer(layer, found.source, groups or {}) for layer in found.layers]
    shared, layers_sum_ms = with_shares(layers)
    noted = [*warnings, *(found.warnings if found else ())]
    record = ModelProfileRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=model.name,
        host=host,
        source=found.source if found else source,  # type: ignore[arg-type]
        model=model,
        inputs=tuple(map(_tensor, model.inputs)),
        outputs=tuple(map(_tensor, model.outputs)),
        precision=precision,
        measured=measured,
        reported={},
        throughput_per_s=1000 / measured.mean.latency_ms if measured.throughput is None else measured.throughput.per_s,
        energy=energy,
        peak_memory_mb=peak_memory_mb,
        build_s=build_s,
        engine_mib=None,
        layers=shared,
        layer_runs=found.runs if found else None,
        layers_sum_ms=layers_sum_ms,
        profiled_ms=float(np.median(found.total_ms)) if found and found.total_ms else None,
        layers_ratio=ratio(layers_sum_ms, measured.gpu_ms or measured.median.latency_ms),
        findings=(),
        files=(),
        fingerprint=fingerprint,
        simulated=simulated,
        warnings=tuple(dict.fromkeys(noted)),
    )
    return record.model_copy(update={"findings": find(record)})


def _layer(layer: TimedLayer, source: str, groups: Mapping[str, int]) -> LayerRecord:
    times = np.asarray(layer.times_ms)
    median = float(np.median(times))
    low, high = np.quantile(times, (0.25, 0.75))
    named = {groups[name] for name in layer.onnx_nodes if name in groups}
    return LayerRecord(
        name=layer.name,
        type=layer.type,
        precision=layer.precision,
        device=_DEVICES[source],  # type: ignore[arg-type]
        median_ms=median,
        mean_ms=float(times.mean()),
        spread=float(high - low) / median if median > 0 and len(times) > 3 else None,
        share=None,
        onnx_nodes=layer.onnx_nodes,
        is_reformat=layer.is_reformat,
        groups=named.pop() if len(named) == 1 else None,
        inputs=layer.inputs,
        outputs=layer.outputs,
    )


def _tensor(value: TensorRecord) -> LayerTensor:
    known = tuple(size for size in value.shape if size is not None)
    return LayerTensor(name=value.name, type=value.type, shape=known if len(known) == len(value.shape) else None)
