"""Predictor files: read with every fault in one message; nothing is unpickled."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from lightnas_edge.errors import PredictorError, SpaceError
from lightnas_edge.predictor.additive import AdditivePredictor, Terms
from lightnas_edge.predictor.applicability import ApplicabilityDomain
from lightnas_edge.predictor.base import SCHEMA, Origin, Predictor
from lightnas_edge.predictor.metrics import UNITS
from lightnas_edge.predictor.mlp import MlpPredictor, decode
from lightnas_edge.space import Space


def reference_predictor(name: str | Path) -> Path | None:
    """A predictor that comes with the project, by its name; a file of the user's with the same name goes first."""
    import luts

    shipped = Path(luts.__file__).parent / "reference" / f"{Path(name).name}.predictor.json"
    return shipped if str(name) == Path(name).name and not Path(name).exists() and shipped.exists() else None


def load_predictor(path: str | Path, space: Space | None = None) -> Predictor:
    """Read a predictor and hold it against the space it is to serve; without one, against the space it carries.

    Raises:
        PredictorError: unreadable, newer, of another space, or with faults; all of them in one message.
    """
    path = reference_predictor(path) or Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PredictorError(f"cannot read the predictor {path}: {error}") from error
    except json.JSONDecodeError as error:
        raise PredictorError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(record, dict) or record.get("kind") != "predictor":
        found = record.get("kind") if isinstance(record, dict) else type(record).__name__
        raise PredictorError(
            f"{path} is not a predictor: kind is {found!r}", hint="predictors are written by `lightnas-edge fit`"
        )
    schema = record.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise PredictorError(
            f"{path}: schema {schema} is newer than this program, which reads up to {SCHEMA}",
            hint="upgrade lightnas-edge",
        )
    if space is None:
        space = _own_space(path, record)
    if record.get("space_sha256") != space.sha256:
        raise PredictorError(
            f"{path} was fitted for space {record.get('space')!r} "
            f"(sha256 {str(record.get('space_sha256'))[:12]}...), not for {space.name!r} ({space.sha256[:12]}...)",
            hint="give the space it was fitted for, or fit one for this space: lightnas-edge fit",
        )
    faults: list[str] = []
    _expect(faults, record, "schema", schema == SCHEMA, f"{SCHEMA}")
    metric = record.get("metric")
    known = isinstance(metric, str) and metric in UNITS
    _expect(faults, record, "metric", known, f"one of {', '.join(UNITS)}")
    _expect(faults, record, "unit", not known or record.get("unit") == UNITS[str(metric)], f"the unit of {metric}")
    batch = record.get("batch")
    _expect(faults, record, "batch", isinstance(batch, int) and batch >= 1, "a whole number of at least 1")
    _expect(faults, record, "fingerprint", isinstance(record.get("fingerprint"), dict), "a table of fields")
    _expect(faults, record, "simulated", isinstance(record.get("simulated"), bool), "true or false")
    _expect(faults, record, "type", record.get("type") in ("additive", "mlp"), "'additive' or 'mlp'")
    parameters = record.get("parameters")
    _expect(faults, record, "parameters", isinstance(parameters, dict), "a table of fields")
    predictor: Predictor | None = None
    fit = record.get("fit")
    origin = Origin(
        record.get("fingerprint") or {},
        bool(record.get("simulated")),
        batch if isinstance(batch, int) else 1,
        metric=str(metric),
        fit=fit if isinstance(fit, dict) else {},
    )
    if isinstance(parameters, dict):
        if record.get("type") == "additive":
            predictor = _additive(faults, parameters, space, origin)
        elif record.get("type") == "mlp":
            predictor = _mlp(faults, parameters, space, origin)
    if faults or predictor is None:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise PredictorError(
            f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}\n{listed}",
            hint="fit it again: lightnas-edge fit; docs/formats.md describes the file",
        )
    return predictor


def _own_space(path: Path, record: dict[str, Any]) -> Space:
    try:
        return Space.from_json(record.get("space_definition"), source=f"{path}, its space_definition")
    except SpaceError as error:
        raise PredictorError(
            f"{path} does not carry its search space: {error}",
            hint="name the space it was fitted for with --space, or fit it again: lightnas-edge fit",
        ) from error


