"""`lightnas-edge fit`: a predictor, and how far it can be trusted."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luts
from lightnas_edge.cli._console import (
    UsageError,
    duration,
    info,
    percent,
    print_json,
    print_result,
    print_table,
    progress,
    warn,
)
from lightnas_edge.cli._frontier import frontier_of
from lightnas_edge.cli._options import add_classes, add_json, add_space, chosen_space, read_prior, whole
from lightnas_edge.measuring.board_time import board_time
from lightnas_edge.measuring.commands import sample_command
from lightnas_edge.records.predictor import COMPONENTS
from lightnas_edge.space import Space

if TYPE_CHECKING:
    from lightnas_edge.predictor import Predictor
    from lightnas_edge.records.plans import MeasuringPlans
    from lightnas_edge.records.predictor import CurvePoint, ResidualDecomposition

METHODS = {
    "lut": "LUT alone",
    "calibrated": "LUT calibrated",
    "samples": "samples alone",
    "prior": "transferred",
    "mlp": "MLP",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "fit", help="a predictor from a table and measured networks",
        description="Fit predictors to a table, to measured networks or to both, score each by cross-validation, and "
        "keep the best. Compare the errors with the repeatability of the measurements, which is printed with them. The plans at "
        "the end show which further measurements pay.",
        epilog="example: lightnas-edge fit --space tiny --lut ops.lut.jsonl --samples nets.lut.jsonl --out tiny.predictor.json",
    )  # fmt: skip
    add_space(parser)
    add_classes(parser)
    parser.add_argument("--lut", type=Path, metavar="FILE", help="from `lightnas-edge profile`")
    parser.add_argument(
        "--samples", type=Path, action="append", default=[], metavar="FILE",
        help="from `lightnas-edge sample`; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--metric", choices=list(luts.METRICS), action="append", metavar="NAME",
        help=f"{', '.join(luts.METRICS)}; may be repeated, one predictor each (default: latency_ms, the median of single "
        "inferences)",
    )  # fmt: skip
    parser.add_argument(
        "--prior", type=Path, metavar="FILE",
        help="predictor of another board, power mode or batch size; transferred with --samples of this one",
    )  # fmt: skip
    parser.add_argument(
        "--curve", action="store_true", help="print a learning curve: the error against the number of networks"
    )
    parser.add_argument(
        "--method", choices=["best", *METHODS], default="best", help="default: best, by cross-validation"
    )
    parser.add_argument(
        "--compare", action="store_true", help="score scikit-learn's gradient boosting too (never chosen)"
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="of the folds and the MLP (default: 0)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="the predictor (default: SPACE.predictor.json, or SPACE.METRIC.predictor.json)",
    )  # fmt: skip
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.lut is None and not arguments.samples:
        raise UsageError("fit needs --lut, --samples or both")
    for name in ("compare", "curve", "prior"):
        if getattr(arguments, name) and not arguments.samples:
            raise UsageError(f"--{name} needs measured networks: add --samples FILE")
    metrics = list(dict.fromkeys(arguments.metric or ["latency_ms"]))
    if arguments.out and len(metrics) > 1:
        raise UsageError("--out names one file: fit one --metric at a time, or leave out --out")
    space = chosen_space(arguments)
    lut = luts.read(arguments.lut) if arguments.lut else None
    samples = [luts.read(path) for path in arguments.samples]
    for table in [*([lut] if lut else []), *samples]:
        for fault in table.faults:
            warn(f"{table.path}:{fault.line}: {fault.what}")
    records: list[dict[str, Any]] = []
    for metric in metrics:
        suffix = "" if metric == "latency_ms" else f".{metric}"
        out = arguments.out or Path(f"{space.name}{suffix}.predictor.json")
        with progress(f"fitting {metric}") as bar:
            bar(len(records), len(metrics), "predictors")
            predictor, plans = _fit(arguments, space, lut, samples, metric, out)
        frontier = frontier_of(predictor, out)
        records.append({
            "kind": "fit", "metric": metric, "predictor": str(out), "fit": predictor.fit.to_json(), "plans": plans.to_json(),
            "frontier": None if frontier is None else frontier.to_json(),
        })  # fmt: skip
        if not arguments.json:
            _print_fit(predictor, out, compare=arguments.compare)
            _print_plans(plans)
            if frontier is not None:
                print_result("\n".join(frontier.lines()))
    if not arguments.json and "energy_mj" not in metrics:
        info(_energy_line([*([lut] if lut else []), *samples]))
    if arguments.json:
        print_json(records[0] if len(records) == 1 else records)
    return 0


def _fit(
    arguments: argparse.Namespace,
    space: Space,
    lut: luts.Lut | None,
    samples: Sequence[luts.Lut],
    metric: str,
    out: Path,
) -> tuple[Predictor, MeasuringPlans]:
    from lightnas_edge.predictor.from_tables import fit_tables
    from lightnas_edge.predictor.plans import measuring_plans

    found = fit_tables(
        space, lut, samples, metric=metric, prior=read_prior(arguments.prior, space),
        prior_file=None if arguments.prior is None else arguments.prior.name, method=METHODS.get(arguments.method),
        baseline=arguments.compare, curve=arguments.curve, seed=arguments.seed, out=out,
    )  # fmt: skip
    plans = measuring_plans(
        space, lut, found.observations, found.comparison, board_time(lut, samples),
        metric=metric, seed=arguments.seed, simulated=found.predictor.simulated,
    )  # fmt: skip
    return found.predictor, plans


def _energy_line(tables: Sequence[luts.Lut]) -> str:
    """Whether joules could be predicted from the same tables."""
    if any(
        entry.energy_mj is not None for table in tables for entry in (*table.entries.values(), *table.networks.values())
    ):
        return "energy is measured in these tables: predict it with --metric energy_mj"
    return "energy: not available; the tables have latency alone"


def _print_fit(predictor: Predictor, out: Path, *, compare: bool) -> None:
    fit = predictor.fit
    if fit.comparison:
        columns = [
            f"{predictor.metric}, held-out networks", "trained on", f"RMSE {predictor.unit}", "MAPE", "bias", "within 1 %",
            "within 5 %", "within 10 %", "Kendall tau", "90 % PI coverage", "extrapolated",
        ]  # fmt: skip
        print_table(columns, [
            [
                row.method, str(row.trained_on), f"{row.scores.rmse:.3g}", percent(row.scores.mape, 2), percent(row.scores.bias, 2),
                percent(row.scores.within_1, 0), percent(row.scores.within_5, 0), percent(row.scores.within_10, 0),
                "not available" if row.scores.kendall_tau is None else f"{row.scores.kendall_tau:.3f}",
                percent(row.scores.coverage_90, 0), percent(row.scores.extrapolated, 0),
            ]
            for row in fit.comparison
        ])  # fmt: skip
        best = fit.comparison[0].scores
        print_result(f"{best.n} networks; repeatability: {percent(best.repeatability, 2)}{_relative_error(predictor)}")
    for line in fit.alignment:
        info(line)
    for reason in fit.skipped:
        info(f"not fitted: {reason}")
    if fit.residuals is not None:
        print_result(str(fit.residuals))
    info(_domain(predictor))
    simulated = "SIMULATED " if predictor.simulated else ""
    print_result(f"{simulated}predictor ({fit.chosen or fit.method}): {out}")
    if fit.residuals is not None and compare:
        _print_residuals(fit.residuals)
    _print_curve(fit.curve)


def _relative_error(predictor: Predictor) -> str:
    """The held-out error as a multiple of the repeatability; it contains the error of measuring, so 1 is the least."""
    fit = predictor.fit
    repeatability = fit.held_out.repeatability if fit.held_out else None
    errors = [point.predicted / point.measured - 1 for point in fit.points if point.measured > 0]
    if not repeatability or not errors:
        return ""
    rms = math.sqrt(sum(error**2 for error in errors) / len(errors))
    return f"; held-out error {percent(rms, 2)} (RMS), {rms / repeatability:.1f} times the repeatability of {predictor.metric}"


def _print_residuals(residuals: ResidualDecomposition) -> None:
    print_table([f"measured less the table's sum, {residuals.unit}", "mean", "", "of the sum", "lowest", "highest"], [
        *(
            [
                COMPONENTS[part.name], f"{part.mean:+.3g}", "" if part.std is None else f"± {part.std:.2g}",
                percent(part.mean / residuals.table_sum), f"{part.lowest:+.3g}", f"{part.highest:+.3g}",
            ]
            for part in residuals.components
        ),
        ["total", f"{residuals.difference:+.3g}", "", percent(residuals.difference / residuals.table_sum), "", ""],
    ])  # fmt: skip
    noise = "unknown" if residuals.repeatability is None else f"{residuals.repeatability:.2g} {residuals.unit}"
    print_result(
        f"{residuals.networks_above} networks above their sum, {residuals.networks_below} below; unexplained "
        f"{residuals.unexplained_rms:.2g} {residuals.unit} (RMS), repeatability {noise}"
    )
    largest = ", ".join(f"{key} {value:+.2g}" for key, value in residuals.operators)
    print_result(f"largest deviations from their entries: {largest}")


def _print_curve(curve: Sequence[CurvePoint]) -> None:
    methods = list(dict.fromkeys(point.method for point in curve))
    counts = list(dict.fromkeys(point.networks for point in curve))
    of = {(point.method, point.networks): point for point in curve}
    if curve:
        print_table(["learning curve: MAPE on the other networks", *methods], [
            [f"{count} network{'s'[: count > 1]}", *(percent(of[method, count].mape, 2) for method in methods)]
            for count in counts
        ])  # fmt: skip


def _print_plans(plans: MeasuringPlans) -> None:
    """The error of further networks against the time of the board."""
    if not plans.points:
        return
    mark = "SIMULATED: " * plans.simulated
    print_table([f"{mark}plan of measuring", "networks", "time of the board", "MAPE", ""], [
        [
            point.plan, str(point.networks or ""),
            "not available" if point.board_minutes is None else duration(60 * point.board_minutes),
            percent(point.mape, 2), "extrapolated" if point.basis == "extrapolated" else "",
        ]
        for point in plans.points
    ])  # fmt: skip
    if plans.verdict is not None:
        print_result(f"{mark}{plans.verdict}")


def _domain(predictor: Predictor) -> str:
    """How much of the space is like the measured networks."""
    import numpy as np

    from lightnas_edge.predictor import reachable_range

    if not predictor.fit.networks:
        measure = sample_command(predictor.space, predictor.fingerprint)
        return f"extrapolated: 100 % of networks; no whole network was measured ({measure} measures some, to be fitted too)"
    space = predictor.space
    indices = np.random.default_rng(0).integers(len(space.operators), size=(2000, len(space.layers)))
    share = float(predictor.extrapolated(np.eye(len(space.operators))[indices]).mean())
    ends = reachable_range(predictor)
    low, high = ("fastest", "slowest") if predictor.unit == "ms" else ("lowest", "highest")
    beyond = [
        name
        for name, end in ((low, ends.lowest_architecture), (high, ends.highest_architecture))
        if predictor.extrapolated(end.one_hot(space)[None])[0]
    ]
    also = f", and the {' and the '.join(beyond)} network" if beyond else ""
    return f"extrapolated: {percent(share, 0)} of random networks{also}"
