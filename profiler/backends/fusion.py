"""From which nodes of the model sent a runtime made each node that it runs.

A runtime fuses nodes, folds constants, and renames what lies between its own nodes. Its graph has the tensors of the
model sent where the formats allow. Between two such tensors lie the nodes that became one: the walk goes from the
outputs of a node that runs back through the graph sent, until it meets tensors that exist in the graph that runs.
"""

import re
from typing import Dict, List, Optional, Set, Tuple

from profiler.backends.onnx_file import Graph, Node

_MOVES = ("Cast", "MemcpyFromHost", "MemcpyToHost", "ReorderInput", "ReorderOutput", "Transpose")
_ACTIVATIONS = ("Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh")
_SHAPES = ("Shape", "Size")  # of fixed shapes: constants, whatever their inputs are
# How ONNX Runtime derives names from a tensor: nodes of its own channel format, and values that it computes in float32.
_RENAMED = re.compile(r"(?:Inserted(?:PrecisionFree)?Cast_)?(?P<tensor>.*?)(?:(?:_bn|_mul)?_nchwc)?(?:_token_\d+)?")


def is_move(node: Node, sent: Graph) -> bool:
    """Whether a node that runs is the runtime's own and only changes a format or a type."""
    return node.op_type in _MOVES and not any(
        node.op_type == other.op_type and (node.outputs == other.outputs or (node.name and node.name == other.name))
        for other in sent.nodes
    )


def origins(sent: Graph, ran: Graph) -> List[List[str]]:
    """For each node of `ran` the labels of the nodes of `sent` that it computes, in their order; empty where unknown."""
    return _Matching(sent, ran).origins()


