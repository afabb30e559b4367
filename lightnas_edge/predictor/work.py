"""What an operator computes and moves, per image: the causes of its cost."""

from __future__ import annotations

from lightnas_edge.space import SE_REDUCTION, Operator, ShapedOperator


def work(shaped: ShapedOperator) -> tuple[float, float, float]:
    """Multiplications in 1x1 convolutions, in depthwise ones, and activations read or written."""
    pixels_in, pixels_out = shaped.input_size**2, shaped.output_size**2
    ends = shaped.in_channels * pixels_in + shaped.out_channels * pixels_out
    if shaped.block == "skip":
        return shaped.in_channels * shaped.out_channels * pixels_out, 0.0, ends
    operator = Operator.parse(shaped.block)
    hidden = shaped.in_channels * operator.expansion
    expand = shaped.in_channels * hidden * pixels_in if operator.expansion > 1 else 0
    pointwise = expand + hidden * shaped.out_channels * pixels_out
    traffic = ends + 2 * hidden * (pixels_in + pixels_out)
    if operator.squeeze_excite:  # the whole hidden tensor is read once to pool, and once more, then written, to rescale
        pointwise += 2 * hidden * (hidden // SE_REDUCTION)
        traffic += 3 * hidden * pixels_out
    return pointwise, operator.kernel**2 * hidden * pixels_out, traffic
