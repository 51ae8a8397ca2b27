"""How much each channel of a layer matters: scores of shape (channels,), greater is more important.

Scores of layers whose channels are cut together are added up; those of several batches, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgesdk.core.errors import UsageError

LARGE = 1024  # rows of a Hessian that is inverted in single precision
DAMPING = 1e-2  # of a Hessian, relative to the mean of its diagonal (Frantar et al. 2023, GPTQ, section 3.3)


def l1(weight: Tensor) -> Tensor:
    """The sum of absolute weights of each output channel (Li et al. 2017, "Pruning Filters", section 3.1).

    ``weight`` is (channels, ...). Raises ``UsageError`` where it has no channels or is not finite.
    """
    return _rows(weight).abs().sum(1)


def l2(weight: Tensor) -> Tensor:
    """The Euclidean norm of each output channel's weights (He et al. 2018, "Soft Filter Pruning", eq. 2, p = 2).

    ``weight`` is (channels, ...). Raises ``UsageError`` where it has no channels or is not finite.
    """
    return _rows(weight).norm(dim=1)


def gamma(scale: Tensor) -> Tensor:
    """The size of each channel's BatchNorm scale (Liu et al. 2017, "Network Slimming", section 3).

    ``scale`` is gamma, (channels,). It tells channels apart where training drove some of them to zero.
    Raises ``UsageError`` where it has another shape or is not finite.
    """
    if scale.dim() != 1:
        raise UsageError(f"a BatchNorm's scale has {scale.dim()} axes instead of 1", "give its weight, (channels,)")
    return _rows(scale[:, None]).abs()[:, 0]


def taylor(product: Tensor, axis: int = 1) -> Tensor:
    """First-order Taylor (Molchanov et al. 2019, eq. 8): the squared change in loss if a channel were zero.

    ``product`` is activation times gradient of the loss summed over samples, (N, channels, ...), its channels on
    ``axis``: ``(sum over positions of product)^2``, summed over samples. Raises ``UsageError`` where it has no such
    axis or is not finite.
    """
    if product.dim() < 2 or not (-product.dim() <= axis < product.dim()) or axis % product.dim() == 0:
        fact = f"a product of shape {tuple(product.shape)} has no channels on axis {axis}"
        raise UsageError(fact, "give (samples, channels, ...) and the channels' axis")
    _finite(product)
    return product.movedim(axis, 1).flatten(2).sum(2).square().sum(0) if product.dim() > 2 else product.square().sum(0)


def hessian(weight: Tensor, moment: Tensor, entries: int = 1, damping: float = DAMPING) -> Tensor:
    """What a layer's output must lose when an input channel goes and the weights that stay make up for it best.

    With ``H = X X^T + lambda I`` the loss is ``sum_i w_i,S ((H^-1)_S,S)^-1 w_i,S^T`` over the rows i of the weight
    (Kurtic et al. 2023, "ZipLM", section 3; of single weights Hassibi and Stork 1993, eq. 5). ``weight`` is (n, k),
    ``moment`` is X X^T of the inputs, (k, k); a channel S has ``entries`` columns in a row; lambda is ``damping`` times
    the mean of the diagonal. The scores are of the k / entries channels that the layer *reads*. Raises ``UsageError``
    for shapes that do not fit, and a damping that is not above zero.
    """
    matrix = damped(weight, moment, entries, damping)
    if len(matrix) >= LARGE and damping >= DAMPING:  # takes half of the time so; the scores agree to a few thousandths
        factor, failed = torch.linalg.cholesky_ex(matrix.float())
        factor = torch.linalg.cholesky(matrix) if failed else factor
    else:
        factor = torch.linalg.cholesky(matrix)
    inverse = torch.cholesky_inverse(factor)
    return removal_losses(weight.to(inverse.dtype), inverse, entries).to(weight.dtype)


def together(*scores: Tensor) -> Tensor:
    """Scores of the same channels by several criteria as one: each over its sum, added up.

    Raises ``UsageError`` where their shapes differ, or there are none.
    """
    if not scores or any(score.shape != scores[0].shape for score in scores):
        fact = (
            f"scores of shapes {', '.join(str(tuple(score.shape)) for score in scores) or 'none'} are not of the same"
        )
        raise UsageError(f"{fact} channels", "give scores of one shape")
    return torch.stack([score / score.sum().clamp(min=torch.finfo(score.dtype).tiny) for score in scores]).sum(0)


def damped(weight: Tensor, moment: Tensor, entries: int, damping: float) -> Tensor:
    """``moment + lambda I`` in double precision; raises ``UsageError`` unless it fits ``weight``, (n, k)."""
    if weight.dim() != 2 or moment.shape != (weight.shape[1], weight.shape[1]):
        fact = f"inputs' moments of shape {tuple(moment.shape)} do not fit a weight of shape {tuple(weight.shape)}"
        raise UsageError(fact, "give a weight (n, k) and moments (k, k)")
    if entries < 1 or weight.shape[1] % entries:
        fact = f"{weight.shape[1]} columns are not a number of channels of {entries} each"
        raise UsageError(fact, "give the columns that each input channel has")
    if not damping > 0:
        raise UsageError(f"a damping of {damping:g} is not above zero", f"give for example {DAMPING:g}")
    _finite(weight)
    _finite(moment)
    mean = moment.double().diagonal().mean()
    step = damping * float(mean) if mean > 0 else 1.0  # inputs that are all zero: any will do
    return moment.double() + step * torch.eye(len(moment), dtype=torch.double)


def removal_losses(weight: Tensor, inverse: Tensor, entries: int) -> Tensor:
    """The loss of :func:`hessian` from the inverse of H, (k, k)."""
    channels = weight.shape[1] // entries
    blocks = inverse.reshape(channels, entries, channels, entries).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    columns = weight.T.reshape(channels, entries, -1)
    return (columns * torch.linalg.solve(blocks, columns)).sum((1, 2))


def _rows(weight: Tensor) -> Tensor:
    if weight.dim() < 2 or not weight.numel():
        raise UsageError(f"a weight of shape {tuple(weight.shape)} has no channels", "give (channels, ...)")
    _finite(weight)
    return weight.detach().flatten(1)


def _finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise UsageError("there are values that are not finite", "check the weights and the calibration data")
