"""The most accurate network that keeps a latency budget on your own board, and the proof.

`import lightnas_edge as le` is the door for a notebook: measure, fit, search, train, export, verify, report, and look at all of
it. Each name is loaded when it is used first, so that the import itself is quick.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lightnas_edge._version import __version__

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported

if TYPE_CHECKING:
    from lightnas_edge.data import DataSet, load_data
    from lightnas_edge.deploy import Verification
    from lightnas_edge.errors import LightnasEdgeError
    from lightnas_edge.measuring import MeasurementProtocol, Settings
    from lightnas_edge.predictor import Predictor, load_predictor, reachable_range
    from lightnas_edge.report import Report
    from lightnas_edge.report.notebook_plots import plot_front, plot_latency, plot_operator_costs, plot_predictions
    from lightnas_edge.runs import Export, Run
    from lightnas_edge.search import SearchConfig, SearchResult
    from lightnas_edge.space import Architecture, Space, built_in_spaces, load_space
    from lightnas_edge.steps import (
        Search,
        export_run,
        fit_predictor,
        measure_networks,
        measure_operators,
        report_run,
        search_networks,
        train_run,
        verify_run,
    )
    from lightnas_edge.train import TrainConfig
    from luts import Lut
    from luts import read as read_lut

__all__ = [
    "Architecture",
    "DataSet",
    "Export",
    "LightnasEdgeError",
    "Lut",
    "MeasurementProtocol",
    "Predictor",
    "Report",
    "Run",
    "Search",
    "SearchConfig",
    "SearchResult",
    "Settings",
    "Space",
    "TrainConfig",
    "Verification",
    "__version__",
    "built_in_spaces",
    "export_run",
    "fit_predictor",
    "load_data",
    "load_predictor",
    "load_space",
    "measure_networks",
    "measure_operators",
    "plot_front",
    "plot_latency",
    "plot_operator_costs",
    "plot_predictions",
    "reachable_range",
    "read_lut",
    "report_run",
    "search_networks",
    "train_run",
    "verify_run",
]

# Module -> names that it gives to the door; as above, which type checkers read. A name of ours and its own are equal but for `=`.
_FROM = {
    "lightnas_edge.data": "DataSet load_data",
    "lightnas_edge.deploy": "Verification",
    "lightnas_edge.errors": "LightnasEdgeError",
    "lightnas_edge.measuring": "MeasurementProtocol Settings",
    "lightnas_edge.predictor": "Predictor load_predictor reachable_range",
    "lightnas_edge.report": "Report",
    "lightnas_edge.report.notebook_plots": "plot_front plot_latency plot_operator_costs plot_predictions",
    "lightnas_edge.runs": "Export Run",
    "lightnas_edge.search": "SearchConfig SearchResult",
    "lightnas_edge.space": "Architecture Space built_in_spaces load_space",
    "lightnas_edge.steps": "Search export_run fit_predictor measure_networks measure_operators report_run search_networks train_run "
    "verify_run",
    "lightnas_edge.train": "TrainConfig",
    "luts": "Lut read_lut=read",
}  # fmt: skip
_PLACES = {
    name.partition("=")[0]: (module, name.partition("=")[2] or name) for module, names in _FROM.items() for name in names.split()
}  # fmt: skip

if not TYPE_CHECKING:  # a type checker would take it for a promise about every name

    def __getattr__(name: str) -> object:
        """Raises AttributeError, or ForeignPackageError where another project's package stands in for a part of this one."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        from lightnas_edge.own_packages import require_own_packages

        require_own_packages()
        module, its_name = _PLACES[name]
        globals()[name] = value = getattr(import_module(module), its_name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_PLACES})
