"""Fixed shapes for every input: from the file, from `--shape`, and 1 for a first axis of any size.

onnxruntime.tools.onnx_model_utils and onnx.tools.update_model_dims fix shapes too, but take equal names of axes for equal
sizes; exporters write '?' for all axes that they do not know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from lightnas_edge.errors import ModelError
from lightnas_edge.models import walk
from lightnas_edge.records.plain_text import clean_text

_PLACEHOLDERS = {"", "?", "-1", "none", "unknown"}
_LARGEST_ELEMENTS = 2**31
Axis = int | str | None  # a size, a name, or nothing known


def axes_of(value: onnx.ValueInfoProto) -> list[Axis] | None:
    """None where not even the number of axes is known. Sizes below 1 are what some exporters write for any size."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [_axis(dim) for dim in tensor.shape.dim]


def fixed_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """The shape where every axis has a size; 0 is one. None otherwise."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(
        dim.HasField("dim_value") and dim.dim_value >= 0 for dim in tensor.shape.dim
    ):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def sizes_of(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """None for an axis without a size."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
        for dim in value.type.tensor_type.shape.dim
    )


def name_open_axes(value: onnx.ValueInfoProto) -> None:
    """Axes of an output without a size get names that no other value has."""
    for place, dim in enumerate(value.type.tensor_type.shape.dim):
        if not (dim.HasField("dim_value") and dim.dim_value >= 0):
            dim.Clear()
            dim.dim_param = f"{value.name}_axis{place}"


def fix_inputs(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]], path: Path) -> list[str]:
    """Give every input a fixed shape; sentences about what was set.

    Raises:
        ModelError: `shapes` names no input or contradicts the file, or sizes are missing; all inputs in one message.
    """
    inputs = walk.inputs(graph)
    given = _by_name(inputs, shapes, path)
    found = {value.name: axes_of(value) for value in inputs}
    chosen: dict[str, list[Axis] | None] = {}
    changes, faults = [], []
    for name, axes in found.items():
        if name not in given:
            chosen[name] = None if axes is None else list(axes)
            continue
        wanted = given[name]
        fault = _contradiction(axes, wanted)
        if fault:
            faults.append(f"{clean_text(name, 100)} {fault}")
        chosen[name] = list(wanted)
        if axes != list(wanted):
            changes.append(f"the shape of {name} is set to {_text(wanted)}, from {_text(axes)}")
    if faults:
        raise ModelError(f"{path}: {'; '.join(faults)}", hint="give a shape that agrees with the sizes in the file")

    sizes = _sizes_by_name(found, given)
    for name, axes in chosen.items():
        if axes is None or name in given:
            continue
        named = [sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in axes]
        if named[:1] and not isinstance(named[0], int) and all(isinstance(axis, int) for axis in named[1:]):
            named[0] = 1
        chosen[name] = named
        if named != axes and all(isinstance(axis, int) for axis in named):
            changes.append(f"the shape of {name} is set to {_text(named)}, from {_text(axes)}")
    _refuse_unknown(chosen, inputs, path)
    for value in inputs:
        shape = [axis for axis in chosen[value.name] or [] if isinstance(axis, int)]
        if math.prod(shape) > _LARGEST_ELEMENTS:
            raise ModelError(
                f"{path}: {value.name} with {_text(shape)} has more than 2^31 values", hint="give a smaller --shape"
            )
        set_shape(value, shape)
    return changes


