"""Transfer to a new task: another head on a trained body, which is first held as it is and then tuned with it.

Features of early layers serve many tasks, those of late layers one (Yosinski et al. 2014, "How transferable are
features"); learning the head first keeps the body from being torn apart by a head that is random (Kumar et al. 2022,
"Fine-Tuning can Distort Pretrained Features", section 3.4).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgesdk.core.errors import UsageError

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def with_head(model: nn.Module, path: str, outputs: int) -> nn.Module:
    """A copy of ``model`` whose linear layer ``path`` has ``outputs`` outputs, and zeros as weights.

    Raises ``UsageError`` where there is no such layer, or for less than one output.
    """
    if outputs < 1:
        raise UsageError(f"a head of {outputs} outputs", "give 1 or more")
    head = dict(model.named_modules()).get(path)
    weight = getattr(head, "weight", None)
    linear = isinstance(head, nn.Linear) or type(head) is nn.Module  # an exported program's modules hold weights alone
    if head is None or not linear or not isinstance(weight, Tensor) or weight.dim() != 2:
        kind = "missing" if head is None else f"a {type(head).__name__}"
        raise UsageError(f"the head {path!r} is {kind}", "name the linear layer that makes the outputs")
    copied = copy.deepcopy(model)
    biased = getattr(head, "bias", None) is not None
    made = nn.Linear(weight.shape[1], outputs, biased, weight.device, weight.dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    copied.set_submodule(path, made)
    return copied.train(model.training)


@contextmanager
def frozen(module: nn.Module, head: str) -> Iterator[None]:
    """Within it nothing of ``module`` learns but the submodule ``head``.

    Raises ``UsageError`` where that has nothing to learn.
    """
    learns = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    if not any(name.startswith(f"{head}.") and wanted for name, wanted in learns.items()):
        raise UsageError(f"the head {head!r} has no weights", "name the layer that is to learn")
    parameters = dict(module.named_parameters())
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(learns[name] and name.startswith(f"{head}."))
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(learns[name])


def still(module: nn.Module) -> None:
    """Let every BatchNorm of ``module`` that does not learn keep its statistics, too, in training mode."""
    for part in module.modules():
        if isinstance(part, NORMS) and not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()
