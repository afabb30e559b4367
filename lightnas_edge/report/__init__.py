"""A run as one page: what was asked, found, predicted and measured, with its provenance."""

from lightnas_edge.report.build import Report, build_report
from lightnas_edge.report.figures import draw_front
from lightnas_edge.report.story import Story, read_story

__all__ = ["Report", "Story", "build_report", "draw_front", "read_story"]
