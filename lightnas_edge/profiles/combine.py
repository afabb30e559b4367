"""Files of trtexec about one engine, put together into one record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from lightnas_edge.errors import RecordError
from lightnas_edge.profiles import names
from lightnas_edge.profiles.console import Log
from lightnas_edge.profiles.findings import find
from lightnas_edge.profiles.layers import ratio, with_shares
from lightnas_edge.profiles.trtexec import EngineLayer, EngineLayers, InferenceTimes, LayerTimes, Part, read_trtexec
from lightnas_edge.records.base import Fingerprint
from lightnas_edge.records.model_profile import (
    DLA_COPY,
    DLA_WAIT,
    LayerRecord,
    LayerTensor,
    ModelProfileRecord,
    TimeKind,
    TimeStatistics,
)
from lightnas_edge.records.plain_text import clean_text

_SUFFIXES = (".profile.metadata", ".metadata", ".profile", ".graph", ".timing", ".times", ".layers", ".layer_info")
_AnyPart = TypeVar("_AnyPart", LayerTimes, EngineLayers, InferenceTimes)


def import_trtexec(paths: Sequence[Path]) -> ModelProfileRecord:
    """The record of one engine: at most one file of layer times, one of layer info, one of inference times; logs of its
    build and of its run.

    Raises:
        RecordError: a file cannot be used (all such files in one message), or the files belong to different engines.
    """
    parts: list[tuple[Path, Part]] = []
    faults: list[RecordError] = []
    for path in dict.fromkeys(paths):
        try:
            parts.append((path, read_trtexec(path)))
        except RecordError as error:
            faults.append(error)
    if faults:
        raise RecordError(
            "\n".join(map(str, faults)), hint="\n".join(dict.fromkeys(each.hint for each in faults if each.hint))
        )
    return _combined(parts)


def _combined(parts: Sequence[tuple[Path, Part]]) -> ModelProfileRecord:
    times = _one(parts, LayerTimes, "layer times (--exportProfile)")
    info = _one(parts, EngineLayers, "layer info")
    logs = [(path, part) for path, part in parts if isinstance(part, Log)]
    run = _run(logs)
    inference = _inference(parts)
    warnings = [warning for _, log in logs for warning in log.warnings]
    warnings += run.timing_warnings if run else []
    layers, more = _layers(times, info, logs)
    shared, layers_sum_ms = with_shares(_waits_marked(layers))
    warnings += more

    reported: dict[TimeKind, TimeStatistics] = dict(inference.statistics if inference else {})
    if run is not None:
        reported = {**reported, **run.statistics} if not reported else {**run.statistics, **reported}
        gpu = reported.get("gpu")
        if gpu is not None and gpu.variation is None and run.variation is not None:
            reported["gpu"] = gpu.model_copy(update={"variation": run.variation})
    inputs, outputs = _ends(logs, info)
    record = ModelProfileRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=_name(parts, logs),
        host=None,
        source="trtexec",
        model=None,
        inputs=inputs,
        outputs=outputs,
        precision=next((log.precision for _, log in logs if log.precision), None),
        measured=None,
        reported=reported,
        throughput_per_s=(inference and inference.throughput_per_s) or (run and run.throughput_per_s) or None,
        energy=None,
        peak_memory_mb=None,
        build_s=next((log.build_s for _, log in logs if log.build_s is not None), None),
        engine_mib=next((log.engine_mib for _, log in logs if log.engine_mib is not None), None),
        layers=shared,
        layer_runs=times.runs if times else None,
        layers_sum_ms=layers_sum_ms,
        profiled_ms=None,
        layers_ratio=None,
        findings=(),
        files=tuple(clean_text(path.name, 1000) for path, _ in parts),
        fingerprint=_fingerprint(logs, inference),
        simulated=False,
        warnings=tuple(dict.fromkeys(warnings)),
    )
    record = record.model_copy(update={"layers_ratio": ratio(layers_sum_ms, record.inference_ms())})
    return record.model_copy(update={"findings": find(record)})


def _one(parts: Sequence[tuple[Path, Part]], kind: type[_AnyPart], what: str) -> _AnyPart | None:
    found = [(path, part) for path, part in parts if isinstance(part, kind)]
    if len(found) > 1:
        raise RecordError(
            f"{' and '.join(str(path) for path, _ in found)} both hold {what}",
            hint="import the files of one engine at a time",
        )
    return found[0][1] if found else None


def _inference(parts: Sequence[tuple[Path, Part]]) -> InferenceTimes | None:
    """Every inference (--exportTimes) says most; TREx's metadata adds the device and the throughput."""
    found = [(path, part) for path, part in parts if isinstance(part, InferenceTimes)]
    summaries = [part for _, part in found if part.options or part.device]
    single = [(path, part) for path, part in found if not (part.options or part.device)]
    if len(summaries) > 1 or len(single) > 1:
        _one(parts, InferenceTimes, "times of inferences")
    if not found:
        return None
    if not summaries:
        return single[0][1]
    summary = summaries[0]
    statistics = {**summary.statistics}
    for kind, of_all in (single[0][1].statistics if single else {}).items():
        listed = statistics.get(kind)
        statistics[kind] = of_all if listed is None else listed.model_copy(update={"variation": of_all.variation})
    return InferenceTimes(statistics, summary.throughput_per_s, summary.device, summary.options)


