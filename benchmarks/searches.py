"""Searches on spaces where the best networks are known: run once, stored with where they came from, judged by the truth.

What `benchmarks.bench_search` (digits) and `benchmarks.macro_search` (NAS-Bench-Macro) have in common. A search is run by one
command and stored in one file; the same command with --check runs it again and compares the networks.

Methods, all with the same predictor, the same images and 95 % confidence:
    entangled             one supernet for all budgets, operators are cuts of the largest, which teaches them; operator scores from
                          losses of whole paths
    entangled, gradients  the same supernet; scores from gradients of the difference between two operators of every layer
    shared                every operator has weights of its own; as many passes as `entangled`
    shared, gradients
    blockwise             the largest network is trained, and every other operator learns to do what it does; operator scores from
                          networks that differ from it in one layer; fewer passes than `shared`
    ..., 8 measured       the same scores, and up to 8 finalists of a budget measured (`search --confirm 8`)
    evolution, evolution entangled      on the supernets of `shared` and `entangled`: SPOS (arXiv 1904.00420), fitness is held-out accuracy
    lightnas              the published loop, one search for a budget; the most probable network, as published
    lightnas, exact       the same searches, the network chosen by the exact selection

Passes: forward, of one image; a forward and backward pass counts as three, without gradients of weights as two.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.notes import note
from lightnas_edge.cli._console import print_result, print_table
from lightnas_edge.data import DataSet
from lightnas_edge.files import write_json
from lightnas_edge.predictor import AdditivePredictor, Observations
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.search.config import LOSSES
from lightnas_edge.search.posterior import OperatorPosterior, arithmetic_of, arithmetic_weight
from lightnas_edge.space import Architecture, Space

CONFIDENCE = 0.95
EPOCHS, ENTANGLED_EPOCHS, BATCH, ARCHITECTURE_BATCH = 9, 6, 64, 32
POPULATION, GENERATIONS, PARENTS, MUTATION = 12, 5, 6, 0.25  # of the evolution
GROUPS: dict[str, dict[str, Any]] = {  # what one search, or one of each budget, yields
    "shared": {"method": "shared"},
    "shared-gradients": {"method": "shared", "evidence": "gradients"},
    "entangled": {"method": "entangled", "epochs": ENTANGLED_EPOCHS},
    "entangled-gradients": {"method": "entangled", "evidence": "gradients", "epochs": ENTANGLED_EPOCHS},
    "blockwise": {"method": "blockwise"},
    "lightnas": {"method": "lightnas"},
}
EVOLVED = {"shared": "evolution", "entangled": "evolution entangled"}

Array = NDArray[np.float64]
Network = tuple[int, ...]  # one operator of every layer
Found = dict[int, Network]  # by the number of the budget


@dataclass(frozen=True, eq=False)
class Truth(ABC):
    """A space where every network is known.

    Shapes: N networks, L layers, B budgets.

    Args:
        indices: (N, L). accuracy: (N,) in percent. observations: of the N networks, measured. budgets_ms: (B,).
        evolved, looped: numbers of the budgets for which evolution and the published loop search.
    """

    space: Space
    indices: NDArray[np.int64]
    accuracy: Array
    observations: Observations
    predictor: AdditivePredictor
    budgets_ms: Array
    runs: Path
    evolved: slice
    looped: slice

    @abstractmethod
    def images(self, folder: Path, seed: int) -> DataSet:
        """What a search may see."""

    @abstractmethod
    def without_search(self) -> dict[str, list[Found]]:
        """Of methods that train no supernet, what each repetition takes."""

    @property
    def latency_ms(self) -> Array:
        """(N,) measured."""
        return self.observations.value

    def rows_of(self, architectures: Sequence[Architecture]) -> NDArray[np.int64]:
        """(n,) of each its row."""
        return np.array([self.place[_network(each, self.space)] for each in architectures])

    @cached_property
    def upper_ms(self) -> Array:
        """(N,) the predictor's bound, which must keep a budget."""
        return self.predictor.upper(one_hot_of(self.space, self.indices), CONFIDENCE)

    @cached_property
    def predicted_ms(self) -> Array:
        return self.predictor.predict(one_hot_of(self.space, self.indices))

    @cached_property
    def place(self) -> dict[Network, int]:
        """Of every network, its row."""
        return {tuple(row): number for number, row in enumerate(self.indices.tolist())}

    @cached_property
    def best(self) -> Array:
        """(B,) the highest accuracy within each budget."""
        within = self.latency_ms <= self.budgets_ms[:, None]
        return np.where(within, self.accuracy, -np.inf).max(axis=1)

    def best_by(self, score: Array) -> Found:
        """The highest score within the predictor's bound."""
        return {
            number: tuple(self.indices[int(np.where(self.upper_ms <= limit, score, -np.inf).argmax())].tolist())
            for number, limit in enumerate(self.budgets_ms)
        }


