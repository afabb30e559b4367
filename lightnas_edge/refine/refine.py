"""Stage two: other channels for a network that a search found, under the same predictor and budget.

Measure the operators at the shapes that other channels need, evolve the channels under the budget by a training proxy,
compare the best with the network as it was, and write the winner as a run directory of its own.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

import luts
from lightnas_edge._version import __version__
from lightnas_edge.data import DataSet
from lightnas_edge.errors import ConfigError, InfeasibleBudgetError, RunError
from lightnas_edge.files import finite
from lightnas_edge.measuring import sentinels
from lightnas_edge.nn import Ranks
from lightnas_edge.nn.metrics_log import MetricsLog
from lightnas_edge.predictor import Predictor, load_predictor
from lightnas_edge.predictor.metrics import COUNTED
from lightnas_edge.records.differences import changes, require_equal_fingerprints
from lightnas_edge.records.metrics import RefinementScore, read_metrics
from lightnas_edge.records.run import MetricPrediction, PredictedRecord, RefinedFrom, RefinedRecord, RefinementRecord
from lightnas_edge.refine.channels import Channels, Grid
from lightnas_edge.refine.evolution import evolve
from lightnas_edge.refine.latency import Latency
from lightnas_edge.refine.proxy import TrainingLossSum
from lightnas_edge.runs import LOCK, Run, move_aside, write_lock
from lightnas_edge.search import keep_predictors
from lightnas_edge.space import Architecture, ShapedOperator, Space, macs_m, parameters_m

LEVEL = 0.05  # of the test whether a choice beats the network by more than the proxy's noise
Event = dict[str, Any]
# (space that names the job, operators, table to write or resume) -> the table
Measure = Callable[[Space, Sequence[ShapedOperator], Path], luts.Lut]


@dataclass(frozen=True)
class RefineConfig:
    """What a user may set.

    Args:
        candidates: choices scored in addition to the network itself.
        population, tournament: of the evolution.
        finalists, seeds: number of best choices that are scored again, and number of new seeds for that.
        steps, batch: of the training; the losses of its second half are summed.
        factors: of the network's widths and expansions; the products are rounded, widths to multiples of 8.
        vary: `widths` of stages, `expansions` of blocks, or `both`.
        rounds: of measuring; an operator with as many visits is not measured again.
        device: `auto`, `cpu` or `cuda`.
    """

    candidates: int = 40
    population: int = 12
    tournament: int = 4
    finalists: int = 3
    seeds: int = 5
    steps: int = 200
    batch: int = 64
    factors: tuple[float, ...] = (0.75, 1.25)
    vary: str = "both"
    rounds: int = 25
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        least = {
            "candidates": 1, "population": 2, "tournament": 1, "finalists": 1, "seeds": 2, "steps": 1, "batch": 2,
            "rounds": 1, "seed": 0,
        }  # fmt: skip
        faults = [
            f"{name}: expected at least {floor}, found {getattr(self, name)}"
            for name, floor in least.items()
            if getattr(self, name) < floor
        ]
        if self.vary not in ("widths", "expansions", "both"):
            faults.append(f"vary: expected widths, expansions or both, found {self.vary!r}")
        if faults:
            raise ConfigError(
                "the configuration of the refinement is invalid\n" + "\n".join(f"  {fault}" for fault in faults)
            )


@dataclass(frozen=True)
class AccuracyComparison:
    """A choice against the unrefined network, on seeds that selected neither. Scores: lower is better."""

    scores: tuple[float, ...]  # by seed
    unrefined: tuple[float, ...]
    finalists: int  # of which this was the best

    @property
    def difference(self) -> float:
        """Mean over the seeds; below zero the choice learns faster."""
        return float(np.mean(self._differences))

    @property
    def standard_error(self) -> float:
        return float(np.std(self._differences, ddof=1) / math.sqrt(len(self.scores)))

    @property
    def better(self) -> bool:
        return self._probability(-1.0) < LEVEL

    @property
    def worse(self) -> bool:
        return self._probability(1.0) < LEVEL

    @property
    def verdict(self) -> Literal["better", "worse", "inconclusive"]:
        """`better` or `worse` by more than the proxy's noise, or `inconclusive`."""
        return "better" if self.better else "worse" if self.worse else "inconclusive"

    @property
    def _differences(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.subtract(self.scores, self.unrefined, dtype=np.float64)

    def _probability(self, sign: float) -> float:
        """Of a mean at least this large by chance: Student's t of paired differences, times the finalists (Bonferroni)."""
        if not np.isfinite(self._differences).all():  # a training that diverged
            return 0.0 if sign * np.sum(self._differences) > 0 else 1.0
        if self.standard_error == 0:
            return 0.0 if sign * self.difference > 0 else 1.0
        t = sign * self.difference / self.standard_error
        return min(1.0, self.finalists * float(stats.t.sf(t, len(self.scores) - 1)))


@dataclass(frozen=True)
class Refinement:
    """The result; the run directory has the network of `channels`."""

    channels: Channels
    space: Space
    architecture: Architecture
    comparison: AccuracyComparison
    predicted_ms: float
    upper_ms: float | None
    unrefined_ms: float  # predicted, of the network as it was
    target_ms: float
    scored: int  # choices, without the network itself
    of: int  # number of choices
    folder: Path


def refine_network(
    run_dir: Path,
    out: Path,
    data: DataSet,
    config: RefineConfig,
    measure: Measure,
    *,
    fresh: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> Refinement:
    """Refine the channels of a run's network and write the best choice to `out`, a run directory like the first.

    Called again it resumes: measurements and scores are reused, and with the same arguments on the CPU the result is the
    same as without the interruption. More candidates, seeds or factors add to existing scores.

    Args:
        measure: measures operators on the board of the run's table, in the same state.
        fresh: move an existing `out` to `.old` and begin again.
        on_event: called with {"kind": "start" | "score" | "end", "done": n, "total": n, ...} as trainings end.

    Raises:
        RunError: the run has no network, predictor or table; `out` has other content.
        FingerprintError: what is measured now is of another board or state than the run's table.
        LutMissError: the board could not run an operator of the network itself.
        InfeasibleBudgetError: neither the network nor its smallest choice keeps the budget.
        DataError: an image cannot be read.

    Under `torchrun` every process calls it alike: the first one measures and writes, and all of them score together.
    """
    with write_lock(out, "refine") if Ranks().first else nullcontext():
        return _refine(Run.open(run_dir), out, data, config, measure, fresh=fresh, on_event=on_event)


def _refine(
    run: Run,
    out: Path,
    data: DataSet,
    config: RefineConfig,
    measure: Measure,
    *,
    fresh: bool,
    on_event: Callable[[Event], None] | None,
) -> Refinement:
    space, architecture = run.space, run.architecture
    path = run.predictors.get("latency_ms")
    if path is None:
        raise RunError(f"{run.folder} has no latency predictor", hint="search under --latency-ms")
    predictor = load_predictor(path, space)
    table_path = _table_of(run, predictor)
    grid = Grid(space, architecture, factors=config.factors, vary=config.vary)
    budget = _Budget.of(run)
    ranks = Ranks()
    folder = out / "refine"
    if ranks.first:
        _begin(out, grid, data, config, fresh=fresh)
    ranks.wait()

    measuring = _Measuring(table_path, folder, measure, config.rounds)
    table = measuring.measured(_job_space(space), [*grid.shaped_operators(), *sentinels(space)], "operators.lut.jsonl")
    latency = Latency(grid, predictor, table)
    budget.require_feasible(latency)

    scores = _Scores(grid, TrainingLossSum(data, steps=config.steps, batch=config.batch, device=config.device), folder)
    scores.announce(1 + config.candidates + (config.finalists + 1) * config.seeds, on_event)
    try:
        scored = evolve(
            grid,
            lambda channels: budget.keeps(latency, channels),
            lambda channels: scores.of(channels, config.seed),
            candidates=config.candidates,
            population=config.population,
            tournament=config.tournament,
            seed=config.seed,
        )
        channels, comparison = _compare(scored, scores, config)
    finally:
        scores.close()

    derived, refined = grid.network(channels)
    closure = [shaped for shaped in derived.shaped_operators() if shaped.key not in table.entries]
    if closure:  # operators of the derived space that no choice uses: its predictor needs all of them
        name = f"space-{derived.sha256[:8]}.lut.jsonl"  # another winner has another space, so it needs another job on the board
        measuring.measured(_job_space(derived), [*closure, *sentinels(space)], name)
    found = Refinement(
        channels,
        derived,
        refined,
        comparison,
        latency.predict(channels)[0],
        None if budget.confidence is None else latency.bound_ms(channels, budget.confidence),
        latency.known_ms,
        budget.latency_ms,
        len(scored) - 1,
        grid.size,
        out,
    )
    if ranks.first:
        _write(found, run, latency, measuring, budget)
    ranks.wait()
    return found


class _Measuring:
    """The run's table and the operators measured in addition: one journal each, merged into one table whose reference
    session is the run's.
    """

    def __init__(self, run_table: Path, folder: Path, measure: Measure, rounds: int) -> None:
        self._run_table, self._folder, self._measure, self._rounds = run_table, folder, measure, rounds
        self.paths = [self._run_table]

    def measured(self, space: Space, operators: Sequence[ShapedOperator], name: str) -> luts.Lut:
        """Everything so far in one table, the operators measured if they are not yet."""
        path = self._folder / name
        ranks = Ranks()
        if ranks.first:
            self._measure_into(path, space, list(dict.fromkeys(operators)))
        ranks.wait_long()
        self.paths.append(path)
        return luts.merge([luts.read(path) for path in self.paths])

    def _measure_into(self, path: Path, space: Space, operators: Sequence[ShapedOperator]) -> None:
        """The operators that the table lacks."""
        if self._complete(path, operators):
            return
        known = luts.read(self._run_table)
        if not path.exists():  # one operator first: another board than the run's is noticed before an hour is spent
            check = path.with_name(f"check-{path.name}")
            luts.require_same_board([known, self._measure(space, operators[:1], check)])
            check.unlink()
        self._measure(space, operators, path)

    @property
    def content(self) -> bytes:
        """All journals as one file: it reads as the merged table."""
        contents = [path.read_bytes() for path in self.paths]
        return b"".join(content if content.endswith(b"\n") else content + b"\n" for content in contents)

    def _complete(self, path: Path, operators: Sequence[ShapedOperator]) -> bool:
        if not path.exists():
            return False
        table = luts.read(path)
        return all(
            shaped.key in table.failed
            or (shaped.key in table.entries and len(table.entries[shaped.key].visits) >= self._rounds)
            for shaped in operators
        )


class _Scores:
    """Scores by choice and seed, each written as soon as it is computed, none computed twice."""

    def __init__(self, grid: Grid, proxy: TrainingLossSum, folder: Path) -> None:
        self._grid, self._proxy = grid, proxy
        path = folder / "scores.jsonl"
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self._known: dict[tuple[Channels, int], float] = {}
        lines, faults = read_metrics(path) if path.exists() else ([], [])
        if faults:
            raise RunError("\n".join(faults), hint="--fresh refines from the beginning")
        for line in lines:
            if isinstance(line, RefinementScore) and line.proxy == proxy.name:
                channels = Channels(line.widths, line.expansions)
                self._known[channels, line.seed] = math.inf if line.score is None else line.score
        ranks = Ranks()
        ranks.wait()  # until every rank has read it
        self._log = MetricsLog(path, len(whole)) if ranks.first else None
        self._done, self._total = 0, 0
        self._on_event: Callable[[Event], None] = lambda event: None

    def announce(self, total: int, on_event: Callable[[Event], None] | None) -> None:
        self._total = total
        self._on_event = on_event or self._on_event
        self._on_event({"kind": "start", "done": 0, "total": total, "known": len(self._known)})

    def of(self, channels: Channels, seed: int) -> float:
        known = (channels, seed) in self._known
        if not known:
            started = time.monotonic()
            score = self._proxy(*self._grid.network(channels), seed)
            self._known[channels, seed] = score
            line = RefinementScore(
                widths=channels.widths,
                expansions=channels.expansions,
                seed=seed,
                proxy=self._proxy.name,
                score=finite(score),
                elapsed_s=round(time.monotonic() - started, 3),
            )
            if self._log is not None:
                self._log.write([line.to_json()])
                self._log.sync()
        self._done += 1
        score = self._known[channels, seed]
        self._on_event(
            {"kind": "score", "done": self._done, "total": self._total, "score": score, "channels": channels}
        )
        return score

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
        self._on_event({"kind": "end", "done": self._done, "total": self._total})


def _compare(
    scored: dict[Channels, float], scores: _Scores, config: RefineConfig
) -> tuple[Channels, AccuracyComparison]:
    """The best finalist against the unrefined network, on seeds that selected neither."""
    unrefined, *others = scored
    finalists = sorted(others, key=scored.__getitem__)[: config.finalists]
    if not finalists:
        raise InfeasibleBudgetError(
            "no other choice of channels keeps the budget",
            hint="more --factors, smaller ones among them, give more choices; the network as it was stays the best",
        )
    seeds = range(config.seed + 1, config.seed + 1 + config.seeds)
    # Seed by seed, so that images are loaded once per seed.
    table = {seed: [scores.of(channels, seed) for channels in (unrefined, *finalists)] for seed in seeds}
    columns = [tuple(row) for row in zip(*table.values(), strict=True)]
    comparisons = [AccuracyComparison(column, columns[0], len(finalists)) for column in columns[1:]]
    best = min(range(len(finalists)), key=lambda index: comparisons[index].difference)
    return finalists[best], comparisons[best]


@dataclass(frozen=True)
class _Budget:
    """The limits of the run, for every choice of channels."""

    latency_ms: float
    counted: dict[str, float]  # metric -> target: exact for any channels
    confidence: float | None  # of the latency's bound

    @classmethod
    def of(cls, run: Run) -> _Budget:
        targets = run.targets
        others = [name for name in targets if name not in ("latency_ms", *COUNTED)]
        if "latency_ms" not in targets or others:
            raise RunError(
                f"{run.folder} was searched under {', '.join(targets) or 'no budget of its own'}: channels are refined under a "
                f"latency, and in addition only {' and '.join(COUNTED)} can be limited",
            )
        counted = {name: targets[name] for name in COUNTED if name in targets}
        return cls(targets["latency_ms"], counted, run.found.predicted.confidence)

    def keeps(self, latency: Latency, channels: Channels) -> bool:
        if latency.bound_ms(channels, self.confidence) > self.latency_ms:
            return False
        count = _counts(*latency.grid.network(channels))
        return all(count[metric] <= target for metric, target in self.counted.items())

    def require_feasible(self, latency: Latency) -> None:
        """Raises InfeasibleBudgetError when neither the network nor its smallest choice keeps the budget."""
        grid = latency.grid
        smallest = grid.channels([min(choices) for choices in grid.genes])
        if self.keeps(latency, grid.unchanged) or self.keeps(latency, smallest):
            return
        least = {"latency_ms": latency.bound_ms(smallest, self.confidence), **_counts(*grid.network(smallest))}
        wanted = {"latency_ms": self.latency_ms, **self.counted}
        missed = "; ".join(
            f"{name} {target:g}, at the least {least[name]:.4g}"
            for name, target in wanted.items()
            if least[name] > target
        )
        raise InfeasibleBudgetError(
            f"neither the network nor its smallest choice of channels keeps the budget: {missed}",
            hint="search under this budget, or give smaller --factors",
        )


def _counts(space: Space, architecture: Architecture) -> dict[str, float]:
    return {"params_m": parameters_m(space, architecture), "macs_m": macs_m(space, architecture)}


def _table_of(run: Run, predictor: Predictor) -> Path:
    """The table behind a run's predictor; a network below a search has it in the search's folder."""
    path = run.table
    if path is None and run.record.search is not None:
        path = Run.open(run.folder / run.record.search).table
    if path is None:
        raise RunError(
            f"{run.folder} has no table (lut.jsonl), so the cost of other channels cannot be predicted",
            hint="search with --lut, or with a predictor that was fitted with --lut",
        )
    require_equal_fingerprints(predictor.fingerprint, luts.read(path).fingerprint, f"the run's predictor and {path}")
    return path


def _begin(out: Path, grid: Grid, data: DataSet, config: RefineConfig, *, fresh: bool) -> None:
    """`out/refine`, new or resumed. Beyond what its record names, scores depend on channels and seed alone."""
    folder = out / "refine"
    path = folder / "refinement.json"
    record = RefinementRecord(
        version=__version__,
        space=grid.space.sha256,
        operators=grid.architecture.names,
        data=data.sha256,
        data_seed=data.seed,
        pixels=str(data.identity["pixels"]),
        steps=config.steps,
        batch=config.batch,
        device=config.device,
    )
    if fresh and path.exists():
        move_aside(out)
    if path.exists():
        earlier = RefinementRecord.load(path, error=RunError, remedy="--fresh begins again")
        differing = changes(earlier.to_json() | {"version": __version__}, record.to_json())
        if differing:
            raise RunError(
                f"{out} has another refinement\n" + "\n".join(differing),
                hint="choose another --out, or --fresh to begin again (the earlier one is kept as .old)",
            )
        return
    if any(entry.name != LOCK for entry in out.iterdir()):
        raise RunError(f"{out} is not empty and has no refinement", hint="choose another --out")
    record.save(path)


def _job_space(space: Space) -> Space:
    """The same space under another name: its operators at other shapes are a job of their own on the board."""
    return replace(space, name=f"{space.name[:57]}-shapes")


def _write(found: Refinement, run: Run, latency: Latency, measuring: _Measuring, budget: _Budget) -> None:
    """The winner as a run directory."""
    question = {
        **{
            name: getattr(run.record, name)
            for name in ("data", "config", "seed", "targets", "fingerprint", "host", "board")
        },
        "space": found.space.to_json(),
        "refined_from": RefinedFrom(
            run=os.path.relpath(run.folder, found.folder),
            space=latency.grid.space.name,
            operators=latency.grid.architecture.names,
        ),
    }
    refined = Run.write(found.folder, question)
    table = refined.save_table(measuring.content)
    predictor: Predictor = latency.predictor(found.channels, luts.read(table))
    keep_predictors(refined, [predictor])
    counts = _counts(found.space, found.architecture)
    metrics = {
        "latency_ms": _prediction(found.predicted_ms, found.upper_ms, budget.latency_ms),
        **{name: _prediction(counts[name], None, target) for name, target in budget.counted.items()},
    }
    predicted = PredictedRecord(
        confidence=budget.confidence,
        simulated=predictor.simulated,
        metrics=metrics,
        binding=max(metrics, key=lambda name: metrics[name].used),
    )
    refined.save_refined(_result(found, run))
    refined.save_found(found.architecture, predicted, None)


def _prediction(value: float, upper: float | None, target: float) -> MetricPrediction:
    return MetricPrediction(value=value, upper=upper, target=target, violation=value / target - 1)


def _result(found: Refinement, run: Run) -> RefinedRecord:
    comparison = found.comparison
    diverged = not np.isfinite([*comparison.scores, *comparison.unrefined]).all()
    return RefinedRecord(
        run=os.path.relpath(run.folder, found.folder),
        widths=found.channels.widths,
        expansions=found.channels.expansions,
        proxy=TrainingLossSum.name,
        scores=tuple(finite(comparison.scores)),
        unrefined_scores=tuple(finite(comparison.unrefined)),
        difference=None if diverged else comparison.difference,
        standard_error=None if diverged else comparison.standard_error,
        verdict=comparison.verdict,
        finalists=comparison.finalists,
        scored=found.scored,
        choices=found.of,
        predicted_ms=found.predicted_ms,
        upper_ms=found.upper_ms,
        unrefined_predicted_ms=found.unrefined_ms,
        target_ms=found.target_ms,
    )
