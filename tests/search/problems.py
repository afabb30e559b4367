"""A problem small enough to search in a second: four layers of three operators, 16-pixel digits, an additive
predictor.
"""

import numpy as np

from lightnas_edge.data import DataSet
from lightnas_edge.data.images import ArrayImages
from lightnas_edge.predictor import AdditivePredictor
from lightnas_edge.predictor.base import Origin
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.search import Budget, Constraint, SearchConfig
from lightnas_edge.space import Space

SPACE = Space.from_json(
    {
        "schema": 1, "name": "small", "input_size": 16, "classes": 10, "dropout": 0.2,
        "stem": {"channels": 4, "stride": 2}, "first": {"operator": "mbconv_k3_e1", "channels": 4},
        "operators": ["mbconv_k3_e2", "mbconv_k5_e3", "skip"],
        "layers": [
            {"channels": 8, "stride": 2}, {"channels": 8, "stride": 1},
            {"channels": 12, "stride": 2}, {"channels": 12, "stride": 1},
        ],
        "head": {"channels": 24, "features": 16},
    }
)  # fmt: skip
COST_MS = {"mbconv_k3_e2": 2.0, "mbconv_k5_e3": 4.0, "skip": 0.0}  # in every layer; 1 ms for the rest
CONFIG = SearchConfig(method="shared", epochs=4, batch=16, architecture_batch=8, weight_lr=0.05, checkpoint_s=1e9)


def predictor():
    """1 ms, and 2, 4 or 0 ms for each layer: from 1 to 17 ms, uniform mean 9."""
    keys = Terms.of(SPACE).keys
    mean = np.array([1.0, *(COST_MS[key.split("@")[0]] for key in keys)])
    return AdditivePredictor(
        SPACE, Origin({"board": "imagined"}, simulated=True), mean, np.zeros((len(mean),) * 2), 0.0
    )


def budget(target_ms, name="budget"):
    return Budget(name, (Constraint(predictor(), target_ms),))


def images(count, seed=0, size=16):
    """Two classes that differ in their left half, and noise."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = generator.integers(0, 120, size=(count, size, size, 3)).astype(np.uint8)
    pixels[labels == 1, :, : size // 2] += 100
    return ArrayImages(pixels, labels.astype(np.int64), 1)


def data(train=64, validation=32):
    return DataSet(
        "imagined", "imagined", ("dark", "bright"), images(train), images(validation, 1), "given", "0" * 64, 0, 0
    )
