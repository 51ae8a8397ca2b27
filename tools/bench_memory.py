"""How far the account of memory is off on the zoo's five families: predicted from the graph alone beside measured.

    python tools/bench_memory.py [--calls 3]

Each file is loaded and run in fresh processes, three a call; the median of their peaks is compared. Sizes are the
file's own.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import onnxruntime
import torch

import zoo
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.plan import INT8, Option
from edgesdk.devices.local import LocalDevice
from edgesdk.export.formats import export
from edgesdk.export.probes import probe
from edgesdk.network.trace import trace
from edgesdk.price.account import Account
from edgesdk.price.memory import constants_of, peak_bytes
from edgesdk.price.menu import options
from edgesdk.price.operator import Operator

SHAPES = {
    "resnet20": (3, 32, 32), "mobilenet_v2_small": (3, 32, 32), "ds_cnn": (1, 49, 10), "vit_small": (3, 32, 32),
    "conv_gru": (8, 64),
}  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3, help="of three processes each")
    given = parser.parse_args()
    print("| network | | peak measured, kB | predicted / measured | between processes | size, predicted / file |")
    print("|---|---|---|---|---|---|")
    with LocalDevice() as agent, tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny.onnx"
        tiny.write_bytes(probe(Operator("alone", INT8, 8, 8, (8, 8))))
        for name, shape in SHAPES.items():
            torch.manual_seed(1)
            x = torch.randn(16, *shape)
            network = trace(getattr(zoo, name)().eval(), x)
            space = {layer.name: options(layer, (8,)) for layer in network.graph.layers}
            whole = {n: Option(INT8, 8) for n, candidates in space.items() if Option(INT8, 8) in candidates}
            for precision, chosen in (("fp32", {}), ("int8", whole)):
                ready, path = integer(network, chosen), Path(folder) / f"{name}-{precision}.onnx"
                calibrate(ready, [x])
                export(ready, x, path)
                same = {"path": str(path), "runtime": "onnxruntime", "threads": 1, "baseline": str(tiny)}
                answers = [agent.call("memory", **same) for _ in range(given.calls)]
                peaks = [sample["peak_added"] for answer in answers for sample in answer["samples"]]
                peak, spread = median(peaks), (max(peaks) - min(peaks)) / median(peaks)
                off = peak_bytes(network.graph, chosen, constants_of(onnxruntime.__version__)) / peak
                size = Account.of("onnxruntime").size_bytes(network.graph, chosen) / path.stat().st_size
                print(f"| {name} | {precision} | {peak / 1e3:.0f} | {off:.3f} | {100 * spread:.0f} % | {size:.3f} |")


if __name__ == "__main__":
    main()
