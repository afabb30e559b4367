"""Several boards in one command: what `profile`, `sample` and others share. docs/fleet.md"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import devices
import luts
from devices import AuthenticationError, BoardUnreachableError, Connection, HostKeyError
from lightnas_edge.cli._console import (
    UsageError,
    info,
    percent,
    print_result,
    print_table,
    progress,
    warn,
)
from lightnas_edge.cli._measuring import measure_with_progress
from lightnas_edge.cli._several import for_each_of
from lightnas_edge.errors import FleetError
from lightnas_edge.fleet import FleetProgress, FleetResult, Unit, UnitOutcome, chosen_hosts, measure_fleet, units_of
from lightnas_edge.fleet.campaign import LOST, file_name
from lightnas_edge.measuring import Job
from lightnas_edge.records.board import ProbeResult

Result = TypeVar("Result")


def add_fleet(parser: argparse.ArgumentParser) -> None:
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--per-unit", action="store_true",
        help="with several hosts: every unit measures everything, into a table of its own",
    )  # fmt: skip
    add_pooling(either)


def add_pooling(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--pool", action="store_true", help="with several hosts: one table, also of units that differ")


@dataclass(frozen=True)
class Fleet:
    """The boards of one command. Those that could not be reached are among the units, with the reason."""

    units: tuple[Unit, ...]

    @property
    def connection(self) -> Connection:
        """Of the first board that answers."""
        return next(unit.connection for unit in self.units if unit.connection is not None)

    @property
    def answering(self) -> int:
        """How many boards could be reached."""
        return sum(unit.connection is not None for unit in self.units)


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


def boards_sharing(boards: Fleet | Connection | None, *, each: bool = False) -> int:
    """How many share the work. `each`: every board does all of it."""
    return boards.answering if isinstance(boards, Fleet) and not each else 1


def require_one_host(arguments: argparse.Namespace, what: str, *, hint: str) -> None:
    """Before any board is asked. Raises UsageError: --host names several boards."""
    if len(chosen_hosts(arguments.host)) > 1:
        raise UsageError(f"{what}: with one host only", hint=hint)


def open_fleet(arguments: argparse.Namespace, *, backend: str | None = None, sets_state: bool = False) -> Fleet | None:
    """The boards that --host names; None where it names one, which `arguments.host` holds then.

    Args:
        backend: that measures; the board's default when None.
        sets_state: the command sets power mode or clocks, so that those of now do not count.

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
        arguments.host = hosts[0]
        return None
    units = [_connected(host) for host in hosts]

    def probe(unit: Unit) -> ProbeResult | None:
        try:
            return None if unit.connection is None else devices.probe(unit.connection, backend)
        except (HostKeyError, AuthenticationError):
            raise
        except LOST as error:
            unit.connection, unit.lost = None, error
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
        if unit.lost is not None:
            warn(indented(f"{unit.host}: {unit.lost}", unit.lost.hint))
    if not alive:
        raise FleetError("none of the boards answers", hint="`lightnas-edge probe --host HOST` says more about each")
    identities = units_of(alive, sets_state=sets_state)
    for unit in units:
        if unit.connection is not None:
            unit.unit = identities[unit.connection.name]
    return Fleet(tuple(units))


def measure_somewhere(
    arguments: argparse.Namespace,
    boards: Fleet | Connection,
    write: Callable[[Path, Callable[[int, int], None]], Job],
    table: Path,
    *,
    title: str,
    fresh: bool,
    sudo_password: str | None,
    announce: Callable[[Job], None],
) -> tuple[Job, luts.Lut]:
    """Measure into one table: on one board, or on all of a fleet.

    Raises:
        FleetError: the units differ too much for one table.
    """
    if not isinstance(boards, Fleet):
        return measure_with_progress(
            boards, write, table, title=title, fresh=fresh, sudo_password=sudo_password, announce=announce
        )
    job, report = measure_on_fleet(
        arguments, boards, write, table, title=title, fresh=fresh, sudo_password=sudo_password, announce=announce
    )
    if report.pooled is None:
        raise FleetError("the units differ too much for one table", hint="name boards that are alike, or give --pool")
    return job, report.pooled


