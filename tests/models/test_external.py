"""External data: inside the folder, complete, and not too large; nothing is read before all of it is checked."""

import os

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lightnas_edge.errors import ModelError
from lightnas_edge.models import external, read_model
from tests.models import files


def refused(path, *words):
    with pytest.raises(ModelError) as found:
        read_model(path)
    text = f"{found.value}\n{found.value.hint}"
    for word in words:
        assert word in text, text


def test_external_data_is_embedded(tmp_path):
    read = read_model(files.external(tmp_path))
    expected = numpy_helper.to_array(files.convolution().graph.initializer[0])

    sent = onnx.ModelProto.FromString(read.content)
    np.testing.assert_array_equal(numpy_helper.to_array(sent.graph.initializer[0]), expected)
    assert "the external data of 1 tensors in 1 file is embedded" in read.facts.changes


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("/etc/passwd", "absolute path"),
        ("C:\\weights.bin", "absolute path"),
        ("\\\\server\\share", "absolute path"),
        ("../weights.bin", "outside the folder"),
        ("sub/../../weights.bin", "outside the folder"),
        ("sub\\..\\..\\weights.bin", "outside the folder"),
        ("", "no file name"),
        ("a\0b", "no file name"),
        ("a\nb", "no file name"),
    ],
)
def test_paths_cannot_leave_the_folder(tmp_path, location, words):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    refused(files.external(folder, location, write=False), words)


def test_links_cannot_leave_the_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    os.symlink(tmp_path / "secret", folder / "weights.bin")
    refused(files.external(folder, write=False), "a link to", "cp -rL")


def test_a_loop_of_links_is_refused(tmp_path):
    os.symlink("weights.bin", tmp_path / "weights.bin")
    refused(files.external(tmp_path, write=False), "weights.bin")


def test_a_pipe_is_no_data_file(tmp_path):
    os.mkfifo(tmp_path / "weights.bin")
    refused(files.external(tmp_path, write=False), "does not have: weights.bin")


def test_missing_files_are_named(tmp_path):
    refused(files.external(tmp_path, write=False), "does not have: weights.bin", "copy the data files")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": "-1"}, "whole number"),
        ({"offset": "x"}, "whole number"),
        ({"offset": "9" * 30}, "whole number"),
        ({"offset": "17"}, "the file has 448"),
        ({"length": "100000"}, "the file has 448"),
        ({"length": "400"}, "its shape and type need 432"),
    ],
)
def test_data_that_does_not_fit_the_tensor_is_refused(tmp_path, entries, words):
    refused(files.external(tmp_path, **entries), words)


def test_more_than_one_file_can_hold_is_refused_with_the_size_before_anything_is_read(tmp_path, monkeypatch):
    path = files.external(tmp_path)
    made = onnx.ModelProto.FromString(path.read_bytes())
    size = 3 * 2**30
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(size)  # a hole: it takes no space
    tensor = made.graph.initializer[0]
    tensor.dims[:] = [size // 4]
    del tensor.external_data[:]
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="weights.bin"))
    path.write_bytes(made.SerializeToString())
    refused(path, "3.0 GiB", "at most 2 GiB")
    assert external.LARGEST_BYTES < 2**31
