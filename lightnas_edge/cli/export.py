"""`lightnas-edge export`: the trained network as ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightnas_edge.cli._calibration import add_calibration, calibration_options
from lightnas_edge.cli._console import UsageError, percent, print_result, warn
from lightnas_edge.cli._options import add_json, count
from lightnas_edge.cli._several import add_all, chosen_runs, for_each, print_records
from lightnas_edge.measuring.engines import PRECISIONS
from lightnas_edge.records.deployment import ExportRecord
from lightnas_edge.runs import Export, Run

_IN_RUN = Path()  # --bundle without a path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export", help="the trained network as ONNX, checked against PyTorch",
        description="Write the trained network as an ONNX file and compare its outputs with PyTorch.",
        epilog="example: lightnas-edge export runs/tiny-0.9ms --target tensorrt-8.2",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    add_all(parser, "export")
    parser.add_argument(
        "--target",
        metavar="RUNTIME",
        help="sets the opset and the dialect of int8 (default: an opset that all runtimes read, the dialect of the table's engine)",
    )
    parser.add_argument(
        "--batch", type=count, metavar="N", help="images per inference (default: as the table was measured)"
    )
    parser.add_argument("--data", metavar="DIR", help="default: the data of the search")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: that of the run's table")
    add_calibration(parser)
    parser.add_argument(
        "--bundle", type=Path, nargs="?", const=_IN_RUN, metavar="FILE.zip|DIR",
        help="also write everything that a board needs to build, feed and check the network (default: RUN/bundle)",
    )  # fmt: skip
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.precision in ("fp32", "fp16") and (arguments.calibrate or arguments.calibration_method):
        raise UsageError(f"--calibrate and --calibration-method are for int8, not for {arguments.precision}")
    if arguments.bundle not in (None, _IN_RUN) and (arguments.all or arguments.best):
        raise UsageError("--bundle names one path for several networks; without a path, each run gets its own")
    records, code = for_each(chosen_runs(arguments), lambda run: _exported(run, arguments))
    print_records(arguments, records)
    return code


def _exported(run: Run, arguments: argparse.Namespace) -> ExportRecord:
    from lightnas_edge.deploy import DEFAULT_TARGET, export_network

    export = export_network(
        run, precision=arguments.precision, target=arguments.target or DEFAULT_TARGET, batch=arguments.batch,
        data=arguments.data, **calibration_options(arguments, run.space.input_size),
    )  # fmt: skip
    record = export.record
    for warning in export.warnings:
        warn(warning)
    if not arguments.json:
        print_result(
            f"exported {export.path} ({record.precision}, opset {record.opset}, {record.size_bytes / 1e6:.1f} MB, batch "
            f"{record.batch}); {_agreement(record)}"
        )
    if arguments.bundle is not None:
        _bundle(run, export, arguments)
    return record


def _bundle(run: Run, export: Export, arguments: argparse.Namespace) -> None:
    from lightnas_edge.deploy import load_training_data
    from lightnas_edge.deploy.bundle import write_bundle

    path = run.folder / "bundle" if arguments.bundle == _IN_RUN else arguments.bundle
    bundle = write_bundle(run, export, load_training_data(run, arguments.data), path)
    if not arguments.json:
        print_result(
            f"wrote the bundle {bundle.path} ({len(bundle.record.images)} images); on the board: python3 check.py"
        )


def _agreement(record: ExportRecord) -> str:
    """How far the file is from PyTorch in float32. In int8 that is what rounding changes, and no fault."""
    agreement = record.agreement
    if record.quantisation is None:
        return f"maximum difference from PyTorch {agreement.max_abs_difference:.1e} (n={agreement.images})"
    how = record.quantisation
    made = "fine-tuned in int8" if how.fine_tuned else f"calibrated on {how.images} images ({how.method})"
    return (
        f"{made}; rounding to 8 bits keeps PyTorch's class on {percent(agreement.top1_agreement)} of {agreement.images} images, "
        f"lowest cosine of logits {agreement.cosine:.3f}; `verify` measures the accuracy"
    )
