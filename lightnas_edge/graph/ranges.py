"""Ranges of activations: what the int8 graph of a float graph needs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from lightnas_edge.graph.arithmetic import Range


def activation_ranges(model: onnx.ModelProto, inputs: np.ndarray) -> dict[str, Range]:
    """Lowest and highest value of every activation, by ONNX Runtime on the CPU, with the names of the writer's tensors.

    Args:
        model: float32, as the writer makes it, of the inputs' batch size.
        inputs: (batch, C, H, W) float32.
    """
    import onnxruntime

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    inner = [node.output[0] for node in probed.graph.node if node.output[0] != "output"]
    probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Fused nodes would not write what is between them.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = ["output", *inner]
    found = {
        name: (float(value.min()), float(value.max()))
        for name, value in zip(names, session.run(names, {"input": inputs}), strict=True)
    }
    found["input"] = float(inputs.min()), float(inputs.max())
    last = f"{probed.graph.node[-1].name}.out"  # under its own name in a graph that continues
    return {**found, last: found["output"]}
