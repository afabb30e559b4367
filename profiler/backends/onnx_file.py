"""The nodes, values and opsets of an ONNX model, read from its bytes: a board need not have the package `onnx`."""

from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple, Union, cast

# The element types of TensorProto.DataType, as numpy names them.
ELEMENTS = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4",
    23: "float4e2m1",
}  # fmt: skip


class Node(NamedTuple):
    name: str
    op_type: str
    domain: str
    inputs: Tuple[str, ...]  # "" for one that is left out
    outputs: Tuple[str, ...]
    attributes: Tuple[str, ...]  # their names

    @property
    def label(self) -> str:
        """How a report names the node: many writers leave names empty."""
        return self.name or next((output for output in self.outputs if output), self.op_type)


class Value(NamedTuple):
    """What a graph says of a tensor; None: nothing."""

    element: Optional[str]
    shape: Optional[Tuple[Optional[int], ...]]


class Graph(NamedTuple):
    nodes: Tuple[Node, ...]
    inputs: Tuple[str, ...]  # without the initializers, which older writers list too
    outputs: Tuple[str, ...]
    initializers: Tuple[str, ...]
    values: Dict[str, Value]
    opsets: Dict[str, int]  # domain -> version; the domain of ONNX itself is ""


def read_graph(model: bytes) -> Graph:
    """The outermost graph of a model.

    Raises:
        ValueError: this is no ONNX model.
    """
    opsets: Dict[str, int] = {}
    graph: Optional[memoryview] = None
    for number, content in fields(memoryview(model)):  # slices of it copy nothing
        if number == 7:
            graph = _message(content)
        elif number == 8:
            entry = dict(fields(_message(content)))
            opsets[_text(entry.get(1, b""))] = _whole(entry.get(2, 0))
    if graph is None:
        raise ValueError("no ONNX model: it has no graph")
    nodes: List[Node] = []
    inputs: List[str] = []
    outputs: List[str] = []
    initializers: List[str] = []
    values: Dict[str, Value] = {}
    for number, content in fields(graph):
        if number == 1:
            nodes.append(_node(_message(content)))
        elif number == 5:
            name, value = _tensor(_message(content))
            initializers.append(name)
            values[name] = value
        elif number in (11, 12, 13):
            name, value = _value(_message(content))
            values.setdefault(name, value)
            if number != 13:
                (inputs if number == 11 else outputs).append(name)
    constant = set(initializers)
    return Graph(
        tuple(nodes), tuple(name for name in inputs if name not in constant), tuple(outputs), tuple(initializers),
        values, opsets,
    )  # fmt: skip


def read_metadata(model: bytes) -> Dict[str, str]:
    """The metadata of a model; empty where it has none, or is no model: the runtime says so."""
    found = {}
    try:
        for number, content in fields(memoryview(model)):
            if number == 14:
                pair = dict(fields(_message(content)))
                found[_text(pair[1])] = _text(pair[2])
    except (KeyError, ValueError):
        pass
    return found


def fields(message: memoryview) -> Iterator[Tuple[int, Union[int, memoryview]]]:
    """Number and content of each field of a protocol buffer: a whole number, or bytes. Fixed-width fields are skipped.

    Raises:
        ValueError: this is no protocol buffer.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            number, at = _varint(message, at)
            yield tag >> 3, number
        elif kind == 2:
            size, at = _varint(message, at)
            if size > end - at:
                raise ValueError("no protocol buffer: it ends within a field")
            yield tag >> 3, message[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("no protocol buffer: a field of kind {}".format(kind))


def _varint(message: memoryview, at: int) -> Tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("no protocol buffer: it ends within a number")


def _node(message: memoryview) -> Node:
    texts: Dict[int, List[str]] = {1: [], 2: [], 3: [], 4: [], 5: [], 7: []}
    for number, content in fields(message):
        if number == 5:
            content = dict(fields(_message(content))).get(1, memoryview(b""))
        if number in texts:
            texts[number].append(_text(content))
    return Node(
        name="".join(texts[3]),
        op_type="".join(texts[4]),
        domain="".join(texts[7]),
        inputs=tuple(texts[1]),
        outputs=tuple(texts[2]),
        attributes=tuple(texts[5]),
    )


def _tensor(message: memoryview) -> Tuple[str, Value]:
    name, element, shape = "", None, []  # type: str, Optional[str], List[Optional[int]]
    for number, content in fields(message):
        if number == 1:
            shape += [content] if isinstance(content, int) else _packed(content)
        elif number == 2:
            element = ELEMENTS.get(_whole(content))
        elif number == 8:
            name = _text(content)
    return name, Value(element, tuple(shape))


def _value(message: memoryview) -> Tuple[str, Value]:
    parts = dict(fields(message))
    tensor = dict(fields(_message(dict(fields(_message(parts.get(2, b"")))).get(1, b""))))
    shape: Optional[Tuple[Optional[int], ...]] = None
    if 2 in tensor:
        sides = [dict(fields(_message(side))) for number, side in fields(_message(tensor[2])) if number == 1]
        shape = tuple(cast(Optional[int], side.get(1)) for side in sides)
    return _text(parts.get(1, b"")), Value(ELEMENTS.get(_whole(tensor.get(1, 0))), shape)


def _packed(content: memoryview) -> List[Optional[int]]:
    found: List[Optional[int]] = []
    at = 0
    while at < len(content):
        value, at = _varint(content, at)
        found.append(value)
    return found


def _message(content: Union[int, bytes, memoryview]) -> memoryview:
    if isinstance(content, int):
        raise ValueError("no ONNX model: a number in place of a message")
    return memoryview(content)


def _text(content: Union[int, bytes, memoryview]) -> str:
    if isinstance(content, int):
        raise ValueError("no ONNX model: a number in place of a text")
    return bytes(content).decode("utf-8")  # UnicodeDecodeError is a ValueError


def _whole(content: Union[int, bytes, memoryview]) -> int:
    if not isinstance(content, int):
        raise ValueError("no ONNX model: a text in place of a number")
    return content
