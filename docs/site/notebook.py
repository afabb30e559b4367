"""The tutorial: executed, and turned into a page with its outputs."""

from __future__ import annotations

import base64
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

_CELL_S = 600  # the longest that one cell may take, on a busy machine


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """A copy with outputs, run in a folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the traceback is in the message.
    """
    copy = nbformat.from_dict(notebook)
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-tutorial-") as home:
        # The kernel is a process of its own: it keeps the user's boards, settings and history out.
        os.environ.update(LIGHTNAS_EDGE_HOME=str(Path(home) / "boards"), IPYTHONDIR=home)
        try:
            NotebookClient(copy, timeout=_CELL_S, resources={"metadata": {"path": str(folder)}}).execute()
        finally:
            os.environ.clear()
            os.environ.update(before)
    return copy


def as_markdown(notebook: nbformat.NotebookNode) -> tuple[str, dict[str, bytes]]:
    """The page, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            parts.append(_shown(output, pictures))
    return "\n\n".join(filter(None, parts)) + "\n", pictures


def _shown(output: nbformat.NotebookNode, pictures: dict[str, bytes]) -> str:
    if output.output_type == "stream":
        return "" if output.name == "stderr" else f"```text\n{output.text.rstrip()}\n```"
    data = output.get("data", {})
    if "image/png" in data:
        name = f"tutorial-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(data["image/png"])
        return f"![{data.get('text/plain', 'a figure').strip('<>').removeprefix('Figure: ')}]({name})"
    if "text/html" in data:
        return f'<div class="output">{data["text/html"]}</div>'
    return f"```text\n{data['text/plain']}\n```" if "text/plain" in data else ""
