"""After `verify --host a,b,c`: what the verified units say about all units of their model. docs/fleet.md"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from lightnas_edge.cli._console import info, print_result, print_table
from lightnas_edge.deploy.judge import COUNTED, computes_otherwise
from lightnas_edge.fleet.tolerance import guarantee
from lightnas_edge.records.deployment import BudgetVerdict, VerificationRecord
from lightnas_edge.records.differences import UNIT, require_equal_fingerprints
from lightnas_edge.records.fleet import FLEET_RECORD, FleetGuarantee, FleetRecord, UnitValue


def show_guarantees(
    records: Sequence[VerificationRecord], lost: Mapping[str, str], folder: Path, *, quiet: bool = False
) -> FleetRecord:
    """Print what follows for all units, one line for each budget, and write `fleet.json`.

    Args:
        lost: hosts that were not verified, with the reason.

    Raises:
        FingerprintError: the boards are of different models or states.
    """
    for other in records[1:]:
        require_equal_fingerprints(
            records[0].fingerprint,
            other.fingerprint,
            f"{records[0].host} and {other.host}",
            hint=f"their own verdicts are in {folder / 'units'}; a statement about all units needs units of one model in one state",
        )
    metrics = dict.fromkeys(budget.metric for record in records for budget in record.budgets if _is_measured(budget))
    record = FleetRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        guarantees=tuple(_guarantee(metric, records, lost) for metric in metrics),
        lost=dict(lost),
        model_sha256=records[0].model_sha256 if records else None,
        fingerprint={**records[0].fingerprint, UNIT: None} if records else None,
    )
    path = folder / FLEET_RECORD
    record.save(path)
    if quiet:
        return record
    for found in record.guarantees:
        simulated = " SIMULATED" if found.simulated else ""
        print_table(
            ["board", "unit", f"{found.metric}{simulated}", "verdict"],
            [[each.host, each.unit or "unknown", f"{each.value:.4g}", each.verdict] for each in found.units],
        )
        print_result(f"all units{simulated}: {found.reason}")
    if record.guarantees:
        info(f"assumption: {record.guarantees[0].assumption}")
    info(f"record: {path}")
    return record


def _guarantee(metric: str, records: Sequence[VerificationRecord], lost: Mapping[str, str]) -> FleetGuarantee:
    values, unusable, first = [], [], None
    for record in records:
        budget = record.budget(metric)
        if budget is not None and _is_measured(budget) and budget.value is not None:
            first = first or budget
            otherwise = computes_otherwise(record)
            if otherwise:
                unusable.append(f"{record.host}: {record.reason}")
            elif budget.interval is None and metric not in COUNTED:
                unusable.append(f"{record.host}: {budget.reason}")
            unit = record.fingerprint.get(UNIT)
            values.append(
                UnitValue(
                    host=record.host,
                    unit=unit if isinstance(unit, str) else None,
                    value=budget.value,
                    verdict="inconclusive" if otherwise else budget.verdict,
                )
            )
    assert first is not None  # the metric comes from one of the records
    simulated = any(record.simulated for record in records)
    found = guarantee(metric, first.unit, first.target, values, simulated=simulated, unusable=unusable)
    return found.model_copy(update={"reason": f"{found.reason}; not verified: {', '.join(lost)}"}) if lost else found


def _is_measured(budget: BudgetVerdict) -> bool:
    """Times, energies and memory: at most their target, and a unit's own."""
    return budget.metric.endswith(("_ms", "_mj", "_mb")) and budget.value is not None and budget.value > 0
