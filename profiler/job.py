"""Running a job: rounds of visits in seeded random order, each appended to the journal; then the evaluations."""

import os
import sys
import time
from typing import Any, Dict, List, Optional

from profiler import AGENT_VERSION, board, energy, journal, measure, power, setup, state
from profiler.errors import AgentError, Interrupted, JournalError, MeasureError
from profiler.manifest import Manifest, read_manifest
from profiler.plan import Plan, Visit
from profiler.status import Lock, StatusFile
from profiler.supervisor import Stop, Supervisor
from profiler.system import THIS_MACHINE, System

FAILURES_LIMIT = 2  # a key that failed this often is left alone for the rest of the session
WARMER_K, REST_S = 5.0, 5.0  # before an extra visit a board that has warmed by so much rests for so long
BATCHES_PER_REQUEST = 16  # of an evaluation, so that the time limit is about a bounded piece of work


def run(folder: str, home: str, system: System = THIS_MACHINE) -> Dict[str, Any]:
    """Carry out a job directory, going on where its journal ends; what was done, for standard output.

    Raises:
        AgentError: the run ended early. status.json says so too, except when the job could not be begun:
            a faulty manifest, or another agent at work.
    """
    manifest = read_manifest(folder)
    os.makedirs(home, exist_ok=True)
    lock = Lock(os.path.join(home, "agent.lock"), manifest["job"], _now())
    try:
        stop = Stop()
        status = StatusFile(os.path.join(folder, "status.json"), os.urandom(4).hex())
        try:
            if manifest.get("board_setup") is None:
                leftover = setup.restore_leftover(home, system)
                if leftover is not None:
                    log(leftover)
            session = Session(folder, home, manifest, status, stop, system)
            try:
                message = session.run()
            finally:
                session.close()
        except AgentError as err:
            status.finish("interrupted" if isinstance(err, Interrupted) else "failed", err.message)
            raise
        except Exception as err:
            status.finish("failed", "{}: {}".format(type(err).__name__, err))
            raise
        status.finish("done", message)
    finally:
        lock.release()
    return {"kind": "run", "schema": 1, "job": manifest["job"], "state": "done", "message": message}


