"""Six budgets of the published Xavier latencies on real photographs: from one supernet, and searched one by one as published.

Times are of the processor, since a machine with other work would favour whichever came later. Few images and few epochs, the
same for all: what counts is the time and whether budgets are kept, not how accurate a
network would be. Takes ten minutes of a core; not part of `make bench` unless named:

    python -m benchmarks targets
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from benchmarks import recorded
from benchmarks.notes import note
from lightnas_edge.data import DataSet, load_data
from lightnas_edge.predictor import Predictor, load_predictor
from lightnas_edge.search import Budget, Constraint, SearchConfig, SearchResult, add_budgets, run_search

SLOW = True
DATA = recorded.folder() / "images" / "flowers5"
TARGETS_MS = (20.0, 22.0, 24.0, 26.0, 28.0, 30.0)
PER_CLASS = {"train": 12, "val": 6}
EPOCHS, BATCH = 5, 20


def rows() -> list[tuple[str, str, str]]:
    if not DATA.is_dir():
        return [("six targets, Xavier", f"skipped: {DATA} is not there", "-")]
    predictor = load_predictor("xavier-lightnas-b8")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = load_data(_few(folder / "images"), space=predictor.space, seed=0)
        config = SearchConfig(method="shared", epochs=EPOCHS, batch=BATCH, two_sided=True)
        started_s = time.process_time()
        together = run_search(folder / "shared", predictor.space, data, _budgets(predictor, TARGETS_MS), config)
        shared_s = time.process_time() - started_s
        note(f"six targets together: {shared_s:.0f} s")
        started_s = time.process_time()
        added = add_budgets(folder / "shared", predictor.space, data, _budgets(predictor, (25.0,)), config)
        added_s = time.process_time() - started_s
        alone, alone_s = _one_by_one(folder, predictor, data)
    kept = [result.predicted["latency_ms"] / target for result, target in zip(together, TARGETS_MS, strict=True)]
    derived = [result.derived for result in alone]
    off = [predictor.predict_one(network) / target - 1 for network, target in zip(derived, TARGETS_MS, strict=True)]
    return [
        ("six targets together, largest share of a target", f"{100 * max(kept):.2f} %", "<= 100 %"),
        ("six targets together, smallest share of a target", f"{100 * min(kept):.2f} %", "> 99 %"),
        ("time of six targets together / of six published searches", f"{shared_s / alone_s:.3f}", "<= 0.333"),
        ("time of a target added later / of the search", f"{added_s / shared_s:.4f}", "<= 0.05"),
        ("added later, share of its target", f"{100 * added[0].predicted['latency_ms'] / 25.0:.2f} %", "99 to 100 %"),
        ("published answer (most probable network), off its target", _listed(off), "-"),
    ]


def _one_by_one(folder: Path, predictor: Predictor, data: DataSet) -> tuple[list[SearchResult], float]:
    config = SearchConfig(method="lightnas", epochs=EPOCHS, batch=BATCH)
    results, total_s = [], 0.0
    for budget in _budgets(predictor, TARGETS_MS):
        started_s = time.process_time()
        results += run_search(folder / budget.name, predictor.space, data, budget, config)
        total_s += time.process_time() - started_s
        note(f"as published, {budget.name}: {total_s:.0f} s so far")
        shutil.rmtree(folder / budget.name)
    return results, total_s


def _budgets(predictor: Predictor, targets_ms: tuple[float, ...]) -> list[Budget]:
    return [Budget(f"{target:g}ms", (Constraint(predictor, target),)) for target in targets_ms]


def _few(folder: Path) -> Path:
    """The first images of every class, so that five epochs take minutes."""
    for part, count in PER_CLASS.items():
        for source in sorted((DATA / part).iterdir()):
            place = folder / part / source.name
            place.mkdir(parents=True)
            for image in sorted(source.iterdir())[:count]:
                (place / image.name).symlink_to(image.resolve())
    return folder


def _listed(values: list[float]) -> str:
    return ", ".join(f"{100 * value:+.1f} %" for value in values)
