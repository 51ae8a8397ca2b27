"""Binary programs whose relaxation is tight, solved by HiGHS from a core of their columns, with a proof.

The relaxation gives every column a reduced cost: what the objective rises by, at least, once the column is used. So a
program of the columns with the least reduced costs, a few thousand of many, gives a good answer at once; and an answer
that is above the relaxation by no more than the least reduced cost left out is the optimum of them all (Balas and
Zemel, Operations Research 28, 1980, on the core of a knapsack; reduced-cost fixing). Where it is not, the core grows.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import highspy
import numpy as np

THREADS, SEED = 2, 0
CORE, GROWTH = 2000, 3
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
    """What a search may take: ``seconds`` of this process's processor time, whoever else uses the machine, and of the
    clock's ``wall`` at most."""

    seconds: float
    wall: float


class _Ends:
    """When an effort that begins now is spent."""

    def __init__(self, effort: Effort) -> None:
        self._own, self._wall = time.process_time() + effort.seconds, time.monotonic() + effort.wall

    def left(self) -> float:
        """Of the wall clock, in seconds."""
        return max(self._wall - time.monotonic(), 0.0)

    def spent(self) -> bool:
        return time.process_time() > self._own or time.monotonic() > self._wall

    def hold(self, solver: highspy.Highs) -> None:
        """Let ``solver``, whose own limit is of the wall clock alone, end here."""
        solver.setOptionValue("time_limit", self.left())
        for interrupts in (solver.cbMipInterrupt, solver.cbIpmInterrupt, solver.cbSimplexInterrupt):
            interrupts.subscribe(lambda event: event.interrupt(self.spent()))


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

    def minimise(self, gap: float, effort: Effort, tie: np.ndarray | None = None, most: float = 0.0) -> Outcome:
        """An answer within ``gap`` (relative) of the optimum, unless the ``effort`` is spent first.

        Among answers alike the one with the lower ``tie`` is preferred, which nowhere adds up to more than ``most``:
        it weighs as much as makes no more than ``TIE_SHARE`` of the gap.
        """
        ends = _Ends(effort)
        relaxed = self._relax(ends)
        if relaxed is None:
            return Outcome(None, math.inf, infeasible=True)
        bound, reduced = relaxed
        added = 0.0
        if tie is not None and bound > 0 and most > 0:
            added = TIE_SHARE * gap * bound
            self.cost, reduced = self.cost + tie * added / most, reduced + tie * added / most
        gap, least, order = (1 - 2 * TIE_SHARE) * gap, bound, np.sort(reduced[self.binary])
        count, best, value = CORE, None, math.inf
        while True:
            delta = max(min(order[count] if count < len(order) else math.inf, value - least), 0.0)
            used = ~(self.binary & (reduced > delta))
            status, values, proven = self._branch(used, best, gap, ends)
            whole = bool(used.all())
            if status in INFEASIBLE:
                proven = math.inf
                if whole and best is None:
                    return Outcome(None, math.inf, infeasible=True)
            elif values is not None and self.cost @ values + self.offset < value:
                best, value = values, float(self.cost @ values) + self.offset
            bound = max(bound, min(proven, value, math.inf if whole else least + delta) - added)
            stopped = status not in (*INFEASIBLE, highspy.HighsModelStatus.kOptimal) or ends.spent()
            proved = best is not None and (value - bound <= gap * abs(value) or delta >= value - least)
            if whole or stopped or proved:
                return Outcome(best, bound)
            count *= GROWTH

    def _relax(self, ends: _Ends) -> tuple[float, np.ndarray] | None:
        """A bound from the relaxation and the reduced costs, or ``None`` where it is infeasible.

        Both come from the rows' prices alone (Lagrangian duality), so they hold however far the solver got.
        """
        prices = np.zeros(len(self.rows))
        for method in ("ipm", "simplex"):
            solver = self._load(self.upper, whole=False)
            for option, value in (("solver", method), ("run_crossover", "off")):
                solver.setOptionValue(option, value)
            ends.hold(solver)
            solver.run()
            status = solver.getModelStatus()
            if status in INFEASIBLE:
                return None
            if status == highspy.HighsModelStatus.kOptimal:
                prices = np.asarray(solver.getSolution().row_dual)
                break
        prices = np.where(np.isinf(np.where(prices > 0, self.row_lower, self.row_upper)), 0.0, prices)
        sides = np.where(prices > 0, self.row_lower, np.where(prices < 0, self.row_upper, 0.0))
        spread = np.repeat(prices, np.diff(self.start))
        reduced = self.cost - np.bincount(self.index, weights=self.value * spread, minlength=len(self.cost))
        return self.offset + float(sides @ prices + np.minimum(reduced, 0.0) @ self.upper), reduced

    def _branch(
        self, used: np.ndarray, best: np.ndarray | None, gap: float, ends: _Ends
    ) -> tuple[highspy.HighsModelStatus, np.ndarray | None, float]:
        """The program with only the columns ``used``, from ``best`` where there is one: status, answer and bound."""
        start = highspy.HighsSolution()
        for presolve in ("choose", "off"):
            solver = self._load(np.where(used, self.upper, 0.0), whole=True)
            options = {"mip_rel_gap": gap, "mip_abs_gap": 1e-8, "presolve": presolve}
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
