"""Recovery: what compressing lost is learnt back from teachers, with quantization in the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgesdk.compress.integers import UNSIGNED, Grid
from edgesdk.compress.quantize import calibrate, integer, learning, observing
from edgesdk.compress.stored import stored
from edgesdk.core.errors import DataError, DeviceError
from edgesdk.core.plan import INT8, Option
from edgesdk.data.orders import dry
from edgesdk.data.task import Task
from edgesdk.network.network import Batch, Network, rebatch, tensors
from edgesdk.network.placement import CPU, device_of, has_bfloat16, move, place
from edgesdk.train.objective import Objective
from edgesdk.train.recovery import INTEGER_SHARE, Recovery
from edgesdk.train.resumption import SECONDS, Kept

WEIGHT_DECAY = 1e-4
LONGEST_STEP = 5.0  # norm of a gradient
FEWEST = 2  # samples that run at once where the memory holds no more: a BatchNorm needs several

POINTS = 40  # of the curve of each part of a training
LEARNT = "learnt"  # the name of what a training came to in the end

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Schedule:
    """``epochs`` over the training data, fractions too, of which ``integer_share`` with quantization in the loop; so
    many were ``done`` before."""

    epochs: float
    integer_share: float = INTEGER_SHARE
    done: float = 0.0

    def integer_part(self, options: Mapping[str, Option]) -> float:
        """The share with quantization in the loop, of a network of such ``options``."""
        return self.integer_share if any(option.precision == INT8 for option in options.values()) else 0.0

    def pass_over(self, options: Mapping[str, Option], train: Iterable[tuple[Batch, Any]]) -> None:
        """Draw from ``train`` the orders that such a training takes, for one that is done elsewhere and not cut."""
        drawn, share = dry(train), self.integer_part(options)
        if drawn is None or self.epochs <= 0:
            return
        for part in (1 - share, share):
            for _ in _first(drawn, count_steps(self.epochs * part, _length(train)) if part > 0 else 0):
                pass


@dataclass(frozen=True)
class LossAt:
    """The mean loss of the steps before ``epoch``, as far as the point before it, in one part of a training."""

    part: str
    epoch: float
    loss: float


@dataclass(frozen=True)
class Recovered:
    """A network after recovery, what a reader must know of how that went, and its losses on the way."""

    network: Network
    notes: tuple[str, ...] = ()
    curve: tuple[LossAt, ...] = ()


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
    reestimate: bool = True,
    rounding: str = "nearest",
    kept: Kept | None = None,
    until: float | None = None,
    reconstruct: Callable[[Network], Network] = lambda network: network,
) -> Recovered:
    """``small`` trained as ``recovery`` says, its int8 layers simulated as they will run; a new network, on the CPU.

    All is computed on the device where ``small``, ``dense`` and ``calibration`` lie.

    ``grid`` is what its integer activations are on. ``schedule`` says how long, whatever the recovery says. With
    ``reestimate`` BatchNorm statistics are first taken anew, which a network that is cut and not fitted anew needs.
    ``rounding`` is that of the weights (:func:`edgesdk.compress.quantize.calibrate`); training makes it anew.

    First the float network learns with its BatchNorms, then, folded, with quantization in the loop; weights that are
    stored in another form are put into it last. Without training data, integer ranges come from ``calibration``, and
    nothing is learnt; then it is what ``reconstruct`` makes of the quantized network. A loss that turns NaN ends the
    training: the weights of the last whole epoch are kept, and a note says so. What was learnt goes to ``kept``, and is
    taken up from there. ``until`` is when, on the monotonic clock, the training ends at the latest, its pace set to
    that. Raises ``DataError`` where the loss is NaN from the start, and ``UsageError`` for losses and teachers that do
    not fit.
    """
    small = small.copy()
    torch.manual_seed(seed)
    share = schedule.integer_part(options)
    total = schedule.epochs if train is not None else 0.0
    if reestimate:
        reestimate_batch_norms(small, calibration)
    trainer = None
    learnt = kept.load(LEARNT) if kept is not None and total > 0 else None
    if total > 0 and learnt is None:
        assert train is not None
        objective = Objective(recovery, small, dense, task, calibration[0])
        trainer = Trainer(objective, train, recovery.warm_up, kept=kept, average=recovery.average)
        trainer.done = round(schedule.done * trainer.length)
    now = time.monotonic()
    if trainer is not None and share < 1:
        told = lambda s: progress(s * (1 - share), "float")  # noqa: E731
        trainer.until = None if until is None else now + (1 - share) * (until - now)
        trainer.train(small, total * (1 - share), recovery.rate, told, "float")
        reestimate_batch_norms(small, calibration)
    result = integer(small, options, grid)
    calibrate(result, calibration, rounding=rounding)
    learns_steps = recovery.learned_steps and total > 0 and share > 0
    with learning(result) if learns_steps else observing(result):  # what was learnt before has its steps, too
        if trainer is not None and share > 0 and not trainer.stopped:
            told = lambda s: progress(1 - share + s * share, "int8")  # noqa: E731
            trainer.until = until
            trainer.train(result, total * share, recovery.integer_rate, told, "int8")
    if learnt is not None:
        result.module.load_state_dict(learnt["student"])
        notes, curve = learnt["notes"], read_curve(learnt)
    else:
        notes, curve = (trainer.notes(schedule.done + total), trainer.curve) if trainer is not None else ([], [])
        if trainer is not None and kept is not None:
            kept.save(LEARNT, {"student": state_of(result), "notes": notes, "curve": list(map(astuple, curve))})
    if total <= 0:
        result = reconstruct(result)
    result.module.eval()
    return Recovered(stored(place(result, CPU), options), tuple(notes), tuple(curve))


def read_curve(state: Mapping[str, Any]) -> list[LossAt]:
    """The losses that were kept with a ``state``; none in one of before."""
    return [LossAt(*point) for point in state.get("curve", ())]


@torch.no_grad()
def reestimate_batch_norms(network: Network, calibration: list[Batch]) -> None:
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


class TrainingObjective(Protocol):
    """What a training minimises. :class:`Objective` is one; its methods are described there."""

    task: Task

    @property
    def precise(self) -> bool: ...
    def parameters(self) -> list[nn.Parameter]: ...
    def start(self, student: Network) -> None: ...
    def follow(self, student: Network) -> None: ...
    def __call__(self, student: Network, x: Batch, y: Any, epoch: float, mixed: bool) -> Tensor: ...


class Trainer:
    """Training by an objective, in parts that share what learns beside the student; ``what`` it is, for messages."""

    def __init__(
        self, objective: TrainingObjective, train: Iterable[tuple[Batch, Any]], warm_up: float, what: str = "recovery",
        kept: Kept | None = None, average: float = 0.0,
    ) -> None:  # fmt: skip
        self.objective: TrainingObjective = objective
        self.data: Iterable[tuple[Batch, Any]] = train
        self.warm_up: float = warm_up
        self.what: str = what
        self.average: float = average  # of the steps of a part, over which its weights are averaged
        self.length: int = _length(train)
        self.done: int = 0  # steps, of all parts
        self.stopped: str = ""  # why
        self.kept = kept
        self.until: float | None = None  # on the monotonic clock
        self.cut: bool = False  # whether that came before the last step
        self.curve: list[LossAt] = []
        self.pieces: int = 1  # of each batch, that run one after another
        self.device: torch.device = CPU

    def train(
        self, student: Network, epochs: float, rate: float, progress: Callable[[float], None], part: str = "all"
    ) -> None:
        """AdamW (Loshchilov and Hutter 2019), a linear warm-up and a cosine to zero, over ``epochs`` of the data.

        Goes on from the state of this ``part`` that is kept, if one is.
        """
        steps = count_steps(epochs, self.length)
        parameters, beside = list(student.module.parameters()), self.objective.parameters()
        optimizer = torch.optim.AdamW([*parameters, *beside], rate, weight_decay=WEIGHT_DECAY)
        self.device = device_of(student)
        mixed = self.objective.task.classifies and has_bfloat16(self.device) and not self.objective.precise
        student.module.train()
        self.objective.start(student)
        average = Average(parameters, self.average * steps)
        first = self._resume(part, student, optimizer, [*beside, *average.parameters])
        good, at = state_of(student), self.done
        shown, saved = 0.0, time.monotonic()
        paced = _Pace(steps, self.until)
        since: list[float] = []  # the losses since the last point of the curve
        for step, (x, y) in enumerate(_first(self.data, steps - first), first):
            share = paced.share(step)
            if share > 1:
                self.cut = True
                break
            for group in optimizer.param_groups:
                group["lr"] = rate * _pace(share, self.warm_up)
            x, y = move((x, y), self.device)
            x = rebatch(x, lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t)
            since.append(self._differentiate(student, x, y, mixed, optimizer))
            if not math.isfinite(since[-1]):
                self._stop(student, good, at)
                break
            if step and step % self.length == 0:
                good, at = state_of(student), self.done
            nn.utils.clip_grad_norm_(parameters, LONGEST_STEP)
            nn.utils.clip_grad_norm_(beside, LONGEST_STEP)
            optimizer.step()
            self.objective.follow(student)
            self.done += 1
            average.follow(parameters, step + 1)
            if len(since) >= steps / POINTS or step == steps - 1:
                self.curve.append(LossAt(part, self.done / self.length, sum(since) / len(since)))
                since.clear()
            if time.monotonic() - shown > 0.2:
                progress(share)
                shown = time.monotonic()
            if self.kept is not None and time.monotonic() - saved > SECONDS:
                self._keep(self.kept, part, step + 1, student, optimizer, [*beside, *average.parameters])
                saved = time.monotonic()
        if not self.stopped and not all(bool(torch.isfinite(p).all()) for p in parameters):
            self._stop(student, good, at)
        if not self.stopped:
            average.put(parameters)
        progress(1.0)
        student.module.eval()

    def _differentiate(
        self, student: Network, x: Batch, y: Any, mixed: bool, optimizer: torch.optim.Optimizer
    ) -> float:  # fmt: skip
        """The loss of a batch, its gradients left with the parameters where it is finite.

        Where the memory of a GPU does not hold it, it runs in pieces, from then on every batch, and their gradients are
        added up; a BatchNorm sees the statistics of pieces then. Raises ``DeviceError`` where they get too small.
        """
        while True:
            try:
                return self._add_up(student, x, y, mixed, optimizer)
            except torch.OutOfMemoryError:
                pass  # handled outside, where nothing holds on to what was computed
            optimizer.zero_grad(set_to_none=True)
            count = len(tensors(x)[0])
            if count < 2 * self.pieces * FEWEST or not _can_cut(y, count):
                fact = (
                    f"the memory of {self.device} does not hold the {self.what} of {-(-count // self.pieces)} samples"
                )
                raise DeviceError(fact, "train on another, or on the CPU: --train-on cpu")
            self.pieces *= 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _add_up(
        self, student: Network, x: Batch, y: Any, mixed: bool, optimizer: torch.optim.Optimizer
    ) -> float:  # fmt: skip
        """The loss of a batch, its gradients added up over the pieces."""
        count, total = len(tensors(x)[0]), 0.0
        ends = [count * number // self.pieces for number in range(self.pieces + 1)]
        for begin, end in pairwise(ends):
            whole, share = self.pieces == 1, (end - begin) / count
            rows = slice(begin, end)
            own = x if whole else rebatch(x, lambda t, rows=rows: t[rows])
            loss = self.objective(student, own, y if whole else _cut(y, rows, count), self.done / self.length, mixed)
            value = float(loss.detach())
            total += share * value
            if not math.isfinite(value):
                return value
            if begin == 0:
                optimizer.zero_grad(set_to_none=True)
            (loss if whole else share * loss).backward()
        return total

    def notes(self, epochs: float) -> list[str]:
        """What a user must know of how it ended, ``epochs`` having been planned."""
        cut = f"the time ended the {self.what} after {self.done / self.length:.1f} of {epochs:.3g} epochs"
        small = (
            f"the memory of {self.device} was short: each batch ran in {self.pieces} parts, their gradients added up"
        )
        return [self.stopped] * bool(self.stopped) + [cut] * self.cut + [small] * (self.pieces > 1)

    def _keep(
        self, kept: Kept, part: str, step: int, student: Network, optimizer: torch.optim.Optimizer,
        beside: Sequence[Tensor],
    ) -> None:  # fmt: skip
        state = {"step": step, "done": self.done, "student": state_of(student), "optimizer": optimizer.state_dict()}
        state |= {"curve": list(map(astuple, self.curve)), "random": torch.get_rng_state()}
        kept.save(part, {**state, "beside": [p.detach() for p in beside]})

    @torch.no_grad()
    def _resume(self, part: str, student: Network, optimizer: torch.optim.Optimizer, beside: Sequence[Tensor]) -> int:
        """Put back what is kept of ``part``; how many of its steps were done."""
        state = self.kept.load(part) if self.kept is not None else None
        if state is None:
            return 0
        student.module.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        for parameter, value in zip(beside, state["beside"], strict=True):
            parameter.copy_(value)
        torch.set_rng_state(state["random"])
        self.done, self.curve = state["done"], read_curve(state)
        return state["step"]

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


class Average:
    """The moving average of weights over the last ``memory`` steps, about; below two it is the weights themselves.

    At step t it keeps ``min(1 - 1 / memory, (t - 1) / t)`` of itself: at first the mean of all steps, so that where it
    began is forgotten, then an exponential moving average (Polyak and Juditsky 1992; Izmailov et al. 2018, "Averaging
    Weights Leads to Wider Optima", section 3, whose BatchNorm statistics are taken anew for it, as they are here).
    """

    def __init__(self, parameters: Sequence[Tensor], memory: float) -> None:
        self.memory: float = memory
        self.parameters: list[Tensor] = [p.detach().clone() for p in parameters] if memory >= 2 else []

    @torch.no_grad()
    def follow(self, parameters: Sequence[Tensor], step: int) -> None:
        """Take in the weights after ``step`` of them, counted from 1."""
        if self.parameters:
            new = max(1 / self.memory, 1 / step)
            for own, value in zip(self.parameters, parameters, strict=True):
                own.lerp_(value, new)

    @torch.no_grad()
    def put(self, parameters: Sequence[Tensor]) -> None:
        """Set ``parameters`` to the average."""
        for value, own in zip(parameters, self.parameters, strict=False):
            value.copy_(own)


@dataclass
class _Pace:
    """How far a training of ``steps`` is, by its steps or, where it ends ``until``, by the time if that is further."""

    steps: int
    until: float | None
    begun: float = field(default_factory=time.monotonic)

    def share(self, step: int) -> float:
        """The share with ``step`` done; above 1 where the time is over."""
        share = (step + 1) / self.steps
        if self.until is None:
            return share
        passed, given = time.monotonic() - self.begun, self.until - self.begun
        return 2.0 if passed >= given else max(share, passed / given)


def state_of(network: Network) -> dict[str, Tensor]:
    """The weights, statistics and ranges of ``network`` as they are now."""
    return {name: value.detach().clone() for name, value in network.module.state_dict().items()}


def _can_cut(y: Any, count: int) -> bool:
    """Whether the targets ``y`` of ``count`` samples can be told apart by sample."""
    if isinstance(y, Tensor):
        return y.dim() > 0 and len(y) == count
    if isinstance(y, Mapping):
        return all(_can_cut(part, count) for part in y.values())
    if isinstance(y, (list, tuple)):
        return len(y) == count or all(isinstance(part, Tensor) and _can_cut(part, count) for part in y)
    return y is None


def _cut(y: Any, rows: slice, count: int) -> Any:
    """The targets of those ``rows`` of ``count`` samples."""
    if isinstance(y, Mapping):
        return {name: _cut(part, rows, count) for name, part in y.items()}
    if isinstance(y, (list, tuple)):
        several = all(isinstance(part, Tensor) and _can_cut(part, count) for part in y)
        return type(y)(_cut(part, rows, count) for part in y) if several else y[rows]
    return None if y is None else y[rows]


def _pace(done: float, warm_up: float) -> float:
    return done / warm_up if done < warm_up else 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _length(train: Iterable[Any]) -> int:
    try:
        return max(1, len(train))  # type: ignore[arg-type]
    except TypeError:
        return max(1, sum(1 for _ in train))


def count_steps(epochs: float, length: int) -> int:
    """The steps of a part of a training, over data of ``length`` batches."""
    return max(1, round(epochs * length))


def _first(train: Iterable[tuple[Batch, Any]], steps: int) -> Iterator[tuple[Batch, Tensor]]:
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
