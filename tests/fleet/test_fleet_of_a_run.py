"""`verify RUN` and `refine RUN` with several virtual units, from a real search."""

import json
from pathlib import Path

import pytest

import luts
from lightnas_edge.cli._fleet import unit_folder
from lightnas_edge.deploy.turns import unfinished_journal
from lightnas_edge.records.fleet import FleetRecord
from lightnas_edge.runs import Run
from tests.cli.commands import run
from tests.fleet.counting import places
from tests.fleet.units import hosts

ROUNDS = 4
REFINE = ("--rounds", ROUNDS, "--candidates", 1, "--steps", 2, "--seeds", 2, "--vary", "widths")


@pytest.fixture(scope="module", autouse=True)
def found(tmp_path_factory):
    """A run whose table was measured on unit 1, exported; the tests continue in its folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("found")
        patch.chdir(folder)
        patch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "agent-home"))
        for command in (
            ("profile", "--host", hosts(1), "--space", "tiny", "--rounds", 4, "--out", "v.lut.jsonl"),
            ("search", "--space", "tiny", "--lut", "v.lut.jsonl", "--latency-ms", 3, "--force", "--data", "digits",
             "--out", "run", "--epochs", 2, "--batch-size", 128),
            ("train", "run", "--epochs", 1),
            ("export", "run"),
        ):  # fmt: skip
            answer = run(*command)
            assert answer.code == 0, answer.err
        yield folder


@pytest.fixture(scope="module")
def verified():
    """What the verification of three units prints."""
    answer = run("verify", "run", "--host", hosts(1, 2, 3), "--rounds", 12, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_a_run_keeps_the_verification_of_its_worst_unit_and_those_of_all_units(verified):
    document = verified
    (guarantee,) = document["fleet"]["guarantees"]
    assert guarantee["metric"] == "latency_ms" and guarantee["verdict"] == "kept" and len(guarantee["units"]) == 3
    folder = Path("run/verify")
    assert FleetRecord.load(folder / "fleet.json").to_json() == document["fleet"]
    slowest = max(guarantee["units"], key=lambda unit: unit["value"])
    kept = Run.open(Path("run")).verification
    assert kept.host == slowest["host"]
    for record in document["verifications"]:
        mine = unit_folder(folder, record["host"])
        assert json.loads((mine / "verification.json").read_text()) == record
        journal = luts.read(mine / "journal.jsonl")
        assert journal.fingerprint["unit"] == record["fingerprint"]["unit"]  # of this unit alone
    assert not list(folder.glob("unfinished-*"))
    assert run("report", "run").code == 0
    assert "95 % of units keep 3 ms" in Path("run/report.md").read_text()


def test_one_unit_does_not_continue_the_verification_that_another_one_began(verified):
    folder = Path("run/verify")
    begun = (unit_folder(folder, hosts(1)) / "journal.jsonl").read_bytes()
    export = Run.open(Path("run")).export
    of_first, of_second = (
        folder / unfinished_journal(folder, export.record.sha256, hosts(unit)).name for unit in (1, 2)
    )
    of_first.write_bytes(begun)

    assert run("verify", "run", "--host", hosts(2), "--rounds", 12).code == 0

    assert of_first.read_bytes() == begun and not of_second.exists()
    assert luts.read(folder / "journal.jsonl").fingerprint["unit"] not in (
        None,
        luts.read(of_first).fingerprint["unit"],
    )
    of_first.unlink()


def test_a_run_keeps_the_verification_in_the_mode_with_the_least_energy():
    answer = run("verify", "run", "--host", hosts(1), "--rounds", 12, "--power-modes", "all", "--json")

    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    energies = {each["power_mode"]: each["verification"]["energy"]["gross_mj"] for each in document["modes"]}
    assert len(energies) > 1 and document["lowest_energy"] == min(energies, key=energies.get)
    kept = Run.open(Path("run")).verification
    assert kept.fingerprint["power_mode"] == document["lowest_energy"]
    journal = luts.read("run/verify/journal.jsonl")
    assert journal.fingerprint["power_mode"] == document["lowest_energy"]


def test_units_share_what_refining_measures():
    answer = run("refine", "run", "--host", hosts(1, 2), *REFINE, "--out", "refined")

    assert answer.code == 0, answer.err
    folder = Path("refined/refine")
    shared = luts.read(folder / "operators.lut.jsonl")
    assert len(list((folder / "operators.units").glob("*.lut.jsonl"))) == 2
    assert set(places(shared).values()) == {1} and not shared.failed
    table = luts.read("refined/lut.jsonl")
    known = luts.read("v.lut.jsonl")
    assert {*shared.entries, *known.entries} <= set(table.entries)
    assert luts.drift_ratio(known, table).value == pytest.approx(1, abs=0.01)  # units differ by half as much


def test_refining_again_measures_nothing():
    before = Path("refined/lut.jsonl").read_bytes()

    answer = run("refine", "run", "--host", hosts(1, 2), *REFINE, "--out", "refined")

    assert answer.code == 0, answer.err
    assert "boards:" not in answer.err and Path("refined/lut.jsonl").read_bytes() == before
