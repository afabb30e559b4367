"""A verification as JUnit XML: one test case for each budget, so that a CI system shows which one fails and why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from xml.etree import ElementTree as Xml

from lightnas_edge.deploy.judge import LABELS, budget_line, computes_otherwise, result_line
from lightnas_edge.records.deployment import BudgetVerdict, VerificationRecord
from lightnas_edge.records.plain_text import clean_text


def junit_xml(*records: VerificationRecord, failed: Mapping[str, str] | None = None) -> str:
    """A missed budget is a failure. One that is inconclusive or not judged is an error: it does not pass either.

    Args:
        failed: boards or networks without a verification, and why; each is an error.
    """
    root = Xml.Element("testsuites")
    for index, record in enumerate(records):
        root.append(_suite(record, index))
    for index, (name, error) in enumerate((failed or {}).items(), start=len(records)):
        root.append(_failed_suite(name, error, index))
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    Xml.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{Xml.tostring(root, encoding="unicode")}\n'


def network_name(record: VerificationRecord) -> str:
    """The name of a model file, or else the start of its hash."""
    return clean_text(record.model.name, 100) if record.model else f"model {record.model_sha256[:12]}"


def _suite(record: VerificationRecord, index: int) -> Xml.Element:
    mark = "SIMULATED " if record.simulated else ""
    name = f"{mark}{network_name(record)} on {clean_text(record.host, 100)}"
    suite = Xml.Element("testsuite", name=name, id=str(index), package="lightnas-edge")
    suite.set("hostname", clean_text(record.host, 100))
    suite.set("timestamp", _timestamp(record.created))
    suite.set("time", "0")
    properties = Xml.SubElement(suite, "properties")
    for key, value in _properties(record).items():
        Xml.SubElement(properties, "property", name=clean_text(key, 200), value=clean_text(value))
    for budget in record.budgets:
        _case(suite, name, f"{mark}{LABELS.get(budget.metric, clean_text(budget.metric))}", budget)
    if _fails_as_a_whole(record):
        case = Xml.SubElement(suite, "testcase", classname=name, name=f"{mark}verification", time="0")
        _explain(case, record.verdict, record.reason, record.remedy)
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    Xml.SubElement(suite, "system-out").text = clean_text(result_line(record))
    Xml.SubElement(suite, "system-err").text = "\n".join(clean_text(warning) for warning in record.warnings)
    return suite


def _failed_suite(name: str, error: str, index: int) -> Xml.Element:
    name = clean_text(name, 100)
    suite = Xml.Element("testsuite", name=name, id=str(index), package="lightnas-edge", hostname=name, time="0")
    suite.set("timestamp", _timestamp(datetime.now(UTC).isoformat()))
    Xml.SubElement(suite, "properties")
    case = Xml.SubElement(suite, "testcase", classname=name, name="verification", time="0")
    _explain(case, "not verified", error)
    for count, value in (("tests", "1"), ("failures", "0"), ("errors", "1")):
        suite.set(count, value)
    Xml.SubElement(suite, "system-out")
    Xml.SubElement(suite, "system-err")
    return suite


def _case(suite: Xml.Element, classname: str, name: str, budget: BudgetVerdict) -> None:
    case = Xml.SubElement(suite, "testcase", classname=classname, name=name, time="0")
    if budget.verdict != "met":
        _explain(case, budget.verdict, budget.reason, budget.remedy, budget_line(budget))


def _explain(case: Xml.Element, verdict: str, *texts: str) -> None:
    """The reason comes first: most CI systems show the message alone."""
    tag = "failure" if verdict == "missed" else "error"
    lines = [clean_text(text) for text in texts if text]
    found = Xml.SubElement(case, tag, type=verdict, message=f"{verdict}: {lines[0] if lines else 'no reason given'}")
    found.text = "\n".join(lines)


def _fails_as_a_whole(record: VerificationRecord) -> bool:
    """The network computes something else, which no budget says."""
    return record.verdict != "met" and (
        computes_otherwise(record) or all(budget.verdict == "met" for budget in record.budgets)
    )


def _properties(record: VerificationRecord) -> dict[str, str]:
    measured = record.measured
    numbers: dict[str, object] = {
        "simulated": str(record.simulated).lower(), "verdict": record.verdict, "model_sha256": record.model_sha256,
        "precision": record.precision, "rounds": measured.rounds, "samples": measured.n,
        "min_ms": measured.min_ms, "mean_ms": measured.mean.latency_ms, "p50_ms": measured.median.latency_ms,
        "p90_ms": measured.p90.latency_ms, "p95_ms": measured.p95.latency_ms, "p99_ms": measured.p99.latency_ms,
        "max_ms": measured.max_ms,
    }  # fmt: skip
    shown = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in numbers.items()}
    return shown | {f"fingerprint.{name}": str(value) for name, value in record.fingerprint.items()}


def _timestamp(created: str) -> str:
    """UTC without its offset, the form that the schema of JUnit has."""
    try:
        moment = datetime.fromisoformat(created)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment
    except (ValueError, OverflowError):
        moment = datetime(1970, 1, 1, tzinfo=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")
