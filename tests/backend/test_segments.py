"""Values and gradients in stretches are those of one pass, and what is held at once keeps its bound."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, fx, nn

from edgesdk.compress.segments import SEGMENTS, Segmented


class Plain(nn.Module):
    """A chain with BatchNorm, whose statistics are of all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3)) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.parts(x)).mean((2, 3))


class Skips(nn.Module):
    """A U-Net's skips: no place of it has a single tensor alive. Answers twice, once from its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.up = (nn.Conv2d(n, 3, 3, 1, 1) for n in (3, 3, 6))
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        down = torch.tanh(self.down(x))
        middle = torch.tanh(self.middle(down))
        up = torch.tanh(self.up(torch.cat([middle, down], 1)))
        return self.last(torch.cat([up, x], 1)), middle


class Parts(nn.Module):
    """Values that are several tensors, and one that gradients do not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.shift = nn.GRU(8, 8, batch_first=True), nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.recurrent(x.flatten(2))[0] + self.shift
        a, b = y.chunk(2, -1)
        return a * torch.sigmoid(b) + (a > 0).to(a.dtype)


class Narrow(nn.Module):
    """Wide and narrow in turns."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(*(nn.Conv2d(*sides, 1) for sides in [(3, 24), (24, 3)] * 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


SHAPES = {
    "chain": (Plain, (3, 6, 6)),
    "skips": (Skips, (3, 6, 6)),
    "several tensors": (Parts, (5, 2, 4)),
    "narrow": (Narrow, (3, 6, 6)),
}
A_NODE = 1.0  # bytes: each segment is of a single node, or as few as can be


def traced(shape: str) -> tuple[fx.GraphModule, Tensor]:
    torch.manual_seed(0)
    make, of = SHAPES[shape]

    class Leaves(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return not isinstance(m, nn.Sequential)

    model = make()
    module = fx.GraphModule(model, Leaves().trace(model))
    output = next(node for node in module.graph.nodes if node.op == "output")
    answers = output.args[0]
    output.args = (tuple(answers) if isinstance(answers, (tuple, list)) else (answers,),)
    return module, torch.randn(6, *of)


def scalars(outputs: list[Tensor]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        yield torch.stack([(o * torch.randn(o.shape, generator=generator)).sum() for o in outputs]).sum()
    yield outputs[0].square().mean()


@pytest.mark.parametrize("most_bytes", [A_NODE, SEGMENTS * 2000.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_one_pass(shape: str, most_bytes: float) -> None:
    module, x = traced(shape)
    cut = Segmented(module, [x], most_bytes)
    assert len(cut.segments) > 2
    interpreter = fx.Interpreter(module, garbage_collect_values=False)
    outputs = list(interpreter.run(x.clone().requires_grad_()))
    wanted = [n for n, v in interpreter.env.items() if isinstance(v, Tensor) and v.requires_grad and n.op != "get_attr"]
    whole = [
        torch.autograd.grad(s, [interpreter.env[n] for n in wanted], retain_graph=True, materialize_grads=True)
        for s in scalars(outputs)
    ]
    for _ in range(2):  # again from what is held by then
        for node in cut:
            if isinstance(interpreter.env[node], Tensor):
                assert node.op == "get_attr" or not cut[node].requires_grad  # what it was made of would be held
                torch.testing.assert_close(cut[node], interpreter.env[node].detach())
    found = {node: (value, drawn) for node, value, drawn in cut.gradients(wanted, scalars)}
    assert set(found) == set(wanted)
    for place, node in enumerate(wanted):
        value, drawn = found[node]
        torch.testing.assert_close(value, interpreter.env[node].detach())
        torch.testing.assert_close(drawn, [gradients[place] for gradients in whole])


def test_what_is_held_keeps_its_bound() -> None:
    module, x = traced("chain")
    each = x.numel() * x.element_size()
    for most in (SEGMENTS * each, 4 * SEGMENTS * each):
        cut = Segmented(module, [x], most)
        for node in [*cut, *reversed(list(cut))]:
            assert isinstance(cut[node], Tensor)
            held = sum(value.numel() * value.element_size() for made in cut._held.values() for value in made.values())
            assert held <= most + each  # the inputs beside


def test_segments_begin_where_little_is_alive() -> None:
    module, x = traced("narrow")
    each = x.numel() * x.element_size()
    cut = Segmented(module, [x], SEGMENTS * 12 * each)
    assert len(cut.segments) > 2
    for segment in cut.segments[1:]:
        alive = [v for n, v in segment.given.items() if n.op != "get_attr"]
        assert sum(v.numel() * v.element_size() for v in alive) == each
