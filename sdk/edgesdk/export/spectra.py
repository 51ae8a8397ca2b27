"""Spectra as products with a matrix, for what a runtime has no transform for, or another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgesdk.export.spelling import Held, Put, Shapes, spell


def spell_out_spectra(model: ModelProto, which: Callable[[NodeProto], bool] = lambda node: True) -> ModelProto:
    """``model`` with products for each DFT of which ``which`` holds, and a convolution for each such STFT; itself where
    there is none.

    Both are linear in what they transform: the DFT of n numbers is their product with W[t, f] = exp(-2 pi i t f / n),
    an STFT that of each window, so that W times the window is the kernel of a convolution with the STFT's step. Those
    whose lengths are not fixed are left.
    """

    def find(node: NodeProto, held: Held, shapes: Shapes) -> Put | None:
        if node.op_type not in SPELLINGS or not which(node):
            return None
        spelling = _Spelling(node, [_array(held.get(name)) for name in node.input], shapes)
        if not spelling.fixed:
            return None
        SPELLINGS[node.op_type](spelling)
        return spelling.put_into

    return spell(model, find)


def _array(held: TensorProto | None) -> np.ndarray | None:
    return None if held is None else numpy_helper.to_array(held)


class _Spelling:
    """What comes in the place of ``node``, a node after another, each of what the one before it made."""

    def __init__(self, node: NodeProto, given: Sequence[np.ndarray | None], shapes: Shapes) -> None:
        self.node, self.given = node, given
        self.source, self.target = (list(shapes.get(name, ())) for name in (node.input[0], node.output[0]))
        self.how: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.steps: list[tuple[str, list[np.ndarray], list[int], dict[str, Any]]] = []

    @property
    def fixed(self) -> bool:
        """Whether all that the numbers follow from is known."""
        beside = (name for name, value in zip(self.node.input[1:], self.given[1:], strict=True) if value is None)
        return bool(self.source) and all(self.source + self.target) and not any(beside)

    def add(self, operator: str, shape: Sequence[int], *beside: np.ndarray, **how: Any) -> None:
        """An operator on what was made last, which makes something of ``shape``."""
        self.steps.append((operator, list(beside), list(shape), how))

    def put_into(self, model: ModelProto) -> None:
        graph, made, target = model.graph, self.node.input[0], self.node.output[0]
        for number, (operator, beside, shape, how) in enumerate(self.steps):
            last = number == len(self.steps) - 1
            out = target if last else f"{target}.{number}"
            names = [f"{target}.{number}.by.{place}" for place in range(len(beside))]
            graph.initializer.extend(map(numpy_helper.from_array, beside, names))
            if not last:
                graph.value_info.append(helper.make_tensor_value_info(out, 1, shape))
            name, origin = f"{self.node.name}.{number}", self.node.doc_string
            graph.node.append(helper.make_node(operator, [made, *names], [out], name, doc_string=origin, **how))
            made = out


def _transform(spelling: _Spelling) -> None:
    """A DFT along an axis of (..., n, ..., 1 or 2), the last of which is what is real and what is imaginary.

    An inverse one of half a spectrum is real: each of its frequencies but the first, and of an even length the last,
    stands for its conjugate, too.
    """
    rank = len(spelling.source)
    length, axis = (spelling.given[place] if len(spelling.given) > place else None for place in (1, 2))
    along = (-2 if axis is None else int(axis.item())) % rank
    count, parts, kept = spelling.source[along], spelling.source[-1], spelling.target[along]
    order = [a for a in range(rank - 1) if a != along] + [along, rank - 1]
    others = [spelling.source[a] for a in order[:-2]]
    if along != rank - 2:
        spelling.add("Transpose", [*others, count, parts], perm=order)
    spelling.add("Reshape", [*others, count * parts], np.array([*others, count * parts], np.int64))
    inverse, half, made = spelling.how.get("inverse", 0), spelling.how.get("onesided", 0), spelling.target[-1]
    whole = int(length.item()) if length is not None else 2 * (count - 1) if inverse and half else count
    matrix = _waves(whole, bool(inverse))[:count, :kept]
    if inverse and half:
        matrix = matrix[: whole // 2 + 1]
        matrix[1 : (whole + 1) // 2] *= 2
    by = np.zeros((count, parts, kept, 2))  # what lies beyond the length asked for counts nothing
    by[: len(matrix), 0] = np.stack([np.real(matrix), np.imag(matrix)], -1)
    if parts == 2:
        by[: len(matrix), 1] = np.stack([-np.imag(matrix), np.real(matrix)], -1)
    weight = by[..., :made].reshape(count * parts, kept * made).astype(np.float32)
    spelling.add("MatMul", [*others, kept * made], weight)
    spelling.add("Reshape", [*others, kept, made], np.array([*others, kept, made], np.int64))
    if along != rank - 2:
        spelling.add("Transpose", spelling.target, perm=[int(a) for a in np.argsort(order)])


def _windows(spelling: _Spelling) -> None:
    """An STFT of (n, length, 1 or 2): to (n, windows, frequencies, 2)."""
    step, window, length = (spelling.given[place] if len(spelling.given) > place else None for place in (1, 2, 3))
    assert step is not None
    samples, count, parts = spelling.source
    _, windows, kept, _ = spelling.target
    size = len(window) if window is not None else int(length.item())  # type: ignore[union-attr]
    matrix = _waves(size, inverse=False)[:, :kept] * (1.0 if window is None else window.astype(np.float64)[:, None])
    by = np.zeros((kept, 2, parts, size))
    by[:, 0, 0], by[:, 1, 0] = np.real(matrix).T, np.imag(matrix).T
    if parts == 2:
        by[:, 0, 1], by[:, 1, 1] = -np.imag(matrix).T, np.real(matrix).T
        spelling.add("Transpose", [samples, parts, count], perm=[0, 2, 1])
    else:
        spelling.add("Reshape", [samples, 1, count], np.array([samples, 1, count], np.int64))
    kernel = by.reshape(2 * kept, parts, size).astype(np.float32)
    how = {"kernel_shape": [size], "strides": [int(step.item())], "pads": [0, 0], "dilations": [1], "group": 1}
    spelling.add("Conv", [samples, 2 * kept, windows], kernel, **how)
    spelling.add("Transpose", [samples, windows, 2 * kept], perm=[0, 2, 1])
    spelling.add("Reshape", spelling.target, np.array(spelling.target, np.int64))


def _waves(count: int, inverse: bool) -> np.ndarray:
    """W[t, f] of ``count`` times and frequencies; the inverse's is its conjugate over ``count``."""
    turns = np.outer(np.arange(count), np.arange(count)) % count  # whole turns would cost digits
    waves: np.ndarray = np.exp(-2j * np.pi * turns / count)
    return waves.conj() / count if inverse else waves


SPELLINGS: dict[str, Callable[[_Spelling], None]] = {"DFT": _transform, "STFT": _windows}
