"""How far the account of bytes is off: what is predicted of plans that were never measured, beside what they take.

    python tools/bench_memory.py [--only NETWORK ...] [--runtimes RUNTIME ...] [--processes 3]

Each network of the zoo is exported whole, in float and with every layer integer that can be; then cut to half of its
channels, in low rank and integers, and at random (widths, precisions and forms). "Alone" is the account from the graph
alone, "corrected" the same as a search has it, which has measured the two whole files and no other. Each file is loaded
and run in fresh processes; the median of their peaks counts. To the networks marked * no constant was fitted but code
pages in ONNX Runtime and LiteRT.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

import zoo
from edgesdk.compress.apply import compressed
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact, baseline, format_of
from edgesdk.core.budget import Cost
from edgesdk.core.graph import Graph
from edgesdk.core.plan import INT8, LayerPlan, Option, Plan, Proof
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.local import LocalDevice
from edgesdk.export.formats import export, grid_of
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price import operators as ops
from edgesdk.price.account import Account
from edgesdk.price.correct import Correction, Observation, fit
from edgesdk.price.forms import fits, forms
from edgesdk.price.planned import planned

SHAPES = {
    "resnet8": (3, 32, 32), "resnet20": (3, 32, 32), "mobilenet_v2_small": (3, 32, 32), "ds_cnn": (1, 49, 10),
    "vit_small": (3, 32, 32), "conv_gru": (8, 64), "densenet_small": (3, 32, 32),
}  # fmt: skip
HELD_OUT = ("resnet20", "mobilenet_v2_small", "densenet_small")
RUNTIMES = ("onnxruntime", "openvino", "litert")
WHOLE = ("float", "int8")
EIGHT = Option(INT8, 8)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--processes", type=int, default=3)
    given = parser.parse_args()
    print("| network | runtime | plan | peak, kB | alone | corrected | size, kB | alone | corrected |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|")
    with LocalDevice() as agent, tempfile.TemporaryDirectory() as folder:
        for name in given.only:
            torch.manual_seed(1)
            model, x = getattr(zoo, name)(), torch.randn(16, *SHAPES[name])
            with torch.no_grad():
                model.train()(x)
            network = trace(model.eval(), x)
            for runtime in given.runtimes:
                shown = name + "*" * (name in HELD_OUT)
                for row in compare(network, x, runtime, agent, Path(folder), given.processes):
                    print(f"| {shown} | {runtime} | {row} |", flush=True)


def compare(
    network: Network, x: torch.Tensor, runtime: str, agent: AgentProcess, folder: Path, processes: int
) -> Iterator[str]:
    """A line for each plan of ``network``: what it takes, and its predictions as shares of that."""
    generator = torch.Generator().manual_seed(2)
    scores = {g.name: torch.rand(g.size, generator=generator) for g in network.graph.groups if g.fixed is None}
    account, tiny = Account.of(runtime, agent.call("probe")["runners"][runtime]), baseline(folder, runtime)
    correction, seen, whole = Correction(), [], []
    for name, plan in list_plans(network.graph):
        small, options = compressed(network, plan, x, scores)
        ready = integer(small, options, grid_of(runtime))
        if any(option.precision == INT8 for option in options.values()):
            calibrate(ready, [x])
        path = folder / f"model{format_of(runtime).suffix}"
        export(ready, x, path, runtime)
        same = {"path": str(path), "runtime": runtime, "threads": 1, "baseline": str(tiny), "processes": processes}
        peak, size = agent.call("memory", **same)["peak_added"], Artifact(path, runtime=runtime).size_bytes
        foretold = planned(network.graph, plan.options, plan.kept, plan.dropped)
        memory, bytes_ = account.peak_bytes(*foretold), account.size_bytes(*foretold)
        if name in WHOLE:
            whole.append((*foretold, size))
            seen.append((foretold, peak, size))
            adapted = account.calibrated(whole)
            correction = fit(
                [
                    Observation(0.0, 0.0, 1.0, account.peak_bytes(*graph), took, adapted.size_bytes(*graph), stored)
                    for graph, took, stored in seen
                ],
                trusted=account.traced,
            )
        corrected = correction.memory_bytes + correction.memory_scale * memory
        sized = correction.size_bytes + correction.size_scale * account.calibrated(whole).size_bytes(*foretold)
        shares = [f"{value:.2f}" for value in (memory / peak, corrected / peak)]
        sizes = [f"{value:.3f}" for value in (bytes_ / size, sized / size)]
        if name in WHOLE:
            shares[1] = sizes[1] = ""
        yield " | ".join([name, f"{peak / 1e3:.0f}", *shares, f"{size / 1e3:.0f}", *sizes])


def list_plans(graph: Graph) -> Iterator[tuple[str, Plan]]:
    """Plans by hand, the whole networks first."""
    free = [group for group in graph.groups if group.fixed is None]
    kept = {group.name: group.size for group in free}
    half = {group.name: group.size // 2 // group.step * group.step or group.step for group in free}
    low = {layer.name: forms(layer)[:1] for layer in graph.layers if not layer.fixed}
    eight = {layer.name: EIGHT for layer in graph.layers if INT8 in ops.precisions(layer)}
    yield "float", make_plan(graph, kept, {})
    yield "int8", make_plan(graph, kept, eight)
    if free:
        yield "cut", make_plan(graph, half, {})
    lower = {name: Option(INT8, 8, found[0]) for name, found in low.items() if found}
    yield "low rank, int8", make_plan(graph, kept, {**eight, **lower})
    for seed in (1, 2):
        yield f"random {seed}", make_random(graph, random.Random(seed))


def make_random(graph: Graph, rng: random.Random) -> Plan:
    """Any width of each group, any precision and form of each layer."""
    kept = {g.name: rng.choice(ops.widths(g.size, g.step)) for g in graph.groups if g.fixed is None}
    options = {}
    for layer in graph.layers:
        sides = ops.channels(layer, graph, kept.get(layer.reads or ""), kept.get(layer.writes or ""))
        able = layer.weight_shape and not layer.fixed
        form = rng.choice([None, None, *(form for form in forms(layer) if able and fits(form, *sides))])
        precision = rng.choice(ops.precisions(layer, form))
        options[layer.name] = Option(INT8, 8, form) if precision == INT8 else Option(form=form)
    return make_plan(graph, kept, options)


def make_plan(graph: Graph, kept: Mapping[str, int], options: Mapping[str, Option]) -> Plan:
    """A plan by hand."""
    layers = tuple(LayerPlan(name, options.get(name, Option()), 0.0, "by hand") for name in graph.by_name)
    return Plan(
        graph.digest, "x86", "onnxruntime", 1, kept, layers, (), Cost(1.0, 1.0, 1.0, "predicted"),
        Proof(0.0, 0.0, 0.0, 0.0, "by hand"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
