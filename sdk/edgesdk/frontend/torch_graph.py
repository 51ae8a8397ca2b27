"""A PyTorch module as a ``Graph``: traced at batch 1, described as runtimes fuse it. Enough for a price."""

from __future__ import annotations

import torch
from torch import nn

from edgesdk.compress.layers import described
from edgesdk.compress.modularize import exported, modularize
from edgesdk.compress.network import Batch, rebatch
from edgesdk.errors import UsageError
from edgesdk.graph import Graph


def read(model: nn.Module, example: Batch | tuple[int, ...]) -> Graph:
    """The fused graph of ``model``, which is left as it is.

    ``example`` is a batch that the model takes, or the shape of its single input without the batch. The graph has no
    channel groups and no branches. Raises ``ModelError`` where ``torch.export`` cannot follow the model, ``UsageError``
    for a shape that is none.
    """
    if isinstance(example, (tuple, list)) and all(isinstance(size, int) for size in example):
        shape = "x".join(map(str, example))
        if not example or min(example) < 1:
            raise UsageError(f"{shape!r} is no shape", "write it without the batch, like 3x224x224")
        try:
            example = torch.zeros(1, *example)
        except RuntimeError:
            raise UsageError(f"no memory holds an input of shape {shape}", "give a smaller one") from None
    one = rebatch(example, lambda t: t[:1])
    training = [part for part in model.modules() if part.training]
    try:
        with torch.no_grad():
            program = exported(model, one, free_batch=False)
            return described(modularize(program), one, program.call_spec.out_spec).graph
    finally:
        for part in training:
            part.training = True
