"""Pages read by tests: as trees of their elements, with what charts draw."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from xml.etree import ElementTree

import page_documents
from page_documents import Documents

from edgesdk.pages.benchmark_page import render_benchmark
from edgesdk.pages.bundle_page import render_bundle
from edgesdk.pages.diff_page import render_diff
from edgesdk.pages.front_page import render_front

LARGEST = 1_500_000  # bytes of a page
VOID = {"meta", "input", "br", "link", "img"}
HTML = """<b onmouseover='x()'>"&amp;</table></script><script>alert(1)</script>{{ 7 * 7 }}"""
DOCUMENTS: dict[str, Callable[[], Documents]] = {
    **{name: (lambda name=name: page_documents.stored(name)) for name in ("measured", "predicted", "before")},
    "full": page_documents.full, "emulated": page_documents.emulated, "full, predicted": page_documents.predicted,
}  # fmt: skip


class Page(HTMLParser):
    """A page as its parts: ``tags`` in order with their attributes, and what is written in each, by its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.written: list[list[str]] = []
        self.open: list[int] = []
        self.feed(html)
        self.close()
        assert not self.open, f"<{self.tags[self.open[-1]][0]}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        self.written.append([])
        if tag not in VOID:
            self.open.append(len(self.tags) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.written.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.tags[self.open[-1]][0] == tag, f"</{tag}> closes {self.tags[self.open[-1]]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.written[place].append(data)

    def of(self, tag: str) -> Iterator[tuple[dict[str, str | None], str]]:
        """The attributes of every such ``tag``, and the text in it."""
        for (name, attributes), text in zip(self.tags, self.written, strict=True):
            if name == tag:
                yield attributes, " ".join("".join(text).split())

    def table(self, section: str) -> list[list[str]]:
        """The rows of every table in that section, a text for each cell."""
        start = next(i for i, (_, attributes) in enumerate(self.tags) if attributes.get("id") == section)
        rows: list[list[str]] = []
        for (tag, attributes), text in list(zip(self.tags, self.written, strict=True))[start:]:
            if tag == "section" and attributes.get("id") != section:
                break
            if tag == "tr":
                rows.append([])
            if tag in ("td", "th") and rows:
                rows[-1].append(" ".join("".join(text).split()))
        return rows


RENDERED: dict[int, tuple[Documents, str]] = {}


def html_of(documents: Documents) -> str:
    """The page of a bundle, rendered once."""
    if id(documents) not in RENDERED:
        RENDERED[id(documents)] = documents, render_bundle(*documents)
    return RENDERED[id(documents)][1]


def page(documents: Documents) -> Page:
    return Page(html_of(documents))


def list_drawn(html: str, kind: str) -> list[tuple[list[str], list[tuple[float, float]]]]:
    """What charts have of a ``kind``: the words of each, and where its marks or corners are, from above."""
    drawn: list[tuple[list[str], list[tuple[float, float]]]] = []
    for chart in re.findall(r"<svg .*?</svg>", html, re.DOTALL):
        for group in ElementTree.fromstring(chart).iter("g"):
            name, *words = group.get("class", "none").split()
            if name == kind:
                marks = [(float(str(use.get("x"))), float(str(use.get("y")))) for use in group.iter("use")]
                path = " ".join(str(each.get("d")) for each in group.findall("path"))
                corners = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path)]
                drawn.append((words, marks or corners))
    return drawn


def chart_of(html: str, said: str) -> str:
    """The chart that is said to show that."""
    (chart,) = [each for each in re.findall(r"<svg .*?</svg>", html, re.DOTALL) if f'aria-label="{said}' in each]
    return chart


PAGES: dict[str, Callable[[], str]] = {
    **{name: (lambda made=made: html_of(made())) for name, made in DOCUMENTS.items()},
    "front": lambda: render_front(page_documents.front()),
    "models": lambda: render_front(page_documents.models()),
    "diff": lambda: render_diff(page_documents.diff()),
    "benchmark": lambda: render_benchmark(page_documents.benchmark()),
}


def outlines(chart: str) -> list[str]:
    """The outline of each predicted point of a ``chart``, in their order."""
    parsed = ElementTree.fromstring(chart)
    drawn = {path.get("id"): str(path.get("d")) for path in parsed.iter("path")}
    groups = [group for group in parsed.iter("g") if group.get("class", "").startswith("point predicted")]
    return [drawn[str(use.get("href")).removeprefix("#")] for group in groups for use in group.iter("use")]
