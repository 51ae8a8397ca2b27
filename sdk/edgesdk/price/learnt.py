"""What whole plans were judged at corrects the prices in accuracy of their parts, as far as that is sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np

from edgesdk.core.plan import INT8, Option
from edgesdk.price.menu import Losses

WIDTH, BRANCH = "width", "branch"
OVERALL, OF_KIND, OF_PART, TOGETHER = 0.5, 0.15, 0.15, 0.05  # standard deviations of the prior
MODEL_ERROR = 0.05  # of what prices add up to: of what factors and pairs say of a plan, beyond the judge's noise
NOTHING = 1e-9  # of a loss
LEAST = 0.1  # of a price, below which no correction takes it


class Part(NamedTuple):
    """A decision that has a price in accuracy: its kind (a width, a branch, a precision, a form), and of what."""

    kind: str
    of: str


Parts = Mapping[Part, float]


def list_parts(
    losses: Losses, options: Mapping[str, Option], kept: Mapping[str, int], dropped: Sequence[str]
) -> dict[Part, float]:
    """What each decision of a plan costs at ``losses``, those that cost nothing left out.

    ``options`` are those of the layers that are carried out; an integer layer in another form has a part for each.
    """
    parts = {Part(WIDTH, group): widths[kept[group]] for group, widths in losses.widths.items() if group in kept}
    parts |= {Part(BRANCH, name): losses.branches[name] for name in dropped}
    for layer, option in options.items():
        parts |= {Part(kind, layer): loss for kind, loss in _split(losses, layer, option).items()}
    return {part: loss for part, loss in parts.items() if loss > 0}


def _split(losses: Losses, layer: str, option: Option) -> dict[str, float]:
    """What an option costs, by what of it does."""
    whole = losses.of_option(layer, option)
    if option.form is None:
        return {option.precision: whole}
    plain = Option(option.precision, option.weight_bits) if option.precision == INT8 else Option()
    precision = min(whole, losses.options[layer].get(plain, 0.0))
    return {option.precision: precision, option.form.method: whole - precision}


@dataclass(frozen=True)
class Judged:
    """A plan that was applied, fitted and judged: its ``parts`` at uncorrected prices, and what it lost on each of
    several shares of the data, alike for all plans, in the unit of the prices."""

    parts: Parts
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses)


@dataclass(frozen=True)
class Expected:
    """What a plan should lose, and the standard deviation of that, what no factor or pair says left out."""

    loss: float
    error: float


class Learnt:
    """Bayesian linear regression of judged losses on the prices of parts, centred at these prices.

    Were a network's outputs moved by each decision e by a small error of its own, whose squared size is the price l_e,
    a whole plan would lose the square of their sum,

        y = sum_e (1 + s + t_kind(e) + d_e) l_e + sum_{e < f} 2 r_ef sqrt(l_e l_f) + noise,

    r_ef being the correlation of two errors: above zero for what hurts together. Prices that are added up are the case
    in which all coefficients are zero, and that is the prior: s ~ N(0, OVERALL^2), t ~ N(0, OF_KIND^2), d ~ N(0,
    OF_PART^2), r ~ N(0, TOGETHER^2). The posterior is that of Bishop, "Pattern Recognition and Machine Learning"
    (2006), equations 3.50 and 3.51, in its dual form, 6.66 and 6.67: mean k(x)^T (K + N)^-1 (y - sum l) and variance
    k(x, x) - k(x)^T (K + N)^-1 k(x), with

        k(p, q) = OVERALL^2 L_p L_q + OF_KIND^2 sum_k L_pk L_qk + OF_PART^2 sum_e l_pe l_qe
                  + 2 TOGETHER^2 ((sum_e sqrt(l_pe l_qe))^2 - sum_e l_pe l_qe).

    N is the covariance of the judged means over shares of the data, so that what all plans lose there alike tells none
    apart, and ``MODEL_ERROR`` of each sum. SPDY (Frantar and Alistarh 2022, section 3) searches for factors of prices
    whose solutions do well as a whole, ZipLM (Kurtic et al. 2023) has additive prices and such a search: here what was
    tried says how much each factor, and each pair, is off, and how sure that is.
    """

    def __init__(self, judged: Sequence[Judged] = ()) -> None:
        in_order = sorted(judged, key=lambda each: (sorted(each.parts.items()), each.losses))
        self.judged: tuple[Judged, ...] = tuple(in_order)  # whatever order they came in, to the last digit
        kernel = np.array([[_covariance(p.parts, q.parts) for q in self.judged] for p in self.judged])
        self._noisy = kernel + _noise(self.judged) if self.judged else np.zeros((0, 0))
        off = np.array([each.loss - sum(each.parts.values()) for each in self.judged])
        self._weights = np.linalg.solve(self._noisy, off) if self.judged else off

    def expect(self, parts: Parts) -> Expected:
        """What a plan of these ``parts``, at uncorrected prices, should lose when it is judged."""
        near = np.array([_covariance(parts, each.parts) for each in self.judged])
        loss = sum(parts.values()) + float(near @ self._weights)
        left = _covariance(parts, parts)
        if self.judged:
            left -= float(near @ np.linalg.solve(self._noisy, near))
        return Expected(loss, sqrt(max(left, 0.0)))

    def is_sure(self, parts: Parts) -> bool:
        """Whether what a plan loses is known as well as it would be told by judging it: by that noise, as of the plan
        that was judged and is most alike. Never before anything was."""
        if not self.judged:
            return False
        near = [_covariance(parts, each.parts) / sqrt(_covariance(each.parts, each.parts)) for each in self.judged]
        like = near.index(max(near))
        expected = self.expect(parts)
        return expected.error**2 <= float(_noise(self.judged)[like, like])

    def correlation(self, one: Part, other: Part) -> float:
        """By how much two parts hurt together: r of the posterior."""
        both = [sqrt(each.parts.get(one, 0.0) * each.parts.get(other, 0.0)) for each in self.judged]
        return 2 * TOGETHER**2 * float(self._weights @ np.array(both))

    def correct(self, losses: Losses, around: Parts = {}) -> Losses:  # noqa: B006  it is only read
        """``losses`` as additive prices that are right near a plan of the parts ``around``.

        What a part adds there has its share of the pairs that it makes with these: the tangent of the loss in the roots
        of prices. No price falls below ``LEAST`` of itself; without anything judged they are ``losses``.
        """
        if not self.judged:
            return losses
        factors = _Factors(self, around)
        widths = {
            group: {kept: factors.price(Part(WIDTH, group), loss) for kept, loss in prices.items()}
            for group, prices in losses.widths.items()
        }
        options = {
            layer: {
                option: sum(factors.price(Part(kind, layer), part) for kind, part in split.items())
                for option in prices
                for split in [_split(losses, layer, option)]
            }
            for layer, prices in losses.options.items()
        }
        branches = {name: factors.price(Part(BRANCH, name), loss) for name, loss in losses.branches.items()}
        return Losses(widths, options, branches).never_less()


class _Factors:
    """What prices are multiplied with, and their roots, near a plan."""

    def __init__(self, learnt: Learnt, around: Parts) -> None:
        weights = learnt._weights
        self.judged = learnt.judged
        self.around = around
        self.weights = weights
        self.overall = OVERALL**2 * float(weights @ np.array([sum(each.parts.values()) for each in self.judged]))
        kinds = sorted({part.kind for each in self.judged for part in each.parts})
        self.kinds = {
            kind: OF_KIND**2 * float(weights @ np.array([_sum_kind(each.parts, kind) for each in self.judged]))
            for kind in kinds
        }
        self.shared = np.array([_roots(each.parts, around) for each in self.judged])

    def price(self, part: Part, loss: float) -> float:
        """What the price ``loss`` of ``part`` is corrected to."""
        own = np.array([each.parts.get(part, 0.0) for each in self.judged])
        factor = 1 + self.overall + self.kinds.get(part.kind, 0.0) + OF_PART**2 * float(self.weights @ own)
        others = self.shared - np.sqrt(own * self.around.get(part, 0.0))
        together = 4 * TOGETHER**2 * float((self.weights * np.sqrt(own)) @ others)
        return max(LEAST * loss, factor * loss + together * sqrt(max(loss, 0.0)))


def _covariance(p: Parts, q: Parts) -> float:
    """The prior's covariance of what two plans lose."""
    both = p.keys() & q.keys()
    products = sum(p[part] * q[part] for part in sorted(both))
    kinds = {part.kind for part in p} & {part.kind for part in q}
    alike = sum(_sum_kind(p, kind) * _sum_kind(q, kind) for kind in sorted(kinds))
    pairs = _roots(p, q) ** 2 - products
    whole = sum(p.values()) * sum(q.values())
    return OVERALL**2 * whole + OF_KIND**2 * alike + OF_PART**2 * products + 2 * TOGETHER**2 * max(pairs, 0.0)


def _roots(p: Parts, q: Parts) -> float:
    return sum(sqrt(p[part] * q[part]) for part in sorted(p.keys() & q.keys()))


def _sum_kind(parts: Parts, kind: str) -> float:
    return sum(loss for part, loss in parts.items() if part.kind == kind)


def _noise(judged: Sequence[Judged]) -> np.ndarray:
    """The covariance of what plans were judged at, by how that differs over the shares of the data."""
    shares = np.array([each.losses for each in judged])
    away = shares - shares.mean(1, keepdims=True)
    sampled = away @ away.T / max(1, shares.shape[1] - 1) / shares.shape[1]
    return sampled + np.diag([(MODEL_ERROR * sum(each.parts.values())) ** 2 + NOTHING**2 for each in judged])
