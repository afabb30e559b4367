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
from lightnas_edge.graph.arithmetic import SMALLEST_SCALE, quantise_weight, weight_scales
from lightnas_edge.quantise._tools import import_tools
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.records.quantisation import CalibrationMethod, CalibrationRecord
from lightnas_edge.space import Architecture, Space

Pixels = NDArray[np.float32]
DEFAULT_METHOD: CalibrationMethod = "percentile"
DEFAULT_IMAGES = 512
FEW_IMAGES = 100
MOST_IMAGES = 4096  # 2.5 GB of pixels at 224 px; ranges settle with a few hundred
_CHUNK_PIXELS = (
    2**17
)  # of the images that are computed at a time: 128 of 32 px, 2 of 224 px; all their activations are in memory


class Method(NamedTuple):
    """A method of onnxruntime.quantization.calibrate, and its settings."""

    name: str
    settings: dict[str, Any]


METHODS: Mapping[CalibrationMethod, Method] = MappingProxyType(
    {
        "minmax": Method("MinMax", {}),
        # Bins and levels of TensorRT's entropy calibration. With the library's own 128 bins the largest value is the only
        # candidate for the threshold: nothing is clipped.
        "entropy": Method("Entropy", {"num_bins": 2048, "num_quantized_bins": 128}),
        "percentile": Method("Percentile", {"num_bins": 2048, "percentile": 99.999}),
    }
)


def share_cut(method: CalibrationMethod) -> float:
    """Share of an activation's values that its range leaves out at each end, where ranges are read again while weights change.
    The thresholds of `entropy` take seconds each: there the share is that of `percentile`.
    """
    return 0.0 if method == "minmax" else (100 - METHODS["percentile"].settings["percentile"]) / 200


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
            CalibrationError: none, all alike, or more than fit into memory.
            DataError: an image cannot be read.
        """
        if not 1 <= count <= MOST_IMAGES:
            raise CalibrationError(
                f"calibration on {count} images is not possible: expected 1 to {MOST_IMAGES}",
                hint=f"ranges settle with a few hundred images: the default is {DEFAULT_IMAGES}",
            )
        warnings: tuple[str, ...] = ()
        if count > len(data.train):
            warnings = (f"{count} calibration images were requested; the training has {len(data.train)}, all are used",)
        pixels = data.training_arrays(count)
        return cls._of(pixels, f"{len(pixels)} training images of {data.source}", warnings)

    @classmethod
    def from_folder(cls, folder: str | Path, size: int, limit: int | None = None) -> CalibrationImages:
        """The images below a folder, cut and resized as validation images are. No labels are needed.

        Args:
            size: of the network's input.
            limit: evenly spaced images are taken beyond it; MOST_IMAGES when None.

        Raises:
            CalibrationError: none, or all alike.
            DataError: no such folder, or an image that cannot be read.
        """
        pixels, enlarged = load_images(folder, size, MOST_IMAGES if limit is None else limit)
        if not len(pixels):
            raise CalibrationError(
                f"{folder} holds no images to calibrate on",
                hint="name a folder with images as the network meets them in use (.jpg, .png, ...), or a number of training images",
            )
        warnings: tuple[str, ...] = ()
        if enlarged:
            warnings = (
                f"{enlarged} of {len(pixels)} calibration images have a side below the {size} pixels of the network's input: "
                "they are enlarged, and ranges of enlarged images may be too narrow",
            )
        return cls._of(pixels, f"{len(pixels)} images of {clean_text(str(folder), 300)}", warnings)

    @classmethod
    def _of(cls, pixels: Pixels, source: str, warnings: tuple[str, ...]) -> CalibrationImages:
        sha256 = tuple(hashlib.sha256(np.ascontiguousarray(image, "<f4").tobytes()).hexdigest() for image in pixels)
        if len(set(sha256)) == 1 and len(pixels) > 1:
            raise CalibrationError(
                f"the {len(pixels)} calibration images ({source}) are all alike",
                hint="calibrate on images as the network meets them in use",
            )
        if len(pixels) < FEW_IMAGES:
            warnings = (
                *warnings,
                f"only {len(pixels)} calibration image{'s' * (len(pixels) > 1)}: ranges settle with {FEW_IMAGES} or more",
            )
        return cls(pixels, sha256, source, warnings)


def calibrate(floats: onnx.ModelProto, pixels: Pixels, method: CalibrationMethod = DEFAULT_METHOD) -> dict[str, Range]:
    """The range of every activation of a float32 graph, by the names of the writer's tensors, in the order of the graph.

    Ranges are not made symmetric: the dialect `tensorrt` takes the larger end of each.

    Args:
        floats: as `graph.network_model` writes it, of any batch size.
        pixels: (N, 3, S, S).

    Raises:
        CalibrationError: an activation that is not finite.
    """
    import_tools()
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import CalibrationMethod as Methods

    chosen = METHODS[method]
    model = _for_any_batch(floats)
    chunks = _chunks(pixels)
    _refuse_not_finite(model, chunks)
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-calibration-") as folder, redirect_stdout(io.StringIO()):
        path = Path(folder) / "floats.onnx"
        onnx.save(model, path)
        calibrator = quantization.create_calibrator(
            path,
            augmented_model_path=str(Path(folder) / "observed.onnx"),
            calibrate_method=getattr(Methods, chosen.name),
            extra_options={**chosen.settings, "symmetric": False},
        )
        for chunk in chunks:  # one at a time: the calibrator keeps all activations of what it is given
            calibrator.collect_data(_OneRun({"input": chunk}))
        found = calibrator.compute_data()
    names = ["input", *(node.output[0] for node in model.graph.node)]
    ranges = {name: _ends(found[name]) for name in names}
    ranges[f"{model.graph.node[-1].name}.out"] = ranges["output"]  # under its own name in a graph that continues
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
        CalibrationError: a layer whose weights or outputs are all zero in int8: it would compute nothing. All of them in one
            message.
        ExportError: weights or ranges do not fit the architecture.
    """
    model = graph.network_model(
        space, architecture, batch=batch, opset=opset, weights=weights, arithmetic=arithmetic, ranges=ranges
    )
    assert arithmetic.dialect is not None
    faults = _zeros(model, arithmetic.dialect)
    if faults:
        raise CalibrationError(
            f"{len(faults)} layer{'s' * (len(faults) > 1)} would be zero in int8\n"
            + "\n".join(f"  {each}" for each in faults),
            hint="a range of zero: give other images, or --calibration-method minmax; where the layer is zero in float32 too, "
            "train the network again",
        )
    return model


