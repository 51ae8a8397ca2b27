"""Plans tried whole, without training: which ones, how often, and what the search makes of what they lose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chain import write_chain
from scripted import INPUTS, ScriptedMeter, make_study, with_script

import edgesdk
from edgesdk.core.budget import Budget
from edgesdk.core.plan import INT8
from edgesdk.pipeline.planning import FIRST, make_plan, plan_full_width
from edgesdk.pipeline.rounds import plan_within, search_round
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.trying import FEWEST, try_plans
from edgesdk.price.learnt import BRANCH, WIDTH, Judged, Part

TRIES = 6


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with samples that nothing is fitted to."""
    study = make_study(ScriptedMeter(), tmp_path_factory.mktemp("held-out"), labelled=True)
    x = torch.randn(2 * FEWEST, INPUTS, generator=torch.Generator().manual_seed(1))
    y = study.network.flat(x)[0].argmax(1)
    return replace(study, data=replace(study.data, holdout=[(x[:FEWEST], y[:FEWEST]), (x[FEWEST:], y[FEWEST:])]))


pytestmark = pytest.mark.usefixtures("own_cache")


def within(study: Study, share: float = 0.2) -> Budget:
    return Budget(latency_ms=share * study.dense.latency_ms())


def trying(study: Study, tries: int = TRIES) -> Study:
    return replace(with_script(study), tries=tries)


def test_plans_differ_and_are_no_more_than_allowed(held_out: Study) -> None:
    for tries in (1, 2, TRIES):
        own = trying(held_out, tries)
        try_plans(own, within(own), FIRST)
        parts = [tuple(sorted(each.parts.items())) for each in own.corrections.judged]
        assert 1 <= len(parts) <= tries and len(set(parts)) == len(parts)
        assert all(loss >= 0 for each in own.corrections.judged for loss in each.losses)
        assert own.losses != own.pricing.losses
    assert len(parts) > 1


@pytest.mark.parametrize("why", ["none asked for", "nothing held out", "too few held out", "out of reach"])
def test_nothing_is_tried_where_nothing_can_be_learnt(held_out: Study, why: str) -> None:
    own = trying(held_out, 0 if why == "none asked for" else TRIES)
    few = [(held_out.data.holdout[0][0][: FEWEST - 1], None)]
    parts = {"nothing held out": own.data.calibration, "too few held out": few}
    own = replace(own, data=replace(own.data, holdout=parts.get(why, own.data.holdout)))
    try_plans(own, within(own, 1e-6 if why == "out of reach" else 0.2), FIRST)
    assert own.corrections.judged == () and own.losses is own.pricing.losses


def test_what_is_judged_is_the_same_each_time_and_not_made_twice(
    held_out: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = trying(held_out), trying(held_out)
    try_plans(first, within(first), FIRST)
    monkeypatch.setenv("EDGESDK_CACHE", f"{again.folder}-other")
    try_plans(again, within(again), FIRST)
    assert again.corrections.judged == first.corrections.judged and again.losses == first.losses
    kept = trying(held_out)
    monkeypatch.setattr("edgesdk.pipeline.trying.compressed", lambda *given: pytest.fail("applied again"))
    try_plans(kept, within(kept), FIRST)
    assert kept.corrections.judged == first.corrections.judged


def test_a_second_search_tries_only_what_is_left(held_out: Study) -> None:
    own = trying(held_out)
    search_round(own, within(own), ["even"], FIRST, ())
    tried = len(own.corrections.judged)
    search_round(own, within(own), ["even"], FIRST, ())
    plan_within(own, within(own), given=True)
    assert tried > 0 and len(own.corrections.judged) <= TRIES
    assert len({tuple(sorted(each.parts.items())) for each in own.corrections.judged}) == len(own.corrections.judged)


def test_what_hurt_is_not_chosen_again(held_out: Study) -> None:
    own = trying(held_out, 0)
    assert make_plan(own, within(own)).plan.dropped
    (branch,) = own.pricing.losses.branches
    loss = own.pricing.losses.branches[branch]
    exact = [Part(INT8, layer) for layer in own.graph.by_name] + [Part(WIDTH, group) for group in own.losses.widths]
    for part, times in (*((part, 1.0) for part in exact), (Part(BRANCH, branch), 100.0)):
        own.corrections.learn(Judged({part: loss}, (times * loss,) * 8), {})
    assert own.losses.branches[branch] > 30 * loss
    assert not make_plan(own, within(own)).plan.dropped
    assert plan_full_width(own, {}).solution.loss == 0.0, "the dense model loses nothing, whatever is learnt"


def test_a_users_search_tries_as_many_as_it_is_told(tmp_path: Path, own_cache: Path) -> None:
    model, _, data = write_chain(tmp_path, samples=1000)
    for tries in (0, 2):
        plan = edgesdk.search(model, "pi4", data, Budget(latency_ratio=0.5), tries=tries, force=True)
        kept = list((own_cache / "judged").glob("*.json"))
        assert plan.proof.searched and (1 <= len(kept) <= tries if tries else not kept)
