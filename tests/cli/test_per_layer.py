"""`edgesdk benchmark --per-layer`: what the runtime ran for each layer, by its own profiler."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Run

from edgesdk.workflows.profiling import name_layers

LAYERS = ("conv", "conv1", "block.conv1", "add", "add_1", "fc", "a/b")


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["conv"], ("conv",)),
        (["conv1.0"], ("conv1",)),  # the first half of a low-rank form
        (["block.conv1.weight", "relu"], ("block.conv1",)),
        (["node_add_1"], ("add_1",)),
        (["node_add", "fc.bias.unpack"], ("add", "fc")),
        (["a/b/Conv"], ("a/b",)),
        (["convolution", "Transpose", "fc2"], ()),
        ([], ()),
    ],
)
def test_names_of_a_file_are_those_of_layers(names: list[str], layers: tuple[str, ...]) -> None:
    assert name_layers(names, LAYERS) == layers


def test_every_weighted_layer_of_a_bundle_has_its_kernels(edgesdk: Run, deployed: tuple[Path, str]) -> None:
    bundle = deployed[0]
    done = edgesdk("benchmark", bundle, "--mode", "brief", "--per-layer", "--json").document
    kernels = done["kernels"][bundle.name]
    assert {"conv", "fc"} <= {layer for kernel in kernels for layer in kernel["layers"]}
    assert sum(kernel["share"] for kernel in kernels) == pytest.approx(1)
    assert all(kernel["profiled_ms"] >= 0 for kernel in kernels)
    plain = edgesdk("benchmark", bundle, "--mode", "brief", "--per-layer")
    assert "under the profiler they add up to" in plain.out and " fc " in plain.out
    assert edgesdk("benchmark", bundle, "--mode", "brief", "--json").document["kernels"] == {}


def test_each_runtime_tells_what_it_can(edgesdk: Run, deployed: tuple[Path, str], given: Path, tmp_path: Path) -> None:
    plan, model = deployed[0] / "plan.json", f"{given / 'models.py'}:Small"
    made = edgesdk("export", plan, model, "--data", given / "data.npz", "--out", tmp_path / "files")
    assert made.code == 0, made.err
    files = sorted(path for path in (tmp_path / "files").iterdir() if path.suffix in (".onnx", ".xml", ".tflite"))
    assert len(files) == 3
    done = edgesdk("benchmark", *files, "--mode", "brief", "--per-layer", "--json").document
    assert list(done["kernels"]) == [path.name for path in files]
    for path in files:
        kernels = done["kernels"][path.name]
        timed = [kernel["share"] for kernel in kernels if kernel["share"] is not None]
        assert kernels and (not timed if path.suffix == ".tflite" else sum(timed) == pytest.approx(1))
        assert any("conv" in name for kernel in kernels for name in kernel["layers"])
    assert "tells no times of its kernels" in edgesdk("benchmark", files[1], "--mode", "brief", "--per-layer").out
