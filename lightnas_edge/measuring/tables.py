"""Tables on a board: bring them to this side, and measure what a space still lacks."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import devices
import luts
from devices import BoardUnreachableError, Campaign, Connection, HostKeyError, RemoteJob, Status
from lightnas_edge.errors import RunError
from lightnas_edge.measuring import MeasurementProtocol, Settings, measure, profile_job_name, write_profile_job
from lightnas_edge.space import ShapedOperator, Space

ENERGY_ROUNDS = 2  # energy of an operator needs two windows of several seconds: docs/energy.md
_SUFFIXES = {"profile": "", "sample": "-networks"}  # of file names, by the purpose of a job
_LONGEST_NAME = 250  # bytes; a file system takes 255, and a file may become `NAME.old` or `NAME.part`
_SHORTENED = 100  # bytes of the first host in a name that would be longer

_log = logging.getLogger(__name__)


def table_path(host: str, space: str, settings: Settings, suffix: str = "") -> Path:
    """Where a table goes unless the user names a file: the current folder, named after its content.

    Args:
        host: as the user named it, also several with commas.
    """
    engine = f"{settings.precision}-b{settings.batch}-t{settings.threads}{'-graph' if settings.cuda_graph else ''}"
    engine += f"-s{settings.streams}" if settings.streams > 1 else ""
    content = f"{space}-{engine}{suffix}.lut.jsonl"
    name = f"{_plain(host)}-{content}"
    if len(name.encode()) > _LONGEST_NAME:  # of many boards
        first, *others = host.split(",")
        shortened = _plain(first).encode()[:_SHORTENED].decode(errors="ignore")
        more = f"-and-{len(others)}-more" if others else ""
        name = f"{shortened}{more}-{hashlib.sha256(host.encode()).hexdigest()[:8]}-{content}"
    return Path(name)


def _plain(text: str) -> str:
    """As a part of a file name."""
    return "".join(character if character.isalnum() or character in "-." else "-" for character in text)


def fetch_table(connection: Connection, host: str, job: RemoteJob, folder: Path) -> tuple[Path, int]:
    """Bring one table up to the board's: its file, and the number of new bytes.

    A file with other measurements is left unchanged; the board's table goes to a file of another name.
    """
    suffix = _SUFFIXES.get(job.purpose, f"-{job.purpose}")
    path = folder / table_path(host, job.space, settings_of(job), suffix)
    try:
        return path, devices.fetch_journal(connection, job, path)
    except devices.ContradictionError:
        other = path.with_name(path.name.removesuffix(".lut.jsonl") + f"-{job.job[:8]}.lut.jsonl")
        _log.warning("%s holds other measurements than the board; the board's go to %s", path, other)
        return other, devices.fetch_journal(connection, job, other)


def settings_of(job: RemoteJob) -> Settings:
    """The settings that a board's job was measured with."""
    return Settings(
        backend=job.backend, precision=job.precision, batch=job.batch, threads=job.threads,
        cuda_graph=job.cuda_graph, streams=job.streams, protocol=MeasurementProtocol(rounds=job.rounds, seed=job.seed),
        lock_clocks=job.lock_clocks, power_mode=job.power_mode,
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
    on_preparing: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Status], None] | None = None,
) -> Path:
    """A table on this side with every operator of a space on a board.

    The board's measurements are fetched. A job that runs there on this table, from any host, is followed to its
    end. The remaining operators are measured. An unreachable board is not needed when the table here is complete.

    Args:
        precision, batch, threads: of the table; None takes those of the board's table, or else the defaults of `profile`.
        energy: every operator's energy is needed too.
        folder: of the tables on this side.
        on_preparing: models written, and how many there are.
        on_progress: the board's status while it measures.

    Raises:
        RunError: the board holds several such tables, or operators could not be measured.
        DeviceError: the board is busy with another job, or unreachable while the table here is incomplete.
    """
    settings = Settings(
        precision=precision or Settings.precision, batch=batch or Settings.batch, threads=threads or Settings.threads
    )
    path = folder / table_path(host, space.name, settings)
    try:
        connection = devices.connect(host)
    except HostKeyError:
        raise
    except BoardUnreachableError as err:
        if _missing(path, space, energy):
            raise
        _log.warning("%s\n  using %s, which is complete", err, path)
        return path
    job = _table_on_board(connection, host, space, precision, batch, threads)
    if job is None:
        settings = replace(settings, backend=connection.backend)
    else:
        settings = settings_of(job)
        path, new = fetch_table(connection, host, job, folder)
        if new:
            _log.info("pulled %d bytes from %s: %s", new, host, path)
        _follow_running(connection, host, job.job, path, on_progress)
    missing = _missing(path, space, energy)
    if missing:
        _log.info(
            "measuring %d of %d operators of %s on %s", len(missing), len(space.shaped_operators()), space.name, host
        )
        settings = replace(settings, energy_rounds=ENERGY_ROUNDS if energy else 0)
        with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as scratch:
            written = write_profile_job(Path(scratch), space, settings, operators=missing, on_progress=on_preparing)
            measure(connection, written, path, on_progress=on_progress)
        _require_complete(path, space, energy)
    return path


