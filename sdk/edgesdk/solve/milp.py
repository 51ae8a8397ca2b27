"""The exact joint search: one mixed-integer program over channels, ranks, precisions and residual branches.

A multiple-choice knapsack (Kellerer et al., Knapsack Problems, 2004, chapter 11) with a choice per layer, tied together
by the channel groups that layers share and by the price of changing the precision between them. HiGHS solves it
(Huangfu and Hall, Math. Prog. Comp. 10, 2018) and proves how far from the optimum its answer can be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgesdk.core.budget import Cost, show
from edgesdk.core.errors import BudgetError
from edgesdk.core.menu import Change, Choice, LayerMenu, Menu
from edgesdk.core.plan import Proof
from edgesdk.price.precision import DEQUANTIZE, QUANTIZE, find_change
from edgesdk.solve.highs import Effort, new_solver
from edgesdk.solve.program import FIGURES, LATENCY, LOSS, PEAK, SIZE, Program

PATIENCE = 10  # times the seconds that there are for a good answer, until there is one at all
TITLES = {LATENCY: "latency", PEAK: "peak memory", SIZE: "size", LOSS: "loss of accuracy"}
# HiGHS may break a row by its tolerance of 1e-6; a second run with this margin keeps the bound for certain.
MARGIN = 3e-6
# A figure that is called the tightest reachable is that to this relative gap.
TIGHTEST = 1e-6
_LAST: dict[str, Program] = {}  # a front solves one menu many times
NEVER = "the choices of the menu do not fit together at any width"


@dataclass(frozen=True)
class Solution:
    """What to do and what it takes. ``choices`` by layer, without those of ``dropped`` branches; ``kept`` by group.

    ``cost`` (ms, bytes, basis ``predicted``) and ``loss`` come from :func:`price`, not from the solver. ``proof`` is
    in the unit of the objective.
    """

    choices: Mapping[str, Choice]
    kept: Mapping[str, int]
    dropped: tuple[str, ...]
    cost: Cost
    loss: float
    proof: Proof


class Unreachable(BudgetError):
    """Nothing on a menu keeps the bounds, at its prices.

    ``nearest`` has, by the figure that is out of reach, the assignment that comes nearest to its bound, alone or within
    the other bounds; ``most`` the layers that take most of the figure there, in words.
    """

    def __init__(self, fact: str, remedy: str, nearest: Mapping[str, Solution], most: Mapping[str, str],
                 limits: Mapping[str, float]) -> None:  # fmt: skip
        name, first = next(iter(nearest.items()))
        super().__init__(fact, remedy, figure=name, asked=limits[name], tightest=_figure(first, name))
        self.nearest: Mapping[str, Solution] = nearest
        self.most: Mapping[str, str] = most


def price(
    menu: Menu, choices: Mapping[str, Choice], kept: Mapping[str, int], dropped: Iterable[str]
) -> tuple[Cost, float]:
    """What an assignment costs (ms, bytes) and what it loses in accuracy, by plain addition.

    ``choices`` by layer, ``kept`` channels by group, ``dropped`` branches. Peak memory is the most over the steps of
    ``menu.live``; what a branch that is left out would make takes nothing. Raises ``ValueError`` where a choice does
    not fit the widths or the branches.
    """
    gone = set(dropped)
    joins = {branch.join: branch.name for branch in menu.branches}
    for layer in menu.layers:
        choice = choices.get(layer.name)
        if (choice is None) != (layer.branch in gone):
            raise ValueError(f"{layer.name} has no choice" if choice is None else f"{layer.name} is left out")
        if choice and not (_fits(layer, choice, kept) and choice.skips == (joins.get(layer.name) in gone)):
            raise ValueError(f"the choice of {layer.name} does not fit the widths or the branches")
    for names in menu.shared:
        if len({choices[name].option for name in names if name in choices}) > 1:
            raise ValueError(f"{', '.join(names)} share their weights and differ in their option")
    chosen = choices.values()
    widths = [group.widths[kept[group.name]] for group in menu.groups]
    loss = math.fsum([*(c.loss for c in chosen), *widths, *(b.loss for b in menu.branches if b.name in gone)])
    made = {layer.name for layer in menu.layers}
    changes = [_change_price(change, choices, kept, made) for change in menu.changes]
    latency = math.fsum([menu.latency_ms, *(c.latency_ms for c in chosen), *(ms for ms, _ in changes)])
    steps = [math.fsum(_step_bytes(menu, choices, step).values()) for step in menu.live]
    resident = max(0.0, math.fsum([*(c.memory_bytes for c in chosen), -menu.spare_bytes]))
    kernels = [menu.kernels.get(name, 0.0) for name in frozenset().union(*(c.kernels for c in chosen))]
    memory = math.fsum([menu.memory_bytes, resident, *kernels, max(steps, default=0.0)])
    size = math.fsum([menu.size_bytes, *(c.size_bytes for c in chosen), *(bytes_ for _, bytes_ in changes)])
    return Cost(latency, memory, size, "predicted"), loss


def solve(
    menu: Menu,
    bounds: Mapping[str, float],
    objective: str = LOSS,
    *,
    max_loss: float | None = None,
    gap: float = 0.001,
    seconds: float = 10.0,
    wall: float | None = None,
) -> Solution:
    """The assignment with the least ``objective``, a field of ``Cost`` or ``loss``, within ``bounds`` and ``max_loss``.

    ``bounds`` are upper bounds by the field of ``Cost`` (ms, bytes). The answer is within ``gap`` (relative) of the
    optimum unless ``seconds`` of processor time run out first, or ``wall`` of the clock, by default ``PATIENCE`` times
    as many: neighbours make an answer late, not another. For a first answer there are ``PATIENCE`` times as many of
    both; its proof says which. Ties go to the lower latency (to the lower loss where latency, memory or size is the
    objective), by a weight with which it makes no more than a tenth of ``gap``. Where nothing has to be lost, the
    fastest of what loses nothing is sought, in a run of its own.

    Raises ``BudgetError`` where nothing keeps the bounds, with the tightest reachable figures, and where nothing was
    found in time; ``ValueError`` for an unknown figure, or a menu whose choices never fit together.
    """
    limits = dict(bounds) if max_loss is None else {**bounds, LOSS: max_loss}
    if unknown := [name for name in (*limits, objective) if name not in FIGURES]:
        raise ValueError(f"{unknown[0]!r} is not one of {', '.join(FIGURES)}")
    program = _program_of(menu)
    effort = Effort(seconds, PATIENCE * seconds if wall is None else wall)
    solution = _best(program, objective, limits, gap, effort)
    if solution is None:
        raise _unreachable(program, limits, effort)
    left = seconds - solution.proof.seconds
    if objective != LOSS or solution.loss != 0 or left <= 0:
        return solution
    try:
        fastest = _best(program, LATENCY, {**limits, LOSS: 0.0}, gap, replace(effort, seconds=left))
    except BudgetError:
        return solution
    if fastest is None or fastest.cost.latency_ms > solution.cost.latency_ms:
        return solution
    return replace(fastest, proof=replace(solution.proof, seconds=solution.proof.seconds + fastest.proof.seconds))


def _program_of(menu: Menu) -> Program:
    """The program of ``menu``; as long as the same one is asked for, that which there is."""
    if (last := _LAST.get("program")) is None or last.menu is not menu:
        _LAST["program"] = last = Program(menu)
    return last


def _fits(layer: LayerMenu, choice: Choice, kept: Mapping[str, int]) -> bool:
    reads = layer.reads is None or choice.reads == kept[layer.reads]
    return reads and (layer.writes is None or choice.writes == kept[layer.writes])


def _change_price(
    change: Change, choices: Mapping[str, Choice], kept: Mapping[str, int], made: set[str]
) -> tuple[float, float]:
    """What a change of precision costs: ms, and bytes of the file."""
    if change.tensor in made and change.tensor not in choices:
        return 0.0, 0.0
    width = None if change.group is None else kept[change.group]
    readers = [choices[name].integer for name in change.readers if name in choices] + [False] * change.is_output
    way = find_change(change.tensor in made and choices[change.tensor].integer, readers)
    if way == QUANTIZE:
        return change.quantize_ms[width], change.size_bytes
    return (change.dequantize_ms[width] if way == DEQUANTIZE else 0.0), 0.0


def _step_bytes(menu: Menu, choices: Mapping[str, Choice], step: str) -> dict[str, float]:
    """What is held while ``step`` runs, by the layer whose output or scratch it is."""
    held = {name: choices[name].output_bytes for name in menu.live[step] if name in choices}
    if step in choices:
        held[step] = held.get(step, 0.0) + choices[step].scratch_bytes
    return held


def _figure(solution: Solution, name: str) -> float:
    return solution.loss if name == LOSS else getattr(solution.cost, name)


def _show(name: str, value: float) -> str:
    return f"{value:.3g}" if name == LOSS else show(name, value)


def _best(program: Program, objective: str, limits: Mapping[str, float], gap: float, effort: Effort) -> Solution | None:
    """The best assignment within ``limits``, or ``None`` where there is none."""
    start, bound = time.thread_time(), math.inf
    for margin in (0.0, MARGIN):
        outcome = program.minimise(objective, limits, gap, effort, margin)
        if outcome.values is None and not outcome.infeasible:  # a late answer is better than none
            late = Effort(PATIENCE * effort.seconds, PATIENCE * effort.wall)
            outcome = program.minimise(objective, limits, gap, late, margin)
        if outcome.infeasible:
            return None
        if outcome.values is None:
            spent = (1 + PATIENCE) * effort.seconds
            raise BudgetError(f"the solver found no plan within {spent:g} s", "give it more time or a wider budget")
        solution = _read(program, outcome.values)
        bound = min(bound, outcome.bound)
        if all(_figure(solution, name) <= limit for name, limit in limits.items()):
            break
    value = _figure(solution, objective)
    bound = min(bound, value)
    relative = 0.0 if bound == value else (value - bound) / abs(value) if value else math.inf
    proof = Proof(value, bound, relative, time.thread_time() - start, f"HiGHS {new_solver().version()}")
    return replace(solution, proof=proof)


def _read(program: Program, values: np.ndarray) -> Solution:
    """The assignment that the solver's columns mean, priced anew."""

    def largest(columns: Iterable[int]) -> int:
        return max(columns, key=values.__getitem__)

    dropped = tuple(name for name, column in program.left_out.items() if values[column] > 0.5)
    kept = {}
    for group, columns in program.widths.items():
        width_of = {column: width for width, column in columns.items()}
        kept[group] = width_of[largest(width_of)]
    runs = {name: picks for name, picks in program.picks.items() if program.layers[name].branch not in dropped}
    choices = {name: picks[largest(picks)] for name, picks in runs.items()}
    cost, loss = price(program.menu, choices, kept, dropped)
    return Solution(choices, kept, dropped, cost, loss, Proof(0.0, 0.0, 0.0, 0.0, "HiGHS"))


