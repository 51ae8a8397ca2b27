"""The page on ways in: every block of code and every command of it is run, in its order; and ways in are one plan."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path

import pytest
from given import edgesdk

from edgesdk.core.plan import Plan
from edgesdk.core.serialize import from_json, loads
from edgesdk.network.hub import alone

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/bring-a-model.md"
FILES = {"class Net": "net.py", "load_digits": "train.py"}  # what the blocks are called by the text around them


def parts() -> list[tuple[str, str]]:
    """The blocks of the page: their language, and what is in them."""
    blocks = PAGE.read_text().split("```")[1::2]
    return [(language, text) for language, _, text in (block.partition("\n") for block in blocks)]


@pytest.mark.filterwarnings("ignore")
def test_every_way_in_is_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "net", None)
    del sys.modules["net"]  # no other test's
    commands = []
    for language, text in parts():
        if language == "python":
            path = Path(next((name for mark, name in FILES.items() if mark in text), "more.py"))
            path.write_text(text)
            with alone():
                runpy.run_path(str(path))
            continue
        for line in text.splitlines():
            commands.append(shlex.split(line))
            done = edgesdk(*commands[-1][1:])
            assert done.returncode == 0, done.stderr
    plans = [from_json(Plan, loads(Path(name).read_text())) for name in ("plan.json", "onnx.json", "pt2.json")]
    first, *others = plans
    assert any(width < 16 for width in first.kept.values()) or "int8" in {o.precision for o in first.options.values()}
    for plan in others:
        assert (plan.options, plan.kept, plan.dropped) == (first.options, first.kept, first.dropped)
    assert {words[1] for words in commands} == {"search", "estimate", "benchmark"}
    monkeypatch.delitem(sys.modules, "net", raising=False)
