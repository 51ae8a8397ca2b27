"""A plan: what every layer is to be. Searching makes it, compressing applies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgesdk.core.budget import Cost
from edgesdk.core.errors import BundleError
from edgesdk.core.graph import Graph
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import FORMER, digest
from edgesdk.core.stored import STORED

SCHEMA = Schema("plan", 2)
FP32, INT8 = "fp32", "int8"


@dataclass(frozen=True)
class Form:
    """Another form of a layer. ``svd`` and ``spatial`` have a rank as their size, ``tucker`` those of input and output.

    Of those in ``STORED`` codebooks have their values as their size, powers of two their bits, e2m1 the weights to a
    scale, ``sparse`` the percentage of zeros, dct and haar that of the coefficients that stay.
    """

    method: str
    sizes: tuple[int, ...] = ()

    @property
    def stored(self) -> bool:
        """Whether it says how the weight is stored, not what the layer runs as."""
        return self.method in STORED

    def __str__(self) -> str:
        return " ".join(filter(None, [self.method, "x".join(map(str, self.sizes))]))


@dataclass(frozen=True)
class Option:
    """How a layer is run: the precision it runs in, the bits its weights are stored in, its form."""

    precision: str = FP32
    weight_bits: int = 32
    form: Form | None = None

    def __str__(self) -> str:
        stored = "" if self.weight_bits in (8, 32) else f", {self.weight_bits}-bit weights"
        weights = "weights as " * bool(self.form and self.form.stored)
        return f"{self.precision}{stored}" + (f", {weights}{self.form}" if self.form else "")


@dataclass(frozen=True)
class LayerPlan:
    """One layer's option, with what it is expected to take and why it was chosen.

    ``dense_ms`` is what the layer takes as it is, at the same prices; ``None`` where these do not say.
    """

    name: str
    option: Option
    latency_ms: float
    reason: str
    dense_ms: float | None = None


NOT_SEARCHED = "not searched"  # in the place of a solver
UNSEARCHED = "made without a search"
LEAST = 1e-4  # of a loss: a gap below it is told as that
NOTHING, FAR = 1e-6, 0.1  # of a loss, which no measurement tells from none; and a gap that people would take for one


@dataclass(frozen=True)
class Proof:
    """What the solver proved: no plan's objective is below ``bound``; ``gap`` is relative to ``objective``.

    ``seconds`` are of processor time.
    """

    objective: float
    bound: float
    gap: float
    seconds: float
    solver: str

    @property
    def searched(self) -> bool:
        """Whether a search made the plan."""
        return self.solver != NOT_SEARCHED

    @property
    def is_far(self) -> bool:
        """Whether the plan can be far from the best one."""
        return self.gap > FAR and self.objective - self.bound >= NOTHING

    @property
    def words(self) -> str:
        """How far the plan can be from the best one: of its loss, or where that is next to nothing, in its unit."""
        return f"proved within {self.within} of the best plan at these prices" if self.searched else UNSEARCHED

    @property
    def within(self) -> str:
        """The same, short: by how much the best plan can be better, of its loss; where that is much, in its unit.

        A share of a loss that is next to nothing would say nothing.
        """
        if not self.searched:
            return NOT_SEARCHED
        if self.gap > FAR:
            return f"a loss of {max(0.0, min(self.objective, self.objective - self.bound)):.2g}"
        return f"{100 * self.gap:.2g} %" if self.gap >= LEAST or not self.gap else f"{100 * LEAST:g} %"


@dataclass(frozen=True)
class Rejected:
    """A choice that is not on the menu because this device runs it slower than what it would replace."""

    layer: str
    choice: str
    latency_ms: float
    replaces_ms: float


@dataclass(frozen=True)
class Plan:
    """Per channel group how many channels stay, per layer its option, and the branches that are left out.

    ``predicted`` is the cost that the search promised (ms, bytes), ``proof`` how far from the optimum it can be, and
    ``rejected`` are the candidates that are slower on this device than what they would replace. Raises ``BundleError``
    for a schema that is newer than this version of edgesdk.
    """

    graph_digest: str
    target: str
    runtime: str
    threads: int
    kept: Mapping[str, int]
    layers: tuple[LayerPlan, ...]
    dropped: tuple[str, ...]
    predicted: Cost
    proof: Proof
    rejected: tuple[Rejected, ...] = field(default=(), metadata={FORMER: "struck"})
    schema: str = SCHEMA

    @property
    def options(self) -> dict[str, Option]:
        """What each layer is to be, by its name."""
        return {layer.name: layer.option for layer in self.layers}

    @property
    def digest(self) -> str:
        """Over the decisions alone: two plans with the same digest make the same model."""
        return digest([self.graph_digest, self.kept, [[p.name, p.option] for p in self.layers], self.dropped])

    def structural(self, graph: Graph) -> bool:
        """Whether it changes more of ``graph`` than how numbers are stored and computed."""
        return (
            bool(self.dropped)
            or any(layer.option.form and not layer.option.form.stored for layer in self.layers)
            or any(kept < graph.group_by_name[name].size for name, kept in self.kept.items())
        )

    def compresses(self, graph: Graph) -> bool:
        """Whether what it makes of ``graph`` is not the dense model."""
        return self.structural(graph) or any(layer.option != Option() for layer in self.layers)

    def check(self, graph: Graph) -> None:
        """Raise ``BundleError`` unless this plan was made for ``graph``."""
        if self.graph_digest != graph.digest:
            raise BundleError("the plan was made for another model", "search again for this one")
