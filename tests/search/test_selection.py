"""The exact choice of a network: never above the budget, and of the highest score within it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lightnas_edge.errors import BudgetError, InfeasibleBudgetError, LightnasEdgeError
from lightnas_edge.predictor import AdditivePredictor, CountedPredictor, fit_mlp
from lightnas_edge.predictor.base import Origin, one_hot_of
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.search import listing
from lightnas_edge.search.constraints import Constraint
from lightnas_edge.search.selection import check_budget, select
from lightnas_edge.space import Architecture, load_space, macs_m, parameters_m
from tests.predictor.boards import observed, small_space

SPACE = small_space()  # 4 layers x 3 operators: 81 networks
EVERY = np.array(list(itertools.product(range(3), repeat=4)))


def additive(seed: int, space=SPACE, std: float = 0.1, noise_ms: float | None = None) -> AdditivePredictor:
    """Costs around 1 ms, with correlated uncertainties of about a tenth of them, and noise of a hundredth."""
    generator = np.random.default_rng(seed)
    width = 1 + len(Terms.of(space).keys)
    root = std * generator.normal(size=(width, width)) / np.sqrt(width)
    return AdditivePredictor(
        space, Origin({}), 0.2 + generator.random(width), root @ root.T, std / 10 if noise_ms is None else noise_ms
    )


def random_scores(seed: int, space=SPACE) -> np.ndarray:
    logits = np.random.default_rng(1000 + seed).normal(size=(len(space.layers), len(space.operators)))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def best_by_trying_all(scores, values, target):
    """Total score of the best network within the target, by brute force."""
    totals = scores[np.arange(4), EVERY].sum(axis=1)
    return totals[values <= target].max()


@pytest.fixture(params=["listing", "integer programs"])
def method(request, monkeypatch):
    """The two ways to an exact optimum; the second is used where networks are too many to list."""
    if request.param == "integer programs":
        monkeypatch.setattr(listing, "_MOST_LISTED", 0)


@pytest.mark.usefixtures("method")
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("confidence", [None, 0.5, 0.95])
def test_no_network_within_the_budget_has_a_higher_score(seed, confidence):
    """All 81 networks are tried, at a target that about a third of them keep."""
    predictor, scores = additive(seed), random_scores(seed)
    one_hot = one_hot_of(SPACE, EVERY)
    values = predictor.predict(one_hot) if confidence is None else predictor.upper(one_hot, confidence)
    target = float(np.quantile(values, 0.33))

    selection = select(SPACE, scores, [Constraint(predictor, target)], confidence)

    assert selection.exact
    assert selection.score == pytest.approx(best_by_trying_all(scores, values, target), abs=1e-12)
    assert (selection.predicted if confidence is None else selection.upper)[0] <= target


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise_ms", [0.05, 0.5, 2.0])
def test_the_noise_of_a_measurement_counts_in_a_bound_at_a_confidence(seed, noise_ms):
    """Of every target that some network's bound meets exactly: the best network is found, and none that breaks it."""
    predictor, scores = additive(seed, std=0.1, noise_ms=noise_ms), random_scores(seed)
    upper = predictor.upper(one_hot_of(SPACE, EVERY), 0.95)

    for target in np.sort(upper)[[0, 10, 30, 60]] + 1e-9:
        selection = select(SPACE, scores, [Constraint(predictor, float(target))], 0.95)

        assert selection.upper[0] <= target
        assert selection.score == pytest.approx(best_by_trying_all(scores, upper, target), abs=1e-12)


def test_a_budget_equal_to_a_networks_prediction_is_kept_by_it():
    predictor, scores = additive(0), random_scores(0)
    values = predictor.predict_indices(EVERY)

    for value in np.sort(values)[:20]:
        assert select(SPACE, scores, [Constraint(predictor, float(value))]).predicted[0] <= value


