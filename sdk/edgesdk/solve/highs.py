"""Binary programs whose relaxation is tight, solved by HiGHS from a core of their columns, with a proof.

The relaxation gives every column a reduced cost: what the objective rises by, at least, once the column is used. So a
program of the columns with the least reduced costs, a few hundred of many, gives a good answer at once; and an answer
that is above the relaxation by no more than the least reduced cost left out is the optimum of them all (Balas and
Zemel, Operations Research 28, 1980, on the core of a knapsack; reduced-cost fixing). Where it is not, the core grows.

Where few columns decide most, a relaxation that has them in between promises what no answer has. It is made for both
sides, which is a matter of milliseconds from where the simplex method ended, and a column's reduced cost is the least
of those that the parts give it: a disjunction (Balas, Discrete Applied Mathematics 89, 1998), which needs no cuts.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import highspy
import numpy as np

THREADS, SEED = 1, 0  # searches run side by side, and the time of each is its thread's
CORE, GROWTH = 300, 2
# Parts that the relaxation is made for; a value this near to 0 or 1 is whole.
PARTS, NEAR = 16, 1e-6
# Presolve by enumeration, as of HiGHS 1.15, at times takes an infeasible point for the optimum of a program like ours.
RULES_OFF = 1 << 16
TIE_SHARE = 0.1
_STDOUT = threading.Lock()

Row = dict[int, float]
INFEASIBLE = (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible)


@dataclass(frozen=True)
class Outcome:
    """A value per column (``None`` where none was found in time), and a proven bound on the objective."""

    values: np.ndarray | None
    bound: float
    infeasible: bool = False


@dataclass(frozen=True)
class Effort:
    """What a search may take: ``seconds`` of its thread's processor time, whoever else uses the machine, and of the
    clock's ``wall`` at most."""

    seconds: float
    wall: float


class _Ends:
    """When an effort that begins now is spent."""

    def __init__(self, effort: Effort) -> None:
        self._own, self._wall = time.thread_time() + effort.seconds, time.monotonic() + effort.wall

    def left(self) -> float:
        """Of the wall clock, in seconds."""
        return max(self._wall - time.monotonic(), 0.0)

    def spent(self) -> bool:
        return time.thread_time() > self._own or time.monotonic() > self._wall

    def hold(self, solver: highspy.Highs) -> None:
        """Let ``solver``, whose own limit is of the wall clock alone, end here."""
        solver.setOptionValue("time_limit", self.left())
        for interrupts in (solver.cbMipInterrupt, solver.cbIpmInterrupt, solver.cbSimplexInterrupt):
            interrupts.subscribe(lambda event: event.interrupt(self.spent()))


@dataclass(frozen=True)
class _Leaf:
    """A part of a program: the columns between ``lower`` and ``upper``, with the ``values`` that its relaxation has.

    ``bound`` is on the objective, ``reach`` per column where that is used.
    """

    bound: float
    reach: np.ndarray
    values: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


