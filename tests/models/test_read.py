"""Any file becomes a model that can be sent, or one message."""

import random

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lightnas_edge.errors import ModelError
from lightnas_edge.models import key, random_inputs, read_model, reference_outputs
from tests.models import files
from tests.models.files import model, saved, value
from tests.mutations import mutated_bytes


def refused(folder, made, *words, **options):
    path = made if hasattr(made, "open") else saved(folder, made)
    with pytest.raises(ModelError) as found:
        read_model(path, **options)
    text = f"{found.value}\n{found.value.hint}"
    for word in words:
        assert word in text, text
    assert found.value.hint
    assert str(path) in text
    return text


def test_an_open_first_axis_becomes_one_and_the_rest_follows(tmp_path):
    read = read_model(saved(tmp_path, files.convolution(), "my net (v2).onnx"))

    assert read.facts.name == "my-net-v2"
    assert [(each.name, each.type, each.shape) for each in read.facts.inputs] == [("images", "float32", (1, 3, 8, 8))]
    assert [each.shape for each in read.facts.outputs] == [(1, 4, 6, 6)]
    assert read.facts.changes == ("the shape of images is set to [1, 3, 8, 8], from [N, 3, 8, 8]",)
    assert read.facts.parameters == 4 * 3 * 9 + 4
    assert read.facts.macs == 4 * 6 * 6 * 3 * 9
    assert (read.facts.batch, read.facts.precision, read.facts.operators) == (1, "fp32", {"Conv": 1})
    assert read.facts.sha256 != read.facts.file_sha256
    assert key(read.content) == f"model-{read.facts.sha256[:12]}"


def test_a_file_that_needs_no_change_is_sent_byte_by_byte(tmp_path):
    path = saved(tmp_path, files.convolution((2, 3, 8, 8), (2, 4, 6, 6)))
    read = read_model(path)

    assert read.content == path.read_bytes()
    assert read.facts.changes == ()
    assert (read.facts.sha256, read.facts.batch) == (read.facts.file_sha256, 2)


def test_what_is_sent_is_the_same_for_the_same_file(tmp_path):
    path = saved(tmp_path, files.convolution())
    assert read_model(path).content == read_model(path).content


def test_all_inputs_without_sizes_are_named_with_an_example_that_works(tmp_path):
    text = refused(tmp_path, files.embedding(), "2 inputs have", "ids [batch, length]", "mask [batch, length]")
    example = text.split("for example ")[1]
    assert example == "--shape ids:1x128 --shape mask:1x128"


def test_one_shape_serves_all_axes_of_the_same_name(tmp_path):
    read = read_model(saved(tmp_path, files.embedding()), shapes={"ids": (2, 5)})

    assert [each.shape for each in read.facts.inputs] == [(2, 5), (2, 5)]
    assert [each.shape for each in read.facts.outputs] == [(2, 5, 2)]


def test_a_placeholder_that_is_repeated_does_not_make_sizes_equal(tmp_path):
    made = model(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        [value("a", ["?", "?"]), value("b", ["?", "?"])],
        [value("y", ["?", "?"])],
        value_info=[value("unused", ["?", "?"])],
    )
    text = refused(tmp_path, made, "b [?, ?]", shapes={"a": (2, 3)})
    assert "a [" not in text
    read = read_model(saved(tmp_path, made), shapes={"a": (2, 3), "b": (3, 5)})

    assert [each.shape for each in read.facts.outputs] == [(2, 5)]
    assert read.facts.macs == 2 * 3 * 5
    sent = onnx.ModelProto.FromString(read.content)
    assert "?" not in str(sent), "no axis name is left for NVIDIA's parser to compare"


def test_a_named_axis_with_two_sizes_says_nothing_about_a_third_input(tmp_path):
    made = model(
        [helper.make_node("Concat", ["a", "b", "c"], ["y"], axis=0)],
        [value(name, ["unk", 2]) for name in "abc"],
        [value("y", [None, 2])],
    )
    read = read_model(saved(tmp_path, made), shapes={"a": (3, 2), "b": (4, 2)})
    assert [each.shape for each in read.facts.inputs] == [(3, 2), (4, 2), (1, 2)]
    assert read.facts.outputs[0].shape == (8, 2)


