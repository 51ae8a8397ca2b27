"""What preparing the built-in example brings: sparsity training, transfer, ensembles.

    python tools/bench_prepare.py [sparsity transfer ensembles] [--epochs 4] [--only NAME ...] [--cifar FOLDER]

One seed, the built-in samples, top-1 on 2,000 test images; nothing is timed.

- sparsity: trained on with a term and, beside that, as long without one; then channels cut by their BatchNorms' scales
  and by the search's own ranking, statistics taken anew and nothing learnt.
- transfer: the example's body on gray CIFAR-10, 28 x 28 pixels of it and ``--images`` of them, beside random weights.
- ensembles: bagging and boosting of it, begun from the trained model and from random weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from edgesdk.compress.apply import compressed
from edgesdk.compress.criteria import ranked
from edgesdk.core.budget import Cost
from edgesdk.core.plan import LayerPlan, Option, Plan, Proof
from edgesdk.data.task import Task
from edgesdk.example.data import example_data, example_model
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.network.weights import anew
from edgesdk.techniques.importance import gamma
from edgesdk.train.apply import fit
from edgesdk.train.trainer import reestimate_batch_norms
from edgesdk.workflows.prepare import ensemble, sparsify, transfer

NOTHING = 1e-9  # as the strength of a term
SPARSE = {
    "trained on without a term": ("gamma", NOTHING),
    "gamma, 0.01": ("gamma", 0.01),
    "gamma, 0.03": ("gamma", 0.03),
    "gamma, 0.1": ("gamma", 0.1),
    "gamma, 0.3": ("gamma", 0.3),
    "channels, 0.003": ("channels", 0.003),
    "channels, 0.01": ("channels", 0.01),
    "channels, 0.03": ("channels", 0.03),
    "channels, 0.1": ("channels", 0.1),
}
WAYS = {
    "bagging, from the model": ("bagging", False),
    "boosting, from the model": ("boosting", False),
    "bagging, anew": ("bagging", True),
    "boosting, anew": ("boosting", True),
}
SIDE, PIXELS = 28, 2


def sparsity(asked: argparse.Namespace, folder: Path) -> Iterable[str]:
    """Terms and strengths, and what cutting costs after them."""
    yield f"| {asked.epochs:g} epochs | near zero | top-1 % | by gamma at 0.75, 0.5 | ranked and fitted at 0.5 |"
    yield "|---|--:|--:|---|--:|"
    data = example_data(0)
    for name, term in {"as it is": None, **SPARSE}.items():
        if asked.only and name not in asked.only:
            continue
        model, share = example_model(), ""
        if term is not None:
            made = sparsify(out=folder / "sparse", on=term[0], strength=term[1], epochs=asked.epochs, force=True)
            model, share = made.model, f"{100 * made.report['near_zero']['after']:.1f} %"
        dense, task = trace(model, data.example), Task()
        accuracies = [task.score(dense, data.test, dense)]
        scales = {group.name: _scales(dense, group.layers) for group in dense.graph.groups if group.fixed is None}
        for kept, scores, fitted in (
            (0.75, scales, False), (0.5, scales, False), (0.5, ranked(dense, data.calibration, task), True)
        ):  # fmt: skip
            accuracies.append(task.score(_cut(dense, kept, scores, fitted), data.test, dense))
        whole, *cut, after = (f"{accuracy:.2f}" for accuracy in accuracies)
        yield f"| {name} | {share} | {whole} | {', '.join(cut)} | {after} |"


def _scales(network: Network, layers: Iterable[str]) -> Tensor:
    """The BatchNorm scales of the layers that write a group, added up: (channels,)."""
    norms = [network.module.get_submodule(n) for layer in layers if (n := network.sites[layer].norm)]
    return torch.stack([gamma(norm.weight.detach()) for norm in norms]).sum(0)  # type: ignore[arg-type]


def _cut(dense: Network, share: float, scores: Mapping[str, Tensor], fitted: bool) -> Network:
    """All widths at ``share``, the channels of the best ``scores`` kept; weights fitted, or statistics taken anew."""
    graph, data = dense.graph, example_data(0)
    plan = Plan(
        graph.digest, "x86", "onnxruntime", 1,
        {group.name: max(1, round(share * group.size)) for group in graph.groups if group.fixed is None},
        tuple(LayerPlan(layer.name, Option(), 0.0, "by hand") for layer in graph.layers),
        (), Cost(1.0, 1.0, 1.0, "predicted"), Proof(0.0, 0.0, 0.0, 0.0, "by hand"),
    )  # fmt: skip
    small, _ = compressed(dense, plan, data.example, scores)
    calibration = [x for x, _ in data.calibration]
    if fitted:
        return fit(plan, dense, small, scores, calibration)
    reestimate_batch_norms(small, calibration)
    return small


def transferred(asked: argparse.Namespace, folder: Path) -> Iterable[str]:
    """The example's body and random weights on gray CIFAR-10."""
    import cifar

    x, y, x_test, y_test = cifar.load(asked.cifar)
    images = [torch.from_numpy(part[:count]).float().mean(1, keepdim=True) / 127.5 - 1
              for part, count in ((x, asked.images), (x_test, 2000))]  # fmt: skip
    images = [part[:, :, PIXELS : PIXELS + SIDE, PIXELS : PIXELS + SIDE] for part in images]
    batches = [list(zip(part.split(64), torch.from_numpy(labels[: len(part)]).split(64), strict=True))
               for part, labels in zip(images, (y, y_test), strict=True)]  # fmt: skip
    yield f"| {asked.images} images, {asked.epochs:g} epochs | head alone | after |"
    yield "|---|--:|--:|"
    for name, model, frozen in (
        ("the example's body, 2 epochs frozen", example_model(), min(2.0, asked.epochs)),
        ("the example's body, never frozen", example_model(), 0.0),
        ("the example's body, always frozen", example_model(), asked.epochs),
        ("random weights", anew(example_model()), 0.0),
    ):
        if asked.only and name not in asked.only:
            continue
        data = _Given(batches[0][:-4], batches[0][-4:], batches[1])
        made = transfer(model, data, folder / "new", classes=10, epochs=asked.epochs, frozen_epochs=frozen, force=True)
        score = made.report["score"]
        yield f"| {name} | {score['head']:.2f} | {score['after']:.2f} |"


class _Given:
    def __init__(self, train: list, calibration: list, test: list) -> None:
        self.train, self.calibration, self.test = train, calibration, test


def ensembles(asked: argparse.Namespace, folder: Path) -> Iterable[str]:
    """Bagging and boosting of three."""
    yield f"| three members, {asked.epochs:g} epochs | members | ensemble |"
    yield "|---|---|--:|"
    for name, (by, random) in WAYS.items():
        if asked.only and name not in asked.only:
            continue
        made = ensemble(out=folder / "many", by=by, members=3, anew=random, epochs=asked.epochs, force=True)
        scores = ", ".join(f"{score:.2f}" for score in made.report["members"])
        yield f"| {name} | {scores} | {made.report['score']['after']:.2f} |"


TABLES = {"sparsity": sparsity, "transfer": transferred, "ensembles": ensembles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], default=list(TABLES))
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--cifar", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.tables:
            for line in TABLES[name](asked, Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
