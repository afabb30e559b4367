"""Identifies this machine. Roots of system files are parameters, so a folder of text files can be a board."""

import hashlib
import os
import pkgutil
import re
from typing import Any, Dict, List, NamedTuple, Optional, cast

from profiler import clocks
from profiler.errors import AgentError
from profiler.fields import JsonObject, RecordError, parse
from profiler.system import THIS_MACHINE, System

BoardDescription = Dict[str, Any]  # a file of devices/catalog, which the host checks before it packs it


def load_catalog() -> List[BoardDescription]:
    """The board descriptions packed into this archive (on the host: devices/catalog/*.json)."""
    try:
        content = pkgutil.get_data("profiler", "catalog.json")
    except OSError:
        content = None
    if content is None:
        raise AgentError(
            "this is the agent's source, not its archive: it has no board descriptions",
            "build the archive: python -c 'import devices, pathlib; "
            'devices.build_agent_archive(pathlib.Path("agent.pyz"))\'',
        )
    try:
        return cast(List[BoardDescription], parse(content))
    except RecordError as err:
        raise AgentError("the board descriptions in the agent's archive are damaged: {}".format(err), "send it again")


def identify(catalog: List[BoardDescription], proc: str = "/proc") -> BoardDescription:
    """The description of this machine: by the device tree's list of part numbers, else by its model, else the general one.

    The list comes first because the makers of carrier boards rename the model. A number
    wins over a code name, and the longest matching beginning over a shorter one.
    """
    parts = _part_numbers(proc)
    model = clocks.read_text(os.path.join(proc, "device-tree/model"))
    best = (False, 0)
    by_parts: Optional[BoardDescription] = None
    by_model: Optional[BoardDescription] = None
    general: Optional[BoardDescription] = None
    for description in catalog:
        identity = description["identity"]
        for beginning in identity.get("compatible") or []:
            rank = (is_number(beginning), len(beginning))
            if rank > best and any(is_part(beginning, part) for part in parts):
                best, by_parts = rank, description
        pattern = identity["device_tree_model"]
        if pattern is None:
            general = description
        elif model is not None and re.search(pattern, model):
            by_model = by_model or description
    found = by_parts or by_model or general
    if found is None:
        raise AgentError("no board description fits this machine: device tree model {!r}".format(model))
    return found


