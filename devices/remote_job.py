"""What a board has measured: the journals it holds, and bringing them here."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.cache import is_job
from devices.connection import Connection
from devices.errors import DeviceError

# What a board says is not trusted: names become file names here, sizes become memory.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LARGEST_MANIFEST = 64 << 20
LARGEST_JOURNAL = 1 << 30


@dataclass(frozen=True)
class RemoteJob:
    """One job on a board whose journal is not empty."""

    job: str
    purpose: str  # profile, sample or verify
    space: str
    backend: str
    precision: str
    batch: int
    threads: int
    rounds: int
    seed: int
    lock_clocks: bool
    power_mode: str | None
    journal: str  # its path on the board
    size_bytes: int  # of the journal


class ContradictionError(DeviceError):
    """A file here and a journal on a board differ in what both hold."""


def remote_jobs(connection: Connection) -> tuple[list[RemoteJob], list[str]]:
    """The jobs on a board in order of their names, and what is wrong with those that cannot be used."""
    folder = f"{connection.home()}/jobs"
    jobs, faults = [], []
    for name in sorted(connection.listdir(folder)) if connection.exists(folder) else []:
        if not is_job(name):
            faults.append(f"{folder}/{name[:40]!r} is not the folder of a job")
            continue
        sizes = connection.listdir(f"{folder}/{name}")
        if not sizes.get("journal.jsonl"):
            continue
        try:
            jobs.append(_held(connection, f"{folder}/{name}", name, sizes))
        except RecursionError:
            faults.append(f"{folder}/{name}/manifest.json: it is nested too deeply to be one")
        except ValueError as err:
            faults.append(f"{folder}/{name}/manifest.json: {err}")
    return jobs, faults


def fetch_journal(connection: Connection, held: RemoteJob, path: Path) -> int:
    """Bring a file up to a board's journal by fetching what it lacks, whole lines only; the number of bytes fetched.

    A file that holds more than the board is left as it is.

    Raises:
        ContradictionError: they differ in what both hold; the file is unchanged.
    """
    content = path.read_bytes() if path.exists() else b""
    here = content[: content.rfind(b"\n") + 1]
    common = min(len(here), held.size_bytes)
    if common and connection.sha256(held.journal, common) != hashlib.sha256(here[:common]).hexdigest():
        raise ContradictionError(f"{path} and job {held.job} on {connection.name} hold different measurements")
    if len(here) > held.size_bytes:
        return 0
    new = connection.read(held.journal, len(here), limit=LARGEST_JOURNAL)
    new = new[: new.rfind(b"\n") + 1]
    if len(here) < len(content):
        os.truncate(path, len(here))  # a line that was cut off when it was written
    if new:
        with open(path, "ab") as file:
            file.write(new)
    return len(new)


def _held(connection: Connection, folder: str, name: str, sizes: dict[str, int]) -> RemoteJob:
    if sizes["journal.jsonl"] > LARGEST_JOURNAL or sizes.get("manifest.json", 0) > LARGEST_MANIFEST:
        raise ValueError("it or its journal is too large to be one")
    if "manifest.json" not in sizes:
        raise ValueError("it is missing")
    record: Any = json.loads(connection.read(f"{folder}/manifest.json", limit=LARGEST_MANIFEST))
    if not isinstance(record, dict) or record.get("kind") != "job" or record.get("job") != name:
        raise ValueError("it is not the manifest of this job")
    schema = record.get("schema")
    if schema != 1:
        raise ValueError(f"schema {schema!r}; this program reads 1")
    for field in ("purpose", "space", "backend", "precision"):
        if not isinstance(record.get(field), str) or not _NAME.fullmatch(record[field]):
            raise ValueError(f"{field} is {_short(record.get(field))}")
    for field in ("batch", "threads"):
        if not _is_count(record.get(field)):
            raise ValueError(f"{field} is {_short(record.get(field))}")
    protocol = record.get("protocol")
    if not isinstance(protocol, dict) or not _is_count(protocol.get("rounds")) or type(protocol.get("seed")) is not int:
        raise ValueError(f"protocol is {_short(protocol)}")
    setup = record.get("board_setup") or {}
    if not isinstance(setup, dict) or not isinstance(setup.get("power_mode"), (str, type(None))):
        raise ValueError(f"board_setup is {_short(setup)}")
    return RemoteJob(
        job=name,
        purpose=record["purpose"],
        space=record["space"],
        backend=record["backend"],
        precision=record["precision"],
        batch=record["batch"],
        threads=record["threads"],
        rounds=protocol["rounds"],
        seed=protocol["seed"],
        lock_clocks=setup.get("lock_clocks") is True,
        power_mode=setup.get("power_mode"),
        journal=f"{folder}/journal.jsonl",
        size_bytes=sizes["journal.jsonl"],
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _short(value: Any) -> str:
    """What a board says, cut to what fits in a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
