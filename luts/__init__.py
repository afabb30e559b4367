"""The look-up table: reading and checking journals, the estimator, comparing tables."""

from luts.compare import (
    Ratio,
    Repeatability,
    differing_fields,
    drift_ratio,
    merge,
    repeatability,
    require_equal_fingerprints,
)
from luts.energy import Energy
from luts.errors import LutError, LutFingerprintError, LutFormatError, LutMissError
from luts.journal import Fault, Visit, checksum
from luts.metrics import HOW_TO_MEASURE, METRICS, Quantity
from luts.table import UNSTABLE_SPREAD, Coverage, Entry, Lut, read

__all__ = [
    "HOW_TO_MEASURE",
    "METRICS",
    "UNSTABLE_SPREAD",
    "Coverage",
    "Energy",
    "Entry",
    "Fault",
    "Lut",
    "LutError",
    "LutFingerprintError",
    "LutFormatError",
    "LutMissError",
    "Quantity",
    "Ratio",
    "Repeatability",
    "Visit",
    "checksum",
    "differing_fields",
    "drift_ratio",
    "merge",
    "read",
    "repeatability",
    "require_equal_fingerprints",
]
