"""The look-up table: reading and checking journals, the estimator, comparing tables."""
# Part of lightnas-edge.

from lightnas_edge.records.journal import checksum
from lightnas_edge.records.lut import Visit
from luts.compare import (
    Ratio,
    Repeatability,
    drift_ratio,
    merge,
    repeatability,
    require_same_board,
)
from luts.energy import Energy
from luts.errors import LutError, LutFormatError, LutMissError
from luts.journal import MOST_ROUNDS, Fault
from luts.metrics import HOW_TO_MEASURE, LATENCY_METRICS, METRICS, NETWORK_METRICS, Quantity
from luts.remedies import measuring_options, table_options
from luts.statistics import needed_inferences
from luts.table import UNSTABLE_SPREAD, Coverage, Entry, GrowingTable, Lut, counted, read
from luts.units import UnitComparison, UnitRatio, compare_units, linked_tables, write_pooled

__all__ = [
    "HOW_TO_MEASURE",
    "LATENCY_METRICS",
    "METRICS",
    "MOST_ROUNDS",
    "NETWORK_METRICS",
    "UNSTABLE_SPREAD",
    "Coverage",
    "Energy",
    "Entry",
    "Fault",
    "GrowingTable",
    "Lut",
    "LutError",
    "LutFormatError",
    "LutMissError",
    "Quantity",
    "Ratio",
    "Repeatability",
    "UnitComparison",
    "UnitRatio",
    "Visit",
    "checksum",
    "compare_units",
    "counted",
    "drift_ratio",
    "linked_tables",
    "measuring_options",
    "merge",
    "needed_inferences",
    "read",
    "repeatability",
    "require_same_board",
    "table_options",
    "write_pooled",
]
