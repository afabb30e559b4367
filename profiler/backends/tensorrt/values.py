"""Element types of inputs and outputs: their sizes, seeded values to run on, and how their values are exchanged.

Floating-point numbers are exchanged as float32, others in the type of the model sent. Before TensorRT 10 the parser makes
int32 of a model's int64, so the two differ.
"""

import array
import random
import struct
from typing import Any, Dict, Optional

from profiler.backends import elements

INPUT_SEED = 0
INPUT_BLOCK = 65536  # random numbers, repeated: drawing millions in pure Python takes a Nano seconds
INT8_SIGMA = 127 / 3  # three standard deviations are the largest value

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}
_TENSORRT = {
    "float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int8": "INT8", "uint8": "UINT8", "int32": "INT32",
    "int64": "INT64", "bool": "BOOL",
}  # fmt: skip
_CODES = {"float32": "f", "float16": "e", "int32": "i", "int64": "q"}  # of struct
_BLOCKS: Dict[str, bytes] = {}


def element_type(trt: Any, data_type: Any) -> Optional[str]:
    """The name of a data type of TensorRT; None: inputs of it cannot be filled."""
    for name, member in _TENSORRT.items():
        if data_type == getattr(trt.DataType, member, None):
            return name
    return None


def seeded(element: str, size: int) -> bytes:
    """Values to run on, as `Backend` says: float with standard deviation 1; in 8 bits, three of them are 127.

    Args:
        size: bytes.
    """
    if element not in _BLOCKS:
        draw = random.Random(INPUT_SEED)
        _BLOCKS[element] = _encode(element, [draw.gauss(0.0, 1.0) for _ in range(INPUT_BLOCK)])
    block = _BLOCKS[element]
    return (block * (size // len(block) + 1))[:size]


def _encode(element: str, values: Any) -> bytes:
    if element in ("float32", "float16", "bfloat16"):
        return to_port(array.array("f", values).tobytes(), element, "float32")
    if element == "bool":
        return b"\1" * len(values)
    if element in elements.INDICES:
        return struct.pack("<{}{}".format(len(values), _CODES[element]), *(value > 0 for value in values))
    whole = [max(-127, min(127, round(value * INT8_SIGMA))) for value in values]
    if element == "int8":
        return array.array("b", whole).tobytes()
    return bytes(value + 128 for value in whole)


def exchanged(element: str, sent: Optional[str]) -> str:
    """The type in which values of an input or output are exchanged; `sent`: its type in the model, where known."""
    if element in ("float32", "float16", "bfloat16"):
        return "float32"
    return sent if sent in _CODES else element


def exchanged_bytes(size: int, element: str, kind: str) -> int:
    """Of `size` bytes of an element type, as they are exchanged."""
    return size // BYTES[element] * BYTES[kind]


def to_port(content: bytes, element: str, kind: str) -> bytes:
    """What TensorRT reads, from what was exchanged."""
    if element == "bfloat16":
        words = struct.unpack("<{}I".format(len(content) // 4), content)
        return struct.pack("<{}H".format(len(words)), *(_rounded(word) for word in words))
    return _converted(content, kind, element)


def from_port(content: bytes, element: str, kind: str) -> bytes:
    """What is exchanged, from what TensorRT wrote."""
    if element == "bfloat16":
        words = struct.unpack("<{}H".format(len(content) // 2), content)
        return struct.pack("<{}I".format(len(words)), *(word << 16 for word in words))
    return _converted(content, element, kind)


def _converted(content: bytes, old: str, new: str) -> bytes:
    if old == new:
        return content
    count = len(content) // BYTES[old]
    values = struct.unpack("<{}{}".format(count, _CODES[old]), content)
    return struct.pack("<{}{}".format(count, _CODES[new]), *values)


def _rounded(word: int) -> int:
    """The upper half of a float32's bits, rounded to nearest, ties to even; not a number stays so."""
    if word & 0x7FFFFFFF > 0x7F800000:
        return word >> 16 | 0x40
    return (word + 0x7FFF + (word >> 16 & 1)) >> 16
