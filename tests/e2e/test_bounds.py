"""What bounds bring about: weights stored small, integers of four bits, the fastest within a drop. Nothing is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chain import DENSE_BYTES, write_chain
from given import document, edgesdk

from edgesdk.bundle.bundle import Bundle


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A network whose accuracy is dear, and a target that is known by its profile."""
    return *write_chain(tmp_path_factory.mktemp("chain")), "--target", "pi4"


def deployed(out: Path, *arguments: str) -> dict[str, Any]:
    report = document(edgesdk("deploy", *arguments, "--out", out, "--json"))["report"]
    assert document(edgesdk("verify", out, "--json"))["valid"]
    return report


@pytest.mark.parametrize(("size", "method", "least"), [(27_000, "fp16", 99), (12_000, "k-means", 70)])
def test_weights_stored_small_keep_a_bound_on_the_file(
    given: tuple[str, ...], tmp_path: Path, size: int, method: str, least: float
) -> None:
    offered = ("--precision", "fp32", "--candidate", "fp16", "--candidate", "k-means", "--epochs", "0")
    report = deployed(tmp_path / "bundle", *given, *offered, "--size", f"{size}B")
    forms = [option.form for option in Bundle.open(tmp_path / "bundle").plan.options.values() if option.form]
    assert all(form.stored for form in forms) and method in {form.method for form in forms}
    assert report["deployed"]["size_bytes"] == (tmp_path / "bundle" / "model.onnx").stat().st_size <= size
    assert report["dense"]["size_bytes"] == pytest.approx(DENSE_BYTES, rel=0.05)
    assert report["parity"]["top1_differs"] == 0.0
    assert report["score"]["deployed"] > least


def test_four_bit_weights_come_where_size_binds(given: tuple[str, ...], tmp_path: Path) -> None:
    for size, bits in ((40_000, {8, 32}), (12_000, {4, 8, 32})):
        search = ("search", *given, "--size", f"{size}B", "--out", tmp_path / f"{size}.json", "--json")
        printed = document(edgesdk(*search))
        assert {layer["option"]["weight_bits"] for layer in printed["layers"]} <= bits
        assert printed["predicted"]["size_bytes"] <= size
    assert 4 in {layer["option"]["weight_bits"] for layer in printed["layers"]}


@pytest.mark.parametrize("drop", [5.0, 30.0])
def test_the_fastest_within_a_drop_keeps_the_drop(given: tuple[str, ...], tmp_path: Path, drop: float) -> None:
    report = deployed(tmp_path / "fast", *given, "--max-drop", str(drop), "--epochs", "1")
    tried = [step["drop"] for step in report["history"] if step.get("drop") is not None]
    assert len(tried) > 1 and max(tried) > 5  # what is faster yet costs accuracy here
    assert report["score"]["dense"] - report["score"]["deployed"] <= drop
    assert report["deployed"]["median_ms"] < report["dense"]["median_ms"]
