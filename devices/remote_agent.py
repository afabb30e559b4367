"""Bringing the agent and a job to a board, following it, and fetching its results.

On the board, under the agent's home:
    agent/<sha256>.pyz   the agent          models/<sha256>.onnx, data/<sha256>.f32   never sent twice
    agent.lock           the agent that runs    jobs/<job>/   manifest, journal, outputs, status, log
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from devices.cache import LONGEST_NOTE, lock_holder, make_room
from devices.connection import Completed, Connection
from devices.errors import AgentFailedError, BoardBusyError, BoardUnreachableError, DeviceError, TableWriteError
from devices.journal_copies import append_new, drop_torn_line, is_start_of, mend, whole_bytes
from devices.liveness import ProcessRecord, identify, is_alive, send_signal
from devices.programs import last_line
from devices.remote_job import LARGEST_MANIFEST
from lightnas_edge.errors import RecordError
from lightnas_edge.files import sha256_of_start, write_atomic
from lightnas_edge.records.board import ProbeResult, SetupReport
from lightnas_edge.records.job import AgentFailure, JobManifest, Status
from lightnas_edge.records.plain_text import clean_lines

SETUP_LIMIT_S = 150.0  # sudo, nvpmodel, and waiting for an earlier guard to put things back
START_LIMIT_S = 60.0  # until the agent's first status
PROBE_LIMIT_S = 240.0  # importing a runtime from a slow card takes minutes
FIRST_STATUS_S = 3.0  # an agent that was started has usually written a status by then
FAULTY_LIMIT_S = 10.0  # the agent replaces its status every second: faults that stay so long are no accident
_log = logging.getLogger("devices")
NOT_STOPPED = (  # %s: the board, and its name on the command line
    "%s cannot be reached, so its agent may still measure; the same command continues, and `lightnas-edge pull --host %s` fetches "
    "what it measured"
)
STOP_LIMIT_S = 30.0  # from the request to stop to the agent's last status

_MAIN = "import sys\n\nfrom profiler.start import main\n\nif __name__ == '__main__':\n    sys.exit(main())\n"

LARGEST_LAYERS = 256 * 2**20


class Campaign:
    """One job on one board.

    Args:
        job_dir: the job directory on this side: manifest.json, models/, data/.
        sudo_password: for a job that changes the board's settings, where sudo requires one.

    Raises:
        RecordError: the manifest has errors; all of them in one message.
    """

    def __init__(self, connection: Connection, job_dir: Path, sudo_password: str | None = None) -> None:
        self._connection = connection
        self._job_dir = job_dir
        self._manifest = (job_dir / "manifest.json").read_bytes()
        self._job = JobManifest.parse(self._manifest, str(job_dir / "manifest.json"))
        self._home = connection.home()
        self._folder = f"{self._home}/jobs/{self._job.job}"
        self._where = ["--job", self._folder, "--home", self._home, *connection.agent_options]
        self._sudo_password = sudo_password
        self._process: ProcessRecord | None = None  # of the agent, where this object started or joined it
        self._status_fault = ""  # of the last look at the agent's status
        self._log_start = 0  # of what the agent that this object started has written into its log
        self._fetched: int | None = None  # bytes of the board's journal that this side's copy stands for

    @classmethod
    def running(cls, connection: Connection, scratch: Path) -> Campaign | None:
        """The job that an agent on the board runs, from this host or another one; None when no agent runs.

        Args:
            scratch: an empty folder on this side, for the job's manifest.

        Raises:
            DeviceError: the board is out of reach.
            RecordError: the board's manifest has errors.
        """
        holder = lock_holder(connection)
        if holder is None:
            return None
        manifest = connection.read(f"{connection.home()}/jobs/{holder.job}/manifest.json", limit=LARGEST_MANIFEST)
        (scratch / "manifest.json").write_bytes(manifest)
        return cls(connection, scratch)

    @property
    def job(self) -> str:
        """Its name."""
        return self._job.job

    def start(self, fresh: bool = False, journal: Path | None = None) -> None:
        """Send the missing files and start the agent, which runs without this connection.

        An agent that runs this very manifest already is joined instead.

        Args:
            fresh: measure everything again; the board's journal of this job is removed.
            journal: this side's copy of the table; the board continues it where its own journal is shorter.

        Raises:
            BoardBusyError: another agent is at work.
            ContradictionError: intact lines of the board's journal and of this side's copy contradict each other.
            DeviceError: the board is out of reach.
        """
        holder = lock_holder(self._connection)
        if holder is not None:
            same = self._connection.exists(self._on_board("manifest.json")) and (
                self._connection.read(self._on_board("manifest.json")) == self._manifest
            )
            if fresh or not same or holder.job != self._job.job:
                raise BoardBusyError(
                    f"another agent is at work on {self._connection.name}: pid {holder.pid}, job {holder.job}, "
                    f"since {holder.started}",
                    hint="wait for it, or stop it on the board with `kill -INT PID`",
                )
            self._process = holder
            return
        for folder in (self._folder, f"{self._home}/models", f"{self._home}/data"):
            self._connection.mkdir(folder)
        if fresh:
            self._connection.remove(self._on_board("journal.jsonl"))
        elif journal is not None:
            self._seed(journal)
        models = [row.model for row in self._job.measurements] + [row.model for row in self._job.evaluations]
        self._send_missing("models", ".onnx", models)
        self._send_missing("data", ".f32", [row.inputs for row in self._job.evaluations])
        agent = send_agent(self._connection)
        self._connection.put(self._job_dir / "manifest.json", self._on_board("manifest.json"))
        self._connection.remove(self._on_board("status.json"))
        self._connection.remove(self._on_board("agent.out"))
        log = self._on_board("agent.log")
        self._log_start = self._connection.size(log) if self._connection.exists(log) else 0
        if self._job.board_setup is not None:
            self._set_up(agent)
        try:
            pid = self._connection.start(
                [self._connection.python(), agent, "run", *self._where],
                log=self._on_board("agent.log"),
                output=self._on_board("agent.out"),
            )
            self._process = identify(self._connection, pid)
        except KeyboardInterrupt:
            self._connection.hurry()
            try:
                self._stop(FIRST_STATUS_S)  # it may have started all the same
            except BoardUnreachableError:
                _log.warning(NOT_STOPPED, self._connection.name, self._connection.name)
            raise

    def follow(
        self, journal: Path, on_progress: Callable[[Status], None] | None = None, *, stop: bool = True
    ) -> Status:
        """Fetch the journal as it grows, until the agent is done.

        Args:
            journal: this side's copy: the lines that it lacks are appended, whole lines only.
            stop: have the agent stop when we are interrupted; False for a job that another host started.

        Raises:
            BoardBusyError, AgentFailedError: the agent's own message; its measurements have been fetched.
            TableWriteError: the copy cannot be written; the agent was stopped.
            KeyboardInterrupt: the agent's measurements have been fetched, unless the board is out of reach.
        """
        try:
            status = self._follow(journal, on_progress)
        except (KeyboardInterrupt, TableWriteError) as err:
            self._connection.hurry()
            try:
                if stop:
                    self._stop()
                if isinstance(err, KeyboardInterrupt):
                    self._fetch(journal)
            except BoardUnreachableError:
                _log.warning(NOT_STOPPED, self._connection.name, self._connection.name)
            raise
        if status.state != "done":
            raise self._agent_error(status.message)
        return status

    def fetch_outputs(self, folder: Path) -> None:
        """Copy the outputs of the job's evaluations to FOLDER/<key>.f32, and the times of layers to FOLDER/<key>.layers.json.

        A runtime that does not time layers writes no such file.

        Raises:
            AgentFailedError: an evaluation has no output; the hint shows the agent's log.
        """
        for row in self._job.evaluations:
            remote = self._on_board(f"outputs/{row.key}.f32")
            if not self._connection.exists(remote):
                raise AgentFailedError(f"the agent has no output for {row.key}", hint=self._log_tail())
            write_atomic(folder / f"{row.key}.f32", self._connection.read(remote))
        for key in self._job.layer_profiles:
            remote = self._on_board(f"outputs/{key}.layers.json")
            if self._connection.exists(remote):
                content = self._connection.read(remote, limit=LARGEST_LAYERS)
                write_atomic(folder / f"{key}.layers.json", content)

    def _follow(self, journal: Path, on_progress: Callable[[Status], None] | None) -> Status:
        self._fetched = self._compare(journal)
        started_s = faultless_s = time.monotonic()
        while True:
            status = self._status()
            # Read before fetching, so that the last lines of a dead agent are fetched below.
            alive = status is not None and not status.final and is_alive(self._connection, status)
            self._fetch(journal)
            if status is not None and on_progress is not None:
                on_progress(status)
            if status is not None and status.final:
                self._fetched = self._compare(journal)  # it may have been damaged in the meantime
                return status
            if status is not None and not alive:
                status = self._status()
                if status is not None and status.final:
                    return status
                raise self._agent_error("the agent was killed before it finished")
            if self._status_fault:
                ended = self._is_dead() or self._last_output() or time.monotonic() - faultless_s > FAULTY_LIMIT_S
                if ended and self._status() is None and self._status_fault:
                    self._fetched = self._compare(journal)
                    self._fetch(journal)
                    raise self._faulty_status()
                time.sleep(self._connection.poll_s)
                continue
            faultless_s = time.monotonic()
            if status is None and self._last_output():
                raise self._agent_error("")
            if status is None and self._is_dead() and self._status() is None:
                raise self._agent_error("")
            if status is None and time.monotonic() - started_s > START_LIMIT_S:
                raise self._agent_error("the agent did not start")
            time.sleep(self._connection.poll_s)

    def _stop(self, patience_s: float = STOP_LIMIT_S) -> None:
        """Have the agent stop, and wait for it. `patience_s`: how long to wait for its first status."""
        begun_s = time.monotonic()
        signalled = False
        while time.monotonic() - begun_s < STOP_LIMIT_S:
            status = self._status()
            if status is None and (time.monotonic() - begun_s > patience_s or self._is_dead()):
                return
            if status is None and self._process is not None and not signalled:
                signalled = send_signal(self._connection, self._process, signal.SIGINT)
            # Its last status precedes the end of its process, which holds the board's lock.
            if status is not None and not is_alive(self._connection, status):
                return
            if status is not None and not status.final and not signalled:
                signalled = send_signal(self._connection, status, signal.SIGINT)
            time.sleep(self._connection.poll_s)

    def _is_dead(self) -> bool:
        """Whether the agent's process has ended, as far as it is known."""
        return self._process is not None and not is_alive(self._connection, self._process)

    def _set_up(self, agent: str) -> None:
        """Set clocks and power mode as the job requires. A guard on the board restores both when the agent has ended."""
        argv = [self._connection.python(), agent, "setup", *self._where]
        secret = b""
        if self._sudo_password is not None:
            argv.append("--password")
            secret = self._sudo_password.encode() + b"\n"
        ended = self._connection.run(argv, timeout_s=SETUP_LIMIT_S, stdin=secret)
        name = self._connection.name
        answer = agent_answer(ended, name)
        SetupReport.parse(answer, f"the answer of {name} to the board setup", error=AgentFailedError)

    def _status(self) -> Status | None:
        path, self._status_fault = self._on_board("status.json"), ""
        if not self._connection.exists(path):
            return None
        content = self._connection.read_part(path, 0, LONGEST_NOTE + 1)
        try:
            if len(content) > LONGEST_NOTE:
                raise RecordError(f"{path} is longer than {LONGEST_NOTE} bytes")
            return Status.parse(content, path)
        except RecordError as err:  # half written, which happens only on a full disk, or written by another program
            self._status_fault = str(err)
            return None

    def _faulty_status(self) -> AgentFailedError:
        return AgentFailedError(
            f"the agent's status on {self._connection.name} cannot be used: {clean_lines(self._status_fault, max_chars=300)}",
            hint="what was measured is fetched and kept: run the same command again\n"
            "if it fails in the same way, another program writes that file, or the board's disk is damaged",
        )

    def _last_output(self) -> str:
        """The last line that the agent printed as JSON: its result or its failure; empty before that."""
        lines = self._end_of("agent.out").splitlines()
        return next((line for line in reversed(lines) if line.lstrip().startswith("{")), "")

    def _agent_error(self, message: str) -> DeviceError:
        for _ in range(20):  # the agent's output follows its last status
            output = self._last_output()
            if output:
                break
            time.sleep(0.05)
        failure = _failure(output)
        if failure is None and not message:
            return death(self._connection.name, self._end_of("agent.log"), self._log_tail())
        if failure is None:
            return AgentFailedError(message, hint=self._log_tail())
        error = BoardBusyError if failure.code == "locked" else AgentFailedError
        return error(failure.message, hint=failure.remedy)

    def _log_tail(self, lines: int = 10) -> str:
        tail = "\n".join(self._end_of("agent.log").splitlines()[-lines:])
        return f"the end of {self._on_board('agent.log')}:\n{clean_lines(tail, lines, max_chars=300)}"

    def _end_of(self, name: str) -> str:
        """The end of a file that the agent writes; empty where the file is missing. Of the log, what this agent has written."""
        path = self._on_board(name)
        if not self._connection.exists(path):
            return ""
        start = max(self._log_start if name == "agent.log" else 0, self._connection.size(path) - LONGEST_NOTE // 2)
        return self._connection.read(path, start, limit=LONGEST_NOTE).decode(errors="replace")

    def _seed(self, journal: Path) -> None:
        """Send this side's copy of the journal where the board's is shorter, and mend both where one is damaged."""
        remote = self._on_board("journal.jsonl")
        if is_start_of(journal, whole_bytes(journal), self._connection, remote):
            return
        length = self._connection.size(remote) if self._connection.exists(remote) else 0
        if length == 0 or (
            length < journal.stat().st_size and self._connection.sha256(remote) == sha256_of_start(journal, length)
        ):
            self._connection.put(journal, remote)  # the agent cuts off a torn last line
        else:
            mend(self._connection, remote, journal, send=True)

    def _compare(self, journal: Path) -> int:
        """Have this side's copy hold what is intact in either; for how many bytes of the board's journal it stands then."""
        remote, length = self._on_board("journal.jsonl"), whole_bytes(journal)
        if is_start_of(journal, length, self._connection, remote):
            drop_torn_line(journal, length)
            return length
        return mend(self._connection, remote, journal, send=False)

    def _fetch(self, journal: Path) -> None:
        remote = self._on_board("journal.jsonl")
        if not self._connection.exists(remote):
            return
        size = self._connection.size(remote)
        if self._fetched is None or size < self._fetched:  # somebody cut it
            self._fetched = self._compare(journal)
        if size > self._fetched:
            offset, self._fetched = self._fetched, None  # interrupted within, it is not known how much was appended
            self._fetched = offset + append_new(self._connection, remote, offset, journal)

    def _send_missing(self, kind: str, suffix: str, digests: list[str]) -> None:
        there = self._connection.listdir(f"{self._home}/{kind}")
        wanted = [self._job_dir / kind / f"{digest}{suffix}" for digest in dict.fromkeys(digests)]
        missing = [local for local in wanted if there.get(local.name) != local.stat().st_size]
        make_room(self._connection, f"{self._home}/{kind}", sum(local.stat().st_size for local in missing), keep=wanted)
        self._connection.put_all([(local, f"{self._home}/{kind}/{local.name}") for local in missing])

    def _on_board(self, name: str) -> str:
        return f"{self._folder}/{name}"


def probe(connection: Connection, backend: str | None = None, threads: int = 1) -> ProbeResult:
    """The board, its state, and whether the backend (the board's default when None) works there.

    Raises:
        AgentFailedError: the agent does not run on the board, or another program answers.
    """
    agent = send_agent(connection)
    _require_writable(connection)
    argv = [connection.python(), agent, "probe", "--backend", backend or connection.backend, "--threads", str(threads)]
    ended = connection.run([*argv, *connection.agent_options], timeout_s=PROBE_LIMIT_S)
    return ProbeResult.parse(
        agent_answer(ended, connection.name),
        f"the answer of {connection.name} to the probe",
        error=AgentFailedError,
        remedy="check that the address is that of the board",
    )


def agent_answer(ended: Completed, name: str) -> bytes:
    """The agent's JSON on standard output, or its failure raised."""
    answer = last_line(ended.stdout)
    failure = _failure(answer)
    if failure is not None:
        raise AgentFailedError(failure.message, hint=failure.remedy)
    if not answer.startswith(b"{"):
        raise death(name, ended.stderr.decode(errors="replace"), f"exit code {ended.returncode}")
    return answer


def _failure(output: bytes | str) -> AgentFailure | None:
    """The agent's failure record; None where the output is not one."""
    try:
        return AgentFailure.parse(output, "the agent's answer")
    except RecordError:
        return None


def death(name: str, log: str, otherwise: str) -> AgentFailedError:
    """The error for an agent that ended without an answer: its last words, and the remedy where they show the cause.

    Args:
        log: what it wrote on standard error.
        otherwise: the hint where the cause is not recognised.
    """
    words = clean_lines(log).splitlines()
    if not words:
        return AgentFailedError(f"the agent ended on {name} without a message", hint=otherwise)
    if words[-1].startswith(("ImportError", "ModuleNotFoundError", "SyntaxError")):
        otherwise = f'another Python may do; boards.toml names it: python = "/usr/bin/python3"\n{otherwise}'
    return AgentFailedError(f"the agent does not run on {name}: {words[-1]}", hint=otherwise)


def _require_writable(connection: Connection) -> None:
    """A campaign writes below the agent's home. Raises BoardUnreachableError: the board refuses."""
    path = f"{connection.home()}/writable"
    with tempfile.NamedTemporaryFile() as empty:
        connection.put(Path(empty.name), path)
    connection.remove(path)


def send_agent(connection: Connection) -> str:
    """Put the agent on the board unless the board has it; its path."""
    folder = f"{connection.home()}/agent"
    connection.mkdir(folder)
    with tempfile.TemporaryDirectory() as scratch:
        archive = build_agent_archive(Path(scratch) / "agent.pyz")
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        remote = f"{folder}/{digest}.pyz"
        if not connection.exists(remote) or connection.sha256(remote) != digest:
            connection.put(archive, remote)
    return remote


def build_agent_archive(path: Path) -> Path:
    """Pack the agent and the board catalog into one file that Python can run; equal sources give equal bytes."""
    catalog = [
        json.loads(file.read_text(encoding="utf-8"))
        for file in sorted((resources.files("devices") / "catalog").iterdir(), key=lambda file: file.name)
        if file.name.endswith(".json")
    ]
    members = _sources(resources.files("profiler"), "profiler/")
    members["profiler/catalog.json"] = json.dumps(catalog, sort_keys=True).encode()
    members["__main__.py"] = _MAIN.encode()
    with open(path, "wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(members.items()):
                archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return path


def _sources(folder: Traversable, prefix: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found.update(_sources(entry, f"{prefix}{entry.name}/"))
        elif entry.name.endswith(".py"):
            found[prefix + entry.name] = entry.read_bytes()
    return found
