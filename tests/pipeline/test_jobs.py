"""Finalists that learn in processes of their own: the same as one after another, and told apart the same."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from scripted import ScriptedMeter
from torch.utils.data import TensorDataset

from edgesdk.core.budget import Budget
from edgesdk.core.errors import EdgeSdkWarning
from edgesdk.data.data import Data, load_data
from edgesdk.data.orders import dry, order_of, set_order
from edgesdk.example.data import example_data
from edgesdk.pipeline.allowance import Allowance
from edgesdk.pipeline.apart import Shared
from edgesdk.pipeline.candidates import Candidate, attempt, list_dense
from edgesdk.pipeline.learners import Workers
from edgesdk.pipeline.planning import make_plan
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import Selected, Training
from edgesdk.train.recovery import Recovery
from edgesdk.train.trainer import _first

SHARES = (0.4, 0.7)


pytestmark = pytest.mark.usefixtures("own_cache")


def finalists(study: Study) -> list[Candidate]:
    plans = [make_plan(study, Budget(latency_ms=share * study.dense.latency_ms())) for share in SHARES]
    whole = list_dense(study, Budget())[1].candidate
    return [whole, *(attempt(study, plan, Budget(), "even").candidate for plan in plans)]


def chosen(study: Study, jobs: int, told: list[str] | None = None) -> tuple[Training, Selected]:
    """What comes of finalists with so many processes, from the same beginning."""
    study = replace(study, corrections=study.corrections)
    tell = lambda stage, share: None if told is None else told.append(stage)  # noqa: E731
    workers = Workers(Shared.of(study, Recovery()), jobs)
    training = Training(study, Allowance(9.0), 0, tell, learners=workers)
    selected = training.select_best(finalists(study))
    training.forget()
    return training, selected


def weights(training: Training) -> list[torch.Tensor]:
    return [value for network in training._tried.values() for value in network.module.state_dict().values()]


def test_finalists_learn_the_same_in_processes_of_their_own(labelled: Study) -> None:
    assert labelled.data.train is not None
    begin, ends = order_of(labelled.data.train), list[torch.Tensor]()
    told: list[str] = []
    meter = labelled.meter
    assert isinstance(meter, ScriptedMeter) and begin is not None
    outcomes = []
    for jobs in (1, 2):
        set_order(labelled.data.train, begin)
        outcomes.append(chosen(labelled, jobs, told if jobs > 1 else None))
        ends.append(order_of(labelled.data.train))  # type: ignore[arg-type]
    (one, plain), (two, apart) = outcomes
    assert len(weights(one)) > 20 and all(map(torch.equal, weights(one), weights(two)))
    assert plain.candidate.plan.digest == apart.candidate.plan.digest and plain.history == apart.history
    assert torch.equal(*ends), "what learns next begins with the same samples"
    assert one.allowance.spent == two.allowance.spent
    assert any("3 finalists in 2 processes" in stage for stage in told)
    assert not two._ahead


def test_what_cannot_be_sent_learns_here_and_a_warning_says_so(labelled: Study) -> None:
    class Own(type(labelled.task)):  # of no module: no other process can make one
        pass

    begin = order_of(labelled.data.train)
    study = replace(labelled, task=Own(**vars(labelled.task)))
    with pytest.warns(EdgeSdkWarning, match="cannot be sent to another process .*: candidates learn one after another"):
        apart, _ = chosen(study, 2)
    set_order(labelled.data.train, begin)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EdgeSdkWarning)
        plain, _ = chosen(labelled, 1)
    assert all(map(torch.equal, weights(plain), weights(apart)))


def sources() -> dict[str, Data]:
    x, y = torch.randn(70, 4), torch.arange(70) % 3
    return {
        "arrays": load_data((x.numpy(), y.numpy())), "data set": load_data(TensorDataset(x, y)),
        "built-in example": example_data(),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["arrays", "data set", "built-in example"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_orders_that_are_passed_over_are_those_that_are_taken(name: str, steps: int) -> None:
    train: Any = sources()[name].train
    begin = order_of(train)
    assert begin is not None
    taken = list(_first(train, steps))
    after = order_of(train)
    set_order(train, begin)
    passed: Any = dry(train)
    assert len(list(_first(passed, steps))) == len(taken) == steps
    assert after is not None and torch.equal(after, order_of(train))  # type: ignore[arg-type]
    set_order(train, begin)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(taken, _first(train, steps), strict=True))


def test_batches_that_draw_nothing_have_no_order() -> None:
    train = [(torch.randn(4, 2), torch.zeros(4))]
    assert order_of(train) is None and dry(train) is None
