"""Tables that other projects publish, read into features and values.

    once-for-all    one row per block: `key` as once-for-all's look-up tables name blocks, `latency_ms`, `energy_mj`, `board`
    HW-NAS-Bench    one row per NAS-Bench-201 cell: `arch_str`, and a column per measurement with its unit in its name

Nothing is unpickled: tables that are published as pickles must be written as CSV first.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.base import Array
from lightnas_edge.predictor.features import Features

_MOST_BYTES = 256 << 20
_METRIC = re.compile(
    r"(?P<metric>latency|energy)(?:_(?P<unit>ms|mj))?(?:_(?P<condition>\w+))?|(?P<board>\w+)_(?P<of>latency|energy)"
)
_UNIT = {"latency": "latency_ms", "energy": "energy_mj"}
_FIELDS = re.compile(r"-(input|in_ch|out_ch|mid_ch|expand|kernel|stride|use_se):([0-9_]+)")
_CELL = re.compile(r"\|?([a-z0-9_]+)~([0-2])")
_EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (to, from), in the order of NAS-Bench-201's strings
_OPERATORS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "none")


@dataclass(frozen=True, eq=False)
class ExternalTable:
    """n rows that someone else measured.

    Args:
        form: "once-for-all" or "HW-NAS-Bench".
        keys: (n,) the rows' own names.
        values: (board or condition, metric) -> (n,), nan where it was not measured. Units are in the metric's name.
    """

    form: str
    keys: tuple[str, ...]
    features: Features
    values: Mapping[tuple[str, str], Array]

    def known(self, *columns: tuple[str, str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Rows that have all of these."""
        return np.flatnonzero(np.isfinite(np.stack([self.values[column] for column in columns])).all(axis=0))


