"""Tables that other projects publish, read into features and values.

    once-for-all    one row per block: `key` as once-for-all's look-up tables name blocks, `latency_ms`, `energy_mj`, `board`
    HW-NAS-Bench    one row per NAS-Bench-201 cell: `arch_str`, and a column per measurement with its unit in its name

Both may have a column `board`. Nothing is unpickled: tables that are published as pickles, YAML or JSON must be written as CSV
first, since their numbers have no unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.base import Array
from lightnas_edge.predictor.external_csv import CsvTable, decimal_mark, parse_number, read_csv
from lightnas_edge.predictor.features import Features

_MAX_FAULTS = 20  # shown
_REMEDY = (
    "one row for each block or network: `key` as once-for-all names blocks "
    "(ConvLayer-input:1_3_224_224-in_ch:3-out_ch:24-kernel:3-stride:2) or `arch_str` of NAS-Bench-201, and `latency_ms`; "
    "docs/prediction.md shows both"
)
_PER_UNIT: Mapping[str, Mapping[str, float]] = {  # in milliseconds and millijoules
    "latency": {
        **dict.fromkeys(("ns", "nsec", "nanoseconds"), 1e-6),
        **dict.fromkeys(("us", "usec", "micros", "microsec", "microseconds"), 1e-3),
        **dict.fromkeys(("ms", "msec", "millis", "millisec", "milliseconds"), 1.0),
        **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1e3),
    },
    "energy": {
        **dict.fromkeys(("nj", "nanojoules"), 1e-6),
        **dict.fromkeys(("uj", "microjoules"), 1e-3),
        **dict.fromkeys(("mj", "millijoules"), 1.0),
        **dict.fromkeys(("j", "joule", "joules"), 1e3),
        "mwh": 3.6e3,
        "wh": 3.6e6,
    },
}
_METRICS = {"latency": "latency_ms", "energy": "energy_mj"}
_OTHER_UNITS = {"min", "minutes", "h", "hours", "cycles", "ticks", "fps", "hz", "w", "mw", "kj", "kwh", "cal"}
_ALL_UNITS = {*_PER_UNIT["latency"], *_PER_UNIT["energy"], *_OTHER_UNITS}
# HW-NAS-Bench names no units: milliseconds and millijoules on all of its boards.
_BOARDS_WITHOUT_UNIT = {"edgegpu", "edgetpu", "eyeriss", "fpga", "pixel3", "raspi4"}
_CENTRES = {"avg", "average", "mean", "median", "p50"}  # one of them is the latency
_SPREADS = {"std", "stdev", "stddev", "sd", "var", "variance", "iqr", "ci", "cv", "error"}
_SMALLEST, _LARGEST = 1e-9, 1e12  # of a value; logarithms, sums and squares of such numbers are exact enough
_FIELDS = re.compile(r"-(input|in_ch|out_ch|mid_ch|expand|kernel|stride|use_se):([^-]*)")
_KINDS = ("MBConvLayer", "ConvLayer", "LinearLayer")
_LARGEST_SIDE = 1_000_000  # of a shape, a kernel or a number of channels
_MOVED, _WEIGHTS = 2, 3  # of the work of a block, next to each other
_CELL = re.compile(r"\|?([a-z0-9_]+)~([0-9]+)")
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

    name: str  # normalised
    shown: str  # as the file has it
    board: str  # or condition; empty where the column names none
    metric: str
    factor: float  # to the metric's unit


def read_external_table(path: str | Path) -> ExternalTable:
    """A table in one of the forms above, which its columns decide. Values in other units are converted.

    Raises:
        PredictorError: unreadable, of another form, or with faults; all of them in one message, with their lines.
    """
    path = Path(path)
    table = read_csv(path, ("key", "arch_str"), _REMEDY)
    form = next((name for name in ("key", "arch_str") if name in table.columns), None)
    if form is None or not (table.rows or table.faults):
        listed = ", ".join(table.names.values()) or "none"
        what = "is in no known form" if form is None else "holds no rows"
        raise PredictorError(f"{path} {what}: its columns are {listed[:500]}", hint=_REMEDY)
    faults = list(table.faults)
    read = _block if form == "key" else _cell
    features = _features(faults, table, form, read)
    values = _values(faults, table, form, features)
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults[:_MAX_FAULTS])
        more = f"\n  and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
        raise PredictorError(
            f"{path} holds {len(faults)} error{'s' * (len(faults) != 1)}:\n{listed}{more}", hint=_REMEDY
        )
    work, traits = (np.array(part) for part in zip(*features.values(), strict=True))
    title = "once-for-all" if form == "key" else "HW-NAS-Bench"
    described = Features(work, traits, joined=_joined(work) if form == "key" else None)
    return ExternalTable(title, tuple(features), described, values)


def _joined(work: Array) -> Array:
    """Of blocks, with one amount for weights and all else that is moved."""
    moved = work[:, _MOVED] + work[:, _WEIGHTS]
    return np.column_stack([work[:, :_MOVED], moved, work[:, _WEIGHTS + 1 :]])


_Described = dict[str, tuple[list[float], list[float]]]  # name of a block or a cell -> (work, traits)


def _features(
    faults: list[str], table: CsvTable, form: str, read: Callable[[str], tuple[list[float], list[float]]]
) -> _Described:
    found: _Described = {}
    for line, row in table.rows:
        name = row[form]
        if name not in found:
            try:
                found[name] = read(name)
            except ValueError as error:
                faults.append(f"line {line}: {name[:200]!r} {error}")
    return found


def _metric_columns(faults: list[str], table: CsvTable) -> list[_Column]:
    """The columns of latencies and energies, each metric of each board once."""
    found: dict[tuple[str, str], _Column] = {}
    for name in table.columns:
        try:
            column = _column(name, table.names[name])
        except ValueError as error:
            faults.append(f"column {table.names[name]!r} {error}")
            continue
        if column is None:
            continue
        other = found.setdefault((column.board, column.metric), column)
        if other is not column:
            faults.append(f"columns {other.shown!r} and {column.shown!r} hold the same metric; keep one of them")
    if not found and not faults:
        faults.append(f"no column names a latency or an energy: {', '.join(table.names.values())[:500]}")
    return list(found.values())


def _column(name: str, shown: str) -> _Column | None:
    """`latency_ms`, `latency_us_cifar10`, `latency_cifar10_ms`, `edgegpu_energy`; None where it holds something else.

    Raises ValueError saying what is wrong.
    """
    words = name.split("_")
    places = [place for place, word in enumerate(words) if word in _METRICS]
    if len(places) != 1 or set(words) & _SPREADS:
        return None
    quantity, before, after = words[places[0]], words[: places[0]], words[places[0] + 1 :]
    unit = next((after.pop(place) for place in (0, -1) if after and after[place] in _ALL_UNITS), None)
    board = "_".join(word for word in before + after if word not in _CENTRES)
    metric, factors = _METRICS[quantity], _PER_UNIT[quantity]
    if unit is None and (after or board not in _BOARDS_WITHOUT_UNIT):
        example = f"{quantity}_{metric.rpartition('_')[2]}" + (f"_{board}" if board else "")
        raise ValueError(f"names no unit; rename it, for example to {example!r}")
    if unit is not None and unit not in factors:
        units = ", ".join(list(dict.fromkeys(each for each in factors if len(each) <= 2)))
        raise ValueError(f"has the unknown unit {unit!r}, expected one of {units}")
    return _Column(name, shown, board, metric, factors[unit] if unit else 1.0)


def _values(faults: list[str], table: CsvTable, form: str, features: _Described) -> dict[tuple[str, str], Array]:
    """(board or condition, metric) -> a value for each described row; a row that contradicts an earlier one is a fault."""
    metrics = _metric_columns(faults, table)
    try:
        mark = decimal_mark((row[column.name] for _, row in table.rows for column in metrics), table.separator)
    except ValueError as error:
        faults.append(f"{error}: write all numbers with a decimal point and nothing between thousands")
        return {}
    place = {name: position for position, name in enumerate(features)}
    found: dict[tuple[str, str], Array] = {}
    lines: dict[tuple[str, str, str], int] = {}
    for line, row in table.rows:
        if row.get("board") == "":
            faults.append(f"line {line}: board is empty")
        for column in metrics:
            value = _value(faults, line, row[column.name], column, mark)
            board = " ".join(filter(None, (row.get("board"), column.board))) or "board"
            of_metric = found.setdefault((board, column.metric), np.full(len(place), math.nan))
            if row[form] not in place or math.isnan(value):
                continue
            earlier = of_metric[place[row[form]]]
            first = lines.setdefault((row[form], board, column.metric), line)
            if math.isnan(earlier):
                of_metric[place[row[form]]] = value
            elif earlier != value:
                faults.append(
                    f"line {line}: {column.shown} is {row[column.name]} and differs from line {first} for the same {form} "
                    f"on {board}; keep one measurement for each, and name boards in a column `board`"
                )
    return found


def _block(key: str) -> tuple[list[float], list[float]]:
    """(work, traits) of `MBConvLayer-input:1_24_112_112-in_ch:24-out_ch:32-mid_ch:144-expand:6-kernel:7-stride:2-use_se:0`.

    Raises ValueError saying what is wrong.
    """
    kind = key.split("-", 1)[0]
    fields = dict(_FIELDS.findall(key))
    if not {"input", "in_ch", "out_ch"} <= set(fields):
        raise ValueError("does not name a block as once-for-all does")
    if kind not in _KINDS:
        raise ValueError(f"is of the unknown kind {kind[:20]!r}, expected one of {', '.join(_KINDS)}")

    def number(text: str, least: int) -> int:
        if not (text.isdecimal() and text.isascii() and len(text) <= 7 and least <= int(text) <= _LARGEST_SIDE):
            raise ValueError(f"holds {text[:20]!r}, expected a whole number of {least} to {_LARGEST_SIDE}")
        return int(text)

    shape = [number(side, 1) for side in fields["input"].split("_")]
    entering, leaving = number(fields["in_ch"], 1), number(fields["out_ch"], 1)
    flat = kind == "LinearLayer" and len(shape) <= 2
    if not flat and (len(shape) != 4 or shape[:2] != [1, entering]):
        raise ValueError(
            f"has the input {fields['input'][:40]!r}, expected 1_{entering}_ROWS_COLUMNS: batch 1 and its in_ch"
        )
    kernel, stride = (number(fields.get(name, "0"), 0) or 1 for name in ("kernel", "stride"))
    expand, squeeze = (number(fields.get(name, "0"), 0) for name in ("expand", "use_se"))
    pixels, after = (1 if flat else math.prod(-(-side // step) for side in shape[2:]) for step in (1, stride))
    inverted = kind == "MBConvLayer"
    middle = number(fields.get("mid_ch", "0"), 0) or entering * max(expand, 1)
    if inverted:
        expanding = entering * middle * pixels if middle != entering else 0
        pointwise = expanding + middle * leaving * after
        depthwise = kernel**2 * middle * after
        moved = entering * pixels + middle * (pixels + 3 * after) + leaving * after
        weights = middle * (entering + leaving + kernel**2) + squeeze * middle**2 / 2
        kernels = 2 + (middle != entering) + 4 * squeeze
    else:
        pointwise, depthwise = kernel**2 * entering * leaving * after, 0
        moved = entering * pixels + leaving * after
        weights, kernels = kernel**2 * entering * leaving, 1
    work = [float(pointwise), float(depthwise), float(moved), float(weights), float(kernels), float(squeeze)]
    sizes = [math.log(amount) for amount in (pointwise, depthwise + 1e3, moved, weights)]
    return work, [*sizes, float(kernels), float(squeeze), float(kernel), float(stride), float(inverted)]


def _cell(name: str) -> tuple[list[float], list[float]]:
    """(work, traits) of a NAS-Bench-201 cell: only edges that reach the output cost anything, and none if no path does.

    Engines drop unused results; a zero that is used stays in the engine, as a multiplication by zero.

    Raises ValueError saying what is wrong.
    """
    found = _CELL.findall(name)
    operators = [operator for operator, _ in found]
    in_order = [int(source) for _, source in found] == [source for _, source in _EDGES]
    if not in_order or not set(operators) <= set(_OPERATORS):
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


def _value(faults: list[str], line: int, text: str, column: _Column, mark: str) -> float:
    """In the metric's unit; nan where the field is empty."""
    if not text:
        return math.nan
    try:
        value = column.factor * parse_number(text, mark)
    except ValueError:
        value = math.nan
    if not _SMALLEST <= value <= _LARGEST:
        faults.append(
            f"line {line}: {column.shown} is {text[:80]!r}, expected a number above 0, or nothing where unknown"
        )
        return math.nan
    return value
