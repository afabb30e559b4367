"""What the name of a TensorRT layer says: the nodes that were fused into it, reformats, copies to and from a DLA."""

from __future__ import annotations

import re

_REFORMAT_BEFORE = re.compile(r"^Reformatting CopyNode for (?:Input|Output) Tensor \d+ to (.*)$", re.DOTALL)
_REFORMAT_AFTER = re.compile(r"^(.*) (?:input|output) reformatter \d+$", re.DOTALL)
_TRANSFER = re.compile(r"^(.*?)(?: to nvm| from nvm| copy finish| finish)$", re.DOTALL)
_FOREIGN = re.compile(r"ForeignNode\[(.*)\]", re.DOTALL)
_UNNAMED = re.compile(r"^\(Unnamed Layer\* \d+\)")
_TORCH = re.compile(r"^\[[A-Z_]+\]-\[[^\]]*\]-\[(.*)\]$", re.DOTALL)  # Torch-TensorRT: [CONVOLUTION]-[aten...]-[/conv1]
_METADATA = re.compile(r"\[ONNX Layer: ([^\]\x1e]*)\]")
_POINTWISE = re.compile(r", |PWN\(|\)")  # `PWN(PWN(a), b)`: operations of one kernel, nested
_MYELIN = ("__mye", "__myl", "dummy_shape_call__mye")


def is_reformat(name: str) -> bool:
    return bool(_REFORMAT_BEFORE.match(name) or _REFORMAT_AFTER.match(name))


def is_transfer(name: str) -> bool:
    """Between the memory of the GPU and that of a DLA, or waiting for one."""
    return _TRANSFER.match(name) is not None


def is_dla(name: str) -> bool:
    """A part of the network on a DLA is one layer: `{conv1,relu1,...}`, from version 8.2 on `{ForeignNode[conv1...relu1]}`.

    Myelin's parts on the GPU have the second form too, so that it is no sign of a DLA.
    """
    return (
        name.startswith("{")
        and not name.startswith("{ForeignNode[")
        and not is_reformat(name)
        and not is_transfer(name)
    )


def nodes(name: str, metadata: str = "") -> tuple[str, ...]:
    """Nodes of the model that a layer came from; the ends of the range for a ForeignNode. Empty where the name has none."""
    named = _METADATA.findall(metadata)
    if named:
        return tuple(dict.fromkeys(named))
    for pattern in (_REFORMAT_BEFORE, _REFORMAT_AFTER, _TRANSFER):
        found = pattern.match(name)
        if found:
            name = found[1]
    if name.startswith(_MYELIN) or is_tensor(name):
        return ()
    foreign = _FOREIGN.search(name)
    if foreign:
        parts = foreign[1].split("...")
    elif name.startswith("{") and name.endswith("}"):
        parts = name[1:-1].split(",")
    else:
        parts = [part for branch in name.split(" || ") for part in branch.split(" + ")]
    parts = [each for part in parts for each in (_POINTWISE.split(part) if part.strip().startswith("PWN(") else [part])]
    cleaned = [_TORCH.sub(r"\1", part.strip().removesuffix(" copy")) for part in parts]
    return tuple(dict.fromkeys(part for part in cleaned if part and not _UNNAMED.match(part)))


def is_tensor(name: str) -> bool:
    """`data`, `(Unnamed Layer* 10) [Convolution]_output`: of a copy, no node."""
    return name == "data" or (name.startswith("(Unnamed Layer*") and name.endswith("_output"))
