"""Power of NVIDIA GPUs through NVML, by ctypes: desktop and server cards, and Thor. Older Jetsons have no working NVML.

The total is that of the GPU cards, not of the machine.
"""

import ctypes
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from profiler.fields import JsonObject
from profiler.power.rapl import EnergyCounter
from profiler.power.sensor import Missing, PowerSensor, Reading

LIBRARY = "libnvidia-ml.so.1"
RESOLUTION_MW = 1.0  # the unit of the interface; NVIDIA does not state the accuracy of the card
# Since Ampere the momentary power is a mean over one second ("Part-time power measurements", arXiv 2312.02741); the
# energy counter is preferred where there is one.
TAU_S = 1.0


class Nvml(PowerSensor):
    name = "nvml"
    min_period_s = 0.1  # the counters move about that often on many cards (general knowledge)

    def __init__(
        self, library: Any, handles: Dict[str, ctypes.c_void_p], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`library`: NVML, a ctypes library."""
        self._library = library
        self._handles = handles
        self._clock = clock
        self._counters = {label: EnergyCounter() for label in handles}
        self.rails = tuple(handles)
        self.total = self.rails
        self.resolution_mw = {label: RESOLUTION_MW for label in self.rails}
        self.cumulative = all(self._energy_mj(handle) is not None for handle in handles.values())
        self.tau_s = 0.0 if self.cumulative else TAU_S

    def read(self) -> Reading:
        reading: Reading = {}
        for label, handle in self._handles.items():
            if self.cumulative:
                energy_mj = self._energy_mj(handle)
                energy_uj = None if energy_mj is None else energy_mj * 1000.0
                reading[label] = self._counters[label].power_mw(self._clock(), energy_uj)
            else:
                reading[label] = self._call("nvmlDeviceGetPowerUsage", handle, ctypes.c_uint())
        return reading

    def details(self) -> JsonObject:
        return {"covers": "GPU cards, not the whole machine"}

    def close(self) -> None:
        self._library.nvmlShutdown()

    def _energy_mj(self, handle: ctypes.c_void_p) -> Optional[float]:
        return self._call("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.c_ulonglong())

    def _call(self, function: str, handle: ctypes.c_void_p, value: Any) -> Optional[float]:
        call = getattr(self._library, function, None)
        if call is None or call(handle, ctypes.byref(value)) != 0:
            return None
        return float(value.value)


def find_nvml(load: Callable[[str], Any] = ctypes.CDLL) -> Tuple[Optional[PowerSensor], List[Missing]]:
    """The cards of the driver; `load` opens the library and is a parameter for tests."""
    try:
        library = load(LIBRARY)
        status = library.nvmlInit_v2()
        if status != 0:
            raise OSError("nvmlInit_v2 failed with code {}".format(status))
    except (OSError, AttributeError) as err:
        reason = "no usable {}: {}".format(LIBRARY, err)
        return None, [Missing(Nvml.name, "", reason, "it comes with NVIDIA's driver for desktop and server cards")]
    count = ctypes.c_uint()
    handles = {}
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0:
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == 0:
                handles["gpu-{}".format(index)] = handle
    missing: List[Missing] = []
    if handles:
        sensor = Nvml(library, handles)
        # One reading shows whether the card answers at all; a counter has no mean yet, but has answered.
        silent = [] if sensor.cumulative else [label for label, value in sensor.read().items() if value is None]
        if not silent:
            return sensor, []
        missing = [Missing(Nvml.name, label, "the card does not report its power", "") for label in silent]
    library.nvmlShutdown()
    return None, missing or [Missing(Nvml.name, "", "the driver lists no GPU", "")]
