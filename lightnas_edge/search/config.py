"""The constants of the published search in one place, and what a user may set."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightnas_edge.errors import ConfigError
from lightnas_edge.nn.execution import PRECISIONS


@dataclass(frozen=True)
class Published:
    """Defaults of LightNAS search_imagenet.py, commit 2f0e1d1, on ImageNet-100."""

    epochs: int = 90
    warmup_epochs: int = 10  # "freeze_epochs": weights only
    batch: int = 128
    weight_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 3e-5
    clip_norm: float = 5.0
    alpha_lr: float = 1e-3
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_weight_decay: float = 1e-3
    alpha_lr_halving_epochs: int = 20
    alpha_init_deviation: float = 1e-3
    lambda_lr: float = 5e-4
    tau: float = 5.0
    tau_decay: float = 0.1  # tau * exp(-decay * epochs after the warm-up)
    label_smoothing: float = 0.1
    brake_epochs: int = 10
    # There 0.15 ms, for targets of 20 to 30 ms. Relative here, so that it means the same for any target: 0.15 / 20.
    brake_band: float = 0.0075
    # Not in the code: 5,000 validation images in batches of 128 over 80 epochs. What the step sizes are tuned to.
    architecture_steps: int = 3200


PUBLISHED = Published()

SHARED, ENTANGLED, BLOCKWISE, LIGHTNAS = "shared", "entangled", "blockwise", "lightnas"
METHODS = (SHARED, ENTANGLED, BLOCKWISE, LIGHTNAS)
LOSSES, GRADIENTS = "losses", "gradients"
EVIDENCE = (LOSSES, GRADIENTS)


@dataclass(frozen=True)
class SearchConfig:
    """What a user may set; everything else is `PUBLISHED`.

    Args:
        method: `entangled`: one supernet for any number of budgets, whose candidates are cuts of the largest and learn from the largest
            network; operator scores fitted to the losses of whole paths; the network of the highest scores within each budget.
            `shared`: the same with weights of its own for every candidate. `blockwise`: the largest network is trained first; then every
            other operator learns to do what the largest one of its layer does. `lightnas`: as published, one budget.
        evidence: what operator scores are fitted to (`shared` and `entangled`): `losses` of whole paths, or `gradients` of the
            difference between two operators of every layer.
        epochs: of the whole search. Warm-up, temperature, halvings and brake are stretched to it, so that a short
            search has the shape of the published one of 90.
        batch: batch size of weight updates.
        architecture_batch: batch size of architecture updates; None: the same. A smaller one gives more steps per epoch.
        warmup_epochs: None: a ninth of the epochs, with `blockwise` half of them; at least one.
        weight_lr: at the first step. None: as published, 0.1, for batches of 128 and more, and in proportion to smaller
            ones: with 0.1 at batch 16 a supernet of `tiny` stays near chance (docs/search.md).
        alpha_lr, lambda_lr: None: as published, multiplied by 3200 / architecture steps of this search where that is
            above one. Adam moves a logit by at most the sum of its step sizes, so 100 published steps move it by
            0.1. The scaling keeps that sum and does not bring a short search to its target: the network of the
            highest alpha ended 9 % below and 16 % above it in two searches of 10 and 8 epochs on `tiny`, and a replay
            without training showed no clear winner among 8 pairs of factors (median 4 to 15 % off). That the network
            selected keeps the budget follows from the exact selection alone.
        two_sided: the budget is a target from both sides, as published; None: only with the method `lightnas`.
        teacher: SHA-256 of the weights of the trained network that teaches (`blockwise`); no epoch trains a teacher then.
        paths: of each validation batch whose losses are compared (with `losses`). Four give three comparisons for twice the
            passes of the one comparison that two give.
        candidates: networks of each budget that are compared on held-out images; 1: none, the operator scores decide. Where the best
            networks are known, comparing brought nothing (docs/search.md).
        micro_batches: per weight update, run one after the other: less memory, and batch norm sees one at a time.
        precision: of the arithmetic: `fp32`, `bf16`, or `auto`: what is quickest in a short trial before the search.
        seed: of weights, samples and logits; that of order and augmentation belongs to the data.
        device: `auto`, `cpu` or `cuda`. Bit-identical resumption is promised on the CPU, with the same
            number of threads.
        checkpoint_s: seconds between checkpoints.
        confidence: of the upper bound that must keep the budget; None: the prediction itself must keep it.
    """

    method: str = ENTANGLED
    evidence: str = LOSSES
    epochs: int = PUBLISHED.epochs
    batch: int = PUBLISHED.batch
    architecture_batch: int | None = None
    warmup_epochs: int | None = None
    weight_lr: float | None = None
    alpha_lr: float | None = None
    lambda_lr: float | None = None
    two_sided: bool | None = None
    teacher: str | None = None
    paths: int = 4
    candidates: int = 1
    micro_batches: int = 1
    precision: str = "fp32"
    seed: int = 0
    device: str = "auto"
    checkpoint_s: float = 60.0
    confidence: float | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name}: expected at least {least}, found {getattr(self, name)}"
            for name, least in (
                ("epochs", 2),
                ("batch", 2),
                ("architecture_batch", 2),
                ("warmup_epochs", 1),
                ("paths", 2),
                ("candidates", 1),
                ("micro_batches", 1),
                ("seed", 0),
            )
            if getattr(self, name) is not None and getattr(self, name) < least
        ]
        faults += [
            f"{name}: expected a number above 0, found {getattr(self, name)}"
            for name in ("weight_lr", "alpha_lr", "lambda_lr")
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf
        ]
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            faults.append(f"warmup_epochs: {self.warmup_epochs} of {self.epochs} epochs leave none to search")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            faults.append(f"confidence: expected a number from 0.5 to below 1, found {self.confidence}")
        for name, known in (("method", METHODS), ("evidence", EVIDENCE), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                faults.append(f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}")
        if self.method == BLOCKWISE and self.evidence != LOSSES:
            faults.append(
                "evidence: the method blockwise has losses of networks in which one layer is replaced, and no gradients"
            )
        if self.teacher is not None and self.method != BLOCKWISE:
            faults.append(f"teacher: the method {self.method} has none; the method blockwise learns from one")
        if self.teacher is not None and self.warmup_epochs is not None:
            faults.append("warmup_epochs: with a teacher that is trained there is no warm-up")
        if 2 * self.micro_batches > self.batch:
            faults.append(
                f"micro_batches: {self.micro_batches} micro-batches of {self.batch} images leave fewer than two images in each"
            )
        if faults:
            raise ConfigError(
                "the configuration of the search is invalid\n" + "\n".join(f"  {fault}" for fault in faults)
            )

    @property
    def first_weight_lr(self) -> float:
        """Step size of the weights at the beginning."""
        if self.weight_lr is not None:
            return self.weight_lr
        return PUBLISHED.weight_lr * min(1.0, self.batch / PUBLISHED.batch)

    @property
    def validation_passes(self) -> int:
        """Forward passes of a validation image in an epoch; a pass there and back without gradients of weights counts as two."""
        if self.method == LIGHTNAS:
            return 2
        return self.paths if self.evidence == LOSSES else 4  # two operators in every layer, there and back

    @property
    def is_two_sided(self) -> bool:
        """Whether the search pulls towards the first budget from below too; None of `two_sided` follows the method."""
        return self.method == LIGHTNAS if self.two_sided is None else self.two_sided


# The largest automatic step of alpha: a judgement, not a measurement. Adam's step does not shrink
# with the gradient, so far above it a few batches would settle a layer.
ALPHA_LR_LIMIT = 0.1


@dataclass(frozen=True)
class Schedule:
    """Step sizes and temperature by epoch (0 is the first), the published ones stretched to `epochs`."""

    epochs: int
    warmup_epochs: int
    weight_lr: float
    first_alpha_lr: float
    lambda_lr: float
    restarts: bool = False  # the step size of the weights begins again after the warm-up

    @classmethod
    def of(cls, config: SearchConfig, architecture_steps_per_epoch: int) -> Schedule:
        share = 0.5 if config.method == BLOCKWISE else PUBLISHED.warmup_epochs / PUBLISHED.epochs
        warmup = 0 if config.teacher is not None else config.warmup_epochs or max(1, round(config.epochs * share))
        scale = max(1.0, PUBLISHED.architecture_steps / ((config.epochs - warmup) * architecture_steps_per_epoch))
        alpha_lr = config.alpha_lr or min(ALPHA_LR_LIMIT, PUBLISHED.alpha_lr * scale)
        lambda_lr = config.lambda_lr or PUBLISHED.lambda_lr * scale
        return cls(config.epochs, warmup, config.first_weight_lr, alpha_lr, lambda_lr, config.method == BLOCKWISE)

    def _published_epochs_after_warmup(self, epoch: int) -> float:
        published = PUBLISHED.epochs - PUBLISHED.warmup_epochs
        return max(0, epoch - self.warmup_epochs) * published / (self.epochs - self.warmup_epochs)

    def tau(self, epoch: int) -> float:
        return PUBLISHED.tau * math.exp(-PUBLISHED.tau_decay * self._published_epochs_after_warmup(epoch))

    def alpha_lr(self, epoch: int) -> float:
        """Before any brake."""
        halvings = math.floor(self._published_epochs_after_warmup(epoch) / PUBLISHED.alpha_lr_halving_epochs)
        return float(self.first_alpha_lr * 0.5**halvings)

    def weight_lr_at(self, epoch: int) -> float:
        """Cosine over all epochs, one value per epoch; with `restarts`, one over the warm-up and one over the rest."""
        begin, end = 0, self.epochs
        if self.restarts:
            begin, end = (0, self.warmup_epochs) if self.is_warmup(epoch) else (self.warmup_epochs, self.epochs)
        return self.weight_lr * 0.5 * (1 + math.cos(math.pi * (epoch - begin) / (end - begin)))

    def is_warmup(self, epoch: int) -> bool:
        return epoch < self.warmup_epochs

    def may_brake(self, epoch: int) -> bool:
        last = max(1, round(self.epochs * PUBLISHED.brake_epochs / PUBLISHED.epochs))
        return self.epochs - (epoch + 1) < last
