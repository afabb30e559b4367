"""A field test of a virtual board: everything runs, nothing stays changed, and the archive names no one."""

import json

import luts
from lightnas_edge.field_test import FieldTestRecord, unpack
from lightnas_edge.field_test.pages import board_row
from tests.field_test.conftest import PRIVATE, bytes_of, files_of


def unpacked(virtual, tmp_path):
    return unpack(virtual.archive, tmp_path / "unpacked")


def test_every_step_passes_or_says_why_it_cannot_run(virtual):
    steps = {step.name: step for step in virtual.test.record.steps}

    assert {name: step.cause for name, step in steps.items() if step.status != "passed"} == {
        "simulated-int8": "Jetson Nano computes in fp32 and fp16, not in int8"
    }
    assert "restored, read back: power mode, limits of clocks, governors" in steps["clocks"].findings
    assert any("of 400 visits 1 failed" in line for line in steps["isolation"].findings)
    assert "ran in fp16 28" in steps["simulated-fp16"].findings


def test_the_board_is_as_before(virtual):
    after = files_of(virtual.root)
    home = "home/.lightnas-edge/"

    locks_and_logs = {f"{home}agent.lock", f"{home}guard.lock", f"{home}guard.log"}
    assert {name for name in after if name.startswith(home)} <= locks_and_logs
    assert {name: text for name, text in after.items() if not name.startswith(home)} == virtual.before


def test_no_name_and_no_address_is_in_any_byte_of_the_archive(virtual):
    content = bytes_of(virtual.archive)

    found = [
        (kind, text)
        for kind, texts in PRIVATE.items()
        for text in texts
        for form in {text, text.lower(), text.upper(), json.dumps(text)[1:-1]}
        if form.encode() in content
    ]
    assert found == []


def test_the_private_texts_were_in_what_the_board_sent(virtual):
    """Else the test above could not fail."""
    removed = virtual.test.record.removed

    assert {kind for kind in PRIVATE if not removed.get(kind)} == set()


def test_the_readme_lists_what_was_removed(virtual, tmp_path):
    text = (unpacked(virtual, tmp_path) / "README.md").read_text()

    for kind in PRIVATE:
        assert f"- {kind}: REMOVED-" in text
    assert "Simulated: nothing in this archive was measured on a board" in text


def test_journals_without_names_are_still_whole(virtual, tmp_path):
    journals = sorted((unpacked(virtual, tmp_path) / "journals").glob("*.jsonl"))

    assert len(journals) == 9
    for journal in journals:
        table = luts.read(journal)
        assert table.faults == ()
        assert table.simulated
        assert table.header.board["host"] == "REMOVED-HOST"


def test_the_summary_and_the_row_say_that_it_is_simulated(virtual, tmp_path):
    record = FieldTestRecord.load(unpacked(virtual, tmp_path) / "summary.json")

    assert record.simulated
    assert record.reached_by == "virtual"
    assert board_row(record) == (
        "| Jetson Nano developer kit (p3448-0000) | 4.6.6 (32.7.6) | simulated 6 | 13 of 14 (quick) | simulated-int8 skipped "
        f"| simulated | {record.created} |"
    )


def test_tegrastats_is_recorded_and_read(virtual, tmp_path):
    snapshot = json.loads((unpacked(virtual, tmp_path) / "snapshot.json").read_text())

    assert snapshot["tegrastats"]["rails"] == ["POM_5V_CPU", "POM_5V_GPU", "POM_5V_IN"]
    assert snapshot["tegrastats"]["faults"] == []
    assert "private" not in snapshot
