"""What fitting blocks brings without labels and without training, at fixed plans: accuracy and seconds.

    python tools/bench_reconstruction.py [example resnet20 mobilenet vit] [--weights-folder ZOO] [--data PACKAGE]
        [--ratios 0.7 0.45] [--steps 200] [--samples 256 2000] [--seeds 0]

Plans are the search's own within a share of the latency of the dense int8 network, at the prices of a profile, which
are the same each time; it sees no label. The example is the built-in one; the others are what ``tools/train_zoo.py``
trained on CIFAR-10. Prints a row for each plan: per cent of the whole test set, and seconds of processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from cifar import Cifar
from edgesdk.compress.apply import channels_to_keep, compressed
from edgesdk.compress.blockwise import reconstruct
from edgesdk.core.budget import Budget
from edgesdk.core.plan import Plan
from edgesdk.example.data import example_data, example_model
from edgesdk.network.load import load_model
from edgesdk.network.network import Network
from edgesdk.pipeline.anchoring import DENSE_INT8
from edgesdk.pipeline.deadline import Deadline
from edgesdk.pipeline.planning import make_plan
from edgesdk.pipeline.study import Study
from edgesdk.train.apply import fit
from edgesdk.workflows.deploy import open_studies, quiet
from edgesdk.workflows.inputs import read_inputs
from edgesdk.workflows.where import Where
from train_zoo import MODELS

TARGET = "x86-avx512-vnni"  # its profile: nothing is measured
CALIBRATION, HELD_OUT = 256, 500
EXAMPLE = "example"
Batches = Sequence[tuple[Tensor, Tensor]]


class Unlabelled:
    """Samples ``x`` without labels: the first to calibrate, the next held out."""

    def __init__(self, x: Tensor) -> None:
        held_out = x[CALIBRATION : CALIBRATION + HELD_OUT]
        self.calibration = [(part, None) for part in (*x[:CALIBRATION].split(64), *held_out.split(128))]
        self.test = self.calibration


def accuracy(network: Network, test: Batches) -> float:
    """Percent of the ``test`` samples."""
    with torch.no_grad():
        return 100 * mean(float(hit) for x, y in test for hit in network.flat(x)[0].argmax(1).eq(y))


def read(name: str, options: argparse.Namespace) -> tuple[nn.Module, Tensor, Batches]:
    """A trained module, samples to fit it to, and its labelled test set."""
    if name == EXAMPLE:
        data = example_data(0)
        return example_model(), torch.cat([x for x, _ in data.train or ()]), data.test
    if options.weights_folder is None:
        raise SystemExit(f"{name} has no weights of its own: give --weights-folder, made by tools/train_zoo.py")
    data = Cifar(options.data)
    return load_model(MODELS[name](), options.weights_folder / f"{name}.safetensors"), data.train.x, list(data.test)


def timed(make: Any) -> tuple[Any, float]:
    """What ``make`` makes, and the seconds of processor time that this takes."""
    begun = time.process_time()
    return make(), time.process_time() - begun


def row(study: Study, plan: Plan, x: Tensor, test: Batches, options: argparse.Namespace) -> str:
    """The cells of a plan: as it is cut, fitted in closed form, and with its blocks fitted."""
    dense, scores = study.network, study.scores
    small, layers = compressed(dense, plan, study.data.example, scores)
    fitted, seconds = timed(partial(fit, plan, dense, small, scores, study.calibration))
    plain = study.quantize(fitted, layers)
    cells = [
        f"{accuracy(study.quantize(small, layers), test):.2f}", f"{accuracy(plain, test):.2f}, {seconds:.1f} s"
    ]  # fmt: skip
    kept = channels_to_keep(dense.graph, plan, scores)
    for count in options.samples:
        batches = list(x[:count].split(64))
        reached, took = [], []
        for seed in options.seeds:
            make = partial(reconstruct, plain, dense, kept, batches, study.task, options.steps, seed)
            (network, _), seconds = timed(make)
            reached.append(accuracy(network, test))
            took.append(seconds)
        cells.append(f"{', '.join(f'{each:.2f}' for each in reached)}; {mean(took):.1f} s")
    return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[EXAMPLE], metavar="NETWORK")
    parser.add_argument("--weights-folder", type=Path, help="what tools/train_zoo.py wrote")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.7, 0.45])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--samples", type=int, nargs="+", default=[256, 2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    if unknown := set(options.networks) - {EXAMPLE, *MODELS}:
        parser.error(f"there is no network {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    columns = [f"blocks, {count} samples" for count in options.samples]
    print(f"| network | dense, int8 | latency | plan | as cut | closed form | {' | '.join(columns)} |")
    print(f"|---|---|--:|---|--:|---|{'---|' * len(columns)}", flush=True)
    for name in options.networks:
        model, x, test = read(name, options)
        budget = Budget(latency_ratio=0.5)
        given = read_inputs(model, Unlabelled(x), None, "top-1", 0).checked(budget, False, quiet)
        with open_studies(given, Where.named(TARGET), budget, False, quiet, Deadline()) as studied:
            study = studied.studies[0]
            whole = study.quantize(study.network, study.whole.options)
            both = f"{accuracy(study.network, test):.2f}, {accuracy(whole, test):.2f}"
            for ratio in options.ratios:
                within = Budget(latency_ms=ratio * study.anchors[DENSE_INT8].latency_ms())
                plan = make_plan(study, within).plan
                cells = row(study, plan, x, test, options)
                print(f"| {name} | {both} | {ratio:g}x | `{plan.digest[:8]}` | {cells} |", flush=True)


if __name__ == "__main__":
    main()
