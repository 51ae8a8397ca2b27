"""Pages of HTML: whole, readable without scripts, loading nothing, with the documents' figures and words."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import contracts
import jsonschema
import page_documents
import pytest
from page_documents import Documents, with_names, with_text
from read_pages import (
    DOCUMENTS,
    HTML,
    LARGEST,
    PAGES,
    Page,
    chart_of,
    html_of,
    list_drawn,
    outlines,
    page,
)
from rich.console import Console

from edgesdk.bundle.bundle import Bundle
from edgesdk.cli.show import show_bundle
from edgesdk.core.answers import FLIPS
from edgesdk.core.budget import show
from edgesdk.core.kernels import TOO_SHORT
from edgesdk.data.pictures import SIDE
from edgesdk.pages.benchmark_page import render_benchmark
from edgesdk.pages.bundle_page import render_bundle
from edgesdk.pages.charts import by_ratios, tell_axes
from edgesdk.pages.curve import Curve
from edgesdk.pages.diff_page import list_verdict, render_diff
from edgesdk.pages.front_page import render_front
from edgesdk.pages.render import NONE, digits, milliseconds, percent
from edgesdk.pages.samples import Samples
from edgesdk.pages.verdict import verdict
from edgesdk.pipeline.closing import AGAIN, CLOSER
from edgesdk.pipeline.rollback import SEARCH
from edgesdk.solve.finalists import LEANINGS

every_document = pytest.mark.parametrize("documents", [made() for made in DOCUMENTS.values()], ids=list(DOCUMENTS))
SECTIONS = {
    "diff": {"layers", "advice", "made"},
    "front": {"sides", "target-1", "target-2", "made"},
    "models": {"sides", "models", "target-1", "target-3", "made"},
    "benchmark": {"latency", "ratios", "kernels", "runs", "device", "made"},
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_loads_nothing(name: str) -> None:
    html = PAGES[name]()
    parsed = Page(html)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [attributes["href"] for attributes, _ in parsed.of("a")]
    within = [anchor for anchor in anchors if not re.fullmatch("front/point-[0-9]/report.html", str(anchor))]
    assert within and all(anchor and anchor.startswith("#") and anchor[1:] in ids for anchor in within)
    assert SECTIONS.get(name, {"budget", "layers", "accuracy", "made"}) <= set(ids)
    (policy,) = [a["content"] for a, _ in parsed.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy.startswith("default-src 'none';")
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
        sources = {"src", "srcset", "data", "action", "xlink:href"} & set(attributes)
        assert not sources or tag == "img" and str(attributes["src"]).startswith("data:image/png;base64,"), tag
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    for _, text in [*parsed.of("style"), *parsed.of("script")]:
        assert not re.search(r"url\(|@import|https?:|import\(|fetch\(|XMLHttp", text)
    assert len(html.encode()) < LARGEST / 8


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_for_keyboards_and_readers(name: str) -> None:
    parsed = Page(PAGES[name]())
    assert next(parsed.of("html"))[0]["lang"] == "en" and next(parsed.of("title"))[1]
    assert [text for _, text in parsed.of("h1")] == [next(parsed.of("title"))[1]]
    labelled = [
        tag
        for tag in parsed.tags
        if tag[1].get("class") == "scroll" or tag[1].get("role") in ("img", "region", "group")
    ]
    assert labelled and all(attributes.get("aria-label") for _, attributes in labelled)
    assert all(a.get("tabindex") == "0" for _, a in parsed.tags if a.get("class") == "scroll")
    assert all(a.get("scope") in ("row", "col") for a, _ in parsed.of("th"))
    assert all("hidden" in attributes for attributes, _ in parsed.of("form"))  # of no use without the script


@every_document
def test_the_verdict_is_that_of_the_terminal(documents: Documents) -> None:
    said = [text for _, text in page(documents).of("p")]
    for line in verdict(documents.report, documents.manifest):
        assert any(text.endswith(line) for text in said), line


BASES = ("predicted", "measured", "emulated")


@every_document
def test_what_was_predicted_is_never_shown_as_measured(documents: Documents) -> None:
    """Each bar has a mark by its basis, and the word beside it; each point one mark that the legend explains."""
    html, basis = html_of(documents), documents.report["basis"]
    bars = [tuple(words) for words, _ in list_drawn(html, "bar")]
    said = re.findall(r"<text [^>]*>(dense|deployed|promised), (predicted|measured|emulated): ", html)
    assert [(known, "dense" if who == "dense" else "deployed") for who, known in said] == bars
    assert len(bars) > 4 and {*said} >= {("dense", basis), ("deployed", basis)}
    assert {*said} <= {("dense", basis), ("deployed", basis), ("promised", "predicted"), ("deployed", "measured")}
    styles = {"predicted": "fill: url", "measured": "fill: var", "emulated": "stroke-dasharray"}
    for known, inside in re.findall(r'<g class="bar (\w+) \w+">(.*?)</g>', html, re.DOTALL):
        assert {name for name, style in styles.items() if style in inside} == {known}
    points = {words[0] for words, _ in list_drawn(html, "point")}
    legends = " ".join(text for a, text in Page(html).of("p") if a.get("class") == "legend").split()
    assert points <= {word.strip(",") for word in legends}


@pytest.mark.parametrize("name", ["measured", "full", "before"])
def test_figures_are_those_of_the_documents(name: str) -> None:
    documents = DOCUMENTS[name]()
    report, parsed = documents.report, page(documents)
    rows = {row[0]: row[1:] for row in parsed.table("budget") if row}
    for label, field in (("peak memory added", "peak_memory_bytes"), ("size of the file", "size_bytes")):
        figures = [report[side][field] for side in ("dense", "deployed")]
        assert rows[label] == [*(show(field, figure) for figure in figures), f"{figures[1] / figures[0]:.3f}"]
    if report["basis"] == "measured":
        medians = [report[side]["statistics"]["p50"] for side in ("dense", "deployed")]
        assert rows["latency, p50 of all runs"][:2] == [milliseconds(median) for median in medians]
    slower = [row for row in parsed.table("slower") if len(row) == 5][1:] if documents.plan.rejected else []
    assert [row[:4] for row in slower] == [
        [each.layer, each.choice, milliseconds(each.latency_ms), milliseconds(each.replaces_ms)]
        for each in documents.plan.rejected
    ]


PREDICTED, MEASURED = ("dense, predicted", "deployed, predicted"), ("dense, measured", "deployed, measured")


@every_document
def test_layers_are_in_the_order_of_the_graph_with_what_became_of_them(documents: Documents) -> None:
    heading, *rows = [row for row in page(documents).table("layers") if len(row) > 3]
    assert [row[1] for row in rows] == [f"{layer.name} {layer.reason}" for layer in documents.plan.layers]
    place = {name: heading.index(name) for name in ("channels", "runs as", *PREDICTED, "of all MACs")}
    facts = {entry["name"]: entry for entry in documents.report.get("layers", ())}
    macs = sum(entry["macs"] for entry in facts.values())
    for row, layer in zip(rows, documents.plan.layers, strict=True):
        assert row[place["runs as"]] == str(layer.option)
        figures = [milliseconds(layer.dense_ms), milliseconds(layer.latency_ms or None)]
        assert [row[place[name]] for name in PREDICTED] == figures
        if own := facts.get(layer.name):
            same = own["kept"] == own["channels"]
            assert row[place["channels"]] == (str(own["kept"]) if same else f"{own['channels']} → {own['kept']}")
            assert row[place["of all MACs"]] == percent(own["macs"] / macs)


def test_what_each_layer_took_is_beside_what_was_predicted() -> None:
    """As the profiler told it: fused layers have one figure, a layer of several kernels their sum."""
    documents = page_documents.full()
    heading, *rows = [row for row in page(documents).table("layers") if len(row) > 3]
    for name, column in zip(("dense", "deployed"), MEASURED, strict=True):
        kernels = documents.report["profiles"][name]["kernels"]
        alone = {layer.name: 0.0 for layer in documents.plan.layers}
        for kernel in kernels:
            for layer in kernel["layers"]:
                alone[layer] += kernel["profiled_ms"]
        shown = [row[heading.index(column)] for row in rows]
        first, second, *others = documents.plan.layers
        assert shown[:2] == [f"{milliseconds(alone[first.name])} with {second.name}", f"in {first.name}"]
        assert shown[2:] == [milliseconds(alone[layer.name]) for layer in others]
        cost = documents.report["profiles"][name]
        (said,) = [text for _, text in page(documents).of("p") if text.startswith(f"The profiler, {name} file")]
        assert show("latency_ms", cost["run_ms"]) in said and show("latency_ms", cost["plain_ms"]) in said


def test_predicted_and_measured_layers_are_joined() -> None:
    documents = page_documents.full()
    rows = [row for row in page(documents).table("predictions") if len(row) == 6][1:]
    rows = [row for row in rows if row[1] in ("dense", "deployed")]
    plan = {layer.name: layer for layer in documents.plan.layers}
    assert {row[1] for row in rows} == {"dense", "deployed"} and len(rows) == 2 * len(plan)  # two in one, one of none
    for label, who, predicted, measured, interval, _ in rows:
        names = next(
            ([*names] for names in (("layer 0", "layer 1"), *zip(plan)) if label.startswith(" + ".join(names))), []
        )
        assert bool(names) != label.startswith("of no named layer")
        promised = sum((plan[name].latency_ms if who == "deployed" else plan[name].dense_ms) or 0.0 for name in names)
        kernels = [kernel for kernel in documents.report["profiles"][who]["kernels"] if {*kernel["layers"]} == {*names}]
        assert predicted == (milliseconds(promised) if names else NONE)
        assert measured == milliseconds(sum(kernel["profiled_ms"] for kernel in kernels))
        told = kernels[0]
        assert interval == (
            f"{milliseconds(told['low_ms'])} to {milliseconds(told['high_ms'])}" if len(kernels) == 1 else NONE
        )


@pytest.mark.parametrize("changed, said", [
    ({}, [["1.2 ms 95 %: 1.11 to 1.3 ms", "1.25 ms 95 %: 1.23 to 1.27 ms"],
          ["0.47x 95 %: 0.435x to 0.508x", "0.481x 95 %: 0.4x to 0.6x"]]),
    ({"predicted_error": None}, [["1.2 ms no interval", "1.25 ms 95 %: 1.23 to 1.27 ms"],
                                 ["0.47x no interval", "0.481x 95 %: 0.4x to 0.6x"]]),
    ({"undisturbed": None}, [["1.2 ms 95 %: 1.11 to 1.3 ms", "1.25 ms no interval"],
                             ["0.47x 95 %: 0.435x to 0.508x", "0.481x 95 %: 0.4x to 0.6x"]]),
    ({"percentile": 90.0}, [["1.2 ms 95 %: 1.11 to 1.3 ms", "1.4 ms no interval"],
                            ["0.47x 95 %: 0.435x to 0.508x", "0.481x 95 %: 0.4x to 0.6x"]]),
], ids=["all", "prices without error", "no reference", "at a percentile"])  # fmt: skip
def test_the_whole_plan_has_its_intervals(changed: dict[str, Any], said: list[list[str]]) -> None:
    """Of what was promised and of what was found; where there is none it says so."""
    kept = page_documents.full()
    deployed = {**kept.report["deployed"], "ratios": {"dense": {"median": 0.5, "low": 0.4, "high": 0.6, "rounds": 7}}}
    report = {**kept.report, "deployed": deployed}
    if "predicted_error" in changed:
        del report["predicted_error"]  # as in a report of before
    if "undisturbed" in changed:
        deployed |= changed
    if "percentile" in changed:  # of all runs: the interval is the undisturbed state's
        report["measured"] = {**report["measured"], "latency_ms": 1.4}
    rows = [row for row in Page(render_bundle(kept.manifest, kept.plan, report)).table("predictions") if len(row) == 4]
    assert [row[1:3] for row in rows[1:3]] == said
    assert all(cell.endswith("no interval") for row in rows[3:] for cell in row[1:3]) and len(rows) == 5


@pytest.mark.parametrize("ms", [0.855, 1.25, 2.9])
def test_a_ratio_that_latencies_do_not_give_is_explained_here_as_at_the_terminal(ms: float) -> None:
    kept = page_documents.full()
    ratios = {"dense": {"median": 0.481, "low": 0.4, "high": 0.6, "rounds": 7}}
    deployed = {**kept.report["deployed"], "ratios": ratios}
    deployed["undisturbed"] = {**deployed["undisturbed"], "ms": ms}
    documents = kept._replace(report={**kept.report, "deployed": deployed})
    made, out = Page(render_bundle(*documents)), io.StringIO()
    show_bundle(Bundle(Path("bundle"), *documents), Console(file=out, width=160))
    (row,) = [row for row in made.table("budget") if row and row[0] == "latency, undisturbed"]
    assert row[1:] == ["2.6 ms", milliseconds(ms), "0.481"] and "│  0.48 │" in out.getvalue()
    said = [text for attributes, text in made.of("p") if text.startswith("ratio and milliseconds do not agree")]
    assert len(said) == (ms != 1.25) and all(text in out.getvalue() for text in said)
    assert ("do not agree" in out.getvalue()) == bool(said)


@pytest.mark.parametrize("ms", [1.25, 1.3, 2.5])
@pytest.mark.parametrize("path", ["a.onnx", "folder/a.onnx"])
def test_a_benchmark_explains_such_a_ratio_too(ms: float, path: str) -> None:
    """By the path of a file, which is longer than its name."""
    benchmark = page_documents.benchmark()
    first, second = benchmark["reports"]
    second = {**second, "ratios": {path: {"median": 2.0, "low": 1.9, "high": 2.1, "rounds": 7}}}
    first = {**first, "undisturbed": {**first["undisturbed"], "ms": ms}}
    parsed = Page(render_benchmark({**benchmark, "reports": [first, second]}))
    said = [text for _, text in parsed.of("p") if text.startswith("ratio and milliseconds do not agree: 2 is")]
    assert len(said) == (ms == 2.5) and all("would make 1.04" in text for text in said)


def test_a_page_without_times_of_layers_has_no_place_for_them() -> None:
    silent = page_documents.full()
    profiles = {
        name: {**profile, "runs": 0, "run_ms": None, "plain_ms": None, "kernels": [
            {**kernel, "share": None, "profiled_ms": None, "low_ms": None, "high_ms": None}
            for kernel in profile["kernels"]]}
        for name, profile in silent.report["profiles"].items()
    }  # fmt: skip
    silent = silent._replace(report={**silent.report, "profiles": profiles})
    for documents in (silent, page_documents.predicted(), page_documents.emulated(), page_documents.stored("before")):
        heading = next(row for row in page(documents).table("layers") if len(row) > 3)
        rows = [] if documents.report["basis"] == "predicted" else page(documents).table("predictions")
        assert not {*MEASURED} & {*heading} and not [row for row in rows if row[1:2] == ["model"]]
    assert any("tells no times of its kernels" in text for _, text in page(silent).of("p"))


def test_a_benchmark_has_the_kernels_of_each_file() -> None:
    document = page_documents.benchmark()
    rows = [row for row in Page(render_benchmark(document)).table("kernels") if len(row) == 8]
    rows = [row for row in rows if row[0] != "no."]
    kernels = [kernel for profile in document["profiles"].values() for kernel in profile["kernels"]]
    assert [row[1] for row in rows] == [" + ".join(kernel["layers"]) or "of no named layer" for kernel in kernels]
    assert [row[5] for row in rows] == [milliseconds(kernel["profiled_ms"]) for kernel in kernels]
    assert [row[7] for row in rows] == [percent(kernel["share"]) for kernel in kernels]


def test_kernels_shorter_than_what_a_profiler_counts_are_said_to_be() -> None:
    document = page_documents.benchmark()
    profiles = {
        name: {**profile, "kernels": [
            {**kernel, "profiled_ms": 0.0, "low_ms": 0.0, "high_ms": 0.001 * number}
            for number, kernel in enumerate(profile["kernels"])]}
        for name, profile in document["profiles"].items()
    }  # fmt: skip
    rows = Page(render_benchmark({**document, "profiles": profiles})).table("kernels")
    assert [row[5:7] for row in rows if row[0] in ("1", "2")][:2] == [[TOO_SHORT, NONE], [TOO_SHORT, "up to 1 μs"]]
    documents = page_documents.full()
    report = {**documents.report, "profiles": {"deployed": next(iter(profiles.values()))}}
    rows = page(documents._replace(report=report)).table("predictions")
    assert {row[3] for row in rows if len(row) == 6 and row[1] == "deployed"} == {TOO_SHORT}


@pytest.mark.parametrize(
    ("name", "said"),
    [("predicted", "file"), ("emulated", "file that was emulated"), ("measured", "file that was measured")],
)
def test_a_file_that_nobody_measured_is_not_called_measured(name: str, said: str) -> None:
    parsed = Page(PAGES[name]())
    assert [row[0] for row in parsed.table("made") if row[0].startswith("file")] == [said]
    links = {text for attributes, text in parsed.of("a") if attributes["href"] == "#predictions"}
    assert links <= ({f"predicted and {name}"} if name != "predicted" else set())


@pytest.mark.parametrize("name", PAGES)
def test_dashes_and_dots_are_of_what_was_not_measured_alone(name: str) -> None:
    for chart in re.findall(r"<svg .*?</svg>", PAGES[name](), re.DOTALL):
        for group in ElementTree.fromstring(chart).iter("g"):
            if any("dasharray" in str(path.get("style")) for path in group.findall("path")):
                assert {"predicted", "emulated"} & set(group.get("class", "").split()), group.get("class")


def test_a_budget_that_is_missed_says_so() -> None:
    documents = page_documents.full()
    captions = {row[0]: row[1] for row in page(documents).table("budget") if len(row) == 5}
    assert captions["latency as a share of the dense model's"].endswith("0.5x allowed, kept")
    assert captions["drop of top-1 accuracy, in points"].endswith("1 allowed, kept")
    assert captions["peak memory"].endswith("not bounded")
    report = {**documents.report, "budget": {**documents.report["budget"], "size_bytes": 7000, "max_drop": 0.5}}
    captions = {row[0]: row[1] for row in page(documents._replace(report=report)).table("budget") if len(row) == 5}
    assert captions["size"].endswith("7 kB allowed, missed")
    assert captions["drop of top-1 accuracy, in points"].endswith("0.5 allowed, missed")


def test_a_predicted_latency_has_its_interval() -> None:
    documents = page_documents.predicted()
    (row,) = [row for row in page(documents).table("budget") if "90 %" in row[-2]]
    sides = [documents.report[side] for side in ("dense", "deployed")]
    assert row[2:4] == [
        f"{milliseconds(side['median_ms'])} predicted, 90 %: {milliseconds(side['low_ms'])} to "
        f"{milliseconds(side['high_ms'])}"
        for side in sides
    ]


def test_candidates_are_as_promised_and_as_found() -> None:
    documents = page_documents.full()
    rows = [row for row in page(documents).table("candidates") if len(row) == 6][1:]
    steps = [step for step in documents.report["history"] if step["predicted"]]
    assert [row[2] for row in rows] == [f"{step['plan_loss']:.2g}" for step in steps]
    assert [row[3:5] for row in rows] == [
        [f"{step[side]['latency_ratio']:.3g}x" for side in ("predicted", "measured")] for step in steps
    ]
    assert [row[5] for row in rows] == ["missed", "kept"]
    assert [", finalist, chosen" in row[1] for row in rows] == [False, True]
    finalists = [row for row in page(documents).table("candidates") if len(row) == 4][1:]
    assert finalists == [[documents.plan.digest[:8], "onnxruntime", "1", "91.75"]]
    chart = chart_of(html_of(documents), "Loss of each candidate")
    joins = [corners for _, corners in list_drawn(chart, "join")]
    assert len(joins) == 2 and len(list_drawn(chart, "limit")) == 1
    for (before, after), step in zip(joins, steps, strict=True):
        assert (before[0] < after[0]) == (step["predicted"]["latency_ratio"] < step["measured"]["latency_ratio"])
    old = [{name: value for name, value in step.items() if name != "plan_loss"} for step in documents.report["history"]]
    before = page(documents._replace(report={**documents.report, "history": old}))
    assert [row[2] for row in before.table("candidates") if len(row) == 6][1:] == [NONE, NONE]


@pytest.mark.parametrize("drop", [0.0, 6.25, -1.5, None])
def test_a_candidate_that_loses_too_much_has_missed_its_budget(drop: float | None) -> None:
    """It keeps every bound on its cost: nothing but accuracy is bounded."""
    documents = page_documents.predicted()
    tried = {**documents.report["history"][1], "drop": drop, "misses": {}}
    report = {**documents.report, "budget": {**documents.report["budget"], "max_drop": 1.0}, "history": [tried]}
    (head, row) = [row for row in page(documents._replace(report=report)).table("candidates") if len(row) > 4]
    assert row[-1] == ("missed" if drop is not None and drop > 1 else "kept")
    told = [] if drop is None else [f"{drop:.2f}"]
    assert (head[5:-1], row[5:-1]) == (["drop"] * len(told), told)


@pytest.mark.parametrize("name", [*LEANINGS, CLOSER, AGAIN, f"{SEARCH} 3", "tightest", "tightest latency", "final"])
def test_a_page_says_how_a_candidate_was_searched_for(name: str) -> None:
    documents = page_documents.full()
    history = [{**step, "search": step.get("search") and name} for step in documents.report["history"]]
    made = page(documents._replace(report={**documents.report, "history": history}))
    (said,) = [text for _, text in made.of("p") if text.startswith("How each was searched for")]
    assert any(f"{known}, " in said for known in (name, name.split()[0])) and said.count(";") == 0
    dense = [{**step, "search": step.get("search") and "dense"} for step in history]
    plain = page(documents._replace(report={**documents.report, "history": dense}))
    assert not [text for _, text in plain.of("p") if text.startswith("How each was searched for")]


@pytest.mark.parametrize(
    ("dense", "deployed", "told"), [(93.35, 81.9, "11.45"), (93.25, 92.5, "0.75"), (1.0, 2.0, "0.00")]
)
def test_a_drop_is_told_alike_in_the_verdict_and_in_its_bar(dense: float, deployed: float, told: str) -> None:
    documents = page_documents.full()
    report = {**documents.report, "score": {**documents.report["score"], "dense": dense, "deployed": deployed}}
    html = html_of(documents._replace(report=report))
    assert f"drop {told} (1 point allowed)" in html and f"deployed, measured: {told}" in html


def test_what_was_found_is_told_as_a_share_of_what_was_predicted() -> None:
    documents = page_documents.full()
    found, predicted = (documents.report[name]["latency_ms"] for name in ("measured", "predicted"))
    rows = [row for row in page(documents).table("predictions") if row and row[0] == "latency"]
    assert [row[-1] for row in rows] == [f"{found / predicted:.3f}"]


def test_candidates_of_several_runtimes_are_told_apart_by_marks_and_words() -> None:
    documents = page_documents.full()
    alone = html_of(documents)
    assert 'class="sign"' not in alone and "triangles finalists" in alone
    few = {"history": documents.report["history"][:2], "budget": {**documents.report["budget"], "latency_ratio": None}}
    plain = html_of(documents._replace(report={**documents.report, **few}))
    assert "triangles finalists" not in plain, "where there are none"
    for html, bounded in ((alone, True), (plain, False)):
        section = html[html.index('<section id="candidates">') :]
        assert ('class="mark limit"' in section) == bounded, "a budget is in the legend where it is in the chart"
    first, *rest = documents.report["history"]
    several = {**documents.report, "history": [{**first, "runtime": "litert"}, *rest]}
    html = html_of(documents._replace(report=several))
    rows = [row for row in Page(html).table("candidates") if len(row) == 6][1:]
    assert [row[1][0] for row in rows] == ["○", "△"]
    assert "○ litert △ onnxruntime" in [text for _, text in Page(html).of("p")]
    assert "triangles finalists" not in html
    assert len(set(outlines(chart_of(html, "Loss of each candidate")))) == 2


def test_recovery_is_a_line_for_each_part_of_it() -> None:
    documents = page_documents.full()
    shown = " ".join(text for _, text in page(documents).of("figcaption"))
    assert "It went from 2 to 0.25, and is no score" in shown
    steps = [step for step in documents.report["history"] if step["loss"] is None]
    without = documents._replace(report={**documents.report, "history": steps})
    assert "Recovery: the loss" not in " ".join(text for _, text in page(without).of("figcaption"))
    curve = Curve.of(documents.report["history"])
    assert curve is not None and (curve.first, curve.last) == (2.0, 0.25)
    lines = list_drawn(str(curve.chart), "line")
    assert [len(corners) for _, corners in lines] == [3, 3] and ">float<" in curve.chart and ">int8<" in curve.chart


@pytest.mark.parametrize("name", ["full", "full, predicted", "emulated"])
def test_what_changed_in_decisions_is_by_class_confusion_and_sample(name: str) -> None:
    documents = DOCUMENTS[name]()
    changes, parsed = documents.report["changes"], page(documents)
    names = {0: "a cat", 1: "a dog", 2: "class 2"}
    rows = parsed.table("decisions")
    (said,) = [text for _, text in parsed.of("p") if text.startswith("Of ")]
    assert said == (
        "Of 51 answers about test data the deployed file has 4 wrong that were right, 2 right that were wrong."
    )
    kinds = {kind: sum(1 for each in changes["flips"] if is_so(each)) for kind, is_so in {
        "lost": lambda each: each["dense"] == each["label"], "gained": lambda each: each["deployed"] == each["label"],
    }.items()}  # fmt: skip
    assert kinds == {kind: changes[kind] for kind in kinds}
    start = next(i for i, row in enumerate(rows) if row[:2] == ["class", "answered as"])
    assert rows[1:start] == [
        [names[each["label"]], *(str(each[name]) for name in ("count", "dense", "deployed")),
         f"{each['deployed'] - each['dense']:+d}"]
        for each in changes["classes"]
    ]  # fmt: skip
    assert rows[start + 1 :] == [
        [names[each["label"]], names[each["answer"]], str(each["dense"]), str(each["deployed"]),
         f"{each['deployed'] - each['dense']:+d}"]
        for each in changes["confusions"]
    ]  # fmt: skip
    items = [text for _, text in parsed.of("li") if "sample" in text]
    assert [int(item.split("sample ")[1].split(",")[0]) for item in items] == [e["sample"] for e in changes["flips"]]
    pictures = [attributes for attributes, _ in parsed.of("img")]
    assert [each["src"] for each in pictures] == [
        f"data:image/png;base64,{each['picture']}" for each in changes["flips"] if each["picture"]
    ] and all(each["alt"] for each in pictures)
    same = {**changes, "lost": 0, "gained": 0, "otherwise": 0, "classes": [], "confusions": [], "flips": []}
    many = {**changes, "lost": None, "gained": None, "otherwise": None, "flips": []}
    for told, says in ((same, "gives every one as the dense model does"), (many, "right in 3 of the classes")):
        shown = page(documents._replace(report={**documents.report, "changes": told}))
        assert any(says in text for _, text in shown.of("p")) and not list(shown.of("img"))
    none = page(documents._replace(report={**documents.report, "changes": None}))
    assert not [attributes for attributes, _ in none.of("a") if attributes["href"] == "#decisions"]


@pytest.mark.parametrize("name", ["full", "full, predicted", "emulated"])
def test_memory_is_what_is_held_while_each_layer_runs(name: str) -> None:
    documents = DOCUMENTS[name]()
    layers, parsed = documents.report["layers"], page(documents)
    held = {
        who: [each[field]["live_bytes"] + each[field]["scratch_bytes"] for each in layers]
        for who, field in (("dense", "dense_work"), ("deployed", "work"))
    }
    heading, *rows = parsed.table("memory")
    assert heading == ["no.", "layer", "dense", "deployed", "peak"]
    shown = [
        [each["name"], *(show("peak_memory_bytes", side[i]) for side in held.values())] for i, each in enumerate(layers)
    ]
    assert [row[1:4] for row in rows] == shown
    for who, side in held.items():
        at = side.index(max(side))
        assert [who in row[4] for row in rows] == [number == at for number in range(len(rows))]
    chart = chart_of(html_of(documents), "Bytes held while each layer runs")
    lines = {words[-1]: corners for words, corners in list_drawn(chart, "line")}
    assert [*lines] == ["dense", "deployed"]
    for who, ((across, up),) in ((words[-1], places) for words, places in list_drawn(chart, "point")):
        assert up == min(height for _, height in lines[who])  # the peak is marked
        assert lines[who][0][0] < across < lines[who][-1][0]
    gone = [{**layers[0], "work": None}, *layers[1:]]  # which is left out
    row = page(documents._replace(report={**documents.report, "layers": gone})).table("memory")[1]
    assert row[3] == NONE
    for field in ("dense_work", "work"):  # of a report of before
        without = [{name: value for name, value in each.items() if name != field} for each in layers]
        before = page(documents._replace(report={**documents.report, "layers": without}))
        assert not [attributes for attributes, _ in before.of("section") if attributes["id"] == "memory"]


@pytest.mark.parametrize(
    "name, basis", [("full", "measured"), ("full, predicted", "predicted"), ("emulated", "emulated")]
)
def test_a_roofline_has_what_each_layer_reaches_of_the_roofs(name: str, basis: str) -> None:
    documents = DOCUMENTS[name]()
    parsed, roofs = page(documents), documents.report["roofs"]
    facts = {each["name"]: each for each in documents.report["layers"]}
    heading, *rows = parsed.table("roofline")
    assert heading[4:] == ["MACs a byte", "GMAC/s", "GB/s", "of the roof", "bound by"]
    wanted = []
    for number, layer in enumerate(documents.plan.layers, 1):
        for who, precision, ms, field in (
            ("dense", "fp32", layer.dense_ms, "dense_work"),
            ("deployed", layer.option.precision, layer.latency_ms, "work"),
        ):  # fmt: skip
            work = facts[layer.name][field]
            assert ms
            computed, moved = work["macs"] / roofs["gmacs"][precision], work["moved_bytes"] / roofs["bandwidth_gbps"]
            wanted.append([
                str(number), layer.name, who, precision, f"{work['macs'] / work['moved_bytes']:.3g}",
                f"{work['macs'] / ms / 1e6:.3g}", f"{work['moved_bytes'] / ms / 1e6:.3g}",
                percent(max(computed, moved) / 1e6 / ms), "compute" if computed >= moved else "memory",
            ])  # fmt: skip
    assert rows == wanted
    chart = chart_of(html_of(documents), "Multiply-accumulates a second")
    assert [words[0] for words, _ in list_drawn(chart, "line")] == [basis] * 2
    points = list_drawn(chart, "point")
    assert [words for words, _ in points] == [["predicted", "dense"], ["predicted", "deployed"]]  # never measured here
    assert sum(len(places) for _, places in points) == sum(float(row[4]) > 0 for row in wanted)
    for changed in ({"roofs": None}, {"layers": []}):
        without = page(documents._replace(report={**documents.report, **changed}))
        assert not [attributes for attributes, _ in without.of("section") if attributes["id"] == "roofline"]


def test_the_run_is_shown_with_what_bore_on_it() -> None:
    rows = {row[0]: row[1:] for row in page(page_documents.full()).table("latency")}
    assert rows["temperature"] == ["cpu-thermal 48.5 °C", "cpu-thermal 61.2 °C"]
    assert rows["clock"][0] == "2400 to 2403 MHz" and rows["governor"] == ["performance"] * 2
    assert rows["throttled"][0] == "no (since it was started: throttled), 3 times"
    chart = chart_of(html_of(page_documents.full()), "Latency of 1000 runs of the deployed file")
    states = [places for words, places in list_drawn(chart, "point") if words == ["measured", "soft"]]
    (cool, hot), (first, last) = states
    assert hot[1] < cool[1] and first[1] == last[1] and ">66.5 °C<" in chart and ">2400 MHz<" in chart
    (between,) = [places for words, places in list_drawn(chart, "line") if words == ["measured", "soft"]]
    assert len(between) == 11, "where it was looked at in between, of what was told then"
    assert rows["board"] == ["a board"] and rows["memory"] == ["8.2 GB"] and rows["power mode"] == ["MAXN"] * 2


@pytest.mark.parametrize("gone, said", [
    ((), None),
    (("governor",), "governor"),
    (("temperatures", "power_mode"), "temperature, power mode"),
    (("temperatures", "frequencies", "governor", "power_mode", "throttle"),
     "temperature, clock, governor, power mode, throttled"),
], ids=["all is told", "one", "two", "none"])  # fmt: skip
@pytest.mark.parametrize("kind", ["bundle", "benchmark"])
def test_what_a_device_does_not_tell_is_said_in_one_row(kind: str, gone: tuple[str, ...], said: str | None) -> None:
    def without(report: dict[str, Any]) -> dict[str, Any]:
        sides = {
            side: {**told, **dict.fromkeys(gone)} for side, told in report["conditions"].items() if side != "during"
        }
        return {**report, "conditions": sides}

    made, benchmark = page_documents.full(), page_documents.benchmark()
    if kind == "bundle":
        deployed = without(made.report["deployed"])
        parsed = Page(render_bundle(made.manifest, made.plan, {**made.report, "deployed": deployed}))
    else:
        parsed = Page(render_benchmark({**benchmark, "reports": list(map(without, benchmark["reports"]))}))
    rows = parsed.table("latency" if kind == "bundle" else "device")
    assert [row[1] for row in rows if row[0] == "not told by the device"] == ([] if said is None else [said])
    assert not {row[0] for row in rows} & {*(said or "").split(", ")}, "and in no row of its own"


def test_what_asks_for_the_same_is_a_command() -> None:
    documents = page_documents.full()
    assert [text for _, text in page(documents).of("pre")] == [documents.report["command"]]
    rows = {row[0]: row[1:] for row in page(documents).table("made")}
    assert rows["plan"] == [documents.plan.digest] and rows["seed"] == ["7"]
    assert rows["model.onnx"] == [show("size_bytes", 7267), "e" * 64]


@pytest.mark.parametrize("kind", ["bundle", "front", "diff", "benchmark"])
@pytest.mark.parametrize("command", ["edgesdk sweep 'a b.py:net' <script>", None, ...], ids=["given", "none", "before"])
def test_every_page_has_the_command_or_says_that_none_is_known(kind: str, command: Any) -> None:
    """A document of before has no such field."""
    kept = page_documents.full()
    document = kept.report if kind == "bundle" else getattr(page_documents, kind)()
    document = {name: value for name, value in document.items() if name != "command"}
    document |= {} if command is ... else {"command": command}
    render = {"front": render_front, "diff": render_diff, "benchmark": render_benchmark}
    html = render_bundle(kept.manifest, kept.plan, document) if kind == "bundle" else render[kind](document)
    parsed, told = Page(html), "--target x86 --runtime onnxruntime --threads 1 --latency 0.5x --size 9000B --max-drop 1"
    shown = [text for _, text in parsed.of("pre")]
    if isinstance(command, str):
        assert shown == [command]
    else:
        assert shown == ([f"{told} --epochs 3 --seed 7"] if kind == "bundle" else [])
        assert any("No command is recorded" in text for _, text in parsed.of("p"))
    assert not re.search("MODEL|DATA|NUMBER", " ".join(shown))


@pytest.mark.parametrize("documents", [page_documents.full(), page_documents.predicted()], ids=BASES[1::-1])
def test_what_is_html_in_names_is_text(documents: Documents) -> None:
    harmless, harmful = page(with_names(documents, "name ")), page(with_names(documents, HTML))
    assert [tag for tag, _ in harmful.tags] == [tag for tag, _ in harmless.tags]
    keys = [[sorted(attributes) for _, attributes in parsed.tags] for parsed in (harmless, harmful)]
    assert keys[0] == keys[1]
    assert [text for _, text in harmful.of("script")] == [text for _, text in harmless.of("script")]
    names = [row[1] for row in harmful.table("layers") if len(row) > 3][1:]
    assert names == [" ".join(f"{HTML}{layer.name} {HTML}".split()) for layer in documents.plan.layers]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something is in ``value``; of what stands in a list, in the first."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in entries:
        yield from _paths(item, (*path, key))


def _put(value: Any, path: tuple[Any, ...], item: Any) -> Any:
    if not path:
        return item
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _put(value[path[0]], path[1:], item)
    return copy


@pytest.mark.parametrize("documents", [page_documents.full(2), page_documents.predicted(2)], ids=BASES[1::-1])
def test_what_a_document_may_leave_open_a_page_does_not_need(documents: Documents) -> None:
    """Every field is null where the schema allows that: every ninth at once, so that what hides one hides few."""
    report = {**documents.report, "beside": {}, "deployed": {**documents.report["deployed"]}}
    report["deployed"] |= {"samples_ms": []} if "samples_ms" in report["deployed"] else {}
    contracts.check(report)
    open_paths = [path for path in _paths(report) if path and path != ("measured",) and _may_be_null(report, path)]
    assert len(open_paths) > 15
    for first in range(9):  # "measured" goes with the basis
        changed = report
        for path in reversed(open_paths[first::9]):  # what lies within another before that one
            changed = _put(changed, path, None)
        Page(render_bundle(documents.manifest, documents.plan, changed))


def _may_be_null(report: dict[str, Any], path: tuple[Any, ...]) -> bool:
    try:
        contracts.check(_put(report, path, None))
    except (jsonschema.ValidationError, AttributeError, TypeError):  # no schema, or no document
        return False
    return True


def test_a_diff_is_its_layers_and_what_to_try() -> None:
    compared = page_documents.diff()
    parsed = Page(render_diff(compared))
    said = [text for _, text in parsed.of("p")]
    assert all(line in said for line in list_verdict(compared))
    assert [text for attributes, text in parsed.of("p") if attributes.get("class") == "verdict missed"] == [
        "fc is the first layer that leaves its specification"
    ]
    heading, *rows = parsed.table("layers")
    assert heading[2:5] == ["alone", "file", "simulation"]
    assert rows == [
        ["1", "conv", "equal", "42 dB, 1.5", "30 dB, 3", "0.2 %", "40", "2.5", "costs most: 1"],
        ["2", "act", "-", "-", "-", NONE, NONE, NONE, "not seen"],
        ["3", "fc", "8 dB, 90", "8 dB, 91", "42 dB, 1.5", "0 %", "3.5", "12", "not as specified"],
    ]
    assert parsed.table("advice")[1] == list(compared["advice"][0].values())
    lines = {words[0]: corners for words, corners in list_drawn(render_diff(compared), "line")}
    assert set(lines) == {"simulation", "file", "alone"}
    assert all(len(corners) == 2 for corners in lines.values())  # what was not seen is in none
    assert lines["alone"][0][1] < min(height for _, height in lines["file"])  # what is equal is at the top
    sound = {**compared, "first": None, "holds": True, "costliest": [], "advice": [], "ends_apart": 0.0, "outputs": 0.0}
    plain = Page(render_diff(sound))
    assert [text for a, text in plain.of("p") if a.get("class") == "verdict kept"] == [
        "every layer that was seen computes what was specified"
    ]
    assert not [attributes for attributes, _ in plain.of("section") if attributes["id"] == "advice"]


def test_a_benchmark_is_its_files_beside_each_other() -> None:
    benchmark = page_documents.benchmark()
    parsed = Page(render_benchmark(benchmark))
    reports = {report["name"]: report for report in benchmark["reports"]}
    rows = {row[0]: row[1:] for row in parsed.table("latency") if len(row) == 9}
    for name, report in reports.items():
        times = [report["undisturbed"]["ms"], *(report["statistics"][each] for each in ("p50", "p90", "p99", "max"))]
        assert rows[name][:6] == [*map(milliseconds, times), milliseconds(report["load_ms"])]
        assert rows[name][7] == show("size_bytes", report["size_bytes"])
    energies = [row for row in parsed.table("latency") if len(row) == 2]
    assert energies == [
        ["a.onnx", "3.25 mJ beyond idle (standard error 0.12), 8.5 mJ with it; 6.75 W at work, 4.12 W idle, by rapl "
                   "(package-0) a name"],
        ["b.onnx", "no figure: the meter stopped: 2 s (by my meter)"],
    ]  # fmt: skip
    assert parsed.table("ratios")[1] == ["a.onnx", "other", "0.500", "0.400 to 0.600", "7"]
    assert [text for a, text in parsed.of("p") if a.get("class") == "missed"] == [
        "b.onnx: not valid: throttled after the run"
    ]
    assert [text for _, text in parsed.of("h3")] == ["a.onnx", "b.onnx", "a.onnx"]  # b has kernels, and no samples
    assert {row[0] for row in parsed.table("device")} >= {"temperature", "clock", "board"}


def test_a_benchmark_says_what_each_file_ran_in() -> None:
    benchmark = page_documents.benchmark()
    first, second = benchmark["reports"]
    for changed, said, cells in (
        ({}, "onnxruntime 1.32.0", []),
        ({"runtime": "litert", "runtime_version": "2.1.0"}, "onnxruntime 1.32.0, litert 2.1.0",
         [["onnxruntime 1.32.0"], ["litert 2.1.0"]]),
        ({"runtime_version": "1.31.0"}, "onnxruntime 1.32.0, onnxruntime 1.31.0",
         [["onnxruntime 1.32.0"], ["onnxruntime 1.31.0"]]),
    ):  # fmt: skip
        parsed = Page(render_benchmark({**benchmark, "reports": [first, {**second, **changed}]}))
        assert [f", {said}, 1 thread, mode " in text for _, text in parsed.of("p")].count(True) == 1
        head, *rows = [row for row in parsed.table("latency") if len(row) > 2]
        assert (head[1] == "runtime") == bool(cells)
        assert [row[1:2] for row in rows if cells] == cells and {len(row) for row in rows} == {len(head)}


@pytest.mark.parametrize("made, document", [
    (render_front, page_documents.front()), (render_front, page_documents.models()),
    (render_benchmark, page_documents.benchmark()), (render_diff, page_documents.diff()),
], ids=["front", "models", "benchmark", "diff"])  # fmt: skip
def test_what_is_html_in_other_documents_is_text_too(made: Callable[[Any], str], document: Any) -> None:
    harmless, harmful = Page(made(with_text(document, "name "))), Page(made(with_text(document, HTML)))
    assert [tag for tag, _ in harmful.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(attributes) for _, attributes in harmful.tags] == [sorted(a) for _, a in harmless.tags]
    assert any(HTML[:20] in text for _, text in harmful.of("td"))


def test_a_page_of_a_large_network_stays_small() -> None:
    documents = page_documents.full(layers=4000)
    layers = tuple(replace(each, name=f"blocks.{'deep.' * 60}{each.name}") for each in documents.plan.layers)
    rejected = documents.plan.rejected * 2000
    changes = documents.report["changes"]
    flips = [{**changes["flips"][0], "picture": "A" * (4 * SIDE * SIDE + 200)}] * FLIPS  # of noise, which packs least
    facts = [{**each, "name": layer.name} for each, layer in zip(documents.report["layers"], layers, strict=True)]
    names = {short.name: long.name for short, long in zip(documents.plan.layers, layers, strict=True)}
    profiles = {
        who: {**profile, "kernels": [
            {**kernel, "layers": [names[name] for name in kernel["layers"]]} for kernel in profile["kernels"]
        ]}
        for who, profile in documents.report["profiles"].items()
    }  # fmt: skip
    report = {**documents.report, "layers": facts, "changes": {**changes, "flips": flips}, "profiles": profiles}
    html = render_bundle(documents.manifest, replace(documents.plan, layers=layers, rejected=rejected), report)
    Page(html)
    assert len(html.encode()) < LARGEST
    assert re.search(r"3.500 more are in plan.json", html) and re.search(r"3.700 more are in plan.json", html)


@pytest.mark.parametrize("values", [[0.02, 4.3], [3.0, 3.0], [1e-4, 1e5], [1.1, 1.2], [0.0, 0.08, 0.17]])
def test_an_axis_has_a_few_round_figures(values: list[float]) -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    by_ratios(axes, values)
    axes.set_ylim(0, max(values))
    tell_axes(axes, ("", milliseconds), ("", lambda value: digits(value, 3)))
    low, high = axes.get_xlim()
    assert all(low < value < high for value in values if value)
    for axis in (axes.xaxis, axes.yaxis):
        within = [tick for tick in axis.get_majorticklocs() if axis.get_view_interval()[0] <= tick <= max(values) * 1.1]
        assert 1 <= len(within) <= 12 and all(float(f"{tick:.3g}") == pytest.approx(tick) for tick in within)


def test_samples_that_would_flatten_the_chart_are_counted() -> None:
    every = [1 + 0.01 * (number % 10) for number in range(1000)] + [50.0, 70.0]
    chart = Samples.of("samples", every, None, "a file")
    assert chart is not None
    assert (chart.beyond, chart.longest_ms, chart.count) == (2, 70.0, 1002)
    assert [name for name, _ in chart.marks] == ["p50", "p90", "p99"] and ">p99<" in chart.by_latency
    assert max(float(each) for each in re.findall(r">([\d.]+) ms<", chart.over_run)) < 2
    assert Samples.of("none", [1.0], None, "a file") is None and Samples.of("same", [2.0, 2.0], None, "") is not None


def test_a_chart_is_the_same_each_time_and_the_user_s_own_settings_change_nothing() -> None:
    import matplotlib

    first = PAGES["measured"]()
    with matplotlib.rc_context({"font.size": 30.0, "svg.fonttype": "path", "lines.marker": "x", "axes.grid": True}):
        assert render_bundle(*page_documents.stored("measured")) == first
        assert matplotlib.rcParams["font.size"] == 30.0
