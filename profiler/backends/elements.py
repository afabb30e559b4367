"""How the values of inputs and outputs are exchanged: inputs one behind the other, floating-point numbers in four bytes."""

from typing import List, Sequence

from profiler.errors import MeasureError

# May be indices into a table of unknown length: 0 and 1 are in every table. 8 bits are data.
INDICES = ("int16", "int32", "int64", "uint16", "uint32", "uint64")


def count(shape: Sequence[int]) -> int:
    """The number of values of a shape."""
    product = 1
    for side in shape:
        product *= side
    return product


def split(content: bytes, names: Sequence[str], sizes: Sequence[int]) -> List[bytes]:
    """The part of each input.

    Raises:
        MeasureError: code `run`: the content has another size than all inputs together.
    """
    if len(content) != sum(sizes):
        raise MeasureError(
            "run",
            "the inputs have {} bytes, and one inference needs {}: {}".format(
                len(content), sum(sizes), ", ".join("{} {}".format(*pair) for pair in zip(names, sizes))
            ),
            "send all inputs of an inference in the model's order; floating-point numbers as little-endian float32",
        )
    parts, at = [], 0
    for size in sizes:
        parts.append(content[at : at + size])
        at += size
    return parts
