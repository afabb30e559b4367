"""The search loop: warm-up, then one epoch of weights and one of validation images in turn, then an exact choice."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightnas_edge.data import DataSet, Loader, normalise
from lightnas_edge.errors import BudgetError, DivergedError, RunError
from lightnas_edge.nn import Ranks, Supernet
from lightnas_edge.nn.checkpoint import load_checkpoint, require_same
from lightnas_edge.nn.cost import seconds_of, trial_batch
from lightnas_edge.nn.device import choose_device, undo_of_forward
from lightnas_edge.nn.loop import TrainingLoop
from lightnas_edge.records.metrics import BudgetProgress, SearchEpoch, SearchStep
from lightnas_edge.runs import Run
from lightnas_edge.search.candidates import (
    Candidate,
    affordable,
    compare,
    estimated_losses,
    images_of_candidate,
    shortlist,
)
from lightnas_edge.search.config import LIGHTNAS, PUBLISHED, Schedule, SearchConfig
from lightnas_edge.search.constraints import Budget, require_one_space
from lightnas_edge.search.execution import Execution, fastest_execution
from lightnas_edge.search.results import SearchResult, Sources, begin_run, run_question, write_results
from lightnas_edge.search.selection import check_budget
from lightnas_edge.search.steps import Outcome, path_losses, weight_step
from lightnas_edge.search.strategies import LightNasStrategy, SearchContext, SearchStrategy, SharedStrategy, predicted
from lightnas_edge.space import Architecture, Space

SCHEMA = 2
Event = dict[str, Any]
COMPARISON_SHARE = 0.03  # of the search's arithmetic, for comparing the candidates of one budget


def run_search(
    run_dir: Path,
    space: Space,
    data: DataSet,
    budgets: Sequence[Budget] | Budget,
    config: SearchConfig,
    *,
    resume: bool = True,
    sources: Sources | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[SearchResult]:
    """Search for the best network of a space within each budget: one pass, one supernet, however many budgets.

    Writes `search/metrics.jsonl`, `search/checkpoint.pt` and what `write_results` writes under `run_dir`. Run again
    with the same arguments it resumes from the last checkpoint, and on the CPU ends with the same bits as if it had
    never stopped. Under `torchrun` every process calls it alike, and the first one writes.

    Args:
        run_dir: as `begin_run` left it; a new one is begun where there is none.
        space: its number of classes is replaced by that of the data.
        budgets: with predictors of the same layers and operators.
        sources: what the run of each budget keeps with its network: see `write_results`.
        on_event: called with every line of the metrics as it is written, and with {"kind": "start", ...} first.

    Returns:
        One result per budget, in their order.

    Raises:
        BudgetError, InfeasibleBudgetError: before any training.
        DivergedError: the loss left the finite numbers.
        DataError: an image cannot be read.
        RunError: the directory holds another search, or cannot be written.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint of the last finished step.
    """
    budgets = [budgets] if isinstance(budgets, Budget) else list(budgets)
    check_budgets(space, budgets, config)
    space = space.with_classes(len(data.classes))
    with torch.random.fork_rng():
        run = _open_run(run_dir, space, data, budgets, config)
        search = _Search(run, space, data, budgets, config, on_event or (lambda event: None))
        with _writing(run):
            search.run(resume=resume)
            return search.conclude(sources)


def add_budgets(
    run_dir: Path,
    space: Space,
    data: DataSet,
    budgets: Sequence[Budget],
    config: SearchConfig,
    *,
    sources: Sources | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[SearchResult]:
    """Networks for further budgets, other boards included, from a finished search; nothing is trained.

    Args:
        config: as the search was run; confidence, candidates, device and two_sided may differ.
        budgets: the further ones, with predictors of the same layers and operators.

    Raises:
        BudgetError, InfeasibleBudgetError, RunError: a budget that cannot be kept; a search that has not ended.
    """
    if config.method == LIGHTNAS:
        raise BudgetError(
            "the published method learns for one budget: its alpha contains the cost of that board and target",
            hint="search with --method shared, the default, to add budgets later; or search again for this one",
        )
    check_budgets(space, budgets, config)
    space = space.with_classes(len(data.classes))
    with torch.random.fork_rng():
        run = Run.open(run_dir)
        search = _Search(run, space, data, budgets, config, on_event or (lambda event: None))
        with _writing(run):
            search.open_finished()
            return search.conclude(sources, added=True)


def _open_run(folder: Path, space: Space, data: DataSet, budgets: Sequence[Budget], config: SearchConfig) -> Run:
    """The run in a folder, begun by the first rank where there is none."""
    ranks = Ranks()
    if ranks.first and not (folder / "run.json").exists():
        begin_run(folder, space, data, budgets, config)
    ranks.wait()
    return Run.open(folder)


def _writing(run: Run) -> AbstractContextManager[None]:
    """The run's lock, on the rank that writes."""
    return run.writing("search") if Ranks().first else nullcontext()


