"""A predictor from tables of measurements, as `lightnas-edge fit` makes it: fitted, scored, and written with its origin."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import luts
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.base import Predictor
from lightnas_edge.predictor.compare import MethodComparison, fit_best, learning_curve
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.space import Space


@dataclass(frozen=True)
class FittedPredictor:
    """A predictor, and what it was fitted to."""

    predictor: Predictor
    observations: Observations | None  # None without measured networks
    comparison: MethodComparison


def fit_tables(
    space: Space,
    lut: luts.Lut | None,
    samples: Sequence[luts.Lut] = (),
    *,
    metric: str = "latency_ms",
    prior: AdditivePredictor | None = None,
    prior_file: str | None = None,
    method: str | None = None,
    baseline: bool = False,
    curve: bool = False,
    seed: int = 0,
    out: Path | None = None,
) -> FittedPredictor:
    """Fit every method that the tables allow, and keep the best by cross-validation.

    Args:
        lut: operators; None: the measured networks alone.
        samples: measured whole networks.
        prior: the predictor of another board, to transfer; `prior_file` is its name for the record.
        method: this one instead of the best; a name of `MethodScore`.
        baseline: score scikit-learn's gradient boosting too.
        curve: record a learning curve.
        seed: of the folds and the MLP.
        out: the file to write; it names the table relative to its own folder, so that a search can copy it.

    Raises:
        PredictorError: nothing to fit to, or the tables do not fit the space or each other.
        LutMissError: the table lacks operators.
    """
    observed = load_observations(space, samples, lut, metric=metric) if samples else None
    changes: dict[str, Any] = {}
    if curve and observed is not None:
        changes["curve"] = tuple(learning_curve(space, lut, observed, prior=prior, seed=seed))
    predictor, comparison = fit_best(
        space, lut, observed or (), seed=seed, method=method, baseline=baseline, metric=metric, prior=prior
    )
    if prior_file is not None and predictor.fit.prior is not None:
        changes["prior"] = predictor.fit.prior.model_copy(update={"file": prior_file})
    if lut is not None and out is not None:
        changes["lut"] = os.path.relpath(lut.path, out.parent)
    predictor.origin = replace(predictor.origin, fit=predictor.fit.changed(**changes))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        predictor.save(out)
    return FittedPredictor(predictor, observed, comparison)
