"""Which ONNX opset a runtime reads, by its version."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Newest opset that a runtime reads, by the version at which that began. Our graphs use nothing newer than opset 13
# itself, so a higher one buys nothing but the blessing of tools that complain about old files.
# TensorRT: docs/operators.md of onnx/onnx-tensorrt on the branches of 8.2 ("up to Opset 13"), 8.5 ("up to Opset 17")
# and 9.2 ("up to Opset 19"). Its Changelog.md: 8.6 carries ONNX 1.13, which has 18, but we keep to 17; 10.6 carries
# ONNX 1.17, which has 22, and 10.0 at least what 9.2 had plus one. 8.0 reads as 8.2.
# ONNX Runtime: docs/Versioning.md ("1.10: ONNX 1.10, opset 15, IR 7"; "1.13: 17"; "1.14: 18"; "1.15: 19"; "1.17: 20").
READS: Mapping[str, tuple[tuple[tuple[int, int], int], ...]] = MappingProxyType(
    {
        "tensorrt": (((8, 0), 13), ((8, 5), 17), ((9, 0), 19), ((10, 0), 20)),
        "onnxruntime": (
            ((1, 7), 13),
            ((1, 8), 14),
            ((1, 9), 15),
            ((1, 12), 17),
            ((1, 14), 18),
            ((1, 15), 19),
            ((1, 17), 20),
        ),
    }
)
