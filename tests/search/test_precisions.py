"""One search in several precisions of a board: a network each, compared as they are deployed, and the best handed over."""

import dataclasses
import math
import shutil

import numpy as np
import onnxruntime
import pytest
import torch

from lightnas_edge.errors import BudgetError, InfeasibleBudgetError, PredictorError
from lightnas_edge.graph import FP32, Arithmetic, model_bytes, network_model
from lightnas_edge.nn import Supernet, folded_path_weights
from lightnas_edge.nn.checkpoint import load_checkpoint, save_checkpoint
from lightnas_edge.nn.execution import Execution
from lightnas_edge.predictor import AdditivePredictor
from lightnas_edge.runs import Run
from lightnas_edge.search import Budget, Constraint, add_budgets, begin_run, read_front, run_search
from lightnas_edge.search.candidates import Candidate, estimated_losses, images_of_candidate
from lightnas_edge.search.comparison import Comparison
from lightnas_edge.search.deployed import Penalty
from lightnas_edge.search.posterior import OperatorPosterior
from lightnas_edge.search.results import add_score
from lightnas_edge.search.selection import Selection
from lightnas_edge.search.sources import (
    boards_of_run,
    keepable,
    make_budgets,
    merge_with_run,
    read_boards,
    require_binding,
    select_precisions,
    slack_constraints,
)
from lightnas_edge.search.state import SCHEMA
from lightnas_edge.space import Architecture
from tests.search.problems import CONFIG, SPACE, data, predictor

ORT, TENSORRT = Arithmetic("int8", "ort"), Arithmetic("int8", "tensorrt")
TWO_CLASSES = SPACE.with_classes(2)
PATH = [0, 0, 0, 0]


def measured(precision, share=1.0, **fields):
    """The predictor of `problems` on one board in a precision; `share` of the latency."""
    fingerprint = {"board": "imagined", "backend": "onnxruntime", "precision": precision, **fields}
    whole = predictor()
    return AdditivePredictor(
        SPACE, dataclasses.replace(whole.origin, fingerprint=fingerprint), share * whole.mean, whole.covariance, 0.0
    )


def budgets(target_ms, int8_share=0.5):
    return [
        Budget(f"fp32-{target_ms:g}ms", (Constraint(measured("fp32"), target_ms),)),
        Budget(f"int8-{target_ms:g}ms", (Constraint(measured("int8", int8_share, dialect="ort"), target_ms),)),
    ]


def selection(indices):
    return Selection(Architecture.from_indices(SPACE, indices), (1.0,), None, 0.0, True)


@torch.no_grad()
def give_outliers(state):
    """Channel 0 after the first block, a residual sum, becomes 100,000 times as large; no layer after it reads it."""
    state["first.project_norm.weight"][0] = 1e5
    for name, value in state.items():
        if name.startswith("layers.0.") and name.endswith((".expand.weight", ".conv.weight")):
            value[:, 0] = 0.0


# -- what a precision costs -----------------------------------------------------------------------------------


