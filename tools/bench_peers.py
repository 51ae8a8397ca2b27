"""edgesdk beside what one would otherwise reach for, on CIFAR-10, at equal recovery.

    python tools/bench_peers.py --weights-folder FOLDER [--models resnet20 resnet8] [--epochs 3] [--json FILE]
        [--peers resnet8 resnet14 uniform-0.5 uniform-0.5-8 ...] [--points half resnet8 ...]

The peers of each model:

* the dense model with ONNX Runtime's static INT8;
* Torch-Pruning at a uniform ratio, ``-8`` with widths rounded to multiples of 8, recovered by distillation from the
  dense model, then static INT8;
* the smaller siblings, trained from nothing (``tools/train_zoo.py`` makes the weights), then static INT8.

edgesdk gets the measured p50 of each peer as its budget (``--points`` names them), and half of the dense INT8 model's.
All learn for as many epochs from the same 48,000 training images; edgesdk chooses among its finalists by 2,000 others,
never by test images. In the end all files are measured in one interleaved run, and judged by ONNX Runtime on the whole
test set. Figures in ms hold for that run alone; what travels are the ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

import edgesdk
import zoo
from bench_search import Clock
from cifar import Cifar
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import BudgetError
from edgesdk.data.data import CALIBRATION, Data
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.network.load import load_model
from peers import export, onnx_accuracy, ort_static_int8, recover, uniform_prune
from training import Augmented, InOrder

SIBLINGS = {"resnet20": ("resnet14", "resnet8"), "resnet14": ("resnet8",), "resnet8": ()}
UNIFORM = {f"uniform-{ratio}{'-8' * (to == 8)}": (ratio, to) for ratio in (0.25, 0.5, 0.75) for to in (1, 8)}
DENSE, INT8, HALF = "dense fp32", "dense int8", "half"
HELD_OUT, BATCH = 2000, 128


@dataclass
class Row:
    """One file: what it took to make it, its accuracy (0 to 1) on the test set, p50 and p90 in ms, bytes."""

    name: str
    path: Path
    seconds: float
    budget_ms: float | None = None
    accuracy: float = 0.0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    size_bytes: int = 0
    note: str = ""


def split(folder: Path | None, seed: int, images: int, labelled: bool = True) -> tuple[Cifar, Data]:
    """CIFAR-10 with ``HELD_OUT`` training images set aside, for the peers and for edgesdk.

    ``images`` of the rest are trained on, and calibration is of these. Not ``labelled``, edgesdk sees no labels.
    """
    whole = Cifar(folder, BATCH, seed)
    x, y = whole.train.x, whole.train.y
    whole.train = Augmented(x[HELD_OUT:][:images], y[HELD_OUT:][:images], BATCH, seed)
    whole.calibration = InOrder(whole.train.x[:CALIBRATION], whole.train.y[:CALIBRATION], BATCH)
    holdout = InOrder(x[:HELD_OUT], y[:HELD_OUT], BATCH)
    counts = f"{len(whole.train.x)} training, {HELD_OUT} held-out and 10000 test images"
    parts = (list(whole.calibration), list(holdout), list(whole.test))
    return whole, Data(whole.train, *parts, labelled=labelled, preprocessing=None, description=f"CIFAR-10: {counts}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Benchmark:
    """The files of one model and its peers, made one after the other."""

    def __init__(self, name: str, options: argparse.Namespace, cifar: Cifar, data: Data, folder: Path) -> None:
        self.name, self.options, self.cifar, self.data, self.folder = name, options, cifar, data, folder
        self.model = self.loaded(name)
        self.example = data.calibration[0][0]
        self.rows: dict[str, Row] = {}

    def loaded(self, name: str) -> nn.Module:
        return load_model(getattr(zoo, name)(), self.options.weights_folder / f"{name}.safetensors")

    def quantized(self, name: str, model: nn.Module, start: float) -> None:
        path = ort_static_int8(
            model, self.example, self.data.calibration, self.folder / f"{name.replace(' ', '-')}.onnx"
        )
        self.rows[name] = Row(name, path, time.monotonic() - start)
        say(f"{name}: {self.rows[name].seconds:.0f} s")

    def peers(self, wanted: Sequence[str]) -> None:
        self.rows[DENSE] = Row(DENSE, export(self.model, self.example, self.folder / "dense.onnx"), 0.0)
        self.quantized(INT8, self.model, time.monotonic())
        for name in wanted:
            start = time.monotonic()
            if name in UNIFORM:
                pruned = uniform_prune(self.model, self.example[:1], *UNIFORM[name])
                self.quantized(name, recover(pruned, self.cifar, self.options.epochs, teacher=self.model), start)
            elif name in SIBLINGS[self.name]:
                self.quantized(name, self.loaded(name), start)

    def deploy(self, point: str) -> None:
        """edgesdk's answer to the p50 of the peer ``point``, or to half of the dense INT8 model's."""
        budget = self.rows[INT8].p50_ms / 2 if point == HALF else self.rows[point].p50_ms
        name, clock, start = f"edgesdk at {point}", Clock(), time.monotonic()
        clock.since = start
        try:
            bundle = edgesdk.deploy(
                self.model, data=self.data, budget=edgesdk.Budget(latency_ms=budget), seed=self.options.seed,
                epochs=self.options.epochs, candidate=self.options.candidate, out=self.folder / name.replace(" ", "-"),
                tell=clock.tell,
            )  # fmt: skip
        except BudgetError as error:
            say(f"{name}: {error}")
            return
        clock.tell("end", None)
        history = bundle.report["history"]
        finalists = [step for step in history if "finalist" in step]
        predicted, measured = bundle.plan.predicted.latency_ms, bundle.report["measured"]["latency_ms"]
        note = f"predicted {predicted / measured:.3f} of measured, measured {measured / budget:.3f} of the budget"
        note += f", {len(history) - len(finalists)} candidates, finalists on held-out images "
        note += " ".join(f"{step['holdout_score']:.2f}" for step in finalists) or "not compared"
        self.rows[name] = Row(name, bundle.model, time.monotonic() - start, budget, note=note)
        say(f"{name}: {self.rows[name].seconds:.0f} s, {note}")
        say(f"  kept {dict(bundle.plan.kept)}, left out {list(bundle.plan.dropped)}")
        say("  " + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in clock.seconds.items()))

    def measure(self) -> None:
        """Every file's latency, in one interleaved run."""
        with LocalDevice() as agent:
            files = {name: Artifact(row.path) for name, row in self.rows.items()}
            measured = Bench(agent).measure(files, self.options.mode, thorough=False)
        for name, report in measured.items():
            row = self.rows[name]
            row.p50_ms, row.p90_ms, row.size_bytes = report.latency_ms(), report.latency_ms(90), report.size_bytes

    def judge(self) -> None:
        """Every file's accuracy on the whole test set."""
        for row in self.rows.values():
            row.accuracy = onnx_accuracy(row.path, self.data.test)

    def show(self) -> None:
        dense = self.rows[INT8]
        images = len(self.cifar.train.x)
        print(f"\n{self.name} on CIFAR-10, {self.options.epochs} epochs over {images} images, one interleaved run")
        print("| model | top-1 % | points below dense int8 | p50 / dense int8 | p50 ms | p90 ms | kB | made in s |")
        print("|---|---|---|---|---|---|---|---|")
        for row in sorted(self.rows.values(), key=lambda row: -row.p50_ms):
            print(
                f"| {row.name} | {100 * row.accuracy:.2f} | {100 * (dense.accuracy - row.accuracy):.2f} | "
                f"{row.p50_ms / dense.p50_ms:.3f} | {row.p50_ms:.4f} | {row.p90_ms:.4f} | "
                f"{row.size_bytes / 1e3:.0f} | {row.seconds:.0f} |"
            )
        for row in self.rows.values():
            if row.budget_ms is not None:
                beaten = [r.name for r in self.rows.values() if r.budget_ms is None and _beats(r, row)]
                print(f"{row.name}: {row.note}; {'beaten by ' + ', '.join(beaten) if beaten else 'beaten by no peer'}")
        sys.stdout.flush()


