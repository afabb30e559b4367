"""The last choice among networks within the budget."""

import numpy as np
import pytest

from lightnas_edge.search.candidates import Candidate, estimated_losses, images_of_candidate, shortlist
from lightnas_edge.search.posterior import OperatorPosterior
from lightnas_edge.search.selection import Selection
from lightnas_edge.space import Architecture
from tests.search.problems import CONFIG, SPACE, budget, data


def candidate(indices, loss):
    return Candidate(Selection(Architecture.from_indices(SPACE, indices), (1.0,), None, 0.0, True), loss, 0.5)


def test_the_measured_loss_and_the_posterior_about_the_operators_count_alike():
    mean = np.zeros((4, 3))
    mean[0] = [0.3, 0.1, -0.4]
    posterior = OperatorPosterior(mean, np.zeros((12, 1)))

    scores = estimated_losses(
        SPACE, posterior, [candidate([0, 1, 1, 1], 1.0), candidate([1, 1, 1, 1], 0.9), candidate([2, 1, 1, 1], 0.2)]
    )

    assert scores == pytest.approx([0.35, 0.4, 0.3])  # the mean of the loss and the negative score


def test_what_arithmetic_adds_counts_for_a_loss_as_for_a_score():
    capacity = np.zeros((4, 3))
    capacity[0] = [0.0, 0.2, 0.0]
    posterior = OperatorPosterior(capacity, np.zeros((12, 1)), capacity)

    small, large = estimated_losses(SPACE, posterior, [candidate([0, 1, 1, 1], 1.0), candidate([1, 1, 1, 1], 1.0)])

    assert small - large == pytest.approx(0.2)


def test_comparing_a_candidate_costs_its_calibration_and_its_held_out_images():
    """64 training and 32 validation images; of larger sets 512 and 2,000."""
    assert images_of_candidate(data(train=64, validation=32)) == 96
    assert images_of_candidate(data(train=600, validation=2100)) == 2512


def test_every_network_of_the_shortlist_has_the_score_of_the_posterior_mean():
    """Also those that were drawn: by the drawn scores, one of them would always look like the best."""
    generator = np.random.default_rng(0)
    posterior = OperatorPosterior(generator.normal(size=(4, 3)), generator.normal(size=(12, 12)))

    found = shortlist(SPACE, posterior, budget(9.0), CONFIG, 6)

    assert len(found) > 3
    assert [each.score for each in found] == [posterior.score(each.architecture.indices(SPACE)) for each in found]
    assert found[0].score == max(each.score for each in found)
