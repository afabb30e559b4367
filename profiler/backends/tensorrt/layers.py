"""What each layer of an engine is, the precision it runs in, and its time: from the inspector and the profiler.

The inspector writes JSON, in these forms:
    {"Layers": ["name", ...]}    built with LAYER_NAMES_ONLY: a name, and nothing about precision
    {"Layers": [{"Name": ...}]}  built with DETAILED: "LayerType", "Inputs" and "Outputs" with a type, "TacticName"
A tensor's type is in "Format/Datatype" ("Thirty-two wide channel vectorized row major Int8 format", or "Half"); from 11
on in "Datatype". A convolution's weights are in "Weights"; from 11 on they are the first of "Constants", and the layer is
a "correlation". What Myelin generates ("kgen") is named after its operations: `__myl_MoveTran_myl0_3`. "Metadata" names
the nodes of the ONNX model ("[ONNX Layer: /conv1/Conv]", separated by U+001E, U+001F or a semicolon); where it is missing
or empty, the name of a layer does: "/conv1/Conv + /relu/Relu", "PWN(/a/Mul, /b/Add)", "{ForeignNode[/a/Mul.../b/Add]}".
The parser calls a node without a name "node_of_" and its first output.
"""

import collections
import json
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from profiler.backends import ran_in
from profiler.backends.layer_profile import ProfiledLayer, TensorInfo, distinct, to_json
from profiler.backends.onnx_file import Graph
from profiler.errors import MeasureError
from profiler.fields import JsonObject

CONVOLUTION, PRODUCT, REFORMAT, POINTWISE, OTHER = "convolution", "matrix product", "reformat", "pointwise", "other"
UNKNOWN = ran_in.UNKNOWN

_POINTWISE = {"pointwise", "pointwisev2", "elementwise", "activation", "scale", "unary"}
_PRODUCT = re.compile("gemm|matrixmultiply|matmul|fullyconnected")
_MOVES = re.compile(r"__myl_(?:Move|Tran|Resh|Slic|Conc|Cast)+_")  # a generated kernel that only moves or casts
_REFORMAT_NAME = "Reformatting CopyNode"  # what TensorRT calls them
_ONNX_LAYER = re.compile("\\[ONNX Layer: (.*?)\\](?=$|[\x1e\x1f;\\[])")
_JOINED = re.compile(r" \+ | \|\| |, |PWN\(|\)")  # of names that are joined
_FOREIGN = re.compile(r"\{ForeignNode\[(.*?)\.\.\.(.*?)\]\}")
SUM_NOTE = "the layers take longer together than the engine: each lies between two events of its own"
_TYPES = {
    "fp32": "fp32", "float": "fp32", "float32": "fp32",
    "fp16": "fp16", "half": "fp16", "float16": "fp16",
    "bf16": "bf16", "bfloat16": "bf16", "fp8": "fp8", "fp4": "fp4",
    "int8": "int8", "uint8": "uint8", "int4": "int4", "int32": "int32", "int64": "int64", "bool": "bool",
}  # fmt: skip


class Layer(NamedTuple):
    """One layer; None: TensorRT does not say."""

    name: str
    kind: Optional[str]  # convolution, matrix product, reformat, pointwise or other
    precision: Optional[str]  # fp32, fp16, int8, ...
    ms: Optional[float]
    tactic: Optional[str]
    type: Optional[str] = None  # as TensorRT names it
    onnx_layers: str = ""  # names of nodes, as the inspector writes them
    inputs: Tuple[TensorInfo, ...] = ()
    outputs: Tuple[TensorInfo, ...] = ()


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
    except (RecursionError, ValueError) as err:
        raise MeasureError("run", "the engine inspector wrote no JSON: {}".format(err), "see agent.log")
    if not isinstance(information, dict) or not isinstance(information.get("Layers"), list):
        raise MeasureError("run", "the engine inspector listed no layers", "see agent.log")
    return information


def read(information: Optional[Dict[str, Any]], times_ms: Sequence[Tuple[str, float]]) -> List[Layer]:
    """The layers of an engine, in the order of the inspector; after them those that it does not list.

    Args:
        information: of `parse`; None where there is no inspector.
        times_ms: names and mean times, from a profiler.
    """
    described = _described(information)
    places = _places([name for name, _ in times_ms], described)
    by_layer = {place: ms for place, (_, ms) in zip(places, times_ms) if place is not None}
    layers = [layer._replace(ms=by_layer.get(at)) for at, layer in enumerate(described)]
    names = {layer.name for layer in described}
    return layers + [_layer(name)._replace(ms=ms) for name, ms in times_ms if name not in names]


