"""Candidates learn back what compression cost them; the winner becomes a file that is measured and proved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgesdk.artefact import Artefact
from edgesdk.compress.network import Network
from edgesdk.compress.recover import Schedule, recovered
from edgesdk.export.onnx import export
from edgesdk.export.parity import fallbacks, parity, runner
from edgesdk.plan import FP32, Option, Plan
from edgesdk.report import Prediction, Report
from edgesdk.result import Result
from edgesdk.study import Study, Tell

SHORT_SHARE = 0.15  # of the epochs, to tell finalists apart


@dataclass(frozen=True)
class Candidate:
    """A plan with the network that it makes, and what that was measured at before any training."""

    plan: Plan
    network: Network
    options: Mapping[str, Option]
    report: Report | Prediction


class Training:
    """Recovers candidates, tells them apart on held-out data, and turns the winner into a measured, proved file."""

    def __init__(self, known: Study, epochs: float, seed: int, tell: Tell) -> None:
        self.known, self.epochs, self.seed, self.tell = known, epochs, seed, tell
        self.can_learn = known.data.train is not None and epochs > 0

    def recover(self, candidate: Candidate, epochs: float, label: str) -> Network:
        """The candidate's network after ``epochs``, quantized from the start where nothing else changed."""
        known, plan = self.known, candidate.plan
        structural = (
            bool(plan.dropped)
            or any(layer.option.factor for layer in plan.layers)
            or any(kept < known.graph.group_by_name[name].size for name, kept in plan.kept.items())
        )
        if not structural and all(option.precision == FP32 for option in candidate.options.values()):
            epochs = 0.0  # it is the dense model: there is nothing to recover
        return recovered(
            candidate.network,
            known.network,
            candidate.options,
            known.data.train,
            known.calibration,
            known.task,
            Schedule(epochs) if structural else Schedule(epochs, 1.0),
            self.seed,
            lambda share, what: self.tell(f"{label} ({what})", share),
        )

    def holdout(self, network: Network) -> float:
        """The score on held-out data."""
        return self.known.task.score(network, self.known.data.holdout, self.known.network)

    def short(self, candidate: Candidate) -> float:
        """The score on held-out data after a short recovery."""
        epochs = max(1.0, self.epochs * SHORT_SHARE) if self.can_learn else 0.0
        return self.holdout(self.recover(candidate, min(epochs, self.epochs), "trying finalists"))

    def best(self, candidates: list[Candidate]) -> Result:
        history: list[Mapping[str, Any]] = []
        if len(candidates) > 1:
            scores = [self.short(candidate) for candidate in candidates]
            for candidate, score in zip(candidates, scores, strict=True):
                history.append({"finalist": candidate.plan.digest, "holdout_score": score})
            candidates = [candidates[max(range(len(scores)), key=scores.__getitem__)]]
        result = self.full(candidates[0])
        return replace(result, history=(*history, *result.history))

    def full(self, candidate: Candidate) -> Result:
        """The candidate recovered, exported, proved equal to its simulation, and measured beside the dense model."""
        known = self.known
        network = self.recover(candidate, 0.0, "calibrating")
        note = ""
        if self.can_learn:
            learnt = self.recover(candidate, self.epochs, "recovering")
            before, after = self.holdout(network), self.holdout(learnt)
            if after >= before:
                network = learnt
            else:
                note = f"recovery was left out: on held-out data it scored {after:.2f} against {before:.2f} without"
        path, dense = known.folder / "model.onnx", known.folder / "dense.onnx"
        self.tell("exporting and measuring", None)
        export(network, known.data.example, path)
        proved = parity(network, path, [x for x, _ in known.data.holdout])
        both = {"dense": Artefact(dense, known.graph), "deployed": Artefact(path, network.graph, candidate.options)}
        reports = known.bench.measure(both, "rapid", known.baseline())
        integers = [name for name, option in candidate.options.items() if option.precision != FP32]
        fell = fallbacks(known.bench.kernels(path), [n for n in integers if network.graph.by_name[n].macs])
        run = runner(path, network.structure)
        return Result(
            plan=candidate.plan,
            path=path,
            dense=reports["dense"],
            deployed=reports["deployed"],
            dense_score=known.task.score(runner(dense, network.structure), known.data.test, known.network),
            score=known.task.score(run, known.data.test, known.network),
            parity=proved,
            fallbacks=tuple(fell),
            history=({"note": note},) if note else (),
        )
