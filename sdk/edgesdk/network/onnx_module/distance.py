"""How far the float network of a file that is quantized already is from what that file answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgesdk.core.errors import ModelError
from edgesdk.core.wording import counted
from edgesdk.network.network import Batch, answer, rebatch
from edgesdk.network.onnx_module.runtime import FileAnswers
from edgesdk.network.reference import SAMPLES, spread
from edgesdk.network.source import source_of

FEW = 8.0  # steps
STEPS = 255  # of eight bits, over the range that answers have


def judge_float(module: nn.Module, x: Batch) -> tuple[str, ...]:
    """A note on how far ``module`` is from the quantized file that it was made of, on the first samples of ``x``.

    None for a module of another origin, or that has learnt since. Raises ``ModelError`` where the two are further apart
    than rounding to the file's steps explains.
    """
    source = source_of(module)
    if source is None or source.floats is None or not source.holds(module):
        return ()
    x = rebatch(x, lambda t: t[:SAMPLES])
    own = answer(module, x)
    pairs = zip(own.values() if isinstance(own, dict) else [own], FileAnswers(source).outputs(x), strict=True)
    far = [_distance(a, b) for a, b in pairs if b.is_floating_point()]
    if not far:
        return ()
    steps, share = max(far)
    apart = f"{counted(steps, 'step', '.2g')} of its eight bits from what ONNX Runtime answers of the file"
    if not steps <= FEW:
        fact = f"the float network that {source.path.name} stands for is {apart}"
        raise ModelError(fact, "give the float model that it was made from: rounding does not explain that much")
    return (f"that float network is {apart} ({share:.1%} of its answers' spread)",)


def _distance(ours: Tensor, wanted: Tensor) -> tuple[float, float]:
    """The root of the mean square of differences, in steps of the answers' range, and as a share of their spread."""
    if ours.shape != wanted.shape:
        return float("inf"), float("inf")
    apart = float(torch.sqrt((ours.detach().double() - wanted.double()).square().mean()))
    step = float(wanted.max() - wanted.min()) / STEPS
    return apart / max(step, 1e-12), apart / spread(wanted.double())