def _additive(faults: list[str], parameters: dict[str, Any], space: Space, origin: Origin) -> AdditivePredictor | None:
    before = len(faults)
    terms = Terms.of(space)
    _number(faults, parameters, "constant")
    _number(faults, parameters, "noise", least=0.0)
    costs = parameters.get("cost")
    if not isinstance(costs, dict):
        faults.append("parameters.cost: expected a number for every operator")
        costs = {}
    missing = [key for key in terms.keys if key not in costs]
    if missing:
        faults.append(f"parameters.cost: {len(missing)} of {len(terms.keys)} are missing, first {missing[0]}")
    faults += [f"parameters.cost: {key} is no operator of the space" for key in costs if key not in terms.keys]
    faults += [
        f"parameters.cost.{key}: expected a finite number, found {cost!r}"
        for key, cost in costs.items()
        if not _finite(cost)
    ]
    if "misfit" in parameters:
        _number(faults, parameters, "misfit", least=0.0)
    support = _support(faults, parameters, space)
    width = len(terms.keys) + 1
    lower = parameters.get("covariance_lower")
    expected = width * (width + 1) // 2
    if not isinstance(lower, list) or len(lower) != expected or not all(_finite(value) for value in lower):
        found = f"{len(lower)} values" if isinstance(lower, list) else type(lower).__name__
        faults.append(f"parameters.covariance_lower: expected {expected} finite numbers, found {found}")
    if len(faults) > before or lower is None:
        return None
    covariance = np.zeros((width, width))
    covariance[np.tril_indices(width)] = lower
    covariance = covariance + np.tril(covariance, -1).T
    if np.linalg.eigvalsh(covariance)[0] < -1e-9 * max(float(np.trace(covariance)), 1e-300):
        faults.append("parameters.covariance_lower: not a covariance, an eigenvalue is negative")
        return None
    mean = np.array([parameters["constant"], *(costs[key] for key in terms.keys)], dtype=np.float64)
    noise, misfit = float(parameters["noise"]), parameters.get("misfit")
    return AdditivePredictor(
        space, origin, mean, covariance, noise, misfit=None if misfit is None else float(misfit), support=support
    )


def _support(faults: list[str], parameters: dict[str, Any], space: Space) -> ApplicabilityDomain | None:
    if parameters.get("support") is None:
        return None
    try:
        return ApplicabilityDomain.from_json(parameters["support"], (len(space.layers), len(space.operators)))
    except ValueError as error:
        faults.append(f"parameters.applicability: {error}")
        return None


def _mlp(faults: list[str], parameters: dict[str, Any], space: Space, origin: Origin) -> MlpPredictor | None:
    before = len(faults)
    for name, least in (("mean", None), ("scale", 0.0), ("residual", 0.0)):
        _number(faults, parameters, name, least=least)
    support = _support(faults, parameters, space)
    rows = parameters.get("layers")
    if not isinstance(rows, list) or not rows:
        faults.append("parameters.layers: expected a list with at least one layer")
        rows = []
    layers = []
    width = len(space.layers) * len(space.operators)
    for index, row in enumerate(rows):
        where = f"parameters.layers[{index}]"
        try:
            weight, bias = decode(row["weight"]), decode(row["bias"])
        except (ValueError, KeyError, TypeError) as error:
            faults.append(f"{where}: {error}")
            break
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            faults.append(f"{where}: expected {width} inputs, found weight {weight.shape} and bias {bias.shape}")
            break
        width = weight.shape[0]
        layers.append((weight, bias))
    if len(faults) == before and width != 1:
        faults.append(f"parameters.layers: expected one output, found {width}")
    if len(faults) > before:
        return None
    numbers = (float(parameters[name]) for name in ("mean", "scale", "residual"))
    return MlpPredictor(space, origin, layers, *numbers, support=support)


def _expect(faults: list[str], record: dict[str, Any], name: str, good: bool, expected: str) -> None:
    if not good:
        found = f"found {record[name]!r}" if name in record else "it is missing"
        faults.append(f"{name}: expected {expected}, {found}")


def _number(faults: list[str], parameters: dict[str, Any], name: str, *, least: float | None = None) -> None:
    value = parameters.get(name)
    if not isinstance(value, (int, float)) or not _finite(value) or (least is not None and value < least):
        floor = "" if least is None else f" of at least {least:g}"
        faults.append(f"parameters.{name}: expected a finite number{floor}, found {value!r}")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
