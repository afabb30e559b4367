"""The costs of another board, power mode or batch size as a prior for this one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.observations import Observations
from lightnas_edge.predictor.priors import Part, Prior, physical_prior
from lightnas_edge.predictor.terms import Terms


def transfer_prior(terms: Terms, other: AdditivePredictor, observations: Observations) -> Prior:
    """The costs of another board at this one's speed; the networks decide how the boards differ beyond that."""
    ratio = speed_ratio(other, observations)
    costs = ratio * other.mean
    typical = ratio * float(other.mean[0] + terms.spread_out(other.mean).mean(axis=1).sum())
    physical = physical_prior(terms, typical)
    roots, vectors = np.linalg.eigh(other.covariance)
    uncertain = ratio * vectors * np.sqrt(np.maximum(roots, 0.0))
    deviations = np.diag(np.abs(costs))
    deviations[0, 0] = 0.0
    known = {
        "scale_factor": (costs[:, None], 0.1, 2.0),
        "deviation": (deviations, 0.05, 3.0),
        "transferred": (uncertain, 1.0, 1.2),
    }
    parts = {name: replace(part, prior_scale=0.3 * part.prior_scale) for name, part in physical.parts.items()}
    parts |= {
        name: Part(column, np.zeros_like(column), prior_scale, factor)
        for name, (column, prior_scale, factor) in known.items()
    }
    return Prior("another board's predictor", costs, parts, 0.005 * typical, 5.0)


def speed_ratio(other: AdditivePredictor, observations: Observations) -> float:
    """Median cost of the networks here over their predicted cost on the other board.

    Raises:
        PredictorError: it is not a positive number.
    """
    # Of the costs themselves, without the limit that predictions have: they are what is scaled.
    predicted = other.terms.counts(observations.indices) @ other.mean
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.median(observations.value / predicted))
    if not 0 < ratio < math.inf:
        raise PredictorError(
            f"the prior predicts {np.median(predicted):.4g} {other.unit} for networks that measure "
            f"{np.median(observations.value):.4g} {other.unit}: no scale factor relates them",
            hint="use a predictor of the same metric with positive predictions",
        )
    return ratio
