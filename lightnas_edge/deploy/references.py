"""What the outputs of a model file are compared with: a file of expected outputs, another model, or ONNX Runtime here."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.data import load_validation_images
from lightnas_edge.deploy.compare import compare_outputs
from lightnas_edge.errors import ModelError, VerifyError
from lightnas_edge.models import Model, random_inputs, read_model, reference_outputs
from lightnas_edge.records.deployment import Agreement

RUNS = 16  # of random inputs
_SEED = 0
_LARGEST_NPZ_BYTES = 2**31
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Reference:
    """Inputs of several runs and the outputs that are expected of them.

    Each array has the runs as its first axis, in front of the model's own shape.
    """

    inputs: Arrays
    outputs: Arrays
    name: str  # of what made the outputs, for people
    runs: int
    labels: NDArray[np.int64] | None = None  # (images,), where the inputs are labelled images


def from_this_machine(model: Model, runs: int = RUNS) -> Reference:
    """The same model in ONNX Runtime on this machine, on seeded random inputs."""
    inputs = random_inputs(model, runs, _SEED)
    return Reference(inputs, reference_outputs(model, inputs), "ONNX Runtime on this machine", runs)


def from_model(model: Model, path: Path, shapes: Mapping[str, Sequence[int]], runs: int = RUNS) -> Reference:
    """Another model with the same inputs and outputs, usually in float32, on seeded random inputs.

    Raises:
        ModelError: it cannot be read.
        VerifyError: it has other inputs or outputs.
    """
    other = read_model(path, shapes=shapes)
    for side in ("inputs", "outputs"):
        ours, theirs = ({value.name for value in getattr(each.facts, side)} for each in (model, other))
        if ours != theirs:
            raise VerifyError(
                f"{model.path} has the {side} {_listed(ours)}, {path} has {_listed(theirs)}",
                hint="compare with a model of the same network; --reference FILE.npz takes outputs from anywhere",
            )
    inputs = random_inputs(model, runs, _SEED)
    return Reference(inputs, reference_outputs(other, inputs), f"{path.name} in ONNX Runtime on this machine", runs)


def from_npz(model: Model, path: Path) -> Reference:
    """Inputs and expected outputs by the model's names, in NumPy's .npz; an array may have a further first axis: the runs.

    Raises:
        VerifyError: the file cannot be read, or its arrays do not fit the model; all faults together.
    """
    arrays = _read_npz(path)
    wanted = [*model.facts.inputs, *model.facts.outputs]
    missing = [value.name for value in wanted if value.name not in arrays]
    outputs_missing = [value.name for value in model.facts.outputs if value.name in missing]
    if any(value.name in missing for value in model.facts.inputs) or len(outputs_missing) == len(model.facts.outputs):
        raise VerifyError(
            f"{path} has no array {_listed(missing)}; it has {_listed(arrays) or 'none'}",
            hint="save one array for every input and output, by its name in the model: np.savez(FILE, **arrays)",
        )
    found: Arrays = {}
    runs: set[int] = set()
    faults = []
    for value in wanted:
        if value.name not in arrays:
            continue
        array, shape = arrays[value.name], tuple(value.shape)
        if None in shape:
            faults.append(f"{value.name} has a size that depends on the content, so it cannot be compared")
            continue
        if array.shape == shape:
            array = array[None]
        if array.shape[1:] != shape:
            faults.append(
                f"{value.name} is {list(array.shape)}, expected {list(shape)} or [runs, {', '.join(map(str, shape))}]"
            )
            continue
        if not len(array) or (not np.issubdtype(array.dtype, np.number) and array.dtype != bool):
            faults.append(
                f"{value.name} holds {len(array)} runs of {array.dtype}, expected numbers of at least one run"
            )
            continue
        found[value.name] = array
        runs.add(len(array))
    if faults or len(runs) != 1:
        faults = faults or [f"arrays of different numbers of runs: {', '.join(map(str, sorted(runs)))}"]
        raise VerifyError(f"{path}: {'; '.join(faults)}", hint="save arrays of the model's own shapes")
    inputs = {value.name: found[value.name] for value in model.facts.inputs}
    outputs = {value.name: found[value.name] for value in model.facts.outputs if value.name in found}
    return Reference(inputs, outputs, path.name, runs.pop())


def from_images(model: Model, folder: str, images: int) -> Reference:
    """Labelled images, and the outputs of ONNX Runtime on this machine for them. Pixels are normalised as for ImageNet.

    Raises:
        DataError: the folder cannot be used.
        VerifyError: the model is no classifier of such images.
    """
    if len(model.facts.inputs) != 1 or len(model.facts.inputs[0].shape) != 4:
        raise VerifyError(
            f"{model.path} does not take one batch of images, so --data cannot score it",
            hint="--reference FILE.npz compares outputs of any model",
        )
    (value,) = model.facts.inputs
    batch, channels, height, width = (side or 0 for side in value.shape)
    outputs = model.facts.outputs[0].shape
    if channels != 3 or height != width or len(outputs) != 2:
        raise VerifyError(
            f"--data scores classifiers of square colour images, (N, 3, S, S) to (N, classes); {model.path} maps "
            f"{list(value.shape)} to {list(outputs)}",
            hint="--reference FILE.npz compares outputs of any model",
        )
    pixels, labels, classes = load_validation_images(folder, height, images)
    if len(classes) != outputs[1]:
        raise VerifyError(
            f"{folder} has {len(classes)} classes, {model.path} has {outputs[1]} outputs: which is which is not known",
            hint="use a folder with one folder of images for every class of the model, in the model's order",
        )
    runs = len(pixels) // batch
    if not runs:
        raise VerifyError(f"{folder} has fewer than {batch} images, one batch of the model", hint="add images")
    inputs = {value.name: pixels[: runs * batch].reshape(runs, batch, channels, height, width)}
    return Reference(
        inputs, reference_outputs(model, inputs), "ONNX Runtime on this machine", runs, labels[: runs * batch]
    )


def logits_of(reference: Reference) -> NDArray[Any]:
    """(images, classes): the first output of all runs, of a classifier."""
    outputs = next(iter(reference.outputs.values()))
    return outputs.reshape(-1, outputs.shape[-1])


def compare(reference: Reference, outputs: Mapping[str, NDArray[Any]]) -> Agreement:
    """The worst of all outputs; top-1 agreement where the first output is a table of logits.

    Args:
        outputs: name -> (runs, *shape) of the engine.

    Raises:
        ModelError: no output has a fixed shape.
    """
    if not reference.outputs:
        raise ModelError(
            "the size of the outputs depends on the content", hint="compare a model with outputs of fixed shape"
        )
    found = []
    for name, expected in reference.outputs.items():
        rows = len(expected) * (expected.shape[1] if expected.ndim == 3 else 1)
        found.append((expected.ndim == 3, compare_outputs(expected.reshape(rows, -1), outputs[name].reshape(rows, -1))))
    worst = min((agreement for _, agreement in found), key=lambda each: each.cosine)
    is_logits, first = found[0]
    return worst.model_copy(
        update={
            "images": reference.runs,
            "max_abs_difference": max(agreement.max_abs_difference for _, agreement in found),
            "relative_difference": max(agreement.relative_difference for _, agreement in found),
            "top1_agreement": first.top1_agreement if is_logits and first.images else None,
        }
    )


def _read_npz(path: Path) -> Arrays:
    """Raises VerifyError. Nothing is unpickled, and the size is checked before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _LARGEST_NPZ_BYTES:
            raise VerifyError(f"{path} holds {size / 2**30:.1f} GiB of arrays, more than 2", hint="save fewer runs")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except VerifyError:
        raise
    except Exception as error:  # zipfile, zlib, lzma and numpy raise a dozen unrelated types on damaged content
        raise VerifyError(
            f"cannot read {path} as NumPy's .npz: {error}", hint="write it by np.savez(FILE, **arrays)"
        ) from error


def _listed(names: Any, most: int = 8) -> str:
    shown = sorted(map(str, names))
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
