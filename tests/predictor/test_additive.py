"""The additive predictor: the table as prior, networks as evidence, and its uncertainty."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import luts
from lightnas_edge.errors import ArchitectureError, FingerprintError, PredictorError
from lightnas_edge.predictor import (
    fit_additive,
    load_observations,
    load_predictor,
    lut_predictor,
    next_networks,
    reachable_range,
)
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.search.constraints import Constraint
from lightnas_edge.search.optimum import is_possible
from lightnas_edge.search.problem import Problem
from lightnas_edge.space import Architecture, Operator, load_space
from tests.luts.journals import FINGERPRINT
from tests.predictor.boards import (
    observed,
    profile,
    random_architectures,
    sample,
    small_space,
    sum_ms,
    table_truth_ms,
)

SPACE = small_space()
TABLE_MS = table_truth_ms(SPACE)
SENTINELS = {key: TABLE_MS[key] for key in list(TABLE_MS)[:5]}


def test_the_table_alone_predicts_the_sum_of_its_entries(tmp_path):
    lut = profile(tmp_path / "t", SPACE)
    architecture = Architecture.from_names(SPACE, ["mbconv_k3_e3", "skip", "mbconv_k5_e6", "skip"])

    predictor = lut_predictor(SPACE, lut)

    assert predictor.predict_one(architecture) == pytest.approx(sum_ms(SPACE, TABLE_MS, architecture))
    assert predictor.fingerprint == FINGERPRINT and predictor.simulated and predictor.batch == 1


def test_a_skip_that_keeps_its_shape_costs_nothing_and_one_that_does_not_is_a_term():
    terms = Terms.of(SPACE)

    assert terms.position[:, 2].tolist() == [3, 0, 8, 0]
    assert terms.keys[2] == "skip@8x32-16s2"


def test_equal_shapes_share_one_cost():
    assert len(Terms.of(load_space("lightnas")).keys) == 85


def test_networks_whose_identities_move_within_a_stage_are_the_same_network():
    """NAS-Bench-Macro: 6,561 names, 3,969 networks."""
    terms = Terms.of(load_space("nasbench-macro"))

    def counts(digits):
        return terms.counts(np.array([[int(digit) for digit in digits]])).tolist()

    assert counts("12102201") == counts("12120201") == counts("12120210")
    assert counts("12102201") != counts("12012201"), "a skip that changes the shape stays where it is"


def test_a_table_with_holes_is_refused_with_every_key_it_lacks(tmp_path):
    part = {key: cost for key, cost in TABLE_MS.items() if not key.startswith(("skip@8", "head"))}

    with pytest.raises(luts.LutMissError) as caught:
        lut_predictor(SPACE, profile(tmp_path / "t", SPACE, part))

    assert "head@" in str(caught.value) and "skip@8x32-16s2" in str(caught.value)
    assert "11 of 13 operators found" in str(caught.value)


def test_five_networks_identify_the_constant_and_the_overhead_per_block(tmp_path):
    """Truth: the table's sum, plus 0.3 ms, minus 0.02 ms for each block. Five networks show both."""

    def truth(architecture):
        blocks = sum(not shaped.is_identity for shaped in SPACE.chain(architecture)) - 3
        return sum_ms(SPACE, TABLE_MS, architecture) + 0.3 - 0.02 * blocks

    lut = profile(tmp_path / "t", SPACE)
    networks = random_architectures(SPACE, 30)
    predictor = fit_additive(SPACE, lut, [sample(tmp_path / "s", SPACE, networks[:5], truth, SENTINELS)])

    errors = [predictor.predict_one(a) / truth(a) - 1 for a in networks[5:]]
    assert np.sqrt(np.mean(np.square(errors))) < 0.005
    alone = lut_predictor(SPACE, lut)
    assert np.mean([abs(alone.predict_one(a) / truth(a) - 1) for a in networks[5:]]) > 0.1


def test_without_a_table_squeeze_and_excitation_costs_more_than_none_before_any_was_measured(tmp_path):
    space = small_space(4, ["mbconv_k5_e6", "mbconv_k5_e6_se", "skip"])
    plain, squeezed = (Architecture.from_names(space, [name] * 4) for name in ("mbconv_k5_e6", "mbconv_k5_e6_se"))
    samples = sample(tmp_path / "s", space, [plain, Architecture.from_names(space, ["skip"] * 4)], lambda a: 1.0)

    predictor = fit_additive(space, None, [samples])

    assert predictor.predict_one(squeezed) > predictor.predict_one(plain)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_to_three_networks_are_enough_to_help(tmp_path, count):
    """Fewer networks than unknowns: the prior fills in. Truth is the table's sum times 1.1."""
    lut = profile(tmp_path / "t", SPACE)
    networks = random_architectures(SPACE, 20)
    samples = sample(tmp_path / "s", SPACE, networks[:count], lambda a: 1.1 * sum_ms(SPACE, TABLE_MS, a), SENTINELS)

    predictor = fit_additive(SPACE, lut, [samples])

    errors = [predictor.predict_one(a) / (1.1 * sum_ms(SPACE, TABLE_MS, a)) - 1 for a in networks]
    assert np.sqrt(np.mean(np.square(errors))) < 0.03


