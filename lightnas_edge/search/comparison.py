"""Networks on held-out images with the supernet's weights, in float32 and in the precision of their board."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from lightnas_edge.data import DataSet, normalise
from lightnas_edge.graph import FP32, Arithmetic, network_model
from lightnas_edge.nn import Supernet, folded_path_weights
from lightnas_edge.nn.execution import PLAIN, Execution
from lightnas_edge.search.candidates import CALIBRATION_IMAGES, HELD_OUT_IMAGES, RANGE_IMAGES, Candidate
from lightnas_edge.search.config import SearchConfig
from lightnas_edge.search.deployed import GRAPH_BATCH, Penalty, ScoredImages, penalty_of, run_graph
from lightnas_edge.search.selection import Selection
from lightnas_edge.space import Architecture

_BATCH = 128  # of held-out images: their statistics are fixed, so that a batch decides speed and nothing else


class Comparison:
    """Scores every network on the same held-out images, normalised by statistics of the same training images.

    The images are loaded once and every network is scored once, for however many budgets. They are the validation images,
    and the operator scores were fitted to them too: this ranks candidates and is no estimate of an accuracy. The losses are of
    float32 also where the search trained in bfloat16: penalties are differences from them.

    Args:
        execution: of the search; its memory format is used.
    """

    def __init__(self, supernet: Supernet, data: DataSet, config: SearchConfig, execution: Execution = PLAIN) -> None:
        self._supernet, self._data, self._config, self._execution = supernet, data, config, execution
        self._scored: dict[Architecture, ScoredImages] = {}
        self._penalties: dict[tuple[Architecture, Arithmetic], Penalty] = {}

    def score(
        self,
        selections: Sequence[Selection],
        arithmetic: Arithmetic = FP32,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Candidate]:
        """Every network as a candidate.

        Args:
            arithmetic: of the board. Other than in float32, the network with the supernet's weights is executed in it too.
        """
        found = []
        for done, selection in enumerate(selections, start=1):
            architecture = selection.architecture
            self._score_once(architecture, arithmetic)
            scored, penalty = self._scored[architecture], self._penalties.get((architecture, arithmetic))
            found.append(Candidate(selection, float(scored.losses.mean()), float(scored.correct.mean()), penalty))
            if on_progress is not None:
                on_progress(done, len(selections))
        return found

    def _score_once(self, architecture: Architecture, arithmetic: Arithmetic) -> None:
        deployed = arithmetic != FP32 and (architecture, arithmetic) not in self._penalties
        if architecture in self._scored and not deployed:
            return
        space = self._supernet.space
        path = [int(index) for index in architecture.indices(space)]
        images, labels = self._held_out
        with self._supernet.calibrated(path, self._calibration):
            weights = folded_path_weights(self._supernet, path)
            if architecture not in self._scored:
                if self._device.type == "cpu":  # ONNX Runtime takes half the time of PyTorch's passes
                    model = network_model(space, architecture, batch=GRAPH_BATCH, weights=weights)
                    logits = torch.from_numpy(run_graph(model, images))
                else:
                    logits = self._logits(images, path)
                self._scored[architecture] = ScoredImages.of(logits, torch.from_numpy(labels))
        if deployed:
            self._penalties[architecture, arithmetic] = penalty_of(
                space, architecture, weights, arithmetic,
                calibration=torch.cat(self._calibration)[:RANGE_IMAGES].cpu().contiguous().numpy(),
                images=images, labels=labels, floats=self._scored[architecture],
            )  # fmt: skip

    @torch.no_grad()
    def _logits(self, images: NDArray[np.float32], path: list[int]) -> torch.Tensor:
        found = []
        for start in range(0, len(images), _BATCH):
            some = torch.from_numpy(images[start : start + _BATCH]).to(self._device)
            found.append(self._supernet(some.contiguous(memory_format=self._execution.memory_format), path).float())
        return torch.cat(found).cpu()

    @cached_property
    def _calibration(self) -> list[torch.Tensor]:
        """Batches of training images, in an order that no epoch of the search used."""
        batches: list[torch.Tensor] = []
        size = min(self._config.batch, CALIBRATION_IMAGES)
        with closing(self._data.train_loader(size, augment=False)) as loader:
            for pixels, _ in loader.batches(self._config.epochs):
                batches.append(normalise(pixels.to(self._device)))
                if sum(len(batch) for batch in batches) >= CALIBRATION_IMAGES:
                    break
        return batches

    @cached_property
    def _held_out(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self._data.validation_arrays(HELD_OUT_IMAGES)

    @property
    def _device(self) -> torch.device:
        return next(self._supernet.parameters()).device
