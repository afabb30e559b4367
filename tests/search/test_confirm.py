"""`search --confirm`: finalists are measured on a board before one is handed over. The board is virtual, so nothing depends on luck."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import devices
import luts
from lightnas_edge.errors import FingerprintError, InfeasibleBudgetError, PredictorError, RunError
from lightnas_edge.measuring import MeasurementProtocol, Settings, measure, sample_architectures, write_sample_job
from lightnas_edge.measuring.tables import complete_table
from lightnas_edge.predictor import (
    AdditivePredictor,
    CountedPredictor,
    fit_additive,
    fit_mlp,
    load_predictor,
    reachable_range,
)
from lightnas_edge.runs import Run
from lightnas_edge.search import (
    Budget,
    Constraint,
    add_budgets,
    begin_run,
    confirm,
    found_before,
    read_front,
    run_search,
)
from lightnas_edge.search.confirm import Confirming, require_confirmable
from lightnas_edge.space import Architecture
from tests.luts.journals import seal
from tests.predictor.boards import observed, random_architectures
from tests.search.problems import CONFIG, SPACE, data, predictor

HOST = "virtual:jetson-tx2"
ROUNDS = 4


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """The latency of a virtual board: its table, and a predictor fitted to networks too."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "home"))
        table = luts.read(complete_table(HOST, SPACE, folder=folder))
        networks = sampled(folder, 14)
        yield {"table": table.path, "latency_ms": fit_additive(SPACE, table, [networks])}


def sampled(folder, count, **how):
    connection = devices.connect(HOST)
    settings = Settings(backend=connection.backend, protocol=MeasurementProtocol(rounds=ROUNDS), **how)
    job = write_sample_job(folder / "job", SPACE, settings, sample_architectures(SPACE, count, 0))
    return measure(connection, job, folder / "networks.lut.jsonl")


def optimistic(predictor, factor=0.85):
    """A predictor that says less than the board will measure, and is as sure as before."""
    return AdditivePredictor(
        predictor.space, predictor.origin, factor * predictor.mean, factor**2 * predictor.covariance,
        factor * predictor.noise, discrepancy=factor * predictor.discrepancy, applicability=predictor.applicability,
    )  # fmt: skip


def target_of(predictor, share=0.5):
    reach = reachable_range(predictor)
    return reach.lowest + share * (reach.highest - reach.lowest)


def budget_of(predictor, name="budget", share=0.5):
    return Budget(name, (Constraint(predictor, target_of(predictor, share)),))


def confirmed(folder, budgets, board, networks=4, config=CONFIG, **how):
    confirming = Confirming(devices.connect(HOST), networks, rounds=ROUNDS, **how)
    sources = {budget.name: ([], board["table"]) for budget in budgets}
    begin_run(folder, SPACE, data(), budgets, config)
    return run_search(folder, SPACE, data(), budgets, config, sources=sources, confirm=confirming)


def unsure(predictor, factor=6.0):
    """A predictor of the same costs that knows less."""
    return AdditivePredictor(
        predictor.space, predictor.origin, predictor.mean, factor**2 * predictor.covariance, factor * predictor.noise,
        discrepancy=predictor.discrepancy, applicability=predictor.applicability,
    )  # fmt: skip


def planned(folder):
    (plan,) = (folder / "confirm").glob("*.json")
    return [[network["predicted"]["latency_ms"] for network in each] for each in json.loads(plan.read_text())["rounds"]]


@pytest.fixture(scope="module")
def surprised(board, tmp_path_factory):
    """A search by a predictor that is 15 % too low."""
    folder = tmp_path_factory.mktemp("surprised") / "run"
    budget = budget_of(optimistic(board["latency_ms"]))
    return folder, budget, confirmed(folder, [budget], board)[0]


def test_the_network_that_is_handed_over_was_measured_and_keeps_the_budget(surprised):
    _, budget, result = surprised
    found = result.confirmation

    assert found.measured and 1 <= len(found.networks) <= 4
    own = next(each for each in found.networks if each.operators == result.architecture.names)
    assert own.keeps and own.metrics["latency_ms"].measured <= budget.targets["latency_ms"]


