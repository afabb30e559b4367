"""The guard: sets the board up for a campaign, as root, and restores it when the campaign's agent has ended.

    agent guard REQUEST    started by `agent setup` through sudo; prints one line of JSON and ends

With settings to apply, a process of its own does the work. It shares no pipe, terminal or session with whoever asked: it
outlives the agent, `agent setup` and sudo, and restores on SIGTERM, which a shutdown sends. A kill -9 or a power cut ends
it too: its note stays, and `agent run` and `agent restore` restore from it.
"""

import json
import os
import re
import signal
import time
import traceback
from types import FrameType
from typing import List, NamedTuple, Optional, Union

from profiler import board, clocks, setup_note
from profiler.errors import AgentError, LockedError, SetupError
from profiler.fields import Fields, JsonObject, RecordError, parse, read_record
from profiler.manifest import BoardSetup
from profiler.processes import ProcessId, boot_id
from profiler.setup_note import TOOL_LIMIT_S, SetupNote
from profiler.status import Lock, LockHolder, look_at
from profiler.system import System

LOCK = "guard.lock"  # in the agent's home: taken as long as the guard lives
AGENT_LOCK = "agent.lock"
LOG = "guard.log"
START_LIMIT_S = 90.0  # from the guard's answer to an agent that has the lock
END_LIMIT_S = 60.0  # an earlier guard restores within this time
POLL_S = 0.2


class GuardRequest(NamedTuple):
    """The argument of `agent guard`, as JSON."""

    home: str
    root: str
    job: str
    asker: ProcessId  # waits for the answer; when it is gone, nobody starts an agent
    wanted: Optional[BoardSetup]  # None: restore only

    @classmethod
    def read(cls, fields: Fields) -> "GuardRequest":
        wanted = fields.optional_child("wanted")
        return cls(
            home=fields.text("home"),
            root=fields.text("root"),
            job=fields.text("job"),
            asker=ProcessId.read(fields.child("asker")),
            wanted=None if wanted is None else BoardSetup.read(wanted),
        )

    def to_json(self) -> JsonObject:
        wanted = None if self.wanted is None else self.wanted.to_json()
        return dict(self._asdict(), asker=dict(self.asker._asdict()), wanted=wanted)


def main(text: str) -> int:
    """Carry out a request; the exit code. The answer is one line on standard output."""
    try:
        request = read_record(parse(text.encode("utf-8", "replace")), GuardRequest.read)
    except RecordError as err:
        return _print(SetupError("the guard's request is damaged: {}".format(err), "run `agent setup`"))
    os.umask(0o022)  # the agent, which is not root, reads the lock and the note
    if request.wanted is None:
        return _print(_restore(request))
    ours, theirs = os.pipe()
    if os.fork() == 0:
        code = 1
        try:
            os.close(ours)
            _detach(request.home)
            _live(request, request.wanted, theirs)
            code = 0
        except BaseException:
            traceback.print_exc()  # into the log
        finally:
            os._exit(code)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        line = pipe.readline()
    try:
        answer = parse(line)
    except RecordError:
        answer = None
    if not isinstance(answer, dict):
        return _print(
            SetupError("the guard ended before it answered", "see {} on the board".format(_path(request, LOG)))
        )
    print(json.dumps(answer), flush=True)
    return SetupError.exit_code if answer.get("kind") == "error" else 0


