"""The opset follows from the runtime, by a table."""

import pytest

from lightnas_edge.deploy import opset_for
from lightnas_edge.errors import ExportError


@pytest.mark.parametrize(
    ("target", "opset"),
    [
        ("any", 13), ("tensorrt", 13), ("tensorrt-8.0", 13), ("TensorRT 8.2.1", 13), ("tensorrt-8.5.2", 17),
        ("tensorrt-8.6", 17), ("tensorrt-10.3.0", 20), ("onnxruntime-1.10", 15), ("onnxruntime-1.32.0", 20),
    ],
)  # fmt: skip
def test_a_runtime_gets_an_opset_that_it_reads(target, opset):
    assert opset_for(target) == opset


@pytest.mark.parametrize(
    ("target", "said"), [("tflite", "unknown target"), ("tensorrt-7.1", "older than"), ("", "unknown")]
)
def test_an_unknown_or_too_old_runtime_is_refused(target, said):
    with pytest.raises(ExportError, match=said):
        opset_for(target)