def set_shape(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    tensor = value.type.tensor_type
    tensor.ClearField("shape")
    tensor.shape.SetInParent()  # a scalar has a shape of no axes, which differs from no shape
    for size in shape:
        tensor.shape.dim.add().dim_value = size


def remove_symbols(graph: onnx.GraphProto) -> int:
    """Take sizes that are not fixed from all values but the inputs of the graph; how many values had some.

    They are inferred from the inputs again. NVIDIA's parser takes two '?' for one size, and refuses sizes that disagree.
    """
    count = 0
    for each in walk.graphs(graph):
        kept = [value for value in each.value_info if not _has_symbols(value)]
        if len(kept) != len(each.value_info):
            count += len(each.value_info) - len(kept)
            del each.value_info[:]
            each.value_info.extend(kept)
        for value in [*each.output, *(each.input if each is not graph else ())]:
            if _has_symbols(value) and value.type.HasField("tensor_type"):
                count += 1
                for dim in value.type.tensor_type.shape.dim:
                    if not (dim.HasField("dim_value") and dim.dim_value >= 0):
                        dim.Clear()
    return count


def _has_symbols(value: onnx.ValueInfoProto) -> bool:
    if not value.type.HasField("tensor_type"):
        return value.type.WhichOneof("value") is not None  # sequences and optionals are inferred as a whole
    return any(not (dim.HasField("dim_value") and dim.dim_value >= 0) for dim in value.type.tensor_type.shape.dim)


def _axis(dim: onnx.TensorShapeProto.Dimension) -> Axis:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value > 0 else None
    return None if dim.dim_param.strip().lower() in _PLACEHOLDERS else dim.dim_param


def _by_name(
    inputs: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, Sequence[int]], path: Path
) -> dict[str, tuple[int, ...]]:
    names = [value.name for value in inputs]
    unknown = [name for name in shapes if name and name not in names]
    listed = ", ".join(clean_text(name, 100) for name in names)
    if unknown:
        raise ModelError(
            f"{path} has no input {', '.join(map(repr, unknown))}; its inputs are {listed}",
            hint=f"for example --shape {_example(inputs[0].name, axes_of(inputs[0]))}",
        )
    if "" in shapes and len(names) != 1:
        raise ModelError(
            f"{path} has {len(names)} inputs, so --shape needs a name: {listed}",
            hint=f"for example --shape {_example(inputs[0].name, axes_of(inputs[0]))}",
        )
    bad = [name or names[0] for name, shape in shapes.items() if any(size < 1 for size in shape)]
    if bad:
        raise ModelError(f"{path}: the shape of {', '.join(bad)} has a size below 1", hint="give sizes of at least 1")
    return {name or names[0]: tuple(shape) for name, shape in shapes.items()}


def _contradiction(axes: list[Axis] | None, wanted: tuple[int, ...]) -> str:
    if axes is None:
        return ""
    if len(axes) != len(wanted):
        return f"has {len(axes)} axes, {_text(axes)}; --shape gives {len(wanted)}, {_text(wanted)}"
    if any(isinstance(axis, int) and axis != size for axis, size in zip(axes, wanted, strict=True)):
        return f"is {_text(axes)} in the file; --shape gives {_text(wanted)}"
    return ""


def _sizes_by_name(found: Mapping[str, list[Axis] | None], given: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes of named axes that `given` sets. A name with two sizes was used in unrelated places and says nothing."""
    sizes: dict[str, set[int]] = {}
    for name, shape in given.items():
        for axis, size in zip(found[name] or (), shape, strict=False):
            if isinstance(axis, str):
                sizes.setdefault(axis, set()).add(size)
    return {axis: next(iter(seen)) for axis, seen in sizes.items() if len(seen) == 1}


def _refuse_unknown(chosen: Mapping[str, list[Axis] | None], inputs: Sequence[onnx.ValueInfoProto], path: Path) -> None:
    unknown = {name: axes for name, axes in chosen.items() if axes is None or not all(isinstance(a, int) for a in axes)}
    if not unknown:
        return
    listed = "; ".join(f"{clean_text(name, 100)} {_text(axes)}" for name, axes in unknown.items())
    several = len(unknown) > 1
    raise ModelError(
        f"{path}: {len(unknown)} input{'s have' if several else ' has'} no fixed shape: {listed}",
        hint="give a size to every axis, for example "
        + " ".join(f"--shape {_example(name, axes)}" for name, axes in unknown.items()),
    )


def _example(name: str, axes: list[Axis] | None) -> str:
    """`images:1x3x640x640`: likely sizes for the unknown ones."""
    axes = [None] if axes is None else axes
    default = 640 if len(axes) == 4 else 128
    sizes = [
        axis
        if isinstance(axis, int)
        else 1
        if place == 0
        else 3
        if (place, len(axes)) == (1, 4) and axes[3] != 3
        else default
        for place, axis in enumerate(axes)
    ]
    shown = f"{name}:{'x'.join(map(str, sizes))}"
    return shown if shown.isascii() and not set(shown) & set(" '\"$`\\;&|<>()*?[]#~") else repr(clean_text(shown, 200))


def _text(axes: Sequence[Axis] | None) -> str:
    if axes is None:
        return "[of unknown rank]"
    return "[" + ", ".join("?" if axis is None else clean_text(str(axis), 50) for axis in axes) + "]"
