"""A verification as Markdown for a pull request: verdict, budgets, statistics, and what changed."""

from __future__ import annotations

from lightnas_edge.deploy.compare_verifications import compare_verifications, headroom
from lightnas_edge.deploy.judge import AT_LEAST, LABELS, UNITS, decimals, digits_apart
from lightnas_edge.records.deployment import LATENCY_FIELDS, BudgetVerdict, Interval, VerificationRecord
from lightnas_edge.report.junit import network_name
from lightnas_edge.report.rendering import markdown_message, markdown_text


def pull_request_markdown(record: VerificationRecord, before: VerificationRecord | None = None) -> str:
    """Raises VerifyError where `before` is simulated and `record` is not, or the other way round."""
    mark = "SIMULATED, " if record.simulated else ""
    lines = [f"### {mark}{record.verdict}: {markdown_text(network_name(record))} on {markdown_text(record.host)}", ""]
    if record.verdict != "met":
        lines += [f"{markdown_message(record.reason)}.", ""]
        if record.remedy:
            lines += [f"Next: {markdown_message(record.remedy)}.", ""]
    lines += ["| budget | target | value | interval | headroom | verdict |", "|---|--:|--:|--:|--:|---|"]
    lines += [_budget_row(budget) for budget in record.budgets]
    lines += ["", f"| latency | ms | {100 * record.confidence:.0f} % interval |", "|---|--:|--:|"]
    digits = decimals(record.measured.median.latency_ms)
    for metric in LATENCY_FIELDS:
        each = record.measured.statistic(metric)
        interval = "–" if each.interval_ms is None else _interval(each.interval_ms, digits)
        lines.append(f"| {LABELS[metric]} | {each.latency_ms:.{digits}f} | {interval} |")
    measured = record.measured
    what = (
        "inferences" if measured.inferences_per_sample == 1 else f"means of {measured.inferences_per_sample} inferences"
    )
    board = "; ".join(f"{name} {value}" for name, value in sorted(record.fingerprint.items()) if value is not None)
    lines += ["", f"n={measured.n} {what} in {measured.rounds} rounds, {markdown_text(record.precision)}, "
              f"model `{record.model_sha256[:12]}`."]  # fmt: skip
    if board:
        lines += ["", f"Board: {markdown_text(board)}."]
    if before is not None:
        found = compare_verifications(before, record)
        lines += ["", "**What changed**", "", *(f"- {markdown_message(line)}" for line in found.findings)]
        lines += [f"- different: {markdown_text(line)}" for line in found.differences]
        lines += ["", f"Next: {markdown_message(found.remedy)}."]
    if record.warnings:
        lines += ["", *(f"- warning: {markdown_message(text)}" for text in dict.fromkeys(record.warnings))]
    return "\n".join(lines) + "\n"


def not_verified(name: str, error: str) -> str:
    """A board or a network without a verification."""
    return f"### not verified: {markdown_text(name)}\n\n{markdown_message(error)}.\n"


def _budget_row(budget: BudgetVerdict) -> str:
    unit = UNITS[budget.metric]
    factor = 1.0 if unit else 100.0
    shown = unit or "%"
    known = [each for each in (budget.target, budget.value, *(budget.interval or ())) if each is not None]
    digits = digits_apart(known, budget.metric)
    value = "–" if budget.value is None else f"{factor * budget.value:.{digits}f} {shown}"
    ends = budget.interval
    interval = "–" if ends is None else _interval((factor * ends[0], factor * ends[1]), digits)
    left = headroom(budget.metric, budget.value, budget.target)
    bound = "at least" if budget.metric in AT_LEAST else "at most"
    return (
        f"| {LABELS[budget.metric]} | {bound} {factor * budget.target:.{digits}f} {shown} | {value} | {interval} | "
        f"{'–' if left is None else f'{100 * left:.1f} %'} | **{budget.verdict}** |"
    )


def _interval(ends: Interval, digits: int) -> str:
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"
