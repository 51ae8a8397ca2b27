"""How what a cold search takes grows with the layers of a network.

    python tools/bench_growth.py [--depths 8 26 50 98 200 398] [--pixels 16] [--samples 160] [--json]

Searches a chain of residual blocks of each depth (the CIFAR ResNets of tools/zoo.py, at few pixels) for half of its
latency, from the profile of a Raspberry Pi 4, with an empty cache. Prints the seconds of processor time of every stage,
and the exponent with which they grow: the slope of their logarithms over that of the layers, by least squares over the
networks whose stage takes a second or more, for below that it is what every network takes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from math import log

TARGET, LEAST_SECONDS = "raspberry-pi-4", 1.0
STATISTICS = 30  # passes by which BatchNorm learns what it sees


class Clock:
    """Seconds of processor time between one stage's news and the next stage's, by stage."""

    def __init__(self) -> None:
        self.stage, self.since, self.seconds = "starting", time.process_time(), dict[str, float]()

    def tell(self, stage: str, share: float | None) -> None:
        now = time.process_time()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
        self.stage, self.since = "judging" if stage.startswith("the dense model scores") else stage, now


def search(depth: int, pixels: int, samples: int) -> dict[str, float]:
    """Seconds of each stage of a search in this process."""
    import torch

    import edgesdk
    import zoo

    torch.manual_seed(0)
    model = zoo.resnet(depth)
    x = torch.randn(samples, 3, pixels, pixels)
    with torch.no_grad():
        for _ in range(STATISTICS):
            model.train()(x)
        (head,) = [module for module in model.eval().modules() if isinstance(module, torch.nn.Linear)]
        head.bias -= model(x).mean(0)  # or a deep random network answers one class to all
        y = model(x).argmax(1)
    clock = Clock()
    edgesdk.search(
        model, TARGET, (x.numpy(), y.numpy()), edgesdk.Budget(latency_ratio=0.5), force=True, tell=clock.tell
    )
    clock.tell("end", None)
    return clock.seconds


def exponent(layers: list[int], seconds: list[float]) -> float | None:
    """The slope of ``log(seconds)`` over ``log(layers)``; ``None`` where fewer than two stages take long enough."""
    points = [(log(n), log(s)) for n, s in zip(layers, seconds, strict=True) if s >= LEAST_SECONDS]
    if len(points) < 2:
        return None
    middle = [sum(side) / len(points) for side in zip(*points, strict=True)]
    spread = sum((n - middle[0]) ** 2 for n, _ in points)
    return sum((n - middle[0]) * (s - middle[1]) for n, s in points) / spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 26, 50, 98, 200, 398], help="6n + 2 each")
    parser.add_argument("--pixels", type=int, default=16)
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--once", action="store_true", help="the first depth in this process, as JSON")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(search(options.depths[0], options.pixels, options.samples)))
        return
    rows: dict[int, dict[str, float]] = {}
    for depth in options.depths:
        command = [sys.executable, __file__, "--once", "--depths", str(depth)]
        command += ["--pixels", str(options.pixels), "--samples", str(options.samples)]
        with tempfile.TemporaryDirectory() as cache:
            env = {**os.environ, "EDGESDK_CACHE": cache}
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        rows[depth] = json.loads(done.stdout.splitlines()[-1])
        if not options.json:
            stages = ", ".join(f"{stage} {s:.1f}" for stage, s in rows[depth].items() if s >= LEAST_SECONDS)
            print(f"{depth} layers: {sum(rows[depth].values()):.1f} s ({stages})", flush=True)
    stages = list(dict.fromkeys(stage for row in rows.values() for stage in row))
    table = {stage: [row.get(stage, 0.0) for row in rows.values()] for stage in stages}
    table["all"] = [sum(row.values()) for row in rows.values()]
    exponents = {stage: exponent(options.depths, seconds) for stage, seconds in table.items()}
    if options.json:
        print(json.dumps({"layers": options.depths, "seconds": table, "exponents": exponents}, indent=1))
        return
    print("\n| stage |", " | ".join(map(str, options.depths)), "| exponent |")
    print("|---|", " | ".join("--:" for _ in options.depths), "|--:|")
    for stage, seconds in table.items():
        found = exponents[stage]
        shown = " | ".join(f"{s:.1f}" for s in seconds)
        print(f"| {stage} | {shown} | {'' if found is None else f'{found:.2f}'} |")


if __name__ == "__main__":
    main()
