"""Power and energy: the rails of a board, their readings, and the energy of a batch. Method: docs/energy.md."""

from profiler.power.energy import Energy
from profiler.power.estimator import SETTLE_S, WindowRules, estimate
from profiler.power.find import Found, find_sensors
from profiler.power.level import Progress, Window
from profiler.power.protocol import idle, idle_s, longest_s, measure
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
    "Progress",
    "Sampler",
    "SamplerError",
    "SensorDescription",
    "Trace",
    "Window",
    "WindowRules",
    "estimate",
    "find_sensors",
    "idle",
    "idle_s",
    "longest_s",
    "measure",
    "sample_to",
]
