"""What a field test leaves: the answer of the board about its files, and the summary of all steps."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

from devices import AgentFailedError, Connection
from devices.remote_agent import send_agent
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.records.base import Count, Name, NonNegativeFloat, PositiveFloat, Record, Text
from lightnas_edge.records.plain_text import Line, Lines, clean_lines

SNAPSHOT_LIMIT_S = 120.0
# A path below the root of a system; no part of it is `.` or `..`.
SystemPath = Annotated[
    str,
    Field(pattern=r"^(virtual\.json|(etc|proc|sys)(/\.{0,2}[A-Za-z0-9_,:@+-][A-Za-z0-9_.,:@+-]*)+)$", max_length=400),
]
FileName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*(/[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*)*$", max_length=400)
]
Device = Annotated[str, Field(pattern=r"^cooling_device\d{1,4}$")]


class FieldTestError(LightnasEdgeError, ValueError):
    """An archive that is none of a field test, or a step that found something else than it expects."""


class TegrastatsFacts(Record):
    """How the agent's reader understood the lines of tegrastats."""

    records: Count
    faults: tuple[Line, ...]
    rails: tuple[Line, ...]


class Snapshot(Record):
    """Copies of the system files that the agent reads. Written by the agent; `home_files` and `private` are not kept."""

    kind: Literal["snapshot"] = "snapshot"
    schema_: Literal[1] = Field(default=1, alias="schema")
    agent_version: Line
    files: dict[SystemPath, Annotated[str, Field(max_length=1 << 17)]]
    links: dict[SystemPath, Device]
    refused: dict[SystemPath, Line]
    left_out: tuple[SystemPath, ...]
    tools: dict[Name, Annotated[str, Field(max_length=1 << 17)]]
    tegrastats: TegrastatsFacts
    home_files: tuple[FileName, ...] = ()
    private: dict[Name, tuple[Line, ...]] = Field(default_factory=dict)


StepStatus = Literal["passed", "failed", "skipped", "interrupted"]


class StepRecord(Record):
    """One step: what it found, or why it did not."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=100)]
    title: Line
    status: StepStatus
    seconds: NonNegativeFloat
    findings: tuple[Text, ...] = ()
    cause: Text | None = None
    remedy: Lines = ""
    files: tuple[FileName, ...] = ()
    latency_ms: dict[Name, PositiveFloat] = Field(
        default_factory=dict
    )  # of what a journal holds, as read when it was measured


class FieldTestRecord(Record):
    """summary.json: a whole field test."""

    kind: Literal["field-test"] = "field-test"
    schema_: Literal[1] = Field(default=1, alias="schema")
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    version: Line
    quick: bool
    simulated: bool
    reached_by: Literal["localhost", "virtual", "ssh"]
    board: Line | None  # None: it was not reached
    module: Line | None
    l4t: Line | None
    jetpack: Line | None
    python: Line | None
    engines: dict[Name, Line]  # that work -> their version
    seconds: NonNegativeFloat
    steps: tuple[StepRecord, ...]
    removed: dict[Name, Count] = Field(default_factory=dict)  # kind of name or address -> places

    def count(self, status: StepStatus) -> int:
        return sum(step.status == status for step in self.steps)


def take_snapshot(connection: Connection) -> Snapshot:
    """The system files of a board, as the agent copies them.

    Raises:
        DeviceError: the board is out of reach, or the agent does not run there.
    """
    agent = send_agent(connection)
    argv = [connection.python(), agent, "snapshot", "--home", connection.home(), *connection.agent_options]
    ended = connection.run(argv, timeout_s=SNAPSHOT_LIMIT_S)
    answers = [line for line in ended.stdout.splitlines() if line.startswith(b"{")]  # a login shell may print too
    if not answers:
        text = clean_lines(ended.stderr.decode(errors="replace")) or f"exit code {ended.returncode}"
        raise AgentFailedError(f"the agent takes no snapshot on {connection.name}: {text}")
    return Snapshot.parse(
        answers[-1], f"the snapshot of {connection.name}", error=AgentFailedError,
        remedy="check that the address is that of the board",
    )  # fmt: skip


def kept(snapshot: Snapshot) -> str:
    """The JSON text of a snapshot that goes into an archive."""
    record = {name: value for name, value in snapshot.to_json().items() if name not in ("home_files", "private")}
    return json.dumps(record, indent=1, sort_keys=True) + "\n"
