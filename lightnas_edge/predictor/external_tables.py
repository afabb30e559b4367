"""Tables that other projects publish, read into features and values.

    once-for-all    one row per block: `key` as once-for-all's look-up tables name blocks, `latency_ms`, `energy_mj`, `board`
    HW-NAS-Bench    one row per NAS-Bench-201 cell: `arch_str`, and a column per measurement with its unit in its name

Nothing is unpickled: tables that are published as pickles must be written as CSV first.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.base import Array
from lightnas_edge.predictor.features import Features
from lightnas_edge.records.base import read_bounded

_MAX_FAULTS = 20  # shown
_REMEDY = "once-for-all tables have key and latency_ms, HW-NAS-Bench tables arch_str; docs/prediction.md shows both"
# `latency_ms`, `latency_us_cifar10`, `edgegpu_energy`; a unit follows its quantity.
_COLUMN = re.compile(
    r"(?:(?P<board>[a-z0-9]\w*)_)?(?P<quantity>latency|energy)(?:_(?P<unit>[numk]?[sj]))?(?:_(?P<condition>\w+))?"
)
_UNITS = {"latency": ("latency_ms", {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}),
          "energy": ("energy_mj", {"nj": 1e-6, "uj": 1e-3, "mj": 1.0, "j": 1e3})}  # fmt: skip
_SMALLEST, _LARGEST = 1e-9, 1e12  # of a value; logarithms, sums and squares of such numbers are exact enough
_FIELDS = re.compile(r"-(input|in_ch|out_ch|mid_ch|expand|kernel|stride|use_se):([0-9_]+)")
_LARGEST_SIDE = 1_000_000  # of a shape, a kernel or a number of channels
_CELL = re.compile(r"\|?([a-z0-9_]+)~([0-2])")
_EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (to, from), in the order of NAS-Bench-201's strings
_OPERATORS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "none")


@dataclass(frozen=True, eq=False)
class ExternalTable:
    """n rows of measurements from another project.

    Args:
        form: "once-for-all" or "HW-NAS-Bench".
        keys: (n,) names of the rows.
        values: (board or condition, metric) -> (n,), nan where unknown. Units are in the metric's name.
    """

    form: str
    keys: tuple[str, ...]
    features: Features
    values: Mapping[tuple[str, str], Array]

    def known(self, *columns: tuple[str, str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Rows that have all of these."""
        return np.flatnonzero(np.isfinite(np.stack([self.values[column] for column in columns])).all(axis=0))


@dataclass(frozen=True)
class _Column:
    """A column with values of one metric."""

    name: str
    board: str  # or condition
    metric: str
    factor: float  # to the metric's unit


def read_external_table(path: str | Path) -> ExternalTable:
    """A table in one of the forms above, which its columns decide. Values in other units are converted.

    Raises:
        PredictorError: unreadable, of another form, or with faults; all of them in one message, with their lines.
    """
    path = Path(path)
    content = read_bounded(path, error=PredictorError, remedy=_REMEDY)
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise PredictorError(f"cannot read the table {path}: {error}", hint="write it as CSV in UTF-8") from error
    columns = list(reader.fieldnames or ())
    is_once_for_all = "key" in columns and any(name.startswith("latency") for name in columns)
    if not rows or not (is_once_for_all or "arch_str" in columns):
        listed = ", ".join(columns[:20]) or "none"
        what = "holds no rows" if is_once_for_all or "arch_str" in columns else "is in no known form"
        raise PredictorError(f"{path} {what}: its columns are {listed}", hint=_REMEDY)
    faults: list[str] = []
    faults += [f"column {name!r} occurs twice" for name in dict.fromkeys(columns) if columns.count(name) > 1]
    complete = []
    for line, row in rows:
        count = (
            len(columns) + len(row.get(None) or ()) - sum(value is None for value in row.values())
        )  # DictReader keeps further fields under None
        if count == len(columns):
            complete.append((line, row))
        else:
            faults.append(f"line {line}: {count} fields, expected {len(columns)}")
    found = _once_for_all(faults, columns, complete) if is_once_for_all else _hw_nas_bench(faults, columns, complete)
    if faults or found is None:
        listed = "\n".join(f"  {fault}" for fault in faults[:_MAX_FAULTS])
        more = f"\n  and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
        raise PredictorError(
            f"{path} holds {len(faults)} error{'s' * (len(faults) != 1)}:\n{listed}{more}", hint=_REMEDY
        )
    return found


