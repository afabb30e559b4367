"""Which precision is deployed: invented latencies and answers, and rules that a reader can check by hand."""

import numpy as np
import pytest

from lightnas_edge.deploy.choose_precision import Contender, accuracy_difference, choose, speedup
from lightnas_edge.deploy.judge import Evidence
from tests import run_folders

FP32_MS = (1.00, 1.02, 0.98, 1.01)
TARGET = {"latency_ms": 1.2}


def right(count: int, wrong: int, first: int = 0) -> np.ndarray:
    """All images but `wrong` ones, from `first` on, are classified as labelled."""
    found = np.ones(count, dtype=bool)
    found[first : first + wrong] = False
    return found


def contender(precision: str, speed: float = 1.0, answers: np.ndarray | None = None, **changed: object) -> Contender:
    """`speed`: times as fast as fp32, in every pass."""
    ms = 1.0 / speed
    record = run_folders.verification(TARGET, Evidence(run_folders.measured(ms)), precision=precision, **changed)
    return Contender(precision, record, tuple(each / speed for each in FP32_MS), answers)


def test_of_equally_accurate_precisions_the_fastest_is_deployed():
    """Two of 1000 answers differ, one in each direction."""
    floats = contender("fp32", answers=right(1000, 10))
    half = contender("fp16", 1.5, right(1000, 10, 1))
    eight = contender("int8", 1.8, right(1000, 10, 2))

    found = choose([floats, half, eight])

    assert found.precision == "int8"
    assert "of fp32, fp16 and int8 none differs significantly in accuracy from the best, fp32 (n=1000)" in found.reason
    assert "1.20x (1.20 to 1.20) the speed of fp16" in found.reason


def test_the_gain_over_every_precision_that_was_passed_over_is_that_of_the_chosen_one():
    """int8 is 2.00x as fast as fp32; the 1.50x are those of fp16."""
    found = choose([contender("fp32"), contender("fp16", 1.5), contender("int8", 2.0)])

    assert "int8 has 2.00x (2.00 to 2.00) the speed of fp32; int8 has 1.33x (1.33 to 1.33) the speed of fp16" in (
        found.reason
    )
    assert "1.50x" not in found.reason


def test_what_is_not_faster_is_compared_with_a_precision_that_is_named():
    found = choose([contender("fp32"), contender("fp16"), contender("int8", 2.0)])

    assert "fp16 is not measurably faster than fp32 (1.00x (1.00 to 1.00) its speed); int8 has 2.00x" in found.reason


def test_a_precision_that_loses_accuracy_is_not_deployed_however_fast_it_is():
    floats = contender("fp32", answers=right(1000, 10))
    eight = contender("int8", 3.0, right(1000, 60))

    found = choose([floats, eight])

    assert found.precision == "fp32"
    assert "int8 is less accurate than fp32: -5.0 percentage points" in found.reason


def test_accuracy_decides_only_among_those_that_keep_every_budget():
    """fp32 takes 1.5 ms of 1.2 ms: the less accurate int8 is all that remains."""
    floats = Contender(
        "fp32", run_folders.verification(TARGET, Evidence(run_folders.measured(1.5))), (1.5,) * 4, right(1000, 10)
    )
    eight = contender("int8", 2.0, right(1000, 60))

    found = choose([floats, eight])

    assert found.precision == "int8"
    assert "only precision that is shown to keep all budgets" in found.reason
    assert "fp32: p50 latency is missed" in found.reason


def test_where_none_keeps_the_budgets_none_is_deployed():
    slow = [
        Contender(name, run_folders.verification(TARGET, Evidence(run_folders.measured(2.0))), (2.0,) * 4, None)
        for name in ("fp32", "int8")
    ]

    found = choose(slow)

    assert found.precision is None
    assert found.reason.startswith("no precision is shown to keep all budgets: fp32: p50 latency is missed; int8: ")


def test_int8_that_is_slower_is_found_and_reported_with_what_is_known_of_the_cause():
    floats = contender("fp32", answers=right(1000, 10))
    eight = contender(
        "int8", 1 / 1.12, right(1000, 10), ran_in={"int8": 18, "fp32": 3}, fell_back=("a", "b", "c"),
        fingerprint={"int8_instructions": "none"},
    )  # fmt: skip

    found = choose([floats, eight])

    assert found.precision == "fp32"
    assert "int8 is not measurably faster" in found.reason
    (slower,) = (finding for finding in found.findings if "slower than" in finding)
    assert slower.startswith("int8 is slower than fp32 here: 1.12x (1.12 to 1.12) the latency; possible causes: ")
    assert "3 layers ran in more bits" in slower
    assert "this CPU has no instructions for int8 products" in slower
    assert "int8: 3 of 21 convolutions and matrix products ran in more bits than int8" in found.findings


