"""nvpmodel, jetson_clocks and sudo of a virtual board; the name under which this file runs selects one of them.

Every call is logged in `tools.log` of the board's root. With a file etc/sudo_password, sudo requires that password.
"""

import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAME, ARGUMENTS = os.path.basename(__file__), sys.argv[1:]
MODES = os.path.join(ROOT, "etc/nvpmodel.json")


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
    if len(ARGUMENTS) != 2 or ARGUMENTS[0] != "-m" or ARGUMENTS[1] not in state["modes"]:
        print("NVPM ERROR: usage")
        return 255
    if not as_root():
        return 255
    most_hz = state["modes"][ARGUMENTS[1]][1] * 1e6
    steps = [int(hz) for hz in read(os.path.join(ROOT, state["gpu"], "available_frequencies")).split()]
    write(os.path.join(ROOT, state["gpu"], "max_freq"), str(max(hz for hz in steps if hz <= most_hz + 1e5)))
    write(os.path.join(ROOT, state["gpu"], "min_freq"), str(min(steps)))
    write(MODES, json.dumps(dict(state, mode=ARGUMENTS[1])))
    return 0


def jetson_clocks() -> int:
    if not as_root():
        return 1
    if ARGUMENTS[:1] == ["--store"]:
        with open(ARGUMENTS[1], "w", encoding="ascii") as file:
            json.dump(
                [[path, read(path)] for path in [emc_lock(), *(path for pair in limits() for path in pair)]], file
            )
    elif ARGUMENTS[:1] == ["--restore"]:
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


if __name__ == "__main__":
    with open(os.path.join(ROOT, "tools.log"), "a", encoding="ascii") as log:
        log.write(json.dumps([NAME, *ARGUMENTS]) + "\n")
    sys.exit({"nvpmodel": nvpmodel, "jetson_clocks": jetson_clocks, "sudo": sudo}[NAME]())
