"""Bad input: a clear message, the right exit code, nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

import luts
from tests.cli.commands import run


@pytest.fixture
def copy(whole_loop, tmp_path, monkeypatch):
    """A copy of what the steps left, to be damaged."""
    folder = tmp_path / "copy"
    shutil.copytree(whole_loop.folder, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "agent-home"))
    return folder


@pytest.mark.parametrize("budget", ["0", "-3", "nan", "inf", "soon"])
def test_a_budget_that_is_no_budget_is_wrong_usage(budget, copy):
    answer = run(
        "search", "--predictor", "p.predictor.json", "--latency-ms", budget, "--data", "digits", "--out", "new"
    )

    assert answer.code == 2
    assert "a budget is a positive number of milliseconds" in answer.err
    assert not (copy / "new").exists()


def test_an_impossible_budget_is_refused_before_any_training_with_the_reachable_range(copy):
    reach = json.loads(run("range", "--predictor", "p.predictor.json", "--json").out)

    answer = run(
        "search", "--predictor", "p.predictor.json", "--latency-ms", "1e-9", "--data", "digits", "--out", "new"
    )

    assert answer.code == 3
    assert "InfeasibleBudgetError" in answer.err
    assert f"the range is {reach['lowest']['latency_ms']:.4g} to" in answer.err
    assert not (copy / "new").exists()


def test_a_torn_last_line_is_reported_and_the_rest_is_used(copy):
    table = copy / "ops.lut.jsonl"
    table.write_bytes(table.read_bytes()[:-40])

    answer = run("lut", "check", table)

    assert answer.code == 1
    assert "24 of 24 operators found" in answer.out
    assert "ops.lut.jsonl:97:" in answer.err


def test_a_damaged_middle_line_is_named_and_measured_again(copy):
    table = copy / "ops.lut.jsonl"
    damaged = table.read_text().splitlines(keepends=True)
    damaged[50] = damaged[50].replace('"samples_ms":[', '"samples_ms":[9', 1)
    table.write_text("".join(damaged))
    assert len(luts.read(table).visits) == 95
    shutil.rmtree(copy / "agent-home")  # or the board's own copy would be there to compare with: see below

    answer = run("profile", "--space", "tiny", "--rounds", 4, "--out", table)

    assert answer.code == 0, answer.err
    assert "resumed after 95 of 96 visits" in answer.err
    assert len(luts.read(table).visits) == 96


def test_a_damaged_table_is_mended_from_the_boards_own(copy):
    table = copy / "ops.lut.jsonl"
    before = table.read_bytes()
    damaged = before.decode().splitlines(keepends=True)
    damaged[50] = damaged[50].replace('"samples_ms":[', '"samples_ms":[9', 1)
    table.write_text("".join(damaged))

    answer = run("profile", "--space", "tiny", "--rounds", 4, "--out", table)

    assert answer.code == 0, answer.err
    assert "ops.lut.jsonl has 1 damaged lines" in answer.err
    assert table.read_bytes() == before


def test_a_table_that_contradicts_the_boards_own_is_refused_and_unchanged(copy):
    table = copy / "ops.lut.jsonl"
    changed = table.read_text().splitlines(keepends=True)
    body = changed[50][: changed[50].rindex(',"crc32"')].replace('"samples_ms":[', '"samples_ms":[9', 1)
    changed[50] = f'{body},"crc32":"{zlib.crc32(body.encode() + b"}"):08x}"}}\n'
    table.write_text("".join(changed))
    before = table.read_bytes()

    answer = run("profile", "--space", "tiny", "--rounds", 4, "--out", table)

    assert answer.code == 1
    assert "ops.lut.jsonl line 51 and the board's journal of this job" in answer.err
    assert "line 51 are intact and differ" in answer.err
    assert "move the file away and fetch the board's" in answer.err
    assert table.read_bytes() == before


def test_a_table_of_another_board_is_not_continued(copy):
    table = copy / "ops.lut.jsonl"
    _rewrite_header(table, lambda header: header["fingerprint"].update(cpu="another"))
    shutil.rmtree(copy / "agent-home")
    before = table.read_bytes()

    answer = run("profile", "--space", "tiny", "--rounds", 5, "--out", table)

    assert answer.code == 1
    assert "cpu" in answer.err
    assert "another" in answer.err
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update(schema=99), "schema 99"),
        (lambda header: header.update(units={"latency": "s", "energy": "mJ"}), "'s'"),
    ],
)
def test_a_table_from_the_future_or_in_other_units_is_refused(change, message, copy):
    _rewrite_header(copy / "ops.lut.jsonl", change)

    answer = run("lut", "show", "ops.lut.jsonl")

    assert answer.code == 1
    assert message in answer.err


def test_a_table_that_lacks_operators_names_them_and_how_to_fill_it(copy):
    table = copy / "ops.lut.jsonl"
    header, *visits = table.read_text().splitlines(keepends=True)
    table.write_text("".join([header, *(line for line in visits if "mbconv_k5_e3@16x16-24s2" not in line)]))

    check = run("lut", "check", table)
    fit = run("fit", "--space", "tiny", "--lut", table)

    assert check.code == 1
    assert "23 of 24 operators found; missing: mbconv_k5_e3@16x16-24s2" in check.out
    assert fit.code == 1
    assert "mbconv_k5_e3@16x16-24s2" in fit.err


def test_a_run_directory_of_another_search_is_left_alone(copy):
    before = sorted(path.name for path in (copy / "run").rglob("*"))

    answer = run(
        "search", "--predictor", "p.predictor.json", "--latency-ms", 50, "--force", "--data", "digits", "--out", "run"
    )

    assert answer.code == 1
    assert "targets.latency_ms: was 100.0, now 50.0" in answer.err
    assert "--fresh" in answer.err
    assert sorted(path.name for path in (copy / "run").rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "nowhere"], "run.json does not exist"),
        (["export", "nowhere"], "does not exist"),
        (["report", "nowhere"], "run.json does not exist"),
        (["lut", "show", "nowhere.lut.jsonl"], "nowhere.lut.jsonl"),
        (["fit", "--space", "tiny"], "fit needs --lut, --samples or both"),
        (["range", "--lut", "ops.lut.jsonl"], "--lut needs --space"),
        (
            ["search", "--predictor", "p.predictor.json", "--latency-ms", "9", "--force", "--data", "no-such-folder"],
            "no-such-folder",
        ),
        (["profile", "--space", "tiny", "--only", "mbconv_k9_e9"], "no operator of space tiny matches"),
        (["profile", "--space", "tiny", "--precision", "fp16", "--out", "fp16.lut.jsonl"], "fp16"),
        (["frobnicate"], "invalid choice"),
    ],
)
def test_the_message_names_what_is_missing(command, message, copy):
    answer = run(*command)

    assert answer.code in (1, 2)
    assert message in answer.err


def test_ctrl_c_while_measuring_keeps_what_was_measured(copy):
    arguments = ["profile", "--space", "tiny", "--rounds", "400", "--out", "long.lut.jsonl"]
    process = _start(arguments)
    _wait_for(lambda: (copy / "long.lut.jsonl").exists() and (copy / "long.lut.jsonl").stat().st_size > 20_000, process)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "the same command continues from there" in err
    table = luts.read("long.lut.jsonl")
    assert not table.faults
    measured = len(table.visits)
    again = run("profile", "--space", "tiny", "--rounds", max(len(entry.visits) for entry in table.entries.values()),
                "--out", "long.lut.jsonl")  # fmt: skip
    assert again.code == 0, again.err
    visits = luts.read("long.lut.jsonl").visits
    assert len(visits) >= measured
    assert len({(visit.key, visit.round) for visit in visits}) == len(visits)  # none doubled


def test_ctrl_c_while_searching_keeps_the_search(copy):
    arguments = [
        "search", "--predictor", "p.predictor.json", "--latency-ms", "90", "--force", "--data", "digits", "--epochs", "3",
        "--out", "long",
    ]  # fmt: skip
    process = _start(arguments)
    metrics = copy / "long" / "search" / "metrics.jsonl"
    _wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, process)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not (copy / "long" / "architecture.json").exists()

    answer = run(*arguments)
    assert answer.code == 0, answer.err
    assert "resuming long" in answer.err
    assert (copy / "long" / "architecture.json").exists()


def test_ctrl_d_at_the_question_for_a_password_ends_in_a_sentence():
    """In a session without a terminal of its own: getpass then asks at the one that stdin is."""
    asking, answering = os.openpty()
    code = (
        "import argparse; from lightnas_edge.cli._options import sudo_password; "
        "print(sudo_password(argparse.Namespace(ask_sudo_password=True, host='nano')))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=answering, stderr=subprocess.PIPE, start_new_session=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    asked = b""
    while not asked.endswith(b"nano: "):
        letter = process.stderr.read(1)
        assert letter, asked
        asked += letter

    os.write(asking, b"\x04")

    _, err = process.communicate(timeout=60)
    assert "UsageError: no sudo password was given" in err.decode()


def _start(arguments):
    code = "import sys; from lightnas_edge.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )  # fmt: skip


def _wait_for(condition, process):
    limit_s = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit_s
        time.sleep(0.05)


def _rewrite_header(table, change):
    first, *rest = table.read_text().splitlines(keepends=True)
    header = json.loads(first)
    del header["crc32"]
    change(header)
    body = json.dumps(header, separators=(",", ":"))
    table.write_text("".join([f'{body[:-1]},"crc32":"{zlib.crc32(body.encode()):08x}"}}\n', *rest]))
