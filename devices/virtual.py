"""Simulated boards: `--host virtual:jetson-agx-xavier`. Their uses and limits: docs/virtual-boards.md.

The agent is the real one. It runs on a folder of system files in the form of that board's generation, made here
from the catalogue, with a simulated engine (profiler/simulation.py). The numbers below are invented, in the order of
magnitude of the boards of these names. Everything measured on them is marked as simulated.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import re
import shlex
import shutil
import sys
import uuid
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from devices.errors import InventoryError
from devices.local import LocalConnection

PREFIX = "virtual:"
SCHEMA = 6  # of the root; another one is replaced
_NUMBER = re.compile(r"[1-9][0-9]{0,5}")


@dataclass(frozen=True)
class VirtualBoardSpec:
    """What the catalogue does not state. Powers in mW of the whole module, at full clock and use."""

    model: str
    module: str  # part number, as in the catalogue
    l4t: str
    gpu_folder: str
    gpu_mhz: tuple[float, float, int]  # lowest, highest, steps
    cpu: tuple[str, int, int, int]  # part, cores, lowest kHz, highest kHz
    macs_per_ns: float  # fp32, a quarter of the peak; twice that in fp16, four times in int8 where the board has it
    bandwidth_gb_s: float
    launch_us: float
    sync_us: float
    c_per_w: float
    idle_mw: float
    clock_mw: float
    gpu_mw: float
    memory_mw: float
    millivolts: int


_BOARDS = {
    "jetson-nano": VirtualBoardSpec(
        "NVIDIA Jetson Nano Developer Kit", "p3448-0000", "32.7.6", "sys/devices/57000000.gpu/devfreq/57000000.gpu",
        (76.8, 921.6, 12), ("0xd07", 4, 102000, 1479000), 50, 10, 11, 70, 3.5, 1400, 350, 3300, 1500, 5000,
    ),
    "jetson-tx2": VirtualBoardSpec(
        "quill", "p3310-1000", "32.7.6", "sys/devices/17000000.gp10b/devfreq/17000000.gp10b",
        (114.75, 1300.5, 14), ("0xd07", 6, 345600, 2035200), 80, 22, 8, 55, 2.5, 2300, 600, 6500, 2500, 19000,
    ),
    "jetson-agx-xavier": VirtualBoardSpec(
        "Jetson-AGX", "p2888-0004", "35.6.4", "sys/devices/17000000.gv11b/devfreq/17000000.gv11b",
        (114.75, 1377, 14), ("0x004", 8, 115200, 2265600), 180, 50, 5, 40, 1.5, 4700, 1500, 14000, 4500, 19000,
    ),
    "jetson-orin-nano": VirtualBoardSpec(
        "NVIDIA Jetson Orin Nano Developer Kit", "p3767-0005", "36.4.7",
        "sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu",
        (306, 1020, 8), ("0xd42", 6, 115200, 1728000), 160, 28, 5, 35, 2.8, 4300, 900, 7000, 2600, 5000,
    ),
    "jetson-agx-thor": VirtualBoardSpec(
        "NVIDIA Jetson AGX Thor Developer Kit", "p3834-0008", "38.4.0", "sys/devices/platform/gpu/devfreq/gpu-gpc-0",
        (306, 1575, 8), ("0xd83", 14, 115200, 2601000), 1000, 200, 4, 30, 0.6, 22000, 6000, 70000, 15000, 20000,
    ),
}  # fmt: skip
NAMES = tuple(sorted(_BOARDS))
# Share of (idle + clock, gpu, memory) of a rail that is not the whole module.
_SHARES = {
    "GPU": (0.15, 1.0, 0.0), "CPU": (0.2, 0.0, 0.05), "SOC": (0.25, 0.0, 0.15), "CV": (0.05, 0.0, 0.0),
    "VDDRQ": (0.15, 0.0, 0.6), "SYS5V": (0.2, 0.0, 0.2),
    "POM_5V_GPU": (0.05, 0.85, 0.0), "POM_5V_CPU": (0.25, 0.0, 0.1),
    "VDD_SYS_GPU": (0.07, 0.85, 0.0), "VDD_SYS_SOC": (0.2, 0.0, 0.15), "VDD_4V0_WIFI": (0.01, 0.0, 0.0),
    "VDD_SYS_CPU": (0.15, 0.0, 0.05), "VDD_SYS_DDR": (0.25, 0.0, 0.6),
    "VDD_CPU_GPU_CV": (0.2, 0.9, 0.0), "VDD_SOC": (0.3, 0.0, 0.4),
    "VDD_GPU": (0.1, 0.85, 0.0), "VDD_CPU_SOC_MSS": (0.4, 0.0, 0.8), "VIN_SYS_5V0": (0.1, 0.0, 0.1),
}  # fmt: skip
_DEBUG = "sys/kernel/debug"
_TOOLS = "usr/sbin"
EMC_MHZ = 1600.0
_DEFAULT_SHUNT_MOHM = 20  # of the TX2, where it depends on the revision
_DEFAULT_TAU_S = 0.025  # where the catalogue names none


class VirtualConnection(LocalConnection):
    """A virtual board, kept in a folder of the agent's home on this machine; made at the first use."""

    def __init__(self, host: str) -> None:
        board, _, number = host.removeprefix(PREFIX).partition("#")
        if board not in _BOARDS or ("#" in host and not _NUMBER.fullmatch(number)):
            raise InventoryError(
                f"there is no virtual board {host.removeprefix(PREFIX)!r}",
                hint="virtual boards: " + ", ".join(PREFIX + name for name in NAMES) + f"; units: {PREFIX}{NAMES[0]}#2",
            )
        self.name = host
        unit = int(number) if number else None
        self.poll_s = 0.1
        self.root = Path(super().home()) / "virtual" / (board if unit is None else f"{board}-unit-{unit}")
        self.agent_options = ("--root", str(self.root))
        made = self.root / "virtual.json"
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with (self.root.parent / f".{self.root.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two first commands
            if not made.exists() or json.loads(made.read_text())["schema"] != SCHEMA:
                make_board(self.root, board, unit)
            python = _python_of_tools(self.root)
            if python is not None and not python.exists():  # its environment was removed
                _write_tools(self.root)

    @property
    def backend(self) -> str:
        return "simulated"

    def home(self) -> str:
        return str(self.root / "home" / ".lightnas-edge")


@dataclass(frozen=True)
class UnitFactors:
    """By what a unit differs from the nominal board: factors of its speeds, its powers and its noise."""

    compute: float = 1.0
    bandwidth: float = 1.0
    host: float = 1.0  # of the times to launch and to synchronise
    idle: float = 1.0
    dynamic: float = 1.0
    noise: float = 1.0


def unit_factors(board: str, unit: int | None) -> UnitFactors:
    """Invented, and the same for a number every time: about 0.3 % in speed, 3 to 5 % in power. None: the nominal board."""
    if unit is None:
        return UnitFactors()
    drawn = random.Random(f"{board}#{unit}")
    common = drawn.gauss(0, 0.0025)
    return UnitFactors(
        compute=math.exp(common + drawn.gauss(0, 0.001)),
        bandwidth=math.exp(common + drawn.gauss(0, 0.001)),
        host=math.exp(-common + drawn.gauss(0, 0.001)),
        idle=math.exp(drawn.gauss(0, 0.05)),
        dynamic=math.exp(drawn.gauss(0, 0.03)),
        noise=drawn.uniform(0.7, 1.6),
    )


def make_board(root: Path, board: str, unit: int | None = None) -> None:
    """Write the system files of a unit of a board below `root`, seen whole or not at all."""
    catalogue = json.loads((resources.files("devices") / "catalog" / f"{board}.json").read_text(encoding="utf-8"))
    part = root.with_name(f"{root.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    _Maker(part, board, catalogue, unit).make()
    shutil.rmtree(root, ignore_errors=True)
    os.replace(part, root)


def _write_tools(root: Path) -> None:
    """nvpmodel, jetson_clocks and sudo, for the Python that runs now; its path may have spaces, which no #! line can hold."""
    script = (resources.files("devices") / "_virtual_tools.py").read_text(encoding="utf-8")
    start = (
        f"#!/bin/sh\n'''exec' {shlex.quote(sys.executable)} \"$0\" \"$@\"\n' '''\n"  # a text to Python, a command to sh
    )
    folder = root / _TOOLS
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("nvpmodel", "jetson_clocks", "sudo"):
        part = folder / f".{name}.part-{os.getpid()}"
        part.write_text(start + script, encoding="utf-8")
        part.chmod(0o755)
        os.replace(part, folder / name)


def _python_of_tools(root: Path) -> Path | None:
    """The Python that starts them; None where it cannot be read from them."""
    try:
        lines = (root / _TOOLS / "nvpmodel").read_text(encoding="utf-8").splitlines()[:2]
        return Path(shlex.split(lines[1])[1])
    except (OSError, ValueError, IndexError):
        return None


class _Maker:
    def __init__(self, root: Path, board: str, catalogue: dict[str, Any], unit: int | None) -> None:
        self._root = root
        self._board = board
        self._catalogue = catalogue
        self._facts = _BOARDS[board]
        self._unit = unit
        self._factors = unit_factors(board, unit)

    @property
    def _tau_s(self) -> float:
        return float(self._catalogue["power"]["filter_tau_s"] or _DEFAULT_TAU_S)

    def make(self) -> None:
        self._identity()
        self._processor()
        self._gpu()
        thermal = self._thermal()
        rails = self._rails()
        self._tools()
        facts = self._facts
        release = self._release()
        factors, unit = {"fp32": 1, "fp16": 2, "int8": 4}, self._factors
        self._write(
            "virtual.json",
            json.dumps({
                "kind": "virtual-board", "schema": SCHEMA, "name": self._board, "seed": self._unit or 0,
                "noise": 0.004 * unit.noise, "context": 0.03, "tensorrt": {"version": release["tensorrt"], "opset": release["onnx_opset"]},
                "macs_per_ns": {name: facts.macs_per_ns * factors[name] * unit.compute for name in self._catalogue["precisions"]},
                "bandwidth_gb_s": facts.bandwidth_gb_s * unit.bandwidth,
                "launch_us": facts.launch_us * unit.host, "sync_us": facts.sync_us * unit.host,
                "tau_s": self._tau_s, "thermal": thermal, "rails": rails,
            }, indent=1),
        )  # fmt: skip
        self._write("virtual.state", json.dumps({"now_s": 0.0, "temperature_c": thermal["ambient_c"]}))

    def _release(self) -> dict[str, Any]:
        """The row of the catalogue about the release that runs on the board."""
        return next(row for row in self._catalogue["software"] if row["l4t"] == self._facts.l4t)

    def _write(self, name: str, text: str) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.endswith("\0") else text + "\n", encoding="utf-8")

    def _identity(self) -> None:
        facts = self._facts
        major, _, revision = facts.l4t.partition(".")
        ubuntu = self._release()["ubuntu"]
        memory_gb = next(row["memory_gb"] for row in self._catalogue["modules"] if row["part"] == facts.module)
        self._write("proc/device-tree/model", facts.model + "\0")
        self._write("proc/device-tree/serial-number", f"virtual-{self._board}-{self._unit or 'nominal'}\0")
        self._write("proc/device-tree/compatible", f"nvidia,{facts.module}\0nvidia,{self._catalogue['soc']}\0")
        self._write(
            "etc/nv_tegra_release",
            f"# R{major} (release), REVISION: {revision}, GCID: 0, BOARD: generic, EABI: aarch64, DATE: simulated",
        )
        self._write("etc/os-release", f'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu {ubuntu} LTS"')
        self._write("proc/meminfo", "\n".join([
            f"MemTotal:       {memory_gb * 1000000} kB", f"MemAvailable:   {memory_gb * 750000} kB",
            f"SwapTotal:      {memory_gb * 500000} kB", f"SwapFree:       {memory_gb * 500000} kB",
        ]))  # fmt: skip
        self._write("proc/loadavg", "0.10 0.10 0.10 1/200 1000")
        kernel = {"32": "4.9.337-tegra", "35": "5.10.216-tegra"}.get(major, "5.15.148-tegra")
        self._write("proc/sys/kernel/osrelease", kernel)
        self._write("proc/sys/kernel/hostname", "virtual")
        self._write("proc/sys/kernel/random/boot_id", str(uuid.uuid4()))

    def _processor(self) -> None:
        part, cores, least, most = self._facts.cpu
        self._write("proc/cpuinfo", "\n".join(f"processor\t: {core}\nCPU part\t: {part}\n" for core in range(cores)))
        policy = "sys/devices/system/cpu/cpufreq/policy0/"
        self._write(policy + "scaling_governor", "schedutil")
        for name, value in (("min", least), ("max", most), ("cur", most)):
            self._write(f"{policy}scaling_{name}_freq", str(value))
            self._write(f"{policy}cpuinfo_{name}_freq", str(value))

    def _gpu(self) -> None:
        least, most, count = self._facts.gpu_mhz
        steps = [round((least + (most - least) * step / (count - 1)) * 1e6) for step in range(count)]
        folder = self._facts.gpu_folder
        for name, value in (("min_freq", steps[0]), ("max_freq", steps[-1]), ("cur_freq", steps[0])):
            self._write(f"{folder}/{name}", str(value))
        self._write(f"{folder}/available_frequencies", " ".join(map(str, steps)))
        self._write(f"{folder}/governor", "nvhost_podgov")
        self._write(f"{folder}/device/of_node/name", "gpu\0")
        rate, lock = self._emc_files()
        self._write(rate, str(round(EMC_MHZ * 1e6)))
        self._write(lock, "0")
        links = self._root / "sys/class/devfreq"
        links.mkdir(parents=True)
        target = self._root / folder
        (links / target.name).symlink_to(os.path.relpath(target, links))

    def _emc_files(self) -> tuple[str, str]:
        """Rate and lock of the memory's clock, which only root reads on a real board: Nano, then all later ones."""
        if self._catalogue["soc"] == "tegra210":
            return f"{_DEBUG}/clk/override.emc/clk_rate", f"{_DEBUG}/clk/override.emc/clk_state"
        return f"{_DEBUG}/bpmp/debug/clk/emc/rate", f"{_DEBUG}/bpmp/debug/clk/emc/mrq_rate_locked"

    def _thermal(self) -> dict[str, Any]:
        zones = [("CPU-therm", "25000"), ("GPU-therm", "25000")]
        zones += [(zone, "50000") for zone in self._catalogue["ignored_thermal_zones"]]
        for index, (kind, temperature) in enumerate(zones):
            self._write(f"sys/class/thermal/thermal_zone{index}/type", kind)
            self._write(f"sys/class/thermal/thermal_zone{index}/temp", temperature)
        for index, kind in enumerate(("pwm-fan", "gpu-throttle")):
            self._write(f"sys/class/thermal/cooling_device{index}/type", kind)
            self._write(f"sys/class/thermal/cooling_device{index}/cur_state", "0")
        if not self._facts.l4t.startswith("32"):
            self._write("sys/class/hwmon/hwmon0/oc1_event_cnt", "0")
        return {
            "ambient_c": 25.0, "c_per_w": self._facts.c_per_w, "tau_s": 45.0, "trip_c": 97.0,
            "zone_file": "sys/class/thermal/thermal_zone1/temp",
            "cooling_file": "sys/class/thermal/cooling_device1/cur_state",
        }  # fmt: skip

    def _rails(self) -> list[dict[str, Any]]:
        power = self._catalogue["power"]
        iio = self._facts.l4t.startswith("32")
        chips: dict[str, list[dict[str, Any]]] = {}
        made = [self._ina238(rail) for rail in power["rails"] if rail["sensor"] == "ina238"]
        for rail in power["rails"]:
            if rail["sensor"] == "ina3221" and not rail["optional"]:
                chips.setdefault(rail["where"], []).append(rail)
        for number, (where, rails) in enumerate(sorted(chips.items())):
            device = f"ina3221x/{where}/iio:device{number}" if iio else f"ina3221/{where}/hwmon/hwmon{number + 1}"
            chip = f"sys/bus/i2c/drivers/{device}"
            if iio:
                self._write(f"{chip}/running_mode", "1")
            else:
                self._write(f"{chip}/samples", "64")
                self._write(f"{chip}/update_interval", str(round(self._tau_s * 1000)))
            for index, rail in enumerate(rails, start=0 if iio else 1):
                made.append(self._rail(chip, index, rail, iio))
        return made

    def _rail(self, chip: str, index: int, rail: dict[str, Any], iio: bool) -> dict[str, Any]:
        facts, label = self._facts, rail["label"]
        shunt = rail["shunt_mohm"] or _DEFAULT_SHUNT_MOHM
        names = [f"{prefix}{index}_input" for prefix in (("in_voltage", "in_current") if iio else ("in", "curr"))]
        self._write(f"{chip}/{f'rail_name_{index}' if iio else f'in{index}_label'}", label)
        self._write(f"{chip}/{names[0]}", str(facts.millivolts))
        self._write(f"{chip}/{names[1]}", str(round(40 / shunt)))
        if iio:
            self._write(f"{chip}/in_power{index}_input", "0")
        else:
            self._write(f"{chip}/shunt{index}_resistor", str(shunt * 1000))
        files = {
            "voltage_file": f"{chip}/{names[0]}", "current_file": f"{chip}/{names[1]}",
            "power_file": f"{chip}/in_power{index}_input" if iio else None,
        }  # fmt: skip
        return self._draws(label) | files | {"step_ma": 40 / shunt, "power_per_mw": 1}

    def _ina238(self, rail: dict[str, Any]) -> dict[str, Any]:
        """A chip of one rail, whose shunt the device tree names: four bytes."""
        device = f"sys/bus/i2c/drivers/ina238/{rail['where']}"
        chip, shunt_uohm = f"{device}/hwmon/hwmon9", round((rail["shunt_mohm"] or 1) * 1000)
        for name, value in (
            ("name", "ina238"),
            ("in1_input", self._facts.millivolts),
            ("curr1_input", 0),
            ("power1_input", 0),
        ):
            self._write(f"{chip}/{name}", str(value))
        node = self._root / device / "of_node"
        node.mkdir()
        (node / "shunt-resistor").write_bytes(shunt_uohm.to_bytes(4, "big"))
        files = {name: f"{chip}/{file}" for name, file in (
            ("voltage_file", "in1_input"), ("current_file", "curr1_input"), ("power_file", "power1_input"),
        )}  # fmt: skip
        return self._draws(rail["label"]) | files | {"step_ma": 20000 / shunt_uohm, "power_per_mw": 1000}

    def _draws(self, label: str) -> dict[str, Any]:
        facts, unit = self._facts, self._factors
        whole = self._catalogue["power"]["total"] == [label]
        steady, gpu, memory = (1.0, 1.0, 1.0) if whole else _SHARES[label]
        return {
            "label": label, "total": label in self._catalogue["power"]["total"], "millivolts": facts.millivolts,
            "idle_mw": facts.idle_mw * steady * unit.idle,
            "clock_mw": facts.clock_mw * steady * unit.dynamic,
            "gpu_mw": facts.gpu_mw * gpu * unit.dynamic, "memory_mw": facts.memory_mw * memory * unit.dynamic,
        }  # fmt: skip

    def _tools(self) -> None:
        """nvpmodel, jetson_clocks and sudo, as far as the agent uses them."""
        _, most, _ = self._facts.gpu_mhz
        modes = {str(mode["id"]): [mode["name"], mode["gpu_mhz"] or most] for mode in self._catalogue["power_modes"]}
        modes = modes or {"0": ["MAXN", most]}
        self._write(
            "etc/nvpmodel.conf",
            "\n".join(f"< POWER_MODEL ID={number} NAME={name} >" for number, (name, _) in modes.items()),
        )
        emc_lock = self._emc_files()[1]
        state = {"mode": "0", "modes": modes, "gpu": self._facts.gpu_folder, "emc_lock": emc_lock}
        self._write("etc/nvpmodel.json", json.dumps(state))
        _write_tools(self._root)
