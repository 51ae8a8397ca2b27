"""AdaRound: weights rounded up or down by what that does to their layer's outputs (Nagel et al. 2020).

"Up or Down? Adaptive Rounding for Post-Training Quantization". The layer's objective on calibration inputs, eq. 25
without the activation function, is a quadratic form in its weights, so that all samples come in as their ``Moments``:
every step sees them all, and nothing is drawn at random.
"""

from __future__ import annotations

from math import cos, pi

import torch
from torch import Tensor

from edgesdk.core.errors import UsageError
from edgesdk.techniques.reconstruction import Moments

STEPS, RATE = 1000, 1e-2  # of Adam
ZETA, GAMMA = 1.1, -0.1  # what the sigmoid is stretched to (eq. 23)
BETA = (20.0, 2.0)  # of the regulariser (eq. 24), annealed
WARM = 0.2  # of the steps, without the regulariser
LAMBDA = 0.03  # of the regulariser, to an error in units of the nearest rounding's


def nearest(weight: Tensor, scale: Tensor, limit: int) -> Tensor:
    """``weight`` on its grid: the nearest of ``scale * (-limit ... limit)``, half-way to even.

    ``scale``, positive, broadcasts against ``weight``, whose shape comes back.
    """
    return (weight / scale).round().clamp(-limit, limit) * scale


def adaround(
    weight: Tensor, scale: Tensor, limit: int, moments: Moments, bias: Tensor | None = None, steps: int = STEPS
) -> Tensor:
    """``weight`` rounded to ``scale * (-limit ... limit)`` so that its layer's outputs err little; the same shape.

    ``weight`` is (g, n, k) as ``weight_rows`` gives it, ``bias`` (g, n), ``scale`` positive and (g, n, 1) or of one
    entry; the ``moments`` are of the layer's inputs, which may come from quantized layers, and of the outputs that it
    is to have. Soft rounding (eq. 22), ``scale * clip(floor(w / scale) + h(v))`` with h a stretched sigmoid (eq. 23),
    is learnt by Adam with the annealed regulariser of eq. 24, which drives h to 0 or 1. Each output takes this or the
    nearest rounding, whichever errs less, so that none is worse than that. Raises ``UsageError`` for a scale, a limit,
    steps or moments that do not fit.
    """
    if limit < 1 or steps < 0:
        fact = f"a grid up to {limit} and {steps} steps of learning are no sizes"
        raise UsageError(fact, "give 127 for 8 bits or 7 for 4, and no negative steps")
    moments.check(weight, bias)
    if not bool((scale > 0).all()) or scale.numel() > 1 and scale.shape != (*weight.shape[:2], 1):
        fact = f"a scale of shape {tuple(scale.shape)} is not positive for each output of {tuple(weight.shape)}"
        raise UsageError(fact, "give (groups, n, 1), all above zero")
    weight = weight.detach()
    plain = nearest(weight, scale, limit)
    before = moments.error(plain, bias)
    unit = float(before.sum())
    if unit == 0:
        return plain
    yx = moments.yx if bias is None else moments.yx - bias.detach().double()[..., None] * moments.x[:, None]
    learnt = _learnt(weight, scale, limit, (moments.xx / unit).float(), (yx / unit).float(), steps)
    return torch.where((moments.error(learnt, bias) < before)[..., None], learnt, plain)


@torch.enable_grad()
def _learnt(weight: Tensor, scale: Tensor, limit: int, xx: Tensor, yx: Tensor, steps: int) -> Tensor:
    """The rounding at which the optimisation ends."""
    floor = (weight / scale).floor()
    share = ((weight / scale - floor - GAMMA) / (ZETA - GAMMA)).clamp(1e-6, 1 - 1e-6)
    v = torch.logit(share).requires_grad_()
    optimizer = torch.optim.Adam([v], RATE)
    for step in range(steps):
        up = _stretched(v)
        w = (floor + up).clamp(-limit, limit) * scale
        loss = ((w @ xx - 2 * yx) * w).sum()
        done = (step / steps - WARM) / (1 - WARM)
        if done >= 0:
            beta = BETA[1] + 0.5 * (BETA[0] - BETA[1]) * (1 + cos(pi * done))
            loss = loss + LAMBDA * (1 - (2 * up - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (floor + (_stretched(v.detach()) >= 0.5)).clamp(-limit, limit) * scale


def _stretched(v: Tensor) -> Tensor:
    return (v.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
