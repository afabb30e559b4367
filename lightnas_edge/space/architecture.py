"""One network of a search space: an operator for every searchable layer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightnas_edge.errors import ArchitectureError, SpaceError
from lightnas_edge.records.run import ArchitectureRecord
from lightnas_edge.space.operators import Operator

if TYPE_CHECKING:
    from lightnas_edge.space.space import Space


@dataclass(frozen=True)
class Architecture:
    """One operator per searchable layer, immutable and hashable.

    `operators[0]` is the first searchable layer (block 1 of the published space).
    """

    space: str
    operators: tuple[Operator, ...]

    @classmethod
    def from_names(cls, space: Space, names: Sequence[str]) -> Architecture:
        """Read names in either spelling; a leading fixed first block (the paper lists it) is dropped.

        Raises:
            ArchitectureError: wrong length, or an operator the space does not offer.
        """
        names = list(names)
        if len(names) == len(space.layers) + 1 and _parse(names[0]) == space.first_block:
            names = names[1:]
        architecture = cls(space.name, tuple(_parse(name) for name in names))
        architecture.indices(space)
        return architecture

    @classmethod
    def from_indices(cls, space: Space, indices: Iterable[int]) -> Architecture:
        """`indices[l]` is the position in `space.operators` of the operator of layer l."""
        return cls(space.name, tuple(space.operators[int(index)] for index in indices))

    @classmethod
    def random(cls, space: Space, generator: np.random.Generator) -> Architecture:
        """Every layer uniform over the operators, as in the published sampling."""
        return cls.from_indices(space, generator.integers(len(space.operators), size=len(space.layers)))

    @classmethod
    def from_json(cls, record: Mapping[str, Any], space: Space, *, source: str = "the architecture") -> Architecture:
        """Raises ArchitectureError when the record is none, or is of another space or schema."""
        text = json.dumps(record, default=str)
        return cls._of(ArchitectureRecord.parse(text, source, error=ArchitectureError), space, source)

    @classmethod
    def load(cls, path: Path, space: Space) -> Architecture:
        """Read a file that a search, or a person, wrote. Raises ArchitectureError."""
        return cls._of(ArchitectureRecord.load(path, error=ArchitectureError), space, str(path))

    @classmethod
    def _of(cls, record: ArchitectureRecord, space: Space, source: str) -> Architecture:
        if record.space != space.name:
            raise ArchitectureError(f"{source} is of space {record.space!r}, not {space.name!r}")
        return cls.from_names(space, record.operators)

    def to_json(self) -> dict[str, Any]:
        return ArchitectureRecord(space=self.space, operators=self.names).to_json()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the operators, layer by layer."""
        return tuple(operator.name for operator in self.operators)

    def paper_names(self) -> list[str]:
        return [operator.paper_name for operator in self.operators]

    def indices(self, space: Space) -> np.ndarray:
        """(L,) positions in `space.operators`.

        Raises:
            ArchitectureError: the architecture does not fit the space; all faults in one message.
        """
        faults = []
        if self.space != space.name:
            faults.append(f"it is of space {self.space!r}, not {space.name!r}")
        if len(self.operators) != len(space.layers):
            faults.append(f"{len(self.operators)} operators for {len(space.layers)} searchable layers")
        faults += [
            f"layer {layer}: {operator.name} is not offered"
            for layer, operator in enumerate(self.operators)
            if operator not in space.operators
        ]
        if faults:
            raise ArchitectureError("the architecture does not fit the space: " + "; ".join(faults))
        return np.array([space.operators.index(operator) for operator in self.operators], dtype=np.int64)

    def one_hot(self, space: Space) -> np.ndarray:
        """(L, K) float64 of zeros and ones; row-major it is the published predictor's input order."""
        encoding = np.zeros((len(space.layers), len(space.operators)))
        encoding[np.arange(len(space.layers)), self.indices(space)] = 1.0
        return encoding

    @property
    def slug(self) -> str:
        """Short and readable, for file names and tables: `k3e3-k5e6-skip-...`."""
        return "-".join(operator.name.replace("mbconv_", "").replace("_", "") for operator in self.operators)

    def __str__(self) -> str:
        return " ".join(operator.name for operator in self.operators)


def _parse(name: str) -> Operator:
    try:
        return Operator.parse(name)
    except SpaceError as error:
        raise ArchitectureError(str(error), hint=error.hint) from error