def measure_on_fleet(
    arguments: argparse.Namespace,
    fleet: Fleet,
    write: Callable[[Path, Callable[[int, int], None]], Job],
    table: Path,
    *,
    title: str,
    fresh: bool,
    each: bool = False,
    sudo_password: str | None = None,
    announce: Callable[[Job], None] | None = None,
) -> tuple[Job, FleetReport]:
    """Write the job and have the boards measure it; the pooled table goes to `table`, the units' next to it.

    Args:
        write: makes the job, from a folder and a callback.
        each: every unit measures everything; there is no pooled table then.
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
                fleet.units, job, folder, fresh=fresh, each=each, on_progress=tell,
                sudo_password=sudo_password,
            )  # fmt: skip
    metrics = ["latency_ms", *(["energy_mj"] if arguments.energy else [])]
    comparisons = (
        tuple(luts.compare_units(result.tables, metric) for metric in metrics) if len(result.tables) > 1 else ()
    )
    report = FleetReport(result, comparisons, None)
    _show_units(report, arguments.json)
    for outcome in result.lost:
        warn(lost_lines(outcome, finished=not result.left and not each))
    if each:
        return job, report
    apart = [found for found in comparisons if not found.alike]
    if apart and not arguments.pool:
        alone = "--per-unit completes one for each, " if "per_unit" in arguments else ""
        refuse_pooling(
            apart,
            f"the tables of the units are in {folder}; {alone}--pool makes one table of the middle unit; "
            "the command continues from what is measured",
        )
        return job, report
    return job, FleetReport(result, comparisons, luts.write_pooled(list(result.tables.values()), table))


def for_each_host(arguments: argparse.Namespace, act: Callable[[str], Result]) -> tuple[list[Result], int]:
    """The results of every host that --host names, and 0, or the highest exit code of those that failed.

    One host alone raises its own error. Of several, one that fails is named and the others follow.
    """
    return for_each_of(chosen_hosts(arguments.host), str, act)


def units_folder(table: Path) -> Path:
    """Of the journals of the units, next to the pooled table."""
    return table.with_name(table.name.removesuffix(".lut.jsonl") + ".units")


def unit_folder(folder: Path, host: str) -> Path:
    """Of one unit's verification."""
    return folder / "units" / file_name(host)


def lost_lines(outcome: UnitOutcome, *, finished: bool) -> str:
    """`orin2 lost after 41 of 120, finished elsewhere`, the reason and the remedy."""
    rest = "finished elsewhere" if finished else "not finished"
    after = f"lost after {outcome.measured} of {outcome.assigned}" if outcome.assigned else "took no part"
    return indented(f"{outcome.host} {after}, {rest}", f"{outcome.lost}\n{outcome.remedy}")


def indented(line: str, rest: str) -> str:
    """A line, and what follows it, moved to the right."""
    return "\n".join([line, *(f"  {each}" for each in rest.splitlines())])


def _connected(host: str) -> Unit:
    try:
        return Unit(host, devices.connect(host))
    except (HostKeyError, AuthenticationError):
        raise
    except BoardUnreachableError as error:
        return Unit(host, None, lost=error)


def show_ratios(found: luts.UnitComparison) -> None:
    """How much each unit differs from the middle one, by one metric."""
    if not found.keys:
        print_result(_about(found))
        return
    print_table(
        ["unit", f"{_title(found)} ratio (95 % interval)"], [[ratio.name, _ratio(ratio)] for ratio in found.ratios]
    )
    print_result(_about(found))


def _show_units(report: FleetReport, as_json: bool) -> None:
    if as_json:
        return
    rows = []
    for outcome in report.result.outcomes:
        row = [outcome.host, outcome.unit or "unknown", str(outcome.measured), str(outcome.packets)]
        for found in report.comparisons:
            ratio = next((each for each in found.ratios if each.name == outcome.host), None)
            row.append("" if ratio is None or not found.keys else _ratio(ratio))
        rows.append(row)
    columns = [f"{_title(found)} ratio (95 % interval)" for found in report.comparisons]
    print_table(["board", "unit", "visits", "packets", *columns], rows)
    for found in report.comparisons:
        print_result(_about(found))


def _about(found: luts.UnitComparison) -> str:
    if not found.keys:
        return f"{_title(found)}: too few operators were measured on several units, so how much they differ is unknown"
    return (
        f"{_title(found)}: {len(found.keys)} operators measured on two units or more; a unit differs above "
        f"{percent(found.tolerance, 1)}; scatter between operators {percent(found.scatter, 2)}"
    )


def _title(found: luts.UnitComparison) -> str:
    return {"latency_ms": "latency", "energy_mj": "energy"}.get(found.metric, found.metric)


def _ratio(ratio: luts.UnitRatio) -> str:
    low, high = ratio.interval
    return f"{ratio.value:.4f} ({low:.4f} to {high:.4f}){' differs' if ratio.differs else ''}"


def refuse_pooling(apart: Sequence[luts.UnitComparison], remedy: str) -> None:
    """Say why tables of these units are not pooled."""
    reasons = []
    for found in apart:
        differing = [ratio.name for ratio in found.ratios if ratio.differs]
        if not found.keys:
            reasons.append(f"{_title(found)}: unknown, too few operators were measured on several units")
        elif differing:
            reasons.append(f"{_title(found)}: {', '.join(differing)} by more than {percent(found.tolerance, 1)}")
        else:
            reasons.append(
                f"{_title(found)}: operators scatter by {percent(found.scatter, 1)}, more than "
                f"{percent(found.scatter_tolerance, 1)}"
            )
    warn(f"not pooled: the units differ by more than a repeated measurement does ({'; '.join(reasons)})\n  {remedy}")
