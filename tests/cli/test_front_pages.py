"""Pages of fronts: points with their proofs, targets and models side by side."""

from __future__ import annotations

import re
from typing import Any

import page_documents
import pytest
from read_pages import (
    PAGES,
    Page,
    chart_of,
    list_drawn,
    outlines,
)

from edgesdk.core.budget import show
from edgesdk.pages.bundle_page import render_bundle
from edgesdk.pages.front_page import render_front
from edgesdk.pages.render import NONE, milliseconds


def test_a_gap_of_next_to_nothing_is_said_in_the_unit_of_the_loss() -> None:
    front = page_documents.front()
    (first, *rest) = front["points"]
    proof = {**first["plan"]["proof"], "objective": 8e-7, "bound": 0.0, "gap": 1.0}
    front = {**front, "points": [{**first, "gap": 1.0, "plan": {**first["plan"], "proof": proof}}, *rest]}
    html = render_front(front)
    assert "a loss of 8e-07" in html and "100 %" not in html


@pytest.mark.parametrize("kind", ["front", "models", "many"])
def test_places_stand_side_by_side_by_what_they_reach_at_each_share(kind: str) -> None:
    front = getattr(page_documents, "front" if kind == "front" else "models")()
    if kind == "many":  # each point on a target of its own, too
        more = [{**point, "number": 100 + point["number"], "target": f"board {point['number']}"}
                for point in front["points"]]  # fmt: skip
        front["points"] = [*front["points"], *more]
    groups: dict[tuple[str, str], list[Any]] = {}
    for point in front["points"]:
        groups.setdefault((point["model"], point["target"]), []).append(point)
    heading, dense, *rows = Page(render_front(front)).table("sides")
    assert heading[1:] == [", ".join(filter(None, names)) for names in groups] and len(groups) > 1
    assert dense[1:] == [
        milliseconds(min((p["predicted"]["latency_ms"] for p in points if p["kind"] == "dense"), default=None))
        for points in groups.values()
    ]
    shares = [float(row[0]) for row in rows]
    assert shares == sorted(shares, reverse=True) and len({tuple(row[1:]) for row in rows}) == len(rows) >= 2
    for share, row in zip(shares, rows, strict=True):
        for cell, points in zip(row[1:], groups.values(), strict=True):
            within = [point for point in points if point["ratio"] <= share]
            if not within:
                assert cell == f"{NONE} none so fast"
                continue
            least = min(within, key=lambda point: (point["loss"], point["ratio"]))
            assert cell == (
                f"{milliseconds(least['predicted']['latency_ms'])} loss {least['loss']:.2g}, {least['runtime']}, "
                f"point {least['number']}"
            )
    left = {point["number"] for points in groups.values() for point in points if point["ratio"] <= shares[-1]}
    assert left, "the last share is one that something reaches"


def test_one_target_stands_beside_nothing() -> None:
    front = page_documents.front()
    alone = {**front, "points": [point for point in front["points"] if point["target"] == "pi4"]}
    for points in (alone["points"], []):
        html = render_front({**alone, "points": points})
        assert 'id="sides"' not in html and 'href="#sides"' not in html


def test_a_front_is_its_points_with_their_proofs() -> None:
    front = page_documents.front()
    parsed = Page(render_front(front))
    rows = [row for number in (1, 2) for row in parsed.table(f"target-{number}") if len(row) == 11 and row[0].isdigit()]
    assert [row[3:8] for row in rows] == [
        [milliseconds(point["predicted"]["latency_ms"]), f"{point['ratio']:.3f}",
         show("peak_memory_bytes", point["predicted"]["peak_memory_bytes"]),
         show("size_bytes", point["predicted"]["size_bytes"]), f"{point['loss']:.2g}"]
        for point in front["points"]
    ]  # fmt: skip
    assert [row[9] for row in rows] == ["0.67 %", "0.67 %", *["not searched"] * 3]
    assert [row[10] for row in rows] == ["best", "", "best", "best", "best"] and rows[4][
        1
    ] == "▽ onnxruntime, 4 threads"
    chart = chart_of(PAGES["front"](), "Loss of each point of pi4")
    assert re.findall(r'<a href="#point-(\d)"[^>]*>.*?>(\d)</text>', chart, re.DOTALL) == [(n, n) for n in "1234"]
    places = [places[0] for words, places in list_drawn(chart, "point") if words[0] == "predicted"]
    across = [x for x, _ in places]
    assert across == sorted(across)
    assert across[3] - across[2] == pytest.approx(across[1] - across[0], abs=0.1)  # twice as long, both
    heights = [-y for _, y in places]
    assert sorted(heights) == [heights[3], heights[2], heights[0], heights[1]]
    assert any("pi5, litert was left out: it holds no such layer" in text for _, text in parsed.of("p"))
    assert len(list(parsed.of("section"))) == 4 and not list(Page(render_front({**front, "points": []})).of("a"))[2:]


