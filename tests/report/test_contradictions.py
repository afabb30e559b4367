"""Two numbers of one page never contradict each other: read from the page itself, for many verifications."""

import html.parser
import json
import re

import numpy as np
import pytest

from lightnas_edge.deploy.judge import AT_LEAST, UNITS, Evidence, Predicted, overall
from lightnas_edge.records.deployment import (
    AccuracyRecord,
    Agreement,
    ComparisonRecord,
    DriftRecord,
    EnergyRecord,
    LatencyEstimate,
    SustainedRecord,
    SustainedWindow,
)
from lightnas_edge.records.run import CandidateRecord, ChoiceRecord, SupernetScore
from lightnas_edge.report import build_report, build_verification_report
from lightnas_edge.report.choice import why_chosen
from lightnas_edge.runs import Run
from tests import run_folders
from tests.report.conftest import write_verification

OPERATORS = ("mbconv_k3_e3", "skip")


class Tables(html.parser.HTMLParser):
    """Every table of a page: its caption, and rows of (attributes of the row, texts of its cells)."""

    def __init__(self, text):
        super().__init__()
        self.tables, self._cell = [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append({"id": dict(attributes).get("id"), "caption": None, "head": [], "rows": []})
        elif tag == "tr":
            self._row = (dict(attributes), [])
        elif tag in ("td", "th", "caption"):
            self._cell, self._scope = "", dict(attributes).get("scope")

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            (self.tables[-1]["head"] if self._scope == "col" else self._row[1]).append(self._cell.strip())
            self._cell = None
        elif tag == "caption":
            self.tables[-1]["caption"], self._cell = self._cell.strip(), None
        elif tag == "tr" and self._row[1]:
            self.tables[-1]["rows"].append(self._row)

    def named(self, name):
        return next(table for table in self.tables if table["id"] == name)


def numbers(text):
    return [float(each) for each in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]


def assert_consistent(page, record):
    """What a reader could find wrong on a page of this verification."""
    tables = Tables(page)
    for table in tables.tables:
        assert table["caption"] is not None or len(table["rows"][0][1]) == 2, "a table without a caption"
        for column, title in enumerate(table["head"]):
            cells = [cells[column] for _, cells in table["rows"] if len(cells) == len(table["head"])]
            assert not cells or set(cells) != {"unknown"}, f"nothing is known in column {title!r}"
    verdicts = tables.named("verdicts")["rows"]
    assert sorted(row["data-metric"] for row, _ in verdicts) == sorted(each.metric for each in record.budgets)
    stated = {}
    for row, (_, budget, _, value, verdict) in verdicts:
        metric, outcome = row["data-metric"], row["data-verdict"]
        assert outcome in verdict and ("at least" if metric in AT_LEAST else "at most") in budget
        target, sign = numbers(budget)[0], -1 if metric in AT_LEAST else 1
        ends = numbers(value.partition("interval")[2])
        if ends and outcome == "met":
            assert max(sign * end for end in ends) <= sign * target, "met, although an end of the interval is beyond"
        if ends and outcome == "missed":
            assert min(sign * end for end in ends) > sign * target, "missed, although an end of the interval is within"
        if ends and outcome == "inconclusive":
            low, high = sorted(sign * end for end in ends)
            assert low <= sign * target < high
        if outcome in ("not judged", "inconclusive"):
            assert len(verdict) > len(outcome) + 10, "without a reason"
        stated[metric] = (value, outcome)
    rows = {row["data-statistic"]: (row["data-metric"], cells) for row, cells in statistics(tables)}
    assert list(rows)[:7] == [
        "min", "mean", "median (p50)", "percentile 90 % (p90)", "percentile 95 % (p95)", "percentile 99 % (p99)", "max",
    ]  # fmt: skip
    for metric, (_, value, interval, budget) in rows.values():
        if metric not in stated:
            assert budget == "no budget"
            continue
        assert stated[metric][1] in budget
        assert numbers(stated[metric][0]) == numbers(value) + numbers(interval), "one statistic with two values"
    if record.comparison is not None:
        text = re.search(r'<section id="comparison">.*?</section>', page, re.DOTALL)[0]
        assert page.count("above zero, the network is slower than predicted") == 1
        facts = {cells[0]: cells[1] for _, cells in Tables(text).tables[0]["rows"]}
        shown = numbers(facts.get("Drift-corrected") or facts["Measured"])[0]
        predicted, gap = numbers(facts["Predicted"])[0], numbers(facts["Prediction error"])[0]
        assert gap == pytest.approx(100 * (shown / predicted - 1), abs=0.3), "a gap that belongs to other numbers"
    headline = re.search(r'<p class="verdict">(.*?)</p>', page)[1].lower()
    assert {"met": "met", "missed": "missed", "inconclusive": "inconclusive"}[record.verdict] in headline
    if record.verdict != "met":
        assert "every budget is met" not in page


def statistics(tables):
    return [each for table in tables.tables for each in table["rows"] if "data-statistic" in each[0]]


def assert_marked(page, markdown):
    """SIMULATED stands in every line of numbers that comes from a board."""
    tables = Tables(page)
    for _, cells in statistics(tables):
        assert "SIMULATED" in cells[1]
    for row, cells in tables.named("verdicts")["rows"]:
        assert "SIMULATED" in cells[4]
        assert "SIMULATED" in cells[3] or row["data-metric"] in ("params_m", "macs_m") or cells[3] == "no value"
    for table in tables.tables:
        for _, cells in table["rows"]:
            if cells[0] in ("Accuracy", "Energy", "Peak memory", "Predicted", "Drift", "Outputs", "Prediction error"):
                assert "SIMULATED" in cells[1] or not numbers(cells[1]), cells
    for line in markdown.splitlines():
        if re.search(r"\d (ms|mJ|MB)\b|accuracy on the board \d", line) and not line.startswith(
            ("- Asked", "- What to do")
        ):
            assert "SIMULATED" in line, line


def random_record(seed):
    """Of invented measurements near their budgets, some of which lack an interval or a value."""
    generator = np.random.default_rng(seed)
    near = lambda value: float(value * (1 + 0.02 * generator.standard_normal()))  # noqa: E731
    median_ms = float(10 ** generator.uniform(-2, 2))
    measured = run_folders.measured(
        median_ms, rounds=int(generator.choice([5, 40, 400])), spread=float(generator.choice([0.003, 0.01])), seed=seed,
        inferences_per_sample=int(generator.choice([1, 7])),
    )  # fmt: skip
    top1 = float(generator.uniform(0.6, 0.99))
    accuracy = AccuracyRecord(
        top1=top1, interval=(top1 - 0.01, min(1.0, top1 + 0.01)), images=900, reference_top1=top1, drop=0.001,
        drop_interval=(-0.004, 0.006),
    )  # fmt: skip
    energy = EnergyRecord(
        gross_mj=12.0, gross_interval_mj=(11.5, 12.5), net_mj=None, net_interval_mj=None, visits=int(generator.integers(1, 4)),
    )  # fmt: skip
    known = generator.random() < 0.7
    evidence = Evidence(
        measured, energy=energy if known else None, accuracy=accuracy if known else None, params_m=4.2, macs_m=512.0,
        peak_memory_mb=300.0 if known else None,
        predicted={"latency_ms": Predicted(near(median_ms), (0.97 * median_ms, 1.03 * median_ms))},
    )  # fmt: skip
    everything = {
        "latency_ms": near(median_ms), "mean_ms": near(median_ms), "p90_ms": near(median_ms), "p95_ms": near(median_ms),
        "p99_ms": near(median_ms), "energy_mj": near(12.0), "net_energy_mj": 5.0, "peak_memory_mb": near(300.0),
        "params_m": near(4.2), "macs_m": near(512.0), "accuracy": min(0.999, near(top1)), "accuracy_drop": 0.005,
        "throughput_per_s": 1000.0 / near(median_ms),
    }  # fmt: skip
    assert set(everything) == set(UNITS)
    asked = dict(list(everything.items())[seed % 13 :][: 1 + seed % 5]) or {"latency_ms": near(median_ms)}
    predicted = evidence.predicted["latency_ms"]
    corrected_ms = 0.98 * measured.median.latency_ms if generator.random() < 0.5 else None
    comparison = ComparisonRecord(
        metric="latency_ms",
        predicted=LatencyEstimate(latency_ms=predicted.value, interval_ms=predicted.interval),
        corrected=corrected_ms and LatencyEstimate(latency_ms=corrected_ms, interval_ms=None),
        drift=corrected_ms and DriftRecord(ratio=1.02, interval=(1.01, 1.03), confidence=0.95, sentinels={"a": 1.02}),
        day_deviation=0.01 if corrected_ms else None,
        gap=(corrected_ms or measured.median.latency_ms) / predicted.value - 1,
    )
    outputs = Agreement(images=9, max_abs_difference=0.1, relative_difference=0.1, cosine=0.999, top1_agreement=None)
    return run_folders.verification(
        asked, evidence, comparison=comparison, reference="outputs.npz", outputs=outputs,
        simulated=bool(generator.random() < 0.4), host="board",
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(24))
def test_no_page_of_a_verified_file_contradicts_itself(tmp_path, seed):
    record = random_record(seed)

    report = build_verification_report(record, tmp_path)

    page, markdown = report.html.read_text(), report.markdown.read_text()
    assert overall(record.budgets)[0] == record.verdict
    assert_consistent(page, record)
    if record.simulated:
        assert_marked(page, markdown)
    assert report.missing == {}
    assert len(markdown) < 60_000, "too long for the comment of a pull request"


@pytest.mark.parametrize(
    "asked", [{"latency_ms": 0.9}, {"latency_ms": 0.9, "p95_ms": 0.88}, {"p95_ms": 0.91, "energy_mj": 3.0}]
)
@pytest.mark.parametrize("simulated", [False, True])
def test_no_page_of_a_run_contradicts_itself(tmp_path, write_run, asked, simulated):
    folder = write_run(tmp_path / "run", simulated=simulated)
    run = Run.open(folder)
    write_verification(run, 0.86, 0.9, np.random.default_rng(3), {"latency_ms": 0.9, **asked})

    report = build_report(folder)

    assert_consistent(report.html.read_text(), run.verification)
    if simulated:
        assert_marked(report.html.read_text(), report.markdown.read_text())


def test_a_budget_of_the_run_that_the_verification_left_out_is_not_judged(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    write_verification(Run.open(folder), 0.86, 0.9, np.random.default_rng(3), {"p95_ms": 2.0})

    rows = json.loads(build_report(folder).json.read_text())["verdicts"]

    assert {row["metric"]: row["verdict"] for row in rows}["latency_ms"] == "not judged"


def test_a_p95_above_the_target_of_p50_stands_with_no_budget(tmp_path):
    measured = run_folders.measured(0.058).model_copy(
        update={"p95": LatencyEstimate(latency_ms=0.0616, interval_ms=(0.0611, 0.0620))}
    )

    page = build_verification_report(run_folders.verification({"latency_ms": 0.06}, Evidence(measured)), tmp_path).html

    rows = {row["data-metric"]: cells for row, cells in statistics(Tables(page.read_text()))}
    assert rows["latency_ms"][3].endswith(": met")
    assert rows["p95_ms"][1] == "0.0616 ms" and rows["p95_ms"][3] == "no budget"


def test_rounding_never_hides_on_which_side_of_the_budget_a_number_is(tmp_path):
    measured = run_folders.measured(0.9).model_copy(
        update={"median": LatencyEstimate(latency_ms=0.89999, interval_ms=(0.8991, 0.90004))}
    )
    record = run_folders.verification({"latency_ms": 0.9}, Evidence(measured))

    page = build_verification_report(record, tmp_path).html.read_text()

    assert "at most 0.90000 ms" in page and "0.89910 to 0.90004 ms" in page


def choice(own, others, top_scored=OPERATORS):
    """`others`: losses."""
    candidates = tuple(
        CandidateRecord(operators=("skip", "skip"), metrics={}, supernet=SupernetScore(loss=loss, accuracy=None))
        for loss in others
    )
    return ChoiceRecord(
        budget="a",
        exact=True,
        top_scored=top_scored,
        supernet=SupernetScore(loss=own, accuracy=None),
        others=candidates,
    )


def test_a_choice_against_a_lower_loss_says_so_and_why():
    text = why_chosen(choice(0.51234, [0.51229, 0.7]))

    assert "does not have the lowest loss: 0.51234, and another has 0.51229" in text
    assert "operator scores" in text and "By both together" in text


def test_a_choice_of_the_lowest_loss_says_that_and_names_the_better_score_of_another():
    assert "no other has a lower loss" in why_chosen(choice(0.5, [0.6], top_scored=("skip", "skip")))
    assert "has the highest operator score, and none has a lower loss" in why_chosen(choice(0.5, [0.6]))


def test_losses_that_are_not_known_are_not_compared():
    assert "not known" in why_chosen(choice(None, [0.6]))


def test_a_table_without_shares_has_no_column_of_shares(run_folder):
    table = run_folder / "lut.jsonl"
    kept = [line for line in table.read_text().splitlines() if '"key":"head@' not in line]
    table.write_text("\n".join(kept) + "\n")
    run = Run.open(run_folder)
    run.save_found(run.architecture, run.found.predicted, run.found.choice)

    page = build_report(run_folder).html.read_text()

    assert "unknown" not in re.sub(r"<h2>Where the numbers.*", "", page, flags=re.DOTALL)
    assert ">Share<" not in page


def windows(*medians, throttled=()):
    return tuple(
        SustainedWindow(
            t_s=20.0 * index, median_ms=value, p95_ms=1.1 * value, temperature_c=40.0 + index, gpu_mhz=921.0, cpu_mhz=None,
            throttled_by=("gpu-thermal",) if index in throttled else (),
        )
        for index, value in enumerate(medians)
    )  # fmt: skip


def test_a_load_shows_its_first_minute_against_its_last_and_what_throttled(tmp_path):
    load = SustainedRecord(
        asked_s=180.0, elapsed_s=180.0, windows=windows(*[10.0] * 5, *[11.0] * 5, throttled=(8, 9)), first_ms=10.0,
        last_ms=11.0, trend_per_minute=0.02,
    )  # fmt: skip
    record = run_folders.verification({"latency_ms": 12.0}, Evidence(run_folders.measured(11.0)), sustained=load)

    report = build_verification_report(record, tmp_path)

    for text in (report.html.read_text(), report.markdown.read_text()):
        assert "median 10.0 ms in the first minute, 11.0 ms in the last minute, 10.0 % slower" in text
        assert "Temperature 40 °C at the start, 49 °C at the end" in text
        assert "Throttled in 2 of 10 windows, by gpu-thermal" in text
        assert "still rising by 2.0 % per minute" in text
    assert re.search(r'aria-label="[^"]*over 3 min of load; throttled in 2 of 10 windows"', report.html.read_text())


def test_a_load_on_a_board_without_sensors_claims_nothing_of_them(tmp_path):
    bare = tuple(
        each.model_copy(update={"temperature_c": None, "gpu_mhz": None, "throttled_by": None})
        for each in windows(10.0, 10.0)
    )
    load = SustainedRecord(
        asked_s=20.0, elapsed_s=20.0, windows=bare, first_ms=10.0, last_ms=10.0, trend_per_minute=None
    )
    record = run_folders.verification({"latency_ms": 12.0}, Evidence(run_folders.measured(10.0)), sustained=load)

    report = build_verification_report(record, tmp_path)

    text = report.markdown.read_text()
    assert "in the first third" in text and "Throttling cannot be read" in text and "temperature is not known" in text
    assert report.missing == {}
