"""What a table says of the precision that its entries ran in."""

from __future__ import annotations

import luts
from tests.luts.journals import FINGERPRINT, header, visit, write

INT8 = header(fingerprint={**FINGERPRINT, "precision": "int8", "dialect": "ort"})


def test_an_entry_ran_in_what_was_read_back_last(tmp_path):
    """Later visits of a session leave it out; a later session may have another runtime's answer."""
    path = write(
        tmp_path / "t",
        INT8,
        visit("a@1", [1.0], ran_in={"int8": 2, "fp32": 1}, fell_back=["head"], engine_bytes=5),
        visit("a@1", [1.0], round=1),
        visit("a@1", [1.0], session="bbbbbbbb", ran_in={"int8": 3}, engine_bytes=7),
        visit("a@1", [1.0], session="bbbbbbbb", round=1, ran_in=None, fell_back=[], engine_bytes=None),
    )

    entry = luts.read(path).entries["a@1"]

    assert (entry.ran_in, entry.fell_back, entry.engine_bytes) == ({"int8": 3}, (), 7)


def test_the_fallbacks_of_a_table_name_keys_and_nodes_of_operators_and_networks(tmp_path):
    path = write(
        tmp_path / "t",
        INT8,
        visit("a@1", [1.0], ran_in={"int8": 3}),
        visit("b@1", [1.0], ran_in={"int8": 1, "fp32": 2}, fell_back=["b.one", "b.two"]),
        visit("net-1", [1.0], ran_in={"fp32": 9}, fell_back=["head"], architecture={"operators": []}),
    )

    lut = luts.read(path)

    assert lut.fallbacks == {"b@1": ("b.one", "b.two"), "net-1": ("head",)}
    assert lut.precision == "int8"


def test_a_journal_of_an_earlier_agent_says_nothing_about_it(tmp_path):
    lut = luts.read(write(tmp_path / "t", header(), visit("a@1", [1.0])))

    entry = lut.entries["a@1"]
    assert (entry.ran_in, entry.fell_back, entry.engine_bytes) == (None, (), None)
    assert lut.fallbacks == {} and not lut.faults


def test_a_visit_that_counts_below_zero_is_a_fault_and_its_neighbours_stay(tmp_path):
    path = write(tmp_path / "t", header(), visit("a@1", [1.0]), visit("b@1", [1.0], ran_in={"int8": -1}))

    lut = luts.read(path)

    assert list(lut.entries) == ["a@1"] and "ran_in" in lut.faults[0].what


def test_the_frame_has_a_column_for_each(tmp_path):
    path = write(
        tmp_path / "t", INT8, visit("a@1", [1.0], ran_in={"int8": 2, "fp32": 1}, fell_back=["x", "y"], engine_bytes=9)
    )

    row = luts.read(path).to_frame().iloc[0]

    assert (row["ran_in"], row["fell_back"], row["engine_bytes"]) == ("int8 2, fp32 1", "x; y", 9)
