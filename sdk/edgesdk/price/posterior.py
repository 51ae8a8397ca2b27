"""What measured networks say of a runtime's constants on a chip, and how sure that is.

A Gaussian model in the logarithm. Latency is the sum of the physics' terms (``price.physics``) times constants, each
with a log-normal prior; every operator may deviate from its physics by a factor of its own, alike operators alike: a
Gaussian process with a squared-exponential kernel over their shapes (Rasmussen and Williams 2006, "Gaussian Processes
for Machine Learning", equations 2.25, 2.26, 4.9; with explicit basis functions, section 2.7). What was measured
narrows the constants and the factors it touched; elsewhere the physics and the priors remain, and the interval is wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgesdk.price.physics import SHAPE, TERMS, Work

UNSEEN = 0.5  # what families that were held out need, where a pair's own figures do not tell
DEVIATION = 0.15  # standard deviation of an operator's factor, in logarithms
LENGTH = np.array([1.0, 1.5, 1.5, 1.5, 1.0, 1.0, 3.0])  # octaves over which operators are alike
NOISES = (0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.22, 0.3)
Z90 = 1.645  # standard normal quantile of a two-sided 90 % interval
RANK = 24  # directions of what was learnt that are kept
STEPS, ROUNDS, STEP, OUTLIER, JITTER = 30, 6, 0.5, 2.5, 0.03


@dataclass(frozen=True)
class Prior:
    """What is believed of the constants before anything is measured: medians and log standard deviations, per term."""

    log_median: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class Posterior:
    """What is known after measuring.

    ``log_constants`` and ``deviation`` have a number per term. ``shapes`` are operators that were measured as parts of
    networks, ``pull`` how each moves its like. ``learnt`` are rows over (terms, shapes): what measuring took from the
    prior's variance. ``noise`` is the log standard deviation of one measured network, ``extra`` that of what was
    carried over from another board, ``unseen`` that of a network of which no operator is like any that was measured:
    operators of one family are off together, so it counts by the share of the latency that is new.
    """

    log_constants: np.ndarray
    deviation: np.ndarray
    shapes: np.ndarray
    pull: np.ndarray
    learnt: np.ndarray
    noise: float
    extra: float = 0.0
    unseen: float = UNSEEN

    def novel_share(self, work: Work, clock_ghz: float) -> float:
        """The share of the latency that is unlike all that was measured: 1 where no operator is like any."""
        alike = _kernel(work.shapes, self.shapes)
        parts = self._parts_ms(work, clock_ghz, alike) * work.counts
        return float(parts @ self._novelty(alike) / parts.sum())

    def _novelty(self, alike: np.ndarray) -> np.ndarray:
        return 1 - alike.max(1, initial=0.0) / DEVIATION**2

    def parts_ms(self, work: Work, clock_ghz: float) -> np.ndarray:
        """The latency in ms of one of each of the network's distinct operators."""
        return self._parts_ms(work, clock_ghz, _kernel(work.shapes, self.shapes))

    def _parts_ms(self, work: Work, clock_ghz: float, alike: np.ndarray) -> np.ndarray:
        return work.amounts @ np.exp(self.log_constants) / (clock_ghz * 1e6) * np.exp(alike @ self.pull)

    def predict(self, work: Work, clock_ghz: float) -> tuple[float, float]:
        """The median latency in ms, and the standard deviation of its logarithm."""
        alike = _kernel(work.shapes, self.shapes)
        parts = self._parts_ms(work, clock_ghz, alike) * work.counts
        total = float(parts.sum())
        shares, terms = parts / total, _term_shares(work, self.log_constants, parts / total)
        prior = np.concatenate([self.deviation**2 * terms, shares @ alike])
        variance = float(self.deviation**2 @ terms**2 + shares @ _kernel(work.shapes, work.shapes) @ shares)
        variance -= float(np.sum((self.learnt @ prior) ** 2))
        far = self.unseen * float(shares @ self._novelty(alike))
        return total, float(np.sqrt(max(variance, 0.0) + self.noise**2 + self.extra**2 + far**2))

    @property
    def doubt(self) -> np.ndarray:
        """What remains of the constants' log standard deviations, per term."""
        taken = np.sum((self.learnt[:, : len(TERMS)] * self.deviation**2) ** 2, 0) if len(self.learnt) else 0.0
        return np.sqrt(np.maximum(self.deviation**2 - taken, 1e-6))

    def interval(self, work: Work, clock_ghz: float) -> tuple[float, float, float]:
        """The median latency in ms and the ends of its 90 % interval."""
        median, deviation = self.predict(work, clock_ghz)
        return median, median * float(np.exp(-Z90 * deviation)), median * float(np.exp(Z90 * deviation))


