"""Measured whole networks from journals, with the drift between sessions corrected, to fit and to evaluate predictors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

import luts
from lightnas_edge.errors import ArchitectureError, PredictorError
from lightnas_edge.measuring.commands import sample_command
from lightnas_edge.predictor.base import Array, one_hot_of
from lightnas_edge.predictor.metrics import checked
from lightnas_edge.records.differences import require_equal_fingerprints
from lightnas_edge.space import Architecture, Space

_UNKNOWN_ERROR = 0.02  # relative, of a network measured in one or two rounds: what an unlocked machine shows
_UNKNOWN_DRIFT = 0.05  # relative, of a session that shares no operator: machines with floating clocks drift 5 to 10 %


@dataclass(frozen=True, eq=False)
class Observations:
    """n measured networks of one space on one board in one state.

    Shapes: n networks, L searchable layers.
    """

    space: Space
    indices: NDArray[np.int64]  # (n, L) positions in space.operators
    value: Array  # (n,)
    standard_error: Array  # (n,) of each value, from its own rounds
    fingerprint: dict[str, Any]
    simulated: bool = False
    batch: int = 1
    metric: str = "latency_ms"
    repeatability: float = math.nan  # relative difference between two measurements of the same networks
    notes: tuple[str, ...] = field(default=())  # drift between the files
    # (n, S) what each session contributed to the value, 1 together; None: all in the reference session
    shares: Array | None = None
    drift_error: tuple[float, ...] = ()  # (S,) relative standard error of the correction of each session's drift

    def __len__(self) -> int:
        return len(self.value)

    @property
    def one_hot(self) -> Array:
        """(n, L, K)"""
        return one_hot_of(self.space, self.indices)

    @property
    def common_error(self) -> Array:
        """(n, S) what one standard deviation of each session's drift adds to the value of each of its networks."""
        return self.common_error_of(self.value)

    def common_error_of(self, expected: Array) -> Array:
        """`common_error` of (n,) values that lack the noise of the measured ones, for a fit to these.

        In a fit, an error in proportion to the measured values would explain their noise: the more networks, the more of the
        costs it would take.
        """
        found = np.zeros((len(self), len(self.drift_error)))
        if self.shares is not None:
            found = expected[:, None] * self.shares * np.array(self.drift_error)
        return found[:, found.any(axis=0)]

    def take(self, rows: NDArray[Any]) -> Observations:
        """Some of the networks."""
        return replace(
            self,
            indices=self.indices[rows],
            value=self.value[rows],
            standard_error=self.standard_error[rows],
            shares=None if self.shares is None else self.shares[rows],
        )

    def merged(self) -> Observations:
        """One row for each network, in the order of their first ones: the mean of its measurements, the surest with the most weight.

        What a model does not explain of a network is the same in all of its measurements. As rows of their own they would predict one
        another, and every network that was held out would be known.
        """
        _, first, same = np.unique(self.indices, axis=0, return_index=True, return_inverse=True)
        if len(first) == len(self):
            return self
        same = same.reshape(-1)
        drift = np.square(self.common_error).sum(axis=1)
        weight = 1 / np.maximum(self.standard_error**2 + drift, 1e-24 * np.square(self.value) + 1e-300)
        which = np.zeros((len(first), len(self)))  # (networks, rows) weights, 1 together in each network
        which[same, np.arange(len(self))] = weight
        which /= which.sum(axis=1, keepdims=True)
        which, first = which[np.argsort(first)], np.sort(first)
        return replace(
            self,
            indices=self.indices[first],
            value=which @ self.value,
            standard_error=np.sqrt(np.square(which) @ np.square(self.standard_error)),
            shares=None if self.shares is None else which @ self.shares,
        )


