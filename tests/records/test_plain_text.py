"""Text from boards and files cannot command the terminal."""

import pytest

from lightnas_edge.records.plain_text import clean_lines, clean_text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("nothing to clean", "nothing to clean"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b2Jerased", "erased"),
        ("\x1b]0;title\x07shown", "shown"),
        ("\x1b]52;c;cm0gLXJmIC8=\x1b\\clipboard", "clipboard"),
        ("\x1b]8;;https://example.com\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("unfinished \x1b]0;swallows the rest", "unfinished"),
        ("\x1bPq#0\x1b\\device control", "device control"),
        ("\x1bcreset", "reset"),
        ("one\r\ntwo\u2028three\tfour", "one two three four"),
        ("bell\x07 null\x00 delete\x7f", "bell null delete"),
        ("user\u202etxt.exe\u2066!\u2069", "usertxt.exe!"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("  spaces   around  ", "spaces around"),
        ("Größe 20 µs ≤ 3 %, 温度", "Größe 20 µs ≤ 3 %, 温度"),
        ("", ""),
    ],
)
def test_only_printable_characters_and_single_spaces_are_left(text, cleaned):
    assert clean_text(text) == cleaned


def test_markup_is_kept_as_text():
    """Printing decides what is markup; the words of a board are not changed for it."""
    assert clean_text("[red]x[/red] <b> **") == "[red]x[/red] <b> **"


def test_a_long_text_is_cut():
    assert clean_text("a" * 50, max_chars=10) == "aaaaaaa..."
    assert clean_text("a" * 10, max_chars=10) == "a" * 10


def test_removing_a_sequence_leaves_no_other_behind():
    """A sequence inside a sequence must not become one when the inner one is removed."""
    cleaned = clean_text("\x1b\x1b[31m[2J" * 3 + "\x1b[\x1b[0m31mtext")

    assert cleaned.isprintable()


def test_lines_stay_lines_and_each_is_cleaned():
    assert clean_lines("one\x1b[2J\n\n  two\u202e  \r\nthree\nfour", max_lines=3) == "one\ntwo\nthree"
