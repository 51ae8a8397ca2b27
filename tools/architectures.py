"""Public architectures by name, with random weights, and the smallest input that each takes.

A name is ``library:model``. The library ``own`` are the networks of tools/zoo.py and tools/networks; the others are
``torchvision``, ``timm`` and ``pytorchcv``, which the extra ``zoo`` installs. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgesdk.network.torchvision import import_torchvision

CLASSES = 10
PIXELS = (32, 64, 96, 128, 224, 256)
"""Sizes that are tried in turn."""
LEAST = {"inception_v3": 96, "inceptionv3": 96, "googlenet": 64}
"""Pixels below which an architecture runs, but with nothing left to pool."""
GREY = ("superpointnet",)
"""Those that take one channel."""


OWN: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet8": ("zoo:resnet8", (3, 32, 32)),
    "resnet20": ("zoo:resnet20", (3, 32, 32)),
    "mobilenet_v2_small": ("zoo:mobilenet_v2_small", (3, 32, 32)),
    "densenet_small": ("zoo:densenet_small", (3, 32, 32)),
    "ds_cnn": ("zoo:ds_cnn", (1, 49, 10)),
    "vit_small": ("zoo:vit_small", (3, 32, 32)),
    "conv_gru": ("zoo:conv_gru", (8, 64)),
    "alexnet": ("networks.classic:alexnet", (3, 96, 96)),
    "googlenet": ("networks.classic:googlenet", (3, 224, 224)),
    "squeezenet": ("networks.classic:squeezenet", (3, 64, 64)),
    "mnasnet": ("networks.mobile:mnasnet", (3, 64, 64)),
    "proxylessnasnet": ("networks.mobile:proxylessnasnet", (3, 64, 64)),
    "shufflenet": ("networks.mobile:shufflenet", (3, 64, 64)),
    "efficientnetv2_b0": ("networks.mobile:efficientnetv2_b0", (3, 64, 64)),
    "mobilenet_ssd": ("networks.detectors:mobilenet_ssd", (3, 96, 96)),
    "squeezenet_ssd": ("networks.detectors:squeezenet_ssd", (3, 96, 96)),
    "yolo_fastest": ("networks.detectors:YoloFastest", (3, 64, 64)),
    "yolo_fastest_v2": ("networks.detectors:YoloFastestV2", (3, 64, 64)),
    "mobilenet_v2_yolo_v3": ("networks.detectors:MobileNetV2YoloV3", (3, 64, 64)),
    "yolo_v4_tiny": ("networks.detectors:YoloV4Tiny", (3, 64, 64)),
    "blazeface": ("networks.detectors:blazeface", (3, 128, 128)),
}
"""Where each is made, and the shape of a sample."""


NAMED = Path(__file__).with_suffix(".txt")
"""Of every library but ``own`` the models, one of each family and where that is cheap a few."""


def list_names() -> list[str]:
    """All names, in the order in which they are run."""
    names, library = [f"own:{name}" for name in OWN], ""
    for word in NAMED.read_text().split():
        if word.endswith(":"):
            library = word
        else:
            names.append(f"{library}{word}")
    return names


NAMES = list_names()


def make(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The architecture ``name`` with random weights and the smallest shape of a sample that it takes."""
    library, _, model = name.partition(":")
    torch.manual_seed(0)
    if library == "own":
        module, _, function = OWN[model][0].partition(":")
        return getattr(importlib.import_module(module), function)().eval(), OWN[model][1]
    failed: Exception | None = None
    for makes, shape in WAYS[library](model):
        try:
            made = makes()
            with torch.no_grad():
                made.eval()(torch.randn(2, *shape))
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError, ZeroDivisionError) as error:
            failed = error
            continue
        return made, shape
    raise ValueError(f"{name} takes none of the sizes that are tried") from failed


Ways = Iterator[tuple[Callable[[], nn.Module], tuple[int, ...]]]


def _torchvision(model: str) -> Ways:
    models: Any = importlib.import_module("torchvision.models")
    how = {"weights": None, "num_classes": CLASSES}
    if "weights_backbone" in _arguments(models.get_model_builder(model)):
        how["weights_backbone"] = None
    if model in ("googlenet", "inception_v3"):
        how.update(aux_logits=False, init_weights=False)
    for size in _sizes(model):
        sized = {"image_size": size} if model.startswith("vit_") else {}
        if model == "maxvit_t":
            more = {"input_size": (size, size)}
            yield lambda more=more: models.get_model(model, **how, **more), (3, size, size)
        elif model in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s"):
            frames = 16 if model.startswith(("mvit", "s3d")) else 4
            yield lambda: models.get_model(model, **how), (3, frames, size, size)
        else:
            yield lambda more=sized: models.get_model(model, **how, **more), (3, size, size)


def _timm(model: str) -> Ways:
    create_model: Any = importlib.import_module("timm").create_model

    def create(**how: int) -> Callable[[], nn.Module]:
        return lambda: create_model(model, pretrained=False, num_classes=CLASSES, **how)

    for size in _sizes(model):
        yield create(), (3, size, size)
        yield create(img_size=size), (3, size, size)


def _pytorchcv(model: str) -> Ways:
    get_model: Any = importlib.import_module("pytorchcv.model_provider").get_model

    for size in _sizes(model):
        for how in ({"in_size": (size, size)}, {}):
            channels = 1 if model in GREY else 3
            yield lambda how=how: _Plain(get_model(model, pretrained=False, **how)), (channels, size, size)


class _Plain(nn.Module):
    """``model`` with its first output alone, where it returns what it is trained by, too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        answer = self.model(x)
        return answer[0] if isinstance(answer, tuple) else answer


WAYS: dict[str, Callable[[str], Ways]] = {"torchvision": _torchvision, "timm": _timm, "pytorchcv": _pytorchcv}


def _sizes(model: str) -> Sequence[int]:
    return [size for size in PIXELS if size >= LEAST.get(model, 0)]


def _arguments(function: Callable[..., nn.Module]) -> set[str]:
    return set(inspect.signature(function).parameters)


def load_libraries(libraries: set[str]) -> None:
    """Import those of ``libraries`` that are installed, so that what is forked later has them."""
    if libraries - {"own"}:
        import_torchvision()
    for library in sorted(libraries - {"own"}):
        importlib.import_module(library if library != "pytorchcv" else "pytorchcv.model_provider")
