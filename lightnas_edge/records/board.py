"""What boards are: the files of the catalogue, the user's own boards, and what a board answers to a probe."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from lightnas_edge.records.base import (
    AnyRecord,
    Count,
    Fingerprint,
    FreeForm,
    Name,
    Positive,
    PositiveFloat,
    Record,
    Text,
)
from lightnas_edge.records.job import AgentFailure
from lightnas_edge.records.lut import EnergySource, MachineState, Reading
from lightnas_edge.records.plain_text import Line, Lines

# ------------------------------------------------------------------ catalogue

Trust = Literal["src", "field", "calc", "gk"]
# Facts that need a source wherever they are known.
SOURCED = (
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


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError) as err:
        raise ValueError(f"expected a regular expression ({err})") from err
    return text


class Identity(Record):
    """How a board is recognised by its device tree."""

    device_tree_model: Annotated[Text, AfterValidator(_is_pattern)] | None  # None only for the generic machine
    compatible: tuple[Name, ...]  # beginnings of the module's part numbers, and code names, in the device tree's list


class Module(Record):
    """One part number of a board."""

    part: Name
    name: Name
    memory_gb: Positive | None
    dla_engines: Count | None
    power_monitor: bool


class Rail(Record):
    """One channel of the power monitor."""

    label: Name
    holds: Text
    sensor: Literal["ina3221", "ina238"]  # the chip that measures it
    where: Text  # bus and address; the bus changes between releases
    shunt_mohm: PositiveFloat | None  # None: differs between revisions, or not known
    optional: bool  # not on every carrier


class PowerFacts(Record):
    """How the power of a board is read. `total`: labels to add; None where it is not known or the sensors know it."""

    sensors: tuple[Literal["ina3221", "ina238", "rapl", "nvml"], ...]
    rails: tuple[Rail, ...]
    total: Annotated[tuple[Name, ...], Field(min_length=1)] | None
    filter_tau_s: PositiveFloat | None

    @field_validator("rails")
    @classmethod
    def _are_named_once(cls, rails: tuple[Rail, ...]) -> tuple[Rail, ...]:
        return _once(rails, [rail.label for rail in rails], "label")

    @model_validator(mode="after")
    def _adds_its_own_rails(self) -> Self:
        labels = [rail.label for rail in self.rails]
        unknown = [label for label in self.total or () if label not in labels]
        if unknown:
            raise ValueError(f"total: {', '.join(map(repr, unknown))} is none of {', '.join(labels)}")
        return self


class PowerMode(Record):
    """One mode of nvpmodel. The same id means other things on other boards and releases."""

    id: Count
    name: Name
    cpu_cores: Count | None
    cpu_mhz: PositiveFloat | None
    gpu_mhz: PositiveFloat | None
    emc_mhz: PositiveFloat | None
    jetpack: Text


class Software(Record):
    """One release that runs on a board. The L4T number is the key; the JetPack name is a label."""

    l4t: Name
    jetpack: Text
    ubuntu: Text
    python: Text
    cuda: Text
    cudnn: Text | None
    tensorrt: Text
    onnx_opset: Positive | None  # the largest that its parser reads


class Source(Record):
    """Where a fact comes from, and how far it can be trusted: devices/catalogue.py."""

    trust: Trust
    where: Annotated[tuple[Name, ...], Field(min_length=1)]


class BoardModel(Record):
    """A file of devices/catalog: one board. Unknown is null."""

    kind: Literal["board"] = "board"
    schema_: Literal[1] = Field(default=1, alias="schema")
    name: Name
    title: Text
    identity: Identity
    ignored_thermal_zones: tuple[Name, ...]
    soc: Name | None
    compute_capability: Name | None
    precisions: tuple[Literal["fp32", "fp16", "int8"], ...]
    modules: tuple[Module, ...]
    power: PowerFacts
    power_modes: tuple[PowerMode, ...]
    software: tuple[Software, ...]
    notes: tuple[Text, ...]
    sources: dict[Name, Source]

    @field_validator("modules")
    @classmethod
    def _parts_once(cls, modules: tuple[Module, ...]) -> tuple[Module, ...]:
        return _once(modules, [module.part for module in modules], "part")

    @field_validator("power_modes")
    @classmethod
    def _modes_once(cls, modes: tuple[PowerMode, ...]) -> tuple[PowerMode, ...]:
        return _once(modes, [f"{mode.jetpack} {mode.id}" for mode in modes], "id")

    @field_validator("software")
    @classmethod
    def _releases_once(cls, software: tuple[Software, ...]) -> tuple[Software, ...]:
        return _once(software, [release.l4t for release in software], "l4t")

    @model_validator(mode="after")
    def _has_a_source_for_every_fact(self) -> Self:
        known = {
            "identity": self.identity.device_tree_model is not None or self.identity.compatible,
            "soc": self.soc,
            "compute_capability": self.compute_capability,
            "precisions": self.precisions,
            "modules": self.modules,
            "power.sensors": self.power.sensors,
            "power.rails": self.power.rails,
            "power.total": self.power.total,
            "power.filter_tau_s": self.power.filter_tau_s,
            "power_modes": self.power_modes,
            "software": self.software,
            "software.onnx_opset": any(release.onnx_opset for release in self.software),
        }
        missing = [name for name in SOURCED if known[name] and name not in self.sources]
        if missing:
            raise ValueError(f"sources: none for {', '.join(missing)}")
        return self

    def module(self, compatible: tuple[str, ...] | list[str]) -> Module | None:
        """The part number that the device tree names, or None."""
        text = " ".join(compatible)
        named = [module for module in self.modules if module.part in text]
        return named[0] if len(named) == 1 else None

    def release(self, l4t: str) -> Software | None:
        """What comes with an L4T version such as `35.4.1`, or None."""
        return next((software for software in self.software if software.l4t == l4t), None)


def _once(entries: tuple[AnyRecord, ...], names: list[str], field: str) -> tuple[AnyRecord, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{field} {', '.join(map(repr, twice))} appears twice")
    return entries


# ------------------------------------------------------------------ inventory

BoardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Setting = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$", max_length=4096)]
HostOrUser = Annotated[str, Field(pattern=r"^[^\s@\x00-\x1f\x7f]+$", max_length=255)]


def _is_not_this_machine(name: str) -> str:
    if name == "localhost":
        raise ValueError("expected another name than localhost, which is this machine")
    return name


class InventoryRecord(Record):
    """One of the user's boards. What is None is left to ~/.ssh/config and the defaults."""

    name: Annotated[BoardName, AfterValidator(_is_not_this_machine)]
    host: HostOrUser
    user: HostOrUser | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    key: Setting | None = None
    board: Setting | None = None
    python: Setting | None = None
    host_key: Setting | None = None


