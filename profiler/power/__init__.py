"""Power and energy: which rails a board has, reading them, and what a batch costs. docs/energy.md says how."""

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
