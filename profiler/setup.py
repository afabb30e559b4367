"""Changing the board for a campaign: power mode and locked clocks, by sudo; put back afterwards, whatever happens.

    agent setup --job DIR    in the foreground, by the host before `agent run`: starts the guard and waits for its word
    agent guard ...          the guard: root, a session of its own; notes what it found, changes it, waits until no
                             agent holds the lock any more, and restores

The guard outlives a kill -9 of the agent. A power cut outlives the guard: what it noted stays in board-setup.json, and
the next agent has it restored. A password goes to the standard input of sudo and nowhere else.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional

from profiler import board, clocks
from profiler.errors import AgentError, SetupError
from profiler.system import System

NOTE = "board-setup.json"  # in the agent's home, while the board is not as it was found
START_LIMIT_S = 90.0  # from the guard's word to an agent that holds the lock
POLL_S = 0.2
SUDO_LIMIT_S = 60.0
_SUDOERS = "allow it on the board without a password: {} ALL=(root) NOPASSWD: ALL in a file of /etc/sudoers.d"


def tools(system: System) -> Dict[str, Any]:
    """What a set-up would need: programs, and whether sudo works without a password; for the probe."""
    found = {name: system.tool(name) for name in ("sudo", "nvpmodel", "jetson_clocks")}  # type: Dict[str, Any]
    found["sudo_without_password"] = None if found["sudo"] is None else _quiet([found["sudo"], "-n", "--", "true"])
    return found


def set_up(wanted: Dict[str, Any], home: str, system: System, password: Optional[str]) -> Dict[str, Any]:
    """Start the guard; what the board was and is now.

    Raises:
        SetupError: it cannot be done; the board is as it was.
    """
    needed = (
        ["sudo"] * bool(_sudo(system, None))
        + ["nvpmodel"] * (wanted["power_mode"] is not None)
        + ["jetson_clocks"] * wanted["lock_clocks"]
    )
    for name in needed:
        if system.tool(name) is None:
            raise SetupError(
                "this machine has no {}".format(name),
                "measure without --lock-clocks and --power-mode, or set the board by hand",
            )
    os.makedirs(home, exist_ok=True)
    _wait_for_guard(home)
    return _as_root(
        {"do": "hold", "wanted": wanted, "home": os.path.abspath(home), "root": system.root}, system, password
    )


def restore_leftover(home: str, system: System) -> Optional[str]:
    """Have the board as it was before an earlier campaign; one line about it, or None when there was nothing to do.

    A guard that is still there sees by the lock that its agent has gone, and restores; what one that died has left is
    restored here.
    """
    deadline_s = time.monotonic() + SUDO_LIMIT_S
    while _guard_pid(home) is not None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    if not os.path.exists(os.path.join(home, NOTE)):
        return None
    try:
        _as_root({"do": "restore", "home": os.path.abspath(home), "root": system.root}, system, None)
    except SetupError as err:
        return "an earlier campaign changed the board and could not put it back: {}".format(err.message)
    return "put back what an earlier campaign had changed on the board"


def guard(request: Dict[str, Any]) -> int:
    """The guard's whole life; runs as root. Its first line on standard output is its only one."""
    system = System(request["root"])
    path = os.path.join(request["home"], NOTE)
    try:
        if os.path.exists(path):
            _restore(path, system)
        answer = {"kind": "setup", "schema": 1}  # type: Dict[str, Any]
        if request["do"] == "hold":
            answer["before"] = _describe(system)
            try:
                _apply(request["wanted"], path, system)
            except AgentError:
                _restore(path, system)
                raise
            answer["now"] = _describe(system)
    except AgentError as err:
        print(json.dumps(err.to_json()), flush=True)
        return err.exit_code
    print(json.dumps(answer), flush=True)
    if request["do"] == "hold":
        _wait_for_agent(os.path.join(request["home"], "agent.lock"))
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
        "this board has no power mode {!r}".format(wanted), "it has: {}".format(known or "none that it lists")
    )


def _apply(wanted: Dict[str, Any], path: str, system: System) -> None:
    mode = find_mode(wanted["power_mode"], system.etc) if wanted["power_mode"] is not None else None
    was = board.power_mode(system)
    if mode is not None and (was is None or was["id"] is None):
        raise SetupError("nvpmodel does not say the present power mode, so it could not be put back", "see nvpmodel -q")
    stored = path + ".clocks" if system.tool("jetson_clocks") else None
    if stored is not None:
        _run(system, ["jetson_clocks", "--store", stored])
    note = {"power_mode": was and was["id"], "mode_changed": mode is not None, "clocks": stored, "boot": _boot(system)}
    with open(path, "w", encoding="ascii") as file:
        json.dump(dict(note, pid=os.getpid()), file)
        file.flush()
        os.fsync(file.fileno())
    if mode is not None and mode != was["id"]:
        _run(system, ["nvpmodel", "-m", str(mode)], check=False)  # its exit code is not to be trusted
        now = board.power_mode(system)
        if now is None or now["id"] != mode:
            raise SetupError(
                "the board did not change to power mode {}".format(wanted["power_mode"]),
                "it may need a reboot for it: sudo nvpmodel -m {} by hand".format(mode),
            )
    if wanted["lock_clocks"]:
        _run(system, ["jetson_clocks"])


