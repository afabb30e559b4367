"""Feature tables with known costs: the costs are found, and intervals cover what they promise."""

from itertools import pairwise

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor._evidence import cholesky
from lightnas_edge.predictor.external_tables import read_external_table
from lightnas_edge.predictor.feature_intervals import Alike, ErrorScale, Evidence
from lightnas_edge.predictor.feature_models import ADDITIVE, CORRECTED, GAUSSIAN, POWER, PRICED, SEPARATE, TREES
from lightnas_edge.predictor.features import AVERAGE, Features, _weights, fit_features


def roofline(count, seed=0, noise=0.02, floor_ms=0.5, rate=5.0):
    """Blocks that take as long as their launch or their work, the larger of both, and 2 % of noise."""
    generator = np.random.default_rng(seed)
    work = np.exp(generator.uniform(-2, 3, size=(count, 2)))
    time_ms = np.maximum(floor_ms, work @ [1.0, 0.3] / rate) * np.exp(noise * generator.normal(size=count))
    return Features(np.column_stack([work, np.ones(count)]), np.log(work)), time_ms


def mape(predicted, value):
    return float(np.mean(np.abs(predicted / value - 1)))


def test_exact_prices_are_found_exactly():
    features = Features(np.random.default_rng(0).uniform(size=(60, 3)), np.zeros((60, 1)))
    value = features.work @ [2.0, 0.0, 0.5]

    predictor = fit_features(features, value, method=PRICED)

    assert mape(predictor.predict(features), value) < 1e-6


def test_a_gaussian_process_learns_what_prices_leave():
    features, value = roofline(150)
    others, truth = roofline(400, seed=1)

    predictor = fit_features(features, value)

    assert predictor.method == AVERAGE
    assert predictor.errors[GAUSSIAN] < 0.5 * predictor.errors[PRICED]
    assert mape(predictor.predict(others), truth) < 0.05


@pytest.mark.parametrize(("count", "method"), [(150, GAUSSIAN), (600, CORRECTED), (150, None)])
def test_intervals_cover_as_often_as_they_promise(count, method):
    features, value = roofline(count)
    others, truth = roofline(2000, seed=1)

    low, high = fit_features(features, value, method=method).interval(others, 0.9)

    assert 0.85 < np.mean((low <= truth) & (truth <= high)) < 0.95


def test_absolute_errors_are_judged_in_the_unit_of_the_values():
    generator = np.random.default_rng(0)
    features = Features(generator.integers(3, size=(100, 4)).astype(float), generator.normal(size=(100, 1)))
    value = features.work @ [1.0, -0.5, 2.0, 0.0] - 1.0 + 0.1 * generator.normal(size=100)

    predictor = fit_features(features, value, relative=False)

    assert predictor.errors[ADDITIVE] == pytest.approx(0.1, rel=0.2)
    assert (predictor.predict(features) < 0).any()


def test_rows_unlike_the_measured_ones_are_extrapolated():
    """Beyond the extremes of a trait, or in a gap between what was measured."""
    sizes = np.concatenate([np.linspace(0, 1, 30), np.linspace(3, 4, 30)])[:, None]
    features = Features(np.exp(sizes), sizes)
    predictor = fit_features(features, features.work[:, 0], method=PRICED)
    query = np.array([[0.5], [2.0], [4.5]])

    assert predictor.extrapolated(Features(np.exp(query), query)).tolist() == [False, True, True]


def test_too_few_rows_are_refused():
    with pytest.raises(PredictorError, match="at least 20 rows are needed, found 3"):
        fit_features(Features(np.ones((3, 1)), np.ones((3, 1))), np.ones(3))


def test_zero_milliseconds_are_no_value_to_be_relative_to():
    with pytest.raises(PredictorError, match="values above 0"):
        fit_features(Features(np.ones((30, 1)), np.ones((30, 1))), np.zeros(30))


def test_a_covariance_of_equal_rows_has_a_factor():
    singular = np.full((40, 40), 1e8)

    lower, _ = cholesky(singular)

    lower = np.tril(lower)
    assert np.allclose(lower @ lower.T, singular, rtol=1e-5)


def test_what_is_no_covariance_is_refused_by_name():
    with pytest.raises(PredictorError, match="no factor"):
        cholesky(-np.eye(3))
    with pytest.raises(PredictorError, match="no factor"):
        cholesky(np.full((2, 2), np.nan))


