"""Links of the repository's pages, as they are on the site."""

from __future__ import annotations

import posixpath
import re

# What lies elsewhere in the repository, or in another form, by its path from docs/.
_MOVED = {
    "../README.md": "index.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "tutorial.ipynb": "tutorial.md",
    "schemas": "reference/fields.md",
    "schemas/": "reference/fields.md",
}
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def with_site_links(markdown: str, page: str) -> str:
    """The text of a page with its links moved. `page`: its path from docs/."""
    folder = posixpath.dirname(page)

    def moved(match: re.Match[str]) -> str:
        from_docs = posixpath.normpath(posixpath.join(folder, match[1]))
        target = _MOVED.get(from_docs)
        return match[0] if target is None else f"]({posixpath.relpath(target, folder or '.')}"

    return _LINK.sub(moved, markdown)
