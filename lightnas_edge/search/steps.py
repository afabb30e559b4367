"""The two steps of the search: one updates weights, the other alpha and the multiplier.

alpha (L, K)   architecture parameters: log-probabilities up to a constant per layer
tau            temperature of the gradient; it does not change what is sampled
lam            the multiplier of LAT / T - 1, one for each constraint
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightnas_edge.nn import Ranks, Supernet
from lightnas_edge.nn.execution import PLAIN, Execution
from lightnas_edge.search.config import PUBLISHED

Path = list[int]


def gumbel(shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise from the CPU's generator; never infinite."""
    tiny = torch.finfo(torch.float32).tiny
    return -torch.empty(shape).exponential_(generator=generator).clamp_(min=tiny).log_()


def sample_path(alpha: Tensor, generator: torch.Generator | None = None) -> Path:
    """One path, each operator with its probability softmax(alpha)."""
    with torch.no_grad():
        return [int(index) for index in (alpha + gumbel(alpha.shape, generator)).argmax(-1)]


def sample_orderings(alpha: Tensor, generator: torch.Generator | None = None) -> list[Path]:
    """K paths that together hold every operator of every layer once, in random order without replacement (warm-up)."""
    with torch.no_grad():
        order = (alpha + gumbel(alpha.shape, generator)).argsort(-1, descending=True)
        return [[int(index) for index in path] for path in order.T]


@dataclass(frozen=True)
class Outcome:
    """Result of one pass of a batch, still on the device: reading it would wait for the device."""

    loss: Tensor  # () mean over images and paths
    correct: Tensor  # () images, mean over paths
    images: int


