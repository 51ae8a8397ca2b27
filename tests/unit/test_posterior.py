"""What measuring teaches: the truth where it was looked at, doubt elsewhere, and intervals that hold what they say."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesdk.core.graph import ADD, CONV, LINEAR
from edgesdk.core.plan import FP32
from edgesdk.core.runtime import Kernels
from edgesdk.core.target import Chip
from edgesdk.price.designed import designed
from edgesdk.price.operator import Operator
from edgesdk.price.physics import INDEX, TERMS, Work, lone, work
from edgesdk.price.posterior import DEVIATION, LENGTH, Posterior, Prior, fit, unmeasured
from edgesdk.price.prior import prior
from edgesdk.workflows.siblings import sibling

CLOCK = 2.0
CHIP = Chip(CLOCK, 4, {FP32: 8.0, "int8": 32.0}, 10.0, 1024.0)
KERNELS = Kernels()
SEEDS = st.integers(0, 2**32 - 1)


def conv(inputs: int, outputs: int, side: int, kernel: int = 3, groups: int = 1) -> Operator:
    window = ((kernel,) * 2, (1, 1), (kernel // 2,) * 2, (1, 1))
    return Operator(CONV, FP32, inputs, outputs, (side, side), *window, groups, "relu")


def network(random: np.random.Generator) -> list[Operator]:
    """A few stages of convolutions, depthwise ones and additions, then a linear layer."""
    channels, side, operators = int(random.choice([8, 16, 24, 32])), int(random.choice([16, 24, 32, 48])), []
    operators.append(conv(3, channels, side))
    for _ in range(int(random.integers(2, 5))):
        wider = channels * int(random.choice([1, 2]))
        for _ in range(int(random.integers(1, 4))):
            kind = random.integers(3)
            operators += [conv(channels, channels, side)] if kind else [conv(channels, channels, side, groups=channels)]
            operators.append(Operator(ADD, FP32, channels, channels, (side, side)))
        operators.append(conv(channels, wider, side, 1))
        channels, side = wider, max(4, side // 2)
    return [*operators, Operator(LINEAR, FP32, channels, 10)]


def works(random: np.random.Generator, count: int) -> list[Work]:
    return [work(network(random), CHIP, KERNELS) for _ in range(count)]


def world(random: np.random.Generator, every: list[Work]) -> np.ndarray:
    """What ``every`` network takes in a world drawn from the prior: its constants, and its operators' factors."""
    believed = prior()
    constants = np.exp(believed.log_median + believed.deviation * random.standard_normal(len(TERMS)))
    shapes, index = np.unique(np.round(np.vstack([item.shapes for item in every])), axis=0, return_inverse=True)
    difference = (shapes[:, None] - shapes[None]) / LENGTH
    covariance = DEVIATION**2 * np.exp(-0.5 * np.sum(difference**2, -1)) + 1e-8 * np.eye(len(shapes))
    factors = np.exp(np.linalg.cholesky(covariance) @ random.standard_normal(len(shapes)))[np.asarray(index).ravel()]
    took, start = [], 0
    for item in every:
        rows = len(item.counts)
        took.append(item.counts @ ((item.amounts @ constants) * factors[start : start + rows]) / (CLOCK * 1e6))
        start += rows
    return np.array(took)


def plain(constants: np.ndarray) -> Posterior:
    """Exactly these constants."""
    return unmeasured(Prior(np.log(constants), np.full(len(TERMS), 1e-3)))


@cache
def believed() -> Posterior:
    random = np.random.default_rng(7)
    some = works(random, 40)
    return fit(some, list(world(random, some)), CLOCK, prior())


@settings(max_examples=10)
@given(SEEDS)
def test_the_constants_that_made_the_measurements_are_found_again(seed: int) -> None:
    random = np.random.default_rng(seed)
    constants = np.exp(prior().log_median + 0.5 * prior().deviation * random.standard_normal(len(TERMS)))
    some, others = works(random, 60), works(random, 20)
    truth = plain(constants)
    fitted = fit(some, [truth.predict(item, CLOCK)[0] for item in some], CLOCK, prior())
    off = [fitted.predict(item, CLOCK)[0] / truth.predict(item, CLOCK)[0] - 1 for item in others]
    assert np.mean(np.abs(off)) < 0.01