_Rows = Sequence[tuple[int, Mapping[str, str]]]  # (line, fields)


def _metric_columns(faults: list[str], columns: Sequence[str]) -> list[_Column]:
    """The columns of latencies and energies, each metric of each board once."""
    found: dict[tuple[str, str], _Column] = {}
    for name in columns:
        match = _COLUMN.fullmatch(name)
        if match is None:
            continue
        metric, factors = _UNITS[match["quantity"]]
        unit, board, condition = match["unit"], match["board"], match["condition"]
        if unit is not None and unit not in factors:
            faults.append(f"column {name!r}: unknown unit {unit!r}, expected one of {', '.join(factors)}")
            continue
        if unit is None and (board is None or condition is not None):
            example = f"{match['quantity']}_{metric.rpartition('_')[2]}" + (f"_{condition}" if condition else "")
            faults.append(f"column {name!r} names no unit; rename it, for example to {example!r}")
            continue
        column = _Column(name, board or condition or "board", metric, factors[unit] if unit else 1.0)
        other = found.setdefault((column.board, metric), column)
        if other is not column:
            faults.append(f"columns {other.name!r} and {name!r} hold the same metric; keep one of them")
    return list(found.values())


def _once_for_all(faults: list[str], columns: Sequence[str], rows: _Rows) -> ExternalTable | None:
    metrics = [column for column in _metric_columns(faults, columns) if column.board == "board"]
    features: dict[str, tuple[list[float], list[float]]] = {}
    for line, row in rows:
        if row["key"] not in features:
            try:
                features[row["key"]] = _block(row["key"])
            except ValueError as error:
                faults.append(f"line {line}: {row['key'][:200]!r} {error}")
    place = {key: position for position, key in enumerate(features)}
    values: dict[tuple[str, str], Array] = {}
    lines: dict[tuple[str, str, str], int] = {}
    for line, row in rows:
        board = row.get("board", "board").strip()
        if not board:
            faults.append(f"line {line}: board is empty")
        for column in metrics:
            value = _value(faults, line, row, column)
            of_metric = values.setdefault((board, column.metric), np.full(len(place), math.nan))
            if row["key"] not in place or math.isnan(value):
                continue
            earlier = of_metric[place[row["key"]]]
            first = lines.setdefault((row["key"], board, column.metric), line)
            if math.isnan(earlier):
                of_metric[place[row["key"]]] = value
            elif earlier != value:
                faults.append(
                    f"line {line}: {column.name} is {row[column.name]} and differs from line {first} for the same block "
                    f"on {board}; keep one measurement per block and board"
                )
    if faults:
        return None
    work, traits = (np.array(part) for part in zip(*features.values(), strict=True))
    return ExternalTable("once-for-all", tuple(features), Features(work, traits), values)


