"""Reads JSON of unknown origin into records: checks every field, and reports every fault with its path."""

import json
from typing import Any, Callable, Dict, List, Optional, Pattern, Sequence, Set, TypeVar, cast

LARGEST_COUNT = 2**31 - 1
LARGEST_NUMBER = 1e12
_LONGEST_INTEGER = 24  # digits; more are no count, and slow to convert
_SHOWN = 60  # characters of a value in a message

Record = TypeVar("Record")
JsonObject = Dict[str, Any]


class RecordError(ValueError):
    """A record with faults; `faults` has one line for each."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = list(faults)


class Fields:
    """The fields of one JSON object.

    A read never raises. A field with a fault adds a line to `faults` and reads as an empty value of its type, so that
    one pass finds all faults. What was read is valid only while `faults` is empty.
    """

    def __init__(self, value: object, path: str = "", faults: Optional[List[str]] = None) -> None:
        self.faults = [] if faults is None else faults
        self.path = path
        self._values: JsonObject = {}
        self._read: Set[str] = set()
        self._is_object = isinstance(value, dict)
        if self._is_object:
            self._values = cast(JsonObject, value)
        else:
            self._add(path or "the record", "an object", value)

    def text(self, field: str, pattern: Optional[Pattern[str]] = None, expected: str = "text") -> str:
        def fits(value: Any) -> bool:
            return isinstance(value, str) and (pattern is None or pattern.fullmatch(value) is not None)

        return cast(str, self._take(field, fits, expected, ""))

    def optional_text(
        self, field: str, pattern: Optional[Pattern[str]] = None, expected: str = "text"
    ) -> Optional[str]:
        return None if self.is_null(field) else self.text(field, pattern, expected)

    def choice(self, field: str, choices: Sequence[str]) -> str:
        return cast(str, self._take(field, lambda value: value in choices, " or ".join(choices), choices[0]))

    def flag(self, field: str) -> bool:
        return cast(bool, self._take(field, lambda value: isinstance(value, bool), "true or false", False))

    def whole(self, field: str, least: int = 0, most: int = LARGEST_COUNT) -> int:
        def fits(value: Any) -> bool:
            return type(value) is int and least <= value <= most

        return cast(int, self._take(field, fits, "a whole number from {} to {}".format(least, most), least))

    def optional_whole(self, field: str, least: int = 0, most: int = LARGEST_COUNT) -> Optional[int]:
        return None if self.is_null(field) else self.whole(field, least, most)

    def number(self, field: str, least: float = -LARGEST_NUMBER, most: float = LARGEST_NUMBER) -> float:
        def fits(value: Any) -> bool:
            return type(value) in (int, float) and least <= value <= most

        return cast(float, self._take(field, fits, "a number from {:g} to {:g}".format(least, most), least))

    def optional_number(
        self, field: str, least: float = -LARGEST_NUMBER, most: float = LARGEST_NUMBER
    ) -> Optional[float]:
        return None if self.is_null(field) else self.number(field, least, most)

    def numbers(self, field: str, least: int = 0) -> List[float]:
        """A list of `least` numbers or more."""

        def fits(value: Any) -> bool:
            return (
                isinstance(value, list)
                and len(value) >= least
                and all(type(number) in (int, float) and abs(number) <= LARGEST_NUMBER for number in value)
            )

        expected = "a list of numbers" if least == 0 else "a list of numbers, at least {}".format(least)
        return cast(List[float], self._take(field, fits, expected, []))

    def wholes(self, field: str, least: int, expected: str) -> List[int]:
        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(
                type(side) is int and least <= side <= LARGEST_COUNT for side in value
            )

        return cast(List[int], self._take(field, fits, expected, []))

    def texts(self, field: str, pattern: Optional[Pattern[str]] = None, expected: str = "a list of texts") -> List[str]:
        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(
                isinstance(text, str) and (pattern is None or pattern.fullmatch(text) is not None) for text in value
            )

        return cast(List[str], self._take(field, fits, expected, []))

    def table(self, field: str) -> JsonObject:
        """An object with unchecked content."""
        return cast(JsonObject, self._take(field, lambda value: isinstance(value, dict), "an object", {}))

    def child(self, field: str) -> "Fields":
        """The fields of an object in this one."""
        found = self._take(field, lambda value: isinstance(value, dict), "an object", None)
        if found is None:
            return _unreadable(self._path_of(field))
        return Fields(found, self._path_of(field), self.faults)

    def optional_child(self, field: str) -> Optional["Fields"]:
        return None if self.is_null(field) else self.child(field)

    def children(self, field: str) -> List["Fields"]:
        """The fields of each object in a list."""
        found = cast(List[Any], self._take(field, lambda value: isinstance(value, list), "a list", []))
        return [Fields(value, "{}[{}]".format(self._path_of(field), at), self.faults) for at, value in enumerate(found)]

    def has(self, field: str) -> bool:
        return field in self._values

    def names(self) -> List[str]:
        """The names of all fields, for an object that is a table."""
        return sorted(self._values)

    def others(self) -> JsonObject:
        """The fields that nothing has read yet."""
        return {field: value for field, value in self._values.items() if field not in self._read}

    def is_null(self, field: str) -> bool:
        """Whether a field that may be null, or may be left out, is so."""
        self._read.add(field)
        return self._is_object and self._values.get(field) is None

    def fault(self, field: str, text: str) -> None:
        """Add a fault that a check across fields found."""
        self.faults.append("{}: {}".format(self._path_of(field) if field else self.path, text))

    def refuse_others(self) -> None:
        """A field that nothing has read is unknown, and a fault."""
        for field in sorted(set(self._values) - self._read):
            self.fault(shown(field, quoted=False), "unknown field")

    def check(self) -> None:
        """Raises RecordError: at least one fault was found."""
        if self.faults:
            raise RecordError(self.faults)

    def _take(self, field: str, fits: Callable[[Any], bool], expected: str, otherwise: Any) -> Any:
        self._read.add(field)
        if not self._is_object:
            return otherwise
        if field not in self._values:
            self.fault(field, "missing")
            return otherwise
        value = self._values[field]
        if not fits(value):
            self._add(self._path_of(field), expected, value)
            return otherwise
        return value

    def _add(self, path: str, expected: str, value: object) -> None:
        self.faults.append("{}: expected {}, found {}".format(path, expected, shown(value)))

    def _path_of(self, field: str) -> str:
        return self.path + "." + field if self.path else field


def read_record(value: object, read: Callable[[Fields], Record]) -> Record:
    """What `read` makes of a JSON object.

    Raises:
        RecordError: the object has faults; all of them.
    """
    fields = Fields(value)
    record = read(fields)
    fields.check()
    return record


def parse(content: bytes) -> object:
    """The JSON value in a file's content. Every number in it is finite and of bounded length.

    Raises:
        RecordError: it is none; the fault says why.
    """
    try:
        return json.loads(
            content.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite, parse_int=_bounded
        )
    except RecursionError:
        raise RecordError(["not a record: nested too deeply"])
    except UnicodeDecodeError as err:
        raise RecordError(["not UTF-8 text at byte {}".format(err.start)])
    except ValueError as err:
        raise RecordError(["not JSON: {}".format(err)])


def shown(value: object, quoted: bool = True) -> str:
    """A value as a message shows it: as JSON writes it, cut to a bounded length."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list of {}".format(len(value))
    text = json.dumps(value)
    if not quoted:
        text = text[1:-1]
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _unreadable(path: str) -> Fields:
    """Fields of an object that has a fault already: reading them adds none."""
    fields = Fields({}, path, [])
    fields._is_object = False
    return fields


def _refuse_constant(name: str) -> float:
    raise ValueError("{} is not a number".format(name))


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0.0:  # infinite
        raise ValueError("the number {} is too large".format(text[:_LONGEST_INTEGER]))
    return value


def _bounded(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise ValueError("the number {}... is too large".format(text[:_LONGEST_INTEGER]))
    return int(text)
