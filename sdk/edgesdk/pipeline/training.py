"""Candidates learn back what compression cost them; the winner becomes a file that is measured and proved."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from edgesdk.compress.apply import compressed
from edgesdk.core.artifact import Artifact
from edgesdk.core.cache import cache_folder
from edgesdk.core.plan import FP32, Plan
from edgesdk.core.processes import Job
from edgesdk.core.report import DENSE, Tell
from edgesdk.core.sampling import paired_error
from edgesdk.core.serialize import digest
from edgesdk.core.wording import counted
from edgesdk.data.answers import Answers
from edgesdk.data.data import Data
from edgesdk.data.judging import settle_comparison
from edgesdk.data.orders import order_of, set_order
from edgesdk.data.pictures import draw_samples
from edgesdk.data.points import point
from edgesdk.data.task import Judgement, Task
from edgesdk.export.formats import grid_of
from edgesdk.export.parity import compared, fallbacks, parity, runner
from edgesdk.network.network import Network, tensors
from edgesdk.network.placement import CPU, named
from edgesdk.pipeline.allowance import FULL_SHARE, ROUNDS_SHARE, SHORT_SHARE, Allowance
from edgesdk.pipeline.apart import Candidacy
from edgesdk.pipeline.candidates import Candidate
from edgesdk.pipeline.cuts import list_left_out, plan_cuts
from edgesdk.pipeline.deadline import LEARNING, Deadline
from edgesdk.pipeline.learners import Learners
from edgesdk.pipeline.measuring import measure_beside
from edgesdk.pipeline.own_answers import check_own_answers
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.setup import Setup, digest_of
from edgesdk.solve.finalists import halving, halving_units
from edgesdk.train.apply import FITTED, choose_better, fit, learn, plan_schedule
from edgesdk.train.recovery import Recovery
from edgesdk.train.resumption import Kept
from edgesdk.train.stepwise import Cut, learn_cut
from edgesdk.train.teachers import outdone
from edgesdk.train.trainer import LossAt, Recovered

UNITS = 4.0  # short recoveries that are expected where nobody says how many
NEAREST = "nearest"  # rounding of weights, where finalists or what was learnt are compared
FIT_SHARE = 0.5  # of the time that is left for what is learnt, to fit weights before
TIE = 0.5  # points of the held-out score, within which the faster finalist is the better one
DEPLOYED = "deployed"  # the artifact of the last run that goes into the bundle


@dataclass(frozen=True)
class Selected:
    """The best of some candidates, and what the report says of how it was told apart."""

    candidate: Candidate
    history: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class CutRound:
    """What a round of cutting came to: the ``cut``, its held-out ``score`` in integers, and in what ``chain`` of
    rounds."""

    cut: Cut
    score: float
    chain: str


class Training:
    """Recovers candidates, tells them apart on held-out data, and turns the winner into a measured, proved file.

    What is fitted and learnt is so on ``device`` of this machine, takes of ``allowance``, and is kept on disk until
    :meth:`forget`; the same model may learn for several deployments, each ``part`` of which keeps its own. Finalists
    learn with ``learners`` at once, where there are any, and all that is fitted and learnt does with those that have
    other deployments' candidates beside; nothing is measured meanwhile. Raises ``UsageError`` where the ``recovery``
    does not fit the data.
    """

    def __init__(
        self, setup: Setup, allowance: Allowance, seed: int, tell: Tell, recovery: Recovery | None = None,
        device: torch.device = CPU, learners: Learners | None = None, part: str = "",
    ) -> None:  # fmt: skip
        self.network: Network = setup.network
        self.data: Data = setup.data
        self.task: Task = setup.task
        self.recovery: Recovery = (recovery or Recovery()).loaded()
        self.recovery.check(self.task)
        self.allowance: Allowance = allowance
        self.deadline: Deadline = setup.deadline
        self.seed: int = seed
        self.device: torch.device = device
        self.learners: Learners | None = learners
        self.tell: Tell = tell
        comparison, notes = settle_comparison(setup.task, setup.network, setup.data.holdout)
        self.comparison: Task = comparison
        self.notes: tuple[str, ...] = notes if device == CPU else (*notes, f"it was recovered on {named(device)}")
        self.can_learn: bool = setup.data.train is not None and allowance.epochs > 0
        self.kept: Kept | None = _open_kept(setup, self.recovery, seed, part)
        self._fitted: dict[str, Network] = {}
        self._tried: dict[tuple[str, str], Network] = {}
        self._chains: dict[str, str] = {}  # of plans whose networks were learnt in rounds of cutting, those rounds
        self._ahead: dict[tuple[str, str, float], Recovered] = {}  # what was learnt before it was asked for

    def finish_best(self, candidates: Sequence[Candidate], beside: Mapping[str, Artifact] | None = None) -> Result:
        """The best of ``candidates`` after a short recovery, in full; ``beside`` is measured with it."""
        selected = self.select_best(candidates)
        result = self.finish(selected.candidate, beside)
        return replace(result, history=(*selected.history, *result.history))

    def select_best(self, candidates: Sequence[Candidate]) -> Selected:
        """The one that scores best after a short recovery; of those that score alike see :meth:`_tell_apart`."""
        if len(candidates) == 1:
            return Selected(candidates[0])
        done: list[float] = []
        units = halving_units(len(candidates))

        def score(candidate: Candidate, share: float) -> float:
            best = f", best so far {max(done):.2f}" if done else ""
            of = f"{len(done) + 1} of {max(len(done) + 1, len(candidates))} or more"
            done.append(self.try_short(candidate, share, units, of + best))
            return done[-1]

        tie = TIE * point(self.comparison, self.network, self.data.holdout)
        with self.learners or nullcontext():
            rounds = halving(candidates, score, tie, lambda left, share: self._try_ahead(left, share, units))
        history = tuple(
            {
                "finalist": candidate.plan.digest,
                "runtime": candidate.study.runtime,
                "round": step,
                "holdout_score": reached,
            }
            for step, (took_part, scores) in enumerate(rounds, 1)
            for candidate, reached in zip(took_part, scores, strict=True)
        )
        return Selected(self._tell_apart(*rounds[-1], tie), history)

    def _try_ahead(self, candidates: Sequence[Candidate], share: float, units: float) -> None:
        """Let ``candidates`` learn at the same time what :meth:`try_short` asks for one after another."""
        allowance = copy.copy(self.allowance)
        epochs = [allowance.short(share, units) if self.can_learn else 0.0 for _ in candidates]
        self._learn_ahead(candidates, epochs, "trying finalists", NEAREST, SHORT_SHARE * share / units)

    def _learn_ahead(
        self, candidates: Sequence[Candidate], epochs: Sequence[float], label: str, rounding: str | None,
        time_share: float, reconstructs: bool = False,
    ) -> None:  # fmt: skip
        """Let ``candidates`` learn at once, for so many ``epochs`` each, what :meth:`recover` is asked for then."""
        learners = self.learners
        at_once = 0 if learners is None else learners.open(len(candidates))
        if learners is None or not at_once:
            return
        jobs, count = list[Job](), len(candidates)
        for number, (candidate, own) in enumerate(zip(candidates, epochs, strict=True), 1):
            given = self._describe(candidate, own, rounding, time_share * at_once, learners.has_disk, reconstructs)
            which = f"finalist {number} of {count}" if count > 1 else "the candidate"
            jobs.append(Job(f"{which} ({candidate.study.runtime})", given))
        told, order = f"{label}: {counted(count, 'finalist')}{learners.told(count)}", order_of(self.data.train)
        tell = (lambda stage, share: None) if learners.together else self.tell  # who has all of them tells
        tell(told, 0.0)
        learnt = learners.run(jobs, lambda done: tell(told, done))
        set_order(self.data.train, order)  # wherever they learnt
        for candidate, own, one in zip(candidates, epochs, learnt, strict=True):
            self._ahead[(*_key(candidate), own)] = one.recovered
            if candidate.plan.structural(candidate.study.graph):
                self._fitted[candidate.plan.digest] = one.fitted
            if one.fit_was_cut:
                self.deadline.note_cut("fitting weights")

    def _describe(
        self, candidate: Candidate, epochs: float, rounding: str | None, time_share: float, has_disk: bool,
        reconstructs: bool,
    ) -> Candidacy:  # fmt: skip
        """All that is needed to do elsewhere what :meth:`recover` does of a ``candidate``; its samples are drawn
        here."""
        study, plan = candidate.study, candidate.plan
        structural = plan.structural(study.graph)
        order = order_of(self.data.train)
        if self.data.train is not None:
            schedule = plan_schedule(plan, self.network, candidate.options, epochs, self.recovery)
            schedule.pass_over(candidate.options, self.data.train)
        left = self.deadline.left(LEARNING)
        kept_fit, kept = (self._kept_of(candidate, what) if has_disk else None for what in (FITTED, f"{epochs:g}"))
        return Candidacy(
            plan, candidate.network, self._fitted.get(plan.digest) if structural else candidate.network,
            candidate.options, grid_of(study.runtime), study.scores, epochs, rounding, order,
            kept_fit, kept,
            None if left is None else FIT_SHARE * left, None if left is None else min(1.0, time_share) * left,
            reconstructs,
        )  # fmt: skip

    def _tell_apart(self, last: Sequence[Candidate], scores: Sequence[float], tie: float) -> Candidate:
        """The best of those that took part in the ``last`` round.

        Who scores less than the best by no more than the standard error of that, paired by sample, or by ``tie`` where
        a metric has none, is as good. Of these, plans in one runtime, which all were to use the budget, are told apart
        by how far they are from the dense model on held-out samples, which is surer than a score, up to the standard
        error of that. What is left is decided by latency.
        """
        best = last[scores.index(max(scores))]
        scored = zip(last, scores, strict=True)
        near = [each for each, score in scored if max(scores) - score <= self._find_noise(each, best, tie)]
        tried = [self._tried.get(_key(each)) for each in near]
        if len({each.study.runtime for each in near}) == 1 and None not in tried:
            lost = [self._list_losses(network) for network in tried if network is not None]
            least = min(lost, key=sum)
            near = [each for each, own in zip(near, lost, strict=True) if _is_alike(own, least)]
        return min(near, key=lambda each: each.measured.latency_ms())

    def _find_noise(self, one: Candidate, other: Candidate, tie: float) -> float:
        """By how many points the held-out scores of two candidates, as they were tried, may differ by chance."""
        networks = [self._tried.get(_key(each)) for each in (one, other)]
        judged = [
            self.comparison.judge(network, self.data.holdout, self.network).decisions
            for network in networks
            if network is not None
        ]
        decisions = [each for each in judged if each is not None]
        return paired_error(*decisions) if len(decisions) == 2 else tie

    def _list_losses(self, network: Network) -> list[float]:
        """How far the answers of ``network`` are from the dense model's, on each batch of held-out samples."""
        with torch.no_grad():
            return [self.task.fidelity_loss(network.flat(x), self.network.flat(x), y) for x, y in self.data.holdout]

    def try_short(self, candidate: Candidate, share: float = 1.0, units: float = UNITS, told: str = "") -> float:
        """The score on held-out data after a ``share`` of a short recovery, of which what is compared takes ``units``.

        ``told`` is what the user is told of the comparison.
        """
        epochs = self.allowance.short(share, units) if self.can_learn else 0.0
        label = f"trying finalists: {told or candidate.study.runtime}"
        time_share = SHORT_SHARE * share / units
        learnt = self.recover(candidate, epochs, label, NEAREST, time_share)
        self._tried[_key(candidate)] = learnt.network
        return self.score_held_out(learnt.network)

    def score_held_out(self, network: Network) -> float:
        """The score on held-out data, by ``comparison``."""
        return self.judge_held_out(network).score

    def judge_held_out(self, network: Network) -> Judgement:
        """The same with which samples were answered rightly, where each has one decision."""
        return self.comparison.judge(network, self.data.holdout, self.network)

    def finish(self, candidate: Candidate, beside: Mapping[str, Artifact] | None = None) -> Result:
        """The candidate recovered, exported, proved equal to its simulation, and measured with the dense model.

        The artifacts ``beside``, of other runtimes, are measured in the same interleaved run.
        """
        study = candidate.study
        recovered = self.recover_in_full(candidate)
        network, notes = recovered.network, recovered.notes
        self.tell(f"exporting and {study.finding}", None)
        deployed, dense = study.write_file(network, candidate.options, "model"), study.dense_file
        held_out = [x for x, _ in self.data.holdout]
        proved = parity(network, deployed, held_out)
        measured = measure_beside(study, {DEPLOYED: deployed, **(beside or {})}, thorough=True)
        integers = [name for name, option in candidate.options.items() if option.precision != FP32]
        own_note = check_own_answers(study, deployed, held_out)
        weighted = [name for name in integers if network.graph.by_name[name].macs]
        fell = fallbacks(study.meter.kernels(deployed), [network.sites[name].module or name for name in weighted])
        own, dense_own = Answers(self.task), Answers(self.task)
        judged = self.task.judge(runner(deployed, network.structure), self.data.test, study.reference, own.see)
        dense_judged = self.task.judge(study.reference, self.data.test, study.reference, dense_own.see)
        return Result(
            plan=candidate.plan,
            artifact=deployed,
            dense=measured[DENSE],
            deployed=measured[DEPLOYED],
            dense_score=dense_judged.score,
            score=judged.score,
            samples=judged.samples,
            decisions=judged.decisions,
            changes=own.compare(dense_own, partial(draw_samples, self.data)),
            parity=proved,
            against_model={
                name: compared(study.reference.flat, file, held_out, study.dense_parity.tolerance)
                for name, file in ((DENSE, dense), (DEPLOYED, deployed))
            },
            fallbacks=tuple(fell),
            simulated=network,
            history=(*({"note": note} for note in (*notes, *filter(None, [own_note]))), *map(vars, recovered.curve)),
            beside={name: measurement for name, measurement in measured.items() if name not in (DENSE, DEPLOYED)},
        )

    def recover_in_full(self, candidate: Candidate) -> Recovered:
        """The candidate's network after all training that is left for it, unless it is better without; with notes."""
        rounding = NEAREST if self.can_learn else None
        plain = self.recover(candidate, 0.0, "recovering: before anything is learnt", rounding)
        if not self.can_learn and not self.recovery.reconstruct:
            return plain
        dense, before = self.score_held_out(self.network), self.judge_held_out(plain.network)
        if not self.can_learn:
            fitted = self.recover(candidate, 0.0, "recovering", rounding, FULL_SHARE, reconstructs=True)
            after = self.judge_held_out(fitted.network)
            return choose_better(plain.network, before, fitted, after, "fitting blocks")
        label = f"recovering: from {before.score:.2f}, dense {dense:.2f}"
        epochs, until = self.allowance.full(), self.deadline.share_out(FULL_SHARE)
        cuts, told = self._plan_cuts(candidate, epochs)
        learnt = self._recover_in_cuts(candidate, cuts, epochs, label, until) if cuts else None
        learnt = learnt or self.recover(candidate, epochs, label, time_share=FULL_SHARE)
        after = self.judge_held_out(learnt.network)
        chosen = choose_better(plain.network, before, learnt, after)
        more = outdone(self.recovery, self.network, self.comparison, self.data.holdout, max(before.score, after.score))
        return replace(chosen, notes=(*self.notes, *told, *chosen.notes, *more))

    def _plan_cuts(self, candidate: Candidate, epochs: float) -> tuple[tuple[Plan, ...], tuple[str, ...]]:
        """The plans on the way to that of a ``candidate``, for as many cuts as the recovery says; notes say why there
        are fewer, and why steps of integers are not learnt."""
        plan, recovery, notes = candidate.plan, self.recovery, list[str]()
        schedule = plan_schedule(plan, self.network, candidate.options, epochs, recovery)
        integers = schedule.integer_part(candidate.options)
        if recovery.learned_steps and not integers:
            notes.append("learned_steps was of no effect, as nothing learns with quantization in the loop")
        cuts, why = (), ""
        if recovery.cuts > 1 and not any(list_left_out(plan, candidate.study.graph)):
            why = "the plan leaves out no channels or branches"
        elif recovery.cuts > 1 and epochs * (1 - integers) <= 0:
            why = "nothing learns without quantization in the loop"
        elif recovery.cuts > 1:
            cuts = plan_cuts(candidate.study, plan, recovery.cuts)
            why = "the search has no more plans on the way" if len(cuts) + 1 < recovery.cuts else ""
        if why:
            came = f"{len(cuts) + 1} steps were made of it" if cuts else "it was of no effect"
            notes.append(f"cuts = {recovery.cuts}: {came}, as {why}")
        return cuts, tuple(notes)

    def _recover_in_cuts(
        self, candidate: Candidate, cuts: Sequence[Plan], epochs: float, label: str, until: float | None
    ) -> Recovered | None:
        """The same by ``cuts`` on the way, each of what had been learnt by then; ``None`` where one cannot be made."""
        study, plan, recovery = candidate.study, candidate.plan, self.recovery
        share = plan_schedule(plan, self.network, candidate.options, epochs, recovery).integer_part(candidate.options)
        each = epochs * (1 - share) / (len(cuts) + 1)
        last, chain, notes, curve = None, "", list[str](), list[LossAt]()
        for number, cut in enumerate(cuts, 1):
            chain = digest([chain, cut.digest, each])
            which = f"cut {number} of {len(cuts) + 1}"
            ends = _share_out(until, each / (epochs - (number - 1) * each), self.deadline)
            one = self.learn_cut(candidate, cut, last, each, f"{label}, {which}", which, chain, ends)
            if one is None:
                return None
            last = one
            notes += one.notes
            curve += one.curve
            if one.ended:
                break
        assert last is not None
        small, _ = compressed(last.whole, plan, self.data.example, study.scores)
        on_disk, fit_until = self._kept_of(candidate, digest([chain, FITTED])), self._end_fit(until)
        small = fit(
            plan, last.target, small, study.scores, study.calibration, until=fit_until, kept=on_disk, device=self.device
        )
        if fit_until is not None and self.deadline.clock() >= fit_until:
            self.deadline.note_cut("fitting weights")
        left = 0.0 if last.ended else epochs - len(cuts) * each
        own = replace(recovery, integer_share=min(1.0, share * epochs / left) if left > 0 else 0.0)
        rest = self._learn(candidate, small, left, label, None, until, digest([chain, left]), own, done=last.done)
        return replace(rest, notes=(*dict.fromkeys((*notes, *rest.notes)),), curve=(*curve, *rest.curve))

    def learn_round(
        self, candidate: Candidate, last: Cut | None, chain: str, label: str, rounds: int
    ) -> CutRound | None:
        """The candidate cut of what the ``last`` good round came to, after the rounds of ``chain``, learnt for
        one of so many, and tested in integers. ``None`` where it cannot be cut further.

        What it learnt is where :meth:`finish` of it goes on.
        """
        learns = self.can_learn and candidate.plan.structural(candidate.study.graph)
        epochs = self.allowance.round(rounds) if learns else 0.0
        chain = digest([chain, candidate.plan.digest, epochs])
        until = self.deadline.share_out(ROUNDS_SHARE / rounds)
        told = f"trying finalists: {label}"
        cut = self.learn_cut(candidate, candidate.plan, last, epochs, told, label, chain, until)
        if cut is None:
            return None
        tested = self._learn(candidate, cut.network, 0.0, told, NEAREST, until, digest([chain, 0.0]), self.recovery)
        self._fitted[candidate.plan.digest] = cut.network
        self._chains[candidate.plan.digest] = chain
        return CutRound(cut, self.score_held_out(tested.network), chain)

    def learn_cut(
        self, candidate: Candidate, cut: Plan, last: Cut | None, epochs: float, label: str, which: str, chain: str,
        until: float | None,
    ) -> Cut | None:  # fmt: skip
        """A ``cut`` on the way to a ``candidate``, made of the ``last`` one; ``which`` it is, is for messages,
        ``chain`` is its name on disk."""
        learnt = learn_cut(
            cut, last, self.network, self.data, self.task, candidate.study.scores, epochs, self.seed,
            lambda share: self.tell(f"{label}{_progress(share, epochs)}", share), recovery=self.recovery,
            what=f"learning of {which}", kept=self._kept_of(candidate, chain),
            fit_until=self._end_fit(until), until=until, device=self.device,
        )  # fmt: skip
        if learnt is not None and learnt.fit_was_cut:
            self.deadline.note_cut("fitting weights")
        return learnt

    def _end_fit(self, until: float | None) -> float | None:
        """When fitting ends at the latest before what learns ``until`` then."""
        return _share_out(until, FIT_SHARE, self.deadline)

    def recover(
        self,
        candidate: Candidate,
        epochs: float,
        label: str,
        rounding: str | None = None,
        time_share: float = 1.0,
        reconstructs: bool = False,
    ) -> Recovered:
        """The candidate's network after ``epochs``, as :func:`edgesdk.train.apply.learn` does it.

        It takes a ``time_share`` of what is left of the run's time at most. Where nothing is learnt blocks are fitted
        if it ``reconstructs``.
        """
        key, chain = (*_key(candidate), epochs), self._chains.get(candidate.plan.digest, "")  # what it goes on from
        if self.learners is not None and self.learners.together and key not in self._ahead and not chain:
            self._learn_ahead([candidate], [epochs], label, rounding, time_share, reconstructs)
        if (learnt := self._ahead.pop(key, None)) is not None:
            return learnt
        until, fitted = self.deadline.share_out(time_share), self.fit(candidate, label)
        kept = f"{epochs:g}" if not chain else digest([chain, epochs])
        recovered = self._learn(candidate, fitted, epochs, label, rounding, until, kept, self.recovery, reconstructs)
        if reconstructs and until is not None and self.deadline.clock() >= until:
            self.deadline.note_cut("fitting blocks")
        return recovered

    def _learn(
        self, candidate: Candidate, fitted: Network, epochs: float, label: str, rounding: str | None,
        until: float | None, kept: str, recovery: Recovery, reconstructs: bool = False, done: float = 0.0,
    ) -> Recovered:  # fmt: skip
        """``fitted``, the candidate's network, after ``epochs``; what it learns is ``kept`` by that name."""
        return learn(
            candidate.plan, self.network, fitted, candidate.options, self.data, self.task, epochs, self.seed,
            lambda share, what: self.tell(f"{label}, {what}{_progress(share, epochs)}", share),
            grid=grid_of(candidate.study.runtime), recovery=recovery, rounding=rounding,
            kept=self._kept_of(candidate, kept), until=until, scores=candidate.study.scores if reconstructs else None,
            device=self.device, done=done,
        )  # fmt: skip

    def fit(self, candidate: Candidate, label: str = "recovering: before anything is learnt") -> Network:
        """The candidate's network with its weights fitted to what the dense network answers, once for each plan.

        ``label`` is the stage of which that is a part.
        """
        study, plan = candidate.study, candidate.plan
        if not plan.structural(study.graph):
            return candidate.network
        if plan.digest not in self._fitted:
            tell = lambda share: self.tell(f"{label}, fitting weights", share)  # noqa: E731
            until, on_disk = self.deadline.share_out(FIT_SHARE), self._kept_of(candidate, FITTED)
            calibration = study.calibration
            fitted = fit(
                plan, self.network, candidate.network, study.scores, calibration, tell, until, on_disk, self.device
            )
            if until is not None and self.deadline.clock() >= until:
                self.deadline.note_cut("fitting weights")
            self._fitted[plan.digest] = fitted
        return self._fitted[plan.digest]

    def _kept_of(self, candidate: Candidate, what: str) -> Kept | None:
        """Where what a candidate learns is kept."""
        if self.kept is None:
            return None
        return self.kept.part(digest([candidate.plan.digest, candidate.study.runtime, what])[:16])

    def forget(self) -> None:
        """Remove what was kept of this run: it has come to its end."""
        if self.kept is not None:
            self.kept.forget()


