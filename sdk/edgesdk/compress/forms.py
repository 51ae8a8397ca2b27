"""Low-rank forms of a layer: SVD of a matrix, spatial SVD and Tucker-2 of a convolution."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from edgesdk.plan import Form


def factorized(layer: nn.Module, form: Form) -> nn.Sequential:
    """``layer`` as a sequence of two or three smaller ones whose product is its best approximation of that rank.

    Raises ``ValueError`` for a method that does not apply to the layer, or a rank above full.
    """
    if isinstance(layer, nn.Linear) and form.method == "svd":
        return _svd(layer, *form.sizes)
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        if form.method == "svd" and layer.kernel_size == (1, 1):
            return _pointwise(layer, *form.sizes)
        if form.method == "spatial":
            return _spatial(layer, *form.sizes)
        if form.method == "tucker":
            return _tucker(layer, *form.sizes)
    raise ValueError(f"{form.method} does not apply to {type(layer).__name__}")


def _truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``left @ right`` closest to ``matrix`` of that rank (Eckart and Young 1936), singular values shared evenly."""
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank {rank} is not between 1 and {min(matrix.shape)}")
    u, s, v = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(matrix.dtype), (root[:, None] * v[:rank]).to(matrix.dtype)


def _svd(layer: nn.Linear, rank: int) -> nn.Sequential:
    left, right = _truncated(layer.weight, rank)
    first = nn.Linear(layer.in_features, rank, bias=False)
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    return _filled([first, second], [right, left], layer.bias)


def _pointwise(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    left, right = _truncated(layer.weight[:, :, 0, 0], rank)
    stride, padding = cast("tuple[int, int]", layer.stride), cast("tuple[int, int] | str", layer.padding)
    first = nn.Conv2d(layer.in_channels, rank, 1, stride, padding, bias=False)
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    return _filled([first, second], [right[:, :, None, None], left[:, :, None, None]], layer.bias)


def _spatial(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """A column and a row convolution (Jaderberg et al. 2014, eq. 4), by SVD of the kernel as a (C h) x (N w) matrix."""
    n, c, h, w = layer.weight.shape
    matrix = layer.weight.permute(1, 2, 0, 3).reshape(c * h, n * w)
    left, right = _truncated(matrix, rank)
    (sh, sw), (ph, pw), (dh, dw) = layer.stride, _pair(layer), layer.dilation
    first = nn.Conv2d(c, rank, (h, 1), (sh, 1), (ph, 0), (dh, 1), bias=False)
    second = nn.Conv2d(rank, n, (1, w), (1, sw), (0, pw), (1, dw), bias=layer.bias is not None)
    column = left.reshape(c, h, rank).permute(2, 0, 1)[:, :, :, None]
    row = right.reshape(rank, n, w).permute(1, 0, 2)[:, :, None, :]
    return _filled([first, second], [column, row], layer.bias)


def _tucker(layer: nn.Conv2d, rank_in: int, rank_out: int) -> nn.Sequential:
    """Tucker-2 (Kim et al. 2016, eq. 3 to 5): 1x1 to ``rank_in``, the core, 1x1 from ``rank_out``.

    The factors are the leading singular vectors of the two channel unfoldings (HOSVD; De Lathauwer et al. 2000).
    """
    weight = layer.weight.detach()
    n, c = weight.shape[:2]
    if not (1 <= rank_in <= c and 1 <= rank_out <= n):
        raise ValueError(f"ranks {rank_in}x{rank_out} are not between 1 and {c}x{n}")
    outputs = torch.linalg.svd(weight.reshape(n, -1).double(), full_matrices=False)[0][:, :rank_out]
    inputs = torch.linalg.svd(weight.transpose(0, 1).reshape(c, -1).double(), full_matrices=False)[0][:, :rank_in]
    core = torch.einsum("nchw,nr,cs->rshw", weight.double(), outputs, inputs).to(weight.dtype)
    first = nn.Conv2d(c, rank_in, 1, bias=False)
    window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    middle = nn.Conv2d(rank_in, rank_out, *cast("Any", window), bias=False)
    last = nn.Conv2d(rank_out, n, 1, bias=layer.bias is not None)
    weights = [inputs.T.to(weight.dtype)[:, :, None, None], core, outputs.to(weight.dtype)[:, :, None, None]]
    return _filled([first, middle, last], weights, layer.bias)


def _pair(layer: nn.Conv2d) -> tuple[int, int]:
    if isinstance(layer.padding, str):
        same = layer.padding == "same"
        return tuple(d * (k - 1) // 2 if same else 0 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))  # type: ignore[return-value]
    return layer.padding  # type: ignore[return-value]


def _filled(layers: list[nn.Module], weights: list[Tensor], bias: Tensor | None) -> nn.Sequential:
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight)  # type: ignore[operator,union-attr]
        if bias is not None:
            layers[-1].bias.copy_(bias)  # type: ignore[operator,union-attr]
    return nn.Sequential(*layers)


def reconstructed(layer: nn.Module, form: Form) -> Tensor:
    """The weight, of the layer's own shape, that its low-rank form amounts to."""
    weight = layer.weight.detach()  # type: ignore[operator,union-attr]
    if form.method == "svd":
        left, right = _truncated(weight.flatten(1), *form.sizes)
        return (left @ right).reshape(weight.shape)
    parts = [part.weight.detach() for part in factorized(layer, form)]  # type: ignore[union-attr]
    if form.method == "spatial":
        column, row = parts
        return torch.einsum("rch,nrw->nchw", column[..., 0], row[:, :, 0])
    first, core, last = parts
    return torch.einsum("rshw,nr,sc->nchw", core, last[..., 0, 0], first[..., 0, 0])
