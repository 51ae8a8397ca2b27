"""What trying plans whole before a search brings: prices beside what plans lose, and accuracy without training.

    python tools/bench_tries.py [--resnet20 WEIGHTS] [--data PACKAGE] [--ratios 0.4 0.55] [--tries 4 8] [--others 10]
                                [--write FILE]

Per model and bound on latency, at the deterministic prices of a profile: the plan of the search as it is, and after so
many plans were tried. Each is applied and fitted without training, and judged on held-out and on test samples. Beside
that the rank correlation of what plans should lose with what they lose on the test samples, over other plans that
were found with prices multiplied at random, before and after prices were corrected, and the seconds of processor time
that the tries and the search took. The built-in example, and
``zoo.resnet20`` with the weights of ``train_zoo.py`` where these are given.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

import zoo
from cifar import Cifar
from edgesdk.compress.apply import compressed
from edgesdk.core.budget import Budget
from edgesdk.core.cache import cache_folder
from edgesdk.export.formats import grid_of
from edgesdk.network.load import load_model
from edgesdk.network.network import Network
from edgesdk.pipeline.deadline import Deadline
from edgesdk.pipeline.planning import FIRST, Planned, make_plan
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.trying import try_plans
from edgesdk.price.learnt import Learnt
from edgesdk.price.menu import Losses
from edgesdk.train.apply import fit, learn
from edgesdk.workflows.deploy import open_studies, quiet
from edgesdk.workflows.inputs import read_inputs
from edgesdk.workflows.where import Where

TARGET, SEED, TESTS = "raspberry-pi-4", 0, 2000
SPREAD = 0.5  # of the logarithm of what prices are multiplied with


@dataclass(frozen=True)
class Judged:
    """What a plan came to without training: its scores, and how far from the dense model's its outputs are."""

    holdout: float
    test: float
    loss: float
    test_loss: float


def judge(study: Study, planned: Planned) -> Judged:
    """``planned`` applied, fitted and quantized as a deployment without epochs does it."""
    plan, data, task = planned.plan, study.data, study.task
    small, options = compressed(study.network, plan, data.example, study.scores)
    fitted = fit(plan, study.network, small, study.scores, study.calibration)
    ready = learn(plan, study.network, fitted, options, data, task, 0.0, grid=grid_of(study.runtime)).network
    holdout, test = (task.score(ready, part, study.network) for part in (data.holdout, data.test))
    return Judged(holdout, test, *(lost(study, ready, part) for part in (data.holdout, data.test)))


def lost(study: Study, network: Network, part: list[tuple[Any, Any]]) -> float:
    """The mean loss of fidelity over the samples of ``part``."""
    with torch.no_grad():
        each = [(study.task.fidelity_loss(network.flat(x), study.network.flat(x), y), len(x)) for x, y in part]
    return sum(loss * count for loss, count in each) / sum(count for _, count in each)


def disturbed(losses: Losses, draw: random.Random) -> Losses:
    """``losses`` multiplied at random: each group's widths together, each layer's forms and precisions, each branch."""

    def times() -> float:
        return exp(draw.gauss(0.0, SPREAD))

    widths, options = {}, {}
    for group, prices in losses.widths.items():
        factor = times()
        widths[group] = {kept: loss * factor for kept, loss in prices.items()}
    for layer, prices in losses.options.items():
        methods = sorted({str(option.form and option.form.method) for option in prices})
        by = {method: times() for method in methods}
        options[layer] = {option: loss * by[str(option.form and option.form.method)] for option, loss in prices.items()}
    return Losses(widths, options, {name: loss * times() for name, loss in losses.branches.items()})


def find_others(study: Study, budget: Budget, count: int) -> list[Planned]:
    """Plans within ``budget`` that are the best at prices multiplied at random."""
    draw, plans = random.Random(SEED), dict[str, Planned]()
    own = study.corrections
    for _ in range(count):
        own.corrected = disturbed(own.pricing.losses, draw)
        planned = make_plan(study, budget)
        plans.setdefault(planned.plan.digest, planned)
    own.corrected = None
    return list(plans.values())


def rows(name: str, study: Study, budget: Budget, tries: list[int], count: int) -> Iterator[str]:
    """A row of the table for the search as it is, and one for each number of tries."""
    own = study.corrections
    others = find_others(study, budget, count)
    truth = [judge(study, planned).test_loss for planned in others]
    parts = [own.parts_of(p.solution.choices, p.solution.kept, p.solution.dropped) for p in others]
    for number in (0, *tries):
        own.judged, own.corrected = (), None
        shutil.rmtree(cache_folder() / "judged", ignore_errors=True)
        begun = time.process_time()
        try_plans(replace(study, tries=number), budget, FIRST)
        planned = make_plan(study, budget)
        seconds = time.process_time() - begun
        learnt = Learnt(own.judged)
        rank = spearmanr([learnt.expect(each).loss for each in parts], truth)[0]
        j = judge(study, planned)
        yield (
            f"| {name} | {budget.latency_ratio}x | {number} | {len(own.judged)} | `{planned.plan.digest[:8]}` "
            f"| {j.holdout:.2f} | {j.test:.2f} | {j.loss:.4f} | {j.test_loss:.4f} "
            f"| {rank:.3f} of {len(others)} | {seconds:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnet20", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.4, 0.55])
    parser.add_argument("--tries", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--others", type=int, default=10)
    parser.add_argument("--only", choices=["example", "resnet20"])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    where = Where.named(TARGET)
    subjects: dict[str, tuple[Any, Any]] = {} if options.only == "resnet20" else {"example": (None, None)}
    if options.resnet20 is not None and options.only != "example":
        subjects["resnet20"] = load_model(zoo.resnet20(), options.resnet20), Cifar(options.data, tests=TESTS)
    lines = [
        "| model | bound | tries | tried | plan | held-out % | test % | held-out loss | test loss "
        "| rank correlation | seconds |",
        "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines), flush=True)
    for name, (model, data) in subjects.items():
        given = read_inputs(model, data, None, "top-1", SEED).checked(None, False, quiet)
        for ratio in options.ratios:
            budget = Budget(latency_ratio=ratio)
            with open_studies(given, where, budget, False, quiet, Deadline()) as studied:
                for line in rows(name, studied.studies[0], budget, options.tries, options.others):
                    print(line, flush=True)
                    lines.append(line)
    if options.write:
        options.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
