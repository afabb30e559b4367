"""Measures all 3,969 distinct networks of the space nasbench-macro on this machine: benchmarks/macro/latency.csv.

    python -m benchmarks.macro_latency --raw FOLDER               resumes where it was stopped; some 20 minutes of an idle machine
    python -m benchmarks.macro_latency --raw FOLDER --limit 1

Two passes, each in groups of 60 networks; the second pass deals them to other groups. The networks of a group are loaded at once, by the
agent's own ONNX Runtime engine, and take turns in random order: a turn is one inference to warm up and four timed alone. A
virtual machine is faster and slower for a second or two at a time, so every turn is divided by the running median of the
turns around it, all relative to their networks. A network's latency in a pass is the median of its turns. The factor
of a group comes from its networks, each of which a group of the other pass measured too.

Columns of the table: `network`, one digit per layer as in NAS-Bench-Macro, of equal networks the last of them in order;
`first_ms` and `second_ms`, the latency of each pass; `first_se_ms` and `second_se_ms`, the standard error of each, from its own turns.
`latency.json` says on what they were measured. The raw samples (.npz, a group each) stay in FOLDER.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from benchmarks.notes import note
from lightnas_edge import graph
from lightnas_edge.files import write_json
from lightnas_edge.space import Architecture, Space, load_space
from profiler import board
from profiler.backends import Backend, open_backend

FOLDER = Path(__file__).parent / "macro"
TABLE, PROVENANCE = FOLDER / "latency.csv", FOLDER / "latency.json"
SPACE = "nasbench-macro"
PASSES, GROUP, TURNS, TIMED = 2, 60, 10, 4
FIELDS = ("network", "first_ms", "second_ms", "first_se_ms", "second_se_ms")
_WINDOW = 11  # turns of the running median: about 100 ms
_RESAMPLES = 200
_ITERATIONS = 30  # of medians in turn; they settle within ten

Array = NDArray[np.float64]
Indices = tuple[int, ...]


def distinct_networks(space: Space) -> dict[tuple[str, ...], list[Indices]]:
    """(keys of the operators in order, without identities) -> the (L,) indices of every equal architecture."""
    found: dict[tuple[str, ...], list[Indices]] = {}
    for indices in itertools.product(range(len(space.operators)), repeat=len(space.layers)):
        shaped = [space.at(layer, space.operators[index]) for layer, index in enumerate(indices)]
        found.setdefault(tuple(each.key for each in shaped if not each.is_identity), []).append(indices)
    return found


def measure(space: Space, networks: Sequence[Indices], seed: int) -> tuple[NDArray[np.int64], Array]:
    """(turns,) which network had the turn, and (turns, TIMED) samples in ms."""
    backend = _backend()
    engines = [
        backend.load(graph.model_bytes(graph.network_model(space, Architecture.from_indices(space, np.array(each)))))
        for each in networks
    ]
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(len(networks)) for _ in range(TURNS)])
    samples_ms = np.zeros((len(order), TIMED))
    for turn, network in enumerate(order):
        engine = engines[network]
        engine.run(1)
        for sample in range(TIMED):
            started_ns = time.perf_counter_ns()
            engine.run(1)
            samples_ms[turn, sample] = (time.perf_counter_ns() - started_ns) / 1e6
    return order, samples_ms


def latencies(order: NDArray[np.int64], samples_ms: Array) -> tuple[Array, Array]:
    """(networks,) latency in ms and its standard error, without the machine's state of the moment."""
    turn_log_ms = np.log(np.median(samples_ms, axis=1))
    places = [np.flatnonzero(order == network) for network in range(int(order.max()) + 1)]
    state = np.zeros(len(order))
    for _ in range(_ITERATIONS):
        centre = np.array([float(np.median((turn_log_ms - state)[rows])) for rows in places])
        state = median_filter(turn_log_ms - centre[order], size=_WINDOW, mode="nearest")
        state -= np.median(state)
    corrected = turn_log_ms - state
    own = [corrected[rows] for rows in places]
    latency_ms = np.exp([float(np.median(each)) for each in own])
    return latency_ms, np.array([_median_error(each) for each in own]) * latency_ms


