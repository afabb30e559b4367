"""Values as they travel: one run after the other, floats as float32."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from lightnas_edge.errors import ModelError
from lightnas_edge.models import inputs_bytes, outputs_from_bytes, random_inputs, read_model
from tests.models import files
from tests.models.files import model, saved, value


@pytest.fixture
def two_by_two(tmp_path):
    """a: float16 (2), b: int64 scalar -> b, a."""
    made = model(
        [helper.make_node("Identity", ["b"], ["d"]), helper.make_node("Identity", ["a"], ["c"])],
        [value("a", [2], TensorProto.FLOAT16), value("b", [], TensorProto.INT64)],
        [value("d", [], TensorProto.INT64), value("c", [2], TensorProto.FLOAT16)],
    )
    return read_model(saved(tmp_path, made))


def test_inputs_follow_each_other_run_by_run(two_by_two):
    arrays = {"b": np.int64([7, 8]), "a": np.float16([[1, 2], [3, 4]])}
    sent = inputs_bytes(two_by_two, arrays)
    assert sent == b"".join(
        [np.float32([1, 2]).tobytes(), np.int64(7).tobytes(), np.float32([3, 4]).tobytes(), np.int64(8).tobytes()]
    )


def test_outputs_come_back_by_name(two_by_two):
    data = b"".join(np.int64(run).tobytes() + np.float32([run, -run]).tobytes() for run in (1, 2, 3))
    found = outputs_from_bytes(two_by_two, data, 3)
    assert found["d"].tolist() == [1, 2, 3]
    assert found["c"].tolist() == [[1, -1], [2, -2], [3, -3]]
    assert found["c"].dtype == np.float32


def test_another_number_of_bytes_is_refused(two_by_two):
    with pytest.raises(ModelError, match=r"47 bytes of outputs; 3 runs of net have 48"):
        outputs_from_bytes(two_by_two, bytes(47), 3)


def test_arrays_of_other_shapes_are_refused(two_by_two):
    with pytest.raises(ModelError, match=r"a is \[2, 3\]; 2 runs of it are \[2, 2\]"):
        inputs_bytes(two_by_two, {"a": np.zeros((2, 3)), "b": np.zeros(2)})
    with pytest.raises(ModelError, match="no values for b"):
        inputs_bytes(two_by_two, {"a": np.zeros((2, 2))})


def test_outputs_of_varying_size_are_not_read(tmp_path):
    made = model(
        [helper.make_node("NonZero", ["x"], ["y"])], [value("x", [2])], [value("y", [1, "n"], TensorProto.INT64)]
    )
    read = read_model(saved(tmp_path, made))
    with pytest.raises(ModelError, match="the size of y depends"):
        outputs_from_bytes(read, b"", 1)


def test_ids_stay_inside_their_table_and_masks_are_flags(tmp_path):
    read = read_model(saved(tmp_path, files.embedding(rows=3)), shapes={"ids": (4, 50)})
    arrays = random_inputs(read, 5, 0)
    assert set(np.unique(arrays["ids"])) == {0, 1, 2}
    assert set(np.unique(arrays["mask"])) == {0, 1}
    assert arrays["ids"].dtype == np.int64


def test_random_inputs_depend_on_the_seed_alone(tmp_path):
    read = read_model(saved(tmp_path, files.convolution()))
    first, again, other = (random_inputs(read, 2, seed)["images"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first.dtype, first.shape) == (np.float32, (2, 1, 3, 8, 8))
