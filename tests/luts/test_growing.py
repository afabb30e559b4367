"""A table whose journal grows while it is used."""

import os

import luts
from lightnas_edge.fleet.work import measured, places
from tests.luts.journals import write_measured

TRUTH_MS = {f"op{index}@1": 0.1 * 1.2**index for index in range(6)}


def journal(path, **options):
    return write_measured(path, TRUTH_MS, **options)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def test_a_growing_table_is_at_every_step_what_reading_the_whole_journal_gives(tmp_path):
    lines = lines_of(journal(tmp_path / "all.lut.jsonl"))
    path = tmp_path / "growing.lut.jsonl"
    growing = luts.GrowingTable(path)
    path.write_bytes(b"")

    for step in range(1, len(lines), 7):
        with path.open("ab") as file:
            file.writelines(lines[len(lines_of(path)) : step])
        found, whole = growing.read(), luts.read(path)
        assert len(found.visits) == len(whole.visits) == step - 1
        assert found.drift == whole.drift and found.faults == ()
        assert {key: entry.latency_ms for key, entry in found.entries.items()} == {
            key: entry.latency_ms for key, entry in whole.entries.items()
        }
        assert measured(found.visits, 3) == measured(whole.visits, 3)


def test_only_what_is_new_is_read(tmp_path):
    lines = lines_of(journal(tmp_path / "t.lut.jsonl"))
    path = tmp_path / "t.lut.jsonl"
    path.write_bytes(b"".join(lines[:-1]))
    growing = luts.GrowingTable(path)
    first = growing.read()
    assert growing.read() is first
    with path.open("r+b") as file:  # nobody does that; whoever reads the line again sees it
        file.seek(len(lines[0]) + 20)
        file.write(b"?")
    with path.open("ab") as file:
        file.write(lines[-1])

    assert len(luts.read(path).faults) == 1
    assert growing.read().faults == () and len(growing.read().visits) == len(lines) - 1


def test_a_line_without_its_end_waits_for_it(tmp_path):
    path = journal(tmp_path / "t.lut.jsonl")
    content = path.read_bytes()
    visits = len(lines_of(path)) - 1
    path.write_bytes(content[:-30])
    growing = luts.GrowingTable(path)
    assert len(growing.read().visits) == visits - 1 and growing.read().faults == ()

    with path.open("ab") as file:
        file.write(content[-30:])

    assert len(growing.read().visits) == visits and growing.read().faults == ()


def test_a_journal_that_was_replaced_or_cut_is_read_anew(tmp_path):
    path = journal(tmp_path / "t.lut.jsonl", session="a" * 8)
    growing = luts.GrowingTable(path)
    growing.read()

    os.replace(journal(tmp_path / "other.lut.jsonl", session="b" * 8), path)
    assert {visit.session for visit in growing.read().visits} == {"b" * 8}
    lines = lines_of(path)
    path.write_bytes(b"".join(lines[:5]))

    assert len(growing.read().visits) == 4


def test_a_damaged_line_that_is_mended_in_its_place_is_read(tmp_path):
    path = journal(tmp_path / "t.lut.jsonl")
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(lines_of(path)[0]) + 20] ^= 1
    path.write_bytes(damaged)
    growing = luts.GrowingTable(path)
    assert len(growing.read().faults) == 1

    with path.open("r+b") as file:
        file.write(whole)

    assert growing.read().faults == () and len(growing.read().visits) == len(lines_of(path)) - 1


def test_what_a_journal_holds_is_counted_as_its_visits_say(tmp_path):
    lut = luts.read(journal(tmp_path / "t.lut.jsonl"))

    by_hand = {}
    for visit in lut.visits:
        by_hand.setdefault(visit.key, set()).add((visit.round, False))
    assert places(lut.visits) == by_hand
    for key, found in measured(lut.visits, 2).items():
        assert found == (sum(round_ < 2 for round_, _ in by_hand[key]), 0)
