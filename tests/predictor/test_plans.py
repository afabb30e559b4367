"""What `fit` says about further measuring, on boards of which the truth is known."""

import numpy as np
import pytest

from lightnas_edge.measuring.board_time import BoardTime
from lightnas_edge.predictor.compare import compare
from lightnas_edge.predictor.plans import measuring_plans
from tests.predictor.boards import observed, profile, random_architectures, small_space, sum_ms, table_truth_ms

SPACE = small_space(8, ("mbconv_k3_e3", "mbconv_k5_e3", "mbconv_k3_e6", "mbconv_k5_e6", "skip"))
TRUTH = table_truth_ms(SPACE)
TIME = BoardTime(table_s=120.0, sentinels_s=30.0, network_s=6.0)


def plans_of(tmp_path, table, networks, *, time=TIME, noise_ms=0.005, seed=0):
    """Networks cost the sum of TRUTH and noise."""
    lut = None if table is None else profile(tmp_path / "ops.lut.jsonl", SPACE, table)
    chosen = random_architectures(SPACE, networks, seed=seed)
    values = np.array([sum_ms(SPACE, TRUTH, each) for each in chosen])
    values += np.random.default_rng(seed).normal(0, noise_ms, networks)
    observations = observed(SPACE, np.stack([each.indices(SPACE) for each in chosen]), values)
    comparison = compare(SPACE, lut, observations)
    return measuring_plans(SPACE, lut, observations, comparison, time, metric="latency_ms", simulated=True)


def scrambled(seed=3):
    """A table that says nothing about the board: the same numbers in another order."""
    values = np.random.default_rng(seed).permutation(list(TRUTH.values()))
    return dict(zip(TRUTH, values.tolist(), strict=True))


def test_a_good_table_lowers_the_error_of_few_networks(tmp_path):
    plans = plans_of(tmp_path, TRUTH, 20)

    assert plans.table_helps and plans.table_gain > 0
    assert plans.verdict.startswith("the operators' table lowers the error from ")


def test_a_table_that_says_nothing_is_named_so(tmp_path):
    plans = plans_of(tmp_path, scrambled(), 60)

    assert plans.table_helps is False
    assert (
        plans.verdict.startswith("the operators' table brings nothing here: ")
        and "measure networks only" in plans.verdict
    )


def test_the_errors_of_each_plan_fall_with_the_networks(tmp_path):
    plans = plans_of(tmp_path, TRUTH, 60, noise_ms=0.002)

    for name in ("networks only", "both"):
        points = [point for point in plans.points if point.plan == name]
        assert [point.networks for point in points] == sorted(point.networks for point in points)
        assert [point.basis for point in points][-2:] == ["held out", "extrapolated"]
        assert points[-1].networks == 120
        assert points[-1].mape <= points[-2].mape <= points[0].mape


def test_the_time_of_a_plan_is_that_of_its_parts(tmp_path):
    plans = plans_of(tmp_path, TRUTH, 20)

    minutes = {(point.plan, point.networks): point.board_minutes for point in plans.points}
    assert minutes["table only", 0] == pytest.approx(2.0)
    assert minutes["networks only", 16] == pytest.approx((30 + 16 * 6) / 60)
    assert minutes["both", 16] == pytest.approx((120 + 30 + 16 * 6) / 60)


def test_networks_in_place_of_a_slow_table_are_named_where_they_give_more(tmp_path):
    plans = plans_of(
        tmp_path, TRUTH, 20, time=BoardTime(table_s=6000.0, sentinels_s=30.0, network_s=6.0), noise_ms=0.02
    )

    assert plans.table_helps
    assert "in its time the board measures 1000 further networks" in plans.verdict


def test_unknown_times_and_few_networks_stay_unknown(tmp_path):
    plans = plans_of(tmp_path, TRUTH, 5, time=BoardTime(None, None, None))

    assert {point.board_minutes for point in plans.points} == {None}
    assert plans.table_gain is None and plans.table_helps is None
    assert plans.verdict == "5 networks are too few to see what the operators' table brings; 8 show it"


def test_without_networks_only_the_table_has_a_plan_and_no_error(tmp_path):
    from lightnas_edge.predictor.compare import MethodComparison

    lut = profile(tmp_path / "ops.lut.jsonl", SPACE, TRUTH)
    plans = measuring_plans(SPACE, lut, None, MethodComparison(()), TIME, metric="latency_ms")

    (point,) = plans.points
    assert (point.plan, point.mape, point.basis) == ("table only", None, "none") and plans.verdict is None


def test_without_a_table_only_networks_have_a_plan(tmp_path):
    plans = plans_of(tmp_path, None, 40)

    assert {point.plan for point in plans.points} == {"networks only"} and plans.verdict is None
