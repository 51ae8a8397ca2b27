"""How fast the loop of recovery is beside a bare loop of PyTorch with the same losses, on the built-in example.

    python tools/bench_loop.py [--epochs 0.5] [--rounds 3] [--threads 1]

Both train the same network at half width, in float, on the same batches with AdamW. The bare loop has the forward
passes of student and teacher, the loss, the gradient's norm and the step, and nothing else; once as anybody would write
it, once with channels last and in bfloat16 where the processor has it, as recovery computes. Loops alternate. Prints
images per second of processor time of each round, the ratios, and what the teacher alone takes in float.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import nn

from edgesdk.compress.apply import compressed
from edgesdk.core.budget import Cost
from edgesdk.core.plan import LayerPlan, Option, Plan, Proof
from edgesdk.data.task import Task
from edgesdk.network.network import Network
from edgesdk.network.placement import CPU, has_bfloat16
from edgesdk.network.trace import trace
from edgesdk.train.objective import Objective
from edgesdk.train.recovery import FLOAT_RATE, WARM_UP, Recovery
from edgesdk.train.trainer import LONGEST_STEP, WEIGHT_DECAY, Trainer, count_steps
from edgesdk.workflows.deploy import quiet
from edgesdk.workflows.inputs import read_inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = read_inputs(None, None, None, "top-1", 0).checked(None, False, quiet)
    data, task = given.data, given.task
    dense = trace(given.model, data.example)
    small = halve(dense, data.example)
    assert data.train is not None
    batches = [batch[:2] for batch in data.train]
    steps = count_steps(options.epochs, len(batches))
    images = sum(len(batches[step % len(batches)][0]) for step in range(steps))
    ratios = list[list[float]]()
    for number in range(options.rounds):
        student = small.copy()
        trainer = Trainer(Objective(Recovery(), student, dense, task, data.example), batches, WARM_UP)
        begun = time.process_time()
        trainer.train(student, options.epochs, FLOAT_RATE, lambda share: None)
        ours = images / (time.process_time() - begun)
        bare = list[float]()
        for last in (False, True):
            begun = time.process_time()
            train_bare(small.copy(), dense, batches, steps, task, last)
            bare.append(images / (time.process_time() - begun))
        ratios.append([ours / each for each in bare])
        told = f"bare {bare[0]:.0f}, as recovery computes {bare[1]:.0f} images/s"
        print(f"round {number + 1}: {ours:.0f}, {told}", flush=True)
    plain, last = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median {plain:.3f} of the bare loop, {last:.3f} of one that computes as recovery does")
    begun = time.process_time()
    with torch.no_grad():
        for step in range(steps):
            dense.flat(batches[step % len(batches)][0])
    print(f"the teacher's answers alone: {images / (time.process_time() - begun):.0f} images/s")


def halve(dense: Network, x: torch.Tensor) -> Network:
    """Every channel group at half width."""
    kept = {group.name: group.size // 2 for group in dense.graph.groups if group.fixed is None}
    layers = tuple(LayerPlan(name, Option(), 0.0, "by hand") for name in dense.graph.by_name)
    cost, proof = Cost(1.0, 1.0, 1.0, "predicted"), Proof(0.0, 0.0, 0.0, 0.0, "by hand")
    plan = Plan(dense.graph.digest, "x86", "onnxruntime", 1, kept, layers, (), cost, proof)
    return compressed(
        dense, plan, x, {name: torch.arange(float(dense.graph.group_by_name[name].size)) for name in kept}
    )[0]


def train_bare(
    student: Network, dense: Network, batches: list[tuple[Any, Any]], steps: int, task: Task, last: bool
) -> None:
    """What anybody would write; with ``last`` channels last, and in bfloat16 where that is faster."""
    module, teacher = student.module.train(), dense.module.eval()
    parameters = list(module.parameters())
    optimizer = torch.optim.AdamW(parameters, FLOAT_RATE, weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        x, y = batches[step % len(batches)]
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        with torch.autocast("cpu", torch.bfloat16, enabled=last and has_bfloat16(CPU)):
            with torch.no_grad():
                taught = teacher(x)
            answered = module(x)
        loss = task.distillation(answered, taught, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, LONGEST_STEP)
        optimizer.step()


if __name__ == "__main__":
    main()
