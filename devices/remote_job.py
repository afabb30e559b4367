"""Journals on a board: listing them, and fetching them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from devices.cache import is_job, lock_holder
from devices.connection import Connection
from devices.errors import BoardBusyError
from devices.journal_copies import LARGEST_JOURNAL, append_new, drop_torn_line, is_start_of, mend, whole_bytes
from lightnas_edge.errors import RecordError
from lightnas_edge.records.job import JobManifest
from lightnas_edge.records.plain_text import clean_lines, clean_text

# Sizes that a board states become memory here, so they are bounded; JobManifest bounds its names.
LARGEST_MANIFEST = 64 << 20


@dataclass(frozen=True)
class RemoteJob:
    """One job on a board, with a journal that is not empty."""

    job: str
    purpose: str  # profile, sample or verify
    space: str
    backend: str
    precision: str
    batch: int
    threads: int
    cuda_graph: bool
    streams: int
    rounds: int
    seed: int
    lock_clocks: bool
    power_mode: str | None
    journal: str  # its path on the board
    size_bytes: int  # of the journal


def remote_jobs(connection: Connection) -> tuple[list[RemoteJob], list[str]]:
    """The jobs on a board in order of their names, and the faults of those that cannot be used."""
    folder = f"{connection.home()}/jobs"
    jobs, faults = [], []
    for name in sorted(connection.listdir(folder)) if connection.exists(folder) else []:
        if not is_job(name):
            faults.append(f"{folder}/{clean_text(name, 40)!r} is not the folder of a job")
            continue
        sizes = connection.listdir(f"{folder}/{name}")
        if not sizes.get("journal.jsonl"):
            continue
        try:
            jobs.append(_remote_job(connection, f"{folder}/{name}", name, sizes))
        except RecordError as err:
            faults.append(clean_lines(str(err), max_chars=300))
    return jobs, faults


def fetch_journal(connection: Connection, remote: RemoteJob, path: Path) -> int:
    """Bring a file up to a board's journal by fetching the missing bytes, whole lines only; by how many bytes it grew.

    Where one of them is damaged, the file keeps every line that is intact in either. The board's is not changed.

    Raises:
        ContradictionError: intact lines of the two contradict each other; the file is unchanged.
        TableWriteError: the file cannot be written.
    """
    before = whole_bytes(path)
    if is_start_of(path, before, connection, remote.journal):
        drop_torn_line(path, before)
        return append_new(connection, remote.journal, before, path)
    mend(connection, remote.journal, path, send=False)
    return max(0, path.stat().st_size - before)


def discard_journal(connection: Connection, remote: RemoteJob) -> None:
    """Remove a board's journal, for a job that is measured again from the beginning.

    Raises:
        BoardBusyError: an agent is at work on this job.
    """
    holder = lock_holder(connection)
    if holder is not None and holder.job == remote.job:
        raise BoardBusyError(
            f"an agent is at work on this job on {connection.name}: pid {holder.pid}, since {holder.started}",
            hint="wait for it, or stop it on the board with `kill -INT PID`",
        )
    connection.remove(remote.journal)


def _remote_job(connection: Connection, folder: str, name: str, sizes: dict[str, int]) -> RemoteJob:
    """Raises RecordError."""
    path = f"{folder}/manifest.json"
    if sizes["journal.jsonl"] > LARGEST_JOURNAL or sizes.get("manifest.json", 0) > LARGEST_MANIFEST:
        raise RecordError(f"{path}: it or its journal is too large")
    if "manifest.json" not in sizes:
        raise RecordError(f"{path} is missing")
    manifest = JobManifest.parse(connection.read(path, limit=LARGEST_MANIFEST), path)
    if manifest.job != name:
        raise RecordError(f"{path} is not the manifest of this job: found job {manifest.job}")
    setup = manifest.board_setup
    return RemoteJob(
        job=name,
        purpose=manifest.purpose,
        space=manifest.space or "model-file",
        backend=manifest.backend,
        precision=manifest.precision,
        batch=manifest.batch or 1,
        threads=manifest.threads,
        cuda_graph=manifest.cuda_graph,
        streams=manifest.streams,
        rounds=manifest.protocol.rounds,
        seed=manifest.protocol.seed,
        lock_clocks=setup is not None and setup.lock_clocks,
        power_mode=None if setup is None else setup.power_mode,
        journal=f"{folder}/journal.jsonl",
        size_bytes=sizes["journal.jsonl"],
    )
