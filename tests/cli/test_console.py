"""Progress without a terminal, and text of unknown origin that reaches a terminal."""

import io
import json
import time

import pytest

from lightnas_edge.cli import _console
from lightnas_edge.cli._console import info, output, print_json, print_result, print_table, progress, warn

HOSTILE = [
    "\x1b]52;c;ZWNobyBoYWNrZWQ=\x07",  # writes to the clipboard
    "\x1b[31mred\x1b[0m",
    "\x9b2J",
    "\u202eesrever\u202c",
    "bell\x07 back\x08",
]
MARKUP = ["[bold]loud[/bold]", "[link=http://x]y[/link]", ":smile:"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def is_harmless(text):
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_printed_steers_the_terminal(text, capsys):
    with output():
        print_result(f"status {text}")
        info(f"key {text}")
        warn(f"file {text}.lut.jsonl")
        print_table(["name", text], [[text, "1"]], title=text)
        with progress(f"measuring {text}") as bar:
            bar(1, 2, text)
    out, err = capsys.readouterr()

    assert "status" in out and "key" in err and "warning: file" in err
    assert is_harmless(out) and is_harmless(err)


@pytest.mark.parametrize("text", MARKUP)
def test_nothing_printed_is_read_as_markup(text, capsys):
    with output():
        print_result(text)
        info(text)
        print_table([text, "n"], [[text, text]])
    out, err = capsys.readouterr()

    assert out.count(text) == 4 and err.count(text) == 1


@pytest.mark.parametrize("text", [*HOSTILE, *MARKUP])
def test_a_bar_on_a_terminal_shows_text_and_nothing_else(text, monkeypatch):
    """What the program itself draws with, moving the cursor and colours, is known; nothing else reaches the terminal."""
    drawn = {}
    for name, each in (("plain", "PLAIN"), ("given", text)):
        stream = Terminal()
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "200")
        with output(), progress(each) as bar:
            bar(1, 2, each)
        drawn[name] = stream.getvalue()

    assert "PLAIN" in drawn["plain"]
    assert "\x1b]" not in drawn["given"] and "\x9b" not in drawn["given"] and "\x07" not in drawn["given"]
    assert "\u202e" not in drawn["given"] and "\x1b[31m" not in drawn["given"]
    if text in MARKUP:
        assert text in drawn["given"]


def test_indentation_and_lines_of_a_message_stay(capsys):
    print_result("lowest   1.2 ms\n  - of two lines")

    assert capsys.readouterr().out == "lowest   1.2 ms\n  - of two lines\n"


def test_without_a_terminal_a_line_comes_again_and_again_although_nothing_moves(monkeypatch, capsys):
    monkeypatch.setenv("LIGHTNAS_EDGE_PROGRESS_S", "0.02")
    with output(), progress("measuring tiny") as bar:
        bar(30, 120, "round 1", 90.0)
        lines = wait_for(lambda: capsys.readouterr().err.splitlines(), 3)

    assert lines[0].startswith("measuring tiny: 30 of 120 (25 %), 0 s elapsed, 1 min 30 s left; round 1")


def test_progress_without_a_total_says_that_it_lives(monkeypatch, capsys):
    monkeypatch.setenv("LIGHTNAS_EDGE_PROGRESS_S", "0.02")
    with output(), progress("reading images"):
        lines = wait_for(lambda: capsys.readouterr().err.splitlines(), 1)

    assert lines[0] == "reading images: 0 s elapsed, time left unknown"


def test_the_time_left_follows_the_pace_since_the_resume():
    pace = _console._Pace("x")
    pace.update(50, 100, "", None)
    pace._first = (time.monotonic() - 10, 50)
    pace.update(60, 100, "", None)

    assert pace.left_s() == pytest.approx(40, rel=0.01)


@pytest.mark.parametrize(
    ("value", "expected"), [("", 30), ("5", 5), ("soon", 30), ("-1", 30), ("nan", 30), ("inf", 30)]
)
def test_the_interval_is_a_number_of_seconds_or_thirty(value, expected, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_PROGRESS_S", value)

    assert _console._interval_s() == expected


def test_quiet_leaves_warnings_and_the_log_file_gets_everything(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIGHTNAS_EDGE_PROGRESS_S", "0.02")
    log = tmp_path / "log.txt"
    with output(quiet=True, log_file=log):
        info("a note")
        warn("a warning")
        print_result("the result")
        with progress("measuring"):
            wait_for(lambda: log.read_text().splitlines()[3:], 1)
    out, err = capsys.readouterr()

    assert (out, err) == ("the result\n", "warning: a warning\n")
    text = log.read_text()
    for part in ("a note", "WARNING lightnas_edge.cli: a warning", "the result", "measuring: "):
        assert part in text


def test_a_number_that_is_not_known_is_null_in_json(capsys):
    print_json({"value": float("nan"), "rows": [float("inf"), 1.0]})

    assert json.loads(capsys.readouterr().out) == {"value": None, "rows": [None, 1.0]}


def wait_for(read, count):
    lines = []
    for _ in range(1000):
        lines += read()
        if len(lines) >= count:
            return lines
        time.sleep(0.01)
    raise AssertionError(f"{count} lines did not come: {lines}")
