"""Reading journals: what a reader uses, what it refuses, and the message of each fault."""

from __future__ import annotations

import json
import tracemalloc
import zlib

import pytest

import luts
from lightnas_edge.errors import FingerprintError
from tests.luts.journals import FINGERPRINT, header, seal, visit, write


def test_the_checksum_covers_the_line_before_its_own_field_plus_the_closing_brace():
    line = b'{"a":1,"crc32":"%08x"}' % zlib.crc32(b'{"a":1}')

    assert luts.checksum(line) == ("561bacaf", "561bacaf")
    assert luts.checksum(line.replace(b"1,", b"2,"))[1] != "561bacaf"
    assert luts.checksum(b'{"a":1}') is None


def test_every_sample_is_kept_as_it_was_measured(tmp_path):
    path = write(tmp_path / "t.lut.jsonl", header(), visit("a@1", [2.0, 9.0]), visit("a@1", [1.0], round=1))

    lut = luts.read(path)

    assert lut.entries["a@1"].samples_ms == (2.0, 9.0, 1.0)
    assert lut.fingerprint == FINGERPRINT and lut.simulated and lut.faults == ()


def test_a_torn_last_line_is_named_and_its_neighbours_are_kept(tmp_path):
    path = write(tmp_path / "t.lut.jsonl", header(), visit("a@1", [1.0]), visit("b@1", [2.0]))
    path.write_bytes(path.read_bytes()[:-40])

    lut = luts.read(path)

    assert list(lut.entries) == ["a@1"]
    assert [fault.line for fault in lut.faults] == [3]
    assert "torn: the agent was cut off while it wrote this last line" in lut.faults[0].what
    assert "the next run measures it again" in lut.faults[0].what


def test_a_last_line_that_lacks_only_its_newline_is_whole(tmp_path):
    path = write(tmp_path / "t.lut.jsonl", header(), visit("a@1", [1.0]))
    path.write_bytes(path.read_bytes()[:-1])

    lut = luts.read(path)

    assert list(lut.entries) == ["a@1"] and lut.faults == ()


def test_a_damaged_middle_line_is_named_with_both_checksums(tmp_path):
    lines = [seal(header()), seal(visit("a@1", [1.0])), seal(visit("b@1", [2.0])), seal(visit("c@1", [3.0]))]
    lines[2] = lines[2].replace(b"[2.0]", b"[7.0]")
    path = tmp_path / "t.lut.jsonl"
    path.write_bytes(b"".join(lines))

    lut = luts.read(path)

    assert list(lut.entries) == ["a@1", "c@1"]
    assert str(lut.faults[0]).startswith("line 3: damaged: it states checksum ")


def test_all_faults_are_collected_each_with_its_line_and_field(tmp_path):
    path = write(
        tmp_path / "t.lut.jsonl",
        header(),
        visit("a@1", [1.0, -2.0]),
        visit("b@1", []),
        visit("c@1", [1.0], round="x", speed=3),
        {"kind": "note"},
        visit("d@1", [1.0]) | {"operator": None},
        visit("e@1", [1.0]),
        visit("e@1", [1.5]),
    )

    lut = luts.read(path)

    assert [str(fault) for fault in lut.faults] == [
        "line 2: a@1: samples_ms[1]: should be greater than 0.000000000001, found -2.0",
        "line 3: b@1: error: expected samples_ms or an error, found None",
        "line 4: c@1: round: should be a valid integer, found 'x'; speed: unknown field",
        "line 5: unknown kind 'note', expected 'visit'",
        "line 6: d@1: the record: expected one of operator, architecture and model_file",
        "line 8: e@1 appears twice in round 0 of session aaaaaaaa; the first is used",
    ]
    assert lut.latency_ms("e@1") == 1.0


