"""An archive becomes a board again, and the readers of today say where they disagree with what it said."""

import json
import shutil
from pathlib import Path

import pytest

from lightnas_edge.errors import RecordError
from lightnas_edge.field_test import FieldTestError, Snapshot, archive, unpack
from lightnas_edge.field_test.replay import replay, write_board
from profiler.system import System
from tests.cli.commands import run


@pytest.fixture
def unpacked(virtual, tmp_path):
    return unpack(virtual.archive, tmp_path / "unpacked")


def checks(folder, tmp_path):
    return {check.name: check for check in replay(folder, tmp_path / "board")}


def change(folder, name, edit):
    record = json.loads((folder / name).read_text())
    edit(record)
    (folder / name).write_text(json.dumps(record))


def disagreements(found):
    return {name: check.disagreements for name, check in found.items() if check.disagreements}


def test_the_readers_of_today_agree_with_the_board(unpacked, tmp_path):
    found = checks(unpacked, tmp_path)

    assert disagreements(found) == {}
    assert "Jetson Nano developer kit (p3448-0000); L4T 32.7.6, JetPack 4.6.6" in found["board"].findings
    assert "rails POM_5V_IN, POM_5V_GPU, POM_5V_CPU" in found["board"].findings
    assert "cooling devices gpu-throttle, pwm-fan; at work: ()" in found["board"].findings
    assert found["tegrastats"].findings[0].endswith("rails POM_5V_CPU, POM_5V_GPU, POM_5V_IN")
    assert found["journals/isolation.jsonl"].findings == ["SIMULATED 400 visits of 2 keys, 0 failed"]


def test_a_board_that_is_read_differently_is_reported_with_both_values(unpacked, tmp_path):
    def edit(record):
        files = record["files"]
        (gpu,) = (path for path in files if path.endswith("rail_name_1"))
        files[gpu] = "POM_5V_NEW\n"
        files["etc/nv_tegra_release"] = "# R32 (release), REVISION: 9.9, GCID: 0, BOARD: generic\n"

    change(unpacked, "snapshot.json", edit)
    found = checks(unpacked, tmp_path)["board"]

    assert any(
        line.startswith("board.l4t: the board said '32.7.6', read again '32.9.9'") for line in found.disagreements
    )
    assert any(line.startswith("rails: ") and "POM_5V_NEW" in line for line in found.disagreements)
    assert any("tegrastats names rails that no sensor has" in line for line in found.disagreements)
    assert "L4T 32.9.9 is not in the catalogue" in found.notes


def test_a_line_of_tegrastats_that_is_not_understood_is_named(unpacked, tmp_path):
    change(unpacked, "snapshot.json", lambda record: record["tools"].update(tegrastats="RAM 1/2MB NEW_THING <7>\n"))

    assert checks(unpacked, tmp_path)["tegrastats"].disagreements[0].startswith("line 1: not understood: 'NEW_THING")


def test_a_power_mode_that_the_catalogue_lacks_is_news(unpacked, tmp_path):
    conf = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=7 NAME=SUPER >\n"
    change(unpacked, "snapshot.json", lambda record: record["files"].update({"etc/nvpmodel.conf": conf}))
    found = checks(unpacked, tmp_path)["board"]

    assert found.notes == ["power mode SUPER (7) is not in the catalogue"]


def test_a_damaged_journal_and_a_number_that_changed_are_named(unpacked, tmp_path):
    journal = unpacked / "journals/operators.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"visit"', b'"vizit"')
    journal.write_bytes(b"".join(lines))

    def edit(record):
        (step,) = (step for step in record["steps"] if step["name"] == "networks")
        key = next(iter(step["latency_ms"]))
        step["latency_ms"][key] *= 2

    change(unpacked, "summary.json", edit)
    found = disagreements(checks(unpacked, tmp_path))

    assert any("line 4:" in line for line in found["journals/operators.jsonl"])
    assert " ms then, " in found["journals/networks.jsonl"][0]


def test_a_damaged_file_costs_its_own_check_alone(unpacked, tmp_path):
    for file in ("probe.json", "records/predictor.json", "verify/verification.json"):
        (unpacked / file).write_text('{"kind": "something"}')
    found = disagreements(checks(unpacked, tmp_path))

    assert set(found) == {"probe.json", "records/predictor.json", "verify/verification.json", "board"}
    assert str(tmp_path) not in str(found)


def test_a_damaged_summary_is_an_error_of_the_family(unpacked, tmp_path):
    (unpacked / "summary.json").write_text('{"kind": "field-test", "schema": 1}')

    with pytest.raises(RecordError, match="missing"):
        checks(unpacked, tmp_path)


