"""How long a search takes, cold and warm, and how far its prices are from whole networks.

    python tools/bench_search.py --weights resnet20.safetensors [--model resnet20] [--data PACKAGE] [--json]
    python tools/bench_search.py --weights resnet20.safetensors --points 16 [--target raspberry-pi-4]

Traces, prices, senses and solves a CIFAR ResNet at half of its dense latency, each time in a fresh process: first with
an empty cache of prices, then with the one that this filled. Prints the seconds of every stage, the gap that the solver
proved, and predicted beside measured latency of the dense model in float and in int8.

With ``--points`` it is a whole front instead, as ``edgesdk sweep`` makes it: the seconds of every stage, those of the
process's processors, and the worst proof, as a share of the loss or in its unit where that is next to nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

START = time.monotonic()  # the imports below are part of what a user waits for


class Clock:
    """Sums up the seconds between one stage's news and the next stage's."""

    def __init__(self) -> None:
        self.stage, self.since, self.seconds = "starting", START, {}

    def tell(self, stage: str, share: float | None) -> None:
        now = time.monotonic()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
        self.stage, self.since = stage, now


def once(options: argparse.Namespace) -> dict[str, Any]:
    """One search in this process: seconds per stage, what was proved, predicted and measured."""
    import zoo
    from cifar import Cifar
    from edgesdk.core.budget import Budget
    from edgesdk.core.plan import FP32, INT8
    from edgesdk.data.data import load_data
    from edgesdk.data.task import Task
    from edgesdk.devices.bench import Bench
    from edgesdk.devices.local import LocalDevice
    from edgesdk.network.load import load_model
    from edgesdk.pipeline.study import anchor_model
    from edgesdk.price.correct import fit
    from edgesdk.solve.milp import solve

    clock = Clock()
    clock.tell("loading data", None)
    data = load_data(Cifar(options.data, trains=2048, tests=1000), classifies=True)
    model = load_model(getattr(zoo, options.model)(), options.weights)
    clock.tell("starting the agent", None)
    with LocalDevice() as agent, tempfile.TemporaryDirectory() as folder:
        task = Task("top-1", data.labelled)
        bench = Bench(agent, options.threads)
        allowed = {bench.runtime: (FP32, INT8)}
        anchored, _ = anchor_model(
            model, data, task, "x86", [bench], Budget(), Path(folder), clock.tell, allowed, tuple(options.candidate),
            again=False,
        )  # fmt: skip
        (study,) = anchored.study()
        clock.tell("solving", None)
        solution = solve(study.menu(), {"latency_ms": study.dense.latency_ms() / 2})
        clock.tell("end", None)
        observations = study.corrections.observations
        correction = fit(observations)
        latency = {}
        for name, seen in zip(("dense", "dense int8"), observations, strict=True):
            parts = correction.scales[FP32] * seen.float_ms + correction.scales[INT8] * seen.integer_ms
            plain = seen.float_ms + seen.integer_ms
            latency[name] = {
                "sum of parts": plain, "predicted": correction.latency_ms + parts, "measured": seen.measured_ms
            }  # fmt: skip
        return {
            "seconds": clock.seconds,
            "total": sum(s for stage, s in clock.seconds.items() if stage != "loading data"),
            "gap": solution.proof.gap,
            "solver_seconds": solution.proof.seconds,
            "latency_ms": latency,
        }


def front(options: argparse.Namespace) -> dict[str, Any]:
    """One front in this process: seconds per stage, of all, and of processors, and how far plans are from the best."""
    import edgesdk
    import zoo
    from cifar import Cifar

    clock = Clock()
    clock.tell("loading data", None)
    data = Cifar(options.data, trains=2048, tests=1000)
    loaded = time.process_time()
    made = edgesdk.sweep(
        getattr(zoo, options.model)(), options.target, data, runtime="onnxruntime", points=options.points,
        weights=options.weights, threads=options.threads, candidate=tuple(options.candidate), tell=clock.tell,
    )  # fmt: skip
    clock.tell("end", None)
    searched = [point for point in made.points if point.kind == "plan"]
    return {
        "seconds": clock.seconds,
        "total": sum(s for stage, s in clock.seconds.items() if stage != "loading data"),
        "processor_seconds": time.process_time() - loaded,
        "points": len(made.points),
        "within": max((point.plan.proof for point in searched), key=lambda proof: proof.objective - proof.bound).within,
    }


def show_front(name: str, figures: dict[str, Any]) -> None:
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in figures["seconds"].items())
    print(f"{name}: {figures['points']} points in {figures['total']:.1f} s without loading data ({stages})")
    print(f"  of processors {figures['processor_seconds']:.1f} s; the proof that is furthest off: {figures['within']}")


def show(name: str, figures: dict[str, Any]) -> None:
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in figures["seconds"].items())
    print(f"{name}: {figures['total']:.1f} s without loading data ({stages})")
    print(f"  solver: gap {figures['gap']:.2%} after {figures['solver_seconds']:.1f} s")
    for which, ms in figures["latency_ms"].items():
        print(
            f"  {which}: measured {ms['measured']:.4f} ms, sum of parts {ms['sum of parts'] / ms['measured']:.3f} "
            f"of that, corrected {ms['predicted'] / ms['measured']:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", default="resnet20", choices=["resnet20", "resnet14", "resnet8"])
    parser.add_argument("--data", type=Path, help="the extracted package; see tools/cifar.py")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--candidate", nargs="*", default=[], help="forms of layers beside the usual")
    parser.add_argument("--points", type=int, help="of a front, instead of one search")
    parser.add_argument("--target", default="x86", help="whose prices a front is made at")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--once", action="store_true", help="one search with the cache as it is, as JSON")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(front(options) if options.points else once(options)))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            command = [sys.executable, __file__, *sys.argv[1:], "--once"]
            done = subprocess.run(
                command, env={**os.environ, "EDGESDK_CACHE": cache}, stdout=subprocess.PIPE, check=True
            )
            rows[name] = json.loads(done.stdout.decode().splitlines()[-1])
            if not options.json:
                (show_front if options.points else show)(name, rows[name])
                sys.stdout.flush()
    if options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
