"""Our int8 files against what each runtime's own tool makes of the same model: latency, error, size, in one run.

    pip install '.[bench]' && python tools/bench_formats.py [--models resnet20 ...]
        [--write docs/reference/figures/formats.md]
    python tools/bench_formats.py --runtimes executorch
    python tools/bench_formats.py --across [--models resnet20 ...]
    python tools/bench_formats.py --bundles FOLDER FOLDER ...

Both sides get the same weights and calibration samples. Latency is the ratio of the two p50 from one interleaved run
per model and runtime; error is the root-mean-square difference to the dense model's outputs on held-out samples, over
their standard deviation. The networks have random weights and settled norms, but for the built-in example.

With --across, our dense and int8 files for every runtime are measured in one interleaved run per network.

With --bundles, what deployments made is measured in one interleaved run: each p50 over the first bundle's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import peers
import zoo
from edgesdk.bundle.bundle import Bundle
from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.artifact import Artifact, baseline
from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import format_of
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.example.data import example_data, example_model
from edgesdk.export.formats import save
from edgesdk.export.onnx import converted
from edgesdk.export.parity import open_file
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions

BEGIN, END = "<!-- made by tools/bench_formats.py -->", "<!-- end -->"
RUNTIMES = ("onnxruntime", "openvino", "litert")  # and executorch, whose files take long to make
CALIBRATION, HELD_OUT = 128, 256
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (zoo.resnet20, (3, 32, 32)),
    "mobilenet_v2": (zoo.mobilenet_v2_small, (3, 32, 32)),
    "ds_cnn": (zoo.ds_cnn, (1, 49, 10)),
    "vit": (zoo.vit_small, (3, 32, 32)),
    "conv_gru": (zoo.conv_gru, (8, 128)),
}
PEERS = {
    "onnxruntime": "quantize_static", "openvino": "NNCF", "litert": "ai-edge-quantizer",
    "executorch": "XNNPACKQuantizer",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One model in one runtime: ours beside the peer; ``reason`` where the peer makes no file that runs."""

    model: str
    runtime: str
    ours_ms: float
    peer_ms: float | None
    dense_ms: float
    ours_error: float
    peer_error: float | None
    ours_bytes: int
    peer_bytes: int | None
    peer: str
    reason: str = ""

    def text(self) -> str:
        mine = f"| {self.model} | {self.runtime} | {self.ours_ms:.4f} | {self.ours_ms / self.dense_ms:.2f} "
        if self.peer_ms is None or self.peer_error is None or self.peer_bytes is None:
            return f"{mine}| {self.ours_error:.3f} | {self.peer}: {self.reason} | - | - | - |"
        return (
            f"{mine}| {self.ours_error:.3f} | {self.peer} | {self.ours_ms / self.peer_ms:.3f} | {self.peer_error:.3f} "
            f"| {self.ours_bytes / self.peer_bytes:.2f} |"
        )


def settled(name: str) -> tuple[nn.Module, Tensor]:
    """A network with settled norms, and samples for it."""
    if name == "example":
        return example_model(), torch.cat([x for x, _ in example_data().test])[: CALIBRATION + HELD_OUT]
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(CALIBRATION + HELD_OUT, *shape)
    model.train()
    with torch.no_grad():
        for _ in range(10):
            model(x[:64])
    return model.eval(), x


def ours(network: Network, x: Tensor, folder: Path, runtimes: tuple[str, ...]) -> tuple[dict[str, Artifact], float]:
    """Our int8 file for each runtime, and the seconds that all of them took from the calibrated network."""
    whole = {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}
    ready = integer(network, whole)
    calibrate(ready, list(x[:CALIBRATION].split(32)))
    start = time.perf_counter()
    model, specs = converted(ready, x), specification(ready)
    artifacts = {}
    for runtime in runtimes:
        artifacts[runtime] = Artifact(folder / f"ours{format_of(runtime).suffix}", runtime=runtime)
        save(model, specs, artifacts[runtime].path, runtime)
    return artifacts, time.perf_counter() - start


def theirs(name: str, model: nn.Module, x: Tensor, runtime: str, folder: Path) -> dict[str, Artifact | str]:
    """What the runtime's own tools make, by the tool's name; why not, where they fail."""
    batches = [(part, torch.zeros(len(part))) for part in x[:CALIBRATION].split(32)]
    made: dict[str, Callable[[Path], Path]] = {}
    if runtime == "onnxruntime":
        made["quantize_static"] = lambda path: peers.ort_static_int8(model, x, batches, path.with_suffix(".onnx"))
    elif runtime == "openvino":
        made["NNCF"] = lambda path: peers.nncf_int8(model, x, batches, path.with_suffix(".xml"), name == "vit")
    elif runtime == "executorch":
        made["XNNPACKQuantizer"] = lambda path: peers.executorch_int8(model, x, batches, path.with_suffix(".pte"))
    else:
        made["ai-edge-quantizer"] = lambda path: peers.litert_int8(model, x, batches, path.with_suffix(".tflite"))
        if name == "vit":
            made["ai-edge-quantizer, dynamic"] = lambda path: peers.litert_int8(
                model, x, batches, path.with_suffix(".tflite"), dynamic=True
            )
    artifacts: dict[str, Artifact | str] = {}
    for index, (tool, make) in enumerate(made.items()):
        try:
            artifacts[tool] = Artifact(make(folder / f"peer{index}"), runtime=runtime)
        except Exception as error:  # each tool raises its own kinds
            artifacts[tool] = f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
    return artifacts