# -- one search -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Searched:
    """By method: networks, and passes for all budgets together.

    `scores`: (L, K) what the losses say, and `arithmetic_weight` how many times as much arithmetic counts; None without a posterior.
    """

    found: dict[str, Found]
    passes: dict[str, float]
    scores: Array | None = None
    arithmetic_weight: float | None = None


def search(truth: Truth, group: str, seed: int, keep: Path, evolution: bool, *, epochs: int | None = None) -> Searched:
    """One search; `epochs` instead of those of the group."""
    from benchmarks.measured_finalists import MEASURED, with_measured_finalists
    from lightnas_edge.search import Budget, Constraint, SearchConfig, run_search

    space = truth.space
    data = truth.images(keep / "images", seed)
    settings = {"epochs": EPOCHS, **GROUPS[group]}
    config = SearchConfig(
        **settings | {"epochs": epochs or settings["epochs"]}, batch=BATCH, architecture_batch=ARCHITECTURE_BATCH, seed=seed, device="cpu",
        confidence=CONFIDENCE,
    )  # fmt: skip
    budgets = [Budget(f"{limit:.6f}ms", (Constraint(truth.predictor, float(limit)),)) for limit in truth.budgets_ms]
    passes = search_passes(space, data, config)
    if group == "lightnas":
        found: dict[str, Found] = {"lightnas": {}, "lightnas, exact": {}}
        for number in range(len(budgets))[truth.looped]:
            note(f"{group} {seed}: budget {number}")
            (result,) = run_search(keep / budgets[number].name, space, data, budgets[number], config)
            found["lightnas"][number] = _network(result.derived, space)
            found["lightnas, exact"][number] = _network(result.architecture, space)
        return Searched(found, dict.fromkeys(found, passes * len(found["lightnas"])))
    results = run_search(keep / "run", space, data, budgets, config)
    learned, accuracy = posterior_of(keep / "run", space), results[0].sampled_paths
    assert accuracy is not None, "a search has steps on held-out images"
    weight = arithmetic_weight(accuracy.accuracy, accuracy.chance)
    name = group.replace("-", ", ")
    found = {
        name: {number: _network(result.architecture, space) for number, result in enumerate(results)},
        f"{name}, {MEASURED} measured": with_measured_finalists(
            truth, learned.with_capacity(arithmetic_of(space), weight)
        ),
    }
    cost = dict.fromkeys(found, passes)
    if evolution and group in EVOLVED:
        found[EVOLVED[group]], count = _evolved(truth, data, config, keep / "run")
        cost[EVOLVED[group]] = passes + compared_images(data) * count
    return Searched(found, cost, learned.mean, weight)


