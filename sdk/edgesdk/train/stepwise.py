"""One of several cuts, learnt: what the next cut is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from edgesdk.compress.apply import compressed
from edgesdk.compress.widening import Places, answer_alike
from edgesdk.core.plan import Plan
from edgesdk.data.data import Data
from edgesdk.data.task import Task
from edgesdk.network.network import Network
from edgesdk.network.placement import CPU, move, place, using
from edgesdk.train.apply import fit
from edgesdk.train.objective import Objective
from edgesdk.train.recovery import Recovery
from edgesdk.train.resumption import Kept
from edgesdk.train.trainer import LEARNT, LossAt, Trainer, read_curve, reestimate_batch_norms, state_of


@dataclass(frozen=True)
class Cut:
    """A network as it was cut and learnt, in float; ``whole`` is the dense one with its values, of which the next cut
    is made, ``target`` what that is fitted to: ``whole`` where that answers the same, else the dense network. So many
    epochs were ``done`` by then. ``ended`` says that the training was, before its time, ``fit_was_cut`` that fitting
    was, by the time."""

    network: Network
    whole: Network
    target: Network
    notes: tuple[str, ...] = ()
    curve: tuple[LossAt, ...] = ()
    done: float = 0.0
    ended: bool = False
    fit_was_cut: bool = False


def learn_cut(
    plan: Plan, before: Cut | None, dense: Network, data: Data, task: Task, scores: Mapping[str, Tensor], epochs: float,
    seed: int = 0, progress: Callable[[float], None] = lambda share: None, *,
    recovery: Recovery = Recovery(),  # noqa: B008  it is frozen
    what: str = "recovery", kept: Kept | None = None, fit_until: float | None = None, until: float | None = None,
    device: torch.device = CPU,
) -> Cut | None:  # fmt: skip
    """What ``plan``, of widths and branches alone, makes of ``before``, fitted to that and learnt from ``dense``.

    ``before`` is a cut that left more channels and branches, or ``None`` for the dense network. It learns in float
    for ``epochs`` more on ``device``; what it came to goes to ``kept``. Fitting ends
    ``fit_until`` at the latest, learning ``until``, on the monotonic clock. ``None`` where no further cut could be made
    of that. ``what`` it is, is for messages. Raises what :func:`edgesdk.train.trainer.recovered` does.
    """
    whole, target, done = (dense, dense, 0.0) if before is None else (before.whole, before.target, before.done)
    places = Places.find(whole, plan, data.example, scores)
    if places is None:
        return None
    small, _ = compressed(whole, plan, data.example, scores)
    state, fit_was_cut = kept.load(LEARNT) if kept is not None else None, False
    if state is not None:
        small.module.load_state_dict(state["student"])
        notes, curve, done, ended = state["notes"], read_curve(state), state["done"], state["ended"]
    else:
        calibration = [x for x, _ in data.calibration]
        small = fit(plan, target, small, scores, calibration, until=fit_until, kept=kept, device=device)
        fit_was_cut = fit_until is not None and time.monotonic() >= fit_until
        notes, curve, ended = [], [], False
        if data.train is not None and epochs > 0:
            torch.manual_seed(seed)
            student, calibration = place(small, device).copy(), move(calibration, device)
            with using(device):
                objective = Objective(recovery, student, place(dense, device), task, calibration[0])
                trainer = Trainer(objective, data.train, recovery.warm_up, what, kept, recovery.average)
                trainer.done, trainer.until = round(done * trainer.length), until
                trainer.train(student, epochs, recovery.rate, progress, "float")
                reestimate_batch_norms(student, calibration)
            small, notes, curve = place(student, CPU), trainer.notes(done + epochs), trainer.curve
            done, ended = trainer.done / trainer.length, bool(trainer.stopped)
        if kept is not None:
            told = {"notes": notes, "curve": list(map(astuple, curve)), "done": done, "ended": ended}
            kept.save(LEARNT, {"student": state_of(small), **told})
    small.module.eval()
    whole = places.widen(small, whole)
    target = whole if answer_alike(whole, small, data.example) else dense
    return Cut(small, whole, target, tuple(notes), tuple(curve), done, ended, fit_was_cut)
