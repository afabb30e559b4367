"""Which paths a method trains, and what it learns from them."""

import dataclasses

import numpy as np
import torch

from lightnas_edge.nn import Ranks
from lightnas_edge.search.config import Schedule
from lightnas_edge.search.entangled_strategy import EntangledStrategy
from lightnas_edge.search.shared_strategy import SharedStrategy
from lightnas_edge.search.strategy import SearchContext
from tests.search.problems import CONFIG, SPACE, budget


def shared(*targets_ms):
    context = SearchContext(SPACE, CONFIG, Schedule.of(CONFIG, 4), torch.Generator().manual_seed(0), Ranks(), 0.5)
    return SharedStrategy(context, [budget(target_ms, f"{target_ms} ms") for target_ms in targets_ms])


def test_every_operator_is_trained_alike_however_tight_the_budget():
    """A candidate that is trained less than the others of its layer scores lower than it should."""
    strategy = shared(2.0)  # of 1 to 17 ms: the most probable operators are skips, which cost nothing

    paths = np.array([path for _ in range(3000) for path in strategy.weight_paths()])

    shares = np.stack([(paths == operator).mean(axis=0) for operator in range(3)])
    assert abs(shares - 1 / 3).max() < 0.04
    assert strategy.probabilities()[0].argmax() == 2
    assert strategy.multipliers()[0]["latency_ms"] > 0


def test_one_more_budget_changes_no_path():
    alone, together = shared(2.0), shared(2.0, 9.0)

    assert [alone.weight_paths() for _ in range(20)] == [together.weight_paths() for _ in range(20)]


def entangled(target_ms):
    config = dataclasses.replace(CONFIG, method="entangled")
    context = SearchContext(SPACE, config, Schedule.of(config, 4), torch.Generator().manual_seed(0), Ranks(), 0.5)
    return EntangledStrategy(context, [budget(target_ms)])


def test_the_largest_network_and_a_uniform_path_share_every_batch_with_entangled_weights():
    """Operator 1, 5x5 with three times the channels, has the most arithmetic in every layer."""
    strategy = entangled(2.0)

    steps = [strategy.weight_paths() for _ in range(2000)] + [strategy.warmup_paths() for _ in range(1000)]

    assert all(largest == [1, 1, 1, 1] for largest, _ in steps)
    paths = np.array([path for _, path in steps])
    shares = np.stack([(paths == operator).mean(axis=0) for operator in range(3)])
    assert abs(shares - 1 / 3).max() < 0.04
