"""bundle.json: what a program on the board needs to feed an exported network and to check that it computes the same there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lightnas_edge.records.base import Name, Positive, PositiveFloat, Record, Sha256, Text
from lightnas_edge.records.deployment import Quantisation
from lightnas_edge.records.quantisation import Dialect


class BundleTensor(Record):
    """The input or the output: float32, row-major."""

    name: Name
    shape: Annotated[tuple[Positive, ...], Field(min_length=2)]  # the first axis is the batch


class Resize(Record):
    """The centred square of this share of the shorter side, scaled to the size of the input."""

    share_of_shorter_side: Annotated[float, Field(gt=0, le=1)]
    filter: Literal["bilinear"] = "bilinear"


class Preprocessing(Record):
    """From an image to the input: decode, resize, scale to 0..1, subtract the mean, divide by the standard deviation, channels first."""

    colours: Literal["RGB"] = "RGB"
    layout: Literal["NCHW"] = "NCHW"
    decoding: Text  # what is done to an image file before anything else
    resize: Resize | None  # null: images have the size of the input already
    mean: tuple[float, float, float]
    standard_deviation: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    tolerance_levels: (
        PositiveFloat  # mean absolute difference, of 255 levels, that another decoder and resampling may make
    )


class BundleImage(Record):
    """A validation image. Its values are in inputs.f32, in this order; the last are repeated until the batch is full."""

    file: Name
    label: Text


class BundleRecord(Record):
    """Facts of a deployment bundle. inputs.f32 and outputs.f32 are float32, little-endian, of whole batches."""

    kind: Literal["bundle"] = "bundle"
    schema_: Literal[1] = Field(default=1, alias="schema")
    model: Literal["model.onnx"] = "model.onnx"
    model_sha256: Sha256
    weights_sha256: Sha256
    precision: Literal["fp32", "fp16", "int8"]
    dialect: Dialect | None
    quantisation: Quantisation | None
    opset: Positive
    input: BundleTensor
    output: BundleTensor
    preprocessing: Preprocessing
    labels: Annotated[tuple[Text, ...], Field(min_length=2)]  # by the position in the output
    tolerance: PositiveFloat  # largest difference of two outputs, over the largest expected output
    expected_by: Text  # the runtime that computed outputs.f32
    build: dict[
        Text, Text
    ]  # version of TensorRT -> command that builds model.engine; empty where TensorRT reads another dialect
    images: Annotated[tuple[BundleImage, ...], Field(min_length=1)]
