import numpy as np
import pytest

from lightnas_edge.deploy import evidence
from lightnas_edge.deploy.compare_verifications import compare_verifications, read_verification
from lightnas_edge.deploy.judge import Evidence
from lightnas_edge.errors import VerifyError
from lightnas_edge.records.comparison import ComparisonReport
from lightnas_edge.records.deployment import (
    AccuracyRecord,
    ComparisonRecord,
    DriftRecord,
    EnergyRecord,
    LatencyEstimate,
)
from tests.run_folders import measured, verification


def of_latency(median_ms, *, seed=0, spread=0.002, rounds=60, **changed):
    found = Evidence(measured(median_ms, seed=seed, spread=spread, rounds=rounds))
    return verification({"latency_ms": 0.5}, found, **changed)


def change(report, metric="latency_ms"):
    return next(each for each in report.changes if each.metric == metric)


def test_a_change_of_ten_per_cent_is_more_than_day_to_day_differences():
    report = compare_verifications(of_latency(0.4), of_latency(0.44, seed=1))

    found = change(report)
    assert found.finding == "worse"
    assert found.interval[0] < 1.1 < found.interval[1]
    assert "p50 latency rose by" in report.findings[0]
    assert ComparisonReport.parse(report.model_dump_json(), "again") == report


def test_a_faster_network_is_better():
    assert change(compare_verifications(of_latency(0.44), of_latency(0.4, seed=1))).finding == "better"


def test_one_per_cent_beyond_the_noise_is_within_day_to_day_differences():
    report = compare_verifications(of_latency(0.4), of_latency(0.404))

    assert change(report).interval[0] > 1
    assert change(report).finding == "within day-to-day differences"


def test_the_same_samples_are_within_noise():
    assert change(compare_verifications(of_latency(0.4), of_latency(0.4))).finding == "within noise"


def test_without_enough_rounds_nobody_knows_whether_it_is_noise():
    report = compare_verifications(of_latency(0.4, rounds=2), of_latency(0.48, rounds=2))

    assert change(report).finding == "unknown"
    assert "more rounds" in report.remedy


def test_simulated_and_measured_numbers_are_not_compared():
    with pytest.raises(VerifyError, match="SIMULATED"):
        compare_verifications(of_latency(0.4), of_latency(0.4, simulated=True))


def test_a_slower_machine_is_another_finding_than_a_slower_network():
    def drifted(median_ms, ratio):
        drift = DriftRecord(ratio=ratio, interval=(ratio, ratio), confidence=0.95, sentinels={"a": ratio, "b": ratio})
        estimate = LatencyEstimate(latency_ms=median_ms, interval_ms=None)
        compared = ComparisonRecord(
            metric="latency_ms", predicted=estimate, corrected=None, drift=drift, day_deviation=None, gap=0.0
        )
        return of_latency(median_ms, comparison=compared, table_sha256="1" * 64)

    report = compare_verifications(drifted(0.4, 1.0), drifted(0.44, 1.1))

    assert report.machine.ratio == pytest.approx(1.1)
    assert report.machine.network_ratio == pytest.approx(1.0)
    assert "whole machine is slower" in report.remedy


def test_accuracy_is_compared_on_the_same_images_only():
    score = AccuracyRecord(
        top1=0.9, interval=(0.88, 0.92), images=1000, reference_top1=0.9, drop=0.0, drop_interval=(-0.01, 0.01)
    )
    worse = score.model_copy(update={"top1": 0.8, "interval": (0.78, 0.82)})

    same = compare_verifications(of_latency(0.4, accuracy=score), of_latency(0.4, accuracy=worse))
    other = compare_verifications(
        of_latency(0.4, accuracy=score), of_latency(0.4, accuracy=worse, data_sha256="2" * 64)
    )

    assert change(same, "accuracy").finding == "worse"
    assert all(each.metric != "accuracy" for each in other.changes)
    assert any("same images" in text for text in other.not_compared)


