"""One plan, five formats: every file is the model that PyTorch simulates, in the bits of the specification."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from slow import core
from torch import Tensor

import edgesdk_targets
from edgesdk.compress.apply import compressed
from edgesdk.compress.integers import UNSIGNED
from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import FidelityError
from edgesdk.core.graph import ADD, WEIGHTED
from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import find_runtime, format_of
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.example.data import example_data
from edgesdk.export import onnx as onnx_file
from edgesdk.export import openvino
from edgesdk.export.executorch.check import check as check_executorch
from edgesdk.export.formats import grid_of, save
from edgesdk.export.ncnn.check import check as check_ncnn
from edgesdk.export.parity import fallbacks, parity, runner
from edgesdk.export.simulation import list_called
from edgesdk.export.tflite.check import check as check_tflite
from edgesdk.network.network import Network

NETWORKS = ("resnet20", "mobilenet_v2", "ds_cnn", "vit", "conv_gru", "example")
PLANS = ("dense", "int8", "mixed", "int4", "pruned", "low rank", "all")
RUNTIMES = ("onnxruntime", "openvino", "litert", "ncnn", "executorch")
LOWERED = ("dense", "int8", "all")  # what ExecuTorch is shown: it takes seconds for each file
CASES = [
    (name, plan, runtime)
    for name in NETWORKS
    for plan in PLANS
    for runtime in RUNTIMES
    if (plan != "int4" or 4 in find_runtime(runtime).weight_bits) and (runtime != "executorch" or plan in LOWERED)
]
INTEGER = [case for case in CASES if case[1] in ("int8", "mixed", "int4", "all")]
OLDER = [(name, plan) for name in NETWORKS for plan in PLANS if plan not in ("int4", "all")]
QUARTER = 0.30  # of the dense file's bytes, for ResNet-20
FLIPS = 0.003
LACKING = ("litert", "tflite", "ncnn")  # kernels that others have, of these networks
OLD = ("tflite-runtime==2.14.0", "numpy<2")  # the last of its name; it was made for NumPy 1


def quick(name: str, plan: str, runtime: str = "") -> bool:
    """Every plan of a small network, and the plan with something of all others for every network."""
    if runtime == "executorch":
        return name == "example" and plan == "all"
    return name == "example" or plan == "all"


def ready(name: str, plan: str, runtime: str = "onnxruntime") -> tuple[Network, Tensor]:
    """A network under a plan with its ranges calibrated, and inputs for it; one for all that can hold it."""
    return _ready(name, plan, of_all(runtime))


def of_all(runtime: str) -> str:
    """The runtime whose network it is given: what lacks kernels that others have is given its own."""
    row = find_runtime(runtime)
    return runtime if runtime in LACKING or 4 not in row.weight_bits else "onnxruntime"


@functools.cache
def _ready(name: str, plan: str, runtime: str) -> tuple[Network, Tensor]:
    network, x = models.made(name)
    graph = network.graph
    kept = {g.name: max(4, g.size // 8 * 4) for g in graph.groups if g.fixed is None}
    ranks = models.low_rank(network)
    options = models.assigned(network, {"all": "int4", "pruned": "dense", "low rank": "dense"}.get(plan, plan))
    if plan == "low rank":
        options = {layer: Option(form=form) for layer, form in ranks.items()}
    elif plan == "all":  # cut, low rank, and weights of eight and four bits and float in turns
        options = {layer: option for i, (layer, option) in enumerate(options.items()) if i % 4 != 3}
        options = {n: replace(o, weight_bits=8) if i % 2 else o for i, (n, o) in enumerate(options.items())}
        ranks = {layer: form for i, (layer, form) in enumerate(ranks.items()) if i % 3 == 0}
        options = {n: replace(options.get(n, Option()), form=ranks.get(n)) for n in {**options, **ranks}}
        kept = {n: k for n, k in kept.items() if n not in ranks and not reads_any(network, n, ranks)}
    cut = kept if plan in ("pruned", "all") else {}
    row = find_runtime(runtime)
    if 4 not in row.weight_bits:
        options = {n: replace(o, weight_bits=max(o.weight_bits, 8)) for n, o in options.items()}
    small, chosen = compressed(network, models.plan(network, cut, options), x, models.scores(network))
    chosen = {
        n: o for n, o in chosen.items() if o.precision != INT8 or row.is_integer(small.graph.by_name[n], small.graph)
    }
    result = integer(small, chosen, grid_of(runtime) if runtime in LACKING else UNSIGNED)
    calibrate(result, [x])
    return result, x


def reads_any(network: Network, group: str, layers: dict) -> bool:
    """Whether one of ``layers`` reads or writes ``group``: its rank was chosen for full width."""
    return any(layer.name in layers for layer in network.graph.layers if group in (layer.reads, layer.writes))


def converted(name: str, plan: str, runtime: str = "onnxruntime") -> ModelProto:
    return _converted(name, plan, of_all(runtime))


@functools.cache
def _converted(name: str, plan: str, runtime: str) -> ModelProto:
    return onnx_file.converted(*ready(name, plan, runtime))


def integers(network: Network) -> list[str]:
    """The weighted layers that are integer."""
    return [name.removesuffix(".weight") for name, spec in specification(network).items() if spec.axis is not None]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Artifact]:
    """The file of each network under each plan for each runtime, written once."""
    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def artifact(name: str, plan: str, runtime: str) -> Artifact:
        network, _ = ready(name, plan, runtime)
        path = folder / f"{name}-{plan.replace(' ', '-')}{format_of(runtime).suffix}"
        save(converted(name, plan, runtime), specification(network), path, runtime)
        return Artifact(path, network.graph, runtime=runtime)

    return artifact


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[str, Bench]]:
    with LocalDevice() as agent:
        yield {runtime: Bench(agent, runtime=runtime) for runtime in RUNTIMES}


@pytest.mark.parametrize(("name", "plan", "runtime"), core(CASES, quick))
def test_a_file_computes_what_the_simulation_computes(exported, name: str, plan: str, runtime: str) -> None:
    network, x = ready(name, plan, runtime)
    result = parity(network, exported(name, plan, runtime), [x])
    assert result.samples == len(x)
    assert result.error <= result.tolerance
    rough = runtime == "litert" and plan in ("int4", "all")  # its 4-bit kernels round up what others do not
    assert result.tolerance == (1e-1 if rough else 5e-2 if (name, plan, runtime) in INTEGER else 1e-3)


@pytest.mark.parametrize(("name", "plan", "runtime"), core(INTEGER, quick))
def test_scales_and_zero_points_are_the_specification_s(exported, name: str, plan: str, runtime: str) -> None:
    network, _ = ready(name, plan, runtime)
    specs = specification(network)
    assert len(specs) > len(integers(network)) > 0
    path = exported(name, plan, runtime).path
    read = {
        "onnxruntime": lambda specs: onnx_file.check(onnx.load(path), specs),
        "openvino": lambda specs: openvino.check(path, specs),
        "litert": lambda specs: check_tflite(path.read_bytes(), specs),
        "ncnn": lambda specs: check_ncnn(path, specs),
        "executorch": lambda specs: check_executorch(path.read_bytes(), specs),
    }[runtime]
    read(specs)
    for tensor, spec in specs.items():
        further = np.nextafter(np.float32(spec.scale[0]), np.float32(1))
        if runtime == "ncnn":  # it has one over a scale, which is the same for two neighbours
            further = np.nextafter(further, np.float32(1))
        off = replace(spec, scale=(float(further), *spec.scale[1:]))
        with pytest.raises(FidelityError, match="not quantized in the file as specified"):
            read({tensor: off})


@pytest.mark.parametrize(("name", "plan", "runtime"), core(INTEGER, quick))
def test_layers_that_are_called_integer_run_in_integer_kernels(
    exported, benches: dict[str, Bench], name: str, plan: str, runtime: str
) -> None:
    network, _ = ready(name, plan, runtime)
    kernels = benches[runtime].kernels(exported(name, plan, runtime))
    assert fallbacks(kernels, integers(network)) == []
    floats = [n.name for n in network.graph.layers if n.kind in WEIGHTED and n.name not in integers(network)]
    assert fallbacks(kernels, floats) == floats


@pytest.mark.parametrize(("name", "plan"), core([(name, plan) for name in NETWORKS for plan in LOWERED], quick))
def test_litert_s_profiler_tells_what_every_weighted_layer_takes(
    exported, benches: dict[str, Bench], name: str, plan: str
) -> None:
    network, artifact = ready(name, plan, "litert")[0], exported(name, plan, "litert")
    weighted = [layer.name for layer in network.graph.layers if layer.kind in WEIGHTED]
    profile = benches["litert"].profile(artifact, dict.fromkeys(weighted, ()))
    told = [kernel.layers for kernel in profile.kernels if kernel.layers and kernel.profiled_ms is not None]
    assert {layer for layers in told for layer in layers} == {*weighted}
    assert all(len(layers) == 1 for layers in told)
    assert 0 < (profile.kernels_ms or 0) < (profile.run_ms or 0)


@pytest.mark.parametrize(
    ("name", "plan"), core([(n, p) for n in ("resnet20", "example") for p in LOWERED], quick)
)  # fmt: skip
def test_litert_s_profiler_tells_sums_apart(exported, benches: dict[str, Bench], name: str, plan: str) -> None:
    network, x = ready(name, plan, "litert")
    made = list_called(network, x)
    profile = benches["litert"].profile(exported(name, plan, "litert"), made)
    sums = [kernel.layers for kernel in profile.kernels if kernel.operator.upper().startswith("ADD")]
    wanted = [layer.name for layer in network.graph.layers if layer.kind == ADD]
    assert wanted and sorted(sums) == sorted((layer,) for layer in wanted)


@pytest.mark.parametrize("runtime", core(RUNTIMES, lambda runtime: runtime != "executorch"))
def test_int8_is_a_quarter_and_what_does_not_shrink(exported, runtime: str) -> None:
    dense, small = (exported("resnet20", plan, runtime) for plan in ("dense", "int8"))
    if runtime == "openvino":  # its .xml spells every dimension out, whatever the bits: docs/reference/formats.md
        sizes = [artifact.files[1].stat().st_size for artifact in (dense, small)]
    else:
        sizes = [artifact.size_bytes for artifact in (dense, small)]
    assert sizes[1] <= QUARTER * sizes[0]
    if 4 in find_runtime(runtime).weight_bits:
        assert exported("resnet20", "int4", runtime).size_bytes < small.size_bytes


@pytest.mark.parametrize("runtime", core(RUNTIMES, lambda runtime: runtime != "executorch"))
def test_the_example_decides_as_the_simulation_does(runtime: str, tmp_path: Path) -> None:
    data = example_data()
    network, _ = models.made("example")
    row = find_runtime(runtime)
    options = {
        n: o
        for n, o in models.assigned(network, "int8").items()
        if row.is_integer(network.graph.by_name[n], network.graph)
    }
    small = integer(network, options, grid_of(runtime) if runtime in LACKING else UNSIGNED)
    calibrate(small, [x for x, _ in data.calibration])
    artifact = Artifact(tmp_path / f"model{format_of(runtime).suffix}", runtime=runtime)
    save(onnx_file.converted(small, data.example), specification(small), artifact.path, runtime)
    run = runner(artifact, small.structure)
    differ = total = 0
    with torch.no_grad():
        for x, _ in data.test:
            differ += int((run(x).argmax(1) != small(x).argmax(1)).sum())
            total += len(x)
    assert total == 2000
    assert differ <= FLIPS * total


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has tflite-runtime 2.14 and nothing of ours: what older boards run."""
    folder = tmp_path_factory.mktemp("tflite-runtime")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *OLD], check=True)
    return python


