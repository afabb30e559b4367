"""Whether a runtime reads a model, as far as is known before it is sent."""

from __future__ import annotations

import re

from lightnas_edge.errors import ModelError
from lightnas_edge.graph.opsets import READS
from lightnas_edge.records.model import ModelRecord


def check_readable(facts: ModelRecord, runtime: str, version: str | None) -> None:
    """By its opset and its sets of operators.

    Args:
        runtime: of READS, or another, of which nothing is known. version: None where it is not known.

    Raises:
        ModelError: the runtime does not read the opset, or lacks a set of operators.
    """
    name = runtime.partition("-")[0]
    if name == "tensorrt":
        lacking = sorted(
            domain for domain in facts.domains if domain in ("com.microsoft", "ai.onnx.ml", "com.microsoft.nchwc")
        )
        if lacking:
            raise ModelError(
                f"{facts.name} uses operators of {', '.join(lacking)}, which TensorRT does not have",
                hint="export it with standard operators alone, or measure with --backend onnxruntime",
            )
    found = re.match(r"(\d+)(?:\.(\d+))?", version or "")
    if name not in READS or not found:
        return
    have = (int(found[1]), int(found[2] or 0))
    reads = [opset for since, opset in READS[name] if since <= have]
    is_newest = have >= READS[name][-1][0]  # the table says what it reads at least
    if reads and not is_newest and facts.opset > reads[-1]:
        raise ModelError(
            f"{facts.name} has opset {facts.opset}; {runtime} {version} reads up to {reads[-1]}",
            hint=f"export it again with opset {reads[-1]}, or update the board",
        )
