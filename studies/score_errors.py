"""What is wrong with the operator scores of short searches: too few losses, or what the supernets have not learned?

    python -m studies.score_errors                 seconds; from the stored searches of both benchmarks

**Losses** (NAS-Bench-Macro): averaging the scores of ten searches removes most of the noise of their losses and seeds; normal noise as large
as what differs between two searches adds it again. Networks are chosen among the distinct ones, each by one of its spellings, so that
regrets differ a little from those of the searches. **Supernets**: the effects of the operators are compared with those in trained networks
(additive fit to all published accuracies): within a layer the deviation between operators, relative to that of random paths.
**Correcting it** (digits, where constants are chosen): scores of the layers that keep the shape of their input, times a factor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks import bench_search, macro_search, recorded
from benchmarks.macro import ACCURACIES, Array
from benchmarks.macro_search import Macro
from benchmarks.searches import Regret, Truth, stored
from lightnas_edge.cli._console import print_result, print_table
from lightnas_edge.search.posterior import OperatorPosterior, arithmetic_of

NOISE = (0.5, 1.0, 2.0)  # times what differs between two searches
DRAWS = 40
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)


def main() -> int:
    _show_correction(bench_search.load())
    if skipped := recorded.missing(ACCURACIES):
        print_result(skipped)
        return 0
    truth = macro_search.load()
    scores, weights = _stored_scores(truth, "entangled")
    _show_noise(truth, scores, weights)
    _show_layers(truth, scores)
    return 0


def _show_correction(truth: Truth) -> None:
    keeps = _keeps_shape(truth)
    rows = []
    for group in ("entangled", "shared", "blockwise"):
        scores, weights = _stored_scores(truth, group)
        row = [f"{group}, {len(scores)} searches"]
        for factor in FACTORS:
            scaled = scores * np.where(keeps, factor, 1.0)[:, None]
            found = _regrets(truth, map(partial(_as_chosen_by, truth), scaled, weights))
            row.append(f"{np.mean(found):.2f} ± {np.std(found, ddof=1) / np.sqrt(len(found)):.2f}")
        rows.append(row)
    print_table(["digits: regret, by the factor", *(f"{factor:g}" for factor in FACTORS)], rows)


def _show_noise(truth: Macro, scores: Array, weights: Array) -> None:
    weigh = partial(_as_chosen_by, truth)
    weight = float(weights.mean())
    mean = scores.mean(axis=0)
    apart = float(np.sqrt(2 * scores.var(axis=0, ddof=1).mean()))  # deviation of the difference of two searches
    generator = np.random.default_rng(0)
    cases = {
        "each search alone": list(map(weigh, scores, weights)),
        "mean of their scores": [weigh(mean, weight)],
        **{
            f"with noise of {factor:g} times their difference added": [
                weigh(mean + generator.normal(0.0, factor * apart, mean.shape), weight) for _ in range(DRAWS)
            ]
            for factor in NOISE
        },
        "additive fit to the published accuracies": [_known(truth)],
    }
    rows = []
    for name, each in cases.items():
        found = _regrets(truth, each)
        rows.append([name, f"{np.mean(found):.3f}", f"{np.min(found):.3f}", f"{np.max(found):.3f}"])
    print_table([f"NAS-Bench-Macro: scores of {len(scores)} searches", "regret, mean", "lowest", "highest"], rows)


def _show_layers(truth: Macro, searches: Array) -> None:
    known = _parts(_known(truth))
    rows = []
    for number, keeps in enumerate(_keeps_shape(truth)):
        ratios = np.array([_parts(scores)[number] for scores in searches]) / known[number]
        each = f"{ratios.min():.2f} to {ratios.max():.2f}"
        rows.append([str(number), "kept" if keeps else "changed", f"{known[number]:.2f}", f"{ratios.mean():.2f}", each])
    print_table(
        ["layer", "shape", "effect in trained networks", "in supernets, relative to it", "of each search"], rows
    )


def _stored_scores(truth: Truth, group: str) -> tuple[Array, Array]:
    """(n, L, K) what the losses said, and (n,) how many times as much arithmetic counted."""
    runs = [run for run in stored(truth) if run["group"] == group]
    return np.array([run["scores"] for run in runs]), np.array([run["arithmetic_weight"] for run in runs])


def _as_chosen_by(truth: Truth, scores: Array, weight: float) -> Array:
    """(L, K) scores with arithmetic's part, as a search chooses by them."""
    posterior = OperatorPosterior(scores, np.zeros((scores.size, 1)))
    return posterior.with_capacity(arithmetic_of(truth.space), weight).mean


def _regrets(truth: Truth, scores: Iterable[Array]) -> list[float]:
    """Of each scores (L, K) the mean over the budgets."""
    layers = np.arange(len(truth.space.layers))
    return [Regret.of(truth, [truth.best_by(each[layers, truth.indices].sum(axis=1))]).mean for each in scores]


def _known(truth: Macro) -> Array:
    """(L, K) the effects of the operators on the published accuracies, by least squares."""
    found = np.linalg.lstsq(truth.published.one_hot(), truth.accuracy, rcond=None)[0]
    return np.asarray(found, np.float64).reshape(len(truth.space.layers), -1)


def _parts(scores: Array) -> Array:
    """(L,) deviation between the operators of a layer, relative to that of random paths."""
    deviations = scores.std(axis=1)
    return np.asarray(deviations / np.linalg.norm(deviations), np.float64)


def _keeps_shape(truth: Truth) -> NDArray[np.bool_]:
    """(L,)"""
    return np.array([layer.stride == 1 and layer.in_channels == layer.out_channels for layer in truth.space.layers])


if __name__ == "__main__":
    sys.exit(main())