RUN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy
from bundle_run import opened
given = dict(numpy.load(sys.argv[3]))
found = opened(sys.argv[2], "tflite")
count = len(next(iter(given.values())))
rows = [found.run({n: v[i : i + 1] for n, v in given.items()}) for i in range(count)]
print(json.dumps({"version": found.version, "outputs": [numpy.concatenate(p).tolist() for p in zip(*rows)]}))
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="needs an older Python, as tflite-runtime 2.14 does")
@pytest.mark.parametrize(("name", "plan"), core(OLDER, quick))
def test_the_older_runtime_runs_all_but_four_bits(exported, old_python: Path, name: str, plan: str, tmp_path) -> None:
    network, x = ready(name, plan)
    artifact = exported(name, plan, "litert")
    x = x[:4]
    (entry,) = network.graph.inputs
    given: dict[str, Any] = {entry.name: x.numpy()}
    np.savez(tmp_path / "given.npz", **given)
    folder = Path(edgesdk_targets.__file__).parent
    command = [old_python, "-c", RUN, folder, artifact.path, tmp_path / "given.npz"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["version"] == "2.14.0"
    with torch.no_grad():
        (expected,) = network.flat(x)
    (result,) = (torch.tensor(values) for values in told["outputs"])
    error = float((result - expected).square().mean().sqrt() / expected.std())
    assert error <= (5e-2 if plan in ("int8", "mixed") else 1e-3)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="needs an older Python, as tflite-runtime 2.14 does")
def test_the_agent_measures_with_the_older_runtime(old_python: Path, tmp_path: Path) -> None:
    folder = Path(__file__).parent.parent / "agent"
    package = Path(edgesdk_targets.__file__).parent
    (tmp_path / package.name).symlink_to(package)  # alone: what lies beside it may be NumPy 2
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [str(old_python), "-m", "unittest", "agent_tflite_runtime.TFLite"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr


def test_options_of_a_plan_are_what_the_files_hold() -> None:
    network, _ = ready("example", "all")
    bits = {spec.bits for spec in specification(network).values() if spec.axis is not None}
    assert bits == {4, 8}
    assert any(option.precision == INT8 for option in models.assigned(network, "int8").values())
    assert sum(layer.macs for layer in network.graph.layers) < sum(
        layer.macs for layer in models.made("example")[0].graph.layers
    )
