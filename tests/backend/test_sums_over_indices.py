"""``torch.einsum`` as a product of matrices: the same figures, and a linear layer where a parameter is one of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesdk.core.graph import LINEAR
from edgesdk.network.equivalents import einsum
from edgesdk.network.trace import trace

SIZES = {"b": 2, "c": 3, "d": 4, "e": 1, "f": 5}
INDICES = st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=4, unique=True)


def shaped(term: list[str]) -> Tensor:
    return torch.randn([SIZES[index] for index in term], generator=torch.Generator().manual_seed(len(term)))


@given(INDICES, INDICES, st.data())
def test_any_two_give_what_pytorch_gives(left: list[str], right: list[str], data: st.DataObject) -> None:
    every = sorted({*left, *right})
    out = data.draw(st.permutations(every).flatmap(lambda p: st.integers(0, len(p)).map(lambda n: p[:n])))
    for equation in (f"{''.join(left)},{''.join(right)}->{''.join(out)}", f"{''.join(left)}, {''.join(right)}"):
        for b in (shaped(right), nn.Parameter(shaped(right))):
            torch.testing.assert_close(einsum(equation, shaped(left), b), torch.einsum(equation, shaped(left), b))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij->bji", [(2, 3, 4)]), ("bii->bi", [(2, 3, 3)]), ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]), ("ij,jk,ik,il->l", [(2, 3), (3, 4), (2, 4), (2, 5)]),
        ("b...->b", [(2, 3, 4)]), ("...i->i...", [(2, 3, 4)]), ("bchw", [(2, 3, 4, 5)]), ("ba", [(2, 3)]),
        ("...i,oi->...o", [(2, 3, 4), (5, 4)]), ("i...,i", [(2, 3), (2,)]),
        ("b...i, ...ij -> b...j", [(2, 3, 4), (3, 4, 5)]),
        ("oi,b...i->bo...", [(5, 4), (2, 3, 4)]), ("...,...", [(2, 3), (2, 3)]),
        ("...i,...i->...", [(2, 3, 4), (3, 4)]),
        ("bi,bi->b", [(1, 3), (4, 3)]), ("ii,ij->j", [(3, 3), (3, 2)]),
    ],
)  # fmt: skip
def test_several_and_what_is_no_product_give_what_pytorch_gives(equation: str, shapes: list[tuple[int, ...]]) -> None:
    given = [torch.randn(shape) for shape in shapes]
    torch.testing.assert_close(einsum(equation, *given), torch.einsum(equation, *given))
    torch.testing.assert_close(einsum(equation, given), torch.einsum(equation, given))


class Heads(nn.Module):
    """An attention that is all sums over indices."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Parameter(torch.randn(12, 2, 6) / 4) for _ in range(3))
        self.out = nn.Parameter(torch.randn(2, 6, 12) / 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("btd,dhe->bhte", x, weight) for weight in (self.query, self.key, self.value))
        weights = torch.einsum("bhte,bhse->bhts", q, k).softmax(-1)
        found = torch.einsum("hed,...hte->...td", self.out, torch.einsum("...ts,...se->...te", weights, v))
        return torch.einsum("btd->bd", found) / x.shape[1]


def test_parameters_that_are_multiplied_with_are_weights_of_linear_layers() -> None:
    network = trace(Heads().eval(), torch.randn(4, 7, 12))
    assert sum(layer.kind == LINEAR for layer in network.graph.layers) == 4
    assert not [node for node in network.module.graph.nodes if "einsum" in str(node.target)]