def test_networks_over_the_budget_are_not_handed_over(surprised):
    """The predictor says less than the board: its first choice lies at the budget and is over it."""
    _, budget, result = surprised
    first, *_ = result.confirmation.networks

    assert first.operators == result.confirmation.first and not first.keeps
    assert first.metrics["latency_ms"].before <= budget.targets["latency_ms"] < first.metrics["latency_ms"].measured
    assert result.confirmation.changed and result.architecture.names != first.operators


def test_a_network_measured_within_the_budget_is_not_handed_over_where_its_estimate_is_over_it(
    board, tmp_path, monkeypatch
):
    """As one whose measurement came out low by chance."""
    lucky, estimated = [], AdditivePredictor.of_measured

    def of_measured(self, one_hot, value, standard_error):
        lucky.append(float(value[0]))
        mean, std = estimated(self, one_hot, value, standard_error)
        return (mean + 1.0, std) if value[0] == lucky[0] else (mean, std)

    monkeypatch.setattr(AdditivePredictor, "of_measured", of_measured)
    (result,) = confirmed(tmp_path / "run", [budget_of(board["latency_ms"])], board)

    first = next(each for each in result.confirmation.networks if each.metrics["latency_ms"].measured == lucky[0])
    values = first.metrics["latency_ms"]
    assert values.measured <= values.target < values.estimate and not first.keeps
    assert result.architecture.names != first.operators and result.confirmation.measured


def test_the_predictor_moves_towards_what_was_measured(surprised):
    _, _, result = surprised

    for network in result.confirmation.networks:
        values = network.metrics["latency_ms"]
        assert abs(values.after - values.measured) < abs(values.before - values.measured)
    assert result.confirmation.interval_factor["latency_ms"] > 0


def test_the_run_keeps_the_predictor_that_has_learned(surprised):
    folder, budget, result = surprised
    run = Run.open(folder)
    kept = load_predictor(run.predictors["latency_ms"], SPACE)

    before = budget.constraints[0].predictor
    assert kept.fit.networks == before.fit.networks + len(result.confirmation.networks)
    assert kept.predict_one(run.architecture) == pytest.approx(run.found.predicted.metrics["latency_ms"].value)
    (row,) = read_front(run).networks
    assert row.confirmation == run.found.choice.confirmation == result.confirmation
    assert all((folder / table).exists() for table in row.confirmation.tables)


def test_the_same_command_measures_nothing_again(surprised, board):
    folder, budget, result = surprised
    before = {path: path.read_bytes() for path in (folder / "confirm").iterdir()}

    (again,) = confirmed(folder, [budget], board)

    assert again.architecture == result.architecture and again.confirmation == result.confirmation
    assert {path: path.read_bytes() for path in (folder / "confirm").iterdir()} == before


def test_a_predictor_that_is_right_keeps_its_choice(board, tmp_path):
    (result,) = confirmed(tmp_path / "run", [budget_of(board["latency_ms"], share=0.6)], board)

    found = result.confirmation
    assert found.measured
    if not found.changed:
        assert found.networks[0].operators == result.architecture.names
    for network in found.networks:
        assert network.metrics["latency_ms"].before == pytest.approx(network.metrics["latency_ms"].measured, rel=0.05)


def test_under_a_confidence_networks_beyond_the_bound_are_measured_and_the_better_one_is_handed_over(board, tmp_path):
    budget = budget_of(unsure(board["latency_ms"]))
    target, config = budget.targets["latency_ms"], replace(CONFIG, confidence=0.95)

    (result,) = confirmed(tmp_path / "run", [budget], board, config=config)

    (first, *_), *_ = planned(tmp_path / "run")
    assert first["value"] <= target < first["upper"]
    own = next(each for each in result.confirmation.networks if each.operators == result.architecture.names)
    assert own.keeps and own.metrics["latency_ms"].measured <= target
    assert result.confirmation.first != result.architecture.names, "the first choice had to keep the bound"
    assert own.metrics["latency_ms"].before > predicted(result.confirmation.first, budget)