def test_a_cause_that_is_not_known_is_not_invented():
    eight = contender("int8", 0.8, ran_in={"int8": 21}, fell_back=(), fingerprint={"int8_instructions": "avx512_vnni"})

    (slower, *_) = choose([contender("fp32"), eight]).findings[1:]

    assert "because" not in slower
    assert "no layer fell back; `profile-device --model FILE --precision int8`" in slower


def test_a_gain_within_the_error_is_no_reason_for_fewer_bits():
    floats = contender("fp32", answers=right(1000, 10))
    eight = contender("int8", answers=right(1000, 10))
    eight = Contender("int8", eight.record, (0.90, 1.10, 0.85, 1.05), eight.right)

    found = choose([floats, eight])

    assert found.precision == "fp32"
    assert any(finding.startswith("int8 is not measurably faster than fp32 here") for finding in found.findings)


def test_without_labelled_images_the_accuracy_is_named_as_unknown():
    found = choose([contender("fp32"), contender("int8", 2.0)])

    assert found.precision == "int8"
    assert "accuracy is not known for fp32 and int8" in found.reason
    assert "int8: accuracy is not known, no labelled images were scored" in found.findings


def test_one_unknown_accuracy_does_not_stop_the_comparison_of_the_others():
    """int8 is the fastest and loses 5 points; fp16 was not scored."""
    floats = contender("fp32", answers=right(1000, 10))
    eight = contender("int8", 3.0, right(1000, 60))

    found = choose([floats, contender("fp16", 1.5), eight])

    assert found.precision == "fp16"
    assert "int8 is less accurate than fp32: -5.0 percentage points" in found.reason
    assert "accuracy is not known for fp16" in found.reason


def test_the_ratio_is_taken_within_each_pass():
    """The machine is twice as slow in the last two passes; the ratio is 1.25 in all of them."""
    gain = speedup((0.8, 0.8, 1.6, 1.6), (1.0, 1.0, 2.0, 2.0))

    assert gain.ratio == pytest.approx(1.25)
    assert gain.interval == pytest.approx((1.25, 1.25))


def test_two_passes_give_a_ratio_without_an_interval():
    gain = speedup((0.8, 0.8), (1.0, 1.0))

    assert (gain.ratio, gain.interval) == (pytest.approx(1.25), None)


def test_a_pass_that_lacks_one_side_is_left_out_of_the_ratio():
    """Only the second and the third pass have both; a median in place of the missing ones would narrow the interval."""
    gain = speedup((None, 0.5, 0.8, 0.9), (1.0, 1.0, 1.0, None))

    assert gain.ratio == pytest.approx((2.0 * 1.25) ** 0.5)
    assert gain.interval is None


def test_precisions_without_a_common_pass_are_not_compared_in_speed():
    floats, eight = contender("fp32"), contender("int8", 2.0)
    floats = Contender("fp32", floats.record, (1.0, None), None)
    eight = Contender("int8", eight.record, (None, 0.5), None)

    found = choose([floats, eight])

    assert speedup(eight.passes_ms, floats.passes_ms) is None
    assert found.precision == "fp32"
    assert "int8 is not measurably faster than fp32 (no pass has both)" in found.reason
    assert "int8 is not compared in speed with fp32: no pass has both" in found.findings


def test_the_difference_in_accuracy_is_paired():
    """Both err on 100 of 1000 images: independent, the interval would be 5.3 points wide. They differ on two."""
    same = accuracy_difference(right(1000, 100), right(1000, 100, 1))
    apart = accuracy_difference(right(1000, 100), right(1000, 100, 500))

    assert same.difference == apart.difference == 0.0
    assert same.interval[1] - same.interval[0] < 0.008
    assert apart.interval[1] - apart.interval[0] > 0.05


def test_what_is_lost_is_below_zero():
    lost = accuracy_difference(right(1000, 30), right(1000, 10))

    assert lost.difference == pytest.approx(-0.02)
    assert lost.interval[0] < -0.02 < lost.interval[1] < 0
