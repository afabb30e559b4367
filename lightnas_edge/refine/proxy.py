"""`training_loss_sum`: a fast estimate of which of several networks will learn best.

The sum of the training losses early in an ordinary training, after Ru et al., "Speedy Performance Estimation for
Neural Architecture Search" (NeurIPS 2021, arXiv 2006.04492): what learns faster tends to end better. As in their TSE-E
the very first losses are left out, which depend more on the initial weights than on the network. It replaces
the "batchwise training estimation" of the journal version of LightNAS, the formula of which is not published. Lower is better.
It depends on the seed of the initial weights and of the order of the images; networks are comparable at equal seeds.

Under `torchrun` each process has its share of every batch, gradients are averaged and batch norm sees the whole batch: the score is that of one
process but for the order in which floats are added, and the same on every rank to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightnas_edge.data import DataSet, Loader, normalise
from lightnas_edge.errors import DataError
from lightnas_edge.nn import Network, Ranks
from lightnas_edge.nn.device import choose_device
from lightnas_edge.nn.synchronised import with_synchronised_norms
from lightnas_edge.space import Architecture, Space
from lightnas_edge.train import TrainConfig
from lightnas_edge.train.recipe import make_optimiser

# Share of the steps whose losses are left out. Eight choices around a network of `tiny` on digits, 200 steps of 64, four
# seeds: the spread between choices over the noise between seeds is 1.8 from the first step on, 2.3 from the hundredth
# (python -m studies.proxy_noise RUN --seeds 4).
BURN_IN = 0.5


class TrainingLossSum:
    """The score of networks on one data set.

    Args:
        steps: of training, each on `batch` images; the losses of the second half are summed.
        device: `auto`, `cpu` or `cuda`. Equal scores to the last bit are promised on the CPU, with the same number of
            threads.
    """

    name = "training_loss_sum"

    def __init__(self, data: DataSet, *, steps: int, batch: int, device: str = "auto") -> None:
        self.data, self.steps, self.batch = data, steps, batch
        self.device = choose_device(device)
        self._recipe = TrainConfig(batch=batch)  # as the network will be trained, except for the schedule
        self._ranks = Ranks()
        if batch < 2 * self._ranks.world or len(data.train) < 2 * self._ranks.world:
            raise DataError(
                f"{self._ranks.world} processes share batches of {min(batch, len(data.train))} images; batch norm needs two in each",
                hint="larger batches, or fewer processes",
            )
        self._kept_loader: tuple[int, Loader] | None = None

    def __call__(self, space: Space, architecture: Architecture, seed: int) -> float:
        """Sum of the losses after the burn-in; infinite when the training diverged.

        Raises:
            DataError: an image cannot be read.
        """
        losses = self.losses(space, architecture, seed)
        score = float(torch.stack(losses[int(BURN_IN * self.steps) :]).double().sum())
        return score if math.isfinite(score) else math.inf

    def losses(self, space: Space, architecture: Architecture, seed: int) -> list[Tensor]:
        """Of every step, () each, on the device."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network: nn.Module = (
                Network(space.with_classes(len(self.data.classes)), architecture).to(self.device).train()
            )
            if self._ranks.world > 1:
                network = with_synchronised_norms(network, self.device)
            if self._ranks.rank:
                torch.manual_seed(seed + self._ranks.rank)  # what is dropped out may differ between processes
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
            optimiser = make_optimiser(network, self._recipe)
            losses = []
            loader = self._loader(seed)
            for step in range(self.steps):
                epoch, start = divmod(step, len(loader))
                if step == 0 or start == 0:
                    batches = loader.batches(epoch)
                pixels, labels = next(batches)
                images, labels = normalise(pixels.to(self.device)), labels.to(self.device)
                for group in optimiser.param_groups:
                    group["lr"] = self._lr(step)
                optimiser.zero_grad(set_to_none=True)
                loss = F.cross_entropy(network(images), labels, label_smoothing=self._recipe.label_smoothing)
                loss *= len(labels) * self._ranks.world / loader.images_of(step - epoch * len(loader))
                torch.autograd.backward(loss)
                loss = loss.detach()
                self._ranks.average_step(network, loss)
                nn.utils.clip_grad_norm_(network.parameters(), self._recipe.clip_norm)
                optimiser.step()
                losses.append(loss)
        return losses

    def _lr(self, step: int) -> float:
        """A straight rise over the first tenth, then constant: the beginning of a long training."""
        return self._recipe.peak_lr * min(1.0, (step + 1) / max(1.0, 0.1 * self.steps))

    def _loader(self, seed: int) -> Loader:
        """The same batches for every network at a seed. The last one is kept: its processes are slow to start."""
        if self._kept_loader is None or self._kept_loader[0] != seed:
            self._kept_loader = None
            share = (self._ranks.rank, self._ranks.world)
            self._kept_loader = (
                seed,
                replace(self.data, seed=self.data.seed + seed).train_loader(self.batch, share=share),
            )
        return self._kept_loader[1]
