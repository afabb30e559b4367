"""ONNX Runtime on this machine's CPU with models of any kind. Runs under Python 3.6 and ONNX Runtime 1.10 too."""

import glob
import os
import random
import struct

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from profiler import backends
from profiler.backends import fusion, onnx_file, onnxruntime_trace, ran_in
from profiler.backends.onnxruntime import OnnxRuntime
from profiler.errors import BackendError, MeasureError
from tests.profiler.tensorrt import standin

LIGHT = sorted(glob.glob(os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light", "*.onnx")))


def open_backend(precision="fp32"):
    return backends.open_backend("onnxruntime", precision, None, 1, "/nowhere")


def model_of(nodes, inputs, outputs, weights=(), opset=13, domains=()):
    """A model of nodes; inputs and outputs are (name, type, shape)."""
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid(domain, 1) for domain in domains]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 7
    return model.SerializeToString()


def image(name="x", channels=16, kind=TensorProto.FLOAT):
    return name, kind, [1, channels, 16, 16]


def weights(outputs=16, inputs=16, kind=np.float32):
    return np.random.RandomState(outputs + inputs).standard_normal((outputs, inputs, 3, 3)).astype(kind)


def conv(source, weight, target, **attributes):
    return helper.make_node("Conv", [source, weight], [target], pads=[1] * 4, **attributes)


def residual_model():
    """No node has a name: nodes are named after their first outputs."""
    nodes = [
        conv("x", "w3", "a"),
        helper.make_node("Relu", ["a"], ["b"]),
        conv("b", "w16", "c"),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        conv("e", "w16", "f"),
        helper.make_node("Transpose", ["f"], ["g"], perm=[0, 2, 3, 1]),
        helper.make_node("Softmax", ["g"], ["y"]),
    ]
    return model_of(nodes, [image(channels=3)], [image("y")], [("w3", weights(16, 3)), ("w16", weights())])


def layers_of(profile):
    return [(layer["type"], layer["onnx_nodes"], layer["is_reformat"]) for layer in profile["layers"]]


# What is exchanged


def test_several_inputs_and_outputs_are_exchanged_in_the_model_s_order_and_types():
    engine = open_backend().load(standin.token_model())

    engine.run(2)  # ids beyond the table would fail
    standin.check_tokens(engine.evaluate(standin.tokens()))

    with pytest.raises(
        MeasureError, match="the inputs have 35 bytes, and one inference needs 36: ids 32, mask 4"
    ) as err:
        engine.evaluate(standin.tokens()[1:])
    assert "in the model's order" in err.value.remedy


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64")])
def test_floating_point_numbers_of_any_width_are_exchanged_as_float32(kind, dtype):
    model = model_of([helper.make_node("Neg", ["x"], ["y"])], [("x", kind, [2])], [("y", kind, [2])])
    engine = open_backend().load(model)
    engine.run(1)
    assert engine.evaluate(struct.pack("<2f", 1.5, -0.25)) == struct.pack("<2f", -1.5, 0.25)


@pytest.mark.parametrize("name", ["UINT8", "INT8", "INT32", "INT64", "UINT32", "BOOL"])
def test_other_types_are_exchanged_as_they_are(name):
    kind = getattr(TensorProto, name)
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], [("x", kind, [3])], [("y", kind, [3])])
    content = np.array([1, 0, 1]).astype("bool" if name == "BOOL" else name.lower()).tobytes()
    engine = open_backend().load(model)
    engine.run(1)
    assert engine.evaluate(content) == content


def test_integers_that_are_drawn_are_indices_of_any_table_and_bool_is_true():
    engine = open_backend().load(standin.token_model())
    ids, mask = engine._values[0].numpy(), engine._values[1].numpy()
    assert set(ids.ravel()) <= {0, 1} and mask.all()


def test_an_output_with_a_size_that_depends_on_values_is_timed_and_evaluated():
    model = model_of(
        [helper.make_node("NonZero", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [4])],
        [("y", TensorProto.INT64, [1, "n"])],
    )
    engine = open_backend().load(model)
    engine.run(2)
    assert engine.evaluate(struct.pack("<4f", 0, 1, 0, 1)) == struct.pack("<2q", 1, 3)


