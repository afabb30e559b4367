"""Changes the board for a campaign: power mode and locked clocks, by sudo; restores both afterwards, in every case.

    agent setup --job DIR    in the foreground, by the host before `agent run`: starts the guard and waits for its answer
    agent guard ...          the guard: root, in a session of its own; notes what it found, changes it, waits until no
                             agent has the lock, and restores

The guard outlives a kill -9 of the agent. A power cut ends the guard too: its note stays in board-setup.json, and the
next agent restores from it. A password goes to the standard input of sudo and nowhere else.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from typing import List, NamedTuple, Optional

from profiler import board, clocks
from profiler.errors import AgentError, ErrorRecord, SetupError
from profiler.fields import Fields, JsonObject, RecordError, parse, read_record
from profiler.manifest import BoardSetup
from profiler.status import read_holder
from profiler.system import System

NOTE = "board-setup.json"  # in the agent's home, while the board differs from its state before the campaign
LONGEST_NOTE = 65536
START_LIMIT_S = 90.0  # from the guard's answer to an agent that has the lock
POLL_S = 0.2
SUDO_LIMIT_S = 60.0
_SUDOERS = "allow it on the board without a password: {} ALL=(root) NOPASSWD: ALL in a file of /etc/sudoers.d"


class SetupNote(NamedTuple):
    """The board before the guard changed it, as far as it must be restored."""

    power_mode: Optional[int]
    mode_changed: bool
    clocks: Optional[str]  # the file that jetson_clocks stored them in
    boot: Optional[str]  # identity of the boot; after another one the clocks are restored already
    pid: int  # of the guard

    @classmethod
    def read(cls, fields: Fields) -> "SetupNote":
        note = cls(
            power_mode=fields.optional_whole("power_mode"),
            mode_changed=fields.flag("mode_changed"),
            clocks=fields.optional_text("clocks"),
            boot=fields.optional_text("boot"),
            pid=fields.whole("pid", 1),
        )
        if note.mode_changed and note.power_mode is None:
            fields.fault("power_mode", "expected a whole number, found null")
        fields.refuse_others()
        return note

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


class GuardRequest(NamedTuple):
    """The argument of `agent guard`, as JSON."""

    home: str
    root: str
    wanted: Optional[BoardSetup]  # None: restore only

    @classmethod
    def read(cls, fields: Fields) -> "GuardRequest":
        wanted = fields.optional_child("wanted")
        return cls(fields.text("home"), fields.text("root"), None if wanted is None else BoardSetup.read(wanted))

    def to_json(self) -> JsonObject:
        return dict(self._asdict(), wanted=None if self.wanted is None else self.wanted.to_json())


def read_note(path: str) -> Optional[SetupNote]:
    """The note of a guard; None when the board is as it was.

    Raises:
        SetupError: it cannot be read, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LONGEST_NOTE)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise SetupError("cannot read {}: {}".format(path, err.strerror), _BY_HAND.format(path))
    try:
        note = read_record(parse(content), SetupNote.read)
    except RecordError as err:
        raise SetupError("{} is damaged: {}".format(path, err), _BY_HAND.format(path))
    # Root restores from this file and removes it: no other file can be meant.
    if note.clocks not in (None, _stored_clocks(path)):
        raise SetupError(
            "{} names another file of clocks than {}".format(path, _stored_clocks(path)), _BY_HAND.format(path)
        )
    return note


_BY_HAND = "restore the power mode and the clocks by hand (nvpmodel, jetson_clocks, or a reboot), then delete {}"


def _stored_clocks(path: str) -> str:
    return path + ".clocks"


def tools(system: System) -> JsonObject:
    """What a set-up needs: programs, and whether sudo works without a password; for the probe."""
    found: JsonObject = {}
    for name in ("sudo", "nvpmodel", "jetson_clocks"):
        found[name] = system.tool(name)
    found["sudo_without_password"] = None if found["sudo"] is None else _quiet([found["sudo"], "-n", "--", "true"])
    return found


