"""A table of one board, transferred to another with a few blocks."""

from __future__ import annotations

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.feature_models import Features
from lightnas_edge.predictor.table_transfer import first_rows, fit_transfer
from tests.predictor.test_features import mape, roofline


def test_ten_blocks_transfer_a_table_to_another_board():
    """The other board launches as slowly, but works three times as slowly: no single factor describes that."""
    features, here = roofline(100, rate=15.0)
    _, there = roofline(100, rate=5.0)
    rows = first_rows(features, here, 10)
    others = np.setdiff1d(np.arange(100), rows)

    moved = fit_transfer(features, here, rows, there[rows])

    one_factor = here * np.median(there[rows] / here[rows])
    assert len(set(rows)) == 10
    assert mape(moved.predict()[others], there[others]) < 0.5 * mape(one_factor[others], there[others])
    low, high = moved.interval(0.9)
    assert np.mean((low <= there) & (there <= high)) > 0.85
    assert moved.one_factor < 0.1


def test_more_measured_blocks_leave_less_error():
    features, here = roofline(100, rate=15.0)
    _, there = roofline(100, rate=5.0)

    def error(count):
        rows = first_rows(features, here, count)
        return mape(fit_transfer(features, here, rows, there[rows]).predict(), there)

    assert error(40) < error(10) < error(2)


def test_where_one_factor_relates_the_boards_a_transfer_is_as_good():
    features, here = roofline(100, noise=0.0)
    moved_errors, factor_errors = [], []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        there = 1.7 * here * np.exp(0.05 * generator.normal(size=100))
        rows = generator.permutation(100)[:10]

        moved = fit_transfer(features, here, rows, there[rows])

        assert moved.one_factor > 0.5
        moved_errors.append(mape(moved.predict(), there))
        factor_errors.append(mape(here * np.median(there[rows] / here[rows]), there))
    assert np.mean(moved_errors) < 1.02 * np.mean(factor_errors)


@pytest.mark.parametrize("count", [1, 2, 300])
def test_any_number_of_measured_rows_gives_finite_intervals(count):
    features, here = roofline(400)
    rows = np.arange(count)

    moved = fit_transfer(features, here, rows, 2 * here[rows])

    low, high = moved.interval(0.9)
    assert np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()


@pytest.mark.parametrize("value", [[], [0.0], [float("nan")], [float("inf")], [1.0, 2.0]])
def test_values_without_a_logarithm_are_refused(value):
    features = Features(np.ones((3, 1)), np.ones((3, 1)))

    with pytest.raises(PredictorError, match="values above 0 on both boards"):
        fit_transfer(features, np.ones(3), [0][: len(value)], value)


def test_rows_that_the_known_board_lacks_are_refused():
    features = Features(np.ones((3, 1)), np.ones((3, 1)))

    with pytest.raises(PredictorError, match="positions among 3 rows, found 7 to 7"):
        fit_transfer(features, np.ones(3), [7], [1.0])
    with pytest.raises(PredictorError, match="3 known values above 0"):
        first_rows(features, np.array([1.0, np.nan, 2.0]), 2)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_a_confidence_of_a_transfer_is_a_probability(confidence):
    features, here = roofline(30)

    with pytest.raises(PredictorError, match="between 0 and 1"):
        fit_transfer(features, here, [0], [1.0]).interval(confidence)