def test_a_path_is_folded_into_the_network_that_the_supernet_computes():
    torch.manual_seed(0)
    supernet = Supernet(TWO_CLASSES).train()
    path, images = [0, 1, 2, 0], torch.randn(8, 3, 16, 16)

    with supernet.calibrated(path, [torch.randn(16, 3, 16, 16)]), torch.no_grad():
        expected = supernet(images, path)
        weights = folded_path_weights(supernet, path)
    model = network_model(TWO_CLASSES, Architecture.from_indices(SPACE, path), weights=weights, batch=8)
    session = onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])

    found = session.run(None, {"input": images.numpy()})[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arithmetic", [ORT, TENSORRT, Arithmetic("fp16")])
def test_a_candidate_is_scored_in_its_own_arithmetic_on_the_same_images(arithmetic):
    torch.manual_seed(0)
    supernet = Supernet(TWO_CLASSES).train()

    (floats,) = Comparison(supernet, data(), CONFIG).score([selection(PATH)])
    (found,) = Comparison(supernet, data(), CONFIG).score([selection(PATH)], arithmetic)

    assert floats.penalty is None and (found.loss, found.accuracy) == (floats.loss, floats.accuracy)
    assert found.penalty.arithmetic == arithmetic and found.penalty.fault is None
    assert found.penalty.mean == pytest.approx(found.penalty.loss - found.loss, abs=1e-9)
    assert 0 < abs(found.penalty.mean) < 0.1 * found.loss
    if arithmetic.precision == "fp16":
        assert abs(found.penalty.mean) < 0.01 * found.loss
    assert 0 < found.penalty.error < 0.1


@pytest.mark.parametrize("arithmetic", [FP32, ORT])
def test_candidates_of_a_search_that_trained_in_bfloat16_are_scored_in_float32(arithmetic):
    torch.manual_seed(0)
    supernet = Supernet(TWO_CLASSES).train()
    (plain,) = Comparison(supernet, data(), CONFIG).score([selection(PATH)], arithmetic)

    (found,) = Comparison(supernet, data(), CONFIG, Execution(bf16=True)).score([selection(PATH)], arithmetic)

    assert (found.loss, found.penalty) == (plain.loss, plain.penalty)


@pytest.mark.parametrize("arithmetic", [ORT, TENSORRT])
def test_a_network_with_outliers_in_an_activation_loses_in_int8_what_float32_keeps(arithmetic):
    """One channel that nothing reads takes the whole range of 8 bits; all others round to nothing."""
    torch.manual_seed(0)
    supernet = Supernet(TWO_CLASSES).train()
    (before,) = Comparison(supernet, data(), CONFIG).score([selection(PATH)], arithmetic)
    give_outliers(supernet.state_dict())
    (found,) = Comparison(supernet, data(), CONFIG).score([selection(PATH)], arithmetic)

    assert abs(found.penalty.mean) > 5 * abs(before.penalty.mean)


def test_a_network_that_overflows_in_half_precision_has_no_loss_there_and_the_reason_is_kept():
    torch.manual_seed(0)
    supernet = Supernet(TWO_CLASSES).train()
    supernet.head.classifier.weight.data *= 1e8

    (found,) = Comparison(supernet, data(), CONFIG).score([selection(PATH)], Arithmetic("fp16"))

    assert found.penalty.mean is None and found.penalty.loss is None
    assert "overflows on 32 of 32 images" in found.penalty.fault


@torch.no_grad()
def test_an_overflow_inside_the_network_that_its_output_does_not_show_is_found_in_half_precision():
    """One channel after the first block is beyond 65504, and no layer after it reads it."""
    torch.manual_seed(0)
    supernet = Supernet(TWO_CLASSES).train()
    give_outliers(supernet.state_dict())
    supernet.first.project_norm.bias[0] = 1e6

    (found,) = Comparison(supernet, data(), CONFIG).score([selection(PATH)], Arithmetic("fp16"))

    assert math.isfinite(found.loss)
    assert "overflows on 32 of 32 images" in found.penalty.fault


def test_the_penalty_counts_in_full_and_the_two_estimates_of_the_float_loss_by_half_each():
    posterior = OperatorPosterior(np.full((4, 3), 0.1), np.zeros((12, 1)))
    floats = Candidate(selection([0, 1, 1, 1]), 1.0, 0.5)
    int8 = dataclasses.replace(floats, penalty=Penalty(ORT, 1.25, 0.4, 0.25, 0.01))
    impossible = dataclasses.replace(floats, penalty=Penalty(ORT, fault="a range without an end"))

    estimates = estimated_losses(SPACE, posterior, [floats, int8, impossible])

    assert estimates == pytest.approx([(1.0 - 0.4) / 2, (1.0 - 0.4) / 2 + 0.25, math.inf])


def test_a_precision_gets_no_credit_for_seeming_better_than_float32():
    """With the network the same, the budget wide enough for both: the more precise one is handed over."""
    posterior = OperatorPosterior(np.zeros((4, 3)), np.zeros((12, 1)))
    floats = Candidate(selection([0, 1, 1, 1]), 1.0, 0.5)
    lucky = dataclasses.replace(floats, penalty=Penalty(ORT, 0.998, 0.51, -0.002, 0.001))

    better, same = estimated_losses(SPACE, posterior, [floats, lucky])

    assert better == same


def test_the_passes_in_another_precision_are_counted():
    """64 training images calibrate, 32 validation images are scored twice, 64 give the ranges."""
    assert images_of_candidate(data(), FP32) == 96
    assert images_of_candidate(data(), Arithmetic("fp16")) == 128
    assert images_of_candidate(data(), ORT) == 192


# -- the search -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precisions")
    both = budgets(6.0)
    begin_run(folder, SPACE, data(), both, CONFIG)
    return folder, run_search(folder, SPACE, data(), both, CONFIG)


def edited(run, tmp_path, edit):
    """A copy of the finished search with another supernet or other losses."""
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    path = folder / "search" / "checkpoint.pt"
    state = load_checkpoint(path, schema=SCHEMA)
    edit(state)
    save_checkpoint(path, state)
    return folder


def prefer_large(state):
    """Losses of 60 paths in which every mbconv_k5_e3 lowers the loss by ten."""
    generator = np.random.default_rng(0)
    paths = generator.integers(0, 3, size=(60, 4))
    losses = [50.0 - 10.0 * float((path == 1).sum()) for path in paths]
    last = max(state["strategy"]["evidence"]["epochs"])
    state["strategy"]["evidence"] = {
        "paths": paths.tolist(), "losses": losses, "batches": [index // 4 for index in range(60)], "epochs": [last] * 60,
    }  # fmt: skip


def test_each_precision_gets_a_network_that_its_own_run_carries(run):
    folder, results = run

    assert [result.budget.name for result in results] == ["fp32-6ms", "int8-6ms"]
    for result, precision in zip(results, ("fp32", "int8"), strict=True):
        own = Run.open(folder / "networks" / result.budget.name)
        assert own.record.fingerprint["precision"] == precision
        assert own.architecture == result.architecture
        assert own.found.choice.supernet.estimate is not None
        assert (own.found.choice.supernet.deployed is None) == (precision == "fp32")
    assert results[1].predicted["latency_ms"] <= 6.0


def test_the_front_names_the_best_of_each_budget_and_why(run):
    front = read_front(Run.open(run[0]))

    (best,) = front.best
    estimates = {row.name: row.supernet.estimate for row in front.networks}
    assert best.network == min(estimates, key=estimates.get)
    other = max(estimates, key=estimates.get)
    difference = estimates[other] - estimates[best.network]
    assert f"estimated loss {difference:.3g} lower than that of {other}" in best.reason
    assert (best.compared, best.targets, best.folder) == (2, {"latency_ms": 6.0}, f"networks/{best.network}")
    assert Run.open(run[0]).front == front


def test_int8_is_handed_over_where_its_faster_network_is_better_and_it_loses_little(run, tmp_path):
    folder = edited(run, tmp_path, prefer_large)

    floats, int8 = add_budgets(folder, SPACE, data(), budgets(5.0), CONFIG)

    assert floats.architecture.names.count("mbconv_k5_e3") == 1, "1 ms, and 4 ms for one large block"
    assert int8.architecture.names.count("mbconv_k5_e3") == 2
    assert abs(int8.chosen.penalty.mean) < 0.1
    best = next(each for each in read_front(Run.open(folder)).best if each.targets == {"latency_ms": 5.0})
    assert (best.network, best.precision) == ("int8-5ms", "int8")


def test_float32_is_handed_over_where_int8_destroys_the_accuracy(run, tmp_path):
    """The same losses, so that int8 has the better network again; but an activation has outliers."""

    def edit(state):
        prefer_large(state)
        give_outliers(state["supernet"])
        for name, value in state["supernet"].items():
            if name == "head.classifier.weight":
                value *= 200  # what is lost is lost with certainty

    folder = edited(run, tmp_path, edit)

    _, int8 = add_budgets(folder, SPACE, data(), budgets(5.0), CONFIG)

    assert int8.chosen.penalty.mean > 2
    best = next(each for each in read_front(Run.open(folder)).best if each.targets == {"latency_ms": 5.0})
    assert (best.network, best.precision) == ("fp32-5ms", "fp32")


def overflow_in_half_precision(state):
    state["supernet"]["head.classifier.weight"] *= 1e8


def test_a_network_with_a_fault_stands_behind_the_others_and_its_fault_is_the_reason(run, tmp_path):
    folder = edited(run, tmp_path, overflow_in_half_precision)
    (int8,) = add_budgets(folder, SPACE, data(), budgets(7.0)[1:], CONFIG)
    half = Budget("fp16-7ms", (Constraint(measured("fp16", 0.5), 7.0),))

    (fp16,) = add_budgets(folder, SPACE, data(), [half], CONFIG)

    assert int8.chosen.estimate is None and int8.fault is None
    assert fp16.fault == "fp16 overflows on 32 of 32 images"
    best = next(each for each in read_front(Run.open(folder)).best if each.targets == {"latency_ms": 7.0})
    assert best.network == "int8-7ms"
    assert best.reason == "fp16-7ms is left out: fp16 overflows on 32 of 32 images"

    add_score(Run.open(folder / "networks" / "int8-7ms"), int8.chosen)  # as an earlier version left it

    best = next(each for each in read_front(Run.open(folder)).best if each.targets == {"latency_ms": 7.0})
    assert best.reason == (
        "none of 2 networks has an estimated loss: int8-7ms: no score on held-out images; "
        "fp16-7ms: fp16 overflows on 32 of 32 images"
    )


def test_the_only_network_of_a_budget_is_handed_over_with_its_fault(run, tmp_path):
    folder = edited(run, tmp_path, overflow_in_half_precision)
    half = Budget("fp16-7ms", (Constraint(measured("fp16", 0.5), 7.0),))
    add_budgets(folder, SPACE, data(), [half, budgets(7.0)[0]], CONFIG)
    shutil.rmtree(folder / "networks" / "fp32-7ms")

    best = next(each for each in read_front(Run.open(folder)).best if each.targets == {"latency_ms": 7.0})

    assert (best.network, best.compared) == ("fp16-7ms", 1)
    assert best.reason == "the only network of this budget: fp16 overflows on 32 of 32 images"


def test_a_precision_that_is_added_is_compared_with_the_networks_found_before(run, tmp_path):
    folder = edited(run, tmp_path, lambda state: None)
    (fp32,) = add_budgets(folder, SPACE, data(), [dataclasses.replace(budgets(7.0)[0], name="7ms")], CONFIG)
    assert fp32.chosen.estimate is None, "alone it needs no comparison"

    (int8,) = add_budgets(folder, SPACE, data(), budgets(7.0)[1:], CONFIG)

    best = next(each for each in read_front(Run.open(folder)).best if each.targets == {"latency_ms": 7.0})
    rows = {each.name: each for each in read_front(Run.open(folder)).networks}
    assert rows["7ms"].operators == fp32.architecture.names and rows["7ms"].supernet.loss is not None
    assert rows["int8-7ms"].supernet.estimate == int8.chosen.estimate
    lowest = min(("7ms", "int8-7ms"), key=lambda name: rows[name].supernet.estimate)
    assert best.network == lowest and "left out" not in best.reason
    assert Run.open(folder / "networks" / "7ms").architecture == fp32.architecture


def test_the_score_of_an_earlier_network_is_the_one_that_it_gets_where_both_precisions_are_searched_at_once(
    run, tmp_path
):
    both, after = (edited(run, tmp_path / name, lambda state: None) for name in ("both", "after"))
    at_once = add_budgets(both, SPACE, data(), budgets(7.0), CONFIG)

    for budget in budgets(7.0):
        add_budgets(after, SPACE, data(), [budget], CONFIG)

    found = {each.name: each.supernet for each in read_front(Run.open(after)).networks}
    for result in at_once:
        assert found[result.budget.name] == result.choice_record.supernet


def test_a_search_in_two_precisions_resumes_to_the_same_choice(tmp_path, run):
    both = budgets(6.0)
    begin_run(tmp_path, SPACE, data(), both, CONFIG)

    def stop(event):
        if event["kind"] == "candidate" and event["budget"] == "int8-6ms":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path, SPACE, data(), both, CONFIG, on_event=stop)
    assert not (tmp_path / "networks").exists()

    again = run_search(tmp_path, SPACE, data(), both, CONFIG)

    assert [each.architecture for each in again] == [each.architecture for each in run[1]]
    assert read_front(Run.open(tmp_path)).best == read_front(Run.open(run[0])).best


# -- from files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, each in (
        ("near-fp32", measured("fp32")),
        ("near-int8", measured("int8", 0.5, dialect="ort", int8_instructions="none")),
        ("near-int8-vnni", measured("int8", 0.3, dialect="ort", int8_instructions="avx512_vnni")),
        ("far", predictor()),
    ):
        each.save(folder / f"{name}.predictor.json")
    return folder


