"""Laws of low rank: errors are those that the mathematics says, weighting never hurts, ranks are found again."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgesdk.core.errors import EdgeSdkError, UsageError
from edgesdk.techniques.lowrank import LARGE, cp, separable, spatial, truncated, tucker, weighted

SIDES = st.integers(1, 16)


def of_rank(rank: int, rows: int, columns: int, noise: float = 0.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    return left @ right + noise * torch.randn(rows, columns, generator=generator)


def product_of(factors: tuple[Tensor, ...]) -> Tensor:
    """The kernel that four factors of CP stand for."""
    first, column, row, last = factors
    return torch.einsum("rc,rh,rw,nr->nchw", first[..., 0, 0], column[:, 0, :, 0], row[:, 0, 0], last[..., 0, 0])


@given(SIDES, SIDES, st.integers(0, 99), st.data())
def test_what_an_svd_leaves_are_the_other_singular_values(n: int, k: int, seed: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(n, k)))
    matrix = of_rank(16, n, k, seed=seed)
    left, right = truncated(matrix, rank)
    assert left.shape == (n, rank) and right.shape == (rank, k)
    error = float((matrix - left @ right).norm())
    assert error == pytest.approx(float(torch.linalg.svdvals(matrix)[rank:].norm()), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("n", "k"), [(LARGE, LARGE + 40), (LARGE + 40, LARGE), (LARGE + 40, 20)])
@pytest.mark.parametrize("known", [8, 64])
def test_large_matrices_are_as_close(n: int, k: int, known: int) -> None:
    """Also where they are of a lower rank than is asked for."""
    matrix = of_rank(known, n, k, noise=1e-3 if known > 8 else 0.0)
    left, right = truncated(matrix, 16)
    assert left.shape == (n, 16) and right.shape == (16, k) and bool(left.isfinite().all() and right.isfinite().all())
    left_over = float(torch.linalg.svdvals(matrix.double())[16:].norm())
    error = float((matrix.double() - left.double() @ right.double()).norm())
    assert error == pytest.approx(left_over, rel=1e-4, abs=1e-5 * float(matrix.norm()))
    torch.testing.assert_close(left.norm(dim=0)[:8], right.norm(dim=1)[:8], rtol=1e-3, atol=1e-3)


@given(SIDES, SIDES, st.integers(1, 24), st.integers(0, 99), st.data())
def test_weighted_by_the_inputs_the_error_is_the_least_there_is(
    n: int, k: int, samples: int, seed: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(1, min(n, k)))
    matrix = of_rank(16, n, k, seed=seed).double()
    # Fewer samples than inputs: X X^T has no inverse.
    x = of_rank(min(k, samples), k, samples, seed=seed + 1).double() * torch.linspace(0, 3, k)[:, None]
    plain, best = (
        float(((matrix - left @ right) @ x).norm())
        for left, right in (truncated(matrix, rank), weighted(matrix, x @ x.T, rank))
    )
    scale = float((matrix @ x).norm())
    assert best <= plain + 1e-6 * scale
    assert best == pytest.approx(float(torch.linalg.svdvals(matrix @ x)[rank:].norm()), rel=1e-5, abs=1e-6 * scale)


def test_weighting_pays_where_inputs_differ() -> None:
    matrix, x = of_rank(20, 20, 30), of_rank(30, 30, 50) * torch.linspace(0.01, 3, 30)[:, None]
    plain, best = (
        float(((matrix - left @ right) @ x).norm())
        for left, right in (truncated(matrix, 5), weighted(matrix, x @ x.T, 5))
    )
    assert best < 0.9 * plain


@pytest.mark.parametrize("method", ["spatial", "tucker", "tucker of a line", "cp", "separable"])
def test_a_kernel_of_that_form_is_found_again(method: str) -> None:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if method == "spatial":
        kernel = torch.einsum("rch,nrw->nchw", random(3, 5, 3), random(7, 3, 3))
        product = torch.einsum("rch,nrw->nchw", *(f.squeeze(3 - i) for i, f in enumerate(spatial(kernel, 3))))
    elif method == "tucker":
        kernel = torch.einsum("rshw,nr,cs->nchw", random(3, 2, 3, 3), random(7, 3), random(5, 2))
        first, core, last = tucker(kernel, 2, 3)
        product = torch.einsum("rshw,nr,sc->nchw", core, last[..., 0, 0], first[..., 0, 0])
    elif method == "tucker of a line":
        kernel = torch.einsum("rsk,nr,cs->nck", random(3, 2, 5), random(7, 3), random(5, 2))
        first, core, last = tucker(kernel, 2, 3)
        product = torch.einsum("rsk,nr,sc->nck", core, last[..., 0], first[..., 0])
    elif method == "cp":
        kernel = torch.einsum("cr,hr,wr,nr->nchw", random(5, 2), random(3, 2), random(3, 2), random(7, 2))
        product = product_of(cp(kernel, 2))
    else:
        kernel = torch.einsum("chw,nc->nchw", random(5, 3, 3), random(7, 5))
        depth, point = separable(kernel)
        product = torch.einsum("chw,nc->nchw", depth[:, 0], point[..., 0, 0])
    assert float((product - kernel).norm()) < 1e-2 * float(kernel.norm())


def test_no_separable_kernel_is_closer_per_channel() -> None:
    kernel = of_rank(9, 7 * 5, 9, seed=3).reshape(7, 5, 3, 3)
    depth, point = separable(kernel)
    for channel in range(5):
        left = kernel[:, channel] - torch.einsum("hw,n->nhw", depth[channel, 0], point[:, channel, 0, 0])
        rest = torch.linalg.svdvals(kernel[:, channel].reshape(7, 9))[1:]
        assert float(left.norm()) == pytest.approx(float(rest.norm()), rel=1e-4)


def test_cp_is_closer_at_a_higher_rank_and_the_same_again() -> None:
    kernel = of_rank(9, 16 * 8, 9, seed=2).reshape(16, 8, 3, 3)
    errors = [float((product_of(cp(kernel, rank)) - kernel).norm()) for rank in (2, 8, 24)]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.7 * errors[0]
    assert all(torch.equal(left, right) for left, right in zip(cp(kernel, 4), cp(kernel, 4), strict=True))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: truncated(torch.ones(4, 6), 5), "rank 5 is not between 1 and 4"),
        (lambda: truncated(torch.ones(4, 6), 0), "rank 0 is not between 1 and 4"),
        (lambda: weighted(torch.ones(4, 6), torch.eye(6), 5), "rank 5 is not between 1 and 4"),
        (lambda: weighted(torch.ones(4, 6), torch.eye(4), 2), r"a moment of shape \(4, 4\) does not fit"),
        (lambda: spatial(torch.ones(4, 6, 3, 3), 13), "rank 13 is not between 1 and 12"),
        (lambda: tucker(torch.ones(4, 6, 3, 3), 7, 4), "ranks 7x4 are not between 1 and 6x4"),
        (lambda: cp(torch.ones(4, 6, 3, 3), 37), "rank 37 is not between 1 and 36"),
    ],
)
def test_what_cannot_be_is_refused(call, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        call()


def test_without_its_library_cp_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorly.decomposition", None)  # as where it is not installed
    with pytest.raises(EdgeSdkError, match="tensorly is not installed"):
        cp(torch.ones(4, 6, 3, 3), 2)
