"""Tables that boards hold: bringing them here, and completing them by measuring what is missing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import devices
import luts
from devices import BoardUnreachableError, Campaign, Connection, HostKeyError, RemoteJob
from lightnas_edge.cli._console import note, progress, warn
from lightnas_edge.cli._measuring import job_folder, measure_with_progress, tell_table
from lightnas_edge.cli._options import ENERGY_ROUNDS, table_path
from lightnas_edge.errors import RunError
from lightnas_edge.measuring import MeasurementProtocol, Settings, profile_job_name, write_profile_job
from lightnas_edge.space import ShapedOperator, Space

_KINDS = {"profile": "", "sample": "-networks"}  # in the names of tables, as `profile` and `sample` give them


def fetch_table(connection: Connection, host: str, held: RemoteJob, folder: Path) -> tuple[Path, int]:
    """Bring one table up to what the board holds: its file, and the bytes that were new.

    A file that holds other measurements is left alone; the board's go beside it.
    """
    settings = held_settings(held)
    path = folder / table_path(host, held.space, settings, _KINDS.get(held.purpose, f"-{held.purpose}"))
    try:
        return path, devices.fetch_journal(connection, held, path)
    except devices.ContradictionError:
        beside = path.with_name(path.name.removesuffix(".lut.jsonl") + f"-{held.job[:8]}.lut.jsonl")
        warn(f"{path} holds other measurements than the board; the board's go to {beside}")
        return beside, devices.fetch_journal(connection, held, beside)


def held_settings(held: RemoteJob) -> Settings:
    """What a held job was measured with, so that it can be gone on with."""
    return Settings(
        backend=held.backend, precision=held.precision, batch=held.batch, threads=held.threads,
        protocol=MeasurementProtocol(rounds=held.rounds, seed=held.seed),
        lock_clocks=held.lock_clocks, power_mode=held.power_mode,
    )  # fmt: skip


def complete_table(
    host: str,
    space: Space,
    *,
    precision: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    energy: bool = False,
    folder: Path = Path(),
) -> Path:
    """A table here that holds every operator of a space on a board.

    What the board holds is pulled; a job that is at work on it, whoever started it, is waited for; what is still missing
    is measured. A board that cannot be reached is not needed when the table here is complete.

    Args:
        precision, batch, threads: of the table; None takes what the board holds, or else the defaults of `profile`.
        energy: every operator's energy is needed too.
        folder: where tables are, and where this one goes.

    Raises:
        RunError: the board holds several such tables, or operators could not be measured.
        DeviceError: the board is busy with another job, or cannot be reached and the table here is not complete.
    """
    settings = Settings(
        precision=precision or Settings.precision, batch=batch or Settings.batch, threads=threads or Settings.threads
    )
    path = folder / table_path(host, space.name, settings, "")
    try:
        connection = devices.connect(host)
    except HostKeyError:
        raise
    except BoardUnreachableError as err:
        if _missing(path, space, energy):
            raise
        warn(f"{err}\n  going on with {path}, which is complete")
        return path
    held = _held(connection, host, space, precision, batch, threads)
    if held is None:
        settings = replace(settings, backend=connection.backend)
    else:
        settings = held_settings(held)
        path, new = fetch_table(connection, host, held, folder)
        if new:
            note(f"pulled {new} bytes from {host}: {path}")
        if _follow_running(connection, host, held.job, path):
            note(f"the job at work on {host} is done")
    missing = _missing(path, space, energy)
    if missing:
        note(f"measuring {len(missing)} of {len(space.shaped_operators())} operators of {space.name} on {host}")
        _measure(connection, host, space, settings, missing, path, energy)
        _refuse_incomplete(path, space, energy)
    return path


def _held(
    connection: Connection, host: str, space: Space, precision: str | None, batch: int | None, threads: int | None
) -> RemoteJob | None:
    """The board's table of this very space; None when it holds none."""
    jobs, faults = devices.remote_jobs(connection)
    for fault in faults:
        warn(f"{host}: {fault}")
    # The name of a job is made of all that its numbers depend on, so that an equal name means an equal space.
    mine = [
        job
        for job in jobs
        if job.purpose == "profile"
        and job.job == profile_job_name(space, held_settings(job))
        and job.precision == (precision or job.precision)
        and job.batch == (batch or job.batch)
        and job.threads == (threads or job.threads)
    ]
    if len(mine) > 1:
        listed = "; ".join(f"{job.precision}, batch {job.batch}, {_state(job)}" for job in mine)
        raise RunError(
            f"{host} holds {len(mine)} tables of {space.name}: {listed}",
            hint=f"`lightnas-edge pull --host {host}` brings them all; name the one to use with --lut FILE",
        )
    return mine[0] if mine else None


def _state(job: RemoteJob) -> str:
    parts = [
        job.backend,
        f"{job.threads} thread{'s'[: job.threads > 1]}",
        f"power mode {job.power_mode}" if job.power_mode else "",
        "clocks locked" if job.lock_clocks else "",
    ]
    return ", ".join(part for part in parts if part)


def _follow_running(connection: Connection, host: str, job: str, path: Path) -> bool:
    """Wait for the board's agent if it is at work on this job; whether it was."""
    with tempfile.TemporaryDirectory() as scratch:
        running = Campaign.running(connection, Path(scratch))
        if running is None or running.job != job:
            return False
        note(f"{host} is at work on this table: waiting for it (Ctrl-C leaves it at work)")
        with progress(f"measured on {host}") as bar:
            running.follow(
                path, lambda status: bar(status.done, max(status.total, 1), status.key, status.eta_s), stop=False
            )
    return True


def _missing(path: Path, space: Space, energy: bool) -> list[ShapedOperator]:
    """The operators of a space whose numbers a table here lacks; all of them when there is no table."""
    if not path.exists():
        return space.shaped_operators()
    entries = luts.read(path).entries
    return [
        shaped
        for shaped in space.shaped_operators()
        if shaped.key not in entries or (energy and entries[shaped.key].energy_mj is None)
    ]


def _measure(
    connection: Connection,
    host: str,
    space: Space,
    settings: Settings,
    operators: Sequence[ShapedOperator],
    path: Path,
    energy: bool,
) -> None:
    settings = replace(settings, energy_rounds=ENERGY_ROUNDS if energy else 0)
    started_s = time.monotonic()
    with job_folder() as folder:
        job, lut = measure_with_progress(
            connection,
            lambda tell: write_profile_job(folder, space, settings, operators=operators, on_progress=tell),
            path, title=f"measuring {space.name} on {host}", fresh=False,
        )  # fmt: skip
    tell_table(job, lut, started_s=started_s, ended_s=time.monotonic(), energy=energy)


def _refuse_incomplete(path: Path, space: Space, energy: bool) -> None:
    left = _missing(path, space, energy)
    if not left:
        return
    lut = luts.read(path)
    lines = [f"{path} lacks {len(left)} of {len(space.shaped_operators())} operators of {space.name}"]
    for shaped in left[:5]:
        if shaped.key in lut.entries:
            reason = "its energy was not measured"
        else:
            reason = lut.failed.get(shaped.key, {}).get("message", "not measured")
        lines.append(f"  {shaped.key}: {reason}")
    raise RunError("\n".join(lines), hint="what failed is tried again by the same command")
