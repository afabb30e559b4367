"""`lightnas-edge import`: predictors and tables that other projects published."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lightnas_edge.cli._console import UsageError, percent, print_json, print_result, print_table
from lightnas_edge.cli._options import add_json, add_space, whole
from lightnas_edge.space import load_space

_SPACE = "lightnas"  # the published predictor's own


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "import", help="predictors and tables that others published",
        description="Read what other projects published. The LightNAS authors' predictor (npz of w1, b1, w2, b2, w3, b3) becomes a "
        "predictor file that `range` and `search` take. A table of once-for-all blocks or of NAS-Bench-201 cells (CSV) is read, "
        "checked and scored: how well a model predicts held-out rows from what the rows compute (cross-validation).",
        epilog="example: lightnas-edge import lightnas_predictor.npz --out xavier.predictor.json",
    )  # fmt: skip
    parser.add_argument("file", type=Path, metavar="FILE", help="lightnas_predictor.npz, or a table.csv")
    add_space(parser, required=False)
    parser.add_argument("--out", type=Path, metavar="FILE", help="the predictor (default: named after FILE)")
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="of the folds (default: 0)")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.file.suffix == ".npz":
        return _predictor(arguments)
    if arguments.out or arguments.space:
        raise UsageError("--out and --space need a predictor (npz); a table is scored only")
    return _table(arguments)


def _predictor(arguments: argparse.Namespace) -> int:
    from lightnas_edge.predictor import reachable_range, read_published_predictor

    predictor = read_published_predictor(arguments.file, load_space(arguments.space or _SPACE))
    out = arguments.out or Path(f"{arguments.file.stem}.predictor.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    predictor.save(out)
    if arguments.json:
        print_json(
            {
                "kind": "import",
                "predictor": str(out),
                "fingerprint": predictor.fingerprint,
                "fit": predictor.fit.to_json(),
            }
        )
        return 0
    print_result(
        f"{predictor.space.name}, batch {predictor.batch}, {predictor.fingerprint['board']}: {reachable_range(predictor)}"
    )
    print_result(f"predictor ({predictor.fit.method}): {out}")
    return 0


def _table(arguments: argparse.Namespace) -> int:
    from lightnas_edge.predictor.external_tables import read_external_table
    from lightnas_edge.predictor.features import LEAST_ROWS, fit_features

    table = read_external_table(arguments.file)
    found = []
    for (board, metric), values in table.values.items():
        rows = table.known((board, metric))
        score = (
            fit_features(table.features.take(rows), values[rows], seed=arguments.seed)
            if len(rows) >= LEAST_ROWS
            else None
        )
        found.append({
            "board": board, "metric": metric, "rows": len(rows),
            "lowest": float(values[rows].min()) if len(rows) else None,
            "median": float(np.median(values[rows])) if len(rows) else None,
            "highest": float(values[rows].max()) if len(rows) else None,
            "method": score and score.method, "held_out_mape": score and score.errors[score.method],
        })  # fmt: skip
    if arguments.json:
        print_json({"kind": "import", "form": table.form, "rows": len(table.keys), "columns": found})
        return 0
    print_result(f"{table.form}: {len(table.keys)} rows")
    columns = ["board or condition", "metric", "rows", "lowest", "median", "highest", "best model", "held-out MAPE"]
    print_table(columns, [
        [
            str(row["board"]), str(row["metric"]), str(row["rows"]),
            *("not available" if row[name] is None else f"{row[name]:.4g}" for name in ("lowest", "median", "highest")),
            str(row["method"] or f"needs {LEAST_ROWS} rows"),
            "not available" if row["held_out_mape"] is None else percent(float(str(row["held_out_mape"])), 1),
        ]
        for row in found
    ])  # fmt: skip
    return 0