def _block(key: str) -> tuple[list[float], list[float]]:
    """(work, traits) of `MBConvLayer-input:1_24_112_112-in_ch:24-out_ch:32-mid_ch:144-expand:6-kernel:7-stride:2-use_se:0`.

    Raises ValueError saying what is wrong.
    """
    kind = key.split("-", 1)[0]
    fields = dict(_FIELDS.findall(key))
    if not {"input", "in_ch", "out_ch"} <= set(fields):
        raise ValueError("does not name a block as once-for-all does")

    def number(text: str, least: int) -> int:
        if not (text.isdigit() and len(text) <= 7 and least <= int(text) <= _LARGEST_SIDE):
            raise ValueError(f"holds {text[:20]!r}, expected a whole number of {least} to {_LARGEST_SIDE}")
        return int(text)

    shape = [number(side, 1) for side in fields["input"].split("_")]
    entering, leaving = number(fields["in_ch"], 1), number(fields["out_ch"], 1)
    kernel, stride = (number(fields.get(name, "1"), 0) or 1 for name in ("kernel", "stride"))
    expand, squeeze = (number(fields.get(name, "0"), 0) for name in ("expand", "use_se"))
    side = shape[-1] if len(shape) == 4 else 1
    after = -(-side // stride)
    inverted = kind == "MBConvLayer"
    middle = number(fields.get("mid_ch", "0"), 0) or entering * max(expand, 1)
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


def _hw_nas_bench(faults: list[str], columns: Sequence[str], rows: _Rows) -> ExternalTable | None:
    metrics = _metric_columns(faults, columns)
    if not metrics and not faults:
        faults.append(f"no column names a latency or an energy: {', '.join(columns[:20])}")
    values = {
        (column.board, column.metric): np.array([_value(faults, line, row, column) for line, row in rows])
        for column in metrics
    }
    cells = []
    for line, row in rows:
        try:
            cells.append(_cell(row["arch_str"]))
        except ValueError as error:
            faults.append(f"line {line}: {row['arch_str'][:200]!r} {error}")
    if faults:
        return None
    features = Features(np.array([work for work, _ in cells]), np.array([traits for _, traits in cells]))
    return ExternalTable("HW-NAS-Bench", tuple(row["arch_str"] for _, row in rows), features, values)


def _cell(name: str) -> tuple[list[float], list[float]]:
    """(work, traits) of a NAS-Bench-201 cell: only edges that reach the output cost anything, and none if no path does.

    Engines drop unused results; a zero that is used stays in the engine, as a multiplication by zero.

    Raises ValueError saying what is wrong.
    """
    operators = [operator for operator, _ in _CELL.findall(name)]
    if len(operators) != len(_EDGES) or not set(operators) <= set(_OPERATORS):
        raise ValueError("is no cell of NAS-Bench-201")
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
    work = [*edges, *counts, *entering, *twins, *_fused(live), float(depth.get(3, 0)), float(not reaching)]
    return work, [*counts, *entering, float(depth.get(3, 0))]


def _fused(live: Sequence[str]) -> list[float]:
    """What an engine may join with a convolution, or run once for several edges.

    Returns:
        Sums at nodes 1 to 3; nodes where a convolution ends in a sum; nodes of zeros only; activations, one per tensor that a
        convolution reads; convolutions of one kernel on one tensor, beyond the first; tensors.
    """
    tensor = {0: 0}  # of each node; a node that only skips from another is the same tensor
    sums, joined, zeros = [], 0, 0
    for node in (1, 2, 3):
        entering = [
            (operator, source)
            for operator, (to, source) in zip(live, _EDGES, strict=True)
            if to == node and operator != "dead"
        ]
        operators = [operator for operator, _ in entering]
        alone = operators == ["skip_connect"]
        tensor[node] = tensor[entering[0][1]] if alone else node
        sums.append(float(max(len(entering) - 1, 0)))
        joined += len(entering) > 1 and any(operator.startswith("nor_conv") for operator in operators)
        zeros += bool(operators) and set(operators) == {"none"}
    convolutions = [
        (operator, tensor[source])
        for operator, (_, source) in zip(live, _EDGES, strict=True)
        if operator.startswith("nor_conv")
    ]
    read = {source for _, source in convolutions}
    repeated = len(convolutions) - len(set(convolutions))
    return [*sums, float(joined), float(zeros), float(len(read)), float(repeated), float(len(set(tensor.values())))]


def _value(faults: list[str], line: int, row: Mapping[str, str], column: _Column) -> float:
    """In the metric's unit; nan where the field is empty."""
    text = row[column.name].strip()
    if not text:
        return math.nan
    try:
        value = column.factor * float(text)
    except ValueError:
        value = math.nan
    if not _SMALLEST <= value <= _LARGEST:
        faults.append(
            f"line {line}: {column.name} is {text[:80]!r}, expected a number above 0, or nothing where unknown"
        )
        return math.nan
    return value
