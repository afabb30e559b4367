"""One job on several units: each takes packets from one queue and keeps a journal of its own.

A thread per unit waits for its board; nothing is computed here meanwhile. A unit that is lost keeps its journal, and what it had not
finished goes back to the queue.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

import devices
import luts
from devices import (
    AgentFailedError,
    BoardBusyError,
    BoardUnreachableError,
    Campaign,
    Connection,
    DeviceError,
    Status,
)
from devices.remote_agent import NOT_STOPPED
from lightnas_edge.errors import FleetError, RecordError
from lightnas_edge.files import set_aside
from lightnas_edge.fleet.work import Packet, Visits, WorkQueue, deal, left, measured, places, wanted
from lightnas_edge.measuring import Job
from lightnas_edge.records.job import JobManifest, Measurement

STOPPING_S = 20.0  # after Ctrl-C or an error, for all boards together: one out of reach is left behind
FAILURES_LIMIT = 2  # of the agent in a row; then the unit counts as lost
OUTDATED = ".outdated"
PASSES = 3  # what units lost at the end is dealt out again this often
LOST = (BoardUnreachableError, BoardBusyError, AgentFailedError)

_log = logging.getLogger(__name__)


@dataclass
class Unit:
    """A board that takes part. `connection`: None where it could not be reached, for the reason in `lost`."""

    host: str
    connection: Connection | None
    unit: str | None = None  # its identity in the fingerprint; None: unknown
    lost: DeviceError | None = None

    @property
    def why_lost(self) -> str:
        """The reason in one line; empty where it is not lost."""
        return "" if self.lost is None else first_line(self.lost)


@dataclass
class UnitOutcome:
    """What became of a unit. Counts are of this run."""

    host: str
    unit: str | None
    table: Path
    packets: int = 0
    assigned: int = 0  # visits of the packets that it took
    measured: int = 0  # of those
    lost: str = ""  # why it ended early; empty: it did not
    remedy: str = ""  # what to do about that


@dataclass(frozen=True)
class FleetResult:
    """What several units measured, also in earlier runs.

    tables: of every unit that measured anything, by host; of units that share the work only those that can be compared.
    left: what no unit of these measured.
    """

    outcomes: tuple[UnitOutcome, ...]
    tables: Mapping[str, luts.Lut]
    left: Mapping[str, Visits]
    failed: Mapping[str, str]  # keys that no unit could measure, with the reason

    @property
    def lost(self) -> tuple[UnitOutcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.lost)


@dataclass
class FleetProgress:
    """How far all units are together."""

    done: int
    total: int
    texts: dict[str, str] = field(default_factory=dict)  # of each host: what it does


def measure_fleet(
    units: Sequence[Unit],
    job: Job,
    folder: Path,
    *,
    fresh: bool = False,
    each: bool = False,
    on_progress: Callable[[FleetProgress], None] | None = None,
    sudo_password: str | None = None,
    queue_of: Callable[[Sequence[Packet]], WorkQueue] = WorkQueue,
) -> FleetResult:
    """Measure a job on several units.

    Args:
        folder: of the units' journals, one file for each host. What it holds is continued.
        each: every unit measures the whole job; otherwise they share it.
        queue_of: decides which unit takes the next packet; the first that asks, unless a benchmark replaces it.

    Raises:
        FleetError: all units were lost, and the journals keep what was measured; nothing can be measured; or two hosts would share
            a journal.
        LutError, ContradictionError, TableWriteError: a journal cannot be continued or written; all units stop.
    """
    _require_own_journals([unit.host for unit in units])
    if fresh:
        _begin_again(folder, [unit.host for unit in units])
    folder.mkdir(parents=True, exist_ok=True)
    manifest = JobManifest.load(job.folder / "manifest.json")
    fleet = _Fleet(manifest, job, folder, sudo_password, on_progress)
    members = [_Member(unit, fleet) for unit in units]
    fleet.members = members
    _together(members, _Member.fetch, fleet)
    for number in range(PASSES):
        alive = [member for member in members if not member.outcome.lost]
        if each:
            plans = [[Packet(lacking, 0)] if (lacking := member.left()) else [] for member in alive]
            shares = [WorkQueue(packets) for packets in plans]
        else:
            measuring = () if number else [member.outcome.host for member in alive]
            rest = fleet.left(fleet.comparable(measuring))
            plans = [deal(rest, manifest.sentinels, manifest.protocol.rounds, max(1, len(alive)))]
            queue = queue_of(plans[0])
            shares = [queue] * len(alive)
        if not any(plans) or not alive:
            break
        fleet.expect(packet for packets in plans for packet in packets)
        for member, share in zip(alive, shares, strict=True):
            member.queue = share
        _together(alive, _Member.work, fleet)
        fleet.note_failures()
        if each:
            break
    kept = fleet.tables() if each else fleet.comparable()
    tables = {host: lut for host, lut in kept.items() if lut.visits.is_measured.any()}
    rest = fleet.left(kept)
    if all(member.outcome.lost for member in members) and (rest or not tables):
        reasons = "\n".join(f"  {member.outcome.host}: {member.outcome.lost}" for member in members)
        remedies = dict.fromkeys(member.outcome.remedy for member in members if member.outcome.remedy)
        raise FleetError(
            f"every board was lost before the job was finished\n{reasons}",
            hint="\n".join([*remedies, "the same command continues from what was measured"]),
        )
    if not tables:
        reasons = "\n".join(f"  {key}: {reason}" for key, reason in list(fleet.failed.items())[:5])
        raise FleetError(
            f"no board could measure anything\n{reasons}",
            hint="`lightnas-edge probe --host HOST` shows what is missing on a board",
        )
    return FleetResult(tuple(member.outcome for member in members), tables, rest, fleet.failed)


class _Fleet:
    """What the members share."""

    def __init__(
        self,
        manifest: JobManifest,
        job: Job,
        folder: Path,
        sudo_password: str | None,
        on_progress: Callable[[FleetProgress], None] | None,
    ) -> None:
        self.manifest, self.job, self.folder = manifest, job, folder
        self.sudo_password = sudo_password
        self.wanted = wanted(manifest)
        self.members: list[_Member] = []
        self.stopping = threading.Event()
        self.failed: dict[str, str] = {}  # keys that no unit could measure, with the reason
        self._tables: dict[Path, luts.GrowingTable] = {}
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._progress = FleetProgress(0, 0)

    def expect(self, packets: Iterable[Packet]) -> None:
        """Visits that the bar counts."""
        sentinels = len(self.manifest.sentinels)
        self._progress.total += sum(packet.visits + packet.sentinel_rounds * sentinels for packet in packets)

    def tell(self, host: str, text: str) -> None:
        """Progress of one unit, from its thread."""
        with self._lock:
            self._progress.texts[host] = text
            self._progress.done = min(sum(member.progress for member in self.members), self._progress.total)
            if self._on_progress is not None:
                self._on_progress(self._progress)

    def tables(self) -> dict[str, luts.Lut]:
        """Every journal of the folder, also those of boards that do not take part today."""
        hosts = {member.outcome.table: member.outcome.host for member in self.members}
        found = {}
        for path in sorted(self.folder.glob("*.lut.jsonl")):
            if path.stat().st_size:
                host = hosts.get(path, path.name.removesuffix(".lut.jsonl"))
                found[host] = self.table(path, host)
        luts.require_same_board(list(found.values()))
        return found

    def comparable(self, measuring: Sequence[str] = ()) -> dict[str, luts.Lut]:
        """The tables that one pooled table can be made of.

        A unit that was lost at once shares no two keys with the others, so that its level is unknown; others measure what it did.

        Args:
            measuring: hosts that are about to, and will share the sentinels then.
        """
        every = self.tables()
        linked = luts.linked_tables(every)
        return {host: lut for host, lut in every.items() if host in linked or host in measuring}

    def table(self, path: Path, host: str) -> luts.Lut:
        """Of one unit. Journals reach hundreds of megabytes and are looked at after every packet, so only what is new is read.

        Safe for threads, each of which has a journal of its own.
        """
        return self._tables.setdefault(path, luts.GrowingTable(path, host=host)).read()

    def note_failures(self) -> None:
        """Keys that failed on every unit that tried them: they are not tried again in this run."""
        tables = self.tables()
        for lut in tables.values():
            for key, failure in lut.failed.items():
                if not any(key in other.entries or key in other.networks for other in tables.values()):
                    self.failed[key] = failure.message

    def left(self, found: Mapping[str, luts.Lut]) -> dict[str, Visits]:
        """What none of these tables holds. Keys that failed wherever they were tried are left out, and energy that no unit can measure."""
        tables = list(found.values())
        work = dict(self.wanted)
        if tables and not any(lut.header.energy.available for lut in tables):
            work = {key: visits._replace(energy_rounds=0) for key, visits in work.items()}
        rest = left(work, *(measured(lut.visits, self.manifest.protocol.rounds) for lut in tables))
        return {key: visits for key, visits in rest.items() if key not in self.failed}


class _Member:
    """One unit at work. Its methods run in its own thread."""

    def __init__(self, unit: Unit, fleet: _Fleet) -> None:
        self._unit, self._fleet = unit, fleet
        self.outcome = UnitOutcome(unit.host, unit.unit, fleet.folder / f"{file_name(unit.host)}.lut.jsonl")
        if unit.lost is not None:
            self.outcome.lost, self.outcome.remedy = unit.why_lost, unit.lost.hint
        self.queue = WorkQueue(())
        self.progress = 0  # visits, for the bar
        self._failures = 0
        self._warnings: set[str] = set()  # of the agent, about the board's settings after a packet

    def left(self) -> dict[str, Visits]:
        """Of the whole job, by this unit's journal alone."""
        return left(self._fleet.wanted, self._done())

    @property
    def connection(self) -> Connection | None:
        return self._unit.connection

    def fetch(self) -> None:
        """Bring this side's journal up to the board's: an earlier host, or a lost link, may have left visits there.

        An agent that still measures for an earlier host is waited for, so that no other unit repeats its packet. What was on
        the board when everything was to be measured again is removed.
        """
        connection = self._unit.connection
        if connection is None:
            return
        outdated = _outdated(self.outcome.table)
        try:
            if outdated.exists():
                for remote in devices.remote_jobs(connection)[0]:
                    if remote.job == self._fleet.manifest.job:
                        devices.discard_journal(connection, remote)
                outdated.unlink()
                return
            with tempfile.TemporaryDirectory(prefix="lightnas-edge-packet-") as scratch:
                running = None
                with contextlib.suppress(RecordError):  # another job's; the board is busy then
                    running = Campaign.running(connection, Path(scratch))
                if running is not None and running.job == self._fleet.manifest.job:
                    with contextlib.suppress(AgentFailedError):  # of that packet; what it measured is fetched
                        running.follow(self.outcome.table, self._tell)
            for remote in devices.remote_jobs(connection)[0]:
                if remote.job == self._fleet.manifest.job:
                    devices.fetch_journal(connection, remote, self.outcome.table)
        except LOST as error:
            self._lose(error)

    def work(self) -> None:
        """Take packets until none is left, or until this unit is lost."""
        while not self.outcome.lost and (packet := self.queue.take(self._unit.host)) is not None:
            returned: Packet | None = packet
            try:
                returned = self._measure(packet)
            except BaseException:
                self.queue.stop()
                raise
            finally:
                self.queue.finish(returned)

    def _measure(self, packet: Packet) -> Packet | None:
        """The part of the packet that others have to measure; None where nothing is left."""
        connection = self._unit.connection
        if connection is None:
            return packet
        before, done = self._visits(), self._done()
        manifest, planned = self._manifest(packet, before)
        self.outcome.packets += 1
        self.outcome.assigned += planned
        began = self.progress
        counted = sum(len(rounds) for rounds in before.values())

        def tell(status: Status) -> None:
            if status.phase == "measuring":
                self.progress = began + max(0, planned - max(0, status.total - status.done))
            self._tell(status)

        error: DeviceError | None = None
        try:
            with tempfile.TemporaryDirectory(prefix="lightnas-edge-packet-") as scratch:
                folder = Path(scratch)
                manifest.save(folder / "manifest.json")
                for name in ("models", "data"):
                    if (self._fleet.job.folder / name).is_dir():
                        (folder / name).symlink_to((self._fleet.job.folder / name).resolve())
                campaign = Campaign(connection, folder, self._fleet.sudo_password)
                table = self.outcome.table
                campaign.start(journal=table if table.exists() else None)
                campaign.follow(table, tell)
        except LOST as found:
            error = found
        finally:
            after = self._visits()
            new = sum(len(rounds) for rounds in after.values()) - counted
            self.outcome.measured += new
            self.progress = began + min(new, planned)
        if error is None:
            self._failures = 0
            return None
        rest = left(packet.work, _difference(self._done(), done))
        self._failures += 1
        if not isinstance(error, AgentFailedError) or self._failures >= FAILURES_LIMIT:
            self._lose(error)
        return Packet(rest, packet.sentinel_rounds)

    def _manifest(self, packet: Packet, before: Mapping[str, set[tuple[int, bool]]]) -> tuple[JobManifest, int]:
        """The packet as a job of this board, and how many visits it plans."""
        job = self._fleet.manifest
        rounds, energy = job.protocol.rounds, 0 if job.energy is None else job.energy.rounds
        work: dict[str, Visits] = dict(packet.work)
        # What a unit measures first is linked with the other units by the sentinels alone.
        sentinel_rounds = packet.sentinel_rounds or (0 if before else rounds)
        for key in job.sentinels:
            if sentinel_rounds and key not in work:
                has_energy = any(with_energy for _, with_energy in before.get(key, ()))
                work[key] = Visits(sentinel_rounds, 1 if energy and not has_energy else 0)
        rows: list[Measurement] = []
        planned = 0
        for row in job.measurements:
            if row.key not in work:
                continue
            there = {number for number, with_energy in before.get(row.key, ()) if number < rounds}
            most = _last_round(there, work[row.key].rounds, rounds)
            had = sum(with_energy for _, with_energy in before.get(row.key, ()))
            rows.append(
                row.model_copy(update={"rounds": most, "energy_rounds": min(had + work[row.key].energy_rounds, energy)})
            )
            planned += len(set(range(most)) - there) + max(0, min(work[row.key].energy_rounds, energy - had))
        return job.model_copy(update={"measurements": tuple(rows)}), planned

    def _visits(self) -> dict[str, set[tuple[int, bool]]]:
        """(round, with energy) of the visits in this unit's journal, by key."""
        return places(self._journal())

    def _done(self) -> dict[str, Visits]:
        return measured(self._journal(), self._fleet.manifest.protocol.rounds)

    def _journal(self) -> Sequence[luts.Visit]:
        path = self.outcome.table
        if not path.exists() or not path.stat().st_size:
            return ()
        return self._fleet.table(path, self.outcome.host).visits

    def _tell(self, status: Status) -> None:
        """What the board does; the way by which a unit learns that all of them stop."""
        if self._fleet.stopping.is_set():
            raise KeyboardInterrupt
        if status.final and status.warning and status.warning not in self._warnings:
            self._warnings.add(status.warning)
            _log.warning("%s: %s", self.outcome.host, status.warning)
        self._fleet.tell(self.outcome.host, _doing(status))

    def _lose(self, error: DeviceError) -> None:
        self.outcome.lost, self.outcome.remedy = first_line(error), error.hint
        self._fleet.tell(self.outcome.host, "lost")
        _log.warning("%s is lost: %s", self.outcome.host, error)


