"""What TensorRT says of the layers of an engine, in the forms of its versions.

`inspector/rtx-1.7.1-*.json` is the layer list that NVIDIA's builder (TensorRT for RTX 1.7.1, the forms of version 11)
wrote for one mobile block, without strides. The ResNet-18 below is an excerpt of an inspector's list from a
desktop GPU, with rounded times (fuzzylabs/edge-vision-power-estimation, Apache-2.0).
"""

import json
import random
from pathlib import Path

import pytest

from profiler.backends.onnx_file import Graph, Node
from profiler.backends.tensorrt import layers
from profiler.errors import MeasureError

HERE = Path(__file__).parent
STEM = "/conv1/Conv + /relu/Relu"
LINEAR, BY_4, BY_8 = (
    "Row major linear FP16 format",
    "Channel major FP16 format where channel % 4 == 0",
    "Channel major FP16 format where channel % 8 == 0",
)
RESNET18 = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to " + STEM,
            "LayerType": "Reformat",
            "Inputs": [{"Name": "input", "Format/Datatype": LINEAR}],
            "Outputs": [{"Name": "Reformatted", "Format/Datatype": BY_4}],
        },
        {
            "Name": STEM,
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "Reformatted", "Format/Datatype": BY_4}],
            "Outputs": [{"Name": "/relu/Relu_output_0", "Format/Datatype": BY_8}],
            "Weights": {"Type": "Half", "Count": 9408},
            "TacticName": "sm80_xmma_fprop_implicit_gemm_indexed_wo_smem_f16f16_f16f16_f16_nhwckrsc_nhwc",
        },
        {
            "Name": "/maxpool/MaxPool",
            "LayerType": "CaskPooling",
            "Inputs": [{"Name": "/relu/Relu_output_0", "Format/Datatype": BY_8}],
            "Outputs": [{"Name": "/maxpool/MaxPool_output_0", "Format/Datatype": BY_8}],
        },
    ],
    "Bindings": ["input", "output"],
}
TIMES = [("Reformatting CopyNode for Input Tensor 0 to " + STEM, 0.008), (STEM, 0.024), ("/maxpool/MaxPool", 0.016)]


def of_rtx(precision):
    return layers.read(layers.parse((HERE / "inspector" / f"rtx-1.7.1-{precision}.json").read_text()), [])


def kinds(found):
    return [(layer.kind, layer.precision) for layer in found]


def test_layers_have_kind_precision_tactic_and_time():
    found = layers.read(RESNET18, TIMES)
    assert kinds(found) == [("reformat", "fp16"), ("convolution", "fp16"), ("other", "fp16")]
    assert [layer.ms for layer in found] == [0.008, 0.024, 0.016]
    assert found[1].tactic.startswith("sm80_xmma_fprop") and found[0].tactic is None


def test_the_share_of_reformats_is_one_of_time():
    """8 of 48 microseconds."""
    summary = layers.summarise(layers.read(RESNET18, TIMES), "fp16")
    assert summary.layers == {"fp16": 3} and summary.ms["fp16"] == pytest.approx(0.048)
    assert (summary.reformats, summary.fall_backs) == (1, [])
    assert summary.reformat_share == pytest.approx(8 / 48)


def test_convolutions_in_another_precision_than_requested_are_fall_backs():
    assert layers.summarise(layers.read(RESNET18, TIMES), "int8").fall_backs == [STEM]


def test_the_builder_s_own_list_in_half_precision_is_three_convolutions_between_two_moves():
    found = of_rtx("fp16")
    assert kinds(found) == [("reformat", "fp16"), *[("convolution", "fp16")] * 3, ("reformat", "fp16")]
    assert layers.summarise(found, "fp16").fall_backs == []
    assert layers.summarise(found, "fp16").reformat_share is None  # nothing was timed


def test_the_builder_s_own_list_in_int8_has_every_convolution_in_int8():
    found = of_rtx("int8")
    assert [layer.precision for layer in found if layer.kind == "convolution"] == ["int8"] * 3
    assert layers.summarise(found, "int8").fall_backs == []
    scaling = [layer for layer in found if layer.kind == "other"]
    assert scaling and {layer.precision for layer in scaling} == {None}  # float in, int8 out: neither


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("Half", "fp16"),
        ("BFloat16", "bf16"),
        ("N/A due to dynamic shapes", None),
        ("FP16 or FP32", None),
        (7, None),
        (None, None),
    ],
)
def test_a_type_is_read_from_its_words_and_never_guessed(text, precision):
    tensor = {"Format/Datatype": text}
    content = {"Layers": [{"Name": "n", "LayerType": "conv", "Inputs": [tensor], "Outputs": [tensor]}]}
    assert layers.read(content, [])[0].precision == precision


def test_weights_and_data_of_different_types_leave_the_precision_open():
    stem = dict(RESNET18["Layers"][1], Weights={"Type": "Float"})
    (found,) = layers.read({"Layers": [stem]}, [])
    assert (found.kind, found.precision) == ("convolution", None)


