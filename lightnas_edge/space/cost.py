"""Parameters and multiply-accumulates, counted from the plain data."""

from __future__ import annotations

from itertools import pairwise

from lightnas_edge.space.architecture import Architecture
from lightnas_edge.space.operators import SE_REDUCTION, Operator, ShapedOperator
from lightnas_edge.space.space import Space


def macs_m(space: Space, architecture: Architecture) -> float:
    """Millions of multiply-accumulates of convolutions and linear layers for one image."""
    return sum(operator_cost(shaped)[0] for shaped in space.chain(architecture)) / 1e6


def parameters_m(space: Space, architecture: Architecture) -> float:
    """Millions of trainable parameters of the stand-alone network, batch norm included."""
    return sum(operator_cost(shaped)[1] for shaped in space.chain(architecture)) / 1e6


def operator_cost(shaped: ShapedOperator) -> tuple[int, int]:
    """(multiply-accumulates of one image, parameters) of an operator at a shape."""
    c_in, c_out, pixels_in, pixels_out = (
        shaped.in_channels, shaped.out_channels, shaped.input_size**2, shaped.output_size**2,
    )  # fmt: skip
    if shaped.is_identity:
        return 0, 0
    if shaped.block == "stem":
        weights = 9 * c_in * c_out
        return weights * pixels_out, weights + 2 * c_out
    if shaped.block == "skip":
        return c_in * c_out * pixels_out, c_in * c_out + 2 * c_out
    if shaped.block == "head":
        wide, *features = shaped.hidden_channels
        linear = sum(before * after for before, after in pairwise([wide, *features, c_out]))
        return c_in * wide * pixels_in + linear, c_in * wide + 2 * wide + linear + 2 * sum(features) + c_out
    operator = Operator.parse(shaped.block)
    hidden = c_in * operator.expansion
    expand = c_in * hidden if operator.expansion > 1 else 0
    depthwise = operator.kernel**2 * hidden
    project = hidden * c_out
    squeeze = 2 * hidden * (hidden // SE_REDUCTION) if operator.squeeze_excite else 0
    norms = 2 * (hidden if expand else 0) + 2 * hidden + 2 * c_out
    macs = expand * pixels_in + (depthwise + project) * pixels_out + squeeze
    return macs, expand + depthwise + project + squeeze + norms
