"""Made-up power traces with a known truth: what the board draws, through the sensor's filter and rounding."""

import math

from profiler.power import SensorDescription

FINE_S = 0.01


def sensor(step_mw=40.0, tau_s=0.44, rails=("VDD_IN",), **other):
    """The description of a sensor with all its rails in the total."""
    facts = {"total_reason": "", "resolution_mw": {label: step_mw for label in rails}, "min_period_s": 0.1, **other}
    return SensorDescription(
        sensor="made-up", rails=rails, total=rails, tau_s=tau_s, cumulative=False, details={}, **facts
    )


def seen(power_mw, until_s, tau_s=0.44, step_mw=40.0, period_s=0.1, phase=0.0):
    """[(t_s, mw)] of a sensor that sees `power_mw(t_s)`; `phase` shifts where its steps lie."""
    value = power_mw(0.0)
    trace = []
    per_sample = round(period_s / FINE_S)
    for index in range(int(until_s / FINE_S)):
        t_s = index * FINE_S
        value += (power_mw(t_s) - value) * (1.0 - math.exp(-FINE_S / tau_s) if tau_s else 1.0)
        if index % per_sample == 0:
            shown = (round(value / step_mw - phase) + phase) * step_mw if step_mw else value
            trace.append((t_s, shown))
    return trace


class Load:
    """Idle, busy, idle: levels, a drift of the whole board, and a load that fluctuates around its mean."""

    def __init__(self, random, idle_mw, busy_mw, window_s, drift_mw=0.0, curve=1.0, noise_mw=0.0, noise_s=0.3):
        self.window_s = window_s
        self.end_s = 3 * window_s
        self._idle_mw, self._busy_mw = idle_mw, busy_mw
        self._drift_mw, self._curve = drift_mw, curve
        self._noise = self._fluctuation(random, noise_mw, noise_s)

    def _fluctuation(self, random, noise_mw, noise_s):
        """First-order noise of standard deviation `noise_mw` and correlation time `noise_s`."""
        keep = math.exp(-FINE_S / noise_s)
        value, values = random.gauss(0, noise_mw), []
        for _ in range(int(self.end_s / FINE_S) + 1):
            values.append(value)
            value = keep * value + math.sqrt(1 - keep * keep) * random.gauss(0, noise_mw)
        return values

    def idle_mw(self, t_s):
        return self._idle_mw + self._drift_mw * (t_s / self.end_s) ** self._curve

    def mw(self, t_s):
        noise = self._noise[round(t_s / FINE_S)]
        busy = self.window_s <= t_s < 2 * self.window_s
        return self.idle_mw(t_s) + (self._busy_mw + noise if busy else 0.1 * noise)

    def truth_mw(self, settle_s):
        """(gross, net) of the steady window: what the load draws in the long run, without the noise of these seconds."""
        times = [self.window_s + settle_s + index * FINE_S for index in range(int((self.window_s - settle_s) / FINE_S))]
        idle = sum(self.idle_mw(t_s) for t_s in times) / len(times)
        return idle + self._busy_mw, self._busy_mw
