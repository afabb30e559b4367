"""From a run directory, or a verification of a model file, to `report.html`, `report.md` and `report.json`: one content,
three formats.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lightnas_edge._version import __version__
from lightnas_edge.deploy import result_line
from lightnas_edge.errors import ArchitectureError, PredictorError
from lightnas_edge.files import finite, write_atomic, write_json
from lightnas_edge.predictor.files import predictor_from_record
from lightnas_edge.records.base import Fingerprint
from lightnas_edge.records.deployment import VerificationRecord
from lightnas_edge.records.fleet import FleetGuarantee, FleetRecord
from lightnas_edge.records.html_table import html_table
from lightnas_edge.records.model_profile import ModelProfileRecord
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.records.predictor import COMPONENTS
from lightnas_edge.records.report import (
    Budget,
    BudgetRow,
    NetworkReport,
    NetworkRow,
    PredictorReport,
    Provenance,
    QuestionReport,
    ReportRecord,
    SummaryReport,
    TableReport,
    Target,
)
from lightnas_edge.report import summary, wording
from lightnas_edge.report.choice import why_chosen
from lightnas_edge.report.confirmation import confirmed_text
from lightnas_edge.report.junit import network_name
from lightnas_edge.report.networks import network_rows, networks_line, networks_summary, networks_verdict
from lightnas_edge.report.plots import run_plots, verification_plots
from lightnas_edge.report.rendering import environment
from lightnas_edge.report.snapshot import RunSnapshot, read_snapshot
from lightnas_edge.runs import Run


@dataclass(frozen=True)
class Report:
    """Where the report was written, and what it lacks."""

    html: Path
    markdown: Path
    json: Path
    line: str  # the result in one line
    missing: dict[str, str]

    def _repr_html_(self) -> str:
        return html_table(f"report: {self.html}", (), list(self.missing.items()), note=self.line)


@dataclass(frozen=True)
class AllReports:
    """Of a search with several networks: the overview, and a report of each."""

    overview: Report
    networks: dict[str, Report]  # by folder name


def build_report(run_dir: Path) -> Report:
    """Write the report of a run. It names the parts of the run that are missing, damaged or made from other files.

    Raises:
        RunError: the folder is no run directory.
        SpaceError: the space of the run is none.
        OSError: the report cannot be written.
    """
    snapshot = read_snapshot(run_dir)
    plots = run_plots(snapshot)  # before the record, which names those that failed
    record = _run_record(snapshot)
    values = {"steps": snapshot.search, "epochs": snapshot.epochs, "simulated_table": snapshot.simulated_prediction}
    return _write(run_dir, record, plots, values)


def build_all_reports(run_dir: Path) -> AllReports:
    """Write the report of every network of a search, then that of the search, which links to them.

    Raises:
        RunError, SpaceError, OSError: as `build_report`.
    """
    run = Run.open(run_dir)
    networks = {each.folder.name: build_report(each.folder) for each in run.networks}
    return AllReports(build_report(run_dir), networks)


def build_verification_report(
    record: VerificationRecord,
    folder: Path,
    profile: ModelProfileRecord | None = None,
    fleet: FleetRecord | None = None,
) -> Report:
    """Write the report of a model file that was verified without a run directory.

    Args:
        profile: the layers of the same model; one of another model is named and not shown.
        fleet: what this and other units say about all units of their model.

    Raises:
        OSError: the report cannot be written.
    """
    missing: dict[str, str] = {}
    if profile is not None and (profile.model is None or profile.model.sha256 != record.model_sha256):
        missing["layers"] = "not available: the profile is of another model; profile the file that was verified"
        profile = None
    plots = verification_plots(record, missing)
    values = {"steps": None, "epochs": (), "simulated_table": record.simulated}
    guarantees = fleet.of_budgets(record) if fleet else ()
    return _write(folder, _verification_record(record, profile, guarantees, missing), plots, values)


def _write(folder: Path, record: ReportRecord, plots: Mapping[str, Markup], values: Mapping[str, Any]) -> Report:
    values = {
        **values, "report": record, "components": COMPONENTS, "sampled": summary.sampled,
        "sustained_text": summary.sustained_text, "why_chosen": why_chosen, "confirmed_text": confirmed_text,
        "scored_columns": _scored_columns,
    }  # fmt: skip
    page = environment(html_page=True).get_template("report.html")
    text = environment(html_page=False).get_template("report.md")
    paths = {suffix: folder / f"report.{suffix}" for suffix in ("html", "md", "json")}
    write_atomic(paths["html"], page.render(plots=plots, **values))
    write_atomic(paths["md"], text.render(**values))
    write_json(paths["json"], finite(record.to_json()))
    return Report(paths["html"], paths["md"], paths["json"], record.line, dict(record.missing))


def _verification_record(
    check: VerificationRecord,
    profile: ModelProfileRecord | None,
    guarantees: tuple[FleetGuarantee, ...],
    missing: dict[str, str],
) -> ReportRecord:
    """Everything that the page of a model file shows but the plots."""
    rows = summary.budget_rows(check, {})
    file = network_name(check)
    warnings = tuple(clean_text(text) for text in check.warnings)
    return ReportRecord(
        version=__version__,
        run=None,
        title=f"{file} on {_board(check.fingerprint, check.host)}",
        verdict=check.verdict,
        line=clean_text(result_line(check)),
        simulated=check.simulated,
        summary=summary.verified_summary(check, rows, _where(check), len(warnings), file, guarantees=guarantees),
        verdicts=rows,
        statistics=summary.statistic_rows(check.measured, rows),
        networks=(),
        question=None,
        network=None,
        refined=None,
        confidence=check.confidence,
        budgets=(),
        choice=None,
        front=(),
        predictor=None,
        training=None,
        export=None,
        verification=check,
        guarantees=guarantees,
        precision=None,
        profile=profile,
        provenance=Provenance(
            fingerprint=dict(check.fingerprint), table=None, config=None, written_by=None, created=None
        ),
        warnings=warnings,
        missing=missing,
    )


def _run_record(snapshot: RunSnapshot) -> ReportRecord:
    """Everything that the page of a run shows but the plots."""
    run, found, check = snapshot.run.record, snapshot.found, snapshot.verification
    fingerprint = _fingerprint(snapshot)
    networks = network_rows(snapshot.run)
    overview = networks if snapshot.found is None else ()
    rows = _budget_rows(snapshot)
    warnings = tuple(clean_text(text) for text in _warnings(snapshot))
    own_verdict = check.verdict if check else None
    simulated = snapshot.simulated or any(row.simulated for row in overview)
    return ReportRecord(
        version=__version__,
        run=snapshot.run.folder.resolve().name,
        title=f"{clean_text(snapshot.space.name, 100)} on {_title_board(snapshot, fingerprint, overview)}",
        verdict=networks_verdict(overview) if overview else own_verdict,
        line=clean_text(_line(snapshot, rows, overview)),
        simulated=simulated,
        summary=_summary(snapshot, rows, overview, simulated, len(warnings)),
        verdicts=() if overview else rows,
        statistics=summary.statistic_rows(check.measured, rows) if check else (),
        networks=networks,
        question=_question(snapshot),
        network=_network(snapshot),
        refined=snapshot.refined,
        confidence=found.predicted.confidence if found else None,
        budgets=_budgets(snapshot),
        predicted_energy=found.predicted.energy if found else None,
        choice=found.choice if found else None,
        front=snapshot.front,
        predictor=_predictor(snapshot),
        training=snapshot.training,
        export=snapshot.export,
        verification=check,
        guarantees=_guarantees(snapshot),
        precision=snapshot.precision,
        profile=None,
        provenance=Provenance(
            fingerprint=fingerprint,
            table=_table(snapshot),
            config=run.config,
            written_by=run.version,
            created=run.created,
        ),
        warnings=warnings,
        missing=snapshot.missing,
    )


def _summary(
    snapshot: RunSnapshot,
    rows: tuple[BudgetRow, ...],
    overview: tuple[NetworkRow, ...],
    simulated: bool,
    warnings: int,
) -> SummaryReport:
    if overview:
        return networks_summary(overview, simulated, shlex.quote(str(snapshot.run.folder)))
    check = snapshot.verification
    if check is None:
        found = snapshot.found
        confirmation = found.choice.confirmation if found and found.choice else None
        finalist = confirmation.of(found.operators) if found and confirmation else None
        predicted = found.predicted if found else None
        return summary.unverified_summary(rows, simulated, predicted, _why_not_verified(snapshot), finalist)
    energy = snapshot.found.predicted.energy if snapshot.found else None
    return summary.verified_summary(
        check,
        rows,
        _where(check),
        warnings,
        "`export/model.onnx`",
        energy,
        _guarantees(snapshot),
        _no_guarantee(snapshot),
    )


def _guarantees(snapshot: RunSnapshot) -> tuple[FleetGuarantee, ...]:
    """About the budgets of the verification."""
    if snapshot.fleet is None or snapshot.verification is None:
        return ()
    return snapshot.fleet.of_budgets(snapshot.verification)


def _no_guarantee(snapshot: RunSnapshot) -> str:
    """Why there is none, a sentence."""
    if snapshot.fleet is not None:
        return "All units of this model: not available: none of these budgets was judged on several units."
    if "all units" in snapshot.missing:
        return f"All units of this model: {snapshot.missing['all units']}."
    return summary.NO_GUARANTEE


def _budget_rows(snapshot: RunSnapshot) -> tuple[BudgetRow, ...]:
    targets, check = snapshot.run.targets, snapshot.verification
    if check is not None:
        return summary.budget_rows(check, targets)
    predicted = snapshot.found.predicted if snapshot.found else None
    return summary.unverified_rows(targets, predicted, _why_not_verified(snapshot))


def _why_not_verified(snapshot: RunSnapshot) -> str:
    return snapshot.missing.get("verification", "not available")


def _where(check: VerificationRecord) -> str:
    """`jetson-nano with tensorrt 8.2.1, fp16`"""
    runtime = check.fingerprint.get("backend")
    version = check.fingerprint.get("backend_version")
    parts = [_board(check.fingerprint, check.host)]
    if runtime is not None:
        parts.append(f"with {runtime}{f' {version}' if version is not None else ''}")
    return f"{' '.join(parts)}, {check.precision}"


def _board(fingerprint: Fingerprint, host: str | None) -> str:
    return clean_text(str(fingerprint.get("board") or host or "an unknown board"), 100)


def _title_board(snapshot: RunSnapshot, fingerprint: Fingerprint, overview: tuple[NetworkRow, ...]) -> str:
    boards = list(dict.fromkeys(row.board for row in overview))
    if len(boards) > 1:
        return clean_text(", ".join(boards), 200)
    run = snapshot.run.record
    return _board(fingerprint, run.board or run.host)


def _line(snapshot: RunSnapshot, rows: tuple[BudgetRow, ...], overview: tuple[NetworkRow, ...]) -> str:
    """The result in one line."""
    if snapshot.verification is not None:
        return result_line(snapshot.verification)
    if overview:
        return networks_line(overview)
    parts = []
    for row in rows:
        predicted = (
            "no prediction yet" if row.predicted is None else f"predicted {wording.quantity(row.predicted, row.unit)}"
        )
        parts.append(
            f"{wording.label(row.metric)} {predicted}, not measured, {row.bound} {wording.quantity(row.target, row.unit)}"
        )
    mark = "SIMULATED: " if snapshot.simulated else ""
    return f"{mark}{'; '.join(parts) or 'no budget, not measured'}: not verified"


def _scored_columns(methods: Iterable[Any]) -> set[str]:
    """Fields of the scores that at least one method has: a column of unknowns says nothing."""
    scores = [method["scores"] if isinstance(method, dict) else method.scores for method in methods]
    return {name for each in scores for name, value in each.to_json().items() if value is not None}


def _question(snapshot: RunSnapshot) -> QuestionReport:
    run, space = snapshot.run.record, snapshot.space
    return QuestionReport(
        targets=tuple(
            Target(metric=metric, unit=wording.unit(metric), value=target) for metric, target in run.targets.items()
        ),
        budgets=max(1, len(run.budgets)),
        space=space.name,
        layers=len(space.layers),
        operators=tuple(operator.name for operator in space.operators),
        input_size=space.input_size,
        data=run.data,
        seed=run.seed,
        host=run.host,
        refined_from=run.refined_from.run if run.refined_from else None,
    )


def _network(snapshot: RunSnapshot) -> NetworkReport | None:
    if snapshot.architecture is None or snapshot.cost is None:
        return None
    return NetworkReport(
        operators=snapshot.architecture.names,
        macs_m=snapshot.cost[0],
        parameters_m=snapshot.cost[1],
        table_sum_ms=snapshot.table_sum_ms,
        blocks=snapshot.blocks,
    )


def _budgets(snapshot: RunSnapshot) -> tuple[Budget, ...]:
    if snapshot.found is None:
        return ()
    predicted = snapshot.found.predicted
    return tuple(
        Budget(
            metric=metric,
            unit=wording.unit(metric),
            value=each.target,
            predicted=each.value,
            upper=each.upper,
            used=finite(each.used),
            multiplier=each.multiplier,
            binding=metric == predicted.binding,
        )
        for metric, each in predicted.metrics.items()
    )


def _predictor(snapshot: RunSnapshot) -> PredictorReport | None:
    record = snapshot.predictor
    if record is None:
        return None
    return PredictorReport(type=record.type, metric=record.metric, unit=record.unit, batch=record.batch, fit=record.fit)


def _table(snapshot: RunSnapshot) -> TableReport | None:
    if snapshot.lut is None:
        return None
    header = snapshot.lut.header
    return TableReport(
        created=header.created,
        entries=len(snapshot.lut.entries),
        visits=len(snapshot.lut.visits),
        board=header.board,
        runtime=header.runtime,
        protocol=header.protocol,
    )


def _fingerprint(snapshot: RunSnapshot) -> Fingerprint:
    """Of the verification, or else of what the prediction comes from."""
    for part in (snapshot.verification, snapshot.predictor, snapshot.lut, snapshot.run.record):
        if part is not None and part.fingerprint:
            return dict(part.fingerprint)
    return {}


def _warnings(snapshot: RunSnapshot) -> list[str]:
    found = list(snapshot.verification.warnings) if snapshot.verification else []
    if snapshot.training and snapshot.training.data.sha256 != snapshot.run.data.sha256:
        found.append(
            f"the network was trained on other images than it was searched on: {snapshot.training.data.source}, "
            f"not {snapshot.run.data.source}"
        )
    paths = snapshot.found.choice.sampled_paths if snapshot.found and snapshot.found.choice else None
    if paths is not None and paths.warning is not None:
        found.append(paths.warning)
    if _extrapolated(snapshot):
        found.append("extrapolated: the network found is outside the applicability domain of the predictor")
    if snapshot.lut:
        keys = dict.fromkeys(block.key for block in snapshot.blocks if block.latency_ms is not None)
        found += [f"{key}: {text}" for key in keys for text in snapshot.lut.entries[key].warnings[:1]]
    return [*found, *snapshot.faults]


def _extrapolated(snapshot: RunSnapshot) -> bool:
    """Whether the network is unlike those that the predictor was fitted to; false where no predictor can be used."""
    if snapshot.predictor is None or snapshot.architecture is None:
        return False
    try:
        predictor = predictor_from_record(snapshot.predictor, str(snapshot.predictor_path))
        return bool(predictor.extrapolated(snapshot.architecture.one_hot(predictor.space)[None])[0])
    except (PredictorError, ArchitectureError) as error:
        snapshot.missing.setdefault("applicability", f"not available: {clean_text(str(error))}")
        return False