def load_observations(
    space: Space, samples: Sequence[luts.Lut], lut: luts.Lut | None = None, *, metric: str = "latency_ms"
) -> Observations:
    """Every measured network of the files once, with the drift between the files corrected.

    The reference session is that of `lut`, or of the first file when None. Operators that files share, the sentinels,
    show the drift between them.
    Networks that were measured without `metric` are left out and named in `notes`.

    Raises:
        PredictorError: no networks, none with this metric, networks of another space.
        FingerprintError: files of different boards or states.
    """
    checked(metric)
    if not samples:
        raise PredictorError("no measured networks were given", hint=_sampling(space))
    # A file that is named twice counts once.
    samples = list({sample.path.resolve(): sample for sample in samples}.values())
    reference = samples[0] if lut is None else lut
    rows: list[NDArray[np.int64]] = []
    values, errors, repeatabilities = [], [], []
    sessions: list[int] = []
    drift_errors: list[float] = []
    notes: list[str] = []
    without: dict[str, luts.Lut] = {}
    few: list[float] = []  # relative errors of networks with too few inferences for the tail
    faults: list[str] = []
    for sample in samples:
        require_equal_fingerprints(
            reference.fingerprint,
            sample.fingerprint,
            f"{reference.path} and {sample.path}",
            hint="measure the networks where the table was measured, with the same engine and settings",
        )
        ratio, drift_error = _drift(reference, sample, metric, notes)
        drift_errors.append(drift_error)
        for key, entry in sample.networks.items():
            try:
                row = Architecture.from_json(entry.subject, space).indices(space)
            except (ArchitectureError, KeyError, TypeError) as error:
                faults.append(f"{key}: {error}")
                continue
            quantity = entry.quantity(metric)
            if quantity is None:
                without[key] = sample
                continue
            rows.append(row)
            sessions.append(len(drift_errors) - 1)
            values.append(quantity.value / ratio)
            known = math.isfinite(quantity.standard_error)
            standard_error = quantity.standard_error if known else _UNKNOWN_ERROR * abs(quantity.value)
            errors.append(standard_error / ratio)
            if known and entry.inferences < luts.needed_inferences(metric):
                few.append(standard_error / abs(quantity.value))
        repeatabilities.append(luts.repeatability(sample, metric=metric).networks)
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults[:10])
        more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise PredictorError(
            f"{len(faults)} measured network{'s do' if len(faults) > 1 else ' does'} not fit space {space.name}\n"
            f"{listed}{more}",
            hint="name the space that was sampled with `--space`",
        )
    for sample in samples:
        _require_space(sample, space)
    if without:
        listed = ", ".join(list(without)[:8]) + (f" and {len(without) - 8} more" if len(without) > 8 else "")
        missing = f"{metric} is not known for {len(without)} of {len(without) + len(rows)} measured networks: {listed}"
        if not rows:
            table = next(iter(without.values()))
            reason = table.why_unknown(metric, without if len(samples) == 1 else [])
            raise PredictorError(f"{table.path}: {missing}{reason}", hint=luts.HOW_TO_MEASURE.get(metric, ""))
        notes.append(f"{missing}; left out")
    if few:
        notes.append(
            f"{len(few)} of {len(rows)} networks have fewer than {luts.needed_inferences(metric)} inferences: their {metric} "
            f"is known to {100 * float(np.median(few)):.1f} % (median standard error); more --rounds or networks reduce it"
        )
    if not rows:
        raise PredictorError(
            f"{', '.join(str(sample.path) for sample in samples)}: no whole network was measured",
            hint=f"`profile-device` measures operators, `sample` measures networks; {_sampling(space)}",
        )
    repeated = [value for value in repeatabilities if math.isfinite(value)]
    return Observations(
        space,
        np.stack(rows),
        np.array(values),
        np.array(errors),
        reference.fingerprint,
        any(table.simulated for table in (reference, *samples)),
        reference.batch,
        metric,
        math.sqrt(sum(value**2 for value in repeated) / len(repeated)) if repeated else math.nan,
        tuple(notes),
        np.eye(len(drift_errors))[sessions],
        tuple(drift_errors),
    ).merged()


def _drift(reference: luts.Lut, sample: luts.Lut, metric: str, notes: list[str]) -> tuple[float, float]:
    """(ratio, relative standard error of it)"""
    if sample is reference:
        return 1.0, 0.0
    try:
        ratio = luts.drift_ratio(reference, sample, metric=metric)
    except luts.LutMissError:
        notes.append(
            f"{sample.path.name}: shares no operator with {reference.path.name}; the drift between them is unknown"
        )
        return 1.0, _UNKNOWN_DRIFT
    notes.append(
        f"{sample.path.name}: drift x{ratio.value:.4f} relative to {reference.path.name} "
        f"({ratio.interval[0]:.4f} to {ratio.interval[1]:.4f}, {len(ratio.per_key)} operators), corrected"
    )
    half = math.log(ratio.interval[1] / ratio.interval[0]) / 2
    return ratio.value, min(half / NormalDist().inv_cdf((1 + ratio.confidence) / 2), _UNKNOWN_DRIFT)


def _sampling(space: Space) -> str:
    return f"measure some: {sample_command(space, None, '--count', '10')}"


def _require_space(sample: luts.Lut, space: Space) -> None:
    """Equal names of operators are other networks in a space of other shapes. The number of classes may differ.

    Raises:
        PredictorError: the file holds networks of another space.
    """
    header = sample.header
    if not sample.networks or header.classes is None or header.space_sha256 is None:
        return
    expected = space.with_classes(header.classes).sha256
    if header.space_sha256 != expected:
        raise PredictorError(
            f"{sample.path} holds networks of space {header.space!r} (sha256 {header.space_sha256[:12]}...), not of {space.name!r} "
            f"({expected[:12]}...)",
            hint="name with `--space` the file that they were sampled with; for a space that was changed afterwards, sample again",
        )
