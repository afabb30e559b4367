"""Search spaces: the layers of a network and the operators that each of them may have."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightnas_edge.errors import SpaceError
from lightnas_edge.records.html_table import html_table
from lightnas_edge.space.architecture import Architecture
from lightnas_edge.space.operators import Activation, Operator, ShapedOperator

SCHEMA = 1
_BUILT_IN = Path(__file__).parent / "built_in"


@dataclass(frozen=True)
class Layer:
    """A place in the network for one operator of the space."""

    in_channels: int
    out_channels: int
    stride: int
    input_size: int  # side of the square input, pixels

    @property
    def keeps_shape(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True)
class Space:
    """A chain: stem, fixed first block, L searchable layers with K candidates each, head.

    Stem: 3x3 convolution, batch norm, activation. Head: 1x1 convolution, batch norm, activation, global average pool,
    linear without bias, batch norm, activation, dropout, linear to the classes (LightNAS models/network.py).

    Args:
        first_block: None: the searchable layers follow the stem.
        feature_channels: of the head's first linear layer; None: its only linear layer follows the pool.
        activation: of every block.
        skip_activation: whether a skip that changes the shape, a 1x1 convolution, has it.
    """

    name: str
    input_size: int
    classes: int
    stem_channels: int
    stem_stride: int
    first_block: Operator | None
    first_channels: int  # of what the first searchable layer reads
    layers: tuple[Layer, ...]
    operators: tuple[Operator, ...]
    head_channels: int
    feature_channels: int | None
    dropout: float = 0.2
    activation: Activation = "relu6"
    skip_activation: bool = True

    @property
    def size(self) -> int:
        """Number of architectures."""
        return int(len(self.operators) ** len(self.layers))

    @property
    def summary(self) -> str:
        """The space in one line."""
        return (
            f"{self.name}: {len(self.layers)} searchable layers x {len(self.operators)} operators = {self.size:.3g} networks, "
            f"{self.input_size}x{self.input_size} input, {self.classes} classes; {len(self.shaped_operators())} operators to measure"
        )

    def __repr__(self) -> str:
        return f"<Space {self.summary}>"

    def _repr_html_(self) -> str:
        from lightnas_edge.space.describe import LAYER_COLUMNS, layer_rows

        operators = "operators: " + ", ".join(operator.name for operator in self.operators)
        return html_table(self.summary, LAYER_COLUMNS, layer_rows(self), note=operators)

    @property
    def option(self) -> str:
        """What a command's `--space` takes: the name of a built-in space. The file of a user's own is not known here: a placeholder."""
        if self.name in built_in_spaces() and load_space(self.name).with_classes(self.classes).sha256 == self.sha256:
            return self.name
        return "SPACE.toml"

    @cached_property
    def sha256(self) -> str:
        """Identity of the space: equal for equal content, also under another file name."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def with_classes(self, classes: int) -> Space:
        """The same space for another number of classes; only the head's last layer changes."""
        return self if classes == self.classes else replace(self, classes=classes)

    # -- what is measured ------------------------------------------------------------------------------

    @property
    def stem(self) -> ShapedOperator:
        return ShapedOperator("stem", 3, self.stem_channels, self.stem_stride, self.input_size, (), self.activation)

    @property
    def first(self) -> ShapedOperator | None:
        if self.first_block is None:
            return None
        channels, side = (self.stem_channels, self.first_channels), self.stem.output_size
        return ShapedOperator(self.first_block.name, *channels, 1, side, (), self.activation)

    @property
    def head(self) -> ShapedOperator:
        last = self.layers[-1]
        return ShapedOperator(
            "head",
            last.out_channels,
            self.classes,
            1,
            -(-last.input_size // last.stride),
            (self.head_channels,) if self.feature_channels is None else (self.head_channels, self.feature_channels),
            self.activation,
        )

    @property
    def fixed(self) -> tuple[ShapedOperator, ...]:
        """Stem, first block if there is one, head: in every network of the space."""
        first = self.first
        return (self.stem, self.head) if first is None else (self.stem, first, self.head)

    def at(self, layer: int, operator: Operator) -> ShapedOperator:
        """The operator at the shape of searchable layer `layer` (0 is the first)."""
        return self.at_shape(self.layers[layer], operator)

    def at_shape(self, place: Layer, operator: Operator) -> ShapedOperator:
        """The operator at a shape that no layer may have."""
        activation = "linear" if operator.kind == "skip" and not self.skip_activation else self.activation
        if operator.kind == "skip" and place.keeps_shape:
            activation = "relu6"  # an identity has none: one spelling
        return ShapedOperator(
            operator.name, place.in_channels, place.out_channels, place.stride, place.input_size, (), activation
        )

    def shaped_operators(self) -> list[ShapedOperator]:
        """Every distinct operator at a shape in the networks of the space; fixed ones first, identities left out."""
        seen = dict.fromkeys(self.fixed)
        for layer in range(len(self.layers)):
            for operator in self.operators:
                shaped = self.at(layer, operator)
                if not shaped.is_identity:
                    seen[shaped] = None
        return list(seen)

    def chain(self, architecture: Architecture) -> Iterator[ShapedOperator]:
        """The operators of a network from input to output, identities included."""
        architecture.indices(self)
        yield from self.fixed[:-1]
        for layer, operator in enumerate(architecture.operators):
            yield self.at(layer, operator)
        yield self.head

    # -- files ----------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "space",
            "schema": SCHEMA,
            "name": self.name,
            "input_size": self.input_size,
            "classes": self.classes,
            "stem": {"channels": self.stem_channels, "stride": self.stem_stride},
            **self._first_to_json(),
            "operators": [operator.name for operator in self.operators],
            "layers": [{"channels": layer.out_channels, "stride": layer.stride} for layer in self.layers],
            "head": {
                "channels": self.head_channels,
                **({} if self.feature_channels is None else {"features": self.feature_channels}),
            },
            "dropout": self.dropout,
            **({} if self.activation == "relu6" else {"activation": self.activation}),
            **({} if self.skip_activation else {"skip_activation": False}),
        }

    def _first_to_json(self) -> dict[str, Any]:
        if self.first_block is None:
            return {}
        return {"first": {"operator": self.first_block.name, "channels": self.first_channels}}

    @classmethod
    def from_json(cls, record: Any, *, source: str = "space") -> Space:
        """Build a space from the content of a TOML or JSON file.

        Raises:
            SpaceError: with every fault of the file in one message, each with its field and the value found.
        """
        reader = _Reader(record)
        schema = reader.whole_number("schema", record, least=1)
        if schema > SCHEMA:
            raise SpaceError(
                f"{source}: schema {schema} is newer than this program, which reads up to {SCHEMA}",
                hint="upgrade lightnas-edge",
            )
        name = reader.text("name", record)
        input_size = reader.whole_number("input_size", record, least=8)
        classes = reader.whole_number("classes", record, least=2)
        stem = reader.table("stem", record)
        stem_channels = reader.whole_number("channels", stem, where="stem", least=1)
        stem_stride = reader.stride(stem, where="stem")
        first_block, first_channels = None, stem_channels
        if "first" in record:
            first = reader.table("first", record)
            first_block = reader.operator(first.get("operator"), "first.operator")
            first_channels = reader.whole_number("channels", first, where="first", least=1)
        head = reader.table("head", record)
        head_channels = reader.whole_number("channels", head, where="head", least=1)
        feature_channels = reader.whole_number("features", head, where="head", least=1) if "features" in head else None
        dropout = reader.fraction("dropout", record, default=0.2)
        activation = reader.activation(record)
        skip_activation = reader.truth("skip_activation", record, default=True)
        operators = tuple(
            reader.operator(operator, f"operators[{index}]")
            for index, operator in enumerate(reader.rows("operators", record))
        )
        named = [str(each) for each in operators if each is not _UNREADABLE]
        for operator in sorted({each for each in named if named.count(each) > 1}):
            reader.faults.append(f"operators: {operator} is listed twice")
        layers = []
        channels, size = first_channels, -(-input_size // stem_stride)
        for index, row in enumerate(reader.rows("layers", record)):
            where = f"layers[{index}]"
            if not isinstance(row, dict):
                reader.faults.append(f"{where}: expected channels and stride, found {row!r}")
                continue
            reader.unknown(row, {"channels", "stride"}, where=f"{where}.")
            layer = Layer(
                channels,
                reader.whole_number("channels", row, where=where, least=1),
                reader.stride(row, where=where),
                size,
            )
            layers.append(layer)
            channels, size = layer.out_channels, -(-size // layer.stride)
        reader.unknown(record, _FIELDS)
        if first_block is not None and first_block.kind == "skip":
            reader.faults.append("first.operator: the first block cannot be a skip")
        if reader.faults:
            listed = "\n".join(f"  {fault}" for fault in reader.faults)
            raise SpaceError(
                f"{source}: {len(reader.faults)} fault{'s' if len(reader.faults) > 1 else ''}\n{listed}",
                hint="docs/formats.md describes the file; `lightnas-edge space show tiny --json` prints an example",
            )
        return cls(
            name, input_size, classes, stem_channels, stem_stride, first_block, first_channels,
            tuple(layers), operators, head_channels, feature_channels, dropout, activation, skip_activation,
        )  # fmt: skip


_FIELDS = {
    "kind", "schema", "name", "input_size", "classes", "stem", "first", "operators", "layers", "head", "dropout", "activation",
    "skip_activation",
}  # fmt: skip


def built_in_spaces() -> list[str]:
    return sorted(path.stem for path in _BUILT_IN.glob("*.toml"))


def load_space(name_or_path: str | Path) -> Space:
    """A built-in space by its name, or a user's own from a TOML or JSON file.

    Raises:
        SpaceError: no such space or file, or a file with faults.
    """
    path = Path(name_or_path)
    if str(name_or_path) in built_in_spaces():
        path = _BUILT_IN / f"{name_or_path}.toml"
    elif path.suffix not in (".toml", ".json"):
        raise SpaceError(
            f"no such search space: {str(name_or_path)!r}",
            hint=f"built in: {', '.join(built_in_spaces())}; your own: a path that ends in .toml or .json",
        )
    try:
        text = path.read_text(encoding="utf-8")
        record = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"cannot read the search space {path}: {error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: also a whole number of more than 4300 digits
        raise SpaceError(f"{path} is not valid {path.suffix[1:].upper()}: {error}") from error
    return Space.from_json(record, source=str(path))


_UNREADABLE = Operator("mbconv", 3, 1)  # replaces an operator with a faulty name


class _Reader:
    """Reads fields and collects their faults, so that one message reports all of them."""

    def __init__(self, record: Any) -> None:
        if not isinstance(record, dict):
            raise SpaceError(f"a search space is a table of fields, found {type(record).__name__}")
        self.faults: list[str] = []

    def whole_number(self, field: str, table: dict[str, Any], *, where: str = "", least: int) -> int:
        value = table.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self._fault(field, where, f"expected a whole number of at least {least}", field in table, value)
            return least
        return value

    def stride(self, table: dict[str, Any], *, where: str) -> int:
        value = table.get("stride")
        if value not in (1, 2) or isinstance(value, bool):
            self._fault("stride", where, "expected 1 or 2", "stride" in table, value)
            return 1
        return int(value)

    def fraction(self, field: str, table: dict[str, Any], *, default: float) -> float:
        value = table.get(field, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
            self._fault(field, "", "expected a number from 0 up to 1", True, value)
            return default
        return float(value)

    def activation(self, record: dict[str, Any]) -> Activation:
        value = record.get("activation", "relu6")
        if value == "relu":
            return "relu"
        if value != "relu6":
            self._fault("activation", "", "expected 'relu6' or 'relu'", True, value)
        return "relu6"

    def truth(self, field: str, table: dict[str, Any], *, default: bool) -> bool:
        value = table.get(field, default)
        if not isinstance(value, bool):
            self._fault(field, "", "expected true or false", True, value)
            return default
        return value

    def text(self, field: str, table: dict[str, Any]) -> str:
        value = table.get(field)
        if not isinstance(value, str) or not value.replace("-", "").replace("_", "").isalnum() or len(value) > 64:
            self._fault(field, "", "expected up to 64 letters, digits, - and _", field in table, value)
            return "unnamed"
        return value

    def table(self, field: str, record: dict[str, Any]) -> dict[str, Any]:
        value = record.get(field)
        if not isinstance(value, dict):
            self._fault(field, "", "expected a table", field in record, value)
            return {}
        return value

    def rows(self, field: str, record: dict[str, Any]) -> list[Any]:
        value = record.get(field)
        if not isinstance(value, list) or not value:
            self._fault(field, "", "expected a list with at least one row", field in record, value)
            return []
        return value

    def operator(self, value: Any, where: str) -> Operator:
        try:
            return Operator.parse(str(value))
        except SpaceError:
            self.faults.append(f"{where}: unknown operator name {value!r}")
            return _UNREADABLE

    def unknown(self, table: dict[str, Any], known: set[str], where: str = "") -> None:
        self.faults += [f"{where}{field}: unknown field" for field in sorted(set(table) - known)]

    def _fault(self, field: str, where: str, expected: str, present: bool, value: Any) -> None:
        found = f"found {value!r}" if present else "it is missing"
        self.faults.append(f"{where + '.' if where else ''}{field}: {expected}, {found}")
