"""From an architecture to a latency with an interval: additive Bayesian, LUT alone, and the paper's MLP."""

from lightnas_edge.predictor.adaptive import Standing, choose_batch, stand, why_stop
from lightnas_edge.predictor.additive import AdditivePredictor, fit_additive, lut_predictor
from lightnas_edge.predictor.base import Predictor, Range, reachable_range
from lightnas_edge.predictor.choose import next_networks
from lightnas_edge.predictor.compare import Comparison, CurvePoint, Row, compare, fit_best, learning_curve
from lightnas_edge.predictor.counted import CountedPredictor
from lightnas_edge.predictor.evaluate import Scores, evaluate
from lightnas_edge.predictor.files import load_predictor, reference_predictor
from lightnas_edge.predictor.ledger import CAUSES, Ledger, additivity_ledger
from lightnas_edge.predictor.mlp import MlpPredictor, fit_mlp, read_published_predictor
from lightnas_edge.predictor.observations import Observations, observe

__all__ = [
    "CAUSES",
    "AdditivePredictor",
    "Comparison",
    "CountedPredictor",
    "CurvePoint",
    "Ledger",
    "MlpPredictor",
    "Observations",
    "Predictor",
    "Range",
    "Row",
    "Scores",
    "Standing",
    "additivity_ledger",
    "choose_batch",
    "compare",
    "evaluate",
    "fit_additive",
    "fit_best",
    "fit_mlp",
    "learning_curve",
    "load_predictor",
    "lut_predictor",
    "next_networks",
    "observe",
    "reachable_range",
    "read_published_predictor",
    "reference_predictor",
    "stand",
    "why_stop",
]
