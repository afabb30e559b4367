"""Samples are packed without loss, whatever they are."""

import numpy as np

from luts.samples import PackedSamples

ROWS = [
    [0.001234, 0.001235, 0.0013],  # within 65 microseconds of each other: two bytes
    [],
    [20.000001, 25.5, 31.999999],  # four bytes
    [0.1234567891, 0.2],  # no whole nanoseconds
    [3000.0, 2000.0],  # more nanoseconds than four bytes hold
    [],
    [2147.483646, 0.000001],
    [1e-12],
    [7.0] * 500,
]


def test_samples_are_read_as_they_were_given():
    packed = PackedSamples(ROWS)

    for at, row in enumerate(ROWS):
        found = packed.row(at)
        assert found.dtype == np.float64 and found.tolist() == row


def test_visits_without_samples_alone():
    packed = PackedSamples([[], []])

    assert packed.row(0).tolist() == packed.row(1).tolist() == []


def test_whole_nanoseconds_take_two_or_four_bytes():
    packed = PackedSamples([[each / 1000 for each in range(1, 60)], [20.000001, 25.5]])

    assert [pool.nbytes for pool in packed._pools] == [2 * 59, 4 * 2, 0]
