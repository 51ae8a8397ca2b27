"""Small networks with every shape that the compressor must follow, and plans for them made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor, nn

import zoo
from edgesdk.core.budget import Cost
from edgesdk.core.graph import WEIGHTED
from edgesdk.core.plan import INT8, Form, LayerPlan, Option, Plan, Proof
from edgesdk.example.data import example_data, example_model
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price.forms import forms
from edgesdk.price.operators import precisions

CLASSES = 5


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Residual(nn.Module):
    """A stem, an identity block and a block whose shortcut is a convolution; images (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 16, 3), nn.ReLU())
        self.inner = nn.Sequential(*conv_bn(16, 16, 3), nn.ReLU(), *conv_bn(16, 16, 3))
        self.down = nn.Sequential(*conv_bn(16, 32, 3, 2), nn.ReLU(), *conv_bn(32, 32, 3))
        self.shortcut = nn.Conv2d(16, 32, 1, 2)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.inner(x) + x)
        x = torch.relu(self.down(x) + self.shortcut(x))
        return self.fc(x.mean((2, 3)))


class Depthwise(nn.Module):
    """Inverted residuals with ReLU6 (Sandler et al. 2018); images (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 16, 3), nn.ReLU6())
        self.first = self.block(16, 16)
        self.second = self.block(16, 24)
        self.fc = nn.Linear(24, CLASSES)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Sequential:
        hidden = 3 * inputs
        return nn.Sequential(
            *conv_bn(inputs, hidden, 1), nn.ReLU6(),
            *conv_bn(hidden, hidden, 3, groups=hidden), nn.ReLU6(),
            *conv_bn(hidden, outputs, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.second(x + self.first(x))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Transformer(nn.Module):
    """Patches, one pre-norm block of attention and a GELU network; images (N, 3, 16, 16)."""

    def __init__(self, dim: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.fc = nn.Linear(dim, CLASSES)

    def attention(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.projection(mixed.transpose(1, 2).reshape(n, tokens, -1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.fc(x.mean(1))


class Mixer(nn.Module):
    """Tokens mixed across places, whose rows are channels that can be cut, and channels mixed (Tolstikhin et al. 2021,
    "MLP-Mixer"); images (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 24, 4, 4)
        self.norm = nn.LayerNorm(24)
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.fc = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(x)
        return self.fc(x.mean(1))


class Recurrent(nn.Module):
    """Two 1-D convolutions and a GRU; signals (N, 4, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(4, 16, 5, 2, 2, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
            nn.Conv1d(16, 24, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip
        self.gru = nn.GRU(24, 16, batch_first=True)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(self.features(x).transpose(1, 2))
        return self.fc(states[:, -1])


SHAPES: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (3, 16, 16)),
    "depthwise": (Depthwise, (3, 16, 16)),
    "transformer": (Transformer, (3, 16, 16)),
    "recurrent": (Recurrent, (4, 32)),
    "mixer": (Mixer, (3, 16, 16)),
}

ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (zoo.resnet20, (3, 32, 32)),
    "mobilenet_v2": (zoo.mobilenet_v2_small, (3, 32, 32)),
    "ds_cnn": (zoo.ds_cnn, (1, 49, 10)),
    "vit": (zoo.vit_small, (3, 32, 32)),
    "conv_gru": (zoo.conv_gru, (8, 128)),
}
"""Networks of real size."""


def made(name: str, samples: int = 64) -> tuple[Network, Tensor]:
    """A traced network with random weights and settled BatchNorm statistics, and inputs for it: the caller's own.

    It is traced once. Random numbers go on as if it were made here.
    """
    network, x, random = _made(name, samples)
    if random is not None:
        torch.set_rng_state(random)
    return network.copy(), x.clone()


@cache
def _made(name: str, samples: int) -> tuple[Network, Tensor, Tensor | None]:
    """A network, inputs for it, and where that left the random numbers, if it took any."""
    if name == "example":
        batches = example_data().test
        x = torch.cat([x for x, _ in batches])[:samples]
        return trace(example_model(), x), x, None
    torch.manual_seed(1)
    make, shape = (SHAPES | ZOO)[name]
    model, x = make(), torch.randn(samples, *shape)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-0.3, 0.3)
        model.train()
        for _ in range(20):
            model(x)
    return trace(model.eval(), x), x, torch.get_rng_state()


def weight_of(network: Network, layer: str) -> nn.Parameter:
    """The weight of a convolution or linear layer."""
    return network.submodule(layer).get_parameter("weight")


def norm_of(network: Network, layer: str) -> nn.BatchNorm2d:
    """The BatchNorm behind a convolution."""
    path = network.sites[layer].norm
    assert path is not None, f"{layer} has no norm"
    norm = network.module.get_submodule(path)
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def layer_outputs(module: nn.Module, paths: Iterable[str], run: Callable[[], object]) -> dict[str, Tensor]:
    """What the modules at ``paths`` answer while ``run`` runs."""
    seen: dict[str, Tensor] = {}

    def keep(path: str, _part: nn.Module, _given: Any, out: Tensor) -> None:
        seen[path] = out.detach()

    hooks = [module.get_submodule(path).register_forward_hook(partial(keep, path)) for path in paths]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def file_outputs(model: ModelProto, x: Tensor) -> np.ndarray:
    """What ONNX Runtime answers to each sample. On x86 it would make int8 uint8, which fails for some of opset 21."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    name = session.get_inputs()[0].name
    return np.concatenate([np.asarray(session.run(None, {name: sample[None].numpy()})[0]) for sample in x])


def assigned(network: Network, scheme: str) -> dict[str, Option]:
    """Each layer's option: ``dense``, all ``int8``, every second weighted layer (``mixed``), or ``int4`` weights."""
    if scheme == "dense":
        return {}
    options: dict[str, Option] = {}
    index = 0
    for layer in network.graph.layers:
        if INT8 not in precisions(layer):
            continue
        weighted = layer.kind in WEIGHTED
        index += weighted
        if scheme == "mixed" and index % 2 == 0:
            continue
        options[layer.name] = Option(INT8, 4 if scheme == "int4" and weighted else 8)
    return options


def plan(
    network: Network,
    kept: Mapping[str, int] | None = None,
    options: Mapping[str, Option] | None = None,
    dropped: tuple[str, ...] = (),
) -> Plan:
    """A plan for ``network`` made by hand: what is not named stays as it is."""
    graph = network.graph
    whole = {group.name: group.size for group in graph.groups if group.fixed is None}
    return Plan(
        graph_digest=graph.digest,
        target="x86",
        runtime="onnxruntime",
        threads=1,
        kept={**whole, **(kept or {})},
        layers=tuple(LayerPlan(n, (options or {}).get(n, Option()), 0.0, "by hand") for n in graph.by_name),
        dropped=dropped,
        predicted=Cost(1.0, 1.0, 1.0, "predicted"),
        proof=Proof(0.0, 0.0, 0.0, 0.0, "by hand"),
    )


def low_rank(network: Network) -> dict[str, Form]:
    """The smallest low-rank form of every layer that has one."""
    candidates = {layer.name: forms(layer) for layer in network.graph.layers if not layer.fixed}
    low = {name: [form for form in every if form.method != "separable"] for name, every in candidates.items()}
    return {name: every[0] for name, every in low.items() if every}


def scores(network: Network) -> dict[str, Tensor]:
    """Random but fixed importance for each channel group that can be cut."""
    generator = torch.Generator().manual_seed(2)
    return {g.name: torch.rand(g.size, generator=generator) for g in network.graph.groups if g.fixed is None}
