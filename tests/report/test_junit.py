from xml.etree import ElementTree

import pytest

from lightnas_edge.deploy.judge import Evidence
from lightnas_edge.report.junit import junit_xml
from lightnas_edge.report.pull_request import pull_request_markdown
from tests.run_folders import measured, verification


def suite_of(record):
    return ElementTree.fromstring(junit_xml(record)).find("testsuite")


def test_a_met_budget_is_a_test_case_that_passes():
    suite = suite_of(verification({"latency_ms": 0.5}))

    assert [(case.get("name"), len(case)) for case in suite.findall("testcase")] == [("p50 latency", 0)]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "0")


def test_a_missed_budget_fails_with_its_reason():
    record = verification({"latency_ms": 0.3})
    failure = suite_of(record).find("testcase/failure")

    assert record.budgets[0].reason in failure.get("message")


@pytest.mark.parametrize(
    ("asked", "rounds"), [({"latency_ms": 0.5}, 2), ({"latency_ms": 0.5, "energy_mj": 3.0}, 40)],
    ids=["inconclusive", "not judged"],
)  # fmt: skip
def test_a_budget_without_an_answer_does_not_pass(asked, rounds):
    suite = suite_of(verification(asked, Evidence(measured(rounds=rounds))))

    assert int(suite.get("errors")) == 1
    assert suite.find("testcase/error").get("message")


def test_a_verification_that_fails_although_every_budget_is_met_has_a_failing_case():
    suite = suite_of(verification(verdict="inconclusive", reason="the engine computes something else"))

    assert (
        suite.find("testcase[@name='verification']/error").get("message").endswith("the engine computes something else")
    )


def test_text_of_a_board_can_not_break_the_xml():
    hostile = '\x00\x1b[31m]]><x a="&\ufffe'
    suite = suite_of(verification(fingerprint={"board": hostile}, warnings=(hostile,), simulated=True))

    value = suite.find("properties/property[@name='fingerprint.board']").get("value")
    assert value == ']]><x a="&'
    assert "SIMULATED" in suite.get("name")


def test_several_verifications_are_suites_of_one_file():
    root = ElementTree.fromstring(junit_xml(verification(), verification({"latency_ms": 0.3})))

    assert (len(root), root.get("tests"), root.get("failures")) == (2, "2", "1")


def test_markdown_starts_with_the_verdict_and_holds_every_budget():
    text = pull_request_markdown(verification({"latency_ms": 0.3, "p95_ms": 0.9}))

    assert text.startswith("### missed: ")
    assert "| p50 latency | at most 0.300 ms |" in text and "| p95 latency | at most 0.900 ms |" in text


def test_markdown_of_a_board_is_plain_text():
    text = pull_request_markdown(verification(fingerprint={"board": "@all | <img> [a](https://b)"}))

    assert r"\@all \| &lt;img&gt; \[a\](https" in text and "<img>" not in text and "https://b" not in text


def test_markdown_says_what_changed_against_an_old_verification():
    new = verification(evidence=Evidence(measured(0.44, seed=1)))

    assert "p50 latency rose by" in pull_request_markdown(new, verification())


def test_a_board_that_was_lost_is_an_error_of_its_own():
    root = ElementTree.fromstring(junit_xml(verification(), failed={"orin2": "no route to host"}))

    assert (root.get("tests"), root.get("errors")) == ("2", "1")
    assert "no route to host" in root.find("testsuite[@name='orin2']/testcase/error").get("message")


def test_markdown_shows_what_decides_however_small_it_is():
    missed = verification({"latency_ms": 20.0}, Evidence(measured(20.04, spread=0.0001)))
    small = verification({"latency_ms": 20.0}, Evidence(measured(0.04)))

    assert "| at most 20.00 ms | 20.06 ms |" in pull_request_markdown(missed)
    assert "| 0.04" in pull_request_markdown(small) and "| 0.00 ms |" not in pull_request_markdown(small)
