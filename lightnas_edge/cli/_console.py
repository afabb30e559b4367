"""What people see: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


def say(line: str) -> None:
    """One line of result, on stdout."""
    print(plain(line), flush=True)


def plain(text: str) -> str:
    """Control characters spelled out: what a board or a file says must not steer the user's terminal."""
    return "".join(
        letter if letter in "\n\t" or ord(letter) >= 160 or 32 <= ord(letter) < 127 else f"\\x{ord(letter):02x}"
        for letter in text
    )


def note(line: str) -> None:
    """Something worth knowing beside the result, on stderr."""
    print(plain(line), file=sys.stderr, flush=True)


def warn(line: str) -> None:
    print(f"warning: {plain(line)}", file=sys.stderr, flush=True)


def print_json(record: Any) -> None:
    print(json.dumps(record, indent=2, allow_nan=False), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """A table on stdout; every column but the first is right-aligned. Never cut, whatever the terminal's width."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    wide = Console(file=sys.stdout, highlight=False, markup=False, width=10_000)
    Console(file=sys.stdout, highlight=False, markup=False, width=wide.measure(table).maximum).print(table)


class Bar(Protocol):
    def __call__(self, done: float, total: float, text: str = "", left_s: float | None = None) -> None: ...


@contextmanager
def progress(title: str) -> Iterator[Bar]:
    """A bar on stderr with the time left; silent when stderr is not a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("[dim]{task.fields[text]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None, text="", left="")

        def update(done: float, total: float, text: str = "", left_s: float | None = None) -> None:
            if left_s is None:
                left_s = bars.tasks[0].time_remaining
            left = "" if left_s is None else f"{duration(left_s)} left"
            bars.update(task, completed=done, total=total, text=text, left=left)

        yield update


def duration(seconds: float) -> str:
    """`47 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def ms(value: float | None) -> str:
    """Milliseconds with three decimals below 10 and two above, or `not available`."""
    if value is None or math.isnan(value):
        return "not available"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def percent(value: float | None, digits: int = 1) -> str:
    return "not available" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def known(value: float) -> float | None:
    """For JSON: a number that is not known is null."""
    return None if math.isnan(value) else value
