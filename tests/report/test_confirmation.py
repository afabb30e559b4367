"""What reports and the console say of networks that were measured before one was handed over."""

import pytest

from lightnas_edge.cli._confirm import outcome
from lightnas_edge.cli._console import with_error
from lightnas_edge.records.report import BudgetRow
from lightnas_edge.records.run import ConfirmationRecord, MeasuredMetric, MeasuredNetwork
from lightnas_edge.report.confirmation import confirmed_text
from lightnas_edge.report.summary import unverified_rows, unverified_summary

OPERATORS = ("mbconv_k3_e3", "skip")
MEASURED = MeasuredNetwork(
    operators=OPERATORS, round=1, keeps=True,
    metrics={
        "latency_ms": MeasuredMetric(
            target=0.1769, before=0.16, before_upper=0.18, measured=0.1758, standard_error=0.0002, after=0.175,
            estimate=0.17609, estimate_std=0.00012,
        )
    },
)  # fmt: skip


def record(*networks, failed=(), changed=True, measured=True, notes=()):
    return ConfirmationRecord(
        host="nano", tables=("confirm/fp32-1.lut.jsonl",), allowed=4, networks=networks, failed=failed, others=0,
        first=OPERATORS, changed=changed, measured=measured, interval_factor={"latency_ms": 0.8} if networks else {},
        predictor_sha256={}, notes=notes,
    )  # fmt: skip


def rows() -> tuple[BudgetRow, ...]:
    return unverified_rows({"latency_ms": 0.1769}, None, "not verified")


def test_a_network_that_was_measured_is_not_called_unmeasured():
    """Its predictor's bound may be beyond the budget: the measurement decides, and the summary must not say otherwise."""
    predicted = (rows()[0].model_copy(update={"predicted": 0.175}),)

    found = unverified_summary(predicted, False, None, "not available: nothing; train it", MEASURED)

    assert "as a finalist of the search measured 0.176 ms ± 0.0002" in found.found[0]
    assert "not measured" not in found.found[0]
    assert any("measured as a finalist, before it was trained" in each for each in found.certainty)
    assert "not measured" in unverified_summary(predicted, False, None, "not available: nothing; train it").found[0]


def test_where_none_could_be_measured_nothing_is_said_of_what_was_learned():
    found = record(failed=(OPERATORS,), measured=False)

    assert "networks that could not be measured are left out" in confirmed_text(found)
    assert "learned" not in confirmed_text(found) and "None of them keeps" not in confirmed_text(found)
    assert not outcome(found).rstrip().endswith(":")


def test_measured_networks_that_all_break_the_budget_are_called_that():
    broken = MEASURED.model_copy(update={"keeps": False})

    assert "None of them keeps every budget: the network that was handed over was not measured" in confirmed_text(
        record(broken, measured=False)
    )


def test_a_note_that_begins_with_a_file_keeps_its_name():
    text = confirmed_text(record(MEASURED, notes=("fp32-1.lut.jsonl: drift x1.01", "the drift is known")))

    assert "fp32-1.lut.jsonl: drift" in text and "Fp32" not in text and "The drift is known." in text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.17609, 0.00012, "0.17609 ± 0.00012"),
        (20.0, 0.5, "20.00 ± 0.50"),
        (0.5, 0.0, "0.500 ± 0.000"),
        (0.5, None, "not available"),
        (float("nan"), 0.1, "not available"),
    ],
)
def test_an_error_is_shown_with_two_figures_at_least(value, error, text):
    assert with_error(value, error) == text