def weight_step(
    supernet: Supernet,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    paths: Sequence[Path],
    *,
    distil: bool = False,
    micro_batches: int = 1,
    execution: Execution = PLAIN,
    ranks: Ranks | None = None,
    abandonable: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Outcome:
    """One step of the weights on the sum of the losses of the paths.

    Only operators on the paths are touched: the others have no gradient, and get neither momentum nor weight decay.
    (In PyTorch 1.7, on which the published code ran, they got both.)

    Args:
        distil: only the first path learns from the labels; the others learn from its answers.
        micro_batches: the batch is split into this many; their gradients add up, and batch norm sees one at a time.
        ranks: their gradients are averaged before the step.
        abandonable: entered around the passes; what it raises leaves the weights as they were.
    """
    losses, correct, answers = [], [], list[Tensor]()
    micro_batches = max(1, min(micro_batches, len(labels) // 2))  # batch norm needs two images
    optimiser.zero_grad(set_to_none=True)
    with abandonable():
        for path in paths:
            teaching = distil and not answers
            for part, (some_images, some_labels) in enumerate(
                zip(images.tensor_split(micro_batches), labels.tensor_split(micro_batches), strict=True)
            ):
                share = len(some_labels) / len(labels)
                with execution.context(images.device):
                    logits = supernet(some_images, path).float()
                    if not distil or teaching:
                        loss = F.cross_entropy(logits, some_labels, label_smoothing=PUBLISHED.label_smoothing)
                    else:
                        loss = F.cross_entropy(logits, answers[part])
                torch.autograd.backward(loss * share)
                if teaching:
                    answers.append(torch.softmax(logits.detach(), -1))
                losses.append(loss.detach() * share)
                correct.append(_correct(logits, some_labels))
    touched = [parameter for parameter in supernet.parameters() if parameter.grad is not None]
    if ranks is not None:
        ranks.average(parameter.grad for parameter in touched if parameter.grad is not None)
    nn.utils.clip_grad_norm_(touched, PUBLISHED.clip_norm)
    optimiser.step()
    return Outcome(torch.stack(losses).sum() / len(paths), torch.stack(correct).sum() / len(paths), len(labels))


def imitation_step(
    supernet: Supernet,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    teacher: Path,
    path: Path,
    *,
    micro_batches: int = 1,
    execution: Execution = PLAIN,
    ranks: Ranks | None = None,
    abandonable: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Outcome:
    """One step of the operators on a path, each on what the teacher's operator of its layer makes of the teacher's features.

    The loss of a layer is the squared error of its output relative to the variance of the teacher's. No gradient leaves a layer,
    and the teacher stays as it is. The outcome has the mean loss of the layers that learn, and the teacher's answers.

    Args:
        micro_batches: as of `weight_step`.
    """
    optimiser.zero_grad(set_to_none=True)
    micro_batches = max(1, min(micro_batches, len(labels) // 2))
    means: list[Tensor] = []
    answers: list[Tensor] = []
    with abandonable():
        for some_images in images.tensor_split(micro_batches):
            losses: list[Tensor] = []
            with execution.context(images.device):
                with torch.no_grad():
                    features, logits = supernet.features(some_images, teacher)
                for layer, (index, known) in enumerate(zip(path, teacher, strict=True)):
                    operator = cast(nn.ModuleList, supernet.layers[layer])[index]
                    if index == known or not any(each.requires_grad for each in operator.parameters()):
                        continue
                    wanted = features[layer + 1].float()
                    error = (operator(features[layer]).float() - wanted).square().mean()
                    losses.append(error / wanted.var().clamp_min(1e-12))
            share = len(some_images) / len(labels)
            answers.append(logits.float())
            if losses:
                loss = torch.stack(losses)
                torch.autograd.backward(loss.sum() * share if micro_batches > 1 else loss.sum())
                means.append(loss.detach().mean() * share)
    touched = [parameter for parameter in supernet.parameters() if parameter.grad is not None]
    if ranks is not None:
        ranks.average(parameter.grad for parameter in touched if parameter.grad is not None)
    if touched:
        nn.utils.clip_grad_norm_(touched, PUBLISHED.clip_norm)
        optimiser.step()
    found = torch.cat(answers)
    mean = torch.stack(means).sum() if means else found.new_zeros(())
    return Outcome(mean, _correct(found, labels), len(labels))


def path_losses(
    supernet: Supernet, images: Tensor, labels: Tensor, paths: Sequence[Path], *, execution: Execution = PLAIN
) -> tuple[Tensor, Outcome]:
    """(P,) loss of every path on the same batch, and the outcome of the batch; without gradients."""
    with torch.no_grad(), execution.context(images.device):
        logits = [supernet(images, path).float() for path in paths]
        losses = torch.stack(
            [F.cross_entropy(each, labels, label_smoothing=PUBLISHED.label_smoothing) for each in logits]
        )
        correct = torch.stack([_correct(each, labels) for each in logits]).mean()
    return losses, Outcome(losses.mean(), correct, len(labels))


def pair_differences(
    supernet: Supernet,
    images: Tensor,
    labels: Tensor,
    pairs: Sequence[tuple[int, int]],
    *,
    execution: Execution = PLAIN,
) -> tuple[Tensor, Outcome]:
    """(L,) of every layer, the loss with the first operator of its pair less the loss with the second, to first order.

    Both operators of a layer run, each with a factor of one half; the derivative of the loss along (+1, -1) of the two factors is a
    central difference between the two networks that differ in this layer, in the midst of the mixtures of the other layers.
    The weights must not require gradients: then the backward pass computes none of theirs.
    """
    gates = torch.full((len(pairs), 2), 0.5, device=images.device, requires_grad=True)
    with execution.context(images.device):
        logits = supernet.forward_pairs(images, pairs, gates).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=PUBLISHED.label_smoothing)
    (gradient,) = torch.autograd.grad(loss, gates)
    return gradient[:, 0] - gradient[:, 1], Outcome(loss.detach(), _correct(logits, labels), len(labels))


def architecture_gradient(
    supernet: Supernet,
    alpha: Tensor,
    images: Tensor,
    labels: Tensor,
    costs: Sequence[tuple[nn.Module, float, float]],
    *,
    tau: float,
    generator: torch.Generator | None = None,
    execution: Execution = PLAIN,
) -> tuple[Tensor, Path, Outcome]:
    """Straight-through gradient on alpha of CE + sum of lam * (LAT / T - 1) for one sampled path.

    The weights must not require gradients: then the backward pass computes none, and stops at the first searchable
    layer.

    Args:
        costs: (predictor, lam, T) of every constraint.

    Returns:
        The (L, K) gradient, the path, and what the batch gave.
    """
    logits_of_alpha = alpha.detach().requires_grad_()
    noisy = (torch.log_softmax(logits_of_alpha, -1) + gumbel(alpha.shape, generator)) / tau
    soft = torch.softmax(noisy, -1)
    chosen = noisy.detach().argmax(-1, keepdim=True)
    path = [int(index) for index in chosen.squeeze(-1)]

    gates = torch.ones(len(path), device=images.device, requires_grad=True)
    with execution.context(images.device):
        logits = supernet(images, path, gates).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=PUBLISHED.label_smoothing)
    (gate_gradient,) = torch.autograd.grad(loss, gates)

    # The derivative with respect to the one-hot sample, passed to the soft sample as if it were the one-hot sample.
    one_hot = torch.zeros_like(alpha).scatter_(-1, chosen, 1.0).requires_grad_()
    penalty = torch.stack(
        [lam / target * predictor(one_hot.unsqueeze(0)).reshape(()) for predictor, lam, target in costs]
    )
    (cotangent,) = torch.autograd.grad(penalty.sum(), one_hot)
    cotangent = cotangent.scatter_add(-1, chosen, gate_gradient.to(alpha.device).unsqueeze(-1))
    (gradient,) = torch.autograd.grad(soft, logits_of_alpha, cotangent)
    return gradient, path, Outcome(loss.detach(), _correct(logits, labels), len(labels))


@dataclass
class Multiplier:
    """lam of one constraint, and the brake: both look at the derived network, the one of the highest alpha in every layer.

    `two_sided`: below the target lam may fall below zero and ask for more, as published; else it stays at zero.
    """

    lr: float
    lam: float = 0.0
    braking: bool = False
    two_sided: bool = True

    def update(self, derived: float, target: float, *, may_brake: bool) -> None:
        """Gradient ascent; reset to zero when it pushes the wrong way (always on in the published code)."""
        violation = derived / target - 1
        self.lam += self.lr * violation
        if (violation > 0 and self.lam < 0) or (violation < 0 and self.lam > 0):
            self.lam = 0.0
        if not self.two_sided:
            self.lam = max(0.0, self.lam)
        if may_brake and abs(violation) < PUBLISHED.brake_band:
            self.braking = True

    def alpha_lr(self, scheduled: float, derived: float, target: float) -> float:
        """The brake makes the steps of alpha as small as the distance from the target, once that has been near."""
        return scheduled * abs(derived / target - 1) if self.braking else scheduled


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(-1) == labels).sum().float()