def test_the_last_measurement_is_kept_for_the_network_whose_bound_keeps_the_budget(board, tmp_path):
    """The predictor says so much less than the board that what it likes beyond its bound is over the budget."""
    budget = budget_of(unsure(optimistic(board["latency_ms"], 0.85), 2.0), share=0.7)
    target, config = budget.targets["latency_ms"], replace(CONFIG, confidence=0.95)

    (result,) = confirmed(tmp_path / "run", [budget], board, networks=2, config=config)

    (beyond,), (cautious,) = planned(tmp_path / "run")
    assert beyond["value"] <= target < beyond["upper"] and cautious["upper"] <= target
    assert not result.confirmation.networks[0].keeps


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_networks_that_cannot_be_measured_are_tried_once_and_not_handed_over(board, tmp_path, monkeypatch, confidence):
    def learn(self, tables):
        learned(self, tables)
        for network in self.rounds[0]:
            self.measured.pop(network.operators, None)
            self.failed.add(network.operators)

    learned = confirm._Board._learn
    monkeypatch.setattr(confirm._Board, "_learn", learn)
    budget, config = budget_of(board["latency_ms"]), replace(CONFIG, confidence=confidence)

    (result,) = confirmed(tmp_path / "run", [budget], board, config=config)

    (plan,) = (tmp_path / "run" / "confirm").glob("*.json")
    tried = [tuple(each["operators"]) for networks in json.loads(plan.read_text())["rounds"] for each in networks]
    assert len(tried) == len(set(tried)) > 1
    assert result.architecture.names != tried[0] and result.confirmation.measured


def test_an_allowance_is_used_where_better_networks_are_left(board, tmp_path):
    """The cautious choice is measured already: nothing is kept back for it."""
    budget = budget_of(unsure(board["latency_ms"]))
    config = replace(CONFIG, confidence=0.95)
    confirmed(tmp_path / "run", [budget], board, networks=1, config=config)
    before = sum(map(len, planned(tmp_path / "run")))

    confirmed(tmp_path / "run", [budget], board, networks=2, config=config)

    assert before == 1 and sum(map(len, planned(tmp_path / "run"))) == 2


def predicted(operators, budget):
    (constraint,) = budget.constraints
    return constraint.predictor.predict_one(Architecture.from_names(SPACE, operators))


def test_an_interruption_loses_no_measurement_and_changes_no_choice(board, tmp_path, surprised):
    """The second command continues with the networks that the first one planned."""
    _, budget, whole = surprised
    seen = 0

    def interrupt(status):
        nonlocal seen
        seen = max(seen, status.done)
        if status.done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        confirmed(tmp_path / "run", [budget], board, on_progress=interrupt)
    (plan,) = (tmp_path / "run" / "confirm").glob("*.json")
    planned = json.loads(plan.read_text())["rounds"]
    assert not (tmp_path / "run" / "architecture.json").exists() and len(planned) == 1

    (result,) = confirmed(tmp_path / "run", [budget], board)

    assert json.loads(plan.read_text())["rounds"][0] == planned[0]
    assert result.architecture == whole.architecture
    assert [each.operators for each in result.confirmation.networks] == [
        each.operators for each in whole.confirmation.networks
    ]


def test_with_a_larger_allowance_only_further_networks_are_measured(board, tmp_path):
    budget = budget_of(optimistic(board["latency_ms"]))
    (first,) = confirmed(tmp_path / "run", [budget], board, networks=1)
    (second,) = confirmed(tmp_path / "run", [budget], board, networks=6)

    assert len(first.confirmation.networks) == 1
    assert second.confirmation.networks[0].operators == first.confirmation.networks[0].operators
    tables = [luts.read(tmp_path / "run" / table) for table in second.confirmation.tables]
    assert first.confirmation.tables == second.confirmation.tables[:1]
    assert sum(len(table.networks) for table in tables) == len(second.confirmation.networks)
    assert all(len(entry.visits) >= ROUNDS for table in tables for entry in table.networks.values())


def test_without_a_measured_network_that_keeps_the_budget_the_prediction_is_handed_over_and_named(board, tmp_path):
    (result,) = confirmed(tmp_path / "run", [budget_of(optimistic(board["latency_ms"]))], board, networks=1)

    assert not result.confirmation.measured
    assert not result.confirmation.networks[0].keeps
    assert result.architecture.names != result.confirmation.networks[0].operators


