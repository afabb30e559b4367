import json

from lightnas_edge.cli import main
from lightnas_edge.deploy.compare_verifications import compare_verifications
from lightnas_edge.deploy.judge import Evidence
from lightnas_edge.records.comparison import ComparisonReport
from lightnas_edge.report.compare_page import write_comparison
from tests.run_folders import measured, verification


def slower():
    return verification(evidence=Evidence(measured(0.44, seed=1)))


def test_page_markdown_and_json_hold_the_findings(tmp_path):
    report = compare_verifications(verification(), slower())
    files = write_comparison(report, tmp_path / "changes")

    assert ComparisonReport.load(files.json) == report
    assert "p50 latency rose by" in files.markdown.read_text() and "p50 latency rose by" in files.html.read_text()


def test_text_of_a_board_is_no_markup(tmp_path):
    report = compare_verifications(verification(fingerprint={"board": "<script>"}), slower())
    files = write_comparison(report, tmp_path)

    page, text = files.html.read_text(), files.markdown.read_text()
    assert "<script>" not in page and "<script>" not in text and "&lt;script&gt;" in text


def test_the_command_prints_the_comparison_as_json(tmp_path, capsys):
    for name, record in (("old", verification()), ("new", slower())):
        (tmp_path / name).mkdir()
        record.save(tmp_path / name / "verification.json")

    assert main(["report", "--compare", str(tmp_path / "old"), str(tmp_path / "new"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "comparison"
