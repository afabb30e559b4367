"""What people see: results on standard output; progress, notes and warnings on standard error and in the log file.

Whatever is printed may come from a board or from a file, so that all of it is cleaned and none of it is markup.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.files import finite
from lightnas_edge.records.plain_text import clean_text

_PACKAGES = ("lightnas_edge", "devices", "luts")  # the loggers that this program writes to
_INTERVAL = "LIGHTNAS_EDGE_PROGRESS_S"  # seconds between two lines of progress where there is no terminal
_DEFAULT_INTERVAL_S = 30.0
_FIRST_S = 5.0  # until the first line
_ON_SCREEN = {"on_screen": True}  # of a log record: people see it already

_log = logging.getLogger("lightnas_edge.cli")


class UsageError(LightnasEdgeError):
    """Options that do not go together, or that ask for what cannot be."""

    exit_code = 2


# -- results: standard output -------------------------------------------------------------------------------


def print_result(line: str) -> None:
    """One line of the result."""
    print(_clean(line), flush=True)
    _log.debug("%s", line, extra=_ON_SCREEN)


def print_json(record: Any) -> None:
    """The result as one JSON document; unknown numbers are null."""
    print(json.dumps(finite(record), indent=2, allow_nan=False), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """A table; every column but the first is right-aligned. Never cut, whatever the terminal's width."""
    table = Table(title=Text(_one_line(title)) if title else None, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        header = Text(_one_line(column), style="bold")
        table.add_column(header, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_one_line(cell)) for cell in row))
    wide = Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=10_000)
    width = wide.measure(table).maximum
    Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width).print(table)
    for row in rows:
        _log.debug("%s", "  ".join(row), extra=_ON_SCREEN)


# -- notes and warnings: standard error ---------------------------------------------------------------------


def debug(line: str) -> None:
    """Shown with --verbose only; the log file has it always."""
    _log.debug("%s", line)


def info(line: str) -> None:
    """Something to know that is not the result."""
    _log.info("%s", line)


def warn(line: str) -> None:
    _log.warning("%s", line)


def report_error(line: str, error: BaseException | None = None) -> None:
    """The end of a command that failed; the log file gets the traceback with all causes."""
    _log.error("%s", line, exc_info=error)