def test_the_same_network_ten_times_is_not_more_than_that_network(tmp_path):
    """A rank of one: no error, and other networks stay uncertain."""
    indices = np.zeros((10, 4), dtype=np.int64)
    predictor = fit_additive(SPACE, profile(tmp_path / "t", SPACE), observed(SPACE, indices, np.full(10, 2.0)))

    seen, unseen = predictor.deviation(one_hot_of(SPACE, np.array([[0, 0, 0, 0], [1, 2, 1, 2]])))
    assert predictor.predict_indices(indices[:1]) == pytest.approx([2.0], rel=0.01)
    assert unseen > 2 * seen


def test_the_drift_of_a_slower_session_is_corrected_to_the_reference_session(tmp_path):
    lut = profile(tmp_path / "t", SPACE)
    networks = random_architectures(SPACE, 10)
    slow = sample(
        tmp_path / "s", SPACE, networks, lambda a: sum_ms(SPACE, TABLE_MS, a), SENTINELS, drift=lambda r: 1.08
    )

    observations = load_observations(SPACE, [slow], lut)

    expected = [sum_ms(SPACE, TABLE_MS, network) for network in networks]
    assert sorted(observations.value) == pytest.approx(sorted(expected))
    assert observations.notes == ("s: drift x1.0800 relative to t (1.0800 to 1.0800, 5 operators), corrected",)


def test_networks_without_shared_operators_say_that_the_drift_is_unknown(tmp_path):
    lut = profile(tmp_path / "t", SPACE)
    bare = sample(tmp_path / "s", SPACE, random_architectures(SPACE, 3), lambda a: 1.0)

    assert load_observations(SPACE, [bare], lut).notes == (
        "s: shares no operator with t; the drift between them is unknown",
    )


def test_networks_of_another_board_are_refused_with_the_fields(tmp_path):
    lut = profile(tmp_path / "t", SPACE)
    other = sample(
        tmp_path / "s", SPACE, random_architectures(SPACE, 3), lambda a: 1.0, fingerprint=FINGERPRINT | {"threads": 4}
    )

    with pytest.raises(FingerprintError, match="threads 1 and 4"):
        fit_additive(SPACE, lut, [other])


def test_networks_of_another_space_are_refused_all_in_one_message(tmp_path):
    samples = sample(tmp_path / "s", SPACE, random_architectures(SPACE, 3), lambda a: 1.0)

    with pytest.raises(PredictorError, match="3 measured networks do not fit space tiny"):
        load_observations(load_space("tiny"), [samples])


def test_a_file_without_networks_says_how_to_get_some(tmp_path):
    with pytest.raises(PredictorError, match="no whole network was measured") as caught:
        fit_additive(SPACE, None, [profile(tmp_path / "t", SPACE)])

    assert "lightnas-edge sample" in caught.value.hint


def test_neither_table_nor_networks_is_an_error():
    with pytest.raises(PredictorError, match="a table, measured networks, or both"):
        fit_additive(SPACE, None, [])


def test_networks_alone_are_enough(tmp_path):
    networks = random_architectures(SPACE, 60)
    samples = sample(tmp_path / "s", SPACE, networks[:40], lambda a: sum_ms(SPACE, TABLE_MS, a), noise=0.002)

    predictor = fit_additive(SPACE, None, [samples])

    errors = [predictor.predict_one(a) / sum_ms(SPACE, TABLE_MS, a) - 1 for a in networks[40:]]
    assert np.std(errors) < 0.005