def test_single_operators_tell_of_whole_networks() -> None:
    random = np.random.default_rng(1)
    constants = np.exp(prior().log_median + 0.5 * prior().deviation * random.standard_normal(len(TERMS)))
    truth = plain(constants)
    probes = [lone(op, CHIP, KERNELS) for op in designed(FP32, 0.2)]
    fitted = fit(probes, [truth.predict(item, CLOCK)[0] for item in probes], CLOCK, prior())
    for operators in (network(random) for _ in range(20)):
        whole = work(operators, CHIP, KERNELS)
        whole = Work(whole.amounts[:-1], whole.counts[:-1], whole.shapes[:-1])  # probes do not tell what a run takes
        assert fitted.predict(whole, CLOCK)[0] == pytest.approx(truth.predict(whole, CLOCK)[0], rel=0.05)


def test_nine_of_ten_networks_lie_in_their_interval() -> None:
    held = []
    for seed in range(16):
        random = np.random.default_rng(seed)
        every = works(random, 60)
        took = world(random, every) * np.exp(0.02 * random.standard_normal(60))
        fitted = fit(every[:30], list(took[:30]), CLOCK, prior())
        for item, ms in zip(every[30:], took[30:], strict=True):
            _, low, high = fitted.interval(item, CLOCK)
            held.append(low <= ms <= high)
    assert 0.85 <= np.mean(held) <= 0.97


@settings(max_examples=10)
@given(SEEDS)
def test_measuring_never_adds_doubt_about_a_network_that_was_measured(seed: int) -> None:
    random = np.random.default_rng(seed)
    some = works(random, 20)
    fitted = fit(some, list(world(random, some)), CLOCK, prior())
    before = unmeasured(prior())
    for item in some:
        assert fitted.predict(item, CLOCK)[1] < before.predict(item, CLOCK)[1]


def test_the_interval_widens_away_from_what_was_measured() -> None:
    near = work([conv(16, 16, 24), conv(16, 32, 24, 1)] * 4, CHIP, KERNELS)
    far = work([conv(512, 512, 7, 7)] * 4, CHIP, KERNELS)
    unlike = work([Operator("recurrent", FP32, 4096, 4096, work=4_000_000)] * 4, CHIP, KERNELS)
    widths = [believed().predict(item, CLOCK)[1] for item in (near, far, unlike)]
    assert widths[0] < widths[1] < widths[2]


@given(SEEDS, st.integers(1, 30))
def test_more_of_an_operator_takes_longer(seed: int, more: int) -> None:
    operators = network(np.random.default_rng(seed))
    added = next(op for op in operators if op.kind == ADD)  # without weights, which might push others out of a cache
    longer = operators + [added] * more
    fewer, many = (believed().predict(work(some, CHIP, KERNELS), CLOCK)[0] for some in (operators, longer))
    each = believed().parts_ms(lone(added, CHIP, KERNELS), CLOCK)[0]
    assert each > 0
    assert many == pytest.approx(fewer + more * each, rel=1e-9)


@given(st.floats(0.2, 5.0))
def test_a_machine_that_is_slower_in_all_is_predicted_slower_in_all(factor: float) -> None:
    random = np.random.default_rng(3)
    some = works(random, 40)
    base = [believed().predict(item, CLOCK)[0] for item in some]
    carried = sibling(believed(), some[:5], [factor * ms for ms in base[:5]], CLOCK)
    for item, ms in zip(some[5:], base[5:], strict=True):
        assert carried.predict(item, CLOCK)[0] == pytest.approx(factor * ms, rel=0.03)


