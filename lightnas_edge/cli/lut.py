"""`lightnas-edge lut`: show a table, check it, export it, merge several."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import luts
from lightnas_edge.cli._console import UsageError, info, ms, percent, print_json, print_result, print_table, warn
from lightnas_edge.cli._fallbacks import warn_fallbacks
from lightnas_edge.cli._fleet import add_pooling, refuse_pooling, show_ratios
from lightnas_edge.cli._options import add_json
from lightnas_edge.space import load_space


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("lut", help="show, check, export or merge look-up tables")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    show = actions.add_parser("show", help="a readable table", epilog="example: lightnas-edge lut show board.lut.jsonl")
    show.add_argument("lut", type=Path, metavar="LUT")
    add_json(show)
    show.set_defaults(run=_show)

    check = actions.add_parser(
        "check", help="is it undamaged, and does it cover a space?",
        epilog="exit code 0: complete; 1: damaged lines, or missing operators. example: lightnas-edge lut check board.lut.jsonl",
    )  # fmt: skip
    check.add_argument("lut", type=Path, metavar="LUT")
    check.add_argument("--space", metavar="NAME|FILE", help="default: the space that the table was measured for")
    add_json(check)
    check.set_defaults(run=_check)

    export = actions.add_parser(
        "export",
        help="as CSV, on standard output or into a file",
        epilog="example: lightnas-edge lut export board.lut.jsonl",
    )
    export.add_argument("lut", type=Path, metavar="LUT")
    export.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    export.set_defaults(run=_export)

    merge = actions.add_parser(
        "merge", help="one table from several of one model, of one unit or of several",
        description="Write one table from several that were measured on boards of one model in one state. Units that differ by more "
        "than a repeated measurement are refused unless --pool is given; the numbers are those of the middle unit then.",
        epilog="exit code 0: written; 1: refused. example: lightnas-edge lut merge orin1.lut.jsonl orin2.lut.jsonl --out orin.lut.jsonl",
    )  # fmt: skip
    merge.add_argument("luts", type=Path, nargs="+", metavar="LUT")
    merge.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table")
    add_pooling(merge)
    add_json(merge)
    merge.set_defaults(run=_merge)


def _merge(arguments: argparse.Namespace) -> int:
    tables = [luts.read(path) for path in arguments.luts]
    for lut in tables:
        _warn_faults(lut)
    luts.require_same_board(tables)
    by_unit: dict[str, list[luts.Lut]] = {}
    for lut in tables:
        unit = lut.fingerprint.get("unit")
        by_unit.setdefault(str(unit) if unit else str(lut.path), []).append(lut)
    named = {str(same[0].path) if len(same) == 1 else unit: luts.merge(same) for unit, same in by_unit.items()}
    has_energy = any(entry.energy_mj for lut in tables for entry in lut.entries.values())
    metrics = ["latency_ms", *(["energy_mj"] if has_energy else [])]
    comparisons = [luts.compare_units(named, metric) for metric in metrics] if len(named) > 1 else []
    if not arguments.json:
        for found in comparisons:
            show_ratios(found)
    apart = [found for found in comparisons if not found.alike]
    merged = None
    if apart and not arguments.pool:
        refuse_pooling(apart, "--pool writes one table of the middle unit all the same")
    else:
        merged = luts.write_pooled(tables, arguments.out)
    if arguments.json:
        print_json({
            "kind": "lut-merge", "lut": None if merged is None else str(merged.path),
            "ratios": [
                {"metric": found.metric, "table": ratio.name, "value": ratio.value, "interval": list(ratio.interval), "differs": ratio.differs}
                for found in comparisons if found.keys for ratio in found.ratios
            ],
        })  # fmt: skip
    elif merged is not None:
        content = f"{len(merged.entries)} operators, {len(merged.networks)} networks, {len(merged.visits)} visits"
        print_result(f"{merged.path}: {'SIMULATED: ' * merged.simulated}{content} of {len(named)} units")
    return 0 if merged is not None else 1


def _show(arguments: argparse.Namespace) -> int:
    lut = luts.read(arguments.lut)
    entries = sorted(lut.entries.values(), key=_place) + list(lut.networks.values())
    if arguments.json:
        print_json({
            "kind": "lut-summary", "fingerprint": lut.fingerprint, "simulated": lut.simulated,
            "entries": [
                {"key": entry.key, "latency_ms": entry.latency_ms, "standard_error_ms": entry.standard_error_ms,
                 "mean_ms": entry.mean_ms, "p95_ms": entry.p95_ms, "p99_ms": entry.p99_ms, "robust_ms": entry.robust_ms,
                 "repeats": entry.repeats, "spread": entry.spread, "samples": len(entry.samples_ms), "unstable": entry.unstable,
                 "ran_in": entry.ran_in, "fell_back": list(entry.fell_back), "engine_bytes": entry.engine_bytes,
                 "energy_mj": None if entry.energy_mj is None else asdict(entry.energy_mj)}
                for entry in entries
            ],
        })  # fmt: skip
        return 0
    described = ", ".join(f"{name} {value}" for name, value in lut.fingerprint.items() if value not in (None, False))
    print_result(f"{'SIMULATED: ' if lut.simulated else ''}{arguments.lut}: {described}")
    rows = [
        [
            entry.key, ms(entry.latency_ms), f"± {ms(entry.standard_error_ms)}",
            *((ms(entry.mean_ms), ms(entry.p95_ms), ms(entry.p99_ms)) if entry.is_network else ("", "", "")),
            percent(entry.spread), str(len(entry.samples_ms)), str(entry.repeats), str(entry.energy_mj or ""),
            "" if entry.engine_bytes is None else f"{entry.engine_bytes / 1e6:.2f}", luts.counted(entry.ran_in or {}),
            ", ".join(filter(None, ("fell back" if entry.fell_back else "", "unstable" if entry.unstable else ""))),
        ]
        for entry in entries
    ]  # fmt: skip
    columns = [
        "key", "latency ms", "error ms", "mean ms", "p95 ms", "p99 ms", "spread", "samples", "inferences per sample", "energy",
        "engine MB", "ran in", "",
    ]  # fmt: skip
    lacking = [
        *([] if lut.networks else ["mean ms", "p95 ms", "p99 ms"]),
        *([] if any(entry.energy_mj for entry in entries) else ["energy"]),
        *([] if any(entry.engine_bytes for entry in entries) else ["engine MB"]),
        *([] if lut.precision != "fp32" and any(entry.ran_in for entry in entries) else ["ran in"]),
    ]
    shown = [index for index, column in enumerate(columns) if column not in lacking]
    print_table([columns[index] for index in shown], [[row[index] for index in shown] for row in rows])
    if lut.entries and lut.networks:
        info("latency ms: of an operator the robust cost (first decile), of a network the median of its inferences")
    if lut.sustained:
        info(f"{len(lut.sustained)} visits under sustained load are kept apart")
    warn_fallbacks(lut, list(lut.entries))
    warn_fallbacks(lut, list(lut.networks))
    _warn_faults(lut)
    return 0


def _place(entry: luts.Entry) -> tuple[int, int, int, str]:
    """Roughly from input to output, as far as shapes tell."""
    record = entry.subject
    return -record.get("input_size", 0), record.get("in_channels", 0), record.get("out_channels", 0), entry.key


def _check(arguments: argparse.Namespace) -> int:
    lut = luts.read(arguments.lut)
    if arguments.space is None and lut.header.space is None:
        raise UsageError(f"{arguments.lut} is about a model file, not about a space")
    space = load_space(arguments.space or str(lut.header.space))
    if lut.header.classes is not None:
        space = space.with_classes(lut.header.classes)
    coverage = lut.coverage([shaped.key for shaped in space.shaped_operators()])
    lacking = [*coverage.missing, *coverage.failed]
    if arguments.json:
        print_json({
            "kind": "lut-check", "lut": str(arguments.lut), "space": space.name, "found": len(coverage.found),
            "missing": list(coverage.missing), "failed": list(coverage.failed),
            "faults": [{"line": fault.line, "what": fault.what} for fault in lut.faults],
        })  # fmt: skip
        return 1 if lacking or lut.faults else 0
    print_result(str(coverage))
    for key in coverage.failed:
        warn(f"{key} failed: {lut.failed[key].message}")
    if lacking:
        only = [f"--only {key}" for key in map(shlex.quote, lacking)] if len(lacking) <= 3 else []
        header = lut.header if arguments.space is None else lut.header.model_copy(update={"space": arguments.space})
        command = [
            "lightnas-edge profile",
            luts.table_options(None, header),
            "--out",
            shlex.quote(str(arguments.lut)),
            *only,
        ]
        info(f"  to fill it: `{' '.join(command)}`, with the --host that it was measured on")
    _warn_faults(lut)
    return 1 if lacking or lut.faults else 0


def _export(arguments: argparse.Namespace) -> int:
    lut = luts.read(arguments.lut)
    if arguments.out is not None:
        lut.to_frame().to_csv(arguments.out, index=False)
    elif sys.stdout.isatty():  # a file or a pipe gets the values as they are
        for line in str(lut.to_frame().to_csv(index=False)).splitlines():
            print_result(line)
    else:
        lut.to_frame().to_csv(sys.stdout, index=False)
    _warn_faults(lut)
    return 0


def _warn_faults(lut: luts.Lut) -> None:
    for fault in lut.faults:
        warn(f"{lut.path}:{fault.line}: {fault.what}")