def test_bytes_that_are_no_json_at_all_are_a_fault_of_their_line(tmp_path):
    body = b"\xff\xfe]["
    path = tmp_path / "t.lut.jsonl"
    sealed = body + b',"crc32":"%08x"}\n' % zlib.crc32(body + b"}")
    path.write_bytes(seal(header()) + sealed + b"\x00\x01\n" + seal(visit("a@1", [1.0])))

    lut = luts.read(path)

    assert list(lut.entries) == ["a@1"]
    assert "line 2: damaged: not valid JSON" in str(lut.faults[0])
    assert "line 3: damaged: it does not end in a checksum" in str(lut.faults[1])


def test_changed_line_ends_and_a_byte_order_mark_are_no_damage(tmp_path):
    path = write(tmp_path / "t.lut.jsonl", header(), visit("a@1", [1.0]), visit("b@1", [2.0]))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))

    lut = luts.read(path)

    assert list(lut.entries) == ["a@1", "b@1"] and lut.faults == ()


def test_text_of_a_board_is_cleaned(tmp_path):
    error = {"code": "load", "message": "\x1b]52;c;cm0=\x07no memory\r\n", "remedy": "use\u202e less"}
    path = write(
        tmp_path / "t.lut.jsonl",
        header(),
        visit("a@1", [], error=error),
        visit("b@1", [1.0], warnings=["\x1b[2Jhot"]),
        visit("c\x1b[2J", [1.0]),
    )

    lut = luts.read(path)

    assert str(lut.failed["a@1"]) == "load: no memory (use less)"
    assert lut.entries["b@1"].visits[0].warnings == ("hot",)
    assert "line 4: c: key: String should match" in str(lut.faults[0]) and str(lut.faults[0]).isprintable()


def test_more_rounds_than_can_be_compared_are_refused(tmp_path):
    visits = [visit("a@1", [1.0], session=f"s{number}") for number in range(5000)]

    with pytest.raises(luts.LutFormatError, match="too large to compare its rounds: 1 keys in 5000 rounds"):
        luts.read(write(tmp_path / "t.lut.jsonl", header(), *visits))


def test_a_failed_visit_is_an_error_and_never_a_latency(tmp_path):
    error = {"code": "timeout", "message": "no answer within 120 s", "remedy": "--timeout-s 300"}
    path = write(
        tmp_path / "t.lut.jsonl",
        header(),
        visit("a@1", [], error=error),
        visit("b@1", [2.0]),
        visit("b@1", [], round=1, error=error),
    )

    lut = luts.read(path)

    assert {key: failure.to_json() for key, failure in lut.failed.items()} == {"a@1": error}
    assert list(lut.entries) == ["b@1"]
    assert "1 of 2 visits failed: timeout: no answer within 120 s (--timeout-s 300)" in lut.entries["b@1"].warnings
    with pytest.raises(luts.LutMissError, match="a@1 failed: timeout"):
        lut.latency_ms("a@1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "has schema 2; this program reads 1"),
        ({"kind": "job"}, "is not a record of kind 'lut': found 'job'"),
        ({"units": {"latency": "s", "energy": "J"}}, "units.latency: should be 'ms', found 's'\n  units.energy"),
        ({"fingerprint": None, "space": 3}, "line 1 holds 2 errors"),
    ],
)
def test_a_header_that_cannot_be_trusted_is_refused(tmp_path, change, message):
    path = write(tmp_path / "t.lut.jsonl", header(**change), visit("a@1", [1.0]))

    with pytest.raises(luts.LutFormatError) as caught:
        luts.read(path)

    assert message in str(caught.value) and caught.value.hint


def test_a_damaged_header_costs_the_file(tmp_path):
    path = write(tmp_path / "t.lut.jsonl", header(), visit("a@1", [1.0]))
    path.write_bytes(b"x" + path.read_bytes())

    with pytest.raises(luts.LutFormatError, match="line 1: the header cannot be read: damaged"):
        luts.read(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\n\n", "is empty"), (b"key,ms\na,1\n", "line 1: the header cannot")]
)
def test_a_file_that_is_no_journal_is_refused(tmp_path, content, message):
    path = tmp_path / "t.lut.jsonl"
    path.write_bytes(content)

    with pytest.raises(luts.LutFormatError, match=message):
        luts.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(luts.LutFormatError, match=r"none\.jsonl does not exist"):
        luts.read(tmp_path / "none.jsonl")