def named(files, *names):
    return read_boards([files / f"{name}.predictor.json" for name in names], ["latency_ms"])


def names_of(boards, *targets, name_boards=False):
    limits = [{"latency_ms": target} for target in targets]
    return [budget.name for budget in make_budgets(boards, limits, name_boards=name_boards)]


def test_predictors_that_differ_in_the_precision_alone_are_of_one_board(files):
    boards = named(files, "near-fp32", "near-int8")

    assert [(board.name, board.precision) for board in boards] == [("near", "fp32"), ("near", "int8")]
    assert names_of(boards, 8.0, 10.0) == ["fp32-8ms", "fp32-10ms", "int8-8ms", "int8-10ms"]
    found = make_budgets(boards, [{"latency_ms": 8.0}], name_boards=False)
    assert found[0].question == found[1].question
    assert [budget.arithmetic for budget in found] == [FP32, ORT]


def test_one_precision_is_not_named_and_several_boards_are(files):
    assert names_of(named(files, "near-int8"), 8.0) == ["8ms"]
    boards = named(files, "near-fp32", "near-int8", "far")
    assert names_of(boards, 8.0, name_boards=True) == ["near-fp32-8ms", "near-int8-8ms", "far-8ms"]


def test_two_predictors_of_one_precision_and_metric_are_refused(files):
    with pytest.raises(PredictorError, match="a second predictor of latency_ms"):
        named(files, "near-fp32", "near-int8", "near-int8")
    with pytest.raises(PredictorError, match="two predictors of int8 of one board differ in its int8 instructions"):
        named(files, "near-int8", "near-int8-vnni")


