"""Measuring with a progress bar: what `profile`, `sample` and `verify` share."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import luts
from devices import Connection, Status
from lightnas_edge.cli._console import duration, note, percent, progress, say, warn
from lightnas_edge.measuring import Job, measure


@contextmanager
def job_folder() -> Iterator[Path]:
    """A scratch folder for a job directory on this side."""
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as folder:
        yield Path(folder)


def measure_with_progress(
    connection: Connection,
    write: Callable[[Callable[[int, int], None]], Job],
    table: Path,
    *,
    title: str,
    fresh: bool,
    sudo_password: str | None = None,
) -> tuple[Job, luts.Lut]:
    """Write the job, run it, draw the bar, say what came of it."""
    with progress("preparing models") as bar:
        job = write(lambda done, total: bar(done, total))
    before = luts.read(table) if table.exists() and not fresh else None
    with progress(title) as bar:

        def draw(status: Status) -> None:
            bar(
                status.done,
                max(status.total, 1),
                f"round {status.round + 1} of {job.rounds}  {status.key}",
                status.eta_s,
            )

        lut = measure(connection, job, table, fresh=fresh, on_progress=draw, sudo_password=sudo_password)
    if before is not None:
        tell_resumed(before, job)
    return job, lut


def tell_resumed(before: luts.Lut, job: Job) -> None:
    held = {**before.entries, **before.networks}
    kept = sum(min(len(held[key].visits), job.rounds) for key in job.keys if key in held)
    if kept >= job.visits:
        note(f"everything was already measured ({kept} visits); --fresh measures anew")
    elif kept:
        note(f"went on after {kept} of {job.visits} visits")


def tell_table(job: Job, lut: luts.Lut, *, started_s: float, ended_s: float, energy: bool = False) -> None:
    """Coverage, repeatability, doubts: the lines that follow a measurement. `energy`: it was asked for."""
    held = {**lut.entries, **lut.networks}
    found = sum(key in held for key in job.keys)
    verb = "SIMULATED" if lut.simulated else "measured"
    say(f"{found} of {len(job.keys)} {verb} in {duration(ended_s - started_s)}: {lut.path}")
    for fault in lut.faults:
        warn(f"{lut.path}:{fault.line}: {fault.what}")
    for key, error in lut.failed.items():
        if key not in held:
            remedy = f"\n  {error['remedy']}" if error.get("remedy") else ""
            warn(f"{key} could not be measured: {error.get('message', 'no reason given')}{remedy}")
    measured = [held[key] for key in job.keys if key in held]
    if energy:
        _tell_energy(measured, lut)
    shaky = [entry for entry in measured if entry.unstable]
    if len(shaky) > max(5, len(measured) // 4):
        _tell_restless(measured, shaky)
    else:
        for entry in shaky:
            warn(f"{entry.key} {entry.warnings[0]}")


def _tell_energy(measured: Sequence[luts.Entry], lut: luts.Lut) -> None:
    known = [entry for entry in measured if entry.energy_mj is not None]
    if known:
        say(f"energy of {len(known)} of {len(measured)}")
    if len(known) == len(measured):
        return
    about = lut.header.get("energy") or {}
    reasons = [about.get("reason")] + [
        (visit.energy or {}).get("reason") for entry in measured for visit in entry.visits
    ]
    told = [reason for reason in dict.fromkeys(reasons) if reason]
    warn("energy is not available\n  " + "\n  ".join("\n".join(told).splitlines() or ["no reason was given"]))


def _tell_restless(measured: Sequence[luts.Entry], shaky: Sequence[luts.Entry]) -> None:
    """When much is unstable, the machine is the trouble and not the operators: one warning instead of many."""
    spreads = [entry.spread for entry in measured if not math.isnan(entry.spread)]
    if not spreads:
        warn("measured in too few rounds to know the spread; --rounds 5 or more")
        return
    foreign = [visit.after.get("foreign_cpu") for entry in measured for visit in entry.visits]
    known = [load for load in foreign if load is not None]
    load = f"; other processes used {statistics.mean(known):.2f} of a core meanwhile" if known else ""
    warn(
        f"{len(shaky)} of {len(measured)} vary by more than {percent(luts.UNSTABLE_SPREAD, 0)} between rounds "
        f"(typically {percent(statistics.median(spreads))}){load}\n"
        "  stop other work, lock the clocks or cool the board; or run again with more --rounds: what is there is kept"
    )
