"""A field test from start to archive: every step isolated from the others, everything restored at the end."""

from __future__ import annotations

import contextlib
import logging
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Protocol

from devices import Connection, Status
from devices.cache import is_job
from lightnas_edge._version import __version__
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.field_test.archive import LOG, README, SUMMARY, pack, scrub
from lightnas_edge.field_test.bench import Bench, Found, Skip, StepTimeUp
from lightnas_edge.field_test.pages import readme
from lightnas_edge.field_test.plan import Plan
from lightnas_edge.field_test.records import FieldTestError, FieldTestRecord, StepRecord, StepStatus, take_snapshot
from lightnas_edge.field_test.scrub import Scrubber, this_machine, way_to
from lightnas_edge.field_test.steps import Step, steps
from lightnas_edge.files import write_atomic

_LONGEST_LOG = 1 << 20  # of one file of the board
_RESERVE_S = 180.0  # for what follows the steps
_LEAST_STEP_S = 300.0  # before a step is stopped: a board under load is slow
_LOGGED = ("lightnas_edge", "devices", "luts")
# Removes empty folders of the agent's home, the innermost first.
_REMOVE_FOLDERS = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.rmdir(path)
    except OSError:
        pass
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FieldTest:
    """A finished or an interrupted one."""

    record: FieldTestRecord
    archive: Path
    interrupted: bool
    signum: int | None = None  # of the signal that ended it: SIGTERM or SIGHUP; None for Ctrl-C


class Listener(Protocol):
    """What a field test reports while it runs."""

    def on_step(self, number: int, total: int, step: Step) -> None:
        """A step begins."""

    def on_status(self, status: Status) -> None:
        """The board's progress within a step."""

    def on_done(self, record: StepRecord) -> None:
        """A step has ended, in whatever way."""


class _Silent:
    def on_step(self, number: int, total: int, step: Step) -> None: ...

    def on_status(self, status: Status) -> None: ...

    def on_done(self, record: StepRecord) -> None: ...


def estimated_s(plan: Plan) -> float:
    """Of all steps: guesses for the slowest board, where every engine that exists is installed."""
    return sum(step.estimate_s for step in steps(plan))


def run_field_test(
    host: str,
    connect: Callable[[], Connection],
    archive: Path,
    *,
    quick: bool = False,
    only: Collection[str] = (),
    sudo_password: str | None = None,
    listener: Listener | None = None,
) -> FieldTest:
    """Run all steps on a board and leave one archive, without names and addresses.

    After Ctrl-C, SIGTERM and SIGHUP the board is restored and the archive holds what was found until then.

    Args:
        host: as the user names the board; it is not in the archive.
        connect: reaches the board; called once.
        only: names of steps; the others are left out, except for those that all need. Empty: all steps.

    Raises:
        FieldTestError: a name or an address remains; no archive is written.
        OSError: the archive cannot be written.
    """
    connection = connect()
    listener = listener or _Silent()
    plan = Plan(connection.backend, quick, frozenset(only))
    scrubber = Scrubber()
    scrubber.learn(this_machine())
    scrubber.learn(way_to(host))
    began_s = time.monotonic()
    with _interrupting() as signals, tempfile.TemporaryDirectory(prefix="lightnas-edge-field-test-") as scratch:
        folder = Path(scratch)
        (folder / "logs").mkdir()
        with _logged_to(folder / LOG):
            bench = Bench(
                connection, folder, plan,
                scrubber=scrubber, sudo_password=sudo_password, on_status=listener.on_status,
            )  # fmt: skip
            records, interrupted = _run_steps(bench, listener, began_s + plan.limit_s - _RESERVE_S)
        record = _summary(bench, host, tuple(records), time.monotonic() - began_s)
        _write(folder, record, scrubber)
        removed = {kind: count for kind, count in sorted(scrubber.removed.items()) if count}
        record = record.model_copy(update={"removed": removed})
        record.save(folder / SUMMARY)
        write_atomic(folder / README, readme(record))
        scrub(folder, scrubber)  # again: the texts that were written last
        record = FieldTestRecord.load(folder / SUMMARY)
        pack(folder, archive)
    return FieldTest(record, archive, interrupted, signals[0] if interrupted and signals else None)


