"""Refining as a whole: within the budget, the same again, resumable, and honest about noise."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

import luts
from lightnas_edge.data import load_data
from lightnas_edge.errors import FingerprintError, InfeasibleBudgetError, RunError
from lightnas_edge.predictor import load_predictor
from lightnas_edge.records.predictor import PredictorRecord
from lightnas_edge.records.run import RefinedFrom
from lightnas_edge.refine import AccuracyComparison, Grid, TrainingLossSum, refine_network
from lightnas_edge.refine.evolution import evolve
from lightnas_edge.runs import Run
from lightnas_edge.search import read_front
from lightnas_edge.space import Architecture, parameters_m
from lightnas_edge.train import TrainConfig, train_network
from tests import run_folders
from tests.refine.problems import CONFIG, FOUND, SPACE, Board, chain_ms, write_run
from tests.search.problems import data


class StopError(Exception):
    pass


def refine(tmp_path, *, out="refined", config=CONFIG, board=None, **more):
    run = tmp_path / "run"
    if not run.exists():
        write_run(run)
    return refine_network(run, tmp_path / out, data(), config, board or Board(), **more)


def scored(folder):
    lines = [json.loads(line) for line in (folder / "refine" / "scores.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "elapsed_s"} for line in lines]


# -- the evolution -------------------------------------------------------------------------------------------------


def test_evolution_finds_the_best_choice_of_a_small_grid_and_keeps_the_budget():
    """The score falls with every channel, so the best one is the largest that keeps the budget."""
    grid = Grid(SPACE, FOUND)
    limit_ms = chain_ms(SPACE, FOUND)

    def keeps(channels):
        return chain_ms(*grid.network(channels)) <= limit_ms

    def score(channels):
        return -chain_ms(*grid.network(channels))

    feasible = [grid.channels(genes) for genes in itertools.product(*grid.genes)]
    feasible = [channels for channels in feasible if keeps(channels)]

    found = evolve(grid, keeps, score, candidates=15, population=5, tournament=3, seed=0)

    assert all(map(keeps, found))
    assert len(found) == 1 + 15 < len(feasible)
    assert next(iter(found)) == grid.unchanged
    assert min(found.values()) == min(map(score, feasible))


def test_evolution_ends_when_there_is_no_more():
    grid = Grid(SPACE, FOUND, vary="widths")

    found = evolve(grid, lambda channels: True, lambda channels: 0.0, candidates=99, population=4, tournament=2, seed=0)

    assert len(found) == 3


# -- the proxy -----------------------------------------------------------------------------------------------------


def test_the_proxy_is_the_same_again_and_depends_on_the_seed():
    proxy = TrainingLossSum(data(), steps=3, batch=16, device="cpu")
    again = TrainingLossSum(data(), steps=3, batch=16, device="cpu")

    first, other = proxy(SPACE, FOUND, 0), proxy(SPACE, FOUND, 1)

    assert again(SPACE, FOUND, 0) == proxy(SPACE, FOUND, 0) == first
    assert other != first


def test_the_proxy_leaves_out_the_first_half_of_the_losses(monkeypatch):
    losses = []
    cross_entropy = torch.nn.functional.cross_entropy

    def recorded(*arguments, **named):
        losses.append(cross_entropy(*arguments, **named))
        return losses[-1]

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", recorded)

    score = TrainingLossSum(data(), steps=10, batch=16, device="cpu")(SPACE, FOUND, 0)  # an epoch has four steps

    assert len(losses) == 10
    assert score == pytest.approx(sum(loss.item() for loss in losses[5:]))


def test_the_proxy_sees_the_same_images_whoever_decodes_them(tmp_path):
    """Also when a training before it left its processes with batches that nobody took."""
    generator = np.random.default_rng(0)
    for folder in ("train/dark", "train/bright", "val/dark", "val/bright"):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(40):
            pixels = generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")

    scores = []
    for workers in (0, 2):
        images = load_data(tmp_path, space=SPACE, workers=workers)
        proxy = TrainingLossSum(images, steps=6, batch=16, device="cpu")  # one epoch has five
        scores.append([proxy(SPACE, FOUND, seed) for seed in (0, 1, 0)])

    assert scores[0] == scores[1]
    assert scores[0][0] == scores[0][2] != scores[0][1]


def test_a_training_that_diverges_has_the_worst_score(monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda logits, *_, **__: logits.sum() * float("nan"))

    assert TrainingLossSum(data(), steps=2, batch=16, device="cpu")(SPACE, FOUND, 0) == float("inf")


# -- the comparison ------------------------------------------------------------------------------------------------


def test_a_difference_within_the_noise_is_no_verdict():
    assert AccuracyComparison((9.0, 11.0, 10.0), (10.0, 10.0, 10.0), 3).verdict == "inconclusive"


def test_a_difference_beyond_the_noise_is_one():
    assert AccuracyComparison((8.0, 8.1, 8.05), (10.0, 10.1, 10.0), 3).verdict == "better"
    assert AccuracyComparison((12.0, 12.1, 12.05), (10.0, 10.1, 10.0), 3).verdict == "worse"
    assert AccuracyComparison((float("inf"), 12.1), (10.0, 10.1), 1).verdict == "worse"


def test_more_finalists_need_more_evidence():
    scores, unrefined = (8.0, 9.0, 8.2), (10.0, 10.1, 10.0)

    assert AccuracyComparison(scores, unrefined, 1).better
    assert not AccuracyComparison(scores, unrefined, 10).better


# -- the whole -----------------------------------------------------------------------------------------------------


def test_a_refined_run_is_a_run_whose_network_keeps_the_budget(tmp_path):
    found = refine(tmp_path)

    run = Run.open(found.folder)
    space, network = run.space, run.architecture
    predictor = load_predictor(run.predictors["latency_ms"], space)
    assert (space, network) == (found.space, found.architecture)
    assert predictor.predict_one(network) == pytest.approx(found.predicted_ms)
    assert found.predicted_ms == pytest.approx(chain_ms(space, network), rel=1e-6)
    assert found.predicted_ms <= found.target_ms == run.targets["latency_ms"]
    assert run.record.refined_from == RefinedFrom(run="../run", space="small", operators=FOUND.names)
    assert run.refined.verdict == found.comparison.verdict
    assert luts.read(found.folder / "lut.jsonl").coverage([s.key for s in space.shaped_operators()]).complete


def test_with_a_confidence_the_upper_bound_keeps_the_budget(tmp_path):
    write_run(tmp_path / "run", target_ms=1.1 * chain_ms(SPACE, FOUND), confidence=0.9)

    found = refine(tmp_path)

    assert found.predicted_ms < found.upper_ms <= found.target_ms


def test_a_slower_session_changes_no_prediction(tmp_path):
    """The run's table and the new one share operators; the drift between sessions is corrected."""
    one = refine(tmp_path, out="one")
    two = refine(tmp_path, out="two", board=Board(slowness=1.3))

    assert two.channels == one.channels
    assert two.predicted_ms == pytest.approx(one.predicted_ms, rel=1e-6)
    table = luts.read(tmp_path / "two" / "lut.jsonl")
    assert table.latency_ms(SPACE.stem.key) == pytest.approx(
        luts.read(tmp_path / "run" / "lut.jsonl").latency_ms(SPACE.stem.key), rel=1e-6
    )


