"""Clocks of the CPU and the GPU: their frequencies, and whether they are locked."""

import glob
import os
from typing import List, Optional

from profiler.fields import JsonObject


def read_text(path: str) -> Optional[str]:
    """The stripped text of a small system file; None when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(65536).decode("utf-8", "replace").strip("\0 \n\t")
    except OSError:
        return None


def policies(sysfs: str) -> List[str]:
    """The folders of the CPU's clock domains."""
    return sorted(glob.glob(os.path.join(sysfs, "devices/system/cpu/cpufreq/policy*")))


def governors(sysfs: str) -> List[str]:
    """The names of the governors in use, each once."""
    found = (read_text(os.path.join(policy, "scaling_governor")) for policy in policies(sysfs))
    return sorted({name for name in found if name})


def clock_state(sysfs: str) -> Optional[str]:
    """`locked` when CPU and GPU may each run at one frequency only, else `floating`; None when it cannot be read."""
    domains = [(policy, "scaling_{}_freq") for policy in policies(sysfs)]
    gpu = gpu_clock(sysfs)
    if gpu is not None:
        domains.append((gpu, "{}_freq"))
    limits = [
        tuple(read_text(os.path.join(folder, name.format(end))) for end in ("min", "max")) for folder, name in domains
    ]
    if not limits or any(None in pair for pair in limits):
        return None
    return "locked" if all(low == high for low, high in limits) else "floating"


GPU_NAMES = (
    "gpu",
    "gv11b",
    "gp10b",
    "ga10b",
    "gb10b",
    "gm20b",
)  # of the device-tree nodes: jetson_stats, jtop/core/gpu.py


def gpu_clock(sysfs: str) -> Optional[str]:
    """The folder of the GPU's clock domain: a devfreq device with a GPU's node in the device tree; else None."""
    for folder in sorted(glob.glob(os.path.join(sysfs, "class/devfreq/*"))):
        name = read_text(os.path.join(folder, "device/of_node/name"))
        if name is None:  # kernels that hide the node name the device after it: 17000000.gv11b
            name = os.path.basename(folder).rpartition(".")[2]
        if name in GPU_NAMES:
            return folder
    return None


def gpu_state(sysfs: str) -> Optional[JsonObject]:
    """The GPU's clocks in MHz and their governor; None without a GPU whose clock can be read."""
    folder = gpu_clock(sysfs)
    if folder is None:
        return None
    state: JsonObject = {}
    for name in ("cur", "min", "max"):
        state[name + "_mhz"] = _mhz(os.path.join(folder, name + "_freq"))
    available = (read_text(os.path.join(folder, "available_frequencies")) or "").split()
    state["available_mhz"] = [round(int(hz) / 1e6, 3) for hz in available if hz.isdigit()] or None
    state["governor"] = read_text(os.path.join(folder, "governor"))
    return state


def _mhz(path: str) -> Optional[float]:
    text = read_text(path) or ""
    return round(int(text) / 1e6, 3) if text.isdigit() else None
