"""What ONNX Runtime says about a model it does not take, as an error that names the operator, the node and the remedy.

Its texts, in 1.10 and 1.32:
    ... In Node, ("/a/Mystery", Mystery, "", -1) : ..., Error No Op registered for Mystery with domain_version of 13
    Fatal error: my.ops:Mystery(-1) is not a registered function/op      in 1.10 without the domain
    Could not find an implementation for Selu(6) node with name '/act/Selu'
    ... Opset 30 is under development ... Current official support for domain ai.onnx is till opset 26.
    Unsupported model IR version: 11, max supported IR version: 8
"""

import re
from typing import Dict, Optional, Tuple

from profiler import cuda
from profiler.backends.onnx_file import Graph, Node, read_graph
from profiler.errors import MeasureError

_UNKNOWN = (
    re.compile(r'In Node, \("(?P<node>[^"]*)", .*No Op registered for (?P<op>\S+) with domain_version of (?P<opset>\d+)'),
    re.compile(r'In Node, \("(?P<node>[^"]*)", (?P<op>[^,]+), .*No opset import for domain'),
    re.compile(r"Fatal error: (?:(?P<domain>[^\s:]+):)?(?P<op>[^\s:(]+)(?:\(-?\d+\))? is not a registered function/op"),
)  # fmt: skip
_NO_KERNEL = re.compile(
    r"Could not find an implementation for (?:\S*:)?(?P<op>[^\s(]+)\((?P<opset>\d+)\) node with name '(?P<node>[^']*)'"
)
_OPSET = re.compile(
    r"Opset (?P<found>\d+) is under development.*for domain (?P<domain>\S+) is till opset (?P<most>\d+)"
)
_IR = re.compile(r"Unsupported model IR version: (?P<found>\d+), max supported IR version: (?P<most>\d+)")


def failure(version: str, text: str, model: bytes, provider: str) -> MeasureError:
    """The error about a model that ONNX Runtime does not load. A lost device makes it fatal."""
    runtime = "ONNX Runtime {}".format(version)
    message, remedy = _explain(" ".join(text.split()), runtime, model, provider)
    err = MeasureError("load", message, remedy)
    err.fatal = cuda.is_sticky(text)
    return err


def _explain(text: str, runtime: str, model: bytes, provider: str) -> Tuple[str, str]:
    found = _OPSET.search(text)
    if found:
        return (
            "{} reads opset {} of {} at most; the model has opset {}".format(
                runtime, found.group("most"), found.group("domain"), found.group("found")
            ),
            "export the model again with opset {} or lower, or update ONNX Runtime on the board".format(
                found.group("most")
            ),
        )
    found = _IR.search(text)
    if found:
        return (
            "{} reads IR version {} at most; the model has IR version {}".format(
                runtime, found.group("most"), found.group("found")
            ),
            "write the model with an older onnx package (or set its ir_version), or update ONNX Runtime on the board",
        )
    for pattern in _UNKNOWN:
        found = pattern.search(text)
        if found:
            return (
                "{} has no operator {}".format(runtime, _operator(model, found.groupdict())),
                "export the model without this operator or with another opset, or update ONNX Runtime on the board",
            )
    found = _NO_KERNEL.search(text)
    if found:
        return (
            "{} has no kernel of {} for {} and the types of its inputs".format(
                runtime, _operator(model, found.groupdict()), provider
            ),
            "export the model with other types (float32 in most cases), or use another backend",
        )
    return (
        "{} cannot load the model: {}".format(runtime, text),
        "check the file with onnx.checker.check_model; export it again with a lower --opset, or update ONNX Runtime on the board",
    )


def _operator(model: bytes, found: Dict[str, Optional[str]]) -> str:
    """`Mystery` of the domain my.ops, opset 1 (node /a/Mystery): what ONNX Runtime leaves out, from the model."""
    graph: Optional[Graph] = None
    try:
        graph = read_graph(model)
    except ValueError:
        pass  # ONNX Runtime has read more of it
    node = _find(graph, found) if graph else None
    domain = (node.domain if node else found.get("domain")) or ""
    opset = found.get("opset") or (graph.opsets.get(domain) if graph else None)
    name = found.get("node") or (node.label if node else "")
    text = "{} of {}".format(found["op"], domain or "ai.onnx")
    text += " (not imported by the model)" if opset is None else " opset {}".format(opset)
    return text + (", node {}".format(name) if name else "")


def _find(graph: Graph, found: Dict[str, Optional[str]]) -> Optional[Node]:
    nodes = [node for node in graph.nodes if node.op_type == found["op"]]
    named = [node for node in nodes if found.get("node") and node.name == found["node"]]
    domain = [node for node in nodes if found.get("domain") and node.domain == found["domain"]]
    return next(iter(named or domain or nodes), None)