def test_sizes_that_were_written_for_another_batch_are_inferred_again(tmp_path):
    read = read_model(saved(tmp_path, files.convolution(out=(1, 4, 6, 6))), shapes={"": (8, 3, 8, 8)})
    assert read.facts.outputs[0].shape == (8, 4, 6, 6)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"image": (1, 3, 8, 8)}, ["no input 'image'", "its inputs are images"]),
        ({"images": (1, 3, 8)}, ["4 axes", "--shape gives 3"]),
        ({"images": (1, 4, 8, 8)}, ["[N, 3, 8, 8] in the file", "[1, 4, 8, 8]"]),
        ({"images": (0, 3, 8, 8)}, ["below 1"]),
        ({"": (2**40, 3, 8, 8)}, ["2^31"]),
    ],
)
def test_a_shape_that_cannot_be_is_refused(tmp_path, shapes, words):
    refused(tmp_path, files.convolution(), *words, shapes=shapes)


def test_a_shape_without_a_name_needs_a_model_with_one_input(tmp_path):
    refused(tmp_path, files.embedding(), "2 inputs", "ids, mask", shapes={"": (1, 2)})


def test_sizes_of_zero_and_below_are_open_axes(tmp_path):
    made = files.convolution((-1, 3, 0, 8))
    refused(tmp_path, made, "images [?, 3, ?, 8]", "--shape images:1x3x640x8")
    assert read_model(saved(tmp_path, made), shapes={"": (1, 3, 8, 8)}).facts.outputs[0].shape == (1, 4, 6, 6)


def test_an_input_without_a_rank_needs_a_shape(tmp_path):
    made = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", None)], [value("y", None)])
    refused(tmp_path, made, "x [of unknown rank]", "--shape x:1")
    assert read_model(saved(tmp_path, made), shapes={"x": (2, 3)}).facts.outputs[0].shape == (2, 3)


def test_scalars_are_inputs_too(tmp_path):
    made = model([helper.make_node("Mul", ["x", "k"], ["y"])], [value("x", [2]), value("k", [])], [value("y", [2])])
    read = read_model(saved(tmp_path, made))
    assert [each.shape for each in read.facts.inputs] == [(2,), ()]
    assert read.facts.batch is None
    assert reference_outputs(read, random_inputs(read, 3, 0))["y"].shape == (3, 2)


def test_weights_that_old_files_list_as_inputs_are_no_inputs(tmp_path):
    made = files.convolution((1, 3, 8, 8), (1, 4, 6, 6))
    made.graph.input.extend([value("w", [4, 3, 3, 3]), value("b", [4])])
    read = read_model(saved(tmp_path, made))
    assert [each.name for each in read.facts.inputs] == ["images"]
    assert read.facts.changes == ("2 constants are no longer listed as inputs",)
    assert [each.name for each in onnx.ModelProto.FromString(read.content).graph.input] == ["images"]

    made.ir_version = 3
    assert read_model(saved(tmp_path, made)).facts.changes == (), "IR version 3 wants them listed"


def test_an_output_of_a_size_that_depends_on_values_is_kept_open(tmp_path):
    made = model(
        [helper.make_node("NonZero", ["x"], ["y"])], [value("x", [2, 3])], [value("y", ["?", "?"], TensorProto.INT64)]
    )
    read = read_model(saved(tmp_path, made))
    assert read.facts.outputs[0].shape == (2, None)
    assert "depends on the values" in read.facts.changes[-1]
    assert "?" not in str(onnx.ModelProto.FromString(read.content))
    assert reference_outputs(read, random_inputs(read, 2, 0)) == {}


# -- kinds of content -----------------------------------------------------------------------------------------


def test_a_quantised_model_is_int8(tmp_path):
    read = read_model(saved(tmp_path, files.quantised()))
    assert (read.facts.precision, read.facts.macs, read.facts.parameters) == ("int8", 2 * 3 * 4, 12)


def test_precision_is_that_of_the_products(tmp_path):
    def product(first, second):
        made = model(
            [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Cast", ["h"], ["c"], to=second),
             helper.make_node("MatMul", ["c", "v"], ["y"])],
            [value("x", [2, 2], first)], [value("y", [2, 2], second)],
            [files.constant("w", np.ones((2, 2)), helper.tensor_dtype_to_np_dtype(first)),
             files.constant("v", np.ones((2, 2)), helper.tensor_dtype_to_np_dtype(second))],
        )  # fmt: skip
        return read_model(saved(tmp_path, made)).facts.precision

    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    assert (product(half, half), product(single, single), product(half, single)) == ("fp16", "fp32", "mixed")
    assert product(TensorProto.DOUBLE, TensorProto.DOUBLE) == "mixed"


def test_float16_inputs_and_outputs_work(tmp_path):
    made = model(
        [helper.make_node("Relu", ["x"], ["y"])],
        [value("x", [4], TensorProto.FLOAT16)],
        [value("y", [4], TensorProto.FLOAT16)],
    )
    read = read_model(saved(tmp_path, made))
    assert (read.facts.inputs[0].type, read.facts.precision) == ("float16", "fp16")
    assert reference_outputs(read, random_inputs(read, 2, 0))["y"].dtype == np.float16


