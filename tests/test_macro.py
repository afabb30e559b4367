"""NAS-Bench-Macro with latencies of this project: the estimator of the latencies, and the truth that searches are judged by."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import macro, macro_latency
from benchmarks.truth_task import read
from lightnas_edge.space import load_space


@pytest.fixture(scope="module")
def space():
    return load_space(macro_latency.SPACE)


def test_a_state_of_the_machine_that_neighbouring_turns_share_does_not_reach_the_latencies():
    generator = np.random.default_rng(0)
    true_ms = np.exp(generator.normal(size=60) / 2)
    order = np.concatenate([generator.permutation(60) for _ in range(10)])
    slow = 1 + 0.3 * (np.arange(len(order)) // 40 % 2)  # for 40 turns at a time
    samples_ms = (true_ms[order] * slow)[:, None] * np.exp(0.01 * generator.normal(size=(len(order), 4)))

    found_ms, _ = macro_latency.latencies(order, samples_ms)

    relative = np.log(found_ms / true_ms)
    assert np.std(relative) < 0.01
    raw = np.array([np.median(samples_ms[order == network]) for network in range(60)])
    assert np.std(np.log(raw / true_ms)) > 0.05


def test_the_stated_error_of_a_latency_is_that_between_two_measurements():
    generator = np.random.default_rng(1)
    true_ms = np.exp(generator.normal(size=60) / 2)
    found, stated = [], []
    for _ in range(20):
        order = np.concatenate([generator.permutation(60) for _ in range(10)])
        turns = 0.05 * generator.normal(size=len(order))
        samples_ms = (true_ms[order] * np.exp(turns))[:, None].repeat(4, axis=1)
        latency_ms, error_ms = macro_latency.latencies(order, samples_ms)
        found.append(np.log(latency_ms / true_ms))
        stated.append(error_ms / latency_ms)

    assert np.mean(stated) == pytest.approx(np.std(found), rel=0.25)


def test_factors_of_groups_are_found_from_networks_that_two_passes_share():
    generator = np.random.default_rng(2)
    count, groups = 600, 10
    group = np.concatenate([generator.permutation(count) % groups, groups + generator.permutation(count) % groups])
    network = np.tile(np.arange(count), 2)
    cost, factor = generator.normal(size=count), 0.2 * generator.normal(size=2 * groups)
    log_ms = cost[network] + factor[group] + 0.02 * generator.normal(size=2 * count)

    found = macro_latency.group_factors(group, network, log_ms)

    assert np.std((found - factor) - np.median(found - factor)) < 0.01


def test_networks_whose_identities_move_within_a_group_are_one_network(space):
    groups = macro_latency.distinct_networks(space)

    assert len(groups) == 3969
    assert sum(map(len, groups.values())) == space.size
    together = next(networks for networks in groups.values() if (0, 1, 1, 0, 2, 0, 1, 2) in networks)
    assert set(together) == {(0, 1, 1, 0, 2, 0, 1, 2), (0, 1, 1, 2, 0, 0, 1, 2)}
    # The first layer of a group changes the shape: its identity is a convolution and stays where it is.
    assert (0, 1, 0, 1, 2, 0, 1, 2) not in together


def test_every_distinct_network_has_a_latency_and_its_error(space):
    rows = read(macro_latency.TABLE)

    networks = {tuple(map(int, row["network"])) for row in rows}
    assert networks == {equal[-1] for equal in macro_latency.distinct_networks(space).values()}
    assert len(rows) == len(networks)
    assert all(float(row[name]) > 0 for row in rows for name in macro_latency.FIELDS[1:])
    measured = macro.latency_observations()
    assert measured.repeatability < 0.05
    assert measured.fingerprint["simulated"] is False


def test_an_additive_score_fitted_to_the_truth_leaves_a_regret(shared_data):
    if not (shared_data / macro.ACCURACIES).is_file():
        pytest.skip(f"no {macro.ACCURACIES} in {shared_data}")
    truth = macro.MacroTruth.load()

    assert len(truth.place) == 6561
    assert (truth.regret(truth.best_by(truth.accuracy)) == 0).all()
    found = {name: float(np.mean(regret)) for name, regret in macro.floors(truth).items()}
    assert 0 < found["one training of each network"] < found["additive score, fitted to the truth"]
    assert found["additive score, fitted to the truth"] < found["slowest"] < found["a random network within the budget"]


def test_a_network_above_its_budget_has_no_regret(shared_data):
    if not (shared_data / macro.ACCURACIES).is_file():
        pytest.skip(f"no {macro.ACCURACIES} in {shared_data}")
    truth = macro.MacroTruth.load()
    slowest = np.full(macro.BUDGETS, int(truth.latency_ms.argmax()))

    assert np.isnan(truth.regret(slowest)).all()
