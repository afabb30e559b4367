"""Files that trtexec and TREx write, of TensorRT 8.0 to 10: each becomes one part; its content shows which.

--exportProfile     [{"count": 21071}, {"name": "conv1", "timeMs": ..., "averageMs": ..., "medianMs": ...}, ...]
--exportTimes       [{"startEnqMs": ..., "computeMs": ..., "latencyMs": ...}, ...]
--exportLayerInfo   {"Layers": [{"Name": "conv1", "LayerType": ..., "Inputs": [...]}, ...], "Bindings": [...]}
                    the same as IEngineInspector and TREx's graph files; names alone at the default verbosity
TREx metadata       {"performance_summary": {"Latency": [min, max, mean, median, p90, p95, p99], ...}, ...}
the console         lines of text from `&&&& RUNNING TensorRT.trtexec` on
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightnas_edge.errors import RecordError
from lightnas_edge.profiles import console
from lightnas_edge.profiles.console import Log
from lightnas_edge.records.base import parse_json, read_bounded
from lightnas_edge.records.model_profile import MAX_FILE_BYTES, LayerTensor, TimeKind, TimeStatistics
from lightnas_edge.records.plain_text import clean_text

KINDS = (
    "trtexec --exportProfile, --exportTimes and --exportLayerInfo, the console output of trtexec, and TREx's graph and "
    "metadata files can be read"
)
_MOST_LAYERS = 50_000
_LARGEST_MS = 1e9
_SUMMARY: dict[str, TimeKind] = {
    "Latency": "latency", "Enqueue Time": "enqueue", "H2D Latency": "h2d", "GPU Compute Time": "gpu", "D2H Latency": "d2h",
}  # fmt: skip
_ORDER = ("min_ms", "max_ms", "mean_ms", "median_ms", "p90_ms", "p95_ms", "p99_ms")
# Datatypes, as the inspector of any version names them, in the order in which they are looked for.
_PRECISIONS = (
    ("fp8", ("fp8", "float8", "e4m3")),
    ("int8", ("int8", "i8")),
    ("bf16", ("bf16", "bfloat16", "bfloat")),
    ("fp16", ("fp16", "half", "float16", "f16")),
    ("fp32", ("fp32", "float32", "float", "f32")),
    ("int32", ("int32", "i32")),
    ("int64", ("int64", "i64")),
    ("bool", ("bool",)),
)


@dataclass(frozen=True)
class ProfiledName:
    name: str
    mean_ms: float | None
    median_ms: float | None


@dataclass(frozen=True)
class LayerTimes:
    """--exportProfile"""

    runs: int | None
    layers: tuple[ProfiledName, ...]


@dataclass(frozen=True)
class InferenceTimes:
    """--exportTimes, or the summary in TREx's metadata."""

    statistics: dict[TimeKind, TimeStatistics]
    throughput_per_s: float | None = None
    device: str | None = None
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineLayer:
    name: str
    type: str | None = None
    precision: str | None = None
    metadata: str = ""
    groups: int | None = None
    inputs: tuple[LayerTensor, ...] = ()
    outputs: tuple[LayerTensor, ...] = ()


@dataclass(frozen=True)
class EngineLayers:
    """Layer info."""

    layers: tuple[EngineLayer, ...]
    bindings: tuple[str, ...]


Part = LayerTimes | InferenceTimes | EngineLayers | Log


def is_trtexec(path: Path) -> bool:
    """Whether the content looks like JSON, or like the console of trtexec. Raises RecordError: it cannot be read."""
    start = read_bounded(path, max_bytes=MAX_FILE_BYTES)[:65536].lstrip(b"\xef\xbb\xbf \t\r\n")
    return start[:1] in (b"[", b"{") or console.is_log(start.decode("utf-8", "replace"))


def read_trtexec(path: Path) -> Part:
    """Raises RecordError: unreadable, of no known kind, damaged, or of a run that failed."""
    content = read_bounded(path, max_bytes=MAX_FILE_BYTES).removeprefix(b"\xef\xbb\xbf")
    source = str(path)
    if not content.strip():
        raise RecordError(f"{source} is empty", hint=KINDS)
    if content.lstrip()[:1] not in (b"[", b"{"):
        text = content.decode("utf-8", "replace")
        if not console.is_log(text):
            raise RecordError(f"{source} is no file of trtexec", hint=KINDS)
        return console.read(text, source)
    value = parse_json(content, source, remedy="export it again; a copy that was cut cannot be used")
    if isinstance(value, dict):
        if "Layers" in value:
            return _engine_layers(value, source)
        if "performance_summary" in value:
            return _metadata(value, source)
    elif value and all(isinstance(each, dict) for each in value):
        if any("averageMs" in each or "medianMs" in each for each in value):
            return _layer_times(value, source)
        if any("computeMs" in each or "latencyMs" in each for each in value):
            return _inference_times(value, source)
    raise RecordError(f"{source} is no file of trtexec: {_shape_of(value)}", hint=KINDS)


