"""How much sooner operators are priced on several boards than on one, as ratios from one interleaved run.

    PYTHONPATH=tests/board python tools/bench_pool.py --boards 3 --rounds 7 --write docs/reference/figures/pools.md
    PYTHONPATH=tests/board python tools/bench_pool.py --device pool:lab

Without ``--device`` the boards are SSH servers on this machine, each with a home folder of its own and pinned to one
core, in turn: with more boards than cores, or with anything else that runs here, they take time from each other. In
each round the same operators are priced from nothing on one board, the first, and on the first 2, 3 and so on, in an
order that is turned from round to round. ``least`` is what the ratio cannot be below: the probes of the board that had
most of them over those of one board alone, as a few operators are timed on every board.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from unittest.mock import patch

from edgesdk.core.errors import UsageError
from edgesdk.core.graph import ADD, CONV, LINEAR
from edgesdk.core.plan import FP32, INT8
from edgesdk.devices.bench import Bench
from edgesdk.devices.boards import Boards
from edgesdk.devices.inventory import Device
from edgesdk.devices.pool_bench import PoolBench
from edgesdk.devices.pools import Pool, find_place
from edgesdk.export.probes import probe
from edgesdk.price.operator import Operator

SIZES = ((8, 32), (16, 32), (32, 16), (48, 16), (64, 8), (96, 8), (128, 8))  # channels, and pixels a side


def list_operators(count: int) -> list[Operator]:
    """So many convolutions, linear layers and additions in both precisions, no two alike."""
    made: list[Operator] = []
    for more in range(0, 8 * count, 8):
        for channels, side in SIZES:
            for precision in (FP32, INT8):
                wide = channels + more
                made += [
                    Operator(CONV, precision, wide, wide, (side, side), (3, 3), (1, 1), (1, 1), (1, 1)),
                    Operator(LINEAR, precision, 4 * wide, wide),
                    Operator(ADD, precision, wide, wide, (side, side)),
                ]
        if len(made) >= count:
            return made[:count]
    return made


@contextmanager
def stand_up(count: int) -> Iterator[Sequence[Device]]:
    """So many boards on this machine, each pinned to a core."""
    import board_machine
    from board_fleet import fleet

    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="edp") as name:
        folder = Path(name)
        (folder / "first").mkdir()
        first = board_machine.make(folder / "first")
        (folder / "fleet").mkdir()
        names = tuple("abcdefgh"[:count])
        with fleet(folder / "fleet", first.folder / "venv", names) as made:
            for number, board in enumerate(made.boards.values()):
                board.profile(f"taskset -p -c {cores[number % len(cores)]} $$ > /dev/null")
            settings = {"EDGESDK_SSH": f"ssh -F {made.folder / 'client'}", "TMPDIR": str(made.folder)}
            with patch.dict(os.environ, settings), patch.object(tempfile, "tempdir", str(made.folder)):
                yield [made.device(name) for name in names]


def price(devices: Sequence[Device], operators: Sequence[Operator]) -> tuple[float, int]:
    """The seconds in which these have a price on the boards, from nothing; and the most probes that a board timed."""
    with (
        tempfile.TemporaryDirectory() as cache,
        patch.dict(os.environ, {"EDGESDK_CACHE": cache}),
        Boards(Pool("the boards", tuple(devices))) as boards,
    ):
        bench = PoolBench(boards, lambda board, folder: Bench(board.agent, folder=folder))
        begun = time.perf_counter()
        bench.time(operators, probe)
        took = time.perf_counter() - begun
        assert not boards.lost and all(bench.prices(0).has_price(operator) for operator in operators)
        return took, max(len(own.table.probes) for own in bench.benches.values())


def compare(devices: Sequence[Device], rounds: int, operators: Sequence[Operator]) -> str:
    """A row of Markdown for each number of boards."""
    counts = list(range(1, len(devices) + 1))
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    probes: dict[int, list[int]] = {count: [] for count in counts}
    price(devices, operators[:8])  # what is imported there is warm
    for number in range(rounds):
        turned = number % len(counts)
        for count in counts[turned:] + counts[:turned]:
            took, most = price(devices[:count], operators)
            seconds[count].append(took)
            probes[count].append(most)
            print(f"round {number + 1}, {count}: {took:.1f} s, {most} probes", file=sys.stderr)
    rows = [
        "| boards | seconds, median | of one board: median | lowest to highest round | least |",
        "|--:|--:|--:|--:|--:|",
    ]
    for count in counts:
        ratios = [own / one for own, one in zip(seconds[count], seconds[1], strict=True)]
        span, least = f"{min(ratios):.2f} to {max(ratios):.2f}", median(probes[count]) / median(probes[1])
        rows.append(f"| {count} | {median(seconds[count]):.1f} | {median(ratios):.2f} | {span} | {least:.2f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", action="append", help="pool:NAME, or several: these instead of servers here")
    parser.add_argument("--boards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--operators", type=int, default=192)
    parser.add_argument("--write", type=Path, help="a page of servers here")
    asked = parser.parse_args()
    operators = list_operators(asked.operators)
    if asked.device:
        place = find_place(asked.device)
        if not isinstance(place, Pool):
            raise UsageError(f"{place.name} is one board", "name a pool, or several")
        print(compare(place.devices, asked.rounds, operators))
        return
    before = os.getloadavg()[1]
    with stand_up(asked.boards) as devices:
        rows = compare(devices, asked.rounds, operators)
    print(rows)
    if asked.write is not None:
        load = " and ".join(f"{each:.1f}" for each in (before, os.getloadavg()[1]))
        cores, count = len(os.sched_getaffinity(0)), len(operators)
        asked.write.write_text(PAGE.format(rows=rows, rounds=asked.rounds, operators=count, cores=cores, load=load))


PAGE = """# Pricing on several boards

In how much less time the same {operators} operators (convolutions, linear layers and additions, fp32 and int8) have a
price on several boards than on one, in ONNX Runtime with one thread: {rounds} rounds, in each of which one board and
several took turns, from nothing each time.

Several real boards were not at hand. These are SSH servers on one x86 machine of {cores} cores, each with a home
folder, a Python and an agent of its own, and pinned to a core in turn. So more boards than cores share one, and other
work ran beside them, which no board in a rack has: load averages over five minutes of {load}, before and
after. Boards that are machines of their own come nearer to `least`, below which none can come: the probes of the board
that timed most of them over those of one board alone. It is above an even share as one operator of each kind and
precision, with what it is compared with, is timed on every board.

`PYTHONPATH=tests/board python tools/bench_pool.py --boards 3 --rounds 7 --write docs/reference/figures/pools.md` makes
this page; with `--device pool:NAME` it prints the rows of boards of your own.

{rows}

What the host does meanwhile is in the seconds, too: it writes each probe, 4 ms here, one after the other.
"""

if __name__ == "__main__":
    main()
