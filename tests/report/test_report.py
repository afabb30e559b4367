"""A run becomes one page that needs nothing else, says what it does not know, and trusts no text it did not write."""

import html.parser
import json
import re
from pathlib import Path

import pytest

import luts
from lightnas_edge.errors import RunError
from lightnas_edge.predictor import lut_predictor
from lightnas_edge.report import build_report, read_snapshot
from lightnas_edge.space import load_space

PARTS = {
    "architecture.json": "run `lightnas-edge search` to its end",
    "lut.jsonl": "the table is kept with the run",
    "predictor.json": "run `lightnas-edge search` to its end",
    "search/metrics.jsonl": "run `lightnas-edge search` to its end",
    "train/metrics.jsonl": "run `lightnas-edge train ",
    "export/export.json": "run `lightnas-edge export ",
    "verify/verification.json": "run `lightnas-edge verify ",
}


class Page(html.parser.HTMLParser):
    """What a browser would load, run and say."""

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
        if line["kind"] == "epoch":
            line["probabilities"] = [[1 / 7] * 7] * 21
    many = [json.dumps(line) for line in lines for _ in range(8 if line["kind"] == "step" else 1)]
    (folder / "search/metrics.jsonl").write_text("\n".join(many))

    assert build_report(folder).html.stat().st_size < 2_000_000


def test_every_name_on_the_page_is_used_once_and_every_reference_is_answered(built):
    _, page = read_page(built)

    assert len(page.ids) == len(set(page.ids))
    assert {target[1:] for target in page.loads} <= set(page.ids)


def test_the_verdict_comes_first_and_tells_the_whole_truth(built):
    _, page = read_page(built)
    top = re.sub(r"\s+", " ", page.text)[:4000]

    assert top.index("Budget met") < top.index("The numbers")
    assert re.search(
        r"predicted 0\.846 ms, measured 0\.8\d\d ± 0\.0\d\d ms \(n=200\), drift-corrected .* target 0\.900 ms: met", top
    )


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


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "verification", "schema": 1}', "\x00\xff"])
def test_a_damaged_part_costs_itself_alone(run_folder, part, content):
    (run_folder / part).write_text(content)

    snapshot = read_snapshot(run_folder)

    assert snapshot.missing
    assert len(snapshot.rows) == (0 if part == "architecture.json" else 11)


@pytest.mark.parametrize("content", [None, "[]"])
def test_a_run_of_which_nothing_is_left_still_has_its_page(run_folder, content):
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

    assert report.line == "predicted 0.846 ms, not measured, target 0.900 ms: not verified"
    assert "Budget met" not in report.html.read_text()
    assert json.loads(report.json.read_text())["verdict"] is None


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"run\.json does not exist"):
        build_report(tmp_path)


def test_a_torn_line_of_a_search_that_still_runs_does_no_harm(run_folder):
    metrics = run_folder / "search/metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-40])

    assert read_snapshot(run_folder).steps


def test_text_from_files_never_becomes_markup(run_folder):
    """Names, warnings and fingerprints are somebody else's text."""
    evil = "<script>alert(1)</script>|`<img src=x onerror=alert(1)>`"

    def change(record):
        record["warnings"].append(evil)
        record["fingerprint"]["board"] = evil
        record["reason"] = evil

    edit(run_folder / "verify/verification.json", change)
    edit(run_folder / "predictor.json", lambda record: record["fit"].update(method=evil, chosen=evil, skipped=[evil]))
    text, page = page_of(run_folder)

    assert "script" not in {tag for tag, _ in page.tags}
    assert "img" not in {tag for tag, _ in page.tags}
    assert "<script" not in (run_folder / "report.md").read_text()
    assert "<script" not in text


def test_a_simulated_board_is_told_in_big_letters(tmp_path, write_run):
    folder = write_run(tmp_path / "run", simulated=True)
    _, page = page_of(folder)

    assert "SIMULATED: Budget met" in page.text
    assert "SIMULATED 0.8" in page.text
    assert ", measured 0.8" not in page.text
    assert json.loads((folder / "report.json").read_text())["simulated"] is True
    assert "**SIMULATED.**" in (folder / "report.md").read_text()


def test_an_identity_and_a_missing_entry_are_no_zeros(run_folder):
    table = run_folder / "lut.jsonl"
    kept = [line for line in table.read_text().splitlines() if '"key":"head@' not in line]
    table.write_text("\n".join(kept) + "\n")
    _, page = page_of(run_folder)

    assert page.text.count("identity: adds no node") == 2
    assert page.text.count("not in the table") == 1
    assert "Sum of the table" not in page.text
    assert read_snapshot(run_folder).table_sum_ms is None


def test_the_json_holds_what_the_page_tells_and_the_markdown_its_numbers(run_folder):
    report = build_report(run_folder)
    record = json.loads(report.json.read_text())
    text = report.markdown.read_text()

    assert record["kind"] == "report"
    assert record["verdict"] == "met"
    assert record["line"] == report.line
    assert report.line in text
    assert sum(row["share"] or 0 for row in record["network"]["blocks"]) == pytest.approx(1)
    assert "| layer 0 | mbconv_k5_e3 | 16 × 16² → 24 × 8² |" in text
    assert "samples_ms" not in json.dumps(record["verification"])


def test_the_same_run_gives_the_same_page(run_folder):
    first = build_report(run_folder).html.read_bytes()

    assert build_report(run_folder).html.read_bytes() == first


def test_the_warm_up_alone_can_be_drawn(tmp_path, write_run):
    """A search that was cut in its first epoch has no validation loss and no multiplier yet."""
    folder = write_run(tmp_path / "run", epochs=2)
    metrics = folder / "search/metrics.jsonl"
    first = [line for line in metrics.read_text().splitlines() if '"epoch": 0' in line]
    metrics.write_text("\n".join(line.replace('"derived_ms": ', '"derived_ms": null, "was": ') for line in first))

    assert "search" not in build_report(folder).missing


def test_the_ledger_tells_where_networks_differ_from_the_sum(run_folder):
    _, page = page_of(run_folder)

    assert "Where networks differ from the sum of the table" in page.text
    assert "per block" in page.text and "-0.183" in page.text
    text = (run_folder / "report.md").read_text()
    assert "| per block | -0.183 | 0.01 | -0.21 | -0.15 |" in text


def test_a_network_unlike_all_that_were_measured_is_warned_of(run_folder):
    space = load_space("tiny")
    lut_predictor(space, luts.read(run_folder / "lut.jsonl")).save(run_folder / "predictor.json")

    _, page = page_of(run_folder)

    assert "the network found is outside what was measured" in page.text
