"""The search against known truth: regret, kept budgets and cost of every method, on a space whose 256 networks are all known.

    make bench-search                             the tables, from the runs that are stored in benchmarks/truth/runs.csv
    python -m benchmarks.bench_search --run       does what is missing of them (10 seeds; about an hour of one core)
    python -m benchmarks.bench_search --run --quick --runs FILE    one seed, short searches: a quick check that it works

Regret: true accuracy of the best network that keeps the budget less that of the network found. True accuracy is the mean
over the seeds of benchmarks/truth/accuracy.csv; the budget is judged by benchmarks/truth/latency.csv, where every network was
measured, and not by the predictor that the methods see. Only the first method ever exceeds a budget by design; where a
network does, its regret is left out of the mean and the run counts as not kept.

Methods (all see the same predictor, fitted to 60 networks, and the same training and validation images):
    lightnas              the published loop, one search per target; the most probable network, as published
    lightnas, exact       the same searches, network chosen by our exact selection at 95 % confidence
    shared                ours: one search for all targets
    shared, same cost     with three times the epochs, so that a target costs what one search of the published loop does
    shared, scores alone  the searches of `shared` without comparing candidates on held-out images
    shared, near budgets  an earlier version, kept for the record: it sampled paths near the budgets; cannot be run again
    evolution             on the supernets of `shared`: SPOS (arXiv 1904.00420), fitness is accuracy on held-out images
    random search         as many networks within the budget trained from scratch as one search pays for; the best on the
                          validation images is taken. A replay: those trainings are the ones of accuracy.csv
    slowest               no search: the network within the budget that is predicted to be slowest
    random network        no search: any network within the budget (expectation over all)
    all trained once      every network within the budget trained from scratch once: what a training's own noise leaves
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.truth_task import FOLDER, Task, load_task, read

RUNS = FOLDER / "runs.csv"
TARGETS_MS = (0.015, 0.0175, 0.020)
FURTHER, FURTHER_MS = "further target", 0.019  # added to a finished search
COMPARED_IMAGES = 512  # training images whose statistics normalise a candidate
SEEDS = 10
CONFIDENCE = 0.95
EPOCHS, BATCH, ARCHITECTURE_BATCH = 9, 64, 32
FIELDS = ("method", "seed", "target_ms", "architecture", "passes", "seconds")
POPULATION, GENERATIONS, PARENTS, MUTATION = 12, 5, 6, 0.25  # of the evolution
ORDER = (
    "lightnas", "lightnas, exact", "shared", "shared, same cost", "shared, scores alone", "shared, near budgets",
    "evolution", "random search", "slowest", "random network", "all trained once",
)  # fmt: skip


# -- the truth ------------------------------------------------------------------------------------------------------


class Truth:
    """Every network of the space: accuracy (mean over seeds) and measured latency.

    Shapes: N networks, S seeds, L layers.
    """

    def __init__(self, task: Task) -> None:
        from lightnas_edge.predictor import load_predictor
        from lightnas_edge.space import Architecture

        self.space = task.space
        product = itertools.product(range(len(self.space.operators)), repeat=len(self.space.layers))
        self.indices = np.array(list(product))  # (N, L)
        self.networks = [Architecture.from_indices(self.space, row) for row in self.indices]
        self.place = {network.slug: index for index, network in enumerate(self.networks)}
        rows = read(FOLDER / "accuracy.csv")
        self.seeds = 1 + max(int(row["seed"]) for row in rows)
        self.accuracies = self._by_network(rows, "test_accuracy")
        self.validation = self._by_network(rows, "validation_accuracy")
        self.accuracy = np.nanmean(self.accuracies, axis=1)
        self.measured_ms = np.full(len(self.networks), np.nan)
        for row in read(FOLDER / "latency.csv"):
            self.measured_ms[self.place[row["architecture"]]] = float(row["measured_ms"])
        self.predictor = load_predictor(FOLDER / "small.predictor.json")
        one_hot = np.eye(len(self.space.operators))[self.indices]
        self.predicted_ms = self.predictor.predict(one_hot)
        self.upper_ms = self.predictor.upper(one_hot, CONFIDENCE)

    def _by_network(self, rows: list[dict[str, str]], field: str) -> np.ndarray:
        """(N, S), nan where a seed is missing."""
        found = np.full((len(self.networks), self.seeds), np.nan)
        for row in rows:
            found[self.place[row["architecture"]], int(row["seed"])] = float(row[field])
        return found

    def best(self, target_ms: float) -> int:
        return int(np.where(self.measured_ms <= target_ms, self.accuracy, -1.0).argmax())


# -- the methods ----------------------------------------------------------------------------------------------------

Found = tuple[str, float, str, float, float]  # method, target_ms, network, image passes, seconds


SAME_COST = "shared, same cost"
GROUPS = ("shared", "lightnas", SAME_COST)  # what is run together


def search(task: Task, truth: Truth, group: str, seed: int, quick: bool, keep: Path) -> Iterator[Found]:
    """The searches of one seed; their run directories are left under `keep`."""
    from lightnas_edge.search import Budget, Constraint, SearchConfig, run_search

    data = replace(task.data, seed=seed)
    config = SearchConfig(
        method="lightnas" if group == "lightnas" else "shared", epochs=2 if quick else EPOCHS, batch=BATCH, architecture_batch=ARCHITECTURE_BATCH, seed=seed,
        device="cpu", confidence=CONFIDENCE,
    )  # fmt: skip
    budgets = [Budget(f"{target:g}ms", (Constraint(truth.predictor, target),)) for target in TARGETS_MS]
    passes = search_passes(task, config)
    if group == SAME_COST:
        more = replace(config, epochs=len(budgets) * config.epochs)
        begun_s = time.monotonic()
        results = run_search(keep / f"same-cost-{seed}", task.space, data, budgets, more)
        for result, target in zip(results, TARGETS_MS, strict=True):
            share = 1 / len(budgets)
            compared = (COMPARED_IMAGES + len(data.validation)) * (1 + len(result.others)) if result.others else 0
            cost = share * search_passes(task, more) + compared
            yield group, target, result.architecture.slug, cost, share * (time.monotonic() - begun_s)
        return
    if group == "shared":
        yield from search_shared(task, truth, data, budgets, config, keep / f"shared-{seed}", passes)
        return
    for target, budget in zip(TARGETS_MS, budgets, strict=True):
        begun_s = time.monotonic()
        (result,) = run_search(keep / f"lightnas-{seed}-{budget.name}", task.space, data, budget, config)
        seconds = time.monotonic() - begun_s
        yield "lightnas", target, result.derived.slug, passes, seconds
        yield "lightnas, exact", target, result.architecture.slug, passes, seconds


def search_shared(task: Task, truth: Truth, data, budgets, config, run: Path, passes: float) -> Iterator[Found]:
    from lightnas_edge.nn.checkpoint import load_checkpoint
    from lightnas_edge.search import Budget, Constraint, add_budgets, run_search
    from lightnas_edge.search.state import SCHEMA

    one = COMPARED_IMAGES + len(data.validation)
    share = 1 / len(budgets)
    begun_s = time.monotonic()
    results = run_search(run, task.space, data, budgets, config)
    seconds = time.monotonic() - begun_s
    for result, target in zip(results, TARGETS_MS, strict=True):
        compared = one * (1 + len(result.others)) if result.others else 0
        yield "shared", target, result.architecture.slug, passes * share + compared, seconds * share
        yield "shared, scores alone", target, result.top_scored.slug, passes * share, seconds * share
    begun_s = time.monotonic()
    further = Budget("further", (Constraint(truth.predictor, FURTHER_MS),))
    (result,) = add_budgets(run, task.space, data, [further], config)
    yield FURTHER, FURTHER_MS, result.architecture.slug, one * (1 + len(result.others)), time.monotonic() - begun_s
    supernet = load_checkpoint(run / "search" / "checkpoint.pt", schema=SCHEMA)["supernet"]
    fitness = supernet_fitness(task, data, supernet, config)
    for target in TARGETS_MS:
        begun_s = time.monotonic()
        slug, count = evolve(truth, target, fitness, np.random.default_rng([config.seed, round(1e6 * target)]))
        took_s = seconds * share + time.monotonic() - begun_s
        yield "evolution", target, slug, passes * share + count * one, took_s


def search_passes(task: Task, config) -> float:
    """Forward passes of an image; a forward and backward pass counts as three."""
    from lightnas_edge.search.config import Schedule

    train = len(task.data.train) // config.batch * config.batch
    validation = len(task.data.validation) // config.architecture_batch * config.architecture_batch
    warmup = Schedule.of(config, 1).warmup_epochs
    searching = config.epochs - warmup
    return (
        3 * train * (warmup * len(task.space.operators) + searching) + config.validation_passes * validation * searching
    )


def supernet_fitness(task: Task, data, weights, config) -> Callable[[tuple[int, ...]], float]:
    """Accuracy on the held-out images with a supernet's weights; the same procedure as for our candidates."""
    import torch

    from lightnas_edge.nn import Supernet
    from lightnas_edge.search.comparison import Comparison
    from lightnas_edge.search.selection import Selection
    from lightnas_edge.space import Architecture

    supernet = Supernet(task.space).to(memory_format=torch.channels_last)
    supernet.load_state_dict(weights)
    comparison = Comparison(supernet, data, config)
    scores: dict[tuple[int, ...], float] = {}

    def fitness(indices: tuple[int, ...]) -> float:
        if indices not in scores:
            network = Selection(Architecture.from_indices(task.space, indices), (), None, 0.0, False)
            (candidate,) = comparison.score([network])
            scores[indices] = float(candidate.accuracy)
        return scores[indices]

    return fitness