def _together(members: Sequence[_Member], act: Callable[[_Member], None], fleet: _Fleet) -> None:
    """Every unit in a thread of its own. Ctrl-C, or the first error of this side, stops all agents and is raised.

    The threads do not keep the program alive: one may wait for a board that is out of reach.
    """
    futures = {_started(act, member): member for member in members}
    try:
        while (
            running := wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION)
        ).not_done:  # Ctrl-C arrives between two
            _raise_first(running.done)
        _raise_first(running.done)
    except BaseException:
        fleet.stopping.set()
        for member in members:
            member.queue.stop()
            if member.connection is not None:
                member.connection.hurry()
        for future in wait(futures, timeout=STOPPING_S).not_done:
            host = futures[future].outcome.host
            _log.warning(NOT_STOPPED, host, host)
        raise


def _started(act: Callable[[_Member], None], member: _Member) -> Future[None]:
    future: Future[None] = Future()

    def run() -> None:
        try:
            act(member)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name=f"unit {member.outcome.host}", daemon=True).start()
    return future


def _begin_again(folder: Path, hosts: Sequence[str]) -> None:
    """Put the journals of this side away, and note which boards still hold theirs: they lose them when they are reached."""
    tables = {folder / f"{file_name(host)}.lut.jsonl" for host in hosts}
    old = set_aside(folder)
    if old is not None:
        tables |= {folder / path.name for path in old.glob("*.lut.jsonl")}
        tables |= {folder / path.name.replace(OUTDATED, ".lut.jsonl") for path in old.glob(f"*{OUTDATED}")}
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        _outdated(table).touch()