def calibration(off: np.ndarray, deviation: np.ndarray, noise: float) -> float:
    """The variance to add to ``noise``'s so that nine of ten held-out networks lie in their 90 % interval.

    ``off`` are their log errors, ``deviation`` what was thought of these. Negative where the intervals are too wide,
    but half of the noise stays. (Split conformal prediction, Vovk et al. 2005, for the scale alone.)
    """
    needed = np.sort(off**2 / Z90**2 - deviation**2)
    return float(max(needed[min(len(needed) - 1, int(np.ceil(0.9 * (len(needed) + 1))) - 1)], -0.75 * noise**2))


def unmeasured(prior: Prior, extra: float = 0.0) -> Posterior:
    """What is known where nothing was measured: the prior."""
    none = np.zeros((0, SHAPE))
    nothing = np.zeros((0, len(TERMS)))
    return Posterior(prior.log_median, prior.deviation, none, np.zeros(0), nothing, 0.02, extra, unseen=0.0)


def fit(works: Sequence[Work], measured_ms: Sequence[float], clock_ghz: float, prior: Prior) -> Posterior:
    """What the networks ``works``, measured at ``measured_ms``, say of the constants and the operators in them.

    Constants and factors are those of highest posterior density (Gauss-Newton), the noise that of highest marginal
    likelihood. Outliers count for less: an observation off by more than 2.5 standard deviations is taken as noisier.
    """
    measured = np.log(np.asarray(measured_ms))
    amounts = np.array([work.counts @ work.amounts for work in works]) / (clock_ghz * 1e6)
    shapes, index = np.unique(np.round(np.vstack([w.shapes for w in works])), axis=0, return_inverse=True)
    index = np.asarray(index).reshape(-1)
    root = np.linalg.cholesky(_kernel(shapes, shapes) + (JITTER * DEVIATION) ** 2 * np.eye(len(shapes)))
    theta, factors = _start(amounts, measured, prior), np.zeros(len(shapes))
    scatter, noise = np.ones(len(works)), 0.03
    for _ in range(ROUNDS):
        total, terms, shares = _linear(works, theta, factors, index, clock_ghz)
        basis = np.hstack([terms * prior.deviation, shares @ root])
        z = measured - np.log(total) + terms @ (theta - prior.log_median) + shares @ factors
        noise = _noise(basis / scatter[:, None], z / scatter)
        whitened = basis / (noise * scatter)[:, None]
        learnt = whitened.T @ whitened
        mean = np.linalg.solve(np.eye(len(learnt)) + learnt, whitened.T @ (z / (noise * scatter)))
        step = prior.log_median + prior.deviation * mean[: len(theta)] - theta
        theta = theta + np.clip(step, -STEP, STEP)
        factors = root @ mean[len(theta) :]
        scatter = np.maximum(1.0, np.abs(z - basis @ mean) / (OUTLIER * noise))
    size, directions = np.linalg.eigh(learnt)
    kept = np.argsort(size)[::-1][: min(RANK, len(works))]
    gained = np.sqrt(np.maximum(size[kept], 0) / (1 + np.maximum(size[kept], 0)))[:, None] * directions[:, kept].T
    onto_shapes = np.linalg.solve(root.T, gained[:, len(theta) :].T).T
    rows = np.hstack([gained[:, : len(theta)] / prior.deviation, onto_shapes])
    pull = np.linalg.solve(root.T, mean[len(theta) :])
    spread = float(np.sqrt(np.mean((noise * np.minimum(scatter, 3.0)) ** 2)))
    return Posterior(theta, prior.deviation, shapes, pull, rows, spread)