def describe(description: BoardDescription, system: System = THIS_MACHINE) -> JsonObject:
    """Everything about this machine that stays the same during a run, for people; None: not known."""
    proc, sysfs = system.proc, system.sysfs
    cpus = re.findall(r"^processor\s*:", clocks.read_text(os.path.join(proc, "cpuinfo")) or "", re.MULTILINE)
    l4t = l4t_release(system)
    mode = power_mode(system)
    return {
        "name": description["name"],
        "model": clocks.read_text(os.path.join(proc, "device-tree/model")),
        "module": _module(description, proc),
        "l4t": l4t,
        "jetpack": jetpack_of(description, l4t),
        "power_mode": None if mode is None else mode.to_json(),
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


def fingerprint(description: BoardDescription, system: System = THIS_MACHINE) -> JsonObject:
    """The board's part of a table's fingerprint. On a virtual board nothing is real, with any backend."""
    mode = power_mode(system)
    return {
        "board": ("virtual:" if system.is_virtual else "") + description["name"],
        "cpu": cpu_name(system.proc),
        "power_mode": None if mode is None else mode.name,
        "clocks": clocks.clock_state(system.sysfs),
        "simulated": system.is_virtual,
        "unit": unit(system),
    }


_UNIT_SALT = "lightnas-edge unit 1:"  # a table shows which numbers come from one unit, and not its serial number


def unit(system: System) -> Optional[str]:
    """Which unit of its model this is: 12 hex digits that follow from its serial number, else from its machine-id.

    The serial number comes first: boards that were flashed from one image may share a machine-id.
    """
    for path in (os.path.join(system.proc, "device-tree/serial-number"), os.path.join(system.etc, "machine-id")):
        name = (clocks.read_text(path) or "").strip()
        if name.strip("0"):
            return hashlib.sha256((_UNIT_SALT + name).encode("utf-8")).hexdigest()[:12]
    return None


class PowerMode(NamedTuple):
    """The mode that nvpmodel reports."""

    id: Optional[int]
    name: str

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


def power_mode(system: System) -> Optional[PowerMode]:
    """The present mode, which needs no rights to read; None on a machine without power modes."""
    return parse_power_mode(system.output_of(["nvpmodel", "-q"]) or "")


def parse_power_mode(text: str) -> Optional[PowerMode]:
    """The mode in the output of `nvpmodel -q`. Warnings and errors before, between and after the two lines are common."""
    name = re.search(r"^NV Power Mode:[ \t]*(\S+)[ \t]*$", text, re.MULTILINE)
    if name is None:
        return None
    number = re.search(r"^(\d{1,9})[ \t]*$", text[name.end() :], re.MULTILINE)
    return PowerMode(int(number.group(1)) if number else None, name.group(1))


def l4t_release(system: System) -> Optional[str]:
    """`32.7.6` from NVIDIA's release file, else from the packages; None on machines with neither."""
    text = clocks.read_text(os.path.join(system.etc, "nv_tegra_release")) or ""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return ".".join(found.groups()) if found else _packaged_release(os.path.join(system.root, "var/lib/dpkg/status"))


def _packaged_release(path: str) -> Optional[str]:
    """The release from the version of nvidia-l4t-core, such as 35.4.1-20230801124926."""
    try:
        with open(path, "rb") as file:
            named = False
            for line in file:
                if line.startswith(b"Package:"):
                    named = line.split()[1:] == [b"nvidia-l4t-core"]
                found = re.match(rb"Version: (\d+\.\d+\.\d+)-", line) if named else None
                if found:
                    return found.group(1).decode("ascii")
    except OSError:
        pass
    return None


def jetpack_of(description: BoardDescription, l4t: Optional[str]) -> Optional[str]:
    """The JetPack label of an L4T release, by the board's description."""
    for row in description.get("software") or []:
        if row["l4t"] == l4t:
            return cast(str, row["jetpack"])
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


# What ONNX Runtime's kernels for 8-bit products use where the processor has it, as Linux names it. Without, they add pairs
# of products in 16 bits (x86), or multiply and add in separate steps (Arm).
_INT8_INSTRUCTIONS = {"flags": ("amx_int8", "avx512_vnni", "avx_vnni"), "Features": ("i8mm", "asimddp")}


def int8_instructions(proc: str) -> Optional[str]:
    """Those that every core has, or `none`; None where the kernel does not list them."""
    text = clocks.read_text(os.path.join(proc, "cpuinfo")) or ""
    for field, wanted in _INT8_INSTRUCTIONS.items():
        cores = [set(line.split()) for line in re.findall(r"^{}\s*:(.*)$".format(field), text, re.MULTILINE)]
        if cores:
            common = set.intersection(*cores)
            return ", ".join(name for name in wanted if name in common) or "none"
    return None


def memory_mb(proc: str, field: str) -> Optional[float]:
    """A line of /proc/meminfo in megabytes (2**20 bytes)."""
    found = re.search(
        r"^{}:\s*(\d{{1,18}}) kB$".format(field), clocks.read_text(os.path.join(proc, "meminfo")) or "", re.M
    )
    return round(int(found.group(1)) / 1024, 1) if found else None


def _part_numbers(proc: str) -> List[str]:
    """Those of the carrier and of the module: `nvidia,p3509-0000-a00+p3668-0001-a01` names one of each."""
    text = clocks.read_text(os.path.join(proc, "device-tree/compatible")) or ""
    return [part for part in re.split("[\0,+]", text) if part]


def is_number(name: str) -> bool:
    """Whether a name in the catalogue is the beginning of a part number, such as p3668; else it is a code name."""
    return re.match(r"p\d{4}", name) is not None


def is_part(beginning: str, part: str) -> bool:
    """Whether a part number begins so, or a code name is this one.

    What follows the beginning of a number is a SKU, a revision or a variant, never a further digit.
    """
    if not is_number(beginning):
        return part == beginning
    return part.startswith(beginning) and not part[len(beginning) :][:1].isdigit()


def _module(description: BoardDescription, proc: str) -> Optional[str]:
    parts = _part_numbers(proc)
    for module in description.get("modules") or []:
        if any(is_part(module["part"], part) for part in parts):
            return "{} ({})".format(module["name"], module["part"])
    return None


def _system_name(etc: str) -> Optional[str]:
    found = re.search(r'^PRETTY_NAME="?(.*?)"?$', clocks.read_text(os.path.join(etc, "os-release")) or "", re.MULTILINE)
    return found.group(1) if found else None
