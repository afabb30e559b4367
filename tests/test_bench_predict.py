"""`make bench-predict` on folders that hold little: a missing set is skipped with a reason, the others are evaluated."""

import csv
import json

import pytest

from benchmarks import predict


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    def run(*argv, data):
        monkeypatch.setenv("DATA", str(data))
        assert predict.main([*argv, "--json", str(tmp_path / "found.json")]) == 0
        return json.loads((tmp_path / "found.json").read_text()), capsys.readouterr().out

    return run


def test_an_empty_folder_is_skipped_set_by_set(bench, tmp_path):
    found, shown = bench("board", "cells", "convnets", "blocks", data=tmp_path)

    assert all(section["skipped"].startswith("skipped: no ") for section in found.values())
    assert f"cells: skipped: no nb201_tx2/measurements.csv in {tmp_path}" in shown
    assert "0 of 0 targets met" in shown


def test_any_folder_of_the_same_layout_is_evaluated(bench, shared_data, tmp_path):
    """Here every third cell only: other rows and other numbers."""
    with (shared_data / "nb201_tx2" / "measurements.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::3]
    (tmp_path / "nb201_tx2").mkdir()
    with (tmp_path / "nb201_tx2" / "measurements.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    found, shown = bench("cells", "--figures", str(tmp_path / "img"), data=tmp_path)

    by_name = {row["what"]: row for row in found["cells"]["rows"]}
    assert by_name["cells"]["found"] == len(rows)
    assert 0.8 < by_name["additive, R2"]["found"] < 1
    assert (tmp_path / "img" / "prediction-cells.svg").stat().st_size < 100_000
    assert "NAS-Bench-201 on a Jetson TX2" in shown


def test_a_set_that_does_not_exist_is_refused(capsys):
    assert predict.main(["nonsense"]) == 2
    assert "no such set: nonsense; choose from: board, cells" in capsys.readouterr().err
