"""The paper's predictor: one-hot -> 128 -> 64 -> 1 with ReLU, for comparison and for costs that do not add up."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.measuring.commands import sample_command
from lightnas_edge.predictor.applicability import UNKNOWN, ApplicabilityDomain
from lightnas_edge.predictor.base import Array, Origin, Predictor
from lightnas_edge.predictor.calibration import calibrate, uncalibrated
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.records.base import read_bounded
from lightnas_edge.records.predictor import (
    FitRecord,
    Float32Array,
    MlpLayer,
    MlpParameters,
    Publication,
)
from lightnas_edge.space import Space

if TYPE_CHECKING:
    import torch

HIDDEN = (128, 64)  # LightNAS utils.py: 147-128-64-1
LEAST_NETWORKS = 50  # with fewer networks, thousands of weights overfit
_FITTED = 1.0  # number that the held-out networks decide: the deviation
LARGEST_OUTPUT = 1e30  # of a layer; float32 ends at 3.4e38
Weights = Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]


class MlpPredictor(Predictor):
    """value = value_mean + value_std * MLP(one-hot), in the metric's unit.

    Args:
        layers: [(weight (out, in), bias (out,))] in float32, the first with L*K inputs, the last with one output.
        residual: standard deviation of measurements around predictions, on networks that were held out.
    """

    type = "mlp"

    def __init__(
        self,
        space: Space,
        origin: Origin,
        layers: Weights,
        value_mean: float,
        value_std: float,
        residual: float,
        *,
        applicability: ApplicabilityDomain = UNKNOWN,
    ) -> None:
        super().__init__(space, origin)
        self.applicability = applicability
        self.layers = list(layers)
        self.value_mean = value_mean
        self.value_std = value_std
        self.residual = residual

    def predict(self, one_hot: NDArray[Any]) -> Array:
        values = self._flat(one_hot).astype(np.float32)
        for position, (weight, bias) in enumerate(self.layers):
            values = values @ weight.T + bias
            if position + 1 < len(self.layers):
                np.maximum(values, 0, out=values)
        return self.value_mean + self.value_std * values[:, 0].astype(np.float64)

    def deviation(self, one_hot: NDArray[Any]) -> Array:
        return np.full(len(one_hot), self.residual)

    def calibrate(self, residual: Array, networks: int) -> None:
        """Set the deviation and its tails from (n,) residuals of held-out networks, of a fit to `networks`."""
        spread = float(np.sqrt(np.mean(residual**2)))
        found = calibrate(residual / spread, _FITTED) if spread > 0 else uncalibrated(0)
        self.residual = found.std_factor * spread
        calibration = found.model_copy(update={"std_factor": float(f"{found.std_factor:.4g}")})
        self.origin = replace(self.origin, fit=self.fit.changed(networks=networks, calibration=calibration))

    def torch_module(self) -> torch.nn.Module:
        from lightnas_edge.predictor._torch import mlp_module

        return mlp_module(self.layers, self.value_mean, self.value_std)

    def linear_terms(self) -> None:
        return None

    def parameters(self) -> MlpParameters:
        return MlpParameters(
            value_mean=self.value_mean,
            value_std=self.value_std,
            residual=self.residual,
            applicability_domain=self.applicability.to_record(),
            layers=tuple(MlpLayer(weight=_encode(weight), bias=_encode(bias)) for weight, bias in self.layers),
        )


def fit_mlp(
    space: Space,
    samples: Sequence[luts.Lut] | Observations,
    seed: int = 0,
    *,
    lut: luts.Lut | None = None,
    hidden: Sequence[int] = HIDDEN,
    epochs: int = 400,
    patience: int = 60,
    held_out_share: float = 0.15,
    metric: str = "latency_ms",
) -> MlpPredictor:
    """Adam with early stopping on a held-out part of the networks; the same seed gives the same weights.

    Args:
        lut: drift of the files is corrected relative to its session, as for the additive predictor.
        metric: what to read of the files; observations bring their own.

    Raises:
        PredictorError: too few networks, or networks of another space.
    """
    from lightnas_edge.predictor._torch import train_mlp

    observations = (
        samples if isinstance(samples, Observations) else load_observations(space, samples, lut, metric=metric)
    )
    if len(observations) < LEAST_NETWORKS:
        raise PredictorError(
            f"the MLP needs at least {LEAST_NETWORKS} measured networks, found {len(observations)}",
            hint=f"measure more: {sample_command(space, observations.fingerprint, '--count', str(LEAST_NETWORKS))}; or fit the "
            "additive predictor, which needs none",
        )
    order = np.random.default_rng(seed).permutation(len(observations))
    count = max(4, round(held_out_share * len(observations)))
    inputs = observations.one_hot.reshape(len(observations), -1).astype(np.float32)
    mean, std = float(observations.value.mean()), float(observations.value.std()) or 1.0
    targets = ((observations.value - mean) / std).astype(np.float32)
    layers, ran = train_mlp(
        inputs[order[count:]], targets[order[count:]], (inputs[order[:count]], targets[order[:count]]), hidden,
        seed=seed, epochs=epochs, patience=patience,
    )  # fmt: skip
    fit = FitRecord(
        method=f"MLP {inputs.shape[1]}-{'-'.join(map(str, hidden))}-1, Adam, early stopping",
        networks=0,  # until it is calibrated
        seed=seed,
        epochs=ran,
        alignment=observations.notes,
    )
    origin = Origin(observations.fingerprint, observations.simulated, observations.batch, observations.metric, fit)
    predictor = MlpPredictor(space, origin, layers, mean, std, 0.0)
    held_out = observations.take(order[:count])
    predictor.calibrate(held_out.value - predictor.predict(held_out.one_hot), len(observations))
    one_hot = observations.one_hot
    blocks = np.tensordot(one_hot, predictor.is_block, axes=2)
    predictor.applicability = ApplicabilityDomain(
        "measured",
        (float(observations.value.min()), float(observations.value.max())),
        (int(blocks.min()), int(blocks.max())),
        seen=np.asarray(one_hot.any(axis=0)),
    )
    return predictor


def read_published_predictor(path: Path, space: Space) -> MlpPredictor:
    """The LightNAS authors' predictor (AGX Xavier, batch 8), from its arrays w1, b1, w2, b2, w3, b3 in an npz file.

    Raises:
        PredictorError: the file cannot be read, or its arrays do not fit the space.
    """
    content = read_bounded(path, error=PredictorError)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays, np.errstate(over="ignore"):
            layers = [(arrays[f"w{n}"].astype(np.float32), arrays[f"b{n}"].astype(np.float32)) for n in (1, 2, 3)]
    except Exception as error:  # zipfile, zlib, lzma and numpy raise a dozen unrelated types on damaged content
        raise PredictorError(
            f"cannot read the published predictor {path}: {error}",
            hint="it is an npz file with the arrays w1, b1, w2, b2, w3 and b3",
        ) from error
    inputs = len(space.layers) * len(space.operators)
    expected = [((128, inputs), (128,)), ((64, 128), (64,)), ((1, 64), (1,))]
    if [(weight.shape, bias.shape) for weight, bias in layers] != expected:
        shapes = [weight.shape for weight, _ in layers]
        raise PredictorError(f"{path} does not fit space {space.name} with {inputs} inputs: its weights are {shapes}")
    largest = np.ones(inputs)
    for weight, bias in layers:
        largest = largest_outputs(largest, weight, bias)
    if not largest.max() <= LARGEST_OUTPUT:
        raise PredictorError(f"{path} holds weights that are not finite, or so large that predictions overflow")
    fingerprint = {
        "board": "agx-xavier", "backend": "pytorch-eager", "precision": "fp32", "batch": 8, "power_mode": None,
        "simulated": False,
    }  # fmt: skip
    networks = 10_000
    fit = FitRecord(
        method="published weights, LightNAS commit 2f0e1d1",
        networks=networks,
        # The authors state no distribution of their errors; with this many networks, Student's t is the normal one.
        calibration=uncalibrated(networks),
        publication=Publication(source="github.com/stepbuystep/LightNAS, commit 2f0e1d1", stated_rmse=0.0289),
    )
    # Their held-out error is also used as the noise: they state no other.
    return MlpPredictor(space, Origin(fingerprint, batch=8, fit=fit), layers, 0.0, 1.0, 0.0289)


def largest_outputs(inputs: Array, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Array:
    """(in,) bounds of the absolute inputs of a layer -> (out,) bounds of its outputs."""
    with np.errstate(over="ignore", invalid="ignore"):
        bounds: Array = np.abs(weight.astype(np.float64)) @ inputs + np.abs(bias.astype(np.float64))
    return bounds


def _encode(values: NDArray[np.float32]) -> Float32Array:
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    return Float32Array(shape=values.shape, float32_base64=base64.b64encode(content).decode("ascii"))


def decode(record: Float32Array) -> NDArray[np.float32]:
    """Raises ValueError saying what is wrong."""
    try:
        content = base64.b64decode(record.float32_base64, validate=True)
    except ValueError as error:
        raise ValueError(f"float32_base64: {error}") from error
    expected = 4 * math.prod(record.shape)
    if len(content) != expected:
        raise ValueError(f"expected {expected} bytes for shape {list(record.shape)}, found {len(content)}")
    values = np.frombuffer(content, dtype="<f4").reshape(record.shape).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("a number is not finite")
    return values
