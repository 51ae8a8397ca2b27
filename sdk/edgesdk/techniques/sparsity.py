"""Unstructured pruning: which weights become zero, how that goes over time, and how few bytes the rest takes.

A mask is a tensor of booleans in the shape of its weight, true where the weight stays.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques.codebooks import Coded

LAYER, GLOBAL = "layer", "global"

M = TypeVar("M")


def above(weights: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """Masks of the weights whose magnitude is above ``threshold`` (Han et al. 2015, "Learning both Weights and
    Connections"). Raises ``UsageError`` for a threshold below zero or not finite."""
    if not 0 <= threshold < math.inf:
        raise UsageError(f"a threshold of {threshold} is no magnitude", "give zero or more")
    return {name: weight.detach().abs() > threshold for name, weight in weights.items()}


def largest(weights: Mapping[str, Tensor], sparsity: float, scope: str = LAYER) -> dict[str, Tensor]:
    """Masks that leave out the share ``sparsity`` of the weights, those of the least magnitude, rounded to a count.

    ``scope`` "layer" takes that share from each weight, "global" from all together, so that a layer of small weights
    loses more. Of equal ones the first goes. Raises ``UsageError`` for a ``sparsity`` outside 0 to below 1, an unknown
    ``scope``, or weights that are not finite.
    """
    _check_sparsity(sparsity)
    if scope not in (LAYER, GLOBAL):
        raise UsageError(f"there is no scope {scope!r}", f"choose {LAYER} or {GLOBAL}")
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise UsageError(f"the weight {name} is not finite", "check the model's weights")
    if scope == LAYER:
        return {name: _largest(weight, sparsity) for name, weight in weights.items()}
    if not weights:
        return {}
    whole = _largest(torch.cat([weight.flatten() for weight in weights.values()]), sparsity)
    parts = whole.split([weight.numel() for weight in weights.values()])
    return {name: part.reshape(w.shape) for (name, w), part in zip(weights.items(), parts, strict=True)}


def n_of_m(weight: Tensor, n: int, m: int) -> Tensor:
    """A mask of the ``n`` largest magnitudes of every ``m`` weights in a row along the input channels (Zhou et al.
    2021, "Learning N:M Fine-grained Structured Sparse Neural Networks", section 3): 2:4 is what sparse tensor cores
    read.

    The weight is (outputs, inputs, ...); each place of a kernel has groups of its own. Raises ``UsageError`` unless
    1 <= n < m and m divides the inputs.
    """
    if not 1 <= n < m:
        raise UsageError(f"{n}:{m} sparsity keeps none or all", "give N:M with N from 1 and below M, such as 2:4")
    if weight.dim() < 2 or weight.shape[1] % m:
        inputs = weight.shape[1] if weight.dim() > 1 else 0
        raise UsageError(f"{n}:{m} sparsity does not divide {inputs} input channels", "leave this layer dense")
    groups = weight.detach().abs().movedim(1, -1).unflatten(-1, (-1, m))
    order = groups.argsort(dim=-1, descending=True, stable=True)[..., :n]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order, True)
    return mask.flatten(-2).movedim(-1, 1).contiguous()


