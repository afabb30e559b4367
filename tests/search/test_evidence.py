"""What validation images tell about operators: whole paths, and differences between two operators of every layer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightnas_edge.nn import Supernet
from lightnas_edge.search.config import PUBLISHED
from lightnas_edge.search.evidence import PairDifferences
from lightnas_edge.search.steps import pair_differences
from tests.search.problems import SPACE


def differences_of(cost, passes, *, noise=0.3, seed=0):
    """Synthetic passes; the noise of the last layer is three times that of the others."""
    generator, drawing = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    deviations = noise * np.array([1.0, 1.0, 1.0, 3.0])
    found = PairDifferences(SPACE)
    for number in range(passes):
        drawn = found.draw(drawing)
        first, second = np.array(drawn)
        exact = cost[np.arange(4), first] - cost[np.arange(4), second]
        found.add(drawn, (exact + deviations * generator.normal(size=4)).tolist(), number * 3 // passes)
    return found


def centred(values):
    return values - values.mean(axis=1, keepdims=True)


def test_the_gradient_is_the_difference_between_two_networks_near_the_mixture():
    """Against the loss itself, moved by a small step towards one operator and then the other of a single layer."""
    torch.manual_seed(0)
    side = SPACE.input_size
    supernet = Supernet(SPACE).double().eval().requires_grad_(False)  # nothing dropped out
    images, labels = torch.randn(8, 3, side, side, dtype=torch.float64), torch.arange(8) % SPACE.classes
    pairs = [(0, 1), (1, 2), (2, 0), (1, 0)]

    found, outcome = pair_differences(supernet.float(), images.float(), labels, pairs)

    supernet = supernet.double()
    step = 1e-4
    for layer in range(4):
        losses = []
        for sign in (1, -1):
            gates = torch.full((4, 2), 0.5, dtype=torch.float64)
            gates[layer] += sign * step * torch.tensor([1.0, -1.0], dtype=torch.float64)
            logits = supernet.forward_pairs(images, pairs, gates)
            losses.append(float(F.cross_entropy(logits, labels, label_smoothing=PUBLISHED.label_smoothing)))
        assert float(found[layer]) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-3, abs=1e-5)
    assert outcome.images == 8


def test_every_layer_receives_a_gradient():
    """The gate of one operator hears nothing where batch norm cancels its scale; the difference of two does."""
    torch.manual_seed(1)
    side = SPACE.input_size
    supernet = Supernet(SPACE).requires_grad_(False)
    images, labels = torch.randn(16, 3, side, side), torch.arange(16) % SPACE.classes
    generator = torch.Generator().manual_seed(0)
    evidence = PairDifferences(SPACE)

    rows = []
    for _ in range(20):
        drawn = evidence.draw(generator)
        rows.append(pair_differences(supernet, images, labels, list(zip(*drawn, strict=True)))[0])

    size = torch.stack(rows).abs().mean(dim=0)
    assert (size > 1e-3 * size.max()).all()


def test_the_two_operators_of_a_layer_differ_and_every_pair_is_drawn():
    evidence, generator = PairDifferences(SPACE), torch.Generator().manual_seed(3)

    drawn = np.array([evidence.draw(generator) for _ in range(600)])

    assert (drawn[:, 0] != drawn[:, 1]).all()
    for layer in range(4):
        pairs, counts = np.unique(drawn[:, :, layer], axis=0, return_counts=True)
        assert len(pairs) == 6
        assert counts.min() > 60


def test_costs_are_found_from_differences():
    cost = 0.2 * np.random.default_rng(3).normal(size=(4, 3))

    posterior = differences_of(cost, 600).posterior()

    assert posterior.mean[:3] == pytest.approx(-centred(cost)[:3], abs=0.06)
    assert posterior.mean[3] == pytest.approx(-centred(cost)[3], abs=0.18)


def test_the_uncertainty_of_differences_is_as_large_as_the_error():
    """Over 40 synthetic searches; the noisy layer has more of it."""
    ratios, deviations = [], []
    for seed in range(40):
        cost = 0.2 * np.random.default_rng(100 + seed).normal(size=(4, 3))
        posterior = differences_of(cost, 60, seed=seed).posterior()
        root = posterior.root.reshape(4, 3, -1)
        root = root - root.mean(axis=1, keepdims=True)
        deviation = np.sqrt((root**2).sum(axis=2))
        deviations.append(deviation.mean(axis=1))
        ratios.append((posterior.mean + centred(cost)) / deviation)

    assert 0.75 < float(np.std(ratios)) < 1.25
    mean = np.mean(deviations, axis=0)
    assert mean[3] > 1.3 * mean[:3].max()


def test_what_is_restored_gives_the_same_posterior():
    before = differences_of(0.2 * np.random.default_rng(3).normal(size=(4, 3)), 50)
    after = PairDifferences(SPACE)

    after.restore(before.state())

    assert np.array_equal(after.posterior().mean, before.posterior().mean)


def test_few_passes_leave_arithmetic_alone():
    posterior = differences_of(np.zeros((4, 3)), 7).posterior()

    assert posterior.posterior_std == 0
    assert posterior.mean.argmax(axis=1).tolist() == [1, 1, 1, 1]  # the operator with the most arithmetic
