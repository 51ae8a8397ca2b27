"""Calls that ``torch.export`` cannot follow or no format has, as ones that compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edgesdk.core.errors import ModelError
from edgesdk.network.places import place_here

_DATA: Any = vars(torch._C.TensorBase)["data"].__get__


class Equivalents(TorchFunctionMode):
    """Within it ``x.data`` is ``x.detach()``, the same memory, bags of one length are a table that is reduced, and what
    multiplies by a weight that lies the other way round is a linear layer."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == _DATA:
            return args[0].detach()
        if func is F.embedding_bag:
            return embedding_bag(*args, **kwargs)
        if func in (torch.addmm, Tensor.addmm):
            return addmm(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def free_lengths(model: nn.Module) -> Iterator[None]:
    """Within it ``len(x)`` of a tensor is ``x.shape[0]``, which may be free, in the code of ``model``'s own classes.

    Python's own makes a number of it. That one is left alone, as PyTorch knows it by what it is.
    """
    kinds = {kind for part in model.modules() for kind in type(part).__mro__}
    spaces = [getattr(value, "__globals__", {}) for kind in kinds for value in vars(kind).values()]
    own = [space for space in spaces if space.get("__name__", "torch").partition(".")[0] != "torch"]
    changed = list({id(space): space for space in own if "len" not in space}.values())
    for space in changed:
        space["len"] = _length
    try:
        yield
    finally:
        for space in changed:
            del space["len"]


def _length(value: Any, /) -> Any:
    sized = isinstance(value, Tensor) and type(value).__len__ is Tensor.__len__ and value.dim()
    return value.shape[0] if sized else len(value)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``torch.addmm``, a linear layer where it adds a bias, as the ``Conv1D`` of transformers does."""
    if args or kwargs or input.shape != mat2.shape[1:]:
        return torch.addmm(input, mat1, mat2, *args, **kwargs)
    return F.linear(mat1, mat2.t(), input)


def embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """``F.embedding_bag``, whose own operator is a loop over bags in ONNX, one that is not sound."""
    names = ("max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse", "per_sample_weights")
    given = dict(zip((*names, "include_last_offset", "padding_idx"), args, strict=False)) | kwargs
    if input.dim() != 2 or offsets is not None:
        fact = f"embedding_bag takes bags one after the other, by offsets{place_here()}"
        remedy = "give it words of shape (samples, words) without offsets, short bags filled up with its padding_idx"
        raise ModelError(fact, remedy)
    mode, padding, scale = (given.get(name) for name in ("mode", "padding_idx", "per_sample_weights"))
    rows = F.embedding(input, weight)
    if (most := given.get("max_norm")) is not None:
        sizes = rows.norm(given.get("norm_type", 2.0), -1, keepdim=True)
        rows = rows * (most / (sizes + 1e-7)).clamp(max=1.0)
    if scale is not None:
        rows = rows * scale[..., None]
    if padding is None:
        return rows.amax(1) if mode == "max" else rows.sum(1) if mode == "sum" else rows.mean(1)
    held = (input != padding % len(weight))[..., None]
    if mode == "max":
        lowest = rows.amin(1, keepdim=True)  # below which no row is
        return torch.where(held, rows, lowest).amax(1) * held.any(1)
    total, count = torch.where(held, rows, 0.0).sum(1), held.sum(1)
    return total if mode == "sum" else total / count.clamp(min=1)
