"""Ranges of activations from images: what an int8 network for use needs."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from lightnas_edge import graph
from lightnas_edge.data import DataSet, load_images
from lightnas_edge.errors import CalibrationError
from lightnas_edge.graph import Arithmetic, Dialect, Range
from lightnas_edge.graph.arithmetic import quantise_weight, weight_scales
from lightnas_edge.records.quantisation import CalibrationMethod, CalibrationRecord
from lightnas_edge.space import Architecture, Space

Pixels = NDArray[np.float32]
DEFAULT_METHOD: CalibrationMethod = "percentile"
DEFAULT_IMAGES = 512
FEW_IMAGES = 100
_CHUNK = 32  # images whose activations are in memory at a time


class Method(NamedTuple):
    """A method of onnxruntime.quantization.calibrate, and its settings."""

    name: str
    settings: dict[str, Any]


METHODS: Mapping[CalibrationMethod, Method] = MappingProxyType(
    {
        "minmax": Method("MinMax", {}),
        # With the library's own 128 bins the largest value is the only candidate for the threshold: nothing is clipped.
        "entropy": Method("Entropy", {"num_bins": 2048, "num_quantized_bins": 128}),
        "percentile": Method("Percentile", {"num_bins": 2048, "percentile": 99.999}),
    }
)


@dataclass(frozen=True)
class CalibrationImages:
    """(N, 3, S, S) float32 pixels as the network takes them, normalised, with the SHA-256 of each image."""

    pixels: Pixels
    sha256: tuple[str, ...]
    source: str  # for people
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_training(cls, data: DataSet, count: int = DEFAULT_IMAGES) -> CalibrationImages:
        """Training images, evenly spaced, without augmentation.

        Raises:
            CalibrationError: none, or all alike.
            DataError: an image cannot be read.
        """
        if count < 1:
            raise CalibrationError("calibration needs images", hint=f"give at least {FEW_IMAGES}: --calibrate N")
        pixels = data.training_arrays(count)
        return cls._of(pixels, f"{len(pixels)} training images of {data.source}", ())

    @classmethod
    def from_folder(cls, folder: str | Path, size: int, limit: int | None = None) -> CalibrationImages:
        """The images below a folder, cut and resized as validation images are. No labels are needed.

        Args:
            size: of the network's input.
            limit: evenly spaced images are taken beyond it.

        Raises:
            CalibrationError: none, or all alike.
            DataError: no such folder, or an image that cannot be read.
        """
        pixels, enlarged = load_images(folder, size, limit)
        if not len(pixels):
            raise CalibrationError(
                f"{folder} holds no images to calibrate on",
                hint="name a folder with images as the network will see them",
            )
        warnings: tuple[str, ...] = ()
        if enlarged:
            warnings = (
                f"{enlarged} of {len(pixels)} calibration images are smaller than the {size} pixels that the network reads, and "
                "were enlarged: ranges of such images may be too narrow",
            )
        return cls._of(pixels, f"{len(pixels)} images of {folder}", warnings)

    @classmethod
    def _of(cls, pixels: Pixels, source: str, warnings: tuple[str, ...]) -> CalibrationImages:
        sha256 = tuple(hashlib.sha256(np.ascontiguousarray(image, "<f4").tobytes()).hexdigest() for image in pixels)
        if len(set(sha256)) == 1 and len(pixels) > 1:
            raise CalibrationError(
                f"the {len(pixels)} calibration images ({source}) are all alike",
                hint="calibrate on images as the network will see them",
            )
        if len(pixels) < FEW_IMAGES:
            warnings = (*warnings, f"{len(pixels)} calibration images are few: ranges settle with {FEW_IMAGES} or more")
        return cls(pixels, sha256, source, warnings)


def calibrate(floats: onnx.ModelProto, pixels: Pixels, method: CalibrationMethod = DEFAULT_METHOD) -> dict[str, Range]:
    """The range of every activation of a float32 graph, by the names of the writer's tensors.

    Args:
        floats: as `graph.network_model` writes it, of any batch size.
        pixels: (N, 3, S, S).

    Raises:
        CalibrationError: a range without an end, or an activation that is zero for every image; all of them in one message.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import CalibrationMethod as Methods

    chosen = METHODS[method]
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-calibration-") as folder:
        path = Path(folder) / "floats.onnx"
        onnx.save(_for_any_batch(floats), path)
        _refuse_not_finite(floats, pixels)
        with redirect_stdout(io.StringIO()):  # it reports every step there
            calibrator = quantization.create_calibrator(
                path,
                augmented_model_path=str(Path(folder) / "observed.onnx"),
                calibrate_method=getattr(Methods, chosen.name),
                extra_options={**chosen.settings, "symmetric": False},
            )
            for start in range(0, len(pixels), _CHUNK):  # the calibrator keeps all activations of what it is given
                calibrator.collect_data(_OneRun({"input": pixels[start : start + _CHUNK]}))
            found = calibrator.compute_data()
    ranges = {name: _ends(each) for name, each in found.items()}
    ranges[f"{floats.graph.node[-1].name}.out"] = ranges["output"]  # under its own name in a graph that continues
    faults = [
        f"{name} of layer {_layer_of(name)}: {low:g} to {high:g}"
        for name, (low, high) in ranges.items()
        if name != "output" and (not np.isfinite((low, high)).all() or low == high == 0)
    ]
    if faults:
        raise CalibrationError(
            "ranges of activations that cannot be quantised:\n" + "\n".join(f"  {fault}" for fault in faults),
            hint="a layer whose output is always zero, or without an end, was not trained well: train the network again",
        )
    return ranges


