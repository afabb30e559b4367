"""Measuring with a progress bar: what `profile`, `sample`, `search --host` and `refine` share."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import luts
from devices import Connection, Status
from lightnas_edge.cli._console import Bar, duration, info, percent, print_result, progress, warn
from lightnas_edge.cli._fallbacks import warn_fallbacks
from lightnas_edge.measuring import SENTINELS, Job, Settings, measure

# One visit without its warm-up and samples: handing over, reading the board's state. Seconds, on an idle workstation.
_VISIT_OVERHEAD_S = 0.02
_LOAD_S = 0.1  # one model into ONNX Runtime; TensorRT builds an engine first, which takes far longer
_BUILD_S = 20.0  # one operator's engine in TensorRT, on the slower boards
_TITLES = {"building": "building engines", "sustained": "sustained load", "layers": "timing layers"}  # by phase
_ENERGY_VISIT_S = 20.0  # settling and steady power: docs/energy.md


class CampaignProgress:
    """The two callbacks of a campaign, one bar for each of its phases. `rounds`: of the job, where it is known."""

    def __init__(self, stack: ExitStack, title: str, rounds: int | None = None) -> None:
        self._stack, self._title, self._rounds = stack, title, rounds
        self._phase = ""
        self._bar: Bar | None = None

    def preparing(self, done: int, total: int) -> None:
        """Models written."""
        self._in_phase("preparing models")(done, total)

    def measuring(self, status: Status) -> None:
        """The board's status."""
        title = _TITLES.get(status.phase, self._title)
        self._in_phase(title)(status.done, max(status.total, 1), _described(status, self._rounds), status.eta_s)
        if status.final and status.warning:
            warn(status.warning)

    def close(self) -> None:
        """Take the bar away."""
        self._stack.close()
        self._phase, self._bar = "", None

    def _in_phase(self, title: str) -> Bar:
        if self._bar is None or title != self._phase:
            self._stack.close()
            self._phase, self._bar = title, self._stack.enter_context(progress(title))
        return self._bar


def _described(status: Status, rounds: int | None) -> str:
    """The present step. A build has no steps of its own: its time shows that the board is at work."""
    if status.phase in ("building", "layers"):
        return f"{status.key}, {duration(status.elapsed_s)}"
    if status.phase == "sustained":
        return f"{status.key}, {status.done} of {duration(status.total)}"
    number = status.round + 1
    of = "" if rounds is None or number > rounds else f" of {rounds}"  # further rounds are of unstable ones
    return f"round {number}{of}  {status.key}"


@contextmanager
def campaign_progress(title: str, rounds: int | None = None) -> Iterator[CampaignProgress]:
    with ExitStack() as stack:
        yield CampaignProgress(stack, title, rounds)


def measure_with_progress(
    connection: Connection,
    write: Callable[[Path, Callable[[int, int], None]], Job],
    table: Path,
    *,
    title: str,
    fresh: bool,
    sudo_password: str | None = None,
    announce: Callable[[Job], None] | None = None,
) -> tuple[Job, luts.Lut]:
    """Write the job into a scratch folder and run it, with a bar.

    Args:
        write: makes the job, from a folder and a callback.
        announce: called between writing and measuring.
    """
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as folder:
        with progress("preparing models") as bar:
            job = write(Path(folder), lambda done, total: bar(done, total))
        before = luts.read(table) if table.exists() and not fresh else None
        if announce is not None:
            announce(job)
        with campaign_progress(title, job.rounds) as bars:
            lut = measure(connection, job, table, fresh=fresh, on_progress=bars.measuring, sudo_password=sudo_password)
    if before is not None:
        _report_reused(before, job)
    return job, lut


def estimated_seconds(operators: int, settings: Settings, batch_ms: float = 0.0) -> float:
    """How long a board measures, at least, before any visit was timed: operators, rounds and the protocol's times.

    Args:
        batch_ms: a prediction of one inference, where it may be longer than the protocol's shortest sample.
    """
    protocol = settings.protocol
    warmup_ms, sample_ms = max(protocol.warmup_ms, batch_ms), max(protocol.min_sample_ms, batch_ms)
    visit_s = (warmup_ms + protocol.samples_per_visit * sample_ms) / 1000 + _VISIT_OVERHEAD_S
    return operators * (_engine_s(settings) + protocol.rounds * visit_s + settings.energy_rounds * _ENERGY_VISIT_S)


def shared_seconds(alone_s: float, settings: Settings, boards: int) -> float:
    """What boards need together for what takes one of them `alone_s`: each builds the sentinels' engines."""
    return (alone_s + (boards - 1) * SENTINELS * _engine_s(settings)) / boards


def _engine_s(settings: Settings) -> float:
    return _BUILD_S if settings.backend == "tensorrt" else _LOAD_S


def _least_seconds(settings: Settings) -> float:
    """Of a network that is judged: the load before its rounds, and rounds that are apart in time."""
    return settings.protocol.sustained_s + settings.protocol.rounds * settings.protocol.round_s


