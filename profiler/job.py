"""Runs a job: rounds of visits in seeded random order, each appended to the journal; then the evaluations."""

import os
import shutil
import sys
import time
from typing import Dict, NamedTuple, Optional, Sequence, Set

from profiler import (
    AGENT_VERSION,
    board,
    building,
    energy,
    footprint,
    housekeeping,
    journal,
    measure,
    messages,
    power,
    setup,
    state,
)
from profiler.errors import (
    AgentError,
    ErrorRecord,
    Interrupted,
    JournalError,
    MeasureError,
    SentFilesError,
    SetupError,
)
from profiler.fields import JsonObject
from profiler.journal import PastVisit
from profiler.manifest import Evaluation, Manifest, Measurement, read_manifest
from profiler.messages import ReadBack, Visited
from profiler.plan import Plan, PlannedVisit
from profiler.status import Lock, StatusFile
from profiler.supervisor import Stop, Supervisor
from profiler.system import THIS_MACHINE, System

FAILURES_LIMIT = 2  # a key that failed this often is skipped for the rest of the session
WARMER_K, REST_S = 5.0, 5.0  # before an extra visit a board that has warmed by this much rests for this long
LOAD_MS = 1000.0  # of a visit under sustained load, before its samples
LAYER_RUNS, FEWEST_LAYER_RUNS = 50, 5  # in which layers are timed; fewer of a slow model,
LAYERS_S = 10.0  # so that they take about this long
SCRATCH = "scratch"  # in the home
BATCHES_PER_REQUEST = 16  # of an evaluation, so that the time limit covers a bounded piece of work


