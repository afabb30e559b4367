"""A virtual board with a TensorRT of version 11 refuses what NVIDIA's builder, which has the API of 11, refuses."""

import json

import numpy as np
import onnx
import pytest

from devices.virtual import make_board
from lightnas_edge.graph import Arithmetic, model_bytes, network_model
from lightnas_edge.space import Architecture, load_space
from profiler.backends.simulated import Simulated
from profiler.errors import MeasureError
from profiler.system import System
from tests.tensorrt_rtx.real_builder import build

PRECISIONS = ["fp32", "fp16", "int8"]


def network(arithmetic):
    space = load_space("tiny")
    chosen = Architecture.random(space, np.random.default_rng(0))
    return model_bytes(network_model(space, chosen, arithmetic=arithmetic))


def symmetric(model):
    """With zero points of 0: what remains of the other runtime's dialect are uint8 and the biases of int32."""
    loaded = onnx.load_model_from_string(model)
    for tensor in loaded.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.uint8:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(values), tensor.name))
    return loaded.SerializeToString()


MODELS = {
    "fp32": lambda: network(Arithmetic("fp32")),
    "fp16": lambda: network(Arithmetic("fp16")),
    "int8": lambda: network(Arithmetic("int8", "tensorrt")),
    "int8 ort": lambda: network(Arithmetic("int8", "ort")),
    "int8 ort, zero points 0": lambda: symmetric(network(Arithmetic("int8", "ort"))),
}


def refusal(load):
    """Why, and what to do; None where it is accepted."""
    try:
        load()
    except MeasureError as err:
        return err
    return None


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_both_refuse_the_same_for_the_same_reason(tmp_path, name, precision):
    make_board(tmp_path / "board", "jetson-agx-xavier")
    path = tmp_path / "board" / "virtual.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tensorrt": {"version": "11.4.0", "opset": None}}))
    model = MODELS[name]()

    virtual = refusal(lambda: Simulated(precision, 1, 1, System(str(tmp_path / "board"))).load(model))
    real = refusal(lambda: build(model, precision))

    assert (virtual is None) == (real is None) == (name == precision)
    if real is not None and virtual is not None:
        assert virtual.code == real.code == "load"
        is_parser = "cannot parse the model" in real.message
        assert ("cannot parse the model" in virtual.message) == is_parser
        if is_parser:  # the same node; what is said of it is in words of our own
            assert virtual.message.split("node ")[1].split(" ")[0] == real.message.split("node ")[1].split(" ")[0]
        else:
            assert virtual.message.partition(", and ")[2] == real.message.partition(", and ")[2]
            assert virtual.remedy == real.remedy
