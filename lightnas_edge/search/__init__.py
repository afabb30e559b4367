"""The search: one pass that trains the weights, learns operator scores, and ends within every budget."""

from lightnas_edge.search.config import METHODS, PUBLISHED, Published, SearchConfig
from lightnas_edge.search.constraints import Budget, Constraint
from lightnas_edge.search.results import (
    SearchResult,
    Sources,
    begin_run,
    found_before,
    keep_predictors,
    keep_table,
    read_front,
)
from lightnas_edge.search.search import add_budgets, check_budgets, run_search
from lightnas_edge.search.selection import Selection, check_budget, select
from lightnas_edge.search.state import load_supernet
from lightnas_edge.search.teacher import Teacher, load_teacher

__all__ = [
    "METHODS",
    "PUBLISHED",
    "Budget",
    "Constraint",
    "Published",
    "SearchConfig",
    "SearchResult",
    "Selection",
    "Sources",
    "Teacher",
    "add_budgets",
    "begin_run",
    "check_budget",
    "check_budgets",
    "found_before",
    "keep_predictors",
    "keep_table",
    "load_supernet",
    "load_teacher",
    "read_front",
    "run_search",
    "select",
]
