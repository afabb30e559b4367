"""Asks the guard (profiler/guard.py) to change the board for a campaign, or to restore what an earlier one left.

    agent setup --job DIR    before `agent run`: starts the guard and waits for its answer
    agent restore            restores the board, if an earlier campaign left it changed

This side needs no rights. A password goes to the standard input of sudo and nowhere else.
"""

import json
import os
import subprocess
import sys
import time
from typing import List, Optional, Tuple

from profiler import setup_note
from profiler.errors import ErrorRecord, SetupError
from profiler.fields import JsonObject, RecordError, parse
from profiler.guard import AGENT_LOCK, LOCK, LOG, POLL_S, GuardRequest
from profiler.manifest import BoardSetup
from profiler.processes import this_process
from profiler.status import look_at
from profiler.system import System

ANSWER_LIMIT_S = 140.0  # of the guard: less than the host waits for `agent setup`
RESTORE_LIMIT_S = 100.0  # of a guard that sees that its agent has ended
GUARD_LIMIT_S = 5.0  # of a guard that may wait for its agent
KILL_LIMIT_S = 2.0
NO_JOB = "none"  # in a request that only restores
_SUDOERS = "allow it on the board without a password: {} ALL=(root) NOPASSWD: ALL in a file of /etc/sudoers.d"


def tools(system: System) -> JsonObject:
    """What a set-up needs: programs, and whether sudo works without a password; for the probe."""
    found: JsonObject = {}
    for name in ("sudo", "nvpmodel", "jetson_clocks"):
        found[name] = system.tool(name)
    found["sudo_without_password"] = None if found["sudo"] is None else _quiet(system, ["sudo", "-n", "--", "true"])
    return found


def set_up(wanted: BoardSetup, job: str, home: str, system: System, password: Optional[str]) -> JsonObject:
    """Start the guard; the state of the board before and after.

    Raises:
        SetupError: it cannot be done. The board is unchanged, or the text says what did not come back.
    """
    needed = (
        ["sudo"] * bool(_sudo(system, None))
        + ["nvpmodel"] * (wanted.power_mode is not None)
        + ["jetson_clocks"] * wanted.lock_clocks
    )
    for name in needed:
        if system.tool(name) is None:
            raise SetupError(
                "this machine has no {}".format(name),
                "measure without --lock-clocks and --power-mode, or set the board by hand",
            )
    os.makedirs(home, exist_ok=True)
    return _as_root(GuardRequest(os.path.abspath(home), system.root, job, this_process(), wanted), system, password)


def is_guarded(home: str, job: str) -> bool:
    """Whether a guard of this job lives."""
    state = look_at(os.path.join(home, LOCK))
    return state.locked and (state.holder is None or state.holder.job == job)


def was_restored(home: str, job: str) -> bool:
    """Whether the guard of this job has ended and put the board back. Killed, it leaves its note, and the board set up."""
    return not is_guarded(home, job) and not os.path.exists(os.path.join(home, setup_note.NAME))


def restore(home: str, system: System, password: Optional[str] = None) -> JsonObject:
    """Restore what an earlier campaign left; the answer of `agent restore`.

    `state` is `clean`: nothing was left; `busy`: a campaign runs, and its guard restores; `restored`; or `changed`: it
    could not be restored, with the reason and the remedy.
    """
    state, message, remedy = "busy", "", ""
    if not look_at(os.path.join(home, AGENT_LOCK)).locked and _guard_ends(home, GUARD_LIMIT_S):
        state, message, remedy = _restore(home, system, password)
    return {"kind": "restore", "schema": 1, "state": state, "message": message, "remedy": remedy}


def restore_leftover(home: str, system: System) -> Optional[str]:
    """Restore the board's state from before an earlier campaign; one line about it, or None when there is none.

    A guard that lives sees by the lock that its agent has ended, or that another one is at work, and restores.
    """
    if not _guard_ends(home, RESTORE_LIMIT_S):
        return "the guard of an earlier campaign does not end; see {}".format(os.path.join(home, LOG))
    state, message, remedy = _restore(home, system, None)
    if state == "changed":
        return "{}; {}".format(message, remedy)
    return message or None


