"""Options that every command has, wrong usage, and how a command ends that fails."""

import signal
import subprocess
import sys
import time

import pytest

from lightnas_edge.cli import all_commands, leaf_parsers, profile_device, profile_device_alone
from lightnas_edge.cli._interrupts import ACKNOWLEDGED
from tests.cli.commands import environment, program, run

LEAVES = [*leaf_parsers(all_commands()), profile_device_alone()]


@pytest.mark.parametrize("parser", LEAVES, ids=[parser.prog for parser in LEAVES])
def test_every_command_takes_the_output_options_and_no_abbreviation(parser):
    known = parser._option_string_actions

    assert {"-v", "--verbose", "-q", "--quiet", "--log-file"} <= set(known)
    assert not parser.allow_abbrev


REPORTING = [parser for parser in LEAVES if parser.prog.split()[-1] not in ("add", "remove", "clean", "release")]


@pytest.mark.parametrize("parser", REPORTING, ids=[parser.prog for parser in REPORTING])
def test_every_command_that_reports_has_json(parser):
    if parser.prog in ("lightnas-edge lut export", "lightnas-edge completion"):
        pytest.skip("writes CSV, or a script")
    assert "--json" in parser._option_string_actions


@pytest.mark.parametrize(
    "command",
    [
        ("profile", "--space", "tiny", "--host", "one", "--host", "two"),
        ("search", "--host", "one", "--host", "two", "--latency-ms", "3"),
        ("verify", "run", "--rounds", "3", "--rounds", "4"),
        ("fit", "--space", "tiny", "--lut", "a", "--lut", "b"),
    ],
)
def test_an_option_with_one_value_is_given_once(command):
    answer = run(*command)

    assert answer.code == 2 and "given twice; it takes one value" in answer.err


def test_an_option_that_may_be_repeated_is_not_refused(tmp_path):
    answer = run("fit", "--space", "tiny", "--samples", tmp_path / "a", "--samples", tmp_path / "b")

    assert answer.code == 1 and "given twice" not in answer.err


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (("serch",), "did you mean 'search'?"),
        (("train", "run", "--device", "cudo"), "did you mean 'cuda'? (choose from 'auto', 'cpu', 'cuda')"),
        (("fit", "--space", "tiny", "--lut", "x", "--metric", "latncy_ms"), "did you mean 'latency_ms'?"),
        (("lut", "shw"), "did you mean 'show'?"),
    ],
)
def test_an_unknown_choice_lists_the_choices_and_the_closest(command, meant):
    answer = run(*command)

    assert answer.code == 2 and meant in answer.err and "choose from" in answer.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("profile", "--space", "tiny", "--seed", "-1"), "--seed: expected a whole number from 0 to"),
        (("profile", "--space", "tiny", "--seed", "9" * 30), "--seed: expected a whole number from 0 to"),
        (("profile", "--space", "tiny", "--power-mode", "-1"), "--power-mode: expected the name or the number"),
        (("profile", "--space", "tiny", "--build-timeout", "0.1"), "--build-timeout: expected 1 to 1e+06 seconds"),
        (("train", "run", "--workers", "-1"), "--workers: expected a whole number from 0 to"),
        (("train", "run", "--lr", "nan"), "--lr: expected a number above 0"),
        (("train", "run", "--fresh", "--resume"), "not allowed with argument"),
        (("profile", "--space", "tiny", "--fresh", "--resume"), "not allowed with argument"),
        (("space", "list", "-v", "-q"), "not allowed with argument"),
    ],
)
def test_values_that_cannot_be_are_wrong_usage(command, message):
    answer = run(*command)

    assert answer.code == 2 and message in answer.err


def test_a_password_is_asked_for_at_a_terminal_only(tmp_path):
    ran = program(
        "profile", "--space", "tiny", "--host", "virtual:jetson-orin-nano", "--ask-sudo-password", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    _, err = ran.communicate(timeout=60)

    assert ran.returncode == 2
    assert "--ask-sudo-password needs a terminal" in err and "Traceback" not in err


def test_both_spellings_of_the_profiler_answer_with_their_names(capsys):
    assert run("profile-device", "--help").out.startswith("usage: lightnas-edge profile-device")
    assert run("profile", "--help").out.startswith("usage: lightnas-edge profile ")
    profile_device(["--help"])
    assert capsys.readouterr().out.startswith("usage: profile-device ")


def test_a_log_file_that_cannot_be_written_is_wrong_usage(tmp_path):
    answer = run("space", "list", "--log-file", tmp_path / "no" / "log.txt")

    assert answer.code == 2 and answer.out == "" and "cannot write the log file" in answer.err


def test_an_unexpected_error_is_a_message_and_the_log_file_holds_its_causes(tmp_path, monkeypatch):
    def fail(name):
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise ZeroDivisionError("the end") from cause

    monkeypatch.setattr("lightnas_edge.cli.space.load_space", fail)
    log = tmp_path / "log.txt"

    short = run("space", "show", "tiny")
    logged = run("space", "show", "tiny", "--log-file", log)
    long = run("space", "show", "tiny", "-v")

    assert (short.code, logged.code, long.code) == (1, 1, 1)
    assert short.err == "unexpected ZeroDivisionError: the end\n  --log-file FILE keeps the traceback, -v shows it\n"
    assert "log.txt holds the traceback" in logged.err and "Traceback" not in logged.err
    for text in (log.read_text(), long.err):
        assert text.index("KeyError: 'the cause'") < text.index("The above exception was the direct cause")
    assert "lightnas-edge" in log.read_text() and "space show tiny" in log.read_text()


@pytest.mark.parametrize("error", [RecursionError("deep"), MemoryError(), OSError(5, "Input/output error", "x")])
def test_no_error_ends_in_a_bare_traceback(error, monkeypatch):
    def fail(name):
        raise error

    monkeypatch.setattr("lightnas_edge.cli.space.load_space", fail)

    answer = run("space", "show", "tiny")

    assert answer.code == 1 and type(error).__name__ in answer.err and "Traceback" not in answer.err


def test_the_first_interrupt_is_acknowledged_while_the_program_is_busy_elsewhere():
    """A handler that only notes the signal, as the training loop's does, stands for a long step."""
    code = (
        "import signal, sys, time; from lightnas_edge.cli._interrupts import acknowledge_interrupts\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "with acknowledge_interrupts():\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(0.05)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout.readline() == "ready\n"

        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n" and process.stderr.readline() == f"{ACKNOWLEDGED}\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=30) == 130


def test_an_interrupted_command_says_so_and_ends_with_130(tmp_path):
    process = program(
        "profile", "--space", "tiny", "--rounds", "400", "--host", "virtual:jetson-nano", "--out", str(tmp_path / "t.lut.jsonl"),
        home=tmp_path,
    )  # fmt: skip
    limit_s = time.monotonic() + 60
    while not (tmp_path / "t.lut.jsonl").exists():
        assert process.poll() is None and time.monotonic() < limit_s
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert ACKNOWLEDGED in err and "the same command continues from there" in err