def test_an_interrupted_refinement_ends_as_if_never_stopped(tmp_path):
    whole = refine(tmp_path, out="whole")
    stops = iter((3, 8))

    def until(count):
        def look(event):
            if event["kind"] == "score" and event["done"] == count:
                raise StopError

        return look

    for count in stops:
        with pytest.raises(StopError):
            refine(tmp_path, out="cut", on_event=until(count))
    with (tmp_path / "cut" / "refine" / "scores.jsonl").open("a") as file:
        file.write('{"kind": "sco')  # a power cut in the middle of a line
    resumed = refine(tmp_path, out="cut")

    assert dataclasses.replace(resumed, folder=whole.folder) == whole
    assert scored(tmp_path / "cut") == scored(tmp_path / "whole")


def test_what_is_measured_and_scored_is_not_done_again(tmp_path):
    first, second = Board(), Board()

    refine(tmp_path, board=first)
    before = scored(tmp_path / "refined")
    refine(tmp_path, board=second)

    assert len(first.measured[0]) == 1  # one operator first: is it the same board?
    assert second.measured == []
    assert scored(tmp_path / "refined") == before


def test_more_candidates_add_to_the_existing_ones(tmp_path):
    refine(tmp_path)
    before = scored(tmp_path / "refined")

    more = refine(tmp_path, config=dataclasses.replace(CONFIG, candidates=8))

    assert more.scored == 8
    after = scored(tmp_path / "refined")
    assert after[: len(before)] == before
    assert len(after) > len(before)
    at_once = refine(tmp_path, out="at-once", config=dataclasses.replace(CONFIG, candidates=8))
    assert dataclasses.replace(more, folder=at_once.folder) == at_once


def test_another_winner_in_the_same_folder_brings_its_own_space(tmp_path):
    board = Board()

    one = refine(tmp_path, board=board, config=dataclasses.replace(CONFIG, vary="widths"))
    other = refine(tmp_path, board=board, config=dataclasses.replace(CONFIG, vary="expansions"))

    assert one.space != other.space
    run = Run.open(tmp_path / "refined")
    assert run.space == other.space
    predictor = load_predictor(run.predictors["latency_ms"], run.space)
    assert predictor.predict_one(run.architecture) == pytest.approx(other.predicted_ms)


