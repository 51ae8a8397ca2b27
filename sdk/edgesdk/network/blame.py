"""Why a model does not run on samples: its own forward(), what it was made for, or the samples."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgesdk.core.errors import DataError, EdgeSdkError, ModelError
from edgesdk.core.wording import listed, said
from edgesdk.network.copying import copied
from edgesdk.network.network import Batch, answer, rebatch, tensors
from edgesdk.network.places import is_of_user, place_of

GPU = ("Torch not compiled with CUDA", "No CUDA GPUs", "Found no NVIDIA driver")
NEEDED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
OWN = (AttributeError, NameError, ImportError, NotImplementedError, StopIteration)  # never of the samples
RUNS = "make it run on its data first"
# Batches that people fix in forward().
BATCHES = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 25, 32, 48, 50, 64, 96, 100, 128, 200, 256)


def blamed(model: nn.Module, x: Batch, error: Exception) -> EdgeSdkError:
    """What a user is told where ``model`` fails on a few samples ``x`` with ``error``."""
    place = place_of(error)
    missing = _missing(model, x)
    if missing:
        return missing
    if any(words in str(error) for words in GPU):
        remedy = "let forward() use the device of its input, like x.device"
        return ModelError(f"the model wants a GPU, which is not used here ({said(error)}{place})", remedy)
    if (unlike := blamed_on_weights(model, x)) is not None:
        return unlike
    alone = rebatch(x, lambda t: t[:1])
    if len(tensors(x)[0]) > 1 and _runs(model, alone):
        remedy = "let it take its size from the input: x.shape[0] or -1, or flatten(1), in the place of a number"
        return ModelError(f"forward() takes one sample at a time, and fails with two ({said(error)}{place})", remedy)
    if (count := _find_batch(model, x)) is not None:
        remedy = "let it take that number from the input: x.shape[0] or -1, or flatten(1), in the place of it"
        return ModelError(f"forward() takes {count} samples at a time, and no other number{place}", remedy)
    if _raised_by_user(error) or isinstance(error, OWN):
        return ModelError(f"running the model failed with {said(error)}{place}", RUNS)
    shown = " and ".join(f"{str(t.dtype).removeprefix('torch.')} of shape {_shape(t)}" for t in tensors(x))
    fact = f"the data, {shown}, does not fit the model, which says {said(error)}{place}"
    return DataError(fact, f"give x in the shape and dtype that the model takes{_layout(model, x)}")


def blamed_on_weights(model: nn.Module, x: Batch) -> ModelError | None:
    """That ``model``, which fails on ``x`` of float32, has weights of another precision, or of several; ``None`` where
    it has not, and where it would fail all in float32, too."""
    kinds = {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()} - {torch.float32}
    if not kinds or all(t.dtype != torch.float32 for t in tensors(x)):
        return None
    named = [str(kind).removeprefix("torch.") for kind in kinds]
    remedy = "convert the model with model.float()"
    if all(p.dtype in kinds for p in model.parameters() if p.is_floating_point()):
        return ModelError(f"the weights are {listed(sorted(named))}, and the samples float32", remedy)
    with contextlib.suppress(ModelError):  # which cannot be copied
        if _runs(copied(model).float(), x):
            fact = f"some weights are {listed(sorted(named))}, others float32, which it does not compute with together"
            return ModelError(fact, remedy)
    return None


def check_widths(model: nn.Module, x: Batch) -> None:
    """Raise ``ModelError`` where both ``model`` and ``x`` are of other floats than float32, in which files compute."""
    weights, given = (
        {t.dtype for t in part if t.is_floating_point()} - {torch.float32} for part in (model.parameters(), tensors(x))
    )
    if weights and given:
        named = listed(sorted(str(kind).removeprefix("torch.") for kind in weights | given))
        remedy = "convert the model with model.float(), and give its inputs as float32"
        raise ModelError(f"the model and its inputs are {named}, and networks are traced in float32", remedy)


def checked_answer(run: Callable[[Batch], Any], x: Batch) -> Any:
    """What ``run`` answers to ``x``. Raises ``ModelError`` where it fails, two samples having passed before."""
    try:
        return run(x)
    except Exception as error:
        count = len(tensors(x)[0])
        fact = f"the model ran on two samples and fails on the next {count} ({said(error)}{place_of(error)})"
        remedy = "let forward() take any batch size, and keep nothing of one call for the next"
        raise ModelError(fact, remedy) from error


def _missing(model: nn.Module, x: Batch) -> EdgeSdkError | None:
    """That forward() takes more inputs, or others, than the data has."""
    try:
        signature = inspect.signature(model.forward)
        signature.bind(**x) if isinstance(x, dict) else signature.bind(*tensors(x))
    except TypeError:
        names = [name for name, p in signature.parameters.items() if p.default is p.empty and p.kind in NEEDED]
        has = ", ".join(x) if isinstance(x, dict) else str(len(tensors(x)))
        remedy = "give an array by each of these names in the .npz, or x as a tuple of them or a dict by these names"
        return DataError(f"forward() takes the inputs {', '.join(names)}, and the data has {has}", remedy)
    except ValueError:  # no signature
        pass
    return None


def _runs(model: nn.Module, x: Batch) -> bool:
    with contextlib.suppress(Exception):
        answer(model, x)
        return True
    return False


def _find_batch(model: nn.Module, x: Batch) -> int | None:
    """How many samples ``model`` takes at once, where it fails with one more."""

    def takes(count: int) -> bool:
        return _runs(model, rebatch(x, lambda t: t[:1].expand(count, *t.shape[1:]).contiguous()))

    return next((count for count in BATCHES if takes(count) and not takes(count + 1)), None)


def _raised_by_user(error: Exception) -> bool:
    """Whether the user's own code says what is wrong, with its own words."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and is_of_user(frames[-1].filename) and (frames[-1].line or "").startswith(("raise", "assert"))


def _shape(t: torch.Tensor) -> str:
    return f"({', '.join(['N', *map(str, t.shape[1:])])})"


def _layout(model: nn.Module, x: Batch) -> str:
    """That channels are last where the model takes them second."""
    if isinstance(x, torch.Tensor) and x.dim() == 4 and _runs(model, x.permute(0, 2, 3, 1).contiguous()):
        return ', whose channels are last: layout = "NHWC" in the file of --preprocess, where they are pixels'
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), None)
    t = tensors(x)[0]
    if first is not None and t.dim() == len(first.kernel_size) + 2 and t.shape[-1] == first.in_channels != t.shape[1]:
        return ": channels are last in it, and the model takes them second (x.transpose(0, 3, 1, 2) of images)"
    return ""
