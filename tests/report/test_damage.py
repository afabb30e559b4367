"""One damaged part of a run costs that part alone, is named, and never ends in a traceback."""

import json
import random
import zlib

import pytest

from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.records.report import ReportRecord
from lightnas_edge.report import build_report, draw_front, read_snapshot
from lightnas_edge.runs import Run
from lightnas_edge.search import read_front
from tests.mutations import mutated_json
from tests.report.conftest import FOUND, write_sample_run

# Part of the run -> what the report lacks without it. A part that was made from a damaged one cannot be checked.
COST = {
    "architecture.json": {"network", "predictor", "table", "training", "export", "verification"},
    "lut.jsonl": {"table"},
    "predictor.json": {"predictor"},
    "search/metrics.jsonl": {"search"},
    "train/metrics.jsonl": {"epochs"},
    "train/result.json": {"training", "export", "verification"},
    "export/export.json": {"export", "verification"},
    "verify/verification.json": {"verification"},
}
_DRAWN = {"lut.jsonl", "predictor.json", "search/metrics.jsonl", "train/metrics.jsonl", "front.json"}
_CHAIN = {"train/result.json", "export/export.json", "verify/verification.json"}
# Every file that the report reads -> the others that its test leaves out.
FILES = {
    **{name: sorted(_DRAWN) for name in sorted(_CHAIN)},
    **{name: sorted((_DRAWN | _CHAIN) - {name}) for name in ["run.json", "architecture.json", *sorted(_DRAWN)]},
}
PER_FILE = 24


@pytest.mark.parametrize("part", COST)
@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "verification", "schema": 3}', "\x00\xff", "[" * 100_000])
def test_a_damaged_part_costs_itself_alone(run_folder, part, content):
    (run_folder / part).write_text(content)

    snapshot = read_snapshot(run_folder)

    assert set(snapshot.missing) == COST[part]
    assert all(text.startswith("not available: ") and "\n" not in text for text in snapshot.missing.values())
    assert len(snapshot.blocks) == (0 if part == "architecture.json" else 11)


@pytest.mark.parametrize("part", ["search/metrics.jsonl", "train/metrics.jsonl", "lut.jsonl"])
def test_a_damaged_line_costs_itself_alone_and_is_named(run_folder, part):
    lines = (run_folder / part).read_text().splitlines()
    lines[3] = lines[3].replace("0.", "oops", 1)
    (run_folder / part).write_text("\n".join(lines) + "\n")
    if part == "lut.jsonl":  # otherwise its checksum is that of another table
        run = Run.open(run_folder)
        run.save_found(run.architecture, run.found.predicted, run.found.choice)

    report = build_report(run_folder)

    assert report.missing == {}
    assert f"{part} line 4" in report.markdown.read_text()


def test_many_damaged_lines_are_counted(run_folder):
    path = run_folder / "search/metrics.jsonl"
    path.write_text(path.read_text().replace('"search-step"', '"walk"', 50))

    assert "and 47 more damaged lines in the same file" in build_report(run_folder).markdown.read_text()


def mutations(path, generator):
    """The content of a file damaged: whole records, or single lines where the file holds one record a line."""
    if path.suffix == ".json":
        record = json.loads(path.read_text())
        for _ in range(PER_FILE):
            yield mutated_json(record, generator)
        return
    lines = path.read_bytes().splitlines()
    for place in (0, len(lines) - 1):
        record = {key: value for key, value in json.loads(lines[place]).items() if key != "crc32"}
        for _ in range(PER_FILE // 4):  # fewer, since each is drawn
            damaged = mutated_json(record, generator)
            if path.name == "lut.jsonl" and damaged.endswith(b"}"):  # with the checksum of the damage
                damaged = damaged[:-1] + b',"crc32":"%08x"}' % zlib.crc32(damaged)
            yield b"\n".join([*lines[:place], damaged, *lines[place + 1 :], b""])


@pytest.mark.parametrize("name", FILES)
def test_no_content_of_any_file_ends_in_a_traceback(tmp_path, name):
    """Wrong types, missing fields, NaN, huge integers, deep nesting, wrong encoding. Of the parts that are drawn, the
    run holds the damaged one alone: the others are drawn in the other tests.
    """
    folder = write_sample_run(tmp_path / "run", epochs=2)
    run = Run.open(folder)
    run.save_front(front_of(run))
    found = run.found
    for other in FILES[name]:
        (folder / other).unlink()
    run.save_found(FOUND, found.predicted, found.choice)
    refused = 0
    for content in mutations(folder / name, random.Random(name)):
        (folder / name).write_bytes(content)
        if name in ("lut.jsonl", "predictor.json"):  # or the damage would end at the hash of another file
            run.save_found(FOUND, found.predicted, found.choice)
        try:
            report = build_report(folder)
        except LightnasEdgeError:  # without run.json there is no run
            assert name == "run.json"
            refused += 1
        else:
            record = ReportRecord.load(report.json)
            assert (record.verdict is None) == ("verification" in record.missing)
            refused += bool(record.missing.keys() & COST.get(name, {"front"})) or bool(record.warnings)
    assert refused >= PER_FILE // 3


def front_of(run):
    front = read_front(run)
    return front.model_copy(update={"networks": front.networks * 2})


def extremes(value, generator_value):
    """The same JSON with every number that is no count replaced."""
    if isinstance(value, dict):
        return {key: extremes(item, generator_value) for key, item in value.items()}
    if isinstance(value, list):
        return [extremes(item, generator_value) for item in value]
    return generator_value if isinstance(value, float) else value


@pytest.mark.parametrize("number", [1e308, 5e-324, 1e-300, 1e150])
def test_numbers_at_the_limits_of_a_float_cost_at_most_the_plot(run_folder, number):
    path = run_folder / "verify/verification.json"
    record = json.loads(path.read_text())
    for name in ("measured", "comparison", "budgets"):
        record[name] = extremes(record[name], number)
    record["comparison"]["drift"]["confidence"] = 0.95  # a share
    path.write_text(json.dumps(record))

    report = build_report(run_folder)

    assert set(report.missing) <= {"plot of latency", "plot of intervals", "plot of scatter"}
    assert all("failed" in text for text in report.missing.values())


def test_a_front_with_a_hostile_name_is_still_a_picture(run_folder, tmp_path):
    networks = [
        network.model_copy(update={"board": "<b>\x1b]0;x\x07\x00&" + "n" * 5000})
        for network in front_of(Run.open(run_folder)).networks
    ]

    draw_front(tmp_path / "front.svg", networks)

    text = (tmp_path / "front.svg").read_text()
    assert "<b>" not in text and "\x1b" not in text and "\x00" not in text
    assert "n" * 100 not in text