def test_a_second_header_of_the_same_board_and_state_continues_the_table(tmp_path):
    path = write(tmp_path / "t.lut.jsonl", header(), visit("a@1", [1.0]), header(created="later"), visit("b@1", [1.0]))

    assert list(luts.read(path).entries) == ["a@1", "b@1"]


def test_lines_of_another_fingerprint_are_refused_with_the_fields_that_differ(tmp_path):
    other = FINGERPRINT | {"power_mode": "15W", "threads": 2}
    path = write(tmp_path / "t.lut.jsonl", header(), visit("a@1", [1.0]), header(fingerprint=other))

    with pytest.raises(FingerprintError) as caught:
        luts.read(path)

    assert "line 3" in str(caught.value)
    assert "power_mode None and '15W'; threads 1 and 2" in str(caught.value)


def test_the_line_of_a_visit_is_plain_json_with_its_checksum_last(tmp_path):
    line = seal(visit("a@1", [1.0])).decode()

    assert list(json.loads(line))[-1] == "crc32"


STRANGE = [
    None, True, -1, 0, 10**400, 1e308, 1e-320, "x", "", [], {}, [None], [[]], ["x"], [1e308, 1e308], {"gross_mj": 10**400},
    {"gross_mj": 1, "gross_interval_mj": [1], "net_mj": [], "warnings": 3},
]  # fmt: skip


@pytest.mark.parametrize("field", [*header(), *(f"fingerprint.{name}" for name in FINGERPRINT), *visit("a@1", [1.0])])
def test_whatever_a_field_holds_it_is_read_or_refused_and_never_breaks_the_reader(tmp_path, field):
    """Journals come from boards; a board may be broken, or under foreign control. Checksums do not protect there."""
    for value in STRANGE:
        records = [
            header(),
            *(visit(f"k{key}@1", [1.0 + key], round=round_) for round_ in range(4) for key in range(5)),
        ]
        for record in records[:1] if field.startswith("fingerprint.") else (records[0], records[3]):
            holder = record["fingerprint"] if field.startswith("fingerprint.") else record
            name = field.rpartition(".")[2]
            if name in holder:
                records[records.index(record)] = (
                    record | {name: value} if holder is record else record | {"fingerprint": holder | {name: value}}
                )
        try:
            lut = luts.read(write(tmp_path / "t", *records))
        except luts.LutError:
            continue
        assert "k4@1" in lut.entries
        assert lut.batch >= 1
        assert isinstance(lut.simulated, bool) and isinstance(lut.sentinels, tuple)
        assert all(entry.latency_ms > 0 and entry.warnings is not None for entry in lut.entries.values())
        assert len(lut.to_frame()) >= 4
        luts.repeatability(lut)


@pytest.mark.parametrize(("filling", "mib", "most_mib"), [(b"x" * (1 << 20), 128, 50), (b"x" * 999 + b"\n", 32, 10)])
def test_a_journal_is_read_line_by_line_whatever_it_holds(tmp_path, filling, mib, most_mib):
    """A damaged journal, in one line or in many, costs a fraction of its size in memory."""
    path = write(tmp_path / "t.lut.jsonl", header(), visit("a@1", [1.0]))
    with path.open("ab") as file:
        for _ in range((mib << 20) // len(filling)):
            file.write(filling)
    tracemalloc.start()
    try:
        lut = luts.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert list(lut.entries) == ["a@1"]
    assert 1 <= len(lut.faults) <= 1001
    assert peak < most_mib << 20
