"""What to measure after the operators' table: the commands, and how long the board takes."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from typing import Any

import luts
from lightnas_edge.cli._console import duration
from lightnas_edge.cli._measuring import estimated_seconds, shared_seconds
from lightnas_edge.measuring import Settings, sentinels
from lightnas_edge.measuring.board_time import spent_s
from lightnas_edge.measuring.tables import table_path
from lightnas_edge.space import Space

# Networks for a first predictor: from 20 on, its noise and its model's uncertainty can be separated. More where the board measures
# more in the time that the table took.
_FEWEST, _MOST = 20, 100
_ROUNDS = 15  # of `sample`


@dataclass(frozen=True)
class NextStep:
    """`networks` and `seconds` of the board are None where operators are missing: then the table comes first."""

    why: str
    commands: tuple[str, ...]
    networks: int | None = None
    seconds: float | None = None

    def lines(self) -> list[str]:
        return [f"next: {self.why}", *(f"  {command}" for command in self.commands)]

    def to_json(self) -> dict[str, Any]:
        minutes = None if self.seconds is None else round(self.seconds / 60, 3)
        return {"why": self.why, "commands": list(self.commands), "networks": self.networks, "board_minutes": minutes}


def what_next(
    arguments: argparse.Namespace,
    space: Space,
    chosen: Settings,
    lut: luts.Lut,
    coverage: luts.Coverage,
    *,
    boards: int = 1,
) -> NextStep:
    """After `profile`, which measured with these settings. `boards`: that share the next measurements."""
    words = _options(arguments, chosen)
    if not coverage.complete:
        count = len(coverage.missing) + len(coverage.failed)
        return NextStep(
            f"{count} operators are not measured; a predictor needs them, or whole networks instead",
            (shlex.join(["profile-device", *words, *_out(arguments)]), _sample(words, _FEWEST)),
        )
    from lightnas_edge.predictor.frontier import FRONTIER_SHARE

    typical_ms = sum(lut.entries[shaped.key].latency_ms for shaped in space.shaped_operators()) / len(lut.entries)
    typical_ms *= len(space.layers) + len(space.fixed)
    settings = Settings(
        backend=chosen.backend, energy_rounds=chosen.energy_rounds,
        protocol=chosen.protocol.model_copy(update={"rounds": _ROUNDS}),
    )  # fmt: skip
    network_s = estimated_seconds(1, settings, typical_ms)
    table_s = spent_s(lut, lut.entries)
    count = _FEWEST if table_s is None else min(max(int(table_s / network_s), _FEWEST), _MOST)
    chosen_ones = round(FRONTIER_SHARE * count)
    random = max(count - chosen_ones, _FEWEST)
    count = random + chosen_ones
    alone_s = count * network_s + 2 * estimated_seconds(len(sentinels(space)), settings)
    seconds = shared_seconds(alone_s, settings, boards)
    networks = table_path(arguments.host, space.name, chosen, "-networks")
    predictor = f"{space.name}.predictor.json"
    fit = shlex.join(
        [
            "lightnas-edge",
            "fit",
            *_space(arguments),
            "--lut",
            str(lut.path),
            "--samples",
            str(networks),
            "--out",
            predictor,
        ]
    )
    frontier = [*words, "--frontier", "--predictor", predictor]
    return NextStep(
        f"measure {count} whole networks (about {duration(seconds)}), {random} random and {chosen_ones} such as a search chooses, and fit; "
        "`fit` shows what the table and the networks bring",
        (_sample(words, random), fit, _sample(frontier, chosen_ones), fit),
        count,
        seconds,
    )


def _sample(words: list[str], networks: int) -> str:
    return shlex.join(["lightnas-edge", "sample", *words, "--count", str(networks)])


def _options(arguments: argparse.Namespace, chosen: Settings) -> list[str]:
    """Those with which the next measurements are made on the same board in the same state."""
    words = ["--host", arguments.host, *_space(arguments)]
    for name, default in (
        ("precision", "fp32"),
        ("backend", None),
        ("batch", 1),
        ("threads", 1),
        ("streams", 1),
        ("power_mode", None),
    ):
        value = getattr(arguments, name)
        if value != default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    flags = [
        f"--{name.replace('_', '-')}"
        for name in ("cuda_graph", "energy", "lock_clocks", "ask_sudo_password", "pool")
        if getattr(arguments, name)
    ]
    return words + flags


def _out(arguments: argparse.Namespace) -> list[str]:
    return [] if arguments.out is None else ["--out", str(arguments.out)]


def _space(arguments: argparse.Namespace) -> list[str]:
    """As the user named it: a file is no name of a space."""
    classes = [] if arguments.classes is None else ["--classes", str(arguments.classes)]
    return ["--space", arguments.space, *classes]
