"""Sparsity training: terms R of a loss L + alpha R under which whole channels of a network die while it learns.

Each takes what it makes small and gives a scalar with a gradient; where that is not defined, at zero, it is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from edgesdk.core.errors import UsageError

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NEAR = 0.1  # of the mean size of its layer's channels before: a smaller channel counts as near zero


def lasso(values: Iterable[Tensor]) -> Tensor:
    """The sum of absolute ``values``: of BatchNorms' scales it is Network Slimming (Liu et al. 2017, eq. 1).

    Raises ``UsageError`` where there are none.
    """
    return _sum(value.abs().sum() for value in values)


def group_lasso(weights: Iterable[Tensor]) -> Tensor:
    """The sum of the Euclidean norms of each output channel of each of ``weights``, (channels, ...) (Wen et al. 2016,
    "Learning Structured Sparsity", eq. 2 and 3).

    Raises ``UsageError`` where there are none, or one has no channels.
    """
    return _sum(sizes(weight).sum() for weight in weights)


def sizes(weight: Tensor) -> Tensor:
    """The Euclidean norm of each output channel of ``weight``, (channels, ...) or (channels,): shape (channels,)."""
    if not weight.dim():
        raise UsageError("a single number has no channels", "give (channels, ...)")
    return weight.abs() if weight.dim() == 1 else weight.flatten(1).norm(dim=1)


def folded(weight: Tensor, norm: nn.Module | None) -> Tensor:
    """``weight``, (channels, ...), as it is with its BatchNorm ``norm`` folded into it: times gamma / sigma.

    A norm of the weight alone says nothing where a BatchNorm follows, which undoes its scale. Sigma is taken as given.
    """
    if norm is None:
        return weight
    assert isinstance(norm, NORMS) and norm.running_var is not None
    scale = norm.weight / (norm.running_var.detach() + norm.eps).sqrt()
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))


def scales(module: nn.Module) -> dict[str, Tensor]:
    """The scale gamma of each BatchNorm in ``module``, (channels,), by the BatchNorm's path."""
    return {
        name: part.weight
        for name, part in module.named_modules()
        if isinstance(part, NORMS) and isinstance(part.weight, Tensor)
    }


def near_zero(after: Mapping[str, Tensor], before: Mapping[str, Tensor], near: float = NEAR) -> dict[str, float]:
    """Of each layer the share of channels whose size ``after`` is below ``near`` of the layer's mean size ``before``.

    Both have sizes of shape (channels,). Raises ``UsageError`` unless they are of the same layers, and for a ``near``
    outside 0 to 1.
    """
    if not 0 < near < 1:
        raise UsageError(f"near zero as a share of {near}", "give a share between 0 and 1")
    if {n: s.shape for n, s in after.items()} != {n: s.shape for n, s in before.items()}:
        raise UsageError("the sizes before and after are not of the same channels", "give those of one network")
    return {name: float((size.abs() < near * before[name].abs().mean()).float().mean()) for name, size in after.items()}


def _sum(parts: Iterable[Tensor]) -> Tensor:
    modules = list(parts)
    if not modules:
        raise UsageError("there is nothing to make small", "give at least one tensor")
    return torch.stack(modules).sum()
