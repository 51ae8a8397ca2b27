"""The worked example's detector, deployed, beside what ONNX Runtime's own quantizer makes of it.

    python tools/bench_detector.py MNIST FASHION [--rows NAME ...] [--scenes 400] [--epochs 4] [--json FILE]

MNIST and FASHION are the folders that ``tools/train_detector.py`` takes. Rows:

* the float model, as PyTorch exports it;
* ONNX Runtime's static quantization of everything; of all but the decoding; of all but the whole head, as one leaves it
  out by hand;
* edgesdk's quantization of every layer, nothing searched for or learnt;
* edgesdk, the fastest within a point of mAP, and the most accurate within half of the float model's latency.

edgesdk sees the pictures that the example ships. In the end every file is run by one loop on scenes of all pictures of
both test sets, and judged by torchmetrics' mAP50-95 there; latencies are of one interleaved run, and good for ratios.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

import edgesdk
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.plan import INT8, Option, Plan
from edgesdk.data.metrics import read_metric
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.export.formats import export as export_network
from edgesdk.network.load import load_callable, load_model
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions
from peers import export, ort_static_int8
from train_detector import EXAMPLE, both

NET, SAMPLES, SCENES, LOSS, METRIC = (
    f"{EXAMPLE}/{part}"
    for part in ("net.py:make", "data.py:samples", "data.py:scenes", "loss.py:loss", "judge.py:MeanAveragePrecision")
)
DENSE, EVERYTHING = "float", "ONNX Runtime static, everything"
LEFT_OUT = {
    EVERYTHING: (),
    "ONNX Runtime static, all but the decoding": ("mean.",),
    "ONNX Runtime static, all but the head": ("sides.", "classes."),
}
ALL = "edgesdk, every layer int8"
OURS = {
    "edgesdk `--max-drop 1`": edgesdk.Budget(max_drop=1),
    "edgesdk `--latency 0.5x`": edgesdk.Budget(latency_ratio=0.5),
}
SEED, SIZE, CALIBRATION = 2, 16, 128


@dataclass
class Row:
    """One file: mAP50-95 in percent, p50 in ms, and what there is to say."""

    name: str
    path: Path
    note: str = ""
    score: float = 0.0
    p50_ms: float = 0.0
    size_bytes: int = 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def told(plan: Plan) -> str:
    """What of ``plan`` is float, and what it cut."""
    kinds = [option.precision for option in plan.options.values()]
    floats = [name for name, option in plan.options.items() if option.precision == "fp32"]
    cut = f"{len(plan.kept)} groups narrower" if plan.kept else "no channel cut"
    return f"{kinds.count('int8')} layers int8, {len(floats)} float ({', '.join(floats)}), {cut}"


def every_layer_int8(model: nn.Module, x: Tensor, path: Path) -> Path:
    """Export ``model`` with all that can be int8 in it, calibrated on ``x``; nothing is searched for or learnt."""
    network = trace(model, x[:1])
    layers = [layer.name for layer in network.graph.layers if INT8 in precisions(layer)]
    ready = integer(network, {name: Option(INT8, 8) for name in layers})
    calibrate(ready, list(x.split(SIZE)))
    export_network(ready, x[:1], path)
    return path


def judged(path: Path, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """mAP50-95 of the file at ``path``, in percent, in ONNX Runtime, one scene at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    meter = read_metric(METRIC)
    name = session.get_inputs()[0].name
    for x, y in batches:
        answers = [session.run(None, {name: sample.numpy()}) for sample in x.split(1)]
        outputs = tuple(torch.cat([torch.from_numpy(a[place]) for a in answers]) for place in (0, 1))
        meter.update(outputs, y)
    return meter.compute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("fashion", type=Path)
    parser.add_argument("--rows", nargs="+", choices=[*LEFT_OUT, ALL, *OURS], default=[*LEFT_OUT, ALL, *OURS])
    parser.add_argument("--scenes", type=int, default=400, help="that judge")
    parser.add_argument("--epochs", type=float, default=4, help="of recovery, over the example's scenes")
    parser.add_argument("--mode", default="quick", help="how long the final run takes: rapid, quick or full")
    parser.add_argument(
        "--keep", type=Path, help="a folder that files stay in, and are taken from where they are there"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    model = load_model(NET, EXAMPLE / "net.safetensors").eval()
    scenes, samples = (load_callable(part, "example") for part in (SCENES, SAMPLES))
    x, y = scenes(options.scenes, SEED, *both(options.mnist, options.fashion, "t10k")).tensors
    test = list(zip(x.split(SIZE), y.split(SIZE), strict=True))
    shown = samples()[0].tensors
    calibration = [(shown[0][:CALIBRATION], shown[1][:CALIBRATION])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [Row(DENSE, export(model, x, folder / "float.onnx"))]
        for number, name in enumerate(LEFT_OUT):
            if name in options.rows:
                path, left_out = folder / f"static{number}.onnx", LEFT_OUT[name]
                if not path.exists():
                    ort_static_int8(model, x, calibration, path, left_out=left_out)
                rows.append(Row(name, path))
                say(name)
        if ALL in options.rows:
            rows.append(Row(ALL, every_layer_int8(model, calibration[0][0], folder / "int8.onnx")))
        for number, (name, budget) in enumerate(OURS.items()):
            if name in options.rows:
                start, out = time.monotonic(), folder / f"edgesdk{number}"
                bundle = edgesdk.Bundle.open(out) if out.exists() else edgesdk.deploy(
                    model, data=SAMPLES, metric=METRIC, loss=LOSS, budget=budget, epochs=options.epochs, out=out
                )  # fmt: skip
                rows.append(Row(name, bundle.model, told(bundle.plan)))
                say(f"{name}: {time.monotonic() - start:.0f} s; {rows[-1].note}")
        with LocalDevice() as agent:
            measured = Bench(agent).measure(
                {row.name: Artifact(row.path) for row in rows}, options.mode, thorough=False
            )
        for row in rows:
            report = measured[row.name]
            row.p50_ms, row.size_bytes, row.score = report.latency_ms(), report.size_bytes, judged(row.path, test)
    dense = rows[0]
    versions = f"ONNX Runtime {onnxruntime.__version__}, PyTorch {torch.__version__.partition('+')[0]}"
    print(f"{options.scenes} scenes, {versions}, {datetime.date.today()}\n")
    print("| model | mAP50-95 | points below float | p50 / float | kB |\n|---|--:|--:|--:|--:|")
    for row in rows:
        below, ratio = dense.score - row.score, row.p50_ms / dense.p50_ms
        print(f"| {row.name} | {row.score:.2f} | {below:.2f} | {ratio:.3f} | {row.size_bytes / 1e3:.0f} |")
    print()
    for row in rows:
        if row.note:
            print(f"- {row.name}: {row.note}")
    if options.json:
        kept = [{**vars(row), "path": row.path.name} for row in rows]
        options.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
