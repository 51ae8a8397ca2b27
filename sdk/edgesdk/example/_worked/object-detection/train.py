"""Train the network anew on scenes of the pictures that are here, and write its weights."""

import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from data import kept, scenes
from loss import loss
from net import make
from safetensors.torch import save_file
from torch import nn

MINUTES, BATCH = 30, 6
RATE, WARM, LAST = 4e-3, 0.03, 0.01  # of AdamW: at most, the share of the run that it rises, and how low it ends


def save(net: nn.Module, path: Path) -> None:
    """Write the weights in 16-bit floats."""
    state = {name: value.half() for name, value in net.state_dict().items() if "num_batches" not in name}
    save_file({name: value.contiguous() for name, value in state.items()}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def train(pictures: np.ndarray, classes: np.ndarray, path: Path, minutes: float = MINUTES, seed: int = 0) -> None:
    """Train on scenes that are composed anew for every step, and write the moving average of the weights to ``path``.

    The rate falls with the time that is gone, so that training ends when it is to, however busy the machine is.
    """
    torch.manual_seed(seed)
    net = make().train().to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(net).eval()
    weights = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=0.02)
    start, step, shown = time.monotonic(), 0, 0.0
    while (gone := (time.monotonic() - start) / (60 * minutes)) < 1:
        rate = min(gone / WARM, LAST + (1 - LAST) * (1 + math.cos(math.pi * gone)) / 2)
        optimizer.param_groups[0]["lr"] = RATE * max(rate, 1e-3)
        images, objects = scenes(BATCH, 1_000_000 * (seed + 1) + step, pictures, classes).tensors
        with torch.autocast("cpu", torch.bfloat16):
            sides, likely = net.maps(images.contiguous(memory_format=torch.channels_last))
        sides, likely = sides.float(), likely.float()
        value = loss((net.boxes(sides), likely.sigmoid()), objects, sides)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        step, shown = step + 1, 0.95 * shown + 0.05 * value.item() if shown else value.item()
        decay = min(0.998, step / (step + 20))
        with torch.no_grad():
            for old, new in zip(averaged.state_dict().values(), net.state_dict().values(), strict=True):
                old.lerp_(new, 1 - decay) if old.is_floating_point() else old.copy_(new)
        if step % 50 == 0:
            print(f"step {step}, {100 * gone:.0f} %: loss {shown:.3f}", flush=True)
            save(averaged, path)
    save(averaged, path)


if __name__ == "__main__":
    train(*kept("train"), Path("net.safetensors"))
