"""Boards and budgets from files: what they become, and what is refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from lightnas_edge.errors import BudgetError, PredictorError, SpaceError
from lightnas_edge.predictor import AdditivePredictor, CountedPredictor, lut_predictor
from lightnas_edge.records.differences import changes
from lightnas_edge.search import Budget, Constraint
from lightnas_edge.search.constraints import count_for
from lightnas_edge.search.sources import make_budgets, merge_with_run, read_boards, require_binding, slack_constraints
from lightnas_edge.space import load_space
from tests.predictor.boards import profile, random_architectures, sample, small_space, sum_ms, table_truth_ms
from tests.predictor.energy_tables import with_energy
from tests.search.problems import SPACE, predictor


def other_board():
    """The same costs, on another board."""
    other = predictor()
    other.origin = replace(other.origin, fingerprint={"board": "other"})
    return other


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Predictor files of two boards of the small space; networks take 1 to 17 ms on the near one."""
    folder = tmp_path_factory.mktemp("boards")
    for name, each in (("near", predictor()), ("far", other_board())):
        each.save(folder / f"{name}.predictor.json")
    return folder


def test_files_of_two_boards_are_two_boards_named_after_them(files):
    boards = read_boards([files / "near.predictor.json", files / "far.predictor.json"], ["latency_ms"])

    assert [board.name for board in boards] == ["near", "far"]
    budgets = make_budgets(boards, [{"latency_ms": 8.0}, {"latency_ms": 10.0}], name_boards=True)
    assert [budget.name for budget in budgets] == ["near-8ms", "near-10ms", "far-8ms", "far-10ms"]


def test_counted_metrics_need_no_predictor_and_measured_ones_do(files):
    boards = read_boards([files / "near.predictor.json"], ["latency_ms"])

    (budget,) = make_budgets(boards, [{"latency_ms": 8.0, "params_m": 0.5}], name_boards=False)
    assert budget.targets == {"latency_ms": 8.0, "params_m": 0.5}
    with pytest.raises(PredictorError, match="no predictor of energy_mj for near"):
        make_budgets(boards, [{"energy_mj": 3.0}], name_boards=False)


def test_two_files_for_one_metric_of_one_board_are_refused(files):
    with pytest.raises(PredictorError, match="a second predictor of latency_ms"):
        read_boards([files / "near.predictor.json"] * 2, ["latency_ms"])


def test_files_of_one_name_are_named_after_their_folders(files, tmp_path):
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
        shutil.copy(files / f"{name}.predictor.json", tmp_path / name / "predictor.json")

    boards = read_boards([tmp_path / name / "predictor.json" for name in ("near", "far")], ["latency_ms"])

    assert [board.name for board in boards] == ["near-predictor", "far-predictor"]


def test_a_host_needs_a_space_and_a_way_to_its_table():
    with pytest.raises(SpaceError, match="does not name the space"):
        read_boards(["nano"], ["latency_ms"])
    with pytest.raises(PredictorError, match="neither a predictor nor a table"):
        read_boards(["nano"], ["latency_ms"], load_space("tiny"))


def test_a_board_that_a_run_knows_keeps_its_name_there(files):
    (near,) = read_boards([files / "near.predictor.json"], ["latency_ms"])
    (known,) = read_boards([files / "near.predictor.json"], ["latency_ms"])
    known.name = ""

    assert [board.name for board in merge_with_run([near], [known])] == [""]
    assert merge_with_run([], [known]) == [known]


def test_a_budget_that_every_network_keeps_is_refused_and_another_limit_may_bind():
    latency = predictor()
    idle, binding = Constraint(latency, 17.0), Constraint(latency, 16.9)

    assert slack_constraints([Budget("binding", (binding,))]) == []
    with pytest.raises(BudgetError, match="not binding; the slowest network of this space takes 17 ms") as caught:
        require_binding([Budget("idle", (idle,)), Budget("binding", (binding,))])
    assert "--force" in caught.value.hint
    counted = Constraint(CountedPredictor(latency.space, "params_m"), 1e-3)
    assert [str(each) for each in require_binding([Budget("two", (idle, counted))])] == [
        "two: the budget is not binding; the slowest network of this space takes 17 ms"
    ]


def test_a_table_gives_the_median_and_not_a_tail(tmp_path):
    space = small_space()
    table = profile(tmp_path / "board.lut.jsonl", space).path

    (board,) = read_boards([table], ["latency_ms", "p95_ms"], space)

    assert list(board.predictors) == ["latency_ms"]
    with pytest.raises(PredictorError, match="no predictor of p95_ms for board") as caught:
        make_budgets([board], [{"latency_ms": 1.0, "p95_ms": 1.2}], name_boards=False)
    assert "--lut FILE --samples FILE --metric p95_ms" in caught.value.hint
    assert "lightnas-edge sample" in caught.value.hint