def run(folder: str, home: str, system: System = THIS_MACHINE) -> JsonObject:
    """Carry out a job directory, from where its journal ends; a summary for standard output.

    Raises:
        AgentError: the run ended early. status.json says so too, except when the job could not begin: a faulty
            manifest, or another agent at work.
    """
    manifest = read_manifest(folder)
    os.makedirs(home, exist_ok=True)
    lock = Lock(os.path.join(home, "agent.lock"), manifest.job, _now())
    scratch = os.path.join(home, SCRATCH)
    try:
        _empty(scratch)
        housekeeping.mark_used(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        housekeeping.tidy(home, manifest.job, log)
        stop = Stop()
        status = StatusFile(os.path.join(folder, "status.json"), os.urandom(4).hex())

        def finish(state: str, message: str) -> str:
            """The last status, once the board is as it was; a warning where it is not."""
            lock.release()  # the guard waits for this
            warning = _after_setup(home, system) if manifest.board_setup is not None else ""
            status.finish(state, message, warning)
            return warning

        try:
            _check_setup(manifest, home, system)
            session = Session(folder, home, manifest, status, stop, system)
            try:
                message = session.run()
            finally:
                session.close()
                log(str(session.memory()))
        except AgentError as err:
            warning = finish("interrupted" if isinstance(err, Interrupted) else "failed", err.message)
            if warning:
                err.message += "; " + warning
            raise
        except Exception as err:
            finish("failed", "{}: {}".format(type(err).__name__, err))
            raise
        finish("done", message)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()
    return {
        "kind": "run",
        "schema": 1,
        "job": manifest.job,
        "state": "done",
        "message": message,
        "memory": session.memory().to_json(),
    }


def _empty(scratch: str) -> None:
    """The folder for temporary files of this agent and its measuring process, without what killed ones left there."""
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        os.mkdir(scratch)
    except OSError:
        return  # on a full disk: the system's folder serves
    os.environ["TMPDIR"] = scratch


def _check_setup(manifest: Manifest, home: str, system: System) -> None:
    """Before the first visit: the board is set up as the job asks, or as it was before any campaign.

    Raises:
        SetupError: nobody would restore the board after this job.
    """
    if manifest.board_setup is None:
        leftover = setup.restore_leftover(home, system)
        if leftover is not None:
            log(leftover)
    elif not setup.is_guarded(home, manifest.job):
        raise SetupError(
            "the board is not set up for this job: its guard has ended, or gave way to another campaign",
            "run the same command again",
        )


def _after_setup(home: str, system: System) -> str:
    """After a job that changed the board: wait until its guard has restored it; a warning where it did not."""
    leftover = setup.restore_leftover(home, system)
    if leftover is None:
        return ""
    text = "the guard of this campaign ended before it restored the board: " + leftover
    log(text)
    return text


class VisitLine(NamedTuple):
    """The journal's line of one visit: exactly one of `result` and `error` is None."""

    measurement: Measurement
    session: str
    round: int
    t_s: float  # start, within the session
    result: Optional[Visited]
    warnings: Sequence[str]
    error: Optional[ErrorRecord]
    phase: str = journal.ROUNDS
    read_back: Optional[ReadBack] = None

    def to_json(self) -> JsonObject:
        result = self.result
        record: JsonObject = {
            "kind": "visit",
            "key": self.measurement.key,
            self.measurement.kind: self.measurement.subject,
            "session": self.session,
            "round": self.round,
            "phase": self.phase,
            "t_s": self.t_s,
            "repeats": None,
            "warmup_ms": [],
            "samples_ms": [],
            "enqueue_ms": None,
            "gpu_ms": None,
            "peak_memory_mb": None,
            "ran_in": None,
            "fell_back": [],
            "engine_bytes": None,
            "energy": None,
            "before": None,
            "after": None,
            "warnings": list(self.warnings),
            "error": None if self.error is None else self.error.to_json(),
        }
        if result is not None:
            record.update(
                repeats=result.repeats,
                warmup_ms=result.warmup_ms,
                samples_ms=result.samples_ms,
                enqueue_ms=result.enqueue_ms,
                gpu_ms=result.gpu_ms,
                peak_memory_mb=result.peak_memory_mb,
                energy=None if result.energy is None else result.energy.to_json(),
            )
            record.update(result.state.to_json())
            if result.streams is not None:
                record["streams"] = [dict(stream._asdict()) for stream in result.streams]
        if self.read_back is not None:
            record.update(
                ran_in=self.read_back.ran_in,
                fell_back=self.read_back.fell_back,
                engine_bytes=self.read_back.engine_bytes,
            )
        return record

    @property
    def past(self) -> PastVisit:
        """What the plan counts."""
        result = self.result
        return PastVisit(
            key=self.measurement.key,
            round=self.round,
            samples_ms=[] if result is None else result.samples_ms,
            failed=result is None,
            has_energy=result is not None and result.energy is not None and result.energy.energy.gross_mj is not None,
            phase=self.phase,
        )


class Session:
    """One run of the agent over one job."""

    def __init__(
        self, folder: str, home: str, manifest: Manifest, status: StatusFile, stop: Stop, system: System
    ) -> None:
        self._system = system
        self._folder = folder
        self._home = home
        self._manifest = manifest
        self._status = status
        self._session = status.status.session
        self._stop = stop
        self._measurements = {measurement.key: measurement for measurement in manifest.measurements}
        self._board = board.identify(board.load_catalog(), system.proc)
        protocol = manifest.protocol
        self._fingerprint = board.fingerprint(self._board, system)
        step_ms = measure.timer_step_s() * 1e3
        configuration = messages.ConfigureRequest(
            backend=manifest.backend,
            precision=manifest.precision,
            batch=manifest.batch,
            threads=manifest.threads,
            cuda_graph=manifest.cuda_graph,
            home=home,
            root=system.root,
            board=self._board,
            power_mode=self._fingerprint["power_mode"],
            clocks=self._fingerprint["clocks"],
            min_sample_ms=max(protocol.min_sample_ms, step_ms * measure.TIMER_STEPS),
            samples_per_visit=protocol.samples_per_visit,
            min_single_ms=step_ms * measure.SINGLE_TIMER_STEPS,
            inferences_per_visit=protocol.inferences_per_visit,
            streams=manifest.streams,
        )
        self._supervisor = Supervisor(configuration, stop, protocol.timeout_s, manifest.build_timeout_s)
        self._journal: Optional[journal.Journal] = None
        self._repeats: Dict[str, int] = {}
        self._failures: Dict[str, int] = {}
        self._unbuilt: Dict[str, MeasureError] = {}  # by model: it is not loaded, because that would build it again
        self._unusable: Set[str] = set()  # keys of which the home has no intact model or inputs
        self._read_back: Set[str] = set()  # keys of which the engine was read back, or could not be
        self._latency_ms: Dict[str, float] = {}  # of one inference, roughly, by key
        self._visit_s: Dict[str, float] = {}  # how long the last visit to a key took
        self._ended_s: Dict[str, float] = {}  # when the last visit to a key ended
        self._runtime_mb: Optional[float] = None
        self._timed_s = 0.0
        self._begun_s = time.monotonic()
        self._simulated = False
        self._first_c: Optional[float] = None  # after the session's first visit
        self._last_c: Optional[float] = None  # and after its last

    def run(self) -> str:
        """Everything in the job; one line about it."""
        log("session {} of job {} ({})".format(self._session, self._manifest.job, self._manifest.purpose))
        contents = self._read_journal()
        about = self._supervisor.configure()
        self._runtime_mb = about.runtime_mb
        header = self._header(about)
        self._check_origin(contents, header)
        self._journal = journal.Journal(self._journal_path(), contents.end, contents.lacks_newline)
        if contents.origin is None:
            self._journal.append(header)
        manifest = self._manifest
        if manifest.energy is not None and not header["energy"]["available"]:
            log("energy is not measured: " + header["energy"]["reason"])
            manifest = manifest._replace(energy=None)
        self._simulated = header["simulated"]
        for visit in contents.visits:
            if not visit.failed:
                self._latency_ms[visit.key] = min(visit.samples_ms)
        plan = Plan(manifest, [visit for visit in contents.visits if visit.phase == journal.ROUNDS])
        if about.needs_build:
            self._build(plan)
        if manifest.protocol.sustained_s > 0:
            self._sustain(plan, self._journal)
        self._measure_rounds(plan, self._journal)
        spent_s = time.monotonic() - self._begun_s
        self._journal.sync()
        parts = []
        if self._visit_s and self._simulated:
            parts.append("simulated: {:.1f} s of the virtual board in {:.1f} s".format(self._timed_s, spent_s))
        elif self._visit_s:
            parts.append(
                "{:.0f} % of {:.1f} s inside timed loops; loading engines took {:.1f} s".format(
                    100 * self._timed_s / spent_s, spent_s, self._supervisor.load_s
                )
            )
        if self._failures:
            parts.append("failed: " + ", ".join(sorted(self._failures)))
        parts.extend(self._evaluate(evaluation) for evaluation in self._manifest.evaluations)
        parts.extend(self._profile_layers(number, key) for number, key in enumerate(self._manifest.layer_profiles))
        message = "; ".join(part for part in parts if part)
        if self._unusable:
            raise SentFilesError(
                "the board had no intact file of {}; everything else was measured".format(
                    ", ".join(sorted(self._unusable))
                ),
                "run the same command again: it sends what is missing",
            )
        log(message or "nothing was left to do")
        return message

    def memory(self) -> footprint.Footprint:
        """Of the session, once its measuring process has ended."""
        return footprint.Footprint(footprint.peak_mb(os.getpid()), self._supervisor.peak_mb, self._runtime_mb)

    def close(self) -> None:
        self._supervisor.close()
        if self._journal is not None:
            self._journal.close()

    def _journal_path(self) -> str:
        return os.path.join(self._folder, "journal.jsonl")

    def _read_journal(self) -> journal.Contents:
        contents = journal.read(self._journal_path())
        for fault in contents.faults:
            log("journal: " + fault)
        return contents

    def _check_origin(self, contents: journal.Contents, header: JsonObject) -> None:
        """A journal is only continued under the conditions that it was measured under."""
        if contents.origin is None:
            return
        recorded = dict(contents.origin.fingerprint, space=_beginning(contents.origin.space_sha256))
        present = dict(header["fingerprint"], space=_beginning(header["space_sha256"]))
        different = journal.differences(recorded, present)
        if different:
            raise JournalError(
                "the journal was measured under other conditions: " + ", ".join(different),
                "restore them, or start a new table (--fresh, or another --out)",
            )

    def _header(self, about: messages.Configured) -> JsonObject:
        fingerprint = dict(self._fingerprint)
        simulated = fingerprint["simulated"] or about.fingerprint.get("simulated", False)
        fingerprint.update(about.fingerprint, protocol=self._manifest.protocol.version, simulated=simulated)
        sensors = power.find_sensors(self._system.sysfs, self._board)
        energy_header = sensors.header()
        sensors.close()
        setup_of_board = self._manifest.board_setup
        return {
            "kind": "lut",
            "schema": journal.SCHEMA,
            "created": _now(),
            "agent_version": AGENT_VERSION,
            "space": self._manifest.space,
            "space_sha256": self._manifest.space_sha256,
            "classes": self._manifest.classes,
            "units": {"latency": "ms", "energy": "mJ"},
            "simulated": simulated,
            "fingerprint": fingerprint,
            "board": board.describe(self._board, self._system),
            "board_setup": None if setup_of_board is None else setup_of_board.to_json(),
            "runtime": about.runtime,
            "protocol": self._manifest.protocol.to_json(),
            "sentinels": self._manifest.sentinels,
            "energy": energy_header,
        }

    def _build(self, plan: Plan) -> None:
        """Build the engines that are missing for what is left to do."""
        models: Dict[str, building.Model] = {}
        wanted = [self._measurements[key] for key, visits in plan.left.items() if visits]
        for item in wanted + list(self._manifest.evaluations):
            path = self._path("models", item.model + ".onnx")
            models.setdefault(item.model, building.Model(item.model, path, item.key))

        def report(progress: building.BuildProgress) -> None:
            self._status.update(self._status.status._replace(phase="building", **progress._asdict()))

        self._unbuilt = building.build_missing(self._supervisor, list(models.values()), report, log)

    def _measure_rounds(self, plan: Plan, table: journal.Journal) -> None:
        self._begun_s = time.monotonic()
        self._update_status(plan)
        log("{} of {} visits are in the journal already".format(plan.done, plan.total))
        for visit in plan.visits(self._failures):
            self._stop.check()
            if visit.is_extra and self._is_warm() and not self._manifest.protocol.sustained_s:
                try:
                    self._supervisor.rest(REST_S)
                except MeasureError as err:  # the next visit starts another process
                    log("the board did not rest: {}".format(err))
            if self._failures.get(visit.key, 0) < FAILURES_LIMIT:
                started_s = time.monotonic()
                line = self._visit(visit)
                self._require_setup()
                self._note_temperature(line)
                table.append(line.to_json())
                plan.note(line.past)
                self._visit_s[visit.key] = time.monotonic() - started_s
            if self._status.due:
                self._update_status(plan, visit)
        if plan.unstable_host:
            log(plan.unstable_host)
        self._status.update(
            self._status.status._replace(done=plan.total, total=plan.total, failed=len(self._failures), eta_s=0.0)
        )

    def _require_setup(self) -> None:
        """After a visit, before it counts: the board still is as the job asked.

        Raises:
            SetupError: its guard has restored it, and with it the power mode and clocks of this job are gone.
        """
        if self._manifest.board_setup is not None and setup.was_restored(self._home, self._manifest.job):
            raise SetupError(
                "the board was restored while it was measured: its power mode and clocks are no longer those of this job",
                "run the same command again: it continues with the board set up",
            )

    def _update_status(self, plan: Plan, visit: Optional[PlannedVisit] = None) -> None:
        status = self._status.status._replace(
            phase="measuring", done=plan.done, total=plan.total, failed=len(self._failures), elapsed_s=0.0
        )
        if visit is not None:
            status = status._replace(key=visit.key, round=visit.round, eta_s=self._eta_s(plan.left))
        self._status.update(status)

    def _note_temperature(self, line: VisitLine) -> None:
        now_c = None if line.result is None else line.result.state.after.temperature_c
        self._last_c = now_c
        if self._first_c is None:
            self._first_c = now_c

    def _is_warm(self) -> bool:
        """Warmer than at the start of the session: an extra visit comes after a rest."""
        return self._first_c is not None and self._last_c is not None and self._last_c > self._first_c + WARMER_K

    def _sustain(self, plan: Plan, table: journal.Journal) -> None:
        """Run the network under load, one visit after the other, until it has run for as long as the job asks.

        Time counts as the engine runs it, so that it passes on a virtual board too. It starts from zero in every session
        that has rounds of the network left: the board has cooled since the last one.
        """
        wanted = self._manifest.protocol.sustained_s
        keys = [key for key, row in self._measurements.items() if row.is_network and plan.left.get(key)]
        loaded_s = 0.0
        number = 0
        while keys and loaded_s < wanted:
            for key in keys:
                self._stop.check()
                line = self._visit(PlannedVisit(key, number), LOAD_MS, journal.SUSTAINED, loaded_s)
                self._require_setup()
                self._note_temperature(line)
                table.append(line.to_json())
                if line.result is not None:
                    loaded_s += line.result.timed_s
                elif self._failures[key] >= FAILURES_LIMIT:
                    return  # the rounds skip it
            number += 1
            self._status.update(
                self._status.status._replace(
                    phase="sustained",
                    done=int(min(loaded_s, wanted)),
                    total=max(1, int(wanted)),
                    key=keys[0],
                    eta_s=None if self._simulated else round(max(0.0, wanted - loaded_s), 1),
                )
            )

    def _visit(
        self,
        visit: PlannedVisit,
        warmup_ms: Optional[float] = None,
        phase: str = journal.ROUNDS,
        at_s: Optional[float] = None,
    ) -> VisitLine:
        """Measure one key once; the journal's line for it, also when it failed.

        Args:
            warmup_ms: as the protocol says when None. at_s: its time within the phase; since the start when None.
        """
        measurement = self._measurements[visit.key]
        one_by_one = measurement.is_network
        if warmup_ms is None:
            warmup_ms = self._warmup_ms(visit.key) if one_by_one else self._manifest.protocol.warmup_ms
        steady_s: Optional[float] = None
        if visit.with_energy and self._manifest.energy is not None:
            steady_s = self._manifest.energy.steady_s
        line = VisitLine(
            measurement=measurement,
            session=self._session,
            round=visit.round,
            t_s=round(time.monotonic() - self._begun_s if at_s is None else at_s, 3),
            result=None,
            warnings=(),
            error=None,
            phase=phase,
        )
        path = self._path("models", measurement.model + ".onnx")
        try:
            if measurement.model in self._unbuilt:
                self._failures[visit.key] = FAILURES_LIMIT
                raise self._unbuilt[measurement.model]
            self._supervisor.load(measurement.model, path)
            result = self._supervisor.visit(
                messages.VisitRequest(measurement.model, self._repeats.get(visit.key), steady_s, warmup_ms, one_by_one),
                max(0.0, warmup_ms - self._manifest.protocol.warmup_ms) / 1e3
                + (0.0 if steady_s is None else energy.longest_s(steady_s)),
            )
        except MeasureError as err:
            self._failures[visit.key] = self._failures.get(visit.key, 0) + 1
            log("{} failed in round {}: {}: {}".format(visit.key, visit.round, err.code, err.message))
            if err.code == "model":
                self._drop(path, visit.key)
            return line._replace(error=err.record)
        self._repeats[visit.key] = result.repeats
        self._latency_ms[visit.key] = min(result.samples_ms)
        self._ended_s[visit.key] = time.monotonic()
        self._timed_s += result.timed_s
        warnings = state.warnings_about(result.state)
        if result.clock is not None:
            warnings += result.clock.warnings()
        if result.energy is not None:
            warnings += ["energy: " + warning for warning in result.energy.energy.warnings]
        line = line._replace(result=result, warnings=warnings)
        return line if phase == journal.SUSTAINED or visit.key in self._read_back else self._with_read_back(line)

    def _with_read_back(self, line: VisitLine) -> VisitLine:
        """The line with what the engine runs in. What goes wrong here costs a warning: the visit was measured."""
        self._read_back.add(line.measurement.key)
        model = line.measurement.model
        try:
            return line._replace(read_back=self._supervisor.read_back(model, self._path("models", model + ".onnx")))
        except MeasureError as err:
            log("{}: what it ran in is not known: {}: {}".format(line.measurement.key, err.code, err.message))
            return line._replace(warnings=list(line.warnings) + ["what it ran in is not known: " + err.message])

    def _warmup_ms(self, key: str) -> float:
        """Of a network: two visits are at least `round_s` apart, because they would share one burst of other work.

        The time is spent at work, not idle, so that the board stays in the state of steady work.
        """
        protocol = self._manifest.protocol
        if key not in self._ended_s:
            return protocol.warmup_ms
        passed_s = 0.0 if self._simulated else time.monotonic() - self._ended_s[key]
        return max(protocol.warmup_ms, 1e3 * (protocol.round_s - passed_s))

    def _profile_layers(self, number: int, key: str) -> str:
        """Time the layers of a model apart; what went wrong, or nothing. The file appears whole or not at all."""
        output = os.path.join(self._folder, "outputs", key + ".layers.json")
        os.makedirs(os.path.dirname(output), exist_ok=True)
        for old in (output, output + ".part"):
            if os.path.exists(old):
                os.remove(old)
        measurement = self._measurements[key]
        runs = LAYER_RUNS
        if key in self._latency_ms:
            runs = max(FEWEST_LAYER_RUNS, min(LAYER_RUNS, int(LAYERS_S * 1e3 / self._latency_ms[key])))
        started_s = time.monotonic()
        status = self._status.status._replace(
            phase="layers", done=number, total=len(self._manifest.layer_profiles), key=key, round=0, eta_s=None
        )

        def alive() -> None:
            self._status.update(status._replace(elapsed_s=round(time.monotonic() - started_s, 1)))

        alive()
        try:
            if measurement.model in self._unbuilt:
                raise self._unbuilt[measurement.model]
            path = self._path("models", measurement.model + ".onnx")
            found = self._supervisor.profile_layers(
                messages.ProfileLayersRequest(measurement.model, path, runs, output), alive
            )
        except MeasureError as err:
            log("layers of {}: {}: {}".format(key, err.code, err.message))
            return "the layers of {} could not be timed: {}".format(key, err.message)
        if not found:
            return "this runtime does not time layers: {} has no layer profile".format(key)
        log("timed the layers of {} in {} runs".format(key, runs))
        return ""

    def _evaluate(self, evaluation: Evaluation) -> str:
        """Run one evaluation; what went wrong, or nothing. Its outputs appear whole or not at all."""
        output = os.path.join(self._folder, "outputs", evaluation.key + ".f32")
        part = output + ".part"
        os.makedirs(os.path.dirname(output), exist_ok=True)
        for old in (output, part):
            if os.path.exists(old):
                os.remove(old)
        inputs = self._path("data", evaluation.inputs + ".f32")
        used = self._path("models", evaluation.model + ".onnx")
        try:
            if evaluation.model in self._unbuilt:
                raise self._unbuilt[evaluation.model]
            self._supervisor.load(evaluation.model, used)
            used = inputs
            self._supervisor.check(inputs, evaluation.inputs)
            for first in range(0, evaluation.runs, BATCHES_PER_REQUEST):
                self._stop.check()
                self._supervisor.evaluate(
                    messages.EvaluateRequest(
                        model=evaluation.model,
                        inputs=inputs,
                        offset=first * evaluation.run_bytes,
                        size=evaluation.run_bytes,
                        batches=min(BATCHES_PER_REQUEST, evaluation.runs - first),
                        output=part,
                    )
                )
        except MeasureError as err:
            if err.code == "model":
                self._drop(used, evaluation.key)
            log("evaluation of {} failed: {}: {}".format(evaluation.key, err.code, err.message))
            return "evaluation of {} failed: {}".format(evaluation.key, err.message)
        os.rename(part, output)
        log("evaluated {} in {} runs".format(evaluation.key, evaluation.runs))
        return ""

    def _drop(self, path: str, key: str) -> None:
        """Note a file of the home that is missing or does not match its name. Without it, the next campaign sends it again."""
        if os.path.dirname(os.path.dirname(path)) == self._home:
            self._unusable.add(key)
            if os.path.exists(path):
                os.remove(path)

    def _path(self, folder: str, name: str) -> str:
        """A content-addressed file: from the job directory, else from what earlier jobs left in the home."""
        local = os.path.join(self._folder, folder, name)
        return local if os.path.exists(local) else os.path.join(self._home, folder, name)

    def _eta_s(self, left: Dict[str, int]) -> Optional[float]:
        if not self._visit_s:
            return None
        usual_s = sum(self._visit_s.values()) / len(self._visit_s)
        return round(sum(count * self._visit_s.get(key, usual_s) for key, count in left.items()), 1)


def _beginning(sha256: Optional[str]) -> Optional[str]:
    """Enough of a hash to tell two apart in a message."""
    return None if sha256 is None else sha256[:12]


def log(text: str) -> None:
    """One line of agent.log: standard error."""
    try:
        sys.stderr.write("{} {}\n".format(_now(), text))
        sys.stderr.flush()
    except OSError:
        pass  # a full disk is for the journal to report


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
