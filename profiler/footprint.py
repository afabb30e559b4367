"""How much memory the agent's processes take."""

import os
import re
from typing import NamedTuple, Optional

from profiler.clocks import read_text
from profiler.fields import JsonObject


class Footprint(NamedTuple):
    """In MB (2**20 bytes); None: it cannot be read."""

    agent_mb: Optional[float]  # the agent's own process, at its peak
    measuring_mb: Optional[float]  # the measuring process at its peak: the agent's code, the runtime and its engines
    runtime_mb: Optional[float]  # the part of it that importing and opening the runtime took

    def __str__(self) -> str:
        shown = ["unknown" if value is None else "{:.0f} MB".format(value) for value in self]
        return "peak memory: agent {}, measuring process {}, of which importing the runtime {}".format(*shown)

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


def peak_mb(pid: int) -> Optional[float]:
    """The most memory that a process of this machine ever had."""
    return _status_mb(pid, "VmHWM")


def resident_mb() -> Optional[float]:
    """The memory of this process now."""
    return _status_mb(os.getpid(), "VmRSS")


def _status_mb(pid: int, field: str) -> Optional[float]:
    found = re.search(
        r"^{}:\s*(\d{{1,18}}) kB$".format(field), read_text("/proc/{}/status".format(pid)) or "", re.MULTILINE
    )
    return round(int(found.group(1)) / 1024, 1) if found else None