class _End:
    """A request to end: SIGTERM, SIGINT or SIGHUP. Whatever runs is finished first, then the board is restored."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        self.requested = True


def _detach(home: str) -> None:
    """Leave the session, terminal and pipes of whoever asked."""
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        log = os.open(os.path.join(home, LOG), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError:
        log = nothing
    for number, file in ((0, nothing), (1, log), (2, log)):
        os.dup2(file, number)
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("-1000")  # when memory runs out, the kernel must end the measuring process
    except OSError:
        pass


def _live(request: GuardRequest, wanted: BoardSetup, answers: int) -> None:
    """The guard's life: set up, answer, wait for the agent, restore."""
    end = _End()
    system, note = System(request.root), _path(request, setup_note.NAME)
    try:
        lock = _take_over(request)
    except AgentError as err:
        _answer(answers, err)
        return
    try:
        try:
            answer = _set_up(request, wanted, note, system)
        except AgentError as err:
            _answer(answers, err)
            return
        if _answer(answers, answer) and request.asker.lives() and not end.requested:
            _wait_for_agent(request, end)
        try:
            setup_note.restore(note, system)
        except SetupError as err:
            print("{}; {}".format(err.message, err.remedy), flush=True)
    finally:
        lock.release()


def _set_up(request: GuardRequest, wanted: BoardSetup, path: str, system: System) -> JsonObject:
    """Apply the settings; the board before and now. Raises SetupError: the board is restored, or the text says so."""
    setup_note.restore(path, system)
    answer: JsonObject = {"kind": "setup", "schema": 1, "before": _describe(system)}
    try:
        _apply(request, wanted, path, system)
    except Exception as err:
        known = err if isinstance(err, SetupError) else SetupError("{}: {}".format(type(err).__name__, err), "")
        try:
            setup_note.restore(path, system)
        except SetupError as second:
            raise SetupError("{}; {}".format(known.message, second.message), second.remedy)
        raise known
    answer["now"] = _describe(system)
    return answer


def _apply(request: GuardRequest, wanted: BoardSetup, path: str, system: System) -> None:
    mode = None if wanted.power_mode is None else find_mode(wanted.power_mode, system.etc)
    before = board.power_mode(system)
    was = None if before is None else before.id
    if mode is not None and was is None:
        raise SetupError("nvpmodel does not report the present power mode, so it cannot be restored", "see nvpmodel -q")
    stored = setup_note.stored_clocks(path) if system.tool("jetson_clocks") else None
    limits = clocks.limits(system.sysfs)
    if stored is not None:
        _run(system, ["jetson_clocks", "--store", stored])
    changed = was if mode is not None and mode != was else None
    setup_note.write_note(path, SetupNote(request.job, boot_id(system.proc), changed, stored, limits))
    if changed is not None:
        said = _run(system, ["nvpmodel", "-m", str(mode)], check=False)  # its exit code is not reliable
        now = board.power_mode(system)
        if now is None or now.id != mode:
            lines = said.splitlines() or [""]
            line = next((line for line in lines if "reboot required" in line.lower()), lines[-1])
            raise SetupError(
                "the board did not change to power mode {}{}".format(wanted.power_mode, ": " + line if line else ""),
                "a mode may need a reboot: run sudo nvpmodel -m {} on the board, confirm the reboot, and measure "
                "without --power-mode".format(mode),
            )
    if wanted.lock_clocks:
        _run(system, ["jetson_clocks"])


def find_mode(wanted: str, etc: str) -> int:
    """The number of a power mode given by number or name.

    Raises:
        SetupError: the board has no such mode; the text lists those it has.
    """
    text = clocks.read_text(os.path.join(etc, "nvpmodel.conf")) or ""
    modes = {name: int(number) for number, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text)}
    if wanted in modes:
        return modes[wanted]
    if wanted.isdigit() and (int(wanted) in modes.values() or not modes):
        return int(wanted)
    known = ", ".join(
        "{} ({})".format(name, number) for name, number in sorted(modes.items(), key=lambda item: item[1])
    )
    raise SetupError(
        "this board has no power mode {!r}".format(wanted), "it has: {}".format(known or "no modes in nvpmodel.conf")
    )


