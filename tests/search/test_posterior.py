"""Operator scores: fitted to the losses of paths, with their uncertainty, and turned into paths near a budget."""

import itertools

import numpy as np
import pytest

from lightnas_edge.predictor import CountedPredictor
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.search.constraints import Constraint
from lightnas_edge.search.distribution import LinearCost, nearest_within
from lightnas_edge.search.evidence import PathLosses
from lightnas_edge.search.posterior import arithmetic_of, arithmetic_weight
from tests.search.problems import SPACE, predictor

EVERY = np.array(list(itertools.product(range(3), repeat=4)))


def losses_of(cost, batches, *, noise=0.05, level=1.0, paths=2, seed=0, epochs=1):
    """Paths at random; each batch has a level of its own, far larger than what operators differ by."""
    generator = np.random.default_rng(seed)
    found = PathLosses(SPACE)
    for batch in range(batches):
        chosen = generator.integers(3, size=(paths, 4))
        loss = 2 + level * generator.normal() + cost[np.arange(4), chosen].sum(axis=1)
        found.add(chosen.tolist(), (loss + noise * generator.normal(size=paths)).tolist(), batch * epochs // batches)
    return found


def centred(values):
    return values - values.mean(axis=1, keepdims=True)


def test_operator_scores_are_found_beneath_the_level_of_batches():
    cost = 0.2 * np.random.default_rng(3).normal(size=(4, 3))

    posterior = losses_of(cost, 400).posterior()

    assert posterior.mean == pytest.approx(-centred(cost), abs=0.04)
    assert posterior.score_std == pytest.approx(centred(cost).std(axis=1).mean(), rel=0.3)


@pytest.mark.parametrize(("paths", "epochs"), [(2, 1), (4, 1), (4, 6)])
def test_the_uncertainty_is_as_large_as_the_error(paths, epochs):
    """Over 40 synthetic searches, errors divided by the posterior's deviation have a spread of about one."""
    ratios = []
    for seed in range(40):
        cost = 0.2 * np.random.default_rng(100 + seed).normal(size=(4, 3))
        posterior = losses_of(cost, 60, noise=0.3, seed=seed, paths=paths, epochs=epochs).posterior()
        root = posterior.root.reshape(4, 3, -1)
        root = root - root.mean(axis=1, keepdims=True)
        ratios.append((posterior.mean + centred(cost)) / np.sqrt((root**2).sum(axis=2)))

    assert 0.75 < float(np.std(ratios)) < 1.25


def test_without_any_signal_operators_are_hardly_separated():
    posterior = losses_of(np.zeros((4, 3)), 50, noise=0.3).posterior()

    assert posterior.score_std < 0.1


def test_before_there_are_losses_scores_follow_from_arithmetic_alone():
    posterior = PathLosses(SPACE).posterior()

    assert (np.diff(posterior.mean[:, [2, 0, 1]], axis=1) > 0).all(), "skip, then the small block, then the large one"
    assert posterior.posterior_std == 0.0
    assert (posterior.sample(np.random.default_rng(0)) == posterior.mean).all()


def test_arithmetic_counts_for_what_the_supernet_has_not_learned():
    """From chance to all correct: half of the way, both count alike. At chance, the losses tell nothing."""
    assert arithmetic_weight(0.55, 0.1) == pytest.approx(1)
    assert arithmetic_weight(0.4, 0.1) == pytest.approx(2)
    assert arithmetic_weight(1.0, 0.1) == 0
    assert arithmetic_weight(0.1, 0.1) == arithmetic_weight(0.05, 0.1) == pytest.approx(9)
    assert arithmetic_weight(1.0, 1.0) == pytest.approx(9), "one class: nothing to learn"


def test_arithmetic_counts_however_many_losses_there_are():
    """A short training undervalues large operators; more paths of it do not tell otherwise."""
    arithmetic = arithmetic_of(SPACE)
    pure = losses_of(np.tile([0.1, 0.0, -0.1], (4, 1)), 400).posterior()

    scores = pure.with_capacity(arithmetic, 2.0)

    assert scores.mean - pure.mean == pytest.approx(scores.capacity)
    assert scores.capacity.var(axis=1).sum() == pytest.approx(4 * pure.mean.var(axis=1).sum())
    assert np.corrcoef(scores.capacity.ravel(), arithmetic.ravel())[0, 1] == pytest.approx(1)
    chosen = np.array([0, 1, 2, 0])
    assert scores.score(chosen) - pure.score(chosen) == pytest.approx(scores.capacity_of(chosen))
    assert (scores.root == pure.root).all()


def test_losses_overrule_the_prior_of_arithmetic():
    """Skips are best here, by as much as larger blocks are in the prior."""
    cost = np.tile([0.0, 0.2, -0.2], (4, 1))

    assert (losses_of(cost, 100).posterior().mean.argmax(axis=1) == 2).all()


def test_a_path_alone_changes_nothing_and_equal_losses_break_nothing():
    found = PathLosses(SPACE)
    found.add([[0, 0, 0, 0]], [1.0], 0)
    assert len(found) == 0

    before = found.posterior().mean
    for _ in range(10):
        found.add([[0, 1, 2, 0], [1, 1, 1, 1]], [1.0, 1.0], 0)
    assert (found.posterior().mean == before).all()


def test_recent_epochs_count_more():
    """In the second half the operators change places; the posterior follows."""
    cost = np.zeros((4, 3))
    cost[0] = [0.5, 0.0, -0.5]
    early, late = losses_of(cost, 200, seed=1), losses_of(-cost, 200, seed=2)
    for row in range(0, len(late), 2):
        early.add(late.paths[row : row + 2], late.losses[row : row + 2], 39)

    assert early.posterior().mean[0].argmax() == 0


def test_what_was_learned_survives_a_checkpoint():
    whole = losses_of(np.eye(4, 3), 30)
    copy = PathLosses(SPACE)
    copy.restore(whole.state())

    assert (copy.posterior().mean == whole.posterior().mean).all()
    for each in (whole, copy):
        each.add([[0, 0, 0, 0], [1, 1, 1, 1]], [1.0, 2.0], 1)
    assert copy.state() == whole.state()


# -- paths near a budget -------------------------------------------------------------------------------------------


def test_sampled_paths_keep_the_budget_on_average_and_stay_uniform_where_it_allows():
    cost = LinearCost.of(Constraint(predictor(), 6.0))  # 1 ms, and 2, 4 or 0 ms per layer: uniform paths cost 9

    found = nearest_within(np.zeros((4, 3)), [cost])

    assert found.expected == (pytest.approx(1.0, abs=1e-4),)
    assert found.multipliers[0] > 0
    assert found.probabilities[:, 2] == pytest.approx(found.probabilities[0, 2])  # equal layers, equal chances
    assert (np.diff(found.probabilities[0][[1, 0, 2]]) > 0).all()


def test_a_budget_that_does_not_bind_has_no_multiplier_and_changes_nothing():
    scores = np.log([[0.5, 0.3, 0.2]] * 4)

    found = nearest_within(scores, [LinearCost.of(Constraint(predictor(), 16.9))])

    assert found.multipliers == (0.0,)
    assert found.probabilities == pytest.approx(np.exp(scores))


def test_two_sided_pulls_up_too():
    cost = LinearCost.of(Constraint(predictor(), 13.0))

    assert nearest_within(np.zeros((4, 3)), [cost]).expected[0] == pytest.approx(9 / 13)
    assert nearest_within(np.zeros((4, 3)), [cost], two_sided=True).expected[0] == pytest.approx(1.0, abs=1e-4)


def test_of_two_budgets_only_the_tighter_binds():
    macs = CountedPredictor(SPACE, "macs_m")
    loose = float(macs.predict(one_hot_of(SPACE, EVERY)).max())

    found = nearest_within(
        np.zeros((4, 3)), [LinearCost.of(Constraint(predictor(), 5.0)), LinearCost.of(Constraint(macs, loose))]
    )

    assert found.multipliers[0] > 0 and found.multipliers[1] == 0
    assert found.expected[0] == pytest.approx(1.0, abs=1e-4) and found.expected[1] < 1


def test_a_budget_at_the_floor_leaves_the_lowest_path():
    found = nearest_within(np.zeros((4, 3)), [LinearCost.of(Constraint(predictor(), 1.0))])

    assert found.probabilities[:, 2] == pytest.approx(1.0, abs=0.01)
