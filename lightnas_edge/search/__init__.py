"""The search: one pass that trains the weights, learns which operators are preferred, and ends within the budget."""

from lightnas_edge.search.config import PUBLISHED, Published, SearchConfig
from lightnas_edge.search.search import SearchResult, run_search
from lightnas_edge.search.selection import Selection, check_budget, select

__all__ = [
    "PUBLISHED",
    "Published",
    "SearchConfig",
    "SearchResult",
    "Selection",
    "check_budget",
    "run_search",
    "select",
]
