"""Whether a board's runtime reads a model, before the model is sent."""

from __future__ import annotations

from lightnas_edge.errors import ModelError
from lightnas_edge.graph.opsets import READS, readable_opset, version_of
from lightnas_edge.models.walk import DEFAULT_DOMAIN
from lightnas_edge.records.model import ModelRecord

_ONNXRUNTIME_DOMAINS = ("ai.onnx", "com.microsoft", "com.ms.", "org.pytorch.aten")
# TensorRT finds operators of other names among its plugins; of these domains it has neither operators nor plugins.
_NOT_IN_TENSORRT = ("com.microsoft", "com.ms.", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview")
_SHOWN = 3


def depends_on_version(facts: ModelRecord, runtime: str) -> bool:
    """Whether some versions of the runtime do not read the model's opset."""
    rows = READS.get(runtime.partition("-")[0], ())
    return any(opset < facts.opset for _, opset in rows)


def check_readable(facts: ModelRecord, runtime: str, version: str | None) -> None:
    """Refuse a model that the runtime of a board is known not to read.

    Args:
        runtime: name of a backend: tensorrt, onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt. Others read everything.
        version: as the runtime gives it: 10.3.0.30, 1.17.1; None where it is not known.

    Raises:
        ModelError: an opset above what this version reads, or operators that this runtime lacks, with their nodes.
    """
    name = runtime.partition("-")[0]
    if name not in READS:
        return
    shown = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime"}[name]
    parsed = version_of(version or "")
    readable = None if parsed is None else readable_opset(name, parsed)
    if readable is not None and readable.is_limit and facts.opset > readable.opset:
        raise ModelError(
            f"{facts.name} has opset {facts.opset}; {shown} {version} on the board reads up to opset {readable.opset}",
            hint=f"export it again with opset {readable.opset}: torch.onnx.export(..., opset_version={readable.opset})",
        )
    missing = {operator: nodes for operator, nodes in facts.other_operators.items() if _lacks(name, operator)}
    if missing:
        raise ModelError(
            f"{shown} has no " + "; no ".join(_with_nodes(operator, nodes) for operator, nodes in missing.items()),
            hint="export the model with operators of ONNX itself"
            + ("; graphs that ONNX Runtime optimised and saved run only there" if name == "tensorrt" else ""),
        )


def _lacks(runtime: str, operator: str) -> bool:
    domain = operator.rpartition(".")[0]
    if runtime == "tensorrt":
        return domain.startswith(_NOT_IN_TENSORRT)
    return not domain or domain == DEFAULT_DOMAIN or not domain.startswith(_ONNXRUNTIME_DOMAINS)


def _with_nodes(operator: str, nodes: tuple[str, ...]) -> str:
    named = [node for node in nodes if node]
    more = len(nodes) > _SHOWN
    return operator + (f" (node{'s' * (len(named) > 1)} {', '.join(named[:_SHOWN])}{', ...' * more})" if named else "")
