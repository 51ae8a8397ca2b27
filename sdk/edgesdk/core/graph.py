"""A network as the search sees it: fused layers, channel groups, residual branches. No torch in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from edgesdk.core.serialize import RARE, digest

CONV, TRANSPOSED, LINEAR = "conv", "transposed", "linear"
WINDOWED = (CONV, TRANSPOSED)  # kinds whose weights lie over windows
WEIGHTED = (*WINDOWED, LINEAR)
ADD, POOL, MEAN, ACTIVATION, FLATTEN = "add", "pool", "mean", "activation", "flatten"
OTHER = "other"
IMAGES = (*WINDOWED, POOL, MEAN)  # kinds that read images of channels, or lines, or volumes
KINDS = (*WEIGHTED, ADD, POOL, MEAN, ACTIVATION, FLATTEN, OTHER)


def without_batch(dims: Sequence[int], kind: str) -> tuple[int, tuple[int, ...]]:
    """A tensor of one sample, of the shape ``dims``, as a layer of that ``kind`` has it: the images that it is, and the
    shape of each; of anything but images one, whose shape lacks the first axis where that has length 1.

    A first axis that is longer is no batch: rows of a matrix, windows or frames that a view laid there.
    """
    if len(dims) > 3 and kind in (ADD, ACTIVATION) or dims and kind in IMAGES:
        return dims[0], tuple(dims[1:])
    return 1, tuple(dims[1:] if tuple(dims[:1]) == (1,) else dims)


def by_whole_groups(groups: int, each: int) -> bool:
    """Whether of ``groups`` with ``each`` input channels whole ones are cut; where they are few, all get thinner."""
    return groups > 1 and groups >= each


@dataclass(frozen=True)
class Tensor:
    """An input of the network: its shape without the batch, and its dtype as NumPy names it."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


Shapes = Mapping[str, tuple[int, ...]] | tuple[int, ...] | Sequence[Tensor] | None
"""Of a model's inputs without the batch: by name, of the single one, or a description of each."""


@dataclass(frozen=True)
class Layer:
    """One operator with what a runtime fuses into it: a convolution with its BatchNorm and ReLU, say.

    ``inputs`` names the layers or graph inputs that it reads. ``shape`` is its output's, ``input_shape`` its first
    input's, both without the batch. ``weight_shape`` is as PyTorch has it: (outputs, inputs of a group, *kernel), of a
    transposed convolution (inputs, outputs of a group, *kernel). ``kernel``, ``stride``, ``padding`` and ``dilation``
    have an entry per spatial axis and are empty for layers that have none. ``images`` are those of one sample, each of
    that shape, on which a convolution or a pool runs: windows or frames, one else. ``macs`` are multiply-accumulates
    for one sample. ``reads`` and ``writes`` name the channel groups of its first input and of its output, where these
    can be cut; of its input channels ``read_part`` are the group's, all where it is ``None``.
    ``fixed`` says why it is left as it is, where it is. Of layers that have their weights in common, as where one runs
    several times, ``shares`` names the first, of that one itself, too.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    input_shape: tuple[int, ...]
    shape: tuple[int, ...]
    operator: str
    weight_shape: tuple[int, ...] = ()
    has_bias: bool = False
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    activation: str | None = None
    parameters: int = 0
    macs: int = 0
    reads: str | None = None
    writes: str | None = None
    fixed: str | None = None
    read_part: int | None = None
    images: int = field(default=1, metadata={RARE: True})
    shares: str | None = field(default=None, metadata={RARE: True})

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is not one of {', '.join(KINDS)}")

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a kernel of its own, so that input and output channels are cut together."""
        return self.kind in WINDOWED and self.groups > 1 and self.groups == self.outputs

    @property
    def by_groups(self) -> bool:
        """Whether whole groups of it go, so that as many channels of its output go as of its input."""
        return self.kind in WINDOWED and by_whole_groups(self.groups, self.inputs_each)

    @property
    def outputs(self) -> int:
        """The output channels of a layer with weights."""
        return self.weight_shape[1] * self.groups if self.kind == TRANSPOSED else self.weight_shape[0]

    @property
    def inputs_each(self) -> int:
        """The input channels of a layer with weights, of a convolution by groups those of a group."""
        return self.weight_shape[0] // self.groups if self.kind == TRANSPOSED else self.weight_shape[1]

    @property
    def columns(self) -> int:
        """The weights of each output channel of a layer that has any."""
        return prod(self.weight_shape) // self.outputs

    @property
    def elements(self) -> int:
        """Numbers in its output, for one sample."""
        return self.images * prod(self.shape)

    @property
    def flat_shape(self) -> tuple[int, ...]:
        """Its output with channels first, all positions of one sample behind them: rows in a row, images as one."""
        if self.kind == LINEAR and self.shape[:-1]:
            return self.shape[-1], prod(self.shape[:-1])
        if self.images == 1:
            return self.shape
        channels, *sizes = self.shape
        return (channels, self.images * prod(sizes[:1]), *sizes[1:])