def _open_kept(setup: Setup, recovery: Recovery, seed: int, part: str) -> Kept | None:
    """Where what this run, or a ``part`` of it, learns is kept: by all that it is made from. ``None`` where that has no
    digest."""
    if recovery.own:
        return None
    batches = (*setup.data.calibration, *setup.data.holdout, *setup.data.test)
    data = digest_of([t for x, y in batches for t in (*tensors(x), y) if isinstance(t, Tensor)])
    own = setup.task.identity
    made_from = [setup.graph.digest, digest_of(setup.network.module), data, own, seed, torch.__version__]
    try:
        return Kept(cache_folder() / "runs" / digest([*made_from, recovery, *filter(None, [part])])[:16])
    except TypeError:  # it holds functions of the user's
        return None


def _share_out(until: float | None, share: float, deadline: Deadline) -> float | None:
    """When what may take a ``share`` of the time from now on ``until`` then ends."""
    return None if until is None else (now := deadline.clock()) + share * max(0.0, until - now)


def _key(candidate: Candidate) -> tuple[str, str]:
    return candidate.plan.digest, candidate.study.runtime


def _is_alike(losses: Sequence[float], least: Sequence[float]) -> bool:
    """Whether ``losses`` are on average above the ``least`` by no more than the standard error of that."""
    above = [one - other for one, other in zip(losses, least, strict=True)]
    error = stdev(above) / len(above) ** 0.5 if len(above) > 1 else 0.0
    return mean(above) <= error


def _progress(share: float, epochs: float) -> str:
    """How far a training of ``epochs`` is, with a digit more for each ten times that it is shorter; nothing of none."""
    if not epochs:
        return ""
    digits = 1 if epochs >= 1 else 2 if epochs >= 0.1 else 3
    return f", epoch {share * epochs:.{digits}f} of {epochs:.3g}"