def posterior_of(run: Path, space: Space) -> OperatorPosterior:
    """What the losses of a finished search say, without arithmetic's part."""
    from lightnas_edge.nn.checkpoint import load_checkpoint
    from lightnas_edge.search.evidence import PairDifferences, PathLosses
    from lightnas_edge.search.state import SCHEMA

    checkpoint = load_checkpoint(run / "search" / "checkpoint.pt", schema=SCHEMA)
    losses = checkpoint["identity"]["evidence"] == LOSSES
    evidence = PathLosses(space) if losses else PairDifferences(space)
    evidence.restore(checkpoint["strategy"]["evidence"])
    return evidence.posterior()


def search_passes(space: Space, data: DataSet, config: Any) -> float:
    """Of the supernet and the operator scores."""
    from lightnas_edge.search.config import Schedule

    train = len(data.train) // config.batch * config.batch
    validation = len(data.validation) // config.architecture_batch * config.architecture_batch
    warmup = Schedule.of(config, 1).warmup_epochs
    searching = config.epochs - warmup
    each = {"entangled": (6, 6), "blockwise": (3, 4)}.get(config.method, (3 * len(space.operators), 3))
    whole = train * (each[0] * warmup + each[1] * searching) + config.validation_passes * validation * searching
    return float(whole)


def compared_images(data: DataSet) -> int:
    """Forward passes that scoring one network on held-out images takes."""
    from lightnas_edge.search.candidates import images_of_candidate

    return images_of_candidate(data)


def _network(architecture: Architecture, space: Space) -> Network:
    return tuple(int(index) for index in architecture.indices(space))


# -- evolution ------------------------------------------------------------------------------------------------------


def _evolved(truth: Truth, data: DataSet, config: Any, run: Path) -> tuple[Found, int]:
    """What evolution finds on the run's supernet, and how many networks it scored for all budgets together."""
    fitness, scored = supernet_fitness(truth.space, data, config, run)
    found = {}
    for number in range(len(truth.budgets_ms))[truth.evolved]:
        note(f"evolution {config.seed}: budget {number}")
        allowed = {tuple(row) for row in truth.indices[truth.upper_ms <= truth.budgets_ms[number]].tolist()}
        found[number] = evolve(
            allowed, len(truth.space.operators), fitness, np.random.default_rng([config.seed, number])
        )
    return found, len(scored)


def supernet_fitness(
    space: Space, data: DataSet, config: Any, run: Path
) -> tuple[Callable[[Network], float], Mapping[Network, float]]:
    """Accuracy on the held-out images with a supernet's weights, as our candidates are scored; and all of them so far."""
    import torch

    from lightnas_edge.nn import Supernet
    from lightnas_edge.nn.checkpoint import load_checkpoint
    from lightnas_edge.search.comparison import Comparison
    from lightnas_edge.search.selection import Selection
    from lightnas_edge.search.state import SCHEMA

    supernet = Supernet(space, entangled=config.method == "entangled").to(memory_format=torch.channels_last)
    supernet.load_state_dict(load_checkpoint(run / "search" / "checkpoint.pt", schema=SCHEMA)["supernet"])
    comparison = Comparison(supernet, data, config)
    scores: dict[Network, float] = {}

    def fitness(network: Network) -> float:
        if network not in scores:
            selection = Selection(Architecture.from_indices(space, network), (), None, 0.0, False)
            (candidate,) = comparison.score([selection])
            assert candidate.accuracy is not None
            scores[network] = candidate.accuracy
        return scores[network]

    return fitness, scores


def evolve(
    allowed: set[Network], operators: int, fitness: Callable[[Network], float], generator: np.random.Generator
) -> Network:
    """The best scored: half of each generation by crossover of the best, half by mutation."""
    everyone = sorted(allowed)
    population = [everyone[index] for index in generator.permutation(len(everyone))[:POPULATION]]
    scored: dict[Network, float] = {}
    for _ in range(GENERATIONS):
        for network in population:
            scored[network] = fitness(network)
        parents = sorted(scored, key=lambda network: -scored[network])[:PARENTS]
        population, tries = [], 0
        while len(population) < POPULATION and tries < 500:
            tries += 1
            first, second = (parents[int(index)] for index in generator.integers(len(parents), size=2))
            if tries % 2:
                child = tuple(a if generator.random() < 0.5 else b for a, b in zip(first, second, strict=True))
            else:
                child = tuple(
                    int(generator.integers(operators)) if generator.random() < MUTATION else op for op in first
                )
            if child in allowed and child not in scored and child not in population:
                population.append(child)
    return max(scored, key=lambda network: scored[network])


