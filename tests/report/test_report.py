"""A run becomes one page that needs nothing else, names what it lacks, and trusts no text of its files."""

import html.parser
import json
import re
from pathlib import Path

import pytest

from lightnas_edge.errors import RunError
from lightnas_edge.records.report import ReportRecord
from lightnas_edge.report import build_report, read_snapshot
from lightnas_edge.runs import Run
from lightnas_edge.space import load_space

PARTS = {
    "architecture.json": "run the same `lightnas-edge search` again",
    "lut.jsonl": "search with `--lut` or `--host`; the run then keeps the table",
    "predictor.json": "run the same `lightnas-edge search` again",
    "search/metrics.jsonl": "run the same `lightnas-edge search` again",
    "train/metrics.jsonl": "run `lightnas-edge train ",
    "train/result.json": "`lightnas-edge train ",
    "export/export.json": "`lightnas-edge export ",
    "verify/verification.json": "`lightnas-edge verify ",
}


class Page(html.parser.HTMLParser):
    """What a browser would load, run and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        self.loads += [values[name] for name in ("src", "href", "xlink:href", "data") if name in values]

    def handle_data(self, data):
        if self.tags[-1:] != [("style", {})]:
            self.text += data


def read_page(folder: Path) -> tuple[str, Page]:
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def page_of(folder: Path) -> tuple[str, Page]:
    build_report(folder)
    return read_page(folder)


def edit(path: Path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_the_page_loads_nothing_runs_nothing_and_is_small(built):
    text, page = read_page(built)

    assert all(target.startswith("#") for target in page.loads)  # only within the page
    assert not {"script", "link", "iframe", "img", "image", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", text)
    assert "default-src 'none'" in text
    assert len(text.encode()) < 500_000


def test_a_long_search_of_the_published_space_stays_below_two_megabytes(tmp_path, write_run):
    folder = write_run(tmp_path / "long", epochs=90)
    lines = [json.loads(line) for line in (folder / "search/metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "search-epoch":
            line["probabilities"] = [[1 / 7] * 7] * 21
    many = [json.dumps(line) + "\n" for line in lines for _ in range(8 if line["kind"] == "search-step" else 1)]
    (folder / "search/metrics.jsonl").write_text("".join(many))
    edit(folder / "run.json", lambda record: record.update(space=load_space("lightnas").to_json()))

    report = build_report(folder)

    assert not {"search", "probabilities", "plot of search", "plot of probabilities"} & report.missing.keys()
    assert report.html.stat().st_size < 2_000_000


def test_every_name_on_the_page_is_used_once_and_every_reference_is_answered(built):
    _, page = read_page(built)

    assert len(page.ids) == len(set(page.ids))
    assert {target[1:] for target in page.loads} <= set(page.ids)


def test_the_verdict_comes_first_with_all_that_it_rests_on(built):
    _, page = read_page(built)
    top = re.sub(r"\s+", " ", page.text)[:4000]

    words = [
        "Budget met",
        "Summary",
        "Asked",
        "Found",
        "Does it hold",
        "How sure",
        "What to do",
        "Every budget",
        "Latency of",
    ]
    assert [top.index(word) for word in words] == sorted(top.index(word) for word in words)
    assert "latency, median (p50) of one inference: at most 0.900 ms" in top
    assert re.search(r"p50 latency 0\.8\d\d ± 0\.0\d\d ms, predicted 0\.846, at most 0\.900: met", top)


@pytest.mark.parametrize(("centre_ms", "words"), [(1.0, "Budget missed"), (0.915, "Inconclusive")])
def test_a_budget_that_is_not_met_is_not_called_met(tmp_path, write_run, centre_ms, words):
    _, page = page_of(write_run(tmp_path / "run", centre_ms=centre_ms))

    assert words in page.text
    assert "Budget met" not in page.text


def test_plots_take_their_colours_from_the_page_and_keep_their_text(built):
    """So they are legible on a light and a dark page, and can be searched."""
    text, _ = read_page(built)
    plots = re.findall(r'<svg class="plot".*?</svg>', text, re.DOTALL)

    assert len(plots) == 6
    for plot in plots:
        assert not re.search(r"#[0-9a-f]{6}\b", plot.lower()), "a fixed colour"
        assert "<text" in plot
    assert "prefers-color-scheme: dark" in text
    assert text.count('class="map"') == 1


def test_predicted_and_measured_never_share_a_colour(built):
    text, _ = read_page(built)

    for theme in re.findall(r":root \{.*?\}", text, re.DOTALL):
        predicted, measured = (re.search(rf"--{name}: (#\w+)", theme)[1] for name in ("predicted", "measured"))
        assert predicted != measured


def test_every_plot_and_table_can_be_read_aloud(built):
    _, page = read_page(built)
    tags = [tag for tag, _ in page.tags]

    assert all(values.get("aria-label") for tag, values in page.tags if tag == "svg")
    assert all(values.get("role") == "img" for tag, values in page.tags if tag == "svg")
    assert all(values.get("scope") in ("row", "col") for tag, values in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags
    assert tags.count("h1") == 1


@pytest.mark.parametrize("part", PARTS)
def test_an_absent_part_is_named_with_the_command_that_makes_it(run_folder, part):
    (run_folder / part).unlink()

    assert any(PARTS[part] in text for text in read_snapshot(run_folder).missing.values())


@pytest.mark.parametrize("content", [None, "[]"])
def test_a_run_without_any_other_part_still_has_its_page(run_folder, content):
    for part in PARTS:
        if content is None:
            (run_folder / part).unlink()
        else:
            (run_folder / part).write_text(content)

    _, page = page_of(run_folder)

    assert page.text.count("not available") >= 8
    assert "Not verified" in page.text
    assert "0.000" not in page.text


def test_what_is_not_verified_is_never_called_met(run_folder):
    (run_folder / "verify/verification.json").unlink()

    report = build_report(run_folder)

    assert report.line == "p50 latency predicted 0.846 ms, not measured, at most 0.900 ms: not verified"
    assert "Budget met" not in report.html.read_text()
    assert json.loads(report.json.read_text())["verdict"] is None


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"run\.json does not exist"):
        build_report(tmp_path)


def test_a_torn_line_of_a_search_that_still_runs_does_no_harm(run_folder):
    metrics = run_folder / "search/metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-40])

    assert len(read_snapshot(run_folder).search.steps) > 100


def test_text_from_files_never_becomes_markup_or_a_control_sequence(run_folder):
    """Names, warnings and fingerprints are text of unknown origin."""
    evil = (
        "<script>alert(1)</script>|`<img src=x onerror=alert(1)>` [x](javascript:y) **b** \x1b]52;c;eA==\x07\u202e_e_"
    )

    def change(record):
        record["warnings"].append(evil)
        record["fingerprint"]["board"] = evil
        record["reason"] = record["remedy"] = evil

    edit(run_folder / "verify/verification.json", change)
    text, page = page_of(run_folder)
    markdown = (run_folder / "report.md").read_text()

    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert "<script" not in text
    for written in (text, markdown):
        assert all(char.isprintable() or char == "\n" for char in written)
        assert "52;c" not in written
    assert "alert(1)" in markdown
    for markup in ("<script", "<img", "[x]", "**b**", "`&lt;img", " _e_"):
        assert markup not in markdown.replace("\\`", "").replace("\\*", "").replace("\\[", "").replace("\\_", "")


def test_a_simulated_board_is_named_in_big_letters(tmp_path, write_run):
    folder = write_run(tmp_path / "run", simulated=True)
    _, page = page_of(folder)

    assert "SIMULATED: Budget met" in page.text
    assert "SIMULATED 0.8" in page.text
    assert "measured 0.8" not in page.text
    assert json.loads((folder / "report.json").read_text())["simulated"] is True
    assert "**SIMULATED.**" in (folder / "report.md").read_text()


def test_an_identity_and_a_missing_entry_are_no_zeros(run_folder):
    table = run_folder / "lut.jsonl"
    kept = [line for line in table.read_text().splitlines() if '"key":"head@' not in line]
    table.write_text("\n".join(kept) + "\n")
    run = Run.open(run_folder)
    run.save_found(run.architecture, run.found.predicted, run.found.choice)  # chosen with this table
    _, page = page_of(run_folder)

    assert page.text.count("identity: adds no node") == 2
    assert page.text.count("not in the table") == 1
    assert "Sum of the table" not in page.text
    assert read_snapshot(run_folder).table_sum_ms is None


def test_the_json_holds_what_the_page_shows_and_the_markdown_its_numbers(run_folder):
    report = build_report(run_folder)
    record = json.loads(report.json.read_text())
    text = report.markdown.read_text()

    assert ReportRecord.load(report.json).to_json() == record
    assert record["verdict"] == "met"
    assert record["line"] == report.line
    assert report.line in text
    assert sum(row["share"] or 0 for row in record["network"]["blocks"]) == pytest.approx(1)
    assert "| layer 0 | mbconv_k5_e3 | 16 × 16² → 24 × 8² |" in text


def test_the_same_run_gives_the_same_page(run_folder):
    first = build_report(run_folder).html.read_bytes()

    assert build_report(run_folder).html.read_bytes() == first


def test_the_warm_up_alone_can_be_drawn(tmp_path, write_run):
    """A search that was cut in its first epoch has no validation loss and no multiplier yet."""
    folder = write_run(tmp_path / "run", epochs=2)
    metrics = folder / "search/metrics.jsonl"
    first = [line + "\n" for line in metrics.read_text().splitlines() if '"epoch": 0' in line]
    metrics.write_text("".join(first))

    assert "search" not in build_report(folder).missing


def test_the_residual_decomposition_names_its_components(run_folder):
    _, page = page_of(run_folder)

    assert "Residual decomposition" in page.text
    assert "per-block overhead" in page.text and "-0.183" in page.text
    text = (run_folder / "report.md").read_text()
    assert "| per-block overhead | -0.183 | 0.01 | -0.21 | -0.15 |" in text


def test_a_network_unlike_all_that_were_measured_is_marked_as_extrapolated(built):
    _, page = read_page(built)

    assert "extrapolated: the network found is outside the applicability domain" in page.text


def test_every_value_of_a_budget_stands_next_to_its_metric_and_unit(built):
    (budget,) = json.loads((built / "report.json").read_text())["budgets"]

    assert (budget["metric"], budget["unit"], budget["value"], budget["predicted"]) == ("latency_ms", "ms", 0.9, 0.846)


@pytest.mark.parametrize(("enqueue_ms", "bound"), [(0.53, False), (0.86, True)])
def test_the_report_says_whether_the_gpu_waits_for_the_host(run_folder, enqueue_ms, bound):
    path = run_folder / "verify" / "verification.json"
    record = json.loads(path.read_text())
    record["measured"] |= {"enqueue_ms": enqueue_ms, "gpu_ms": 0.88}
    path.write_text(json.dumps(record))

    _, page = page_of(run_folder)

    for text in (page.text, (run_folder / "report.md").read_text()):
        plain = re.sub(r"[ |\n]+", " ", text.replace("ms", "ms "))
        assert re.search(r"GPU compute time ?0\.880 ms", plain) and re.search(
            f"enqueue time ?{enqueue_ms:.3f} ms", plain
        )
        assert ("Launch-bound" in text) == bound


def test_without_a_gpu_the_report_has_no_row_for_it(built):
    assert 'data-statistic="GPU compute time"' not in (built / "report.html").read_text()