def test_an_input_without_a_fixed_shape_is_refused_with_the_option_that_fixes_it():
    model = model_of(
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 3])],
        [("y", TensorProto.FLOAT, ["n", 3])],
    )
    with pytest.raises(MeasureError, match=r"the shape of the input x is not fixed: \['n', 3\]") as caught:
        open_backend().load(model)
    assert "--shape x:" in caught.value.remedy


def test_a_batch_is_checked_where_one_is_given_and_is_null_where_none_is():
    assert open_backend().fingerprint()["batch"] is None
    open_backend().load(standin.conv_model(batch=3)).run(1)
    with pytest.raises(MeasureError, match="this job's batch size is 2"):
        backends.open_backend("onnxruntime", "fp32", 2, 1, "/nowhere").load(standin.conv_model(batch=3))


# Layers


def test_fused_layers_name_the_nodes_that_they_compute():
    profile = open_backend().layer_profile(residual_model(), 4)

    assert layers_of(profile) == [
        ("Conv", ["a", "b"], False),
        ("Conv", ["c", "d", "e"], False),
        ("Conv", ["f"], False),
        ("ReorderOutput", ["g"], True),
        ("Softmax", ["y"], False),
    ]
    assert (profile["kind"], profile["schema"], profile["source"], profile["runs"]) == (
        "layer-profile", 1, "onnxruntime", 4,
    )  # fmt: skip
    assert profile["layers"][-1]["name"] == "y"  # named after its output, not by a number
    assert [layer["precision"] for layer in profile["layers"][:1]] == ["fp32"]
    assert profile["layers"][0]["inputs"][0] == {"name": "x", "type": "fp32", "shape": [1, 3, 16, 16]}
    for run, total_ms in enumerate(profile["total_ms"]):
        assert 0 < sum(layer["times_ms"][run] for layer in profile["layers"]) <= total_ms