def _run(logs: Sequence[tuple[Path, Log]]) -> Log | None:
    """The output with the times that count: of an engine that was loaded rather than of the run that built it."""
    timed = [(path, log) for path, log in logs if log.statistics]
    loaded = [(path, log) for path, log in timed if log.loaded]
    chosen = loaded or timed
    if len(chosen) > 1:
        raise RecordError(
            f"{' and '.join(str(path) for path, _ in chosen)} both hold times",
            hint="import the output of one run at a time",
        )
    saved = {log.engine_saved for _, log in logs if log.engine_saved}
    used = {log.engine_loaded for _, log in loaded if log.engine_loaded}
    if saved and used and not saved & used:
        raise RecordError(
            f"the outputs of trtexec are about different engines: {_listed(saved)} was built, {_listed(used)} was run",
            hint="import the files of one engine at a time",
        )
    return chosen[0][1] if chosen else None


def _layers(
    times: LayerTimes | None, info: EngineLayers | None, logs: Sequence[tuple[Path, Log]]
) -> tuple[list[LayerRecord], list[str]]:
    if times is None and info is None:
        listed = next((log.layers for _, log in logs if log.layers), [])
        found = [_layer(each.name, EngineLayer(each.name, each.type), device=each.device) for each in listed]
        return found, ["the layers have no times: export them with --dumpProfile --exportProfile=FILE"] if found else []
    if times is None:
        assert info is not None
        return [_layer(each.name, each) for each in info.layers], [
            "the layers have no times: add the file of --exportProfile"
        ]
    known: dict[str, list[EngineLayer]] = {}
    for each in info.layers if info else ():
        known.setdefault(each.name, []).append(each)
    found, unknown = [], []
    for row in times.layers:
        described = known.get(row.name)
        if described:
            engine = described.pop(0) if len(described) > 1 else described[0]
        else:
            engine = EngineLayer(row.name)
            unknown.append(row.name)
        found.append(_layer(row.name, engine, row.median_ms, row.mean_ms))
    if info is None:
        return found, []
    if len(unknown) == len(times.layers):
        raise RecordError(
            "the layer times and the layer info are about different engines: no layer has the same name in both, for "
            f"example {clean_text(times.layers[0].name, 100)!r} and {clean_text(info.layers[0].name, 100)!r}",
            hint="import the files of one engine at a time",
        )
    if unknown:
        return found, [f"{len(unknown)} of {len(found)} layers are missing from the layer info"]
    return found, []