# ------------------------------------------------------------------ probe and board setup


class PythonFacts(Record):
    version: Line
    path: Line


class CurrentPowerMode(Record):
    id: Count | None
    name: Line


class GpuFacts(Record):
    cur_mhz: Reading | None
    min_mhz: Reading | None
    max_mhz: Reading | None
    available_mhz: tuple[Reading, ...] | None
    governor: Line | None


class BoardFacts(Record):
    """What a board is, for people."""

    name: Line
    model: Line | None
    module: Line | None
    l4t: Line | None
    jetpack: Line | None
    power_mode: CurrentPowerMode | None
    cpu: Line | None
    cores: Count | None
    gpu: GpuFacts | None
    architecture: Line | None
    memory_mb: Reading | None
    kernel: Line | None
    system: Line | None
    host: Line | None
    governors: tuple[Line, ...] | None


class MissingSensor(Record):
    """A power sensor that cannot be read, why, and what to do."""

    sensor: Line
    rail: Line
    reason: Lines
    remedy: Lines


class Tools(Record):
    """Paths of the programs that a board setup needs."""

    sudo: Line | None
    nvpmodel: Line | None
    jetson_clocks: Line | None
    sudo_without_password: bool | None


class ProbeResult(Record):
    """The agent's answer to a probe: the board, its state, and what can be measured."""

    kind: Literal["probe"] = "probe"
    schema_: Literal[1] = Field(default=1, alias="schema")
    agent_version: Line
    python: PythonFacts
    board: BoardFacts
    title: Line | None
    state: MachineState
    temperatures_c: dict[Line, Reading]
    disk_free_mb: Reading | None
    fingerprint: Fingerprint
    backend: Line
    runtime: FreeForm | None
    runtime_at: Line | None
    error: AgentFailure | None
    energy: EnergySource
    missing_sensors: tuple[MissingSensor, ...]
    power_modes: tuple[PowerMode, ...]
    tools: Tools


class BoardState(Record):
    """What a board setup changes."""

    power_mode: CurrentPowerMode | None
    clocks: Literal["locked", "cpu-gpu-locked", "floating"] | None


class SetupReport(Record):
    """The guard's answer: the board before the setup, and now."""

    kind: Literal["setup"] = "setup"
    schema_: Literal[1] = Field(default=1, alias="schema")
    before: BoardState
    now: BoardState


class RestoreReport(Record):
    """The answer of `agent restore`. `changed`: an earlier campaign's settings are still there, and why."""

    kind: Literal["restore"] = "restore"
    schema_: Literal[1] = Field(default=1, alias="schema")
    state: Literal["clean", "busy", "restored", "changed"]
    message: Lines
    remedy: Lines
