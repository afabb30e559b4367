"""Reads the archive of a field test with the present readers, and says where they disagree with what the board said.

The recorded system files become a folder, and the real agent runs on it: it identifies the board, finds the sensors, reads
clocks, zones and cooling devices as it would on the board.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import devices
import luts
from devices import LocalConnection
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.field_test.archive import PROBE, SNAPSHOT, SUMMARY
from lightnas_edge.field_test.records import FieldTestError, FieldTestRecord, Snapshot, take_snapshot
from lightnas_edge.files import write_atomic
from lightnas_edge.predictor import load_predictor
from lightnas_edge.records.board import ProbeResult
from lightnas_edge.records.deployment import VerificationRecord
from lightnas_edge.records.model_profile import ModelProfileRecord

_TOLERANCE = 1e-9  # relative; the same journal gives the same number on every machine, up to the order of sums
_TOOLS = "usr/sbin"
# Prints a recorded output, chosen by the letters of the arguments. No text of the archive is run.
_STAND_IN = '#!/bin/sh\nexec cat "$0.$(printf %s "$*" | tr -cd a-z)"\n'


@dataclass
class Check:
    """One thing that was read again."""

    name: str
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # new to this program, though nothing is read wrongly
    disagreements: list[str] = field(default_factory=list)


class RecordedBoard(LocalConnection):
    """A folder of recorded system files as a board: the agent runs here and reads there."""

    poll_s = 0.1

    def __init__(self, root: Path, home: Path, name: str) -> None:
        self.name = name
        self.agent_options = ("--root", str(root))
        self._home = home

    @property
    def backend(self) -> str:
        return "onnxruntime"

    def home(self) -> str:
        return str(self._home)


def replay(folder: Path, scratch: Path) -> Iterator[Check]:
    """Read everything in an unpacked archive again.

    Args:
        folder: as `unpack` returns it.
        scratch: an empty folder, where the recorded board is set up.

    Raises:
        RecordError: the summary is damaged.
    """
    summary = FieldTestRecord.load(folder / SUMMARY)
    yield from _journals(folder, summary)
    yield from _records(folder)
    if (folder / SNAPSHOT).exists():
        yield from _system(folder, scratch)


def write_board(snapshot: Snapshot, root: Path) -> None:
    """The folder of system files that a snapshot describes; of its tools, what they printed.

    Raises:
        FieldTestError: the paths contradict each other.
        OSError: a file cannot be written.
    """
    try:
        for name, text in snapshot.files.items():
            write_atomic(root / name, text)
        for name, device in snapshot.links.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(f"../{device}")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as err:
        raise FieldTestError(f"{SNAPSHOT}: one path is both a file and a folder: {err.filename}") from err
    for tool, arguments in _printed(snapshot):
        path = root / _TOOLS / tool
        write_atomic(path, _STAND_IN)
        path.chmod(0o755)
        text = snapshot.tools[f"{tool} {arguments}".strip()]
        letters = re.sub("[^a-z]", "", "--interval" if tool == "tegrastats" else arguments)
        write_atomic(path.with_name(f"{tool}.{letters}"), text)


def write_test(folder: Path, tests: Path) -> Path:
    """The board of an unpacked archive as an input of tests: its system files and what the board said; the new folder.

    Raises:
        FieldTestError, RecordError: the archive holds no snapshot or no probe, or a damaged one.
        OSError: a file cannot be written.
    """
    snapshot, probe = _load_snapshot(folder), ProbeResult.load(folder / PROBE)
    simulated = "-simulated" if probe.fingerprint.get("simulated") else ""
    name = re.sub(r"[^A-Za-z0-9.-]", "-", f"{probe.board.name}-{probe.board.l4t or 'unknown'}{simulated}").strip(".")
    target = tests / name
    shutil.rmtree(target, ignore_errors=True)
    write_board(snapshot, target / "root")
    probe.save(target / PROBE)
    return target


def compare_probes(recorded: ProbeResult, now: ProbeResult) -> list[str]:
    """Where two answers about the same board differ, in what stays the same during a field test."""
    before, after = _stable(recorded), _stable(now)
    return [
        f"{name}: the board said {before[name]!r}, read again {after[name]!r}"
        for name in before
        if before[name] != after[name]
    ]


def _printed(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """(tool, its arguments) of the tools that a reader of the agent runs."""
    for command in snapshot.tools:
        tool, _, arguments = command.partition(" ")
        if tool in ("nvpmodel", "tegrastats"):
            yield tool, arguments


def _load_snapshot(folder: Path) -> Snapshot:
    return Snapshot.load(folder / SNAPSHOT)


def _stable(probe: ProbeResult) -> dict[str, Any]:
    board, sensor = probe.board, probe.energy.sensor
    ours = sensor is not None and sensor.sensor != "nvml"  # NVML answers for the machine that reads
    found: dict[str, Any] = {
        f"board.{name}": getattr(board, name)
        for name in ("name", "model", "module", "l4t", "jetpack", "power_mode", "cpu", "cores", "memory_mb", "kernel", "system",
                     "governors")
    }  # fmt: skip
    found["board.gpu.available_mhz"] = board.gpu and board.gpu.available_mhz
    found["clocks"] = probe.fingerprint.get("clocks")
    found["thermal zones"] = sorted(probe.temperatures_c)
    found["throttled by"] = probe.state.throttled_by
    found["rails"] = sensor.rails if sensor is not None and ours else ()
    found["total"] = sensor.total if sensor is not None and ours else None
    found["resolution_mw"] = sensor.resolution_mw if sensor is not None and ours else {}
    found["missing sensors"] = sorted(
        f"{entry.sensor} {entry.rail}" for entry in probe.missing_sensors if entry.sensor != "nvml"
    )
    return found


def _journals(folder: Path, summary: FieldTestRecord) -> Iterator[Check]:
    stated = {file: step for step in summary.steps for file in step.files}
    for path in sorted((folder / "journals").glob("*.jsonl")):
        file = f"journals/{path.name}"
        check = Check(file)
        try:
            table = luts.read(path)
        except LightnasEdgeError as error:
            check.disagreements.append(f"cannot be read: {_named(error, folder)}")
            yield check
            continue
        entries = {**table.entries, **table.networks}
        mark = "SIMULATED " if table.simulated else ""
        check.findings.append(f"{mark}{len(table.visits)} visits of {len(entries)} keys, {len(table.failed)} failed")
        check.disagreements += [f"line {fault.line}: {fault.what}" for fault in table.faults]
        if table.simulated != summary.simulated:
            check.disagreements.append(f"simulated is {table.simulated} here and {summary.simulated} in {SUMMARY}")
        step = stated.get(file)
        for key, stated_ms in (step.latency_ms if step is not None else {}).items():
            now_ms = entries[key].latency_ms if key in entries else math.nan
            # A step that measured twice names the keys of all its journals.
            if key in entries and not math.isclose(now_ms, stated_ms, rel_tol=_TOLERANCE):
                check.disagreements.append(f"{key}: {stated_ms:.6g} ms then, {now_ms:.6g} ms now")
        yield check


def _records(folder: Path) -> Iterator[Check]:
    readers: dict[str, Callable[[Path], object]] = {
        "layers/profile.json": ModelProfileRecord.load,
        "verify/profile.json": ModelProfileRecord.load,
        "verify/verification.json": VerificationRecord.load,
        "records/predictor.json": load_predictor,
        **{path.name: ProbeResult.load for path in sorted(folder.glob("probe*.json"))},
    }
    for file, load in readers.items():
        if not (folder / file).exists():
            continue
        check = Check(file)
        try:
            load(folder / file)
            check.findings.append("read")
        except LightnasEdgeError as error:
            check.disagreements.append(f"cannot be read: {_named(error, folder)}")
        yield check


def _system(folder: Path, scratch: Path) -> Iterator[Check]:
    check = Check(SNAPSHOT)
    try:
        recorded = _load_snapshot(folder)
        write_board(recorded, scratch / "root")
        board = RecordedBoard(scratch / "root", scratch / "home", "the recorded board")
        again = take_snapshot(board)
    except LightnasEdgeError as error:
        check.disagreements.append(f"cannot be read: {_named(error, folder)}")
        yield check
        return
    check.findings.append(f"{len(recorded.files)} files, {len(recorded.refused)} refused on the board")
    check.disagreements += _files_that_differ(recorded, again)
    yield check
    yield _tegrastats(recorded, again)
    if (folder / PROBE).exists():
        yield _board(folder, board, again)


def _files_that_differ(recorded: Snapshot, again: Snapshot) -> list[str]:
    missing = sorted(set(recorded.files) - set(again.files))
    return [f"the agent no longer reads {name}" for name in missing]


def _tegrastats(recorded: Snapshot, again: Snapshot) -> Check:
    check = Check("tegrastats")
    if "tegrastats" not in recorded.tools:
        check.findings.append("not recorded: the board has no such tool")
        return check
    check.findings.append(f"{again.tegrastats.records} lines, rails {', '.join(again.tegrastats.rails) or 'none'}")
    check.disagreements += again.tegrastats.faults
    if again.tegrastats.rails != recorded.tegrastats.rails:
        check.disagreements.append(f"rails: the agent read {recorded.tegrastats.rails}, now {again.tegrastats.rails}")
    return check


def _board(folder: Path, board: RecordedBoard, again: Snapshot) -> Check:
    check = Check("board")
    try:
        recorded, now = ProbeResult.load(folder / PROBE), devices.probe(board)
    except LightnasEdgeError as error:
        check.disagreements.append(f"cannot be read: {_named(error, folder)}")
        return check
    facts = now.board
    check.findings.append(f"{facts.module or now.title or facts.name}; L4T {facts.l4t}, JetPack {facts.jetpack}")
    check.findings.append(f"clocks {now.fingerprint.get('clocks')}, power mode {now.fingerprint.get('power_mode')}")
    check.findings.append(f"thermal zones {', '.join(sorted(now.temperatures_c)) or 'none'}")
    cooling = [
        text.strip("\0\n ") for path, text in again.files.items() if re.search(r"/cooling_device\d+/type$", path)
    ]
    check.findings.append(
        f"cooling devices {', '.join(sorted(set(cooling))) or 'none'}; at work: {now.state.throttled_by}"
    )
    sensor = now.energy.sensor
    rails = () if sensor is None else sensor.rails
    check.findings.append(f"rails {', '.join(rails) or 'none'}")
    check.disagreements += compare_probes(recorded, now)
    refused = [entry.rail for entry in now.missing_sensors if entry.reason.startswith("cannot be read")]
    known = {*rails, *refused}
    unknown = [rail for rail in again.tegrastats.rails if rail not in known]
    if unknown:
        check.disagreements.append(f"tegrastats names rails that no sensor has: {', '.join(unknown)}")
    check.notes += _news(now, again)
    return check


def _news(now: ProbeResult, snapshot: Snapshot) -> Iterator[str]:
    """What the catalogue does not know yet."""
    if now.board.name == "generic-linux" and "proc/device-tree/compatible" in snapshot.files:
        yield f"no board of the catalogue fits {snapshot.files['proc/device-tree/compatible']!r}"
    if now.board.l4t is not None and now.board.jetpack is None:
        yield f"L4T {now.board.l4t} is not in the catalogue"
    if now.board.name.startswith("jetson") and now.board.module is None:
        yield "the module's part number is not in the catalogue"
    modes = {(mode.id, mode.name) for mode in now.power_modes}
    conf = snapshot.files.get("etc/nvpmodel.conf", "")
    for number, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d{1,4})\s+NAME=(\S+)\s*>", conf):
        if (int(number), name) not in modes:
            yield f"power mode {name} ({number}) is not in the catalogue"


def _named(error: LightnasEdgeError, folder: Path) -> str:
    """Its message, with paths inside the archive."""
    text = str(error.args[0] if error.args else error)
    return text.replace(f"{folder}/", "")
