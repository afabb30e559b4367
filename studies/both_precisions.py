"""Is a search in several precisions as accurate as the better search in one of them? On test images that no search saw.

    lightnas-edge search --predictor fp32.predictor.json --predictor int8.predictor.json --targets A,B,C --data DATA --out RUN
    python -m studies.both_precisions RUN --test FOLDER [--epochs 20] [--batch-size 128]

FOLDER holds CLASS/*.jpg, the same classes. The searches in one precision continue the search RUN with the predictors of
that precision alone: the supernet does not depend on budgets, so that they are what a search from the beginning finds.
Every network is trained from scratch, exported in its precision, and executed by ONNX Runtime on the test images.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lightnas_edge.cli import main as lightnas_edge
from lightnas_edge.cli._console import print_table
from lightnas_edge.data import load_data, load_validation_images
from lightnas_edge.deploy.export import build_export
from lightnas_edge.records.run import FrontNetwork
from lightnas_edge.runs import NETWORKS, Run
from lightnas_edge.search import SearchConfig, add_budgets
from lightnas_edge.search.sources import boards_of_run, make_budgets


@dataclass(frozen=True)
class Tested:
    """A network of one precision, and which test images it classifies correctly."""

    run: Run
    correct: NDArray[np.bool_]

    @property
    def accuracy(self) -> str:
        return f"{100 * self.correct.mean():.2f} %"


class Testing:
    """Trains each architecture once, and tests a network in its own precision."""

    def __init__(self, folder: Path, epochs: int, batch: int) -> None:
        self.folder, self.options = folder, ["--epochs", str(epochs), "--batch-size", str(batch)]
        self._trained: dict[tuple[str, ...], Path] = {}

    def test(self, run: Run) -> Tested:
        known = self._trained.setdefault(run.architecture.names, run.folder)
        if lightnas_edge(["train", str(known), *self.options]) != 0:
            raise SystemExit(f"the training of {known} failed")
        if known != run.folder:  # the same network in another precision, or of another search
            shutil.copytree(known / "train", run.folder / "train", dirs_exist_ok=True)
        built = build_export(run)
        images, labels, classes = load_validation_images(self.folder, run.space.input_size, 100_000)
        assert classes == run.data.classes, f"{self.folder} has the classes {classes}"
        session = onnxruntime.InferenceSession(built.content, providers=["CPUExecutionProvider"])
        batch = session.get_inputs()[0].shape[0]
        full = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch, axis=0)])
        logits = [session.run(None, {"input": full[at : at + batch]})[0] for at in range(0, len(full), batch)]
        return Tested(run, np.concatenate(logits)[: len(labels)].argmax(axis=1) == labels)


def in_one_precision(run: Run, precision: str) -> dict[float, Run]:
    """Target -> the run of the network that the search finds with the predictors of this precision alone."""
    alone = run.folder.with_name(f"{run.folder.name}-{precision}")
    if not alone.exists():
        shutil.copytree(run.folder, alone, ignore=shutil.ignore_patterns(NETWORKS, "front.*", ".lock"))
        boards = [each for each in boards_of_run(run.folder) if each.precision == precision]
        mine = [each for each in run.front.networks if each.precision == precision] if run.front else []
        limits = [each.targets for each in mine]
        data = load_data(run.data.source, space=run.space, seed=run.data.seed)
        known = {each.name for each in fields(SearchConfig)}
        config = SearchConfig(**{name: value for name, value in run.record.config.items() if name in known})  # type: ignore[arg-type]
        add_budgets(alone, run.space, data, make_budgets(boards, limits, name_boards=False), config)
    return {next(iter(each.targets.values())): each for each in Run.open(alone).networks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    parser.add_argument("--test", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    run = Run.open(arguments.run_folder)
    assert run.front is not None, "the search found one network: give it several budgets or precisions"
    testing = Testing(arguments.test, arguments.epochs, arguments.batch_size)
    networks: dict[str, FrontNetwork] = {each.name: each for each in run.front.networks}
    singles = {
        each: in_one_precision(run, each) for each in sorted({str(each.precision) for each in networks.values()})
    }
    rows = []
    for best in run.front.best:
        target = next(iter(best.targets.values()))
        chosen = testing.test(Run.open(run.folder / best.folder))
        alone = {name: testing.test(found[target]) for name, found in singles.items() if target in found}
        better = max(alone.values(), key=lambda each: each.correct.mean())
        differences = chosen.correct.astype(float) - better.correct
        error = differences.std(ddof=1) / np.sqrt(len(differences))
        rows.append([
            f"{target:g} ms", f"{best.network}, {chosen.accuracy}", *(each.accuracy for each in alone.values()),
            f"{100 * differences.mean():+.2f} ± {100 * error:.2f}", best.reason,
        ])  # fmt: skip
    columns = ["budget", "both precisions", *(f"{name} alone" for name in singles), "difference, points", "why"]
    print_table(columns, rows)


if __name__ == "__main__":
    main()
