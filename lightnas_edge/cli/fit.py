"""`lightnas-edge fit`: a predictor, and how far it can be trusted."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import luts
from lightnas_edge.cli.console import note, percent, print_json, print_table, say, warn
from lightnas_edge.cli.options import add_classes, add_space, chosen_space

METHODS = {"lut": "LUT alone", "calibrated": "LUT calibrated", "samples": "samples alone", "mlp": "MLP"}


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
        "--method", choices=["best", *METHODS], default="best", help="default: best on held-out networks"
    )
    parser.add_argument(
        "--compare", action="store_true", help="score scikit-learn's gradient boosting beside them (it is never chosen)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the folds and the MLP (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the predictor (default: SPACE.predictor.json)")
    parser.add_argument("--json", action="store_true", help="the comparison, for machines")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.predictor import fit_best

    if arguments.lut is None and not arguments.samples:
        note("fit needs --lut, --samples or both")
        return 2
    space = chosen_space(arguments)
    lut = luts.read(arguments.lut) if arguments.lut else None
    samples = [luts.read(path) for path in arguments.samples]
    for table in [*([lut] if lut else []), *samples]:
        for fault in table.faults:
            warn(f"{table.path}:{fault.line}: {fault.what}")
    if arguments.compare and not samples:
        note("--compare judges predictors on measured networks: give --samples")
        return 2
    predictor, comparison = fit_best(
        space, lut, samples, seed=arguments.seed, method=METHODS.get(arguments.method), baseline=arguments.compare
    )
    out = arguments.out or Path(f"{space.name}.predictor.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.lut:
        # So that a search can take the table along, to see drift when it verifies.
        beside = os.path.relpath(arguments.lut, out.parent)
        predictor.origin = replace(predictor.origin, fit={**predictor.fit, "lut": beside})
    predictor.save(out)
    if arguments.json:
        record: dict[str, Any] = {"kind": "fit", "predictor": str(out), "fit": predictor.fit}
        print_json(record)
        return 0
    if comparison.rows:
        columns = [
            "on networks held out",
            "RMSE ms",
            "MAPE",
            "bias",
            "within 1 %",
            "within 5 %",
            "within 10 %",
            "Kendall tau",
            "in 90 % interval",
        ]
        print_table(columns, [
            [
                row.method, f"{row.scores.rmse:.3g}", percent(row.scores.mape, 2), percent(row.scores.bias, 2),
                percent(row.scores.within_1, 0), percent(row.scores.within_5, 0),
                percent(row.scores.within_10, 0), f"{row.scores.kendall_tau:.3f}",
                percent(row.scores.coverage_90, 0),
            ]
            for row in comparison.rows
        ])  # fmt: skip
        best = comparison.rows[0].scores
        say(f"{best.n} networks; measured again, a network would differ by {percent(best.repeatability, 2)}")
    for reason in comparison.skipped:
        note(f"not tried: {reason}")
    say(f"predictor ({predictor.fit.get('chosen', predictor.fit.get('method'))}): {out}")
    return 0