def precision_of(text: str) -> str | None:
    """`fp16` of "Channel major FP16 format where channel % 8 == 0", "Half", ...; None: no known datatype."""
    words = {word.strip(",.:;()[]").lower() for word in text.split()}
    return next((name for name, known in _PRECISIONS if words.intersection(known)), None)


def _layer_times(rows: Sequence[dict[str, Any]], source: str) -> LayerTimes:
    runs: int | None = None
    layers = []
    for position, row in enumerate(rows):
        if "name" not in row and "count" in row:
            count = row["count"]
            if not isinstance(count, int) or isinstance(count, bool) or not 0 < count < 2**53:
                raise RecordError(f"{source}: [{position}].count is {_shown(count)}, expected the number of inferences")
            runs = count
            continue
        place = f"[{position}]"
        median = _milliseconds(row, "medianMs", source, place)
        mean = _milliseconds(row, "averageMs", source, place)
        if median is None and mean is None:
            raise RecordError(f"{source}: {place} has neither averageMs nor medianMs")
        layers.append(ProfiledName(_name(row.get("name"), source, f"{place}.name"), mean, median))
    return LayerTimes(runs, tuple(_limited(layers, source)))


def _inference_times(rows: Sequence[dict[str, Any]], source: str) -> InferenceTimes:
    """Older versions name the copies inMs and outMs."""
    columns: dict[TimeKind, list[float]] = {"latency": [], "enqueue": [], "h2d": [], "gpu": [], "d2h": []}
    fields: dict[TimeKind, tuple[str, ...]] = {
        "latency": ("latencyMs",), "h2d": ("h2dMs", "inMs"), "gpu": ("computeMs",), "d2h": ("d2hMs", "outMs"),
    }  # fmt: skip
    for position, row in enumerate(rows):
        place = f"[{position}]"
        for kind, names in fields.items():
            values = [_milliseconds(row, name, source, place) for name in names]
            columns[kind] += [value for value in values if value is not None][:1]
        start, end = (_milliseconds(row, name, source, place) for name in ("startEnqMs", "endEnqMs"))
        if start is not None and end is not None:
            columns["enqueue"].append(max(0.0, end - start))
    found = {kind: _statistics(values) for kind, values in columns.items() if len(values) == len(rows)}
    if "latency" not in found and "gpu" not in found:
        raise RecordError(f"{source}: not every inference has latencyMs or computeMs")
    return InferenceTimes(found)


def _statistics(values: Sequence[float]) -> TimeStatistics:
    array = np.asarray(values)
    p90, p95, p99 = (float(each) for each in np.quantile(array, (0.9, 0.95, 0.99)))
    mean = float(array.mean())
    return TimeStatistics(
        min_ms=float(array.min()), max_ms=float(array.max()), mean_ms=mean, median_ms=float(np.median(array)),
        p90_ms=p90, p95_ms=p95, p99_ms=p99, variation=float(array.std()) / mean if mean > 0 else None, n=len(array),
    )  # fmt: skip


def _metadata(value: dict[str, Any], source: str) -> InferenceTimes:
    summary = value["performance_summary"]
    if not isinstance(summary, dict):
        raise RecordError(f"{source}: performance_summary is {_shown(summary)}, expected an object")
    found: dict[TimeKind, TimeStatistics] = {}
    for title, kind in _SUMMARY.items():
        row = summary.get(title)
        if row is None:
            continue
        if not isinstance(row, list) or len(row) != len(_ORDER):
            raise RecordError(
                f"{source}: performance_summary.{title} is {_shown(row)}, expected {len(_ORDER)} numbers: "
                "min, max, mean, median, percentiles 90, 95 and 99"
            )
        numbers = dict(zip(_ORDER, row, strict=True))
        found[kind] = TimeStatistics(
            **{name: _milliseconds(numbers, name, source, title) for name in _ORDER}  # type: ignore[arg-type]
        )
    if not found:
        raise RecordError(f"{source}: performance_summary holds no times")
    device = value.get("device_information")
    options = value.get("inference_options")
    throughput = _milliseconds(summary, "Throughput", source, "performance_summary")
    name = device.get("Selected Device") if isinstance(device, dict) else None
    return InferenceTimes(
        found, throughput or None, clean_text(name, 200) or None if isinstance(name, str) else None,
        {clean_text(key, 200): clean_text(str(text), 200) for key, text in options.items()}
        if isinstance(options, dict)
        else {},
    )  # fmt: skip


