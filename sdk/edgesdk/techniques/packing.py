"""What a weight can be stored as: a codebook, what is not zero, low frequencies, or 16-bit floats, which are here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgesdk.core.errors import UsageError
from edgesdk.techniques.codebooks import Coded
from edgesdk.techniques.filtering import Filtered
from edgesdk.techniques.sparsity import Sparse

KINDS = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Half:
    """A weight as float16 or bfloat16 ``values``, in the weight's shape."""

    values: Tensor

    @property
    def kind(self) -> str:
        """fp16 or bf16."""
        return next(name for name, dtype in KINDS.items() if dtype == self.values.dtype)

    def decoded(self) -> Tensor:
        """The float32 weight that this stands for."""
        return self.values.float()


def half(weight: Tensor, kind: str = "fp16") -> Half:
    """``weight`` rounded to the nearest number of 16 bits, half-way to even (IEEE 754): ``kind`` fp16 has 11 bits of
    precision from 6e-5 to 65504, and fewer below; bf16 has 8 in the range of float32. What fp32 could only hold as a
    subnormal number becomes zero, as runtimes may flush it.

    Raises ``UsageError`` for another ``kind``, a weight that is not finite, and one beyond the kind's largest number.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no 16-bit float {kind!r}", f"choose {' or '.join(KINDS)}")
    if not weight.is_floating_point() or not bool(weight.isfinite().all()):
        raise UsageError("a 16-bit float needs a weight of finite floats", "check the model's weights")
    values = weight.detach().to(KINDS[kind])
    if not bool(values.isfinite().all()):
        most, end = float(weight.detach().abs().max()), torch.finfo(KINDS[kind]).max
        raise UsageError(f"a weight of {most:.3g} is beyond {kind}, which ends at {end:.5g}", "leave it as it is")
    return Half(values.masked_fill(values.float().abs() < torch.finfo(torch.float32).tiny, 0.0))


def fp16(weight: Tensor) -> Half:
    """``weight`` as float16: see :func:`half`."""
    return half(weight, "fp16")


def bf16(weight: Tensor) -> Half:
    """``weight`` as bfloat16: see :func:`half`."""
    return half(weight, "bf16")


Packed = Coded | Sparse | Filtered | Half
