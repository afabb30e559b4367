"""The file of a layer profile, which docs/formats.md describes."""

from typing import Dict, List, NamedTuple, Optional, Sequence

from profiler.fields import JsonObject

SCHEMA = 1
# Element type, as numpy names it -> as a profile names it.
PRECISIONS = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class TensorInfo(NamedTuple):
    name: str
    type: Optional[str]  # fp32, fp16, int8, uint8, int64, ...
    shape: Optional[List[int]]


class ProfiledLayer(NamedTuple):
    """One kernel or layer that the runtime times; None: it does not say."""

    name: str
    type: Optional[str]
    precision: Optional[str]  # what it computes in
    times_ms: List[float]  # one per run
    onnx_nodes: List[str]  # of the model sent; empty: unknown
    is_reformat: Optional[bool]
    inputs: Sequence[TensorInfo] = ()
    outputs: Sequence[TensorInfo] = ()


def precision_name(element: Optional[str]) -> Optional[str]:
    """The name of an element type in a profile."""
    return None if element is None else PRECISIONS.get(element, element)


def to_json(
    source: str, runs: int, layers: Sequence[ProfiledLayer], total_ms: Optional[List[float]], warnings: Sequence[str]
) -> JsonObject:
    """The JSON of a profile.

    Args:
        total_ms: the whole inference of each run, in the mode in which the layers were timed.
    """
    return {
        "kind": "layer-profile",
        "schema": SCHEMA,
        "source": source,
        "runs": runs,
        "layers": [_layer(layer) for layer in layers],
        "total_ms": total_ms,
        "warnings": list(warnings),
    }


def _layer(layer: ProfiledLayer) -> JsonObject:
    found: JsonObject = dict(layer._asdict())
    for side in ("inputs", "outputs"):
        found[side] = [dict(tensor._asdict()) for tensor in found[side]]
    return found


def distinct(names: Sequence[str]) -> List[str]:
    """The names, where one that occurs again gets its number: a layer is identified by its name."""
    seen: Dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else "{} #{}".format(name, seen[name]))
    return found
