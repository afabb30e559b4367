"""The agent: runs on the board and measures there. Python 3.6, standard library only at import; docs/measuring.md."""
# Part of lightnas-edge.

AGENT_VERSION = "0.1.0"

__all__ = ["AGENT_VERSION"]
