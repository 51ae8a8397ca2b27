"""The front: its points keep their bounds, no point is beaten by another plan, and each is what a search would give."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.budget import Budget
from edgesdk.pipeline.front import PLAN, FrontPlan, rank_knees, trace_front, undominated
from edgesdk.pipeline.planning import make_plan, plan_tightest
from edgesdk.pipeline.study import Study
from edgesdk.solve.program import LATENCY

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


def figures(point: FrontPlan) -> tuple[float, float]:
    return point.planned.solution.cost.latency_ms, point.planned.solution.loss


def test_from_the_tightest_to_the_dense_model(study: Study) -> None:
    front = sorted(trace_front(study, Budget(), 6).plans, key=figures)
    assert {point.kind for point in front} == {PLAN, "dense", "dense int8"}
    least = plan_tightest(study, Budget(), LATENCY).solution.cost.latency_ms
    assert figures(front[0])[0] == pytest.approx(least, rel=1e-4)
    assert min(figures(point)[1] for point in front) == 0.0
    plans = [figures(point) for point in front if point.kind == PLAN]
    assert all(a[0] < b[0] and a[1] >= b[1] for a, b in pairwise(plans)), "slower is never worse"
    assert len({point.planned.plan.digest for point in front}) == len(front)


def test_no_plan_at_any_latency_beats_a_point(study: Study) -> None:
    """What a search finds at 25 other latencies is never as fast and less costly than a point of the front."""
    front = [point for point in trace_front(study, Budget(), 5).plans if point.kind == PLAN]
    dense_ms = study.dense.latency_ms()
    least = min(figures(point)[0] for point in front)
    others = [
        make_plan(study, Budget(latency_ms=least + (dense_ms - least) * step / 24), tight={}).solution
        for step in range(1, 25)
    ]
    for point in front:
        ms, loss = figures(point)
        slack = point.planned.plan.proof.gap * loss + 1e-9
        assert not any(other.cost.latency_ms <= ms and other.loss < loss - slack for other in others)


def test_searches_side_by_side_find_what_each_finds_alone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    fronts = []
    for cores in (1, 5):
        monkeypatch.setattr("edgesdk.pipeline.front.count_cores", lambda cores=cores: cores)
        fronts.append(trace_front(study, Budget(), 9).plans)
    alone, beside = ([(point.kind, point.planned.plan.digest) for point in plans] for plans in fronts)
    assert alone == beside and len(alone) > 4


def test_what_stops_one_search_stops_all(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = list[float]()

    def interrupted(*given: object, **named: object) -> None:
        begun.append(0.0)
        raise KeyboardInterrupt

    monkeypatch.setattr("edgesdk.pipeline.front.count_cores", lambda: 1)
    monkeypatch.setattr("edgesdk.pipeline.front.plan_at", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trace_front(study, Budget(), 50)
    assert len(begun) < 50


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_bounds_are_kept_and_shares_are_of_the_dense_model(study: Study, share: float) -> None:
    size = 0.8 * study.dense.size_bytes
    dense_ms = study.dense.latency_ms()
    bounds = [Budget(latency_ratio=share), Budget(latency_ms=share * dense_ms)]
    front = [point for point in trace_front(study, Budget(size_bytes=size), 8, bounds).plans if point.kind == PLAN]
    assert len(front) == 1, "one plan for two names of one bound"
    cost = front[0].planned.solution.cost
    assert cost.latency_ms <= share * dense_ms * (1 + 1e-9) and cost.size_bytes <= size


def test_a_latency_without_a_plan_is_left_out_and_says_why(study: Study) -> None:
    front = trace_front(study, Budget(), 8, [Budget(latency_ms=1e-9), Budget(latency_ratio=0.9)])
    assert {point.kind for point in front.plans} == {"dense", "dense int8", PLAN}
    assert list(front.unreachable) == [1e-9] and front.unreachable[1e-9].figure == "latency_ms"


def test_what_breaks_a_bound_is_on_no_front_the_dense_model_neither(study: Study) -> None:
    size = 0.5 * study.dense.size_bytes
    front = trace_front(study, Budget(size_bytes=size), 4)
    assert front.plans and all(point.planned.solution.cost.size_bytes <= size for point in front.plans)
    none = trace_front(study, Budget(size_bytes=10), 4)
    assert none.plans == () and {error.figure for error in none.unreachable.values()} == {"size_bytes"}


@given(ROWS)
def test_undominated_is_what_it_says(rows: list[tuple[int, int]]) -> None:
    kept = [row for row, best in zip(rows, undominated(rows), strict=True) if best]
    assert len(set(kept)) == len(kept)
    for row in rows:
        assert any(a <= row[0] and b <= row[1] for a, b in kept), "every row is met by one that is kept"
    for a in kept:
        assert not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in rows)


@pytest.mark.parametrize(
    ("figures", "ranked"),
    [
        ([], []),
        ([(1.0, 1.0)], [0]),
        ([(1.0, 1.0), (8.0, 0.0)], [0, 1]),
        ([(1.0, 1.0), (2.0, 0.1), (4.0, 0.05), (8.0, 0.0)], [1, 2, 0, 3]),  # one sharp knee
        ([(1.0, 8.0), (2.0, 6.0), (4.0, 4.0), (8.0, 0.5), (16.0, 0.0)], [3, 1, 2, 0, 4]),  # late, then of its left part
        ([(1.0, 9.0), (10.0, 4.0), (100.0, 3.5), (1000.0, 0.0)], [1, 2, 0, 3]),  # ms count by ratios
        ([(1.0, 0.0), (2.0, 0.0), (4.0, 0.0)], [1, 0, 2]),  # nothing is lost anywhere
    ],
)
def test_knees_are_where_the_front_is_farthest_below_the_line_of_its_ends(
    figures: list[tuple[float, float]], ranked: list[int]
) -> None:
    assert rank_knees(figures) == ranked
    scaled = [(1e3 * ms, 7.0 * loss) for ms, loss in figures]
    assert rank_knees(scaled) == ranked, "in other units they are the same"


@given(ROWS)
def test_every_point_of_a_front_has_its_rank(rows: list[tuple[int, int]]) -> None:
    figures = sorted((1.0 + a, float(b)) for (a, b), best in zip(rows, undominated(rows), strict=True) if best)
    ranked = rank_knees(figures)
    assert sorted(ranked) == list(range(len(figures)))
    assert ranked[-2:] == sorted({0, len(figures) - 1})[:2] or len(figures) < 2
