"""Text of unknown origin, made safe to print: what a board or a file says can hold commands to the terminal."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_CHARS = 2000
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, erasing
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"  # OSC and other strings: title, clipboard
    r"|\x1b[ -/]*[0-~]"  # everything else that ESC begins
)


def clean_text(text: str, max_chars: int = MAX_CHARS) -> str:
    """One line without escape sequences, control characters, invisible characters and changes of direction.

    Line ends and other blanks become single spaces. A longer text is cut and ends in `...`.
    """
    if not text.isprintable() or "  " in text:
        text = _ESCAPE.sub("", text)
        # Not printable, by Unicode: controls, formats (bidi overrides, zero widths), surrogates, private, unassigned.
        text = "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)
    text = " ".join(text.split())
    return text if len(text) <= max_chars else text[: max(max_chars - 3, 0)].rstrip() + "..."


def clean_lines(text: str, max_lines: int = 20, max_chars: int = MAX_CHARS) -> str:
    """The same for a text of several lines: each is cleaned, empty ones and those after `max_lines` are left out."""
    lines = [line for each in text.splitlines() if (line := clean_text(each, max_chars))]
    return "\n".join(lines[:max_lines])


def first_line(error: BaseException) -> str:
    """What another library says, for the middle of a sentence; some of their errors have no text."""
    return next(iter(clean_lines(str(error), 1).splitlines()), type(error).__name__)


# A field of a record that a board wrote for people.
Line = Annotated[str, Field(max_length=1_000_000), AfterValidator(clean_text)]
Lines = Annotated[str, Field(max_length=1_000_000), AfterValidator(clean_lines)]