def set_up(wanted: BoardSetup, home: str, system: System, password: Optional[str]) -> JsonObject:
    """Start the guard; the state of the board before and after.

    Raises:
        SetupError: it cannot be done; the board is unchanged.
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
    _wait_for_guard(home)
    return _as_root(GuardRequest(os.path.abspath(home), system.root, wanted), system, password)


def restore_leftover(home: str, system: System) -> Optional[str]:
    """Restore the board's state from before an earlier campaign; one line about it, or None when there is none.

    A guard that still runs sees by the lock that its agent has ended, and restores; the note of a dead guard is restored
    here.
    """
    deadline_s = time.monotonic() + SUDO_LIMIT_S
    while _guard_pid(home) is not None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    if not os.path.exists(os.path.join(home, NOTE)):
        return None
    try:
        _as_root(GuardRequest(os.path.abspath(home), system.root, None), system, None)
    except SetupError as err:
        return "warning: the board still has the settings of an earlier campaign: {}; {}".format(
            err.message, err.remedy
        )
    return "restored the board's settings from before an earlier campaign"


def guard(text: str) -> int:
    """The guard's whole life; runs as root. Its first line on standard output is its only one."""
    try:
        request = read_record(parse(text.encode("utf-8", "replace")), GuardRequest.read)
        system = System(request.root)
        path = os.path.join(request.home, NOTE)
        _restore(path, system)
        answer: JsonObject = {"kind": "setup", "schema": 1}
        if request.wanted is not None:
            answer["before"] = _describe(system)
            try:
                _apply(request.wanted, path, system)
            except AgentError:
                _restore(path, system)
                raise
            answer["now"] = _describe(system)
    except RecordError as err:
        print(json.dumps(SetupError("the guard's request is damaged: {}".format(err), "run `agent setup`").to_json()))
        return SetupError.exit_code
    except AgentError as err:
        print(json.dumps(err.to_json()), flush=True)
        return err.exit_code
    print(json.dumps(answer), flush=True)
    if request.wanted is not None:
        _wait_for_agent(os.path.join(request.home, "agent.lock"))
        _restore(path, system)
    return 0


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


def _apply(wanted: BoardSetup, path: str, system: System) -> None:
    mode = None if wanted.power_mode is None else find_mode(wanted.power_mode, system.etc)
    before = board.power_mode(system)
    was = None if before is None else before.id
    if mode is not None and was is None:
        raise SetupError("nvpmodel does not report the present power mode, so it cannot be restored", "see nvpmodel -q")
    stored = _stored_clocks(path) if system.tool("jetson_clocks") else None
    if stored is not None:
        _run(system, ["jetson_clocks", "--store", stored])
    note = SetupNote(was, mode is not None, stored, _boot(system), os.getpid())
    with open(path, "w", encoding="ascii") as file:
        json.dump(note.to_json(), file)
        file.flush()
        os.fsync(file.fileno())
    if mode is not None and mode != was:
        _run(system, ["nvpmodel", "-m", str(mode)], check=False)  # its exit code is not reliable
        now = board.power_mode(system)
        if now is None or now.id != mode:
            raise SetupError(
                "the board did not change to power mode {}".format(wanted.power_mode),
                "it may need a reboot for it: sudo nvpmodel -m {} by hand".format(mode),
            )
    if wanted.lock_clocks:
        _run(system, ["jetson_clocks"])


def _restore(path: str, system: System) -> None:
    """Restore from the note, if there is one. Raises SetupError: the note is damaged."""
    note = read_note(path)
    if note is None:
        return
    if note.mode_changed:
        _run(system, ["nvpmodel", "-m", str(note.power_mode)], check=False)
    if note.clocks is not None:
        if note.boot == _boot(system):  # a reboot restores the clocks
            _run(system, ["jetson_clocks", "--restore", note.clocks], check=False)
        if os.path.exists(note.clocks):
            os.remove(note.clocks)
    os.remove(path)


def _wait_for_agent(lock: str) -> None:
    """Return when the first agent that took the lock has released it, or none has taken it within START_LIMIT_S."""
    begun_s, seen = time.monotonic(), False
    first: Optional[int] = None
    while seen or time.monotonic() - begun_s < START_LIMIT_S:
        if _is_locked(lock):
            seen, holder = True, _holder(lock)
            first = first or holder
            if holder is not None and holder != first:
                return
        elif seen:
            return
        time.sleep(POLL_S)