def snapshot(**changes):
    return json.dumps({
        "kind": "snapshot", "schema": 1, "agent_version": "1", "files": {}, "links": {}, "refused": {}, "left_out": [],
        "tools": {}, "tegrastats": {"records": 0, "faults": [], "rails": []}, **changes,
    })  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "../x", "sys/../../x", "/etc/passwd", "sys/..", "sys/.", "etc/./x", "home/x", "sys//x", "virtual.json/x", "etc",
        "sys/a b", "sys/a\n", "usr/sbin/nvpmodel", "sys/...",
    ],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_refused(path):
    with pytest.raises(RecordError):
        Snapshot.parse(snapshot(files={path: "x"}), "snapshot.json")
    with pytest.raises(RecordError):
        Snapshot.parse(snapshot(links={path: "cooling_device0"}), "snapshot.json")


@pytest.mark.parametrize("target", ["../../etc", "cooling_device0/..", "/etc", "x"])
def test_a_link_that_leads_elsewhere_is_refused(target):
    with pytest.raises(RecordError):
        Snapshot.parse(snapshot(links={"sys/class/thermal/thermal_zone0/cdev0": target}), "snapshot.json")


def test_paths_that_contradict_each_other_are_an_error_of_the_family(tmp_path):
    both = Snapshot.parse(snapshot(files={"etc/x": "1", "etc/x/y": "2"}), "snapshot.json")

    with pytest.raises(FieldTestError, match="both a file and a folder"):
        write_board(both, tmp_path)


def test_no_text_of_an_archive_is_run(tmp_path):
    evil = f"$(touch {tmp_path}/ran) `touch {tmp_path}/ran`; touch {tmp_path}/ran\n"
    record = Snapshot.parse(snapshot(tools={"nvpmodel -q": evil, "tegrastats": evil, "dpkg-query -W x": evil}), "s")

    write_board(record, tmp_path / "root")

    assert System(str(tmp_path / "root")).output_of(["nvpmodel", "-q"]) == evil
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "root/usr/sbin/dpkg-query").exists()


def test_the_command_reads_an_archive_and_writes_its_row_and_its_test(virtual, tmp_path):
    page = tmp_path / "boards.md"
    page.write_text("| board |\n|---|")
    answer = run("field-test", "--replay", virtual.archive, "--tests", tmp_path / "tests", "--append", page)

    assert answer.code == 0, answer.err
    assert "passed      clocks: clocks locked and restored" in answer.out
    assert "0 disagreements between the archive and the present readers" in answer.out
    assert answer.out.splitlines()[-1] == page.read_text().splitlines()[-1]
    assert "| simulated |" in page.read_text().splitlines()[-1]
    assert (tmp_path / "tests/jetson-nano-32.7.6-simulated/root/proc/device-tree/model").exists()


def test_the_command_answers_disagreement_with_1_and_as_json(virtual, unpacked, tmp_path):
    change(unpacked, "snapshot.json", lambda record: record["tools"].update({"nvpmodel -q": "NV Power Mode: 5W\n1\n"}))
    archive.pack(unpacked, tmp_path / "changed.tar.gz")

    answer = run("field-test", "--replay", tmp_path / "changed.tar.gz", "--json")

    assert answer.code == 1
    record = json.loads(answer.out)
    (found,) = (check for check in record["checks"] if check["name"] == "board")
    assert found["disagreements"][0].startswith("board.power_mode: the board said")


def test_the_command_refuses_what_is_no_archive_and_options_of_the_other_mode(tmp_path):
    Path(tmp_path / "x.tar.gz").write_text("text")
    shutil.copy(tmp_path / "x.tar.gz", tmp_path / "there.tar.gz")

    for argv, code, text in (
        (["--replay", tmp_path / "x.tar.gz"], 1, "FieldTestError"),
        (["--replay", tmp_path / "x.tar.gz", "--quick"], 2, "--quick needs --host"),
        (["--host", "virtual:jetson-nano", "--tests", tmp_path], 2, "--tests needs --replay"),
        (["--host", "virtual:jetson-nano", "--out", tmp_path / "there.tar.gz"], 2, "exists"),
        (["--host", "virtual:jetson-nano", "--out", "/proc/x/a.tar.gz"], 2, "cannot write"),
        (
            ["--host", "virtual:jetson-nano", "--only", "clock", "--out", tmp_path / "a.tar.gz"],
            2,
            "did you mean 'clocks'",
        ),
        ([], 2, "one of the arguments --host --replay is required"),
    ):
        answer = run("field-test", *argv)
        assert (answer.code, text in answer.err) == (code, True), answer.err
