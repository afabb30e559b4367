"""`lightnas-edge import`: predictors and tables that other projects published, and what trtexec measured."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lightnas_edge.cli._console import UsageError, percent, print_json, print_result, print_table
from lightnas_edge.cli._options import add_json, add_space, whole
from lightnas_edge.errors import RecordError
from lightnas_edge.space import load_space

_SPACE = "lightnas"  # the published predictor's own


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "import", help="what trtexec measured; predictors and tables that others published",
        description="Read what other programs wrote; the content decides what a file is. Files of trtexec about one engine (layer "
        "times, layer info, times of inferences, console output) become one report with findings. The LightNAS authors' predictor "
        "(npz of w1, b1, w2, b2, w3, b3) becomes a predictor file that `range` and `search` take. A table of once-for-all blocks "
        "or of NAS-Bench-201 cells (CSV) is read, checked and scored: how well a model predicts held-out rows from what the rows "
        "compute (cross-validation).",
        epilog="examples: lightnas-edge import profile.json layers.json trtexec.log --out report; "
        "lightnas-edge import lightnas_predictor.npz --out xavier.predictor.json",
    )  # fmt: skip
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE",
        help="files of trtexec about one engine, lightnas_predictor.npz, or a table.csv",
    )  # fmt: skip
    add_space(parser, required=False)
    parser.add_argument(
        "--out", type=Path, metavar="PATH",
        help="the predictor, or the folder of the report (default: named after FILE or the model)",
    )  # fmt: skip
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="of the folds (default: 0)")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.profiles import is_trtexec

    files = arguments.files
    foreign = [path for path in files if path.suffix in (".npz", ".csv")]
    if not foreign and (len(files) > 1 or is_trtexec(files[0])):
        if arguments.space:
            raise UsageError("--space needs a predictor (npz); files of trtexec have no space")
        return _trtexec(arguments)
    if len(files) > 1:
        raise UsageError(f"{foreign[0]} is imported alone", hint="several files: those of trtexec about one engine")
    arguments.file = files[0]
    if arguments.file.suffix == ".npz":
        return _predictor(arguments)
    if arguments.out or arguments.space:
        raise UsageError("--out and --space need a predictor (npz); a table is scored only")
    return _table(arguments)


def _trtexec(arguments: argparse.Namespace) -> int:
    from lightnas_edge.cli._model_profile import show_profile
    from lightnas_edge.profiles import import_trtexec

    try:
        record = import_trtexec(arguments.files)
    except RecordError as error:
        if len(arguments.files) > 1:
            raise
        hint = f"{error.hint}\na table of another project is read as CSV, with `key` or `arch_str`, and `latency_ms`"
        raise RecordError(str(error), hint=hint.strip()) from error
    show_profile(record, arguments.out, as_json=arguments.json)
    return 0


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
    columns = ["board or condition", "metric", "rows", "lowest", "median", "highest", "model", "held-out MAPE"]
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