def group_factors(group: NDArray[np.int64], network: NDArray[np.int64], log_ms: Array) -> Array:
    """(groups,) logarithm of the factor of each: medians by group and means by network in turn; their median is 0.

    Args:
        group, network: (n,) of every measurement, from 0 up without gaps. log_ms: (n,)
    """
    factor = np.zeros(int(group.max()) + 1)
    places = [np.flatnonzero(group == index) for index in range(len(factor))]
    count = np.bincount(network)
    for _ in range(_ITERATIONS):
        cost = np.bincount(network, log_ms - factor[group]) / count
        factor = np.array([float(np.median((log_ms - cost[network])[rows])) for rows in places])
        factor -= np.median(factor)
    return factor


def _backend() -> Backend:
    return open_backend("onnxruntime", precision="fp32", batch=1, threads=1, home=tempfile.gettempdir())


def _median_error(values: Array) -> float:
    """Standard error of the median, by a bootstrap with a fixed seed."""
    draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    return float(np.std(np.median(values[draws], axis=1), ddof=1))


def _groups(count: int, number: int) -> list[NDArray[np.int64]]:
    dealt = np.random.default_rng(number).permutation(count)
    return [dealt[start : start + GROUP] for start in range(0, count, GROUP)]


def measure_all(space: Space, networks: list[Indices], raw: Path, limit: int | None) -> None:
    for number in range(PASSES):
        groups = _groups(len(networks), number)[:limit]
        for index, rows in enumerate(groups):
            path = _raw_path(raw, number, index)
            if path.exists():
                continue
            order, samples_ms = measure(space, [networks[row] for row in rows], seed=1000 * number + index)
            partial = path.with_suffix(".partial.npz")
            np.savez_compressed(partial, order=order, samples_ms=samples_ms, rows=rows)
            partial.rename(path)
            note(f"pass {number + 1}, group {index + 1} of {len(groups)}")


def _raw_path(raw: Path, number: int, index: int) -> Path:
    return raw / f"pass-{number + 1}-group-{index + 1:02}.npz"


def write_table(space: Space, networks: list[Indices], raw: Path) -> None:
    values, errors = (np.zeros((PASSES, len(networks))) for _ in range(2))
    group_of = np.zeros((PASSES, len(networks)), dtype=np.int64)
    first = 0
    for number in range(PASSES):
        for index, rows in enumerate(_groups(len(networks), number)):
            with np.load(_raw_path(raw, number, index)) as found:
                values[number, rows], errors[number, rows] = latencies(found["order"], found["samples_ms"])
            group_of[number, rows] = first + index
        first = int(group_of.max()) + 1
    log_factor = group_factors(group_of.ravel(), np.tile(np.arange(len(networks)), PASSES), np.log(values).ravel())
    values, errors = (each / np.exp(log_factor)[group_of] for each in (values, errors))
    FOLDER.mkdir(exist_ok=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for row in sorted(range(len(networks)), key=lambda row: networks[row]):
            columns = (*values[:, row], *errors[:, row])
            writer.writerow(["".join(map(str, networks[row])), *(f"{value:.5f}" for value in columns)])
    started = datetime.datetime.fromtimestamp(_raw_path(raw, 0, 0).stat().st_mtime, datetime.UTC)
    write_json(PROVENANCE, {
        "space": SPACE, "space_sha256": space.sha256, "networks": len(networks), "measured": started.date().isoformat(),
        "fingerprint": {**board.fingerprint({"name": "generic-linux"}), **_backend().fingerprint()},
        "simulated": False, "passes": PASSES, "group_networks": GROUP, "turns": TURNS, "inferences_of_a_turn": TIMED,
        "repeatability": float(f"{np.sqrt(np.mean(np.log(values[1] / values[0]) ** 2) / 2):.3g}"),
        "standard_error_median": float(f"{np.median(errors / values):.3g}"),
        "group_factors": [float(f"{value:.4f}") for value in np.exp(log_factor)],
    })  # fmt: skip


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, metavar="FOLDER", help="where the samples are kept")
    parser.add_argument("--limit", type=int, metavar="N", help="groups of each pass; writes no table")
    arguments = parser.parse_args(argv)
    space = load_space(SPACE)
    arguments.raw.mkdir(parents=True, exist_ok=True)
    networks = [equal[-1] for equal in distinct_networks(space).values()]
    measure_all(space, networks, arguments.raw, arguments.limit)
    if arguments.limit is None:
        write_table(space, networks, arguments.raw)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
