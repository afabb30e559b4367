"""nvpmodel, jetson_clocks and sudo of a virtual board; the name under which this file runs selects one of them.

They refuse, ask and hang as the real ones do, in the same words. Every call is logged in `tools.log` of the board's root.
With a file etc/sudo_password, sudo requires that password. Further faults are switched on in etc/faults.json:

    {"hang": ["nvpmodel -m 2"], "fail": ["jetson_clocks --restore"], "slow_s": {"nvpmodel -m": 1.0}, "reboot": ["3"]}

A call that begins with the text hangs, does nothing and fails, or takes that long; `reboot` are the modes that ask for one.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAME, ARGUMENTS = os.path.basename(__file__), sys.argv[1:]
MODES = os.path.join(ROOT, "etc/nvpmodel.json")
FAULTS = os.path.join(ROOT, "etc/faults.json")


def read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def write(path: str, text: str) -> None:
    """In place: readers of the board keep its files open."""
    with open(path, "r+", encoding="ascii") as file:
        file.write(text + "\n")
        file.truncate()


def limits() -> list[tuple[str, str]]:
    gpu = os.path.join(ROOT, json.loads(read(MODES))["gpu"])
    policy = os.path.join(ROOT, "sys/devices/system/cpu/cpufreq/policy0")
    return [
        (os.path.join(folder, name.format("min")), os.path.join(folder, name.format("max")))
        for folder, name in ((gpu, "{}_freq"), (policy, "scaling_{}_freq"))
    ]


def emc_lock() -> str:
    return os.path.join(ROOT, json.loads(read(MODES))["emc_lock"])


def nvpmodel() -> int:
    state = json.loads(read(MODES))
    if ARGUMENTS == ["-q"]:
        print("NVPM WARN: fan mode is not set!")
        print("NV Power Mode: {}\n{}".format(state["modes"][state["mode"]][0], state["mode"]))
        return 0
    if len(ARGUMENTS) != 2 or ARGUMENTS[0] != "-m":
        print("NVPM ERROR: usage")
        return 255
    if os.environ.get("VIRTUAL_ROOT") != "1":
        print("NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13")
        return 255
    if ARGUMENTS[1] not in state["modes"]:
        print(f"NVPM ERROR: request for bad power mode {ARGUMENTS[1]}")
        return 255
    if ARGUMENTS[1] in faults().get("reboot", []) and ARGUMENTS[1] != state["mode"]:
        return ask_for_reboot(state)
    switch(state, ARGUMENTS[1])
    return 0


def ask_for_reboot(state: dict[str, Any]) -> int:
    """As when another power-gating mask is needed. The reboot of a virtual board is the change alone."""
    print("NVPM WARN: Golden image context is already created")
    print(f"NVPM WARN: Reboot required for changing to this power mode: {ARGUMENTS[1]}")
    print("NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:", flush=True)
    if sys.stdin.readline().strip() not in ("YES", "yes"):
        print("NVPM ERROR: bad input!")
        print("NVPM ERROR: optMask is 1, no request for power mode")
        return 255
    print("NVPM WARN: rebooting")
    switch(state, ARGUMENTS[1])
    return 0


def switch(state: dict[str, Any], mode: str) -> None:
    most_hz = state["modes"][mode][1] * 1e6
    steps = [int(hz) for hz in read(os.path.join(ROOT, state["gpu"], "available_frequencies")).split()]
    write(os.path.join(ROOT, state["gpu"], "max_freq"), str(max(hz for hz in steps if hz <= most_hz + 1e5)))
    write(os.path.join(ROOT, state["gpu"], "min_freq"), str(min(steps)))
    write(MODES, json.dumps(dict(state, mode=mode)))


def jetson_clocks() -> int:
    if not as_root():
        return 1
    if ARGUMENTS[:1] == ["--store"]:
        if os.path.exists(ARGUMENTS[1]):
            print(f"File {ARGUMENTS[1]} already exists. Can I overwrite it? Y/N:", flush=True)
            if sys.stdin.readline().strip() not in ("y", "Y"):
                print(f"Error: file {ARGUMENTS[1]} already exists!")
                return 1
        with open(ARGUMENTS[1], "w", encoding="ascii") as file:
            json.dump(
                [[path, read(path)] for path in [emc_lock(), *(path for pair in limits() for path in pair)]], file
            )
    elif ARGUMENTS[:1] == ["--restore"]:
        if not os.path.exists(ARGUMENTS[1]):
            print(f"Error: {ARGUMENTS[1]} file not found !")
            return 1
        for path, text in json.loads(read(ARGUMENTS[1])):
            write(path, text)
    else:
        for least, most in limits():
            write(least, read(most))
        write(emc_lock(), "1")
    return 0


def as_root() -> bool:
    if os.environ.get("VIRTUAL_ROOT") != "1":
        print("Please run as root")
        return False
    return True


def sudo() -> int:
    secret = os.path.join(ROOT, "etc/sudo_password")
    if os.path.exists(secret):
        given = b""
        if "-S" in ARGUMENTS:
            while not given.endswith(b"\n"):  # no more than the password: the rest is the command's
                byte = os.read(0, 1)
                if not byte:
                    break
                given += byte
        if given.decode("utf-8").strip() != read(secret):
            print("sudo: a password is required", file=sys.stderr)
            return 1
    command = ARGUMENTS[ARGUMENTS.index("--") + 1 :] or ["true"]
    os.environ["VIRTUAL_ROOT"] = "1"
    os.execvp(command[0], command)


def faults() -> dict[str, Any]:
    return json.loads(read(FAULTS)) if os.path.exists(FAULTS) else {}


def misbehave() -> bool:
    """Act out the faults of this call; whether it fails."""
    call = " ".join([NAME, *ARGUMENTS])
    found = faults()
    if any(call.startswith(text) for text in found.get("hang", [])):
        # A script that waits for a program of its own, which keeps the output open.
        subprocess.run(["sleep", "3600"], check=False)
    for text, seconds in found.get("slow_s", {}).items():
        if call.startswith(text):
            time.sleep(seconds)
    if any(call.startswith(text) for text in found.get("fail", [])):
        print(f"Error: {NAME} failed")
        return True
    return False


if __name__ == "__main__":
    with open(os.path.join(ROOT, "tools.log"), "a", encoding="ascii") as log:
        log.write(json.dumps([NAME, *ARGUMENTS]) + "\n")
    if misbehave():
        sys.exit(1)
    sys.exit({"nvpmodel": nvpmodel, "jetson_clocks": jetson_clocks, "sudo": sudo}[NAME]())