def test_runtimes_and_threads_are_told_apart_by_marks_and_words() -> None:
    front = page_documents.front()
    html = render_front({**front, "points": [{**point, "built": None} for point in front["points"]]})
    parsed, shape_of = Page(html), {}
    signs = {"pi4": "○ onnxruntime △ litert", "pi5": "▽ onnxruntime, 4 threads"}
    for number, target in enumerate(signs, 1):
        chart, points = (
            chart_of(html, f"Loss of each point of {target}"),
            [point for point in front["points"] if point["target"] == target],
        )
        for point, outline in zip(points, outlines(chart), strict=True):
            assert shape_of.setdefault((point["runtime"], point["threads"]), outline) == outline
        assert len(list_drawn(chart, "ring")) == sum(point["kind"] != "plan" for point in points)
        (legend,) = [text for attributes, text in parsed.of("p") if text.startswith(signs[target])]
        assert legend == signs[target]
        places = {row[1] for row in parsed.table(f"target-{number}") if row[0].isdigit()}
        assert len(places) == legend.count(" onnx") + legend.count(" litert") and all(
            place in legend for place in places
        )
    assert len(set(shape_of.values())) == len(shape_of) == 3
    alone = render_front({**front, "points": [point for point in front["points"] if point["runtime"] != "litert"][:3]})
    assert not list_drawn(alone, "ring") and "○" not in alone and 'class="sign"' not in alone
    plan, *as_is = outlines(chart_of(alone, "Loss of each point of pi4"))
    assert plan not in as_is and len(set(as_is)) == 1


def test_models_stand_side_by_side_each_with_charts_of_its_own() -> None:
    front = page_documents.models()
    parsed = Page(render_front(front))
    heading, *rows = parsed.table("models")
    assert heading == ["model", "target", "score", "dense", "fastest", "its loss"]
    score = "92.50 top-1 accuracy of 500 samples"
    assert [row[:5] for row in rows] == [
        ["net.py:small", "pi4", score, "2.5 ms", milliseconds(0.05)],
        ["net.py:large", "pi4", f"{NONE} top-1 accuracy of 500 samples", "5 ms", milliseconds(0.1)],
        ["net.py:small", "pi5", score, "1.5 ms", "1.5 ms"],
    ]
    headings = [text for _, text in parsed.of("h2")]
    assert headings[2:5] == ["net.py:small, pi4", "net.py:small, pi5", "net.py:large, pi4"]
    points = [text for attributes, text in parsed.of("a") if str(attributes["href"]).startswith("#point")]
    assert [text for text in points if text.isdigit()] == [str(number) for number in range(1, 10)]  # of charts
    assert [row[0] for row in parsed.table("made")] == ["graph of net.py:small", "graph of net.py:large"]
    assert not [attributes for attributes, _ in Page(PAGES["front"]()).of("section") if attributes["id"] == "models"]


def test_what_was_built_is_joined_to_what_was_predicted_and_drawn_otherwise() -> None:
    front = page_documents.front()
    parsed = Page(render_front(front))
    built = {point["number"]: point["built"] for point in front["points"] if point["built"]}
    rows = {row[0].split()[0]: row for number in (1, 2) for row in parsed.table(f"target-{number}") if len(row) == 8}
    for number, basis in ((3, "measured"), (5, "predicted")):
        row, point = rows[str(number)], front["points"][number - 1]
        assert row[1] == milliseconds(point["predicted"]["latency_ms"])
        assert row[2].split() == [*milliseconds(built[number]["cost"]["latency_ms"]).split(), basis]
        assert row[5].split()[0] == f"{built[number]['score']:.2f}" and row[7] == built[number]["bundle"]
        assert ("another plan" in row[0]) == (not built[number]["as_planned"])
    links = {attributes["href"] for attributes, text in parsed.of("a") if text.startswith("front/point-")}
    assert links == {"front/point-3/report.html", "front/point-5/report.html"}
    html = PAGES["front"]()
    for target, known in (("pi4", "measured"), ("pi5", "predicted")):
        chart = chart_of(html, f"Loss of each point of {target}")
        ((_, (before, after)),) = list_drawn(chart, "join")
        places = [(words[0], places[0]) for words, places in list_drawn(chart, "point")]
        assert ("predicted", before) in places and (known, after) in places and before[0] != after[0]
    plain = {**front, "points": [{**point, "built": None} for point in front["points"]]}
    assert {words[0] for words, _ in list_drawn(render_front(plain), "point")} == {"predicted"}


def test_energy_stands_beside_latency_where_it_was_measured() -> None:
    documents = page_documents.full()
    dense, deployed = (report["energy"] for report in page_documents.benchmark()["reports"])
    report = {**documents.report, "dense": {**documents.report["dense"], "energy": dense}}
    for own, shown in ((dense, ["3.25 mJ", "3.25 mJ", "1.000"]), (deployed, ["3.25 mJ", NONE, NONE])):
        told = {**report, "deployed": {**documents.report["deployed"], "energy": own}}
        parsed = Page(render_bundle(documents.manifest, documents.plan, told))
        rows = {row[0]: row[1:] for row in parsed.table("budget")}
        assert rows["energy of a run, beyond idle"] == shown
        said = [text for _, text in parsed.of("p") if text.startswith("Energy of a run, ")]
        assert len(said) == 2 and ("the meter stopped: 2 s" in said[1]) == (own is deployed)
    none = Page(render_bundle(documents.manifest, documents.plan, documents.report))
    (row,) = [row for row in none.table("budget") if row[0].startswith("energy")]
    assert row == ["energy of a run (not measured: the device has no meter that can be read)", NONE, NONE, NONE]