def test_the_networks_of_a_host_are_fitted_where_they_were_sampled_with_its_settings(tmp_path):
    """Networks take 1.5 times the sum of their operators."""
    space = small_space()
    truth = table_truth_ms(space)
    table = profile(tmp_path / "nano.lut.jsonl", space).path
    networks = random_architectures(space, 20)

    def complete(host, of, precision):
        return table

    sentinels = dict(list(truth.items())[:6])
    sample(
        tmp_path / "nano-networks.lut.jsonl", space, networks, lambda each: 1.5 * sum_ms(space, truth, each), sentinels
    )
    (board,) = read_boards(["nano"], ["latency_ms", "p95_ms"], space, complete_table=complete)

    assert sorted(board.predictors) == ["latency_ms", "p95_ms"]
    for fitted in board.predictors.values():
        assert fitted.fit.networks == 20
        assert fitted.predict_one(networks[0]) == pytest.approx(1.5 * sum_ms(space, truth, networks[0]), rel=0.01)

    sample(
        tmp_path / "nano-networks.lut.jsonl", space, networks, lambda each: sum_ms(space, truth, each),
        fingerprint={"board": "after an update"},
    )  # fmt: skip
    (alone,) = read_boards(["nano"], ["latency_ms"], space, complete_table=complete)
    assert alone.predictors["latency_ms"].fit.networks == 0


def test_budgets_of_a_table_with_energy_know_the_energy_of_their_networks(tmp_path):
    """Limited or not."""
    space = small_space()
    table = with_energy(profile(tmp_path / "a.lut.jsonl", space), tmp_path / "board.lut.jsonl")

    boards = read_boards([table.path], ["latency_ms"], space)

    (budget,) = make_budgets(boards, [{"latency_ms": 1.0}], name_boards=False)
    assert budget.energy_predictor.metric == "energy_mj"
    assert list(budget.targets) == ["latency_ms"]


def test_the_table_behind_a_predictor_of_latency_gives_the_energy(tmp_path):
    space = small_space()
    table = with_energy(profile(tmp_path / "a.lut.jsonl", space), tmp_path / "board.lut.jsonl")
    latency = lut_predictor(space, table)
    latency.origin = replace(latency.origin, fit=latency.fit.changed(lut="board.lut.jsonl"))
    latency.save(tmp_path / "board.predictor.json")

    (board,) = read_boards([tmp_path / "board.predictor.json"], ["latency_ms"])

    assert list(board.predictors) == ["latency_ms", "energy_mj"]


def test_a_fitted_predictor_of_energy_goes_before_that_of_the_table(tmp_path):
    space = small_space()
    table = with_energy(profile(tmp_path / "a.lut.jsonl", space), tmp_path / "board.lut.jsonl")
    fitted = lut_predictor(space, table, metric="energy_mj")
    fitted.mean = 2 * fitted.mean
    fitted.save(tmp_path / "energy.predictor.json")

    for sources in ([table.path, tmp_path / "energy.predictor.json"], [tmp_path / "energy.predictor.json", table.path]):
        (board,) = read_boards(sources, ["latency_ms"], space)
        assert board.predictors["energy_mj"].to_record() == fitted.to_record()


def test_without_energy_in_the_table_a_budget_knows_none(tmp_path):
    space = small_space()
    table = profile(tmp_path / "board.lut.jsonl", space).path

    boards = read_boards([table], ["latency_ms"], space)

    assert make_budgets(boards, [{"latency_ms": 1.0}], name_boards=False)[0].energy_predictor is None


def test_a_budget_that_excludes_a_network_only_by_its_bound_binds_with_that_confidence():
    sure = predictor()
    unsure = AdditivePredictor(
        sure.space, sure.origin, sure.mean, sure.covariance, 1.0, discrepancy=1.0, applicability=sure.applicability
    )
    budget = Budget("bound", (Constraint(unsure, 17.5),))

    assert slack_constraints([budget]) and not slack_constraints([budget], 0.95)
    assert slack_constraints([Budget("wide", (Constraint(unsure, 30.0),))], 0.95)


def test_what_is_counted_is_counted_for_the_classes_of_the_images():
    """A table may have been measured with a head of 1000 classes; the network that is trained has as many as the images."""
    wide = SPACE.with_classes(1000)
    budget = Budget(
        "small",
        (Constraint(CountedPredictor(wide, "params_m"), 0.01), Constraint(CountedPredictor(wide, "macs_m"), 9.0)),
    )

    counted, macs = count_for([budget], 2)[0].constraints

    one_hot = np.eye(3)[[[0, 1, 2, 0]]]
    assert counted.predictor.predict(one_hot) == pytest.approx(
        CountedPredictor(SPACE.with_classes(2), "params_m").predict(one_hot)
    )
    assert counted.predictor.predict(one_hot)[0] < 0.5 * budget.constraints[0].predictor.predict(one_hot)[0]
    assert counted.predictor.space.sha256 == wide.sha256, "of the same space as the other predictors"
    assert macs.predictor.metric == "macs_m" and macs.target == 9.0


def test_numbers_that_another_processor_rounds_otherwise_are_no_other_question():
    was = {"predictors": [[15.893667093552263, 61.3]], "epochs": 9}

    assert changes(was, {"predictors": [[15.893667093552262, 61.3]], "epochs": 9}) == []
    assert changes(was, {"predictors": [[15.8937, 61.3]], "epochs": 9}) and changes(was, {**was, "epochs": 10})
