"""What a model may cost, what it does cost, and the units in which people write it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from math import isfinite

from edgesdk.core.errors import BudgetError, UsageError

PREDICTED, MEASURED, EMULATED = BASES = ("predicted", "measured", "emulated")
MICRO = "\N{GREEK SMALL LETTER MU}"
TIME = {"us": 1e-3, "ms": 1.0, "s": 1e3}
ROUNDING = 1e-9  # ms that are none
LEAST_MS = 0.9995  # from which three digits of a latency are a millisecond
ENERGY = {"uJ": 1e-3, "mJ": 1.0, "J": 1e3}
BYTES = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
GREW = 1.02  # times dense, from which on a figure that was not bounded is said to have grown


def check_basis(basis: str) -> None:
    """Raise ``ValueError`` for what figures cannot come from."""
    if basis not in BASES:
        raise ValueError(f"basis {basis!r} is not one of {', '.join(BASES)}")


@dataclass(frozen=True)
class Cost:
    """What a model costs: milliseconds, bytes that it adds to the process, bytes of its file.

    ``basis`` says where the figures come from: ``predicted``, ``measured`` or ``emulated``. They are never mixed.
    ``latency_ratio`` is the latency as a share of the dense model's in the same run, ``None`` where that had no part.
    ``energy_mj`` is what a run takes beyond what the device takes idle, ``None`` where no meter was read.
    """

    latency_ms: float
    peak_memory_bytes: float
    size_bytes: float
    basis: str
    latency_ratio: float | None = field(default=None, kw_only=True)
    energy_mj: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_basis(self.basis)


@dataclass(frozen=True)
class Budget:
    """Upper bounds: milliseconds, bytes of peak memory and of the file, points of accuracy lost.

    A bound that is ``None`` does not bind. Milliseconds are those of the device's undisturbed state; with a
    ``percentile`` they are that of all runs, as they come. ``latency_ratio`` bounds the latency as a share of the dense
    model's, both being measured in one interleaved run and compared round by round. ``energy_mj`` bounds what a run
    takes beyond what the device takes idle, as the device's own meter says. ``accuracy`` is a lower bound, on the
    metric itself: what the dense model has above it is the drop. With a bound on accuracy alone the fastest model
    within it is sought; with any other the most accurate one within all of them. Raises ``UsageError`` for an upper
    bound that is not positive.
    """

    latency_ms: float | None = None
    peak_memory_bytes: float | None = None
    size_bytes: float | None = None
    max_drop: float | None = None
    percentile: float | None = None
    accuracy: float | None = None
    latency_ratio: float | None = None
    energy_mj: float | None = None

    def __post_init__(self) -> None:
        if self.accuracy is not None and not isfinite(self.accuracy):
            raise UsageError(f"the bound accuracy = {self.accuracy} is not finite", "give a number")
        for bound in fields(self):
            value = getattr(self, bound.name)
            if bound.name != "accuracy" and value is not None and not 0 < value < float("inf"):
                raise UsageError(f"the bound {bound.name} = {value} is not positive", "give a number above zero")
        if self.percentile is not None and self.percentile >= 100:
            raise UsageError(f"there is no percentile {self.percentile:g}", "give one between 1 and 99")
        if self.latency_ratio is not None and self.percentile is not None:
            fact = f"a share of the dense model's latency at percentile {self.percentile:g}"
            raise UsageError(fact, "leave the percentile out, or bound milliseconds")

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds on cost that bind, by the name of the field in ``Cost``."""
        names = ("latency_ms", "latency_ratio", "peak_memory_bytes", "size_bytes", "energy_mj")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def against(self, dense_ms: float) -> Budget:
        """This budget with its share of the dense model's latency as milliseconds, for what is predicted."""
        if self.latency_ratio is None:
            return self
        most = self.latency_ratio * dense_ms
        least = most if self.latency_ms is None else min(self.latency_ms, most)
        return replace(self, latency_ms=least, latency_ratio=None)

    def given(self, dense_score: float) -> Budget:
        """This budget with the bound on the score as a drop. Raises ``BudgetError`` where the dense model misses it."""
        if self.accuracy is None:
            return self
        drop = dense_score - self.accuracy
        if drop < 0:
            fact = f"the dense model itself scores {dense_score:.4g}, less than the {self.accuracy:g} that are wanted"
            raise BudgetError(
                fact, "train it further, or ask for less", figure="accuracy", asked=self.accuracy,
                tightest=dense_score, basis="measured",
            )  # fmt: skip
        least = max(drop, 1e-9)  # a bound is positive
        return replace(self, max_drop=least if self.max_drop is None else min(least, self.max_drop))

    def is_met_by(self, cost: Cost) -> bool:
        """Whether ``cost`` keeps every bound on latency, memory and size."""
        return not self.misses(cost)

    def misses(self, cost: Cost) -> dict[str, float]:
        """The bounds that ``cost`` breaks, each with the ratio of what it costs to what it may cost.

        Raises ``ValueError`` for a share of the dense model's latency, and for energy, where ``cost`` does not have it.
        """
        if self.latency_ratio is not None and cost.latency_ratio is None:
            raise ValueError("the cost was not measured beside the dense model")
        if self.energy_mj is not None and cost.energy_mj is None:
            raise ValueError("the cost was not measured by a meter of energy")
        ratios = {name: getattr(cost, name) / bound for name, bound in self.bounds.items()}
        return {name: ratio for name, ratio in ratios.items() if ratio > 1}


