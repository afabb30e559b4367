"""The paper's predictor: one-hot -> 128 -> 64 -> 1 with ReLU, for comparison and where additivity fails."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.applicability import ApplicabilityDomain
from lightnas_edge.predictor.base import Array, Origin, Predictor
from lightnas_edge.predictor.calibration import LEAST_DEGREES, Calibration, calibrate
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.space import Space

if TYPE_CHECKING:
    import torch

HIDDEN = (128, 64)  # LightNAS utils.py: 147-128-64-1
LEAST_NETWORKS = 50  # with fewer, a thousand weights have nothing to learn from
Weights = Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]


class MlpPredictor(Predictor):
    """value = mean + scale * MLP(one-hot), in the metric's unit.

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
        mean: float,
        scale: float,
        residual: float,
        *,
        support: ApplicabilityDomain | None = None,
    ) -> None:
        super().__init__(space, origin)
        self.applicability = support
        self.layers = list(layers)
        self.mean = mean
        self.scale = scale
        self.residual = residual

    def predict(self, one_hot: NDArray[Any]) -> Array:
        values = self._flat(one_hot).astype(np.float32)
        for position, (weight, bias) in enumerate(self.layers):
            values = values @ weight.T + bias
            if position + 1 < len(self.layers):
                np.maximum(values, 0, out=values)
        return self.mean + self.scale * values[:, 0].astype(np.float64)

    def deviation(self, one_hot: NDArray[Any]) -> Array:
        return np.full(len(one_hot), self.residual)

    def calibrate(self, residual: Array) -> None:
        """Take the deviation, and how heavy its tails are, from residuals of networks that were held out: (n,)."""
        spread = float(np.sqrt(np.mean(residual**2)))
        found = calibrate(residual / spread) if spread > 0 else Calibration(1.0, LEAST_DEGREES)
        self.residual = found.scale * spread
        told = {"scale": float(f"{found.scale:.4g}"), "degrees": found.degrees}
        self.origin = replace(self.origin, fit={**self.fit, "calibration": told})

    def torch_module(self) -> torch.nn.Module:
        from lightnas_edge.predictor._torch import mlp_module

        return mlp_module(self.layers, self.mean, self.scale)

    def linear_terms(self) -> None:
        return None

    def parameters(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "scale": self.scale,
            "residual": self.residual,
            "support": self.applicability and self.applicability.to_json(),
            "layers": [{"weight": _encode(weight), "bias": _encode(bias)} for weight, bias in self.layers],
        }


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
        lut: files are brought to its day, as for the additive predictor.
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
            hint=f"lightnas-edge sample --count {LEAST_NETWORKS}, or the additive predictor, which needs none",
        )
    order = np.random.default_rng(seed).permutation(len(observations))
    held = max(4, round(held_out_share * len(observations)))
    inputs = observations.one_hot.reshape(len(observations), -1).astype(np.float32)
    mean, scale = float(observations.value.mean()), float(observations.value.std()) or 1.0
    targets = ((observations.value - mean) / scale).astype(np.float32)
    layers, ran = train_mlp(
        inputs[order[held:]], targets[order[held:]], (inputs[order[:held]], targets[order[:held]]), hidden,
        seed=seed, epochs=epochs, patience=patience,
    )  # fmt: skip
    fit = {
        "method": f"MLP {inputs.shape[1]}-{'-'.join(map(str, hidden))}-1, Adam, early stopping",
        "networks": len(observations), "seed": seed, "epochs": ran, "alignment": list(observations.notes),
        "held_out": None,
    }  # fmt: skip
    origin = Origin(observations.fingerprint, observations.simulated, observations.batch, observations.metric, fit)
    predictor = MlpPredictor(space, origin, layers, mean, scale, 0.0)
    kept = observations.take(order[:held])
    predictor.calibrate(kept.value - predictor.predict(kept.one_hot))
    one_hot = observations.one_hot
    blocks = np.tensordot(one_hot, predictor.is_block, axes=2)
    predictor.applicability = ApplicabilityDomain(
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
    try:
        with np.load(path, allow_pickle=False) as arrays:
            layers = [(arrays[f"w{n}"].astype(np.float32), arrays[f"b{n}"].astype(np.float32)) for n in (1, 2, 3)]
    except (OSError, ValueError, KeyError) as error:
        raise PredictorError(f"cannot read the published predictor {path}: {error}") from error
    inputs = len(space.layers) * len(space.operators)
    if [weight.shape for weight, _ in layers] != [(128, inputs), (64, 128), (1, 64)]:
        shapes = [weight.shape for weight, _ in layers]
        raise PredictorError(f"{path} does not fit space {space.name} with {inputs} inputs: its weights are {shapes}")
    fingerprint = {
        "board": "agx-xavier", "backend": "pytorch-eager", "precision": "fp32", "batch": 8, "power_mode": None,
        "simulated": False,
    }  # fmt: skip
    fit = {
        "method": "published weights, LightNAS commit 2f0e1d1", "networks": 10000,
        "held_out": {"rmse": 0.0289, "source": "the authors' statement"},
    }  # fmt: skip
    # Their held-out error also stands for the noise: they give no other.
    return MlpPredictor(space, Origin(fingerprint, False, 8, fit=fit), layers, 0.0, 1.0, 0.0289)


def _encode(values: NDArray[np.float32]) -> dict[str, Any]:
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    return {"shape": list(values.shape), "float32_base64": base64.b64encode(content).decode("ascii")}


def decode(record: Any) -> NDArray[np.float32]:
    """Raises ValueError saying what is wrong."""
    if not isinstance(record, dict) or not isinstance(record.get("shape"), list):
        raise ValueError(f"expected shape and float32_base64, found {type(record).__name__}")
    shape = record["shape"]
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < 10**6 for side in shape):
        raise ValueError(f"shape: expected whole numbers, found {shape!r}")
    try:
        content = base64.b64decode(str(record.get("float32_base64", "")), validate=True)
    except ValueError as error:
        raise ValueError(f"float32_base64: {error}") from error
    expected = 4 * int(np.prod(shape))
    if len(content) != expected:
        raise ValueError(f"expected {expected} bytes for shape {shape}, found {len(content)}")
    values = np.frombuffer(content, dtype="<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("a number is not finite")
    return values
