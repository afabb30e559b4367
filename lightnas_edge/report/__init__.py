"""A run, a search with several networks, or a verified model file as one page: a summary, then the evidence."""

from lightnas_edge.report.build import AllReports, Report, build_all_reports, build_report, build_verification_report
from lightnas_edge.report.figures import draw_front
from lightnas_edge.report.snapshot import RunSnapshot, read_snapshot

__all__ = [
    "AllReports",
    "Report",
    "RunSnapshot",
    "build_all_reports",
    "build_report",
    "build_verification_report",
    "draw_front",
    "read_snapshot",
]
