"""The console output of trtexec: options, times, the list of layers, warnings, and why a run failed."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath

from lightnas_edge.errors import RecordError
from lightnas_edge.records.model_profile import LayerTensor, TimeKind, TimeStatistics
from lightnas_edge.records.plain_text import clean_text

_PREFIX = re.compile(r"^(?:\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] )+")
_LEVEL = re.compile(r"^\[([VIWEF])\] ?(?:\[TRT\] ?)?")
_BANNER = re.compile(r"^&&&& (RUNNING|PASSED|FAILED) TensorRT\.trtexec(?: \[TensorRT v(\d{1,8})\])?(?:.*?# (.*))?$")
_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,12})?(?:e[+-]?[0-9]{1,2})?)"
_TIMES = re.compile(r"^(Latency|Enqueue Time|H2D Latency|GPU Compute Time|D2H Latency): (min = .*)$")
_VALUE = re.compile(rf"(min|max|mean|median|percentile\((\d{{1,2}})%\)) = {_NUMBER} ms")
_THROUGHPUT = re.compile(rf"^Throughput: {_NUMBER} qps")
_QUERIES = re.compile(r"^Timing trace has (\d{1,12}) queries")
_BUILT = re.compile(rf"^Engine built in {_NUMBER} sec")
_SIZE = re.compile(rf"^(?:Created engine with size|Loaded engine size): {_NUMBER} Mi?B")
_LAYER = re.compile(r"^\[(Gpu|Dla)Layer\] (?:([A-Z][A-Z_]*): )?(.+)$")
_BINDING = re.compile(
    r"^(?:Created (input|output) binding for (.+) with dimensions ([0-9x]+)"
    r"|(Input|Output) binding for (.+) with dimensions ([0-9x]+) is created)"
)
_VARIATION = re.compile(rf"GPU compute time is unstable, with coefficient of variance = {_NUMBER}%")
_OPTION = re.compile(r"^([A-Za-z][A-Za-z0-9 /()]{0,60}): ?(.*)$")
_OPTIONS = ("Model", "Precision", "DLACore", "CUDA Graph", "Spin-wait", "Data transfers", "Selected Device", "TensorRT version",
            "Compute Capability", "Save engine", "Load engine", "Inference Streams", "Streams")  # fmt: skip
_MODEL = re.compile(r"--onnx=(\S+)")
_KINDS: dict[str, TimeKind] = {
    "Latency": "latency", "Enqueue Time": "enqueue", "H2D Latency": "h2d", "GPU Compute Time": "gpu", "D2H Latency": "d2h",
}  # fmt: skip
_FINEST = (
    "int4",
    "fp8",
    "int8",
    "bf16",
    "fp16",
    "fp32",
)  # an engine may use all that are listed: the finest is what was asked


@dataclass(frozen=True)
class ListedLayer:
    name: str
    type: str | None
    device: str  # gpu or dla


@dataclass
class Log:
    """One run of trtexec."""

    version: str | None = None
    command: str = ""
    options: dict[str, str] = field(default_factory=dict)
    statistics: dict[TimeKind, TimeStatistics] = field(default_factory=dict)
    throughput_per_s: float | None = None
    queries: int | None = None
    build_s: float | None = None
    engine_mib: float | None = None
    variation: float | None = None
    layers: list[ListedLayer] = field(default_factory=list)
    inputs: list[LayerTensor] = field(default_factory=list)
    outputs: list[LayerTensor] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    timing_warnings: list[str] = field(default_factory=list)  # below the performance summary

    @property
    def precision(self) -> str | None:
        """Of `FP32+FP16`, the finest; None where nothing says it, as for an engine that was loaded."""
        if self.loaded:
            return None
        names = {part.strip().lower() for part in re.split(r"[+ ]", self.options.get("Precision", ""))}
        return next((name for name in _FINEST if name in names), None)

    @property
    def loaded(self) -> bool:
        """The engine was not built in this run."""
        return bool(self.engine_loaded)

    @property
    def engine_loaded(self) -> str | None:
        return self._path("Load engine", "loadEngine")

    @property
    def engine_saved(self) -> str | None:
        return self._path("Save engine", "saveEngine")

    def _path(self, option: str, flag: str) -> str | None:
        """Version 10 prints no build options when it loads an engine; the command has it then."""
        found = re.search(rf"--{flag}=(\S+)", self.command)
        return self.options.get(option) or (found[1] if found else None)

    @property
    def model(self) -> str | None:
        """The name of the model file without its ending."""
        path = self.options.get("Model") or self.engine_loaded or ""
        name = PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
        return name.rsplit(".", 1)[0] or None


def is_log(text: str) -> bool:
    return "TensorRT.trtexec" in text or "=== Performance summary ===" in text


def read(text: str, source: str) -> Log:
    """Raises RecordError: trtexec failed, was interrupted, or the output holds neither times nor layers."""
    log, errors, failed, passed = Log(), [], False, False
    for raw in text.splitlines():
        line = _PREFIX.sub("", clean_text(raw, 20_000))
        banner = _BANNER.match(line)
        if banner:
            failed, passed = failed or banner[1] == "FAILED", passed or banner[1] == "PASSED"
            log.version = log.version or (banner[2] and _version(int(banner[2])))
            log.command = log.command or clean_text(banner[3] or "", 2000)
            continue
        level = _LEVEL.match(line)
        body = _PREFIX.sub("", line[level.end() :] if level else line).strip()
        if level and level[1] in "EF":
            errors.append(body)
        elif level and level[1] == "W":
            _warning(log, body)
        elif body:
            _information(log, body)
    if failed:
        raise RecordError(f"{source}: trtexec failed: {_causes(errors)}", hint=_remedy(errors, log.command))
    if not log.statistics and not log.layers and log.build_s is None:
        if passed:
            raise RecordError(
                f"{source} holds neither times nor layers of an engine", hint="run trtexec without --skipInference"
            )
        raise RecordError(
            f"{source} ends before the performance summary: {_causes(errors) if errors else 'trtexec was interrupted'}",
            hint="run trtexec again, and copy its output to the last line, which starts with &&&&",
        )
    if not log.statistics and not passed:
        log.warnings.append("the output of trtexec ends before its performance summary")
    return log


def _information(log: Log, body: str) -> None:
    if body.startswith("["):
        layer = _LAYER.match(body)
        if layer:
            kind = layer[2].capitalize().replace("_", " ") if layer[2] else None
            log.layers.append(ListedLayer(layer[3].strip(), kind, layer[1].lower()))
        return
    times = _TIMES.match(body)
    if times:
        log.statistics[_KINDS[times[1]]] = _statistics(times[2], log.queries)
    elif found := _THROUGHPUT.match(body):
        log.throughput_per_s = float(found[1]) or None
    elif found := _QUERIES.match(body):
        log.queries = int(found[1]) or None
    elif found := _BUILT.match(body):
        log.build_s = float(found[1])
    elif found := _SIZE.match(body):
        log.engine_mib = log.engine_mib or float(found[1])
    elif found := _BINDING.match(body):
        side, name, sizes = (found[1], found[2], found[3]) if found[1] else (found[4], found[5], found[6])
        tensors = log.inputs if side.lower() == "input" else log.outputs
        tensors.append(LayerTensor(name=clean_text(name, 1000), type=None, shape=_sizes(sizes)))
    elif (option := _OPTION.match(body)) and option[1] in _OPTIONS:
        log.options.setdefault(option[1], clean_text(option[2], 1000))


def _warning(log: Log, body: str) -> None:
    found = _VARIATION.search(body)
    if found:
        log.variation = float(found[1]) / 100
    text = body.lstrip("* ").strip()
    if text:
        (log.timing_warnings if log.statistics else log.warnings).append(text)


def _statistics(text: str, queries: int | None) -> TimeStatistics:
    values: dict[str, float] = {}
    for name, percent, number in _VALUE.findall(text):
        field_name = f"p{percent}_ms" if percent else f"{name}_ms"
        if field_name in TimeStatistics.model_fields:
            values[field_name] = float(number)
    return TimeStatistics(n=queries, **values)


def _version(number: int) -> str:
    """8001 is 8.0.1, 100300 is 10.3.0: the major version has one digit more from 10 on."""
    if number < 10_000:
        return f"{number // 1000}.{number // 100 % 10}.{number % 100}"
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def _sizes(text: str) -> tuple[int, ...] | None:
    parts = text.split("x")
    return tuple(map(int, parts)) if all(part and len(part) < 10 for part in parts) and len(parts) <= 32 else None


def _causes(errors: list[str]) -> str:
    named = list(dict.fromkeys(error for error in errors if error))
    return "; ".join(clean_text(error, 300) for error in named[:3]) or "the output names no error"


def _remedy(errors: list[str], command: str) -> str:
    text = " ".join(errors).lower()
    if "out of memory" in text or "outofmemory" in text:
        return "free memory on the board, or build with a smaller --memPoolSize=workspace:N"
    if "unsupported" in text or "no importer" in text or "plugin" in text:
        model = _MODEL.search(command)
        if model is None:
            return "profile the ONNX file, by --model of profile-device: it names the operators that a runtime lacks"
        return f"`profile-device --model {shlex.quote(model[1])}` names the operators that a runtime lacks"
    if "could not find any implementation" in text:
        return "give the builder more workspace (--memPoolSize), or let it use another precision"
    return "run trtexec with --verbose for the cause"
