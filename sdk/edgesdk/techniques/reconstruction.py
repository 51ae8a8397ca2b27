"""Weights in closed form: those that answer best on calibration data, after channels went or inputs changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.core.errors import UsageError
from edgesdk.techniques.importance import DAMPING, damped, removal_losses
from edgesdk.techniques.layouts import TRANSPOSED, by_output

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


@dataclass
class Moments:
    """All that least squares needs of inputs X and wanted outputs Y, added up over batches in double precision.

    Per group of a grouped layer (one group for all others): X X^T ``xx`` (g, k, k), Y X^T ``yx`` (g, n, k), the squares
    ``yy`` (g, n), the sums ``x`` (g, k) and ``y`` (g, n), and the ``count`` of rows.
    """

    xx: Tensor
    yx: Tensor
    yy: Tensor
    x: Tensor
    y: Tensor
    count: int = 0

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int, device: torch.device | None = None) -> Moments:
        """Of no rows, for ``groups`` groups of ``inputs`` columns and ``outputs`` wanted outputs each; added up where
        the rows lie, on ``device``."""
        shapes = (groups, inputs, inputs), (groups, outputs, inputs), (groups, outputs), (groups, inputs)
        xx, yx, yy, x, y = (
            torch.zeros(shape, dtype=torch.double, device=device) for shape in (*shapes, (groups, outputs))
        )
        return cls(xx, yx, yy, x, y)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows of inputs (g, rows, k) and outputs (g, rows, n). Raises ``UsageError`` where they do not fit."""
        rows = x.shape[:2]
        if x.shape != (*rows, self.x.shape[1]) or y.shape != (*rows, self.y.shape[1]) or rows[0] != len(self.x):
            fact = f"rows of shapes {tuple(x.shape)} and {tuple(y.shape)} do not fit moments of {tuple(self.yx.shape)}"
            raise UsageError(fact, "give inputs (groups, rows, k) and outputs (groups, rows, n)")
        x, y = x.detach().double(), y.detach().double()
        if not bool((x.sum() + y.sum()).isfinite()):  # no sum of what is finite overflows here
            raise UsageError("there are values that are not finite", "check the weights and the calibration data")
        self.xx += x.transpose(1, 2) @ x
        self.yx += y.transpose(1, 2) @ x
        self.yy += y.square().sum(1)
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.count += rows[1]

    def plus(self, other: Moments) -> Moments:
        """Those of the rows of both."""
        count = self.count + other.count
        x, y = self.x + other.x, self.y + other.y
        return Moments(self.xx + other.xx, self.yx + other.yx, self.yy + other.yy, x, y, count)

    def error(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The squared error ``||Y - W X - b||^2`` of each output, (g, n), for a weight (g, n, k) and a bias (g, n)."""
        self.check(weight, bias)
        w = weight.detach().double()
        error = self.yy + (w * (w @ self.xx - 2 * self.yx)).sum(2)
        if bias is not None:
            b = bias.detach().double()
            error = error + b * (self.count * b - 2 * self.y + 2 * (w @ self.x[..., None])[..., 0])
        return error.clamp(min=0)

    def check(self, weight: Tensor, bias: Tensor | None) -> None:
        """Raise ``UsageError`` unless ``weight`` is (g, n, k), ``bias`` (g, n), and there are rows."""
        if weight.shape != self.yx.shape or (bias is not None and bias.shape != self.y.shape):
            shapes = f"{tuple(weight.shape)}" + (f" and a bias of {tuple(bias.shape)}" if bias is not None else "")
            fact = f"a weight of shape {shapes} does not fit moments of {tuple(self.yx.shape)}"
            raise UsageError(fact, "give a weight (groups, n, k) and a bias (groups, n)")
        if not self.count:
            raise UsageError("there are no rows to fit", "add calibration data first")

    @property
    def centred(self) -> tuple[Tensor, Tensor]:
        """X X^T and Y X^T about their means: what is left of them where a bias takes the means."""
        x, y = self.x[:, None, :], self.y[:, :, None]
        return self.xx - x.transpose(1, 2) @ x / self.count, self.yx - y @ x / self.count


def least_squares(
    moments: Moments, weight: Tensor, bias: Tensor | None = None, damping: float = DAMPING
) -> tuple[Tensor, Tensor | None]:
    """The weight W' that minimises ``||Y - W' X - b'||^2 + lambda ||W' - W||^2``, and its bias where there is one.

    ``W' = W + (Y X^T - W X X^T) (X X^T + lambda I)^-1``, ridge regression (Hoerl and Kennard 1970) about the weight
    that there is; He et al. 2017 ("Channel Pruning", section 3.1) reconstruct a pruned layer by least squares. With a
    bias, moments are about their means and the bias is ``mean(Y) - W' mean(X)``. On the data of the moments the error
    is never above that of ``weight`` and ``bias``. ``weight`` is (g, n, k), ``bias`` (g, n); lambda is ``damping``
    times the mean of the diagonal of X X^T. Raises ``UsageError`` for shapes that do not fit, no rows, and a damping
    not above zero.
    """
    moments.check(weight, bias)
    if not damping > 0:
        raise UsageError(f"a damping of {damping:g} is not above zero", f"give for example {DAMPING:g}")
    xx, yx = (moments.xx, moments.yx) if bias is None else moments.centred
    w = weight.detach().double()
    mean = xx.diagonal(dim1=1, dim2=2).mean(1)
    step = torch.where(mean > 0, damping * mean, 1.0)  # inputs that are all zero: any will do
    unit = torch.eye(xx.shape[1], dtype=torch.double, device=xx.device)
    factor = torch.linalg.cholesky(xx + step[:, None, None] * unit)
    w = w + torch.cholesky_solve((yx - w @ xx).transpose(1, 2), factor).transpose(1, 2)
    if bias is None:
        return w.to(weight.dtype), None
    b = (moments.y - (w @ moments.x[..., None])[..., 0]) / moments.count
    return w.to(weight.dtype), b.to(bias.dtype)


@dataclass(frozen=True)
class Removal:
    """Input ``channels`` in the order in which they went; the ``weight``, (n, k), zero there and updated elsewhere."""

    channels: tuple[int, ...]
    weight: Tensor


def removed(weight: Tensor, moment: Tensor, count: int, entries: int = 1, damping: float = DAMPING) -> Removal:
    """``count`` input channels removed one at a time, the cheapest each time, the weights that stay made up for it.

    Optimal Brain Surgeon for structures (Kurtic et al. 2023, "ZipLM", section 3; Frantar and Alistarh 2022, "Optimal
    Brain Compression", eq. 3 and 4, for single weights): with ``H = X X^T + lambda I``, the channel S with the least
    ``sum_i w_i,S ((H^-1)_S,S)^-1 w_i,S^T`` goes; ``W <- W - W_:,S ((H^-1)_S,S)^-1 (H^-1)_S,:`` and ``H^-1 <- H^-1 -
    (H^-1)_:,S ((H^-1)_S,S)^-1 (H^-1)_S,:`` follow. What comes out is the least-squares weight on the channels that
    stay, for ``||W X - W' X||^2 + lambda ||W - W'||^2``: never above removing the same channels plainly.

    ``weight`` is (n, k) and ``moment`` X X^T of its inputs (k, k); a channel has ``entries`` columns in a row, those of
    a convolution's window. Raises ``UsageError`` for shapes that do not fit, and a count that leaves no channel.
    """
    inverse = torch.linalg.inv(damped(weight, moment, entries, damping))
    channels = weight.shape[1] // entries
    if not 0 <= count < channels:
        raise UsageError(f"{count} of {channels} channels cannot be removed", f"give a count from 0 to {channels - 1}")
    w = weight.detach().double()
    gone: list[int] = []
    for _ in range(count):
        stay = [c for c in range(channels) if c not in gone]
        columns = torch.tensor(stay)[:, None] * entries + torch.arange(entries)
        kept = inverse[columns.flatten()][:, columns.flatten()]
        least = int(removal_losses(w[:, columns.flatten()], kept, entries).argmin())
        gone.append(stay[least])
        own = columns[least]
        update = torch.linalg.solve(inverse[own][:, own], inverse[own])
        w = w - w[:, own] @ update
        inverse = inverse - inverse[:, own] @ update
    for channel in gone:
        w[:, channel * entries : (channel + 1) * entries] = 0.0  # as they are, but for rounding
    return Removal(tuple(gone), w.to(weight.dtype))


def window_rows(layer: nn.Module, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """The inputs of ``layer`` as rows (groups, N * positions, k): ``rows @ W^T + b`` are its outputs.

    For a convolution a row is the window that it reads at one place, padding included; ``positions``, flat indices of
    places in its output, picks some, the same in each sample. A transposed one is the convolution of its input with
    zeros between the places, by its kernel turned round (Dumoulin and Visin 2016, section 4.5), and a row has zeros
    where no place of the input meets a weight. ``x`` is (N, channels, ...) for a convolution and
    (N, ..., channels) for a linear layer. Raises ``UsageError`` for other layers.
    """
    if isinstance(layer, nn.Linear):
        return _picked(x, positions)[None]
    convolution = _convolution(layer)
    axes = len(convolution.kernel_size)
    turned = isinstance(convolution, TRANSPOSED)
    if turned:
        view, strides = _spread(convolution, x), (1,) * axes
    else:
        mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
        view = F.pad(x, convolution._reversed_padding_repeated_twice, mode=mode)
        strides = convolution.stride
    sizes = zip(convolution.kernel_size, strides, convolution.dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(sizes, 2):
        view = view.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    view = view.movedim(1, 1 + axes)  # (N, *places, channels, *kernel)
    if positions is not None:
        view = view[(slice(None), *torch.unravel_index(positions, view.shape[1 : 1 + axes]))]
    if turned:
        view = view.flip([*range(-axes, 0)])
    rows = view.reshape(-1, convolution.groups, view.shape[-axes - 1 :].numel() // convolution.groups)
    return rows.transpose(0, 1)


def _spread(layer: Any, x: Tensor) -> Tensor:
    """The input of a transposed convolution with zeros between its places and around them: a window for each place of
    the output."""
    axes = len(layer.kernel_size)
    spread = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True)))
    spread[(..., *(slice(None, None, s) for s in layer.stride))] = x
    borders: list[int] = []
    for axis in reversed(range(axes)):
        before = layer.dilation[axis] * (layer.kernel_size[axis] - 1) - layer.padding[axis]
        borders += [before, before + layer.output_padding[axis]]
    return F.pad(spread, borders)


def output_rows(layer: nn.Module, y: Tensor, positions: Tensor | None = None) -> Tensor:
    """Outputs of ``layer`` as rows (groups, N * positions, n), in the order of :func:`window_rows`.

    ``y`` is (N, channels, ...) of a convolution, (N, ..., channels) of a linear layer. Raises ``UsageError`` for
    another kind of layer.
    """
    if isinstance(layer, nn.Linear):
        return _picked(y, positions)[None]
    picked = _picked(y.movedim(1, -1), positions)
    return picked.reshape(len(picked), _convolution(layer).groups, -1).transpose(0, 1)


def weight_rows(layer: nn.Module) -> Tensor:
    """The weight of ``layer`` as (groups, n, k); :func:`edgesdk.techniques.layouts.as_stored` gives its own form."""
    weight = by_output(layer, layer.weight.detach())  # type: ignore[union-attr,operator,arg-type]
    return (
        weight[None]
        if isinstance(layer, nn.Linear)
        else weight.reshape(_convolution(layer).groups, -1, weight[0].numel())
    )


def _picked(values: Tensor, positions: Tensor | None) -> Tensor:
    """Rows of (N, ..., channels), all or those at flat ``positions`` of the axes between."""
    if positions is not None and values.dim() > 2:
        values = values[(slice(None), *torch.unravel_index(positions, values.shape[1:-1]))]
    return values.reshape(-1, values.shape[-1])


def _convolution(layer: nn.Module) -> Any:
    if not isinstance(layer, CONVOLUTIONS):
        raise UsageError(f"a {type(layer).__name__} has no weights to fit", "give a convolution or a linear layer")
    return layer