def evolve(
    truth: Truth, target_ms: float, fitness: Callable[[tuple[int, ...]], float], generator: np.random.Generator
) -> tuple[str, int]:
    """(network, how many were scored): half of each generation by crossover of the best, half by mutation."""
    allowed = {tuple(map(int, row)) for row in truth.indices[truth.upper_ms <= target_ms]}
    everyone = sorted(allowed)
    population = [everyone[index] for index in generator.permutation(len(everyone))[:POPULATION]]
    scored: dict[tuple[int, ...], float] = {}
    operators = len(truth.space.operators)
    for generation in range(GENERATIONS):
        for network in population:
            scored[network] = fitness(network)
        parents = sorted(scored, key=lambda network: -scored[network])[:PARENTS]
        if generation == GENERATIONS - 1:
            break
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
    best = max(scored, key=lambda network: scored[network])
    return truth.networks[int(np.flatnonzero((truth.indices == best).all(axis=1))[0])].slug, len(scored)


def replay(truth: Truth, passes: float) -> Iterator[tuple[str, int, float, str, float]]:
    """What needs no run: (method, seed, target_ms, network, passes)."""
    from benchmarks.make_truth import BATCH as TRAINING_BATCH
    from benchmarks.make_truth import STEPS

    one = 3 * STEPS * TRAINING_BATCH + 600
    count = max(1, int(passes / one))
    for target in TARGETS_MS:
        allowed = np.flatnonzero(truth.upper_ms <= target)
        slowest = allowed[truth.predicted_ms[allowed].argmax()]
        for seed in range(SEEDS):
            generator = np.random.default_rng([seed, 7])
            tried = generator.permutation(allowed)[:count]
            taken = tried[truth.validation[tried, 0].argmax()]
            yield "random search", seed, target, truth.networks[taken].slug, one * len(tried)
        yield "slowest", 0, target, truth.networks[slowest].slug, 0.0
        known = allowed[truth.validation[allowed, 0].argmax()]
        yield "all trained once", 0, target, truth.networks[known].slug, one * len(allowed)
        for place in allowed:
            yield "random network", -1, target, truth.networks[place].slug, 0.0


