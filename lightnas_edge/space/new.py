"""A space file of one's own, from a few numbers: stages as in published mobile networks, with a comment for every choice."""

from __future__ import annotations

import json
from dataclasses import dataclass

from lightnas_edge.errors import SpaceError

_LEAST_SIDE = 7  # a stage does not halve maps of this side or less; 224-pixel networks end at 7
_SAME_SIDE = (3,)  # the fourth stage keeps the side of the third, as in MobileNetV2, FBNet and LightNAS
_OPERATORS = (
    "mbconv_k3_e3", "mbconv_k3_e6", "mbconv_k5_e3", "mbconv_k5_e6", "mbconv_k7_e3", "mbconv_k7_e6", "skip",
)  # fmt: skip
# Up to this input size: widths and depths of the stages, stem, head and its features. The first is `tiny`, the last is near `lightnas`.
_SHAPES: tuple[tuple[float, tuple[int, ...], tuple[int, ...], int, int, int], ...] = (
    (63, (24, 40, 80), (2, 3, 3), 16, 320, 128),
    (159, (24, 40, 80, 112, 160), (2, 3, 3, 3, 3), 16, 960, 512),
    (float("inf"), (24, 48, 72, 128, 160, 176, 384), (2, 3, 4, 3, 4, 4, 1), 16, 1984, 1280),
)


@dataclass(frozen=True)
class NewSpace:
    """What somebody asks for; None where the input size decides."""

    name: str
    input_size: int
    classes: int
    depths: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    operators: tuple[str, ...] | None = None


def as_toml(wanted: NewSpace) -> str:
    """The content of a space file.

    Raises:
        SpaceError: numbers of which no space can be made. Names and ranges are checked by whoever reads the file.
    """
    _, widths, depths, stem, head, features = next(shape for shape in _SHAPES if wanted.input_size <= shape[0])
    widths, depths = _stages(wanted, widths, depths)
    operators = ", ".join(json.dumps(each) for each in wanted.operators or _OPERATORS)
    side = -(-wanted.input_size // 2)
    layers = []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        stride = 1 if side <= _LEAST_SIDE or stage in _SAME_SIDE else 2
        side = -(-side // stride)
        layers.append(
            f"    # stage {stage + 1}: {depth} layer{'s' if depth > 1 else ''} of {width} channels on {side}x{side} maps"
        )
        layers += [
            f"    {{ channels = {width}, stride = {stride if first else 1} }},"
            for first in [True] + [False] * (depth - 1)
        ]
    lines = "\n".join(layers)
    return f"""\
# A search space: `lightnas-edge space show FILE` checks it and says what it costs to measure. Fields: docs/formats.md.
schema = 1
name = {json.dumps(wanted.name)}
input_size = {wanted.input_size}  # side of the square images, in pixels
classes = {wanted.classes}
dropout = 0.2  # before the last layer, in training

# The candidates of every searchable layer: kernel size and expansion; `skip` leaves a layer out. Each is measured at every shape, so
# one more operator costs as much measuring time as all the others on average. `_se` adds squeeze-and-excitation.
operators = [{operators}]

# The searchable layers. A stage is a run of layers of one width; its first layer may halve the maps (stride 2). More layers cost more
# measurements only where they have a new shape.
layers = [
{lines}
]

# Fixed in every network: a 3x3 convolution, a first block, and the head (1x1 convolution, pool, two linear layers).
[stem]
channels = {stem}
stride = 2

[first]
operator = "mbconv_k3_e1"
channels = {stem}

[head]
channels = {head}
features = {features}
"""


def _stages(
    wanted: NewSpace, widths: tuple[int, ...], depths: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Asked for, or the default ones; of two lists, the one that is given decides how many stages there are."""
    if wanted.widths is not None and wanted.depths is not None and len(wanted.widths) != len(wanted.depths):
        raise SpaceError(
            f"{len(wanted.widths)} widths and {len(wanted.depths)} depths: a stage has one of each",
            hint="give both lists the same length, or leave one out",
        )
    given = wanted.widths or wanted.depths
    count = len(given) if given else len(widths)
    if count > len(widths) and (wanted.widths is None or wanted.depths is None):
        raise SpaceError(
            f"{count} stages, and only {len(widths)} have a default at {wanted.input_size} pixels",
            hint="give --widths and --depths",
        )
    found = wanted.widths or widths[:count], wanted.depths or depths[:count]
    if any(each < 1 for each in (*found[0], *found[1])):
        raise SpaceError("every width and depth is at least 1", hint="for example --widths 24,40,80 --depths 2,3,3")
    return found
