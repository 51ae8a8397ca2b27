"""The search against enumeration, on menus small enough for it, and the laws that hold on any menu."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from itertools import accumulate, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from menus import deep_menu, random_menu

from edgesdk.core.budget import Cost, parse_latency, show
from edgesdk.core.errors import BudgetError
from edgesdk.core.menu import BranchMenu, Change, Choice, GroupMenu, LayerMenu, Menu
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.solve import highs
from edgesdk.solve.highs import Effort, _Ends
from edgesdk.solve.milp import Solution, price, solve
from edgesdk.solve.program import undominated

FIGURES = ("latency_ms", "peak_memory_bytes", "size_bytes", "loss")
SEEDS = st.integers(0, 10**9)
SHARES = st.lists(st.none() | st.floats(0.0, 1.0), min_size=4, max_size=4)
GAP = 1e-4
Figures = dict[str, float]


def assignments(menu: Menu) -> Iterator[tuple[dict[str, Choice], dict[str, int], tuple[str, ...]]]:
    """Every assignment of ``menu`` whose choices fit together."""
    joins = {branch.join: branch.name for branch in menu.branches}
    for widths in product(*(group.widths for group in menu.groups)):
        kept = dict(zip((group.name for group in menu.groups), widths, strict=True))
        for out in product((False, True), repeat=len(menu.branches)):
            dropped = tuple(b.name for b, gone in zip(menu.branches, out, strict=True) if gone)
            fitting = {
                layer.name: [
                    c
                    for c in layer.choices
                    if (layer.reads is None or c.reads == kept[layer.reads])
                    and (layer.writes is None or c.writes == kept[layer.writes])
                    and c.skips == (joins.get(layer.name) in dropped)
                ]
                for layer in menu.layers
                if layer.branch not in dropped
            }
            for chosen in product(*fitting.values()):
                choices = dict(zip(fitting, chosen, strict=True))
                alike = (len({choices[n].option for n in names if n in choices}) <= 1 for names in menu.shared)
                if all(alike):
                    yield choices, kept, dropped


def enumerated(menu: Menu) -> list[Figures]:
    points = []
    for choices, kept, dropped in assignments(menu):
        cost, loss = price(menu, choices, kept, dropped)
        points.append(figures(cost, loss))
    return points


def figures(cost: Cost, loss: float) -> Figures:
    return {name: loss if name == "loss" else getattr(cost, name) for name in FIGURES}


def limits_at(points: list[Figures], shares: list[float | None]) -> Figures:
    """A bound per figure that has a share: so far from the least to the greatest that there is."""
    limits = {}
    for name, share in zip(FIGURES, shares, strict=True):
        if share is not None and points:
            values = sorted(f[name] for f in points)
            limits[name] = values[round(share * (len(values) - 1))]
    return limits


def solved(menu: Menu, limits: Mapping[str, float], objective: str = "loss", gap: float = GAP) -> Solution:
    bounds = {name: limit for name, limit in limits.items() if name != "loss"}
    return solve(menu, bounds, objective, max_loss=limits.get("loss"), gap=gap)


@given(SEEDS, st.sampled_from(("latency_ms", "size_bytes", "peak_memory_bytes")))
@settings(max_examples=25, deadline=None)
def test_a_front_has_every_point_that_no_other_beats(seed: int, figure: str) -> None:
    """Of all assignments there are, those that none beats in the figure and the loss: the search at the figure of each
    finds it, within the gap, and at no figure something that enumeration does not have."""
    menu = random_menu(seed)
    points = sorted((point[figure], point["loss"]) for point in enumerated(menu))
    lowest = dict.fromkeys(accumulate((loss for _, loss in points), min))
    front = [next(point for point in points if point[1] == loss) for loss in lowest]
    for most, loss in front[:10]:
        found = figures(*price(menu, *plan_of(solved(menu, {figure: most}))))
        assert found[figure] <= most and loss <= found["loss"] <= loss + GAP * abs(loss) + 1e-9
        assert any((found[figure], found["loss"]) == point for point in points)


def plan_of(solution: Solution) -> tuple[Mapping[str, Choice], Mapping[str, int], tuple[str, ...]]:
    return solution.choices, solution.kept, solution.dropped


@example(92, [0.4375, 0.5, 0.5, None], "latency_ms")  # HiGHS 1.15.1 takes an infeasible point for its optimum
@given(SEEDS, SHARES, st.sampled_from(FIGURES))
@settings(max_examples=120, deadline=None)
def test_the_search_agrees_with_enumeration(seed: int, shares: list[float | None], objective: str) -> None:
    menu = random_menu(seed)
    points = enumerated(menu)
    limits = limits_at(points, shares)
    within = [f[objective] for f in points if all(f[name] <= limit for name, limit in limits.items())]
    if not within:
        with pytest.raises(BudgetError):
            solved(menu, limits, objective)
        return
    solution = solved(menu, limits, objective)
    reached, best, proof = figures(solution.cost, solution.loss), min(within), solution.proof
    assert reached == figures(*price(menu, solution.choices, solution.kept, solution.dropped))
    assert all(reached[name] <= limit for name, limit in limits.items())
    assert proof.objective == reached[objective] >= best
    assert proof.bound <= best * (1 + 1e-9) + 1e-9
    assert proof.gap <= GAP
    assert reached[objective] - best <= GAP * reached[objective]
    assert math.isclose(proof.gap * abs(proof.objective), proof.objective - proof.bound, abs_tol=1e-9)


@given(SEEDS, SHARES, st.sampled_from(FIGURES), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_a_small_core_gives_the_same_answer(seed: int, shares: list[float | None], objective: str, core: int) -> None:
    menu = random_menu(seed)
    points = enumerated(menu)
    limits = limits_at(points, shares)
    within = [f[objective] for f in points if all(f[name] <= limit for name, limit in limits.items())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(highs, "CORE", core)
        if not within:
            with pytest.raises(BudgetError):
                solved(menu, limits, objective)
            return
        solution = solved(menu, limits, objective)
    reached = figures(solution.cost, solution.loss)[objective]
    assert reached - min(within) <= GAP * reached
    assert solution.proof.gap <= GAP


@given(SEEDS, st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2), st.sampled_from(FIGURES[:3]))
@settings(max_examples=40, deadline=None)
def test_a_wider_bound_never_loses_more(seed: int, shares: list[float], name: str) -> None:
    menu = random_menu(seed)
    points = enumerated(menu)
    tight, wide = (limits_at(points, [share if n == name else None for n in FIGURES]) for share in sorted(shares))
    assert solved(menu, wide).loss <= solved(menu, tight).loss * (1 + GAP)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_what_loses_nothing_is_as_fast_as_it_can_be(seed: int) -> None:
    menu = random_menu(seed)
    lossless = [f["latency_ms"] for f in enumerated(menu) if f["loss"] == 0]
    solution = solved(menu, {})
    assert (solution.loss == 0) == bool(lossless)
    if lossless:
        assert solution.cost.latency_ms <= min(lossless) * (1 + 2 * GAP)


def chain(*precisions: tuple[str, ...], change: Change) -> Menu:
    """Layers ``one``, ``two``, ...: a choice per precision, 1 ms in int8 and 2 ms in fp32, no loss."""
    names = ("one", "two", "three")
    layers = tuple(
        LayerMenu(name, tuple(Choice(Option(p), 1.0 if p == INT8 else 2.0) for p in allowed))
        for name, allowed in zip(names, precisions, strict=False)
    )
    return Menu(layers, changes=(change,))


@pytest.mark.parametrize(
    ("first", "second", "is_output", "expected"),
    [
        (FP32, FP32, False, 0.0),
        (FP32, INT8, False, 10.0),
        (INT8, FP32, False, 100.0),
        (INT8, INT8, False, 0.0),
        (INT8, INT8, True, 100.0),
    ],
)
def test_a_change_of_precision_is_paid_once(first: str, second: str, is_output: bool, expected: float) -> None:
    change = Change("one", ("two", "three"), None, {None: 10.0}, {None: 100.0}, is_output)
    menu = chain((first,), (second,), (second,), change=change)
    solution = solve(menu, {}, "latency_ms")
    assert solution.cost.latency_ms == pytest.approx(sum(c.latency_ms for c in solution.choices.values()) + expected)


def test_an_input_of_the_network_is_quantized_for_an_int8_reader() -> None:
    change = Change("image", ("one",), None, {None: 10.0}, {None: 100.0})
    assert solve(chain((INT8,), change=change), {}, "latency_ms").cost.latency_ms == 11.0
    assert solve(chain((INT8, FP32), change=change), {}, "latency_ms").cost.latency_ms == 2.0


def residual(skip: str) -> Menu:
    """An fp32 stem, an int8 branch of 50 ms that may be left out, and a join whose skip runs in ``skip``."""
    join = (Choice(Option(INT8), 1.0), Choice(Option(skip), 0.0, skips=True))
    return Menu(
        layers=(
            LayerMenu("stem", (Choice(Option(FP32), 1.0),)),
            LayerMenu("inside", (Choice(Option(INT8), 50.0),), branch="block"),
            LayerMenu("join", join),
        ),
        branches=(BranchMenu("block", "join", 1.0),),
        changes=(
            Change("stem", ("inside", "join"), None, {None: 3.0}, {None: 3.0}),
            Change("inside", ("join",), None, {None: 7.0}, {None: 7.0}),
        ),
    )


def test_a_branch_left_out_takes_its_changes_with_it_but_the_join_still_pays_for_what_it_passes_on() -> None:
    assert solve(residual(FP32), {}).cost.latency_ms == 55.0
    fp32, int8 = (solve(residual(skip), {}, "latency_ms") for skip in (FP32, INT8))
    assert fp32.dropped == int8.dropped == ("block",)
    assert "inside" not in fp32.choices
    assert (fp32.cost.latency_ms, fp32.loss) == (1.0, 1.0)
    assert int8.cost.latency_ms == 4.0


def test_price_refuses_an_assignment_that_does_not_fit() -> None:
    menu = residual(FP32)
    stem, inside, (add, skip) = menu.layers[0].choices[0], menu.layers[1].choices[0], menu.layers[2].choices
    with pytest.raises(ValueError, match="inside has no choice"):
        price(menu, {"stem": stem, "join": add}, {}, ())
    with pytest.raises(ValueError, match="inside is left out"):
        price(menu, {"stem": stem, "inside": inside, "join": skip}, {}, ("block",))
    with pytest.raises(ValueError, match="does not fit"):
        price(menu, {"stem": stem, "join": add}, {}, ("block",))


def test_peak_memory_is_that_of_the_worst_step() -> None:
    first, second = Choice(Option(), 1.0, output_bytes=10.0, memory_bytes=1.0), Choice(Option(), 1.0, scratch_bytes=5.0)
    live = {"one": ("one",), "two": ("one", "two")}
    menu = Menu((LayerMenu("one", (first,)), LayerMenu("two", (second,))), live=live, memory_bytes=100.0)
    assert price(menu, {"one": first, "two": second}, {}, ())[0].peak_memory_bytes == 116.0
    assert solve(menu, {"peak_memory_bytes": 116.0}).cost.peak_memory_bytes == 116.0
    with pytest.raises(
        BudgetError, match=re.escape("the tightest is 0.116 kB (most of it: layer one 0.011 kB, layer two 0.005 kB")
    ):
        solve(menu, {"peak_memory_bytes": 115.0})


def test_a_dominated_choice_is_left_out_and_others_stay() -> None:
    best, worse = Choice(Option(FP32), 1.0, 1.0), Choice(Option(FP32), 1.0, 2.0)
    smaller, integer = Choice(Option(FP32), 2.0, 1.0, size_bytes=-1.0), Choice(Option(INT8), 3.0, 3.0)
    assert undominated((worse, best, best, smaller, integer), by_precision=True) == [best, smaller, integer]
    assert undominated((worse, best, best, smaller, integer), by_precision=False) == [best, smaller]


def test_a_bound_out_of_reach_names_the_tightest_figure_and_the_layers_that_take_it() -> None:
    menu = deep_menu(8, widths=4, options=3)
    tightest = solve(menu, {}, "latency_ms", gap=1e-6)
    with pytest.raises(BudgetError) as error:
        solve(menu, {"latency_ms": 0.5 * tightest.cost.latency_ms, "size_bytes": 1e9})
    slowest = max(tightest.choices.values(), key=lambda c: c.latency_ms)
    assert f"the tightest is {show('latency_ms', tightest.cost.latency_ms)} (most of it: " in error.value.fact
    assert f" {show('latency_ms', slowest.latency_ms)}, " in error.value.fact
    assert "size" not in error.value.fact
    told = re.search(r"a latency of ([\d.]+ \S+s)\b", error.value.remedy)
    allowed = parse_latency(told[1]) if told else {}
    assert solve(menu, allowed).cost.latency_ms <= allowed["latency_ms"]


def test_bounds_that_only_hold_one_by_one_say_so() -> None:
    fast, small = Choice(Option(), 1.0, size_bytes=9000.0), Choice(Option(), 5.0, size_bytes=1000.0)
    menu = Menu((LayerMenu("one", (fast, small)),))
    with pytest.raises(BudgetError) as error:
        solve(menu, {"latency_ms": 2.0, "size_bytes": 2000.0})
    assert "each bound can be kept alone but not all together" in error.value.fact
    assert "within 2 ms of latency, a size of 2 kB cannot be reached, the tightest is 9 kB" in error.value.fact
    with pytest.raises(BudgetError, match="a loss of accuracy of -1 cannot be reached, the tightest is 0"):
        solve(menu, {}, "latency_ms", max_loss=-1.0)


def test_choices_that_never_fit_together_are_no_question_of_the_budget() -> None:
    first, second = Choice(Option(), 1.0, writes=8), Choice(Option(), 1.0, reads=16)
    layers = LayerMenu("one", (first,), writes="g"), LayerMenu("two", (second,), reads="g")
    menu = Menu(layers, (GroupMenu("g", {8: 0.0, 16: 0.0}),))
    for bounds in ({}, {"latency_ms": 1.0}):
        with pytest.raises(ValueError, match="do not fit together"):
            solve(menu, bounds)


def test_no_time_is_said_to_be_the_reason() -> None:
    with pytest.raises(BudgetError, match="found no plan within 0 s: give it more time"):
        solve(deep_menu(8, widths=4, options=3), {"latency_ms": 1.0}, seconds=0.0)


def test_neighbours_on_the_machine_take_nothing_of_the_time_to_search() -> None:
    def work() -> None:
        begun = time.thread_time()
        while time.thread_time() < begun + 0.1:
            pass

    ends = _Ends(Effort(seconds=0.05, wall=60.0))
    time.sleep(0.1)  # as a process does that others keep from the processor
    other = threading.Thread(target=work)  # as a search beside this one
    other.start()
    other.join()
    assert not ends.spent()
    work()
    assert ends.spent() and ends.left() > 0
    with pytest.raises(BudgetError, match="found no plan within 0 s"):  # the solver is stopped, whatever the clock says
        solve(deep_menu(8, widths=4, options=3), {"latency_ms": 1.0}, seconds=0.0, wall=60.0)


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="'energy' is not one of latency_ms"):
        solve(chain((FP32,), change=Change("image", (), None, {}, {})), {"energy": 1.0})


def test_a_residual_network_is_solved_to_the_gap_and_the_same_again() -> None:
    menu = deep_menu(12, widths=4, options=4)
    fastest = solve(menu, {}, "latency_ms").cost.latency_ms
    bounds = {"latency_ms": 10 * fastest, "size_bytes": 2e6, "peak_memory_bytes": 2e6}
    first, second = (solve(menu, bounds) for _ in range(2))
    assert first.loss > 0 and first.proof.gap <= 0.001
    assert all(getattr(first.cost, name) <= bound for name, bound in bounds.items())
    assert (first.choices, first.kept, first.dropped) == (second.choices, second.kept, second.dropped)


def test_the_solver_prints_nothing_and_what_others_print_stays() -> None:
    """In a process of its own: a banner is printed once in a process, at the latest when its streams are flushed."""
    script = (
        "from edgesdk.solve.highs import new_solver\n"
        "print('before')\n"
        "print(new_solver().version())\n"
        "print('after', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["before", metadata.version("highspy"), "after"]
    assert done.stderr == ""
