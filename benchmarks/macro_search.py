"""Searches of nasbench-macro on CIFAR-10: what the networks that they choose for 50 budgets lose against the best ones.

    python -m benchmarks.macro_search                              the table, from the searches stored in benchmarks/macro/runs
    python -m benchmarks.macro_search --run shared --seed 0        one more search, stored; some 20 minutes of one core
    python -m benchmarks.macro_search --check shared-0             that search again: does it give the stored networks?

Budgets, regret, floors: benchmarks/macro.py. Every method sees the same predictor, fitted to 100 networks, and keeps a budget with
its 95 % upper bound; the measured latency decides whether the budget is kept. A search sees 6,000 training images of CIFAR-10 and
holds 1,500 others of them out; the accuracies of the truth are on the test images.

Methods:
    shared, entangled     one search for all budgets
    ..., scores alone     the same searches without comparing candidates on held-out images
    evolution             on the supernets of `shared`, for every fifth budget: SPOS (arXiv 1904.00420), fitness is held-out accuracy
    lightnas              the published loop, for five of the budgets, one search each; the most probable network, as published
    lightnas, exact       the same searches, the network chosen by the exact selection
    most MACs, slowest    no search: by the predicted bound
    10 trainings          the best of ten random networks within the bound, by one published training of each

Passes: forward, of one image; a forward and backward pass counts as three.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import recorded
from benchmarks.bench_search import COMPARED_IMAGES, CONFIDENCE, evolve, search_passes, supernet_fitness
from benchmarks.macro import ACCURACIES, MacroTruth, floors, latency_observations
from benchmarks.macro_latency import FOLDER
from benchmarks.notes import note
from benchmarks.truth_task import Task
from lightnas_edge.cli._console import print_result, print_table
from lightnas_edge.data import DataSet, load_data
from lightnas_edge.files import write_json
from lightnas_edge.predictor import AdditivePredictor, fit_additive
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.space import Architecture, Space

RUNS = FOLDER / "runs"
IMAGES = "cifar10_full/cifar10.tar"
TRAIN, HELD_OUT = 600, 150  # images of each class
NETWORKS = 100  # that the predictor is fitted to
EPOCHS, BATCH, ARCHITECTURE_BATCH = 9, 64, 32
EVOLVED, LOOPED = slice(2, None, 5), slice(4, None, 10)  # of the 50 budgets: ten and five
TRAININGS, DRAWS = 10, 20
GROUPS = ("shared", "entangled", "lightnas")  # what one search yields

Found = dict[str, dict[int, str]]  # method -> number of the budget -> one digit per layer


class Problem:
    """The truth, and what every method knows of latency."""

    def __init__(self) -> None:
        self.truth = MacroTruth.load()
        measured = latency_observations()
        rows = np.random.default_rng(0).permutation(len(measured))[:NETWORKS]
        self.predictor: AdditivePredictor = fit_additive(measured.space, None, measured.take(rows))
        one_hot = one_hot_of(measured.space, self.truth.indices)
        self.predicted_ms = self.predictor.predict(one_hot)
        self.upper_ms = self.predictor.upper(one_hot, CONFIDENCE)

    @property
    def space(self) -> Space:
        return self.truth.space

    def best_by(self, score: NDArray[np.float64]) -> dict[int, str]:
        rows = [int(np.where(self.upper_ms <= limit, score, -np.inf).argmax()) for limit in self.truth.budgets_ms]
        return {number: _digits(self.truth.indices[row]) for number, row in enumerate(rows)}


class Population:
    """What `evolve` asks of a truth."""

    def __init__(self, problem: Problem) -> None:
        self.space, self.indices, self.upper_ms = problem.space, problem.truth.indices, problem.upper_ms
        self.networks = [Architecture.from_indices(self.space, row) for row in self.indices]


# -- searches -------------------------------------------------------------------------------------------------------


def images(folder: Path, space: Space, seed: int) -> DataSet:
    """A part of CIFAR-10's training images, unpacked into the folder."""
    ends = {"train": (0, TRAIN), "val": (TRAIN, TRAIN + HELD_OUT)}
    with tarfile.open(recorded.folder() / IMAGES) as archive:
        names: dict[str, list[str]] = defaultdict(list)
        for name in archive.getnames():
            parts = name.split("/")
            if name.endswith(".jpg") and "train" in parts:
                names[parts[-2]].append(name)
        for class_name, files in names.items():
            for part, (begin, end) in ends.items():
                place = folder / part / class_name
                place.mkdir(parents=True)
                for file in sorted(files)[begin:end]:
                    content = archive.extractfile(file)
                    assert content is not None, f"{file} of {IMAGES} is no file"
                    (place / Path(file).name).write_bytes(content.read())
    return load_data(str(folder), space=space, seed=seed)


