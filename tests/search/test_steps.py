"""Sampling, gradients and the multiplier, with numbers a reader can check."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from lightnas_edge.nn import Supernet
from lightnas_edge.search.config import PUBLISHED, Schedule, SearchConfig
from lightnas_edge.search.steps import Multiplier, architecture_gradient, sample_orderings, sample_path, weight_step
from tests.search.problems import SPACE


def test_paths_are_sampled_with_the_probabilities_of_alpha():
    torch.manual_seed(0)
    alpha = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))

    counts = np.bincount([sample_path(alpha)[0] for _ in range(3000)], minlength=3) / 3000

    assert counts == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


def test_an_ordering_holds_every_operator_of_every_layer_once():
    torch.manual_seed(0)

    paths = np.array(sample_orderings(torch.zeros(5, 7)))

    assert paths.shape == (7, 5)
    assert (np.sort(paths, axis=0) == np.arange(7)[:, None]).all()


def test_the_gradient_is_straight_through():
    """Against the published form, y = hard - soft.detach() + soft, multiplied into every layer, for lam = 2 and T =
    10.
    """
    torch.manual_seed(0)
    supernet = Supernet(SPACE).eval()
    latency = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 1))
    images, labels, alpha = torch.randn(8, 3, 16, 16), torch.arange(8) % 10, torch.randn(4, 3)
    supernet.requires_grad_(False)

    torch.manual_seed(7)
    gradient, path, _ = architecture_gradient(supernet, alpha, images, labels, [(latency, 2.0, 10.0)], tau=1.5)

    torch.manual_seed(7)
    noise = -torch.empty(4, 3).exponential_().log()
    mine = alpha.clone().requires_grad_()
    soft = torch.softmax((torch.log_softmax(mine, -1) + noise) / 1.5, -1)
    hard = torch.zeros(4, 3).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
    y = hard - soft.detach() + soft
    x = supernet.first(supernet.stem(images))
    for layer, index in enumerate(path):
        x = supernet.layers[layer][index](x) * y[layer, index]
    loss = nn.functional.cross_entropy(supernet.head(x), labels, label_smoothing=0.1)
    (loss + 2.0 * (latency(y[None])[0, 0] / 10.0 - 1)).backward()

    assert path == hard.argmax(-1).tolist()
    torch.testing.assert_close(gradient, mine.grad, atol=1e-6, rtol=1e-4)


def test_a_weight_step_touches_only_the_operators_on_its_paths():
    torch.manual_seed(0)
    supernet = Supernet(SPACE)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-5, foreach=True)

    for path in ([0, 0, 0, 0], [0, 1, 0, 0]):  # layer 1 meets its second operator in the second step
        weight_step(supernet, optimiser, torch.randn(8, 3, 16, 16), torch.arange(8), [path])

    changed = {name for name, value in supernet.state_dict().items() if not torch.equal(value, before[name])}
    in_layers = {tuple(name.split(".")[1:3]) for name in changed if name.startswith("layers")}
    assert in_layers == {("0", "0"), ("1", "0"), ("1", "1"), ("2", "0"), ("3", "0")}


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_path_that_is_taught_learns_from_the_answers_of_the_first_path_and_not_from_labels(micro_batches):
    """Against plain autograd: the gradient of CE(teacher, labels) + CE(pupil, answers of the teacher), the answers held fixed."""
    torch.manual_seed(0)
    supernet = Supernet(dataclasses.replace(SPACE, dropout=0.0))
    plain = copy.deepcopy(supernet)
    images, labels, teacher, pupil = torch.randn(8, 3, 16, 16), torch.arange(8), [1, 1, 1, 1], [0, 2, 0, 1]
    optimiser = torch.optim.SGD(supernet.parameters(), lr=1e-9)

    weight_step(supernet, optimiser, images, labels, [teacher, pupil], distil=True, micro_batches=micro_batches)

    for some, targets in zip(images.tensor_split(micro_batches), labels.tensor_split(micro_batches), strict=True):
        logits = plain(some, teacher)
        answers = logits.detach().softmax(-1)
        taught = -(answers * plain(some, pupil).log_softmax(-1)).sum(-1).mean()
        loss = nn.functional.cross_entropy(logits, targets, label_smoothing=0.1) + taught
        (loss / micro_batches).backward()
    nn.utils.clip_grad_norm_([each for each in plain.parameters() if each.grad is not None], PUBLISHED.clip_norm)
    for mine, theirs in zip(supernet.parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_the_multiplier_climbs_while_the_derived_network_is_too_slow():
    multiplier = Multiplier(lr=0.1)
    for _ in range(3):
        multiplier.update(12.0, 10.0, may_brake=False)

    assert multiplier.lam == pytest.approx(3 * 0.1 * 0.2)


def test_the_multiplier_is_reset_when_it_pushes_the_wrong_way():
    multiplier = Multiplier(lr=0.1, lam=0.5)

    multiplier.update(9.0, 10.0, may_brake=False)

    assert multiplier.lam == 0.0


def test_the_brake_holds_once_the_target_has_been_near():
    multiplier = Multiplier(lr=0.1)
    multiplier.update(10.05, 10.0, may_brake=False)
    assert not multiplier.braking

    multiplier.update(10.05, 10.0, may_brake=True)

    assert multiplier.alpha_lr(1e-3, 11.0, 10.0) == pytest.approx(1e-4)


def test_the_schedule_of_90_epochs_is_the_published_one():
    schedule = Schedule.of(SearchConfig(), 40)

    assert (schedule.warmup_epochs, schedule.first_alpha_lr, schedule.lambda_lr) == (10, 1e-3, 5e-4)
    assert [schedule.tau(epoch) for epoch in (0, 10, 20)] == pytest.approx([5.0, 5.0, 5 / math.e])
    assert [schedule.alpha_lr(epoch) for epoch in (29, 30, 89)] == [1e-3, 5e-4, 1.25e-4]
    assert [schedule.may_brake(epoch) for epoch in (79, 80)] == [False, True]


def test_the_weight_step_is_the_published_one_at_its_batch_and_in_proportion_to_smaller_ones():
    first = {batch: Schedule.of(SearchConfig(batch=batch), 40).weight_lr_at(0) for batch in (16, 64, 128, 512)}

    assert first == {16: 0.0125, 64: 0.05, 128: 0.1, 512: 0.1}
    assert Schedule.of(SearchConfig(batch=16, weight_lr=0.3), 40).weight_lr_at(0) == 0.3


def test_a_short_search_has_the_same_shape_and_longer_steps():
    schedule = Schedule.of(SearchConfig(epochs=9), 10)

    assert schedule.warmup_epochs == 1
    assert schedule.tau(8) == pytest.approx(5 * math.exp(-7))
    assert schedule.lambda_lr == pytest.approx(PUBLISHED.lambda_lr * 3200 / 80)
    assert Schedule.of(dataclasses.replace(SearchConfig(epochs=9), alpha_lr=0.002), 10).first_alpha_lr == 0.002
