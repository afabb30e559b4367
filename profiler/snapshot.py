"""Copies of the system files that the agent reads: `agent snapshot`. A folder made of them is the board to every reader.

Small files and the output of a few tools, nothing else; the reading changes nothing on the board. `private` names what
identifies the board and its owner, so that the host can remove it from everything that it keeps.
"""

import glob
import os
import platform
import pwd
import re
import subprocess
import tempfile
from typing import Dict, List, Tuple

from profiler import AGENT_VERSION
from profiler.clocks import EMC_LOCKS, EMC_RATES, read_text
from profiler.fields import JsonObject
from profiler.power.tegrastats import parse_log
from profiler.system import VIRTUAL_FILE, System

LONGEST_FILE = 65536  # bytes
LONGEST_ALL = 4 << 20
MOST_FILES = 4000
MOST_NAMES = 20000  # of the files in the agent's home
HOME_FOLDERS = ("agent", "data", "jobs", "models", "tensorrt")
TEGRASTATS_S = 3.5
TEGRASTATS_PERIOD_MS = 500

# Patterns below the root of the system. Each is read by a module of this package, or explains what one of them reads.
PATTERNS = (
    VIRTUAL_FILE,
    "etc/nv_tegra_release",
    "etc/nvpmodel.conf",
    "etc/os-release",
    "proc/cpuinfo",
    "proc/device-tree/compatible",
    "proc/device-tree/model",
    "proc/loadavg",
    "proc/meminfo",
    "proc/stat",
    "proc/sys/kernel/osrelease",
    "sys/bus/i2c/drivers/ina238/*-*/hwmon/hwmon*/*",
    "sys/bus/i2c/drivers/ina3221*/*-*/hwmon/hwmon*/*",
    "sys/bus/i2c/drivers/ina3221*/*-*/iio:device*/*",
    "sys/bus/i2c/drivers/ina3221*/*-*/iio_device/*",
    "sys/class/devfreq/*/[a-z]*_freq",
    "sys/class/devfreq/*/available_*",
    "sys/class/devfreq/*/device/of_node/name",
    "sys/class/devfreq/*/governor",
    "sys/class/hwmon/hwmon*/name",
    "sys/class/hwmon/hwmon*/oc*",
    "sys/class/powercap/intel-rapl*/energy_uj",
    "sys/class/powercap/intel-rapl*/max_energy_range_uj",
    "sys/class/powercap/intel-rapl*/name",
    "sys/class/thermal/cooling_device*/cur_state",
    "sys/class/thermal/cooling_device*/max_state",
    "sys/class/thermal/cooling_device*/type",
    "sys/class/thermal/thermal_zone*/cdev*_trip_point",
    "sys/class/thermal/thermal_zone*/mode",
    "sys/class/thermal/thermal_zone*/temp",
    "sys/class/thermal/thermal_zone*/trip_point_*",
    "sys/class/thermal/thermal_zone*/type",
    "sys/devices/system/cpu/cpufreq/policy*/cpuinfo_*_freq",
    "sys/devices/system/cpu/cpufreq/policy*/scaling_*",
) + tuple("sys/" + path for path in EMC_RATES + EMC_LOCKS)
_SKIPPED = ("uevent", "modalias", "waiting_for_supplier")
# Links from a thermal zone to what cools it: their names are the zone's own.
_LINKS = "sys/class/thermal/thermal_zone*/cdev[0-9]*"
TOOLS = (
    ("nvpmodel", "-q"),
    ("nvpmodel", "-p", "--verbose"),
    ("dpkg-query", "-W", "nvidia-jetpack", "nvidia-l4t-core", "tensorrt", "libnvinfer*", "python3-libnvinfer*"),
)
_SERIAL = re.compile(r"^Serial\s*:.*\n?", re.MULTILINE)  # a line of /proc/cpuinfo on the older boards


def take(system: System, home: str) -> JsonObject:
    """The files, the tools' output, and the names of the files in the agent's home."""
    files, refused, left_out = _files(system.root)
    output = {}
    for argv in TOOLS:
        text = system.output_of(argv)
        if text is not None:
            output[" ".join(argv)] = text[:LONGEST_FILE]
    lines = _tegrastats(system)
    if lines:
        output["tegrastats"] = "\n".join(lines) + "\n"
    records, faults = parse_log(lines)
    return {
        "kind": "snapshot",
        "schema": 1,
        "agent_version": AGENT_VERSION,
        "files": files,
        "links": _links(system.root),
        "refused": refused,
        "left_out": left_out,
        "tools": output,
        "tegrastats": {
            "records": len(records),
            "faults": ["line {}: {}".format(number, err) for number, _, err in faults],
            "rails": sorted({label for record in records for label in record.rails}),
        },
        "home_files": _home_files(home),
        "private": _private(system),
    }


