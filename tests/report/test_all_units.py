"""What several verified units say about all units of their model, in the report of a run."""

import pytest

from lightnas_edge.fleet.tolerance import guarantee
from lightnas_edge.records.fleet import FLEET_RECORD, FleetRecord, UnitValue
from lightnas_edge.records.report import ReportRecord
from lightnas_edge.report import build_report
from lightnas_edge.runs import Run

TARGET_MS = 0.9


def write_fleet(folder, values_ms, *, target_ms=TARGET_MS, **changed):
    """As `verify --host a,b,c` leaves it."""
    check = Run.open(folder).verification
    units = [
        UnitValue(host=f"orin{number}", unit=f"{number}" * 12, value=value, verdict="met")
        for number, value in enumerate(values_ms, 1)
    ]
    about = {"model_sha256": check.model_sha256, "fingerprint": {**check.fingerprint, "unit": None}, **changed}
    found = guarantee("latency_ms", "ms", target_ms, units)
    record = FleetRecord(created=check.created, guarantees=(found,), lost={}, **about)
    record.save(folder / "verify" / FLEET_RECORD)


def report_of(folder):
    """(record, all three formats as one text)"""
    report = build_report(folder)
    texts = [path.read_text() for path in (report.html, report.markdown)]
    return ReportRecord.model_validate_json(report.json.read_bytes()), texts


def test_the_report_states_that_95_percent_of_units_keep_the_budget_with_the_units_behind_it(run_folder):
    write_fleet(run_folder, (0.846, 0.848, 0.845))

    record, texts = report_of(run_folder)

    (found,) = record.guarantees
    assert found.verdict == "kept" and len(found.units) == 3
    assert any(
        text.startswith("All units of this model: 95 % of units keep 0.9 ms: ") for text in record.summary.certainty
    )
    for text in texts:
        assert "95 % of units keep 0.9 ms" in text and "at 90 % confidence, 3 units" in text
        assert "lognormal" in text and "orin3" in text and "333333333333" in text


def test_below_three_units_the_guarantee_is_not_available(run_folder):
    alone, _ = report_of(run_folder)
    assert any("all units of this model takes 3 verified units" in text for text in alone.summary.certainty)
    write_fleet(run_folder, (0.846, 0.848))

    record, texts = report_of(run_folder)

    assert record.guarantees[0].verdict == "not available"
    for text in texts:
        assert "not available: 2 units verified, at least 3 are needed" in text


@pytest.mark.parametrize("changed", [{"model_sha256": "0" * 64}, {"fingerprint": {"board": "another"}}])
def test_what_units_said_of_another_file_or_state_is_left_out_and_named(run_folder, changed):
    write_fleet(run_folder, (0.846, 0.848, 0.845), **changed)

    record, _ = report_of(run_folder)

    assert record.guarantees == ()
    assert "another file or state" in record.missing["all units"] and "verify " in record.missing["all units"]
    assert not any("takes 3 verified units" in text for text in record.summary.certainty)


def test_of_a_record_of_an_earlier_version_it_is_not_known_what_its_units_measured(run_folder):
    write_fleet(run_folder, (0.846, 0.848, 0.845), model_sha256=None, fingerprint=None)

    record, texts = report_of(run_folder)

    assert record.guarantees == ()
    assert "is of an earlier version and does not say which file its units measured" in record.missing["all units"]
    assert "another file or state" not in record.missing["all units"]
    assert any("All units of this model: not available: " in text for text in record.summary.certainty)
    for text in texts:
        assert "does not say which file its units measured" in text and "takes 3 verified units" not in text


def test_where_no_unit_was_verified_nothing_is_said_of_the_record(run_folder):
    check = Run.open(run_folder).verification
    lost = FleetRecord(created=check.created, guarantees=(), lost={"orin1": "out of reach", "orin2": "out of reach"})
    lost.save(run_folder / "verify" / FLEET_RECORD)

    record, _ = report_of(run_folder)

    assert "all units" not in record.missing
    assert any("takes 3 verified units" in text for text in record.summary.certainty)


def test_what_units_said_of_another_budget_is_left_out(run_folder):
    write_fleet(run_folder, (0.846, 0.848, 0.845), target_ms=5.0)

    record, _ = report_of(run_folder)

    assert record.guarantees == () and "all units" not in record.missing
    assert any("none of these budgets was judged on several units" in text for text in record.summary.certainty)
