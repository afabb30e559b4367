"""The journal keeps what was written, whatever happens to its last line or to one in the middle."""

import json
import zlib

import pytest

from profiler import journal
from profiler.errors import JournalError

HEADER = {"kind": "lut", "schema": 1, "fingerprint": {"threads": 1}, "space_sha256": "a" * 64}


def visit(number):
    return {
        "kind": "visit",
        "key": f"op{number}",
        "operator": {},
        "round": 0,
        "samples_ms": [0.5],
        "energy": None,
        "error": None,
    }


def written(path, visits):
    book = journal.Journal(str(path), 0)
    book.append(HEADER)
    for number in range(visits):
        book.append(visit(number))
    book.close()
    return path.read_bytes()


def keys(contents):
    return [past.key for past in contents.visits]


def test_the_checksum_covers_the_line_before_it_plus_the_closing_brace():
    line = journal.encode({"kind": "visit", "samples_ms": [0.5]})

    assert line == b'{"kind":"visit","samples_ms":[0.5],"crc32":"%08x"}\n' % zlib.crc32(
        b'{"kind":"visit","samples_ms":[0.5]}'
    )
    assert json.loads(line)["samples_ms"] == [0.5]


def test_a_number_that_is_none_cannot_be_written():
    with pytest.raises(ValueError):
        journal.encode({"latency_ms": float("nan")})


def test_what_was_appended_is_read_back(tmp_path):
    written(tmp_path / "j", visits=2)

    contents = journal.read(str(tmp_path / "j"))

    assert contents.origin.fingerprint == {"threads": 1}
    assert keys(contents) == ["op0", "op1"]
    assert contents.faults == []


def test_a_missing_journal_is_an_empty_one(tmp_path):
    assert journal.read(str(tmp_path / "j")) == journal.Contents(None, [], [], 0)


@pytest.mark.parametrize("tail", [b'{"kind":"visit","ke', b"\0" * 512])
def test_a_torn_last_line_is_reported_and_cut_off(tmp_path, tail):
    path = tmp_path / "j"
    whole = written(path, visits=2)
    path.write_bytes(whole + tail)

    contents = journal.read(str(path))
    journal.Journal(str(path), contents.end).close()

    assert keys(contents) == ["op0", "op1"]
    assert contents.faults == [f"line 4: cut off after {len(tail)} bytes; removed"]
    assert path.read_bytes() == whole


def test_a_last_line_that_lacks_only_its_line_end_is_kept_and_gets_one(tmp_path):
    path = tmp_path / "j"
    whole = written(path, visits=2)
    path.write_bytes(whole[:-1])

    contents = journal.read(str(path))
    book = journal.Journal(str(path), contents.end, contents.lacks_newline)
    book.append(visit(2))
    book.close()

    assert keys(contents) == ["op0", "op1"] and contents.faults == []
    assert path.read_bytes() == whole + journal.encode(visit(2))


def test_zeros_before_a_line_are_no_damage_to_it(tmp_path):
    path = tmp_path / "j"
    first, second, third = written(path, visits=2).splitlines(keepends=True)
    path.write_bytes(first + second + b"\0" * 512 + third)

    contents = journal.read(str(path))

    assert keys(contents) == ["op0", "op1"] and contents.faults == []
    assert contents.end == len(path.read_bytes())


def test_a_damaged_middle_line_is_reported_and_its_neighbours_are_kept(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(written(path, visits=3).replace(b"op1", b"oq1"))

    contents = journal.read(str(path))

    assert keys(contents) == ["op0", "op2"]
    assert contents.faults == ["line 3: checksum differs; measured again"]


@pytest.mark.parametrize("damaged", [b"[1]", b"nonsense", b'{"a":1,"crc32":"zz"}', b'{"a":1,"crc32":7}', b"\xff,"])
def test_any_damage_to_a_line_is_a_value_error(damaged):
    with pytest.raises(ValueError):
        journal.decode(damaged)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"samples_ms": "fast"}, 'samples_ms: expected a list of numbers, at least 1, found "fast"'),
        ({"samples_ms": []}, "samples_ms: expected a list of numbers, at least 1, found a list of 0"),
        ({"round": -1}, "round: expected a whole number from 0 to 2147483647, found -1"),
        ({"kind": "note"}, 'kind: expected visit, found "note"'),
        ({"phase": "idle"}, 'phase: expected rounds or sustained, found "idle"'),
        ({"operator": "mbconv"}, 'operator: expected an object, found "mbconv"'),
        ({"operator": None}, "operator: expected it, or one of architecture and model_file"),
        ({"model_file": {}}, "operator: expected it, or one of architecture and model_file"),
    ],
)
def test_a_line_with_a_right_checksum_and_a_wrong_content_is_measured_again(tmp_path, change, fault):
    path = tmp_path / "j"
    path.write_bytes(written(path, visits=1) + journal.encode(dict(visit(1), **change)))

    contents = journal.read(str(path))

    assert keys(contents) == ["op0"]
    assert contents.faults == [f"line 3: {fault}; measured again"]


def test_a_damaged_header_is_refused(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(written(path, visits=1).replace(b"threads", b"thread5"))

    with pytest.raises(JournalError, match=r"first line .* is damaged: checksum differs"):
        journal.read(str(path))


def test_a_newer_schema_is_refused_by_its_number(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(journal.encode(dict(HEADER, schema=2)))

    with pytest.raises(JournalError, match="has schema 2; this agent reads up to 1"):
        journal.read(str(path))


def test_a_difference_of_fingerprints_names_each_field_with_both_values():
    assert journal.differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == [
        "b (journal: 2, now: 3)",
        "c (journal: null, now: 4)",
    ]
