"""`lightnas-edge fit`: a predictor, and how far it can be trusted."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luts
from lightnas_edge.cli._console import note, percent, print_json, print_table, say, warn
from lightnas_edge.cli._options import add_classes, add_space, chosen_space, read_prior
from lightnas_edge.space import Space

if TYPE_CHECKING:
    from lightnas_edge.predictor import CurvePoint, MethodComparison, Predictor, ResidualDecomposition

METHODS = {
    "lut": "LUT alone",
    "calibrated": "LUT calibrated",
    "samples": "samples alone",
    "prior": "carried over",
    "mlp": "MLP",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "fit", help="a predictor from a table and measured networks",
        description="Fit predictors to a table, to measured networks or to both, score each on networks held out in turn, and "
        "keep the best. The errors must be read against the repeatability of the measurements, which stands beside them.",
        epilog="example: lightnas-edge fit --space tiny --lut ops.lut.jsonl --samples nets.lut.jsonl --out tiny.predictor.json",
    )  # fmt: skip
    add_space(parser)
    add_classes(parser)
    parser.add_argument("--lut", type=Path, metavar="FILE", help="from `lightnas-edge profile`")
    parser.add_argument(
        "--samples",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="from `lightnas-edge sample`; may be repeated",
    )
    parser.add_argument(
        "--metric", choices=list(luts.METRICS), action="append", metavar="NAME",
        help=f"{', '.join(luts.METRICS)}; may be repeated, one predictor each (default: latency_ms)",
    )  # fmt: skip
    parser.add_argument(
        "--prior", type=Path, metavar="FILE",
        help="predictor of another board, power mode or batch size, to be carried over by --samples of this one",
    )  # fmt: skip
    parser.add_argument(
        "--curve", action="store_true", help="tell the error against the number of networks, from draws of --samples"
    )
    parser.add_argument(
        "--method", choices=["best", *METHODS], default="best", help="default: best on held-out networks"
    )
    parser.add_argument(
        "--compare", action="store_true", help="score scikit-learn's gradient boosting beside them (it is never chosen)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the folds and the MLP (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the predictor (default: SPACE.predictor.json, or SPACE.METRIC.predictor.json)",
    )
    parser.add_argument("--json", action="store_true", help="the comparison, for machines")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.lut is None and not arguments.samples:
        note("fit needs --lut, --samples or both")
        return 2
    for name in ("compare", "curve", "prior"):
        if getattr(arguments, name) and not arguments.samples:
            note(f"--{name} needs measured networks: give --samples")
            return 2
    metrics = list(dict.fromkeys(arguments.metric or ["latency_ms"]))
    if arguments.out and len(metrics) > 1:
        note("--out names one file: fit one --metric at a time, or leave --out away")
        return 2
    space = chosen_space(arguments)
    lut = luts.read(arguments.lut) if arguments.lut else None
    samples = [luts.read(path) for path in arguments.samples]
    for table in [*([lut] if lut else []), *samples]:
        for fault in table.faults:
            warn(f"{table.path}:{fault.line}: {fault.what}")
    records = []
    for metric in metrics:
        named = "" if metric == "latency_ms" else f".{metric}"
        out = arguments.out or Path(f"{space.name}{named}.predictor.json")
        records.append(_fit(arguments, space, lut, samples, metric, out))
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
) -> dict[str, Any]:
    from lightnas_edge.predictor import fit_best, learning_curve, load_observations

    prior = read_prior(arguments.prior, space)
    observed = load_observations(space, samples, lut, metric=metric) if samples else None
    curve = []
    if observed is not None and arguments.curve:
        curve = learning_curve(space, lut, observed, prior=prior, seed=arguments.seed)
    predictor, comparison = fit_best(
        space, lut, observed or (), seed=arguments.seed, method=METHODS.get(arguments.method), baseline=arguments.compare,
        metric=metric, prior=prior,
    )  # fmt: skip
    if curve:
        predictor.origin = replace(predictor.origin, fit={**predictor.fit, "curve": [one.to_json() for one in curve]})
    if prior is not None and "prior" in predictor.fit:
        known = {**predictor.fit["prior"], "file": arguments.prior.name}
        predictor.origin = replace(predictor.origin, fit={**predictor.fit, "prior": known})
    out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.lut:
        # So that a search can take the table along, to see drift when it verifies.
        beside = os.path.relpath(arguments.lut, out.parent)
        predictor.origin = replace(predictor.origin, fit={**predictor.fit, "lut": beside})
    predictor.save(out)
    if not arguments.json:
        _tell(predictor, comparison, out)
        if comparison.ledger is not None and arguments.compare:
            _tell_ledger(comparison.ledger)
        _tell_curve(curve)
    return {"kind": "fit", "metric": metric, "predictor": str(out), "fit": predictor.fit}


def _tell(predictor: Predictor, comparison: MethodComparison, out: Path) -> None:
    if comparison.rows:
        columns = [
            f"{predictor.metric} of networks held out", "from", f"RMSE {predictor.unit}", "MAPE", "bias", "within 1 %",
            "within 5 %", "within 10 %", "Kendall tau", "in 90 % interval", "outside",
        ]  # fmt: skip
        print_table(columns, [
            [
                row.method, str(row.trained_on), f"{row.scores.rmse:.3g}", percent(row.scores.mape, 2), percent(row.scores.bias, 2),
                percent(row.scores.within_1, 0), percent(row.scores.within_5, 0),
                percent(row.scores.within_10, 0), f"{row.scores.kendall_tau:.3f}",
                percent(row.scores.coverage_90, 0), percent(row.scores.outside, 0),
            ]
            for row in comparison.rows
        ])  # fmt: skip
        best = comparison.rows[0].scores
        say(f"{best.n} networks; measured again, a network would differ by {percent(best.repeatability, 2)}")
    for told in predictor.fit.get("alignment") or ():
        note(told)
    for reason in comparison.skipped:
        note(f"not tried: {reason}")
    if comparison.ledger is not None:
        say(str(comparison.ledger))
    note(_reach(predictor))
    simulated = "SIMULATED " if predictor.simulated else ""
    say(f"{simulated}predictor ({predictor.fit.get('chosen', predictor.fit.get('method'))}): {out}")


def _tell_ledger(ledger: ResidualDecomposition) -> None:
    from lightnas_edge.predictor import CAUSES

    print_table([f"measured less the table's sum, {ledger.unit}", "mean", "", "of the sum", "least", "most"], [
        *(
            [
                CAUSES[cause.name], f"{cause.mean:+.3g}", "" if math.isnan(cause.error) else f"± {cause.error:.2g}",
                percent(cause.mean / ledger.table_sum), f"{cause.least:+.3g}", f"{cause.most:+.3g}",
            ]
            for cause in ledger.causes
        ),
        ["all of it", f"{ledger.difference:+.3g}", "", percent(ledger.difference / ledger.table_sum), "", ""],
    ])  # fmt: skip
    noise = "unknown" if math.isnan(ledger.noise) else f"{ledger.noise:.2g} {ledger.unit}"
    say(
        f"{ledger.dearer} networks above their sum, {ledger.cheaper} below; left over {ledger.left_over:.2g} {ledger.unit} "
        f"(root mean square), noise of measuring {noise}"
    )
    say("furthest from their entries: " + ", ".join(f"{key} {value:+.2g}" for key, value in ledger.operators))


def _tell_curve(curve: Sequence[CurvePoint]) -> None:
    methods = list(dict.fromkeys(point.method for point in curve))
    counts = list(dict.fromkeys(point.networks for point in curve))
    of = {(point.method, point.networks): point for point in curve}
    if curve:
        print_table(["MAPE on the others, from", *methods], [
            [f"{count} network{'s'[: count > 1]}", *(percent(of[method, count].mape, 2) for method in methods)]
            for count in counts
        ])  # fmt: skip


def _reach(predictor: Predictor) -> str:
    """How much of the space is like what was measured."""
    import numpy as np

    from lightnas_edge.predictor import reachable_range

    if not predictor.fit.get("networks"):
        return "no whole network was measured: every prediction is outside what was measured (lightnas-edge sample)"
    space = predictor.space
    indices = np.random.default_rng(0).integers(len(space.operators), size=(2000, len(space.layers)))
    share = float(predictor.outside(np.eye(len(space.operators))[indices]).mean())
    ends = reachable_range(predictor)
    out = [
        name
        for name, end in (("cheapest", ends.cheapest), ("dearest", ends.dearest))
        if predictor.outside(end.one_hot(space)[None])[0]
    ]
    told = f"; so {'are' if len(out) > 1 else 'is'} the {' and the '.join(out)}" if out else ""
    return f"outside what was measured: {percent(share, 0)} of random networks{told}"
