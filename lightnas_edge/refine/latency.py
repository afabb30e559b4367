"""Latency of a found network with other channels: its own prediction, plus the cost of the changes in a table.

    latency = predicted(found network) + scale * (table[chosen] - table[found network]) + deviations

The found network's prediction is the run's own, calibrated on whole networks; the table holds the operators at all the
shapes that choices can need, measured on the same board. The overhead per block cancels, as long as the number of blocks
is the same. `scale` is 1 and deviations are proportional to the entries, both with the standard deviations that the run's
predictor estimated, so the uncertainty of a choice grows with its distance from the found network.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor import AdditivePredictor, Predictor
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.records.predictor import FitRecord
from lightnas_edge.refine.channels import Channels, Grid

# Of the table's entries, where the run's predictor was not fitted to networks: predictor/priors.py.
_SCALE_STD, _DEVIATION_STD = 0.05, 0.04


class Latency:
    """Predicts every choice of a grid.

    Args:
        predictor: the run's, of the grid's space.
        table: the run's table and the measured shapes, normalised to one session.

    Raises:
        PredictorError: the predictor is not of latency.
        LutMissError: the table lacks an operator of the found network itself.
    """

    def __init__(self, grid: Grid, predictor: Predictor, table: luts.Lut) -> None:
        if predictor.metric != "latency_ms":
            raise PredictorError(f"channels are refined under a latency, and this predictor is of {predictor.metric}")
        self.grid, self.source, self.table = grid, predictor, table
        one_hot = grid.architecture.one_hot(grid.space)[None]
        self.known_ms = float(predictor.predict(one_hot)[0])
        self._known_variance = float(predictor.deviation(one_hot)[0]) ** 2
        scales = predictor.fit.prior_scales
        if "scale_factor" not in scales:  # fitted without the table: its deviations have another meaning
            scales = {}
        calibration = predictor.fit.calibration
        factor = 1.0 if calibration is None else calibration.std_factor
        self._scale_std = factor * scales.get("scale_factor", _SCALE_STD)
        self._deviation_std = factor * math.hypot(scales.get("deviation", _DEVIATION_STD), scales.get("table", 0.0))
        self._found = Counter(shaped.key for shaped in grid.chain(grid.unchanged))
        table.latencies_ms(list(self._found))

    def predict(self, channels: Channels) -> tuple[float, float]:
        """(milliseconds, standard deviation of a measurement around it).

        Infinite where an operator could not be measured, and where a stage as wide as the one before turns a skip's
        convolution into an identity: with fewer blocks, the overhead per block does not cancel.
        """
        change = Counter(shaped.key for shaped in self.grid.chain(channels))
        blocks = change.total()
        change.subtract(self._found)
        changed = {key: count for key, count in change.items() if count}
        if blocks != self._found.total() or not self.table.coverage(changed).complete:
            return math.inf, math.inf
        difference_ms = sum(count * self.table.latency_ms(key) for key, count in changed.items())
        variance = self._known_variance + (self._scale_std * difference_ms) ** 2
        variance += sum(count**2 * self._own_variance(self.table.entries[key]) for key, count in changed.items())
        return self.known_ms + difference_ms, math.sqrt(variance)

    def bound_ms(self, channels: Channels, confidence: float | None) -> float:
        """What must keep the budget: the prediction, or its upper bound at a confidence."""
        centre, deviation = self.predict(channels)
        if confidence is None or math.isinf(centre):
            return centre
        return centre + self.source.quantile(confidence) * deviation

    def predictor(self, channels: Channels, table: luts.Lut) -> AdditivePredictor:
        """The same numbers as a predictor of the derived space.

        Args:
            table: has the operators of that space that no choice uses.

        Raises:
            LutMissError: neither table has an operator.
        """
        space, _ = self.grid.network(channels)
        origin = replace(
            self.source.origin,
            fit=FitRecord(
                method="the found network's prediction, and a table of the changed operators",
                networks=self.source.fit.networks,
                calibration=self.source.fit.calibration,
                prior_scales={"scale_factor": self._scale_std, "deviation": self._deviation_std},
            ),
        )
        keys = Terms.of(space).keys
        row = {key: index + 1 for index, key in enumerate(keys)}
        # Row 0 is the constant: the found network's latency, its searchable operators taken away and the head exchanged.
        start = Counter(shaped.key for shaped in space.fixed)
        start.subtract(self._found)
        table.latencies_ms([key for key in keys if key not in self.table.entries])
        entries = {**table.entries, **self.table.entries}  # of two entries, the one that selected the choice
        mean = np.array([0.0, *(entries[key].latency_ms for key in keys)])
        mean[0] = sum(count * entries[key].latency_ms for key, count in start.items())
        scale = self._scale_std * mean
        covariance = np.outer(scale, scale)
        mean[0] += self.known_ms
        noise = self.source.noise if isinstance(self.source, AdditivePredictor) else 0.0
        covariance[0, 0] += self._known_variance - noise**2
        for key in {*start, *keys}:
            counts = np.zeros(len(keys) + 1)  # of a network that has the key once, less those of the found one
            counts[0] = start[key]
            if key in row:
                counts[row[key]] = 1.0
            covariance += self._own_variance(entries[key]) * np.outer(counts, counts)
        return AdditivePredictor(space, origin, mean, covariance, noise)

    def _own_variance(self, entry: luts.Entry) -> float:
        """How far an operator may be off in a network, and the error of measuring it."""
        error = entry.standard_error_ms if math.isfinite(entry.standard_error_ms) else 0.05 * entry.latency_ms
        return (self._deviation_std * entry.latency_ms) ** 2 + error**2
