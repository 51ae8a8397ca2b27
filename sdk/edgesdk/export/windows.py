"""Windows of convolutions and pools as ONNX states them, in the two dimensions of an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgesdk.export.reading import Node


def two(values: Iterable[int], default: int = 1) -> tuple[int, ...]:
    """A parameter of a line or an image in the two dimensions of an image."""
    given = [int(value) for value in values]
    return (*[default] * (2 - len(given)), *given)


def borders(node: Node, kernel: Sequence[int], size: Sequence[int], target: Sequence[int]) -> list[int]:
    """How far windows reach beyond the top, the left, the bottom and the right of an image of that ``size``, of which
    ``node`` makes one of the size ``target``."""
    strides, dilations = two(node.get("strides", [])), two(node.get("dilations", []))
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [max((target[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size[i], 0) for i in range(2)]
        before = [(n + (auto == "SAME_LOWER")) // 2 for n in total]
        return [*before, *(n - b for n, b in zip(total, before, strict=True))]
    pads = list(node.get("pads", []))
    return [*two(pads[: len(pads) // 2], 0), *two(pads[len(pads) // 2 :], 0)]