def profile(
    information: Optional[Dict[str, Any]],
    runs_ms: Sequence[Sequence[Tuple[str, float]]],
    total_ms: Sequence[float],
    sent: Graph,
) -> JsonObject:
    """The layer profile of an engine, in order of execution.

    Args:
        runs_ms: names and times of layers in each inference. total_ms: of each inference.
        sent: the model that the engine was built from.

    Raises:
        MeasureError: code `run`: the inferences differ in their layers.
    """
    names = [name for name, _ in runs_ms[0]]
    if not names or any([name for name, _ in run] != names for run in runs_ms):
        raise MeasureError("run", "TensorRT did not report the same layers in every inference", "see agent.log")
    described = _described(information)
    places = _places(names, described)
    layers = [_layer(name) if place is None else described[place] for name, place in zip(names, places)]
    nodes = origins(layers, sent)
    found = [
        ProfiledLayer(
            name=name,
            type=layer.type,
            precision=layer.precision,
            times_ms=[round(run[at][1], 6) for run in runs_ms],
            onnx_nodes=nodes[at],
            is_reformat=None if layer.kind is None else layer.kind == REFORMAT,
            inputs=layer.inputs,
            outputs=layer.outputs,
        )
        for at, (name, layer) in enumerate(zip(distinct(names), layers))
    ]
    warnings = [SUM_NOTE]
    if any(layer.type is None for layer in layers):
        warnings.append("TensorRT does not say what some layers are, nor in which precision they run")
    return to_json("tensorrt", len(runs_ms), found, [round(ms, 6) for ms in total_ms], warnings)


def read_back(information: Optional[Dict[str, Any]], sent: Graph, precision: str) -> Optional[ran_in.RanIn]:
    """In what the convolutions and matrix products of an engine run; None where TensorRT does not say: before 8.5.2.

    Args:
        information: of `parse`. sent: the model that the engine was built from. precision: of the job.
    """
    found = _described(information)
    heavy = [layer for layer in found if layer.kind in (CONVOLUTION, PRODUCT)]
    is_silent = any(layer.kind is None for layer in found)
    if is_silent or (not heavy and any(ran_in.is_heavy(node.op_type) for node in sent.nodes)):
        return None
    nodes = dict(zip(map(id, found), origins(found, sent)))
    return ran_in.collect([(layer.precision, nodes[id(layer)]) for layer in heavy], sent, precision)


def origins(layers: Sequence[Layer], sent: Graph) -> List[List[str]]:
    """For each layer the labels of the nodes of the model that it computes, in their order; empty where unknown."""
    places: Dict[str, int] = {}
    for at, node in enumerate(sent.nodes):
        places.setdefault(node.label, at)
        places.setdefault("node_of_" + node.label, at)
    found = [{places[name] for name in _named(layer) if name in places} for layer in layers]
    taken = set().union(*found) if found else set()
    for layer, nodes in zip(layers, found):
        if layer.onnx_layers:
            continue
        for first, last in _FOREIGN.findall(layer.name):
            if first in places and last in places:  # what lies between them and is in no other layer
                nodes.update(at for at in range(places[first], places[last] + 1) if at not in taken)
                nodes.update((places[first], places[last]))
    return [[sent.nodes[at].label for at in sorted(nodes)] for nodes in found]


def _named(layer: Layer) -> List[str]:
    """The names of nodes in the metadata of a layer, else in its name."""
    if layer.onnx_layers:
        return _ONNX_LAYER.findall(layer.onnx_layers)
    if layer.kind == REFORMAT or layer.name.startswith(_REFORMAT_NAME):  # it names the layer that it serves
        return []
    return [part.strip() for part in _JOINED.split(layer.name)]


def _described(information: Optional[Dict[str, Any]]) -> List[Layer]:
    return [] if information is None else [_layer(content) for content in information["Layers"]]


def _places(names: Sequence[str], described: Sequence[Layer]) -> List[Optional[int]]:
    """For each name that a profiler reports, the place of its layer. Layers may share a name: then their order decides.

    Where a profiler reports more or fewer layers of a name, which is which is not known.
    """
    by_name: Dict[str, List[int]] = {}
    for at, layer in enumerate(described):
        by_name.setdefault(layer.name, []).append(at)
    reported = collections.Counter(names)
    iterators = {name: iter(places) for name, places in by_name.items() if len(places) == reported[name]}
    return [next(iterators[name]) if name in iterators else None for name in names]


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
        type=_text(content, "LayerType") or None,
        onnx_layers=_text(content, "Metadata"),
        inputs=_edges(content, "Inputs"),
        outputs=_edges(content, "Outputs"),
    )


def _text(content: Dict[str, Any], key: str) -> str:
    value = content.get(key)
    return value if isinstance(value, str) else ""


def _edges(content: Dict[str, Any], side: str) -> Tuple[TensorInfo, ...]:
    tensors = content.get(side)
    found = []
    for tensor, kind in zip(tensors if isinstance(tensors, list) else [], _tensors(content, side)):
        sides = tensor.get("Dimensions") if isinstance(tensor, dict) else None
        whole = isinstance(sides, list) and all(type(one) is int for one in sides)
        name = str(tensor.get("Name", "")) if isinstance(tensor, dict) else ""
        found.append(TensorInfo(name, kind, sides if whole else None))
    return tuple(found)


def _kind(content: Dict[str, Any]) -> Optional[str]:
    written = content.get("LayerType")
    if not isinstance(written, str):
        return None
    text = written.lower()
    if text == "reformat" or (text == "kgen" and _MOVES.match(str(content.get("Name")))):
        return REFORMAT
    if text == "correlation" or "conv" in text:
        return CONVOLUTION
    if _PRODUCT.search(text):
        return PRODUCT
    return POINTWISE if text in _POINTWISE else OTHER


def _precision(content: Dict[str, Any], kind: Optional[str]) -> Optional[str]:
    """Of a convolution or product: that of its data and weights, if they agree. Of others: if all in and out have one type."""
    inputs, outputs = _tensors(content, "Inputs"), _tensors(content, "Outputs")
    if kind in (CONVOLUTION, PRODUCT):
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