@pytest.mark.parametrize("seed", range(6))
def test_few_rows_that_repeat_give_finite_intervals_everywhere(seed):
    features, value = roofline(400, seed=seed)
    rows = np.repeat(np.random.default_rng(seed).permutation(400)[:8], 4)

    predictor = fit_features(features.take(rows), value[rows], seed=seed)

    low, high = predictor.interval(features, 0.9)
    assert np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()


def test_a_model_without_residuals_gives_no_endless_interval():
    """As many kinds of work as rows: fitted exactly, and far off on rows held out."""
    generator = np.random.default_rng(5)
    features = Features(generator.uniform(size=(25, 30)), generator.normal(size=(25, 1)))
    value = np.exp(generator.normal(size=25))

    low, high = fit_features(features, value, method=PRICED).interval(features, 0.9)

    assert (high / low).max() < 1e4


@pytest.mark.parametrize("seed", range(20))
def test_random_parts_of_a_published_table_can_be_fitted(shared_data, seed):
    table = read_external_table(shared_data / "nb201_tx2" / "measurements.csv")
    generator = np.random.default_rng(seed)
    (value,) = [values for (_, metric), values in list(table.values.items())[:1] if metric == "latency_ms"]
    known = np.flatnonzero(np.isfinite(value))
    rows = generator.permutation(known)[: int(generator.integers(20, 80))]

    predictor = fit_features(table.features.take(rows), value[rows], seed=seed)

    low, high = predictor.interval(table.features, 0.9)
    assert np.isfinite(low).all() and np.isfinite(high).all()


def shifted(count, seed=0):
    """Three kernels of different efficiency that no trait explains but its number."""
    generator = np.random.default_rng(seed)
    kernel = generator.integers(1, 8, size=count).astype(float)
    size = generator.uniform(0, 4, size=count)
    time_ms = np.exp(size) * kernel * (1 + 0.3 * np.sin(3 * kernel)) * np.exp(0.01 * generator.normal(size=count))
    work = np.column_stack([np.exp(size) * kernel, np.ones(count)])
    return Features(work, np.column_stack([size, kernel])), time_ms


def test_intervals_are_wider_for_values_of_a_feature_that_were_not_measured():
    features, value = shifted(250)
    new = features.traits[:, 1] == 4

    predictor = fit_features(features.take(np.flatnonzero(~new)), value[~new])

    low, high = predictor.interval(features, 0.9)
    ratio = np.log(high / low)
    assert np.median(ratio[new]) > 2 * np.median(ratio[~new])
    assert np.mean((low <= value) & (value <= high)) > 0.85


def test_one_isolated_row_does_not_hide_a_gap():
    sizes = np.concatenate([np.linspace(0, 1, 60), np.linspace(3, 4, 60), [20.0]])[:, None]
    features = Features(np.exp(sizes / 5), sizes)
    predictor = fit_features(features, features.work[:, 0], method=PRICED)
    query = np.array([[0.5], [2.0]])

    assert predictor.extrapolated(Features(np.exp(query / 5), query)).tolist() == [False, True]


def test_where_models_disagree_more_than_on_held_out_rows_is_extrapolated():
    features, value = shifted(200)
    predictor = fit_features(features, value)

    flagged = predictor.extrapolated(features)

    assert flagged.mean() < 0.05
    predictor._agreed = 0.0
    assert predictor.extrapolated(features).all()


def test_weights_are_of_the_models_and_add_up_to_one():
    features, value = roofline(100)

    predictor = fit_features(features, value)

    assert set(predictor.weights) == {PRICED, POWER, GAUSSIAN, TREES, CORRECTED}
    assert sum(predictor.weights.values()) == pytest.approx(1) and min(predictor.weights.values()) >= 0
    assert predictor.errors[AVERAGE] <= 1.1 * min(predictor.errors[name] for name in predictor.weights)


def test_each_end_has_its_own_weights():
    """A launch that no work explains: trees are right for smaller rows than measured, prices for larger ones.

    One set of weights for both ends is off by half for the larger ones.
    """
    size = np.random.default_rng(0).uniform(-6, 6, size=(300, 1))
    features, value = Features(np.exp(size), size), np.maximum(1.0, np.exp(size[:, 0]))
    inside = np.abs(size[:, 0]) < 4

    predictor = fit_features(features.take(np.flatnonzero(inside)), value[inside])

    for end in (size[:, 0] < -4, size[:, 0] > 4):
        assert mape(predictor.predict(features.take(np.flatnonzero(end))), value[end]) < 0.3