def test_a_budget_that_no_network_keeps_once_some_were_measured_is_refused_and_nothing_is_lost(board, tmp_path):
    low = optimistic(board["latency_ms"], 0.7)
    impossible, possible = budget_of(low), budget_of(board["latency_ms"], "larger")

    with pytest.raises(
        InfeasibleBudgetError, match=r"budget, after \d measured networks?, none of which keeps it: no network"
    ) as raised:
        confirmed(tmp_path / "run", [impossible], board)

    assert f"search --from {tmp_path / 'run'}" in raised.value.hint
    assert len(list((tmp_path / "run" / "confirm").iterdir())) == 2, "the plan and the measurements"
    (result,) = add_budgets(tmp_path / "run", SPACE, data(), [possible], CONFIG)
    assert result.predicted["latency_ms"] <= possible.targets["latency_ms"]


def test_a_budget_that_turns_out_impossible_takes_no_other_with_it(board, tmp_path):
    low = optimistic(board["latency_ms"], 0.7)
    budgets = [budget_of(low, "small", 0.02), budget_of(low, "large", 0.9)]

    for _ in range(2):  # the same command again ends alike
        with pytest.raises(InfeasibleBudgetError, match=r"^small, after \d measured networks") as raised:
            confirmed(tmp_path / "run", budgets, board, networks=3)

        assert "large" not in str(raised.value)
        assert raised.value.hint.startswith("1 of 2 budgets have a network")
        (network,) = read_front(Run.open(tmp_path / "run")).networks
        assert network.name == "large" and network.confirmation.measured


def test_budgets_of_one_board_are_measured_together_and_teach_each_other(board, tmp_path):
    low = optimistic(board["latency_ms"])
    budgets = [budget_of(low, "low", 0.35), budget_of(low, "high", 0.65)]

    results = confirmed(tmp_path / "run", budgets, board, networks=3)

    assert len({result.confirmation.tables for result in results}) == 1
    assert all(result.confirmation.others > 0 for result in results)
    for result in results:
        place = Run.open(tmp_path / "run" / "networks" / result.budget.name)
        assert place.found.choice.confirmation == result.confirmation
        own = [network.operators for network in result.confirmation.networks]
        assert result.confirmation.measured and result.architecture.names in own


def test_energy_is_measured_where_it_is_limited(board, tmp_path):
    networks = sampled(tmp_path, 8, energy_rounds=2)
    energy = fit_additive(SPACE, None, [networks], metric="energy_mj")
    budget = Budget("energy", (
        Constraint(energy, target_of(energy, 0.5)),
        Constraint(board["latency_ms"], target_of(board["latency_ms"], 0.8)),
        Constraint(CountedPredictor(SPACE, "params_m"), 1.0),
    ))  # fmt: skip

    (result,) = confirmed(tmp_path / "run", [budget], board, networks=2)

    for network in result.confirmation.networks:
        assert set(network.metrics) == {"energy_mj", "latency_ms"}
    assert set(result.confirmation.interval_factor) == {"energy_mj", "latency_ms"}
    fitted = {
        metric: load_predictor(path, SPACE).fit.networks
        for metric, path in Run.open(tmp_path / "run").predictors.items()
    }
    number = len(result.confirmation.networks)
    assert fitted == {"energy_mj": 8 + number, "latency_ms": 14 + number}


def test_a_network_of_a_finished_search_is_confirmed_afterwards(board, tmp_path):
    budget = budget_of(optimistic(board["latency_ms"]), "later")
    begin_run(tmp_path / "run", SPACE, data(), [budget_of(board["latency_ms"])], CONFIG)
    run_search(tmp_path / "run", SPACE, data(), budget_of(board["latency_ms"]), CONFIG)
    run = Run.open(tmp_path / "run")
    (unconfirmed,) = add_budgets(tmp_path / "run", SPACE, data(), [budget], CONFIG)
    assert unconfirmed.confirmation is None
    assert found_before(run, budget, None) and not found_before(run, budget, None, confirmed=1)

    how = Confirming(devices.connect(HOST), 4, rounds=ROUNDS)
    sources = {"later": ([], board["table"])}
    (result,) = add_budgets(tmp_path / "run", SPACE, data(), [budget], CONFIG, sources=sources, confirm=how)

    assert result.confirmation.first == unconfirmed.architecture.names
    assert found_before(run, budget, None, confirmed=4), "the predictor before is that of the budget"
    assert not found_before(run, budget, None, confirmed=5), "one more network may be measured"
    learned = load_predictor(Run.open(run.folder / "networks" / "later").predictors["latency_ms"], SPACE)
    assert found_before(run, Budget("later", (Constraint(learned, budget.targets["latency_ms"]),)), None)


