"""Element types of inputs and outputs: their sizes, seeded values to run on, and float32 from and to them."""

import array
import random
import struct
from typing import Any, Dict, Optional

INPUT_SEED = 0
INPUT_BLOCK = 65536  # random numbers, repeated: drawing millions in pure Python takes a Nano seconds
INT8_SIGMA = 127 / 3  # three standard deviations are the largest value

BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}
_TENSORRT = {
    "float32": "FLOAT", "float16": "HALF", "int8": "INT8", "uint8": "UINT8", "int32": "INT32", "int64": "INT64",
    "bool": "BOOL",
}  # fmt: skip
_BLOCKS: Dict[str, bytes] = {}


def element_type(trt: Any, data_type: Any) -> Optional[str]:
    """The name of a data type of TensorRT; None: inputs of it cannot be filled."""
    for name, member in _TENSORRT.items():
        if data_type == getattr(trt.DataType, member, None):
            return name
    return None


def seeded(element: str, size: int) -> bytes:
    """Normally distributed values: float with standard deviation 1; in 8 bits, three of them are 127.

    Wider integers and bool are 0 or 1: an index beyond its table would be an error.

    Args:
        size: bytes.
    """
    if element not in _BLOCKS:
        draw = random.Random(INPUT_SEED)
        _BLOCKS[element] = _encode(element, [draw.gauss(0.0, 1.0) for _ in range(INPUT_BLOCK)])
    block = _BLOCKS[element]
    return (block * (size // len(block) + 1))[:size]


def _encode(element: str, values: Any) -> bytes:
    if element == "float32":
        return array.array("f", values).tobytes()
    if element == "float16":
        return struct.pack("<{}e".format(len(values)), *values)
    if element in ("int32", "int64", "bool"):
        return b"".join(int(value > 0).to_bytes(BYTES[element], "little") for value in values)
    whole = [max(-127, min(127, round(value * INT8_SIGMA))) for value in values]
    if element == "int8":
        return array.array("b", whole).tobytes()
    return bytes(value + 128 for value in whole)


def exchanged_bytes(size: int, element: str) -> int:
    """Of a tensor of `size` bytes as host and board exchange it: floats as float32, others in their own type."""
    return 2 * size if element == "float16" else size


def from_float32(content: bytes, element: str) -> bytes:
    """The tensor that TensorRT takes, from what was sent."""
    if element != "float16":
        return content
    count = len(content) // 4
    return struct.pack("<{}e".format(count), *struct.unpack("<{}f".format(count), content))


def to_float32(content: bytes, element: str) -> bytes:
    """What is sent, from the tensor that TensorRT made."""
    if element != "float16":
        return content
    count = len(content) // 2
    return struct.pack("<{}f".format(count), *struct.unpack("<{}e".format(count), content))