def search(problem: Problem, group: str, seed: int, keep: Path) -> tuple[Found, dict[str, float]]:
    """Networks by method and budget, and passes by method for all budgets together."""
    from lightnas_edge.search import Budget, Constraint, SearchConfig, run_search

    space, limits = problem.space, problem.truth.budgets_ms
    data = images(keep / "images", space, seed)
    task = Task(space, data, test=None)  # type: ignore[arg-type]  # nothing here sees a test image
    config = SearchConfig(
        method=group, epochs=EPOCHS, batch=BATCH, architecture_batch=ARCHITECTURE_BATCH, seed=seed, device="cpu", confidence=CONFIDENCE,
    )  # fmt: skip
    budgets = [Budget(f"{limit:.4f}ms", (Constraint(problem.predictor, float(limit)),)) for limit in limits]
    passes = search_passes(task, config)
    if group == "lightnas":
        found: Found = {"lightnas": {}, "lightnas, exact": {}}
        for number in range(len(budgets))[LOOPED]:
            note(f"{group} {seed}: budget {number}")
            (result,) = run_search(keep / budgets[number].name, space, data, budgets[number], config)
            found["lightnas"][number] = _digits(result.derived.indices(space))
            found["lightnas, exact"][number] = _digits(result.architecture.indices(space))
        return found, dict.fromkeys(found, passes * len(found["lightnas"]))
    results = run_search(keep / "run", space, data, budgets, config)
    one = COMPARED_IMAGES + len(data.validation)
    compared = {each for result in results for each in (result.architecture, *_others(result))}
    found = {
        group: {number: _digits(result.architecture.indices(space)) for number, result in enumerate(results)},
        f"{group}, scores alone": {number: _digits(result.top_scored.indices(space)) for number, result in enumerate(results)},
    }  # fmt: skip
    cost = {group: passes + one * len(compared), f"{group}, scores alone": passes}
    if group == "shared":
        found["evolution"], scored = _evolved(problem, task, data, config, keep / "run")
        cost["evolution"] = passes + one * scored
    return found, cost


def _others(result: Any) -> Iterator[Architecture]:
    for other in result.others:
        yield getattr(other, "architecture", other)


def _evolved(problem: Problem, task: Task, data: DataSet, config: Any, run: Path) -> tuple[dict[int, str], int]:
    from lightnas_edge.nn.checkpoint import load_checkpoint
    from lightnas_edge.search.state import SCHEMA

    weights = load_checkpoint(run / "search" / "checkpoint.pt", schema=SCHEMA)["supernet"]
    score = supernet_fitness(task, data, weights, config)
    scored: set[tuple[int, ...]] = set()

    def fitness(indices: tuple[int, ...]) -> float:
        scored.add(indices)
        return score(indices)

    population, found = Population(problem), {}
    slugs = {network.slug: row for network, row in zip(population.networks, population.indices, strict=True)}
    for number in range(len(problem.truth.budgets_ms))[EVOLVED]:
        note(f"evolution {config.seed}: budget {number}")
        generator = np.random.default_rng([config.seed, number])
        slug, _ = evolve(population, float(problem.truth.budgets_ms[number]), fitness, generator)  # type: ignore[arg-type]
        found[number] = _digits(slugs[slug])
    return found, len(scored)


def run_once(problem: Problem, group: str, seed: int) -> dict[str, Any]:
    """A search and where it came from."""
    import torch

    torch.set_num_threads(1)
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found, passes = search(problem, group, seed, Path(folder))
    return {
        "group": group, "seed": seed, "commit": _commit(), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", "onnxruntime", "scipy", "scikit-learn", "highspy")},
        "cpu": _cpu(), "threads": 1, "images_per_class": [TRAIN, HELD_OUT], "epochs": EPOCHS, "batch": BATCH,
        "seconds": round(time.monotonic() - begun_s, 1), "passes": {name: round(count) for name, count in passes.items()},
        "budgets_ms": [round(float(limit), 6) for limit in problem.truth.budgets_ms], "found": found,
    }  # fmt: skip