def test_named_precisions_are_selected_and_one_without_predictor_is_refused(files):
    boards = named(files, "near-fp32", "near-int8")

    assert [each.precision for each in select_precisions(boards, ["int8"])] == ["int8"]
    assert select_precisions(boards, []) == boards
    with pytest.raises(PredictorError, match="near has no predictor of fp16; predictors: fp32, int8") as caught:
        select_precisions(boards, ["fp16", "int8"])
    assert "--precision fp16" in caught.value.hint
    with pytest.raises(PredictorError, match="a precision that its file does not name"):
        select_precisions(named(files, "far"), ["fp32"])


def test_a_host_yields_a_table_for_every_precision(tmp_path):
    from tests.predictor.boards import profile, small_space

    asked = []

    def complete(host, of, precision):
        asked.append((host, precision))
        return profile(
            tmp_path / f"{precision}.lut.jsonl", of, fingerprint={"board": "nano", "precision": precision or "fp32"}
        ).path

    boards = read_boards(["nano"], ["latency_ms"], small_space(), complete_table=complete, precisions=["fp32", "int8"])

    assert asked == [("nano", "fp32"), ("nano", "int8")]
    assert [(board.name, board.precision) for board in boards] == [("nano", "fp32"), ("nano", "int8")]


def test_a_run_in_two_precisions_gets_further_budgets_in_both(run):
    known = boards_of_run(run[0])

    assert names_of(merge_with_run([], known), 9.0, name_boards=True) == ["fp32-9ms", "int8-9ms"]