def test_no_network_is_predicted_to_take_less_than_nothing(tmp_path):
    """The measured networks are the large ones, and the costs that explain them leave less than nothing for the smallest."""
    space = small_space(6)
    indices = np.array([each for each in itertools.product(range(3), repeat=6) if each.count(2) <= 1])
    latency_ms = 20.0 * (indices < 2).sum(axis=1) - 80.0
    predictor = fit_additive(space, None, observed(space, indices, latency_ms))
    constant, cost = predictor.linear_terms()

    reach = reachable_range(predictor)

    smallest = reach.lowest_architecture.one_hot(space)[None]
    assert reach.lowest_architecture.names == ("skip",) * 6
    assert constant + (cost * smallest[0]).sum() < -50
    assert reach.lowest == pytest.approx(reach.highest / 1000)
    assert predictor.extrapolated(smallest).all()
    low, high = predictor.interval(smallest, 0.9)
    assert 0 <= low[0] < reach.lowest < high[0]
    assert predictor.upper(smallest, 0.95)[0] >= reach.lowest
    assert predictor.predict_indices(indices) == pytest.approx(latency_ms, abs=0.1), "the measured ones, as before"
    assert predictor.predict_one(reach.lowest_architecture) == reach.lowest
    assert predictor.predict_indices(np.full((1, 6), 2)).tolist() == [reach.lowest]
    predictor.save(tmp_path / "p.json")
    assert load_predictor(tmp_path / "p.json").predict(smallest)[0] == pytest.approx(reach.lowest)
    tensor = torch.tensor(smallest, dtype=torch.float64, requires_grad=True)
    value = predictor.torch_module()(tensor)
    value.sum().backward()
    assert value.item() == pytest.approx(reach.lowest, rel=1e-5)
    assert tensor.grad[0].numpy() == pytest.approx(cost, rel=1e-5), "a search still learns which operator costs more"


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_a_budget_below_every_prediction_is_infeasible(confidence):
    """Sums below zero keep any budget, but no network does."""
    space = small_space(6)
    indices = np.array([each for each in itertools.product(range(3), repeat=6) if each.count(2) <= 1])
    predictor = fit_additive(space, None, observed(space, indices, 20.0 * (indices < 2).sum(axis=1) - 80.0))
    lowest = reachable_range(predictor).lowest

    def possible(target):
        return is_possible(Problem(space, (Constraint(predictor, target),), confidence))

    assert [possible(lowest * factor) for factor in (1e-6, 0.999, 1.001, 1e3)] == [False, False, True, True]


def test_the_interval_covers_what_it_promises():
    """Ten new networks after each of 60 fits: the 90 % interval contains the measurement 85 to 97 % of the time."""
    generator = np.random.default_rng(0)
    terms = Terms.of(SPACE)
    inside = []
    for _ in range(60):
        cost = np.concatenate([[0.5], 0.1 + 0.3 * generator.random(len(terms.keys))])
        indices = generator.integers(3, size=(30, 4))
        latency = terms.counts(indices) @ cost + 0.01 * generator.normal(size=30)
        predictor = fit_additive(SPACE, None, observed(SPACE, indices[:20], latency[:20]))
        low, high = predictor.interval(one_hot_of(SPACE, indices[20:]), 0.9)
        inside.append(np.mean((low <= latency[20:]) & (latency[20:] <= high)))
    assert 0.85 <= np.mean(inside) <= 0.97


def test_one_network_at_a_time_is_predicted_as_many_are():
    indices = np.random.default_rng(0).integers(3, size=(20, 4))
    predictor = fit_additive(SPACE, None, observed(SPACE, indices, 1 + 0.1 * indices.sum(axis=1)))

    one_by_one = [predictor.predict_one(Architecture.from_indices(SPACE, row)) for row in indices]

    assert one_by_one == pytest.approx(predictor.predict_indices(indices).tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (Architecture("other", (SPACE.operators[0],) * 4), "it is of space 'other', not 'small'"),
        (Architecture("small", (SPACE.operators[0],) * 3), "3 operators for 4 searchable layers"),
        (Architecture("small", (Operator.parse("mbconv_k7_e1"),) * 4), "layer 0: mbconv_k7_e1 is not offered"),
    ],
)
def test_a_network_that_does_not_fit_the_space_is_refused(tmp_path, architecture, message):
    predictor = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))

    with pytest.raises(ArchitectureError, match=message):
        predictor.predict_one(architecture)


def test_the_upper_bound_is_one_sided():
    predictor = fit_additive(SPACE, None, observed(SPACE, np.array([[0, 0, 0, 0], [1, 1, 1, 1]]), np.array([1.0, 2.0])))
    one_hot = one_hot_of(SPACE, np.array([[0, 1, 0, 1]]))

    assert predictor.upper(one_hot, 0.5) == pytest.approx(predictor.predict(one_hot))
    assert predictor.upper(one_hot, 0.95) == pytest.approx(predictor.interval(one_hot, 0.9)[1])


def test_few_networks_make_bounds_wider_than_many():
    """Student's t at 0.95, by the book: 2.353 with 3 degrees of freedom, 1.645 for the normal distribution."""
    different = np.stack(np.unravel_index(7 * np.arange(20) % 81, (3,) * 4), axis=1)
    few, more = (observed(SPACE, different[:n], np.linspace(1, 2, n)) for n in (2, 20))

    assert fit_additive(SPACE, None, few).quantile(0.95) == pytest.approx(2.353, abs=1e-3)
    fitted = fit_additive(SPACE, None, more)
    assert 10 < fitted.fit.calibration.degrees_of_freedom < 20  # the scales that the networks decided are subtracted
    assert 1.645 < fitted.quantile(0.95) < 1.82