# -- stored searches ------------------------------------------------------------------------------------------------


def run_once(truth: Truth, group: str, seed: int, *, evolution: bool) -> dict[str, Any]:
    """A search and where it came from."""
    import torch

    torch.set_num_threads(1)
    begun_s, begun_cpu_s = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        searched = search(truth, group, seed, Path(folder), evolution)
    return {
        "group": group, "seed": seed, "commit": _commit(), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", "onnxruntime", "scipy", "scikit-learn")},
        "cpu": _cpu(), "threads": 1, "settings": {"epochs": EPOCHS, "batch": BATCH, **GROUPS[group]},
        "seconds": round(time.monotonic() - begun_s, 1), "cpu_seconds": round(time.process_time() - begun_cpu_s, 1),
        "passes": {name: round(count) for name, count in searched.passes.items()},
        "scores": None if searched.scores is None else np.round(searched.scores, 6).tolist(),
        "arithmetic_weight": None if searched.arithmetic_weight is None else round(searched.arithmetic_weight, 6),
        "budgets_ms": [round(float(limit), 6) for limit in truth.budgets_ms],
        "found": {name: {str(number): _digits(each) for number, each in networks.items()} for name, networks in searched.found.items()},
    }  # fmt: skip


def stored(truth: Truth) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(truth.runs.glob("*.json"))]


def finalists_again(truth: Truth, run: Mapping[str, Any], commit: str) -> dict[str, Any]:
    """A stored search whose measured finalists are those of this version, by the stored operator scores."""
    from benchmarks.measured_finalists import MEASURED, with_measured_finalists

    name = f"{run['group'].replace('-', ', ')}, {MEASURED} measured"
    if run.get("scores") is None or name not in run["found"]:
        return dict(run)
    scores = np.array(run["scores"])
    learned = OperatorPosterior(scores, np.zeros((scores.size, 1)))
    learned = learned.with_capacity(arithmetic_of(truth.space), run["arithmetic_weight"])
    networks = with_measured_finalists(truth, learned)
    found = {**run["found"], name: {str(number): _digits(each) for number, each in networks.items()}}
    return {**run, "finalists_commit": commit, "found": found}