@pytest.mark.usefixtures("method")
def test_of_networks_with_equal_scores_the_faster_is_taken():
    predictor = additive(3)

    selection = select(SPACE, np.zeros((4, 3)), [Constraint(predictor, 100.0)])

    assert selection.predicted == (pytest.approx(predictor.predict_indices(EVERY).min()),)


def test_an_operator_score_of_minus_infinity_is_avoided_and_not_fatal():
    scores = np.zeros((4, 3))
    scores[0, :2] = -np.inf

    selection = select(SPACE, scores, [Constraint(additive(0), 100.0)])

    assert selection.architecture.operators[0].name == "skip"


def test_a_choice_that_the_budget_forces_among_clipped_scores_is_not_called_exact():
    """The budget excludes the best operator of layer 0; the other two are 60 below it, and scores are clipped 50 below."""
    predictor, scores = additive(0), np.zeros((4, 3))
    slow = int(predictor.linear_terms()[1][0].argmax())
    scores[0] = -60.0
    scores[0, slow] = 0.0
    below = float(predictor.predict_indices(EVERY)[EVERY[:, 0] == slow].min()) - 1e-6

    forced = select(SPACE, scores, [Constraint(predictor, below)])
    free = select(SPACE, scores, [Constraint(predictor, 100.0)])

    assert (forced.exact, forced.score) == (False, -60.0)
    assert (free.exact, free.score) == (True, 0.0)


def test_an_impossible_budget_is_refused_with_the_range():
    predictor = additive(0)
    values = predictor.predict_indices(EVERY)

    with pytest.raises(InfeasibleBudgetError) as caught:
        select(SPACE, random_scores(0), [Constraint(predictor, 0.5 * float(values.min()))])

    assert f"the range is {values.min():.4g} to {values.max():.4g} ms" in str(caught.value)
    assert "raise the budget to at least" in caught.value.hint and caught.value.exit_code == 3


def test_a_budget_can_be_checked_before_a_search():
    predictor = additive(0)
    lowest = float(predictor.predict_indices(EVERY).min())

    check_budget(SPACE, [Constraint(predictor, 1.01 * lowest)])
    with pytest.raises(InfeasibleBudgetError, match="the range is"):
        check_budget(SPACE, [Constraint(predictor, 0.99 * lowest)])


def test_a_budget_that_only_the_mean_keeps_is_refused_at_a_confidence():
    predictor = additive(0)
    lowest = float(predictor.predict_indices(EVERY).min())

    budget = [Constraint(predictor, lowest)]
    assert select(SPACE, random_scores(0), budget).predicted == (pytest.approx(lowest),)
    with pytest.raises(InfeasibleBudgetError, match=r"with 95 % confidence.*the upper bound of the lowest network is"):
        select(SPACE, random_scores(0), budget, confidence=0.95)


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_no_budget_is_refused(target):
    with pytest.raises(BudgetError, match="a budget for latency_ms is a positive number of ms"):
        Constraint(additive(0), target)


@pytest.mark.parametrize("scores", [np.zeros((3, 4)), np.full((4, 3), np.nan)])
def test_scores_of_another_shape_or_nan_are_refused(scores):
    with pytest.raises(LightnasEdgeError, match=r"scores are \(4, 3\) numbers"):
        select(SPACE, scores, [Constraint(additive(0), 1.0)])


