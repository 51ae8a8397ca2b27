"""Every choice of every layer with its price. Pricing writes it, searching reads it; pure numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgesdk.core.plan import INT8, Option, Rejected


@dataclass(frozen=True)
class Choice:
    """One way to carry a layer out, at one width of its input and of its output.

    ``reads`` and ``writes`` are the channels kept of the groups that the layer reads and writes, ``None`` where it
    has no such group. ``size_bytes`` counts towards the file, ``memory_bytes`` is resident all the time,
    ``output_bytes`` is what its output takes while it lives, ``scratch_bytes`` what it takes only while it runs.
    ``kernels`` names what is loaded once for all layers that run it. ``loss`` is the price in accuracy. ``skips`` marks
    a join that passes on one input, its branch being left out.
    """

    option: Option
    latency_ms: float
    loss: float = 0.0
    reads: int | None = None
    writes: int | None = None
    size_bytes: float = 0.0
    memory_bytes: float = 0.0
    output_bytes: float = 0.0
    scratch_bytes: float = 0.0
    skips: bool = False
    kernels: frozenset[str] = frozenset()

    @property
    def integer(self) -> bool:
        return self.option.precision == INT8


@dataclass(frozen=True)
class LayerMenu:
    """The choices of one layer. A layer in ``branch`` vanishes when that branch is left out."""

    name: str
    choices: tuple[Choice, ...]
    reads: str | None = None
    writes: str | None = None
    branch: str | None = None


@dataclass(frozen=True)
class GroupMenu:
    """A channel group: what keeping so many channels costs in accuracy, ``kept -> loss``."""

    name: str
    widths: Mapping[int, float]


@dataclass(frozen=True)
class BranchMenu:
    """A residual branch: the layer that joins it, and what leaving it out costs in accuracy."""

    name: str
    join: str
    loss: float


@dataclass(frozen=True)
class Change:
    """The price of a change of precision on ``tensor``, a layer's output or an input of the network.

    A tensor made in fp32 is quantized once if any reader runs in int8; one made in int8 is dequantized once if any
    reader runs in fp32. Prices are in ms, by the channels kept of ``group`` (``None`` where it has no group). An
    output of the network is read in fp32: ``is_output``. To quantize adds ``size_bytes`` to the file.
    """

    tensor: str
    readers: tuple[str, ...]
    group: str | None
    quantize_ms: Mapping[int | None, float]
    dequantize_ms: Mapping[int | None, float]
    is_output: bool = False
    size_bytes: float = 0.0


@dataclass(frozen=True)
class Menu:
    """All that there is to choose, and what is paid whatever is chosen.

    ``shared`` names layers that have their weights in common, and so one option, all of them that are not left out.
    ``live`` names, for each layer, the layers whose outputs are in memory while it runs, its own among them. Of what
    is resident ``spare_bytes`` are there already; ``kernels`` has the bytes of what choices load once for all.
    """

    layers: tuple[LayerMenu, ...]
    groups: tuple[GroupMenu, ...] = ()
    branches: tuple[BranchMenu, ...] = ()
    changes: tuple[Change, ...] = ()
    live: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    latency_ms: float = 0.0
    memory_bytes: float = 0.0
    size_bytes: float = 0.0
    rejected: tuple[Rejected, ...] = ()
    spare_bytes: float = 0.0
    kernels: Mapping[str, float] = field(default_factory=dict)
    shared: tuple[tuple[str, ...], ...] = ()
