"""A network in stages is the network, wherever it is cut, in float and in int8, in every format."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import models
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.exits import Place, fitted, picked, places, split, spread
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import DataError, ModelError, UsageError
from edgesdk.core.runtime import format_of
from edgesdk.export.formats import export, grid_of
from edgesdk.export.parity import parity
from edgesdk.network.network import Network
from edgesdk.network.trace import trace

RUNTIMES = ("onnxruntime", "openvino", "litert")


def heads(network: Network, x: Tensor, at: list[str]) -> dict[str, nn.Linear]:
    return fitted(network, at, [(x, None)], False)


@torch.no_grad()
def in_stages(parts: list[Network], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Each exit's answers, and the last stage's."""
    answers = []
    for part in parts[:-1]:
        logits, x = part.flat(x)
        answers.append(logits)
    return answers, parts[-1].flat(x)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("residual", ["stem.0", "add"]),  # not within a block, where its input crosses, too
        ("depthwise", ["stem.0", "add", "second.0", "second.3"]),
        ("transformer", ["patches", "add"]),
        ("recurrent", ["features.0", "features.3"]),
        ("example", ["add", "add_1"]),
    ],
)
def test_stages_answer_as_the_whole_to_the_bit(name: str, expected: list[str]) -> None:
    network, x = models.made(name, 8)
    listed = places(network)
    assert [place.layer for place in listed] == expected
    assert all(0.05 <= a.share <= b.share <= 0.95 for a, b in pairwise(listed))
    parts = split(network, heads(network, x, expected), x)
    assert len(parts) == len(expected) + 1
    assert sum(
        layer.macs for part in parts for layer in part.graph.layers if not layer.name.startswith("exit_")
    ) == sum(layer.macs for layer in network.graph.layers)  # nothing is computed twice
    for count in (8, 3):  # the batch is free in every stage
        answers, last = in_stages(parts, x[:count])
        for actual, whole in zip(last, network.flat(x[:count]), strict=True):
            assert torch.equal(actual, whole)
        assert [answer.shape for answer in answers] == [last[0].shape] * len(expected)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("name", "precision"), [("residual", "int8"), ("transformer", "dense")])
def test_every_stage_is_a_file_that_computes_it(tmp_path: Path, name: str, precision: str, runtime: str) -> None:
    network, x = models.made(name, 32)
    at = [place.layer for place in places(network)][-1:]
    batches = [x]
    for index, part in enumerate(split(network, heads(network, x, at), x)):
        options = models.assigned(part, precision)
        ready = integer(part, options, grid_of(runtime))
        calibrate(ready, batches)
        path = tmp_path / f"stage-{index}{format_of(runtime).suffix}"
        export(ready, batches[0], path, runtime)
        parity(ready, Artifact(path, ready.graph, options, runtime), batches)
        with torch.no_grad():
            batches = [ready.flat(batch)[-1] for batch in batches]


def test_exits_learn_from_labels_or_from_the_network_itself_and_leave_it_alone() -> None:
    network, x = models.made("residual", 256)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    own = network.flat(x)[0].softmax(1).detach()
    labels = (x[:, 0].mean((1, 2)) > 0).long()
    taught, imitating = fitted(network, ["add"], [(x, labels)], True), fitted(network, ["add"], [(x, None)], False)
    (logits,), _ = in_stages(split(network, taught, x), x)
    assert float((logits.argmax(1) == labels).double().mean()) > float(labels.bincount().max()) / len(labels) + 0.05
    (logits,), _ = in_stages(split(network, imitating, x), x)
    away, plain = (float((answers - own).abs().mean()) for answers in (logits.softmax(1), own.mean(0)))
    assert away < plain / 2
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


def test_the_place_is_the_one_where_the_fewest_macs_are_expected() -> None:
    network, x = models.made("residual", 64)
    every = [place.layer for place in places(network)]
    fitted = heads(network, x, every)
    nothing = {name: nn.Linear(part.in_features, part.out_features) for name, part in fitted.items()}
    for part in nothing.values():
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    for good in every:  # an exit that cannot tell anything apart is never the one
        mixed = {name: (fitted if name == good else nothing)[name] for name in every}
        assert picked(network, mixed, 1, [(x, None)], 0.3, "entropy") == (good,)
    assert picked(network, fitted, 2, [(x, None)], 0.3, "entropy") == tuple(every)


def test_places_are_spread_and_counted() -> None:
    near = [Place(f"layer{index}", 0.1 + 0.001 * index) for index in range(20)]
    chosen = spread([*near, Place("far", 0.9)], 1)
    assert len(chosen) == 12 and chosen[-1] == "far" and chosen == sorted(chosen, key=chosen.index)
    assert len(spread([*near, Place("far", 0.9)], 14)) == 14
    with pytest.raises(UsageError, match="21 exits, but the model can be cut at 20 places"):
        spread(near, 21)


class Dense(nn.Module):
    """Whatever comes later reads the input as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.cat([x, torch.relu(self.first(x))], 1))


def test_a_network_without_a_place_and_data_without_a_batch_are_refused() -> None:
    network = trace(Dense().eval(), torch.randn(4, 4))
    assert places(network) == ()
    with pytest.raises(ModelError, match="cannot be cut"):
        spread(places(network), 1)
    network, _ = models.made("residual", 2)
    with pytest.raises(DataError, match="training data is empty"):
        fitted(network, ["add"], [], True)


def test_an_early_output_leaves_no_place_behind_it() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.relu(self.b(torch.relu(self.a(x))))
            return self.c(y), y

    network = trace(Two().eval(), torch.randn(4, 4))
    assert [place.layer for place in places(network)] == ["a", "b"]
    x = torch.randn(4, 4)
    _, last = in_stages(split(network, heads(network, x, ["b"]), x), x)
    assert len(last) == 2
    for actual, expected in zip(last, network.flat(x), strict=True):
        assert torch.equal(actual, expected)
