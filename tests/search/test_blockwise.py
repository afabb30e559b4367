"""Blockwise distillation: a teacher first, then operators that imitate its layers one by one."""

import dataclasses

import numpy as np
import pytest
import torch

from lightnas_edge.errors import ConfigError
from lightnas_edge.nn import Ranks, Supernet
from lightnas_edge.search.blockwise_strategy import BlockwiseStrategy
from lightnas_edge.search.config import Schedule, SearchConfig
from lightnas_edge.search.steps import imitation_step
from lightnas_edge.search.strategy import SearchContext
from tests.search.problems import CONFIG, SPACE, budget

TEACHER = [1, 1, 1, 1]  # 5x5 with three times the channels has the most arithmetic in every layer
BLOCKWISE = dataclasses.replace(CONFIG, method="blockwise")


def strategy():
    context = SearchContext(SPACE, BLOCKWISE, Schedule.of(BLOCKWISE, 4), torch.Generator().manual_seed(0), Ranks(), 0.5)
    return BlockwiseStrategy(context, [budget(9.0)])


def problem():
    torch.manual_seed(0)
    supernet = Supernet(SPACE).train()
    images = torch.randn(16, 3, SPACE.input_size, SPACE.input_size)
    return supernet, images, torch.arange(16) % SPACE.classes


def test_imitating_brings_an_operator_to_the_teacher_and_leaves_all_else():
    supernet, images, labels = problem()
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.05, momentum=0.9, foreach=True)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}

    losses = [float(imitation_step(supernet, optimiser, images, labels, TEACHER, [0, 1, 0, 2]).loss) for _ in range(60)]

    assert np.mean(losses[-5:]) < 0.65 * np.mean(losses[:5])
    moved = {name for name, value in supernet.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[1] + "." + name.split(".")[2] for name in moved} == {"0.0", "2.0"}
    assert all(name.startswith("layers.") for name in moved)


def test_the_teachers_own_path_moves_nothing_and_has_no_loss():
    supernet, images, labels = problem()
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.05)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}

    outcome = imitation_step(supernet, optimiser, images, labels, TEACHER, TEACHER)

    assert float(outcome.loss) == 0
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_the_warm_up_trains_the_teacher_alone():
    assert strategy().warmup_paths() == [TEACHER]


def test_after_the_warm_up_operators_start_as_cuts_of_the_teachers_once():
    supernet, images, labels = problem()
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.0)
    chosen = strategy()
    other = supernet.layers[1][0]

    chosen.train_weights(supernet, optimiser, images, labels, warmup=True)
    before = other.project.weight.clone()
    with torch.no_grad():
        supernet.layers[1][1].project.weight.add_(1.0)
    chosen.train_weights(supernet, optimiser, images, labels, warmup=False)
    assert torch.equal(other.project.weight, supernet.layers[1][1].project.weight[:, : other.project.in_channels])
    assert not torch.equal(other.project.weight, before)

    resumed = strategy()
    resumed.restore(chosen.state())
    with torch.no_grad():
        other.project.weight.zero_()
    resumed.train_weights(supernet, optimiser, images, labels, warmup=False)
    assert not other.project.weight.any(), "what has been learned is kept"


def test_validation_networks_differ_from_the_teacher_in_one_layer_each():
    chosen = strategy()

    drawn = np.array([chosen.validation_paths() for _ in range(800)])  # (800, 4, 4)

    differs = drawn != np.array(TEACHER)
    assert not differs[:, 0].any()
    assert (differs[:, 1:].sum(axis=2) == 1).all()
    for layer in range(4):
        replaced = drawn[:, 1:, layer][differs[:, 1:, layer]]
        assert len(replaced) == pytest.approx(600, abs=80)
        assert (replaced == 0).mean() == pytest.approx(0.5, abs=0.08)


def test_half_of_the_epochs_go_to_the_teacher_and_the_step_size_begins_again():
    schedule = Schedule.of(SearchConfig(method="blockwise", epochs=10, batch=128), 4)

    assert schedule.warmup_epochs == 5
    assert schedule.weight_lr_at(4) < 0.2 * schedule.weight_lr_at(0)
    assert schedule.weight_lr_at(5) == schedule.weight_lr_at(0) == 0.1


def test_gradients_are_refused():
    with pytest.raises(ConfigError, match="the method blockwise has losses of networks in which one layer is replaced"):
        SearchConfig(method="blockwise", evidence="gradients")


def test_imitation_in_micro_batches_holds_no_more_images_at_a_time(monkeypatch):
    supernet, images, labels = problem()
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.05)
    seen = []
    of_teacher = Supernet.features
    monkeypatch.setattr(Supernet, "features", lambda self, x, path: seen.append(len(x)) or of_teacher(self, x, path))

    outcome = imitation_step(supernet, optimiser, images, labels, TEACHER, [0, 1, 0, 2], micro_batches=4)

    assert seen == [len(images) // 4] * 4
    assert outcome.images == len(images) and 0 < float(outcome.loss) < 100
