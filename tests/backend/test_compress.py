"""Laws of compression: what is cut, factorized, folded or left out computes what the mathematics says."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import models
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from torch import Tensor, nn

from edgesdk.compress.apply import compressed
from edgesdk.compress.forms import factorized, reconstructed
from edgesdk.compress.integers import SIGNED, SYMMETRIC, UNSIGNED, ActivationQuantizer, Grid, IntegerLayer
from edgesdk.compress.quantize import calibrate, fold, integer, specification
from edgesdk.compress.sensitivity import kept_channels
from edgesdk.core.errors import BundleError, FidelityError, UsageError
from edgesdk.core.plan import INT8, Form, Option
from edgesdk.data.task import Task
from edgesdk.export.onnx import check, converted
from edgesdk.network.cutting import cut
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.pipeline.remarks import is_empty
from edgesdk.price.recurrent import recurrence
from edgesdk.train.trainer import Schedule, recovered

NETWORKS = ("residual", "depthwise", "transformer", "recurrent")
GROUPS = [
    ("residual", "stem.0"), ("residual", "inner.0"), ("residual", "down.0"), ("residual", "down.3"),
    ("depthwise", "first.0"), ("depthwise", "stem.0"), ("transformer", "mlp.0"), ("recurrent", "features.0"),
]  # fmt: skip


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[Network, Tensor]]:
    return {name: models.made(name, 8) for name in NETWORKS}


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "group"), GROUPS)
def test_cutting_channels_is_setting_them_to_zero(networks, name: str, group: str) -> None:
    network, x = networks[name]
    entry = network.graph.group_by_name[group]
    assert entry.fixed is None
    channels = [0, 3, entry.size - 1]
    small, masked = copy.deepcopy(network.module), copy.deepcopy(network.module)
    cut(small, x[:2], network.channels, {group: channels})
    with torch.no_grad():
        for layer in entry.layers:
            for path in filter(None, (network.sites[layer].module, network.sites[layer].norm)):
                masked.get_submodule(path).weight[channels] = 0
                if masked.get_submodule(path).bias is not None:
                    masked.get_submodule(path).bias[channels] = 0
        after, expected, before = small(x)[0], masked(x)[0], network.module(x)[0]
    close(after, expected)
    assert not torch.allclose(before, expected, rtol=1e-3)
    assert small.get_submodule(network.sites[group].module).weight.shape[0] == entry.size - len(channels)


FULL_RANK = [
    (nn.Linear(12, 20), Form("svd", (12,)), (12,)),
    (nn.Conv2d(12, 20, 1, 2), Form("svd", (12,)), (12, 9, 9)),
    (nn.Conv2d(6, 10, 3, 2, 1), Form("spatial", (18,)), (6, 9, 9)),
    (nn.Conv2d(6, 10, (3, 5), (1, 2), (1, 2), bias=False), Form("spatial", (18,)), (6, 9, 9)),
    (nn.Conv2d(6, 10, 3, 2, 1), Form("tucker", (6, 10)), (6, 9, 9)),
    (nn.Conv2d(6, 10, 3, 1, 2, dilation=2), Form("tucker", (6, 10)), (6, 9, 9)),
]


@pytest.mark.parametrize(("layer", "form", "shape"), FULL_RANK)
def test_at_full_rank_a_low_rank_form_is_the_layer(layer: nn.Module, form: Form, shape: tuple[int, ...]) -> None:
    x = torch.randn(3, *shape)
    with torch.no_grad():
        close(factorized(layer, form)(x), layer(x))
    close(reconstructed(layer, form), layer.weight.detach())  # type: ignore[arg-type,union-attr,operator]


@given(rows=st.integers(2, 24), columns=st.integers(2, 24), data=st.data())
def test_the_error_of_a_truncated_svd_is_that_of_eckart_and_young(rows: int, columns: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(rows, columns)))
    torch.manual_seed(rows * 100 + columns)
    layer = nn.Linear(columns, rows)
    weight = layer.weight.detach()
    error = float((weight - reconstructed(layer, Form("svd", (rank,)))).norm())
    expected = float(torch.linalg.svdvals(weight)[rank:].norm())
    assert error == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("layer", "form"),
    [
        (nn.Conv2d(16, 24, 3, 1, 1), Form("spatial", (8,))),
        (nn.Conv2d(16, 24, 3, 1, 1), Form("tucker", (8, 8))),
        (nn.Conv2d(16, 24, 1), Form("svd", (8,))),
    ],
)
def test_a_reconstructed_weight_is_what_the_low_rank_form_computes(layer: nn.Conv2d, form: Form) -> None:
    whole = copy.deepcopy(layer)
    whole.weight.data = reconstructed(layer, form)
    x = torch.randn(2, 16, 7, 7)
    with torch.no_grad():
        close(factorized(layer, form)(x), whole(x))


def test_a_rank_above_full_and_a_method_that_does_not_apply_are_refused() -> None:
    with pytest.raises(UsageError, match="rank 13 is not between 1 and 12"):
        factorized(nn.Linear(12, 20), Form("svd", (13,)))
    with pytest.raises(UsageError, match="tucker does not apply to Linear"):
        factorized(nn.Linear(12, 20), Form("tucker", (4, 4)))


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_batchnorm_changes_nothing(networks, name: str) -> None:
    network, x = networks[name]
    folded = fold(network)
    with torch.no_grad():
        close(folded(x), network(x))
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in folded.module.modules())
    assert all(network.sites[n].module is None or folded.submodule(n).bias is not None for n in folded.sites)


def test_leaving_out_a_branch_is_removing_it_by_hand(networks) -> None:
    network, x = networks["residual"]
    branch = next(b for b in network.graph.branches if "inner.0" in b.layers)
    plan = models.plan(network, dropped=(branch.name,))
    small, options = compressed(network, plan, x, models.scores(network))

    torch.manual_seed(1)
    model = models.Residual().eval()
    state = {k.replace("_", "."): v for k, v in network.module.state_dict().items()}
    model.load_state_dict({name: state[name.replace("_", ".")] for name in model.state_dict()})
    with torch.no_grad():
        close(network(x), model(x))  # the same model before anything is removed
        y = model.stem(x)
        y = torch.relu(model.down(y) + model.shortcut(y))
        close(small(x), model.fc(y.mean((2, 3))))
    assert not set(branch.layers) & set(options)


class Chain(nn.Module):
    """Three residual blocks in a row; images (N, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor, without: tuple[int, ...] = ()) -> Tensor:
        x = torch.relu(self.stem(x))
        for index, block in enumerate(self.blocks):
            if index not in without:
                x = torch.relu(block(x) + x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("without", [(0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_branches_in_a_row_can_be_left_out(without: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    model, x = Chain().eval(), torch.randn(4, 3, 8, 8)
    network = trace(model, x)
    dropped = tuple(network.graph.branches[index].name for index in without)
    small, _ = compressed(network, models.plan(network, dropped=dropped), x, models.scores(network))
    with torch.no_grad():
        close(small(x), model(x, without))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_compressed_network_has_the_widths_of_its_plan(networks, name: str) -> None:
    network, x = networks[name]
    kept = {g.name: g.size // 2 for g in network.graph.groups if g.fixed is None}
    assert kept
    small, options = compressed(network, models.plan(network, kept), x, models.scores(network))
    for group, width in kept.items():
        for layer in network.graph.group_by_name[group].layers:
            rows, whole = (_rows(net, layer) for net in (small, network))
            assert rows * network.graph.group_by_name[group].size == width * whole
    assert set(options) == set(small.graph.by_name)
    with torch.no_grad():
        assert small(x).shape == network(x).shape
    sizes = [sum(p.numel() for p in n.module.parameters()) for n in (small, network)]
    assert sizes[0] < sizes[1]


def _rows(network: Network, layer: str) -> int:
    """How many channels ``layer`` makes: the states of a recurrent one."""
    own = network.graph.by_name[layer]
    return own.weight_shape[0] if own.weight_shape else recurrence(own).states


def test_a_compressed_network_keeps_the_most_important_channels(networks) -> None:
    network, x = networks["residual"]
    ranked = models.scores(network)
    small, _ = compressed(network, models.plan(network, {"inner.0": 4}), x, ranked)
    stay = kept_channels(ranked["inner.0"], 4)
    assert torch.equal(models.weight_of(small, "inner.0"), models.weight_of(network, "inner.0")[stay])


def test_a_factorized_layer_becomes_layers_in_its_precision(networks) -> None:
    network, x = networks["residual"]
    chosen = {"down.3": Option(INT8, 8, Form("tucker", (8, 8)))}
    small, options = compressed(network, models.plan(network, options=chosen), x, models.scores(network))
    parts = [f"down.3.{index}" for index in range(3)]
    assert [small.graph.by_name[part].weight_shape[:2] for part in parts] == [(8, 32), (8, 8), (32, 8)]
    assert {options[part] for part in parts} == {Option(INT8, 8)}


def test_a_plan_for_another_network_is_refused(networks) -> None:
    network, x = networks["residual"]
    other = models.plan(networks["depthwise"][0])
    with pytest.raises(BundleError, match="made for another model"):
        compressed(network, other, x, models.scores(network))


@pytest.mark.parametrize("metric", ["top-1", "mse"])
def test_twins_have_nothing_to_distil(metric: str) -> None:
    outputs, others = torch.randn(16, 5), torch.randn(16, 5)
    task = Task(metric, labelled=False)
    assert float(task.distillation([outputs], [outputs], None)) == pytest.approx(0, abs=1e-6)
    assert float(task.distillation([outputs], [others], None)) > 0.01


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=40), st.data())
def test_kept_channels_are_the_best_and_always_the_same(values: list[float], data: st.DataObject) -> None:
    ranked = torch.tensor(values)
    kept = data.draw(st.integers(1, len(values)))
    numbers = kept_channels(ranked, kept)
    assert numbers == sorted(set(numbers)) and len(numbers) == kept
    assert numbers == kept_channels(ranked.clone(), kept)
    gone = [v for i, v in enumerate(values) if i not in numbers]
    assert min(values[i] for i in numbers) >= max(gone, default=0.0)
    assert set(kept_channels(ranked, max(1, kept - 1))) <= set(numbers)  # the first of equals stay


def quantizer(grid: Grid, *batches: Tensor) -> ActivationQuantizer:
    """A quantizer whose range has followed ``batches``."""
    quantizer = ActivationQuantizer(grid)
    quantizer.observing = True
    for x in batches:
        quantizer(x)
    quantizer.observing = False
    return quantizer


def batches_of(data: st.DataObject) -> list[Tensor]:
    """Batches whose values are off centre and of any size."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    shift, size = data.draw(st.floats(-3, 3)), 2.0 ** data.draw(st.integers(-12, 20))
    return [(torch.randn(64, generator=generator) + shift) * size for _ in range(3)]


@given(st.data())
def test_the_signed_grid_is_the_unsigned_one_moved_by_128(data: st.DataObject) -> None:
    batches = batches_of(data)
    unsigned, signed = quantizer(UNSIGNED, *batches), quantizer(SIGNED, *batches)
    assert signed.spec.scale == unsigned.spec.scale
    assert signed.spec.zero_point[0] == unsigned.spec.zero_point[0] - 128
    assert (unsigned.spec.low, unsigned.spec.high, signed.spec.low, signed.spec.high) == (0, 255, -128, 127)
    x = torch.cat(batches) * 1.5  # some of it outside
    results = []
    for part in (unsigned, signed):
        leaf = x.clone().requires_grad_()
        y = part(leaf)
        y.sum().backward()
        assert leaf.grad is not None
        results.append((y.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@given(st.data())
def test_a_symmetric_grid_is_centred_on_zero_and_covers_the_range(data: st.DataObject) -> None:
    x = batches_of(data)[0]
    quantized = quantizer(SYMMETRIC, x)
    (scale,) = quantized.spec.scale
    assert quantized.spec.zero_point == (0,)
    assert scale == pytest.approx(float(x.abs().max()) / 127, rel=1e-6)
    with torch.no_grad():
        y = quantized(x)
    assert float((y - x).abs().max()) <= scale * 0.5001
    assert torch.equal(quantized(-x[x.abs() < 127 * scale]), -quantized(x[x.abs() < 127 * scale]))
    outside = torch.tensor([-200.0, -127.0, 0.0, 126.0, 200.0]).mul(scale).requires_grad_()
    quantized(outside).sum().backward()
    assert outside.grad is not None
    assert outside.grad.tolist() == [0, 1, 1, 1, 0]


def test_a_symmetric_grid_follows_the_data_as_the_others_do() -> None:
    x = torch.linspace(-1, 3, 100)
    quantized = quantizer(SYMMETRIC, x, 2 * x)
    assert quantized.spec.scale[0] == pytest.approx(6 / 127)
    assert quantized.spec.zero_point == (0,)


def test_a_range_widens_to_what_it_sees_or_follows_with_momentum() -> None:
    x = torch.linspace(-1, 3, 100)
    assert quantizer(UNSIGNED, x, x / 2).spec.scale[0] == pytest.approx(4 / 255)
    following = quantizer(UNSIGNED, x)
    following.observing, following.momentum = True, 0.25
    following(2 * x)
    assert following.spec.scale[0] == pytest.approx(4 * 1.25 / 255)


@torch.no_grad()
def test_biases_are_corrected_only_where_that_brings_the_outputs_nearer() -> None:
    """With weights of four bits the averages of most layers move; the outputs must not be farther off for it."""
    network, x = models.made("residual")
    options = models.assigned(network, "int4")
    exact = torch.cat(network.flat(x))
    corrected = integer(network, options)
    calibrate(corrected, [x])
    plain = integer(network, options)
    calibrate(plain, [x])
    before = {name: part.inner.get_parameter("bias") for name, part in integer(network, options).module.named_modules()
              if isinstance(part, IntegerLayer)}  # fmt: skip
    moved = 0
    for name, part in plain.module.named_modules():
        if isinstance(part, IntegerLayer):
            bias = part.inner.get_parameter("bias")
            moved += not torch.equal(bias, before[name])
            bias.copy_(before[name])
    assert moved == len(before)
    off = [(torch.cat(made.flat(x)) - exact).square().mean() for made in (corrected, plain)]
    assert off[0] < off[1]
    layers = [name for name, part in corrected.module.named_modules() if isinstance(part, IntegerLayer)]
    seen = models.layer_outputs(corrected.module, layers, lambda: corrected.flat(x))
    unchanged = integer(network, {})
    outputs = models.layer_outputs(unchanged.module, layers, lambda: unchanged.flat(x))
    for name in layers:  # on average, each is now where it was
        axes = [d for d in range(seen[name].dim()) if d != 1]
        difference = (seen[name].mean(axes) - outputs[name].mean(axes)).abs().max()
        assert difference < 0.02 * outputs[name].std()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_the_same_on_a_signed_grid(networks, name: str) -> None:
    network, x = networks[name]
    made = []
    for grid in (UNSIGNED, SIGNED):
        made.append(integer(network, models.assigned(network, "int8"), grid))
        calibrate(made[-1], [x])
    with torch.no_grad():
        assert torch.equal(made[0](x), made[1](x))
    unsigned, signed = (specification(m) for m in made)
    assert unsigned.keys() == signed.keys()
    moved = {n: (unsigned[n].zero_point[0] - signed[n].zero_point[0], signed[n].axis) for n in signed}
    assert set(moved.values()) == {(128, None), (0, 0)}


@pytest.mark.parametrize("grid", [UNSIGNED, SIGNED, SYMMETRIC])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_on_each_grid_is_as_specified_and_agrees(networks, name: str, grid: Grid) -> None:
    network, x = networks[name]
    result = integer(network, models.assigned(network, "int8"), grid)
    calibrate(result, [x])
    model = converted(result, x)  # checks the specification
    zero_points = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    kinds = {tensor.data_type for tensor in model.graph.initializer if tensor.name in zero_points}
    assert kinds == {TensorProto.UINT8 if grid is UNSIGNED else TensorProto.INT8}
    with torch.no_grad():
        expected = result(x).numpy()
    assert np.sqrt(np.mean((models.file_outputs(model, x) - expected) ** 2)) <= 0.05 * expected.std()


def test_a_file_on_another_grid_than_specified_is_found(networks) -> None:
    network, x = networks["residual"]
    made = {}
    for grid in (UNSIGNED, SIGNED, SYMMETRIC):
        made[grid] = integer(network, models.assigned(network, "int8"), grid)
        calibrate(made[grid], [x])
    model = converted(made[SYMMETRIC], x)
    for grid in (UNSIGNED, SIGNED):
        with pytest.raises(FidelityError, match="not quantized in the file as specified"):
            check(model, specification(made[grid]))
    specs = specification(made[SYMMETRIC])
    name = next(n for n, spec in specs.items() if spec.axis is None)
    specs[name] = replace(specs[name], low=0, high=255)  # the same scale and zero point, of the other sign
    with pytest.raises(FidelityError, match=f"{name} is not quantized"):
        check(model, specs)


def test_what_is_recovered_is_on_the_grid_that_was_asked_for(networks) -> None:
    network, x = networks["residual"]
    options, task = models.assigned(network, "int8"), Task("top-1", labelled=False)
    train = [(x, None)]
    result = recovered(network, network, options, train, [x], task, Schedule(1.0), grid=SYMMETRIC).network
    specs = [spec for spec in specification(result).values() if spec.axis is None]
    assert specs
    assert {(spec.low, spec.high, spec.zero_point) for spec in specs} == {(-128, 127, (0,))}


@pytest.mark.parametrize("kept", [8, 24])
def test_a_branch_goes_together_with_channels_inside_it(kept: int) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(16, 48), nn.Linear(48, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x + self.second(self.first(x).relu())).mean(1))

    model, x = Rows().eval(), torch.randn(6, 8, 16)
    network = trace(model, x)
    (branch,) = network.graph.branches
    widths = {group.name: kept for group in network.graph.groups if group.fixed is None and group.size == 48}
    plan = models.plan(network, widths, dropped=(branch.name,))
    small, _ = compressed(network, plan, x, models.scores(network))
    with torch.no_grad():
        assert torch.allclose(small.flat(x)[0], model.head(x.mean(1)), atol=1e-5)


@pytest.mark.parametrize(("left_out", "empty"), [(True, True), (False, False)])
def test_a_network_of_which_nothing_that_multiplies_is_left_is_told(left_out: bool, empty: bool) -> None:
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(2, 8, 3, 1, 1), nn.Conv1d(8, 2, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.last(self.first(x).relu())

    x = torch.randn(4, 2, 16)
    network = trace(Denoiser().eval(), x)
    (branch,) = network.graph.branches
    by_hand = models.plan(network, dropped=(branch.name,) if left_out else ())
    small, _ = compressed(network, by_hand, x, models.scores(network))
    result: Any = SimpleNamespace(simulated=small)
    assert is_empty(result) is empty
