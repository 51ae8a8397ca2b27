"""Ways in which a compressed model learns, on the built-in example: one study at a profile's prices, several seeds.

    python tools/bench_ways.py [--epochs 3] [--ratio 0.3] [--drop 5] [--seeds 0 1 2] [--only NAME ...]

Prints a row for each way: per cent of the test samples by seed, their mean and standard deviation, the predicted share
of the dense model's latency, and seconds of processor time. What keeps a share of the latency is one plan for all, of
fewer channels and integers alone, since layers in other forms are not cut in steps; what keeps a drop is searched for
each time. For each seed all begin with the same order of images, which is another for each.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from edgesdk.core.budget import Budget
from edgesdk.data.orders import Order, order_of, set_order
from edgesdk.pipeline.allowance import Allowance
from edgesdk.pipeline.candidates import Attempt, attempt
from edgesdk.pipeline.cuts import narrow_menu, plan_cut
from edgesdk.pipeline.deadline import Deadline
from edgesdk.pipeline.fastest import bisect_latency, select_within
from edgesdk.pipeline.planning import EVEN
from edgesdk.pipeline.rollback import list_rounds
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import Training
from edgesdk.train.recovery import Recovery
from edgesdk.workflows.deploy import open_studies, quiet
from edgesdk.workflows.inputs import read_inputs
from edgesdk.workflows.where import Where

TARGET = "raspberry-pi-4"
BISECTION, ROLLBACK = "bisection", "rollback"
WAYS = {
    "usual": Recovery(),
    "learned steps": Recovery(learned_steps=True),
    "2 cuts": Recovery(cuts=2),
    "4 cuts": Recovery(cuts=4),
    BISECTION: Recovery(),
    ROLLBACK: Recovery(rollback=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--drop", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()
    budget = Budget(latency_ratio=options.ratio)
    given = read_inputs(None, None, None, "top-1", 0).checked(budget, False, quiet)
    with open_studies(given, Where.named(TARGET), budget, False, quiet, Deadline()) as studied:
        study = studied.studies[0]
        planned = plan_cut(
            study, narrow_menu(study.menu(), study.graph, None), options.ratio * study.dense.latency_ms()
        )
        fixed = attempt(study, planned, budget, EVEN)
        dense = study.task.score(study.network, study.data.test, study.network)
        print(f"dense {dense:.2f}; {options.epochs:g} epochs in all, seeds {options.seeds}", flush=True)
        first = order_of(study.data.train)
        for name in options.only:
            scores, shares, begun = list[float](), list[float](), time.process_time()
            for seed in options.seeds:
                set_order(study.data.train, draw_order(first, seed))
                training = Training(study, Allowance(options.epochs), seed, quiet, WAYS[name])
                best = find(study, training, name, options.drop) if name in (BISECTION, ROLLBACK) else fixed
                training.forget()
                if best is None:
                    print(f"{name}, seed {seed}: nothing within the drop", flush=True)
                    continue
                recovered = training.recover_in_full(best.candidate)
                network = recovered.network
                for note in recovered.notes:
                    print(f"{name}, seed {seed}: {note}", flush=True)
                training.forget()
                scores.append(study.task.score(network, study.data.test, study.network))
                shares.append(best.candidate.measured.latency_ms() / study.dense.latency_ms())
            each = ", ".join(f"{score:.2f}" for score in scores)
            spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
            mean = f"{statistics.mean(scores):.2f}{spread}" if scores else "-"
            took = (time.process_time() - begun) / len(options.seeds)
            of = ", ".join(f"{share:.2f}" for share in shares)
            print(f"| {name} | {each} | {mean} | {of} | {took:.0f} |", flush=True)


def draw_order(first: Order | None, seed: int) -> Order | None:
    """Another order than ``first``, of as many generators."""
    if first is None:
        return None
    return torch.stack(
        [torch.Generator().manual_seed(len(first) * seed + place).get_state() for place in range(len(first))]
    )


def find(study: Study, training: Training, name: str, drop: float) -> Attempt | None:
    """What keeps that ``drop`` on held-out data, before the training in full."""
    budget = Budget(max_drop=drop)
    if name == BISECTION:
        return select_within(bisect_latency(study, budget, drop, training), drop)
    return select_within(tuple(list_rounds(study, budget, drop, training)), drop)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
