"""Forms of layers that are asked for by name, deployed on the built-in example."""

from __future__ import annotations

from pathlib import Path

from given import document, edgesdk

from edgesdk.bundle.bundle import Bundle


def test_weights_stored_small_keep_a_bound_on_the_file(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    given = ["--precision", "fp32", "--size", "120kB", "--candidate", "fp16", "--candidate", "k-means", "--epochs", "0"]
    report = document(edgesdk("deploy", "--target", "x86", *given, "--out", out, "--json"))["report"]
    options = Bundle.open(out).plan.options.values()
    assert any(option.form is not None and option.form.stored for option in options)
    assert report["measured"]["size_bytes"] == (out / "model.onnx").stat().st_size <= 120_000
    assert report["parity"]["top1_differs"] == 0.0
    assert report["score"]["deployed"] > 90
    assert document(edgesdk("verify", out, "--json"))["valid"]
