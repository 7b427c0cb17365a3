"""MkDocs hook: no page may fetch a script, a style, a font or a picture from elsewhere; the site works offline."""

import logging
import re
from typing import Any

log = logging.getLogger("mkdocs.hooks.site")

_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\ssrc=["'](https?:)?//[^"']*["']"""
    r"""|<link\b[^>]*\srel=["'](?:stylesheet|preconnect|preload|icon)["'][^>]*\shref=["'](https?:)?//[^"']*["']"""
    r"""|<link\b[^>]*\shref=["'](https?:)?//[^"']*["'][^>]*\srel=["'](?:stylesheet|preconnect|preload|icon)["']""",
    re.IGNORECASE,
)


def fetched(html: str) -> list[str]:
    """The tags of a page that a browser would load from another host."""
    return [match[0] for match in _FETCHED.finditer(html)]


def on_post_page(output: str, page: Any, **_: Any) -> str:
    for tag in fetched(output):
        log.warning("%s would be fetched from elsewhere: %s", page.file.src_uri, tag)  # an error under --strict
    return output
