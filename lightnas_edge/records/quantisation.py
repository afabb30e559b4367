"""calibration.json, and what a training and an export say about 8 bits."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lightnas_edge.records.base import Count, Name, Positive, Record, Sha256, Share, Text

CalibrationMethod = Literal["minmax", "entropy", "percentile"]
Dialect = Literal["tensorrt", "ort"]
ActivationRange = Annotated[tuple[float, float], Field()]


class CalibrationRecord(Record):
    """Ranges of activations by the names of their tensors, and the images that they were read from."""

    kind: Literal["calibration"] = "calibration"
    schema_: Literal[1] = Field(default=1, alias="schema")
    method: CalibrationMethod
    dialect: Dialect
    source: Text  # where the images come from, for people
    images: Positive
    images_sha256: tuple[Sha256, ...]  # of each image as the network takes it: float32, normalised
    weights_sha256: Sha256  # of the weights that the ranges belong to
    runtime: Name  # that computed the activations, with its version
    ranges: dict[Name, ActivationRange]
    observed_steps: Count = 0  # of a fine-tuning, whose training images gave the ranges; 0: the images above did

    @property
    def sha256(self) -> str:
        """Identity of what it says."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @model_validator(mode="after")
    def _one_hash_per_image(self) -> Self:
        if len(self.images_sha256) != self.images:
            raise ValueError(f"{len(self.images_sha256)} hashes of {self.images} images")
        if upside_down := [name for name, (low, high) in self.ranges.items() if low > high]:
            raise ValueError(f"expected [low, high] as the range of {upside_down[0]}")
        return self


class QuantisedTraining(Record):
    """Of a fine-tuning in which weights and activations were rounded to 8 bits. Accuracies: top-1, validation images."""

    dialect: Dialect
    float_weights_sha256: Sha256  # that it started from
    calibration: CalibrationRecord  # ranges at the start; `ranges` below hold at the end
    ranges: dict[Name, ActivationRange]
    observed_steps: Count  # of the training, that the ranges are means of; 0: as calibrated
    float_accuracy: Share  # of the float weights, without rounding
    calibrated_accuracy: Share  # of the float weights, rounded, before the fine-tuning
