"""What must not be on a page of the site."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Fonts, scripts, styles and pictures from elsewhere. Links that a reader follows are fine.
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?P<src>(?:https?:)?//[^"'\s>]+)|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["']?(?P<href>(?:https?:)?//[^"'\s>]+)"""
)
_CODE = re.compile(r"<(pre|code|script|style)\b.*?</\1>", re.DOTALL)


def faults_of(page: str) -> Iterator[str]:
    """In sentences; none for a page that is as it should be."""
    for match in _LOADED.finditer(page):
        yield f"it loads {match['src'] or match['href']} from elsewhere"
    text = _CODE.sub("", page)
    for match in re.finditer(r"<p>\s*(?:\|[^<]*\||```)", text):
        yield f"it shows Markdown as text: {match[0][:80]}"
