"""What machine this is. Roots of system files are parameters, so a folder of text files is a board."""

import json
import os
import pkgutil
import re
from typing import Any, Dict, List, Optional

from profiler import clocks
from profiler.errors import AgentError
from profiler.system import THIS_MACHINE, System

Description = Dict[str, Any]


def load_catalog() -> List[Description]:
    """The board descriptions packed into this archive (on the host: devices/catalog/*.json)."""
    try:
        content = pkgutil.get_data("profiler", "catalog.json")
    except OSError:
        content = None
    if content is None:
        raise AgentError(
            "this is the agent's source, not its archive: it holds no board descriptions",
            "build the archive: python -c 'import devices, pathlib; "
            'devices.build_agent_archive(pathlib.Path("agent.pyz"))\'',
        )
    return json.loads(content.decode("utf-8"))


def identify(catalog: List[Description], proc: str = "/proc") -> Description:
    """The description of this machine: by the device tree's list of part numbers, else by its model, else the general one.

    The list comes first because the makers of carrier boards rename the model. Its longest fitting beginning wins.
    """
    parts = (clocks.read_text(os.path.join(proc, "device-tree/compatible")) or "").split("\0")
    model = clocks.read_text(os.path.join(proc, "device-tree/model"))
    longest, by_parts, by_model, general = 0, None, None, None
    for description in catalog:
        identity = description["identity"]
        for beginning in identity.get("compatible") or []:
            if len(beginning) > longest and any(part.startswith(beginning) for part in parts):
                longest, by_parts = len(beginning), description
        pattern = identity["device_tree_model"]
        if pattern is None:
            general = description
        elif model is not None and re.search(pattern, model):
            by_model = by_model or description
    found = by_parts or by_model or general
    if found is None:
        raise AgentError("no board description fits this machine: device tree model {!r}".format(model))
    return found


def describe(description: Description, system: System = THIS_MACHINE) -> Dict[str, Any]:
    """Everything about this machine that stays the same during a run, for people; unknown is None."""
    proc, sysfs = system.proc, system.sysfs
    cpus = re.findall(r"^processor\s*:", clocks.read_text(os.path.join(proc, "cpuinfo")) or "", re.MULTILINE)
    l4t = l4t_release(system.etc)
    return {
        "name": description["name"],
        "model": clocks.read_text(os.path.join(proc, "device-tree/model")),
        "module": _module(description, proc),
        "l4t": l4t,
        "jetpack": jetpack_of(description, l4t),
        "power_mode": power_mode(system),
        "cpu": cpu_name(proc),
        "cores": len(cpus) or None,
        "gpu": clocks.gpu_state(sysfs),
        "architecture": system.architecture,
        "memory_mb": memory_mb(proc, "MemTotal"),
        "kernel": clocks.read_text(os.path.join(proc, "sys/kernel/osrelease")),
        "system": _system_name(system.etc),
        "host": clocks.read_text(os.path.join(proc, "sys/kernel/hostname")),
        "governors": clocks.governors(sysfs) or None,
    }


def fingerprint(description: Description, system: System = THIS_MACHINE) -> Dict[str, Any]:
    """The board's part of a table's fingerprint."""
    mode = power_mode(system)
    return {
        "board": description["name"],
        "cpu": cpu_name(system.proc),
        "power_mode": mode and mode["name"],
        "clocks": clocks.clock_state(system.sysfs),
    }


def power_mode(system: System) -> Optional[Dict[str, Any]]:
    """{"id", "name"} as `nvpmodel -q` gives them, without rights; None where there are no power modes."""
    return parse_power_mode(system.ask(["nvpmodel", "-q"]) or "")


def parse_power_mode(text: str) -> Optional[Dict[str, Any]]:
    """The mode in what `nvpmodel -q` prints. Warnings and errors before, between and after the two lines are common."""
    name = re.search(r"^NV Power Mode:[ \t]*(\S+)[ \t]*$", text, re.MULTILINE)
    if name is None:
        return None
    number = re.search(r"^(\d+)[ \t]*$", text[name.end() :], re.MULTILINE)
    return {"id": int(number.group(1)) if number else None, "name": name.group(1)}


def l4t_release(etc: str) -> Optional[str]:
    """`32.7.6` from /etc/nv_tegra_release; None on machines without it."""
    text = clocks.read_text(os.path.join(etc, "nv_tegra_release")) or ""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return ".".join(found.groups()) if found else None


def jetpack_of(description: Description, l4t: Optional[str]) -> Optional[str]:
    """The JetPack label of an L4T release, by the board's description."""
    for row in description.get("software") or []:
        if row["l4t"] == l4t:
            return row["jetpack"]
    return None


def cpu_name(proc: str) -> Optional[str]:
    """The processor's name as the kernel gives it."""
    text = clocks.read_text(os.path.join(proc, "cpuinfo")) or ""
    for field in ("model name", "Hardware", "Processor"):
        found = re.search(r"^{}\s*:\s*(.+)$".format(field), text, re.MULTILINE)
        if found:
            return found.group(1).strip()
    part = re.search(r"^CPU part\s*:\s*(\S+)$", text, re.MULTILINE)
    return "ARM part " + part.group(1) if part else None


def memory_mb(proc: str, field: str) -> Optional[float]:
    """A line of /proc/meminfo in megabytes (2**20 bytes)."""
    found = re.search(r"^{}:\s*(\d+) kB$".format(field), clocks.read_text(os.path.join(proc, "meminfo")) or "", re.M)
    return round(int(found.group(1)) / 1024, 1) if found else None


def _module(description: Description, proc: str) -> Optional[str]:
    compatible = (clocks.read_text(os.path.join(proc, "device-tree/compatible")) or "").split("\0")
    for module in description.get("modules") or []:
        if any(name.endswith(module["part"]) for name in compatible):
            return "{} ({})".format(module["name"], module["part"])
    return None


def _system_name(etc: str) -> Optional[str]:
    found = re.search(r'^PRETTY_NAME="?(.*?)"?$', clocks.read_text(os.path.join(etc, "os-release")) or "", re.MULTILINE)
    return found.group(1) if found else None
