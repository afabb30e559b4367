"""CSV as programs and spreadsheets write it: byte order marks, line ends, separators, names of columns, decimal commas."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightnas_edge.errors import PredictorError
from lightnas_edge.records.base import read_bounded

Rows = Sequence[tuple[int, Mapping[str, str]]]  # (line, fields)
_SEPARATORS = (",", ";", "\t", "|")
_DECLARED = re.compile(r"sep=([,;|\t])\r?\n")  # the first line of files for Excel
_ENCODINGS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Other files that hold tables, by their first bytes.
_NO_TEXT = (
    (b"\x80", "a pickle, which is not opened: reading one runs the code in it"),
    (b"PK", "an archive or a workbook"),
    (b"\x1f\x8b", "compressed"),
    (b"SQLite", "a database"),
    (b"\x89HDF", "an HDF5 file"),
)
_YAML_LINE = re.compile(rb"[^\s,;][^,;\t]*:(?: *(?:\{.*|[-+.\deE]+))?\s*")
_NUMBER = re.compile(r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_MAYBE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)


@dataclass(frozen=True)
class CsvTable:
    """Complete rows; incomplete ones are faults."""

    columns: tuple[str, ...]  # normalised, see `normalised`
    names: Mapping[str, str]  # normalised -> as the file has them
    rows: Rows
    separator: str
    faults: tuple[str, ...]


def normalised(name: str) -> str:
    """`Latency [µs]` as `latency_us`."""
    text = unicodedata.normalize("NFKC", name).replace("\N{GREEK SMALL LETTER MU}", "u").casefold()
    return re.sub(r"\W+", "_", text).strip("_")


def read_csv(path: Path, known: Collection[str], remedy: str) -> CsvTable:
    """A table with a header, separated by commas, semicolons, tabs or bars.

    Args:
        known: normalised names of columns, of which one says which separator it is.

    Raises:
        PredictorError: the file cannot be read, or is no CSV.
    """
    content = read_bounded(path, error=PredictorError, remedy=remedy)
    _refuse_other_files(content, path, remedy)
    encoding = next((name for mark, name in _ENCODINGS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
        separator, text, skipped = _separator_of(text, known)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines = [(reader.line_num + skipped, fields) for fields in reader if any(map(str.strip, fields))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise PredictorError(f"cannot read the table {path}: {error}", hint="write it as CSV in UTF-8") from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    columns = [normalised(name) for name in header]
    faults = [
        f"column {header[columns.index(name)]!r} occurs twice"
        for name in dict.fromkeys(columns)
        if columns.count(name) > 1
    ]
    rows = []
    for line, fields in lines[1:]:
        if len(fields) == len(columns):
            rows.append((line, dict(zip(columns, map(str.strip, fields), strict=True))))
        else:
            faults.append(f"line {line}: {len(fields)} fields, expected {len(columns)}")
    return CsvTable(tuple(columns), dict(zip(columns, header, strict=True)), rows, separator, tuple(faults))


def decimal_mark(texts: Iterable[str], separator: str) -> str:
    """`.` or `,`: that of all numbers of a table.

    Raises:
        ValueError: it cannot be said.
    """
    commas: list[str] = []
    points: list[str] = []
    for text in texts:
        if _NUMBER.fullmatch(text):
            (commas if "," in text else points if "." in text else []).append(text)
    if not commas:
        return "."
    if points:
        raise ValueError(f"numbers with commas ({commas[0]!r}) and with points ({points[0]!r})")
    if separator != ";" and all(map(_MAYBE_THOUSANDS.fullmatch, commas)):
        raise ValueError(f"{commas[0]!r} may be a decimal or thousands")
    return ","


def parse_number(text: str, mark: str) -> float:
    """Raises ValueError: no number, or one with another decimal mark. Python's own float() reads `1_000` and `inf`, too."""
    if not _NUMBER.fullmatch(text) or (set(text) & {".", ","}) - {mark}:
        raise ValueError
    return float(text.replace(mark, "."))


def _separator_of(text: str, known: Collection[str]) -> tuple[str, str, int]:
    """(separator, text without a line that declares it, lines left out)."""
    declared = _DECLARED.match(text)
    if declared is not None:
        return declared[1], text[declared.end() :], 1
    header = next((line for line in text.splitlines() if line.strip()), "")
    for separator in _SEPARATORS:
        if set(known) & {normalised(name.strip('"')) for name in header.split(separator)}:
            return separator, text, 0
    return max(_SEPARATORS, key=header.count), text, 0


def _refuse_other_files(content: bytes, path: Path, remedy: str) -> None:
    """Raises PredictorError: the file is of another kind, by its first bytes."""
    start = content[:1000].removeprefix(codecs.BOM_UTF8).lstrip()
    lines = [line for line in start.splitlines() if line.strip() and not line.startswith((b"#", b"---"))]
    kind = next((what for mark, what in _NO_TEXT if content.startswith(mark)), None)
    if start[:1] in (b"{", b"["):
        kind = "JSON"
    elif lines and _YAML_LINE.fullmatch(lines[0]):
        kind = "YAML"
    if kind is not None:
        raise PredictorError(f"{path} is no CSV: it is {kind}", hint=f"write it as CSV; {remedy}")