@contextmanager
def held(module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it the parameters of ``module`` that ``masks`` name are zero where their mask is false, and stay so.

    Their gradients are masked, so the optimizer must be made within. Raises ``UsageError`` for a name that is no
    parameter, or a mask of another shape.
    """
    parameters = dict(module.named_parameters())
    for name, mask in masks.items():
        if name not in parameters:
            raise UsageError(f"there is no parameter {name}", f"choose of {', '.join(list(parameters)[:5])}, ...")
        if mask.shape != parameters[name].shape:
            raise UsageError(f"the mask of {name} is of another shape", "make it from this parameter")
    _zero(parameters, masks)
    with ExitStack() as stack:
        for name, mask in masks.items():
            hook = parameters[name].register_hook(lambda gradient, mask=mask: gradient * mask)
            stack.callback(hook.remove)
        yield
    _zero(parameters, masks)


@dataclass(frozen=True)
class Trial:
    """One round of pruning: the share of weights that is zero, what the test said then, and whether that was kept."""

    sparsity: float
    accuracy: float
    kept: bool


@dataclass(frozen=True)
class Pruned(Generic[M]):
    """The sparsest model that reached the accuracy, its share of zeros and its accuracy, and every trial on the way."""

    model: M
    sparsity: float
    accuracy: float
    trials: tuple[Trial, ...]


def pruned(
    model: M,
    prune: Callable[[M, float], Any],
    train: Callable[[M], Any],
    test: Callable[[M], float],
    accuracy: float,
    step: float = 0.2,
    finest: float = 0.02,
    most: float = 0.98,
) -> Pruned[M]:
    """``model`` as sparse as it can be while ``test`` says at least ``accuracy``: pruned, trained and tested in rounds
    (Han et al. 2015, section 3), each from the last one that was good enough.

    ``prune(model, sparsity)`` and ``train(model)`` change the copy that they are given. A round takes the share
    ``step`` of what is left, so that steps shrink as the model does. One that fails is rolled back, and the next takes
    half of that, until it would be below ``finest``. No round goes beyond the sparsity ``most``.

    Raises ``UsageError`` for a ``step``, ``finest`` or ``most`` outside 0 to 1, and where ``model`` itself does not
    reach ``accuracy``.
    """
    if not 0 < finest <= step < 1 or not 0 < most < 1:
        raise UsageError(
            f"steps of {step} down to {finest}, up to {most}, cannot be taken", "give shares between 0 and 1"
        )
    best, sparsity, score = model, 0.0, test(model)
    if not score >= accuracy:
        raise UsageError(
            f"the model reaches {score:.4g} unpruned, not {accuracy:.4g}", "ask for an accuracy that it has"
        )
    trials: list[Trial] = []
    while step >= finest and sparsity < most:
        wanted = min(most, sparsity + step * (1 - sparsity))
        candidate = copy.deepcopy(best)
        prune(candidate, wanted)
        train(candidate)
        reached = test(candidate)
        kept = reached >= accuracy  # not so for NaN
        trials.append(Trial(wanted, reached, kept))
        if kept:
            best, sparsity, score = candidate, wanted, reached
        else:
            step /= 2
    return Pruned(best, sparsity, score, tuple(trials))


@dataclass(frozen=True)
class Sparse:
    """A weight as the entries that are not zero, (kept,) in row-major order, and the mask of where they are.

    The mask takes a bit per entry, as the positions in 2:4 sparsity do.
    """

    mask: Tensor
    values: Tensor | Coded

    def decoded(self) -> Tensor:
        """The weight that this stands for."""
        values = self.values.decoded() if isinstance(self.values, Coded) else self.values
        return torch.zeros(self.mask.shape, dtype=values.dtype).masked_scatter_(self.mask, values)


def sparse(weight: Tensor, code: Callable[[Tensor], Coded] | None = None) -> Sparse:
    """``weight`` as its entries that are not zero, themselves by a codebook where ``code`` makes one (Han et al. 2016,
    "Deep Compression"). Without one it comes back to the bit, but for negative zeros, which come back as zero.

    Raises the errors of ``code``, and ``UsageError`` for a weight without an entry that is not zero.
    """
    weight = weight.detach()
    mask = weight != 0
    if not bool(mask.any()):
        raise UsageError("the weight is zero everywhere", "leave the layer out")
    return Sparse(mask, weight[mask] if code is None else code(weight[mask]))


def sparse_percent(weight: Tensor, percent: float) -> Sparse:
    """``weight`` with that ``percent`` of it zero, those of the least size, in a matrix that leaves them out."""
    return sparse(weight * largest({"": weight}, percent / 100)[""])


def sparse_n_of_m(weight: Tensor, n: int, m: int) -> Sparse:
    """``weight`` with ``n`` of each ``m`` neighbours left, in a matrix that leaves out the others."""
    return sparse(weight * n_of_m(weight, n, m))


def _largest(weight: Tensor, sparsity: float) -> Tensor:
    flat = weight.detach().flatten().abs()
    mask = torch.ones(len(flat), dtype=torch.bool)
    mask[flat.argsort(stable=True)[: round(sparsity * len(flat))]] = False
    return mask.reshape(weight.shape)


@torch.no_grad()
def _zero(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        parameters[name].masked_fill_(~mask, 0.0)  # a product would leave negative zeros


def _check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise UsageError(f"a sparsity of {sparsity} is not from 0 to below 1", "give the share of weights to leave out")
