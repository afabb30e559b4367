"""How well this machine is measured: overhead of the agent, repeatability, LUT sums against whole networks.

Two independent passes over the published space: all 88 operators, then 40 whole networks. About 15 minutes.
The tables are kept in the folder named by BENCH_OUT, if it is set, so that the figures in docs/ can be computed again.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import devices
import luts
from lightnas_edge.measuring import (
    Job,
    MeasurementProtocol,
    Settings,
    measure,
    network_key,
    sample_architectures,
    write_profile_job,
    write_sample_job,
)
from lightnas_edge.predictor import Predictor, evaluate, fit_additive, lut_predictor
from lightnas_edge.space import load_space

NETWORKS = 40
CALIBRATION = 10  # networks that the predictor may see; it is judged on the others
OPERATOR_ROUNDS = 25
NETWORK_ROUNDS = 15


def rows() -> list[tuple[str, str, str]]:
    space = load_space("lightnas")
    networks = sample_architectures(space, NETWORKS, seed=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(os.environ.get("BENCH_OUT", scratch))
        connection = devices.connect("localhost")
        operators_job = write_profile_job(Path(scratch) / "operators", space, _settings(OPERATOR_ROUNDS))
        networks_job = write_sample_job(Path(scratch) / "networks", space, _settings(NETWORK_ROUNDS), networks)

        def run(job: Job, name: str) -> luts.Lut:
            return measure(connection, job, folder / f"{name}.lut.jsonl", fresh=True)

        tables = [run(operators_job, "operators-1"), run(operators_job, "operators-2")]
        samples = [run(networks_job, "networks-1"), run(networks_job, "networks-2")]
    seen = [network_key(network) for network in networks[:CALIBRATION]]
    unseen = [network_key(network) for network in networks[CALIBRATION:]]
    calibrated = fit_additive(space, tables[0], [_only(samples[0], seen)])
    alone = lut_predictor(space, tables[0])
    raw = luts.drift_ratio(tables[0], tables[1])
    return [
        ("time spent in timed loops and warm-up, operators", f"{100 * _busy(tables[0]):.0f} %", "as high as possible"),
        ("drift between the two passes, uncorrected", f"{100 * (raw.value - 1):+.1f} %", "-"),
        ("repeatability of operators, two passes", f"{100 * luts.repeatability(*tables).operators:.2f} %", "small"),
        ("repeatability of networks, two passes", f"{100 * luts.repeatability(*samples).networks:.2f} %", "small"),
        (f"LUT sum alone, MAPE on {NETWORKS - CALIBRATION} networks", _mape(alone, samples[0], unseen, tables[0]), "-"),
        (
            f"LUT calibrated on {CALIBRATION} networks, MAPE on {NETWORKS - CALIBRATION} others",
            _mape(calibrated, samples[0], unseen, tables[0]),
            "<= 1 %",
        ),
    ]


def _settings(rounds: int) -> Settings:
    return Settings(protocol=MeasurementProtocol(rounds=rounds))


def _only(table: luts.Lut, keys: list[str]) -> luts.Lut:
    """The table with its operators and the listed networks only."""
    return replace(table, visits=tuple(visit for visit in table.visits if not visit.is_network or visit.key in keys))


def _mape(predictor: Predictor, table: luts.Lut, keys: list[str], lut: luts.Lut) -> str:
    return f"{100 * evaluate(predictor, [_only(table, keys)], lut=lut).mape:.2f} %"


def _busy(table: luts.Lut) -> float:
    """Share of the time between the first visit and the last one that was spent running the engine."""
    busy_s = sum(sum(visit.warmup_ms) + sum(visit.samples_ms) * visit.repeats for visit in table.visits) / 1e3
    times_s = [visit.t_s for visit in table.visits]
    return float(busy_s / (np.max(times_s) - np.min(times_s)))
