"""A PyTorch module as a ``Graph``: traced at batch 1, described as runtimes fuse it. Enough for a price."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgesdk.core.errors import UsageError
from edgesdk.core.graph import Graph, Tensor
from edgesdk.network.fuse import flat
from edgesdk.network.network import Batch, rebatch


def read(model: nn.Module, example: Batch | tuple[int, ...] | Sequence[Tensor]) -> Graph:
    """The fused graph of ``model``, which is left as it is.

    ``example`` is a batch that the model takes, the shape of its single input without the batch, or a description of
    each input (:class:`edgesdk.core.graph.Tensor`), by name where all have one. The graph has no channel groups and no
    branches. Raises ``ModelError`` where ``torch.export`` cannot follow the model, ``UsageError`` for a shape or a type
    that is none.
    """
    sample = rebatch(batch_of(example), lambda t: t[:1])
    with torch.no_grad():
        return flat(model, sample, free_batch=False).graph


def batch_of(example: Batch | tuple[int, ...] | Sequence[Tensor]) -> Batch:
    """A batch as :func:`read` takes its ``example``: zeros where that says shapes alone."""
    parts = list(example) if isinstance(example, (tuple, list)) else []
    inputs = [part for part in parts if isinstance(part, Tensor)]
    sizes = [part for part in parts if isinstance(part, int)]
    if inputs and len(inputs) == len(parts):
        named = all(described.name for described in inputs)
        made = {described.name or str(index): _zeros(described) for index, described in enumerate(inputs)}
        return made if named else tuple(made.values())
    if isinstance(example, (tuple, list)) and len(sizes) == len(parts):
        return _zeros(Tensor("", tuple(sizes)))
    return example


def _zeros(described: Tensor) -> torch.Tensor:
    """A batch of one sample."""
    shape = "x".join(map(str, described.shape))
    if not described.shape or min(described.shape) < 1:
        raise UsageError(f"{shape!r} is no shape", "write it without the batch, like 3x224x224")
    dtype = getattr(torch, described.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"there is no type {described.dtype!r} of an input", "give one like float32, int64 or uint8")
    try:
        return torch.zeros(1, *described.shape, dtype=dtype)
    except RuntimeError:
        raise UsageError(f"no memory holds an input of shape {shape}", "give a smaller one") from None