def test_limits_that_do_not_depend_on_the_precision_are_refused(files):
    with pytest.raises(BudgetError, match="no limit depends on the precision: params_m"):
        make_budgets(named(files, "near-fp32", "near-int8"), [{"params_m": 0.5}], name_boards=False)


def test_a_budget_that_one_precision_cannot_keep_is_left_to_the_other(files):
    """Networks take 1 to 17 ms in fp32 and half of that in int8."""
    boards = named(files, "near-fp32", "near-int8")

    kept, errors = keepable(SPACE, make_budgets(boards, [{"latency_ms": 0.8}], name_boards=False), None)
    assert [budget.name for budget in kept] == ["int8-0.8ms"]
    assert [str(error).splitlines()[0].split(":")[0] for error in errors] == ["fp32-0.8ms"]
    with pytest.raises(InfeasibleBudgetError, match="the range is 1 to 17 ms"):
        keepable(SPACE, make_budgets(boards, [{"latency_ms": 0.4}], name_boards=False), None)


def test_a_budget_that_binds_in_one_precision_is_not_refused_in_the_other(files):
    boards = named(files, "near-fp32", "near-int8")
    between = make_budgets(boards, [{"latency_ms": 10.0}], name_boards=False)

    assert [each.budget for each in slack_constraints(between)] == ["int8-10ms"]
    assert [each.budget for each in require_binding(between)] == ["int8-10ms"]
    with pytest.raises(BudgetError, match="fp32-17ms: the budget is not binding"):
        require_binding(make_budgets(boards, [{"latency_ms": 17.0}], name_boards=False))
