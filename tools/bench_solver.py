"""How long the search takes on deep menus at half of the dense latency: columns, seconds, gap.

python tools/bench_solver.py [LAYERS ...] [--seconds N] [--gap G] [--bounds latency_ms,...]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgesdk.core.budget import Cost
from edgesdk.core.menu import Menu
from edgesdk.solve.milp import price, solve
from edgesdk.solve.program import Program

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))
from menus import deep_menu


def dense(menu: Menu) -> Cost:
    """What the network costs as it is: every channel, fp32, nothing factored, no branch left out."""
    kept = {group.name: max(group.widths) for group in menu.groups}
    choices = {
        layer.name: next(
            c
            for c in layer.choices
            if not (c.skips or c.integer or c.option.form)
            and (layer.reads is None or c.reads == kept[layer.reads])
            and (layer.writes is None or c.writes == kept[layer.writes])
        )
        for layer in menu.layers
    }
    return price(menu, choices, kept, ())[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", type=int, default=[20, 50, 150])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--gap", type=float, default=0.01)
    parser.add_argument("--share", type=float, default=0.5, help="of the dense figure, for every bound")
    parser.add_argument("--bounds", default="latency_ms", help="the figures that are bounded, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for layers in arguments.layers:
        menu = deep_menu(layers, seed=arguments.seed)
        cost, columns = dense(menu), len(Program(menu).integer)
        bounds = {name: arguments.share * getattr(cost, name) for name in arguments.bounds.split(",")}
        solution = solve(menu, bounds, gap=arguments.gap, seconds=arguments.seconds)
        print(
            f"{layers} layers: {columns} columns, {solution.proof.seconds:.1f} s, gap {solution.proof.gap:.2%}, "
            f"loss {solution.loss:.3f}, {solution.cost.latency_ms:.2f} of {cost.latency_ms:.2f} ms, "
            f"{len(solution.dropped)} branches left out",
            flush=True,
        )


if __name__ == "__main__":
    main()
