"""The nodes of every kind of block: the same lines for an operator that is measured alone and for a whole network."""

from __future__ import annotations

from lightnas_edge.graph.writer import GraphWriter
from lightnas_edge.space import SE_REDUCTION, Architecture, Operator, ShapedOperator, Space


def named_chain(space: Space, architecture: Architecture) -> list[tuple[str, ShapedOperator]]:
    """The blocks of a network with the names that prefix their nodes, in order."""
    chain = list(space.chain(architecture))
    ends = ["stem"] if space.first is None else ["stem", "first"]
    names = [*ends, *(f"layers.{layer}" for layer in range(len(space.layers))), "head"]
    return list(zip(names, chain, strict=True))


def add_block(graph: GraphWriter, name: str, shaped: ShapedOperator, x: str) -> str:
    """Append the nodes of one block that reads tensor `x`; returns the name of the tensor it writes."""
    c_in, c_out = shaped.in_channels, shaped.out_channels
    if shaped.is_identity:
        return x

    def activate(after: str, x: str) -> str:
        return graph.activate(after, x, shaped.activation)

    if shaped.block in ("stem", "skip"):
        kernel = 3 if shaped.block == "stem" else 1
        x = graph.conv(f"{name}.conv", x, c_in, c_out, kernel=kernel, stride=shaped.stride)
        return activate(f"{name}.conv", x)
    if shaped.block == "head":
        wide, *features = shaped.hidden_channels
        x = activate(f"{name}.conv", graph.conv(f"{name}.conv", x, c_in, wide))
        x = graph.node("GlobalAveragePool", f"{name}.pool", [graph.read(x)])
        x = graph.node("Flatten", f"{name}.flatten", [graph.between(x)], axis=1)
        for width in features:
            x = activate(f"{name}.linear", graph.linear(f"{name}.linear", x, wide, width))
            wide = width
        return graph.linear(f"{name}.classifier", x, wide, c_out)
    operator = Operator.parse(shaped.block)
    hidden = c_in * operator.expansion
    block_input = x
    if operator.expansion > 1:
        x = activate(f"{name}.expand", graph.conv(f"{name}.expand", x, c_in, hidden))
    x = graph.conv(f"{name}.depthwise", x, hidden, hidden, kernel=operator.kernel, stride=shaped.stride, groups=hidden)
    if operator.squeeze_excite:
        x = _add_squeeze_excite(graph, f"{name}.squeeze", graph.between(x), hidden)
    x = activate(f"{name}.depthwise", x)
    x = graph.conv(f"{name}.project", x, hidden, c_out, gain=1.0)  # no clip after it
    if not shaped.keeps_shape:
        return x
    # The convolution's own branch stays in float where the runtime fuses the sum into the convolution.
    return graph.node("Add", f"{name}.add", [graph.between(x), graph.read(block_input)])


def _add_squeeze_excite(graph: GraphWriter, name: str, x: str, channels: int) -> str:
    """In float, whatever the arithmetic: it multiplies a whole map by numbers near each other, and costs little."""
    reduced = channels // SE_REDUCTION
    scale = graph.node("GlobalAveragePool", f"{name}.pool", [x])
    scale = graph.conv(f"{name}.reduce", scale, channels, reduced, bias=False, in_float=True)
    scale = graph.node("Relu", f"{name}.relu", [scale])
    scale = graph.conv(f"{name}.expand", scale, reduced, channels, bias=False, gain=1.0, in_float=True)
    scale = graph.node("Sigmoid", f"{name}.sigmoid", [scale])
    return graph.node("Mul", f"{name}.scale", [x, scale])
