"""Squeeze-and-excitation as a choice: measured, searched, trained, exported and verified on this machine."""

import json

import numpy as np
import pytest

import luts
from lightnas_edge.predictor import lut_predictor
from lightnas_edge.search.constraints import Constraint
from lightnas_edge.search.selection import select
from lightnas_edge.space import load_space
from tests.cli.commands import run

SPACE = """
schema = 1
name = "squeezed"
input_size = 16
classes = 10
operators = [{operators}]
layers = [{{ channels = 16, stride = 2 }}, {{ channels = 16, stride = 1 }}, {{ channels = 24, stride = 2 }}]
stem = {{ channels = 8, stride = 1 }}
first = {{ operator = "mbconv_k3_e1", channels = 8 }}
head = {{ channels = 48, features = 32 }}
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squeezed")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "agent-home"))
    monkeypatch.chdir(folder)
    # Every operator squeezes, so that whatever a search of two epochs prefers is a squeezed network.
    (folder / "only.toml").write_text(SPACE.format(operators='"mbconv_k3_e2_se", "mbconv_k5_e3_se"'))
    (folder / "some.toml").write_text(SPACE.format(operators='"mbconv_k3_e2", "mbconv_k3_e2_se", "skip"'))
    answer = {"folder": folder}
    for space in ("only", "some"):
        answer[f"profile {space}"] = run(
            "profile", "--space", f"{space}.toml", "--rounds", 4, "--out", f"{space}.lut.jsonl"
        )
    answer["search"] = run(
        "search", "--space", "only.toml", "--lut", "only.lut.jsonl", "--latency-ms", 100, "--force", "--data", "digits",
        "--out", "run", "--epochs", 2, "--batch-size", 128,
    )  # fmt: skip
    answer["train"] = run("train", "run", "--epochs", 1)
    answer["export"] = run("export", "run")
    answer["verify"] = run("verify", "run", "--host", "localhost", "--rounds", 12)
    monkeypatch.undo()
    return answer


def test_a_squeezed_network_passes_all_steps(answer):
    assert {name: step.code for name, step in answer.items() if name != "folder"} == {
        "profile only": 0, "profile some": 0, "search": 0, "train": 0, "export": 0, "verify": 0,
    }  # fmt: skip
    found = json.loads((answer["folder"] / "run" / "architecture.json").read_text())["operators"]
    assert all(name.endswith("_se") for name in found)
    record = json.loads((answer["folder"] / "run" / "verify" / "verification.json").read_text())
    assert record["outputs"]["top1_agreement"] == 1.0
    assert record["outputs"]["max_abs_difference"] < 1e-3
    assert record["verdict"] == "met"


def test_a_squeeze_is_measured_as_an_operator_of_its_own_and_chosen_where_it_is_preferred(answer):
    space = load_space(answer["folder"] / "some.toml")
    table = luts.read(answer["folder"] / "some.lut.jsonl")
    predictor = lut_predictor(space, table)
    preference = np.log(np.array([[0.3, 0.6, 0.1], [0.3, 0.6, 0.1], [0.6, 0.3, 0.1]]))

    chosen = select(space, preference, [Constraint(predictor, 100.0)])

    for name in ("mbconv_k3_e2", "mbconv_k3_e2_se"):
        assert table.entries[f"{name}@16x8-24s2"].latency_ms > 0
    assert [operator.squeeze_excite for operator in chosen.architecture.operators] == [True, True, False]