def read_unit(text: str) -> str:
    """A unit as it is written in code: figures are shown with a letter that few keyboards have."""
    return text.replace(MICRO, "u").replace("\N{MICRO SIGN}", "u")


def parse(text: str, units: dict[str, float] | dict[str, int], what: str) -> float:
    """The number in ``text`` times its unit. Raises ``UsageError`` without a unit, or for nothing above zero."""
    example = f"{2 if units is TIME else 200}{list(units)[1]}"
    match = re.fullmatch(r"\s*([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*([A-Za-z\u00b5\u03bc]*)\s*", text)
    if not match:
        raise UsageError(f"{what} {text!r} is not a number with a unit", f"write it like {example}")
    unit = read_unit(match[2])
    if unit not in units:
        fact = f"{what} {text!r} has no unit" if not match[2] else f"{what} {text!r} has an unknown unit"
        raise UsageError(fact, f"write it like {example}; units are {', '.join(units)}")
    if not 0 < (value := float(match[1]) * units[unit]) < float("inf"):
        raise UsageError(f"{what} {text!r} is not positive and finite", f"give a number above zero, like {example}")
    return value


def parse_latency(text: str) -> dict[str, float]:
    """The bound of ``Budget`` that ``text`` is: ``latency_ms`` for 2ms, ``latency_ratio`` for 0.5x, half of dense."""
    share = re.fullmatch(r"\s*(\S*)[xX]\s*", text)
    if not share:
        return {"latency_ms": parse(text, TIME, "--latency")}
    try:
        ratio = float(share[1])
    except ValueError:
        raise UsageError(f"--latency {text!r} is no share of the dense model", "write it like 0.5x") from None
    if not 0 < ratio < float("inf"):
        raise UsageError(f"--latency {text!r} is not positive", "write it like 0.5x")
    return {"latency_ratio": ratio}


def _show_latency(ms: float) -> str:
    """In microseconds where it is below a millisecond."""
    if abs(ms) < ROUNDING:
        return "0 ms"
    if abs(ms) < LEAST_MS:
        return f"{1e3 * ms:.3g} {MICRO}s"
    return f"{ms:.3g} ms" if abs(ms) < 100 else f"{ms:.0f} ms"


def show(name: str, value: float) -> str:
    """``value`` of the ``Cost`` field ``name`` as people read it."""
    if name == "latency_ms":
        return _show_latency(value)
    if name == "latency_ratio":
        return f"{value:.3g}x of dense"
    if name == "energy_mj":
        return f"{value:.3g} mJ"
    return f"{value / 1e6:.3g} MB" if value >= 1e6 else f"{value / 1e3:.4g} kB"