class _Matching:
    def __init__(self, sent: Graph, ran: Graph) -> None:
        self._sent, self._ran = sent, ran
        self._producers: Dict[str, int] = {}
        self._readers: Dict[str, List[int]] = {}
        for index, node in enumerate(sent.nodes):
            self._producers.update((name, index) for name in node.outputs if name)
            for name in set(node.inputs):
                self._readers.setdefault(name, []).append(index)
        self._varying = self._find_varying()
        self._tensors = set(self._producers) | set(sent.inputs) | set(sent.initializers)
        self._moves = [is_move(node, sent) for node in ran.nodes]
        self._moved: Dict[int, List[str]] = {}  # a node of `ran` that moves, and does so for nodes of `sent`
        self._alias: Dict[str, str] = {}  # tensor of `ran` -> tensor of `sent`
        self._find_aliases()

    def origins(self) -> List[List[str]]:
        stops = set(self._alias.values())
        by_name = {node.name: node for node in self._sent.nodes if node.name}
        found: List[List[str]] = []
        for index, node in enumerate(self._ran.nodes):
            if self._moves[index]:
                found.append(self._moved.get(index, []))
                continue
            sources = {self._alias.get(name) for name in node.inputs}  # a Reshape of the runtime's own changes no value
            targets = [self._alias[name] for name in node.outputs if self._alias.get(name) not in sources | {None}]
            labels = [self._sent.nodes[at].label for at in sorted(self._walk(targets, stops))]
            if not labels and node.name in by_name:
                labels = [by_name[node.name].label]
            found.append(labels)
        return found

    def _find_varying(self) -> Set[int]:
        """The nodes that depend on the inputs of the graph; the others are constants, however they are written."""
        tensors = set(self._sent.inputs)
        found = set()
        for index, node in enumerate(self._sent.nodes):
            if node.op_type not in _SHAPES and tensors.intersection(node.inputs):
                found.add(index)
                tensors.update(node.outputs)
        return found

    def _walk(self, targets: List[str], stops: Set[str]) -> Set[int]:
        found: Set[int] = set()
        left = list(targets)
        while left:
            index = self._producers.get(left.pop())
            if index is None or index in found or index not in self._varying:
                continue
            found.add(index)
            left.extend(name for name in self._sent.nodes[index].inputs if name not in stops)
        return found

    def _find_aliases(self) -> None:
        nodes = self._ran.nodes
        names = {name for node in nodes for name in node.inputs + node.outputs} | set(self._ran.inputs)
        self._alias.update((name, name) for name in names if name in self._tensors)
        for index, node in enumerate(nodes):  # from a tensor that both graphs have to the one before it
            if self._moves[index] and node.outputs[0] in self._alias and node.inputs[0] not in self._alias:
                self._alias[node.inputs[0]] = self._before(index, node.outputs[0])
        for index, node in enumerate(nodes):
            if self._moves[index]:
                if node.outputs[0] not in self._alias and node.inputs[0] in self._alias:
                    self._alias[node.outputs[0]] = self._alias[node.inputs[0]]
            elif not any(name in self._alias for name in node.outputs):
                self._alias.update(self._guess(node))

    def _before(self, index: int, tensor: str) -> str:
        """A format that changes may be one with a Transpose of the graph sent, which is then what this node computes."""
        source = self._sent.nodes[self._producers[tensor]] if tensor in self._producers else None
        if source is None or source.op_type != "Transpose" or self._ran.nodes[index].op_type != "ReorderOutput":
            return tensor
        self._moved[index] = [source.label]
        return source.inputs[0]

    def _guess(self, node: Node) -> List[Tuple[str, str]]:
        """Tensors of `sent` for the outputs of a node with none: by its name, its inputs, or a name derived from a node's."""
        same = [other for other in self._sent.nodes if other.op_type == node.op_type]
        match = [other for other in same if node.name and other.name == node.name]
        if not match:
            named = _RENAMED.fullmatch(node.name or node.outputs[0])
            tensor = named.group("tensor") if named else ""
            if tensor in self._producers:
                return [(node.outputs[0], self._through(node, tensor))]
            sources = [self._alias.get(name, name) for name in node.inputs]
            match = [other for other in same if list(other.inputs) == sources] or self._named_after(node)
        if len(match) != 1:
            return []
        return [
            (mine, self._through(node, theirs) if at == 0 else theirs)
            for at, (mine, theirs) in enumerate(zip(node.outputs, match[0].outputs))
            if mine and theirs
        ]

    def _named_after(self, node: Node) -> List[Node]:
        """The node of `sent` that a node is named after, as "a/MatMul/MatMulAddFusion" or "conv_token_3" is."""
        found = [
            other
            for other in self._sent.nodes
            if other.name
            and (node.name == other.name or node.name.startswith((other.name + "/", other.name + "_")))
            and (other.op_type in node.op_type or (other.op_type, node.op_type) == ("MatMul", "Gemm"))
        ]
        return sorted(found, key=lambda other: len(other.name))[-1:]

    def _through(self, node: Node, tensor: str) -> str:
        """The tensor behind what is part of a node that is named after the first of its parts."""
        sum_inputs = node.inputs[3:4] if node.op_type == "Conv" else node.inputs[2:3] if node.op_type == "Gemm" else ()
        if any(sum_inputs):
            others = {self._alias.get(name) for name in node.inputs}
            reader = self._only_reader(tensor, ("Add", "Sum"))
            if reader is not None and all(
                name == tensor or name in others or self._is_constant(name) for name in reader.inputs
            ):
                tensor = reader.outputs[0]
        producer = self._producers.get(tensor)
        is_quantised = node.op_type.startswith("QLinear")
        if is_quantised or "activation" in node.attributes:
            reader = self._only_reader(tensor, _ACTIVATIONS)
            if reader is not None and producer is not None and self._sent.nodes[producer].op_type not in _ACTIVATIONS:
                tensor = reader.outputs[0]
        if is_quantised:
            reader = self._only_reader(tensor, ("QuantizeLinear",))
            if reader is not None:
                tensor = reader.outputs[0]
        return tensor

    def _is_constant(self, tensor: str) -> bool:
        return tensor not in self._sent.inputs and self._producers.get(tensor, -1) not in self._varying

    def _only_reader(self, tensor: str, op_types: Tuple[str, ...]) -> Optional[Node]:
        readers = self._readers.get(tensor, [])
        if len(readers) != 1 or tensor in self._sent.outputs:
            return None
        node = self._sent.nodes[readers[0]]
        return node if node.op_type in op_types else None
