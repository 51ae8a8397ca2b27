"""Count the instructions of small networks on emulated Raspberry Pis, in float and in int8, per runtime.

    python tools/count_kernels.py [--write tools/instructions.json] [--roots FOLDER]

An emulator counts instructions exactly and knows no time. ``fit_profiles.py`` takes from these counts how an integer
kernel of ONNX Runtime compares with its float one, which was measured: nobody published its int8 latencies on Arm.
The networks are those by which ``edgesdk calibrate`` knows a machine, and published ones with small inputs. LiteRT is
counted beside it, for there int8 was measured and tells how far such a derivation is off.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "emulated"))

from counting import build_plugin, instructions  # pyright: ignore[reportMissingImports]
from emulation import ARM64, KINDS, Board, board, unpacked  # pyright: ignore[reportMissingImports]

from counted import BOARDS, NETWORKS, PRECISIONS, RUNTIMES, Counts, made
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.errors import EdgeSdkError
from edgesdk.core.runtime import format_of
from edgesdk.export.formats import export, grid_of
from edgesdk.network.fuse import flat

RUNS = 1  # a count repeats to 0.03 %


def counted(name: str, boards: dict[str, Board], folder: Path) -> Counts:
    """Instructions per inference of the network ``name``, by board, runtime and precision."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    x = torch.randn(1, *shape)
    network = flat(make().eval(), x, free_batch=False)
    np.savez(folder / "inputs.npz", **{network.graph.inputs[0].name: x.numpy()})  # pyright: ignore[reportArgumentType]
    found: Counts = {place: {} for place in boards}
    for runtime in RUNTIMES:
        paths: list[Path] = []
        for precision in PRECISIONS:
            ready = integer(network, made(network.graph, precision), grid_of(runtime))
            calibrate(ready, [x])
            paths.append(folder / f"{precision}{format_of(runtime).suffix}")
            export(ready, x, paths[-1], runtime)
        for place, own in boards.items():
            counts = instructions(own, runtime, paths, folder / "inputs.npz", RUNS)
            found[place][runtime] = dict(zip(PRECISIONS, counts, strict=True))
    return found


def main() -> None:
    """Count, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="The file of counts; networks that it has are not counted again.")
    parser.add_argument("--roots", type=Path, help="Where the unpacked boards are kept.")
    given = parser.parse_args()
    held = json.loads(given.write.read_text("utf-8")) if given.write and given.write.is_file() else {}
    known = held.get("instructions", {}) if held.get("versions") == ARM64.versions() else {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        root = unpacked(ARM64, given.roots or folder / "roots")
        plugin = build_plugin(folder)
        boards = {name: board(name, KINDS[name], root, plugin, folder) for name in BOARDS}
        for name in NETWORKS:
            if name not in known:
                try:
                    known[name] = counted(name, boards, folder)
                except EdgeSdkError as error:
                    print(f"{name}: {error}", flush=True)
                    continue
            print(name, json.dumps(known[name]), flush=True)
            if given.write:
                document = {"versions": ARM64.versions(), "instructions": known}
                given.write.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
