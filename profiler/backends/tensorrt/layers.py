"""What each layer of an engine is, the precision it runs in, and its time: from the inspector and the profiler.

The inspector writes JSON, in these forms:
    {"Layers": ["name", ...]}    built with LAYER_NAMES_ONLY: a name, and nothing about precision
    {"Layers": [{"Name": ...}]}  built with DETAILED: "LayerType", "Inputs" and "Outputs" with a type, "TacticName"
A tensor's type is in "Format/Datatype" ("Thirty-two wide channel vectorized row major Int8 format", or "Half"); from 11
on in "Datatype". A convolution's weights are in "Weights"; from 11 on they are the first of "Constants", and the layer is
a "correlation". What Myelin generates ("kgen") is named after its operations: `__myl_MoveTran_myl0_3`.
"""

import collections
import json
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from profiler.errors import MeasureError

CONVOLUTION, REFORMAT, POINTWISE, OTHER = "convolution", "reformat", "pointwise", "other"
UNKNOWN = "unknown"

_POINTWISE = {"pointwise", "pointwisev2", "elementwise", "activation", "scale", "unary"}
_MOVES = re.compile(r"__myl_(?:Move|Tran|Resh|Slic|Conc|Cast)+_")  # a generated kernel that only moves or casts
_REFORMAT_NAME = "Reformatting CopyNode"  # what TensorRT calls them
_TYPES = {
    "fp32": "fp32", "float": "fp32", "float32": "fp32",
    "fp16": "fp16", "half": "fp16", "float16": "fp16",
    "bf16": "bf16", "bfloat16": "bf16", "fp8": "fp8", "fp4": "fp4",
    "int8": "int8", "uint8": "uint8", "int4": "int4", "int32": "int32", "int64": "int64", "bool": "bool",
}  # fmt: skip


class Layer(NamedTuple):
    """One layer; None: TensorRT does not say."""

    name: str
    kind: Optional[str]  # convolution, reformat, pointwise or other
    precision: Optional[str]  # fp32, fp16, int8, ...
    ms: Optional[float]
    tactic: Optional[str]


class Summary(NamedTuple):
    """Layers and their time by precision (`unknown` where TensorRT does not say); None: a number that some layer lacks."""

    layers: Dict[str, int]
    ms: Dict[str, Optional[float]]
    fall_backs: Optional[List[str]]  # convolutions in another precision than requested; None: kinds are unknown
    reformats: Optional[int]
    reformat_share: Optional[float]  # of the time of all layers


def parse(text: str) -> Dict[str, Any]:
    """The inspector's JSON.

    Raises:
        MeasureError: code `run`: it is none.
    """
    try:
        information = json.loads(text)
    except ValueError as err:
        raise MeasureError("run", "the engine inspector wrote no JSON: {}".format(err), "see agent.log")
    if not isinstance(information, dict) or not isinstance(information.get("Layers"), list):
        raise MeasureError("run", "the engine inspector listed no layers", "see agent.log")
    return information


def read(information: Optional[Dict[str, Any]], times_ms: Sequence[Tuple[str, float]]) -> List[Layer]:
    """The layers of an engine, in order.

    Args:
        information: of `parse`; None where there is no inspector.
        times_ms: names and mean times, from a profiler. Layers that share a name share a time, so they have none.
    """
    times = dict(times_ms)
    described = [] if information is None else [_layer(content) for content in information["Layers"]]
    names = collections.Counter(layer.name for layer in described)
    layers = [layer._replace(ms=times.get(layer.name) if names[layer.name] == 1 else None) for layer in described]
    layers += [_layer(name)._replace(ms=ms) for name, ms in times_ms if name not in names]
    return layers


def summarise(layers: Sequence[Layer], requested: str) -> Summary:
    """What the layers amount to, against the precision that the engine was built for."""
    counts: Dict[str, int] = {}
    totals: Dict[str, Optional[float]] = {}
    for layer in layers:
        precision = layer.precision or UNKNOWN
        counts[precision] = counts.get(precision, 0) + 1
        so_far = totals.get(precision, 0.0)
        totals[precision] = None if so_far is None or layer.ms is None else so_far + layer.ms
    known = all(layer.kind is not None for layer in layers)
    reformats = [layer for layer in layers if layer.kind == REFORMAT]
    convolutions = [layer for layer in layers if layer.kind == CONVOLUTION]
    total, moved = _sum(layers), _sum(reformats)
    return Summary(
        layers=counts,
        ms=totals,
        fall_backs=[c.name for c in convolutions if _fell_back(c, requested)] if known else None,
        reformats=len(reformats) if known else None,
        reformat_share=moved / total if known and total and moved is not None else None,
    )


def _fell_back(layer: Layer, requested: str) -> bool:
    """Squeeze-and-excitation is in float by the graph, in int8 too."""
    by_graph = requested == "int8" and ".squeeze." in layer.name
    return layer.precision not in (requested, None) and not by_graph


def _sum(layers: Sequence[Layer]) -> Optional[float]:
    times = [layer.ms for layer in layers]
    return None if None in times else sum(ms for ms in times if ms is not None)


def _layer(content: object) -> Layer:
    if not isinstance(content, dict):
        name = str(content)
        return Layer(name, REFORMAT if name.startswith(_REFORMAT_NAME) else None, None, None, None)
    kind = _kind(content)
    tactic = content.get("TacticName")
    return Layer(
        name=str(content.get("Name", "")),
        kind=kind,
        precision=_precision(content, kind),
        ms=None,
        tactic=tactic if isinstance(tactic, str) and tactic else None,
    )


def _kind(content: Dict[str, Any]) -> Optional[str]:
    written = content.get("LayerType")
    if not isinstance(written, str):
        return None
    text = written.lower()
    if text == "reformat" or (text == "kgen" and _MOVES.match(str(content.get("Name")))):
        return REFORMAT
    if text == "correlation" or ("conv" in text and "deconv" not in text):
        return CONVOLUTION
    return POINTWISE if text in _POINTWISE else OTHER


def _precision(content: Dict[str, Any], kind: Optional[str]) -> Optional[str]:
    """A convolution's: that of its data and weights, if they agree. Another layer's: if all in and out have one type."""
    inputs, outputs = _tensors(content, "Inputs"), _tensors(content, "Outputs")
    if kind == CONVOLUTION:
        weights = content.get("Weights")
        found = set(inputs[:1] + _tensors(content, "Constants")[:1])
        if isinstance(weights, dict) and "Type" in weights:
            found.add(_type(weights["Type"]))
    else:
        found = set(inputs + outputs)
    return found.pop() if len(found) == 1 else None


def _tensors(content: Dict[str, Any], side: str) -> List[Optional[str]]:
    tensors = content.get(side)
    if not isinstance(tensors, list):
        return []
    return [
        _type(tensor.get("Datatype", tensor.get("Format/Datatype"))) if isinstance(tensor, dict) else None
        for tensor in tensors
    ]


def _type(text: object) -> Optional[str]:
    words = re.findall(r"[a-z]+\d*", text.lower()) if isinstance(text, str) else []
    found = {_TYPES[word] for word in words if word in _TYPES}
    return found.pop() if len(found) == 1 else None
