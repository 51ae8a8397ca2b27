"""Samples as pictures, where they are images: small PNG files in base64, for people to look at."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgesdk.data.data import Data
from edgesdk.network.network import tensors

SIDE, LEAST = 80, 4  # pixels of a picture's longer side at most, and of what is an image at least
CHANNELS = (1, 3)  # of what is an image


def draw_samples(data: Data, places: Sequence[int]) -> Mapping[int, str]:
    """The test samples of ``data`` at ``places``, as far as they are images and may be shown: their pixels where it is
    known what was done to these, and else stretched from the least to the largest value."""
    pictures: dict[int, str] = {}
    if not data.pictures:
        return pictures
    for place, x in _find(data.test, {*places}):
        image = next((pixels for part in tensors(x) if (pixels := _pixels(part, data)) is not None), None)
        if image is not None:
            pictures[place] = _encode(image)
    return pictures


def _find(batches: Iterable[tuple[Any, Any]], places: set[int]) -> Iterable[tuple[int, list[Tensor]]]:
    """Those samples, each as a batch of one, with its place."""
    first = 0
    for x, _ in batches:
        parts = tensors(x)
        count = len(parts[0])
        yield from (
            (place, [part[place - first : place - first + 1] for part in parts])
            for place in sorted(places)
            if first <= place < first + count
        )
        first += count


def _pixels(x: Tensor, data: Data) -> Tensor | None:
    """One image (channels, height, width) of uint8; ``None`` of what is no image."""
    done = data.preprocessing
    if x.dim() != 4:
        return None
    last = x.shape[1] not in CHANNELS if done is None else done.layout == "NHWC"
    channels, *sides = (x.shape[3], *x.shape[1:3]) if last else x.shape[1:]
    if channels not in CHANNELS or min(sides) < LEAST or done is not None and len(done.mean) not in (0, 1, channels):
        return None
    if done is not None:
        pixels = done.pixels(x.float())
    else:
        pixels = _stretched(x).permute(0, 3, 1, 2) if last else _stretched(x)
    return pixels[0].round().clamp(0, 255).byte()


def _stretched(x: Tensor) -> Tensor:
    """Any figures as pixels; those that are pixels as they are."""
    if x.dtype == torch.uint8:
        return x.float()
    low, high = float(x.min()), float(x.max())
    return (x.float() - low) * (255 / (high - low) if high > low else 0.0)


def _encode(pixels: Tensor) -> str:
    """``pixels`` as PNG in base64; what is larger than a thumbnail as one."""
    from PIL import Image

    values = pixels.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