def test_five_networks_tell_a_sibling_from_its_base() -> None:
    off, before = [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        some = works(random, 30)
        constants = believed().log_constants + 0.5 + 0.2 * random.standard_normal(len(TERMS))
        truth = Posterior(constants, believed().deviation, believed().shapes, believed().pull, believed().learnt, 0.01)
        took = [truth.predict(item, CLOCK)[0] for item in some]
        carried = sibling(believed(), some[:5], took[:5], CLOCK)
        for item, ms in zip(some[5:], took[5:], strict=True):
            off.append(abs(carried.predict(item, CLOCK)[0] / ms - 1))
            before.append(abs(believed().predict(item, CLOCK)[0] / ms - 1))
    assert np.mean(off) < 0.05 < 0.2 < np.mean(before)


def test_a_lone_operator_is_its_part_of_a_network() -> None:
    operators = [conv(16, 16, 24), conv(16, 32, 24, 1)]
    whole = work(operators, CHIP, KERNELS)
    assert np.allclose(whole.amounts[:-1], np.vstack([lone(op, CHIP, KERNELS).amounts for op in operators]))
    assert whole.amounts[-1, INDEX["network"]] == 1.0
    assert lone(operators[0], CHIP, KERNELS).amounts[:, INDEX["network"]].sum() == 0.0


@pytest.mark.parametrize("precision", [FP32, "int8"])
def test_the_designed_operators_are_distinct_can_be_timed_and_are_of_every_kind(precision: str) -> None:
    operators = designed(precision)
    assert len({op.key for op in operators}) == len(operators)
    assert all(op.probed and min(op.after, default=1) >= 1 for op in operators)
    kinds = {op.kind for op in operators}
    assert {CONV, LINEAR, ADD, "pool", "average pool", "mean"} <= kinds
    assert any(op.depthwise for op in operators) and any(op.entry for op in operators)
    assert any(len(op.kernel) == 1 for op in operators)
    assert len(designed(precision, 0.1)) < len(operators) / 4


# Unlike all that was measured


def only(**changed: int) -> Work:
    """A network of 3x3 convolutions on 24x24 pixels with 16 channels, or of what ``changed`` says instead."""
    shape = {"inputs": 16, "outputs": 16, "side": 24, "kernel": 3, **changed}
    return work([conv(3, 16, 24), *[conv(**shape)] * 8], CHIP, KERNELS)


@pytest.mark.parametrize("changed", [{"kernel": 7}, {"side": 192}, {"inputs": 256, "outputs": 256}, {"groups": 16}])
def test_an_interval_widens_with_the_distance_from_what_was_measured(changed: dict[str, int]) -> None:
    """Kinds of operators, shapes, input size, size of the network: each alone."""
    known = fit([only(side=side) for side in (16, 20, 24)], [1.0, 1.5, 2.0], CLOCK, prior())
    near, far = only(), only(**changed)
    without = Posterior(**{**vars(known), "unseen": 0.0})
    assert known.novel_share(near, CLOCK) < 0.05 < known.novel_share(far, CLOCK) <= 1
    assert known.predict(near, CLOCK)[1] == pytest.approx(without.predict(near, CLOCK)[1], rel=0.2)
    median, deviation = known.predict(far, CLOCK)
    assert median == without.predict(far, CLOCK)[0]
    assert deviation**2 == pytest.approx(
        without.predict(far, CLOCK)[1] ** 2 + (known.unseen * known.novel_share(far, CLOCK)) ** 2
    )
    assert deviation > 1.02 * without.predict(far, CLOCK)[1]


def test_halfway_to_what_is_new_is_halfway_in_the_interval() -> None:
    known = fit([only(side=side) for side in (16, 20, 24)], [1.0, 1.5, 2.0], CLOCK, prior())
    shares = [known.novel_share(only(side=side), CLOCK) for side in (24, 48, 96, 192)]
    assert shares == sorted(shares) and shares[-1] > 0.6
    assert unmeasured(prior()).novel_share(only(), CLOCK) == pytest.approx(1.0)
    assert unmeasured(prior()).unseen == 0.0  # what was never measured is all prior, whose deviations are wide
