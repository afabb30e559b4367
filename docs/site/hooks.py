"""MkDocs calls these: pages that are made from the program, and Markdown as GitHub reads it made fit for MkDocs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.site.html import faults_of
from docs.site.links import with_site_links
from docs.site.markdown import for_mkdocs
from docs.site.notebook import as_markdown, executed
from docs.site.reference import commands_page, fields_page, python_page

ROOT = Path(__file__).parents[2]
# Stored without outputs; set, the site shows it so, and builds in seconds.
NOT_EXECUTED = "LIGHTNAS_EDGE_DOCS_NOT_EXECUTED"


def on_files(files: Files, *, config: MkDocsConfig, **_: Any) -> Files:
    """Adds the generated pages."""
    pages: dict[str, str | bytes] = {
        "index.md": _at_root("README.md"),
        "changelog.md": _at_root("CHANGELOG.md"),
        "contributing.md": _at_root("CONTRIBUTING.md"),
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
        "reference/fields.md": fields_page(ROOT / "docs" / "schemas"),
        **_tutorial(),
    }
    for asset in sorted((ROOT / "docs" / "site" / "assets").iterdir()):
        pages[f"assets/{asset.name}"] = asset.read_bytes()
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    return for_mkdocs(with_site_links(markdown, page.file.src_uri))


def on_post_build(*, config: MkDocsConfig, **_: Any) -> None:
    """Raises PluginError: a page loads something from elsewhere, or shows Markdown that was not taken for such."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        for fault in faults_of(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path.name}: {fault}")


def _at_root(name: str) -> str:
    """A file of the repository's root, as if it lay in docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return (
        text.replace("](docs/", "](")
        .replace("](CHANGELOG.md", "](changelog.md")
        .replace("](CONTRIBUTING.md", "](contributing.md")
    )


def _tutorial() -> dict[str, str | bytes]:
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    if not os.environ.get(NOT_EXECUTED):
        with tempfile.TemporaryDirectory(prefix="lightnas-edge-tutorial-") as folder:
            notebook = executed(notebook, Path(folder))
    page, pictures = as_markdown(notebook)
    return {"tutorial.md": page, **pictures}