@dataclass(frozen=True)
class Group:
    """Channels that must be cut together, ``size`` of them; ``fixed`` says why they cannot be cut, where so.

    They stay or go in units of ``step`` in a row: the heads of an attention, counted where its projection reads them.
    With ``shares`` they are kept in multiples of ``step``, and of each of these sets the same share: what a layer
    makes, or reads, where several are joined (a concatenation), or a part of that (half of it, behind a chunk).
    """

    name: str
    size: int
    layers: tuple[str, ...]
    fixed: str | None = None
    step: int = 1
    shares: tuple[tuple[int, ...], ...] = ()

    @property
    def heads(self) -> bool:
        """Whether its channels are heads of an attention."""
        return self.step > 1 and not self.shares


@dataclass(frozen=True)
class Branch:
    """The layers of a residual branch; without them, ``join`` passes on its other input, ``keeps``."""

    name: str
    join: str
    keeps: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Layers in the order in which they run, with what the search may decide about them."""

    inputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]
    groups: tuple[Group, ...] = ()
    branches: tuple[Branch, ...] = ()

    def __post_init__(self) -> None:
        seen = {tensor.name for tensor in self.inputs}
        for layer in self.layers:
            if unknown := [name for name in layer.inputs if name not in seen]:
                raise ValueError(f"{layer.name} reads {unknown[0]}, which nothing before it makes")
            if layer.name in seen:
                raise ValueError(f"two layers are called {layer.name}")
            seen.add(layer.name)

    @cached_property
    def digest(self) -> str:
        """What a plan names as the graph that it was made for."""
        return digest(self)

    @cached_property
    def by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def group_by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @cached_property
    def shared(self) -> tuple[tuple[str, ...], ...]:
        """The layers that have their weights in common."""
        together: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.shares is not None:
                together.setdefault(layer.shares, []).append(layer.name)
        return tuple(map(tuple, together.values()))

    @cached_property
    def repeats(self) -> frozenset[str]:
        """The layers whose weights are those of one before them."""
        return frozenset(name for _, *others in self.shared for name in others)

    @cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """For each tensor (a layer's output or an input), the layers that read it."""
        table: dict[str, list[str]] = {tensor.name: [] for tensor in self.inputs}
        for layer in self.layers:
            table[layer.name] = []
            for name in dict.fromkeys(layer.inputs):
                table[name].append(layer.name)
        return {name: tuple(readers) for name, readers in table.items()}

    @cached_property
    def live(self) -> dict[str, tuple[str, ...]]:
        """For each layer, the tensors that are in memory while it runs: made before or by it, read by it or later.

        The classic liveness of straight-line code (Aho et al., Compilers, section 9.2.5). Graph inputs belong to the
        caller and are not counted.
        """
        order = {layer.name: index for index, layer in enumerate(self.layers)}
        end = {name: max([order[r] for r in self.readers[name]], default=order[name]) for name in order}
        end.update({name: len(order) for name in self.outputs if name in order})
        return {name: tuple(t for t in order if order[t] <= step <= end[t]) for name, step in order.items()}