def test_a_product_and_its_sum_belong_to_one_layer_and_the_reshapes_around_it_to_none():
    """ONNX Runtime makes a Gemm of both, between two reshapes of its own; 1.10 keeps them apart."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="/l/MatMul"),
        helper.make_node("Add", ["m", "b"], ["a"], name="/l/Add"),
        helper.make_node("Erf", ["a"], ["y"], name="/l/Erf"),
    ]
    tensors = [("w", np.ones((8, 4), np.float32)), ("b", np.ones(4, np.float32))]
    model = model_of(nodes, [("x", TensorProto.FLOAT, [1, 6, 8])], [("y", TensorProto.FLOAT, [1, 6, 4])], tensors)

    found = [names for _, names, _ in layers_of(open_backend().layer_profile(model, 1)) if names]

    assert found in ([["/l/MatMul", "/l/Add"], ["/l/Erf"]], [["/l/MatMul"], ["/l/Add"], ["/l/Erf"]])


@pytest.mark.skipif(not LIGHT, reason="this onnx has no light models")
@pytest.mark.parametrize("path", LIGHT, ids=[os.path.basename(path) for path in LIGHT])
def test_every_node_of_a_light_model_is_in_exactly_one_layer(path):
    with open(path, "rb") as file:
        model = file.read()
    engine = open_backend().load(model)
    engine.run(1)

    profile = open_backend().layer_profile(model, 2)

    sent = onnx_file.read_graph(model)
    computed = {name for name in sent.inputs}
    wanted = []
    for node in sent.nodes:  # weights are made by nodes too: those depend on no input
        if computed.intersection(node.inputs):
            computed.update(node.outputs)
            wanted.append(node.label)
    found = [name for layer in profile["layers"] for name in layer["onnx_nodes"]]
    assert sorted(found) == sorted(wanted)
    assert all(layer["onnx_nodes"] or layer["is_reformat"] for layer in profile["layers"])
    assert {layer["precision"] for layer in profile["layers"]} == {"fp32"}
    assert profile["runs"] == len(profile["total_ms"]) == 2 and not profile["warnings"]


def test_a_model_in_half_precision_runs_in_float32_on_a_cpu_and_the_profile_says_so():
    kind = TensorProto.FLOAT16
    nodes = [conv("x", "w", "a", name="first"), conv("a", "w", "y", name="second")]
    model = model_of(nodes, [image(kind=kind)], [image("y", kind=kind)], [("w", weights(kind=np.float16))])

    profile = open_backend().layer_profile(model, 2)

    convolutions = [layer for layer in profile["layers"] if layer["type"] == "Conv"]
    assert [(layer["onnx_nodes"], layer["precision"]) for layer in convolutions] == [
        (["first"], "fp32"), (["second"], "fp32"),
    ]  # fmt: skip
    casts = [layer for layer in profile["layers"] if layer["type"] == "Cast"]
    assert casts and all(layer["is_reformat"] and not layer["onnx_nodes"] for layer in casts)


def test_a_quantised_convolution_ran_in_int8():
    scale, zero = ("s", np.array(0.05, np.float32)), ("z", np.array(0, np.uint8))
    small = ("v", np.random.RandomState(0).randint(-9, 9, (16, 16, 3, 3)).astype(np.int8))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantise"),
        helper.make_node("DequantizeLinear", ["v", "s", "zi"], ["w"], name="weight"),
        conv("d", "w", "c", name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["o"], name="requantise"),
        helper.make_node("DequantizeLinear", ["o", "s", "z"], ["y"], name="out"),
    ]
    model = model_of(nodes, [image()], [image("y")], [scale, zero, small, ("zi", np.array(0, np.int8))])

    profile = open_backend("int8").layer_profile(model, 2)

    (found,) = [layer for layer in profile["layers"] if layer["type"] == "QLinearConv"]
    assert found["precision"] == "int8"
    assert found["onnx_nodes"] == ["dequantise", "conv", "relu", "requantise"]
    assert {layer["precision"] for layer in profile["layers"] if "antizeLinear" in layer["type"]} == {None}


def test_the_layers_of_a_branch_are_part_of_the_layer_that_has_it():
    float1 = helper.make_tensor_value_info("o", TensorProto.FLOAT, [2])
    branches = {
        name: helper.make_graph([helper.make_node(op, ["x"], ["o"], name=op)], name, [], [float1])
        for name, op in (("then_branch", "Neg"), ("else_branch", "Abs"))
    }
    model = model_of(
        [helper.make_node("If", ["c"], ["m"], name="choice", **branches), helper.make_node("Exp", ["m"], ["y"], name="exp")],
        [("c", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [2])], [("y", TensorProto.FLOAT, [2])],
    )  # fmt: skip

    profile = open_backend().layer_profile(model, 3)

    assert layers_of(profile) == [("If", ["choice"], False), ("Exp", ["exp"], False)]


def test_nothing_of_a_profile_stays_on_the_disk(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    open_backend().layer_profile(residual_model(), 1)
    with pytest.raises(MeasureError):
        open_backend().layer_profile(b"no model", 1)
    assert not os.listdir(str(tmp_path))


def test_a_run_with_other_kernels_than_most_is_left_out_and_counted():
    kernel = onnxruntime_trace.Kernel("a", "Relu", 1.0, None, None)
    runs = [onnxruntime_trace.Run(1.0, [kernel])] * 2 + [onnxruntime_trace.Run(1.0, [kernel, kernel])]
    kept, warnings = onnxruntime_trace.equal_runs(runs)
    assert len(kept) == 2 and warnings == ["1 of 3 runs executed other nodes and were left out"]
    with pytest.raises(MeasureError, match="has no kernels"):
        onnxruntime_trace.equal_runs([onnxruntime_trace.Run(1.0, [])])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[3]",
        b"\xff",
        b"[" * 100_000,
        b'[{"name": "model_run", "ts": 0, "dur": 1e400}]',
        b'[{"name": "model_run", "ts": 0, "dur": 1' + b"0" * 400 + b"}]",
        b'[{"name": "model_run", "ts": "x", "dur": 1}]',
        b'[{"name": "model_run", "ts": 0, "dur": 9}, {"name": "a_kernel_time", "ts": 1, "dur": 1, "args": 3}]',
    ],
)
def test_what_is_no_trace_is_an_error(content):
    with pytest.raises(MeasureError, match="a profile that cannot be read"):
        onnxruntime_trace.read_runs(content)


# What it ran in


def int8_model():
    """A chain of two quantised convolutions with an unquantised one between them, in the dialect of ONNX Runtime."""
    random = np.random.RandomState(0)
    weights8 = [(name, random.randint(-9, 9, (16, 16, 3, 3)).astype(np.int8)) for name in ("v1", "v2")]
    constants = [("s", np.array(0.05, np.float32)), ("z", np.array(0, np.uint8)), ("zi", np.array(0, np.int8))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q1"], name="q1"),
        helper.make_node("DequantizeLinear", ["q1", "s", "z"], ["d1"], name="d1"),
        helper.make_node("DequantizeLinear", ["v1", "s", "zi"], ["w1"], name="w1"),
        conv("d1", "w1", "c1", name="first"),
        helper.make_node("QuantizeLinear", ["c1", "s", "z"], ["q2"], name="q2"),
        helper.make_node("DequantizeLinear", ["q2", "s", "z"], ["d2"], name="d2"),
        helper.make_node("Softplus", ["d2"], ["soft"], name="soft"),
        conv("soft", "w16", "c2", name="in_float"),
        helper.make_node("QuantizeLinear", ["c2", "s", "z"], ["q3"], name="q3"),
        helper.make_node("DequantizeLinear", ["q3", "s", "z"], ["d3"], name="d3"),
        helper.make_node("DequantizeLinear", ["v2", "s", "zi"], ["w2"], name="w2"),
        conv("d3", "w2", "y", name="last"),
    ]
    return model_of(nodes, [image()], [image("y")], [*constants, *weights8, ("w16", weights())])


def test_what_each_convolution_ran_in_is_read_back_from_the_optimised_graph():
    """`last` has no QuantizeLinear behind it, so ONNX Runtime has no 8-bit kernel for it; `in_float` does not ask for one."""
    model = int8_model()

    found = open_backend("int8").load(model).ran_in(model)

    assert found.counts == {"int8": 1, "fp32": 2}
    assert found.fell_back == ["last"]


def test_a_model_in_float32_ran_in_float32_and_nothing_fell_back():
    model = residual_model()
    found = open_backend().load(model).ran_in(model)
    assert (found.counts, found.fell_back) == ({"fp32": 3}, [])


def test_matrix_products_count_and_other_nodes_do_not():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], name="product"), helper.make_node("Erf", ["m"], ["y"])]
    tensors = [("w", np.ones((8, 4), np.float32))]
    model = model_of(nodes, [("x", TensorProto.FLOAT, [6, 8])], [("y", TensorProto.FLOAT, [6, 4])], tensors)
    assert open_backend().load(model).ran_in(model).counts == {"fp32": 1}


def test_a_read_back_leaves_nothing_on_the_disk_and_a_full_disk_is_an_error(monkeypatch, tmp_path):
    model = residual_model()
    engine = open_backend().load(model)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine.ran_in(model)
    assert not os.listdir(str(tmp_path))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(MeasureError, match="the optimised graph cannot be read"):
        engine.ran_in(model)


def graph_of(content):
    return onnx_file.read_graph(content)


def test_a_node_asks_for_8_bits_by_its_data_and_its_weights():
    assert ran_in.asking(graph_of(int8_model()), "int8") == {"first", "last"}


def test_a_job_of_fp16_asks_for_it_of_every_node_or_of_those_with_half_weights():
    kind = TensorProto.FLOAT16
    nodes = [
        conv("x", "w", "a", name="half"),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        conv("b", "v", "y", name="single"),
    ]
    tensors = [("w", weights(kind=np.float16)), ("v", weights())]
    mixed = graph_of(model_of(nodes, [image(kind=kind)], [image("y")], tensors))
    assert ran_in.asking(mixed, "fp16") == {"half"}
    assert ran_in.asking(graph_of(residual_model()), "fp16") == {"a", "c", "f"}
    assert ran_in.asking(mixed, "fp32") == set()


def test_more_bits_than_asked_are_a_fall_back_and_fewer_or_unknown_ones_are_not():
    sent = graph_of(int8_model())
    for precision, fell_back in (("fp32", True), ("fp16", True), ("int8", False), ("uint8", False), (None, False)):
        found = ran_in.collect([(precision, ["first", "in_float"])], sent, "int8")
        assert found.counts == {precision or "unknown": 1}
        assert found.fell_back == (["first"] if fell_back else [])


# What the runtime lacks


def message_of(model, precision="fp32"):
    with pytest.raises(MeasureError) as caught:
        open_backend(precision).load(model)
    assert caught.value.code == "load" and caught.value.remedy
    return caught.value.message


def one_node(node, kind=TensorProto.FLOAT, **options):
    return model_of([node], [("x", kind, [2])], [("y", kind, [2])], **options)


def test_an_unknown_operator_is_named_with_its_opset_and_its_node():
    for name, shown in (("/a/Mystery", "/a/Mystery"), ("", "y")):
        model = one_node(helper.make_node("Mystery", ["x"], ["y"], name=name))
        assert message_of(model).endswith("has no operator Mystery of ai.onnx opset 13, node " + shown)


def test_an_operator_of_another_domain_is_named_with_its_domain():
    node = helper.make_node("Mystery", ["x"], ["y"], name="n", domain="my.ops")
    assert message_of(one_node(node, domains=["my.ops"])).endswith("has no operator Mystery of my.ops opset 1, node n")
    assert message_of(one_node(node)).endswith("has no operator Mystery of my.ops (not imported by the model), node n")


def test_an_operator_without_a_kernel_for_its_types_is_named():
    model = one_node(helper.make_node("Selu", ["x"], ["y"], name="/act/Selu"), TensorProto.DOUBLE)
    expected = (
        "has no kernel of Selu of ai.onnx opset {}, node /act/Selu for CPUExecutionProvider and the types of its inputs"
    )
    assert message_of(model).endswith(expected.format(6))


def test_an_opset_above_what_the_runtime_reads_names_both():
    message = message_of(one_node(helper.make_node("Relu", ["x"], ["y"]), opset=99))
    assert message.startswith("ONNX Runtime") and "reads opset " in message
    assert message.endswith(" of ai.onnx at most; the model has opset 99")


def test_an_ir_version_above_what_the_runtime_reads_names_both():
    model = onnx.load_model_from_string(one_node(helper.make_node("Relu", ["x"], ["y"])))
    model.ir_version = 99
    assert message_of(model.SerializeToString()).endswith("at most; the model has IR version 99")


def test_a_type_that_numpy_lacks_is_refused_by_name():
    message = message_of(one_node(helper.make_node("Identity", ["x"], ["y"]), TensorProto.STRING))
    assert message.startswith("x is tensor(string); this backend has tensor(bool)")


# Reading models


def test_no_content_of_a_file_ends_in_another_error_than_that_it_is_no_model():
    model = residual_model()
    draw = random.Random(0)
    for _ in range(500):
        damaged = bytearray(model[: draw.randrange(len(model))])
        for _ in range(draw.randrange(4)):
            if damaged:
                damaged[draw.randrange(min(len(damaged), 400))] = draw.randrange(256)
        try:
            graph = onnx_file.read_graph(bytes(damaged))
        except ValueError:
            continue
        fusion.origins(graph, graph)


def test_a_graph_is_read_as_the_onnx_package_reads_it():
    for model in (residual_model(), standin.token_model()):
        graph, proto = onnx_file.read_graph(model), onnx.load_model_from_string(model)
        assert [(n.op_type, list(n.inputs), list(n.outputs)) for n in graph.nodes] == [
            (n.op_type, list(n.input), list(n.output)) for n in proto.graph.node
        ]
        assert list(graph.inputs) == [value.name for value in proto.graph.input]
        assert graph.opsets == {"": 13}
        assert {name: graph.values[name].shape for name in graph.initializers} == {
            tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer
        }
    assert graph.values["ids"] == onnx_file.Value("int64", (1, 4)) and graph.values["mask"].element == "bool"


@pytest.mark.parametrize("version", ["1.4.0", "1.5.2", "0.9"])
def test_a_runtime_that_is_too_old_is_refused_with_the_version_that_is_needed(monkeypatch, version):
    monkeypatch.setattr(onnxruntime, "__version__", version)

    with pytest.raises(BackendError, match=r"is too old: the agent needs 1\.6 or later"):
        OnnxRuntime("fp32", 1, 1)


def test_a_call_that_the_runtime_does_not_take_is_not_blamed_on_the_model(monkeypatch):
    def refuse(*arguments, **options):
        raise TypeError("initialize_session(): incompatible function arguments.\n    1. (self)")

    backend = OnnxRuntime("fp32", 1, 1)
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)

    with pytest.raises(MeasureError) as refusal:
        backend.load(b"")

    assert "does not take the agent's call: initialize_session()" in refusal.value.message
    assert refusal.value.remedy == "install another version of ONNX Runtime on the board"
