"""`lightnas-edge import`: a published predictor to search with, and published tables, scored."""

import json

import pytest

from tests.cli.commands import run

CELL = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"


def test_the_published_predictor_becomes_one_of_ours(shared_data, tmp_path):
    out = tmp_path / "xavier.predictor.json"

    answer = run("import", shared_data / "lightnas_xavier" / "lightnas_predictor.npz", "--out", out)

    assert answer.code == 0
    assert "lightnas, batch 8, agx-xavier: 5.296 to 39.1 ms" in answer.out
    assert json.loads(run("range", "--predictor", out, "--json").out)["batch"] == 8


@pytest.mark.parametrize("name", ["ofa_block_lut/lut.csv", "nb201_tx2/measurements.csv"])
def test_recorded_tables_are_read_and_scored(shared_data, name):
    found = json.loads(run("import", shared_data / name, "--json").out)

    assert all(column["rows"] > 60 and column["held_out_mape"] < 0.2 for column in found["columns"])


def test_a_small_table_is_read_but_not_scored(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text(f"arch_str,edgegpu_latency\n{CELL.format(*['nor_conv_3x3'] * 6)},7.2\n")

    answer = run("import", path)

    assert answer.code == 0
    assert "HW-NAS-Bench: 1 rows" in answer.out
    assert "needs 20 rows" in answer.out


def test_what_is_no_table_is_said(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")

    answer = run("import", tmp_path / "x.csv")

    assert answer.code == 1
    assert "is in no known form" in answer.err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fbnet.json", '{"lookup_table": [{"op": "ir_k3_e6", "latency": 1.2}]}'),
        ("ofa.yaml", "Conv-input:224x224x3-output:112x112x24:\n  count: 5\n  mean: 3.8\n"),
        ("mobile.yml", "# of a phone\n---\nexpanded_conv-input:56x56x24: {mean: 3.8, count: 3}\n"),
        ("nn-meter.csv", "HW,CIN,COUT,KERNEL_SIZE,STRIDES,latency\n224,3,32,3,2,1.2\n"),
        ("table.pkl", "\x80\x04"),
        ("table.xlsx", "PK\x03\x04"),
    ],
)
def test_a_table_in_another_form_is_refused_with_what_to_do(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode("latin-1"))

    answer = run("import", tmp_path / name)

    assert answer.code == 1
    assert name in answer.err and "`arch_str`" in answer.err and "`latency_ms`" in answer.err
    assert "CSV" in answer.err or name.endswith(".csv")


def test_an_archive_without_the_arrays_is_said(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"not a zip")

    answer = run("import", tmp_path / "x.npz")

    assert answer.code == 1
    assert "cannot read the published predictor" in answer.err
