"""Engines and the precisions that they compute in, as the agent has them: checked here, so that nothing is sent in vain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import devices
from devices import Connection
from devices.catalogue import load_catalogue
from lightnas_edge.graph import Precision

PRECISIONS: tuple[str, ...] = get_args(Precision)
PRECISIONS_OF: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "onnxruntime-cuda": ("fp32",),
    "onnxruntime-tensorrt": ("fp32", "fp16"),
    "simulated": PRECISIONS,
    "tensorrt": PRECISIONS,
}

_ON_GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt", "simulated", "tensorrt")


def why_impossible(backend: str, precision: str) -> str | None:
    """Why an engine does not compute in a precision; None where it does. An unknown engine is the agent's to refuse."""
    if precision in PRECISIONS_OF.get(backend, (precision,)):
        return None
    is_half_on_cpu = (backend, precision) == ("onnxruntime", "fp16")
    why = ": a CPU has no fp16 kernels; ONNX Runtime converts to float32 and would time that" * is_half_on_cpu
    return f"the backend {backend} measures {' and '.join(PRECISIONS_OF[backend])}, not {precision}{why}"


def why_no_int8(fingerprint: Mapping[str, Any]) -> str | None:
    """Why the engine and the GPU that a fingerprint names do not compute in int8; None where they do or where it is not known."""
    backend = str(fingerprint.get("backend", "onnxruntime"))
    why = why_impossible(backend, "int8")
    board = load_catalogue().get(str(fingerprint.get("board", "")).removeprefix("virtual:"))
    if (
        why is not None or board is None or board.compute_capability is None
    ):  # of a generic machine the GPU is not known
        return why
    if backend not in _ON_GPU or "int8" in board.precisions:
        return None
    return f"{board.title} computes in {' and '.join(board.precisions)}, not in int8"


def why_board_lacks(connection: Connection, backend: str, precision: str) -> str | None:
    """Why the hardware of a board does not compute in a precision; None where it does, or where that is not known.

    The board is asked what it is only where some board lacks the precision.

    Raises:
        DeviceError: the board is out of reach.
    """
    gpus = {name: board for name, board in load_catalogue().items() if board.compute_capability is not None}
    if backend not in _ON_GPU or all(precision in board.precisions for board in gpus.values()):
        return None
    found = gpus.get(devices.probe(connection, backend).board.name.removeprefix("virtual:"))
    if found is None or precision in found.precisions:
        return None
    return f"{found.title} computes in {' and '.join(found.precisions)}, not in {precision}"