def _table_on_board(
    connection: Connection, host: str, space: Space, precision: str | None, batch: int | None, threads: int | None
) -> RemoteJob | None:
    """The board's table of this very space; None when it holds none."""
    jobs, faults = devices.remote_jobs(connection)
    for fault in faults:
        _log.warning("%s: %s", host, fault)
    # A job's name is a hash of everything that its numbers depend on: an equal name means an equal space.
    fitting = [
        job
        for job in jobs
        if job.purpose == "profile"
        and job.streams == 1  # a table of several streams is about another budget
        and job.job == profile_job_name(space, settings_of(job))
        and job.precision == (precision or job.precision)
        and job.batch == (batch or job.batch)
        and job.threads == (threads or job.threads)
    ]
    if len(fitting) > 1:
        listed = "; ".join(f"{job.precision}, batch {job.batch}, {_engine(job)}" for job in fitting)
        raise RunError(
            f"{host} holds {len(fitting)} tables of {space.name}: {listed}",
            hint=f"`lightnas-edge pull --host {host}` fetches all of them; name one with --lut FILE",
        )
    return fitting[0] if fitting else None


def _engine(job: RemoteJob) -> str:
    parts = [
        job.backend,
        f"{job.threads} thread{'s'[: job.threads > 1]}",
        f"power mode {job.power_mode}" if job.power_mode else "",
        "clocks locked" if job.lock_clocks else "",
        "CUDA graph" if job.cuda_graph else "",
        f"{job.streams} streams" if job.streams > 1 else "",
    ]
    return ", ".join(part for part in parts if part)


def _follow_running(
    connection: Connection, host: str, job: str, path: Path, on_progress: Callable[[Status], None] | None
) -> None:
    """Wait for the board's agent if it runs this job."""
    with tempfile.TemporaryDirectory() as scratch:
        running = Campaign.running(connection, Path(scratch))
        if running is None or running.job != job:
            return
        _log.info("%s is measuring this table: waiting for it (Ctrl-C does not stop it)", host)
        running.follow(path, on_progress, stop=False)
    _log.info("the job on %s has ended", host)


def _missing(path: Path, space: Space, energy: bool) -> list[ShapedOperator]:
    """The operators of a space that a table on this side lacks; all of them where no table exists."""
    if not path.exists():
        return space.shaped_operators()
    entries = luts.read(path).entries
    return [
        shaped
        for shaped in space.shaped_operators()
        if shaped.key not in entries or (energy and entries[shaped.key].energy_mj is None)
    ]


def _require_complete(path: Path, space: Space, energy: bool) -> None:
    missing = _missing(path, space, energy)
    if not missing:
        return
    lut = luts.read(path)
    lines = [f"{path} lacks {len(missing)} of {len(space.shaped_operators())} operators of {space.name}"]
    lines += [f"  {shaped.key}: {_reason(lut, shaped)}" for shaped in missing[:5]]
    unmeasured = [shaped.key for shaped in missing if shaped.key in lut.entries]
    if not unmeasured:
        raise RunError("\n".join(lines), hint="the same command tries the failed operators again")
    reason = lut.why_unknown("energy_mj", unmeasured)
    raise RunError("\n".join(lines) + reason, hint=luts.HOW_TO_MEASURE.get("energy_mj", ""))


def _reason(lut: luts.Lut, shaped: ShapedOperator) -> str:
    if shaped.key in lut.entries:
        return "its energy was not measured"
    return lut.failed[shaped.key].message if shaped.key in lut.failed else "not measured"