def differing(before: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Networks of a stored search that the search run again does not find."""
    return [
        f"{method}, budget {number}: {digits}, now {again['found'][method][number]}"
        for method, networks in before["found"].items()
        for number, digits in networks.items()
        if again["found"][method][number] != digits
    ]


def _commit() -> str:
    answer = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return answer.stdout.strip() or "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _digits(network: Sequence[int]) -> str:
    return "".join(str(int(each)) for each in network)


# -- the table ------------------------------------------------------------------------------------------------------

DEFAULT = "entangled"
COLUMNS = (
    "method", "regret, points", "the default there", "budgets kept", "repetitions", "budgets", "networks", "M passes a budget",
)  # fmt: skip


def table(truth: Truth) -> list[list[str]]:
    """A row for every method.

    Regret: the mean over repetitions and budgets, where the budget is kept. Its standard error is the larger of two: over
    repetitions, and with choices of the same network counted as one (a network's accuracy has an error of its own). "The default
    there": its regret over the same budgets.
    """
    found, passes = defaultdict[str, list[Found]](list), defaultdict[str, list[float]](list)
    for run in stored(truth):
        for method, networks in run["found"].items():
            found[method].append({int(number): tuple(map(int, digits)) for number, digits in networks.items()})
            passes[method].append(run["passes"][method] / len(networks))
    found.update(truth.without_search())
    rows = []
    for method, repetitions in found.items():
        regret = Regret.of(truth, repetitions)
        budgets = repetitions[0].keys()
        others = [{number: each[number] for number in budgets} for each in found.get(DEFAULT, [])]
        cost = f"{np.mean(passes[method]) / 1e6:.4f}" if method in passes else "-"
        rows.append((regret.mean, [
            method, regret.text, Regret.of(truth, others).text if others else "-", f"{100 * regret.kept:.0f} %", str(len(repetitions)),
            str(len(budgets)), str(regret.networks), cost,
        ]))  # fmt: skip
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


@dataclass(frozen=True)
class Regret:
    mean: float
    error: float | None
    kept: float  # share of the budgets
    networks: int  # different ones

    @classmethod
    def of(cls, truth: Truth, repetitions: Sequence[Found]) -> Regret:
        values: list[tuple[int, int, float]] = []  # repetition, row of the network, regret
        every = 0
        for repetition, networks in enumerate(repetitions):
            for number, network in networks.items():
                row = truth.place[network]
                every += 1
                if truth.latency_ms[row] <= truth.budgets_ms[number]:
                    values.append((repetition, row, float(truth.best[number] - truth.accuracy[row])))
        kept = len(values) / every
        rows = {row for _, row, _ in values}
        if not values:
            return cls(np.nan, None, kept, 0)
        errors = [_clustered(values, part) for part in ((0, 1) if len(repetitions) > 1 else (1,))]
        known = [error for error in errors if error is not None]
        return cls(float(np.mean([value for *_, value in values])), max(known, default=None), kept, len(rows))

    @property
    def text(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.error is None else f" ± {self.error:.3f}")


def _clustered(values: Sequence[tuple[int, int, float]], part: int) -> float | None:
    """Standard error of the mean when values of one cluster move together; None with a single cluster."""
    mean = np.mean([value for *_, value in values])
    sums: dict[int, float] = defaultdict(float)
    for each in values:
        sums[int(each[part])] += each[2] - mean
    if len(sums) < 2:
        return None
    return float(np.sqrt(sum(each**2 for each in sums.values()) * len(sums) / (len(sums) - 1)) / len(values))


# -- the command ----------------------------------------------------------------------------------------------------


def main(load: Callable[[], Truth], description: str, argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", nargs="+", choices=tuple(GROUPS), metavar="GROUP", help=f"search once more: {', '.join(GROUPS)}"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="N", help="of --run; stored ones are not run again"
    )
    parser.add_argument(
        "--without-evolution", action="store_true", help="of --run; it takes longer than the search on large spaces"
    )
    parser.add_argument(
        "--finalists", action="store_true",
        help="choose the measured finalists of all stored searches again, from their scores: after a change of what --confirm does",
    )  # fmt: skip
    parser.add_argument("--check", metavar="NAME", help="run a stored search again, for example shared-0, and compare")
    arguments = parser.parse_args(argv)
    truth = load()
    if arguments.check:
        before = json.loads((truth.runs / f"{arguments.check}.json").read_text(encoding="utf-8"))
        evolution = any(method in before["found"] for method in EVOLVED.values())
        lines = differing(before, run_once(truth, before["group"], before["seed"], evolution=evolution))
        print_result("\n".join(lines) or f"{arguments.check}: the stored networks")
        return 1 if lines else 0
    if arguments.finalists:
        commit = _commit()  # before the files of this one change
        for path in sorted(truth.runs.glob("*.json")):
            note(f"finalists of {path.stem}")
            write_json(path, finalists_again(truth, json.loads(path.read_text(encoding="utf-8")), commit))
    for seed in arguments.seeds if arguments.run else ():
        for group in arguments.run:
            path = truth.runs / f"{group}-{seed}.json"
            if not path.exists():
                truth.runs.mkdir(exist_ok=True)
                write_json(path, run_once(truth, group, seed, evolution=not arguments.without_evolution))
    print_table(COLUMNS, table(truth))
    return 0