def read_external_table(path: str | Path) -> ExternalTable:
    """A table in one of the forms above, which its columns tell.

    Raises:
        PredictorError: unreadable, of another form, or with faults; the first of them in the message.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise PredictorError(f"{path} is larger than {_MOST_BYTES >> 20} MiB")
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PredictorError(f"cannot read the table {path}: {error}") from error
    columns = set(rows[0]) if rows else set()
    if {"key", "latency_ms"} <= columns:
        return _once_for_all(path, rows)
    if "arch_str" in columns:
        return _hw_nas_bench(path, rows)
    raise PredictorError(
        f"{path} is in no form known here: its columns are {', '.join(sorted(map(str, columns))) or 'none'}",
        hint="once-for-all tables have key and latency_ms, HW-NAS-Bench tables arch_str; docs/prediction.md shows both",
    )


def _once_for_all(path: Path, rows: Sequence[Mapping[str, str]]) -> ExternalTable:
    keys = list(dict.fromkeys(row["key"] for row in rows))
    place = {key: position for position, key in enumerate(keys)}
    metrics = [metric for metric in ("latency_ms", "energy_mj") if metric in rows[0]]
    values: dict[tuple[str, str], Array] = {}
    for line, row in enumerate(rows, start=2):
        for metric in metrics:
            column = values.setdefault((row.get("board") or "board", metric), np.full(len(keys), math.nan))
            column[place[row["key"]]] = _positive(path, line, row, metric)
    blocks = [_block(path, key) for key in keys]
    work = np.array([amounts for amounts, _ in blocks])
    traits = np.array([traits for _, traits in blocks])
    return ExternalTable("once-for-all", tuple(keys), Features(work, traits), values)


def _block(path: Path, key: str) -> tuple[list[float], list[float]]:
    """(work, traits) of `MBConvLayer-input:1_24_112_112-in_ch:24-out_ch:32-mid_ch:144-expand:6-kernel:7-stride:2-use_se:0`."""
    kind = key.split("-", 1)[0]
    fields = dict(_FIELDS.findall(key))
    try:
        shape = [int(side) for side in fields["input"].split("_")]
        entering, leaving = int(fields["in_ch"]), int(fields["out_ch"])
    except (KeyError, ValueError):
        raise PredictorError(f"{path}: {key!r} does not name a block as once-for-all does") from None
    kernel, stride = (int(fields.get(name, 1)) or 1 for name in ("kernel", "stride"))
    expand, squeeze = (int(fields.get(name, 0)) for name in ("expand", "use_se"))
    side = shape[-1] if len(shape) == 4 else 1
    after = -(-side // stride)
    inverted = kind == "MBConvLayer"
    middle = int(fields.get("mid_ch", 0)) or entering * max(expand, 1)
    if inverted:
        expanding = entering * middle * side**2 if middle != entering else 0
        pointwise = expanding + middle * leaving * after**2
        depthwise = kernel**2 * middle * after**2
        moved = entering * side**2 + middle * (side**2 + 3 * after**2) + leaving * after**2
        weights = middle * (entering + leaving + kernel**2) + squeeze * middle**2 / 2
        kernels = 2 + (middle != entering) + 4 * squeeze
    else:
        pointwise, depthwise = kernel**2 * entering * leaving * after**2, 0
        moved = entering * side**2 + leaving * after**2
        weights, kernels = kernel**2 * entering * leaving, 1
    work = [float(pointwise), float(depthwise), float(moved), float(weights), float(kernels), float(squeeze)]
    sizes = [math.log(amount) for amount in (pointwise, depthwise + 1e3, moved, weights)]
    return work, [*sizes, float(kernels), float(squeeze), float(kernel), float(stride), float(inverted)]


def _hw_nas_bench(path: Path, rows: Sequence[Mapping[str, str]]) -> ExternalTable:
    named = {name: found for name in rows[0] if (found := _METRIC.fullmatch(name))}
    if not named:
        raise PredictorError(f"{path}: no column names a latency or an energy: {', '.join(rows[0])}")
    values = {}
    for name, found in named.items():
        metric = _UNIT[found["metric"] or found["of"]]
        column = [_positive(path, line, row, name) for line, row in enumerate(rows, start=2)]
        values[found["board"] or found["condition"] or "board", metric] = np.array(column)
    cells = [_cell(path, row["arch_str"]) for row in rows]
    features = Features(np.array([work for work, _ in cells]), np.array([traits for _, traits in cells]))
    return ExternalTable("HW-NAS-Bench", tuple(row["arch_str"] for row in rows), features, values)


def _cell(path: Path, name: str) -> tuple[list[float], list[float]]:
    """(work, traits) of a NAS-Bench-201 cell: only edges that reach the output cost anything, and none if no path does.

    Engines drop work whose result nobody uses; a zero that is used stays in the engine, as a multiplication by zero.
    """
    operators = [operator for operator, _ in _CELL.findall(name)]
    if len(operators) != len(_EDGES) or not set(operators) <= set(_OPERATORS):
        raise PredictorError(f"{path}: {name!r} is no cell of NAS-Bench-201")
    passing = [edge for edge, operator in zip(_EDGES, operators, strict=True) if operator != "none"]
    reaching = {3}
    for start in (2, 1, 0):
        reaching |= {start} if any(to in reaching for to, source in passing if source == start) else set()
    if 0 not in reaching:  # nothing connects input and output
        operators, reaching = ["dead"] * len(_EDGES), set()
    live = [operator if to in reaching else "dead" for operator, (to, _) in zip(operators, _EDGES, strict=True)]
    edges = [float(operator == each) for each in _OPERATORS for operator in live]
    counts = [float(live.count(each)) for each in _OPERATORS]
    depth, entering = {0: 0}, []
    for node in (1, 2, 3):
        before = [
            depth[source] + (operator != "skip_connect")
            for operator, (to, source) in zip(live, _EDGES, strict=True)
            if to == node and operator not in ("none", "dead") and source in depth
        ]
        entering.append(float(len(before)))
        if before:
            depth[node] = max(before)
    twins = [  # the same operator twice on the same input: engines may run them as one
        float(sum(live[a] == live[b] == each and _EDGES[a][1] == _EDGES[b][1] for a in range(6) for b in range(a)))
        for each in _OPERATORS[:4]
    ]
    work = [*edges, *counts, *entering, *twins, float(depth.get(3, 0)), float(not reaching)]
    return work, [*counts, *entering, float(depth.get(3, 0))]


def _positive(path: Path, line: int, row: Mapping[str, str], column: str) -> float:
    text = row.get(column) or ""
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise PredictorError(
            f"{path}:{line}: {column} is {text!r}; expected a number above 0, or nothing where unknown"
        )
    return value
