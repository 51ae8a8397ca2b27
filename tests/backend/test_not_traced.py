"""Modules of which ``torch.export`` says nothing sensible are refused by their name, with what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.nn.quantized import FloatFunctional

from edgesdk.core.errors import ModelError
from edgesdk.network.trace import trace


def plain() -> nn.Sequential:
    return nn.Sequential(quantization.QuantStub(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def prepared(training: bool) -> Any:
    model: Any = plain().train(training)
    model.qconfig = quantization.get_default_qat_qconfig() if training else quantization.get_default_qconfig()
    return quantization.prepare_qat(model) if training else quantization.prepare(model)


class Holding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = torch.jit.script(plain()[1:3]), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x))


@pytest.mark.parametrize(
    ("make", "told", "remedy"),
    [
        (lambda: torch.jit.script(plain()[1:]), "the model is TorchScript (Sequential)", "before torch.jit.script"),
        (lambda: torch.jit.trace(plain(), torch.zeros(2, 6)), "the model is TorchScript", "before torch.jit.script"),
        (Holding, "the model's inner is TorchScript (Sequential)", "the nn.Module that it was made of"),
        (lambda: prepared(True), "FakeQuantize) quantizes by PyTorch's own tools", "give the float model"),
        (lambda: prepared(False), "Observer) quantizes by PyTorch's own tools", "give the float model"),
        (lambda: quantization.quantize_dynamic(plain(), {nn.Linear}), "the model's 1 (Linear)", "give the float model"),
    ],
    ids=["scripted", "traced", "holds a scripted one", "quantization-aware", "observed", "dynamic"],
)
def test_what_cannot_be_traced_is_named(make: Callable[[], nn.Module], told: str, remedy: str) -> None:
    with pytest.raises(ModelError) as caught:
        trace(make().eval(), torch.randn(4, 6))
    assert told in caught.value.fact and remedy in caught.value.remedy


def test_stubs_and_fused_modules_in_float_are_taken() -> None:
    fused = quantization.fuse_modules(plain().eval(), ["1", "2"])
    assert len([layer for layer in trace(fused, torch.randn(4, 6)).graph.layers if layer.weight_shape]) == 2


class Residual(nn.Module):
    """A sum, a product and a concatenation where PyTorch's tools would watch them, as torchvision's models have."""

    def __init__(self) -> None:
        super().__init__()
        self.stub, self.a, self.b = quantization.QuantStub(), nn.Linear(6, 8), nn.Linear(8, 8)
        self.sums, self.head, self.back = FloatFunctional(), nn.Linear(16, 3), quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.stub(x))
        y = self.sums.add_relu(x, self.sums.mul(self.b(x), x))
        return self.back(self.head(self.sums.cat([self.sums.mul_scalar(x, 0.5), self.sums.add_scalar(y, 1.0)], 1)))


def test_sums_that_are_not_watched_yet_are_taken() -> None:
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(4, 6)
    network = trace(model, x)
    torch.testing.assert_close(network(x), model(x))
    observed: Any = Residual().eval()
    observed.qconfig = quantization.get_default_qconfig()
    with pytest.raises(ModelError, match="quantizes by PyTorch's own tools"):
        trace(quantization.prepare(observed), x)


class Asking(nn.Module):
    """Asks something in forward(), by ``ask``; (N, 6)."""

    def __init__(self, ask: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.ask, self.kept = nn.Linear(6, 3), ask, dict[Any, Tensor]()
        self.register_buffer("calls", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.ask(self, x)


def kept(module: Any, x: Tensor) -> Tensor:
    return module.kept.setdefault(x.shape, torch.ones(1))


def written(module: Any, x: Tensor) -> int:
    module.calls[:1] += 1
    return 1 + int(module.calls[0] > 3)


def written_beside(module: Any, x: Tensor) -> int:
    module.calls.view(2, 1)[0].add_(1)
    return 1 + int(module.calls.sum().item() > 3)


@pytest.mark.parametrize(
    ("ask", "told", "remedy"),
    [
        (kept, "looks something up by how many samples a batch has", "x.shape[1:]"),
        (lambda _, x: torch.fake_quantize_per_tensor_affine(x[:, :1], 0.1, 0, 0, 255), "PyTorch's own tools", "float"),
        (lambda m, x: 1 + int(m.a.weight.sum() > x.sum()), "asks what the values of a tensor are", "torch.where"),
        (lambda m, x: torch.rand(1).item(), "draws random numbers", "in training alone"),
        (written, "asks what the values of a tensor are", "torch.where"),
        (written_beside, "asks what the values of a tensor are", "torch.where"),
    ],
    ids=[
        "by the batch",
        "fake integers",
        "of an input",
        "of a random number",
        "of what it counts",
        "of a view of that",
    ],
)
def test_what_forward_asks_and_no_file_holds_is_named(
    ask: Callable[[Any, Tensor], Any], told: str, remedy: str
) -> None:
    with pytest.raises(ModelError) as caught:
        trace(Asking(ask), torch.randn(4, 6))
    assert told in str(caught.value) and "test_not_traced.py" in str(caught.value)
    assert remedy in str(caught.value)
