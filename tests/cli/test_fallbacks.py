"""The command line says what did not run in the precision that was asked for, and refuses what cannot."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.commands import run
from tests.luts.journals import FINGERPRINT, header, visit, write


def table(folder, *visits, **fingerprint):
    return write(
        folder / "t.lut.jsonl", header(fingerprint={**FINGERPRINT, "precision": "int8", **fingerprint}), *visits
    )


@pytest.fixture
def fallen(tmp_path):
    return table(
        tmp_path,
        visit("a@3x8-8s1", [1.0], ran_in={"int8": 3}),
        visit("b@3x8-8s1", [1.0], ran_in={"int8": 1, "fp32": 2}, fell_back=["b.one", "b.two"]),
        visit("net-1", [1.0], ran_in={"int8": 9}, architecture={"operators": []}),
    )


def test_lut_show_names_the_operators_that_fell_back(fallen):
    answer = run("lut", "show", fallen)

    assert answer.code == 0 and answer.out.startswith("SIMULATED: ")  # as its journal says
    assert "1 of 2 operators did not run in int8: b@3x8-8s1 (b.one, b.two)" in answer.err
    assert "networks did not run" not in answer.err
    (row,) = [line for line in answer.out.splitlines() if line.strip().startswith("b@")]
    assert "int8 1, fp32 2" in row and "fell back" in row


def test_lut_show_as_json_has_what_each_entry_ran_in(fallen):
    found = json.loads(run("lut", "show", fallen, "--json").out)

    assert found["simulated"] is True
    assert [(entry["ran_in"], entry["fell_back"], entry["engine_bytes"]) for entry in found["entries"]] == [
        ({"int8": 3}, [], None), ({"int8": 1, "fp32": 2}, ["b.one", "b.two"], None), ({"int8": 9}, [], None),
    ]  # fmt: skip


def test_what_is_not_known_is_said_and_fp32_has_no_column(tmp_path):
    answer = run("lut", "show", table(tmp_path, visit("a@3x8-8s1", [1.0])))
    assert "what 1 of 1 operators ran in is not known" in answer.err

    answer = run("lut", "show", table(tmp_path, visit("a@3x8-8s1", [1.0], ran_in={"fp32": 3}), precision="fp32"))
    assert "ran in" not in answer.out + answer.err


def test_profile_in_int8_on_this_machine_runs_in_int8(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))

    answer = run(
        "profile", "--host", "localhost", "--space", "tiny", "--precision", "int8", "--rounds", 1, "--only", "stem",
        "--only", "head", "--out", tmp_path / "t.lut.jsonl", "--json",
    )  # fmt: skip

    found = json.loads(answer.out)
    assert found["fell_back"] == {} and found["fingerprint"]["dialect"] == "ort"
    entries = json.loads(run("lut", "show", tmp_path / "t.lut.jsonl", "--json").out)["entries"]
    assert {precision for entry in entries for precision in entry["ran_in"]} == {"int8"}


def half_model(path):
    weights = np.ones((4, 3, 3, 3), np.float16)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 4, 6, 6])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    return path


@pytest.mark.parametrize("subject", ["space", "model"])
def test_fp16_on_a_cpu_is_refused_before_anything_is_written(tmp_path, monkeypatch, subject):
    model = half_model(tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))

    what = ("--space", "tiny") if subject == "space" else ("--model", model)
    answer = run("profile", "--host", "localhost", *what, "--precision", "fp16")

    assert answer.code == 2
    assert "a CPU has no fp16 kernels; ONNX Runtime converts to float32 and would time that" in answer.err
    assert "measure on a board with TensorRT" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_int8_asked_of_a_virtual_board_without_it_ends_before_any_measurement(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))

    answer = run(
        "profile",
        "--host",
        "virtual:jetson-nano",
        "--space",
        "tiny",
        "--precision",
        "int8",
        "--out",
        tmp_path / "t.jsonl",
    )

    assert answer.code == 2 and "Jetson Nano computes in fp32 and fp16, not in int8" in answer.err
    assert "use --precision fp16" in answer.err and not (tmp_path / "t.jsonl").exists()
    assert not list(tmp_path.rglob("manifest.json"))
