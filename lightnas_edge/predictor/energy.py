"""The energy of a network, stated next to its latency wherever a table or a predictor knows it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.base import Predictor
from lightnas_edge.predictor.fit import fit_additive
from lightnas_edge.records.base import Fingerprint
from lightnas_edge.records.differences import fingerprint_differences
from lightnas_edge.records.run import PredictedEnergy
from lightnas_edge.space import Architecture, Space

ENERGY = "energy_mj"
CONFIDENCE = 0.9  # of the intervals
_log = logging.getLogger(__name__)


def fit_energy(space: Space, lut: luts.Lut, samples: Sequence[luts.Lut]) -> Predictor | None:
    """From a table, and the networks of `samples` that have an energy. None where the table lacks it for an operator of the space."""
    known = [each for each in samples if any(network.energy_mj is not None for network in each.networks.values())]
    try:
        return fit_additive(space, lut, known, metric=ENERGY)
    except (luts.LutMissError, PredictorError) as error:
        _log.debug("the energy of networks is not available: %s", error)
        return None


def table_energy(space: Space, path: Path, fingerprint: Fingerprint) -> Predictor | None:
    """From the table that another predictor was fitted to. None where the file is damaged, or now of another board or state."""
    try:
        lut = luts.read(path)
    except luts.LutError as error:
        _log.debug("the energy of networks is not available: %s", error)
        return None
    return None if fingerprint_differences(lut.fingerprint, fingerprint) else fit_energy(space, lut, [lut])


def table_of(predictor: Predictor, path: Path) -> Path | None:
    """The table that a predictor was fitted to, where the file still exists."""
    if predictor.fit.lut is None:
        return None
    table = path.parent / predictor.fit.lut
    return table if table.is_file() else None


def predict_energy(predictor: Predictor, architecture: Architecture) -> PredictedEnergy | None:
    """Of one network; None where the predictor gives no finite number.

    Args:
        predictor: of `energy_mj`.
    """
    one_hot = architecture.one_hot(predictor.space)[None]
    low, high = predictor.interval(one_hot, CONFIDENCE)
    energy_mj, interval_mj = float(predictor.predict(one_hot)[0]), (float(low[0]), float(high[0]))
    if not all(map(math.isfinite, (energy_mj, *interval_mj))):
        return None
    return PredictedEnergy(
        energy_mj=energy_mj,
        interval_mj=interval_mj,
        confidence=CONFIDENCE,
        batch=predictor.batch,
        extrapolated=bool(predictor.extrapolated(one_hot)[0]),
        simulated=predictor.simulated,
    )