def _zeros(model: onnx.ModelProto, dialect: Dialect) -> list[str]:
    """Layers that compute nothing in an int8 graph, and why."""
    stored = {each.name: each for each in model.graph.initializer}
    faults = []
    for node in model.graph.node:
        weight = f"{node.name}.weight"
        if f"{weight}.scale" in stored and not _in_int8(stored[weight], dialect).any():
            faults.append(f"{node.name}: all weights are zero")
    for name, scale in stored.items():
        is_activation = name.endswith((".out.scale", "input.scale"))
        if is_activation and float(onnx.numpy_helper.to_array(scale)) <= SMALLEST_SCALE:
            faults.append(
                f"{_layer_of(name)}: its output {name.removesuffix('.scale')} is zero for every calibration image"
            )
    return faults


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


def _chunks(pixels: Pixels) -> list[Pixels]:
    """Parts of few images, each spread over all of them: histograms begin with the values of the first."""
    size = max(1, _CHUNK_PIXELS // (pixels.shape[-1] * pixels.shape[-2]))
    count = -(-len(pixels) // size)
    return [np.ascontiguousarray(pixels[start::count]) for start in range(count)]


def _refuse_not_finite(model: onnx.ModelProto, chunks: list[Pixels]) -> None:
    """The calibrators pass over values that are not a number, and fail without a name on infinite ones."""
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    names = [node.output[0] for node in model.graph.node]
    observed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name != "output"
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(observed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for chunk in chunks:
        for name, value in zip(names, session.run(names, {"input": chunk}), strict=True):
            if not np.isfinite(value).all():
                raise CalibrationError(
                    f"the range of activation {name} of layer {_layer_of(name)} is not finite: the float32 network computes "
                    f"{'NaN' if np.isnan(value).any() else 'infinity'} for a calibration image",
                    hint="it overflows: train it again, with a lower --lr",
                )


def _ends(found: Any) -> Range:
    low, high = (float(np.ravel(end)[0]) for end in found.range_value)
    return low, high


def _in_int8(weight: onnx.TensorProto, dialect: Dialect) -> NDArray[np.int8]:
    values = onnx.numpy_helper.to_array(weight)
    return values if values.dtype == np.int8 else quantise_weight(values, weight_scales(values, dialect), dialect)


def _layer_of(tensor: str) -> str:
    """`layers.3.expand` of `layers.3.expand.relu6.out` or `layers.3.expand.out.scale`."""
    parts = [part for part in tensor.split(".") if part not in ("out", "relu6", "relu", "scale")]
    return ".".join(parts)