def test_names_alone_say_nothing_but_that_a_layer_reformats():
    names = [layer["Name"] for layer in RESNET18["Layers"]]
    found = layers.read({"Layers": names}, TIMES)
    assert kinds(found) == [("reformat", None), (None, None), (None, None)]
    assert [layer.ms for layer in found] == [0.008, 0.024, 0.016]
    summary = layers.summarise(found, "fp16")
    assert (summary.fall_backs, summary.reformats, summary.reformat_share) == (None, None, None)
    assert summary.layers == {"unknown": 3}


def test_layers_that_share_a_name_share_a_time_so_they_have_none():
    stem = RESNET18["Layers"][1]
    found = layers.read({"Layers": [stem, stem]}, TIMES[1:2])
    assert [layer.ms for layer in found] == [None, None]
    assert layers.summarise(found, "fp16").ms == {"fp16": None}


def test_without_an_inspector_the_profiler_s_names_remain():
    assert layers.read(None, [("conv", 0.5)]) == [layers.Layer("conv", None, None, 0.5, None)]


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"Layers": 3}'])
def test_what_is_no_list_of_layers_is_an_error(text):
    with pytest.raises(MeasureError, match="the engine inspector"):
        layers.parse(text)


def test_no_content_of_a_list_ends_in_a_traceback():
    draw = random.Random(0)
    values = [None, 3, "text", [], {}, ["a"], {"Type": []}, True]
    for _ in range(300):
        content = json.loads(json.dumps(RESNET18))
        layer = draw.choice(content["Layers"])
        if draw.random() < 0.3:
            content["Layers"][0] = draw.choice(values)
        layer[draw.choice(sorted(layer))] = draw.choice(values)
        layers.summarise(layers.read(layers.parse(json.dumps(content)), TIMES), "fp16")


def graph_of(*labels):
    """A chain of nodes with these names; a name that begins with `=` is that of the output of a node without one."""
    nodes = [
        Node("" if label.startswith("=") else label, "Op", "", ("x",), (label.lstrip("="),), ()) for label in labels
    ]
    return Graph(tuple(nodes), ("x",), (), (), {}, {})


def nodes_of(name, metadata="", sent=("/a/Conv", "/b/Relu", "/c/Mul", "/d/Add", "/e/Softmax")):
    content = {"Name": name, "LayerType": "kgen", "Metadata": metadata}
    return layers.origins(layers.read({"Layers": [content]}, []), graph_of(*sent))[0]


@pytest.mark.parametrize("separator", ["\x1e", "\x1f", ";", ""])
def test_the_nodes_of_a_layer_are_those_of_its_metadata_in_the_model_s_order(separator):
    metadata = f"[ONNX Layer: /c/Mul]{separator}[ONNX Layer: /a/Conv]{separator}[ONNX Layer: /not/there]"
    assert nodes_of("__myl_Mul_myl0_2", metadata) == ["/a/Conv", "/c/Mul"]


def test_a_node_without_a_name_is_found_by_its_first_output():
    assert nodes_of("kernel", "[ONNX Layer: node_of_y]", sent=("/a/Conv", "=y")) == ["y"]
    assert nodes_of("node_of_y + /a/Conv", sent=("/a/Conv", "=y")) == ["/a/Conv", "y"]


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("/a/Conv + /b/Relu", ["/a/Conv", "/b/Relu"]),
        ("PWN(/c/Mul, /d/Add)", ["/c/Mul", "/d/Add"]),
        ("PWN(PWN(/c/Mul, /d/Add), /b/Relu)", ["/b/Relu", "/c/Mul", "/d/Add"]),
        ("/a/Conv + PWN(/c/Mul)", ["/a/Conv", "/c/Mul"]),
        ("/a/Conv || /c/Mul", ["/a/Conv", "/c/Mul"]),
        ("{ForeignNode[/b/Relu.../d/Add]}", ["/b/Relu", "/c/Mul", "/d/Add"]),
        ("Reformatting CopyNode for Input Tensor 0 to /a/Conv + /b/Relu", []),
        ("copied_squeeze_after_something", []),
    ],
)
def test_without_metadata_the_nodes_of_a_layer_are_those_of_its_name(name, nodes):
    assert nodes_of(name) == nodes


def test_a_foreign_node_has_what_lies_between_its_ends_and_in_no_other_layer():
    sent = graph_of("/a/Conv", "/b/Relu", "/c/Mul", "/d/Add")
    listed = layers.read({"Layers": ["{ForeignNode[/a/Conv.../d/Add]}", "/c/Mul"]}, [])
    assert layers.origins(listed, sent) == [["/a/Conv", "/b/Relu", "/d/Add"], ["/c/Mul"]]


def test_the_builder_s_own_list_names_every_node_of_its_operator():
    content = json.loads((HERE / "inspector" / "rtx-1.7.1-fp16.json").read_text())
    sent = graph_of("operator.expand", "operator.expand.relu6", "operator.depthwise", "operator.depthwise.relu6",
                    "operator.project", "operator.add")  # fmt: skip
    runs = [[(layer["Name"], 0.125) for layer in content["Layers"]]] * 2

    profile = layers.profile(content, runs, [1.0, 1.0], sent)

    assert [layer["onnx_nodes"] for layer in profile["layers"]] == [
        [], ["operator.expand", "operator.expand.relu6"], ["operator.depthwise", "operator.depthwise.relu6"],
        ["operator.project", "operator.add"], [],
    ]  # fmt: skip
    assert [layer["is_reformat"] for layer in profile["layers"]] == [True, False, False, False, True]
    edge = profile["layers"][1]["inputs"][0]
    assert edge["type"] == "fp16" and edge["shape"] == content["Layers"][1]["Inputs"][0]["Dimensions"]