def _commit() -> str:
    answer = subprocess.run(
        ["git", "-C", str(FOLDER), "describe", "--always", "--abbrev=40", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return answer.stdout.strip() or "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _digits(indices: Sequence[int] | NDArray[np.int64]) -> str:
    return "".join(str(int(each)) for each in indices)


# -- the table ------------------------------------------------------------------------------------------------------


def stored() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RUNS.glob("*.json"))]


def without_search(problem: Problem) -> dict[str, list[dict[int, str]]]:
    truth = problem.truth
    trained = []
    for draw in range(DRAWS):
        generator, best = np.random.default_rng([3, draw]), {}
        for number, limit in enumerate(truth.budgets_ms):
            tried = generator.permutation(np.flatnonzero(problem.upper_ms <= limit))[:TRAININGS]
            best[number] = _digits(truth.indices[tried[truth.trainings[tried, 0].argmax()]])
        trained.append(best)
    return {
        "most MACs": [problem.best_by(truth.macs)],
        "slowest": [problem.best_by(problem.predicted_ms)],
        "10 trainings": trained,
    }


def table(problem: Problem, runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Of every method: the mean over seeds of the mean regret over budgets, and the standard error over seeds."""
    truth = problem.truth
    found: dict[str, list[dict[int, str]]] = defaultdict(list)
    passes: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for method, networks in run["found"].items():
            found[method].append({int(number): digits for number, digits in networks.items()})
            passes[method].append(run["passes"][method])
    found.update(without_search(problem))
    best = truth.accuracy[truth.best_by(truth.accuracy)]
    rows = []
    for method, searches in found.items():
        means, kept, networks = [], [], set()
        for each in searches:
            places = np.array([truth.place[tuple(map(int, digits))] for digits in each.values()])
            numbers = np.array(list(each))
            holds = truth.latency_ms[places] <= truth.budgets_ms[numbers]
            regret = best[numbers] - truth.accuracy[places]
            means.append(float(regret[holds].mean()) if holds.any() else np.nan)
            kept.append(float(holds.mean()))
            networks |= set(places.tolist())
        error = f" ± {np.std(means, ddof=1) / np.sqrt(len(means)):.3f}" if len(means) > 1 else ""
        cost = f"{np.mean(passes[method]) / 1e6:.3f}" if method in passes else "0" if method != "10 trainings" else "-"
        rows.append([
            method, f"{np.mean(means):.3f}{error}", f"{100 * np.mean(kept):.0f} %", str(len(searches)), str(len(searches[0])),
            str(len(networks)), cost,
        ])  # fmt: skip
    return sorted(rows, key=lambda row: float(row[1].split()[0]))


COLUMNS = ["method", "regret, points", "budgets kept", "seeds", "budgets", "distinct networks", "M passes"]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=GROUPS, help="search once more, with --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", metavar="NAME", help="a stored search, for example shared-0")
    arguments = parser.parse_args(argv)
    needed = (ACCURACIES, IMAGES) if arguments.run or arguments.check else (ACCURACIES,)
    if skipped := recorded.missing(*needed):
        print_result(skipped)
        return 0
    problem = Problem()
    if arguments.check:
        before = json.loads((RUNS / f"{arguments.check}.json").read_text(encoding="utf-8"))
        again = run_once(problem, before["group"], before["seed"])
        differing = [
            f"{method}, budget {number}: {digits}, now {again['found'][method][int(number)]}"
            for method, networks in before["found"].items()
            for number, digits in networks.items()
            if again["found"][method][int(number)] != digits
        ]
        print_result("\n".join(differing) or f"{arguments.check}: the stored networks")
        return 1 if differing else 0
    if arguments.run:
        result = run_once(problem, arguments.run, arguments.seed)
        RUNS.mkdir(exist_ok=True)
        write_json(RUNS / f"{arguments.run}-{arguments.seed}.json", result)
    print_table(COLUMNS, table(problem, stored()))
    rows = [[name, f"{np.mean(regret):.3f}"] for name, regret in floors(problem.truth).items()]
    print_table(["floors: scores that know the truth, networks by their measured latency", "regret, points"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