def test_best_weights_are_not_negative_and_follow_the_errors():
    """By hand: independent errors with variances 1 and 4 have weights of 4/5 and 1/5; of two that err alike, the better one."""
    independent = np.diag([1.0, 4.0])
    alike = np.array([[1.0, 2.0], [2.0, 5.0]])

    found = _weights(np.stack([independent, alike]), 0.0)

    assert found == pytest.approx(np.array([[0.8, 0.2], [1.0, 0.0]]))


def test_held_out_rows_count_by_the_direction_of_their_shift():
    """Two groups, one beyond each of two traits, no new layers; a row's own group does not count for it."""
    alike = Alike(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([0, 1]))
    values = np.array([[10.0], [20.0]])
    asked = np.array([[2.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])

    assert alike.mean(values, asked)[:, 0] == pytest.approx([10, 20, 15], abs=1)
    assert alike.mean(values, asked[:2], np.array([0, 1]))[:, 0] == pytest.approx([20, 10])


def test_rows_with_new_layers_follow_groups_with_new_layers():
    """Even where a group without them differs in the same trait."""
    alike = Alike(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
    values = np.array([[10.0], [20.0]])

    assert alike.mean(values, np.array([[1.0, 0.1], [1.0, 0.0]]))[:, 0] == pytest.approx([20, 10], abs=0.2)


def test_few_groups_tell_little_of_the_next_one():
    """By hand: t with 2 degrees of freedom is 2.92 where the normal distribution is 1.645; more rows of the groups change nothing."""
    for rows in (1, 50):
        shift, group = np.ones((2 * rows, 2)), np.repeat([0, 1], rows)
        alike = Alike(shift, group)

        found = alike.quantile(np.ones(2 * rows), 0.9, np.ones((1, 2)))

        assert found == pytest.approx([2.920 / 1.645], rel=1e-3)


def with_weights(count, weights, seed=0):
    """Blocks whose weights cost as much as other values moved, and how many they have: logarithms from `weights[0]` to `weights[1]`."""
    generator = np.random.default_rng(seed)
    moved, held = (np.exp(generator.uniform(*ends, size=count)) for ends in ((3, 6), weights))
    products = moved * np.exp(generator.uniform(1, 3, size=count))
    time_ms = (0.2 * products + moved + held) * np.exp(0.05 * generator.normal(size=count))
    work = np.column_stack([products, moved, held])
    return Features(work, np.log(work), joined=np.column_stack([products, moved + held])), time_ms


def test_what_few_weights_cannot_tell_follows_from_all_that_is_moved():
    features, value = with_weights(60, (-2, 0))
    others, truth = with_weights(200, (6, 8), seed=10)

    joined = fit_features(features, value, method=PRICED)
    average = fit_features(features, value)
    separate = fit_features(Features(features.work, features.traits), value)

    of_separate = separate.predict(Features(others.work, others.traits))
    assert mape(joined.predict(others), truth) < 0.1
    assert mape(average.predict(others), truth) < 0.5 * mape(of_separate, truth)
    assert set(average.weights) == {PRICED, POWER, GAUSSIAN, TREES, CORRECTED, SEPARATE}


@pytest.mark.parametrize("method", [None, PRICED])
def test_rows_of_another_form_are_refused(method):
    features, value = with_weights(30, (0, 1))
    predictor = fit_features(features, value, method=method)

    for other in (
        Features(features.work, features.traits),
        Features(features.work, features.traits[:, :1], joined=features.joined),
        Features(features.work[:, :2], features.traits, joined=features.joined),
    ):
        with pytest.raises(
            PredictorError, match="fitted to rows of 3 kinds of work, 3 traits, 2 kinds of joined work, and"
        ):
            predictor.predict(other)


def test_no_rows_have_no_predictions():
    features, value = with_weights(30, (0, 1))
    predictor, none = fit_features(features, value), features.take(np.zeros(0, dtype=np.int64))

    assert predictor.predict(none).shape == predictor.extrapolated(none).shape == (0,)
    assert [end.shape for end in predictor.interval(none)] == [(0,), (0,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"joined": -np.ones((3, 1))}, "an amount of joined work is negative"),
        ({"joined": np.ones((2, 1))}, r"the joined work has the shape \(2, 1\), and there are 3 rows"),
        ({"work": np.full((3, 2), np.nan)}, "an amount of work is negative or not a finite number"),
        ({"traits": np.ones((3, 0))}, "at least one trait"),
        ({"traits": np.full((3, 1), 1e39)}, "logarithms"),
    ],
)
def test_features_that_are_none_are_refused(arguments, message):
    with pytest.raises(PredictorError, match=message):
        Features(**{"work": np.ones((3, 2)), "traits": np.ones((3, 1)), **arguments})