def _unreachable(program: Program, limits: Mapping[str, float], effort: Effort) -> BudgetError:
    """What to say where nothing keeps ``limits``: how near one can get, and which layers take most of it there."""

    def tightest(name: str, others: Mapping[str, float]) -> Solution:
        solution = _best(program, name, others, TIGHTEST, effort)
        if solution is None:
            raise ValueError(NEVER)
        return solution

    if not limits:
        raise ValueError(NEVER)
    alone = {name: tightest(name, {}) for name in limits}
    short = {name: solution for name, solution in alone.items() if _figure(solution, name) > limits[name]}
    facts = [_missed(program.menu, name, limits[name], solution) for name, solution in short.items()]
    if not short:
        held: dict[str, float] = {}
        name, solution = next(iter(alone.items()))
        for name, limit in limits.items():
            solution = tightest(name, held) if held else alone[name]
            if _figure(solution, name) > limit:
                break
            held[name] = limit
        within = " and ".join(f"{_show(other, held[other])} of {TITLES[other]}" for other in held if other != name)
        facts = [f"within {within}, " * bool(within) + _missed(program.menu, name, limits[name], solution)]
        facts = ["each bound can be kept alone but not all together", *facts]
        short = {name: solution}
    # What is shown is rounded to three digits: a little more is sure to be enough.
    enough = [f"a {TITLES[name]} of {_show(name, 1.006 * _figure(solution, name))}" for name, solution in short.items()]
    remedy = f"allow {' and '.join(enough)}, or take another device or a smaller model"
    most = {name: _most(program.menu, name, solution) for name, solution in short.items()}
    return Unreachable("; ".join(facts), remedy, short, most, limits)


