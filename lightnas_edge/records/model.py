"""What is known of an ONNX file before it runs anywhere: part of a verification, of a job and of a journal."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lightnas_edge.records.base import Count, Name, Positive, Record, Sha256, Text


class TensorRecord(Record):
    """An input or an output. `type` is NumPy's name: float32, float16, int64, bool, ..."""

    name: Name
    type: Name
    shape: tuple[Count | None, ...]  # () is a scalar; null, of outputs alone: the size depends on the values


class ModelRecord(Record):
    """An ONNX file as it is sent to a board: shapes fixed, external data embedded.

    Operators are named `Conv`, and with their domain outside the default one: `com.microsoft.Gelu`. Counts include
    subgraphs.
    """

    kind: Literal["model"] = "model"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]  # of the file, fit for a file name
    sha256: Sha256  # of what is sent
    file_sha256: Sha256  # of the file itself, without its external data
    opset: Positive  # of the default domain
    domains: dict[Name, Positive]  # of other operators in use -> opset
    ir_version: Positive
    producer: Text
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    nodes: Count
    operators: dict[Name, Count]
    other_operators: dict[Name, tuple[Text, ...]]  # operators that ONNX itself does not define -> names of nodes
    parameters: Count | None  # values of constant tensors; null where a constant has no known size
    macs: Count | None  # multiply-accumulates of one inference, of the whole batch; null: `macs_unknown` says why
    macs_unknown: Text = ""
    size_bytes: Positive  # of what is sent
    precision: Literal["fp32", "fp16", "int8", "mixed"]  # of convolutions and matrix products; mixed: also other types
    batch: Positive | None  # first dimension, where all inputs share it
    changes: tuple[Text, ...]  # made to the file before it is sent
