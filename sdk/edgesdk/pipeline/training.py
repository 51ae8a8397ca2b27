"""Candidates learn back what compression cost them; the winner becomes a file that is measured and proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edgesdk.compress.apply import staying
from edgesdk.compress.quantize import suited
from edgesdk.compress.refit import rebuilt
from edgesdk.core.artifact import Artefact
from edgesdk.core.cache import cache_folder
from edgesdk.core.plan import FP32, Option, Plan
from edgesdk.core.report import Prediction, Report, Tell
from edgesdk.core.serialize import digest
from edgesdk.export.formats import grid_of
from edgesdk.export.parity import compared, fallbacks, parity, runner
from edgesdk.network.network import Network, tensors
from edgesdk.pipeline.allowance import FULL_SHARE, SHORT_SHARE, Allowance
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.study import Study, digest_of
from edgesdk.solve.finalists import halving, halving_units
from edgesdk.train.recovery import Recovery
from edgesdk.train.resumption import Kept
from edgesdk.train.teachers import outdone
from edgesdk.train.trainer import Schedule, recovered

UNITS = 4.0  # short recoveries that are expected where nobody says how many
FITTED = "fitted"  # the name of the weights that were fitted before anything is learnt
TIE = 0.5  # points of the held-out score, within which the faster finalist is the better one


@dataclass(frozen=True)
class Candidate:
    """A plan with the network that it makes, its file before any training, and what that was measured at."""

    known: Study
    plan: Plan
    network: Network
    artefact: Artefact
    report: Report | Prediction

    @property
    def options(self) -> Mapping[str, Option]:
        return self.artefact.options


class Training:
    """Recovers candidates, tells them apart on held-out data, and turns the winner into a measured, proved file.

    The epochs of ``allowance`` are for a ``recovery`` that does not say how many. What was fitted and learnt is kept on
    disk until :meth:`forget`. Raises ``UsageError`` where the recovery does not fit the data.
    """

    def __init__(
        self, known: Study, allowance: Allowance, seed: int, tell: Tell, recovery: Recovery | None = None
    ) -> None:
        self.network, self.data, self.task = known.network, known.data, known.task
        self.recovery = (recovery or Recovery()).loaded()
        self.recovery.check(self.task)
        self.allowance = allowance
        if self.recovery.epochs is not None:
            allowance.epochs = self.recovery.epochs
        self.seed, self.tell = seed, tell
        self.can_learn = known.data.train is not None and allowance.epochs > 0
        self.kept = _kept(known, self.recovery, seed)
        self._rebuilt: dict[str, Network] = {}

    @property
    def late(self) -> bool:
        """Whether what is left of the time should go to training what was found."""
        return self.allowance.late

    def forget(self) -> None:
        """Remove what was kept of this run: it has come to its end."""
        if self.kept is not None:
            self.kept.forget()

    def recover(
        self,
        candidate: Candidate,
        epochs: float,
        label: str,
        note: Callable[[str], None] = lambda text: None,
        rounding: str = "nearest",
        time_share: float = 1.0,
    ) -> Network:
        """The candidate's network after ``epochs``, quantized from the start where nothing else changed.

        It takes a ``time_share`` of what is left of the run's time at most.
        """
        known, plan = candidate.known, candidate.plan
        structural = plan.structural(known.graph)
        if not structural and all(option.precision == FP32 for option in candidate.options.values()):
            epochs = 0.0  # it is the dense model: there is nothing to recover
        return recovered(
            self.rebuilt(candidate) if structural else candidate.network,
            self.network,
            candidate.options,
            self.data.train,
            known.calibration,
            self.task,
            Schedule(epochs, self.recovery.integer_share if structural else 1.0),
            self.seed,
            lambda share, what: self.tell(f"{label}, {what}, epoch {share * epochs:.1f} of {epochs:.3g}", share),
            grid=grid_of(known.runtime),
            recovery=self.recovery,
            note=note,
            restate=False,
            rounding=rounding,
            kept=self._kept_of(candidate, f"{epochs:g}"),
            until=self.allowance.until(time_share),
        )

    def _kept_of(self, candidate: Candidate, what: str) -> Kept | None:
        """Where what a candidate learns is kept."""
        if self.kept is None:
            return None
        return self.kept.part(digest([candidate.plan.digest, candidate.known.runtime, what])[:16])

    def rebuilt(self, candidate: Candidate) -> Network:
        """The candidate's network with its weights fitted to what the dense network answers, once for each plan."""
        known, plan = candidate.known, candidate.plan
        if plan.digest not in self._rebuilt:
            kept = staying(known.graph, plan, known.scores)
            told = lambda share: self.tell("fitting weights", share)  # noqa: E731
            on_disk = self._kept_of(candidate, "fitted")
            state = on_disk.load(FITTED) if on_disk is not None else None
            if state is not None:
                fitted = candidate.network.copy()
                fitted.module.load_state_dict(state)
            else:
                fitted, _ = rebuilt(candidate.network, self.network, kept, known.calibration, told)
                if on_disk is not None:
                    on_disk.save(FITTED, fitted.module.state_dict())
            self._rebuilt[plan.digest] = fitted
        return self._rebuilt[plan.digest]

    def holdout(self, network: Network) -> float:
        """The score on held-out data."""
        return self.task.score(network, self.data.holdout, self.network)

    def short(self, candidate: Candidate, share: float = 1.0, units: float = UNITS, told: str = "") -> float:
        """The score on held-out data after a ``share`` of a short recovery, of which what is compared takes ``units``.

        ``told`` is what the user is told of the comparison.
        """
        epochs = self.allowance.short(share, units) if self.can_learn else 0.0
        label = f"trying finalists: {told or candidate.known.runtime}"
        return self.holdout(self.recover(candidate, epochs, label, time_share=SHORT_SHARE * share / units))

    def best(self, candidates: list[Candidate], beside: Mapping[str, Artefact] | None = None) -> Result:
        """The best of ``candidates`` after a short recovery, in full; ``beside`` is measured with it."""
        history: list[Mapping[str, Any]] = []
        result = self.full(self.best_of(candidates, history), beside)
        return replace(result, history=(*history, *result.history))

    def best_of(self, candidates: list[Candidate], history: list[Mapping[str, Any]]) -> Candidate:
        """The one that scores best after a short recovery; of several runtimes' that score alike, the fastest."""
        if len(candidates) == 1:
            return candidates[0]
        done: list[float] = []
        units = halving_units(len(candidates))

        def tried(candidate: Candidate, share: float) -> float:
            best = f", best so far {max(done):.2f}" if done else ""
            done.append(self.short(candidate, share, units, f"{len(done) + 1} of {len(candidates)} or more{best}"))
            return done[-1]

        rounds = halving(candidates, tried, TIE)
        for step, (took_part, scores) in enumerate(rounds, 1):
            for candidate, score in zip(took_part, scores, strict=True):
                runtime = candidate.known.runtime
                history.append(
                    {"finalist": candidate.plan.digest, "runtime": runtime, "round": step, "holdout_score": score}
                )
        last, scores = rounds[-1]
        if len({candidate.known.runtime for candidate in last}) == 1:
            return last[scores.index(max(scores))]
        near = [c for c, score in zip(last, scores, strict=True) if score >= max(scores) - TIE]
        return min(near, key=lambda candidate: candidate.report.latency_ms())

    def full(self, candidate: Candidate, beside: Mapping[str, Artefact] | None = None) -> Result:
        """The candidate recovered, exported, proved equal to its simulation, and measured with the dense model.

        The artefacts ``beside``, of other runtimes, are measured in the same interleaved run.
        """
        known = candidate.known
        rounding = "nearest" if self.can_learn else suited(candidate.options)
        network = self.recover(candidate, 0.0, "calibrating", rounding=rounding)
        dense_score = self.holdout(self.network) if self.can_learn else 0.0
        notes: list[str] = []
        if self.can_learn:
            before = self.holdout(network)
            label = f"recovering: from {before:.2f}, dense {dense_score:.2f}"
            learnt = self.recover(candidate, self.allowance.full(), label, notes.append, time_share=FULL_SHARE)
            after = self.holdout(learnt)
            if after >= before:
                network = learnt
            else:
                notes.append(
                    f"recovery was left out: on held-out data it scored {after:.2f} against {before:.2f} without"
                )
            notes += outdone(self.recovery, self.network, self.task, self.data.holdout, max(before, after))
        self.tell("exporting and measuring", None)
        deployed, dense = known.artefact(network, candidate.options, "model"), known.dense_file
        held_out = [x for x, _ in self.data.holdout]
        proved = parity(network, deployed, held_out)
        every = {"dense": dense, "deployed": deployed, **(beside or {})}
        reports = known.measure(every, "rapid", thorough=True)
        integers = [name for name, option in candidate.options.items() if option.precision != FP32]
        weighted = [name for name in integers if network.graph.by_name[name].macs]
        fell = fallbacks(known.bench.kernels(deployed), [network.sites[name].module or name for name in weighted])
        return Result(
            plan=candidate.plan,
            artefact=deployed,
            dense=reports["dense"],
            deployed=reports["deployed"],
            dense_score=self.task.score(known.reference, self.data.test, known.reference),
            score=self.task.score(runner(deployed, network.structure), self.data.test, known.reference),
            parity=proved,
            against_model={
                name: compared(known.reference.flat, file, held_out, known.dense_parity.tolerance)
                for name, file in (("dense", dense), ("deployed", deployed))
            },
            fallbacks=tuple(fell),
            history=tuple({"note": note} for note in notes),
            beside={name: report for name, report in reports.items() if name not in ("dense", "deployed")},
        )


def _kept(known: Study, recovery: Recovery, seed: int) -> Kept | None:
    """Where what this run learns is kept: by all that it is made from. ``None`` where that has no digest."""
    if recovery.own:
        return None
    batches = (*known.data.calibration, *known.data.holdout, *known.data.test)
    data = digest_of([t for x, y in batches for t in (*tensors(x), y) if isinstance(t, Tensor)])
    made_from = [known.graph.digest, digest_of(known.network.module), data, known.task.name, seed, torch.__version__]
    try:
        return Kept(cache_folder() / "runs" / digest([*made_from, recovery])[:16])
    except TypeError:  # it holds functions of the user's
        return None