@contextmanager
def output(*, verbose: bool = False, quiet: bool = False, log_file: Path | None = None) -> Iterator[None]:
    """Show what this program logs on standard error, and write all of it to a file too.

    Args:
        verbose: show debug messages and tracebacks.
        quiet: show warnings and errors only.

    Raises:
        UsageError: the log file cannot be written.
    """
    handlers: list[logging.Handler] = [_ScreenHandler(verbose=verbose, quiet=quiet)]
    if log_file is not None:
        try:
            file = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(f"cannot write the log file {log_file}: {error.strerror}") from error
        file.setFormatter(_FileFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        handlers.append(file)
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            for handler in handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            handler.close()


def is_quiet() -> bool:
    """Whether notes and progress are left out."""
    handlers = logging.getLogger(_PACKAGES[0]).handlers
    return any(isinstance(handler, _ScreenHandler) and handler.level > logging.INFO for handler in handlers)


@contextmanager
def silent(hushed: bool = True) -> Iterator[None]:
    """Errors alone reach the screen: of a process whose peer shows what both do."""
    handlers = [each for each in logging.getLogger(_PACKAGES[0]).handlers if isinstance(each, _ScreenHandler)]
    levels = [handler.level for handler in handlers]
    if hushed:
        for handler in handlers:
            handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


class _ScreenHandler(logging.Handler):
    def __init__(self, *, verbose: bool, quiet: bool) -> None:
        super().__init__(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
        self._verbose = verbose

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "on_screen", False):
            return
        prefix = {logging.WARNING: "warning: ", logging.DEBUG: "debug: "}.get(record.levelno, "")
        text = prefix + _clean(record.getMessage())
        if self._verbose and record.exc_info and record.exc_info[1]:
            text += "\n" + _clean("".join(traceback.format_exception(record.exc_info[1])).rstrip())
        with suppress(OSError, ValueError):  # nobody reads standard error any more
            print(text, file=sys.stderr, flush=True)


class _FileFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _clean(super().format(record))


# -- progress -----------------------------------------------------------------------------------------------


class Bar(Protocol):
    """Call it with every step. `left_s`: seconds to the end, where the caller knows better than the pace so far."""

    def __call__(self, done: float, total: float, text: str = "", left_s: float | None = None) -> None: ...


@contextmanager
def progress(title: str) -> Iterator[Bar]:
    """How far something long is, with the time left.

    On a terminal a bar. Elsewhere a line after a few seconds and then every 30 s, also while nothing moves;
    LIGHTNAS_EDGE_PROGRESS_S sets other seconds.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.fields[text]}", style="dim", markup=False),
    )
    pace = _Pace(title)
    console = Console(stderr=True)
    drawn = console.is_terminal and not is_quiet()
    ended = threading.Event()
    lines = threading.Thread(target=_log_progress, args=(pace, ended, drawn), daemon=True)
    # Results that are printed meanwhile must not be moved to standard error.
    with Progress(*columns, console=console, transient=True, disable=not drawn, redirect_stdout=False) as bars:
        task = bars.add_task(_one_line(title), total=None, text="", left="")

        def update(done: float, total: float, text: str = "", left_s: float | None = None) -> None:
            pace.update(done, total, text, left_s)
            left = pace.left_s()
            bars.update(
                task, completed=done, total=total, text=_one_line(text),
                left="" if left is None else f"{duration(left)} left",
            )  # fmt: skip

        lines.start()
        try:
            yield update
        finally:
            ended.set()
            lines.join()


class _Pace:
    """How far it is, how fast it goes."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began_s = time.monotonic()
        self._done, self._total, self._text = 0.0, 0.0, ""
        self._first: tuple[float, float] | None = (
            None  # when, and what was done then: a resumed job does not begin at 0
        )
        self._told: tuple[float, float] | None = None  # seconds left as the caller says, and when

    def update(self, done: float, total: float, text: str, left_s: float | None) -> None:
        now_s = time.monotonic()
        if self._first is None or done < self._first[1]:
            self._first = (now_s, done)
        self._done, self._total, self._text = done, total, text
        self._told = None if left_s is None else (left_s, now_s)

    def left_s(self) -> float | None:
        """Seconds to the end; None while that is unknown."""
        now_s = time.monotonic()
        if self._told is not None:
            return max(0.0, self._told[0] - (now_s - self._told[1]))
        if self._first is None or self._done <= self._first[1]:
            return None
        return (now_s - self._first[0]) / (self._done - self._first[1]) * max(0.0, self._total - self._done)

    def line(self) -> str:
        """`measuring tiny on nano: 412 of 3675 (11 %), 3 min 20 s left, round 2 of 25`."""
        elapsed = f"{duration(time.monotonic() - self._began_s)} elapsed"
        if not self._total:
            return f"{self._title}: {elapsed}, time left unknown"
        left = self.left_s()
        parts = [
            f"{self._done:g} of {self._total:g} ({100 * self._done / self._total:.0f} %)",
            elapsed,
            "time left unknown" if left is None else f"{duration(left)} left",
        ]
        return f"{self._title}: {', '.join(parts)}{f'; {self._text}' if self._text else ''}"


def _log_progress(pace: _Pace, ended: threading.Event, drawn: bool) -> None:
    interval_s = _interval_s()
    wait_s = min(_FIRST_S, interval_s)
    while not ended.wait(wait_s):
        wait_s = interval_s
        _log.info("%s", _one_line(pace.line()), extra=_ON_SCREEN if drawn else None)


def _interval_s() -> float:
    try:
        value = float(os.environ.get(_INTERVAL, ""))
    except ValueError:
        value = math.nan
    return value if 0 < value <= 24 * 3600 else _DEFAULT_INTERVAL_S


# -- values -------------------------------------------------------------------------------------------------


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


def with_error(value: float | None, error: float | None) -> str:
    """`0.17609 ± 0.00012`: as many decimals as `ms`, or as two figures of the error need."""
    if value is None or error is None or math.isnan(value) or math.isnan(error):
        return "not available"
    decimals = 3 if abs(value) < 10 else 2
    if error > 0:
        decimals = max(decimals, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def percent(value: float | None, digits: int = 1) -> str:
    return "not available" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def _clean(text: str) -> str:
    """Without anything that steers a terminal; lines and their indentation stay."""
    return "\n".join(map(_clean_line, text.split("\n")))


def _clean_line(line: str) -> str:
    if line.isprintable():
        return line
    indent = line[: len(line) - len(line.lstrip(" "))]
    return indent + clean_text(line, max_chars=len(line) + 1)


def _one_line(text: str) -> str:
    return clean_text(text, max_chars=10_000)
