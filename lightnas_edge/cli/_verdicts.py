"""What commands that judge share: the options of budgets, and how a verification is shown."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lightnas_edge.cli._budgets import LIMITS
from lightnas_edge.cli._console import info, percent, print_result, warn
from lightnas_edge.cli._options import milliseconds, percentage, positive
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.files import write_atomic
from lightnas_edge.records.deployment import VerificationRecord

EXIT = {"met": 0, "missed": 3, "inconclusive": 3}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S = 24 * 3600.0


def add_budgets(parser: argparse.ArgumentParser, default: str) -> None:
    """Every budget that can be judged. `default`: in words."""
    group = parser.add_argument_group("budget", f"one or several; {default}")
    for option, _, unit, text in LIMITS:
        group.add_argument(option, type=milliseconds if unit == "MS" else positive, metavar=unit, help=text)
    group.add_argument(
        "--min-throughput", type=positive, metavar="PER_S",
        help="minimum inferences per second of all streams together; a batch of 8 counts as 8",
    )  # fmt: skip
    group.add_argument("--min-accuracy", type=percentage, metavar="PERCENT", help="minimum top-1 accuracy on the board")
    group.add_argument(
        "--max-accuracy-drop", type=drop, metavar="PERCENT", help="maximum loss of top-1 accuracy against the reference, same images"
    )  # fmt: skip


def asked_budgets(arguments: argparse.Namespace) -> dict[str, float]:
    """Metric -> target of every budget that was given."""
    given = {metric: getattr(arguments, option[2:].replace("-", "_")) for option, metric, _, _ in LIMITS}
    given |= {
        "throughput_per_s": arguments.min_throughput,
        "accuracy": arguments.min_accuracy,
        "accuracy_drop": arguments.max_accuracy_drop,
    }
    return {metric: target for metric, target in given.items() if target is not None}


def budget_words(arguments: argparse.Namespace) -> list[str]:
    """The options of the budgets that were given, to be repeated in a command."""
    found = [(option, getattr(arguments, option[2:].replace("-", "_"))) for option, *_ in LIMITS]
    found += [("--min-throughput", arguments.min_throughput)]
    words = [word for option, value in found if value is not None for word in (option, f"{value:.12g}")]
    for option, share in (
        ("--min-accuracy", arguments.min_accuracy),
        ("--max-accuracy-drop", arguments.max_accuracy_drop),
    ):
        words += [] if share is None else [option, f"{100 * share:.12g}"]
    return words


def add_files_for_ci(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the verdicts as JUnit XML, for a CI system")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write them as Markdown, for a pull request")


def add_sustained(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sustained", type=seconds, default=0.0, metavar="TIME",
        help="run the network under load for TIME first (90s, 10m), then judge it in the state that it has reached",
    )  # fmt: skip


def remove_files_for_ci(arguments: argparse.Namespace) -> None:
    """Those of an earlier command: a verification that fails must not leave its verdicts behind."""
    for path in (arguments.junit, arguments.markdown):
        if path is not None and path.is_file():
            try:
                path.unlink()
            except OSError as error:
                raise _unwritable(path, error) from error


def write_files_for_ci(
    arguments: argparse.Namespace, records: Sequence[VerificationRecord], failed: Mapping[str, str] | None = None
) -> None:
    """`--junit` and `--markdown`.

    Args:
        failed: boards or networks without a verification, and why.

    Raises:
        LightnasEdgeError: a file cannot be written.
    """
    from lightnas_edge.report.junit import junit_xml
    from lightnas_edge.report.pull_request import not_verified, pull_request_markdown

    wanted: list[tuple[Path | None, Callable[[], str]]] = [
        (arguments.junit, lambda: junit_xml(*records, failed=failed)),
        (
            arguments.markdown,
            lambda: "\n".join(
                [*(not_verified(*each) for each in (failed or {}).items()), *map(pull_request_markdown, records)]
            ),
        ),
    ]
    for path, content in wanted:
        if path is None:
            continue
        try:
            write_atomic(path, content())
        except OSError as error:
            raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> LightnasEdgeError:
    return LightnasEdgeError(
        f"cannot write {path}: {error.strerror or error}", hint="name a file in a folder that can be written to"
    )


def show(record: VerificationRecord, line: str) -> None:
    """The result for people: one line, the accuracy, what to do, warnings."""
    print_result(line)
    if record.measured.streams:
        print_result(streams_words(record))
    accuracy = record.accuracy
    simulated = " SIMULATED" if record.simulated else ""
    if accuracy:
        where = "in ONNX Runtime on this machine" if record.simulated else "on the board"
        print_result(
            f"top-1 accuracy{simulated} {percent(accuracy.top1)} ({percent(accuracy.interval[0])} to "
            f"{percent(accuracy.interval[1])}) {where}, {percent(accuracy.reference_top1)} in {record.accuracy_reference} (n={accuracy.images})"
        )
    ran_in = ran_in_words(record)
    if ran_in and (record.precision != "fp32" or record.fell_back):
        print_result(f"{ran_in}{simulated}{_engine_size(record)}")
    if record.energy is not None and record.budget("energy_mj") is None:
        from lightnas_edge.report.wording import energy

        net = "" if record.energy.net_mj is None else f", {record.energy.net_mj:.3g} mJ above idle"
        print_result(
            f"energy of one batch{simulated} {energy(record.energy.gross_mj, record.energy.gross_interval_mj)}{net}"
        )
    if record.sustained is not None:
        load = record.sustained
        print_result(
            f"under load for {load.elapsed_s / 60:.1f} min{simulated}: median {load.first_ms:.4g} ms in the first part, "
            f"{load.last_ms:.4g} ms in the last ({100 * load.change:+.1f} %)"
        )
    if record.verdict != "met":
        info(record.reason)
        if record.remedy:
            info(f"  {record.remedy}")
    for warning in dict.fromkeys(record.warnings):
        warn(warning)


def streams_words(record: VerificationRecord) -> str:
    """`throughput 97.3 per s; stream 1: p50 20.1 ms, p95 21.0 ms; stream 2: ...`"""
    from lightnas_edge.deploy.judge import decimals

    rate = record.measured.throughput
    parts = [] if rate is None else [f"throughput {rate.per_s:.{decimals(rate.per_s)}f} per s"]
    for number, stream in enumerate(record.measured.streams, 1):
        digits = decimals(stream.median.latency_ms)
        parts.append(
            f"stream {number}: p50 {stream.median.latency_ms:.{digits}f} ms, p95 {stream.p95.latency_ms:.{digits}f} ms"
        )
    return ("SIMULATED " if record.simulated else "") + "; ".join(parts)


def ran_in_words(record: VerificationRecord) -> str:
    """`19 layers ran in int8, 2 in fp32`: convolutions and matrix products; empty where the runtime does not say."""
    counts = [(count, name) for name, count in (record.ran_in or {}).items() if count]
    if not counts:
        return ""
    first, *others = sorted(counts, reverse=True)
    return ", ".join([f"{first[0]} layers ran in {first[1]}", *(f"{count} in {name}" for count, name in others)])


def _engine_size(record: VerificationRecord) -> str:
    return "" if record.engine_bytes is None else f"; the engine has {record.engine_bytes / 1e6:.1f} MB"


def seconds(text: str) -> float:
    """argparse type: `90s`, `10m`, `1h`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    value = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 10 <= value <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"expected a time from 10s to 24h, such as 90s or 10m, not {text!r}")
    return value


def drop(text: str) -> float:
    """argparse type: per cent, zero included; returns the share."""
    return 0.0 if text.removesuffix("%").strip() in ("0", "0.0") else percentage(text)
