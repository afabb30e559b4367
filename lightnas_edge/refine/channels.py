"""Which channels of a found network may change, and the network of each choice.

Two things vary: the width of a *stage*, which its layers share so that residual connections and skips stay
valid, and the expansion of each block, which sets its hidden width. A choice is an ordinary architecture of a derived
space: other channels, same chain. So graphs, training, export and verification work without changes.
Stem, first block and the head's own widths stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lightnas_edge.errors import RunError
from lightnas_edge.space import Architecture, Operator, ShapedOperator, Space

MULTIPLE = 8  # of channels: what tensor cores and vector units take whole
_SUFFIX = "-refined"


@dataclass(frozen=True)
class Channels:
    """One choice. A stage's width and a layer's expansion; 0 is the expansion of a skip."""

    widths: tuple[int, ...]  # (S,) channels, one per stage
    expansions: tuple[int, ...]  # (L,) one per searchable layer

    def __str__(self) -> str:
        widths = "-".join(map(str, self.widths))
        return f"widths {widths}, expansions {'-'.join(map(str, self.expansions))}"


class Grid:
    """The choices around one network.

    Args:
        factors: of the network's own widths and expansions; 1 is always among them.
        vary: `widths`, `expansions` or `both`.

    Raises:
        RunError: no channels vary, or a factor is no positive number.
    """

    def __init__(
        self, space: Space, architecture: Architecture, *, factors: Sequence[float] = (0.75, 1.25), vary: str = "both"
    ) -> None:
        architecture.indices(space)
        wrong = [factor for factor in factors if not 0 < factor < math.inf]
        if wrong:
            raise RunError(f"a factor of channels is a positive number, found {', '.join(map(str, wrong))}")
        self.space, self.architecture = space, architecture
        self.stages = _stages(space)
        own_widths = [space.layers[stage[0]].out_channels for stage in self.stages]
        own_expansions = [operator.expansion for operator in architecture.operators]
        self.unchanged = Channels(tuple(own_widths), tuple(own_expansions))
        varied = factors if vary in ("widths", "both") else ()
        self.widths = tuple(_choices(width, varied, MULTIPLE) for width in own_widths)
        varied = factors if vary in ("expansions", "both") else ()
        self.expansions = tuple(_choices(expansion, varied, 1) for expansion in own_expansions)
        if self.size == 1:
            raise RunError("no channels vary: every factor rounds to the network's own channels")

    @property
    def genes(self) -> tuple[tuple[int, ...], ...]:
        """(S + L,) the values that each place may have, the stages first."""
        return (*self.widths, *self.expansions)

    @property
    def size(self) -> int:
        """Number of choices."""
        return math.prod(len(choices) for choices in self.genes)

    def channels(self, genes: Sequence[int]) -> Channels:
        """(S + L,) values of `genes` as a choice."""
        return Channels(tuple(genes[: len(self.stages)]), tuple(genes[len(self.stages) :]))

    def network(self, channels: Channels) -> tuple[Space, Architecture]:
        """The derived space and the network in it; the space offers the operators of this network."""
        name = self.space.name if self.space.name.endswith(_SUFFIX) else self.space.name[: 64 - len(_SUFFIX)] + _SUFFIX
        layers = []
        arriving = self.space.first_channels
        for stage, width in zip(self.stages, channels.widths, strict=True):
            for index in stage:
                layers.append(replace(self.space.layers[index], in_channels=arriving, out_channels=width))
                arriving = width
        operators = tuple(map(_expanded, self.architecture.operators, channels.expansions))
        offered = tuple(sorted(set(operators), key=_order))
        space = replace(self.space, name=name, layers=tuple(layers), operators=offered)
        return space, Architecture(name, operators)

    def chain(self, channels: Channels) -> list[ShapedOperator]:
        """What runs in the network of a choice, from input to output, identities left out."""
        space, architecture = self.network(channels)
        return [shaped for shaped in space.chain(architecture) if not shaped.is_identity]

    def shaped_operators(self) -> list[ShapedOperator]:
        """Every distinct operator at a shape in the networks of all choices; those of the found network first."""
        seen = dict.fromkeys(self.chain(self.unchanged))
        for shaped in self._possible():
            if not shaped.is_identity:
                seen[shaped] = None
        return list(seen)

    def _possible(self) -> Iterator[ShapedOperator]:
        arriving: tuple[int, ...] = (self.space.first_channels,)
        for stage, widths in zip(self.stages, self.widths, strict=True):
            for index in stage:
                layer = self.space.layers[index]
                first = index == stage[0]
                for before, width in [(b, w) for b in arriving for w in widths if first or b == w]:
                    for expansion in self.expansions[index]:
                        operator = _expanded(self.architecture.operators[index], expansion)
                        yield self.space.at_shape(replace(layer, in_channels=before, out_channels=width), operator)
                arriving = widths
        for width in arriving:
            yield replace(self.space.head, in_channels=width)


def _stages(space: Space) -> list[list[int]]:
    """Layers by stage: a stage begins where the shape changes."""
    stages: list[list[int]] = []
    for index, layer in enumerate(space.layers):
        if not stages or not layer.keeps_shape:
            stages.append([])
        stages[-1].append(index)
    return stages


def _choices(own: int, factors: Sequence[float], multiple: int) -> tuple[int, ...]:
    """The network's own value and its multiples by the factors, rounded, ascending; 0 stays 0."""
    rounded = {max(multiple, multiple * math.floor(own * factor / multiple + 0.5)) for factor in factors if own}
    return tuple(sorted({own, *rounded}))


def _expanded(operator: Operator, expansion: int) -> Operator:
    return operator if operator.kind == "skip" else replace(operator, expansion=expansion)


def _order(operator: Operator) -> tuple[bool, int, int, bool]:
    return operator.kind == "skip", operator.kernel, operator.expansion, operator.squeeze_excite
