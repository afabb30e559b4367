"""`lightnas-edge precision`: what it refuses at once, its exit codes, and what it prints."""

import json

import pytest

from lightnas_edge.cli.precision import COLUMNS
from tests.cli.commands import run
from tests.models import files


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = files.convolution((1, 3, 8, 8), (1, 4, 6, 6))
    made.opset_import[0].version = 13  # the board's TensorRT reads no more
    return files.saved(tmp_path, made)


def test_a_run_or_a_model_and_not_both(net):
    for arguments in ((), ("run", "--model", net)):
        found = run("precision", *arguments, "--latency-ms", 1)
        assert found.code == 2
        assert "takes a run directory, or a float32 ONNX file" in found.err


def test_options_that_belong_to_the_other_kind_are_refused(net):
    assert "--threads: only with --model" in run("precision", "run", "--threads", 2).err
    assert "--predictor: only with a run" in run("precision", "--model", net, "--predictor", "p", "--latency-ms", 1).err


def test_an_unknown_precision_is_named(net):
    found = run("precision", "--model", net, "--latency-ms", 1, "--precision", "fp32,int4")

    assert found.code == 2
    assert "no such precision: 'int4'; choose from fp32, fp16, int8" in found.err


def test_a_number_of_images_needs_a_folder_to_take_them_from(net):
    found = run("precision", "--model", net, "--latency-ms", 1, "--calibrate", 100)

    assert found.code == 2
    assert "--calibrate 100 takes images of --data" in found.err


@pytest.mark.timeout(240)
def test_the_table_fits_a_terminal_and_everything_simulated_is_marked(net):
    """0.001 ms is below what any kernel takes: no precision keeps the budget."""
    command = ("precision", "--model", net, "--host", "virtual:jetson-nano", "--latency-ms", 0.001, "--rounds", 12)

    found = run(*command)

    assert found.code == 3
    lines = found.out.splitlines()
    assert max(map(len, lines)) <= COLUMNS
    assert lines[0].startswith("SIMULATED net on virtual:jetson-nano, measured in turns (4 passes)")
    assert lines[1].split() == ["precision", "p50", "ms", "p95", "ms", "speed", "top-1", "to", "fp32", "verdict"]
    assert [line.split()[0] for line in lines[2:4]] == ["fp32", "fp16"]
    assert any(
        line.startswith("int8: not available: Jetson Nano computes in fp32 and fp16, not in int8") for line in lines
    )
    assert any(line.startswith("SIMULATED no precision is shown to keep all budgets") for line in lines)
    record = json.loads(run(*command, "--json").out)
    assert record["choice"]["precision"] is None


@pytest.mark.timeout(240)
def test_a_file_that_the_board_cannot_load_ends_with_the_boards_own_words(net, tmp_path):
    newer = files.saved(tmp_path, files.convolution((1, 3, 8, 8), (1, 4, 6, 6)), "newer.onnx")  # opset 17

    found = run("precision", "--model", newer, "--host", "virtual:jetson-nano", "--latency-ms", 1, "--rounds", 12)

    assert found.code == 1
    assert "no precision could be measured on virtual:jetson-nano" in found.err
    assert "fp32: virtual:jetson-nano could not measure it: TensorRT 8.2.1 reads opset 13 at most" in found.err
