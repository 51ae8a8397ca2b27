"""How often a gate answers wrongly or not at all, by simulation of a machine whose speed moves as a shared one's does:

    PYTHONPATH=tests/unit python tools/bench_gate.py [--gates 20000] [--write docs/reference/figures/gates.md]

The machine and its runs are those of tests/unit/test_slowdowns.py: its speed flips by 1.8 within seconds, its slow
state slows kernels down unlike, and two processes with one file differ by 0.8 %. What decides is the gate's own code.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from statistics import fmean

from test_slowdowns import gated, run

from edgesdk.core.gating import FAILED, PASSED, UNCLEAR, Limit
from edgesdk.workflows.gate import WORSE

POOL = 2000  # runs that gates draw from
BOARDS = 3
CASES = ((0.95, "3%"), (1.00, "3%"), (1.01, "3%"), (1.03, "3%"), (1.05, "3%"), (1.10, "3%"), (1.00, "0%"))
BY_MS = (
    (0.95, "0.03ms"),
    (1.00, "0.03ms"),
    (1.03, "0.03ms"),
    (1.05, "0.03ms"),
    (1.10, "0.03ms"),
    (2.00, "1ms"),
    (1.00, "0ms"),
)


def lines(gates: int, boards: int = 1, cases: Sequence[tuple[float, str]] = CASES) -> Iterable[str]:
    """A row of Markdown for each of the ``cases``, of gates on so many boards."""
    random = Random(0)
    pool = [run(random) for _ in range(POOL)]
    yield "| true ratio | allowed | passed | failed | unclear | runs, on average |"
    yield "|---|---|---|---|---|---|"
    for ratio, limit in cases:
        answers = [
            [gated(pool, random, ratio, Limit.parse(limit), boards) for _ in range(boards)] for _ in range(gates)
        ]
        shares = Counter(max((verdict for verdict, _ in each), key=WORSE.index) for each in answers)
        cells = [f"{100 * shares[verdict] / gates:.2f} %" for verdict in (PASSED, FAILED, UNCLEAR)]
        runs = fmean(count for each in answers for _, count in each)
        yield f"| {ratio:.2f} | {limit} | {' | '.join(cells)} | {runs:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gates", type=int, default=20_000)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    rows, several = ("\n".join(lines(asked.gates, boards)) for boards in (1, BOARDS))
    by_ms = "\n".join(lines(asked.gates, cases=BY_MS))
    print(f"{rows}\n\n{by_ms}\n\n{several}")
    if asked.write is not None:
        page = PAGE.format(gates=asked.gates, pool=POOL, rows=rows, by_ms=by_ms, boards=BOARDS, several=several)
        asked.write.write_text(page)


PAGE = """# Gates, by simulation

How often `edgesdk gate` answers what, of {gates:,} gates for each row. Each draws its runs from {pool:,} that were
simulated for two files that are equally fast: on a machine whose speed flips by a factor of 1.8 within seconds, whose
slow state slows the two down unlike (by a tenth, as a standard deviation), and where two processes with one file differ
by 0.8 % as their memory lies. The new file's are then multiplied with the true ratio. What estimates, pairs and decides
is the code that a gate runs; the machine is that of `tests/unit/test_slowdowns.py`, which holds the bounds.

`PYTHONPATH=tests/unit python tools/bench_gate.py --write docs/reference/figures/gates.md` makes this page.

{rows}

A false alarm is a gate that failed where what is allowed is not exceeded: at most 1 in 100 is the claim, and the row of
1.03 of 3 %, and that of 1.00 of 0 %, are where it is hardest to keep. A 5 % slowdown is to be found in 95 of 100.

By ms, of a baseline that takes 1 ms, and that is measured anew in each run like what is compared with it. Rows at the
limit are 1.03 of 0.03 ms, 2.00 of 1 ms and 1.00 of 0 ms:

{by_ms}

The same on a pool of {boards} boards that are alike, each with runs of its own, at 1 in 100 divided by {boards}.
The worst verdict is that of all, and runs are those of each board:

{several}

So false alarms are no more than on one board, and what is slower is found more often, as one board that shows it is
enough. What is as fast stays unclear more often, as all boards must show that.
"""

if __name__ == "__main__":
    main()
