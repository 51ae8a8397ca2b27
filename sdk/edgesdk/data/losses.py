"""A loss of the user's own: a function of what a model returns and of the targets, one number for a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgesdk.core.errors import UsageError
from edgesdk.core.wording import said
from edgesdk.data.targets import check_repeated
from edgesdk.network.load import load_callable
from edgesdk.network.network import Batch, Structure, answer

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class OwnLoss:
    """``function`` of a model's outputs, in the ``structure`` in which it returns them, and a batch's targets.

    ``dense`` is what it says of the dense model on the first calibration batch: what was made with another loss of the
    same ``name`` is told from this one by it.
    """

    function: Loss
    structure: Structure
    name: str
    dense: float = 0.0

    def __call__(self, outputs: list[Tensor], y: Any) -> Tensor:
        """The loss (a scalar) of a batch; ``outputs`` are a network's tensors in a row. Raises ``UsageError``."""
        given = self.structure.of([o.float() if o.is_floating_point() else o for o in outputs])
        try:
            value: Any = self.function(given, y)
        except Exception as error:
            remedy = "let it take what the model returns and the data's targets, of one batch"
            raise UsageError(f"the loss {self.name} failed with {said(error)}", remedy) from error
        if not isinstance(value, Tensor):
            raise UsageError(f"the loss {self.name} gives {type(value).__name__}, not a tensor", "return its mean")
        if value.numel() != 1:
            fact = f"the loss {self.name} gives a tensor of shape {tuple(value.shape)}, not one number"
            raise UsageError(fact, "return the mean over the batch")
        return value.reshape(())


def read_loss(loss: str | Loss | None) -> Loss | None:
    """``loss``, or what ``file.py:callable`` or ``package.module:callable`` names, made where it is a class.

    Raises ``UsageError`` for what there is not, and for what cannot be called.
    """
    if loss is None:
        return None
    made: Any = loss
    if isinstance(loss, str):
        if ":" not in loss:
            raise UsageError(f"there is no loss {loss!r}", "give file.py:callable, or a class like torch.nn:HuberLoss")
        made = load_callable(loss, "loss", UsageError)
    if isinstance(made, type):
        try:
            made = made()
        except Exception as error:
            fact = f"making the loss {loss_name(made)} failed with {said(error)}"
            raise UsageError(fact, "let it be made without arguments, or give a function") from error
    if not callable(made):
        raise UsageError(f"a loss of type {type(made).__name__}", "give a function of outputs and targets")
    return cast(Loss, made)


def loss_name(loss: Any) -> str:
    """What reports call ``loss``."""
    return getattr(loss, "__name__", None) or type(loss).__name__


def settle_loss(loss: Loss, model: nn.Module, x: Batch, y: Any) -> OwnLoss:
    """``loss`` for what ``model`` returns, once it was tried on the batch ``x`` with its targets ``y``.

    Raises ``UsageError`` where it fails, is no finite number, or does not lead back to the outputs, ``DataError`` where
    it repeats targets of another shape.
    """
    leaves, spec = pytree.tree_flatten(answer(model, x))
    constants = {place: leaf for place, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
    outputs = [leaf.detach().clone() for leaf in leaves if isinstance(leaf, Tensor)]
    floats = [o.requires_grad_() for o in outputs if o.is_floating_point()]
    own = OwnLoss(loss, Structure(spec, constants), loss_name(loss))
    with torch.enable_grad():
        value = own(outputs, y)
    if len(outputs) == 1:
        check_repeated(lambda target: float(own(outputs, target)), outputs[0], y, f"the loss {own.name}")
    if not bool(torch.isfinite(value)):
        fact = f"the loss {own.name} is {float(value.detach()):g} on the dense model's own outputs"
        raise UsageError(fact, "let it be finite on the calibration data")
    led = torch.autograd.grad(value, floats, allow_unused=True) if value.requires_grad else []
    if all(gradient is None for gradient in led):
        fact = f"the loss {own.name} does not lead back to the model's outputs"
        raise UsageError(fact, "compute it by what PyTorch can differentiate: no argmax, no NumPy, no detach()")
    if not all(bool(torch.isfinite(gradient).all()) for gradient in led if gradient is not None):
        raise UsageError(f"the gradient of the loss {own.name} is not finite", "keep logarithms and roots off zero")
    return OwnLoss(own.function, own.structure, own.name, float(value.detach()))