def _missed(menu: Menu, name: str, limit: float, solution: Solution) -> str:
    """That ``limit`` is out of reach, and the tightest figure with the layers that take most of it."""
    parts = _most(menu, name, solution)
    tightest = _show(name, _figure(solution, name)) + (f" (most of it: {parts})" if parts else "")
    return f"a {TITLES[name]} of {_show(name, limit)} cannot be reached, the tightest is {tightest}"


def _most(menu: Menu, name: str, solution: Solution) -> str:
    """The three layers that take most of the figure ``name``, in words."""
    if name == PEAK:
        peak = max(menu.live, key=lambda step: sum(_step_bytes(menu, solution.choices, step).values()), default=None)
        held = {} if peak is None else _step_bytes(menu, solution.choices, peak)
        takes = {f"layer {layer}": c.memory_bytes + held.get(layer, 0.0) for layer, c in solution.choices.items()}
    else:
        takes = {f"layer {layer}": getattr(c, name) for layer, c in solution.choices.items()}
    if name == LOSS:
        takes |= {f"the channels of {group.name}": group.widths[solution.kept[group.name]] for group in menu.groups}
        takes |= {f"without {branch.name}": branch.loss for branch in menu.branches if branch.name in solution.dropped}
    most = sorted((part for part in takes if takes[part] > 0), key=lambda part: -takes[part])[:3]
    return ", ".join(f"{part} {_show(name, takes[part])}" for part in most)
