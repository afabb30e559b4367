"""Rows of layers: what whole tiles cost, and what one layer says about others."""

from __future__ import annotations

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.feature_models import CORRECTED, LAYER_PRICES, LAYERS, PRICED
from lightnas_edge.predictor.features import Features, fit_features
from lightnas_edge.predictor.layer_prices import LayerPrices
from lightnas_edge.predictor.layer_process import LayerProcess, fit_layer_scales
from lightnas_edge.predictor.layers import Layer, Layers
from lightnas_edge.predictor.prices import fit_prices
from tests.predictor.test_features import mape

SIDES = np.arange(5, 40)


def conv(width, side, kernel=3):
    return Layer("conv", width, width, kernel, side, side)


def networks(count, seed=0, kernels=(3,)):
    """Networks of one to four convolutions of one width."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        width = int(generator.choice([32, 64, 96, 128]))
        depth, kernel = int(generator.integers(1, 5)), int(generator.choice(kernels))
        found.append([conv(width, int(generator.choice(SIDES)), kernel) for _ in range(depth)])
    return found


def tiled_ms(layer):
    """By hand: whole tiles of 8 by 8 outputs, 1 us each for 64 x 64 channels, and 5 us to launch."""
    tiles = np.ceil(layer.out_side / 8) ** 2
    return 1e-3 * (5 + tiles * layer.in_channels * layer.out_channels / 64**2 * layer.kernel**2 / 9)


def times_ms(rows, of_layer=tiled_ms, seed=0, noise=0.0):
    sums = np.array([sum(of_layer(layer) for layer in layers) for layers in rows])
    return sums * np.exp(noise * np.random.default_rng(seed).normal(size=len(rows)))


def test_a_layer_that_occurs_twice_is_counted_twice():
    layers = Layers.of([[conv(32, 8), conv(32, 8)], [conv(64, 8), conv(32, 8)], []])

    assert layers.counts.toarray().tolist() == [[2, 0], [1, 1], [0, 0]]
    assert layers.take(np.array([1])).counts.toarray().tolist() == [[1, 1]]
    assert layers.variants().tolist() == [[True], [True], [False]]


def test_amounts_of_a_layer_by_hand():
    """3 x 3, 2 into 4 channels, 5 x 5 pixels: 1800 multiplications; 8 x 8 pixels are 4608."""
    amounts = Layers.of([[Layer("conv", 2, 4, 3, 5, 5)]]).shapes.amounts[0]

    assert amounts[0] == 3 * 3 * 2 * 4 * 25
    assert amounts[3] == 3 * 3 * 2 * 4 * 64
    assert amounts[-3:].tolist() == [6 * 25, 72, 1]


def test_a_size_below_one_is_refused():
    with pytest.raises(PredictorError, match="below 1"):
        Layers.of([[conv(32, 0)]])


def test_prices_of_whole_tiles_are_found():
    """No price of single multiplications describes them."""
    rows, others = networks(120), networks(60, seed=1)

    prices = LayerPrices().fit(Layers.of(rows), times_ms(rows))

    _, predicted = prices.shares(Layers.of(others))
    assert mape(predicted, times_ms(others)) < 1e-3


def test_an_unmeasured_kernel_has_the_prices_of_its_neighbours():
    rows, others = networks(200, kernels=(2, 5)), networks(50, seed=1, kernels=(3, 7))

    prices = LayerPrices().fit(Layers.of(rows), times_ms(rows))

    _, predicted = prices.shares(Layers.of(others))
    assert mape(predicted, times_ms(others)) < 0.02


def moved_ms(layer):
    """As a first layer: what it moves decides, and the kernel only how fast; one kernel alone cannot tell."""
    return 1e-6 * layer.out_channels * layer.out_side**2 * (1 + 0.1 * layer.kernel)


def test_kernels_of_one_kind_tell_what_grows_with_the_kernel():
    """Multiplications of 5 x 5 are 25 times those of 1 x 1, and the time only 1.4 times: at 3 x 3 it is between both."""

    def firsts(kernel, seed):
        sizes = np.random.default_rng(seed).choice(SIDES, 60)
        return [[Layer("first", 3, int(64 + side), kernel, int(side), int(side))] for side in sizes]

    rows, others = [*firsts(1, 0), *firsts(2, 1), *firsts(5, 2)], firsts(3, 3)

    _, predicted = LayerPrices().fit(Layers.of(rows), times_ms(rows, moved_ms)).shares(Layers.of(others))

    assert mape(predicted, times_ms(others, moved_ms)) < 0.05


def test_amounts_with_another_kernel_are_those_of_such_layers():
    shapes = Layers.of([[conv(32, 9, 3)], [conv(64, 7, 5)]]).shapes
    same = Layers.of([[conv(32, 9, 2)], [conv(64, 7, 2)]]).shapes

    assert (shapes.amounts_with(2) == same.amounts).all()
    assert (shapes.amounts != same.amounts).any()


def test_prices_are_those_of_equal_columns_together():
    work = np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 1.0]])

    price = fit_prices(work, np.array([3.0, 10.0]))

    assert work @ price == pytest.approx([3, 10]) and (price >= 0).all()


@pytest.mark.parametrize("columns", [0, 2])
def test_prices_of_no_work_are_zero(columns):
    assert fit_prices(np.zeros((3, columns)), np.ones(3)).tolist() == [0] * columns


def odd(layer):
    """A cost without a rule: at every third side, another implementation that is 40 % slower."""
    return tiled_ms(layer) * (1.4 if layer.out_side % 3 == 0 else 1.0)


def test_a_process_learns_what_single_layers_cost_from_sums_of_layers():
    rows, others = networks(400), networks(100, seed=1)
    layers, value = Layers.of(rows), times_ms(rows, odd, noise=0.01)
    prices = LayerPrices().fit(layers, value)

    process = LayerProcess(fit_layer_scales(layers, value)).fit(layers, value)

    truth = times_ms(others, odd)
    error = mape(np.exp(process.predict(Layers.of(others))), truth)
    assert error < 0.4 * mape(prices.shares(Layers.of(others))[1], truth)


def test_held_out_predictions_are_as_far_off_as_new_rows():
    rows, others = networks(200), networks(300, seed=1)
    layers, value = Layers.of(rows), times_ms(rows, odd, noise=0.01)

    process = LayerProcess(fit_layer_scales(layers, value)).fit(layers, value)

    fitted = mape(np.exp(process.predict(layers)), value)
    held_out = mape(np.exp(process.held_out), value)
    new = mape(np.exp(process.predict(Layers.of(others))), times_ms(others, odd, seed=1, noise=0.01))
    assert held_out == pytest.approx(new, rel=0.3) and fitted < 0.8 * held_out


def test_one_wrong_row_does_not_move_the_others():
    rows, others = networks(150), networks(60, seed=1)
    layers, value = Layers.of(rows), times_ms(rows, noise=0.01)
    scales, wrong = fit_layer_scales(layers, value), value.copy()
    wrong[7] *= 2

    found, moved = (LayerProcess(scales).fit(layers, each).predict(Layers.of(others)) for each in (value, wrong))

    assert np.abs(found - moved).max() < 0.05


def featured(rows):
    layers = Layers.of(rows)
    work = layers.counts @ layers.shapes.amounts[:, [0, -3, -1]]
    return Features(work, np.log(work), layers)


def test_features_with_layers_are_predicted_better():
    rows, others = networks(80, kernels=(1, 3)), networks(100, seed=1, kernels=(1, 3))
    value, truth = times_ms(rows, noise=0.01), times_ms(others)
    features, asked = featured(rows), featured(others)

    predictor = fit_features(features, value)
    without = fit_features(Features(features.work, features.traits), value)

    assert {LAYER_PRICES, LAYERS, CORRECTED} <= set(predictor.weights)
    assert LAYERS not in without.weights and PRICED in without.weights
    of_sums = without.predict(Features(asked.work, asked.traits))
    assert mape(predictor.predict(asked), truth) < 0.7 * mape(of_sums, truth)
    low, high = predictor.interval(asked, 0.9)
    assert np.mean((low <= truth) & (truth <= high)) > 0.85


def test_layers_of_other_rows_are_refused():
    features = featured(networks(30))

    with pytest.raises(PredictorError, match="the layers are of 30 rows, not of 20"):
        Features(features.work[:20], features.traits[:20], features.layers)
    predictor = fit_features(features, times_ms(networks(30)), method=LAYER_PRICES)
    with pytest.raises(
        PredictorError,
        match="fitted to rows of 3 kinds of work, 3 traits, layers, and these have 3 kinds of work, 3 traits",
    ):
        predictor.predict(Features(features.work, features.traits))


def test_an_unmeasured_kernel_is_extrapolated():
    rows = networks(60, kernels=(2, 5))
    predictor = fit_features(featured(rows), times_ms(rows), method=LAYER_PRICES)

    assert predictor.extrapolated(featured(networks(10, seed=1, kernels=(3,)))).all()


def test_intervals_hold_for_a_kernel_that_was_not_measured():
    """Each kernel has a speed of its own that nothing else tells: those that were held out show how much they differ."""
    speed = dict(zip(range(1, 9), np.random.default_rng(3).normal(0, 0.15, size=8), strict=True))

    def of_kernel(layer):
        return tiled_ms(layer) * np.exp(speed[layer.kernel])

    kernels = (1, 2, 3, 5, 6, 7, 8)
    rows, alike, new = (networks(240, s, k) for s, k in enumerate((kernels, kernels, (4,))))
    predictor = fit_features(featured(rows), times_ms(rows, of_kernel, noise=0.01))

    ratio = {}
    for name, asked in (("alike", alike), ("new", new)):
        low, high = predictor.interval(featured(asked), 0.9)
        truth = times_ms(asked, of_kernel)
        assert np.mean((low <= truth) & (truth <= high)) > 0.85
        ratio[name] = np.median(np.log(high / low))
    assert ratio["new"] > 4 * ratio["alike"]


def test_rows_without_any_layer_are_no_obstacle():
    rows = [[Layer("conv", 8 * (number + 1), 16, 3, 14, 14)] for number in range(15)] + [[] for _ in range(15)]
    size = np.array([[float(len(row) and row[0].in_channels)] for row in rows])
    value = 1.0 + size[:, 0]

    predictor = fit_features(Features(size, np.log1p(size), Layers.of(rows)), value)

    assert np.isfinite(predictor.predict(Features(size, np.log1p(size), Layers.of(rows)))).all()