def _restore(request: GuardRequest) -> Union[JsonObject, AgentError]:
    """Restore what an earlier guard left; the answer."""
    try:
        lock = Lock(_path(request, LOCK), request.job, _now())
    except LockedError:
        return SetupError("another guard is at work on this board", "wait until it ends")
    except OSError as err:
        return SetupError("cannot write {}: {}".format(_path(request, LOCK), err.strerror), "check the board's disk")
    try:
        return {
            "kind": "setup",
            "schema": 1,
            "restored": setup_note.restore(_path(request, setup_note.NAME), System(request.root)),
        }
    except AgentError as err:
        return err
    finally:
        lock.release()


def _take_over(request: GuardRequest) -> Lock:
    """The guard's lock. An earlier guard whose agent has ended or never came is asked to restore first.

    Raises:
        SetupError: an agent is at work, or the earlier guard does not end.
    """
    begun_s = time.monotonic()
    asked: Optional[ProcessId] = None
    while True:
        try:
            return Lock(_path(request, LOCK), request.job, _now())
        except LockedError:
            holder = look_at(_path(request, LOCK)).holder
        except OSError as err:
            raise SetupError(
                "cannot write {}: {}".format(_path(request, LOCK), err.strerror),
                "make room on the board's disk, or let root write to this folder",
            )
        if look_at(_path(request, AGENT_LOCK)).locked:
            raise SetupError("another agent has set up this board", "wait until it ends")
        if time.monotonic() - begun_s > END_LIMIT_S:
            raise SetupError(
                "an earlier guard does not end{}".format(": pid {}".format(holder.process.pid) if holder else ""),
                "end it on the board with sudo kill -9, then run the same command again",
            )
        if holder is not None and holder.process != asked and holder.process.lives():
            asked = holder.process
            os.kill(asked.pid, signal.SIGTERM)
        time.sleep(POLL_S)


def _wait_for_agent(request: GuardRequest, end: _End) -> None:
    """Return when the job's agent has released its lock, when another one has it, or when none came in time."""
    begun_s = time.monotonic()
    first: Optional[LockHolder] = None
    seen = False
    while not end.requested and (seen or time.monotonic() - begun_s < START_LIMIT_S):
        state = look_at(_path(request, AGENT_LOCK))
        if seen and not state.locked:
            return
        seen = seen or state.locked
        if state.holder is not None:
            first = first or state.holder
            if state.holder.job != request.job or state.holder.process != first.process:
                return
        time.sleep(POLL_S)


def _run(system: System, argv: List[str], check: bool = True) -> str:
    """Run a tool; what it printed. Raises SetupError: it hangs, or fails where that counts."""
    name = " ".join(argv)
    remedy = "run it by hand on the board to see why"
    try:
        ended = system.run(argv, TOOL_LIMIT_S)
    except OSError as err:
        raise SetupError("{} failed: {}".format(name, err.strerror), remedy)
    if ended.code is None:
        raise SetupError("{} did not end within {:g} s".format(name, TOOL_LIMIT_S), remedy)
    if check and ended.code != 0:
        raise SetupError("{} failed: {}".format(name, ended.last_line or ended.code), remedy)
    return ended.output.strip()


def _describe(system: System) -> JsonObject:
    mode = board.power_mode(system)
    return {
        "power_mode": None if mode is None else mode.to_json(),
        "clocks": clocks.clock_state(system.sysfs),
    }


def _answer(pipe: int, answer: Union[JsonObject, AgentError]) -> bool:
    """Send the answer; whether somebody was there to read it."""
    record = answer.to_json() if isinstance(answer, AgentError) else answer
    try:
        os.write(pipe, (json.dumps(record) + "\n").encode("ascii"))
        return True
    except OSError:
        return False
    finally:
        os.close(pipe)


def _print(answer: Union[JsonObject, AgentError]) -> int:
    failed = isinstance(answer, AgentError)
    print(json.dumps(answer.to_json() if isinstance(answer, AgentError) else answer), flush=True)
    return SetupError.exit_code if failed else 0


def _path(request: GuardRequest, name: str) -> str:
    return os.path.join(request.home, name)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
