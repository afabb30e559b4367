"""Every error the agent raises on purpose.

AgentError            ends the run; `exit_code` is the agent's own
├── ManifestError     the job cannot be understood                    1
├── JournalError      the journal cannot be continued                 1
├── BackendError      the engine's library is missing or unfit        1
├── SentFilesError    models or inputs are missing or damaged here    1
├── SetupError        the board cannot be set up as requested         1
├── DiskFullError     nothing more can be written; nothing was lost   74 (EX_IOERR)
├── LockedError       another agent runs on this board                75 (EX_TEMPFAIL)
└── Interrupted       SIGINT or SIGTERM                               130
MeasureError          costs one visit, which is written with `error`; the run continues
"""

import errno
from typing import Any, Dict, NamedTuple

from profiler.fields import Fields, JsonObject, read_record


class ErrorRecord(NamedTuple):
    """An error in a journal or in an answer between processes."""

    code: str
    message: str
    remedy: str

    @classmethod
    def read(cls, fields: Fields) -> "ErrorRecord":
        return cls(fields.text("code"), fields.text("message"), fields.text("remedy"))

    @classmethod
    def from_json(cls, value: object) -> "ErrorRecord":
        """Raises RecordError."""
        return read_record(value, cls.read)

    def to_json(self) -> Dict[str, str]:
        return {"code": self.code, "message": self.message, "remedy": self.remedy}


class AgentError(Exception):
    """Base of what ends a run. `remedy` says what to do next; `details` are further fields of its JSON."""

    code = "failed"
    exit_code = 1

    def __init__(self, message: str, remedy: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.details = details

    @property
    def record(self) -> ErrorRecord:
        return ErrorRecord(self.code, self.message, self.remedy)

    def to_json(self) -> JsonObject:
        record: JsonObject = {"kind": "error", "schema": 1}
        record.update(self.record.to_json(), exit_code=self.exit_code, **self.details)
        return record


class ManifestError(AgentError):
    code = "manifest"


class JournalError(AgentError):
    code = "journal"


class BackendError(AgentError):
    code = "backend"


class SentFilesError(AgentError):
    code = "sent-files"


class SetupError(AgentError):
    code = "setup"


class DiskFullError(AgentError):
    code = "disk-full"
    exit_code = 74


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def from_os_error(err: OSError) -> AgentError:
    """What the system refused, as an error of the agent."""
    what = "{}: {}".format(err.filename, err.strerror) if err.filename else str(err.strerror or err)
    if err.errno in FULL:
        return DiskFullError(
            "no room left on the board ({})".format(what),
            "free some space on the board and run again; everything measured so far is kept",
        )
    return AgentError("the board refused: {}".format(what), "check the agent's folder on the board")


class LockedError(AgentError):
    code = "locked"
    exit_code = 75


class Interrupted(AgentError):
    code = "interrupted"
    exit_code = 130


class MeasureError(Exception):
    """One measurement that failed. `code` is one of timeout, crash, memory, load, run, model.

    `fatal` says that the process must end: a CUDA error, for example, stays until the process ends.
    """

    fatal = False

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    @property
    def record(self) -> ErrorRecord:
        return ErrorRecord(self.code, self.message, self.remedy)

    def to_json(self) -> Dict[str, str]:
        return self.record.to_json()
