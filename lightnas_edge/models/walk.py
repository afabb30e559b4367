"""Iterating over what a graph contains, its subgraphs included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

DEFAULT_DOMAIN = "ai.onnx"


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and the bodies of its If, Loop and Scan nodes at any depth."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of one node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for each in graphs(graph):
        yield from each.node


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor with values: initializers and attributes, those of subgraphs and local functions included."""
    for graph in graphs(model.graph):
        yield from _of_graph(graph)
    for function in model.functions:
        yield from _of_nodes(function.node)
        for node in function.node:
            for body in bodies(node):
                for graph in graphs(body):
                    yield from _of_graph(graph)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(found: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in found:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                *attribute.sparse_tensors,
            ]:
                yield from (sparse.values, sparse.indices)


def domain_of(node: onnx.NodeProto) -> str:
    return node.domain or DEFAULT_DOMAIN


def operator_of(node: onnx.NodeProto) -> str:
    """`Conv`, `com.microsoft.Gelu`."""
    domain = domain_of(node)
    return node.op_type if domain == DEFAULT_DOMAIN else f"{domain}.{node.op_type}"


def inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """What must be fed: old files list their weights as inputs too."""
    constants = {each.name for each in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in constants]
