"""Candidates learn back what compression cost them; the winner becomes a file that is measured and proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgesdk.artefact import Artefact
from edgesdk.compress.apply import staying
from edgesdk.compress.network import Network
from edgesdk.compress.quantize import suited
from edgesdk.compress.rebuild import rebuilt
from edgesdk.compress.recover import Schedule, recovered
from edgesdk.compress.recovery import Recovery
from edgesdk.compress.teachers import outdone
from edgesdk.export.formats import grid_of
from edgesdk.export.parity import fallbacks, parity, runner
from edgesdk.plan import FP32, Option, Plan
from edgesdk.report import Prediction, Report
from edgesdk.result import Result
from edgesdk.solve.finalists import halving
from edgesdk.study import Study, Tell

SHORT_SHARE = 0.15  # of the epochs, to tell finalists apart
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

    ``epochs`` is for a ``recovery`` that does not say how many. Raises ``UsageError`` where that does not fit the data.
    """

    def __init__(self, known: Study, epochs: float, seed: int, tell: Tell, recovery: Recovery | None = None) -> None:
        self.network, self.data, self.task = known.network, known.data, known.task
        self.recovery = (recovery or Recovery()).loaded()
        self.recovery.check(self.task)
        self.epochs = epochs if self.recovery.epochs is None else self.recovery.epochs
        self.seed, self.tell = seed, tell
        self.can_learn = known.data.train is not None and self.epochs > 0
        self._rebuilt: dict[str, Network] = {}

    def recover(
        self,
        candidate: Candidate,
        epochs: float,
        label: str,
        note: Callable[[str], None] = lambda text: None,
        rounding: str = "nearest",
    ) -> Network:
        """The candidate's network after ``epochs``, quantized from the start where nothing else changed."""
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
            lambda share, what: self.tell(f"{label} ({what})", share),
            grid=grid_of(known.runtime),
            recovery=self.recovery,
            note=note,
            restate=False,
            rounding=rounding,
        )

    def rebuilt(self, candidate: Candidate) -> Network:
        """The candidate's network with its weights fitted to what the dense network answers, once for each plan."""
        known, plan = candidate.known, candidate.plan
        if plan.digest not in self._rebuilt:
            kept = staying(known.graph, plan, known.scores)
            told = lambda share: self.tell("fitting weights", share)  # noqa: E731
            self._rebuilt[plan.digest], _ = rebuilt(candidate.network, self.network, kept, known.calibration, told)
        return self._rebuilt[plan.digest]

    def holdout(self, network: Network) -> float:
        """The score on held-out data."""
        return self.task.score(network, self.data.holdout, self.network)

    def short(self, candidate: Candidate, share: float = 1.0) -> float:
        """The score on held-out data after a ``share`` of a short recovery."""
        epochs = share * max(1.0, self.epochs * SHORT_SHARE) if self.can_learn else 0.0
        return self.holdout(self.recover(candidate, min(epochs, self.epochs), "trying finalists"))

    def best(self, candidates: list[Candidate], beside: Mapping[str, Artefact] | None = None) -> Result:
        """The best of ``candidates`` after a short recovery, in full; ``beside`` is measured with it."""
        history: list[Mapping[str, Any]] = []
        result = self.full(self.best_of(candidates, history), beside)
        return replace(result, history=(*history, *result.history))

    def best_of(self, candidates: list[Candidate], history: list[Mapping[str, Any]]) -> Candidate:
        """The one that scores best after a short recovery; of several runtimes' that score alike, the fastest."""
        if len(candidates) == 1:
            return candidates[0]
        rounds = halving(candidates, self.short, TIE)
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
        notes: list[str] = []
        if self.can_learn:
            learnt = self.recover(candidate, self.epochs, "recovering", notes.append)
            before, after = self.holdout(network), self.holdout(learnt)
            if after >= before:
                network = learnt
            else:
                notes.append(
                    f"recovery was left out: on held-out data it scored {after:.2f} against {before:.2f} without"
                )
            notes += outdone(self.recovery, self.network, self.task, self.data.holdout, max(before, after))
        self.tell("exporting and measuring", None)
        deployed, dense = known.artefact(network, candidate.options, "model"), known.dense_file
        proved = parity(network, deployed, [x for x, _ in self.data.holdout])
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
            dense_score=self.task.score(runner(dense, network.structure), self.data.test, self.network),
            score=self.task.score(runner(deployed, network.structure), self.data.test, self.network),
            parity=proved,
            fallbacks=tuple(fell),
            history=tuple({"note": note} for note in notes),
            beside={name: report for name, report in reports.items() if name not in ("dense", "deployed")},
        )