def error(artifact: Artifact, x: Tensor, expected: np.ndarray) -> float:
    """Root-mean-square difference of the file's outputs on ``x`` to ``expected``, over the spread of these."""
    session = open_file(artifact)
    rows = [session.run({session.inputs[0]: x[i : i + 1].numpy()})[0] for i in range(len(x))]
    return float(np.sqrt(np.mean((np.concatenate(rows) - expected) ** 2)) / expected.std())


def compared(name: str, agent: LocalDevice, folder: Path, runtimes: tuple[str, ...]) -> tuple[list[Row], float]:
    """The ``runtimes`` for one network, and the seconds of our exports."""
    model, x = settled(name)
    network = trace(model, x)
    mine, seconds = ours(network, x, folder, runtimes)
    with torch.no_grad():
        expected = model(x[CALIBRATION:]).numpy()
    dense_model = converted(integer(network, {}), x)
    rows = []
    for runtime in runtimes:
        dense = Artifact(folder / f"dense{format_of(runtime).suffix}", runtime=runtime)
        save(dense_model, {}, dense.path, runtime)
        tools = theirs(name, model, x, runtime, folder)
        files = {"ours": mine[runtime], "dense": dense}
        files.update({tool: made for tool, made in tools.items() if isinstance(made, Artifact)})
        bench = Bench(agent, runtime=runtime)
        took = bench.measure(files, "rapid", {runtime: baseline(folder, runtime)}, thorough=False)
        off = {tool: error(made, x[CALIBRATION:], expected) for tool, made in files.items()}
        for tool, made in tools.items():
            ran = isinstance(made, Artifact)
            rows.append(
                Row(
                    name, runtime, took["ours"].latency_ms(), took[tool].latency_ms() if ran else None,
                    took["dense"].latency_ms(), off["ours"], off[tool] if ran else None, mine[runtime].size_bytes,
                    made.size_bytes if isinstance(made, Artifact) else None, tool, "" if ran else str(made),
                )
            )  # fmt: skip
            print(rows[-1].text(), flush=True)
    return rows, seconds


def across(name: str, agent: LocalDevice, folder: Path) -> list[str]:
    """Rows of p50, ms: the dense and the int8 file of a network in each runtime, from one interleaved run."""
    model, x = settled(name)
    network = trace(model, x)
    files = {f"int8 {runtime}": made for runtime, made in ours(network, x, folder, tuple(PEERS))[0].items()}
    whole = converted(integer(network, {}), x)
    for runtime in PEERS:
        dense = Artifact(folder / f"dense{format_of(runtime).suffix}", runtime=runtime)
        save(whole, {}, dense.path, runtime)
        files[f"dense {runtime}"] = dense
    took = Bench(agent).measure(files, "rapid", {r: baseline(folder, r) for r in PEERS}, thorough=False)
    figures = {kind: " | ".join(f"{took[f'{kind} {r}'].latency_ms():.3f}" for r in PEERS) for kind in ("dense", "int8")}
    return [f"| {name} | {kind} | {figures[kind]} |" for kind in figures]


def beside(bundles: list[Path], agent: LocalDevice, folder: Path) -> list[str]:
    """Each bundle's p50 from one run, over that of the first, with the score that its report has."""
    opened = [Bundle.open(path) for path in bundles]
    files = {bundle.path.name: bundle.artifact for bundle in opened}
    baselines = {file.runtime: baseline(folder, file.runtime) for file in files.values()}
    took = Bench(agent).measure(files, "quick", baselines, thorough=False)
    first = took[opened[0].path.name].latency_ms()
    rows = ["| bundle | runtime | p50, ms | over the first | score |", "|---|---|--:|--:|--:|"]
    for bundle in opened:
        ms, score = took[bundle.path.name].latency_ms(), bundle.report["score"]["deployed"]
        runtime = bundle.manifest["runtime"]["name"]
        rows.append(f"| {bundle.path.name} | {runtime} | {ms:.4f} | {ms / first:.3f} | {score:.2f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*NETWORKS, "example"])
    parser.add_argument("--runtimes", nargs="+", choices=PEERS, default=RUNTIMES)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--across", action="store_true")
    parser.add_argument("--bundles", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    with LocalDevice() as agent:
        if options.bundles:
            with tempfile.TemporaryDirectory() as folder:
                print("\n".join(beside(options.bundles, agent, Path(folder))))
            return
        if options.across:
            print(f"| model | | {' | '.join(PEERS)} |\n|---|---|{'--:|' * len(PEERS)}")
        for name in options.models:
            if options.across:
                with tempfile.TemporaryDirectory() as folder:
                    print("\n".join(across(name, agent, Path(folder))), flush=True)
                continue
            with tempfile.TemporaryDirectory() as folder:
                result, seconds[name] = compared(name, agent, Path(folder), tuple(options.runtimes))
                rows += result
    if options.across:
        return
    head = "| model | runtime | ours, ms | of dense fp32 | error | peer | ours / peer, latency | its error "
    table = [head + "| ours / peer, size |", "|---|---|--:|--:|--:|---|--:|--:|--:|", *(row.text() for row in rows)]
    exports = ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
    table += ["", f"All files of ours from a calibrated network: {exports}."]
    print("\n".join(table))
    if options.write is not None:
        text = options.write.read_text()
        before, _, rest = text.partition(BEGIN)
        options.write.write_text(f"{before}{BEGIN}\n" + "\n".join(table) + f"\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
