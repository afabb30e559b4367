"""What can be built: operators, layers, search spaces, architectures. Plain data, no torch."""

from lightnas_edge.space.architecture import Architecture
from lightnas_edge.space.cost import macs_m, operator_cost, parameters_m
from lightnas_edge.space.operators import SE_REDUCTION, SKIP, Activation, Operator, ShapedOperator
from lightnas_edge.space.space import Layer, Space, built_in_spaces, load_space

__all__ = [
    "SE_REDUCTION",
    "SKIP",
    "Activation",
    "Architecture",
    "Layer",
    "Operator",
    "ShapedOperator",
    "Space",
    "built_in_spaces",
    "load_space",
    "macs_m",
    "operator_cost",
    "parameters_m",
]
