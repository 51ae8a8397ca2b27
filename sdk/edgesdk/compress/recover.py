"""Recovery: what compressing lost is learnt back from teachers, with quantization in the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgesdk.compress.integers import UNSIGNED, Grid
from edgesdk.compress.network import Batch, Network, rebatch, tensors
from edgesdk.compress.objective import Objective
from edgesdk.compress.quantize import calibrate, integer, observing
from edgesdk.compress.recovery import INTEGER_SHARE, Recovery
from edgesdk.compress.stored import stored
from edgesdk.compress.task import Task
from edgesdk.errors import DataError
from edgesdk.plan import INT8, Option

WEIGHT_DECAY = 1e-4
LONGEST_STEP = 5.0  # norm of a gradient

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
    recovery: Recovery = Recovery(),  # noqa: B008  it is frozen
    note: Callable[[str], None] = lambda text: None,
    restate: bool = True,
    rounding: str = "nearest",
) -> Network:
    """``small`` trained as ``recovery`` says, its int8 layers simulated as they will run; a new network.

    ``grid`` is what its integer activations are on. ``schedule`` says how long, whatever the recovery says. With
    ``restate`` BatchNorm statistics are first taken anew, which a network that is cut and not rebuilt needs.
    ``rounding`` is that of the weights (:func:`edgesdk.compress.quantize.calibrate`); training makes it anew.

    First the float network learns with its BatchNorms, then, folded, with quantization in the loop; weights that are
    stored in another form are put into it last. Without training data, integer ranges come from ``calibration``, and
    nothing is learnt. A loss that turns NaN ends the training: the weights of the last whole epoch are kept, and
    ``note`` is told. Raises ``DataError`` where the loss is NaN from the start, and ``UsageError`` for losses and
    teachers that do not fit.
    """
    small = small.copy()
    torch.manual_seed(seed)
    whole = any(option.precision == INT8 for option in options.values())
    share = schedule.integer_share if whole else 0.0
    total = schedule.epochs if train is not None else 0.0
    if restate:
        restate_norms(small, calibration)
    lessons = None
    if total > 0:
        assert train is not None
        lessons = Lessons(Objective(recovery, small, dense, task, calibration[0]), train, recovery.warm_up)
    if lessons is not None and share < 1:
        told = lambda s: progress(s * (1 - share), "float")  # noqa: E731
        lessons.train(small, total * (1 - share), recovery.rate, told)
        restate_norms(small, calibration)
    result = integer(small, options, grid)
    calibrate(result, calibration, rounding=rounding)
    if lessons is not None and share > 0 and not lessons.stopped:
        told = lambda s: progress(1 - share + s * share, "int8")  # noqa: E731
        with observing(result):
            lessons.train(result, total * share, recovery.integer_rate, told)
    if lessons is not None and lessons.stopped:
        note(lessons.stopped)
    result.module.eval()
    return stored(result, options)


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


class Aim(Protocol):
    """What a training minimises. :class:`Objective` is one; its methods are described there."""

    task: Task

    @property
    def precise(self) -> bool: ...
    def parameters(self) -> list[nn.Parameter]: ...
    def start(self, student: Network) -> None: ...
    def follow(self, student: Network) -> None: ...
    def __call__(self, student: Network, x: Batch, y: Any, epoch: float, mixed: bool) -> Tensor: ...


class Lessons:
    """Training by an objective, in parts that share what learns beside the student; ``what`` it is, for messages."""

    def __init__(
        self, objective: Aim, train: Iterable[tuple[Batch, Any]], warm_up: float, what: str = "recovery"
    ) -> None:
        self.objective, self.data, self.warm_up, self.what = objective, train, warm_up, what
        self.length = _length(train)
        self.done = 0  # steps, of all parts
        self.stopped = ""  # why

    def train(self, student: Network, epochs: float, rate: float, progress: Callable[[float], None]) -> None:
        """AdamW (Loshchilov and Hutter 2019), a linear warm-up and a cosine to zero, over ``epochs`` of the data."""
        steps = max(1, round(epochs * self.length))
        parameters, beside = list(student.module.parameters()), self.objective.parameters()
        optimizer = torch.optim.AdamW([*parameters, *beside], rate, weight_decay=WEIGHT_DECAY)
        mixed = self.objective.task.classifies and torch.cpu._is_avx512_bf16_supported() and not self.objective.precise
        student.module.train()
        self.objective.start(student)
        good, at = _state(student), self.done
        shown = 0.0
        for step, (x, y) in enumerate(_first(self.data, steps)):
            for group in optimizer.param_groups:
                group["lr"] = rate * _pace((step + 1) / steps, self.warm_up)
            x = rebatch(x, lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t)
            loss = self.objective(student, x, y, self.done / self.length, mixed)
            if not math.isfinite(float(loss.detach())):
                self._stop(student, good, at)
                break
            if step and step % self.length == 0:
                good, at = _state(student), self.done
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, LONGEST_STEP)
            nn.utils.clip_grad_norm_(beside, LONGEST_STEP)
            optimizer.step()
            self.objective.follow(student)
            self.done += 1
            if time.monotonic() - shown > 0.2:
                progress((step + 1) / steps)
                shown = time.monotonic()
        if not self.stopped and not all(bool(torch.isfinite(p).all()) for p in parameters):
            self._stop(student, good, at)
        progress(1.0)
        student.module.eval()

    def _stop(self, student: Network, good: Mapping[str, Tensor], at: int) -> None:
        """Put the weights of step ``at`` back. Raises ``DataError`` where nothing had been learnt at all."""
        if self.done == 0:
            remedy = "check the data for extreme values, or leave the training out"
            raise DataError(f"the {self.what}'s loss is not finite", remedy)
        student.module.load_state_dict(dict(good))
        epochs, kept = (steps / self.length for steps in (self.done, at))
        self.stopped = (
            f"{self.what} was stopped after {epochs:.1f} epochs, when its loss was not finite:"
            f" the weights after {kept:.1f} epochs were kept"
        )


def _state(network: Network) -> dict[str, Tensor]:
    """The weights, statistics and ranges of ``network`` as they are now."""
    return {name: value.detach().clone() for name, value in network.module.state_dict().items()}


def _pace(done: float, warm_up: float) -> float:
    return done / warm_up if done < warm_up else 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


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
