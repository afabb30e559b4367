"""Measured whole networks, gathered from journals, brought to the table's day, ready to fit and to judge predictors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import luts
from lightnas_edge.errors import ArchitectureError, FingerprintError, PredictorError
from lightnas_edge.predictor.base import Array, one_hot_of
from lightnas_edge.space import Architecture, Space

_UNKNOWN_ERROR = 0.02  # relative, of a network measured in one or two rounds: what an unlocked machine shows


@dataclass(frozen=True, eq=False)
class Observations:
    """n measured networks of one space on one board in one state.

    Shapes: n networks, L searchable layers.
    """

    space: Space
    indices: NDArray[np.int64]  # (n, L) positions in space.operators
    value: Array  # (n,)
    standard_error: Array  # (n,) of each value, as its own rounds show it
    fingerprint: dict[str, Any]
    simulated: bool = False
    batch: int = 1
    metric: str = "latency_ms"
    repeatability: float = math.nan  # relative; what a second measurement of the same networks would differ by
    notes: tuple[str, ...] = field(default=())  # how files were brought together

    def __len__(self) -> int:
        return len(self.value)

    @property
    def one_hot(self) -> Array:
        """(n, L, K)"""
        return one_hot_of(self.space, self.indices)

    def take(self, rows: NDArray[Any]) -> Observations:
        """Some of the networks."""
        return replace(
            self,
            indices=self.indices[rows],
            value=self.value[rows],
            standard_error=self.standard_error[rows],
        )


def observe(space: Space, samples: Sequence[luts.Lut], lut: luts.Lut | None = None) -> Observations:
    """Every measured network of the files, with the drift between the files divided out.

    The files are brought to the day of `lut` (of the first file when None) by the operators they share: the sentinels.

    Raises:
        PredictorError: no networks, networks of another space.
        FingerprintError: files of different boards or states.
    """
    if not samples:
        raise PredictorError("no measured networks were given", hint="measure some: lightnas-edge sample --count 10")
    reference = samples[0] if lut is None else lut
    rows: list[NDArray[np.int64]] = []
    latencies, errors, repeatabilities = [], [], []
    notes: list[str] = []
    faults: list[str] = []
    for sample in samples:
        differing = luts.differing_fields(reference, sample)
        if differing:
            raise FingerprintError(
                f"{reference.path} and {sample.path} are of different boards or states: {'; '.join(differing)}",
                hint="measure the networks where the table was measured, with the same engine and settings",
            )
        ratio = _drift(reference, sample, notes)
        for key, entry in sample.networks.items():
            try:
                rows.append(Architecture.from_json(entry.record, space).indices(space))
            except (ArchitectureError, KeyError, TypeError) as error:
                faults.append(f"{key}: {error}")
                continue
            latencies.append(entry.latency_ms / ratio)
            error_ms = entry.standard_error_ms if len(entry.visits) > 2 else _UNKNOWN_ERROR * entry.latency_ms
            errors.append(error_ms / ratio)
        repeatabilities.append(luts.repeatability(sample).networks)
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults[:10])
        more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise PredictorError(
            f"{len(faults)} measured network{'s do' if len(faults) > 1 else ' does'} not fit space {space.name}\n"
            f"{listed}{more}",
            hint="give the space that was sampled: --space",
        )
    if not rows:
        raise PredictorError(
            f"{', '.join(str(sample.path) for sample in samples)}: no whole network was measured",
            hint="`profile-device` measures operators; whole networks come from: lightnas-edge sample --count 10",
        )
    known = [value for value in repeatabilities if math.isfinite(value)]
    return Observations(
        space,
        np.stack(rows),
        np.array(latencies),
        np.array(errors),
        reference.fingerprint,
        any(table.simulated for table in (reference, *samples)),
        reference.batch,
        "latency_ms",
        math.sqrt(sum(value**2 for value in known) / len(known)) if known else math.nan,
        tuple(notes),
    )


def _drift(reference: luts.Lut, sample: luts.Lut, notes: list[str]) -> float:
    if sample is reference:
        return 1.0
    try:
        ratio = luts.drift_ratio(reference, sample)
    except luts.LutMissError:
        notes.append(f"{sample.path.name}: shares no operator with {reference.path.name}; drift between them unknown")
        return 1.0
    notes.append(
        f"{sample.path.name}: ran {ratio.value:.4f} times as long as {reference.path.name} "
        f"({ratio.interval[0]:.4f} to {ratio.interval[1]:.4f}, {len(ratio.per_key)} operators); divided out"
    )
    return ratio.value