def _layer(
    name: str,
    engine: EngineLayer,
    median_ms: float | None = None,
    mean_ms: float | None = None,
    device: str | None = None,
) -> LayerRecord:
    reformat = engine.type == "Reformat" or names.is_reformat(name)
    on_dla = device == "dla" or engine.type == "DLA" or names.is_dla(name)
    kind = engine.type
    if kind is None:
        kind = "Reformat" if reformat else "DLA" if on_dla else DLA_COPY if names.is_transfer(name) else None
    return LayerRecord(
        name=name,
        type=kind,
        precision=engine.precision,
        device="dla" if on_dla else "gpu",
        median_ms=median_ms,
        mean_ms=mean_ms,
        spread=None,
        share=None,
        onnx_nodes=names.nodes(name, engine.metadata),
        is_reformat=reformat,
        groups=engine.groups,
        inputs=engine.inputs,
        outputs=engine.outputs,
    )


def _waits_marked(layers: Sequence[LayerRecord]) -> list[LayerRecord]:
    """The GPU waits for a DLA in the copies and reformats after its part, so that their time is mostly the DLA's."""
    found, after_dla = [], False
    for layer in layers:
        passive = layer.is_reformat or layer.type == DLA_COPY
        after_dla = layer.device == "dla" or (after_dla and passive)
        if after_dla and passive:
            layer = layer.model_copy(update={"type": DLA_WAIT, "is_reformat": None})
        found.append(layer)
    return found


def _ends(
    logs: Sequence[tuple[Path, Log]], info: EngineLayers | None
) -> tuple[tuple[LayerTensor, ...], tuple[LayerTensor, ...]]:
    """Inputs and outputs of the whole model."""
    for _, log in logs:
        if log.inputs or log.outputs:
            return tuple(log.inputs), tuple(log.outputs)
    if info is None:
        return (), ()
    read = {tensor.name: tensor for layer in info.layers for tensor in layer.inputs}
    made = {tensor.name: tensor for layer in info.layers for tensor in layer.outputs}
    return (
        tuple(read[name] for name in info.bindings if name in read and name not in made),
        tuple(made[name] for name in info.bindings if name in made),
    )


def _name(parts: Sequence[tuple[Path, Part]], logs: Sequence[tuple[Path, Log]]) -> str:
    """Of the model in a log; otherwise of the first file."""
    # The log of a build names the model file, that of a run the engine.
    for _, log in sorted(logs, key=lambda each: each[1].loaded):
        if log.model:
            return clean_text(log.model, 200) or "model"
    name = parts[0][0].name
    name = name.rsplit(".", 1)[0] if "." in name[1:] else name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return clean_text(name, 200) or "model"


def _fingerprint(logs: Sequence[tuple[Path, Log]], inference: InferenceTimes | None) -> Fingerprint:
    """What the files say of the machine and of how it was timed."""
    found: Fingerprint = {}
    for field, value in _facts(logs, inference):
        if value:
            found.setdefault(field, value)
    return found


def _facts(logs: Sequence[tuple[Path, Log]], inference: InferenceTimes | None) -> Iterator[tuple[str, str | None]]:
    for _, log in sorted(logs, key=lambda each: not each[1].loaded):
        yield "tensorrt", log.version
        yield "device", log.options.get("Selected Device")
        yield "compute_capability", log.options.get("Compute Capability")
        yield "cuda_graph", log.options.get("CUDA Graph")
        yield "spin_wait", log.options.get("Spin-wait")
        yield "data_transfers", log.options.get("Data transfers")
    if inference is not None:
        yield "device", inference.device
        yield "cuda_graph", inference.options.get("CUDA Graph")
        yield "spin_wait", inference.options.get("Spin-wait")
        yield "data_transfers", inference.options.get("Data transfers")


def _listed(values: set[str]) -> str:
    return ", ".join(sorted(values))
