"""Engines and the precisions that they compute in, as the agent has them: checked here, so that nothing is sent in vain."""

from __future__ import annotations

from typing import get_args

from lightnas_edge.graph import Precision

PRECISIONS: tuple[str, ...] = get_args(Precision)
PRECISIONS_OF: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "onnxruntime-cuda": ("fp32",),
    "onnxruntime-tensorrt": ("fp32", "fp16"),
    "simulated": PRECISIONS,
    "tensorrt": PRECISIONS,
}


def why_impossible(backend: str, precision: str) -> str | None:
    """Why an engine does not compute in a precision; None where it does. An unknown engine is the agent's to refuse."""
    if precision in PRECISIONS_OF.get(backend, (precision,)):
        return None
    is_half_on_cpu = (backend, precision) == ("onnxruntime", "fp16")
    why = ": a CPU has no fp16 kernels; ONNX Runtime converts to float32 and would time that" * is_half_on_cpu
    return f"the backend {backend} measures {' and '.join(PRECISIONS_OF[backend])}, not {precision}{why}"
