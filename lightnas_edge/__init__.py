"""The most accurate network that keeps a latency budget on your own board, and the proof."""

from lightnas_edge._version import __version__

__all__ = ["__version__"]
