"""What averaged weights bring: the built-in example, cut to a share of its latency, after one recovery.

    python tools/bench_average.py [--ratio 0.4] [--epochs 1] [--averages 0 0.3] [--seeds 0 1 2]

The plan is the best at the prices of a profile. Prints a row for each seed: per cent of the test samples, by the share
of each part of the training over which weights are averaged.
"""

from __future__ import annotations

import argparse

from edgesdk.compress.apply import compressed
from edgesdk.core.budget import Budget
from edgesdk.export.formats import grid_of
from edgesdk.pipeline.deadline import Deadline
from edgesdk.pipeline.planning import make_plan
from edgesdk.train.apply import fit, learn
from edgesdk.train.recovery import Recovery
from edgesdk.workflows.deploy import open_studies, quiet
from edgesdk.workflows.inputs import read_inputs
from edgesdk.workflows.where import Where

TARGET = "raspberry-pi-4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=0.4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--averages", type=float, nargs="+", default=[0.0, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    budget = Budget(latency_ratio=options.ratio)
    given = read_inputs(None, None, None, "top-1", 0).checked(budget, False, quiet)
    with open_studies(given, Where.named(TARGET), budget, False, quiet, Deadline()) as studied:
        study = studied.studies[0]
        data, task, dense = study.data, study.task, study.network
        plan = make_plan(study, budget).plan
        small, layers = compressed(dense, plan, data.example, study.scores)
        fitted = fit(plan, dense, small, study.scores, study.calibration)
        print(
            f"plan {plan.digest[:8]}, {options.epochs:g} epochs; seed, then averages of {options.averages}", flush=True
        )
        for seed in options.seeds:
            reached = []
            for average in options.averages:
                own = learn(
                    plan, dense, fitted, layers, data, task, options.epochs, seed, grid=grid_of(study.runtime),
                    recovery=Recovery(average=average),
                )  # fmt: skip
                reached.append(f"{task.score(own.network, data.test, dense):.2f}")
            print(f"| {seed} | {' | '.join(reached)} |", flush=True)


if __name__ == "__main__":
    main()