def _restore(path: str, system: System) -> None:
    try:
        with open(path, encoding="ascii") as file:
            note = json.load(file)
    except (OSError, ValueError):
        return
    if note["mode_changed"]:
        _run(system, ["nvpmodel", "-m", str(note["power_mode"])], check=False)
    if note["clocks"] is not None:
        if note["boot"] == _boot(system):  # a reboot has put the clocks back itself
            _run(system, ["jetson_clocks", "--restore", note["clocks"]], check=False)
        os.remove(note["clocks"])
    os.remove(path)


def _wait_for_agent(lock: str) -> None:
    """Return when the first agent that has the lock has let go of it, or none has taken it within START_LIMIT_S."""
    begun_s, seen, first = time.monotonic(), False, None
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
    """The process that says in the lock that it has it; None while that is not written yet, or an old word."""
    try:
        pid = int(json.loads(clocks.read_text(lock) or "")["pid"])
    except (ValueError, KeyError, TypeError):
        return None
    return pid if os.path.exists("/proc/{}".format(pid)) else None


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
    """A guard that is about to restore must be done before the next one looks at the board."""
    deadline_s = time.monotonic() + START_LIMIT_S
    while _guard_pid(home) is not None:
        if _is_locked(os.path.join(home, "agent.lock")) or time.monotonic() > deadline_s:
            raise SetupError("another agent has set this board up for itself", "wait for it")
        time.sleep(POLL_S)


def _guard_pid(home: str) -> Optional[int]:
    try:
        with open(os.path.join(home, NOTE), encoding="ascii") as file:
            pid = int(json.load(file)["pid"])
    except (OSError, ValueError, KeyError):
        return None
    try:
        with open("/proc/{}/cmdline".format(pid), "rb") as file:
            return pid if b"guard" in file.read() else None
    except OSError:
        return None


def _as_root(request: Dict[str, Any], system: System, password: Optional[str]) -> Dict[str, Any]:
    """Start the guard by sudo; its word."""
    archive = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    process = subprocess.Popen(
        _sudo(system, password) + [sys.executable, archive, "guard", json.dumps(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        if password is not None:
            process.stdin.write((password + "\n").encode("utf-8"))
        process.stdin.close()
    except OSError:
        pass  # it has ended already: its last words follow
    line = process.stdout.readline().decode("utf-8", "replace")
    if not line:
        said = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        process.wait()
        raise SetupError(
            "sudo refused: {}".format(said[-1] if said else "it gave no reason"),
            "give its password (--ask-sudo-password), or " + _SUDOERS.format(os.environ.get("USER", "USER")),
        )
    answer = json.loads(line)
    if answer["kind"] == "error":
        process.wait()
        raise SetupError(answer["message"], answer["remedy"])
    if request["do"] == "restore":
        process.wait()
    else:
        process.returncode = 0  # it goes on without us
    return answer


def _sudo(system: System, password: Optional[str]) -> List[str]:
    """What stands before a command to run it as root; nothing for root itself."""
    if os.geteuid() == 0 and system.root == "/":
        return []
    asking = ["-n"] if password is None else ["-S", "-p", ""]
    return [system.tool("sudo") or "sudo"] + asking + ["--"]


def _run(system: System, argv: List[str], check: bool = True) -> None:
    path = system.tool(argv[0]) or argv[0]
    ended = subprocess.run(
        [path] + argv[1:],
        stdin=subprocess.DEVNULL,  # nvpmodel may ask for a reboot: no
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SUDO_LIMIT_S,
    )
    if check and ended.returncode != 0:
        said = ended.stdout.decode("utf-8", "replace").strip().splitlines()
        raise SetupError("{} failed: {}".format(" ".join(argv), said[-1] if said else ended.returncode), "")


def _quiet(argv: List[str]) -> bool:
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return ended.returncode == 0


def _describe(system: System) -> Dict[str, Any]:
    return {"power_mode": board.power_mode(system), "clocks": clocks.clock_state(system.sysfs)}


def _boot(system: System) -> Optional[str]:
    return clocks.read_text(os.path.join(system.proc, "sys/kernel/random/boot_id"))