def calibrate_network(
    space: Space,
    architecture: Architecture,
    weights: Mapping[str, NDArray[np.float32]],
    arithmetic: Arithmetic,
    images: CalibrationImages,
    weights_sha256: str,
    method: CalibrationMethod = DEFAULT_METHOD,
) -> CalibrationRecord:
    """The ranges of a network with these weights.

    Args:
        weights: by the names of `graph.weight_shapes`, batch norm folded in.
        arithmetic: int8, in the dialect of the runtime.
        weights_sha256: of the file that the weights come from.

    Raises:
        CalibrationError: as `calibrate`, or images of another size.
    """
    assert arithmetic.dialect is not None
    size = space.input_size
    if images.pixels.shape[1:] != (3, size, size):
        raise CalibrationError(f"calibration images are {images.pixels.shape[1:]}, the network reads {(3, size, size)}")
    ranges = calibrate(graph.network_model(space, architecture, weights=weights), images.pixels, method)
    return CalibrationRecord(
        method=method,
        dialect=arithmetic.dialect,
        source=images.source,
        images=len(images.pixels),
        images_sha256=images.sha256,
        weights_sha256=weights_sha256,
        runtime=f"onnxruntime {onnxruntime.__version__}",
        ranges=ranges,
    )


def quantised_network_model(
    space: Space,
    architecture: Architecture,
    weights: Mapping[str, NDArray[np.float32]],
    arithmetic: Arithmetic,
    ranges: Mapping[str, Range],
    *,
    batch: int = 1,
    opset: int = graph.DEFAULT_OPSET,
) -> onnx.ModelProto:
    """`graph.network_model` in int8.

    Raises:
        CalibrationError: a layer whose weights are zero in int8: it would compute nothing.
        ExportError: weights or ranges do not fit the architecture.
    """
    model = graph.network_model(
        space, architecture, batch=batch, opset=opset, weights=weights, arithmetic=arithmetic, ranges=ranges
    )
    dialect = arithmetic.dialect
    assert dialect is not None
    stored = {each.name: each for each in model.graph.initializer}
    zero = [
        _layer_of(name)
        for name in graph.weight_shapes(space, architecture)
        if name.endswith(".weight") and f"{name}.scale" in stored and not _in_int8(stored[name], dialect).any()
    ]
    if zero:
        raise CalibrationError(
            f"the weights of {', '.join(zero)} are zero in int8",
            hint="train the network again; a layer without weights computes nothing in any precision",
        )
    return model


class _OneRun:
    """Calibration data of a single run."""

    def __init__(self, values: dict[str, Pixels]) -> None:
        self._left = [values]

    def get_next(self) -> dict[str, Pixels] | None:
        return self._left.pop() if self._left else None


def _for_any_batch(floats: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(floats)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _refuse_not_finite(floats: onnx.ModelProto, pixels: Pixels) -> None:
    """The calibrator passes over values that are not a number, and histograms of endless ones fail without a name."""
    model = _for_any_batch(floats)
    names = [node.output[0] for node in model.graph.node]
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for start in range(0, len(pixels), _CHUNK):
        for name, value in zip(names, session.run(names, {"input": pixels[start : start + _CHUNK]}), strict=True):
            if not np.isfinite(value).all():
                raise CalibrationError(
                    f"the activation {name} of layer {_layer_of(name)} is not finite for a calibration image: "
                    f"{float(np.nanmin(value)):g} to {float(np.nanmax(value)):g}",
                    hint="the float32 network overflows: train it again with a smaller learning rate",
                )


def _ends(found: Any) -> Range:
    low, high = (float(np.ravel(end)[0]) for end in found.range_value)
    return low, high


def _in_int8(weight: onnx.TensorProto, dialect: Dialect) -> NDArray[np.int8]:
    values = onnx.numpy_helper.to_array(weight)
    return values if values.dtype == np.int8 else quantise_weight(values, weight_scales(values, dialect), dialect)


def _layer_of(tensor: str) -> str:
    """`layers.3.expand` of `layers.3.expand.relu6.out` or `layers.3.expand.weight`."""
    parts = [part for part in tensor.split(".") if part not in ("out", "relu6", "relu", "weight", "bias")]
    return ".".join(parts)
