"""A run as one page: the question, what was found, predicted and measured, with its provenance."""

from lightnas_edge.report.build import Report, build_report
from lightnas_edge.report.figures import draw_front
from lightnas_edge.report.snapshot import RunSnapshot, read_snapshot

__all__ = ["Report", "RunSnapshot", "build_report", "draw_front", "read_snapshot"]
