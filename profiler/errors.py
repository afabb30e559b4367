"""Every error the agent raises on purpose.

AgentError            ends the run; `exit_code` is the agent's own
├── ManifestError     the job cannot be understood                    1
├── JournalError      the journal cannot be gone on with              1
├── BackendError      the engine's library is missing or unfit        1
├── SetupError        the board cannot be set up as asked             1
├── DiskFullError     nothing more can be written; nothing was lost   74 (EX_IOERR)
├── LockedError       another agent runs on this board                75 (EX_TEMPFAIL)
└── Interrupted       SIGINT or SIGTERM                               130
MeasureError          costs one visit, which is written with `error`; the run goes on
"""

from typing import Any, Dict


class AgentError(Exception):
    """Base of what ends a run. `remedy` says what to do next."""

    code = "failed"
    exit_code = 1

    def __init__(self, message: str, remedy: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.details = details

    def to_json(self) -> Dict[str, Any]:
        record = {
            "kind": "error",
            "schema": 1,
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }
        record.update(self.details)
        return record


class ManifestError(AgentError):
    code = "manifest"


class JournalError(AgentError):
    code = "journal"


class BackendError(AgentError):
    code = "backend"


class SetupError(AgentError):
    code = "setup"


class DiskFullError(AgentError):
    code = "disk-full"
    exit_code = 74


class LockedError(AgentError):
    code = "locked"
    exit_code = 75


class Interrupted(AgentError):
    code = "interrupted"
    exit_code = 130


class MeasureError(Exception):
    """One measurement that failed. `code` is one of timeout, crash, load, run, model.

    `fatal` says that the process cannot go on: a CUDA error, for one, stays until the process ends.
    """

    fatal = False

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    def to_json(self) -> Dict[str, str]:
        return {"code": self.code, "message": self.message, "remedy": self.remedy}
