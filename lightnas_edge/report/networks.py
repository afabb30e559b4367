"""The networks of one search, a row for each: budget, predicted, measured, accuracy, verdict, and its page."""

from __future__ import annotations

from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.records.deployment import Verdict, VerificationRecord
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.records.report import NetworkRow, SummaryReport
from lightnas_edge.report import summary
from lightnas_edge.runs import Run

PAGE = "report.html"


def network_rows(run: Run) -> tuple[NetworkRow, ...]:
    """Of every network below the run, and of its own where it has one too. Empty where the search found one network."""
    below = [each for each in run.networks if (each.folder / "architecture.json").exists()]
    if not below:
        return ()
    own = [run] if (run.folder / "architecture.json").exists() else []
    return tuple(_row(run, each) for each in [*own, *below])


def networks_verdict(rows: tuple[NetworkRow, ...]) -> Verdict | None:
    """The worst of all; None while one network is not verified, unless another one misses its budget."""
    verdicts = [row.verdict for row in rows]
    if "missed" in verdicts:
        return "missed"
    if None in verdicts:
        return None
    return "inconclusive" if "inconclusive" in verdicts else "met"


def networks_line(rows: tuple[NetworkRow, ...]) -> str:
    """`6 networks of one search: 4 met, 1 missed, 1 not verified`"""
    mark = "SIMULATED: " if any(row.simulated for row in rows) else ""
    return f"{mark}{len(rows)} networks of one search: {_counts(rows)}"


def networks_summary(rows: tuple[NetworkRow, ...], simulated: bool, folder: str) -> SummaryReport:
    """`folder`: of the search, as a command names it."""
    mark = "SIMULATED: " if simulated else ""
    open_rows = [row for row in rows if row.verdict is None]
    missed = [row.name for row in rows if row.verdict == "missed"]
    undecided = [row.name for row in rows if row.verdict == "inconclusive"]
    verdict = networks_verdict(rows)
    holds = {
        "met": "Yes: every network keeps its budgets.",
        "missed": f"Not for all: missed by {', '.join(missed)}.",
        "inconclusive": f"Not decided for {', '.join(undecided)}.",
        None: f"Not verified: {', '.join(row.name for row in open_rows)}.",
    }[verdict]
    steps = [
        f"{row.name}: {text}"
        for row in rows
        for text in dict.fromkeys(budget.remedy for budget in row.budgets if budget.remedy and budget.verdict != "met")
    ]
    if open_rows:
        steps.append(
            f"train, export and verify the networks that are not verified: `lightnas-edge train {folder} --all`, then "
            f"`lightnas-edge export {folder} --all`, then `lightnas-edge verify {folder} --all`"
        )
    if simulated:
        steps.append(summary.SIMULATED_NEXT)
    reasons = tuple(clean_text(f"{row.name}: {row.reason}") for row in rows if row.verdict)
    return SummaryReport(
        asked=tuple(
            f"{row.name}: {'; '.join(summary.asked_text(budget) for budget in row.budgets) or 'no budget'}"
            for row in rows
        ),
        found=(f"{mark}{len(rows)} networks of one search: {_counts(rows)}.",),
        holds=clean_text(holds),
        certainty=reasons or ("No network is verified. A prediction is no proof.",),
        next=clean_text("; ".join(steps) or "choose a network by its accuracy and its page below, and deploy it"),
    )


def _counts(rows: tuple[NetworkRow, ...]) -> str:
    kinds = ("met", "missed", "inconclusive", None)
    counts = [(kind or "not verified", sum(row.verdict == kind for row in rows)) for kind in kinds]
    return ", ".join(f"{count} {kind}" for kind, count in counts if count)


def _row(run: Run, network: Run) -> NetworkRow:
    folder = network.folder.relative_to(run.folder).as_posix()
    record, reason = _verification(network)
    try:
        predicted = network.found.predicted
    except (LightnasEdgeError, OSError):
        predicted = None
    if record is None:
        budgets = summary.unverified_rows(network.targets, predicted, reason)
        simulated = bool(predicted and predicted.simulated)
    else:
        budgets, reason = summary.budget_rows(record, network.targets), record.reason
        simulated = record.simulated
    fingerprint = record.fingerprint if record else network.record.fingerprint
    own = network.folder == run.folder
    return NetworkRow(
        name="this run" if own else clean_text(network.folder.name, 100),
        folder=folder,
        board=clean_text(str(network.record.board or fingerprint.get("board") or "unknown"), 100),
        simulated=simulated,
        budgets=budgets,
        statistics=() if record is None else summary.statistic_rows(record.measured, budgets),
        accuracy=record.accuracy if record else None,
        predicted_energy=predicted.energy if predicted else None,
        energy=record.energy if record else None,
        verdict=record.verdict if record else None,
        reason=clean_text(reason),
        report=f"{folder}/{PAGE}" if not own and (network.folder / PAGE).exists() else None,
    )


def _verification(network: Run) -> tuple[VerificationRecord | None, str]:
    """The verification, or why there is none."""
    try:
        return network.verification, ""
    except LightnasEdgeError as error:
        text = "; ".join(line.strip() for line in str(error).splitlines())
        return None, f"{text}; {error.hint}" if error.hint else text
    except OSError as error:
        return None, str(error)
