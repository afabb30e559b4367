"""The nodes of an ONNX file, read with the standard library: boards have no onnx package.

Protocol buffers on the wire: a tag (field number, kind), then a number or a length and its bytes. Field numbers are those
of onnx.proto: ModelProto.graph 7; GraphProto.node 1, initializer 5; NodeProto.input 1, output 2, name 3, op_type 4.
"""

from typing import Dict, Iterator, List, NamedTuple, Set, Tuple, Union

from profiler.fields import RecordError


class Node(NamedTuple):
    name: str  # of its first output where the file names none
    op_type: str
    inputs: List[str]
    outputs: List[str]


def read_nodes(model: bytes) -> List[Node]:
    """The nodes of the main graph, in order.

    Raises:
        RecordError: this is no ONNX file.
    """
    nodes = []
    for number, graph in _fields(model):
        if number == 7 and isinstance(graph, bytes):
            nodes.extend(_node(content) for at, content in _fields(graph) if at == 1 and isinstance(content, bytes))
    return nodes


def origins(sent: List[Node], optimised: List[Node]) -> Dict[str, List[str]]:
    """Of each node of an optimised graph, by name: the nodes of the graph that was sent which it computes.

    A fused node makes a tensor of the graph that was sent from other tensors of it: everything between is its own. A node
    whose outputs the graph that was sent does not know, such as a change of format, has none.
    """
    maker = {output: node for node in sent for output in node.outputs if output}
    found = {}
    for node in optimised:
        bounds = {name for name in node.inputs if name}
        names: List[str] = []
        seen: Set[str] = set()
        open_ = [name for name in node.outputs if name in maker]
        while open_:
            name = open_.pop()
            origin = maker.get(name)
            if origin is None or origin.name in seen or name in bounds:
                continue
            seen.add(origin.name)
            names.append(origin.name)
            open_.extend(origin.inputs)
        order = {each.name: at for at, each in enumerate(sent)}
        found[node.name] = sorted(names, key=lambda name: order[name])
    return found


def _node(content: bytes) -> Node:
    inputs: List[str] = []
    outputs: List[str] = []
    name = op_type = ""
    for number, value in _fields(content):
        if not isinstance(value, bytes):
            continue
        if number in (1, 2, 3, 4):
            text = value.decode("utf-8", "replace")
            if number == 1:
                inputs.append(text)
            elif number == 2:
                outputs.append(text)
            elif number == 3:
                name = text
            else:
                op_type = text
    return Node(name or next((output for output in outputs if output), op_type), op_type, inputs, outputs)


def _fields(content: bytes) -> Iterator[Tuple[int, Union[int, bytes]]]:
    """Field numbers and values of a message."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(content, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(content, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise RecordError(["not an ONNX file: a field of kind {} at byte {}".format(kind, at)])
        if at + size > len(content):
            raise RecordError(["not an ONNX file: it ends within a field at byte {}".format(at)])
        yield tag >> 3, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> Tuple[int, int]:
    """A number, and where the next field begins."""
    value = shift = 0
    while at < len(content) and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise RecordError(["not an ONNX file: a number without an end at byte {}".format(at)])
