"""Two copies of a journal of which either may be damaged: what is intact on either side stays."""

import io
import random
import tracemalloc
from pathlib import Path

import pytest

from devices import Campaign, ContradictionError, fetch_journal, remote_jobs
from devices.journal_copies import append_new, merge, whole_bytes
from lightnas_edge.records.journal import read_lines
from tests.luts.journals import header, seal, visit

NAMES = "here.lut.jsonl", "the board's"
LINES = [
    seal(header()),
    *(seal(visit(f"k{key}@1", [1.0 + key], round=round)) for round in range(3) for key in range(3)),
]
WHOLE = b"".join(LINES)


def merged(folder, here, there):
    (folder / "here").write_bytes(here)
    (folder / "there").write_bytes(there)
    out = io.BytesIO()
    found = merge((folder / "here", folder / "there"), NAMES, out)
    return out.getvalue(), found


def intact(content, folder):
    (folder / "read").write_bytes(content)
    return [line.content + b"\n" for line in read_lines(folder / "read") if line.is_intact]


def flipped(content, place, to=None):
    return content[:place] + bytes([content[place] ^ 4 if to is None else to]) + content[place + 1 :]


PLACES = {
    "a digit of a sample": WHOLE.index(b'"samples_ms":[', len(LINES[0])) + 14,
    "a quote": WHOLE.index(b'"kind":"visit"') + 7,
    "the first brace": len(LINES[0]),
    "a digit of a checksum": len(LINES[0]) + len(LINES[1]) - 5,
    "the name of the checksum": len(LINES[0]) + len(LINES[1]) - 15,
    "the last brace": len(LINES[0]) + len(LINES[1]) - 2,
    "a line end": len(LINES[0]) + len(LINES[1]) - 1,
    "the end of the header": len(LINES[0]) - 1,
    "the header": 20,
    "the last line end": len(WHOLE) - 1,
}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("to", [None, 0, 10, 255, ord("}")], ids=["bit", "null", "line end", "0xff", "brace"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_byte_that_changed_on_one_side_costs_nothing(tmp_path, place, to, side):
    copies = [WHOLE, WHOLE]
    copies[side] = flipped(WHOLE, place, to)

    content, _ = merged(tmp_path, *copies)

    assert content == WHOLE


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("end", [len(LINES[0]), len(LINES[0]) + 1, len(WHOLE) // 2, len(WHOLE) - 1])
def test_a_side_that_was_cut_off_gets_the_rest_of_the_other(tmp_path, end, side):
    copies = [WHOLE, WHOLE]
    copies[side] = WHOLE[:end]

    assert merged(tmp_path, *copies)[0] == WHOLE


@pytest.mark.parametrize("side", [0, 1])
def test_a_side_that_lost_its_middle_gets_it_back(tmp_path, side):
    copies = [WHOLE, WHOLE]
    start, end = len(LINES[0]) + 30, sum(map(len, LINES[:5])) + 30
    copies[side] = WHOLE[:start] + WHOLE[end:]

    assert merged(tmp_path, *copies)[0] == WHOLE


def test_each_side_may_be_damaged_and_the_other_alone_may_be_longer(tmp_path):
    here = flipped(WHOLE, PLACES["a digit of a sample"])
    there = flipped(WHOLE, len(WHOLE) - 30)[: sum(map(len, LINES[:8])) + 9]

    content, found = merged(tmp_path, here, there)

    assert content == WHOLE
    assert found.alone == (2, 1)
    assert found.damaged == (1, 0)


def test_a_line_that_is_damaged_on_both_sides_is_left_out_and_so_measured_again(tmp_path):
    place = PLACES["a digit of a sample"]

    content, found = merged(tmp_path, flipped(WHOLE, place), flipped(WHOLE, place + 1))

    assert content == b"".join([LINES[0], *LINES[2:]])
    assert found.damaged == (1, 1)


def test_whatever_is_damaged_no_intact_line_is_dropped_and_none_is_invented(tmp_path):
    generator = random.Random(0)

    def damaged():
        content = bytearray(WHOLE)
        for _ in range(generator.choice((0, 1, 3, 20))):
            content[generator.randrange(len(content))] = generator.randrange(256)
        for _ in range(generator.choice((0, 0, 1, 2))):
            start = generator.randrange(len(content))
            del content[start : start + generator.randrange(400)]
        return bytes(content)

    for _ in range(500):
        here, there = damaged(), damaged()
        left = set(intact(here, tmp_path)) | set(intact(there, tmp_path))
        try:
            content, _ = merged(tmp_path, here, there)
        except ContradictionError as error:
            assert "header" in str(error)
            assert LINES[0] not in left or not set(intact(here, tmp_path)) & set(intact(there, tmp_path))
            continue
        lines = intact(content, tmp_path)
        assert content == b"".join(lines)
        assert lines[0] == LINES[0]
        assert sorted(lines) == sorted(left)


def test_sessions_of_both_sides_are_kept(tmp_path):
    """This side's copy is whole; the board's was cut, and another host has measured the rest again."""
    again = [seal(visit("k2@1", [9.0], session="bbbbbbbb", round=2))]

    content, found = merged(tmp_path, WHOLE, b"".join([*LINES[:-1], *again]))

    assert content == b"".join([*LINES, *again])
    assert found.alone == (1, 1)


def test_line_ends_and_zeros_of_a_power_cut_are_no_damage(tmp_path):
    here = b"\xef\xbb\xbf" + WHOLE.replace(b"\n", b"\r\n")
    there = b"".join([*LINES[:4], bytes(100), *LINES[4:]])

    assert merged(tmp_path, here, there)[0] == WHOLE
    assert merged(tmp_path, there, WHOLE[: len(LINES[0])])[0] == WHOLE


def test_two_intact_lines_that_differ_are_named_with_both_places(tmp_path):
    other = seal(visit("k0@1", [7.0], round=1))
    with pytest.raises(ContradictionError) as caught:
        merged(tmp_path, WHOLE, b"".join([*LINES[:2], flipped(LINES[2], 30), *LINES[3:4], other, *LINES[5:]]))

    assert "here.lut.jsonl line 5 and the board's line 5 are intact and differ" in str(caught.value)
    assert "k0@1 in round 1 of session aaaaaaaa" in str(caught.value)
    assert "--fresh" in caught.value.hint


@pytest.mark.parametrize(
    ("here", "there", "message"),
    [
        (WHOLE, seal(header(created="2026-11-24T19:00:00Z")) + LINES[1], "line 1 of the one and line 1 of the other"),
        (flipped(WHOLE, 20), flipped(WHOLE, 21), "both lack an intact first line"),
        (flipped(LINES[0], 20) + LINES[1], LINES[0] + LINES[2], "shares no intact line"),
        (b"notes of somebody\n", WHOLE, "shares no intact line"),
    ],
    ids=["other header", "no header", "nothing in common", "other file"],
)
def test_what_is_not_surely_one_journal_is_not_merged(tmp_path, here, there, message):
    with pytest.raises(ContradictionError, match=message):
        merged(tmp_path, here, there)
    assert (tmp_path / "here").read_bytes() == here


def test_merging_costs_a_fraction_of_the_journal_in_memory(tmp_path):
    whole = b"".join([LINES[0], *(seal(visit(f"k{key}@1", [1.0 + n for n in range(300)])) for key in range(4000))])
    (tmp_path / "here").write_bytes(whole)
    (tmp_path / "there").write_bytes(flipped(whole, len(whole) // 2))
    tracemalloc.start()
    try:
        with (tmp_path / "merged").open("wb") as out:
            merge((tmp_path / "here", tmp_path / "there"), NAMES, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (tmp_path / "merged").read_bytes() == whole
    assert peak < 0.2 * len(whole)


@pytest.mark.parametrize("content", [b"", b"torn", b"a\n", b"a\ntorn", b"\n" + bytes(200_000), bytes(200_000)])
def test_the_last_line_end_is_found_from_the_end(tmp_path, content):
    (tmp_path / "file").write_bytes(content)

    assert whole_bytes(tmp_path / "file") == content.rfind(b"\n") + 1
    assert whole_bytes(tmp_path / "missing") == 0


# With the real agent


def on_board(connection, name):
    return Path(connection.home()) / "jobs" / "00112233445566ff" / name


def measured(connection, job, table):
    campaign = Campaign(connection, job)
    campaign.start(journal=table if table.exists() else None)
    campaign.follow(table)
    return table.read_bytes()


def damage(path, line):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = flipped(lines[line], 40)
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("side", ["here", "board", "each another line"])
def test_a_damaged_side_is_mended_by_the_next_campaign_and_nothing_is_measured_twice(
    connection, write_job, tmp_path, side
):
    job, table = write_job(), tmp_path / "table"
    whole = measured(connection, job, table)
    if side != "board":
        damage(table, 2)
    if side != "here":
        damage(on_board(connection, "journal.jsonl"), 3)

    assert measured(connection, job, table) == whole
    assert on_board(connection, "journal.jsonl").read_bytes() == whole


@pytest.mark.parametrize("copies", ["agree", "differ"])
def test_a_line_that_is_damaged_on_both_sides_is_measured_again(connection, write_job, tmp_path, copies):
    job, table = write_job(), tmp_path / "table"
    before = measured(connection, job, table).splitlines()
    damage(table, 2)
    damage(on_board(connection, "journal.jsonl"), 2)
    if copies == "differ":
        damage(on_board(connection, "journal.jsonl"), 3)

    after = [line.rstrip(b"\n") for line in intact(measured(connection, job, table), tmp_path)]

    assert after[:-1] == before[:2] + before[3:]
    assert len(after) == len(before)
    assert on_board(connection, "journal.jsonl").read_bytes() == table.read_bytes()


def test_a_pull_mends_its_own_side_alone(connection, write_job, tmp_path):
    job, table = write_job(), tmp_path / "table"
    whole = measured(connection, job, tmp_path / "first")
    table.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    damage(table, 1)
    damage(on_board(connection, "journal.jsonl"), 2)
    damaged = on_board(connection, "journal.jsonl").read_bytes()
    (remote,), _ = remote_jobs(connection)

    fetch_journal(connection, remote, table)

    assert table.read_bytes() == whole
    assert on_board(connection, "journal.jsonl").read_bytes() == damaged


def test_a_long_journal_is_fetched_in_parts(connection, tmp_path):
    whole = b"".join(seal({"n": number, "text": "x" * 1000}) for number in range(20_000))
    remote = tmp_path / "remote"
    remote.write_bytes(whole + b"torn")

    assert append_new(connection, str(remote), 0, tmp_path / "here") == len(whole)
    assert (tmp_path / "here").read_bytes() == whole