def test_what_cannot_be_fitted_is_refused():
    features, value = roofline(30)

    with pytest.raises(PredictorError, match=r"shape \(30, 1\)"):
        fit_features(features, value[:, None])
    with pytest.raises(PredictorError, match="2 to 30 folds, found 1"):
        fit_features(features, value, folds=1)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 95, float("nan")])
def test_a_confidence_is_a_probability(confidence):
    features, value = roofline(30)

    with pytest.raises(PredictorError, match="between 0 and 1"):
        fit_features(features, value, method=PRICED).interval(features, confidence)


def test_equal_values_are_no_disagreement():
    features, value = roofline(40)

    predictor = fit_features(features, np.full_like(value, 0.02))

    assert not predictor.extrapolated(features).any()


def test_beyond_all_numbers_nothing_is_known():
    size = np.linspace(0, 4, 40)[:, None]
    features, far = Features(np.exp(size), size), Features(np.exp(5 * size + 20), 5 * size + 20)
    predictor = fit_features(features, np.exp(2 * size[:, 0]), method=POWER)

    low, high = predictor.interval(far.take(np.array([39])))

    assert high / low > 1e12


def test_far_outside_errors_grow_with_the_disagreement_of_the_models():
    """Held-out rows with nearly one disagreement tell nothing of ten times as much."""
    generator = np.random.default_rng(0)
    grouped = np.arange(200) < 100

    def evidence(disagreement):
        count = len(disagreement)
        return Evidence(np.zeros(count), disagreement, np.zeros((count, 4)), np.ones(count), np.ones((count, 3)))

    known = evidence(0.1 * np.exp(0.02 * generator.normal(size=200)))
    alike = Alike(known.shift[grouped], np.arange(200)[grouped] % 10)
    scale = ErrorScale(known, np.abs(0.1 * generator.normal(size=200)), grouped, alike)

    usual, far = scale.expected(evidence(np.array([0.1, 1.0])))
    assert usual == pytest.approx(0.08, rel=0.2)
    assert 5 < far / usual < 12


def test_equal_rows_do_not_make_every_other_row_far_away():
    features, value = roofline(160)
    rows = np.repeat(np.arange(80), 3)

    predictor = fit_features(features.take(rows), value[rows], method=GAUSSIAN)

    assert predictor.extrapolated(features.take(np.arange(80, 160))).mean() < 0.5


@pytest.mark.parametrize("constant", (5.5, float(np.log(224))))
def test_a_constant_trait_that_rounding_makes_uneven_is_still_constant(constant):
    """The mean of equal numbers is not always that number, and the spread then 1e-15 instead of 0."""
    features, value = roofline(60)
    fixed = Features(features.work, np.column_stack([features.traits, np.full(60, constant)]))
    moved = Features(features.work, np.column_stack([features.traits, np.full(60, constant * (1 + 1e-6))]))

    predictor = fit_features(fixed, value, method=GAUSSIAN)
    low, high = predictor.interval(moved, 0.9)

    assert predictor.predict(moved) == pytest.approx(predictor.predict(fixed), rel=0.05)
    assert (high / low).max() < 10


def test_intervals_grow_with_the_confidence_however_few_rows_there_are():
    features, value = roofline(24)
    predictor = fit_features(features, value, method=GAUSSIAN)

    widths = [
        float(np.mean(np.subtract(*predictor.interval(features, each)[::-1]))) for each in (0.9, 0.95, 0.99, 0.999)
    ]

    assert all(wider > 1.05 * narrow for narrow, wider in pairwise(widths))
