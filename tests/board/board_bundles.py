"""Bundles as a deployment packs them, with a model that loads in no time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgesdk.core.budget import Cost
from edgesdk.core.plan import LayerPlan, Option, Plan, Proof
from edgesdk.core.serialize import dumps

PLAN = Plan(
    "0" * 64, "x86", "onnxruntime", 1, {}, (LayerPlan("fc", Option(), 0.01, "made up"),), (),
    Cost(0.01, 1000.0, 1000.0, "predicted"), Proof(1.0, 1.0, 0.0, 0.1, "HiGHS"),
)  # fmt: skip


def bundle(
    folder: Path,
    number: int = 1,
    *,
    bytes_more: int = 0,
    budget: Mapping[str, Any] | None = None,
    model: bytes | None = None,
    off_by: float = 0.0,
    **manifest: Any,
) -> Path:
    """The ``number``-th version of a bundle, made on that day, in ``folder``; that folder.

    ``bytes_more`` makes its model larger, ``budget`` is in its report, ``model`` stands for the one that it would have,
    and its recorded outputs are wrong by ``off_by``. What else is named replaces that of the manifest.
    """
    folder.mkdir(parents=True)
    weight = np.random.default_rng(number).standard_normal((8, 4)).astype(np.float32)
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    (folder / "model.onnx").write_bytes(model if model is not None else _dense(weight, bytes_more))
    np.savez_compressed(folder / "sample.npz", **{"input:x": x, "output:y": x @ weight + np.float32(off_by)})
    (folder / "plan.json").write_text(dumps(PLAN))
    limits = {"latency_ms": None, "peak_memory_bytes": None, "size_bytes": None, "max_drop": None, "percentile": None}
    report = {"schema": 1, "basis": "measured", "budget": {**limits, **(budget or {})}, "notes": []}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "run.py").write_text(resources.files("edgesdk_targets").joinpath("bundle_run.py").read_text())
    whole = {
        "schema": 1,
        "edgesdk": "0.1.0",
        "created": f"2026-03-{number:02}T12:00:00Z",
        "target": "x86",
        "basis": "measured",
        "architecture": None,
        "runtime": {"name": "onnxruntime", "version": "1.23.0", "minimum": "1.18", "precision": None},
        "model": "model.onnx",
        "format": "onnx",
        "layout_inside": "NCHW",
        "threads": 1,
        "plan": PLAN.digest,
        "graph": PLAN.graph_digest,
        "inputs": [{"name": "x", "shape": [1, 8], "dtype": "float32", "layout": "NC", "normalization": None}],
        "outputs": [{"name": "y", "shape": [1, 4], "dtype": "float32"}],
        "files": {path.name: entry(path) for path in sorted(folder.iterdir())},
    }
    return record(folder, {**whole, **manifest})


def record(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """Write ``manifest`` into ``folder``; that folder."""
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return folder


def identifier(folder: Path) -> str:
    """The name that the version in ``folder`` has on a device."""
    content = (folder / "manifest.json").read_bytes()
    created = json.loads(content)["created"].replace("-", "").replace(":", "")
    return f"{created}-{hashlib.sha256(content).hexdigest()[:12]}"


def entry(path: Path) -> dict[str, Any]:
    """What a manifest says of the file at ``path``."""
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _dense(weight: np.ndarray, bytes_more: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, bytes_more, dtype=np.uint8)  # nothing packs it smaller
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(noise, "noise")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
