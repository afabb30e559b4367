"""Predictor files: every fault in one message, and no code runs when one is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import luts
from lightnas_edge.errors import PredictorError, SpaceError
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.applicability import UNKNOWN, ApplicabilityDomain
from lightnas_edge.predictor.base import Origin, Predictor
from lightnas_edge.predictor.distance import DistantDiscrepancy
from lightnas_edge.predictor.metrics import UNITS
from lightnas_edge.predictor.mlp import LARGEST_OUTPUT, MlpPredictor, decode, largest_outputs
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.records.predictor import (
    AdditiveParameters,
    ApplicabilityDomainRecord,
    MlpParameters,
    PredictorRecord,
)
from lightnas_edge.space import Space

_REMEDY = (
    "fit it again: `lightnas-edge fit --space SPACE --lut FILE --samples FILE`; docs/formats.md describes the file"
)


def reference_predictor(name: str | Path) -> Path | None:
    """A predictor that comes with the project, by its name; a file of this name in the working directory has priority."""
    shipped = Path(luts.__file__).parent / "reference" / f"{Path(name).name}.predictor.json"
    return shipped if str(name) == Path(name).name and not Path(name).exists() and shipped.exists() else None


def load_predictor(path: str | Path, space: Space | None = None) -> Predictor:
    """Read a predictor and check it against its space.

    Args:
        space: that the predictor is used for; the space that the file carries when None.

    Raises:
        PredictorError: unreadable, of another schema, of another space, or with faults; all of them in one message.
    """
    path = reference_predictor(path) or Path(path)
    return predictor_from_record(PredictorRecord.load(path, error=PredictorError, remedy=_REMEDY), str(path), space)


def predictor_from_record(record: PredictorRecord, source: str, space: Space | None = None) -> Predictor:
    """As `load_predictor`; `source` names the record in messages."""
    if space is None:
        space = _own_space(source, record)
    if record.space_sha256 != space.sha256:
        raise PredictorError(
            f"{source} was fitted for space {record.space!r} (sha256 {record.space_sha256[:12]}...), not for "
            f"{space.name!r} ({space.sha256[:12]}...)",
            hint="name the space that it was fitted for, or fit one for this space: "
            "`lightnas-edge fit --space SPACE --lut FILE --samples FILE`",
        )
    faults: list[str] = []
    if record.metric not in UNITS:
        faults.append(f"metric: expected one of {', '.join(UNITS)}, found {record.metric!r}")
    elif record.unit != UNITS[record.metric]:
        faults.append(f"unit: expected {UNITS[record.metric]!r} for {record.metric}, found {record.unit!r}")
    origin = Origin(record.fingerprint, record.simulated, record.batch, record.metric, record.fit)
    predictor: Predictor | None
    if isinstance(record.parameters, AdditiveParameters):
        predictor = _additive(faults, record.parameters, space, origin)
    else:
        predictor = _mlp(faults, record.parameters, space, origin)
    if faults or predictor is None:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise PredictorError(f"{source} holds {len(faults)} error{'s' * (len(faults) != 1)}:\n{listed}", hint=_REMEDY)
    return predictor


def _own_space(source: str, record: PredictorRecord) -> Space:
    try:
        return Space.from_json(record.space_definition, source=f"{source}, its space_definition")
    except SpaceError as error:
        raise PredictorError(
            f"{source} does not carry its search space: {error}",
            hint=f"name the space that it was fitted for with `--space`, or {_REMEDY}",
        ) from error


def _additive(
    faults: list[str], parameters: AdditiveParameters, space: Space, origin: Origin
) -> AdditivePredictor | None:
    terms = Terms.of(space)
    costs = parameters.cost
    missing = [key for key in terms.keys if key not in costs]
    if missing:
        faults.append(f"parameters.cost: {len(missing)} of {len(terms.keys)} are missing, first {missing[0]}")
    unknown = [key for key in costs if key not in terms.keys]
    if unknown:
        faults.append(f"parameters.cost: {len(unknown)} are no operators of the space, first {unknown[0]!r}")
    applicability = _applicability(faults, parameters.applicability_domain, space)
    width = len(terms.keys) + 1
    lower, expected = parameters.covariance_lower, width * (width + 1) // 2
    if len(lower) != expected:
        faults.append(f"parameters.covariance_lower: expected {expected} numbers, found {len(lower)}")
        return None
    covariance = np.zeros((width, width))
    covariance[np.tril_indices(width)] = lower
    covariance = covariance + np.tril(covariance, -1).T
    distant = None
    if parameters.distant is not None:
        rows = parameters.distant.directions
        if any(len(row) != width for row in rows):
            lengths = ", ".join(map(str, sorted({len(row) for row in rows})))
            faults.append(f"parameters.distant.directions: expected rows of {width} numbers, found {lengths}")
        else:
            distant = DistantDiscrepancy(np.array(rows, dtype=np.float64).T, parameters.distant.step_std)
    if np.linalg.eigvalsh(covariance)[0] < -1e-9 * max(float(np.trace(covariance)), 1e-300):
        faults.append("parameters.covariance_lower: not a covariance, an eigenvalue is negative")
    if faults:
        return None
    mean = np.array([parameters.constant, *(costs[key] for key in terms.keys)], dtype=np.float64)
    return AdditivePredictor(
        space, origin, mean, covariance, parameters.noise, discrepancy=parameters.discrepancy,
        distant=distant, applicability=applicability, terms=terms,
    )  # fmt: skip


def _mlp(faults: list[str], parameters: MlpParameters, space: Space, origin: Origin) -> MlpPredictor | None:
    applicability = _applicability(faults, parameters.applicability_domain, space)
    layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    largest = np.ones(len(space.layers) * len(space.operators))  # bounds of the outputs of each layer
    for index, layer in enumerate(parameters.layers):
        where = f"parameters.layers[{index}]"
        try:
            weight, bias = decode(layer.weight), decode(layer.bias)
        except ValueError as error:
            faults.append(f"{where}: {error}")
            return None
        if weight.ndim != 2 or weight.shape[1] != len(largest) or bias.shape != weight.shape[:1]:
            faults.append(f"{where}: expected {len(largest)} inputs, found weight {weight.shape} and bias {bias.shape}")
            return None
        largest = largest_outputs(largest, weight, bias)
        if largest.max() > LARGEST_OUTPUT:
            faults.append(f"{where}: its weights are too large, predictions would overflow")
            return None
        layers.append((weight, bias))
    if len(largest) != 1:
        faults.append(f"parameters.layers: expected one output, found {len(largest)}")
    if faults:
        return None
    return MlpPredictor(
        space, origin, layers, parameters.value_mean, parameters.value_std, parameters.residual,
        applicability=applicability,
    )  # fmt: skip


def _applicability(faults: list[str], record: ApplicabilityDomainRecord, space: Space) -> ApplicabilityDomain:
    try:
        return ApplicabilityDomain.from_record(record, (len(space.layers), len(space.operators)))
    except ValueError as error:
        faults.append(f"parameters.applicability_domain.{error}")
        return UNKNOWN
