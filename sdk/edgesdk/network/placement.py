"""Where networks learn: which device of this machine ``--train-on`` names, and what is moved there and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.wording import listed
from edgesdk.network.network import Network

AUTO = "auto"
CPU = torch.device("cpu")
WORD = re.compile(r"cpu|mps|cuda(:\d+)?")
T = TypeVar("T")


def find_device(word: str = AUTO) -> torch.device:
    """The device that ``word`` names: ``cpu``, ``mps``, ``cuda`` or one of several as ``cuda:1``.

    ``auto`` is the first CUDA device where there is one, else the CPU. Raises ``UsageError`` for another word,
    ``DeviceError`` for a device that is not there, with those that are.
    """
    if word == AUTO:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if not WORD.fullmatch(word):
        raise UsageError(f"there is nothing to train on called {word!r}", "give auto, cpu, cuda, cuda:N or mps")
    device = torch.device("cuda:0" if word == "cuda" else word)
    there = list_devices()
    if str(device) not in there:
        built = "" if device.type != "cuda" or torch.version.cuda else ", and this PyTorch is built without CUDA"
        raise DeviceError(f"there is no {word} to train on{built}", f"choose of what is there: {listed(there)}")
    return device


def list_devices() -> list[str]:
    """What there is to train on here."""
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def named(device: torch.device) -> str:
    """``device`` as a reader of a report knows it."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies in bfloat16 faster than in float."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def move(value: T, device: torch.device) -> T:
    """``value`` with all tensors in it on ``device``; samples, which come from the CPU, stay as they are there."""
    if device.type == "cpu" and all(t.device == device for t in pytree.tree_leaves(value) if isinstance(t, Tensor)):
        return value
    return pytree.tree_map_only(Tensor, lambda t: t.to(device), value)


def device_of(network: Network) -> torch.device:
    """Where ``network`` lies: all of its weights and constants are in one place."""
    return next((value.device for value in network.module.state_dict().values()), CPU)


def place(network: Network, device: torch.device) -> Network:
    """``network`` on ``device``: itself where it lies there, else a copy, whose operators make what they make there."""
    if device_of(network) == device and not _names_other(network.module, device):
        return network
    placed = network.copy()
    placed.module.to(device)
    for node in placed.module.graph.nodes:
        node.args, node.kwargs = (_renamed(part, device) for part in (node.args, node.kwargs))
    placed.module.recompile()
    return placed


@contextmanager
def using(device: torch.device) -> Iterator[None]:
    """Within it a ``device`` whose memory is not enough is an error that says what to do. Raises ``DeviceError``."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"the memory of {device} is not enough", "give --train-on cpu, or another GPU") from error


def _names_other(module: fx.GraphModule, device: torch.device) -> bool:
    """Whether an operator of ``module`` makes something on another device."""
    named = pytree.tree_leaves([(node.args, node.kwargs) for node in module.graph.nodes])
    return any(isinstance(leaf, torch.device) and leaf.type != device.type for leaf in named)


def _renamed(part: Any, device: torch.device) -> Any:
    return map_aggregate(part, lambda leaf: device if isinstance(leaf, torch.device) else leaf)