def test_subgraphs_are_counted_and_lose_their_placeholders(tmp_path):
    read = read_model(saved(tmp_path, files.branching()), shapes={"x": (3,)})
    assert read.facts.operators == {"Add": 1, "Greater": 1, "Identity": 1, "If": 1, "ReduceSum": 1}
    assert "?" not in str(onnx.ModelProto.FromString(read.content))
    assert read.facts.outputs[0].shape == (3,)


def test_local_functions_are_inlined_for_runtimes_that_do_not_read_them(tmp_path):
    read = read_model(saved(tmp_path, files.with_function()))
    assert read.facts.operators == {"Add": 1}
    assert read.facts.changes == ("1 local function is inlined",)
    assert reference_outputs(read, {"x": np.float32([[1, 2]])})["y"].tolist() == [[2, 4]]


def test_training_information_is_left_out(tmp_path):
    made = files.convolution((1, 3, 8, 8), (1, 4, 6, 6))
    made.training_info.add().algorithm.CopyFrom(made.graph)
    read = read_model(saved(tmp_path, made))
    assert read.facts.changes == ("training information is left out",)
    assert not onnx.ModelProto.FromString(read.content).training_info


@pytest.mark.parametrize(
    ("element", "shown"),
    [(TensorProto.STRING, "string"), (TensorProto.BFLOAT16, "bfloat16"), (TensorProto.COMPLEX64, "complex64")],
)
def test_types_that_cannot_be_exchanged_are_refused(tmp_path, element, shown):
    made = model([helper.make_node("Identity", ["x"], ["y"])], [value("x", [1], element)], [value("y", [1], element)])
    refused(tmp_path, made, f"input x is of type {shown}", f"output y is of type {shown}")


def test_sequences_are_refused(tmp_path):
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1])
    made = model([helper.make_node("SequenceLength", ["x"], ["y"])], [sequence], [value("y", [], TensorProto.INT64)])
    refused(tmp_path, made, "input x is no tensor but sequence")


def test_macs_say_why_they_are_not_counted(tmp_path):
    made = model(
        [helper.make_node("Einsum", ["x", "x"], ["y"], equation="ij,ij->i")], [value("x", [2, 3])], [value("y", [2])]
    )
    facts = read_model(saved(tmp_path, made)).facts
    assert (facts.macs, facts.macs_unknown) == (None, "operators of type Einsum are not counted")


def test_macs_behind_shapes_that_are_computed_are_counted_after_folding(tmp_path):
    """Exporters compute the shape of a Reshape from that of the input; ONNX alone does not follow all of that."""
    made = model(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "first"], ["n"]),
            helper.make_node("Mod", ["n", "many"], ["m"]),
            helper.make_node("Concat", ["m", "rest"], ["shape"], axis=0),
            helper.make_node("Reshape", ["x", "shape"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["y"]),
        ],
        [value("x", ["n", 2, 3])],
        [value("y", [None, None])],
        [files.constant("first", [0], np.int64), files.constant("many", [100], np.int64),
         files.constant("rest", [6], np.int64), files.constant("w", np.ones((6, 5)))],
    )  # fmt: skip
    facts = read_model(saved(tmp_path, made), shapes={"x": (4, 2, 3)}).facts
    assert (facts.macs, facts.outputs[0].shape) == (4 * 6 * 5, (4, 5))


def test_macs_inside_a_branch_are_not_counted(tmp_path):
    made = files.branching()
    (body,) = (each.g for each in made.graph.node[2].attribute if each.name == "else_branch")
    body.node[0].CopyFrom(helper.make_node("MatMul", ["x", "x"], ["e"]))
    facts = read_model(saved(tmp_path, made), shapes={"x": (3,)}).facts
    assert (facts.macs, facts.macs_unknown) == (None, "how often the body of If runs depends on values")


def test_macs_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    made = model(
        [
            helper.make_node("ConvTranspose", ["x", "w"], ["h"], strides=[2, 2]),  # 5 channels of 4x4 to 2 of 8x8
            helper.make_node("Flatten", ["h"], ["f"]),
            helper.make_node("Gemm", ["g", "f"], ["y"], transA=1, transB=1),  # (128, 3)' by (1, 128)'
        ],
        [value("x", [1, 5, 4, 4]), value("g", [128, 3])],
        [value("y", [3, 1])],
        [files.constant("w", rng.standard_normal((5, 2, 2, 2)))],
    )
    facts = read_model(saved(tmp_path, made)).facts
    assert facts.macs == (5 * 4 * 4) * (2 * 2 * 2) + 3 * 1 * 128


