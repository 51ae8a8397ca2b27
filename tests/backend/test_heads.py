"""Attention heads: found however a network is written, cut as other channels are, priced by what is left of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import models
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.compress.apply import channels_to_keep, compressed
from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.compress.refit import irreplaceable, refit_weights
from edgesdk.compress.sensitivity import importance, kept_channels, measure_sensitivity
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import BundleError
from edgesdk.core.plan import FP32, Option
from edgesdk.core.runtime import format_of
from edgesdk.data.task import Task
from edgesdk.export import onnx as onnx_file
from edgesdk.export.formats import save
from edgesdk.export.parity import parity
from edgesdk.network import trace as tracing
from edgesdk.network.fuse import run
from edgesdk.network.heads import attentions, cut_heads, mask_heads
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price.correct import Correction
from edgesdk.price.files import weight_bytes
from edgesdk.price.menu import all_widths, menu, options
from edgesdk.price.operators import operators, widths
from edgesdk.price.planned import layer_parts
from edgesdk.price.table import Price, Table
from edgesdk.solve.milp import solve

DIM, HEADS, TOKENS = 32, 4, 6
DEPTH = DIM // HEADS
RUNTIMES = ("onnxruntime", "openvino", "litert")
Mix = Callable[[nn.Module, Tensor], Tensor]


class Block(nn.Module):
    """One residual attention, mixed by ``mix``, and a classifier; tokens (N, 6, 32)."""

    def __init__(self, mix: Mix, **layers: nn.Module) -> None:
        super().__init__()
        self.norm, self.out, self.fc = nn.LayerNorm(DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, models.CLASSES)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.bias = nn.Parameter(torch.randn(HEADS, TOKENS, TOKENS))
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x + self.mix(self, self.norm(x))).mean(1))


def joined(net, mixed: Tensor) -> Tensor:
    return net.out(mixed.transpose(1, 2).flatten(2))


def split(y: Tensor, heads: int = HEADS) -> Tensor:
    return y.unflatten(2, (heads, -1)).transpose(1, 2)


def separate(net, x: Tensor) -> Tensor:
    q, k, v = (layer(x).view(x.shape[0], TOKENS, HEADS, DEPTH).transpose(1, 2) for layer in (net.q, net.k, net.v))
    weights = (q @ k.transpose(-2, -1) / DEPTH**0.5).softmax(-1)
    return net.out((weights @ v).transpose(1, 2).contiguous().view(x.shape[0], TOKENS, DIM))


def masked(net, x: Tensor) -> Tensor:
    q, k, v = (split(layer(x)) for layer in (net.q, net.k, net.v))
    past = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    return joined(net, F.scaled_dot_product_attention(q, k, v, attn_mask=past))


def fused(net, x: Tensor) -> Tensor:
    q, k, v = net.qkv(x).reshape(x.shape[0], TOKENS, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    return net.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], TOKENS, -1))


def interleaved(net, x: Tensor) -> Tensor:
    """Queries, keys and values of one head beside each other, as in GPT-NeoX."""
    q, k, v = net.qkv(x).view(x.shape[0], TOKENS, HEADS, 3 * DEPTH).transpose(1, 2).chunk(3, -1)
    return joined(net, F.scaled_dot_product_attention(q, k, v))


def pieces(net, x: Tensor) -> Tensor:
    q, k, v = (split(part) for part in net.qkv(x).split(DIM, 2))
    return joined(net, F.scaled_dot_product_attention(q * 0.5, k, v))


def of_torch(net, x: Tensor) -> Tensor:
    return net.attention(x, x, x, need_weights=False)[0]


def of_torch_plainly(net, x: Tensor) -> Tensor:
    return net.attention(x, x, x)[0]


def shared(net, x: Tensor) -> Tensor:
    """Two heads share a key and a value (Ainslie et al. 2023, GQA)."""
    k, v = (split(layer(x), 2).repeat_interleave(2, 1) for layer in (net.k, net.v))
    return joined(net, F.scaled_dot_product_attention(split(net.q(x)), k, v))


def shared_by_views(net, x: Tensor) -> Tensor:
    """The same, as a view that is laid out."""
    k, v = (split(layer(x), 2)[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for layer in (net.k, net.v))
    weights = (split(net.q(x)) @ k.mT / DEPTH**0.5).softmax(-1)
    return joined(net, weights @ v)


def shared_inside(net, x: Tensor) -> Tensor:
    """The same, where the attention itself repeats them."""
    q, k, v = split(net.q(x)), split(net.k(x), 2), split(net.v(x), 2)
    return joined(net, F.scaled_dot_product_attention(q, k, v, enable_gqa=True))


def shared_by_turns(net, x: Tensor) -> Tensor:
    """The first key and value are the first and the third head's, which do not follow each other."""
    k, v = (split(layer(x), 2).repeat(1, 2, 1, 1) for layer in (net.k, net.v))
    return joined(net, F.scaled_dot_product_attention(split(net.q(x)), k, v))