@contextlib.contextmanager
def _interrupting() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP interrupt as Ctrl-C does; the second one ends the program as elsewhere. The signals that came."""
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}

    def interrupt(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        restore()
        raise KeyboardInterrupt

    def restore() -> None:
        for number in numbers:
            signal.signal(number, before[number])

    for number in numbers:
        if before[number] != signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, interrupt)
    try:
        yield signals
    finally:
        restore()


def _write(folder: Path, record: FieldTestRecord, scrubber: Scrubber) -> None:
    record.save(folder / SUMMARY)
    scrub(folder, scrubber)


def _run_steps(bench: Bench, listener: Listener, end_s: float) -> tuple[list[StepRecord], bool]:
    """The records of all steps, and whether Ctrl-C ended them."""
    plan = steps(bench.plan)
    records: list[StepRecord] = []
    interrupted = False
    home_before: frozenset[str] | None = None
    try:
        home_before = _home_files(bench.connection)
    except LightnasEdgeError as error:  # the first step reports it
        _log.debug("the files on the board are not known", exc_info=error)
    except KeyboardInterrupt:
        interrupted = True
    for number, step in enumerate(plan, start=1):
        if interrupted:
            records.append(_skipped(step, "interrupted before it began"))
            continue
        _call(listener.on_step, number, len(plan) + 1, step)
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            record = _skipped(step, "the time of the test is used up")
        else:
            bench.deadline_s = time.monotonic() + min(left_s, max(_LEAST_STEP_S, 4 * step.estimate_s))
            record = _run_step(bench, step)
        records.append(record)
        _call(listener.on_done, record)
        interrupted = record.status == "interrupted"
    restoring = Step("restored", "mode, clocks and files as before", 60.0, _restored(home_before))
    _call(listener.on_step, len(plan) + 1, len(plan) + 1, restoring)
    bench.deadline_s = float("inf")
    records.append(_run_step(bench, restoring))
    _call(listener.on_done, records[-1])
    return records, interrupted or records[-1].status == "interrupted"


def _call(report: Callable[..., None], *facts: object) -> None:
    """Report progress. A terminal that is gone, which SIGHUP means, does not keep the board from being restored."""
    with contextlib.suppress(OSError):
        report(*facts)


def _home_files(connection: Connection) -> frozenset[str]:
    """The files in the agent's home, without the agent that lists them unless it was there before.

    Raises:
        KeyboardInterrupt: no file is left on the board.
    """
    folder = f"{connection.home()}/agent"
    agents = connection.listdir(folder) if connection.exists(folder) else {}
    try:
        listed = take_snapshot(connection).home_files
    except KeyboardInterrupt:
        with contextlib.suppress(LightnasEdgeError):
            for name in set(connection.listdir(folder)) - set(agents):
                connection.remove(f"{folder}/{name}")
        raise
    return frozenset(path for path in listed if not path.startswith("agent/") or path.partition("/")[2] in agents)


def _run_step(bench: Bench, step: Step) -> StepRecord:
    """A step's record, whatever happens in it."""
    found, began_s = Found(), time.monotonic()
    status: StepStatus = "passed"
    cause: str | None = None
    remedy = ""
    _log.debug("step %s: %s", step.name, step.title)
    try:
        step.act(bench, found)
    except Skip as reason:
        status, cause = "skipped", str(reason)
    except StepTimeUp:
        status, cause = "failed", f"it took longer than {bench.deadline_s - began_s:.0f} s and was stopped"
    except KeyboardInterrupt:
        status, cause = "interrupted", "interrupted"
    except LightnasEdgeError as error:
        _log.debug("step %s", step.name, exc_info=error)
        status, cause, remedy = (
            "failed",
            f"{type(error).__name__}: {error.args[0] if error.args else error}",
            error.hint,
        )
    except Exception as error:  # a fault of this program: the next step is run all the same
        _log.debug("step %s", step.name, exc_info=error)
        status, cause = "failed", f"unexpected {type(error).__name__}: {error}; {LOG} holds the traceback"
    seconds = time.monotonic() - began_s
    _log.debug("step %s %s after %.1f s: %s", step.name, status, seconds, cause or "; ".join(found.findings))
    return StepRecord(
        name=step.name, title=step.title, status=status, seconds=round(seconds, 1), findings=tuple(found.findings),
        cause=cause, remedy=remedy, files=tuple(dict.fromkeys(found.files)), latency_ms=found.latency_ms,
    )  # fmt: skip


