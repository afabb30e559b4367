"""Every budget that was asked gets a verdict, and the worst of them is the verdict of the whole."""

import math

import pytest

from lightnas_edge.deploy.evidence import paired_interval, wilson_interval
from lightnas_edge.deploy.judge import Evidence, Predicted, computes_otherwise, judge, result_line
from lightnas_edge.errors import BudgetError
from lightnas_edge.records.deployment import AccuracyRecord, Agreement, EnergyRecord, ThroughputEstimate
from tests.run_folders import measured, verification

ACCURACY = AccuracyRecord(
    top1=0.90, interval=(0.88, 0.92), images=1000, reference_top1=0.91, drop=0.01, drop_interval=(0.002, 0.018)
)
ENERGY = EnergyRecord(gross_mj=12.0, gross_interval_mj=(11.0, 13.0), net_mj=None, net_interval_mj=None, visits=3)


def one(asked, evidence=None, **named):
    """The only budget of a judgement."""
    (budget,) = judge(asked, evidence or Evidence(measured(0.4)), **named).budgets
    return budget


def test_a_median_below_the_budget_is_met_and_one_above_is_missed():
    assert one({"latency_ms": 0.5}).verdict == "met"
    budget = one({"latency_ms": 0.3})

    assert budget.verdict == "missed"
    assert budget.violation == pytest.approx(0.4 / 0.3 - 1, abs=0.02)
    assert "search again with this network" in budget.remedy


def test_an_interval_with_the_budget_inside_is_inconclusive_and_says_how_to_narrow_it():
    budget = one({"latency_ms": 0.4005}, Evidence(measured(0.4, spread=0.05)), command="lightnas-edge verify r")

    assert budget.verdict == "inconclusive"
    assert "contains the target" in budget.reason
    assert "`lightnas-edge verify r --rounds 80`" in budget.remedy


def test_a_throughput_is_at_least_its_budget():
    def of(per_s, interval):
        rate = ThroughputEstimate(per_s=per_s, interval_per_s=interval)
        return Evidence(measured(0.4).model_copy(update={"throughput": rate}))

    met, missed = (one({"throughput_per_s": 60.0}, of(*rate)) for rate in ((70.0, (65.0, 75.0)), (50.0, (45.0, 55.0))))
    few = one({"throughput_per_s": 60.0}, of(70.0, None), command="lightnas-edge verify r")

    assert (met.verdict, missed.verdict, few.verdict) == ("met", "missed", "inconclusive")
    assert missed.violation == pytest.approx(60 / 50 - 1) and "--streams" in missed.remedy
    assert few.remedy == "measure again with more rounds: `lightnas-edge verify r --rounds 80`"


def test_each_statistic_is_judged_by_itself():
    """One inference in ten takes twice as long: the median keeps what the 95th percentile does not."""
    rounds = 80
    samples = tuple((0.4,) * 9 + (0.8,) for _ in range(rounds))
    slow = measured(0.4, rounds=rounds)
    import numpy as np

    import luts
    from lightnas_edge.deploy.evidence import measured_latency

    visits = tuple(
        luts.Visit(key="net-0", session="00", round=i, repeats=1, samples_ms=row, architecture={"kind": "architecture"})
        for i, row in enumerate(samples)
    )
    slow = measured_latency(luts.Entry("net-0", visits, (1.0,) * rounds))
    judgement = judge({"latency_ms": 0.5, "p95_ms": 0.5}, Evidence(slow))

    assert [each.verdict for each in judgement.budgets] == ["met", "missed"]
    assert judgement.verdict == "missed"
    assert judgement.reason.startswith("p95") or "p95" in judgement.reason or "beyond" in judgement.reason
    assert np.isclose(slow.mean.latency_ms, 0.44)


def test_too_few_rounds_for_a_statistic_are_refused_with_the_number_that_it_needs():
    budget = one({"p99_ms": 5.0}, Evidence(measured(0.4, rounds=40)))

    assert budget.verdict == "inconclusive"
    assert "only 40 rounds" in budget.reason
    assert "--rounds 4" in budget.remedy  # four hundred and more


def test_a_missed_model_file_gets_a_command_that_can_be_copied():
    command = "lightnas-edge verify --model 'my net.onnx' --host jetson.local"
    found = judge({"latency_ms": 0.5}, Evidence(measured(0.6)), command=command)

    assert found.verdict == "missed"
    assert found.remedy.startswith(
        "`profile-device --model 'my net.onnx' --host jetson.local` shows the slowest layers"
    )


def test_a_missed_precision_of_a_model_file_gets_the_command_that_times_its_layers():
    command = (
        "lightnas-edge precision --model net.onnx --host localhost --shape images:1x3x8x8 --cuda-graph --precision fp16,int8 "
        "--data 'my images' --calibrate train"
    )
    found = judge({"latency_ms": 0.5}, Evidence(measured(0.6)), command=command)

    profile = "profile-device --model net.onnx --host localhost --shape images:1x3x8x8 --cuda-graph"
    assert found.remedy.startswith(f"`{profile}` shows the slowest layers")


def test_the_command_that_times_the_layers_is_of_the_same_engine_and_state():
    command = (
        "lightnas-edge verify --model net.onnx --host orin --precision fp16 --lock-clocks --power-mode 15W --energy"
    )
    found = judge({"latency_ms": 0.5}, Evidence(measured(0.6)), command=command)

    profile = "profile-device --model net.onnx --host orin --precision fp16 --power-mode 15W --lock-clocks"
    assert found.remedy.startswith(f"`{profile}` shows the slowest layers")