def check_budgets(space: Space, budgets: Sequence[Budget], config: SearchConfig) -> None:
    """Whether every budget can be kept and the method can serve them all; reads and writes nothing.

    Raises:
        BudgetError, InfeasibleBudgetError.
    """
    if not budgets:
        raise BudgetError("a search needs a budget", hint="for example --latency-ms 20")
    if config.method == LIGHTNAS and len(budgets) > 1:
        raise BudgetError(
            f"the published method searches once per budget; {len(budgets)} are given",
            hint="search for them one by one, or all at once with --method shared (the default)",
        )
    names = [budget.name for budget in budgets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BudgetError(f"budgets of the same name: {', '.join(twice)}")
    require_one_space([constraint for budget in budgets for constraint in budget.constraints])
    for budget in budgets:
        check_budget(space, budget.constraints, config.confidence)


class _Search:
    """State of a running search; everything that a checkpoint must hold is an attribute set in __init__ or
    `_restore`.
    """

    def __init__(
        self,
        run: Run,
        space: Space,
        data: DataSet,
        budgets: Sequence[Budget],
        config: SearchConfig,
        on_event: Callable[[Event], None],
    ) -> None:
        self.run_record, self.run_dir, self.space, self.data, self.config = run, run.folder, space, data, config
        self.on_event = on_event
        self.ranks = Ranks()
        self.device = choose_device(config.device)
        share = (self.ranks.rank, self.ranks.world)
        self.weight_batches = data.train_loader(config.batch, share=share)
        self.architecture_batches = data.validation_loader(
            config.architecture_batch or config.batch, shuffle=True, share=share
        )
        self.schedule = Schedule.of(config, len(self.architecture_batches))
        torch.manual_seed(config.seed)
        self.supernet = Supernet(space).to(self.device).train()
        torch.manual_seed(config.seed + self.ranks.rank)  # what is dropped out may differ between processes
        self.weight_optimiser = torch.optim.SGD(
            self.supernet.parameters(),
            lr=config.weight_lr,
            momentum=PUBLISHED.momentum,
            weight_decay=PUBLISHED.weight_decay,
            foreach=True,  # not fused: that one fails when candidates meet their first gradient at different steps
        )
        self.context = SearchContext(
            space, config, self.schedule, torch.Generator().manual_seed(config.seed), self.ranks
        )
        kind: type[SearchStrategy] = LightNasStrategy if config.method == LIGHTNAS else SharedStrategy
        self.strategy = kind(self.context, budgets)
        self.first = budgets[0].constraints
        self.epoch, self.phase, self.step = 0, "warmup", 0  # what comes next
        self.totals = {
            "train": [0.0, 0.0, 0],
            "validation": [0.0, 0.0, 0],
        }  # loss * images, correct, images, of this epoch
        self.pending: list[tuple[Event, Outcome, list[list[int]]]] = []
        settings = asdict(config)
        uniform = [[k] * len(space.layers) for k in range(len(space.operators))]
        self.identity = {
            "space": space.sha256,
            "data": data.sha256,
            "data_seed": data.seed,
            "processes": self.ranks.world,
            "budgets": [{"name": budget.name, **budget.targets} for budget in budgets],
            "predictors": [predicted(budget.constraints, uniform) for budget in budgets],
            **{name: settings[name] for name in settings if name not in ("checkpoint_s", "confidence", "candidates")},
        }
        self.loop = TrainingLoop(
            self,
            run.search_folder,
            what=f"the search in {run.folder}",
            schema=SCHEMA,
            identity=self.identity,
            device=self.device,
            checkpoint_s=config.checkpoint_s,
            on_event=on_event,
            ranks=self.ranks,
        )
        self.context.abandonable = self.loop.abandonable

    # -- the loop -----------------------------------------------------------------------------------------

    def run(self, *, resume: bool) -> None:
        state = self.loop.open(resume=resume)
        if state is None:
            self.context.execution = self._execution()
        else:
            self._restore(state)
        self._arrange()
        self.on_event(
            {
                "kind": "start",
                "epochs": self.config.epochs,
                "warmup_epochs": self.schedule.warmup_epochs,
                "weight_steps": len(self.weight_batches),
                "architecture_steps": len(self.architecture_batches),
                "epoch": self.epoch,
                "step": self.step,
                "resumed": state is not None,
            }
        )
        with self.loop, closing(self.weight_batches), closing(self.architecture_batches):
            left = self._steps_left()
            self.loop.estimate(sum(left.values()), lambda: self._seconds_for(left))
            while self.epoch < self.config.epochs:
                self._epoch()

    def open_finished(self) -> None:
        """What a finished search has learned, for budgets it did not know.

        Raises:
            RunError: it has not begun or not ended, or was another search.
        """
        remedy = "run the same `lightnas-edge search` again: it resumes and finishes"
        if not self.loop.checkpoint_path.exists():
            raise RunError(f"{self.run_dir} holds no search that has begun", hint=remedy)
        state = load_checkpoint(self.loop.checkpoint_path, schema=SCHEMA)
        own = {"budgets", "predictors", "processes", "device", "two_sided"}  # none of them shaped the weights
        require_same(
            {name: value for name, value in state["identity"].items() if name not in own},
            {name: value for name, value in self.identity.items() if name not in own},
            f"the search in {self.run_dir}",
            hint="add budgets with the space and the data of that search, or start a new search",
        )
        if state["epoch"] < self.config.epochs:
            raise RunError(
                f"the search in {self.run_dir} has finished {state['epoch']} of {self.config.epochs} epochs",
                hint=remedy,
            )
        self.supernet.load_state_dict(state["supernet"])
        self.strategy.load_finished(state["strategy"])
        self.context.execution = Execution(**state["execution"])
        self._arrange()
        self.loop.elapsed_s = state["elapsed_s"]

    def _arrange(self) -> None:
        self.supernet.to(memory_format=self.context.execution.memory_format)  # type: ignore[call-overload]

    def _execution(self) -> Execution:
        """As configured; a trial decides on rank 0 and holds for all."""
        if self.config.precision != "auto":
            return Execution(bf16=self.config.precision == "bf16")
        side = self.space.input_size
        count = max(2, self.config.batch // self.ranks.world // self.config.micro_batches)  # what is in memory at once
        images = torch.randn(count, 3, side, side, device=self.device)
        labels = torch.randint(self.space.classes, (count,), device=self.device)
        with torch.random.fork_rng():
            chosen, times_ms = fastest_execution(self.supernet, images, labels)
        flags = self.ranks.from_first(torch.tensor([chosen.bf16, chosen.channels_last], dtype=torch.int64))
        chosen = Execution(bool(flags[0]), bool(flags[1]))
        self.on_event({"kind": "precision", "chosen": str(chosen), "step_ms": times_ms})
        return chosen

    def _epoch(self) -> None:
        if self.phase != "architecture":
            self.phase = "warmup" if self.schedule.is_warmup(self.epoch) else "weights"
            self._phase(self.weight_batches, self._train_weights)
            if self.phase == "weights":
                self.phase, self.step = "architecture", 0
        if self.phase == "architecture":
            self._phase(self.architecture_batches, self._learn)
            self.strategy.end_epoch(self.epoch)
        self._finish_epoch()

    def _phase(self, loader: Loader, do_step: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
        self.supernet.requires_grad_(self.phase != "architecture")
        for group in self.weight_optimiser.param_groups:
            group["lr"] = self.schedule.weight_lr_at(self.epoch)
        for pixels, labels in self.loop.steps(loader.batches(self.epoch, start=self.step)):
            do_step(*self._on_device(pixels, labels))
            self.step += 1
            self.loop.tick(self.step)

    def _on_device(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = normalise(pixels.to(self.device))
        return images.contiguous(memory_format=self.context.execution.memory_format), labels.to(self.device)

    def _train_weights(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        paths = self.strategy.warmup_paths() if self.phase == "warmup" else self.strategy.weight_paths()
        outcome = weight_step(
            self.supernet, self.weight_optimiser, images, labels, paths,
            micro_batches=self.config.micro_batches, execution=self.context.execution, ranks=self.ranks,
            abandonable=self.loop.abandonable,
        )  # fmt: skip
        self._note(outcome, paths)

    def _learn(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        outcome, paths = self.strategy.learn(self.supernet, images, labels, self.epoch)
        self._note(outcome, paths)

    # -- what it costs --------------------------------------------------------------------------------------

    def _steps_left(self) -> dict[str, int]:
        """By phase."""
        left = dict.fromkeys(("warmup", "weights", "architecture"), 0)
        for epoch in range(self.epoch, self.config.epochs):
            warmup = self.schedule.is_warmup(epoch)
            left["warmup" if warmup else "weights"] += len(self.weight_batches)
            left["architecture"] += 0 if warmup else len(self.architecture_batches)
        if self.epoch < self.config.epochs:
            if self.phase == "architecture":
                left["weights"] -= len(self.weight_batches)
                left["architecture"] -= self.step
            else:
                left["warmup" if self.schedule.is_warmup(self.epoch) else "weights"] -= self.step
        return left

    def _seconds_for(self, steps: dict[str, int]) -> float:
        """From one path there and back and one path forward, on a copy."""
        pixels, labels, weights_wait_s = trial_batch(self.weight_batches)
        weight_batch = self._on_device(pixels, labels)
        pixels, labels, architecture_wait_s = trial_batch(self.architecture_batches)
        architecture_batch = self._on_device(pixels, labels)
        supernet = copy.deepcopy(self.supernet).requires_grad_(True)
        optimiser = torch.optim.SGD(supernet.parameters(), lr=0.0, momentum=PUBLISHED.momentum, foreach=True)
        path = [layer % len(self.space.operators) for layer in range(len(self.space.layers))]

        def train() -> None:
            weight_step(
                supernet, optimiser, *weight_batch, [path],
                micro_batches=self.config.micro_batches, execution=self.context.execution,
            )  # fmt: skip

        train()  # memory is allocated and kernels are chosen at the first pass
        train_s = seconds_of(train, self.device)
        look_s = seconds_of(
            lambda: path_losses(supernet, *architecture_batch, [path], execution=self.context.execution), self.device
        )
        learn_s = train_s if self.config.method == LIGHTNAS else look_s * self.config.paths
        return (
            steps["warmup"] * (train_s * len(self.space.operators) + weights_wait_s)
            + steps["weights"] * (train_s + weights_wait_s)
            + steps["architecture"] * (learn_s + architecture_wait_s)
            + self._images_of_comparison() * look_s / len(architecture_batch[1])
        )

    def _images_of_comparison(self) -> int:
        """Forward passes of an image that comparing the candidates of all budgets takes."""
        if self.config.method == LIGHTNAS:
            return 0
        return len(self.strategy.budgets) * self._candidates(2) * self._images_of_candidate()

    def _images_of_candidate(self) -> int:
        """Of the costliest budget: all get as many candidates, so that no precision has more tries than another."""
        return max(images_of_candidate(self.data, budget.arithmetic) for budget in self.strategy.budgets)

    def _candidates(self, minimum: int) -> int:
        """How many candidates of a budget are compared."""
        within_share = affordable(
            self.config, self.data, self.schedule.warmup_epochs, len(self.space.operators), COMPARISON_SHARE,
            self._images_of_candidate(),
        )  # fmt: skip
        return max(min(minimum, self.config.candidates), within_share)

    # -- what is written ------------------------------------------------------------------------------------

    def _note(self, outcome: Outcome, paths: list[list[int]]) -> None:
        first = self.strategy.multipliers()[0]
        line = {
            "phase": self.phase,
            "epoch": self.epoch,
            "step": self.step,
            "tau": self.schedule.tau(self.epoch) if self.config.method == LIGHTNAS else None,
            "multiplier": next(iter(first.values())),
            "alpha_lr": self.strategy.alpha_lr(self.epoch) if self.phase == "architecture" else None,
            "weight_lr": None if self.phase == "architecture" else self.schedule.weight_lr_at(self.epoch),
            "elapsed_s": self.loop.elapsed_s,
        }
        self.pending.append((line, outcome, [self.strategy.derived()[0], *paths]))

    def flush(self) -> None:
        """Read the losses of the last steps from the device, check and write them."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        values = [row[0] for row in predicted(self.first, [path for _, _, paths in pending for path in paths])]
        metric = self.first[0].metric
        lines = []
        for line, outcome, paths in pending:
            loss, correct, images = float(outcome.loss), float(outcome.correct), outcome.images
            if not math.isfinite(loss):
                raise self._diverged(line, loss)
            total = self.totals["validation" if line["phase"] == "architecture" else "train"]
            total[0] += loss * images
            total[1] += correct
            total[2] += images
            (derived, *sampled), values = values[: len(paths)], values[len(paths) :]
            line |= {"derived": {metric: derived}, "sampled": {metric: sum(sampled) / len(sampled)}}
            lines.append(SearchStep(**line, loss=loss, accuracy=correct / images, images=images))
        if not np.isfinite(self.strategy.probabilities()).all():
            raise self._diverged(pending[-1][0], math.nan)
        self.loop.write(lines)

    def _finish_epoch(self) -> None:
        self.loop.flush()
        probabilities = self.strategy.probabilities()
        entropy = float(-(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=-1).mean())
        posterior = self.strategy.posterior()
        derived, multipliers = self.strategy.derived(), self.strategy.multipliers()
        means: dict[str, Any] = {}
        for part, total in self.totals.items():
            summed = torch.tensor(total, dtype=torch.float64)
            self.ranks.average([summed])
            loss, correct, images = (float(value) for value in summed)
            means[f"{part}_loss"] = loss / images if images else None
            means[f"{part}_accuracy"] = correct / images if images else None
        record = SearchEpoch(
            phase="warmup" if self.phase == "warmup" else "search",
            epoch=self.epoch,
            probabilities=tuple(tuple(round(value, 6) for value in row) for row in probabilities.tolist()),
            entropy=max(entropy, 0.0),
            score_std=posterior.score_std,
            posterior_std=posterior.posterior_std,
            budgets=tuple(
                BudgetProgress(
                    name=budget.name,
                    multipliers=lams,
                    derived=dict(zip(budget.targets, predicted(budget.constraints, [path])[0], strict=True)),
                )
                for budget, lams, path in zip(self.strategy.budgets, multipliers, derived, strict=True)
            ),
            elapsed_s=self.loop.elapsed_s,
            **means,
        )
        self.loop.write([record])
        self.totals = {"train": [0.0, 0.0, 0], "validation": [0.0, 0.0, 0]}
        self.epoch, self.phase, self.step = self.epoch + 1, "weights", 0
        self.loop.end_epoch(last=self.epoch == self.config.epochs)

    def _diverged(self, line: Event, loss: float) -> DivergedError:
        return DivergedError(
            f"the loss became {loss} at epoch {line['epoch']}, step {line['step']} of phase {line['phase']}",
            hint=f"begin again with --fresh and a smaller weight step, now {self.config.weight_lr}, or another seed",
        )

    # -- checkpoints ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "phase": self.phase,
            "step": self.step,
            "supernet": self.supernet.state_dict(),
            "weight_optimiser": self.weight_optimiser.state_dict(),
            "strategy": self.strategy.state(),
            "execution": self.context.execution.to_json(),
            "tau": self.schedule.tau(self.epoch),  # follows from the epoch; here for readers
            "paths_random": self.context.generator.get_state(),
            "totals": self.totals,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.supernet.load_state_dict(state["supernet"])
        self.weight_optimiser.load_state_dict(state["weight_optimiser"])
        self.strategy.restore(state["strategy"])
        self.context.execution = Execution(**state["execution"])
        self.context.generator.set_state(state["paths_random"])
        self.epoch, self.phase, self.step = state["epoch"], state["phase"], state["step"]
        # The sums are rank 0's; the other ranks start this epoch's at zero, which changes only the displayed means.
        if self.ranks.first:
            self.totals = state["totals"]

    def undo(self) -> Callable[[], None]:
        return undo_of_forward(self.supernet, self.device, [self.context.generator])

    # -- the networks -----------------------------------------------------------------------------------------

    def conclude(self, sources: Sources | None, *, added: bool = False) -> list[SearchResult]:
        """Choose a network for every budget; the first rank writes them."""
        # A search compares at least two networks; an added budget must stay cheap and may do without a comparison.
        minimum = 1 if added else 2
        budgets = self.strategy.budgets
        # Networks of one budget in several precisions are compared by their scores, so that even a single candidate needs one.
        found = [self.run_record, *self.run_record.networks] if added else []
        questions = [*(budget.question for budget in budgets), *map(run_question, found)]
        results = [
            self._choose(index, budget, minimum, contested=questions.count(budget.question) > 1)
            for index, budget in enumerate(budgets)
        ]
        if self.ranks.first:
            write_results(self.run_record, results, sources=sources, added=added)
        self.ranks.wait()
        return results

    def _choose(self, index: int, budget: Budget, minimum: int, *, contested: bool) -> SearchResult:
        began_s = time.monotonic()
        count = 1 if self.config.method == LIGHTNAS else self._candidates(minimum)
        posterior = self.strategy.posterior()
        selections = shortlist(self.space, posterior, budget, self.config, count)
        candidates = [Candidate(selection) for selection in selections]
        if len(candidates) > 1 or contested:
            candidates = compare(
                self.supernet, self.data, selections, self.space, self.config,
                arithmetic=budget.arithmetic, execution=self.context.execution,
                on_progress=lambda done, total: self.on_event(
                    {"kind": "candidate", "budget": budget.name, "done": done, "total": total}
                ),
            )  # fmt: skip
            losses = self.ranks.from_first(torch.from_numpy(estimated_losses(self.space, posterior, candidates)))
            candidates = [
                replace(candidates[int(place)], estimate=float(losses[place])) for place in losses.argsort(stable=True)
            ]
        return SearchResult(
            budget,
            candidates[0],
            tuple(candidates[1:]),
            top_scored=selections[0].architecture,
            derived=Architecture.from_indices(self.space, self.strategy.derived()[index]),
            multipliers=self.strategy.multipliers()[index],
            probabilities=self.strategy.probabilities(index),
            confidence=self.config.confidence,
            epochs=self.config.epochs,
            elapsed_s=self.loop.elapsed_s,
            choosing_s=time.monotonic() - began_s,
        )
