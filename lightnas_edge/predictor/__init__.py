"""From an architecture to a latency with an interval: additive Bayesian, LUT alone, and the paper's MLP."""

from lightnas_edge.predictor.adaptive import assess, choose_batch, stopping_reason
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.base import Predictor, Range, reachable_range
from lightnas_edge.predictor.bounds import ConvexBound
from lightnas_edge.predictor.choose import next_networks
from lightnas_edge.predictor.compare import MethodComparison, compare, fit_best, learning_curve
from lightnas_edge.predictor.counted import CountedPredictor
from lightnas_edge.predictor.evaluate import evaluate
from lightnas_edge.predictor.files import load_predictor, reference_predictor
from lightnas_edge.predictor.fit import fit_additive, lut_predictor
from lightnas_edge.predictor.mlp import MlpPredictor, fit_mlp, read_published_predictor
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.predictor.residuals import decompose_residuals
from lightnas_edge.records.adaptive import FitProgress
from lightnas_edge.records.predictor import (
    COMPONENTS,
    CurvePoint,
    FitRecord,
    MethodScore,
    ResidualDecomposition,
    Scores,
)

__all__ = [
    "COMPONENTS",
    "AdditivePredictor",
    "ConvexBound",
    "CountedPredictor",
    "CurvePoint",
    "FitProgress",
    "FitRecord",
    "MethodComparison",
    "MethodScore",
    "MlpPredictor",
    "Observations",
    "Predictor",
    "Range",
    "ResidualDecomposition",
    "Scores",
    "assess",
    "choose_batch",
    "compare",
    "decompose_residuals",
    "evaluate",
    "fit_additive",
    "fit_best",
    "fit_mlp",
    "learning_curve",
    "load_observations",
    "load_predictor",
    "lut_predictor",
    "next_networks",
    "reachable_range",
    "read_published_predictor",
    "reference_predictor",
    "stopping_reason",
]
