"""docs/tutorial.ipynb runs as it stands, in an empty folder, and shows what it says."""

from pathlib import Path

import nbformat
import pytest

from docs.site.notebook import as_markdown, executed

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_outputs_which_would_differ_on_every_machine(notebook):
    assert all(
        cell.outputs == [] and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code"
    )
    nbformat.validate(notebook)


def test_it_runs_in_an_empty_folder_and_ends_in_a_verdict_and_a_report(notebook, tmp_path):
    after = executed(notebook, tmp_path)

    run = tmp_path / "run" / "networks"
    (verified,) = run.glob("*/verify/verification.json")
    assert '"verdict"' in verified.read_text(encoding="utf-8")
    assert len(list(run.glob("*/architecture.json"))) == 2
    assert (verified.parents[1] / "report.html").exists()
    shown = [output for cell in after.cells if cell.cell_type == "code" for output in cell.outputs if "data" in output]
    assert sum("image/png" in output.data for output in shown) == 5  # operators, samples, predictions, front, verdict
    tables = [output.data["text/html"] for output in shown if "text/html" in output.data]
    assert any("mbconv_k3_e3" in table for table in tables)
    assert any("p50 latency" in table for table in tables)
    page, pictures = as_markdown(after)
    assert page.startswith("# Tutorial") and len(pictures) == 5
    assert str(tmp_path) not in page


def test_code_that_fails_stops_the_build(notebook, tmp_path):
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])

    with pytest.raises(Exception, match="ZeroDivisionError"):
        executed(broken, tmp_path)
