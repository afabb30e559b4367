"""The documentation's examples, run as they stand."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))

    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)

    assert len(blocks) == 8
    assert names["sampling"].record.stopped in ("reached", "noise", "discrepancy", "count")
    assert names["predictor"].fit.networks == names["sampling"].progress.networks
    for result in names["results"]:
        assert result.predicted["latency_ms"] <= result.budget.targets["latency_ms"]
        assert result.predicted["macs_m"] <= 3.0
    assert names["further"].predicted["latency_ms"] <= names["target_ms"]
    assert names["chosen"].upper[0] <= names["target_ms"]
    assert (tmp_path / "run" / "networks" / "further" / "run.json").exists()
    assert "uses" in capsys.readouterr().out


def test_every_page_is_linked_from_the_readme():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")

    assert [page.name for page in sorted(DOCS.glob("*.md")) if f"docs/{page.name}" not in readme] == []
