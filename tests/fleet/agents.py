"""Agents on boards behind loopback servers."""

import json
from pathlib import Path


def running(board):
    """The process ids of agents that still run, from their status files."""
    found = []
    for status in (board.home / ".lightnas-edge" / "jobs").glob("*/status.json"):
        pid = json.loads(status.read_text())["pid"]
        try:
            if "agent" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
        except OSError:
            continue
    return found
