"""Recoveries on the second device of `second_device.py`, in a process of their own: PyTorch takes it once, for good."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "backend"), str(HERE / "unit"), str(HERE.parent / "tools")]

import models  # type: ignore[import-not-found]  # noqa: E402
import second_device  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from edgesdk.compress.apply import compressed  # noqa: E402
from edgesdk.data.data import Data  # noqa: E402
from edgesdk.data.task import Task  # noqa: E402
from edgesdk.network.network import Network  # noqa: E402
from edgesdk.network.placement import CPU  # noqa: E402
from edgesdk.train import trainer  # noqa: E402
from edgesdk.train.apply import fit, learn  # noqa: E402
from edgesdk.train.recovery import JACOBIAN, KINDS, MEMBERS, OWN, Recovery, Teacher, Term  # noqa: E402

SAMPLES = 32
KINDS_THERE = tuple(kind for kind in KINDS if kind not in (OWN, JACOBIAN, MEMBERS))  # of no ensemble
CASES: dict[str, dict[str, Any]] = {
    "int8": {"name": "residual", "recovery": Recovery(average=0.5)},
    "floats": {"name": "depthwise", "precision": "dense"},
    "tokens": {"name": "transformer"},
    "blocks": {"name": "residual", "recovery": Recovery(reconstruct=3), "epochs": 0.0},
    "unlabelled": {"name": "residual", "labelled": False},
    "every loss": {"name": "residual", "recovery": Recovery(losses=tuple(map(Term, KINDS_THERE)))},
    "jacobian": {"name": "residual", "recovery": Recovery(losses=(Term(JACOBIAN),))},
    "mutual": {"name": "residual", "recovery": Recovery(mode="mutual")},
    "self": {"name": "residual", "recovery": Recovery(mode="self")},
    "teachers": {"name": "residual", "recovery": Recovery(teachers=(Teacher(), Teacher(models.Residual())))},
}
HEAVY = ("convolution", "mm", "bmm", "norm", "backward", "foreach", "cholesky", "gelu", "softmax")


def learnt(name: str, precision: str, labelled: bool) -> Callable[..., Network]:
    """The network ``name`` at half width, which waits to be fitted and learnt back."""
    network, x = models.made(name, SAMPLES)
    kept = {group.name: group.size // 2 for group in network.graph.groups if group.fixed is None}
    plan, scores = models.plan(network, kept), models.scores(network)
    small, _ = compressed(network, plan, x, scores)
    options = models.assigned(small, precision)
    y = torch.randint(0, models.CLASSES, (SAMPLES,), generator=torch.Generator().manual_seed(1))
    batches = [(part, labels if labelled else None) for part, labels in zip(x.split(8), y.split(8), strict=True)]
    data = Data(batches, batches, batches, batches, labelled, None, "made")
    task, calibration = Task("top-1", labelled=labelled), [x for x, _ in batches]

    def run(device: torch.device, recovery: Recovery, epochs: float) -> Network:
        fitted = fit(plan, network, small, scores, calibration, device=device)
        return learn(
            plan, network, fitted, options, data, task, epochs, recovery=recovery, device=device, scores=scores
        ).network

    return run


def compare(
    name: str, recovery: Recovery = Recovery(), epochs: float = 1.0, precision: str = "int8", labelled: bool = True  # noqa: B008
) -> dict[str, Any]:  # fmt: skip
    """How far what is learnt there is from what is learnt here, and how much was computed there and here."""
    run = learnt(name, precision, labelled)
    here = run(CPU, recovery, epochs)
    with second_device.second_device() as done:
        there = run(second_device.DEVICE, recovery, epochs)
        stayed = [name for name, count in second_device.HERE.items() if count]
    states = [network.module.state_dict() for network in (here, there)]
    return {
        "off": max(float((value - states[1][key]).abs().max()) for key, value in states[0].items() if value.numel()),
        "back": all(type(value) in (Tensor, nn.Parameter) and value.device == CPU for value in states[1].values()),
        "learnt there": sum(count for name, count in done.items() if "backward" in name),
        "learnt here": [name for name in stayed if any(part in name for part in HEAVY)],
    }


if __name__ == "__main__":
    trainer.has_bfloat16 = lambda device: False  # the same numbers in both places
    torch.set_num_threads(1)
    print(json.dumps({case: compare(**CASES[case]) for case in sys.argv[1:]}))