def test_a_table_of_another_state_leaves_the_drift_unknown(board, tmp_path, surprised):
    _, budget, _ = surprised
    header, *lines = board["table"].read_text().splitlines(keepends=True)
    other = json.loads(header)
    del other["crc32"]
    other["fingerprint"]["power_mode"] = "15W"
    (tmp_path / "other.lut.jsonl").write_text("".join([seal(other).decode(), *lines]))

    (result,) = confirmed(tmp_path / "run", [budget], {**board, "table": tmp_path / "other.lut.jsonl"}, networks=1)

    assert any("the table is of another state of the board" in note for note in result.confirmation.notes)


def test_a_table_that_cannot_be_read_is_refused_before_anything_is_trained(board, tmp_path):
    (tmp_path / "damaged.lut.jsonl").write_text("no table")

    with pytest.raises(luts.LutFormatError):
        confirmed(
            tmp_path / "run", [budget_of(board["latency_ms"])], {**board, "table": tmp_path / "damaged.lut.jsonl"}
        )

    assert not list((tmp_path / "run").rglob("checkpoint.pt"))


def test_an_empty_journal_is_measured_again(board, tmp_path, surprised):
    folder, budget, before = surprised
    shutil.copytree(folder, tmp_path / "run")
    last = tmp_path / "run" / before.confirmation.tables[-1]
    last.write_bytes(b"")

    (result,) = confirmed(tmp_path / "run", [budget], board)

    assert last.stat().st_size > 0
    assert {each.operators for each in before.confirmation.networks} <= {
        each.operators for each in result.confirmation.networks
    }


def test_a_damaged_plan_is_an_error_with_a_way_out(board, tmp_path, surprised):
    folder, budget, _ = surprised
    begin_run(tmp_path / "run", SPACE, data(), [budget], CONFIG)
    (plan,) = (folder / "confirm").glob("*.json")
    record = json.loads(plan.read_text())
    for network in (network for each in record["rounds"] for network in each):
        network["predicted"] = {"p95_ms": network["predicted"]["latency_ms"]}
    operators = plan.read_text().replace("mbconv_k3_e2", "mbconv_k9_e9")
    for content in ("{", '{"kind": "confirm-plan"}', operators, json.dumps(record)):
        (tmp_path / "run" / "confirm").mkdir(exist_ok=True)
        (tmp_path / "run" / "confirm" / plan.name).write_text(content)
        with pytest.raises(RunError) as raised:
            confirmed(tmp_path / "run", [budget], board)
        assert plan.name in str(raised.value) and "remove" in raised.value.hint


def test_what_cannot_be_confirmed_is_refused_before_anything_is_trained(board):
    connection = devices.connect(HOST)
    require_confirmable([budget_of(board["latency_ms"])], connection)
    other = board["latency_ms"]
    other = AdditivePredictor(
        SPACE, replace(other.origin, fingerprint={**other.fingerprint, "board": "virtual:jetson-nano"}),
        other.mean, other.covariance, other.noise,
    )  # fmt: skip

    with pytest.raises(FingerprintError, match=r"board 'virtual:jetson-nano' and 'virtual:jetson-tx2'"):
        require_confirmable([budget_of(other)], connection)
    with pytest.raises(FingerprintError, match="board 'imagined'"):
        require_confirmable([budget_of(predictor())], connection)
    with pytest.raises(PredictorError, match="no limit is measured"):
        require_confirmable([Budget("counted", (Constraint(CountedPredictor(SPACE, "macs_m"), 1.0),))], connection)


def test_a_predictor_that_cannot_take_in_networks_is_refused(board):
    indices = np.stack([each.indices(SPACE) for each in random_architectures(SPACE, 60)])
    mlp = fit_mlp(SPACE, observed(SPACE, indices, 1.0 + indices.sum(axis=1)), 0)

    with pytest.raises(PredictorError, match="only additive predictors take in further networks"):
        require_confirmable([Budget("mlp", (Constraint(mlp, 5.0),))], devices.connect(HOST))
