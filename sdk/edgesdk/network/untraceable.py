"""Why ``torch.export`` does not follow a model, in words that name what a user can do about it."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.ao.nn.quantized import FloatFunctional

from edgesdk.core.errors import ModelError
from edgesdk.network.places import place_here, place_of

QUANTIZED = re.compile(
    r"torch\.ao\.(quantization\.(observer|fake_quantize)|nn\.(intrinsic\.)?(qat|quantized|quantizable))\b"
)  # where the classes live that PyTorch's own quantization puts into a model
FLOAT = "give the float model, before torch.ao.quantization prepares it: edgesdk quantizes it"
SHAPES = "torch.fx.experimental.symbolic_shapes"  # the logger that tells where a free size becomes a number


def check_traceable(model: nn.Module) -> None:
    """Raise ``ModelError`` for modules that ``torch.export`` says nothing sensible of: TorchScript, and those that
    quantize by PyTorch's own tools or watch for these."""
    for path, part in model.named_modules():
        where = f"the model's {path}" if path else "the model"
        kind = type(part)
        if isinstance(part, torch.jit.ScriptModule):
            fact = f"{where} is TorchScript ({part.original_name}), which is not traced"
            raise ModelError(fact, "give the nn.Module that it was made of, before torch.jit.script or torch.jit.trace")
        if any(QUANTIZED.match(base.__module__) for base in kind.__mro__) and not _is_float(part):
            fact = f"{where} ({kind.__name__}) quantizes by PyTorch's own tools, or watches for them"
            raise ModelError(fact, FLOAT)


def _is_float(part: nn.Module) -> bool:
    """Whether ``part`` adds or multiplies floats in a place that PyTorch's tools would watch, and nothing does yet."""
    return isinstance(part, FloatFunctional) and type(part.activation_post_process) is nn.Identity


def explain_untraceable(error: Exception, follow: Callable[[], Any]) -> ModelError:
    """What a user is told where ``torch.export``, by ``follow``, does not follow a model and raised ``error``."""
    told = str(error)
    place = _find_place(told) or place_of(error)
    if "data-dependent" in told:
        fact = f"the model cannot be traced: forward() asks what the values of a tensor are{place}"
        return ModelError(fact, "choose with torch.where, not with if, .item(), .tolist() or int(), but for shapes")
    if "Constraints violated" in told:
        fact = "the model cannot be traced: forward() fixes how many samples a batch has, or takes them one by one"
        remedy = "compute all samples at once: no loop over them, and no number in the place of x.shape[0]"
        return ModelError(f"{fact}{_find_fixing(follow)}", remedy)
    if "fake_quantize" in told:
        fact = f"the model cannot be traced: forward() quantizes by PyTorch's own tools{place}"
        return ModelError(fact, FLOAT)
    if "unhashable type" in told and "SymInt" in told:
        fact = f"the model cannot be traced: forward() looks something up by how many samples a batch has{place}"
        return ModelError(fact, "look it up by the sizes of a sample alone: x.shape[1:] in the place of x.shape")
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    fact = f"the model cannot be traced: {type(error).__name__}: {lines[0] if lines else 'no message'}{place}"
    return ModelError(fact, _advise(told))


def _find_place(told: str) -> str:
    """The first line of the user's own that a message names, in words."""
    places = re.findall(r'File "([^"]*)", line (\d+)', told)
    return next((f", in {Path(f).name} line {n}" for f, n in places if "site-packages/torch" not in f), "")


def _advise(told: str) -> str:
    if "mismatch" in told and "size" in told or "cannot be multiplied" in told or "expected input" in told:
        return "check that the data, or --shape, is what the model takes"
    if "forward() missing" in told:
        return "give every input of the model: a --shape for each, or data whose x holds them all"
    if "scalar types" in told:
        return "give the model's type, too: as in --shape 128:int64, or data of that type"
    if "tuple of ints" in told:
        return "let no size depend on values: an RNN takes padded sequences, without pack_padded_sequence"
    if "numpy" in told:
        return "compute with tensors alone: what leaves them for NumPy in forward() is in no file"
    return "write forward() so that torch.export.export takes it, with a free batch size"


class _Fixing(logging.Handler):
    """Notes where the code runs when a free size is first found to be a number."""

    def __init__(self) -> None:
        super().__init__()
        self.place = ""

    def emit(self, record: logging.LogRecord) -> None:
        if not self.place and re.match(r"set_replacement \S+ = \d+ ", record.getMessage()):
            self.place = place_here()


def _find_fixing(follow: Callable[[], Any]) -> str:
    """The line of the user's at which the size of the batch becomes a number, found by following the model again."""
    logger, fixing = logging.getLogger(SHAPES), _Fixing()
    before = logger.level, logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [fixing], False
    logger.setLevel(logging.INFO)
    try:
        with contextlib.suppress(Exception):
            follow()
    finally:
        logger.setLevel(before[0])
        logger.handlers, logger.propagate = before[1:]
    return fixing.place
