"""Clocks of CPU, GPU and memory: their frequencies, and whether they are locked."""

import glob
import os
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

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


# The memory controller's clock and its lock, below sysfs: readable by root alone. The first pair is of TX2 and later, the
# second of the Nano; jetson_clocks writes to the locks.
EMC_RATES = ("kernel/debug/bpmp/debug/clk/emc/rate", "kernel/debug/clk/override.emc/clk_rate")
EMC_LOCKS = ("kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked", "kernel/debug/clk/override.emc/clk_state")


def clock_state(sysfs: str) -> Optional[str]:
    """Whether CPU, GPU and memory may each run at one frequency only; None when it cannot be read.

    `locked`: all of them. `cpu-gpu-locked`: CPU and GPU; the memory's clock needs root to read. Else `floating`.
    Boards without a GPU that we know have no memory clock to look at.
    """
    domains = [(policy, "scaling_{}_freq") for policy in policies(sysfs)]
    gpu = gpu_clock(sysfs)
    if gpu is not None:
        domains.append((gpu, "{}_freq"))
    limits = [
        tuple(read_text(os.path.join(folder, name.format(end))) for end in ("min", "max")) for folder, name in domains
    ]
    if not limits or any(None in pair for pair in limits):
        return None
    if any(low != high for low, high in limits):
        return "floating"
    if gpu is None:
        return "locked"
    locks = [text for text in (read_text(os.path.join(sysfs, path)) for path in EMC_LOCKS) if text is not None]
    if not locks:
        return "cpu-gpu-locked"
    return "floating" if "0" in locks else "locked"


def limits(sysfs: str) -> Dict[str, str]:
    """The files below sysfs that jetson_clocks and nvpmodel change, as far as they can be read, with their content."""
    files = [
        os.path.join(policy, "scaling_{}_freq".format(end)) for policy in policies(sysfs) for end in ("min", "max")
    ]
    gpu = gpu_clock(sysfs)
    if gpu is not None:
        files.extend(os.path.join(gpu, end + "_freq") for end in ("min", "max"))
    files.extend(os.path.join(sysfs, path) for path in EMC_LOCKS)
    found = {os.path.relpath(path, sysfs): read_text(path) for path in files}
    return {path: text for path, text in found.items() if text is not None}


class ClockDomain(NamedTuple):
    """The clocks of one kind of processor: the fastest counts, because the others may be idle."""

    name: str  # GPU or CPU
    folders: Tuple[str, ...]
    form: str  # of the files' names
    per_mhz: float  # units of the files in one MHz

    def current_mhz(self) -> Optional[float]:
        return self._fastest_mhz("cur")

    def most_mhz(self) -> Optional[float]:
        """The limit of the present mode."""
        return self._fastest_mhz("max")

    def is_locked(self) -> bool:
        return all(self._text(folder, "min") == self._text(folder, "max") for folder in self.folders)

    def _fastest_mhz(self, which: str) -> Optional[float]:
        texts = (self._text(folder, which) or "" for folder in self.folders)
        return max((int(text) / self.per_mhz for text in texts if _is_frequency(text)), default=None)

    def _text(self, folder: str, which: str) -> Optional[str]:
        return read_text(os.path.join(folder, self.form.format(which)))


def engine_clock(sysfs: str, on_gpu: bool) -> Optional[ClockDomain]:
    """The clock that an engine runs at; None where it cannot be read."""
    if on_gpu:
        gpu = gpu_clock(sysfs)
        return None if gpu is None else ClockDomain("GPU", (gpu,), "{}_freq", 1e6)
    folders = tuple(policies(sysfs))
    return ClockDomain("CPU", folders, "scaling_{}_freq", 1e3) if folders else None


GPU_NAMES = (
    "gpu",
    "gv11b",
    "gp10b",
    "ga10b",
    "gb10b",
    "gm20b",
)  # of the device-tree nodes: jetson_stats, jtop/core/gpu.py


GPU_CLUSTER = "gpu-gpc"  # of AGX Thor: a device on PCI, without a node in the device tree


def gpu_clock(sysfs: str) -> Optional[str]:
    """The folder of the GPU's clock domain: a devfreq device with a GPU's node in the device tree; else None."""
    for folder in sorted(glob.glob(os.path.join(sysfs, "class/devfreq/*"))):
        name = read_text(os.path.join(folder, "device/of_node/name"))
        if name is None:  # kernels that hide the node name the device after it: 17000000.gv11b
            name = os.path.basename(folder).rpartition(".")[2]
        if name in GPU_NAMES or name.startswith(GPU_CLUSTER):
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
    state["available_mhz"] = [round(int(hz) / 1e6, 3) for hz in available if _is_frequency(hz)] or None
    state["governor"] = read_text(os.path.join(folder, "governor"))
    return state


def _mhz(path: str) -> Optional[float]:
    text = read_text(path) or ""
    return round(int(text) / 1e6, 3) if _is_frequency(text) else None


def _is_frequency(text: str) -> bool:
    """A whole number of Hz or kHz; a broken driver may print anything."""
    return re.match(r"[0-9]{1,15}\Z", text) is not None
