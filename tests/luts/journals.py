"""Journals with a known truth, written as the agent writes them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FINGERPRINT: dict[str, Any] = {
    "board": "generic-linux", "cpu": "test", "power_mode": None, "clocks": "floating", "backend": "onnxruntime",
    "backend_version": "1.32.0", "provider": "CPUExecutionProvider", "precision": "fp32", "batch": 1, "threads": 1,
    "protocol": 1, "simulated": True,
}  # fmt: skip


PROTOCOL: dict[str, Any] = {
    "version": 1, "seed": 0, "rounds": 15, "samples_per_visit": 5, "warmup_ms": 5.0, "min_sample_ms": 2.0,
    "timeout_s": 120.0, "spread_limit": 0.03, "extra_rounds": 5,
}  # fmt: skip


def seal(record: Mapping[str, Any]) -> bytes:
    """A line with its checksum and newline."""
    body = json.dumps(record, separators=(",", ":")).encode()
    return body[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(body)


def header(**changes: Any) -> dict[str, Any]:
    record = {
        "kind": "lut", "schema": 1, "created": "2026-11-23T19:00:00Z", "agent_version": "0.1.0", "space": "tiny",
        "space_sha256": "0" * 64, "classes": 10, "units": {"latency": "ms", "energy": "mJ"}, "simulated": True,
        "fingerprint": FINGERPRINT, "board": {}, "runtime": {}, "protocol": PROTOCOL, "sentinels": [],
        "energy": {"available": False, "reason": "test"},
    }  # fmt: skip
    return record | changes


def visit(
    key: str, samples_ms: list[float], *, session: str = "aaaaaaaa", round: int = 0, **changes: Any
) -> dict[str, Any]:
    """A visit of an operator, or of a network when `architecture` is among the changes."""
    subject = {} if "architecture" in changes else {"operator": {"key": key, "block": key.split("@")[0]}}
    record = {
        "kind": "visit", "key": key, **subject, "session": session, "round": round, "t_s": 1.0, "repeats": 4,
        "warmup_ms": [1.0], "samples_ms": samples_ms, "energy": None, "before": {}, "after": {}, "warnings": [],
        "error": None,
    }  # fmt: skip
    return record | changes


def write(path: Path, *records: Mapping[str, Any]) -> Path:
    path.write_bytes(b"".join(seal(record) for record in records))
    return path


def write_measured(
    path: Path,
    truth_ms: Mapping[str, float],
    *,
    networks: Mapping[str, Mapping[str, Any]] | None = None,
    rounds: int = 15,
    samples: int = 5,
    drift: Callable[[int], float] = lambda round: 1.0,
    noise: float = 0.0,
    bursts: float = 0.0,
    session: str = "aaaaaaaa",
    seed: int = 0,
    **header_changes: Any,
) -> Path:
    """Every key in every round: truth x drift(round) x (1 + |noise|), and now and then a burst of other work.

    Noise only slows down, as on a real machine; a burst slows a whole visit by up to 60 %.
    """
    generator = np.random.default_rng(seed)
    records = [header(**header_changes)]
    for round in range(rounds):
        for key in generator.permutation(list(truth_ms)):
            factor = drift(round) * (1 + noise * abs(generator.normal()))
            if generator.random() < bursts:
                factor *= 1 + 0.6 * generator.random()
            values = truth_ms[key] * factor * (1 + noise / 2 * np.abs(generator.normal(size=samples)))
            subject = {"architecture": networks[key]} if networks and key in networks else {}
            records.append(visit(str(key), [float(value) for value in values], session=session, round=round, **subject))
    return write(path, *records)