ANGLES = torch.outer(torch.arange(TOKENS), 0.5 ** torch.arange(DEPTH // 2))


def rotated(net, x: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021), by halves."""
    q, k, v = (split(layer(x)) for layer in (net.q, net.k, net.v))
    both = torch.cat([ANGLES, ANGLES], -1)

    def turn(y: Tensor) -> Tensor:
        return torch.cat([-y[..., DEPTH // 2 :], y[..., : DEPTH // 2]], -1) * both.sin() + y * both.cos()

    return joined(net, F.scaled_dot_product_attention(turn(q), turn(k), v))


def rotated_by_pairs(net, x: Tensor) -> Tensor:
    """The same of neighbours, of heads that lie in one layer and share keys."""
    q, k, v = (
        split(part, heads)
        for part, heads in zip(net.qkv(x).split((DIM, DIM // 2, DIM // 2), 2), (4, 2, 2), strict=True)
    )

    def turn(y: Tensor) -> Tensor:
        a, b = y[..., ::2], y[..., 1::2]
        return torch.stack([a * ANGLES.cos() - b * ANGLES.sin(), a * ANGLES.sin() + b * ANGLES.cos()], -1).flatten(-2)

    k, v = turn(k).repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    return joined(net, F.scaled_dot_product_attention(turn(q), k, v))


def met(net, x: Tensor) -> Tensor:
    """Keys that meet values: no layer alone makes them."""
    q, k, v = (split(layer(x)) for layer in (net.q, net.k, net.v))
    return joined(net, F.scaled_dot_product_attention(q, k + v, v))


def biased(net, x: Tensor) -> Tensor:
    """Each head has a bias of its own on its weights, which no layer makes."""
    q, k, v = (split(layer(x)) for layer in (net.q, net.k, net.v))
    return joined(net, F.scaled_dot_product_attention(q, k, v, attn_mask=net.bias))


def biased_by_pairs(net, x: Tensor) -> Tensor:
    """The same, added to scores of heads of which two share a key and a value, and masked then."""
    k, v = (split(layer(x), 2).repeat_interleave(2, 1) for layer in (net.k, net.v))
    scores = (split(net.q(x)) @ k.mT / DEPTH**0.5 + net.bias).masked_fill((net.bias > 1.5)[None], -1e4)
    return joined(net, scores.softmax(-1) @ v)


def padded(net, x: Tensor) -> Tensor:
    """A mask of each sample's own, which PyTorch's attention repeats for each head."""
    mask = (x[:, :, 0] > 0.8) & (torch.arange(TOKENS) > 0)
    return net.attention(x, x, x, need_weights=False, key_padding_mask=mask)[0]


def linears(*outputs: int) -> dict[str, nn.Module]:
    return {name: nn.Linear(DIM, count) for name, count in zip("qkv", outputs, strict=True)}


def attention() -> dict[str, nn.Module]:
    return {"attention": nn.MultiheadAttention(DIM, HEADS, batch_first=True)}


FORMS: dict[str, tuple[Mix, Callable[[], dict[str, nn.Module]], str]] = {
    "separate": (separate, lambda: linears(DIM, DIM, DIM), "q"),
    "masked": (masked, lambda: linears(DIM, DIM, DIM), "q"),
    "fused": (fused, lambda: {"qkv": nn.Linear(DIM, 3 * DIM)}, "qkv"),
    "interleaved": (interleaved, lambda: {"qkv": nn.Linear(DIM, 3 * DIM, bias=False)}, "qkv"),
    "pieces": (pieces, lambda: {"qkv": nn.Linear(DIM, 3 * DIM)}, "qkv"),
    "of torch": (of_torch, attention, "attention.in_proj"),
    "of torch plainly": (of_torch_plainly, attention, "attention.in_proj"),
    "shared": (shared, lambda: linears(DIM, DIM // 2, DIM // 2), "k"),
    "shared by views": (shared_by_views, lambda: linears(DIM, DIM // 2, DIM // 2), "k"),
    "shared inside": (shared_inside, lambda: linears(DIM, DIM // 2, DIM // 2), "q"),
    "rotated": (rotated, lambda: linears(DIM, DIM, DIM), "q"),
    "rotated by pairs": (rotated_by_pairs, lambda: {"qkv": nn.Linear(DIM, 2 * DIM)}, "qkv"),
    "biased": (biased, lambda: linears(DIM, DIM, DIM), "q"),
    "biased by pairs": (biased_by_pairs, lambda: linears(DIM, DIM // 2, DIM // 2), "k"),
    "padded": (padded, attention, "attention.in_proj"),
}
PAIRS = ("shared", "shared by views", "shared inside", "rotated by pairs", "biased by pairs")  # two heads go together
LEFT: dict[str, tuple[Mix, Callable[[], dict[str, nn.Module]], str]] = {
    "by turns": (shared_by_turns, lambda: linears(DIM, DIM // 2, DIM // 2), "repeat makes what they read"),
    "met": (met, lambda: linears(DIM, DIM, DIM), "add makes what they read"),
}


@cache
def made(name: str, samples: int = 64) -> tuple[Network, Tensor, str]:
    """A traced network, inputs, and the name of its heads' group."""
    torch.manual_seed(4)
    mix, layers, group = (FORMS | LEFT)[name]
    model, x = Block(mix, **layers()).eval(), torch.randn(samples, TOKENS, DIM)
    with torch.no_grad():
        for part in model.parameters():
            part.mul_(1.5)
    return trace(model, x), x, group


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", FORMS)
def test_cutting_heads_by_a_plan_is_reading_zero_of_them(name: str) -> None:
    network, x, name_of = made(name)
    group = network.graph.group_by_name[name_of]
    assert (group.size, group.step, group.fixed) == (DIM, DEPTH * (1 + (name in PAIRS)), None)
    scores = {name_of: torch.rand(DIM, generator=torch.Generator().manual_seed(5))}
    plan = models.plan(network, {name_of: 2 * DEPTH})
    small, given_options = compressed(network, plan, x, scores)
    gone = sorted(set(range(DIM)) - set(channels_to_keep(network.graph, plan, scores)[name_of]))
    masked_module = copy.deepcopy(network.module)
    (attention,), reasons = attentions(network.module, run(network.module, x[:2]))
    assert reasons == {} and len(gone) == 2 * DEPTH
    mask_heads(masked_module, attention, attention.without(gone))
    with torch.no_grad():
        for batch in (x, x[:1]):
            close(small(batch), masked_module(batch)[0])
        assert not torch.allclose(small(x), network(x), rtol=1e-2)
    assert set(given_options) == set(small.graph.by_name)
    for layer in group.layers:
        assert small.graph.by_name[layer].weight_shape[0] * 2 == network.graph.by_name[layer].weight_shape[0]
    assert small.graph.by_name[attention.projection].weight_shape == (DIM, 2 * DEPTH)


@pytest.mark.parametrize("name", ["fused", "shared", "rotated"])
def test_heads_go_on_trial_at_every_count_of_the_menu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x, name_of = made(name)
    tried: list[tuple[int, ...]] = []
    kept = tracing.keep_heads
    monkeypatch.setattr(tracing, "keep_heads", lambda *args: (tried.append(tuple(args[2])), kept(*args)))
    again = trace(network.module, x)
    group = again.graph.group_by_name[name_of]
    each = HEADS // (group.size // group.step)  # heads that go together
    assert {len(stay) * each * DEPTH for stay in tried} == {*widths(group.size, group.step)[:-1]}
    assert all(len({stay for stay in tried if len(stay) == count}) > 1 for count in {*map(len, tried)})


@pytest.mark.parametrize("name", LEFT)
def test_an_attention_that_is_not_understood_stays_whole_with_the_reason(name: str) -> None:
    network, x, reason = made(name)
    assert all(group.step == 1 or group.fixed for group in network.graph.groups)
    reasons = {layer: group.fixed for group in network.graph.groups for layer in group.layers}
    assert all(reasons[layer] for layer in "qkv")
    assert any(reason in str(reasons[layer]) for layer in "qkv"), reasons
    with pytest.raises(ValueError, match=r"makes no heads that can be cut|no head of q is left"):
        cut_heads(network.copy().module, x, "q", range(DIM))


def test_the_hidden_channels_of_a_transformer_block_are_a_group_as_any() -> None:
    network, _ = models.made("transformer", 8)
    group = network.graph.group_by_name["mlp.0"]
    assert (group.size, group.step, group.fixed) == (64, 1, None)


def test_no_head_left_and_half_a_head_are_refused() -> None:
    network, x, group = made("fused")
    with pytest.raises(ValueError, match="no head of qkv is left"):
        cut_heads(network.copy().module, x, "qkv", range(DIM))
    with pytest.raises(ValueError, match="fc makes no heads"):
        cut_heads(network.copy().module, x, "fc", [0])
    with pytest.raises(BundleError, match=r"keeps 12 channels of qkv, which go 8 at a time"):
        compressed(network, models.plan(network, {group: 12}), x, models.scores(network))


@given(heads=st.integers(1, 64), depth=st.integers(2, 128))
def test_widths_of_heads_are_whole_heads(heads: int, depth: int) -> None:
    counts = widths(heads * depth, depth)
    assert list(counts) == sorted(set(counts)) and counts[-1] == heads * depth
    assert all(width % depth == 0 and width > 0 for width in counts)
    assert len(counts) == min(heads, 8)


@given(scores=st.lists(st.floats(0, 1e3, width=32), min_size=12, max_size=12), units=st.integers(1, 4))
def test_kept_heads_are_whole_and_the_best(scores: list[float], units: int) -> None:
    values = torch.tensor(scores)
    kept = kept_channels(values, 3 * units, 3)
    heads = sorted({channel // 3 for channel in kept})
    assert kept == [head * 3 + place for head in heads for place in range(3)] and len(heads) == units
    sums = values.reshape(4, 3).sum(1)
    others = [float(sums[head]) for head in range(4) if head not in heads]
    assert not others or max(others) <= min(float(sums[head]) for head in heads)


@pytest.mark.parametrize("name", ["separate", "fused", "pieces"])
def test_operators_of_fewer_heads_are_those_of_the_network_that_was_cut(name: str) -> None:
    network, x, group = made(name)
    small, _ = compressed(network, models.plan(network, {group: DEPTH}), x, {group: torch.arange(DIM).float()})
    compared = set()
    for layer in network.graph.layers:
        reads, writes = (DEPTH if side == group else None for side in (layer.reads, layer.writes))
        same = small.graph.by_name[layer.name]
        if layer.operator == "unbind":
            continue  # it only renames what permute made
        result = operators(layer, network.graph, Option(), reads, writes)
        assert result == operators(same, small.graph, Option(), None, None)
        if result != operators(layer, network.graph, Option(), None, None):
            compared.add(layer.operator)
        (part,) = layer_parts(layer, network.graph, Option(), reads, writes)
        assert weight_bytes(part, Option()) == weight_bytes(same, Option())
    assert compared >= {"linear", "matmul" if name == "separate" else "scaled_dot_product_attention"}


@pytest.mark.parametrize("name", ["separate", "fused"])
def test_a_head_that_is_not_read_goes_first_and_at_no_price(name: str) -> None:
    network, x, group = made(name)
    network = network.copy()
    with torch.no_grad():
        network.module.get_parameter("out.weight")[:, 2 * DEPTH : 3 * DEPTH] = 0.0
    batches, task = [(x[:32], None), (x[32:], None)], Task(labelled=False)
    for scores in (importance(network, batches, task), irreplaceable(network, [x for x, _ in batches])):
        assert scores[group].shape == (DIM,) and float(scores[group].std()) > 0
        heads = scores[group].reshape(HEADS, DEPTH).sum(1)
        assert float(heads[2]) <= 1e-6 * float(heads.min(0).values.clamp(min=heads[[0, 1, 3]].min()))
        assert set(range(DIM)) - set(kept_channels(scores[group], 3 * DEPTH, DEPTH)) == set(range(16, 24))
    space = {layer.name: (Option(),) for layer in network.graph.layers}
    losses = measure_sensitivity(network, space, x, importance(network, batches, task), task).widths[group]
    assert set(losses) == {DEPTH, 2 * DEPTH, 3 * DEPTH, DIM}
    assert losses[3 * DEPTH] == pytest.approx(0.0, abs=1e-6)
    assert losses[DEPTH] > 1e-4 and losses[DEPTH] >= losses[2 * DEPTH] >= losses[3 * DEPTH] >= losses[DIM] == 0.0


@pytest.mark.parametrize("name", ["separate", "fused"])
def test_the_projection_is_fitted_to_the_heads_that_stay(name: str) -> None:
    network, x, group = made(name, 192)
    scores = importance(network, [(x[:128], None)], Task(labelled=False))
    plan = models.plan(network, {group: 2 * DEPTH})
    small, _ = compressed(network, plan, x, scores)
    new, fits = refit_weights(small, network, channels_to_keep(network.graph, plan, scores), list(x[:128].split(32)))
    assert next(fit for fit in fits if fit.layer == "out").damping is not None
    with torch.no_grad():
        wanted, plain, fitted = (net.flat(x[128:])[0] for net in (network, small, new))
    assert float((fitted - wanted).square().mean()) < 0.8 * float((plain - wanted).square().mean())


@pytest.mark.parametrize("precision", ["dense", "int8"])
@pytest.mark.parametrize(
    "name", ["separate", "of torch", "rotated by pairs", "biased by pairs", "padded"]
)  # a ViT's: conformance
def test_files_compute_what_is_left(name: str, precision: str, tmp_path: Path) -> None:
    network, x, group = made(name)
    plan = models.plan(network, {group: DIM // 2}, models.assigned(network, precision))
    small, chosen = compressed(network, plan, x, {group: torch.arange(DIM).float()})
    result = integer(small, chosen)
    calibrate(result, [x])
    written = onnx_file.converted(result, x)
    for runtime in RUNTIMES:
        path = tmp_path / f"model{format_of(runtime).suffix}"
        save(written, specification(result), path, runtime)
        seen = parity(result, Artifact(path, result.graph, runtime=runtime), [x])
        assert seen.error <= seen.tolerance == (1e-3 if precision == "dense" else 5e-2)


def test_the_search_buys_whole_heads(tmp_path: Path) -> None:
    network, x, group = made("fused")
    task = Task(labelled=False)
    space = {n.name: tuple(o for o in options(n) if o.form is None) for n in network.graph.layers}
    space = {name: tuple(o for o in options if o.precision == FP32) for name, options in space.items()}
    table = Table.open(tmp_path, {}, 1)
    table.add({probe.key: Price(1e-6 * probe.macs + 1e-9) for probe in table.missing(all_widths(network.graph, space))})
    losses = measure_sensitivity(network, space, x, importance(network, [(x, None)], task), task)
    losses = replace(losses, branches={})
    result = menu(network.graph, space, table, losses, Correction())
    whole = solve(result, {}, "loss")
    less = solve(result, {"latency_ms": 0.7 * whole.cost.latency_ms}, "loss")
    assert whole.kept[group] == DIM and less.kept[group] in (DEPTH, 2 * DEPTH, 3 * DEPTH)
    assert less.cost.latency_ms <= 0.7 * whole.cost.latency_ms and less.cost.size_bytes < whole.cost.size_bytes
