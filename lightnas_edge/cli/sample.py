"""`lightnas-edge sample`: measure whole networks, to fit and to check a predictor."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import devices
import luts
from lightnas_edge.cli._console import note, percent, print_json, print_table, say, warn
from lightnas_edge.cli._measuring import job_folder, measure_with_progress, tell_table
from lightnas_edge.cli._options import (
    add_classes,
    add_host,
    add_measuring,
    add_space,
    chosen_space,
    count,
    milliseconds,
    percentage,
    positive,
    read_prior,
    settings,
    sudo_password,
    table_path,
)
from lightnas_edge.errors import PredictorError
from lightnas_edge.measuring import (
    Job,
    Settings,
    reference_architectures,
    sample_architectures,
    write_sample_job,
)
from lightnas_edge.runs import write_json
from lightnas_edge.space import Architecture, Space

if TYPE_CHECKING:
    from lightnas_edge.predictor import FitProgress

_SCHEMA = 1
_COUNT, _MOST = 10, 60
_UNTIL = 0.01
_ENDS = {
    "reached": "the wanted ±{until} is reached",
    "noise": "what is left is the noise of measuring: more networks would not help, more --rounds or a quieter board would",
    "misfit": "what is left no sum of operators can tell, however many networks are measured",
    "count": "--count {most} networks are measured; the wanted ±{until} needs more",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "sample", help="measure whole networks",
        description="Measure whole networks of a space, with random weights, and a few operators beside them that tie "
        "them to the operators' table. The first ten are the same on every board, the others random: the same seed and a larger "
        "count add networks to those already measured. With --adaptive, each further batch is what leaves the least doubt.",
        epilog="example: lightnas-edge sample --host localhost --space tiny --adaptive --until 1",
    )  # fmt: skip
    add_host(parser)
    add_space(parser)
    add_classes(parser)
    parser.add_argument(
        "--count", type=count, metavar="N", help=f"networks (default: {_COUNT}; at most {_MOST} with --adaptive)"
    )
    group = parser.add_argument_group("as many as it takes")
    group.add_argument(
        "--adaptive", action="store_true", help="choose what to measure by the doubt that is left, and stop in time"
    )
    group.add_argument(
        "--until", type=percentage, metavar="PERCENT",
        help="stop when a network's 90 %% interval is at most this wide to each side (default: 1)",
    )  # fmt: skip
    group.add_argument(
        "--around-ms", type=milliseconds, metavar="MS",
        help="for networks near this latency (default: for the whole space)",
    )  # fmt: skip
    group.add_argument(
        "--metric", choices=list(luts.METRICS), metavar="NAME",
        help=f"what shall be known: {', '.join(luts.METRICS)} (default: latency_ms)",
    )  # fmt: skip
    group.add_argument(
        "--around-mj", type=positive, metavar="MJ", help="for networks near this energy, with --metric energy_mj"
    )
    group.add_argument("--batch-networks", type=count, metavar="N", help="networks between two looks (default: 5)")
    known = group.add_mutually_exclusive_group()
    known.add_argument(
        "--prior", type=Path, metavar="FILE", help="start from the predictor of another board, power mode or batch size"
    )
    known.add_argument(
        "--lut", type=Path, metavar="FILE", help="the operators' table to start from (default: the one named after host, "
        "space and settings, where it is there)",
    )  # fmt: skip
    group.add_argument("--json", action="store_true", help="the curve, for machines")
    add_measuring(parser, rounds=15)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the table (default: named after host, space, settings)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.adaptive:
        for name in ("until", "metric", "around_ms", "around_mj", "batch_networks", "prior", "lut", "json"):
            if getattr(arguments, name):
                note(f"--{name.replace('_', '-')} goes with --adaptive")
                return 2
    metric = arguments.metric or "latency_ms"
    unit = luts.METRICS[metric]
    if metric.endswith("energy_mj") and not arguments.energy:
        note(f"--metric {metric} needs --energy")
        return 2
    if (arguments.around_ms and unit != "ms") or (arguments.around_mj and unit != "mJ"):
        note(f"{metric} is not in the unit of --around-{'ms' if arguments.around_ms else 'mj'}")
        return 2
    space = chosen_space(arguments)
    connection = devices.connect(arguments.host)
    chosen = settings(arguments, connection)
    table = arguments.out or table_path(arguments.host, space.name, chosen, "-networks")
    if arguments.adaptive:
        return _Adaptive(arguments, space, connection, chosen, table).run()
    architectures = sample_architectures(space, arguments.count or _COUNT, arguments.seed)
    started_s = time.monotonic()
    with job_folder() as folder:
        job, lut = measure_with_progress(
            connection,
            lambda tell: write_sample_job(folder, space, chosen, architectures, on_progress=tell),
            table, title=f"measuring networks of {space.name} on {arguments.host}", fresh=arguments.fresh,
            sudo_password=sudo_password(arguments),
        )  # fmt: skip
    tell_table(job, lut, energy=arguments.energy, started_s=started_s, ended_s=time.monotonic())
    return 0 if _whole(job, lut) else 1


def _whole(job: Job, lut: luts.Lut) -> bool:
    return all(key in lut.entries or key in lut.networks for key in job.keys)


class _Adaptive:
    """Batches until the interval is narrow enough. What is being measured is written down first, so that a run which
    was interrupted goes on with the same networks."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        space: Space,
        connection: devices.Connection,
        chosen: Settings,
        table: Path,
    ) -> None:
        self._arguments, self._space, self._connection = arguments, space, connection
        self._chosen, self._table = chosen, table
        self._metric = arguments.metric or "latency_ms"
        self._around = arguments.around_ms or arguments.around_mj
        self._most = arguments.count or _MOST
        self._until = arguments.until or _UNTIL
        self._batch = arguments.batch_networks or 5
        self._path = table.with_name(table.name.removesuffix(".jsonl").removesuffix(".lut") + ".adaptive.json")
        self._prior = read_prior(arguments.prior, space)
        known = arguments.lut or table_path(arguments.host, space.name, chosen, "")
        there = arguments.lut or (known.exists() and self._prior is None)
        self._lut = luts.read(known) if there else None
        self._sudo_password = sudo_password(arguments)
        self._is_whole = True

    def run(self) -> int:
        from lightnas_edge.predictor import assess, choose_batch, fit_additive, load_observations, stopping_reason

        record = self._load()
        planned = [Architecture.from_names(self._space, names) for names in record["planned"]]
        if not planned and not record["curve"]:
            planned = reference_architectures(self._space)[: self._most]
        if self._lut is None and self._prior is None:
            note("no table of operators to start from: the networks alone have to tell (lightnas-edge profile)")
        table = luts.read(self._table) if record["curve"] else None
        stop: str | None = None
        fit_progress: FitProgress | None = None
        while stop is None:
            if planned:
                table = self._measure(planned, len(table.networks) if table else 0)
            assert table is not None
            observations = load_observations(self._space, [table], self._lut, metric=self._metric)
            predictor = fit_additive(self._space, self._lut, observations, prior=self._prior)
            fit_progress = assess(predictor, observations, self._around)
            if not record["curve"] or record["curve"][-1]["networks"] != fit_progress.networks:
                record["curve"].append(fit_progress.to_json())
            note(f"{fit_progress.networks} networks: {_plus_minus(fit_progress)}")
            stop = stopping_reason(fit_progress, self._until, self._most)
            planned = []
            if stop is None:
                known = {Architecture.from_indices(self._space, row) for row in observations.indices}
                known |= {Architecture.from_names(self._space, names) for names in record["tried"]}
                wanted = min(self._batch, self._most - fit_progress.networks)
                planned = choose_batch(predictor, known, wanted, self._around)
                stop = None if planned else "count"
            names = [[operator.name for operator in architecture.operators] for architecture in planned]
            record.update(planned=names, tried=record["tried"] + names, stopped=stop)
            self._save(record)
        assert fit_progress is not None and stop is not None
        self._tell(record, fit_progress, stop)
        return 0 if self._is_whole else 1

    def _measure(self, planned: Sequence[Architecture], done: int) -> luts.Lut:
        with job_folder() as folder:
            job, lut = measure_with_progress(
                self._connection,
                lambda tell: write_sample_job(folder, self._space, self._chosen, planned, on_progress=tell),
                self._table, title=f"networks {done + 1} to {done + len(planned)}, at most {self._most}",
                fresh=self._arguments.fresh and done == 0, sudo_password=self._sudo_password,
            )  # fmt: skip
        for key, error in lut.failed.items():
            if key in job.keys:
                warn(f"{key} could not be measured: {error.get('message', 'no reason given')}")
        self._is_whole &= _whole(job, lut)
        if not any(key in lut.networks for key in job.keys):
            raise PredictorError(
                f"none of the {len(planned)} networks could be measured: going on would not help",
                hint="the reasons are above; what was measured before is kept",
            )
        return lut

    def _load(self) -> dict[str, Any]:
        from lightnas_edge.predictor import FitProgress

        asked = {"metric": self._metric, "around": self._around, "until": self._until}
        empty = {
            "kind": "adaptive-sampling", "schema": _SCHEMA, "space": self._space.name, "table": self._table.name,
            "asked": asked, "curve": [], "planned": [], "tried": [], "stopped": None,
        }  # fmt: skip
        if self._arguments.fresh or not self._path.exists() or not self._table.exists():
            if self._path.exists():
                os.replace(self._path, self._path.with_name(self._path.name + ".old"))
            return empty
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            kept = {name: list(record[name]) for name in ("curve", "planned", "tried")}
            for point in kept["curve"]:
                FitProgress(**point)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PredictorError(
                f"cannot go on with {self._path}: {type(error).__name__}: {error}",
                hint="remove it to begin from what the table holds, or --fresh to measure anew",
            ) from error
        if record.get("asked") != asked:
            kept["curve"] = []  # another interval of other networks: not one curve
        return {**empty, **kept}

    def _save(self, record: dict[str, Any]) -> None:
        write_json(self._path, record)

    def _tell(self, record: dict[str, Any], fit_progress: FitProgress, stop: str) -> None:
        if self._arguments.json:
            print_json(record)
            return
        curve = record["curve"]
        columns = ["networks", "90 % interval", "at best", "error, left out", ""]
        widest = max(point["half_width"] for point in curve)
        print_table(columns, [
            [
                str(point["networks"]), f"± {percent(point['half_width'], 2)}", f"± {percent(point['floor'], 2)}",
                percent(point["leave_one_out"], 2), ("█" * max(1, round(24 * point["half_width"] / widest))).ljust(24),
            ]
            for point in curve
        ])  # fmt: skip
        said = _ENDS[stop].format(until=percent(self._until, 1), most=self._most)
        around = f" near {self._around:g} {luts.METRICS[self._metric]}" if self._around else ""
        simulated = "SIMULATED: " if self._connection.backend == "simulated" else ""
        say(f"{simulated}{fit_progress.networks} networks, {_plus_minus(fit_progress)}{around}: {said}")
        say(f"measured again, a network would differ by {percent(fit_progress.repeatability, 2)}: {self._table}")


def _plus_minus(fit_progress: FitProgress) -> str:
    return f"± {percent(fit_progress.half_width, 2)} (at best ± {percent(fit_progress.floor, 2)})"