def test_accuracy_on_the_same_images_is_compared_image_by_image():
    """20 of 1000 images are lost and none gained: certain when paired, within noise as two independent shares."""
    rng = np.random.default_rng(0)
    labels, inputs = np.zeros(1000, dtype=np.int64), rng.standard_normal((1000, 4), dtype=np.float32)

    def score(wrong, inputs=inputs):
        outputs = np.tile(np.float32([1, 0]), (1000, 1))
        outputs[:wrong] = [0, 1]
        return evidence.accuracy(labels, outputs, outputs, inputs=inputs)

    def compared(old, new):
        return change(compare_verifications(of_latency(0.4, accuracy=old), of_latency(0.4, accuracy=new)), "accuracy")

    paired, apart = compared(score(100), score(120)), compared(score(100, None), score(120, None))

    assert len(score(100).right) == 250
    assert (paired.finding, apart.finding) == ("worse", "within noise")
    assert paired.interval[0] < -0.02 < paired.interval[1] < 0
    cut = score(120).model_copy(update={"right": "ff"})
    assert compared(score(100), cut).interval == apart.interval, "a record that does not say it of every image"


def test_peak_memory_has_no_interval_and_says_why():
    report = compare_verifications(of_latency(0.4, peak_memory_mb=10.0), of_latency(0.4, peak_memory_mb=11.0))

    (line,) = [text for text in report.findings if text.startswith("peak memory")]
    assert line.endswith("the runtime counts it once, so that it has no interval")


def of_energy(net_mj, *, gross_mj=8.0):
    interval = None if net_mj is None else (net_mj - 0.02, net_mj + 0.02)
    return of_latency(0.4, energy=EnergyRecord(
        gross_mj=gross_mj, gross_interval_mj=(gross_mj - 0.1, gross_mj + 0.1), net_mj=net_mj, net_interval_mj=interval, visits=5
    ))  # fmt: skip


def test_net_energy_is_compared_where_both_verifications_have_it():
    """The idle board's part hides in the gross energy what the network itself needs more."""
    report = compare_verifications(of_energy(2.0), of_energy(3.0, gross_mj=8.1))

    assert change(report, "energy_mj").finding in ("within noise", "within day-to-day differences")
    found = change(report, "net_energy_mj")
    assert found.ratio == pytest.approx(1.5) and found.finding == "worse"
    assert any(text.startswith("net energy rose by 50.0 %") for text in report.findings)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [(None, 2.0, "only one verification has it"), (2.0, -0.1, "of one verification it is not above that of the idle board")],
)  # fmt: skip
def test_net_energy_that_cannot_be_compared_is_named(old, new, reason):
    report = compare_verifications(of_energy(old), of_energy(new))

    assert f"net energy: {reason}" in report.not_compared
    assert "net_energy_mj" not in {each.metric for each in report.changes}


def test_verifications_without_net_energy_do_not_mention_it():
    report = compare_verifications(of_energy(None), of_energy(None))

    assert not any("net energy" in text for text in (*report.not_compared, *report.findings))


def test_a_budget_that_is_lost_and_what_differs_of_the_board_are_named():
    old = of_latency(0.4, fingerprint={"jetpack": "6.0"})
    new = of_latency(0.6, fingerprint={"jetpack": "6.1"}, model_sha256="3" * 64)
    report = compare_verifications(old, new)

    assert (report.budgets[0].old, report.budgets[0].new) == ("met", "missed")
    assert report.budgets[0].headroom == pytest.approx(-0.2, abs=0.01)
    assert report.differences == ("jetpack '6.0' and '6.1'",)
    assert not report.same_network


@pytest.mark.parametrize("place", [".", "verify"])
def test_a_folder_is_read_through_its_verification(tmp_path, place):
    record = of_latency(0.4)
    (tmp_path / place).mkdir(exist_ok=True)
    record.save(tmp_path / place / "verification.json")

    assert read_verification(tmp_path) == record


def test_a_folder_without_a_verification_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(VerifyError, match=r"holds no verification\.json") as caught:
        read_verification(tmp_path)
    assert "run directory" in caught.value.hint