def test_the_order_of_layers_that_share_a_name_decides_which_is_which():
    listed = {"Layers": [{"Name": "copy", "LayerType": "Reformat"}, {"Name": "copy", "LayerType": "Softmax"}]}
    runs = [[("copy", 0.5), ("copy", 0.25)], [("copy", 0.75), ("copy", 0.25)]]

    profile = layers.profile(listed, runs, [1.0, 1.25], graph_of())

    assert [(layer["name"], layer["type"], layer["times_ms"]) for layer in profile["layers"]] == [
        ("copy", "Reformat", [0.5, 0.75]), ("copy #2", "Softmax", [0.25, 0.25]),
    ]  # fmt: skip


def test_a_layer_that_the_inspector_does_not_list_is_in_the_profile_without_a_type():
    profile = layers.profile(None, [[("conv", 0.5)]], [0.5], graph_of("conv"))
    assert [(each["name"], each["type"], each["onnx_nodes"]) for each in profile["layers"]] == [
        ("conv", None, ["conv"])
    ]
    assert "does not say what some layers are" in profile["warnings"][1]


@pytest.mark.parametrize("runs", [[[]], [[("a", 1.0)], [("b", 1.0)]], [[("a", 1.0)], []]])
def test_runs_of_other_layers_are_an_error(runs):
    with pytest.raises(MeasureError, match="did not report the same layers"):
        layers.profile(None, runs, [1.0] * len(runs), graph_of())


# What it ran in


def sent_block():
    """The block that the builder for RTX was given: three quantised convolutions."""
    nodes, names = [], ("expand", "depthwise", "project")
    for index, name in enumerate(names):
        source = f"{name}.in"
        nodes.append(Node(f"{name}.dequantise", "DequantizeLinear", "", (f"q{index}", "s"), (source,), ()))
        nodes.append(Node(f"{name}.weight.dequantise", "DequantizeLinear", "", (f"w{index}", "s"), (f"{name}.w",), ()))
        nodes.append(Node(f"operator.{name}", "Conv", "", (source, f"{name}.w"), (f"{name}.out",), ()))
    return Graph(tuple(nodes), ("q0",), ("project.out",), (), {}, {"": 13})


def information(precision):
    return layers.parse((HERE / "inspector" / f"rtx-1.7.1-{precision}.json").read_text())


def test_what_the_convolutions_ran_in_is_read_from_the_inspector():
    found = layers.read_back(information("int8"), sent_block(), "int8")
    assert (found.counts, found.fell_back) == ({"int8": 3}, [])


def test_a_quantised_convolution_in_half_precision_fell_back_and_its_node_is_named():
    found = layers.read_back(information("fp16"), sent_block(), "int8")
    assert found.counts == {"fp16": 3}
    assert found.fell_back == ["operator.expand", "operator.depthwise", "operator.project"]


def test_a_matrix_product_counts_by_its_data_and_weights():
    """As the builder for RTX lists a linear layer."""
    gemm = {
        "Name": "linear_myl0_53", "LayerType": "gemm", "Inputs": [{"Name": "a", "Datatype": "Int8"}],
        "Constants": [{"Name": "w", "Datatype": "Int8"}], "Outputs": [{"Name": "b", "Datatype": "Float"}],
        "Metadata": "[ONNX Layer: linear]",
    }  # fmt: skip
    sent = Graph((Node("linear", "Gemm", "", ("a", "w"), ("b",), ()),), ("a",), ("b",), (), {}, {"": 13})
    assert layers.read_back({"Layers": [gemm]}, sent, "int8").counts == {"int8": 1}
    (layer,) = layers.read({"Layers": [dict(gemm, LayerType="CaskGemmMatrixMultiply")]}, [])
    assert (layer.kind, layer.precision) == ("matrix product", "int8")


def test_names_alone_and_no_inspector_say_nothing_about_what_it_ran_in():
    names = {"Layers": [layer["Name"] for layer in RESNET18["Layers"]]}
    assert layers.read_back(names, sent_block(), "int8") is None
    assert layers.read_back(None, sent_block(), "int8") is None


def test_convolutions_that_no_layer_shows_are_not_known():
    """One node of Myelin may hold a whole network."""
    whole = {
        "Name": "{ForeignNode[operator.expand...operator.project]}",
        "LayerType": "Myelin",
        "Inputs": [],
        "Outputs": [],
    }
    assert layers.read_back({"Layers": [whole]}, sent_block(), "int8") is None


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", '{"Layers": 3}', '"x"'])
def test_what_is_no_list_of_an_inspector_is_an_error_of_this_visit(text):
    with pytest.raises(MeasureError, match="the engine inspector"):
        layers.parse(text)
