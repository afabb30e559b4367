"""Several boards of one model measure one job: docs/fleet.md."""

from lightnas_edge.fleet.campaign import FleetProgress, FleetResult, Unit, UnitOutcome, measure_fleet
from lightnas_edge.fleet.hosts import chosen_hosts, units_of

__all__ = ["FleetProgress", "FleetResult", "Unit", "UnitOutcome", "chosen_hosts", "measure_fleet", "units_of"]
