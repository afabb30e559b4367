"""Files next to the journal that other processes read: status.json, agent.lock."""

import fcntl
import json
import os
import time
from typing import NamedTuple, Optional

from profiler.errors import LockedError
from profiler.fields import Fields, JsonObject, RecordError, parse, read_record
from profiler.processes import ProcessId, this_process

INTERVAL_S = 0.2
LONGEST_HOLDER = 65536  # bytes of a lock file
_ATTEMPTS, _ATTEMPT_S = 10, 0.02  # who looks at a lock has it for an instant


class Status(NamedTuple):
    """How far a run is. `done` and `total` count visits; engines, seconds or models in other phases. `failed` counts keys.

    While an engine is built or layers are timed, `elapsed_s` grows every second: a sign of life.
    """

    session: str
    process: ProcessId
    state: str = "running"  # running, done, failed, interrupted
    phase: str = "measuring"  # or building, sustained, layers
    done: int = 0
    total: int = 0
    failed: int = 0
    key: str = ""  # of the latest visit
    round: int = 0
    eta_s: Optional[float] = None
    elapsed_s: float = 0.0  # of the present build or layer profile
    message: str = ""
    warning: str = ""  # about the board's settings after the run

    def to_json(self) -> JsonObject:
        record: JsonObject = {"kind": "status", "schema": 1}
        record.update(self._asdict())
        del record["process"]
        record.update(self.process._asdict())
        return record


class StatusFile:
    """status.json, replaced by rename at most every INTERVAL_S while running."""

    def __init__(self, path: str, session: str) -> None:
        self._path = path
        self.status = Status(session, this_process())
        self._written_s = 0.0
        self._replace()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._written_s >= INTERVAL_S

    def update(self, status: Status) -> None:
        """A newer status; written when due. A full disk is for the journal to report, not for the status."""
        self.status = status
        if self.due:
            try:
                self._replace()
            except OSError:
                pass

    def finish(self, state: str, message: str, warning: str = "") -> None:
        """The last status. On a full disk it overwrites the one before, which needs no room."""
        self.status = self.status._replace(
            state=state, message=message, warning=warning, eta_s=0.0 if state == "done" else None
        )
        try:
            self._replace()
        except OSError:
            with open(self._path, "r+b") as file:
                file.write(self._content())
                file.truncate()

    def _content(self) -> bytes:
        return (json.dumps(self.status.to_json()) + "\n").encode("ascii")

    def _replace(self) -> None:
        part = self._path + ".part"
        try:
            with open(part, "wb") as file:
                file.write(self._content())
            os.rename(part, self._path)
        except OSError:
            try:
                os.remove(part)
            except OSError:
                pass
            raise
        self._written_s = time.monotonic()


class LockHolder(NamedTuple):
    """The process that has a lock, as the lock file records it."""

    process: ProcessId
    job: str
    started: str

    @classmethod
    def read(cls, fields: Fields) -> "LockHolder":
        return cls(ProcessId.read(fields), fields.text("job"), fields.text("started"))

    def to_json(self) -> JsonObject:
        return dict(self.process._asdict(), job=self.job, started=self.started)


def read_holder(content: bytes) -> Optional[LockHolder]:
    """The holder in a lock file's content; None while it is not written, or when the content is damaged."""
    try:
        return read_record(parse(content), LockHolder.read)
    except RecordError:
        return None


class Lock:
    """One process per file. The kernel keeps the lock until the process ends, however it ends."""

    def __init__(self, path: str, job: str, started: str) -> None:
        """Take the lock.

        Raises:
            LockedError: another process has it; `details["holder"]` identifies it.
        """
        self._file = open(path, "a+b")  # noqa: SIM115 open as long as the process runs
        if not self._take():
            self._file.seek(0)
            holder = read_holder(self._file.read(LONGEST_HOLDER))
            self._file.close()
            raise LockedError(
                "another agent is at work on this board: {}".format(
                    "pid {}, job {}, since {}".format(holder.process.pid, holder.job, holder.started)
                    if holder
                    else "its process is not known yet"
                ),
                "wait for it, or stop it with `kill -INT PID`",
                holder=None if holder is None else holder.to_json(),
            )
        self._file.truncate(0)
        self._file.write(json.dumps(LockHolder(this_process(), job, started).to_json()).encode("ascii"))
        self._file.flush()

    def _take(self) -> bool:
        for attempt in range(_ATTEMPTS):
            time.sleep(_ATTEMPT_S if attempt else 0)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                pass
        return False

    def release(self) -> None:
        """Give the lock back; no effect the second time."""
        if not self._file.closed:
            self._file.truncate(0)
            self._file.close()


class LockState(NamedTuple):
    """Who has a lock now. The holder is None while it is not written, or where the file is damaged."""

    locked: bool
    holder: Optional[LockHolder] = None


def look_at(path: str) -> LockState:
    """The state of a lock. The kernel decides whether it is taken, never the file's content.

    One that cannot be looked at counts as taken: a guard must not restore the board because of a passing fault.
    """
    try:
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return LockState(True, read_holder(file.read(LONGEST_HOLDER)))
    except (FileNotFoundError, NotADirectoryError):
        return LockState(False)
    except OSError:
        return LockState(True)
    return LockState(False)
