"""A search space as a table: every place of the network with its shapes and costs."""

from __future__ import annotations

from collections.abc import Sequence

from lightnas_edge.space.cost import operator_cost
from lightnas_edge.space.operators import ShapedOperator
from lightnas_edge.space.space import Space

LAYER_COLUMNS = ("layer", "in", "out", "side", "stride", "MACs, M", "parameters, k")


def layer_rows(space: Space) -> list[list[str]]:
    """One row for each place, from input to output; the costs are those of the smallest and the largest operator."""
    rows = [_row(shaped.block, [shaped]) for shaped in space.fixed[:-1]]
    rows += [_row(str(index), _candidates(space, index)) for index in range(len(space.layers))]
    return [*rows, _row("head", [space.head])]


def network_costs(space: Space) -> tuple[str, str]:
    """Of the smallest and the largest network: millions of multiply-accumulates, and millions of parameters."""
    return _range(space, 0), _range(space, 1)


def _candidates(space: Space, layer: int) -> list[ShapedOperator]:
    return [space.at(layer, operator) for operator in space.operators]


def _row(name: str, shaped: Sequence[ShapedOperator]) -> list[str]:
    one, costs = shaped[0], [operator_cost(each) for each in shaped]
    return [
        name, str(one.in_channels), str(one.out_channels), str(one.input_size), str(one.stride),
        _between([macs / 1e6 for macs, _ in costs]), _between([parameters / 1e3 for _, parameters in costs]),
    ]  # fmt: skip


def _range(space: Space, which: int) -> str:
    fixed = sum(operator_cost(each)[which] for each in space.fixed)
    layers = [[operator_cost(each)[which] for each in _candidates(space, index)] for index in range(len(space.layers))]
    return _between([(fixed + sum(map(choose, layers))) / 1e6 for choose in (min, max)])


def _between(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
