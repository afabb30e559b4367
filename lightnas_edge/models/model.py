"""A model that can be sent to a board."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightnas_edge.files import sha256_of
from lightnas_edge.records.model import ModelRecord


@dataclass(frozen=True)
class Model:
    """`content` is one ONNX file without unknown shapes; `facts` describes it, and `path` is the file it came from."""

    content: bytes
    facts: ModelRecord
    path: Path


def key(content: bytes) -> str:
    """The name of a model in jobs and journals, from the bytes that are sent."""
    return f"model-{sha256_of(content)[:12]}"
