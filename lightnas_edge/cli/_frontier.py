"""How certain a predictor is where a search chooses, and which networks would make it so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightnas_edge.cli._console import percent
from lightnas_edge.measuring.commands import sample_command

if TYPE_CHECKING:
    from lightnas_edge.predictor import Predictor

_FEWEST = 20  # measured networks: fewer do not tell the noise from the model's uncertainty
_WIDER = 1.2  # times the interval of a random network: then networks where a search chooses are missing


@dataclass(frozen=True)
class Frontier:
    """Relative half-widths of 90 % intervals; the command that measures further networks, where some are missing."""

    random: float
    frontier: float
    command: str | None

    def lines(self) -> list[str]:
        found = f"90 % PI: ± {percent(self.frontier, 2)} where a search chooses, ± {percent(self.random, 2)} for random networks (medians)"
        return (
            [found]
            if self.command is None
            else [found, f"next: {self.command} measures networks where a search chooses; fit these too"]
        )

    def to_json(self) -> dict[str, Any]:
        return {"half_width_random": self.random, "half_width_frontier": self.frontier, "command": self.command}


def frontier_of(predictor: Predictor, out: Path) -> Frontier | None:
    """None for a predictor of few networks, or one that is no sum of costs.

    Args:
        out: the file of the predictor.
    """
    from lightnas_edge.predictor.frontier import FRONTIER_SHARE, half_widths

    if predictor.fit.networks < _FEWEST or predictor.linear_terms() is None:
        return None
    found = half_widths(predictor)
    if not (math.isfinite(found.random) and math.isfinite(found.frontier)):
        return None
    command = None
    if found.frontier > _WIDER * found.random:
        count = round(predictor.fit.networks * FRONTIER_SHARE / (1 - FRONTIER_SHARE))
        metric = () if predictor.metric == "latency_ms" else ("--metric", predictor.metric)
        options = ("--frontier", "--predictor", str(out), *metric, "--count", str(count))
        command = sample_command(predictor.space, predictor.fingerprint, *options)
    return Frontier(found.random, found.frontier, command)