def test_the_refined_network_trains_like_any_other(tmp_path):
    found = refine(tmp_path)

    result = train_network(found.folder, data(), TrainConfig(epochs=1, batch=16, device="cpu"))

    assert 0 <= result.record.best_accuracy <= 1


# -- trouble -------------------------------------------------------------------------------------------------------


def test_another_board_is_reported_before_everything_is_measured(tmp_path):
    board = Board(power_mode="15W")

    with pytest.raises(FingerprintError, match="power_mode None and '15W'"):
        refine(tmp_path, board=board)

    assert len(board.measured) == 1
    assert len(board.measured[0]) == 1


def test_a_run_without_a_table_is_refused(tmp_path):
    write_run(tmp_path / "run", with_table=False)

    with pytest.raises(RunError, match="has no table") as caught:
        refine(tmp_path)

    assert "--lut" in caught.value.hint


def test_a_budget_that_no_choice_keeps_is_refused_before_anything_is_scored(tmp_path):
    write_run(tmp_path / "run", target_ms=0.001)

    with pytest.raises(
        InfeasibleBudgetError,
        match=r"nor its smallest choice of channels keeps the budget: latency_ms 0\.001, at",
    ):
        refine(tmp_path)

    assert not (tmp_path / "refined" / "refine" / "scores.jsonl").exists()


def test_budgets_that_are_not_measured_for_other_channels_are_refused(tmp_path):
    write_run(tmp_path / "run", targets={"latency_ms": 1.0, "energy_mj": 5.0})

    with pytest.raises(RunError, match="searched under latency_ms, energy_mj"):
        refine(tmp_path)


def test_what_can_be_counted_is_kept_too(tmp_path):
    limit = 0.9 * parameters_m(SPACE, FOUND)
    write_run(tmp_path / "run", targets={"latency_ms": 9.0, "params_m": limit})

    found = refine(tmp_path)

    predicted = json.loads((found.folder / "architecture.json").read_text())["predicted"]
    count = predicted["metrics"]["params_m"]
    assert count["value"] == parameters_m(found.space, found.architecture) <= limit == count["target"]
    assert predicted["binding"] == "params_m"


def test_a_network_below_a_search_takes_the_searchs_table(tmp_path):
    whole = Run.open(write_run(tmp_path / "whole"))
    (whole.folder / "architecture.json").unlink()
    below = write_run(whole.folder / "networks" / "a", with_table=False, search="../..")

    found = refine_network(below, below.with_name("a-refined"), data(), CONFIG, Board())

    assert Run.open(found.folder).record.search is None
    assert len(read_front(whole).networks) == 2  # every network of the search, refined ones among them
    assert found.predicted_ms <= found.target_ms


def test_a_table_of_another_board_than_the_predictors_is_refused(tmp_path):
    run = Run.open(write_run(tmp_path / "run"))
    predictor = PredictorRecord.load(run.folder / "predictor.json")
    other = predictor.model_copy(update={"fingerprint": {**predictor.fingerprint, "threads": 4}})
    run.save_predictor("latency_ms", json.dumps(other.to_json()))
    run_folders.find(run, FOUND)

    with pytest.raises(FingerprintError, match=r"of different boards or states: threads 4 and 1"):
        refine(tmp_path)


def test_a_refinement_with_other_settings_in_the_same_folder_is_refused(tmp_path):
    refine(tmp_path)

    with pytest.raises(RunError, match="steps: was 3, now 4"):
        refine(tmp_path, config=dataclasses.replace(CONFIG, steps=4))

    refine(tmp_path, config=dataclasses.replace(CONFIG, steps=4), fresh=True)
    assert (tmp_path / "refined.old" / "run.json").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "refined").mkdir()
    (tmp_path / "refined" / "thesis.tex").write_text("precious")

    with pytest.raises(RunError, match="has no refinement"):
        refine(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"), [({"seeds": 1}, "seeds: expected at least 2"), ({"vary": "all"}, "vary")]
)
def test_a_refinement_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(RunError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_a_run_without_a_network_is_refused(tmp_path):
    (write_run(tmp_path / "run") / "architecture.json").unlink()

    with pytest.raises(RunError, match="holds no network yet"):
        refine(tmp_path)


def test_an_all_skip_network_can_still_change_its_stages(tmp_path):
    """Its skips between stages are convolutions; within a stage they add no node."""
    write_run(tmp_path / "run", found=Architecture.from_names(SPACE, ["skip"] * 4), target_ms=9.0)

    found = refine(tmp_path, config=dataclasses.replace(CONFIG, factors=(2.0,)))

    assert {operator.name for operator in found.architecture.operators} == {"skip"}
    assert found.channels.widths != (8, 12)
