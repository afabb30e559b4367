"""Moving jobs and journals over SSH: a real OpenSSH server on loopback, the whole published space, compared with `scp`.

Loopback is no network, but it shows what limits the speed: a gigabit link transfers 117 MB/s at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import devices
from devices import Campaign
from devices.ssh import SshConnection
from lightnas_edge.measuring import MeasurementProtocol, Settings, write_profile_job
from lightnas_edge.space import load_space
from tests.devices.sshd import SSHD, Sshd, end_agents, set_up_user, write_python_wrapper

REPETITIONS = 5  # the fastest of each counts: other work on this machine only ever slows it down


def rows() -> list[tuple[str, str, str]]:
    if SSHD is None:
        return [("everything", "not measured: no OpenSSH server; apt-get install openssh-server", "-")]
    with tempfile.TemporaryDirectory() as scratch, _board(Path(scratch)) as (board, connection):
        job = write_profile_job(
            Path(scratch) / "job", load_space("lightnas"), Settings(protocol=MeasurementProtocol(rounds=2))
        )
        models = sorted((job.folder / "models").iterdir())
        size = sum(model.stat().st_size for model in models)
        archive = devices.build_agent_archive(Path(scratch) / "agent.pyz")
        ours_s, scp_s = [], []
        for _ in range(REPETITIONS):  # in turn, so that both see the same machine
            ours_s.append(_seconds(lambda: _put_cold(board, connection, job.folder, models)))
            scp_s.append(_seconds(lambda: _scp(board, models, Path(scratch))))
        ours, scp = (size / min(times_s) / 1e6 for times_s in (ours_s, scp_s))
        journal = Path(scratch) / "here.lut.jsonl"
        cold, _ = _until_first(connection.name, job.folder, journal)
        warm, first_s = _until_first(connection.name, job.folder, journal)
        listed, read, grown = _pull_grown(board, connection, Path(scratch))
        agent_size = archive.stat().st_size
    return [
        (f"cold job: {len(models)} models, {size / 1e6:.0f} MB", f"{ours:.0f} MB/s", ">= 80, or half of scp"),
        ("the same files by scp", f"{scp:.0f} MB/s", "-"),
        ("speed relative to scp", f"{ours / scp:.2f}", ">= 0.5, unless >= 80 MB/s"),
        ("sent to start a cold job", f"{cold / 1e6:.1f} MB", "-"),
        ("sent until the first measurement of a warm job", f"{warm / 1e3:.1f} kB", "< 100 kB"),
        ("from connecting to the first measurement of a warm job", f"{first_s:.1f} s", "< 3 s"),
        (f"received to fetch a journal that grew by {grown / 1e3:.0f} kB", f"{read / 1e3:.0f} kB", "its growth"),
        ("received before, to list the tables of the board", f"{listed / 1e3:.0f} kB", "-"),
        ("agent archive", f"{agent_size / 1e3:.0f} kB", "< 200 kB"),
    ]  # fmt: skip


@contextmanager
def _board(scratch: Path) -> Iterator[tuple[Sshd, SshConnection]]:
    """`bench` of boards.toml, in a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        board = Sshd(scratch / "board", set_up_user(scratch / "user", patch)).start()
        try:
            (scratch / "user" / ".ssh" / "known_hosts").write_text(board.known_hosts_line)
            user, host, port = board.address.replace(":", "@").split("@")
            python = str(write_python_wrapper(scratch / "python3"))
            devices.add_board(devices.InventoryEntry(name="bench", host=host, user=user, port=int(port), python=python))
            connection = devices.connect("bench")
            assert isinstance(connection, SshConnection)
            with connection:
                yield board, connection
        finally:
            end_agents(board)
            board.stop()


def _put_cold(board: Sshd, connection: SshConnection, folder: Path, models: list[Path]) -> None:
    home = f"{connection.home()}/cold-{time.monotonic_ns()}"
    connection.mkdir(home)
    connection.put_all([(model, f"{home}/{model.name}") for model in models])


def _scp(board: Sshd, models: list[Path], scratch: Path) -> None:
    target = board.home / f"scp-{time.monotonic_ns()}"
    target.mkdir()
    ssh = scratch / "user" / ".ssh"
    user, host, port = board.address.replace(":", "@").split("@")
    options = ["-o", f"UserKnownHostsFile={ssh / 'known_hosts'}", "-i", str(ssh / "id_ed25519"), "-P", port]
    subprocess.run(["scp", "-q", "-F", "none", *options, *map(str, models), f"{user}@{host}:{target}"], check=True)


def _until_first(host: str, job: Path, journal: Path) -> tuple[int, float]:
    """(bytes sent, seconds) from connecting to the arrival of the first measurement of a job; then the job is ended."""
    started_s = time.monotonic()
    connection = devices.connect(host)
    assert isinstance(connection, SshConnection)
    seen: list[float] = []

    def stop(status: devices.Status) -> None:
        if journal.exists() and journal.read_bytes().count(b"\n") > 1:
            seen.append(time.monotonic() - started_s)
            raise KeyboardInterrupt

    with connection:
        connection.poll_s = 0.1
        journal.unlink(missing_ok=True)
        campaign = Campaign(connection, job)
        campaign.start(fresh=True)
        with contextlib.suppress(KeyboardInterrupt):
            campaign.follow(journal, stop)
        return _traffic(connection)[0], seen[0]


def _traffic(connection: SshConnection) -> tuple[int, int]:
    """(bytes sent, bytes received) by the connection's socket, as the kernel counts them."""
    link = connection._link
    assert link is not None
    info = link._transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    sent, received = struct.unpack_from("=QQ", info, 120)  # tcpi_bytes_acked, tcpi_bytes_received of linux/tcp.h
    return sent, received


def _pull_grown(board: Sshd, connection: SshConnection, scratch: Path) -> tuple[int, int, int]:
    """(bytes received to list the jobs, to fetch one, bytes it grew by) after a pulled journal has grown."""
    name = "ffffffffffffffff"
    folder = Path(connection.home()) / "jobs" / name
    folder.mkdir()
    record: dict[str, object] = {"kind": "job", "schema": 1, "job": name, "purpose": "profile", "space": "bench"}
    record |= {"precision": "fp32", "batch": 1, "threads": 1, "backend": "onnxruntime"}
    record |= {"protocol": MeasurementProtocol(rounds=2).to_json(), "space_sha256": "5" * 64, "classes": 10}
    record |= {"sentinels": [], "measurements": [], "evaluations": []}
    (folder / "manifest.json").write_text(json.dumps(record))
    (folder / "journal.jsonl").write_bytes((os.urandom(500).hex().encode() + b"\n") * 2000)
    grown = 100_100
    pulled = scratch / "pulled"
    devices.fetch_journal(connection, _remote_job(connection, name), pulled)
    with open(folder / "journal.jsonl", "ab") as file:
        file.write((os.urandom(500).hex().encode() + b"\n") * (grown // 1001))
    _, begun = _traffic(connection)
    job = _remote_job(connection, name)
    _, listed = _traffic(connection)
    devices.fetch_journal(connection, job, pulled)
    _, fetched = _traffic(connection)
    assert pulled.read_bytes() == (folder / "journal.jsonl").read_bytes()
    return listed - begun, fetched - listed, grown


def _remote_job(connection: SshConnection, name: str) -> devices.RemoteJob:
    jobs, _ = devices.remote_jobs(connection)
    return next(job for job in jobs if job.job == name)


def _seconds(work: Callable[[], None]) -> float:
    started_s = time.monotonic()
    work()
    return time.monotonic() - started_s