def test_the_published_space_is_settled_at_a_confidence():
    """21 layers x 7 operators with uncertainty: the bound holds, and no double change within it has a higher score."""
    space = load_space("lightnas")
    predictor, scores = additive(1, space), random_scores(1, space)
    generator = np.random.default_rng(0)
    target = float(predictor.predict_indices(generator.integers(7, size=(1000, 21))).mean())

    selection = select(space, scores, [Constraint(predictor, target)], confidence=0.9)

    assert selection.upper[0] <= target
    near = np.repeat(selection.architecture.indices(space)[None], 4000, axis=0)
    for _ in range(2):
        near[np.arange(4000), generator.integers(21, size=4000)] = generator.integers(7, size=4000)
    kept = near[predictor.upper(one_hot_of(space, near), 0.9) <= target]
    assert scores[np.arange(21), kept].sum(axis=1).max() <= selection.score + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_listing_and_integer_programs_agree_on_the_published_space(seed, monkeypatch):
    """5.6e17 networks, at a confidence: what is listed is a few thousand of them."""
    space = load_space("lightnas")
    predictor, scores = additive(seed, space), random_scores(seed, space)
    target = 1.05 * float(predictor.predict(one_hot_of(space, np.full((1, 21), 3)))[0])
    found = [select(space, scores, [Constraint(predictor, target)], 0.95)]
    monkeypatch.setattr(listing, "_MOST_LISTED", 0)
    found.append(select(space, scores, [Constraint(predictor, target)], 0.95))

    assert found[0].architecture == found[1].architecture
    assert found[0].upper[0] <= target


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_with_an_mlp_the_budget_holds_under_the_mlp_itself(confidence):
    """Costs that multiply instead of adding up; on so small a space the search also finds the best of all."""
    truth = 1.0 + 0.2 * (EVERY == 1).sum(axis=1) ** 1.5 + 0.1 * (EVERY == 0).sum(axis=1)
    mlp = fit_mlp(SPACE, observed(SPACE, EVERY, truth), seed=0, epochs=150)
    one_hot = one_hot_of(SPACE, EVERY)
    values = mlp.predict(one_hot) if confidence is None else mlp.upper(one_hot, confidence)
    scores = random_scores(5)
    target = float(np.quantile(values, 0.4))

    selection = select(SPACE, scores, [Constraint(mlp, target)], confidence)

    assert not selection.exact
    assert (selection.predicted if confidence is None else selection.upper)[0] <= target
    assert selection.score >= best_by_trying_all(scores, values, target) - 1e-9


def test_an_architecture_of_the_space_comes_back():
    selection = select(SPACE, random_scores(0), [Constraint(additive(0), 100.0)])

    assert isinstance(selection.architecture, Architecture)
    assert selection.upper is None
    assert selection.architecture.indices(SPACE).tolist() == random_scores(0).argmax(axis=1).tolist()


# -- several budgets ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("method")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("confidence", [None, 0.9])
def test_no_network_within_two_measured_and_two_counted_budgets_has_a_higher_score(seed, confidence):
    one_hot, scores = one_hot_of(SPACE, EVERY), random_scores(seed)
    predictors = [additive(seed), additive(50 + seed), *(CountedPredictor(SPACE, m) for m in ("macs_m", "params_m"))]
    values = [p.predict(one_hot) if confidence is None else p.upper(one_hot, confidence) for p in predictors]
    constraints = [Constraint(p, float(np.quantile(v, 0.6))) for p, v in zip(predictors, values, strict=True)]
    kept = np.all([v <= c.target for v, c in zip(values, constraints, strict=True)], axis=0)
    assert 0 < kept.sum() < 81

    selection = select(SPACE, scores, constraints, confidence)

    chosen = (selection.architecture.indices(SPACE) == EVERY).all(axis=1)
    assert kept[chosen].all()
    assert selection.score == pytest.approx(scores[np.arange(4), EVERY[kept]].sum(axis=1).max(), abs=1e-12)


def test_what_is_counted_agrees_with_the_space():
    for row in EVERY[::7]:
        network = Architecture.from_indices(SPACE, row)
        one_hot = network.one_hot(SPACE)[None]
        assert CountedPredictor(SPACE, "macs_m").predict(one_hot)[0] == pytest.approx(macs_m(SPACE, network))
        assert CountedPredictor(SPACE, "params_m").predict(one_hot)[0] == pytest.approx(parameters_m(SPACE, network))


