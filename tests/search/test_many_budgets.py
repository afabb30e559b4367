"""One search, many networks: targets and boards together, added later, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from lightnas_edge.data import normalise
from lightnas_edge.errors import BudgetError, InfeasibleBudgetError, RunError
from lightnas_edge.graph import FP32, Arithmetic
from lightnas_edge.nn import Supernet
from lightnas_edge.nn.checkpoint import load_checkpoint
from lightnas_edge.predictor import AdditivePredictor, CountedPredictor
from lightnas_edge.predictor.base import Origin
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.runs import Run
from lightnas_edge.search import Budget, Constraint, add_budgets, begin_run, found_before, read_front, run_search
from lightnas_edge.search.comparison import Comparison
from lightnas_edge.search.evidence import PathLosses
from lightnas_edge.search.posterior import arithmetic_of, arithmetic_weight
from lightnas_edge.search.selection import Selection, select
from lightnas_edge.search.state import SCHEMA
from lightnas_edge.space import Architecture
from tests.search.problems import CONFIG, COST_MS, SPACE, budget, data, predictor


def other_board():
    """Another board: everything takes twice as long, the 5x5 block three times."""
    keys = Terms.of(SPACE).keys
    mean = np.array([2.0, *((3 if "k5" in key else 2) * COST_MS[key.split("@")[0]] for key in keys)])
    return AdditivePredictor(SPACE, Origin({"board": "other"}, simulated=True), mean, np.zeros((len(mean),) * 2), 0.0)


def energy():
    """1 mJ, and 3 mJ for each operator; a measurement has a standard deviation of 0.5 mJ."""
    mean = np.array([1.0, *(3.0 for _ in Terms.of(SPACE).keys)])
    origin = Origin({"board": "imagined"}, simulated=True, metric="energy_mj")
    return AdditivePredictor(SPACE, origin, mean, np.zeros((len(mean),) * 2), 0.5)


BUDGETS = [
    budget(6.0, "near-6ms"),
    dataclasses.replace(budget(9.0, "near-9ms"), energy=energy()),
    Budget("far-12ms", (Constraint(other_board(), 12.0), Constraint(CountedPredictor(SPACE, "macs_m"), 1.0)), "far"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    config = dataclasses.replace(CONFIG, candidates=4)
    begin_run(folder, SPACE, data(), BUDGETS, config)
    return folder, run_search(folder, SPACE, data(), BUDGETS, config)


def test_every_budget_gets_a_network_that_keeps_it(run):
    _, results = run

    assert [result.budget.name for result in results] == ["near-6ms", "near-9ms", "far-12ms"]
    for result in results:
        for metric, target in result.budget.targets.items():
            assert result.predicted[metric] <= target
        assert result.used[result.binding] == max(result.used.values())


def test_each_network_lies_in_a_run_of_its_own_that_the_later_commands_take(run):
    folder, results = run

    for result in results:
        place = folder / "networks" / result.budget.name
        own = Run.open(place)
        assert own.targets == result.budget.targets
        assert own.record.search == "../.."
        assert own.architecture == result.architecture
        assert own.predictors["latency_ms"] == place / "predictor.json"
    with pytest.raises(RunError, match="holds 3 networks: name one of them"):
        _ = Run.open(folder).architecture


def test_the_front_lists_them_by_board_and_target(run):
    folder, _ = run

    front = read_front(Run.open(folder))

    assert [(row.board, row.name) for row in front.networks] == [
        ("far", "far-12ms"), ("imagined", "near-6ms"), ("imagined", "near-9ms"),
    ]  # fmt: skip
    assert Run.open(folder).front == front
    assert set(front.networks[0].metrics) == {"latency_ms", "macs_m"}


def test_the_front_states_the_energy_of_the_networks_whose_board_has_one(run):
    """1 mJ, and 3 mJ for each operator that is no identity; energy is not limited."""
    folder, _ = run

    rows = {row.name: row for row in read_front(Run.open(folder)).networks}

    assert rows["far-12ms"].energy is None and rows["near-6ms"].energy is None
    found = rows["near-9ms"]
    blocks = sum(
        not shaped.is_identity for shaped in list(SPACE.chain(Architecture.from_names(SPACE, found.operators)))[2:-1]
    )
    assert found.energy.energy_mj == 1 + 3 * blocks
    assert found.energy.interval_mj == pytest.approx(
        (found.energy.energy_mj - 0.82, found.energy.energy_mj + 0.82), abs=0.01
    )
    assert "energy_mj" not in found.metrics


def test_the_network_chosen_scored_best_of_its_candidates(run):
    losses = PathLosses(SPACE)
    losses.restore(load_checkpoint(run[0] / "search" / "checkpoint.pt", schema=SCHEMA)["strategy"]["evidence"])
    for result in run[1]:
        if result.others:
            networks = [result.chosen, *result.others]
            posterior = losses.posterior()
            score = [
                posterior.mean[np.arange(4), each.selection.architecture.indices(SPACE)].sum() for each in networks
            ]
            scores = [each.loss - value for each, value in zip(networks, score, strict=True)]
            assert scores[0] == min(scores)
    assert any(result.others for result in run[1]), "no budget had anything to compare"


def test_a_budget_is_added_without_any_training(run):
    folder, _ = run
    before = (folder / "search" / "checkpoint.pt").read_bytes()
    further = [budget(7.5, "near-7.5ms")]

    (result,) = add_budgets(folder, SPACE, data(), further, CONFIG)

    assert result.predicted["latency_ms"] <= 7.5
    assert (folder / "search" / "checkpoint.pt").read_bytes() == before
    assert (folder / "networks" / "near-7.5ms" / "architecture.json").exists()
    assert len(read_front(Run.open(folder)).networks) == 4


def test_a_budget_that_is_added_again_gets_the_same_network_from_the_posterior(run):
    """The posterior does not depend on the budget. With few images no candidates are compared."""
    folder, results = run
    (again,) = add_budgets(folder, SPACE, data(), [dataclasses.replace(BUDGETS[0], name="again")], CONFIG)

    assert again.top_scored == results[0].top_scored
    assert not again.others


def test_an_added_budget_may_have_another_device_confidence_and_use_of_its_budget(run):
    folder, _ = run
    config = dataclasses.replace(CONFIG, device="cpu", confidence=0.9, two_sided=True)

    (result,) = add_budgets(folder, SPACE, data(), [budget(9.0, "used")], config)

    assert 0.995 * 9.0 <= result.upper["latency_ms"] <= 9.0
    assert Run.open(folder / "networks" / "used").record.config["confidence"] == 0.9
    with pytest.raises(RunError, match="seed: was 0, now 1") as caught:
        add_budgets(folder, SPACE, data(), [budget(8.0, "other")], dataclasses.replace(CONFIG, seed=1))
    assert "--fresh" not in caught.value.hint


def test_the_posterior_maximised_is_the_one_that_was_saved(run):
    folder, results = run
    losses = PathLosses(SPACE)
    losses.restore(load_checkpoint(folder / "search" / "checkpoint.pt", schema=SCHEMA)["strategy"]["evidence"])
    paths = results[0].sampled_paths
    weight = arithmetic_weight(paths.accuracy, paths.chance)
    scores = losses.posterior().with_capacity(arithmetic_of(SPACE), weight).mean
    for result in results:
        best = select(SPACE, scores, result.budget.constraints).architecture
        assert result.top_scored == best


def test_an_unfinished_search_cannot_be_added_to(tmp_path):
    begin_run(tmp_path, SPACE, data(), [budget(7.0)], CONFIG)

    with pytest.raises(RunError, match="holds no search that has begun"):
        add_budgets(tmp_path, SPACE, data(), [budget(7.0)], CONFIG)


def test_the_published_method_serves_one_budget(tmp_path):
    published = dataclasses.replace(CONFIG, method="lightnas")

    with pytest.raises(BudgetError, match="searches once per budget; 3 are given"):
        run_search(tmp_path, SPACE, data(), BUDGETS, published)
    with pytest.raises(BudgetError, match="learns for one budget"):
        add_budgets(tmp_path, SPACE, data(), BUDGETS[:1], published)


@pytest.mark.parametrize("name", ["", "..", "../elsewhere", "a/b", "a\\b"])
def test_a_name_that_would_lead_out_of_the_run_is_refused(name):
    with pytest.raises(BudgetError, match="becomes the name of a folder"):
        budget(6.0, name)


def test_one_budget_that_cannot_be_kept_stops_all_before_any_training(tmp_path):
    with pytest.raises(InfeasibleBudgetError, match="the range is 1 to 17 ms"):
        run_search(tmp_path, SPACE, data(), [budget(6.0, "a"), budget(0.5, "b")], CONFIG)

    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize("method", ["shared", "lightnas"])
def test_several_constraints_each_have_a_multiplier_and_all_hold(tmp_path, method):
    both = Budget("both", (Constraint(predictor(), 8.0), Constraint(CountedPredictor(SPACE, "params_m"), 0.0035)))

    (result,) = run_search(tmp_path, SPACE, data(), both, dataclasses.replace(CONFIG, method=method))

    assert set(result.multipliers) == {"latency_ms", "params_m"}
    assert result.predicted["latency_ms"] <= 8.0 and result.predicted["params_m"] <= 0.0035
    epochs = [json.loads(line) for line in (tmp_path / "search" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in epochs if line["kind"] == "search-epoch"][-1]
    assert set(last["budgets"][0]["multipliers"]) == {"latency_ms", "params_m"}


@pytest.mark.parametrize("method", ["shared", "lightnas"])
def test_two_sided_uses_the_budget(tmp_path, method):
    config = dataclasses.replace(CONFIG, method=method, two_sided=True)

    (result,) = run_search(tmp_path, SPACE, data(), budget(9.0), config)

    assert 0.995 * 9.0 <= result.predicted["latency_ms"] <= 9.0


@pytest.mark.parametrize("arithmetic", [FP32, Arithmetic("fp16")])
def test_a_network_has_the_loss_of_its_calibrated_path_and_is_scored_once(monkeypatch, arithmetic):
    torch.manual_seed(0)
    supernet, images = Supernet(SPACE.with_classes(2)).train(), data(train=64, validation=40)
    network = Selection(Architecture.from_indices(SPACE, [0, 1, 2, 0]), (), None, 0.0, True)
    comparison = Comparison(supernet, images, CONFIG)
    batches = [normalise(pixels) for pixels, _ in images.train_loader(16, augment=False).batches(CONFIG.epochs)]
    pixels, labels = images.validation_arrays()
    with supernet.calibrated([0, 1, 2, 0], batches), torch.no_grad():
        expected = float(
            torch.nn.functional.cross_entropy(
                supernet(torch.from_numpy(pixels), [0, 1, 2, 0]), torch.from_numpy(labels)
            )
        )

    (first,) = comparison.score([network], arithmetic)
    monkeypatch.setattr(Supernet, "forward", None)  # no further pass
    (second,) = comparison.score([network], arithmetic)
    (plain,) = comparison.score([network])

    assert first.loss == pytest.approx(expected, rel=1e-5)
    assert second == first and plain.loss == first.loss


def test_calibrated_statistics_make_a_score_independent_of_the_batch():
    torch.manual_seed(0)
    supernet = Supernet(SPACE.with_classes(2)).train()
    batches = [torch.randn(16, 3, 16, 16) for _ in range(2)]
    images, path = torch.randn(8, 3, 16, 16), [0, 1, 2, 0]
    state = {name: value.clone() for name, value in supernet.state_dict().items()}

    with supernet.calibrated(path, batches), torch.no_grad():
        whole = supernet(images, path)
        alone = torch.cat([supernet(image[None], path) for image in images])
        # Normalised by the mean of the two batches' statistics: not the statistics of the images themselves.
        torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-4)

    assert supernet.training
    assert supernet.state_dict().keys() == state.keys()
    with torch.no_grad():
        assert not torch.allclose(supernet(images, path), whole)


def test_candidates_are_scored_on_the_same_images_in_any_order():
    torch.manual_seed(0)
    images = data()
    supernet = Supernet(SPACE.with_classes(2)).train()
    first = select(SPACE, np.eye(4, 3), [Constraint(predictor(), 9.0)])
    second = select(SPACE, -np.eye(4, 3), [Constraint(predictor(), 9.0)])

    one = Comparison(supernet, images, CONFIG).score([first, second])
    other = Comparison(supernet, images, CONFIG).score([second, first])

    assert [each.loss for each in one] == [each.loss for each in reversed(other)]


def test_the_network_of_a_search_for_one_budget_is_found_by_that_budget(tmp_path):
    asked = budget(9.0, "9ms")
    begin_run(tmp_path / "run", SPACE, data(), [asked], CONFIG)
    run_search(tmp_path / "run", SPACE, data(), asked, CONFIG)
    run = Run.open(tmp_path / "run")

    assert found_before(run, asked, None) == run.folder
    assert found_before(run, budget(9.1, "9.1ms"), None) is None
    assert found_before(run, asked, 0.95) is None