def _engine_layers(value: dict[str, Any], source: str) -> EngineLayers:
    rows, bindings = value["Layers"], value.get("Bindings", [])
    if not isinstance(rows, list) or not rows:
        raise RecordError(f"{source}: Layers is {_shown(rows)}, expected a list of layers")
    if not isinstance(bindings, list) or not all(isinstance(each, str) for each in bindings):
        bindings = []
    layers = [_engine_layer(row, source, f"Layers[{position}]") for position, row in enumerate(_limited(rows, source))]
    return EngineLayers(tuple(layers), tuple(clean_text(name, 1000) for name in bindings))


def _engine_layer(row: Any, source: str, place: str) -> EngineLayer:
    if isinstance(row, str):  # the default verbosity of the builder keeps names alone
        return EngineLayer(_name(row, source, place))
    if not isinstance(row, dict):
        raise RecordError(f"{source}: {place} is {_shown(row)}, expected an object or a name")
    name = _name(row.get("Name"), source, f"{place}.Name")
    inputs, outputs = (_tensors(row.get(side)) for side in ("Inputs", "Outputs"))
    groups = row.get("Groups")
    kind = row.get("LayerType")
    operation = row.get("ParameterType")
    return EngineLayer(
        name,
        clean_text(operation if isinstance(operation, str) and operation else kind, 200) or None
        if isinstance(kind, str)
        else None,
        _layer_precision(row, inputs, outputs),
        clean_text(row["Metadata"], 100_000) if isinstance(row.get("Metadata"), str) else "",
        groups if isinstance(groups, int) and not isinstance(groups, bool) and 0 < groups < 2**31 else None,
        inputs,
        outputs,
    )


def _layer_precision(row: dict[str, Any], inputs: Sequence[LayerTensor], outputs: Sequence[LayerTensor]) -> str | None:
    """Of the weights, which are what it computes with; else of what it reads and writes where that is one."""
    weights = row.get("Weights")
    if isinstance(weights, dict) and isinstance(weights.get("Type"), str):
        found = precision_of(weights["Type"])
        if found:
            return found
    types = {tensor.type for tensor in inputs} & {tensor.type for tensor in outputs}
    return types.pop() if len(types) == 1 else outputs[0].type if outputs else None


def _tensors(rows: Any) -> tuple[LayerTensor, ...]:
    """What is damaged in a description of a tensor is left out: it decides nothing."""
    if not isinstance(rows, list):
        return ()
    return tuple(
        LayerTensor(name=clean_text(row["Name"], 1000), type=_datatype(row), shape=_shape(row.get("Dimensions")))
        for row in rows[:1000]
        if isinstance(row, dict) and isinstance(row.get("Name"), str)
    )


def _datatype(row: dict[str, Any]) -> str | None:
    for key in ("Format/Datatype", "Datatype"):
        if isinstance(row.get(key), str):
            return precision_of(row[key])
    return None


def _shape(sizes: Any) -> tuple[int, ...] | None:
    if not isinstance(sizes, list) or len(sizes) > 32:
        return None
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**40 for size in sizes):
        return None
    return tuple(sizes)


def _milliseconds(row: dict[str, Any], name: str, source: str, place: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 <= value < _LARGEST_MS):
        raise RecordError(f"{source}: {place}.{name} is {_shown(value)}, expected a number from 0 on")
    return float(value) if math.isfinite(value) else None


def _name(value: Any, source: str, place: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{source}: {place} is {_shown(value)}, expected a text")
    return clean_text(value, 100_000)


def _limited(rows: list[Any], source: str) -> list[Any]:
    if len(rows) > _MOST_LAYERS:
        raise RecordError(f"{source} has {len(rows)} layers; at most {_MOST_LAYERS} can be read")
    if not rows:
        raise RecordError(f"{source} has no layers")
    return rows


def _shown(value: Any) -> str:
    return clean_text(repr(value), 80)


def _shape_of(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with {clean_text(', '.join(map(str, list(value)[:5])), 200) or 'no fields'}"
    if isinstance(value, list):
        return "an empty list" if not value else "a list of something else"
    return f"a JSON {type(value).__name__}"
