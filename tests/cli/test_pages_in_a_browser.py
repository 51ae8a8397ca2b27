"""Pages in Chromium, as a reader has them: the script runs within the page's own policy, sorts and filters."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import page_documents
import pytest

from edgesdk.pages import render
from edgesdk.pages.bundle_page import render_bundle

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SECONDS = 120  # at most
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--dump-dom")
# What a reader does, at the end of the page's own script: the policy allows no other.
READER = """
const rows = () => [...document.getElementById("layer-table").tBodies[0].rows].filter((row) => !row.hidden);
const numbers = () => rows().map((row) => Number(row.cells[0].textContent));
const head = (name) => [...document.querySelectorAll("#layer-table th button")].find((b) => b.textContent === name);
const seen = {};
const sort = head("deployed");
for (const way of ["up", "down", "graph"]) { sort.click(); seen[way] = [numbers(), sort.parentNode.ariaSort]; }
const form = document.querySelector("form.filter");
const type = (text, changed) => {
  form.elements.text.value = text;
  form.elements.changed.checked = changed;
  form.dispatchEvent(new Event("input"));
  return [numbers(), form.querySelector("output").textContent];
};
seen.words = type("INT8 4-bit", false);
seen.changed = type("", true);
seen.none = type("nothing is called so", false);
seen.all = type("", false);
seen.hidden = form.hidden;
seen.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const asked = document.createElement("script");
asked.textContent = "document.title = 'a script of somebody else ran'";
document.body.append(asked);
document.body.dataset.seen = JSON.stringify(seen);
"""


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pages whose script ends with what a reader does."""
    text = render._text
    monkeypatch.setattr(render, "_text", lambda name: text(name) + (READER if name == "page.js" else ""))
    render._environment.cache_clear()
    yield
    render._environment.cache_clear()


def browse(page: Path, width: int, profile: Path) -> str:
    """The page as it is after its script, in a window so wide."""
    assert BROWSER is not None
    more = (f"--window-size={width},900", f"--user-data-dir={profile}", page.as_uri())
    done = subprocess.run([BROWSER, *FLAGS, *more], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize("width", [500, 1200])
def test_layers_are_sorted_and_filtered(reader: None, tmp_path: Path, width: int) -> None:
    documents = page_documents.full(8)
    times = (0.03, 0.01, 0.04, 0.0, 0.02, 0.06, 0.05, 0.07)
    layers = [replace(layer, latency_ms=time) for layer, time in zip(documents.plan.layers, times, strict=True)]
    page = tmp_path / "page.html"
    page.write_text(
        render_bundle(documents.manifest, replace(documents.plan, layers=tuple(layers)), documents.report), "utf-8"
    )
    dom = browse(page, width, tmp_path / "profile")
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found, dom[-2000:]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert seen["up"] == [[2, 5, 1, 3, 7, 6, 8, 4], "ascending"]  # what has no price comes last, either way
    assert seen["down"] == [[8, 6, 7, 3, 1, 5, 2, 4], "descending"]
    assert seen["graph"] == [[1, 2, 3, 4, 5, 6, 7, 8], None]
    assert seen["words"] == [[3, 7], "2 of 8 shown"]
    assert seen["changed"][0] == [2, 3, 4, 5, 6, 7, 8]
    assert seen["none"] == [[], "0 of 8 shown"] and seen["all"][1] == "8 of 8 shown"
    assert seen["hidden"] is False and seen["wide"] is False
    assert "somebody else ran" not in re.sub(r"<script>.*?</script>", "", dom, flags=re.DOTALL)
