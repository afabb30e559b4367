"""The uncalibrated sum: a network's latency against the sum of its operators, each measured alone.

Ten random networks of `lightnas` and all of their operators in one job, in the same rounds, so that drift cancels. The
graphs have the edges that operators have inside a network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import devices
from benchmarks.notes import note
from lightnas_edge.cli._console import percent, progress
from lightnas_edge.measuring import (
    MeasurementProtocol,
    Settings,
    measure,
    network_key,
    sample_architectures,
    write_sample_job,
)
from lightnas_edge.space import load_space

NETWORKS, ROUNDS = 10, 15


def rows() -> list[tuple[str, str, str]]:
    found = []
    for precision in ("fp32", "int8"):
        errors, repeatability = _errors(precision)
        found += [
            (f"{precision}: sum of operators less network, mean", percent(float(errors.mean())), ""),
            (f"{precision}: largest in magnitude of {NETWORKS}", percent(float(np.abs(errors).max())), "below 8 %"),
            (f"{precision}: median spread of the networks' visits", percent(repeatability), ""),
        ]
    return found


def _errors(precision: str) -> tuple[np.ndarray, float]:
    """(networks,) relative error of the sum; the median spread of the networks."""
    space = load_space("lightnas")
    networks = sample_architectures(space, NETWORKS, seed=1)
    chains = [[shaped for shaped in space.chain(network) if not shaped.is_identity] for network in networks]
    operators = list({shaped.key: shaped for chain in chains for shaped in chain}.values())
    settings = Settings(precision=precision, protocol=MeasurementProtocol(rounds=ROUNDS, extra_rounds=0))
    with tempfile.TemporaryDirectory() as scratch, progress(f"measuring {precision}") as bar:
        job = write_sample_job(Path(scratch) / "job", space, settings, networks, extra_operators=operators)
        lut = measure(
            devices.connect("localhost"), job, Path(scratch) / "sum.lut.jsonl", fresh=True,
            on_progress=lambda status: bar(status.done, max(status.total, 1), status.key, status.eta_s),
        )  # fmt: skip
    measured = [lut.networks[network_key(network)] for network in networks]
    sums = [sum(lut.entries[shaped.key].latency_ms for shaped in chain) for chain in chains]
    for entry, total in zip(measured, sums, strict=True):
        note(f"{precision} {entry.key}: {entry.latency_ms:.2f} ms, sum {total:.2f} ms")
    errors = np.array(sums) / np.array([entry.latency_ms for entry in measured]) - 1
    return errors, float(np.median([entry.spread for entry in measured]))
