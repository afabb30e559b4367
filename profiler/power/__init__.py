"""Power and energy: the rails of a board, their readings, and the energy of a batch. Method: docs/energy.md."""

from profiler.power.energy import SETTLE_S, Energy, Window, estimate, idle, measure
from profiler.power.find import Found, find_sensors
from profiler.power.sampler import PowerSampler, Sampler, SamplerError, sample_to
from profiler.power.sensor import Missing, PowerFacts, PowerSensor, SensorDescription
from profiler.power.trace import Trace

__all__ = [
    "SETTLE_S",
    "Energy",
    "Found",
    "Missing",
    "PowerFacts",
    "PowerSampler",
    "PowerSensor",
    "Sampler",
    "SamplerError",
    "SensorDescription",
    "Trace",
    "Window",
    "estimate",
    "find_sensors",
    "idle",
    "measure",
    "sample_to",
]
