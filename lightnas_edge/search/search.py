"""The search loop: warm-up, then one epoch of weights and one of preferences in turn, then an exact choice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightnas_edge.data import DataSet, Loader, normalise
from lightnas_edge.errors import DivergedError, PredictorError
from lightnas_edge.nn import Supernet
from lightnas_edge.nn.loop import (
    Interruptible,
    MetricsLog,
    choose_device,
    load_checkpoint,
    random_state,
    require_same,
    restore_random_state,
    save_checkpoint,
)
from lightnas_edge.runs import write_json
from lightnas_edge.search.config import PUBLISHED, Schedule, SearchConfig
from lightnas_edge.search.selection import Selection, check_budget, select
from lightnas_edge.search.steps import (
    Multiplier,
    Outcome,
    architecture_gradient,
    sample_orderings,
    sample_path,
    weight_step,
)
from lightnas_edge.space import Architecture, Space

if TYPE_CHECKING:
    from lightnas_edge.predictor import Predictor

SCHEMA = 1
Event = dict[str, Any]
FLUSH_S = 0.5  # metrics wait this long at most: reading a loss earlier would make a device wait


@dataclass(frozen=True)
class SearchResult:
    """The network found, and what was asked of it."""

    architecture: Architecture
    predicted_ms: float
    upper_ms: float | None  # at the confidence of the configuration, where one was asked
    target_ms: float
    derived: Architecture  # what alpha alone prefers, budget or not: the published answer
    derived_ms: float
    probabilities: np.ndarray[Any, Any]  # (L, K) softmax(alpha)
    epochs: int
    elapsed_s: float  # over all sessions


def run_search(
    run_dir: Path,
    space: Space,
    data: DataSet,
    predictor: Predictor,
    config: SearchConfig,
    *,
    target_ms: float,
    resume: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> SearchResult:
    """Search for the best network of a space that the predictor puts within the target.

    Writes `search/metrics.jsonl`, `search/checkpoint.pt` and `architecture.json` under `run_dir`. Run again with the
    same arguments it goes on from the last checkpoint, and on the CPU ends with the same bits as if it had never
    stopped.

    Args:
        space: its number of classes is replaced by that of the data.
        predictor: of the same layers and operators.
        on_event: called with every line of the metrics as it is written, and with {"kind": "start", ...} first.

    Raises:
        BudgetError, InfeasibleBudgetError: before any training.
        DivergedError: the loss left the finite numbers.
        DataError: an image cannot be read.
        RunError: the directory holds another search, or cannot be written.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint of the last finished step.
    """
    check_budget(predictor, target_ms, config.confidence)
    space = space.with_classes(len(data.classes))

    with torch.random.fork_rng():
        search = _Search(run_dir, space, data, predictor, config, target_ms, on_event or (lambda event: None))
        search.run(resume=resume)
    preference = torch.log_softmax(search.alpha.double(), -1).numpy()
    selection = select(space, preference, predictor, target_ms, config.confidence)
    return _conclude(search, selection, preference)


class _Search:
    """State of a running search; everything that a checkpoint must hold is an attribute set in __init__ or
    `_restore`.
    """

    def __init__(
        self,
        run_dir: Path,
        space: Space,
        data: DataSet,
        predictor: Predictor,
        config: SearchConfig,
        target_ms: float,
        on_event: Callable[[Event], None],
    ) -> None:
        self.run_dir, self.space, self.config, self.target_ms = run_dir, space, config, target_ms
        self.predictor, self.on_event = predictor, on_event
        self.device = choose_device(config.device)
        self.weight_batches = data.train_loader(config.batch)
        self.architecture_batches = data.validation_loader(config.architecture_batch or config.batch, shuffle=True)
        self.schedule = Schedule.of(config, len(self.architecture_batches))

        torch.manual_seed(config.seed)
        self.supernet = Supernet(space).to(self.device).train()
        self.supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
        self.alpha = PUBLISHED.alpha_init_deviation * torch.randn(len(space.layers), len(space.operators))
        self.weight_optimiser = torch.optim.SGD(
            self.supernet.parameters(),
            lr=config.weight_lr,
            momentum=PUBLISHED.momentum,
            weight_decay=PUBLISHED.weight_decay,
            foreach=True,  # not fused: that one fails when candidates meet their first gradient at different steps
        )
        self.alpha_optimiser = torch.optim.Adam(
            [self.alpha],
            lr=self.schedule.first_alpha_lr,
            betas=PUBLISHED.alpha_betas,
            weight_decay=PUBLISHED.alpha_weight_decay,
        )
        self.multiplier = Multiplier(self.schedule.lambda_lr)
        self.epoch, self.phase, self.step = 0, "warmup", 0  # what comes next
        self.totals = {
            "train": [0.0, 0.0, 0],
            "validation": [0.0, 0.0, 0],
        }  # loss * images, correct, images, of this epoch
        self.elapsed_s = 0.0

        # The predictor is small: on the CPU, beside alpha, so that sampling a path never waits for a device.
        self.latency = predictor.torch_module().float().cpu().requires_grad_(False)
        self.derived_ms = self._predict([self._derived()])[0]
        self.pending: list[tuple[Event, Outcome, list[list[int]]]] = []
        self.identity = {
            "space": space.sha256,
            "data": data.sha256,
            "data_seed": data.seed,
            "target_ms": target_ms,
            "predictor": self._predict([[k] * len(space.layers) for k in range(len(space.operators))]),
            **{name: value for name, value in asdict(config).items() if name not in ("checkpoint_s", "confidence")},
        }

    # -- the loop -----------------------------------------------------------------------------------------

    def run(self, *, resume: bool) -> None:
        folder = self.run_dir / "search"
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint_path = folder / "checkpoint.pt"
        position = 0
        if resume and self.checkpoint_path.exists():
            position = self._restore(load_checkpoint(self.checkpoint_path, schema=SCHEMA))
        else:
            self.checkpoint_path.unlink(missing_ok=True)
        self.metrics = MetricsLog(folder / "metrics.jsonl", position)
        self.on_event(
            {
                "kind": "start",
                "epochs": self.config.epochs,
                "warmup_epochs": self.schedule.warmup_epochs,
                "weight_steps": len(self.weight_batches),
                "architecture_steps": len(self.architecture_batches),
                "epoch": self.epoch,
                "step": self.step,
                "resumed": position > 0,
            }
        )
        self.started = time.monotonic() - self.elapsed_s
        self.saved = self.flushed = time.monotonic()
        try:
            with Interruptible() as self.interrupt:
                while self.epoch < self.config.epochs:
                    self._epoch()
        finally:
            self.metrics.close()

    def _epoch(self) -> None:
        if self.phase != "architecture":
            self.phase = "warmup" if self.schedule.is_warmup(self.epoch) else "weights"
            self._phase(self.weight_batches, self._train_weights)
            if self.phase == "weights":
                self.phase, self.step = "architecture", 0
        if self.phase == "architecture":
            self._phase(self.architecture_batches, self._move_preferences)
        self._finish_epoch()

    def _phase(self, loader: Loader, do_step: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
        self.supernet.requires_grad_(self.phase != "architecture")
        for group in self.weight_optimiser.param_groups:
            group["lr"] = self.schedule.weight_lr_at(self.epoch)
        for pixels, labels in loader.batches(self.epoch, start=self.step):
            do_step(normalise(pixels.to(self.device)), labels.to(self.device))
            self.step += 1
            now = time.monotonic()
            if now - self.flushed > FLUSH_S:
                self._flush()
            if self.interrupt.requested or now - self.saved > self.config.checkpoint_s:
                self._save()
            if self.interrupt.requested:
                raise KeyboardInterrupt

    def _train_weights(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        paths = sample_orderings(self.alpha) if self.phase == "warmup" else [sample_path(self.alpha)]
        outcome = weight_step(self.supernet, self.weight_optimiser, images, labels, paths)
        self._note(outcome, paths)

    def _move_preferences(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        gradient, path, outcome = architecture_gradient(
            self.supernet, self.latency, self.alpha, images, labels,
            tau=self.schedule.tau(self.epoch), lam=self.multiplier.lam, target_ms=self.target_ms,
        )  # fmt: skip
        self.alpha.grad = gradient
        self.alpha_optimiser.param_groups[0]["lr"] = self._alpha_lr()
        self.alpha_optimiser.step()
        self.derived_ms = self._predict([self._derived()])[0]
        self.multiplier.update(self.derived_ms, self.target_ms, may_brake=self.schedule.may_brake(self.epoch))
        self._note(outcome, [path])

    def _alpha_lr(self) -> float:
        return self.multiplier.alpha_lr(self.schedule.alpha_lr(self.epoch), self.derived_ms, self.target_ms)

    def _derived(self) -> list[int]:
        return [int(index) for index in self.alpha.argmax(-1)]

    def _predict(self, paths: list[list[int]]) -> list[float]:
        predicted = self.predictor.predict(np.eye(len(self.space.operators))[np.array(paths)])
        if not np.isfinite(predicted).all():
            raise PredictorError(f"the predictor gives {predicted} ms for operators {paths}")
        return [float(value) for value in predicted]

    # -- what is written ------------------------------------------------------------------------------------

    def _note(self, outcome: Outcome, paths: list[list[int]]) -> None:
        line = {
            "kind": "step",
            "phase": self.phase,
            "epoch": self.epoch,
            "step": self.step,
            "tau": self.schedule.tau(self.epoch),
            "lambda": self.multiplier.lam,
            "derived_ms": self.derived_ms,
            "alpha_lr": self._alpha_lr() if self.phase == "architecture" else None,
            "weight_lr": None if self.phase == "architecture" else self.schedule.weight_lr_at(self.epoch),
            "elapsed_s": round(time.monotonic() - self.started, 3),
        }
        self.pending.append((line, outcome, paths))

    def _flush(self) -> None:
        """Read the losses of the last steps from the device, check them, write and tell them."""
        pending, self.pending = self.pending, []
        self.flushed = time.monotonic()
        if not pending:
            return
        sampled = self._predict([path for _, _, paths in pending for path in paths])
        lines = []
        for line, outcome, paths in pending:
            loss, correct, images = float(outcome.loss), float(outcome.correct), outcome.images
            if not math.isfinite(loss):
                raise self._diverged(line, loss)
            total = self.totals["validation" if line["phase"] == "architecture" else "train"]
            total[0] += loss * images
            total[1] += correct
            total[2] += images
            mine, sampled = sampled[: len(paths)], sampled[len(paths) :]
            line |= {"loss": loss, "accuracy": correct / images, "images": images, "sampled_ms": sum(mine) / len(mine)}
            lines.append(line)
        if not torch.isfinite(self.alpha).all():
            raise self._diverged(lines[-1], math.nan)
        self._write(lines)

    def _finish_epoch(self) -> None:
        self._flush()
        probabilities = torch.softmax(self.alpha.double(), -1)
        entropy = float(-(probabilities * probabilities.log()).sum(-1).mean())
        line: Event = {
            "kind": "epoch",
            "epoch": self.epoch,
            "phase": "warmup" if self.phase == "warmup" else "search",
            "probabilities": [[round(value, 6) for value in row] for row in probabilities.tolist()],
            "entropy": entropy,
            "derived_ms": self.derived_ms,
            "lambda": self.multiplier.lam,
            "elapsed_s": round(time.monotonic() - self.started, 3),
        }
        for part, (loss, correct, images) in self.totals.items():
            line[f"{part}_loss"] = loss / images if images else None
            line[f"{part}_accuracy"] = correct / images if images else None
        self._write([line])
        self.totals = {"train": [0.0, 0.0, 0], "validation": [0.0, 0.0, 0]}
        self.epoch, self.phase, self.step = self.epoch + 1, "weights", 0
        ended = self.epoch == self.config.epochs
        if ended or self.interrupt.requested or time.monotonic() - self.saved > self.config.checkpoint_s:
            self._save()

    def _write(self, lines: list[Event]) -> None:
        self.metrics.write(lines)
        for line in lines:
            self.on_event(line)

    def _diverged(self, line: Event, loss: float) -> DivergedError:
        return DivergedError(
            f"the loss became {loss} at epoch {line['epoch']}, step {line['step']} of phase {line['phase']}",
            hint=f"begin anew (--fresh) with a smaller weight step, now {self.config.weight_lr}, or another seed",
        )

    # -- checkpoints ------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self._flush()
        self.metrics.sync()
        save_checkpoint(
            self.checkpoint_path,
            {
                "schema": SCHEMA,
                "identity": self.identity,
                "epoch": self.epoch,
                "phase": self.phase,
                "step": self.step,
                "supernet": self.supernet.state_dict(),
                "weight_optimiser": self.weight_optimiser.state_dict(),
                "alpha": self.alpha,
                "alpha_optimiser": self.alpha_optimiser.state_dict(),
                "lambda": self.multiplier.lam,
                "braking": self.multiplier.braking,
                "tau": self.schedule.tau(self.epoch),  # follows from the epoch; here for readers
                "random": random_state(self.device),
                "totals": self.totals,
                "metrics_bytes": self.metrics.position,
                "elapsed_s": time.monotonic() - self.started,
            },
        )
        self.saved = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> int:
        require_same(state["identity"], self.identity, f"the search in {self.run_dir}")
        self.supernet.load_state_dict(state["supernet"])
        self.weight_optimiser.load_state_dict(state["weight_optimiser"])
        self.alpha.copy_(state["alpha"])
        self.alpha_optimiser.load_state_dict(state["alpha_optimiser"])
        self.multiplier = replace(self.multiplier, lam=state["lambda"], braking=state["braking"])
        self.epoch, self.phase, self.step = state["epoch"], state["phase"], state["step"]
        self.totals, self.elapsed_s = state["totals"], state["elapsed_s"]
        self.derived_ms = self._predict([self._derived()])[0]
        restore_random_state(state["random"], self.device)
        return int(state["metrics_bytes"])


def _conclude(search: _Search, selection: Selection, preference: np.ndarray[Any, Any]) -> SearchResult:
    derived = Architecture.from_indices(search.space, search._derived())
    result = SearchResult(
        selection.architecture,
        float(selection.predicted),
        selection.upper,
        search.target_ms,
        derived,
        search.derived_ms,
        np.exp(preference),
        search.config.epochs,
        time.monotonic() - search.started,
    )
    predicted = {
        "latency_ms": result.predicted_ms,
        "upper_ms": result.upper_ms,
        "confidence": search.config.confidence,
        "target_ms": result.target_ms,
        "violation": result.predicted_ms / result.target_ms - 1,
        "derived": {"operators": [operator.name for operator in derived.operators], "latency_ms": result.derived_ms},
    }
    write_json(search.run_dir / "architecture.json", {**result.architecture.to_json(), "predicted": predicted})
    return result
