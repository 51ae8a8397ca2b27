"""Recovery of candidates: who is told apart how, what is taken up again, and what the last file is proved to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scripted import candidate_of, with_script

from edgesdk.compress.quantize import integer
from edgesdk.core.budget import Budget
from edgesdk.core.plan import Option
from edgesdk.core.sampling import Decisions
from edgesdk.data.task import Judgement
from edgesdk.network.network import Network
from edgesdk.pipeline.allowance import FULL_SHARE, SHORT_SHARE, Allowance
from edgesdk.pipeline.candidates import Candidate, list_dense
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import Training
from edgesdk.train.apply import apply, choose_better
from edgesdk.train.recovery import Recovery
from edgesdk.train.trainer import Recovered

EPOCHS = 4.0


pytestmark = pytest.mark.usefixtures("own_cache")


def training_of(study: Study, epochs: float = EPOCHS, kind: type[Training] = Training) -> Training:
    return kind(study, Allowance(epochs), 0, lambda stage, share: None)


class Scored(Training):
    """Knows what each plan scores after a short recovery, without any."""

    scores: Mapping[str, float] = {}

    def try_short(self, candidate: Candidate, share: float = 1.0, units: float = 1.0, told: str = "") -> float:
        return self.scores[candidate.plan.digest + candidate.study.runtime]


def test_one_candidate_needs_no_comparison(labelled: Study) -> None:
    candidate = candidate_of(labelled, 0.6)
    selected = training_of(labelled).select_best([candidate])
    assert selected.candidate is candidate and selected.history == ()


def test_finalists_are_told_apart_by_halving(labelled: Study) -> None:
    several = [list_dense(labelled, Budget())[1].candidate]
    several += [candidate_of(labelled, share) for share in (0.4, 0.7, 0.95)]
    assert len({candidate.plan.digest for candidate in several}) == 4
    training = training_of(labelled, kind=Scored)
    assert isinstance(training, Scored)
    training.scores = {
        candidate.plan.digest + "onnxruntime": 60.0 + 10 * place for place, candidate in enumerate(several)
    }
    selected = training.select_best(several)
    assert selected.candidate is several[-1]
    rounds = [step["round"] for step in selected.history]
    assert rounds.count(1) == 4 and rounds.count(2) == 2
    assert all(step["holdout_score"] == training.scores[step["finalist"] + "onnxruntime"] for step in selected.history)


def test_of_runtimes_that_score_alike_the_faster_is_taken(labelled: Study) -> None:
    slow = candidate_of(labelled, 0.6)
    fast = candidate_of(with_script(labelled, runtime="litert", script=lambda name, ms: 0.5 * ms), 0.6)
    training = training_of(labelled, kind=Scored)
    assert isinstance(training, Scored)
    for better, best in ((0.0, fast), (0.4, fast), (5.0, slow)):
        training.scores = {
            slow.plan.digest + "onnxruntime": 80.0 + better, fast.plan.digest + "litert": 80.0,
        }  # fmt: skip
        assert training.select_best([slow, fast]).candidate is best


def test_epochs_go_to_what_is_trained_alone(labelled: Study) -> None:
    training = training_of(labelled)
    assert training.can_learn and not training_of(labelled, 0.0).can_learn
    training.try_short(candidate_of(labelled, 0.6))
    assert 0 < training.allowance.spent <= SHORT_SHARE * EPOCHS
    left = EPOCHS - training.allowance.spent
    assert training.allowance.full() == FULL_SHARE * left
    without = replace(labelled, data=replace(labelled.data, train=None))
    assert not training_of(without).can_learn


def test_the_dense_model_is_not_trained(labelled: Study) -> None:
    dense, _ = list_dense(labelled, Budget())
    training = training_of(labelled)
    network = training.recover(dense.candidate, 2.0, "recovering").network
    x = labelled.data.example
    assert torch.allclose(network.flat(x)[0], labelled.network.flat(x)[0], atol=1e-5)


def test_what_was_fitted_is_taken_up_again(labelled: Study, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = candidate_of(labelled, 0.4)
    assert candidate.plan.structural(labelled.graph)
    first = training_of(labelled).fit(candidate)
    calls: list[str] = []
    monkeypatch.setattr("edgesdk.compress.refit._fitted", lambda *given: calls.append("fitted again"))
    again = training_of(labelled)
    assert (
        all(torch.equal(a, b) for a, b in zip(_weights(first), _weights(again.fit(candidate)), strict=True))
        and not calls
    )
    assert again.fit(candidate) is again.fit(candidate)
    again.forget()
    assert not list((own_cache / "runs").glob("*/*"))


def _weights(network: object) -> list[torch.Tensor]:
    return list(network.module.state_dict().values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", [0.4, None], ids=["structural", "integers alone"])
def test_a_plan_is_applied_alike_for_a_deployment_and_for_an_export(labelled: Study, share: float | None) -> None:
    candidate = candidate_of(labelled, share) if share else list_dense(labelled, Budget())[1].candidate
    assert candidate.plan.structural(labelled.graph) is bool(share)
    applied = apply(candidate.plan, labelled.network, labelled.data, labelled.task, labelled.scores)
    exported, options = applied.network, applied.options
    deployed = training_of(labelled, 0.0).recover(candidate, 0.0, "calibrating").network
    assert options == {name: candidate.options.get(name, Option()) for name in options}
    assert all(torch.equal(a, b) for a, b in zip(_weights(exported), _weights(deployed), strict=True))
    x = labelled.data.example
    assert torch.equal(exported.flat(x)[0], deployed.flat(x)[0])


class Judged(Training):
    """Its held-out scores come from a list, one after the other."""

    answers: list[float]

    def judge_held_out(self, network: object) -> Judgement:
        return Judgement(self.answers.pop(0), 64, None)


@pytest.mark.parametrize(("after", "said"), [(80.0, "scored 80.00 against 90.00 without"), (95.0, "")])
def test_the_last_file_is_proved_and_recovery_is_left_out_where_it_harms(
    labelled: Study, written: Callable[[Study], Study], after: float, said: str
) -> None:
    study = written(labelled)
    training = training_of(study, kind=Judged)
    assert isinstance(training, Judged)
    training.answers = [97.0, 90.0, after]  # the dense model, before and after recovery
    result = training.finish(candidate_of(study, 0.5))
    notes = " ".join(step["note"] for step in result.history if "note" in step)
    assert ("recovery was left out" in notes) is bool(said) and said in notes
    assert (
        result.parity.error <= result.parity.tolerance
        and result.artifact.path.stat().st_size == result.deployed.size_bytes
    )
    assert set(result.against_model) == {"dense", "deployed"} and result.dense_score == 100.0
    assert training.allowance.spent > 0 and result.beside == {}


@pytest.mark.parametrize(("changed", "kept"), [("nny", True), ("n" * 12, False), ("n" * 9 + "y" * 8, True)])
def test_recovery_that_is_worse_by_what_chance_may_do_is_kept(labelled: Study, changed: str, kept: bool) -> None:
    before = "y" * 80 + "".join("y" if each == "n" else "n" for each in changed)
    after = "y" * 80 + changed
    scores = [100 * each.count("y") / len(each) for each in (before, after)]
    own = tuple(Decisions.of([each == "y" for each in judged], "labels") for judged in (before, after))
    plain, learnt = labelled.network, labelled.network.copy()
    judged = [Judgement(score, len(before), each) for score, each in zip(scores, own, strict=True)]
    chosen = choose_better(plain, judged[0], Recovered(learnt), judged[1])
    assert (chosen.network is learnt) == kept and scores[1] < scores[0]
    told = "which chance alone may do (standard error" if kept else "recovery was left out: on held-out data"
    assert told in chosen.notes[0]


@pytest.mark.parametrize(("after", "said"), [(80.0, "scored 80.00 against 90.00 without"), (95.0, "")])
def test_blocks_are_fitted_where_nothing_learns_and_left_as_they_were_where_it_harms(
    labelled: Study, after: float, said: str
) -> None:
    told: list[str] = []
    training = Judged(labelled, Allowance(0.0), 0, lambda stage, share: told.append(stage), Recovery(reconstruct=10))
    training.answers = [97.0, 90.0, after]  # the dense model, before and after blocks were fitted
    candidate = candidate_of(labelled, 0.4)
    plain = training.recover(candidate, 0.0, "recovering").network
    assert not any("blocks" in stage for stage in told), "finalists are told apart without"
    reached = training.recover_in_full(candidate)
    assert any("fitting blocks" in stage for stage in told)
    assert (f"fitting blocks was left out: on held-out data it {said}" in reached.notes) is bool(said)
    if said:
        assert all(torch.equal(a, b) for a, b in zip(_weights(reached.network), _weights(plain), strict=True))


@pytest.fixture(scope="module")
def written() -> Callable[[Study], Study]:
    """A study of the same that writes files which a runtime runs."""

    def make(study: Study) -> Study:
        real = Study(**vars(study))
        return replace(real, dense_file=real.write_file(integer(real.network, {}), {}, "dense"))

    return make


class Chancy(Training):
    """Knows by how many points two scores may differ by chance, what each plan scores, and what it loses."""

    noise = 0.0
    scores: Mapping[str, float] = {}
    losses: Mapping[str, list[float]] = {}

    def try_short(self, candidate: Candidate, share: float = 1.0, units: float = 1.0, told: str = "") -> float:
        self._tried[candidate.plan.digest, candidate.study.runtime] = candidate.network
        return self.scores[candidate.plan.digest]

    def _find_noise(self, one: Candidate, other: Candidate, tie: float) -> float:
        return self.noise

    def _list_losses(self, network: Network) -> list[float]:
        return next(self.losses[digest] for (digest, _), tried in self._tried.items() if tried is network)


@pytest.mark.parametrize(
    ("noise", "nearer", "best"),
    [
        (0.0, [0.1, 0.3], "scores"), (0.6, [0.1, 0.3], "nearer"), (0.6, [1.0, 1.0], "nearer"),
        (0.6, [0.0, 2.5], "faster"), (9.0, [0.1, 0.3], "nearer"),
    ],
)  # fmt: skip
def test_what_is_within_noise_is_decided_by_losses_then_by_latency(
    labelled: Study, noise: float, nearer: list[float], best: str
) -> None:
    slow, fast = candidate_of(labelled, 0.7), candidate_of(labelled, 0.4)
    assert fast.measured.latency_ms() < slow.measured.latency_ms()
    training = training_of(labelled, kind=Chancy)
    assert isinstance(training, Chancy)
    training.noise, training.scores = noise, {slow.plan.digest: 80.0, fast.plan.digest: 80.5}
    training.losses = {slow.plan.digest: nearer, fast.plan.digest: [1.1, 1.3]}
    picked = {"scores": fast, "nearer": slow, "faster": fast}[best]
    assert training.select_best([slow, fast]).candidate is picked


def test_scores_differ_by_chance_as_their_samples_say(labelled: Study) -> None:
    one, other = candidate_of(labelled, 0.7), candidate_of(labelled, 0.2)
    training = training_of(labelled, 0.0)
    assert training._find_noise(one, other, 7.0) == 7.0, "nothing is known before they were tried"
    for each in (one, other):
        training.try_short(each)
    same, apart = training._find_noise(one, one, 7.0), training._find_noise(one, other, 7.0)
    assert 0 < same <= apart < 100
    assert sum(training._list_losses(labelled.network)) == pytest.approx(0.0, abs=1e-6)
    assert training.select_best([one, other]).candidate in (one, other)