def _holder(lock: str) -> Optional[int]:
    """The process in the lock file; None while it is not written yet, or when that process has ended."""
    try:
        with open(lock, "rb") as file:
            holder = read_holder(file.read(LONGEST_NOTE))
    except OSError:
        return None
    return holder.pid if holder is not None and os.path.exists("/proc/{}".format(holder.pid)) else None


def _is_locked(lock: str) -> bool:
    try:
        with open(lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _wait_for_guard(home: str) -> None:
    """A guard that is about to restore must be done before the next one reads the board."""
    deadline_s = time.monotonic() + START_LIMIT_S
    while _guard_pid(home) is not None:
        if _is_locked(os.path.join(home, "agent.lock")) or time.monotonic() > deadline_s:
            raise SetupError("another agent has set up this board", "wait until it ends")
        time.sleep(POLL_S)


def _guard_pid(home: str) -> Optional[int]:
    try:
        note = read_note(os.path.join(home, NOTE))
    except SetupError:
        return None  # the restoring call reports it
    if note is None:
        return None
    try:
        with open("/proc/{}/cmdline".format(note.pid), "rb") as file:
            return note.pid if b"guard" in file.read() else None
    except OSError:
        return None


def _as_root(request: GuardRequest, system: System, password: Optional[str]) -> JsonObject:
    """Start the guard by sudo; its answer."""
    archive = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    process = subprocess.Popen(
        _sudo(system, password) + [sys.executable, archive, "guard", json.dumps(request.to_json())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        if password is not None:
            process.stdin.write((password + "\n").encode("utf-8"))
        process.stdin.close()
    except OSError:
        pass  # it has ended already: what it printed follows
    line = process.stdout.readline()
    if not line:
        printed = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        process.wait()
        raise SetupError(
            "sudo refused: {}".format(printed[-1] if printed else "it gave no reason"),
            "give its password (--ask-sudo-password), or " + _SUDOERS.format(os.environ.get("USER", "USER")),
        )
    try:
        answer = parse(line)
        if not isinstance(answer, dict):
            raise RecordError(["not an object"])
        if answer.get("kind") == "error":
            error = ErrorRecord.from_json(answer)
            process.wait()
            raise SetupError(error.message, error.remedy)
    except RecordError as err:
        raise SetupError("the guard's answer is damaged: {}".format(err), "look at what sudo prints on this board")
    if request.wanted is None:
        process.wait()
    else:
        process.returncode = 0  # it runs on without this process
    return answer


def _sudo(system: System, password: Optional[str]) -> List[str]:
    """What comes before a command to run it as root; nothing for root itself."""
    if os.geteuid() == 0 and system.root == "/":
        return []
    options = ["-n"] if password is None else ["-S", "-p", ""]
    return [system.tool("sudo") or "sudo"] + options + ["--"]


def _run(system: System, argv: List[str], check: bool = True) -> None:
    path = system.tool(argv[0]) or argv[0]
    try:
        ended = subprocess.run(
            [path] + argv[1:],
            stdin=subprocess.DEVNULL,  # nvpmodel may ask for a reboot: no
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SUDO_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        if not check:
            return
        raise SetupError("{} failed: {}".format(" ".join(argv), err), "run it by hand on the board to see why")
    if check and ended.returncode != 0:
        printed = ended.stdout.decode("utf-8", "replace").strip().splitlines()
        raise SetupError(
            "{} failed: {}".format(" ".join(argv), printed[-1] if printed else ended.returncode),
            "run it by hand on the board to see why",
        )


def _quiet(argv: List[str]) -> bool:
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return ended.returncode == 0


def _describe(system: System) -> JsonObject:
    mode = board.power_mode(system)
    return {
        "power_mode": None if mode is None else mode.to_json(),
        "clocks": clocks.clock_state(system.sysfs),
    }


def _boot(system: System) -> Optional[str]:
    return clocks.read_text(os.path.join(system.proc, "sys/kernel/random/boot_id"))
