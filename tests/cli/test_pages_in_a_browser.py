"""Pages in Chromium, as a reader has them: keys sort and filter, nothing is reported, and axe finds nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import page_documents
import pytest
from slow import core

from edgesdk.pages.benchmark_page import render_benchmark
from edgesdk.pages.bundle_page import render_bundle
from edgesdk.pages.diff_page import render_diff
from edgesdk.pages.front_page import render_front

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCREENSHOTS = os.environ.get("EDGESDK_SCREENSHOTS")  # a folder to keep them in, for whoever changes a page
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium")

PAGES: dict[str, Callable[[], str]] = {
    "measured": lambda: render_bundle(*page_documents.full(8)),
    "predicted": lambda: render_bundle(*page_documents.predicted(8)),
    "emulated": lambda: render_bundle(*page_documents.emulated()),
    "front": lambda: render_front(page_documents.front()),
    "models": lambda: render_front(page_documents.models()),
    "diff": lambda: render_diff(page_documents.diff()),
    "benchmark": lambda: render_benchmark(page_documents.benchmark()),
}


LONG = {"dots": "backbone.stages.blocks." * 6, "one word": "verylongname" * 12, "words": "a name of many words " * 7}
"""Names of layers, files and all else that pages take from documents."""
NAMED: dict[str, Callable[[str], str]] = {
    "measured": lambda text: render_bundle(*page_documents.with_names(page_documents.full(8), text)),
    "predicted": lambda text: render_bundle(*page_documents.with_names(page_documents.predicted(8), text)),
    "front": lambda text: render_front(page_documents.with_text(page_documents.front(), text)),
    "models": lambda text: render_front(page_documents.with_text(page_documents.models(), text)),
    "diff": lambda text: render_diff(page_documents.with_text(page_documents.diff(), text)),
    "benchmark": lambda text: render_benchmark(page_documents.with_text(page_documents.benchmark(), text)),
}
BEYOND = """() => [...document.querySelectorAll("table, pre, h1, p, svg, td, th")].filter(each => {
  const {right, width} = each.getBoundingClientRect();
  const out = right > document.documentElement.clientWidth + 0.5;
  const cut = each.matches("td, th, pre") && each.scrollWidth > each.clientWidth + 1;
  return width > 1 && !each.closest("[hidden], form, nav") && (out || cut);
}).map(each => each.outerHTML.slice(0, 150))"""
"""What is cut off at the right end of a sheet of paper, or runs out of its cell."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


class Opened:
    """A page in a window of its own, and what the browser had to say of it."""

    def __init__(self, browser: Browser, text: str, folder: Path, **window: Any) -> None:
        file = folder / "page.html"
        file.write_text(text, "utf-8")
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page: Page = browser.new_page(**window)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def keep(self, name: str, folder: Path) -> Path:
        """A picture of the whole page, under that name."""
        path = Path(SCREENSHOTS or folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path, full_page=True)
        return path

    def numbers(self) -> list[int]:
        rows = self.page.locator("#layer-table tbody tr:visible")
        return [int(row.split()[0]) for row in rows.all_inner_texts()]


@pytest.mark.parametrize("width", [500, 1200])
def test_layers_are_sorted_and_filtered_by_keys(browser: Browser, tmp_path: Path, width: int) -> None:
    documents = page_documents.full(8)
    times = (0.03, 0.01, 0.04, 0.0, 0.02, 0.06, 0.05, 0.07)
    layers = [replace(layer, latency_ms=time) for layer, time in zip(documents.plan.layers, times, strict=True)]
    text = render_bundle(documents.manifest, replace(documents.plan, layers=tuple(layers)), documents.report)
    opened = Opened(browser, text, tmp_path, viewport={"width": width, "height": 900})
    head = opened.page.locator("#layer-table th", has_text="deployed").first
    head.locator("button").focus()
    orders = {
        "ascending": [2, 5, 1, 3, 7, 6, 8, 4],  # what has no price comes last, either way
        "descending": [8, 6, 7, 3, 1, 5, 2, 4],
        None: [1, 2, 3, 4, 5, 6, 7, 8],
    }
    for way, order in orders.items():
        opened.page.keyboard.press("Enter")
        assert (head.get_attribute("aria-sort"), opened.numbers()) == (way, order)
    form = opened.page.locator("form.filter")
    field, changed = form.locator("[name=text]"), form.locator("[name=changed]")
    for words, box, shown in (("INT8 4-bit", False, [3, 7]), ("", True, [2, 3, 4, 5, 6, 7, 8]), ("none so", False, [])):
        field.fill(words)
        changed.set_checked(box)
        assert opened.numbers() == shown
        assert form.locator("output").inner_text() == f"{len(shown)} of 8 shown"
    assert opened.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert not opened.said and len(opened.asked) == 1


