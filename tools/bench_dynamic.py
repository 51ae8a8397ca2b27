"""Print what networks that answer differently for each input bring, measured on the built-in example.

    python tools/bench_dynamic.py [exits] [gating]

``exits``: stages with early exits, per format and precision, and, in ONNX, a loop over the stages on the test images
beside the model in one file, timed in turns: whether what is expected comes true. ``gating``: half of the channels by
input (Gao et al. 2019), after a short training, and what ONNX Runtime then takes. Latencies are good for ratios within
a row; rows are runs of their own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgesdk.compress.quantize import integer
from edgesdk.core.artifact import Artifact
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.example.data import example_data, example_model
from edgesdk.export.formats import export
from edgesdk.network.trace import trace
from edgesdk.workflows.stages import Stages, stages
from edgesdk_targets.bundle_run import opened
from gating import Gated, kept, price

EPOCHS, RATE = 2, 0.01
ROUNDS = 3
EXITS = (
    ("onnxruntime", "fp32", 1, 0.5), ("onnxruntime", "fp32", 2, 0.5), ("onnxruntime", "fp32", 1, 1.0),
    ("onnxruntime", "int8", 1, 1.0), ("openvino", "fp32", 1, 0.5),
    ("litert", "fp32", 1, 0.5), ("litert", "int8", 1, 1.0),
)  # fmt: skip


def exits() -> Iterable[str]:
    """Stages in each runtime."""
    yield "| runtime | precision | exits | drop allowed | leave early | top-1: dense, staged | expected / one file |"
    yield "|---|---|--:|--:|---|---|--:|"
    with tempfile.TemporaryDirectory() as folder:
        for index, (runtime, precision, count, drop) in enumerate(EXITS):
            out = Path(folder) / str(index)
            staged = stages(exits=count, max_drop=drop, runtime=runtime, precision=precision, out=out)
            left = ", ".join(f"{100 * stage.left:.0f} %" for stage in staged.stages[:-1])
            top1 = f"{staged.test.dense:.2f}, {staged.test.staged:.2f}"
            ratio = f"{staged.expected_ms / staged.whole_ms:.2f}"
            yield f"| {runtime} | {staged.precision} | {count} | {drop:g} | {left} | {top1} | {ratio} |"
            if index == 0:
                first = staged
        whole = Path(folder) / "whole.onnx"
        data = example_data()
        export(integer(trace(example_model(), data.example), {}), data.example, whole)
        yield ""
        yield loop(first, whole)


def loop(staged: Stages, whole: Path) -> str:
    """The mean time of a test image, run through the stages until it leaves, beside that in one file."""
    images = torch.cat([x for x, _ in example_data().test]).numpy()
    parts = [opened(str(Path(staged.path) / stage.file), "onnxruntime") for stage in staged.stages]
    session = opened(str(whole), "onnxruntime")
    limits = [stage.threshold for stage in staged.stages]
    times: dict[str, list[float]] = {"staged": [], "whole": []}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for row in range(len(images)):
            value = images[row : row + 1]
            for part, limit in zip(parts, limits, strict=True):
                logits, *rest = part.run({part.inputs[0]: value})
                if limit is None or entropy(logits) <= limit:
                    break
                value = rest[0]
        middle = time.perf_counter()
        for row in range(len(images)):
            session.run({session.inputs[0]: images[row : row + 1]})
        times["staged"].append(middle - start)
        times["whole"].append(time.perf_counter() - middle)
    ratio = min(times["staged"]) / min(times["whole"])
    return f"In a loop over the {len(images)} test images, entropy in NumPy included: {ratio:.2f} of one file."


def entropy(logits: np.ndarray) -> float:
    """The entropy of the softmax of one row, in nats."""
    p = np.exp(logits[0] - logits[0].max())
    p /= p.sum()
    return float(-(p * np.log(p + 1e-30)).sum())


def gated(density: float) -> nn.Module:
    """The built-in example with every BatchNorm convolution but the stem gated to ``density`` of its channels."""
    model = example_model()
    for block in (model.block1, model.block2, model.block3):
        for number in (1, 2):
            conv, norm = getattr(block, f"conv{number}"), getattr(block, f"bn{number}")
            setattr(block, f"conv{number}", Gated(conv, norm, kept(conv.out_channels, density)))
            setattr(block, f"bn{number}", nn.Identity())
    return model


def trained(model: nn.Module) -> nn.Module:
    """``model`` after ``EPOCHS`` epochs of SGD with a cosine, by labels and the price of its saliencies."""
    torch.manual_seed(0)
    train = example_data().train
    assert train is not None
    batches = [batch for _ in range(EPOCHS) for batch in train]
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    model.train()
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x), y) + price(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Top-1 on the test images, in percent."""
    return 100 * float(torch.cat([model(x).argmax(1) == y for x, y in example_data().test]).double().mean())


def gating() -> Iterable[str]:
    """Channels by input, and what it takes."""
    yield f"| channels | top-1 % at once | after {EPOCHS} epochs | p50 / dense |"
    yield "|---|--:|--:|--:|"
    data = example_data()
    made = {"all, dense": example_model(), "all, gated": gated(1.0), "half, gated": gated(0.5)}
    before = {name: accuracy(model.eval()) for name, model in made.items()}
    after = {name: accuracy(trained(model)) for name, model in made.items() if name != "all, dense"}
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for index, (name, model) in enumerate(made.items()):
            path = Path(folder) / f"{index}.onnx"
            export(integer(trace(model, data.example), {}), data.example, path)
            files[name] = Artifact(path)
        with LocalDevice() as agent:
            reports = Bench(agent).measure(files, "rapid", thorough=False)
    dense = reports["all, dense"].latency_ms()
    for name in made:
        taught = f"{after[name]:.2f}" if name in after else "-"
        yield f"| {name} | {before[name]:.2f} | {taught} | {reports[name].latency_ms() / dense:.2f} |"


TABLES = {"exits": exits, "gating": gating}


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; all without")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"there is no table {', '.join(sorted(unknown))}")
    for name in options.tables or TABLES:
        for line in TABLES[name]():
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