# -- files that are no models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b"# a text\nwith lines\n", ["not an ONNX file but text"]),
        (b"version https://git-lfs.github.com/spec/v1\noid", ["git lfs pull"]),
        (b"PK\x03\x04rest", ["torch.save"]),
        (b"ptrt" + bytes(20), ["TensorRT engine"]),
        (bytes(range(256)), ["damaged"]),
        (b"\x08\x08", ["no graph"]),
    ],
)
def test_what_is_no_onnx_file_is_named(tmp_path, content, words):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    refused(tmp_path, path, *words)


def test_missing_files_and_folders_are_refused(tmp_path):
    refused(tmp_path, tmp_path / "none.onnx", "does not exist")
    refused(tmp_path, tmp_path, "cannot read")


@pytest.mark.parametrize(("field", "shown"), [("ir", "IR version 99"), ("opset", "opset 99")])
def test_newer_formats_are_refused_with_both_versions(tmp_path, field, shown):
    made = files.convolution()
    if field == "ir":
        made.ir_version = 99
    else:
        made.opset_import[0].version = 99
    refused(tmp_path, made, shown, onnx.__version__)


def test_a_graph_that_contradicts_itself_is_refused_in_one_line(tmp_path):
    made = files.convolution()
    made.graph.node[0].input[1] = "missing"
    text = refused(tmp_path, made, "no valid ONNX model", "missing")
    assert len(text.splitlines()) == 2


def test_a_model_without_inputs_is_refused(tmp_path):
    made = model([helper.make_node("Identity", ["c"], ["y"])], [], [value("y", [1])], [files.constant("c", [1.0])])
    refused(tmp_path, made, "has no inputs")


MUTANTS = {
    "convolution": lambda: files.convolution((1, 3, 8, 8), (1, 4, 6, 6)),
    "embedding": files.embedding,
    "quantised": files.quantised,
    "branching": files.branching,
    "function": files.with_function,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_damaged_files_end_in_a_model_or_in_one_message(tmp_path, name):
    """Nothing that a file contains ends in a traceback, and what is accepted can be described."""
    content = MUTANTS[name]().SerializeToString()
    generator = random.Random(name)
    path = tmp_path / "net.onnx"
    accepted = rejected = 0
    for _ in range(400):
        path.write_bytes(mutated_bytes(content, generator))
        try:
            read = read_model(path, shapes={"ids": (1, 2)} if name == "embedding" else {})
            random_inputs(read, 1, 0)
            accepted += 1
        except ModelError as error:
            assert str(error).isprintable() and len(str(error)) < 3000
            rejected += 1
    assert accepted and rejected


def test_a_model_of_another_operator_set_is_described_without_its_definition(tmp_path):
    made = model(
        [helper.make_node("EfficientNMS_TRT", ["x"], ["y"], name="/nms"), helper.make_node("Gelu", ["x"], ["z"], domain="com.microsoft", name="/act")],
        [value("x", [1, 4])], [value("y", [1, 2]), value("z", [1, 4])], domains=["com.microsoft"],
    )  # fmt: skip
    facts = read_model(saved(tmp_path, made)).facts
    assert facts.other_operators == {"EfficientNMS_TRT": ("/nms",), "com.microsoft.Gelu": ("/act",)}
    assert facts.domains == {"com.microsoft": 1}
    assert facts.macs is None


def test_reading_leaves_what_the_model_computes(tmp_path):
    made = files.embedding()
    read = read_model(saved(tmp_path, made), shapes={"ids": (2, 5)})
    arrays = random_inputs(read, 1, 3)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    expected = session.run(None, {name: array[0] for name, array in arrays.items()})[0]
    np.testing.assert_array_equal(reference_outputs(read, arrays)["y"][0], expected)


@pytest.mark.parametrize(
    ("given", "found", "batch"),
    [([8, 3], [8, 1], 8), ([1, 3], [100, 6], 1), ([24, 24, 3], [1, 1, 3], None), ([16], [1], None)],
)
def test_the_first_side_is_a_batch_where_the_outputs_have_it_too(tmp_path, given, found, batch):
    """Throughput and multiply-accumulates are of one image, and an image as [24, 24, 3] is one."""
    axes = [axis for axis, (side, kept) in enumerate(zip(given, found, strict=True)) if side != kept and kept == 1]
    node = onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=axes or [1], keepdims=1)
    if batch == 1:
        node = onnx.helper.make_node("Expand", ["x", "shape"], ["y"])
        found = [100, 3]
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info("x", 1, given)], [onnx.helper.make_tensor_value_info("y", 1, found)],
        [onnx.helper.make_tensor("shape", 7, [2], [100, 3])] if batch == 1 else [],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    assert read_model(tmp_path / "m.onnx").facts.batch == batch
