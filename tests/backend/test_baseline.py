"""The tiny models that runtimes are paged in with are the probe that they are said to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgesdk.core.artifact import Artifact, baseline, open_file
from edgesdk.core.plan import INT8
from edgesdk.export.formats import probe_file
from edgesdk.price.operator import Operator

PROBE = Operator("alone", INT8, 8, 8, (8, 8))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert"])
def test_it_computes_what_the_probe_does(tmp_path: Path, runtime: str) -> None:
    kept = baseline(tmp_path, runtime)
    made = tmp_path / f"probe{kept.suffix}"
    made.write_bytes(probe_file(PROBE, runtime))
    first, second = (open_file(Artifact(path, runtime=runtime)) for path in (kept, made))
    assert list(first.inputs) == list(second.inputs)
    name = next(iter(first.inputs))
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    for a, b in zip(first.run({name: x}), second.run({name: x}), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_has_the_probes_operators(tmp_path: Path) -> None:
    kept, made = onnx.load(baseline(tmp_path, "onnxruntime")), onnx.load_from_string(probe_file(PROBE, "onnxruntime"))
    assert [node.op_type for node in kept.graph.node] == [node.op_type for node in made.graph.node]
