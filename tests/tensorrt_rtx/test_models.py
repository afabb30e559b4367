"""Models that no search made, built by NVIDIA's builder: several inputs, unnamed nodes, the light models of `onnx`.

Deserialising needs a driver, so the inspector itself does not run here: its list of layers is read from the builder's log,
which writes the same fields.
"""

import os

import pytest
from onnx import helper

from profiler.backends import onnx_file
from profiler.backends.tensorrt import layers
from profiler.errors import MeasureError
from tests.profiler.tensorrt import standin
from tests.profiler.test_onnxruntime_backend import LIGHT, one_node, residual_model
from tests.tensorrt_rtx.real_builder import build


def origins(model, built):
    return layers.origins([kernel.layer for kernel in built.kernels], onnx_file.read_graph(model))


def test_a_model_with_two_inputs_of_int64_and_bool_builds_and_names_its_nodes():
    model = standin.token_model()
    built = build(model, "fp32", any_model=True)
    assert {label for labels in origins(model, built) for label in labels} == {"rows", "kept", "largest"}


def test_nodes_without_names_are_found_by_their_outputs():
    """The builder calls them `node_of_` and the output."""
    model = residual_model()
    named = [labels for labels in origins(model, build(model, "fp32", any_model=True)) if labels]
    assert named[:3] == [["a", "b"], ["c", "d", "e"], ["f"]]


@pytest.mark.parametrize("path", LIGHT, ids=os.path.basename)
def test_a_light_model_builds_and_its_kernels_name_its_nodes(path):
    with open(path, "rb") as file:
        model = file.read()

    built = build(model, "fp32", memory_bytes=8 * 2**30, any_model=True)

    found = {label for labels in origins(model, built) for label in labels}
    heavy = [node for node in onnx_file.read_graph(model).nodes if node.op_type in ("Conv", "Gemm")]
    read_by_found = {node.inputs[0] for node in heavy if node.label in found}
    missing = [node for node in heavy if node.label not in found]
    # Convolutions of one input may become one kernel, whose metadata need not name them all: 1 of 69 in Inception v2.
    assert len(missing) <= 1 and all(node.inputs[0] in read_by_found for node in missing)


@pytest.mark.parametrize(("domain", "imports"), [("", []), ("my.ops", ["my.ops"])])
def test_an_operator_that_the_builder_lacks_is_named_with_its_node(domain, imports):
    node = helper.make_node("Mystery", ["x"], ["y"], name="/a/Mystery", domain=domain)
    with pytest.raises(MeasureError) as caught:
        build(one_node(node, domains=imports), "fp32")
    opset = "my.ops opset 1" if domain else "ai.onnx opset 13"
    assert f"node /a/Mystery (Mystery of {opset}): it has no such operator" in caught.value.message
    assert "without this operator" in caught.value.remedy
