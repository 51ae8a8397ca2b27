"""Points of a front that learn at the same time: the same as one after another, and taken up where they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import Drawn

from edgesdk.core.errors import UsageError
from edgesdk.workflows.sweep import sweep


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return Drawn(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def steps() -> Iterator[list[int]]:
    """A one for each step of training in this process."""
    made, real = list[int](), torch.optim.AdamW.step

    def step(self: Any, *given: Any) -> Any:
        made.append(1)
        return real(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        yield made


@dataclass(frozen=True)
class Alone:
    """What points come to that learn one after another, in so many ``steps``."""

    results: list[Any]
    steps: int


@pytest.fixture(scope="module")
def alone(drawn: Drawn, steps: list[int], tmp_path_factory: pytest.TempPathFactory) -> Alone:
    steps.clear()
    front = drawn.build(tmp_path_factory.mktemp("alone") / "front")
    return Alone(drawn.list_results(front), len(steps))


def test_points_learn_the_same_in_processes_of_their_own(
    drawn: Drawn, alone: Alone, own_cache: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    front = drawn.build(tmp_path / "front", jobs=2, tell=lambda stage, share: told.append(stage))
    assert drawn.list_results(front) == alone.results
    count = len(drawn.numbers)
    assert f"building points: {count} networks learning in 2 processes at a time" in told
    assert not list((own_cache / "runs").iterdir()), "nothing is kept of a run that has ended"


def test_points_do_not_depend_on_each_other_in_what_they_learn(
    drawn: Drawn, alone: Alone, own_cache: Path, tmp_path: Path
) -> None:
    """The last one by itself: the order of its samples is as if others had learnt nothing before."""
    last = drawn.numbers[-1]
    built = drawn.build(tmp_path / "front", last).point(last).built
    assert built is not None and (built.plan, built.score, built.cost) == alone.results[-1][:3]


def test_a_build_that_is_interrupted_goes_on_where_it_was(
    drawn: Drawn, alone: Alone, own_cache: Path, tmp_path: Path, steps: list[int]
) -> None:
    def interrupt(stage: str, share: float | None) -> None:
        if "exporting" in stage:
            raise KeyboardInterrupt

    steps.clear()
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        drawn.build(tmp_path / "front", tell=interrupt)
    assert len(steps) > alone.steps / 2 and threading.active_count() == threads
    assert not list((tmp_path / "front").iterdir())
    assert drawn.list_results(drawn.build(tmp_path / "front")) == alone.results
    assert len(steps) == alone.steps, "what was learnt is not learnt again"


def test_a_cluster_that_is_none_is_refused_before_anything_is_priced(drawn: Drawn, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'nowhere' is no cluster"):
        drawn.build(tmp_path / "front", cluster="nowhere")
    with pytest.raises(UsageError, match="'nowhere' is no cluster"):
        sweep(drawn.model, "pi5", drawn.data, build=1, out_dir=tmp_path / "front", cluster="nowhere")
    assert not list(tmp_path.iterdir())
