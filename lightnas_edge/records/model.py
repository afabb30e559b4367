"""What is known of an ONNX file, and of what was sent to a board in its place."""

from __future__ import annotations

from typing import Literal

from lightnas_edge.records.base import Count, Name, Positive, Record, Sha256, Text


class TensorRecord(Record):
    """An input or an output with fixed shape; a side that depends on the content is null."""

    name: Text
    type: Name  # float32, int64, ...
    shape: tuple[Count | None, ...]


class ModelRecord(Record):
    """`file_sha256` is of the file, `sha256` of the bytes that are sent; they differ where `changes` says so."""

    kind: Literal["model"] = "model"
    name: Name
    file_sha256: Sha256
    sha256: Sha256
    size_bytes: Positive  # that are sent
    opset: Positive  # of the standard operators
    domains: dict[Text, Positive]  # further sets of operators
    ir_version: Positive
    producer: Text
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    nodes: Count
    operators: dict[Text, Positive]  # type -> count
    parameters: Count | None
    macs: Count | None  # of one inference; null where a shape is not known
    precision: Name  # of its weights: fp32, fp16, int8 or mixed
    batch: Positive | None  # first side, where all inputs share it
    changes: tuple[Text, ...]
