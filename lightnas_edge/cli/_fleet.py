"""Several boards in one command: what `profile`, `sample` and others share. docs/fleet.md"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import devices
import luts
from devices import AuthenticationError, BoardUnreachableError, Connection, HostKeyError
from lightnas_edge.cli._console import UsageError, info, percent, print_result, print_table, progress, warn
from lightnas_edge.errors import FleetError
from lightnas_edge.fleet import FleetProgress, FleetResult, Unit, UnitOutcome, chosen_hosts, measure_fleet, units_of
from lightnas_edge.fleet.campaign import LOST
from lightnas_edge.measuring import Job
from lightnas_edge.records.board import ProbeResult


def add_fleet(parser: argparse._ActionsContainer) -> None:
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--per-unit", action="store_true",
        help="with several hosts: every unit measures everything, into a table of its own",
    )  # fmt: skip
    either.add_argument("--pool", action="store_true", help="with several hosts: one table, also of units that differ")


@dataclass(frozen=True)
class Fleet:
    """The boards of one command. Those that could not be reached are among the units, with the reason."""

    units: tuple[Unit, ...]

    @property
    def connection(self) -> Connection:
        """Of the first board that answers."""
        return next(unit.connection for unit in self.units if unit.connection is not None)


@dataclass(frozen=True)
class FleetReport:
    """What several boards measured. `pooled`: one table of all; None with --per-unit, and where units differ."""

    result: FleetResult
    comparisons: tuple[luts.UnitComparison, ...]
    pooled: luts.Lut | None

    def to_json(self) -> list[dict[str, Any]]:
        """One entry for each unit, in the order of the hosts."""
        return [
            {
                **asdict(outcome), "table": str(outcome.table),
                "ratios": {
                    found.metric: {"value": ratio.value, "interval": list(ratio.interval), "differs": ratio.differs}
                    for found in self.comparisons for ratio in found.ratios
                    if ratio.name == outcome.host and math.isfinite(ratio.value)
                },
            }
            for outcome in self.result.outcomes
        ]  # fmt: skip


def open_fleet(arguments: argparse.Namespace, *, sets_state: bool = False) -> Fleet | None:
    """The boards that --host names; None where it names one, which `arguments.host` holds then.

    Raises:
        UsageError: an option for several hosts, and one host.
        FleetError: no board answers, or they cannot share a job.
        HostKeyError, AuthenticationError, InventoryError: of any of them.
    """
    hosts = chosen_hosts(arguments.host)
    if len(hosts) < 2:
        given = [name for name in ("per_unit", "pool") if getattr(arguments, name, False)]
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} needs several hosts: --host orin1,orin2")
        arguments.host = hosts[0] if hosts else arguments.host
        return None
    units = [_connected(host) for host in hosts]
    backend = getattr(arguments, "backend", None)

    def probe(unit: Unit) -> ProbeResult | None:
        try:
            return None if unit.connection is None else devices.probe(unit.connection, backend)
        except LOST as error:
            unit.connection, unit.lost = None, str(error)
            return None

    info(f"{len(hosts)} boards: {', '.join(hosts)}")
    with ThreadPoolExecutor(max_workers=len(units)) as pool:
        probed = list(pool.map(probe, units))
    alive = [
        (unit.connection, found)
        for unit, found in zip(units, probed, strict=True)
        if found is not None and unit.connection is not None
    ]
    for unit in units:
        if unit.lost:
            warn(f"{unit.host}: {unit.lost}")
    if not alive:
        raise FleetError("none of the boards answers", hint="`lightnas-edge probe --host HOST` says more about each")
    identities = units_of(alive, sets_state=sets_state)
    for unit in units:
        if unit.connection is not None:
            unit.unit = identities[unit.connection.name]
    return Fleet(tuple(units))


def measure_on_fleet(
    arguments: argparse.Namespace,
    fleet: Fleet,
    write: Callable[[Path, Callable[[int, int], None]], Job],
    table: Path,
    *,
    title: str,
    sudo_password: str | None = None,
    announce: Callable[[Job], None] | None = None,
) -> tuple[Job, FleetReport]:
    """Write the job and have the boards measure it; the pooled table goes to `table`, the units' next to it.

    Args:
        write: makes the job, from a folder and a callback.
        announce: called between writing and measuring.
    """
    folder = units_folder(table)
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as scratch:
        with progress("preparing models") as bar:
            job = write(Path(scratch), lambda done, total: bar(done, total))
        if announce is not None:
            announce(job)
        with progress(title) as bar:

            def tell(found: FleetProgress) -> None:
                bar(found.done, max(found.total, 1), "; ".join(f"{host} {text}" for host, text in found.texts.items()))

            result = measure_fleet(
                fleet.units, job, folder, fresh=arguments.fresh, each=arguments.per_unit, on_progress=tell,
                sudo_password=sudo_password,
            )  # fmt: skip
    metrics = ["latency_ms", *(["energy_mj"] if arguments.energy else [])]
    comparisons = (
        tuple(luts.compare_units(result.tables, metric) for metric in metrics) if len(result.tables) > 1 else ()
    )
    report = FleetReport(result, comparisons, None)
    _show_units(report, arguments.json)
    for outcome in result.lost:
        warn(lost_line(outcome, finished=not result.left and not arguments.per_unit))
    if arguments.per_unit:
        return job, report
    apart = [found for found in comparisons if not found.alike]
    if apart and not arguments.pool:
        _refuse_pooling(apart, folder)
        return job, report
    if table.exists():
        table.replace(table.with_name(table.name + ".old"))
    return job, FleetReport(result, comparisons, luts.write_pooled(list(result.tables.values()), table))


def units_folder(table: Path) -> Path:
    """Of the journals of the units, next to the pooled table."""
    return table.with_name(table.name.removesuffix(".lut.jsonl") + ".units")


def lost_line(outcome: UnitOutcome, *, finished: bool) -> str:
    """`orin2 lost after 41 of 120, finished elsewhere`, and the reason."""
    rest = "finished elsewhere" if finished else "not finished"
    return f"{outcome.host} lost after {outcome.measured} of {outcome.assigned}, {rest}\n  {outcome.lost}"


def _connected(host: str) -> Unit:
    try:
        return Unit(host, devices.connect(host))
    except (HostKeyError, AuthenticationError):
        raise
    except BoardUnreachableError as error:
        return Unit(host, None, lost=str(error))


def _show_units(report: FleetReport, as_json: bool) -> None:
    if as_json:
        return
    rows = []
    for outcome in report.result.outcomes:
        row = [outcome.host, outcome.unit or "unknown", str(outcome.measured), str(outcome.packets)]
        for found in report.comparisons:
            ratio = next((each for each in found.ratios if each.name == outcome.host), None)
            row.append("" if ratio is None or not math.isfinite(ratio.value) else _ratio(ratio))
        rows.append(row)
    columns = [f"{luts_name(found.metric)} ratio (95 % interval)" for found in report.comparisons]
    print_table(["board", "unit", "visits", "packets", *columns], rows)
    for found in report.comparisons:
        print_result(
            f"{luts_name(found.metric)}: {len(found.keys)} operators measured on every unit; a unit differs above "
            f"{percent(found.tolerance, 1)}; scatter between operators {percent(found.scatter, 2)}"
            if found.keys
            else f"{luts_name(found.metric)}: the units share no operator, so how much they differ is unknown"
        )


def luts_name(metric: str) -> str:
    return {"latency_ms": "latency", "energy_mj": "energy"}.get(metric, metric)


def _ratio(ratio: luts.UnitRatio) -> str:
    low, high = ratio.interval
    return f"{ratio.value:.4f} ({low:.4f} to {high:.4f}){' differs' if ratio.differs else ''}"


def _refuse_pooling(apart: Sequence[luts.UnitComparison], folder: Path) -> None:
    reasons = []
    for found in apart:
        differing = [ratio.name for ratio in found.ratios if ratio.differs]
        if not found.keys:
            reasons.append(f"{luts_name(found.metric)}: unknown")
        elif differing:
            reasons.append(
                f"{luts_name(found.metric)}: {', '.join(differing)} by more than {percent(found.tolerance, 1)}"
            )
        else:
            reasons.append(
                f"{luts_name(found.metric)}: operators scatter by {percent(found.scatter, 1)}, "
                f"more than {percent(found.scatter_tolerance, 1)}"
            )
    warn(
        f"not pooled: the units differ by more than a repeated measurement does ({'; '.join(reasons)})\n"
        f"  the tables of the units are in {folder}; --per-unit completes one for each, --pool makes one table of the middle "
        "unit; both continue from what is measured"
    )
