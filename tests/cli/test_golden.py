"""What people read, at 80 and 160 columns, word for word. ``EDGESDK_GOLDEN=write`` writes the files anew."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_documents import benchmark, diff, front, full, models
from rich.console import Console
from running import Run

from edgesdk.bundle.bundle import Bundle
from edgesdk.cli.diffing import show_diff
from edgesdk.cli.documents import Doctor
from edgesdk.cli.show import show_bundle, show_gate, show_search
from edgesdk.cli.show_devices import show_doctor
from edgesdk.cli.show_measured import show_profile, show_report
from edgesdk.cli.show_targets import show_estimate, show_estimates
from edgesdk.cli.sweeping import show_front
from edgesdk.core.budget import Cost
from edgesdk.core.facts import Facts
from edgesdk.core.gating import Check, Limit, Slowdown
from edgesdk.core.plan import Plan, Proof
from edgesdk.core.serialize import from_json
from edgesdk.devices.estimate import Estimate, Estimates, LayerCost
from edgesdk.pages.verdict import verdict
from edgesdk.workflows.benchmark import Benchmark
from edgesdk.workflows.diff import Diff
from edgesdk.workflows.front import Front
from edgesdk.workflows.gate import Gate, judge_latency

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = (80, 160)


def agrees(name: str, said: str) -> None:
    path = GOLDEN / name
    if os.environ.get("EDGESDK_GOLDEN") == "write":
        path.write_text(said)
    assert said == path.read_text()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "command",
    [(), ("device",), ("prepare",), ("agent",), ("targets",),
     ("targets", "pi4")],
    ids=lambda words: "-".join(words).replace("---", "-") or "alone",
)  # fmt: skip
def test_what_needs_no_model(
    edgesdk: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = edgesdk(*command)
    assert (done.code, done.err) == (0, "")
    if "--help" not in command and command:
        assert command == ("targets", "pi4") or all(len(line) <= width for line in done.out.splitlines())
    agrees(f"{'-'.join(command).replace('---', '-') or 'alone'}-{width}.txt", done.out)


def bundle(name: str, **changes: Any) -> Any:
    """A bundle that a run made, as its files have it; with ``changes`` to its report."""
    kept = json.loads((GOLDEN / f"{name}.json").read_text())
    report = {**kept["report"], **changes}
    plan = from_json(Plan, kept["plan"])
    return Bundle(Path("bundle"), kept["manifest"], plan, report)


def shown(made: Any, width: int, **how: bool) -> str:
    out = io.StringIO()
    show_bundle(made, Console(file=out, width=width), **how)
    return out.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["measured", "predicted"])
def test_the_end_of_a_run(name: str, width: int) -> None:
    said = shown(bundle(name), width)
    agrees(f"{name}-{width}.txt", said)
    table = [line for line in said.splitlines() if line[:1] in "┏┃┡│└"]
    assert all(len(line) <= width for line in table)
    assert said.splitlines()[:3] == list(verdict(bundle(name).report, bundle(name).manifest))


@pytest.mark.parametrize("name", ["measured", "predicted"])
def test_quiet_is_the_verdict_and_verbose_everything(name: str) -> None:
    made = bundle(name)
    quiet, usual, verbose = shown(made, 160, quiet=True), shown(made, 160), shown(made, 160, verbose=True)
    assert len(quiet.splitlines()) == 4
    assert set(quiet.splitlines()) <= set(usual.splitlines())
    for note in made.report["notes"]:
        assert note.split()[0] in verbose and f"note: {note[:30]}" not in usual
    assert all(layer.name in verbose for layer in made.plan.layers)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_front(width: int) -> None:
    """Nothing of a figure is cut off, not even where it is wide."""
    out, made = io.StringIO(), from_json(Front, front())
    first, second, *others = made.points
    wide = replace(first, predicted=Cost(0.0123456, 123_456, 123_456, "predicted"), loss=1.23e-5)
    far = replace(second, plan=replace(second.plan, proof=Proof(0.8, 0.35, 0.56, 60.0, "HiGHS")))
    show_front(replace(made, points=(wide, far, *others)), Console(file=out, width=width))
    said = out.getvalue()
    agrees(f"front-{width}.txt", said)
    assert all(whole in said for whole in ("123.5 kB 123.5 kB", "0.67 %", "0.45")) and "…" not in said


def say_benchmark(out: Console) -> None:
    measured = from_json(Benchmark, benchmark())
    for report in measured.reports:
        show_report(report, out)
        show_profile(report.name, measured.profiles[report.name], out)


def say_verbose(out: Console) -> None:
    made = full()
    whole = Bundle(Path("bundle"), made.manifest, made.plan, made.report)
    show_bundle(whole, out, verbose=True)  # pyright: ignore[reportArgumentType]


ESTIMATE = Estimate(
    3.456, 1_080_000, 71_340, "predicted", latency_low_ms=1.79, latency_high_ms=8.6, runtime_memory_bytes=45_000_000,
    target="raspberry-pi-5", runtime="onnxruntime", threads=4, provenance={"fp32": "measured", "int8": "derived"},
    grounds={"fp32": "1240 networks, not stated, 2025; mean error 0.6 %",
             "int8": "no network of its own, none was measured, 2026-11-21; error not measured"},
    sources=("Published Benchmarks by A. N. Author, https://example.org/figures/of/boards/that/are/many, 2025",),
    unknown=("gru",), notes=("int8 is derived from the chip's facts",),
    layers=(LayerCost("features.0.block.conv", "conv2d, relu", 3.4), LayerCost("classifier", "linear", 0.056)),
)  # fmt: skip


def say_estimates(out: Console) -> None:
    other = replace(ESTIMATE, target="jetson-orin-nano", runtime="tensorrt", latency_ms=0.0123, threads=1)
    refused = {f"{name}, ncnn": "nothing is known of ncnn with fp32" for name in ("a-board", "another-board")}
    show_estimates(Estimates((other, ESTIMATE), refused), out)


def say_doctor(out: Console) -> None:
    facts = Facts(cpu="AMD Ryzen Embedded V1807B with Radeon Vega Gfx", cores=8, features=("avx2", "f16c", "fma"))
    packages = {"torch": "2.13.0+cpu", "onnxruntime": "1.32.0", "ai-edge-litert": None}
    cache = "/home/somebody/.cache/a/folder/that/lies/rather/deep/and/has/a/long/name/edgesdk"
    show_doctor(Doctor("0.1.0", "3.11.7", packages, facts, False, cache), out)


def say_gate(out: Console) -> None:
    checks = (
        judge_latency(Slowdown(1.061, 1.043, 1.08, 8, 0.202, 0.0123, 0.0087, 0.0161), Limit(share=0.03), None),
        Check("drop", "not comparable", "0.5 points", "the two were judged on other samples: give --data"),
    )
    gated = Gate(
        "failed", "build/bundles/new", "build/bundles/old", checks, None, None, "onnxruntime", "1.32.0", 2, "rapid",
        "local", (),
    )  # fmt: skip
    show_gate(gated, out)


SAID: dict[str, Callable[[Console], None]] = {
    "benchmark": say_benchmark,
    "verbose": say_verbose,
    "diff": lambda out: show_diff(from_json(Diff, diff()), out),
    "models": lambda out: show_front(from_json(Front, models()), out),
    "estimate": lambda out: show_estimate(ESTIMATE, True, out),
    "estimates": say_estimates,
    "doctor": say_doctor,
    "gate": say_gate,
    "plan": lambda out: show_search(full().plan, out, verbose=True),
}
"""What commands end in, of documents in which everything is said that can be."""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SAID)
def test_the_end_of_other_commands(name: str, width: int) -> None:
    out = io.StringIO()
    SAID[name](Console(file=out, width=width))
    said = out.getvalue()
    agrees(f"{name}-{width}.txt", said)
    assert all(len(line) <= width for line in said.splitlines() if line[:1] in "┏┃┡│└") and "…" not in said


def line(name: str = "measured", **changes: Any) -> str:
    made = bundle(name, **changes)
    return verdict(made.report, made.manifest)[0]


def budget(**bounds: float) -> dict[str, Any]:
    names = ("latency_ms", "latency_ratio", "peak_memory_bytes", "size_bytes", "max_drop", "score")
    return {**dict.fromkeys(names), "percentile": None, **bounds}


def test_the_first_line_says_what_became_of_each_bound() -> None:
    assert line(budget=budget(size_bytes=1e9)).startswith("budget kept: size ")
    assert line(budget=budget(size_bytes=1.0)).startswith("budget missed: size ")
    both = line(budget=budget(size_bytes=1e9, latency_ms=1e-9))
    assert both.startswith("budget missed: latency ") and ", size " in both
    assert line(budget=budget(max_drop=100.0)).startswith("budget kept: latency ")
    assert "drop 5.00 (1 point allowed)" in line(budget=budget(max_drop=1.0), score={"dense": 90.0, "deployed": 85.0})
    assert line(budget=budget(max_drop=1.0), score={"dense": 90.0, "deployed": 85.0}).startswith("budget missed")
    assert "drop 0.00 (1 point allowed)" in line(budget=budget(max_drop=1.0), score={"dense": 90.0, "deployed": 95.0})
    assert line("predicted", budget=budget(size_bytes=1e9)).startswith("budget kept, as predicted: ")


def test_the_first_line_says_what_grew_that_nobody_bounded() -> None:
    dense = bundle("measured").report["dense"]
    told = {"latency_ms": 1.0, "latency_ratio": 2.08, "peak_memory_bytes": 1.01 * dense["peak_memory_bytes"]}
    told["size_bytes"] = 1.5 * dense["size_bytes"]
    grew = "; not bounded, and grew: latency 2.08x of dense"
    assert line(measured=told, budget=budget(size_bytes=1e9)).endswith(grew)
    assert line(measured=told, budget=budget()).endswith(f"{grew}, size 1.50x of dense")
    assert "grew" not in line(measured=told, budget=budget(size_bytes=1e9, latency_ratio=3.0))
    assert "grew" not in line(measured=told, budget=budget(), compressed=False)


def test_the_first_line_says_what_share_of_the_work_was_out_of_reach() -> None:
    gru, pool = "gru has no compressed form here", "cumsum has no compressed form here"
    assert line(out_of_reach={gru: 0.6, pool: 0.02}).endswith(
        f"; 62 % of the multiplications were out of reach ({gru})"
    )
    assert "out of reach" not in line(out_of_reach={gru: 0.05}) and "out of reach" not in line(out_of_reach={})


def test_that_nothing_was_compressed_is_the_verdict() -> None:
    reasons = ["no other choice", "no other choice", "int8 would save 3 us at a price"]
    said = line(compressed=False, reasons=reasons, budget=budget(size_bytes=1e9))
    assert said.startswith("nothing was compressed (no other choice), budget kept by the dense model: size ")
    assert line(compressed=False, reasons=reasons[2:]).startswith("nothing was compressed, ")
    mostly = ["fp32 is the fastest here", "int8 would save 3 us at a price", "int8 would save 4 us at a price"]
    assert line(compressed=False, reasons=mostly).startswith("nothing was compressed, ")