def _outdated(table: Path) -> Path:
    """Exists while the board's journal of this table is one that was to be measured again."""
    return table.with_name(table.name.replace(".lut.jsonl", OUTDATED))


def _raise_first(done: Iterable[Future[None]]) -> None:
    for future in done:
        future.result()


def _require_own_journals(hosts: Sequence[str]) -> None:
    """Raises FleetError: two names give one file, which two threads would write."""
    named: dict[str, str] = {}
    for host in hosts:
        other = named.setdefault(file_name(host), host)
        if other != host:
            raise FleetError(
                f"{other} and {host} would share the journal {file_name(host)}.lut.jsonl",
                hint="name one of them in another way: `lightnas-edge boards add NAME HOST`",
            )


def _difference(now: Mapping[str, Visits], before: Mapping[str, Visits]) -> dict[str, Visits]:
    """The visits since then."""
    none = Visits(0)
    return {
        key: Visits(*(after - earlier for after, earlier in zip(visits, before.get(key, none), strict=True)))
        for key, visits in now.items()
    }


def _last_round(there: set[int], more: int, most: int) -> int:
    """How many rounds from 0 on hold `more` that are not there yet; no more than `most`."""
    end = 0
    while more > 0 and end < most:
        more -= end not in there
        end += 1
    return end


def _doing(status: Status) -> str:
    return f"{status.phase} {status.done} of {status.total}" if status.total else "starting"


def first_line(error: Exception) -> str:
    """Of its message; errors without one are named."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def file_name(host: str) -> str:
    """Of what a host measured."""
    return "".join(character if character.isalnum() or character in "-." else "-" for character in host)
