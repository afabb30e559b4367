"""How stored searches are judged: regret, its error, and where they came from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks import bench_search, searches
from benchmarks.measured_finalists import arithmetic_alone, with_measured_finalists
from benchmarks.searches import Regret, differing, evolve, finalists_again


@pytest.fixture(scope="module")
def truth():
    return bench_search.load()


def network(truth, row):
    return tuple(truth.indices[row].tolist())


def best_row(truth, number):
    return int(np.where(truth.latency_ms <= truth.budgets_ms[number], truth.accuracy, -1).argmax())


def test_the_best_network_of_a_budget_has_no_regret_and_another_what_it_lacks(truth):
    worse = int(np.where(truth.latency_ms <= truth.budgets_ms[4], truth.accuracy, 101).argmin())

    assert Regret.of(truth, [{4: network(truth, best_row(truth, 4))}]).mean == 0
    found = Regret.of(truth, [{4: network(truth, worse)}])
    assert found.mean == pytest.approx(truth.accuracy[best_row(truth, 4)] - truth.accuracy[worse])


def test_a_network_over_its_budget_counts_as_not_kept_and_not_as_accurate(truth):
    slowest = network(truth, int(truth.latency_ms.argmax()))

    found = Regret.of(truth, [{0: slowest, 8: network(truth, best_row(truth, 8))}])

    assert (found.mean, found.kept, found.networks) == (0, 0.5, 1)


def test_one_network_chosen_ten_times_is_one_piece_of_evidence(truth):
    """Two networks, each chosen by five of ten repetitions: the error is that of two values, not of ten."""
    rows = np.argsort(np.where(truth.latency_ms <= truth.budgets_ms[8], -truth.accuracy, 1))[[3, 40]]
    regrets = truth.best[8] - truth.accuracy[rows]

    found = Regret.of(truth, [{8: network(truth, row)} for row in rows for _ in range(5)])

    assert found.error == pytest.approx(np.std(regrets, ddof=1) / np.sqrt(2))


def test_best_by_keeps_the_predicted_bound(truth):
    for number, chosen in truth.best_by(truth.accuracy).items():
        assert truth.upper_ms[truth.place[chosen]] <= truth.budgets_ms[number]


def test_measured_finalists_keep_their_budget_and_score_as_high_as_the_bound_allows(truth):
    scores = arithmetic_alone(truth.space)
    alone = truth.best_by(np.array([scores.score(row) for row in truth.indices]))

    found = with_measured_finalists(truth, scores)

    gains = [scores.score(np.array(found[number])) - scores.score(np.array(alone[number])) for number in found]
    assert Regret.of(truth, [found]).kept == 1
    assert min(gains[1:]) >= 0 < max(gains), "at the lowest budget, the bound lets a network pass that is too slow"


def test_evolution_finds_the_best_of_a_smooth_score_within_what_is_allowed(truth):
    allowed = {network(truth, row) for row in np.flatnonzero(truth.latency_ms <= truth.budgets_ms[5])}
    value = dict(zip(map(tuple, truth.indices.tolist()), truth.accuracy, strict=True))

    found = [evolve(allowed, 4, value.__getitem__, np.random.default_rng(seed)) for seed in range(10)]

    assert all(each in allowed for each in found)
    everyone = sorted((value[each] for each in allowed), reverse=True)
    assert np.mean([value[each] for each in found]) > everyone[len(everyone) // 20]


def test_a_search_that_finds_another_network_is_reported():
    before = {"found": {"shared": {"0": "0123", "1": "3210"}}}

    assert differing(before, before) == []
    assert differing(before, {"found": {"shared": {"0": "0123", "1": "3211"}}}) == ["shared, budget 1: 3210, now 3211"]


def test_stored_finalists_are_those_that_confirm_chooses_now(truth):
    for run in searches.stored(truth)[::9]:
        again = finalists_again(truth, run, "this one")
        assert differing(run, again) == [], f"{run['group']} {run['seed']}: run the benchmark with --finalists"


def test_every_stored_search_says_where_it_came_from_and_what_it_cost(truth):
    runs = searches.stored(truth)

    assert runs
    for run in runs:
        assert run["commit"] != "unknown" and "dirty" not in run["commit"]
        assert {"torch", "numpy", "onnxruntime", "scipy", "scikit-learn"} <= run["versions"].keys()
        assert run["cpu"] and run["seconds"] > 0
        assert run["passes"].keys() == run["found"].keys()
        assert run["budgets_ms"] == [round(float(each), 6) for each in truth.budgets_ms]
        assert all(
            tuple(map(int, each)) in truth.place for networks in run["found"].values() for each in networks.values()
        )


def test_a_search_sees_no_test_image(truth, tmp_path):
    data = truth.images(tmp_path, 3)

    assert data.seed == 3
    assert "test" not in {field.name for field in dataclasses.fields(data)}
