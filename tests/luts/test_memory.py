"""A journal costs a fraction of its size in memory, whatever its visits hold."""

import pytest

import luts
from benchmarks.bench_journal import MERGING, peak, peak_of_reading
from tests.luts.large import write_large

MIB = 24


@pytest.mark.parametrize("samples", [5, 50])
def test_a_journal_costs_less_than_a_third_of_its_size(tmp_path, samples):
    """The table keeps columns; an object for each visit costs twice the journal."""
    small = write_large(tmp_path / "small.lut.jsonl", 1 << 20, samples=samples)
    large = write_large(tmp_path / "large.lut.jsonl", MIB << 20, samples=samples)

    # The least of three readings: pages of the allocator are up to 0.3 MiB more, and never less than the table takes.
    found = [peak_of_reading(small, large) for _ in range(3)]

    assert {visits for visits, _ in found} == {len(large.read_bytes().splitlines()) - 1} and found[0][0] > 15_000
    assert min(peak_mib for _, peak_mib in found) < MIB / 3


def test_merging_units_costs_less_memory_than_their_journals(tmp_path):
    """They are written line by line; the tables before and after are in memory."""
    small, large = (
        [write_large(tmp_path / f"{size}-{unit}.lut.jsonl", size << 20, samples=5, unit=unit) for unit in range(2)]
        for size in (1, MIB // 2)
    )

    visits, peak_mib = peak(MERGING, small, large)

    assert visits == sum(len(path.read_bytes().splitlines()) - 1 for path in large) > 15_000
    assert peak_mib < MIB


def test_what_the_columns_hold_is_what_the_journal_says(tmp_path):
    path = write_large(tmp_path / "t.lut.jsonl", 1 << 20, samples=5)

    lut = luts.read(path)

    assert lut.faults == ()
    for line, visit in zip(path.read_bytes().splitlines()[1:], lut.visits, strict=True):
        written = luts.Visit.model_validate_json(line[:-20] + b"}")
        for field in luts.Visit.model_fields:
            if field != "kind":
                assert getattr(visit, field) == getattr(written, field), field
        assert (visit.group, visit.subject, visit.is_network) == (written.group, written.subject, written.is_network)
