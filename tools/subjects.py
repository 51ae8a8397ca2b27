"""The networks that techniques are judged on, with their data: what becomes of them is asked here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

import zoo
from cifar import Cifar
from edgesdk.compress.apply import compressed
from edgesdk.compress.refit import irreplaceable
from edgesdk.compress.sensitivity import importance
from edgesdk.core.budget import Cost
from edgesdk.core.graph import WEIGHTED, Group
from edgesdk.core.plan import INT8, LayerPlan, Option, Plan, Proof
from edgesdk.data.task import Task
from edgesdk.example.data import example_data, example_model
from edgesdk.network.load import load_model
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.techniques.importance import gamma, l1, l2, together
from edgesdk.techniques.layouts import by_output
from edgesdk.train.apply import fit

CALIBRATION, TESTS = 256, 2000
Batches = Iterable[tuple[Tensor, Tensor]]
Scores = Mapping[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """A dense network with its data. ``train`` makes its training batches, in the same order each time it is called."""

    name: str
    network: Network
    labelled: list[tuple[Tensor, Tensor]]
    test: list[tuple[Tensor, Tensor]]
    train: Callable[[], Batches]
    images: int
    description: str
    task: Task

    @property
    def calibration(self) -> list[Tensor]:
        return [x for x, _ in self.labelled]

    @property
    def example(self) -> Tensor:
        return self.calibration[0]

    def top1(self, network: Network) -> float:
        """Percent of the test images."""
        return self.task.score(network, self.test, self.network)

    def error(self, network: Network) -> float:
        """The mean square of what the outputs are off, over their variance, on the test images."""
        with torch.no_grad():
            pairs = [(network.flat(x)[0], self.network.flat(x)[0]) for x, _ in self.test]
        outputs, wanted = (torch.cat(side) for side in zip(*pairs, strict=True))
        return float((outputs - wanted).square().mean() / wanted.var())

    def plan(
        self, kept: Mapping[str, int] | None = None, options: Mapping[str, Option] | None = None,
        dropped: Collection[str] = (),
    ) -> Plan:  # fmt: skip
        """A plan by hand: the channels that each group keeps, the options of layers, the branches left out."""
        layers = (LayerPlan(layer.name, (options or {}).get(layer.name, Option()), 0.0, "by hand")
                  for layer in self.network.graph.layers)  # fmt: skip
        return Plan(
            self.network.graph.digest, "x86", "onnxruntime", 1, kept or {}, tuple(layers), tuple(dropped),
            Cost(1.0, 1.0, 1.0, "predicted"), Proof(0.0, 0.0, 0.0, 0.0, "by hand"),
        )  # fmt: skip

    def apply(self, plan: Plan, scores: Scores, fitted: bool) -> tuple[Network, dict[str, Option]]:
        """The float network that ``plan`` makes, channels ranked by ``scores``, and its options; fitted or as cut."""
        small, options = compressed(self.network, plan, self.example, scores)
        if fitted:
            small = fit(plan, self.network, small, scores, self.calibration)
        return small, options

    def widths(self, share: float, chosen: Callable[[Group], bool] = lambda group: True) -> dict[str, int]:
        """``share`` of the channels of each group that is ``chosen`` and may be cut, in whole heads."""
        groups = [group for group in self.network.graph.groups if group.fixed is None and chosen(group)]
        return {group.name: max(1, round(share * group.size / group.step)) * group.step for group in groups}

    def cut(self, share: float, scores: Scores, fitted: bool) -> Network:
        """All widths at ``share`` of the dense ones, the channels with the best ``scores`` kept."""
        return self.apply(self.plan(self.widths(share)), scores, fitted)[0]


class First:
    """The first ``count`` of ``batches``, each time."""

    def __init__(self, batches: Batches, count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return min(self.count, len(self.batches))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(iter(self.batches), self.count)


def example(images: int | None = None, weights: Path | None = None) -> Subject:
    """The built-in example, which has weights of its own, with at most ``images`` to learn from."""
    data = example_data(0)
    network, batch = trace(example_model(), data.example), len(data.example)
    count = len(data.train) if images is None else min(max(1, images // batch), len(data.train))  # type: ignore[arg-type]
    return Subject(
        "resnet8", network, data.calibration, data.test, lambda: First(example_data(0).train or (), count),
        count * batch, "ResNet-8 on the built-in sample of Fashion-MNIST", Task("top-1", data.labelled),
    )  # fmt: skip


def trained(
    name: str, make: Callable[[], nn.Module], what: str, images: int | None = None, weights: Path | None = None
) -> Subject:
    """A network of ``tools/zoo.py`` with the weights that ``tools/train_zoo.py`` made for it, on CIFAR-10."""
    if weights is None:
        raise SystemExit(f"{name} has no weights of its own: give --weights-folder, made by tools/train_zoo.py")
    make_data = partial(Cifar, batch=64, trains=images or 50_000, calibration=CALIBRATION, tests=TESTS)
    model, data = load_model(make(), weights / f"{name}.safetensors"), make_data()
    calibration = list(data.calibration)

    def fresh() -> Batches:
        data.train.generator.manual_seed(0)
        return data.train

    return Subject(
        name, trace(model, calibration[0][0]), calibration, list(data.test), fresh, len(data.train) * 64,
        f"{what} on CIFAR-10", Task(),
    )  # fmt: skip


SUBJECTS: dict[str, Callable[..., Subject]] = {
    "resnet8": example,
    "resnet20": partial(trained, "resnet20", zoo.resnet20, "ResNet-20"),
    "vit": partial(trained, "vit", zoo.vit_small, "A ViT of three blocks of 64 dimensions and four heads"),
}


def whole(network: Network, bits: int) -> dict[str, Option]:
    """Every layer with weights integer, its weights in ``bits``."""
    return {layer.name: Option(INT8, bits) for layer in network.graph.layers if layer.macs}


def _of_writers(writer: Callable[[Subject, str], Tensor | None], subject: Subject) -> Scores:
    """What ``writer`` says of each layer that writes a group's channels, added up."""
    graph, by_group = subject.network.graph, {}
    for group in graph.groups:
        writers = [graph.by_name[name] for name in group.layers if group.fixed is None]
        names = [w.name for w in writers if w.kind in WEIGHTED and w.outputs == group.size]
        scores = [score for name in names if (score := writer(subject, name)) is not None]
        if group.fixed is None:
            by_group[group.name] = torch.stack(scores).sum(0) if scores else torch.zeros(group.size)
    return by_group


def _weight(subject: Subject, name: str) -> Tensor:
    part = subject.network.submodule(name)
    return by_output(part, part.weight.detach())  # type: ignore[operator,arg-type]


def _gamma(subject: Subject, name: str) -> Tensor | None:
    path = subject.network.sites[name].norm
    return None if path is None else gamma(subject.network.module.get_submodule(path).weight)  # type: ignore[arg-type]


def _taylor(subject: Subject) -> Scores:
    return importance(subject.network, subject.labelled, subject.task)


def _hessian(subject: Subject) -> Scores:
    return irreplaceable(subject.network, subject.calibration)


def _both(subject: Subject) -> Scores:
    taylor, hessian = _taylor(subject), _hessian(subject)
    return {group: together(score, hessian[group]) for group, score in taylor.items()}


CRITERIA: dict[str, Callable[[Subject], Scores]] = {
    "L1": partial(_of_writers, lambda subject, name: l1(_weight(subject, name))),
    "L2": partial(_of_writers, lambda subject, name: l2(_weight(subject, name))),
    "BatchNorm scale": partial(_of_writers, _gamma),
    "Taylor": _taylor,
    "Hessian": _hessian,
    "Taylor and Hessian": _both,
}
"""How channels are ranked, by the names of the criteria."""