def _skipped(step: Step, cause: str) -> StepRecord:
    return StepRecord(name=step.name, title=step.title, status="skipped", seconds=0.0, cause=cause)


def _restored(home_before: frozenset[str] | None) -> Callable[[Bench, Found], None]:
    """The last step: logs fetched, the agent's new files removed, settings read back."""

    def act(bench: Bench, found: Found) -> None:
        if home_before is None:
            raise Skip("nothing was changed: the files on the board are not known")
        differences = [] if bench.before is None else bench.changed()
        if bench.before is not None and not differences:
            found.add("power mode, limits of clocks and governors are as before, read back")
        listed = take_snapshot(bench.connection).home_files
        new = sorted(set(listed) - home_before)
        found.files += _fetch_logs(
            bench, [*new, *(name for name in listed if name.endswith(".log") and "/" not in name)]
        )
        found.add(f"{_remove(bench.connection, new)} new files of the agent removed")
        if differences:
            raise FieldTestError(
                "the board differs from its state before the test: " + "; ".join(differences),
                hint="restore it by hand (nvpmodel, jetson_clocks, or a reboot)",
            )

    return act


def _fetch_logs(bench: Bench, paths: list[str]) -> list[str]:
    """The logs of the agents of this test's jobs, and of what guards the board's settings."""
    files = []
    home = bench.connection.home()
    for path in dict.fromkeys(paths):
        parts = PurePosixPath(path).parts
        of_job = len(parts) == 3 and parts[0] == "jobs" and is_job(parts[1]) and parts[2] == "agent.log"
        if of_job or (len(parts) == 1 and path.endswith(".log")):
            remote = f"{home}/{path}"
            start = max(0, bench.connection.size(remote) - _LONGEST_LOG)
            files.append(f"logs/{parts[1]}.agent.log" if of_job else f"logs/{path}")
            write_atomic(bench.folder / files[-1], bench.connection.read(remote, start, limit=2 * _LONGEST_LOG))
    return files


def _remove(connection: Connection, new: list[str]) -> int:
    """Remove these files of the agent's home and the folders that become empty; how many there were.

    Locks and logs outside the folders stay: an agent may be about to take them.
    """
    home = connection.home()
    chosen = [path for path in new if "/" in path and ".." not in PurePosixPath(path).parts]
    for path in chosen:
        connection.remove(f"{home}/{path}")
    folders = {str(parent) for path in chosen for parent in PurePosixPath(path).parents if str(parent) != "."}
    deepest_first = sorted(folders, key=lambda folder: (-folder.count("/"), folder))
    if deepest_first:
        argv = [connection.python(), "-c", _REMOVE_FOLDERS, *(f"{home}/{folder}" for folder in deepest_first)]
        connection.run(argv, timeout_s=60)
    return len(chosen)


def _summary(bench: Bench, host: str, records: tuple[StepRecord, ...], seconds: float) -> FieldTestRecord:
    probe = bench.probe
    board = None if probe is None else probe.board
    virtual = host.startswith("virtual:")
    return FieldTestRecord(
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        version=__version__,
        quick=bench.plan.quick,
        simulated=virtual or bool(probe is not None and probe.fingerprint.get("simulated")),
        reached_by="virtual" if virtual else "localhost" if host == "localhost" else "ssh",
        board=None if board is None else board.name,
        module=None if board is None else board.module,
        l4t=None if board is None else board.l4t,
        jetpack=None if board is None else board.jetpack,
        python=None if probe is None else probe.python.version,
        engines=dict(bench.engines),
        seconds=round(seconds, 1),
        steps=records,
    )


@contextlib.contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Everything that this program logs, also into a file."""
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGED]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()
