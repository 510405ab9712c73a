"""What the tests ask of a page, by the parser of the standard library."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "img", "br", "hr", "rect"}


class Page(HTMLParser):
    """Tags with their attributes, text outside scripts and styles, scripts, `data-figure` cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.figures: dict[str, str] = {}
        self.unbalanced: list[str] = []
        self._pieces: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self._pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(self.tags[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop()[0] != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script":
            self.scripts.append(data)
        elif tag != "style":
            self._pieces.append(data)
            if key := attributes.get("data-figure"):
                self.figures[key] = data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def charts(self) -> dict[str, Any]:
        """The data of the charts; empty where the page draws none."""
        if not any(attributes.get("id") == "charts" for attributes in self.all("script")):
            return {}
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found