def announce_estimate(
    operators: int,
    settings: Settings,
    *,
    networks: int = 0,
    batch_ms: float = 0.0,
    images: int = 0,
    most: bool = False,
    boards: int = 1,
) -> None:
    """Before a campaign: what it will take.

    Args:
        networks: measured whole, in addition to the operators.
        batch_ms: a prediction of one inference of a network; 0 where none is at hand.
        images: that a network is run on once.
        most: the numbers are limits; fewer may do.
        boards: that share the operators and networks.
    """
    protocol = settings.protocol
    parts = [
        f"{count} {what}{'s'[: count != 1]}"
        for count, what in ((operators, "operator"), (networks, "network"))
        if count
    ]
    energy = f" and {settings.energy_rounds} of energy" if settings.energy_rounds else ""
    seconds = estimated_seconds(operators, settings) + estimated_seconds(networks, settings, batch_ms)
    seconds = max(seconds, _least_seconds(settings) if networks else 0.0)
    seconds += images * batch_ms / 1000 / settings.batch
    shared = f" on {boards} boards" if boards > 1 else ""
    further = f"; unstable ones get up to {protocol.extra_rounds} further rounds"
    info(
        f"estimate: {'at most ' if most else ''}{' and '.join(parts)} x {protocol.rounds} rounds{energy}, about "
        f"{duration(shared_seconds(seconds, settings, boards))}{shared} unless measured before"
        f"{further if protocol.spread_limit is not None and protocol.extra_rounds else ''}"
    )


def _report_reused(before: luts.Lut, job: Job) -> None:
    existing = {**before.entries, **before.networks}
    reused = sum(min(len(existing[key].visits), job.rounds) for key in job.keys if key in existing)
    if reused >= job.visits:
        info(f"all {reused} visits were measured before and are reused; --fresh measures them again")
    elif reused:
        info(f"resumed after {reused} of {job.visits} visits")


def report_table(
    job: Job,
    lut: luts.Lut,
    *,
    seconds: float,
    energy: bool = False,
    show: Callable[[str], None] = print_result,
) -> None:
    """Coverage and warnings after a campaign.

    Args:
        energy: it was to be measured.
        show: takes the lines that are not warnings.
    """
    entries = {**lut.entries, **lut.networks}
    found = sum(key in entries for key in job.keys)
    verb = "SIMULATED" if lut.simulated else "measured"
    show(f"{found} of {len(job.keys)} {verb} in {duration(seconds)}: {lut.path}")
    for fault in lut.faults:
        warn(f"{lut.path}:{fault.line}: {fault.what}")
    for key, error in lut.failed.items():
        if key not in entries:
            remedy = f"\n  {error.remedy}" if error.remedy else ""
            warn(f"{key} could not be measured: {error.message}{remedy}")
    measured = [entries[key] for key in job.keys if key in entries]
    if energy:
        _report_energy(measured, lut, show)
    warn_fallbacks(lut, job.keys)
    unstable = [entry for entry in measured if entry.unstable]
    if len(unstable) > max(5, len(measured) // 4):
        _warn_unstable_host(measured, unstable)
    else:
        for entry in unstable:
            warn(f"{entry.key} {entry.warnings[0]}")


def is_complete(job: Job, lut: luts.Lut) -> bool:
    """Everything that the job measures is in the table."""
    return all(key in lut.entries or key in lut.networks for key in job.keys)


def _report_energy(measured: Sequence[luts.Entry], lut: luts.Lut, show: Callable[[str], None]) -> None:
    known = [entry for entry in measured if entry.energy_mj is not None]
    if known:
        show(f"energy of {len(known)} of {len(measured)}")
    if len(known) == len(measured):
        return
    reasons = [lut.header.energy.reason]
    reasons += [visit.energy.reason for entry in measured for visit in entry.visits if visit.energy is not None]
    named = [reason for reason in dict.fromkeys(reasons) if reason]
    warn("energy is not available\n  " + "\n  ".join("\n".join(named).splitlines() or ["no reason was given"]))


def _warn_unstable_host(measured: Sequence[luts.Entry], unstable: Sequence[luts.Entry]) -> None:
    """When many operators are unstable, the cause is the machine: one warning instead of many."""
    spreads = [entry.spread for entry in measured if not math.isnan(entry.spread)]
    if not spreads:
        warn("too few rounds to know the spread; measure with --rounds 5 or more")
        return
    known = [share for entry in measured for share in entry.visits.foreign_cpu()]
    load = f"; other processes used {statistics.mean(known):.2f} of a core" if known else ""
    warn(
        f"unstable host: {len(unstable)} of {len(measured)} vary by more than {percent(luts.UNSTABLE_SPREAD, 0)} between "
        f"rounds (median spread {percent(statistics.median(spreads))}){load}\n"
        "  stop other work, lock the clocks or cool the board; or run again with more --rounds: existing samples are reused"
    )