def _start(amounts: np.ndarray, measured: np.ndarray, prior: Prior) -> np.ndarray:
    """Constants to start from: those of highest posterior density if operators did not deviate from their physics.

    Damped Gauss-Newton (Levenberg 1944) on log residuals.
    """
    theta, damping = prior.log_median, 1e-3

    def cost(at: np.ndarray) -> float:
        off = (measured - np.log(amounts @ np.exp(at))) / DEVIATION
        return float(off @ off + np.sum(((at - prior.log_median) / prior.deviation) ** 2))

    now = cost(theta)
    for _ in range(STEPS):
        total = amounts @ np.exp(theta)
        slope = amounts * np.exp(theta) / total[:, None] / DEVIATION
        curve = slope.T @ slope + np.diag(1 / prior.deviation**2)
        pull = slope.T @ ((measured - np.log(total)) / DEVIATION) - (theta - prior.log_median) / prior.deviation**2
        step = np.linalg.solve(curve + damping * np.diag(np.diag(curve)), pull)
        after = cost(theta + step)
        if after < now:
            done = now - after < 1e-6 * now
            theta, now, damping = theta + step, after, damping / 3
            if done:
                break
        else:
            damping *= 10
    return theta


def _linear(
    works: Sequence[Work], theta: np.ndarray, factors: np.ndarray, index: np.ndarray, clock_ghz: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each network's latency in ms at these constants and factors, and its shares per term and per shape."""
    total, start = np.zeros(len(works)), 0
    terms, shares = np.zeros((len(works), len(theta))), np.zeros((len(works), len(factors)))
    for row, work in enumerate(works):
        where = index[start : start + len(work.counts)]
        each = work.amounts * np.exp(theta) * (work.counts * np.exp(factors[where]) / (clock_ghz * 1e6))[:, None]
        total[row] = each.sum()
        terms[row] = each.sum(0) / total[row]
        np.add.at(shares[row], where, each.sum(1) / total[row])
        start += len(work.counts)
    return total, terms, shares


def _noise(basis: np.ndarray, z: np.ndarray) -> float:
    """The noise of highest marginal likelihood (Rasmussen and Williams, equation 2.30), of those in ``NOISES``."""
    size, directions = np.linalg.eigh(basis.T @ basis)
    along, size = (directions.T @ (basis.T @ z)) ** 2, np.maximum(size, 0.0)

    def evidence(noise: float) -> float:
        explained = np.sum(along / (noise**2 + size)) / noise**2
        return float(explained - z @ z / noise**2 - np.log1p(size / noise**2).sum() - 2 * len(z) * np.log(noise))

    return max(NOISES, key=evidence)


def _term_shares(work: Work, theta: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The share of the latency that each term has."""
    each = work.amounts * np.exp(theta)
    return shares @ (each / np.maximum(each.sum(1, keepdims=True), 1e-30))


def _kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How much the factors of operators of these shapes vary together, (one, other)."""
    difference = (left[:, None] - right[None]) / LENGTH
    return DEVIATION**2 * np.exp(-0.5 * np.sum(difference**2, -1))


def carried(posterior: Posterior, extra: float) -> Posterior:
    """``posterior`` as believed of a sibling: constants in cycles carry over, with ``extra`` doubt."""
    return replace(posterior, extra=float(np.hypot(posterior.extra, extra)))