class Session:
    """One run of the agent over one job."""

    def __init__(
        self, folder: str, home: str, manifest: Manifest, status: StatusFile, stop: Stop, system: System
    ) -> None:
        self._system = system
        self._folder = folder
        self._home = home
        self._manifest = manifest
        self._protocol = manifest["protocol"]
        self._status = status
        self._session = status.session
        self._stop = stop
        self._rows = {row["key"]: row for row in manifest["measurements"]}
        self._board = board.identify(board.load_catalog(), system.proc)
        self._energy_asked = manifest.get("energy")  # None: latency alone
        configuration = {field: manifest[field] for field in ("backend", "precision", "batch", "threads")}
        configuration.update(
            home=home,
            root=system.root,
            board={field: self._board.get(field) for field in ("ignored_thermal_zones", "power")},
            warmup_ms=self._protocol["warmup_ms"],
            min_sample_ms=max(self._protocol["min_sample_ms"], measure.timer_step_s() * 1e3 * measure.TIMER_STEPS),
            samples_per_visit=self._protocol["samples_per_visit"],
        )
        self._supervisor = Supervisor(configuration, stop, self._protocol["timeout_s"])
        self._journal = None  # type: Optional[journal.Journal]
        self._repeats = {}  # type: Dict[str, int]
        self._failures = {}  # type: Dict[str, int]
        self._visit_s = {}  # type: Dict[str, float]  # how long the last visit to a key took
        self._timed_s = 0.0
        self._first_c = self._last_c = None  # type: Optional[float]  # after the session's first and last visit

    def run(self) -> str:
        """Everything the job asks for; one line about it."""
        log("session {} of job {} ({})".format(self._session, self._manifest["job"], self._manifest["purpose"]))
        past = self._open_journal()
        self._measure_rounds(Plan(dict(self._manifest, energy=self._energy_asked), past))
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
        failed = self._failed()
        if failed:
            parts.append("failed: " + ", ".join(failed))
        parts.extend(self._evaluate(row) for row in self._manifest["evaluations"])
        message = "; ".join(part for part in parts if part)
        log(message or "nothing was left to do")
        return message

    def close(self) -> None:
        self._supervisor.close()
        if self._journal is not None:
            self._journal.close()

    def _open_journal(self) -> List[Dict[str, Any]]:
        """Open the journal, with a header if it has none; the visits that it holds."""
        path = os.path.join(self._folder, "journal.jsonl")
        contents = journal.read(path)
        for fault in contents.faults:
            log("journal: " + fault)
        header = self._header()
        if contents.header is not None:
            there = dict(contents.header["fingerprint"], space=contents.header["space_sha256"][:12])
            here = dict(header["fingerprint"], space=header["space_sha256"][:12])
            different = journal.differences(there, here)
            if different:
                raise JournalError(
                    "the journal was measured under other conditions: " + ", ".join(different),
                    "restore them, or start a table of its own (--fresh, or another --out)",
                )
        self._journal = journal.Journal(path, contents.end)
        if contents.header is None:
            self._journal.append(header)
        return contents.visits

    def _header(self) -> Dict[str, Any]:
        about = self._supervisor.configure()
        fingerprint = dict(board.fingerprint(self._board, self._system), simulated=False)
        fingerprint.update(about["fingerprint"], protocol=self._protocol["version"])
        self._simulated = fingerprint["simulated"]
        sensors = power.find_sensors(self._system.sysfs, self._board)
        energy_header = sensors.header()
        sensors.close()
        if self._energy_asked is not None and not energy_header["available"]:
            log("energy is not measured: " + energy_header["reason"])
            self._energy_asked = None
        return {
            "kind": "lut",
            "schema": journal.SCHEMA,
            "created": _now(),
            "agent_version": AGENT_VERSION,
            "space": self._manifest["space"],
            "space_sha256": self._manifest["space_sha256"],
            "units": {"latency": "ms", "energy": "mJ"},
            "simulated": self._simulated,
            "fingerprint": fingerprint,
            "board": board.describe(self._board, self._system),
            "board_setup": self._manifest.get("board_setup"),
            "runtime": about["runtime"],
            "protocol": self._protocol,
            "sentinels": self._manifest["sentinels"],
            "energy": energy_header,
        }

    def _measure_rounds(self, plan: Plan) -> None:
        self._begun_s = time.monotonic()
        self._status.update(done=plan.done, total=plan.total)
        log("{} of {} visits are in the journal already".format(plan.done, plan.total))
        for visit in plan.visits(self._failures):
            self._stop.check()
            if visit.is_extra and self._is_warm():
                self._supervisor.ask({"do": "rest", "seconds": REST_S}, REST_S)
            if self._failures.get(visit.key, 0) < FAILURES_LIMIT:
                started_s = time.monotonic()
                line = self._visit(visit)
                self._note_temperature(line)
                self._journal.append(line)
                plan.note(line)
                self._visit_s[visit.key] = time.monotonic() - started_s
            if self._status.due:
                self._status.update(
                    done=plan.done,
                    total=plan.total,
                    failed=len(self._failed()),
                    key=visit.key,
                    round=visit.round,
                    eta_s=self._eta_s(plan.left),
                )
        if plan.restless:
            log(plan.restless)
        self._status.update(done=plan.total, total=plan.total, failed=len(self._failed()), eta_s=0.0)

    def _note_temperature(self, line: Dict[str, Any]) -> None:
        now_c = (line["after"] or {}).get("temperature_c")
        self._last_c = now_c
        if self._first_c is None:
            self._first_c = now_c

    def _is_warm(self) -> bool:
        """Warmer than at the start of the session: what is measured again is measured after a rest."""
        return self._first_c is not None and self._last_c is not None and self._last_c > self._first_c + WARMER_K

    def _visit(self, visit: Visit) -> Dict[str, Any]:
        """Measure one key once; the journal's line for it, also when it failed."""
        key, round_ = visit.key, visit.round
        steady_s = self._energy_asked["steady_s"] if visit.with_energy else None
        row = self._rows[key]
        subject = "operator" if "operator" in row else "architecture"
        line = {
            "kind": "visit",
            "key": key,
            subject: row[subject],
            "session": self._session,
            "round": round_,
            "t_s": round(time.monotonic() - self._begun_s, 3),
            "repeats": None,
            "warmup_ms": [],
            "samples_ms": [],
            "device_ms": None,
            "peak_memory_mb": None,
            "energy": None,
            "before": None,
            "after": None,
            "warnings": [],
            "error": None,
        }
        path = self._path("models", row["model"] + ".onnx")
        try:
            self._supervisor.load(row["model"], path)
            seen = self._supervisor.ask(
                {"do": "visit", "model": row["model"], "repeats": self._repeats.get(key), "energy_steady_s": steady_s},
                0.0 if steady_s is None else energy.seconds(steady_s),
            )
        except MeasureError as err:
            self._failures[key] = self._failures.get(key, 0) + 1
            log("{} failed in round {}: {}: {}".format(key, round_, err.code, err.message))
            line["error"] = err.to_json()
            if err.code == "model" and os.path.dirname(os.path.dirname(path)) == self._home and os.path.exists(path):
                os.remove(path)  # not what its name says: without it, the next campaign sends it anew
            return line
        self._repeats[key] = seen["repeats"]
        self._timed_s += seen.pop("timed_s")
        line.update(seen, warnings=state.warnings_about(seen["before"], seen["after"]))
        if line["energy"] is not None:
            line["warnings"] += ["energy: " + warning for warning in line["energy"]["warnings"]]
        return line

    def _evaluate(self, row: Dict[str, Any]) -> str:
        """Run one evaluation; what went wrong, or nothing. Its outputs appear whole or not at all."""
        output = os.path.join(self._folder, "outputs", row["key"] + ".f32")
        part = output + ".part"
        os.makedirs(os.path.dirname(output), exist_ok=True)
        for old in (output, part):
            if os.path.exists(old):
                os.remove(old)
        batch = self._manifest["batch"]
        size = 4 * batch  # bytes of one batch
        for side in row["shape"][1:]:
            size *= side
        batches = row["shape"][0] // batch
        inputs = self._path("data", row["inputs"] + ".f32")
        try:
            self._supervisor.load(row["model"], self._path("models", row["model"] + ".onnx"))
            self._supervisor.ask({"do": "check", "path": inputs, "sha256": row["inputs"]})
            for first in range(0, batches, BATCHES_PER_REQUEST):
                self._stop.check()
                self._supervisor.ask(
                    {
                        "do": "evaluate",
                        "model": row["model"],
                        "inputs": inputs,
                        "offset": first * size,
                        "size": size,
                        "batches": min(BATCHES_PER_REQUEST, batches - first),
                        "output": part,
                    }
                )
        except MeasureError as err:
            log("evaluation of {} failed: {}: {}".format(row["key"], err.code, err.message))
            return "evaluation of {} failed: {}".format(row["key"], err.message)
        os.rename(part, output)
        log("evaluated {} on {} inputs".format(row["key"], row["shape"][0]))
        return ""

    def _path(self, folder: str, name: str) -> str:
        """A content-addressed file: from the job directory, else from what earlier jobs left in the home."""
        local = os.path.join(self._folder, folder, name)
        return local if os.path.exists(local) else os.path.join(self._home, folder, name)

    def _failed(self) -> List[str]:
        return sorted(self._failures)

    def _eta_s(self, left: Dict[str, int]) -> Optional[float]:
        if not self._visit_s:
            return None
        usual_s = sum(self._visit_s.values()) / len(self._visit_s)
        return round(sum(count * self._visit_s.get(key, usual_s) for key, count in left.items()), 1)


def log(text: str) -> None:
    """One line of agent.log: standard error."""
    try:
        sys.stderr.write("{} {}\n".format(_now(), text))
        sys.stderr.flush()
    except OSError:
        pass  # a full disk is for the journal to report


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