def test_a_table_alone_states_the_uncertainty_of_its_prior(tmp_path):
    assert lut_predictor(SPACE, profile(tmp_path / "t", SPACE)).quantile(0.95) == pytest.approx(1.645, abs=1e-3)


def test_adding_a_network_afterwards_is_the_same_as_having_had_it():
    indices = np.stack(np.unravel_index(np.random.default_rng(0).permutation(81)[:20], (3,) * 4), axis=1)
    latency = 1 + 0.1 * (indices == 1).sum(axis=1)
    first = fit_additive(SPACE, None, observed(SPACE, indices[:19], latency[:19]))

    both = first.updated(observed(SPACE, indices[19:], latency[19:]))

    one_hot = one_hot_of(SPACE, indices[19:])
    assert abs(both.predict(one_hot)[0] - latency[19]) <= abs(first.predict(one_hot)[0] - latency[19])
    assert both.deviation(one_hot)[0] < first.deviation(one_hot)[0]
    assert both.fit.networks == 20
    architecture = Architecture.from_indices(SPACE, indices[19])
    one = first.updated_with(architecture, float(latency[19]), 1e-3)
    assert one.mean == pytest.approx(both.mean) and one.covariance == pytest.approx(both.covariance)


def test_networks_added_one_by_one_give_the_bounds_of_all_at_once(tmp_path):
    """After 20 networks the bound at 0.95 is 1.729 deviations above the prediction: Student's t with 19 degrees of freedom."""
    table = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))
    indices = np.random.default_rng(0).integers(3, size=(20, 4))
    value = 1.05 * table.predict_indices(indices)

    one_by_one = table
    for row, each in zip(indices, value, strict=True):
        one_by_one = one_by_one.updated_with(Architecture.from_indices(SPACE, row), float(each), 1e-3)
    at_once = table.updated(observed(SPACE, indices, value))

    assert one_by_one.quantile(0.95) == at_once.quantile(0.95) == pytest.approx(1.729, abs=1e-3)


def test_the_torch_module_computes_the_same_and_has_the_costs_as_gradient(tmp_path):
    predictor = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))
    one_hot = one_hot_of(SPACE, np.random.default_rng(0).integers(3, size=(16, 4)))
    tensor = torch.tensor(one_hot, dtype=torch.float32, requires_grad=True)

    predicted = predictor.torch_module()(tensor)
    predicted.sum().backward()

    assert predicted.detach().numpy() == pytest.approx(predictor.predict(one_hot), rel=1e-5)
    assert tensor.grad[0].numpy() == pytest.approx(predictor.linear_terms()[1], rel=1e-5)


def test_indices_and_one_hots_of_any_type_give_the_same_numbers(tmp_path):
    predictor = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))
    indices = np.random.default_rng(0).integers(3, size=(16, 4))
    expected = predictor.predict(one_hot_of(SPACE, indices))

    assert predictor.predict_indices(indices) == pytest.approx(expected)
    assert predictor.predict(one_hot_of(SPACE, indices).astype(np.uint8)) == pytest.approx(expected)
    with pytest.raises(PredictorError, match=r"shape \(B, 4, 3\).*found \(16, 12\)"):
        predictor.predict(one_hot_of(SPACE, indices).reshape(16, 12))


def test_the_reachable_range_is_the_sum_of_each_layers_ends(tmp_path):
    """Lowest: k3_e3 in layers 0 and 2 (their skip costs more here), skip in 1 and 3."""
    predictor = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))

    found = reachable_range(predictor)

    assert found.lowest_architecture.slug == "k3e3-skip-k3e3-skip" and found.exact
    assert found.lowest == pytest.approx(sum_ms(SPACE, TABLE_MS, found.lowest_architecture))
    assert found.lowest < found.median < found.highest


def test_the_networks_to_measure_next_leave_less_variance_than_random_ones(tmp_path):
    space = load_space("tiny")
    predictor = lut_predictor(space, profile(tmp_path / "t", space, rounds=3))
    candidates = random_architectures(space, 200)
    chosen = next_networks(predictor, candidates, 8)

    def variance(networks):
        indices = np.stack([network.indices(space) for network in networks])
        after = predictor.updated(observed(space, indices, predictor.predict_indices(indices)))
        fresh = np.random.default_rng(9).integers(len(space.operators), size=(300, 8))
        return np.mean(after.deviation(one_hot_of(space, fresh)) ** 2)

    assert len(set(chosen)) == 8
    assert variance(chosen) < variance(candidates[:8])