def _beats(peer: Row, ours: Row) -> bool:
    """Whether ``peer`` is more accurate and no slower."""
    return peer.accuracy > ours.accuracy and peer.p50_ms <= ours.p50_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights-folder", type=Path, required=True, help="with <model>.safetensors for each model")
    parser.add_argument("--models", nargs="+", choices=SIBLINGS, default=["resnet20", "resnet8"])
    parser.add_argument("--peers", nargs="*", choices=[*UNIFORM, "resnet14", "resnet8"])
    parser.add_argument(
        "--points", nargs="*", help="peers whose latency edgesdk is to keep, and 'half'; all unless told"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=48000, help="that all learn from; fewer for a quick look")
    parser.add_argument("--mode", default="quick", help="how long the final run takes: rapid, quick or full")
    parser.add_argument("--data", type=Path, help="the extracted package; see tools/cifar.py")
    parser.add_argument("--candidate", nargs="*", default=[], help="forms of layers that edgesdk has beside the usual")
    parser.add_argument("--unlabelled", action="store_true", help="edgesdk learns and chooses without labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    (cifar, data), results = split(options.data, options.seed, options.images, not options.unlabelled), {}
    for name in options.models:
        peers = [*SIBLINGS[name], *UNIFORM] if options.peers is None else options.peers
        with tempfile.TemporaryDirectory() as folder:
            bench = Benchmark(name, options, cifar, data, Path(folder))
            bench.peers(peers)
            bench.measure()
            able = [HALF, *(peer for peer in peers if peer in bench.rows)]
            for point in able if options.points is None else [p for p in options.points if p in able]:
                bench.deploy(point)
            bench.measure()
            bench.judge()
            bench.show()
        results[name] = [{**asdict(row), "path": row.path.name} for row in bench.rows.values()]
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