@dataclass
class BinaryProgram:
    """Minimise ``cost`` x + ``offset`` over columns x from 0 to ``upper``, whole where ``binary``.

    A row is a lower side, an upper side, and the coefficients by column.
    """

    binary: np.ndarray
    upper: np.ndarray
    cost: np.ndarray
    offset: float
    rows: list[tuple[float, float, Row]]
    start: np.ndarray = field(init=False)
    index: np.ndarray = field(init=False)
    value: np.ndarray = field(init=False)
    row_lower: np.ndarray = field(init=False)
    row_upper: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.start = np.cumsum([0, *(len(row) for _, _, row in self.rows)])
        self.index = np.fromiter((index for _, _, row in self.rows for index in row), dtype=np.int32)
        self.value = np.fromiter((value for _, _, row in self.rows for value in row.values()), dtype=np.float64)
        self.row_lower = np.array([lower for lower, _, _ in self.rows])
        self.row_upper = np.array([upper for _, upper, _ in self.rows])

    def minimise(
        self, gap: float, effort: Effort, tie: np.ndarray | None = None, most: float = 0.0, first: Sequence[int] = ()
    ) -> Outcome:
        """An answer within ``gap`` (relative) of the optimum, unless the ``effort`` is spent first.

        Among answers alike the one with the lower ``tie`` is preferred, which nowhere adds up to more than ``most``:
        it weighs as much as makes no more than ``TIE_SHARE`` of the gap. The columns ``first`` are those that decide
        most: where the relaxation is between them, it is made for both.
        """
        ends = _Ends(effort)
        leaves = self._relax(first, ends)
        if not leaves:
            return Outcome(None, math.inf, infeasible=True)
        bound, reach = min(leaf.bound for leaf in leaves), np.min([leaf.reach for leaf in leaves], axis=0)
        added = 0.0
        if tie is not None and bound > 0 and most > 0:
            added = TIE_SHARE * gap * bound
            self.cost, reach = self.cost + tie * added / most, reach + tie * added / most
        gap, order = (1 - 2 * TIE_SHARE) * gap, np.sort(reach[self.binary])
        count, best, value = CORE, None, math.inf
        while True:
            limit = max(min(order[count] if count < len(order) else math.inf, value), bound)
            used = ~(self.binary & (reach > limit))
            status, values, proven = self._branch(used, best, gap, ends)
            whole = bool(used.all())
            if status in INFEASIBLE:
                proven = math.inf
                if best is None and whole:
                    return Outcome(None, math.inf, infeasible=True)
            elif values is not None and self.cost @ values + self.offset < value:
                best, value = values, float(self.cost @ values) + self.offset
            bound = max(bound, min(proven, value, math.inf if whole else limit) - added)
            stopped = status not in (*INFEASIBLE, highspy.HighsModelStatus.kOptimal) or ends.spent()
            proved = best is not None and (value - bound <= gap * abs(value) or limit >= value)
            if whole or stopped or proved:
                return Outcome(best, bound)
            count *= GROWTH

    def _relax(self, first: Sequence[int], ends: _Ends) -> list[_Leaf]:
        """Parts that hold every answer between them, each with what its relaxation says; none where that is infeasible.

        Parts come from trying the columns ``first`` at 0 and at 1 where the relaxation has them in between, the part
        with the least bound before others, ``PARTS`` in all.
        """
        solver = self._load(self.upper, whole=False)
        solver.setOptionValue("solver", "simplex")  # which takes up a part from where another ended
        ends.hold(solver)
        whole = self._bound(solver, np.zeros(len(self.cost)), self.upper)
        if whole is None:
            return []
        leaves, done = [whole], list[_Leaf]()
        while leaves and len(leaves) + len(done) < PARTS and not ends.spent():
            leaf = min(leaves, key=lambda each: each.bound)
            leaves.remove(leaf)
            between = [column for column in first if NEAR < leaf.values[column] < 1 - NEAR]
            if not between:
                done.append(leaf)
                continue
            column = min(between, key=lambda each: abs(leaf.values[each] - 0.5))
            for at in (0.0, 1.0):
                lower, upper = leaf.lower.copy(), leaf.upper.copy()
                lower[column] = upper[column] = at
                if (part := self._bound(solver, lower, upper)) is not None:
                    leaves.append(part)
        return [*leaves, *done]

    def _bound(self, solver: highspy.Highs, lower: np.ndarray, upper: np.ndarray) -> _Leaf | None:
        """What the relaxation between ``lower`` and ``upper`` says, or ``None`` where it is infeasible.

        Bounds come from the rows' prices alone (Lagrangian duality), so they hold however far the solver got.
        """
        every = np.arange(len(self.cost), dtype=np.int32)
        solver.changeColsBounds(len(every), every, lower, upper)
        solver.run()
        status = solver.getModelStatus()
        if status in INFEASIBLE:
            return None
        prices, values = np.zeros(len(self.rows)), np.zeros(len(self.cost))
        if status == highspy.HighsModelStatus.kOptimal:
            solution = solver.getSolution()
            prices, values = np.asarray(solution.row_dual), np.asarray(solution.col_value)
        prices = np.where(np.isinf(np.where(prices > 0, self.row_lower, self.row_upper)), 0.0, prices)
        sides = np.where(prices > 0, self.row_lower, np.where(prices < 0, self.row_upper, 0.0))
        spread = np.repeat(prices, np.diff(self.start))
        reduced = self.cost - np.bincount(self.index, weights=self.value * spread, minlength=len(self.cost))
        bound = self.offset + float(sides @ prices + np.where(reduced < 0, upper, lower) @ reduced)
        reach = np.where(upper > 0, bound + np.where(lower > 0, 0.0, reduced), math.inf)
        return _Leaf(bound, reach, values, lower, upper)

    def _branch(
        self, used: np.ndarray, best: np.ndarray | None, gap: float, ends: _Ends
    ) -> tuple[highspy.HighsModelStatus, np.ndarray | None, float]:
        """The program with only the columns ``used``, from ``best`` where there is one: status, answer and bound."""
        start = highspy.HighsSolution()
        for presolve in ("choose", "off"):
            solver = self._load(np.where(used, self.upper, 0.0), whole=True)
            # A core is small already: to restart from fewer columns costs more than it brings.
            options = {
                "mip_rel_gap": gap, "mip_abs_gap": 1e-8, "presolve": presolve, "mip_allow_restart": False
            }  # fmt: skip
            for option, value in options.items():
                solver.setOptionValue(option, value)
            ends.hold(solver)
            if best is not None:
                start.col_value = best.tolist()
                solver.setSolution(start)
            solver.run()
            # HiGHS checks its own answer; where what presolve made of it is wrong, it can do without presolve.
            if solver.getModelStatus() != highspy.HighsModelStatus.kSolveError:
                break
        info = solver.getInfo()
        feasible = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        values = np.asarray(solver.getSolution().col_value) if feasible else None
        return solver.getModelStatus(), values, info.mip_dual_bound

    def _load(self, upper: np.ndarray, whole: bool) -> highspy.Highs:
        program = highspy.HighsLp()
        program.num_col_, program.num_row_, program.offset_ = len(self.cost), len(self.rows), self.offset
        program.col_cost_, program.col_lower_, program.col_upper_ = self.cost, np.zeros(len(self.cost)), upper
        program.row_lower_, program.row_upper_ = self.row_lower, self.row_upper
        if whole:
            kinds = highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger
            program.integrality_ = [kinds[binary] for binary in self.binary.tolist()]
        matrix = program.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kRowwise
        matrix.start_, matrix.index_, matrix.value_ = self.start, self.index, self.value
        solver = new_solver()
        for option, value in (("output_flag", False), ("threads", THREADS), ("random_seed", SEED)):
            solver.setOptionValue(option, value)
        solver.setOptionValue("presolve_rule_off", RULES_OFF)
        solver.passModel(program)
        return solver


def new_solver() -> highspy.Highs:
    """A solver whose constructor says nothing: that of highspy 1.16 prints a banner to standard output."""
    with _STDOUT, _silenced_stdout():
        return highspy.Highs()


@contextmanager
def _silenced_stdout() -> Iterator[None]:
    """What native code prints to file descriptor 1 goes nowhere; what Python printed before it is kept."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
    except (AttributeError, OSError, ValueError):  # there is no standard output: nothing can be printed to it
        yield
        return
    try:
        _flush_c()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        _flush_c()  # to where it was printed, before the descriptor is what it was
        os.dup2(kept, 1)
        os.close(kept)


def _flush_c() -> None:
    """Empty the buffers of C's standard streams."""
    ctypes.CDLL(None).fflush(None)
