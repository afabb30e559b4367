"""ONNX Runtime's quantisation tools, imported without what their package does to the module search path."""

from __future__ import annotations

import sys


def import_tools() -> None:
    """Import them; afterwards an ordinary import finds them.

    `onnxruntime.transformers` appends its own folder to the search path. It holds a module `profiler`, which hides our package of
    that name where it is found later, as in an editable installation.
    """
    before = list(sys.path)
    try:
        import onnxruntime.quantization.calibrate
        import onnxruntime.quantization.onnx_model
        import onnxruntime.quantization.registry
        import onnxruntime.transformers.float16  # noqa: F401
    finally:
        sys.path[:] = before