@pytest.mark.usefixtures("method")
def test_networks_can_be_left_out_until_none_is_left():
    predictor, scores = additive(2), random_scores(2)
    values = predictor.predict_indices(EVERY)
    budget = [Constraint(predictor, float(np.sort(values)[5]))]
    found = []
    for _ in range(6):
        found.append(select(SPACE, scores, budget, exclude=[selection.architecture for selection in found]))

    assert len({selection.architecture for selection in found}) == 6
    wanted = np.sort(scores[np.arange(4), EVERY[values <= budget[0].target]].sum(axis=1))[::-1]
    assert [selection.score for selection in found] == pytest.approx(wanted)
    with pytest.raises(InfeasibleBudgetError, match="no further network"):
        select(SPACE, scores, budget, exclude=[selection.architecture for selection in found])


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_a_budget_can_be_used_to_a_share(confidence):
    predictor = additive(4)
    values = predictor.predict_indices(EVERY)
    kept = values if confidence is None else predictor.upper(one_hot_of(SPACE, EVERY), confidence)
    target = float(np.quantile(kept, 0.7))
    fast_wins = -predictor.linear_terms()[1]

    selection = select(SPACE, fast_wins, [Constraint(predictor, target)], confidence, min_utilisation=0.95)

    most = values[kept <= target].max()
    assert 0.95 * most <= selection.predicted[0] <= target
    assert selection.predicted[0] == pytest.approx(values[(kept <= target) & (values >= 0.95 * most)].min())


def test_budgets_that_conflict_are_reported_with_what_each_would_need():
    latency, macs = additive(0), CountedPredictor(SPACE, "macs_m")
    values, counted = latency.predict_indices(EVERY), macs.predict(one_hot_of(SPACE, EVERY))
    both = [Constraint(latency, float(values.min() * 1.001)), Constraint(macs, float(counted.min() * 1.001))]
    together = (values <= both[0].target) & (counted <= both[1].target)
    assert not together.any()

    with pytest.raises(InfeasibleBudgetError, match="together, although each of them alone is feasible") as caught:
        select(SPACE, random_scores(0), both)

    needed = float(counted[values <= both[0].target].min())
    assert f"macs_m needs about {1.001 * needed:.4g} M" in caught.value.hint


def test_predictors_of_different_spaces_do_not_make_one_search():
    other = load_space("tiny")

    with pytest.raises(BudgetError, match="different spaces"):
        select(
            SPACE, random_scores(0), [Constraint(additive(0), 9.0), Constraint(CountedPredictor(other, "macs_m"), 9.0)]
        )


def test_with_an_mlp_next_to_a_counted_budget_both_hold():
    truth = 1.0 + 0.2 * (EVERY == 1).sum(axis=1) ** 1.5 + 0.1 * (EVERY == 0).sum(axis=1)
    mlp = fit_mlp(SPACE, observed(SPACE, EVERY, truth), seed=0, epochs=150)
    one_hot, scores = one_hot_of(SPACE, EVERY), random_scores(6)
    macs = CountedPredictor(SPACE, "macs_m")
    values, counted = mlp.predict(one_hot), macs.predict(one_hot)
    constraints = [Constraint(mlp, float(np.quantile(values, 0.5))), Constraint(macs, float(np.quantile(counted, 0.5)))]

    selection = select(SPACE, scores, constraints)

    assert all(value <= constraint.target for value, constraint in zip(selection.predicted, constraints, strict=True))
    kept = (values <= constraints[0].target) & (counted <= constraints[1].target)
    assert selection.score == pytest.approx(scores[np.arange(4), EVERY[kept]].sum(axis=1).max())


def test_using_a_budget_of_the_published_space_is_settled_in_seconds():
    """Proving which of 10^17 networks comes nearest to a limit takes minutes; the selection does not prove it."""
    space = load_space("lightnas")
    predictor, scores = additive(1, space, std=0.0), 1e-3 * random_scores(1, space)
    target = 0.9 * float(predictor.predict_indices(np.random.default_rng(0).integers(7, size=(1000, 21))).mean())

    selection = select(space, scores, [Constraint(predictor, target)], min_utilisation=0.995)

    assert 0.99 * target <= selection.predicted[0] <= target
