"""Said before anything is sent: what the runtime of a board does not read."""

import pytest
from onnx import helper

from lightnas_edge.errors import ModelError
from lightnas_edge.models import check_readable, depends_on_version, read_model
from tests.models import files
from tests.models.files import model, saved, value


@pytest.fixture
def facts(tmp_path):
    made = files.convolution()
    made.opset_import[0].version = 18
    return read_model(saved(tmp_path, made)).facts


@pytest.mark.parametrize(
    ("runtime", "version", "reads"),
    [
        ("tensorrt", "8.5.2.2", 17),
        ("tensorrt", "8.2.1", 13),
        ("onnxruntime", "1.10.0", 15),
        ("onnxruntime-cuda", "1.12.1", 17),
    ],
)
def test_an_opset_above_what_is_read_is_refused_with_both(facts, runtime, version, reads):
    with pytest.raises(ModelError) as found:
        check_readable(facts, runtime, version)
    assert "opset 18" in str(found.value) and f"{version} on the board reads up to opset {reads}" in str(found.value)
    assert f"opset_version={reads}" in found.value.hint


@pytest.mark.parametrize(
    ("runtime", "version"),
    [("tensorrt", "10.3.0"), ("onnxruntime", "1.14.0"), ("onnxruntime", "1.32.0"), ("simulated", "1"), ("tensorrt", None), ("tensorrt", "?")],
)  # fmt: skip
def test_what_is_read_or_not_known_passes(facts, runtime, version):
    check_readable(facts, runtime, version)


def test_a_board_is_asked_for_its_version_only_where_it_matters(facts):
    assert depends_on_version(facts, "tensorrt")
    assert depends_on_version(facts, "onnxruntime-cuda")
    assert not depends_on_version(facts, "simulated")
    assert not depends_on_version(facts.model_copy(update={"opset": 13}), "tensorrt")


def test_versions_beyond_the_table_are_left_to_the_runtime(facts):
    newest = facts.model_copy(update={"opset": 26})
    check_readable(newest, "tensorrt", "10.13.2")
    with pytest.raises(ModelError):
        check_readable(newest, "tensorrt", "10.3.0")


def foreign(folder, operator, domain):
    made = model(
        [helper.make_node(operator, ["x"], ["y"], name="/block/one", domain=domain)],
        [value("x", [1, 4])], [value("y", [1, 4])], domains=[domain] if domain else [],
    )  # fmt: skip
    return read_model(saved(folder, made)).facts


def test_operators_of_other_runtimes_are_refused_with_their_nodes(tmp_path):
    gelu = foreign(tmp_path, "Gelu", "com.microsoft")
    with pytest.raises(ModelError, match=r"TensorRT has no com.microsoft.Gelu \(node /block/one\)"):
        check_readable(gelu, "tensorrt", "10.3.0")
    check_readable(gelu, "onnxruntime", "1.17.0")

    plugin = foreign(tmp_path, "EfficientNMS_TRT", "")
    check_readable(plugin, "tensorrt", "8.5.2")
    with pytest.raises(ModelError, match=r"ONNX Runtime has no EfficientNMS_TRT \(node /block/one\)"):
        check_readable(plugin, "onnxruntime", "1.17.0")

    trees = foreign(tmp_path, "Scaler", "ai.onnx.ml")
    with pytest.raises(ModelError, match=r"ai.onnx.ml.Scaler"):
        check_readable(trees, "tensorrt", "10.3.0")
    check_readable(trees, "onnxruntime", "1.17.0")
