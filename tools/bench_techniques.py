"""What techniques do to the built-in example: accuracy and bytes, before any of them is believed.

    pip install '.[techniques]' && python tools/bench_techniques.py [fitting recovery quantization stored]
        [--write docs/techniques.md]

Each table is of one seed on the built-in samples of Fashion-MNIST, top-1 on the 2,000 test images; nothing is timed.
``--write`` puts each in the place that a page has for it.

- fitting: all widths at a share of the dense ones, every layer int8: weights as cut beside fitted ones, by criterion.
- recovery: a quarter of every width, three epochs, by the losses that teach.
- quantization: every layer integer and nothing trained, by how ranges, steps and roundings are chosen.
- stored: float weights in packed forms, nothing trained, and the size of the ONNX file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor

from edgesdk.budget import Cost
from edgesdk.compress.apply import compressed, staying
from edgesdk.compress.network import Network
from edgesdk.compress.quantize import calibrate, fold, integer
from edgesdk.compress.rebuild import irreplaceable, rebuilt
from edgesdk.compress.recover import Schedule, recovered
from edgesdk.compress.recovery import Recovery, Term
from edgesdk.compress.sense import importance
from edgesdk.compress.task import Task
from edgesdk.compress.trace import trace
from edgesdk.example.data import example_data, example_model
from edgesdk.export.formats import export
from edgesdk.export.packed import Packed, packed
from edgesdk.graph import WEIGHTED
from edgesdk.plan import INT8, LayerPlan, Option, Plan, Proof
from edgesdk.techniques import codebooks, filtering, sparsity
from edgesdk.techniques.importance import l1, l2, together

BEGIN, END = "<!-- made by tools/bench_techniques.py: {} -->", "<!-- end -->"
EPOCHS = 3.0
Scores = Mapping[str, Tensor]


class Example:
    """The dense network with its data, and what becomes of it."""

    def __init__(self) -> None:
        self.data = example_data(0)
        self.task = Task("top-1", self.data.labelled)
        self.network = trace(example_model(), self.data.example)
        self.calibration = [x for x, _ in self.data.calibration]

    def top1(self, network: Network) -> float:
        """Percent of the test images."""
        return self.task.score(network, self.data.test, self.network)

    def error(self, network: Network) -> float:
        """The mean square of what the outputs are off, over their variance, on the test images."""
        with torch.no_grad():
            pairs = [(network.flat(x)[0], self.network.flat(x)[0]) for x, _ in self.data.test]
        found, wanted = (torch.cat(side) for side in zip(*pairs, strict=True))
        return float((found - wanted).square().mean() / wanted.var())

    def cut(self, share: float, scores: Scores, fitted: bool) -> Network:
        """All widths at ``share`` of the dense ones, the channels with the best ``scores`` kept."""
        graph = self.network.graph
        plan = Plan(
            graph.digest, "x86", "onnxruntime", 1,
            {group.name: max(1, round(share * group.size)) for group in graph.groups if group.fixed is None},
            tuple(LayerPlan(layer.name, Option(), 0.0, "by hand") for layer in graph.layers),
            (), Cost(1.0, 1.0, 1.0, "predicted"), Proof(0.0, 0.0, 0.0, 0.0, "by hand"),
        )  # fmt: skip
        small, _ = compressed(self.network, plan, self.data.example, scores)
        if fitted:
            small, _ = rebuilt(small, self.network, staying(graph, plan, scores), self.calibration)
        return small

    def learnt(self, small: Network, epochs: float, restate: bool, recovery: Recovery | None = None) -> Network:
        """``small`` with every layer int8, after ``epochs`` over the images in an order that no other run changes."""
        return recovered(
            small, self.network, whole(small, 8), example_data(0).train, self.calibration, self.task, Schedule(epochs),
            recovery=recovery or Recovery(), restate=restate,
        )  # fmt: skip


def whole(network: Network, bits: int) -> dict[str, Option]:
    """Every layer with weights integer, its weights in ``bits``."""
    return {layer.name: Option(INT8, bits) for layer in network.graph.layers if layer.macs}


def criteria(example: Example) -> dict[str, Scores]:
    """Scores of channels, by the names of the criteria."""
    taylor = importance(example.network, example.data.calibration, example.task)
    hessian = irreplaceable(example.network, example.calibration)
    graph, found = example.network.graph, {"L1": {}, "L2": {}, "Taylor": taylor, "Hessian": hessian}
    for name, one in (("L1", l1), ("L2", l2)):
        for group, score in taylor.items():
            layers = [graph.by_name[layer] for layer in graph.group_by_name[group].layers]
            writers = [w for w in layers if w.kind in WEIGHTED and w.weight_shape[0] == len(score)]
            weights = [example.network.submodule(w.name).weight.detach() for w in writers]
            found[name][group] = torch.stack([one(weight) for weight in weights]).sum(0)  # type: ignore[arg-type]
    both = {group: together(score, hessian[group]) for group, score in taylor.items()}
    return {**found, "Taylor and Hessian": both}


def fitting(example: Example) -> Iterable[str]:
    """Weights as cut and fitted ones."""
    yield "| widths | channels by | weights | untrained: top-1 %, error | after 2 epochs: top-1 % |"
    yield "|---|---|---|---|--:|"
    ranked = criteria(example)
    for share, name, fitted in (
        *((share, name, fitted) for share in (0.75, 0.5) for name, fitted in (("Taylor", False), ("Taylor", True))),
        *((0.5, name, True) for name in ("L1", "L2", "Hessian")),
        *((share, "Taylor and Hessian", True) for share in (0.75, 0.5)),
    ):
        small = example.cut(share, ranked[name], fitted)
        plain, taught = (example.learnt(small, epochs, not fitted) for epochs in (0.0, 2.0))
        untrained = f"{example.top1(plain):.2f}, {example.error(plain):.3f}"
        kind = "fitted" if fitted else "as cut"
        yield f"| {share:g} | {name} | {kind} | {untrained} | {example.top1(taught):.2f} |"


def recovery(example: Example) -> Iterable[str]:
    """By the losses that teach."""
    yield f"| losses | top-1 % after {EPOCHS:g} epochs |"
    yield "|---|--:|"
    small = example.cut(0.25, importance(example.network, example.data.calibration, example.task), False)
    yield f"| none: no epochs | {example.top1(example.learnt(small, 0.0, True)):.2f} |"
    task = Term("task")
    for name, losses in {
        "`task`": (task,),
        "`task` + 0.1 `features`": (task, Term("features", 0.1)),
        "`task` + 100 `similarity`": (task, Term("similarity", 100.0)),
        "`task` + `attention`": (task, Term("attention")),
        "0.1 `logits`": (Term("logits", 0.1),),
        "`soft`": (Term("soft"),),
        "`hard`": (Term("hard"),),
    }.items():
        yield f"| {name} | {example.top1(example.learnt(small, EPOCHS, True, Recovery(losses=losses))):.2f} |"


def quantization(example: Example) -> Iterable[str]:
    """By how ranges, steps and roundings are chosen."""
    yield "| choice | 8 bits: error, top-1 % | 4-bit weights: error, top-1 % |"
    yield "|---|---|---|"
    for name, made, ranges in (
        ("min-max, nearest, a step per channel (the default)", {}, {}),
        ("percentile 99.99", {}, {"ranges": "percentile"}),
        ("entropy", {}, {"ranges": "entropy"}),
        ("mean squared error", {}, {"ranges": "mse"}),
        ("adaptive rounding (AdaRound)", {}, {"rounding": "adaptive"}),
        ("cross-layer equalization", {"equalized": True}, {}),
        ("one step per layer", {"step": "layer"}, {}),
        ("one step per layer, equalized", {"step": "layer", "equalized": True}, {}),
        ("one step for the network", {"step": "network"}, {}),
    ):
        cells = []
        for bits in (8, 4):
            ready = integer(example.network, whole(example.network, bits), **made)
            calibrate(ready, example.calibration, **ranges)
            cells.append(f"{example.error(ready):.2g}, {example.top1(ready):.2f}")
        yield f"| {name} | {' | '.join(cells)} |"


FORMS: dict[str, Callable[[Tensor], Packed]] = {
    **{f"k-means, {k} values": lambda w, k=k: codebooks.k_means(w, min(k, w.numel())) for k in (32, 16, 8, 4)},
    "intervals, 16 values": lambda w: codebooks.intervals(w, 16),
    "powers of two, 4 bits": lambda w: codebooks.powers_of_two(w, 4),
    "E2M1, blocks of 32": codebooks.e2m1,
    "E2M1, blocks of 9": lambda w: codebooks.e2m1(w, 9),
    "ternary": codebooks.ternary,
    "binary": codebooks.binary,
    **{f"{100 * s:g} % zero": lambda w, s=s: _sparse(w, s) for s in (0.5, 0.8)},
    **{f"DCT, {100 * s:g} % kept": lambda w, s=s: filtering.low_pass(w, s) for s in (0.75, 0.5)},
    "Haar, 50 % kept": lambda w: filtering.low_pass(w, 0.5, "haar"),
}


def _sparse(weight: Tensor, share: float) -> Packed:
    mask = sparsity.largest({"weight": weight.detach()}, share)["weight"]
    return sparsity.sparse(weight.detach() * mask)


def stored(example: Example) -> Iterable[str]:
    """Packed forms, decoded as the file is loaded."""
    yield "| form | top-1 % | kB |"
    yield "|---|--:|--:|"
    dense = fold(example.network)  # as the file holds it: folding scales channels, which a shared table cannot bear
    with tempfile.TemporaryDirectory() as folder:
        for name, form in {"plain": None, **FORMS}.items():
            network, path, weights = dense.copy(), Path(folder) / "model.onnx", {}
            for layer in network.graph.layers:
                if form is not None and layer.kind in WEIGHTED:
                    weight = network.submodule(layer.name).weight
                    found = form(weight.detach())  # type: ignore[arg-type]
                    with torch.no_grad():
                        weight.copy_(found.decoded())  # type: ignore[operator]
                    weights[f"{network.sites[layer.name].module}.weight"] = found
            export(network, example.data.example, path)
            size = packed(onnx.load(path), weights).ByteSize()
            yield f"| {name} | {example.top1(network):.2f} | {size / 1e3:.0f} |"


TABLES = {"fitting": fitting, "recovery": recovery, "quantization": quantization, "stored": stored}


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; all without")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"there is no table {', '.join(sorted(unknown))}")
    example = Example()
    print(f"dense: {example.top1(example.network):.2f} %", file=sys.stderr)
    for name in options.tables or TABLES:
        lines = []
        for line in TABLES[name](example):
            print(line, flush=True)
            lines.append(line)
        print()
        if options.write is not None:
            before, _, rest = options.write.read_text("utf-8").partition(BEGIN.format(name))
            made = "\n".join((BEGIN.format(name), *lines, END))
            options.write.write_text(f"{before}{made}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
