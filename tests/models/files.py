"""Small ONNX files for the tests."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def value(name, shape, element=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


def constant(name, array, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def model(nodes, inputs, outputs, constants=(), opset=17, ir=8, domains=(), **more):
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(constants), **more)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


def convolution(shape=("N", 3, 8, 8), out=("N", 4, 6, 6)):
    """3x3, 3 to 4 channels: 112 parameters with its bias."""
    rng = np.random.default_rng(0)
    return model(
        [helper.make_node("Conv", ["images", "w", "b"], ["y"], name="stem")],
        [value("images", shape)],
        [value("y", out)],
        [constant("w", rng.standard_normal((4, 3, 3, 3))), constant("b", np.zeros(4))],
    )


def embedding(rows=7):
    """ids (N, L) and a mask (N, L): a table of `rows` by 2, times the mask."""
    return model(
        [
            helper.make_node("Gather", ["table", "ids"], ["e"]),
            helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["m", "last"], ["m1"]),
            helper.make_node("Mul", ["e", "m1"], ["y"]),
        ],
        [value("ids", ["batch", "length"], TensorProto.INT64), value("mask", ["batch", "length"], TensorProto.INT64)],
        [value("y", ["batch", "length", 2])],
        [constant("table", np.arange(rows * 2).reshape(rows, 2)), constant("last", [-1], np.int64)],
    )


def quantised():
    """A matrix product between QuantizeLinear and DequantizeLinear."""
    scale, zero = constant("s", 0.1), constant("z", 0, np.int8)
    return model(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
            helper.make_node("MatMul", ["xd", "wd"], ["y"]),
        ],
        [value("x", [2, 3])],
        [value("y", [2, 4])],
        [scale, zero, constant("w", np.ones((3, 4)), np.int8)],
    )


def branching():
    """If the sum is positive, the input; else its double."""
    then = helper.make_graph([helper.make_node("Identity", ["x"], ["t"])], "then", [], [value("t", None)])
    other = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["e"], name="double")], "else", [], [value("e", ["?"])]
    )
    return model(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["positive"]),
            helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
        ],
        [value("x", ["?"])],
        [value("y", ["?"])],
        [constant("zero", 0)],
    )


def with_function():
    """`local.Double`, defined in the file."""
    function = helper.make_function(
        "local", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    made = model(
        [helper.make_node("Double", ["x"], ["y"], domain="local")],
        [value("x", [2])],
        [value("y", [2])],
        domains=["local"],
    )
    made.functions.append(function)
    return made


def external(folder, location="weights.bin", write=True, **entries):
    """The convolution with `w` in another file."""
    made = convolution()
    tensor = made.graph.initializer[0]
    raw = numpy_helper.to_array(tensor).tobytes()
    if write:
        (folder / location).write_bytes(b"\0" * 16 + raw)
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in {"location": location, "offset": "16", "length": str(len(raw)), **entries}.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=entry))
    path = folder / "net.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def saved(folder, made, name="net.onnx"):
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path