def _files(root: str) -> Tuple[Dict[str, str], Dict[str, str], List[str]]:
    """(path -> text, path -> why it cannot be read, paths beyond the limits); paths below the root."""
    files: Dict[str, str] = {}
    refused: Dict[str, str] = {}
    left_out: List[str] = []
    size = 0
    for path in sorted({path for pattern in PATTERNS for path in glob.glob(os.path.join(root, pattern))}):
        name = os.path.relpath(path, root)
        if os.path.basename(path) in _SKIPPED or not os.path.isfile(path):
            continue
        try:
            with open(path, "rb") as file:
                content = file.read(LONGEST_FILE + 1)
        except OSError as err:
            refused[name] = os.strerror(err.errno) if err.errno else str(err)
            continue
        size += len(content)
        if len(content) > LONGEST_FILE or size > LONGEST_ALL or len(files) >= MOST_FILES:
            left_out.append(name)
            continue
        text = content.decode("utf-8", "replace")
        files[name] = _SERIAL.sub("", text) if name == "proc/cpuinfo" else text
    return files, refused, left_out


def _links(root: str) -> Dict[str, str]:
    """Path of a zone's link -> the name of the cooling device that it leads to."""
    found = {}
    for path in sorted(glob.glob(os.path.join(root, _LINKS))):
        if os.path.islink(path):
            found[os.path.relpath(path, root)] = os.path.basename(os.readlink(path))
    return found


def _tegrastats(system: System) -> List[str]:
    """A few seconds of it; none where the machine has no such tool."""
    path = system.tool("tegrastats")
    if path is None:
        return []
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [path, "--interval", str(TEGRASTATS_PERIOD_MS)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            return []
        try:
            process.wait(TEGRASTATS_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(TEGRASTATS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        output.seek(0)
        text = output.read(LONGEST_FILE).decode("utf-8", "replace")
    lines = text.splitlines()
    return lines if text.endswith("\n") else lines[:-1]  # the last line was cut off


def _home_files(home: str) -> List[str]:
    """Paths of the agent's own files, below its home: what a job leaves there."""
    found = [os.path.basename(path) for path in glob.glob(os.path.join(home, "*")) if os.path.isfile(path)]
    for kept in HOME_FOLDERS:
        for folder, _, names in os.walk(os.path.join(home, kept)):
            found.extend(os.path.relpath(os.path.join(folder, name), home) for name in names)
    return sorted(found)[:MOST_NAMES]


def _private(system: System) -> Dict[str, List[str]]:
    """What identifies this machine and its user, by kind. It is for the host's memory only and for no file."""
    read = [
        ("host name", os.path.join(system.proc, "sys/kernel/hostname")),
        ("serial number", os.path.join(system.proc, "device-tree/serial-number")),
        ("machine id", os.path.join(system.etc, "machine-id")),
        ("boot id", os.path.join(system.proc, "sys/kernel/random/boot_id")),
    ]
    read += [("MAC address", path) for path in sorted(glob.glob(os.path.join(system.sysfs, "class/net/*/address")))]
    found = [(kind, read_text(path) or "") for kind, path in read]
    cpuinfo = read_text(os.path.join(system.proc, "cpuinfo")) or ""
    found += [("serial number", line.partition(":")[2].strip()) for line in _SERIAL.findall(cpuinfo + "\n")]
    found += [
        ("host name", platform.node()),
        ("user name", os.environ.get("USER", "")),
        ("home folder", os.path.expanduser("~")),
    ]
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:  # a container may run as a user without an entry
        pass
    else:
        found += [("user name", user.pw_name), ("home folder", user.pw_dir)]
        found += [("user name", user.pw_gecos.split(",")[0].strip())]
    private: Dict[str, List[str]] = {}
    for kind, text in found:
        if text.strip("0:") and text not in private.setdefault(kind, []):
            private[kind].append(text)
    return private
