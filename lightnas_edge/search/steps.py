"""The two steps of the search: one trains weights, the other moves preferences and the multiplier.

alpha (L, K)   preferences: log-probabilities up to a constant per layer
tau            temperature of the gradient; it does not change what is sampled
lam            the multiplier of LAT / T - 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightnas_edge.nn import Supernet
from lightnas_edge.search.config import PUBLISHED

Path = list[int]


def gumbel(shape: torch.Size) -> Tensor:
    """Standard Gumbel noise from the CPU's generator; never infinite."""
    tiny = torch.finfo(torch.float32).tiny
    return -torch.empty(shape).exponential_().clamp_(min=tiny).log_()


def sample_path(alpha: Tensor) -> Path:
    """One path, each operator with its probability softmax(alpha)."""
    with torch.no_grad():
        return [int(index) for index in (alpha + gumbel(alpha.shape)).argmax(-1)]


def sample_orderings(alpha: Tensor) -> list[Path]:
    """K paths that together hold every operator of every layer once, in random order without replacement (warm-up)."""
    with torch.no_grad():
        order = (alpha + gumbel(alpha.shape)).argsort(-1, descending=True)
        return [[int(index) for index in path] for path in order.T]


@dataclass(frozen=True)
class Outcome:
    """What one pass of a batch gave, still on the device: reading it would wait for the device."""

    loss: Tensor  # () mean over images and paths
    correct: Tensor  # () images, mean over paths
    images: int


def weight_step(
    supernet: Supernet, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor, paths: Sequence[Path]
) -> Outcome:
    """One step of the weights on the sum of the losses of the paths.

    Only operators on the paths are touched: the others have no gradient, and get neither momentum nor weight decay.
    (In PyTorch 1.7, on which the published code ran, they got both.)
    """
    losses, correct = [], []
    optimiser.zero_grad(set_to_none=True)
    for path in paths:
        logits = supernet(images, path)
        loss = F.cross_entropy(logits, labels, label_smoothing=PUBLISHED.label_smoothing)
        torch.autograd.backward(loss)
        losses.append(loss.detach())
        correct.append(_correct(logits, labels))
    touched = [parameter for parameter in supernet.parameters() if parameter.grad is not None]
    nn.utils.clip_grad_norm_(touched, PUBLISHED.clip_norm)
    optimiser.step()
    return Outcome(torch.stack(losses).mean(), torch.stack(correct).mean(), len(labels))


def architecture_gradient(
    supernet: Supernet,
    predictor: nn.Module,
    alpha: Tensor,
    images: Tensor,
    labels: Tensor,
    *,
    tau: float,
    lam: float,
    target_ms: float,
) -> tuple[Tensor, Path, Outcome]:
    """Straight-through gradient on alpha of CE + lam * (LAT / T - 1) for one sampled path.

    The weights must not require gradients: then the backward pass computes none, and stops at the first searchable
    layer.

    Returns:
        The (L, K) gradient, the path, and what the batch gave.
    """
    logits_of_alpha = alpha.detach().requires_grad_()
    noisy = (torch.log_softmax(logits_of_alpha, -1) + gumbel(alpha.shape)) / tau
    soft = torch.softmax(noisy, -1)
    chosen = noisy.detach().argmax(-1, keepdim=True)
    path = [int(index) for index in chosen.squeeze(-1)]

    gates = torch.ones(len(path), device=images.device, requires_grad=True)
    logits = supernet(images, path, gates)
    loss = F.cross_entropy(logits, labels, label_smoothing=PUBLISHED.label_smoothing)
    (gate_gradient,) = torch.autograd.grad(loss, gates)

    one_hot = torch.zeros_like(alpha).scatter_(-1, chosen, 1.0).requires_grad_()
    latency_ms = predictor(one_hot.unsqueeze(0)).reshape(())
    (latency_gradient,) = torch.autograd.grad(latency_ms, one_hot)

    # The derivative with respect to the one-hot sample, handed on to the soft sample as if it had been that.
    cotangent = latency_gradient * (lam / target_ms)
    cotangent = cotangent.scatter_add(-1, chosen, gate_gradient.to(alpha.device).unsqueeze(-1))
    (gradient,) = torch.autograd.grad(soft, logits_of_alpha, cotangent)
    return gradient, path, Outcome(loss.detach(), _correct(logits, labels), len(labels))


@dataclass
class Multiplier:
    """lam and the brake: both look at the derived network, the one that alpha prefers in every layer."""

    lr: float
    lam: float = 0.0
    braking: bool = False

    def update(self, derived_ms: float, target_ms: float, *, may_brake: bool) -> None:
        """Gradient ascent; reset to zero when it pushes the wrong way (always on in the published code)."""
        violation = derived_ms / target_ms - 1
        self.lam += self.lr * violation
        if (violation > 0 and self.lam < 0) or (violation < 0 and self.lam > 0):
            self.lam = 0.0
        if may_brake and abs(violation) < PUBLISHED.brake_band:
            self.braking = True

    def alpha_lr(self, scheduled: float, derived_ms: float, target_ms: float) -> float:
        """The brake makes the steps of alpha as small as the distance from the target, once that has been near."""
        return scheduled * abs(derived_ms / target_ms - 1) if self.braking else scheduled


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(-1) == labels).sum().float()