def test_noise_beyond_the_limit_makes_a_miss_inconclusive():
    """Other work on the machine, not the network, may have caused it; the check needs no table."""
    noisy = measured(0.55).model_copy(update={"noise": 0.5})

    budget = one({"latency_ms": 0.5}, Evidence(noisy))

    assert budget.verdict == "inconclusive"
    assert "unstable host" in budget.reason
    assert one({"latency_ms": 0.3}, Evidence(noisy)).verdict == "missed"  # slow without the other work too


def test_what_was_not_measured_is_not_judged_and_keeps_the_whole_from_being_met():
    judgement = judge(
        {"latency_ms": 0.5, "energy_mj": 40.0}, Evidence(measured(0.4), why_not={"energy_mj": "no power sensor"})
    )

    assert [each.verdict for each in judgement.budgets] == ["met", "not judged"]
    assert judgement.verdict == "inconclusive"
    assert judgement.reason == "energy: no power sensor"


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        ({"energy_mj": 14.0}, "met"),
        ({"energy_mj": 12.5}, "inconclusive"),
        ({"energy_mj": 10.0}, "missed"),
        ({"net_energy_mj": 10.0}, "not judged"),
        ({"accuracy": 0.87}, "met"),
        ({"accuracy": 0.90}, "inconclusive"),
        ({"accuracy": 0.95}, "missed"),
        ({"accuracy_drop": 0.02}, "met"),
        ({"accuracy_drop": 0.01}, "inconclusive"),
        ({"accuracy_drop": 0.001}, "missed"),
        ({"params_m": 1.5}, "met"),
        ({"params_m": 1.4}, "missed"),
        ({"macs_m": 20.0}, "met"),
        ({"peak_memory_mb": 8.0}, "not judged"),
    ],
)
def test_every_kind_of_budget(asked, verdict):
    evidence = Evidence(measured(0.4), energy=ENERGY, accuracy=ACCURACY, params_m=1.5, macs_m=20.0)

    assert one(asked, evidence).verdict == verdict


def test_an_accuracy_below_the_minimum_has_a_violation_above_zero():
    assert one({"accuracy": 0.95}, Evidence(measured(), accuracy=ACCURACY)).violation == pytest.approx(0.95 / 0.9 - 1)


def test_a_network_that_computes_something_else_keeps_no_budget():
    wrong = Agreement(images=10, max_abs_difference=1.0, relative_difference=1.0, cosine=0.5, top1_agreement=0.1)

    judgement = judge({"latency_ms": 0.5}, Evidence(measured(0.4)), agreement=wrong)

    assert judgement.verdict == "inconclusive"
    assert "does not compute what the reference does" in judgement.reason


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_is_a_positive_number(target):
    with pytest.raises(BudgetError, match="positive number"):
        judge({"latency_ms": target}, Evidence(measured()))


def test_an_unknown_budget_is_named():
    with pytest.raises(BudgetError, match="no such budget: 'latncy_ms'"):
        judge({"latncy_ms": 1.0}, Evidence(measured()))


def test_the_result_line_holds_every_statistic_and_every_budget():
    evidence = Evidence(
        measured(8.6, rounds=100), predicted={"latency_ms": Predicted(8.4, (8.0, 8.8))}, accuracy=ACCURACY
    )

    line = result_line(verification({"latency_ms": 9.0, "p95_ms": 8.0, "accuracy": 0.87}, evidence))

    assert line.startswith("measured p50 8.6")
    for part in ("mean 8.", "p95 8.", "p99 8.", "n=1000 inferences", "predicted 8.40", "at most 9.00: met"):
        assert part in line
    assert "p95 latency" in line and "at most 8.00: missed by" in line
    assert "top-1 accuracy 90.0 % (88.0 % to 92.0 %), at least 87.0 %: met" in line


def test_a_simulated_result_never_says_measured():
    line = result_line(verification(simulated=True))

    assert line.startswith("SIMULATED p50")
    assert "measured" not in line


def test_means_of_several_inferences_are_called_so():
    line = result_line(verification(evidence=Evidence(measured(0.4, inferences_per_sample=4))))

    assert "means of 4" in line


def test_an_uncertainty_is_never_printed_as_zero():
    assert "± 0.001 ms" in result_line(verification(evidence=Evidence(measured(0.4, spread=0.0))))


def test_the_intervals_of_shares():
    """Wilson: 90 of 100. Paired: 10 lost and none gained of 1000; no difference in 100 images may still be one of 3 %."""
    assert wilson_interval(90, 100, 1.96) == pytest.approx((0.8256, 0.9448), abs=1e-3)
    low, high = paired_interval(10, 0, 1000, 1.96)
    assert 0.003 < low < 0.01 < high < 0.017
    assert paired_interval(0, 0, 100, 1.96)[1] == pytest.approx(0.0192, abs=1e-3)


def test_a_network_that_crashed_or_hung_in_a_visit_keeps_no_budget_of_time():
    """The visits that ended are the fast ones: a hang is an inference of minutes."""
    evidence = Evidence(measured(0.4), params_m=1.5, failed="2 of 42 visits failed: timeout: no answer in 120 s")

    budget = one({"latency_ms": 0.5}, evidence)

    assert budget.verdict == "inconclusive"
    assert budget.reason.startswith("2 of 42 visits failed: timeout")
    assert one({"latency_ms": 0.3}, evidence).verdict == "missed"
    assert one({"params_m": 2.0}, evidence).verdict == "met"


def test_an_engine_that_computes_something_else_is_named_in_the_line_though_a_budget_is_undecided():
    wrong = Agreement(images=4, max_abs_difference=2.0, relative_difference=1.0, cosine=-0.7, top1_agreement=0.0)
    record = verification(
        {"latency_ms": 0.5, "p99_ms": 0.9}, outputs=wrong, verdict="inconclusive", reason="it computes something else"
    )

    assert "it computes something else" in result_line(record)
    assert computes_otherwise(record) and not computes_otherwise(verification())
