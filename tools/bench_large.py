"""What a cold search of large networks takes: seconds of processor time by stage, and memory at its most.

    python tools/bench_large.py [--only NETWORK ...] [--samples 64] [--target raspberry-pi-4] [--estimate] [--json]

Each network has random weights, its BatchNorm the statistics of random inputs, and is searched for half of its latency
from a profile, with an empty cache, in a process of its own. With ``--estimate`` its latency alone is estimated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench_growth import Clock
from networks import classic, mobile, yolo

STATISTICS = 8  # samples by which BatchNorm learns what it sees
GB = 2**20  # kB in one


class WhisperEncoder(nn.Module):
    """The encoder of Whisper tiny (Radford et al. 2023): 30 s as (N, 80, 3000) to (N, 1500, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(80, 384, 3, 1, 1), nn.Conv1d(384, 384, 3, 2, 1)
        self.position = nn.Parameter(torch.randn(1, 1500, 384) / 50)
        self.layers = nn.Sequential(*(mobile.Encoder(384, 6) for _ in range(4)))
        self.norm = nn.LayerNorm(384)

    def forward(self, x: Tensor) -> Tensor:
        gelu = nn.functional.gelu
        x = gelu(self.conv2(gelu(self.conv1(x)))).transpose(1, 2)
        return self.norm(self.layers(x + self.position))


def normed(network: nn.Module) -> nn.Module:
    """``network`` with a BatchNorm behind each convolution, which those of tools/networks have folded."""
    for name, part in network.named_children():
        if isinstance(part, nn.Conv2d):
            setattr(network, name, nn.Sequential(part, nn.BatchNorm2d(part.out_channels)))
        else:
            normed(part)
    return network


def logits(network: nn.Module) -> nn.Module:
    """A classifier without the softmax at its end."""
    for name, part in network.named_children():
        if isinstance(part, nn.Softmax):
            setattr(network, name, nn.Identity())
        else:
            logits(part)
    return network


def vit_b16() -> nn.Module:
    network = mobile.VisionTransformer()
    network.patches = nn.Conv2d(3, 768, 16, 16)
    network.position = nn.Parameter(torch.randn(1, 197, 768) / 50)
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "MobileNetV2 at 224": (lambda: normed(logits(mobile.MobileNetV2())), (3, 224, 224), True),
    "ResNet-50 at 224": (lambda: normed(logits(classic.resnet50())), (3, 224, 224), True),
    "YOLO11n at 640": (lambda: normed(yolo.Yolo("n")), (3, 640, 640), False),
    "ViT-B/16 at 224": (vit_b16, (3, 224, 224), True),
    "Whisper tiny's encoder": (WhisperEncoder, (80, 3000), False),
}
"""What builds each network, its input without the batch, and whether its answers serve as labels."""


def made(name: str, samples: int) -> tuple[nn.Module, Tensor, Tensor | None]:
    """The network, inputs, and its own decisions where it is a classifier."""
    torch.manual_seed(0)
    build, shape, classifies = NETWORKS[name]
    network, x = build(), torch.randn(samples, *shape)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        for part in norms:
            part.momentum = 1.0
        if norms:
            network.train()(x[:STATISTICS])
        network.eval()
        y = torch.cat([network(part).argmax(1) for part in x.split(STATISTICS)]) if classifies else None
    return network, x, y


def search(name: str, samples: int, target: str) -> dict[str, float]:
    """Seconds of each stage of a search in this process."""
    import edgesdk
    from edgesdk.cli.freed import keep_freed_memory

    keep_freed_memory()  # as every command does
    network, x, y = made(name, samples)
    clock, budget = Clock(), edgesdk.Budget(latency_ratio=0.5)
    data = (x.numpy(), None if y is None else y.numpy())
    metric = "mse" if y is None else "top-1"
    edgesdk.search(network, target, data, budget, metric=metric, force=True, tell=clock.tell)
    clock.tell("end", None)
    return clock.seconds


def estimate(name: str, target: str) -> dict[str, float]:
    """Seconds of an estimate in this process."""
    import edgesdk

    network, x, _ = made(name, 2)
    since = time.process_time()
    edgesdk.estimate(network, tuple(x.shape[1:]), target=target)
    return {"estimate": time.process_time() - since}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--target", default="raspberry-pi-4")
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--once", action="store_true", help="the first network in this process, as JSON")
    options = parser.parse_args()
    if options.once:
        (name, *_) = options.only
        begun = time.monotonic()
        took = estimate(name, options.target) if options.estimate else search(name, options.samples, options.target)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GB
        print(json.dumps({"seconds": took, "gb": most, "wall": time.monotonic() - begun}))
        return
    print("| network | processor time, s | memory, GB | by stage, s |\n|---|--:|--:|---|")
    for name in options.only:
        command = [sys.executable, __file__, "--once", "--only", name, "--target", options.target]
        command += ["--samples", str(options.samples), *(["--estimate"] if options.estimate else [])]
        with tempfile.TemporaryDirectory() as cache:
            env = {**os.environ, "EDGESDK_CACHE": cache}
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        stages = ", ".join(f"{stage} {s:.1f}" for stage, s in row["seconds"].items() if s >= 1)
        print(f"| {name} | {sum(row['seconds'].values()):.1f} | {row['gb']:.1f} | {stages} |", flush=True)


if __name__ == "__main__":
    main()