def test_candidates_are_sorted_by_time_whatever_its_unit(browser: Browser, tmp_path: Path) -> None:
    documents = page_documents.predicted()
    step = documents.report["history"][1]
    steps = [
        {**step, **{side: {**step[side], "latency_ms": ms} for side in ("predicted", "measured")}}
        for ms in (2.5, 0.9, 30.0, 0.0415)
    ]
    report = {**documents.report, "history": steps, "budget": {**documents.report["budget"], "latency_ratio": None}}
    opened = Opened(browser, render_bundle(documents.manifest, documents.plan, report), tmp_path)
    for column in ("promised", "its file"):
        opened.page.locator("#candidates th button", has_text=column).click()
        rows = opened.page.locator("#candidates table[data-sortable] tbody tr").all_inner_texts()
        assert [int(row.split()[0]) for row in rows] == [4, 2, 1, 3], column


def test_no_other_script_runs(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, PAGES["measured"](), tmp_path)
    opened.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert opened.page.evaluate("window.ran") is None
    assert "Content Security Policy" in opened.said[0]


@pytest.mark.parametrize("name", core(PAGES, lambda name: name == "front"))
def test_axe_finds_nothing(browser: Browser, tmp_path: Path, name: str) -> None:
    """Contrast, labels, headings, landmarks and keyboards, by axe-core, in either colour scheme."""
    from axe_playwright_python.sync_playwright import Axe

    opened = Opened(browser, PAGES[name](), tmp_path, bypass_csp=True)
    assert not opened.said and len(opened.asked) == 1
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        opened.page.emulate_media(color_scheme=scheme)
        found = Axe().run(opened.page).response
        broken = [(rule["id"], node["html"][:120]) for rule in found["violations"] for node in rule["nodes"]]
        assert not broken and len(found["passes"]) > 10, scheme
        assert opened.keep(f"{name}-{scheme}", tmp_path).stat().st_size > 10_000


@pytest.mark.parametrize("name", core(PAGES, lambda name: name == "measured"))
def test_it_fits_a_telephone_and_a_sheet_of_paper(browser: Browser, tmp_path: Path, name: str) -> None:
    opened = Opened(browser, PAGES[name](), tmp_path, viewport={"width": 390, "height": 844})
    assert opened.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    opened.keep(f"{name}-narrow", tmp_path)
    opened.page.emulate_media(media="print")
    assert not opened.page.locator("nav").is_visible() and opened.page.locator("h1").is_visible()
    opened.keep(f"{name}-print", tmp_path)
    opened.page.set_viewport_size({"width": 680, "height": 1000})  # a sheet of A4 between its margins
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert opened.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert opened.page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.page.evaluate("getComputedStyle(document.querySelector('th button'), '::after').content") == "none"
    boxes = "[...document.querySelectorAll('thead button')].map(each => getComputedStyle(each).display)"
    assert set(opened.page.evaluate(boxes)) == {"contents"}  # a head with boxes in it is on the first sheet alone
    assert not opened.said


@pytest.mark.parametrize("name", core(PAGES, lambda name: name == "measured"))
def test_it_is_read_without_scripts(browser: Browser, tmp_path: Path, name: str) -> None:
    """All figures are there; what a script would do is not offered."""
    opened = Opened(browser, PAGES[name](), tmp_path, java_script_enabled=False)
    assert opened.page.locator("section").count() >= 3 and opened.page.locator("table").count() >= 2
    assert opened.page.locator("th button").count() == 0 and not opened.page.locator("form").first.is_visible()
    opened.keep(f"{name}-no-scripts", tmp_path)


@pytest.mark.parametrize("name", NAMED)
def test_nothing_is_cut_off_on_paper_however_long_names_are(browser: Browser, tmp_path: Path, name: str) -> None:
    for kind, text in LONG.items():
        opened = Opened(browser, NAMED[name](text), tmp_path, viewport={"width": 680, "height": 1000})
        opened.page.emulate_media(media="print")
        assert opened.page.evaluate(BEYOND) == [], kind
        opened.keep(f"{name}-long-{kind.replace(' ', '-')}", tmp_path)
        opened.page.close()
