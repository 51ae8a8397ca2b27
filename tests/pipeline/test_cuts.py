"""Plans that are reached in several cuts, and rounds of cutting that are rolled back: what each promises."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scripted import EXACT, candidate_of

from edgesdk.compress.apply import channels_to_keep
from edgesdk.core.budget import Budget
from edgesdk.core.errors import UsageError
from edgesdk.core.report import DENSE
from edgesdk.network.network import Network
from edgesdk.pipeline.allowance import ROUNDS_SHARE, Allowance
from edgesdk.pipeline.candidates import Candidate, list_dense
from edgesdk.pipeline.cuts import plan_cuts
from edgesdk.pipeline.measuring import measure_beside
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.rollback import cut_in_rounds
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import DEPLOYED, NEAREST, Training
from edgesdk.train.recovery import Recovery
from edgesdk.train.stepwise import learn_cut
from edgesdk.train.trainer import Recovered
from edgesdk.workflows.deploy import check_rollback
from edgesdk.workflows.where import Where

EPOCHS, CUTS = 6.0, 4


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_each_cut_leaves_out_part_of_what_the_next_does(labelled: Study, share: float) -> None:
    plan = candidate_of(labelled, share).plan
    cuts = plan_cuts(labelled, plan, CUTS)
    assert 2 <= len(cuts) < CUTS
    sizes = {group.name: group.size for group in labelled.graph.groups}
    every, costs = [*cuts, plan], []
    for one, other in pairwise(every):
        assert set(one.dropped) <= set(other.dropped) and one.digest != other.digest
        kept = [channels_to_keep(labelled.graph, each, labelled.scores) for each in (one, other)]
        for group, size in sizes.items():
            if group in other.dropped:  # of the branch that has all of its layers
                continue
            wide, narrow = (set(own.get(group, range(size))) for own in kept)
            assert narrow <= wide, "channels that are gone do not come back"
    for cut in cuts:
        assert all(layer.option.form is None for layer in cut.layers)
        costs.append(cut.predicted.latency_ms)
    assert sorted(costs, reverse=True) == costs


def recovered(study: Study, share: float, recovery: Recovery, told: list[str], ends: str = "nothing") -> Recovered:
    def tell(stage: str, at: float | None) -> None:
        told.append(stage)
        if ends in stage:
            raise KeyboardInterrupt

    return Training(study, Allowance(EPOCHS), 0, tell, recovery).recover_in_full(candidate_of(study, share))


def test_a_plan_is_cut_in_steps_along_the_training(labelled: Study) -> None:
    told: list[str] = []
    recovery = Recovery(cuts=CUTS)
    once, whole = recovered(labelled, 0.1, Recovery(), told), recovered(labelled, 0.1, recovery, told)
    numbers = {stage.partition(", cut ")[2].partition(",")[0] for stage in told if ", cut " in stage}
    assert numbers == {"1 of 3", "2 of 3"}
    epochs = [point.epoch for point in whole.curve]
    assert epochs == sorted(epochs) and epochs[-1] == pytest.approx(once.curve[-1].epoch, abs=0.5), "as many as at once"
    assert {point.part for point in whole.curve} == {point.part for point in once.curve}
    states = [each.network.module.state_dict() for each in (once, whole)]
    assert {n: v.shape for n, v in states[0].items()} == {n: v.shape for n, v in states[1].items()}, "the same plan"
    assert not all(torch.equal(value, states[1][name]) for name, value in states[0].items())

    parts: list[str] = []
    fresh = replace(recovery, warm_up=0.11)  # another run, that nothing is kept of
    with pytest.raises(KeyboardInterrupt):
        recovered(labelled, 0.1, fresh, parts, "cut 2 of 3")
    again: list[str] = []
    taken_up = recovered(labelled, 0.1, fresh, again)
    assert not any(", cut 1 of" in stage for stage in again), "what was learnt is not learnt anew"
    assert [point.epoch for point in taken_up.curve] == epochs


def test_a_cut_that_the_time_ends_is_counted_by_what_it_learnt(labelled: Study) -> None:
    plan = candidate_of(labelled, 0.1).plan
    given = (labelled.network, labelled.data, labelled.task, labelled.scores)
    first = learn_cut(plan_cuts(labelled, plan, 2)[0], None, *given, 2.0, what="learning of cut 1", until=0.0)
    assert first is not None and first.done == 0 and not first.fit_was_cut
    assert first.notes == ("the time ended the learning of cut 1 after 0.0 of 2 epochs",)
    then = learn_cut(plan, first, *given, 1.0)
    assert then is not None and then.done == then.curve[-1].epoch == 1.0 and not then.notes


class Judged(Training):
    """Its networks lose what a list says, one after the other, and are written to no file."""

    drops: tuple[float, ...] = ()

    def score_held_out(self, network: Network) -> float:
        self.seen = [*getattr(self, "seen", []), network]
        tested = len(self.seen) - 2  # after the dense one
        return 100.0 - (self.drops[tested] if 0 <= tested < len(self.drops) else 99.0 * (tested >= 0))

    def finish(self, candidate: Candidate, beside: object = None) -> Result:
        measured = measure_beside(candidate.study, {DEPLOYED: candidate.artifact}, thorough=True)
        network = self.recover(candidate, 0.0, "recovering", NEAREST).network
        return Result(
            candidate.plan, candidate.artifact, measured[DENSE], measured[DEPLOYED], 100.0, 99.5, EXACT, (), (),
            simulated=network,
        )  # fmt: skip


@pytest.mark.parametrize("drops", [(0.0, 0.1, 50.0, 0.5), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (50.0,)])
def test_what_comes_out_is_the_last_state_that_kept_the_accuracy(labelled: Study, drops: tuple[float, ...]) -> None:
    training = Judged(labelled, Allowance(EPOCHS), 0, lambda stage, share: None, Recovery(rollback=True))
    training.drops = drops
    result = cut_in_rounds(labelled, Budget(max_drop=1.0), 1.0, training)
    tried = [step for step in result.history if str(step.get("search", "")).startswith("round")]
    assert len(tried) >= min(3, len(drops)) and training.allowance.spent <= ROUNDS_SHARE * EPOCHS
    for step, drop in zip(tried, drops, strict=False):
        assert step["drop"] == pytest.approx(drop)
    good = [number for number, step in enumerate(tried) if step["drop"] <= 1.0]
    if not good:  # it takes half of the step each time
        costs = [step["measured"].latency_ms for step in tried]
        assert len(costs) > 1 and costs == sorted(costs)
        assert result.plan.digest not in {step["plan"] for step in tried}
        return
    assert result.plan.digest == tried[good[-1]]["plan"]
    kept = training.seen[1 + good[-1]].module.state_dict()
    assert result.simulated is not None
    assert all(torch.equal(value, kept[name]) for name, value in result.simulated.module.state_dict().items())
    shares = [step["measured"].latency_ms for step in tried]
    for number in range(1, len(tried)):
        before = [shares[place] for place in good if place < number]
        assert not before or shares[number] < before[-1], "each goes on from the last good one"


def test_what_another_search_found_has_its_turn_among_the_rounds(labelled: Study) -> None:
    training = Judged(labelled, Allowance(EPOCHS), 0, lambda stage, share: None, Recovery(rollback=True))
    training.drops, best = (50.0,), candidate_of(labelled, 0.1)
    assert cut_in_rounds(labelled, Budget(max_drop=1.0), 1.0, training, best).plan.digest == best.plan.digest


@pytest.mark.parametrize(
    ("recovery", "precision", "says"),
    [
        (Recovery(cuts=2), "", ""),
        (Recovery(cuts=40), "", "cuts = 40: .* steps were made of it, as the search has no more plans on the way"),
        (Recovery(cuts=2, integer_share=1.0), "int8", "cuts = 2: it was of no effect, as nothing learns without"),
        (Recovery(learned_steps=True), "fp32", "learned_steps was of no effect"),
        (Recovery(learned_steps=True), "int8", ""),
    ],
)
def test_what_was_asked_for_and_is_of_no_effect_is_said(
    labelled: Study, recovery: Recovery, precision: str, says: str
) -> None:
    candidate = candidate_of(labelled, 0.25)
    if precision:
        options = {name: replace(option, precision=precision) for name, option in candidate.options.items()}
        candidate = replace(candidate, artifact=replace(candidate.artifact, options=options))
    training = Training(labelled, Allowance(EPOCHS), 0, lambda stage, share: None, recovery)
    _, notes = training._plan_cuts(candidate, EPOCHS)
    assert len(notes) == bool(says) and all(re.match(says, note) for note in notes)
    whole = list_dense(labelled, Budget())[1].candidate
    _, notes = training._plan_cuts(whole, EPOCHS)
    nothing = f"cuts = {recovery.cuts}: it was of no effect, as the plan leaves out no channels or branches"
    assert (nothing in notes) is (recovery.cuts > 1)


def test_rounds_are_for_a_bound_on_accuracy_alone(labelled: Study) -> None:
    x86, board = Where.named("x86", "onnxruntime", 1), Where.named("pi4", "onnxruntime", 1)
    for budget, where in ((None, x86), (Budget(latency_ms=1.0, max_drop=1.0), x86), (Budget(size_bytes=1.0), board)):
        with pytest.raises(UsageError, match="does not bound accuracy alone"):
            check_rollback(budget, where)
    for budget, where in ((None, board), (Budget(max_drop=1.0), x86), (Budget(accuracy=90.0), x86)):
        check_rollback(budget, where)
