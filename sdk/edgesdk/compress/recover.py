"""Recovery: what compressing lost is learnt back from the dense model, with quantization in the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgesdk.compress.network import Batch, Network, rebatch, tensors
from edgesdk.compress.quantize import UNSIGNED, Grid, calibrate, integer, observing
from edgesdk.compress.task import Task
from edgesdk.errors import DataError
from edgesdk.plan import INT8, Option

FLOAT_RATE, INTEGER_RATE = 2e-3, 5e-4  # peaks of the learning rate, before and after quantization
WEIGHT_DECAY = 1e-4
INTEGER_SHARE = 0.3  # of the epochs, spent with quantization in the loop where there is a float part to recover
WARM_UP = 0.1

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Schedule:
    """``epochs`` over the training data, fractions too, of which ``integer_share`` with quantization in the loop."""

    epochs: float
    integer_share: float = INTEGER_SHARE


def recovered(
    small: Network,
    dense: Network,
    options: Mapping[str, Option],
    train: Iterable[tuple[Batch, Any]] | None,
    calibration: list[Batch],
    task: Task,
    schedule: Schedule,
    seed: int = 0,
    progress: Progress = lambda share, what: None,
    grid: Grid = UNSIGNED,
) -> Network:
    """``small`` trained to answer as ``dense`` does, its int8 layers simulated as they will run; a new network.

    ``grid`` is what its integer activations are on.

    First the float network learns with its BatchNorms, then, folded, with quantization in the loop. Without training
    data, BatchNorm statistics and integer ranges come from ``calibration``, and nothing is learnt. Raises
    ``DataError`` where the loss becomes NaN.
    """
    small = small.copy()
    torch.manual_seed(seed)
    whole = any(option.precision == INT8 for option in options.values())
    share = schedule.integer_share if whole else 0.0
    total = schedule.epochs if train is not None else 0.0
    restate_norms(small, calibration)
    if total > 0 and share < 1:
        assert train is not None
        _train(small, dense, train, task, total * (1 - share), FLOAT_RATE, lambda s: progress(s * (1 - share), "float"))
        restate_norms(small, calibration)
    result = integer(small, options, grid)
    calibrate(result, calibration)
    if total > 0 and share > 0:
        assert train is not None
        told = lambda s: progress(1 - share + s * share, "int8")  # noqa: E731
        with observing(result):
            _train(result, dense, train, task, total * share, INTEGER_RATE, told)
    result.module.eval()
    return result


@torch.no_grad()
def restate_norms(network: Network, calibration: list[Batch]) -> None:
    """Set every BatchNorm's running statistics to those of the ``calibration`` inputs, in place."""
    norms = [m for m in network.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms or not calibration:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    for x in calibration:
        network.module(*tensors(x))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _train(
    student: Network,
    teacher: Network,
    train: Iterable[tuple[Batch, Any]],
    task: Task,
    epochs: float,
    rate: float,
    progress: Callable[[float], None],
) -> None:
    """AdamW (Loshchilov and Hutter 2019) with a linear warm-up and a cosine to zero, over ``epochs`` of ``train``."""
    length = _length(train)
    steps = max(1, round(epochs * length))
    optimizer = torch.optim.AdamW(student.module.parameters(), rate, weight_decay=WEIGHT_DECAY)
    mixed = task.classifies and torch.cpu._is_avx512_bf16_supported()
    student.module.train()
    teacher.module.eval()
    shown = 0.0
    for step, (x, y) in enumerate(_first(train, steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate * _pace((step + 1) / steps)
        x = rebatch(x, lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            with torch.no_grad():
                target = teacher.flat(x)
            outputs = student.flat(x)
        loss = task.distillation(outputs, target, y)
        if not math.isfinite(float(loss.detach())):
            raise DataError(
                "the recovery's loss is not finite", "check the data for extreme values, or give --epochs 0"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.module.parameters(), 5.0)
        optimizer.step()
        if time.monotonic() - shown > 0.2:
            progress((step + 1) / steps)
            shown = time.monotonic()
    progress(1.0)
    student.module.eval()


def _pace(done: float) -> float:
    return done / WARM_UP if done < WARM_UP else 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _length(train: Iterable[Any]) -> int:
    try:
        return max(1, len(train))  # type: ignore[arg-type]
    except TypeError:
        return max(1, sum(1 for _ in train))


def _first(train: Iterable[tuple[Batch, Tensor]], steps: int) -> Iterator[tuple[Batch, Tensor]]:
    """The first ``steps`` batches of ``train``, iterated as often as that takes."""
    done = 0
    while done < steps:
        before = done
        for batch in train:
            if done == steps:
                return
            yield batch[0], batch[1] if len(batch) > 1 else None  # type: ignore[misc]
            done += 1
        if done == before:
            raise DataError("the training data is empty", "give at least one batch")
