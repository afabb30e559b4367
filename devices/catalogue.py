"""What boards are: the files of `devices/catalog`, read and checked.

Adding a board is adding a file. Every fact of a file has its source in `sources`, with how far it can be trusted:

    src    read in source code or an original document
    field  seen in somebody's log or issue
    calc   computed from a sourced number or log
    gk     general knowledge, no source found

Nothing in these files was read on a board by us: docs/boards.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from devices.errors import DeviceError

SCHEMA = 1
TRUST = ("src", "field", "calc", "gk")
PRECISIONS = ("fp32", "fp16", "int8")
SENSORS = ("ina3221", "rapl", "nvml")


class CatalogueError(DeviceError, ValueError):
    """Faults in the files of the catalogue, all in one message."""


@dataclass(frozen=True)
class Module:
    """One part number of a board."""

    part: str
    name: str
    memory_gb: int | None
    dla_engines: int | None
    power_monitor: bool


@dataclass(frozen=True)
class Rail:
    label: str
    holds: str
    where: str  # bus and address; changes between releases, for people only
    shunt_mohm: float | None  # None: differs between revisions, or not known
    optional: bool  # not on every carrier


@dataclass(frozen=True)
class PowerMode:
    """One mode of nvpmodel. The same id means other things on other boards and releases."""

    id: int
    name: str
    cpu_cores: int | None
    cpu_mhz: float | None
    gpu_mhz: float | None
    emc_mhz: float | None
    jetpack: str


@dataclass(frozen=True)
class Software:
    """One release that runs on a board. The L4T number is the key; the JetPack name is a label."""

    l4t: str
    jetpack: str
    ubuntu: str
    python: str
    cuda: str
    cudnn: str | None
    tensorrt: str
    onnx_opset: int | None  # the largest that its parser reads


@dataclass(frozen=True)
class BoardModel:
    """One board of the catalogue."""

    name: str
    title: str
    model: str | None  # regular expression on the device tree's model; None only for the generic machine
    compatible: tuple[str, ...]  # beginnings of entries of the device tree's list
    ignored_thermal_zones: tuple[str, ...]
    soc: str | None
    compute_capability: str | None
    precisions: tuple[str, ...]
    modules: tuple[Module, ...]
    sensors: tuple[str, ...]
    rails: tuple[Rail, ...]
    total: tuple[str, ...] | None  # labels to add; None: not known, or the sensors know it
    filter_tau_s: float | None
    power_modes: tuple[PowerMode, ...]
    software: tuple[Software, ...]
    notes: tuple[str, ...]
    record: Mapping[str, Any]  # the file as it stands: what the agent gets

    def module(self, compatible: Sequence[str]) -> Module | None:
        """The part number that the device tree names, or None."""
        text = " ".join(compatible)
        named = [module for module in self.modules if module.part in text]
        return named[0] if len(named) == 1 else None

    def release(self, l4t: str) -> Software | None:
        """What comes with an L4T version such as `35.4.1`, or None."""
        return next((software for software in self.software if software.l4t == l4t), None)


def load_catalogue(folder: Traversable | None = None) -> dict[str, BoardModel]:
    """All boards by name, sorted.

    Raises:
        CatalogueError: any file with any fault; the message names them all.
    """
    folder = folder if folder is not None else resources.files("devices") / "catalog"
    boards: dict[str, BoardModel] = {}
    faults: list[str] = []
    files = {file.name.removesuffix(".json"): file for file in folder.iterdir() if file.name.endswith(".json")}
    for name, file in sorted(files.items()):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as err:
            faults.append(f"{file.name}: no JSON: {err}")
            continue
        found = check(record)
        if not found and record["name"] != name:
            found = [f"name: {record['name']!r} differs from the file's name"]
        faults += [f"{file.name}: {fault}" for fault in found]
        if not found:
            boards[name] = _board(record)
    if not faults and sum(board.model is None for board in boards.values()) != 1:
        faults.append("exactly one board must be without identity.device_tree_model: the generic machine")
    if faults:
        raise CatalogueError("the board catalogue has faults:\n  " + "\n  ".join(faults))
    return boards


def match(
    compatible: Sequence[str], model: str | None, boards: Mapping[str, BoardModel] | None = None
) -> BoardModel | None:
    """The board that a device tree describes, or None.

    Args:
        compatible: entries of /proc/device-tree/compatible.
        model: text of /proc/device-tree/model; used only when `compatible` tells nothing.
        boards: the catalogue; read when it is not given.
    """
    boards = boards if boards is not None else load_catalogue()
    # The longest beginning wins: `nvidia,p3767-0005` says more than a `nvidia,p3767` would.
    fits = [
        (len(beginning), board)
        for board in boards.values()
        for beginning in board.compatible
        for entry in compatible
        if entry.startswith(beginning)
    ]
    if fits:
        return max(fits, key=lambda fit: fit[0])[1]
    text = (model or "").rstrip("\0")
    return next((board for board in boards.values() if board.model and re.search(board.model, text)), None)


# ------------------------------------------------------------------ checking

_NONE = type(None)
_FIELDS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "": {
        "kind": (str,),
        "schema": (int,),
        "name": (str,),
        "title": (str,),
        "identity": (dict,),
        "ignored_thermal_zones": (list,),
        "soc": (str, _NONE),
        "compute_capability": (str, _NONE),
        "precisions": (list,),
        "modules": (list,),
        "power": (dict,),
        "power_modes": (list,),
        "software": (list,),
        "notes": (list,),
        "sources": (dict,),
    },
    "identity": {"device_tree_model": (str, _NONE), "compatible": (list,)},
    "power": {"sensors": (list,), "rails": (list,), "total": (list, _NONE), "filter_tau_s": (float, int, _NONE)},
    "modules": {
        "part": (str,),
        "name": (str,),
        "memory_gb": (int, _NONE),
        "dla_engines": (int, _NONE),
        "power_monitor": (bool,),
    },
    "power.rails": {
        "label": (str,),
        "holds": (str,),
        "where": (str,),
        "shunt_mohm": (float, int, _NONE),
        "optional": (bool,),
    },
    "power_modes": {
        "id": (int,),
        "name": (str,),
        "cpu_cores": (int, _NONE),
        "cpu_mhz": (float, int, _NONE),
        "gpu_mhz": (float, int, _NONE),
        "emc_mhz": (float, int, _NONE),
        "jetpack": (str,),
    },
    "software": {
        "l4t": (str,),
        "jetpack": (str,),
        "ubuntu": (str,),
        "python": (str,),
        "cuda": (str,),
        "cudnn": (str, _NONE),
        "tensorrt": (str,),
        "onnx_opset": (int, _NONE),
    },
}
_LISTS = ("modules", "power.rails", "power_modes", "software")
# Facts that need a source wherever they say something.
_SOURCED = (
    "identity",
    "soc",
    "compute_capability",
    "precisions",
    "modules",
    "power.sensors",
    "power.rails",
    "power.total",
    "power.filter_tau_s",
    "power_modes",
    "software",
    "software.onnx_opset",
)


def check(record: Any) -> list[str]:
    """Every fault of one file, each with its field; empty when it is sound."""
    if not isinstance(record, dict):
        return ["not a JSON object"]
    if record.get("kind") != "board":
        return [f"kind: {record.get('kind')!r}, must be 'board'"]
    if record.get("schema") != SCHEMA:
        return [f"schema: {record.get('schema')!r}; this version reads {SCHEMA}"]
    faults = _shape(record)
    return faults or _sense(record)


def _shape(record: dict[str, Any]) -> list[str]:
    faults = _fields(record, "", "")
    for name in ("identity", "power"):
        if isinstance(record.get(name), dict):
            faults += _fields(record[name], name, name + ".")
    for name in _LISTS:
        entries = _get(record, name)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            where = f"{name}[{index}]"
            faults += _fields(entry, name, where + ".") if isinstance(entry, dict) else [f"{where}: not an object"]
    return faults


def _fields(entry: dict[str, Any], kind: str, where: str) -> list[str]:
    fields = _FIELDS[kind]
    faults = [f"{where}{name}: missing (unknown is null)" for name in fields if name not in entry]
    faults += [f"{where}{name}: no such field" for name in entry if name not in fields]
    for name, types in fields.items():
        value = entry.get(name)
        # JSON's true is no number, though Python thinks so.
        if name in entry and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            wanted = " or ".join("null" if one is _NONE else one.__name__ for one in types)
            faults.append(f"{where}{name}: {value!r}, must be {wanted}")
    return faults


def _sense(record: dict[str, Any]) -> list[str]:
    faults = []
    power, identity = record["power"], record["identity"]
    labels = [rail["label"] for rail in power["rails"]]
    for what, values, allowed in (
        ("precisions", record["precisions"], PRECISIONS),
        ("power.sensors", power["sensors"], SENSORS),
        ("power.total", power["total"] or [], labels),
    ):
        faults += [f"{what}: {value!r} is none of {', '.join(allowed)}" for value in values if value not in allowed]
    for what, values in (
        ("power.rails: label", labels),
        ("modules: part", [module["part"] for module in record["modules"]]),
        ("software: l4t", [software["l4t"] for software in record["software"]]),
        ("power_modes: id", [(mode["jetpack"], mode["id"]) for mode in record["power_modes"]]),
    ):
        faults += [f"{what} {value!r} twice" for value in sorted(set(values)) if values.count(value) > 1]
    if power["total"] is not None and not power["total"]:
        faults.append("power.total: empty; unknown is null")
    faults += [
        f"{what}: {value!r}, must be above zero"
        for what, value in [
            ("power.filter_tau_s", power["filter_tau_s"]),
            *((f"power.rails.{rail['label']}.shunt_mohm", rail["shunt_mohm"]) for rail in power["rails"]),
        ]
        if value is not None and value <= 0
    ]
    if identity["device_tree_model"] is not None:
        try:
            re.compile(identity["device_tree_model"])
        except re.error as err:
            faults.append(f"identity.device_tree_model: no regular expression: {err}")
    return faults + _unsourced(record)


def _unsourced(record: dict[str, Any]) -> list[str]:
    sources = record["sources"]
    faults = [
        f"sources: none for {name}" for name in _SOURCED if _says_something(_get(record, name)) and name not in sources
    ]
    for name, source in sources.items():
        if not isinstance(source, dict) or source.get("trust") not in TRUST or not source.get("where"):
            faults.append(f"sources.{name}: needs trust ({', '.join(TRUST)}) and where")
    return faults


def _says_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_says_something(entry) for entry in value.values())
    return value not in (None, [])


def _get(record: dict[str, Any], name: str) -> Any:
    """`power.rails` of a record; of a list, the first value that is not null (`software.onnx_opset`)."""
    value: Any = record
    for part in name.split("."):
        if isinstance(value, list):
            return next((entry[part] for entry in value if entry.get(part) is not None), None)
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _board(record: dict[str, Any]) -> BoardModel:
    power, identity = record["power"], record["identity"]
    return BoardModel(
        name=record["name"],
        title=record["title"],
        model=identity["device_tree_model"],
        compatible=tuple(identity["compatible"]),
        ignored_thermal_zones=tuple(record["ignored_thermal_zones"]),
        soc=record["soc"],
        compute_capability=record["compute_capability"],
        precisions=tuple(record["precisions"]),
        modules=tuple(Module(**module) for module in record["modules"]),
        sensors=tuple(power["sensors"]),
        rails=tuple(Rail(**rail) for rail in power["rails"]),
        total=tuple(power["total"]) if power["total"] is not None else None,
        filter_tau_s=power["filter_tau_s"],
        power_modes=tuple(PowerMode(**mode) for mode in record["power_modes"]),
        software=tuple(Software(**software) for software in record["software"]),
        notes=tuple(record["notes"]),
        record=record,
    )