# -- the tables -----------------------------------------------------------------------------------------------------


def table(truth: Truth, runs: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """(method, what was found, wanted) for every method; regret in percentage points of accuracy."""
    found = [
        (row["method"], int(row["seed"]), float(row["target_ms"]), row["architecture"], float(row["passes"]))
        for row in runs
    ]
    searched = [passes for method, *_, passes in found if method == "lightnas"]
    found += replay(truth, float(np.mean(searched)) if searched else 1e6)
    rows = []
    for method in ORDER:
        mine = [
            (seed, target, truth.place[slug], passes) for name, seed, target, slug, passes in found if name == method
        ]
        if not mine:
            continue
        regrets = {target: [] for target in TARGETS_MS}
        for _, target, place, _ in mine:
            if truth.measured_ms[place] <= target:
                regrets[target].append(100 * (truth.accuracy[truth.best(target)] - truth.accuracy[place]))
        every = [regret for some in regrets.values() for regret in some]
        by_target = " / ".join(f"{np.mean(some):.1f}" if some else "-" for some in regrets.values())
        error = np.std(every, ddof=1) / np.sqrt(len(every)) if len(every) > 1 else np.nan
        kept = len(every) / len(mine)
        cost = np.mean([passes for *_, passes in mine]) / 1e6
        runs_of = f"{len(mine)} runs" if mine[0][0] >= 0 else "expectation"
        measured = (
            f"regret {np.mean(every) if every else np.nan:.2f} ± {error:.2f} ({by_target}), "
            f"{100 * kept:.0f} % kept, {cost:.3f} M passes, {runs_of}"
        )
        rows.append((method, measured, "lowest regret, all kept" if method == "shared" else ""))
    further = [passes for method, *_, passes in found if method == FURTHER]
    if further and searched:
        whole = np.mean(searched)
        rows.append(
            ("a further target: share of a search", f"{100 * np.mean(further) / whole:.1f} % of the passes", "<= 5 %")
        )
    return rows


def rows() -> list[tuple[str, str, str]]:
    """For `python -m benchmarks search`."""
    return table(Truth(load_task()), read(RUNS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="do the runs that are missing")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs")
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the run directories there")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FILE", help="default: benchmarks/truth/runs.csv")
    arguments = parser.parse_args()
    task = load_task()
    truth = Truth(task)
    if arguments.run:
        import torch

        torch.set_num_threads(1)
        done = {(row["method"], int(row["seed"])) for row in read(arguments.runs)}
        if not arguments.runs.exists():
            arguments.runs.write_text(
                "# python -m benchmarks.bench_search --run; passes: forward, of one image; a forward and backward pass counts as three\n"
                f"{','.join(FIELDS)}\n"
            )
        for seed, group in itertools.product(
            range(1 if arguments.quick else arguments.seeds), arguments.only or GROUPS
        ):
            if (group, seed) in done:
                continue
            lines = []
            with tempfile.TemporaryDirectory() as folder:
                keep = arguments.keep or Path(folder)
                for method, target, slug, passes, seconds in search(task, truth, group, seed, arguments.quick, keep):
                    print(f"seed {seed}: {method}, {target:g} ms: {slug}, {seconds:.0f} s", file=sys.stderr, flush=True)
                    lines.append(f'"{method}",{seed},{target:g},{slug},{passes:.0f},{seconds:.1f}\n')
            with arguments.runs.open("a") as file:  # a seed is written completely or not at all
                file.writelines(lines)
    for what, value, wanted in table(truth, read(arguments.runs)):
        print(f"{what:36s} {value}{'   wanted: ' if wanted else ''}{wanted}")


if __name__ == "__main__":
    main()
