"""Blocks of a compressed network that learn, without labels, to make what the dense network makes there."""

from __future__ import annotations

import time
from functools import cache

import models
import pytest
import torch
from torch import Tensor

from edgesdk.compress.apply import channels_to_keep, compressed
from edgesdk.compress.blockwise import JUDGE, BlockFit, find_blocks, reconstruct
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.plan import Form, Option, Plan
from edgesdk.data.data import Data
from edgesdk.data.task import Task
from edgesdk.network.network import Network
from edgesdk.train.apply import learn
from edgesdk.train.recovery import Recovery

STEPS = 25
UNLABELLED = Task("mse", False)  # of networks with random weights classes say little


@cache
def made(name: str) -> tuple[Network, Tensor]:
    """A network with 256 inputs, of which the first 192 are there to learn from."""
    return models.made(name, 256)


def off(network: Network, dense: Network, x: Tensor) -> float:
    """The squared error of the outputs over their variance."""
    with torch.no_grad():
        return UNLABELLED.fidelity_loss(network.flat(x), dense.flat(x))


def planned(network: Network, kind: str) -> Plan:
    """A plan of one ``kind``: half of the channels in integers, other forms of layers, a branch left out."""
    halves = {g.name: max(1, g.size // (2 * g.step)) * g.step for g in network.graph.groups if g.fixed is None}
    if kind == "narrow":
        return models.plan(network, halves, models.assigned(network, "int8"))
    if kind == "forms":
        inner = [layer.name for layer in network.graph.layers if layer.kernel == (3, 3)]
        return models.plan(network, options={name: Option(form=Form("separable", (1,))) for name in inner[1:]})
    return models.plan(network, dropped=(network.graph.branches[0].name,))


def compress(network: Network, kind: str, x: Tensor) -> tuple[Network, dict[str, list[int]]]:
    """The network as a plan of ``kind`` leaves it, quantized, and the channels left."""
    plan, scores = planned(network, kind), models.scores(network)
    small, options = compressed(network, plan, x[:8], scores)
    ready = integer(small, options)
    calibrate(ready, list(x.split(64)))
    return ready, channels_to_keep(network.graph, plan, scores)


@cache
def taught(name: str, kind: str) -> tuple[Network, Network, tuple[BlockFit, ...]]:
    """What a plan leaves before, and after its blocks learnt."""
    network, x = made(name)
    ready, kept = compress(network, kind, x[:192])
    return ready, *reconstruct(ready, network, kept, [x[:192]], UNLABELLED, STEPS)


CASES = [
    ("residual", "narrow"), ("residual", "forms"), ("residual", "dropped"),
    ("depthwise", "narrow"), ("transformer", "narrow"), ("recurrent", "narrow"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_outputs_come_nearer_on_samples_that_taught_nothing(name: str, kind: str) -> None:
    network, x = made(name)
    ready, new, fits = taught(name, kind)
    assert all(fit.after <= fit.before for fit in fits)
    assert any(fit.after < 0.9 * fit.before for fit in fits)
    assert off(new, network, x[192:]) < 0.8 * off(ready, network, x[192:])


@pytest.mark.parametrize(("name", "least"), [("residual", 3), ("depthwise", 3), ("transformer", 3), ("recurrent", 2)])
def test_blocks_follow_each_other_through_the_whole_network(name: str, least: int) -> None:
    network, x = made(name)
    ready, kept = compress(network, "narrow", x[:64])
    blocks = find_blocks(ready, network, kept, x[:8])
    assert len(blocks) >= least
    assert [block.last for block in blocks] == [False] * (len(blocks) - 1) + [True]
    for side, whole in (("own", ready), ("dense", network)):
        nodes = [node for block in blocks for node in getattr(block, side)]
        everything = [n for n in whole.module.graph.nodes if n.op in ("call_function", "call_module")]
        assert len(nodes) == len(set(nodes)) and [n for n in nodes if n in everything] == [
            n for n in everything if n in nodes
        ]
    learning = [parameter for block in blocks for parameter in block.parameters]
    assert len(learning) == len(set(learning)) == len(list(ready.module.parameters()))


def test_the_same_seed_gives_the_same_weights_and_what_was_given_stays() -> None:
    network, x = made("residual")
    ready, new, _ = taught("residual", "narrow")
    before = {name: value.clone() for name, value in ready.module.state_dict().items()}
    kept = compress(network, "narrow", x[:192])[1]
    again, _ = reconstruct(ready, network, kept, list(x[:192].split(64)), UNLABELLED, STEPS)
    for name, value in new.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value), name
        assert torch.equal(ready.module.state_dict()[name], before[name]), name


def test_it_can_be_taken_up_after_any_block() -> None:
    network, x = made("depthwise")
    ready, new, fits = taught("depthwise", "narrow")
    kept = compress(network, "narrow", x[:192])[1]
    states: list[Network] = []
    reconstruct(ready, network, kept, [x[:192]], UNLABELLED, STEPS, after=lambda n, done: states.append(n.copy()))
    assert len(states) == len(fits)
    resumed, rest = reconstruct(states[1], network, kept, [x[:192]], UNLABELLED, STEPS, done=2)
    assert len(rest) == len(fits) - 2
    assert all(torch.equal(resumed.module.state_dict()[n], v) for n, v in new.module.state_dict().items())


def test_a_time_that_is_over_and_too_few_samples_leave_everything_as_it_is() -> None:
    network, x = made("residual")
    ready, _, _ = taught("residual", "narrow")
    kept = compress(network, "narrow", x[:192])[1]
    for samples, until in (([x[:192]], time.monotonic()), ([x[: JUDGE - 1]], None)):
        new, fits = reconstruct(ready, network, kept, samples, UNLABELLED, STEPS, until=until)
        assert fits == ()
        assert all(torch.equal(new.module.state_dict()[n], v) for n, v in ready.module.state_dict().items())


def test_a_block_that_nothing_was_taken_from_does_not_learn() -> None:
    network, x = made("residual")
    new, fits = reconstruct(network, network, {}, [x[:192]], UNLABELLED, STEPS)
    assert fits and all(fit.after == fit.before for fit in fits)
    assert all(torch.equal(new.module.state_dict()[n], v) for n, v in network.module.state_dict().items())


def test_a_recovery_fits_blocks_where_nothing_learns_and_only_when_asked() -> None:
    network, x = made("residual")
    plan, scores = planned(network, "narrow"), models.scores(network)
    small, options = compressed(network, plan, x[:8], scores)
    batches = [(part, None) for part in x[:192].split(64)]
    data = Data(None, batches, batches, batches, False, None, "made", ())
    told: list[str] = []

    def reached(recovery: Recovery, **given) -> float:
        answer = learn(plan, network, small, options, data, UNLABELLED, 0.0, 0, lambda _, what: told.append(what),
                       recovery=recovery, **given)  # fmt: skip
        return off(answer.network, network, x[192:])

    plain = reached(Recovery(), scores=scores)
    assert not told
    assert reached(Recovery(reconstruct=STEPS)) == plain, "without scores nobody knows which channels are left"
    assert reached(Recovery(reconstruct=STEPS), scores=scores) < 0.8 * plain
    assert set(told) == {"fitting blocks"}
