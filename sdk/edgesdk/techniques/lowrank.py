"""Low rank: matrices and kernels as products of smaller ones.

A kernel is (outputs, inputs, height, width) as a convolution holds it, or of other spatial axes, and so is each of its
factors, in the order in which convolutions would apply them. All is computed in double precision and returned in the
dtype that came.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from edgesdk.core.errors import UsageError
from edgesdk.techniques.libraries import library

LARGE = 256  # rows and columns of which an SVD takes long
ITERATIONS, TOLERANCE = 50, 1e-5  # of alternating least squares: more gains a hundredth of the error


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``left @ right`` closest to ``matrix`` (n, k) of that rank (Eckart and Young 1936), of balanced size.

    Raises ``UsageError`` for a rank that is not between 1 and full.
    """
    _check(rank, min(matrix.shape))
    if matrix.shape[0] > matrix.shape[1] >= LARGE:
        right, left = truncated(matrix.T, rank)
        return left.T, right.T
    w = matrix.detach().double()
    return _balanced(w, _leading(w, rank), matrix.dtype)


def weighted(matrix: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``left @ right`` of that rank with the least ``||(matrix - left @ right) X||``, where ``moment`` is X X^T (k, k).

    The problem of Chen et al. 2021 ("DRONE", eq. 5), solved without their inverse, which X may not have: with the first
    ``rank`` left singular vectors U of ``matrix (X X^T)^1/2``, ``U U^T matrix`` leaves just what Eckart and Young say
    must be left of ``matrix X``. Never above the error of :func:`truncated`. Raises ``UsageError`` for a rank that is
    not between 1 and full, and a moment that is not (k, k).
    """
    _check(rank, min(matrix.shape))
    if moment.shape != (matrix.shape[1], matrix.shape[1]):
        fact = f"a moment of shape {tuple(moment.shape)} does not fit a matrix of {tuple(matrix.shape)}"
        raise UsageError(fact, "give X X^T of the inputs that the matrix is applied to")
    w = matrix.detach().double()
    values, vectors = torch.linalg.eigh(moment.detach().double())
    return _balanced(w, _leading(w @ (vectors * values.clamp(min=0).sqrt()), rank), matrix.dtype)


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """The first ``rank`` left singular vectors of ``matrix`` (n, k), as columns; of a large one eigenvectors of
    ``M M^T``.

    These take a fraction of the time; what double precision loses by the square is of singular values that are next to
    nothing.
    """
    if min(matrix.shape) < LARGE:
        return torch.linalg.svd(matrix, full_matrices=False)[0][:, :rank]
    return torch.linalg.eigh(matrix @ matrix.T)[1].flip(1)[:, :rank]


def _balanced(matrix: Tensor, u: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``left @ right``, of balanced size, that is ``matrix`` as far as the columns of ``u`` span it."""
    right = u.T @ matrix
    root = right.norm(dim=1).clamp(min=torch.finfo(torch.double).tiny).sqrt()
    return (u * root).to(dtype), (right / root[:, None]).to(dtype)


def spatial(kernel: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A column (rank, c, h, 1) and a row (n, rank, 1, w) of convolutions (Jaderberg et al. 2014, eq. 4).

    By SVD of the kernel as a (c h) x (n w) matrix. Raises ``UsageError`` for a rank that is not between 1 and full.
    """
    n, c, h, w = kernel.shape
    left, right = truncated(kernel.permute(1, 2, 0, 3).reshape(c * h, n * w), rank)
    column = left.reshape(c, h, rank).permute(2, 0, 1)[:, :, :, None]
    return column, right.reshape(rank, n, w).permute(1, 0, 2)[:, :, None, :]


def tucker(kernel: Tensor, rank_in: int, rank_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tucker-2 (Kim et al. 2016, eq. 3 to 5): 1x1 to ``rank_in``, the core, 1x1 from ``rank_out``.

    The factors are the leading singular vectors of the two channel unfoldings (HOSVD; De Lathauwer et al. 2000). Any
    number of spatial axes. Raises ``UsageError`` for ranks that are not between 1 and the channels.
    """
    n, c = kernel.shape[:2]
    if not (1 <= rank_in <= c and 1 <= rank_out <= n):
        raise UsageError(f"ranks {rank_in}x{rank_out} are not between 1 and {c}x{n}", "give ranks between them")
    weight = kernel.detach().double()
    outputs = _leading(weight.reshape(n, -1), rank_out)
    inputs = _leading(weight.transpose(0, 1).reshape(c, -1), rank_in)
    core = torch.einsum("nc...,nr,cs->rs...", weight, outputs, inputs)
    ones = (1,) * (kernel.dim() - 2)
    factors = inputs.T.reshape(rank_in, c, *ones), core, outputs.reshape(n, rank_out, *ones)
    return factors[0].to(kernel.dtype), factors[1].to(kernel.dtype), factors[2].to(kernel.dtype)


def cp(kernel: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """CP, a sum of ``rank`` products of four vectors (Lebedev et al. 2015, eq. 3), as four convolutions.

    1x1 (rank, c, 1, 1), depthwise column (rank, 1, h, 1), depthwise row (rank, 1, 1, w), 1x1 (n, rank, 1, 1).
    Alternating least squares from the unfoldings' singular vectors; not the best there is, which need not exist. Raises
    ``UsageError`` for a rank that is not between 1 and what any kernel of this shape can be written in, and
    ``EdgeSdkError`` where tensorly is not installed.
    """
    _check(rank, kernel.numel() // max(kernel.shape))
    decomposition = library("tensorly.decomposition", "tensorly")
    array = kernel.detach().double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where an axis has fewer vectors than the rank
        decomposed = decomposition.parafac(
            array, rank, n_iter_max=ITERATIONS, tol=TOLERANCE, init="svd", normalize_factors=True, random_state=0
        )
    each = np.asarray(decomposed.weights) ** 0.25  # the four factors of a product get equal norms
    n, c, h, w = (
        torch.from_numpy(np.ascontiguousarray(factor * each)).to(kernel.dtype) for factor in decomposed.factors
    )
    return c.T[:, :, None, None], h.T[:, None, :, None], w.T[:, None, None, :], n[:, :, None, None]


def separable(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """A depthwise kernel (c, 1, ...) and a pointwise one (n, c, 1, ...): of every input channel the best of rank one.

    That is the closest depthwise-separable kernel in the weights (Guo et al. 2018, "Network Decoupling", with one
    block). Any number of spatial axes.
    """
    n, c = kernel.shape[:2]
    u, s, v = torch.linalg.svd(kernel.detach().double().transpose(0, 1).reshape(c, n, -1), full_matrices=False)
    root = s[:, :1].sqrt()
    depth, point = root * v[:, 0], (root * u[:, :, 0]).T
    ones = (1,) * (kernel.dim() - 2)
    return depth.reshape(c, 1, *kernel.shape[2:]).to(kernel.dtype), point.reshape(n, c, *ones).to(kernel.dtype)


def _check(rank: int, full: int) -> None:
    if not 1 <= rank <= full:
        raise UsageError(f"rank {rank} is not between 1 and {full}", "give a rank between them")
