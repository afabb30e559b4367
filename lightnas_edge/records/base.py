"""What every record has in common: strict, closed, frozen, and read with all its errors in one message.

A record is a file, or a part of one, that one part of the system writes and another one reads.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails, from_json

from lightnas_edge.errors import LightnasEdgeError, RecordError
from lightnas_edge.files import write_json

MAX_BYTES = 256 * 1024 * 1024
_MAX_ERRORS = 20  # shown; a file of another kind may hold thousands
_MAX_INT = 2**53  # larger integers are not exact in every reader of JSON

Count = Annotated[int, Field(ge=0, le=_MAX_INT)]
Positive = Annotated[int, Field(ge=1, le=_MAX_INT)]
Integer = Annotated[int, Field(ge=-_MAX_INT, le=_MAX_INT)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=1_000_000)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
# The board and the state that a number was measured on: equal fields mean comparable numbers. Which fields there are
# depends on the engine.
Fingerprint = dict[str, str | Integer | float | bool | None]
# Whatever a board said of itself, kept for people and never decided upon.
FreeForm = dict[str, JsonValue]


class Record(BaseModel):
    """Base of all records: no conversion between types, no unknown field, no NaN, no change after it is built."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        protected_namespaces=(),
    )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def parse(
        cls, content: bytes | str, source: str, *, error: type[LightnasEdgeError] = RecordError, remedy: str = ""
    ) -> Self:
        """Read one JSON text.

        Args:
            source: names the content in messages, usually its path.

        Raises:
            `error`: every fault in one message, each with its path inside the record.
        """
        _check_kind(cls, content, source, error, remedy)
        try:
            return cls.model_validate_json(content)
        except ValidationError as found:
            raise error(f"{source} {describe(found)}", hint=remedy) from found

    @classmethod
    def load(cls, path: Path, *, error: type[LightnasEdgeError] = RecordError, remedy: str = "") -> Self:
        """Read a file. Raises `error` where it is missing, too large or not such a record."""
        return cls.parse(read_bounded(path, error=error, remedy=remedy), str(path), error=error, remedy=remedy)

    def save(self, path: Path) -> None:
        """Replace the file by rename. Raises OSError."""
        write_json(path, self.to_json())


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_bounded(
    path: Path, *, error: type[LightnasEdgeError] = RecordError, remedy: str = "", max_bytes: int = MAX_BYTES
) -> bytes:
    """A whole file. Raises `error` where it is missing, unreadable or larger than `max_bytes`."""
    try:
        with Path(path).open("rb") as file:
            # A read allocates what it is asked for, so the limit itself is not passed to it.
            content = file.read(min(max_bytes, os.fstat(file.fileno()).st_size) + 1)
    except FileNotFoundError as cause:
        raise error(f"{path} does not exist", hint=remedy) from cause
    except (OSError, ValueError) as cause:  # ValueError: a name with a null byte
        raise error(f"cannot read {path}: {getattr(cause, 'strerror', None) or cause}", hint=remedy) from cause
    if len(content) > max_bytes:
        raise error(f"{path} is larger than {max_bytes // 2**20} MiB", hint=remedy)
    return content


def parse_json(
    content: bytes | str, source: str, *, error: type[LightnasEdgeError] = RecordError, remedy: str = ""
) -> Any:
    """JSON without NaN and infinity, of bounded depth. Raises `error`."""
    try:
        value = from_json(content, allow_inf_nan=False)
    except ValueError as cause:
        raise error(f"{source} is not valid JSON: {cause}", hint=remedy) from cause
    if not _is_finite(value):
        raise error(f"{source} holds a number that is too large for a float", hint=remedy)
    return value


def _is_finite(value: Any) -> bool:
    """Whether no number overflows: 1e400 is valid JSON and reads as infinity."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def describe(found: ValidationError) -> str:
    """`holds 2 errors:` and a line for each, with its path and the value found."""
    details = found.errors(include_url=False)
    lines = [f"  {_line(each)}" for each in details[:_MAX_ERRORS]]
    if len(details) > _MAX_ERRORS:
        lines.append(f"  and {len(details) - _MAX_ERRORS} more")
    return f"holds {len(details)} error{'s' * (len(details) != 1)}:\n" + "\n".join(lines)


def _line(detail: ErrorDetails) -> str:
    path = ""
    for step in detail["loc"]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    if detail["type"] == "missing":
        return f"{path}: missing"
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown field"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not path:
        return f"the record: {message}"
    value = repr(detail["input"])
    return f"{path}: {message}, found {value if len(value) <= 80 else value[:77] + '...'}"


def _check_kind(
    cls: type[Record], content: bytes | str, source: str, error: type[LightnasEdgeError], remedy: str
) -> None:
    """Refuse another kind and a newer schema by name, before the fields are read."""
    if "kind" not in cls.model_fields:
        return
    record = parse_json(content, source, error=error, remedy=remedy)
    kind = cls.model_fields["kind"].default
    if not isinstance(record, dict) or record.get("kind") != kind:
        found = record.get("kind") if isinstance(record, dict) else type(record).__name__
        raise error(f"{source} is not a record of kind {kind!r}: found {str(found)[:80]!r}", hint=remedy)
    schema = cls.model_fields["schema_"].default
    if record.get("schema") != schema:
        newer = isinstance(record.get("schema"), int) and record["schema"] > schema
        raise error(
            f"{source} has schema {str(record.get('schema'))[:80]}; this program reads {schema}",
            hint="upgrade lightnas-edge" if newer else remedy,
        )
