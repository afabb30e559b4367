"""Files beside the journal that others look at: status.json, agent.lock."""

import fcntl
import json
import os
import time
from typing import Any, Dict, Optional

from profiler.errors import LockedError

INTERVAL_S = 0.2


class StatusFile:
    """status.json, replaced by rename at most every INTERVAL_S while running."""

    def __init__(self, path: str, session: str) -> None:
        self._path = path
        self.session = session
        self._fields = {
            "kind": "status",
            "schema": 1,
            "state": "running",
            "session": session,
            "done": 0,
            "total": 0,
            "failed": 0,
            "key": "",
            "round": 0,
            "eta_s": None,
            "pid": os.getpid(),
            "message": "",
        }  # type: Dict[str, Any]
        self._written_s = 0.0
        self._replace()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._written_s >= INTERVAL_S

    def update(self, **fields: Any) -> None:
        """Change fields; written when due. A full disk is for the journal to report, not for the status."""
        self._fields.update(fields)
        if self.due:
            try:
                self._replace()
            except OSError:
                pass

    def finish(self, state: str, message: str) -> None:
        """The last word. On a full disk it is written over the old one, which needs no room."""
        self._fields.update(state=state, message=message, eta_s=0.0 if state == "done" else None)
        try:
            self._replace()
        except OSError:
            with open(self._path, "r+b") as file:
                file.write(self._content())
                file.truncate()

    def _content(self) -> bytes:
        return (json.dumps(self._fields) + "\n").encode("ascii")

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


class Lock:
    """One agent per home: held until the process ends, however it ends."""

    def __init__(self, path: str, job: str, started: str) -> None:
        """Take the lock.

        Raises:
            LockedError: another agent has it; `details["holder"]` says which.
        """
        self._file = open(path, "a+b")  # noqa: SIM115 held open as long as the agent runs
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = self._holder()
            self._file.close()
            raise LockedError(
                "another agent is at work on this board: {}".format(
                    "pid {pid}, job {job}, since {started}".format(**holder) if holder else "it has not said which"
                ),
                "wait for it, or stop it with `kill -INT PID`",
                holder=holder,
            )
        self._file.truncate(0)
        self._file.write(json.dumps({"pid": os.getpid(), "job": job, "started": started}).encode("ascii"))
        self._file.flush()

    def release(self) -> None:
        self._file.truncate(0)
        self._file.close()

    def _holder(self) -> Optional[Dict[str, Any]]:
        self._file.seek(0)
        try:
            return json.loads(self._file.read().decode("ascii"))
        except ValueError:
            return None
