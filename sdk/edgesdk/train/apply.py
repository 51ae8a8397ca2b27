"""A plan applied to a network, by one rule for all who do: cut, fitted, learnt back, ranges calibrated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgesdk.compress.apply import channels_to_keep, compressed
from edgesdk.compress.blockwise import reconstruct
from edgesdk.compress.integers import UNSIGNED, Grid
from edgesdk.compress.quantize import calibrate, integer, suited
from edgesdk.compress.refit import refit_weights
from edgesdk.compress.stored import stored
from edgesdk.core.plan import FP32, Option, Plan
from edgesdk.core.sampling import paired_error
from edgesdk.core.wording import score
from edgesdk.data.data import Data
from edgesdk.data.judging import settle_comparison
from edgesdk.data.task import Judgement, Task
from edgesdk.network.network import Batch, Network, tensors
from edgesdk.network.placement import CPU, move, place, using
from edgesdk.train.recovery import Recovery
from edgesdk.train.resumption import SECONDS, Kept
from edgesdk.train.trainer import Progress, Recovered, Schedule, recovered

FITTED = "fitted-layers"  # the name of the weights that were fitted before anything is learnt
RECONSTRUCTED = "reconstructed-blocks"  # of those that were fitted instead of learning
SAMPLES = 2000  # of the training data, where there are any, that blocks are fitted to


@dataclass(frozen=True)
class Applied:
    """What a plan makes of a network, ready to be exported; the options of its layers; notes of how it came about."""

    network: Network
    options: dict[str, Option]
    notes: tuple[str, ...] = ()


def apply(
    plan: Plan, dense: Network, data: Data, task: Task, scores: Mapping[str, Tensor], epochs: float = 0.0,
    seed: int = 0, progress: Progress = lambda share, what: None, device: torch.device = CPU,
) -> Applied:  # fmt: skip
    """What ``plan`` makes of ``dense``, and the options of its layers; it is fitted and learnt on ``device``.

    Channels are ranked by ``scores``; ``epochs`` are of learning, where there are data for it, and of no effect but a
    note where it made things worse. Raises ``BundleError`` where the plan is for another network.
    """
    small, options = compressed(dense, plan, data.example, scores)
    small = fit(plan, dense, small, scores, [x for x, _ in data.calibration], device=device)
    plain = learn(plan, dense, small, options, data, task, 0.0, seed, device=device)
    if data.train is None or epochs <= 0:
        return Applied(plain.network, options)
    learnt = learn(plan, dense, small, options, data, task, epochs, seed, progress, device=device)
    comparison, notes = settle_comparison(task, dense, data.holdout)
    before, after = (comparison.judge(each.network, data.holdout, dense) for each in (plain, learnt))
    chosen = choose_better(plain.network, before, learnt, after)
    return Applied(chosen.network, options, (*notes, *chosen.notes))


def choose_better(
    plain: Network, before: Judgement, learnt: Recovered, after: Judgement, what: str = "recovery"
) -> Recovered:
    """``learnt``, unless it is worse on held-out data, ``after``, than ``plain`` was ``before``; a note says so, and
    ``what`` was done.

    Worse by less than the standard error of that, paired by sample, is not worse: it learnt from more samples than the
    few that judge here.
    """
    if after.score >= before.score:
        return learnt
    scored = f"on held-out data it scored {score(after.score)} against {score(before.score)} without"
    if after.decisions is not None and before.decisions is not None:
        error = paired_error(after.decisions, before.decisions)
        if before.score - after.score <= error:
            within = f"{what}: {scored}, which chance alone may do (standard error {score(error)})"
            return replace(learnt, notes=(*learnt.notes, within))
    return Recovered(plain, (*learnt.notes, f"{what} was left out: {scored}"), learnt.curve)


def fit(
    plan: Plan, dense: Network, small: Network, scores: Mapping[str, Tensor], calibration: Sequence[Batch],
    progress: Callable[[float], None] = lambda share: None, until: float | None = None, kept: Kept | None = None,
    device: torch.device = CPU,
) -> Network:  # fmt: skip
    """``small``, which the plan made of ``dense``, with its weights fitted to what that answers.

    It is computed on ``device``, and comes back to the CPU.

    It stays as it is where the plan changes nothing but how numbers are stored and computed. ``until`` is when, on the
    monotonic clock, fitting ends: layers that it has not come to stay as they are. What was fitted goes to ``kept``
    every few seconds, and is taken up from there.
    """
    if not plan.structural(dense.graph):
        return small
    state = kept.load(FITTED) if kept is not None else None
    if state is not None:
        small = small.copy()
        small.module.load_state_dict(state["weights"])
    saved, done = time.monotonic(), state["done"] if state is not None else []

    def keep(network: Network, layers: Sequence[str], least: float = SECONDS) -> None:
        nonlocal saved
        if kept is not None and time.monotonic() - saved > least:
            kept.save(FITTED, {"weights": network.module.state_dict(), "done": list(layers)})
            saved = time.monotonic()

    channels = channels_to_keep(dense.graph, plan, scores)
    device = CPU if device.type == "mps" else device  # which has no double precision
    with using(device):
        fitted, fits = refit_weights(
            place(small, device), place(dense, device), channels, move(list(calibration), device), progress, until,
            done, keep,
        )  # fmt: skip
    fitted = place(fitted, CPU)
    if fits:
        keep(fitted, [*done, *(each.layer for each in fits)], 0.0)
    return fitted


def learn(
    plan: Plan, dense: Network, small: Network, options: Mapping[str, Option], data: Data, task: Task, epochs: float,
    seed: int = 0, progress: Progress = lambda share, what: None, *, grid: Grid = UNSIGNED,
    recovery: Recovery = Recovery(),  # noqa: B008  it is frozen
    rounding: str | None = None, kept: Kept | None = None, until: float | None = None,
    scores: Mapping[str, Tensor] | None = None, device: torch.device = CPU, done: float = 0.0,
) -> Recovered:  # fmt: skip
    """``small``, fitted, after ``epochs``: quantized from the start where the plan changes nothing else. So many were
    ``done`` before.

    It is computed on ``device``, and comes back to the CPU.

    The dense model learns nothing. Where nothing is learnt and ``scores`` say which channels are left, blocks are
    fitted in as many steps as ``recovery`` says. Without another ``rounding``, weights are rounded to the nearest where
    training makes that anew, and else as suits them best. The rest is
    :func:`edgesdk.train.trainer.recovered`'s.
    """
    structural = plan.structural(dense.graph)
    schedule = replace(plan_schedule(plan, dense, options, epochs, recovery), done=done)
    learns = data.train is not None and schedule.epochs > 0
    changes = structural or any(option.precision != FP32 for option in options.values())
    calibration = move([x for x, _ in data.calibration], device)
    dense = place(dense, device)

    def fit_blocks(network: Network) -> Network:
        if scores is None or not recovery.reconstruct or not changes:
            return network
        told = lambda share: progress(share, "fitting blocks")  # noqa: E731
        channels, samples = channels_to_keep(dense.graph, plan, scores), move(_list_samples(data), device)
        return _fit_blocks(network, dense, channels, samples, task, recovery.reconstruct, seed, told, until, kept)

    with using(device):
        return recovered(
            place(small, device), dense, options, data.train, calibration, task, schedule, seed, progress, grid=grid,
            recovery=recovery, reestimate=False, rounding=rounding or ("nearest" if learns else suited(options)),
            kept=kept, until=until, reconstruct=fit_blocks,
        )  # fmt: skip


def plan_schedule(
    plan: Plan, dense: Network, options: Mapping[str, Option], epochs: float, recovery: Recovery
) -> Schedule:  # fmt: skip
    """How ``epochs`` of a candidate are spent: none of the dense model, all in integers where nothing else changes."""
    structural = plan.structural(dense.graph)
    if not structural and all(option.precision == FP32 for option in options.values()):
        epochs = 0.0
    return Schedule(epochs, recovery.integer_share if structural else 1.0)


def _list_samples(data: Data) -> list[Batch]:
    """The inputs that blocks are fitted to: the first ``SAMPLES`` to train on, else those of the calibration."""
    samples: list[Batch] = []
    for x, *_ in data.train or ():
        if sum(len(tensors(batch)[0]) for batch in samples) >= SAMPLES:
            break
        samples.append(x)
    return samples or [x for x, _ in data.calibration]


def _fit_blocks(
    network: Network, dense: Network, channels: Mapping[str, Sequence[int]], samples: Sequence[Batch], task: Task,
    steps: int, seed: int, progress: Callable[[float], None], until: float | None, kept: Kept | None,
) -> Network:  # fmt: skip
    """``network`` with its blocks fitted; what was kept of it is taken up again."""
    state = kept.load(RECONSTRUCTED) if kept is not None else None
    if state is not None:
        network = network.copy()
        network.module.load_state_dict(state["weights"])
    saved = time.monotonic()

    def keep(network: Network, done: int) -> None:
        nonlocal saved
        if kept is not None and time.monotonic() - saved > SECONDS:
            kept.save(RECONSTRUCTED, {"weights": network.module.state_dict(), "done": done})
            saved = time.monotonic()

    done = state["done"] if state is not None else 0
    return reconstruct(network, dense, channels, samples, task, steps, seed, progress, until, done, keep)[0]


def quantize(
    network: Network, options: Mapping[str, Option], calibration: Sequence[Batch], grid: Grid = UNSIGNED
) -> Network:
    """``network`` with the layers that ``options`` call integer on ``grid``, ranges calibrated, and the weights that
    they store in another form in it: what is measured before anything is learnt."""
    ready = integer(network, options, grid)
    calibrate(ready, calibration)
    return stored(ready, options)