def _restore(home: str, system: System, password: Optional[str]) -> Tuple[str, str, str]:
    """(state, message, remedy), where no guard lives."""
    path = os.path.join(os.path.abspath(home), setup_note.NAME)
    if not any(os.path.exists(name) for name in (path, setup_note.stored_clocks(path))):
        return "clean", "", ""
    try:
        note = setup_note.read_note(path)
        if note is not None and note.is_readable(system) and not note.not_restored(system):
            setup_note.remove_note(path)  # somebody has restored it by hand
            return "clean", "", ""
        request = GuardRequest(os.path.abspath(home), system.root, NO_JOB, this_process(), None)
        restored = _as_root(request, system, password).get("restored")
    except SetupError as err:
        return (
            "changed",
            "the board still has settings of an earlier campaign: " + err.message,
            _remedy(err, path, system),
        )
    if restored:
        return "restored", "restored the board's settings from before an earlier campaign", ""
    return "clean", "", ""


def _guard_ends(home: str, limit_s: float) -> bool:
    deadline_s = time.monotonic() + limit_s
    while look_at(os.path.join(home, LOCK)).locked:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def _remedy(err: SetupError, path: str, system: System) -> str:
    """How to restore by hand comes first: it needs no other campaign."""
    try:
        note = setup_note.read_note(path)
    except SetupError:
        note = None
    commands = "" if note is None else note.commands(system)
    return err.remedy if not commands or commands in err.remedy else "{}; or {}".format(commands, err.remedy)


def _as_root(request: GuardRequest, system: System, password: Optional[str]) -> JsonObject:
    """Start the guard by sudo; its answer."""
    archive = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    argv = [sys.executable, archive, "guard", json.dumps(request.to_json())]
    process = subprocess.Popen(
        _sudo(system, password) + argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        given = (
            b"" if password is None else (password + "\n").encode("utf-8", "surrogateescape")
        )  # in the C locale it was read so

        output, errors = process.communicate(given, ANSWER_LIMIT_S)
    except subprocess.TimeoutExpired:
        _give_up(process)
        raise SetupError(
            "sudo and the guard did not answer within {:g} s".format(ANSWER_LIMIT_S),
            "run `sudo true` on the board; it must end without a question, or ask for a password only",
        )
    line = (output.strip().splitlines() or [b""])[-1]
    if not line:
        printed = errors.decode("utf-8", "replace").strip().splitlines()
        raise SetupError(
            "sudo refused: {}".format(printed[-1] if printed else "it gave no reason"),
            "give its password (--ask-sudo-password), or " + _SUDOERS.format(os.environ.get("USER", "USER")),
        )
    try:
        answer = parse(line)
        if not isinstance(answer, dict):
            raise RecordError(["not an object"])
        error = ErrorRecord.from_json(answer) if answer.get("kind") == "error" else None
    except RecordError as err:
        raise SetupError("the guard's answer is damaged: {}".format(err), "look at what sudo prints on this board")
    if error is not None:
        raise SetupError(error.message, error.remedy)
    return answer


def _give_up(process: "subprocess.Popen[bytes]") -> None:
    """End sudo where it may be ended: it belongs to root, and a guard that it started restores, because nobody reads its answer."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    try:
        process.kill()
        process.wait(KILL_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        pass


def _sudo(system: System, password: Optional[str]) -> List[str]:
    """What comes before a command to run it as root; nothing for root itself."""
    if os.geteuid() == 0 and system.root == "/":
        return []
    options = ["-n"] if password is None else ["-S", "-p", ""]
    return [system.tool("sudo") or "sudo"] + options + ["--"]


def _quiet(system: System, argv: List[str]) -> bool:
    try:
        return system.run(argv, ANSWER_LIMIT_S).code == 0
    except OSError:
        return False
