"""What the numbers of a profiled model show, in words: each with its number, its threshold, where the threshold comes
from, and what to do. A finding that the record does not support is left out.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence

from lightnas_edge.records.deployment import LAUNCH_BOUND
from lightnas_edge.records.model_profile import (
    DLA_COPY,
    DLA_WAIT,
    Finding,
    LayerRecord,
    LayerTensor,
    ModelProfileRecord,
)

# trtexec prints its warnings above these (samples/common/sampleReporting.cpp).
TRTEXEC_BOUND = 0.8  # enqueue or copy time over GPU time
UNSTABLE = 0.01  # coefficient of variation
# Ours: below them, a change cannot help much.
REFORMATS = 0.10  # of the sum of layers
DOMINANT = 0.25
NOTABLE = 0.01
SUM_ABOVE, SUM_BELOW = 1.10, 0.80  # sum of layers over the inference
# Tensor cores read channels in groups of 16 bytes, int8 convolutions of 32 channels: NVIDIA's "Best Practices" of TensorRT.
TILES = {"fp16": 8, "bf16": 8, "int8": 32, "fp8": 16}
_FEW_CHANNELS = 4  # images: padding them is what the first convolution does anyway
_ORDER = {"int8": 0, "fp8": 0, "fp16": 1, "bf16": 1, "fp32": 2}  # a layer with a higher number fell back
_TOP = 3
_GPU_SOURCES = ("tensorrt", "trtexec")
_SHOWN_NODES = 4
_DLA_TYPES = ("DLA", DLA_COPY, DLA_WAIT)


def find(record: ModelProfileRecord) -> tuple[Finding, ...]:
    """All findings, those about the whole inference first."""
    checks: Sequence[Callable[[ModelProfileRecord], Finding | None]] = (
        _launch_bound, _copy_bound, _unstable, _reformats, _fallback, _dla, _tiles, _depthwise, _dominant, _sum, _top,
    )  # fmt: skip
    return tuple(found for check in checks if (found := check(record)) is not None)


def _launch_bound(record: ModelProfileRecord) -> Finding | None:
    if record.measured is not None:
        enqueue, gpu = record.measured.enqueue_ms, record.measured.gpu_ms
        limit, reason = LAUNCH_BOUND, "a device that waits for the host looks busy, so that the two times come close"
    else:
        enqueue, gpu = _median(record, "enqueue"), _median(record, "gpu")
        limit, reason = TRTEXEC_BOUND, "trtexec warns from there on"
    if not enqueue or not gpu or enqueue < limit * gpu:
        return None
    if record.fingerprint.get("cuda_graph") in (True, "Enabled"):
        remedy = "fewer layers, or a larger batch: CUDA graphs are in use already"
    elif record.measured is not None:
        remedy = "measure with --cuda-graph, and launch the network as one CUDA graph"
    else:
        remedy = "launch the network as one CUDA graph (trtexec --useCudaGraph)"
    return Finding(
        kind="launch-bound",
        title="The host is the limit, not the GPU",
        text=f"Handing over one inference takes {_ms(enqueue)}, computing it {_ms(gpu)}: {enqueue / gpu:.0%} of the GPU time. "
        f"Threshold {limit:.0%}: {reason}.",
        layers=(), share=None, remedy=remedy,
    )  # fmt: skip


def _copy_bound(record: ModelProfileRecord) -> Finding | None:
    gpu = _median(record, "gpu")
    for kind, what in (("h2d", "to the GPU"), ("d2h", "from the GPU")):
        copy = _median(record, kind)
        if copy and gpu and copy >= TRTEXEC_BOUND * gpu:
            return Finding(
                kind="copy-bound",
                title=f"Copies {what} take as long as computing",
                text=f"Copies {what} take {_ms(copy)}, computing {_ms(gpu)}: {copy / gpu:.0%}. Threshold {TRTEXEC_BOUND:.0%}: "
                "trtexec warns from there on.",
                layers=(), share=None,
                remedy="send smaller types (fp16 or uint8 inputs), or use memory that CPU and GPU of a Jetson share",
            )  # fmt: skip
    return None


def _unstable(record: ModelProfileRecord) -> Finding | None:
    count = None
    if record.measured is not None:
        samples = [value for samples in record.measured.samples_ms for value in samples]
        variation = statistics.pstdev(samples) / statistics.fmean(samples) if len(samples) > 1 else None
        what, count = "inferences", len(samples)
    else:
        gpu = record.reported.get("gpu")
        variation, what = (gpu.variation if gpu else None), "GPU times"
    if variation is None or variation <= UNSTABLE:
        return None
    return Finding(
        kind="unstable",
        title="The times vary",
        text=f"Standard deviation of the {what} over their mean: {variation:.1%}{f' (n={count})' if count else ''}. "
        f"Threshold {UNSTABLE:.0%}: trtexec warns above it.",
        layers=(), share=None,
        remedy="lock the clocks (--lock-clocks, or jetson_clocks), stop other work, and measure again"
        if record.measured is not None
        else "lock the clocks (jetson_clocks) or add --useSpinWait, and run trtexec again",
    )  # fmt: skip


def _reformats(record: ModelProfileRecord) -> Finding | None:
    layers = [layer for layer in _timed(record) if layer.is_reformat]
    share = _share(layers)
    if share <= REFORMATS:
        return None
    return Finding(
        kind="reformats",
        title="Much time changes formats only",
        text=f"{len(layers)} {'reformat takes' if len(layers) == 1 else 'reformats take'} {share:.1%} of the sum of layers. Threshold {REFORMATS:.0%}: below it there is little "
        "to win. The largest: " + _listed(layers) + ".",
        layers=_names(layers), share=share,
        remedy="let the engine read and write its own format and precision (trtexec --inputIOFormats, --outputIOFormats), keep "
        "neighbouring layers in one precision, and replace operators that need another format",
    )  # fmt: skip


def _fallback(record: ModelProfileRecord) -> Finding | None:
    asked = record.precision
    if asked not in _ORDER or _ORDER[asked] == max(_ORDER.values()):
        return None
    layers = [
        layer
        for layer in record.layers
        if not layer.is_reformat and layer.precision in _ORDER and _ORDER[layer.precision] > _ORDER[asked]
    ]
    share = _share(layers)
    if not layers or (record.layers_sum_ms is not None and share < NOTABLE):
        return None
    other = ", ".join(sorted({str(layer.precision) for layer in layers}))
    amount = "" if record.layers_sum_ms is None else f", {share:.1%} of the sum of layers (threshold {NOTABLE:.0%})"
    return Finding(
        kind="fallback",
        title=f"Layers run in {other}, not in {asked}",
        text=f"{len(layers)} of {sum(not layer.is_reformat for layer in record.layers)} layers run in {other}{amount}. "
        "The largest: " + _listed(layers) + ".",
        layers=_names(layers), share=None if record.layers_sum_ms is None else share,
        remedy="quantise their inputs too, so that both sides of every convolution have scales"
        if asked == "int8"
        else "see whether the model asks for it (Cast nodes, types of constants); otherwise these kernels were faster",
    )  # fmt: skip


def _dla(record: ModelProfileRecord) -> Finding | None:
    if not any(layer.device == "dla" for layer in record.layers):
        return None
    between = [layer for layer in record.layers if layer.type in (DLA_COPY, DLA_WAIT)]
    devices = [
        layer.device for layer in record.layers if layer.type not in (DLA_COPY, DLA_WAIT) and not layer.is_reformat
    ]
    changes = sum(one != other for one, other in itertools.pairwise(devices))
    if not changes and not between:
        return None
    parts, share = devices.count("dla"), _share(between)
    text = f"{parts} part{'s' * (parts != 1)} on the DLA; the work changes {changes} time{'s' * (changes != 1)} between DLA and GPU."
    if share:
        text += (
            f" Copies and waiting take {share:.1%} of the sum of layers. A copy from the DLA starts when the DLA is done: most of "
            "that time is the DLA's computing, which the profiler of the GPU does not see."
        )
    return Finding(
        kind="dla-transitions",
        title="The network changes between DLA and GPU",
        text=text, layers=_names(between), share=share or None,
        remedy="choose the cut so that few and small tensors cross it, and replace the operators that the DLA lacks",
    )  # fmt: skip


def _tiles(record: ModelProfileRecord) -> Finding | None:
    if record.source not in _GPU_SOURCES:
        return None
    layers, padded = [], []
    for layer in record.layers:
        tile = TILES.get(layer.precision or "")
        channels = _channels(layer)
        if tile is None or channels is None or layer.groups != 1 or layer.device == "dla":
            continue
        read, made = channels
        waste = 1 - read * made / (_padded(read, tile) * _padded(made, tile))
        if read > _FEW_CHANNELS and waste > 0:
            layers.append(layer)
            padded.append(f"{_short(layer)} ({read} to {made} channels, {waste:.0%} of the tile is empty)")
    if not layers or (record.layers_sum_ms is not None and _share(layers) < NOTABLE):
        return None
    tiles = " and ".join(
        f"{TILES[precision]} in {precision}" for precision in sorted({str(layer.precision) for layer in layers})
    )
    return Finding(
        kind="tile",
        title="Channels that do not fill the tensor cores' tile",
        text=f"{len(layers)} convolutions have channels that are no multiple of {tiles} (NVIDIA, Best Practices for TensorRT "
        f"Performance): {'; '.join(padded[:_TOP])}{'; ...' if len(padded) > _TOP else ''}.",
        layers=_names(layers), share=_share(layers) if record.layers_sum_ms is not None else None,
        remedy="round the numbers of channels to such multiples: the engine computes the padding anyway",
    )  # fmt: skip


def _depthwise(record: ModelProfileRecord) -> Finding | None:
    if record.source not in _GPU_SOURCES:
        return None
    layers = [
        layer
        for layer in _timed(record)
        if layer.precision == "int8" and layer.groups is not None and layer.groups > 1 and _channels(layer) is not None
    ]
    share = _share(layers)
    if share < NOTABLE:
        return None
    return Finding(
        kind="depthwise-int8",
        title="Depthwise convolutions in int8",
        text=f"{len(layers)} convolutions with groups run in int8, {share:.1%} of the sum of layers (threshold {NOTABLE:.0%}). "
        "They are limited by memory, and int8 kernels for them are often no faster than fp16.",
        layers=_names(layers), share=share,
        remedy="compare with an engine that keeps them in fp16 (no Q/DQ nodes around them)",
    )  # fmt: skip


def _dominant(record: ModelProfileRecord) -> Finding | None:
    layers = [layer for layer in _timed(record) if layer.type not in _DLA_TYPES]
    largest = max(layers, key=lambda layer: layer.share or 0.0, default=None)
    if largest is None or len(layers) < 4 or (largest.share or 0) < DOMINANT:
        return None
    share = largest.share or 0.0
    return Finding(
        kind="dominant",
        title="One layer decides",
        text=f"{_described(largest)} takes {share:.1%} of the sum of layers (threshold {DOMINANT:.0%}). Were it free, all other "
        f"layers would still take {1 - share:.1%}.",
        layers=(largest.name,), share=share,
        remedy="start with this layer: fewer channels, a smaller resolution, or another operator",
    )  # fmt: skip


def _sum(record: ModelProfileRecord) -> Finding | None:
    ratio, whole = record.layers_ratio, record.inference_ms()
    if ratio is None or whole is None or record.layers_sum_ms is None or SUM_BELOW <= ratio <= SUM_ABOVE:
        return None
    where = " on the GPU" if record.inference_is_of_gpu else ""
    numbers = (
        f"The layers sum to {_ms(record.layers_sum_ms)}, one inference takes {_ms(whole)}{where}: {ratio:.2f} times"
    )
    threshold = f"expected between {SUM_BELOW:.2f} and {SUM_ABOVE:.2f}"
    if ratio > 1:
        return Finding(
            kind="sum-above",
            title="The layers sum to more than the inference",
            text=f"{numbers} ({threshold}). Timing each layer adds time to each, most to the shortest, and layers that overlap are "
            "counted twice.",
            layers=(), share=None, remedy="use the shares to compare layers, and the inference for how fast the model is",
        )  # fmt: skip
    return Finding(
        kind="sum-below",
        title="Time outside the layers",
        text=f"{numbers} ({threshold}). {_ms(whole - record.layers_sum_ms)} are outside the layers: launches, gaps between them, "
        "copies, the runtime's own work.",
        layers=(), share=None,
        remedy="fewer and larger layers, or one CUDA graph" if record.source in _GPU_SOURCES else "fewer and larger layers",
    )  # fmt: skip


def _top(record: ModelProfileRecord) -> Finding | None:
    layers = [layer for layer in _timed(record) if not layer.is_reformat and layer.type not in _DLA_TYPES]
    if len(layers) <= _TOP:
        return None
    largest = sorted(layers, key=lambda layer: -(layer.share or 0.0))[:_TOP]
    share = _share(largest)
    return Finding(
        kind="top-layers",
        title="The three layers to change first",
        text=f"Together {share:.1%} of the sum of layers: "
        + "; ".join(f"{_described(layer)}, {layer.share or 0:.1%}" for layer in largest)
        + ".",
        layers=_names(largest), share=share,
        remedy="halving the time of all three takes "
        f"{share / 2:.1%} off the sum; halving any other layer takes less than {(largest[-1].share or 0) / 2:.1%}",
    )  # fmt: skip


def _timed(record: ModelProfileRecord) -> list[LayerRecord]:
    return [layer for layer in record.layers if layer.share is not None]


def _share(layers: Sequence[LayerRecord]) -> float:
    return min(1.0, math.fsum(layer.share or 0.0 for layer in layers))


def _names(layers: Sequence[LayerRecord]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer.name for layer in layers))


def _median(record: ModelProfileRecord, kind: str) -> float | None:
    found = record.reported.get(kind)  # type: ignore[call-overload]
    return None if found is None else found.median_ms


def _listed(layers: Sequence[LayerRecord]) -> str:
    largest = sorted(layers, key=lambda layer: -(layer.share or 0.0))[:_TOP]
    return "; ".join(
        _short(layer) if layer.share is None else f"{_short(layer)} {layer.share:.1%}" for layer in largest
    )


def _described(layer: LayerRecord) -> str:
    """`conv1 + relu1 (Convolution, fp16, 1x3x224x224 to 1x64x112x112; nodes conv1, relu1)`"""
    facts = [each for each in (layer.type, layer.precision) if each]
    shapes = [_shape(tensors) for tensors in (layer.inputs, layer.outputs)]
    if all(shapes):
        facts.append(" to ".join(str(shape) for shape in shapes))
    nodes = [] if all(node in _short(layer) for node in layer.onnx_nodes) else layer.onnx_nodes
    more = f", and {len(nodes) - _SHOWN_NODES} more" if len(nodes) > _SHOWN_NODES else ""
    text = ", ".join(facts)
    if nodes:
        text += f"{'; ' if text else ''}nodes {', '.join(_cut(node) for node in nodes[:_SHOWN_NODES])}{more}"
    return _short(layer) + (f" ({text})" if text else "")


def _short(layer: LayerRecord) -> str:
    return _cut(layer.name)


def _cut(name: str, most: int = 80) -> str:
    return name if len(name) <= most else f"{name[: most - 30]}...{name[-27:]}"


def _shape(tensors: Sequence[LayerTensor]) -> str | None:
    """Of the first tensor."""
    return "x".join(map(str, tensors[0].shape)) if tensors and tensors[0].shape else None


def _channels(layer: LayerRecord) -> tuple[int, int] | None:
    """Read and made by a convolution of images; None: it is none."""
    if "conv" not in (layer.type or "").lower() or not layer.inputs or not layer.outputs:
        return None
    read, made = layer.inputs[0].shape, layer.outputs[0].shape
    if (
        read is None
        or made is None
        or len(read) not in (3, 4, 5)
        or len(made) != len(read)
        or not read[1]
        or not made[1]
    ):
        return None
    return read[1], made[1]


def _padded(channels: int, tile: int) -> int:
    return -(-channels // tile) * tile


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value < 100 else f"{value:.1f} ms"
