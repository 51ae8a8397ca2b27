"""Laws of unstructured pruning: how many weights go and which, when, and that what is left comes back to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques.codebooks import k_means
from edgesdk.techniques.sparsity import (
    GLOBAL,
    LAYER,
    Trial,
    above,
    held,
    largest,
    n_of_m,
    pruned,
    sparse,
)


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "small": 0.1 * torch.randn(6, 5, generator=generator),
        "large": torch.randn(4, 3, 3, 3, generator=generator),
    }


@given(st.integers(0, 10**6), st.floats(0, 0.999), st.sampled_from((LAYER, GLOBAL)))
def test_the_share_asked_for_goes_and_none_that_goes_is_larger_than_one_that_stays(
    seed: int, share: float, scope: str
) -> None:
    values = weights(seed)
    masks = largest(values, share, scope)
    groups = [[name] for name in values] if scope == LAYER else [list(values)]
    for names in groups:
        size = torch.cat([values[name].abs().flatten() for name in names])
        mask = torch.cat([masks[name].flatten() for name in names])
        assert int((~mask).sum()) == round(share * len(size))
        if mask.any() and not mask.all():
            assert float(size[~mask].max()) <= float(size[mask].min())
    assert all(masks[name].shape == weight.shape for name, weight in values.items())


def test_of_all_weights_together_those_of_the_layer_with_small_ones_go_first() -> None:
    masks = largest(weights(0), 0.2, GLOBAL)
    assert float(masks["small"].float().mean()) < 0.4
    assert float(masks["large"].float().mean()) > 0.9


def test_weights_as_large_as_each_other_go_by_count_too() -> None:
    mask = largest({"w": torch.ones(10)}, 0.3)["w"]
    assert mask.tolist() == [False] * 3 + [True] * 7


@given(st.integers(0, 10**6), st.floats(0, 3))
def test_a_threshold_keeps_what_is_above_it(seed: int, threshold: float) -> None:
    for name, weight in weights(seed).items():
        assert torch.equal(above({name: weight}, threshold)[name], weight.abs() > threshold)


@given(st.integers(0, 10**6), st.sampled_from(((1, 2), (2, 4), (1, 4), (4, 8))), st.sampled_from(((), (3,), (3, 2))))
def test_n_of_m_keeps_the_n_largest_of_every_m_inputs(
    seed: int, pattern: tuple[int, int], kernel: tuple[int, ...]
) -> None:
    n, m = pattern
    weight = torch.randn(5, 16, *kernel, generator=torch.Generator().manual_seed(seed))
    mask = n_of_m(weight, n, m)
    assert mask.shape == weight.shape
    for group in range(16 // m):
        size = weight[:, group * m : (group + 1) * m].abs()
        kept = mask[:, group * m : (group + 1) * m]
        assert bool((kept.sum(1) == n).all())
        assert bool((size.masked_fill(~kept, math.inf).amin(1) >= size.masked_fill(kept, 0).amax(1)).all())


def test_n_of_m_keeps_n_where_all_are_alike() -> None:
    assert n_of_m(torch.zeros(2, 8), 2, 4).tolist() == [[True, True, False, False] * 2] * 2


def test_held_weights_stay_zero_while_the_others_learn() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    names = ("0.weight", "3.weight")
    masks = largest({name: model.get_parameter(name) for name in names}, 0.5)
    with held(model, masks):
        before = model.get_parameter("0.weight").detach().clone()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(16, 8)).square().sum().backward()
            optimizer.step()
            assert all(torch.equal(model.get_parameter(name) != 0, masks[name]) for name in names)
    assert not torch.equal(model.get_parameter("0.weight"), before)
    model(torch.randn(16, 8)).sum().backward()
    gradient = model.get_parameter("0.weight").grad
    assert gradient is not None
    assert not torch.equal(gradient != 0, masks["0.weight"])


class Bending:
    """A model whose accuracy is a known function of its sparsity, less what training wins back."""

    def __init__(self) -> None:
        self.sparsity, self.trained = 0.0, 0

    @staticmethod
    def prune(model: Bending, sparsity: float) -> None:
        model.sparsity, model.trained = sparsity, 0

    @staticmethod
    def train(model: Bending) -> None:
        model.trained += 1

    @staticmethod
    def test(model: Bending) -> float:
        return 1 - model.sparsity**2 - (0.3 if model.sparsity and not model.trained else 0)


@given(st.floats(0.05, 0.99))
def test_pruning_goes_as_far_as_the_accuracy_allows_and_comes_back_from_beyond(accuracy: float) -> None:
    model = Bending()
    result = pruned(model, Bending.prune, Bending.train, Bending.test, accuracy)
    assert model.sparsity == 0.0
    assert result.accuracy == Bending.test(result.model) >= accuracy
    assert result.model.sparsity == result.sparsity
    furthest = min(0.98, math.sqrt(1 - accuracy))
    assert furthest - 0.04 <= result.sparsity <= furthest
    assert [t.sparsity for t in result.trials if t.kept] == sorted({t.sparsity for t in result.trials if t.kept})
    assert all(trial.kept == (trial.accuracy >= accuracy) for trial in result.trials)


def test_a_round_that_tests_as_nan_is_rolled_back() -> None:
    result = pruned(
        Bending(), Bending.prune, Bending.train, lambda m: math.nan if m.sparsity else 1.0, 0.5, step=0.2, finest=0.1
    )
    assert result.sparsity == result.model.sparsity == 0.0
    assert [(trial.sparsity, trial.kept) for trial in result.trials] == [(0.2, False), (0.1, False)]
    assert isinstance(result.trials[0], Trial)


@given(st.integers(0, 10**6), st.floats(0, 0.9))
def test_what_is_stored_sparse_comes_back_to_the_bit(seed: int, share: float) -> None:
    for weight in weights(seed).values():
        mask = largest({"w": weight}, share)["w"]
        weight = weight.masked_fill(~mask, 0)
        result = sparse(weight)
        assert isinstance(result.values, torch.Tensor)
        assert len(result.values) == int(mask.sum())
        assert result.decoded().numpy().tobytes() == weight.numpy().tobytes()
        assert torch.equal(sparse(weight * -1.0).decoded(), weight * -1.0)  # whose zeros are negative


def test_what_is_not_zero_may_have_a_codebook_of_its_own() -> None:
    weight = weights(0)["large"]
    weight = weight.masked_fill(~largest({"w": weight}, 0.6)["w"], 0)
    result = sparse(weight, partial(k_means, count=4)).decoded()
    assert torch.equal(result != 0, weight != 0)
    assert len(result.unique()) == 5


TWO = nn.Linear(4, 2)
BENDING = Bending.prune, Bending.train, Bending.test
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: above({}, -1.0), "no magnitude"),
    (lambda: above({}, math.nan), "no magnitude"),
    (lambda: above({}, math.inf), "no magnitude"),
    (lambda: largest({"w": torch.ones(2)}, 1.0), "sparsity of 1.0"),
    (lambda: largest({"w": torch.ones(2)}, -0.1), "sparsity of -0.1"),
    (lambda: largest({"w": torch.ones(2)}, math.nan), "sparsity of nan"),
    (lambda: largest({"w": torch.ones(2)}, 0.5, "model"), "no scope 'model'"),
    (lambda: largest({"w": torch.tensor([1.0, math.nan])}, 0.5), "w is not finite"),
    (lambda: n_of_m(torch.ones(2, 6), 2, 4), "does not divide 6"),
    (lambda: n_of_m(torch.ones(8), 2, 4), "does not divide"),
    (lambda: n_of_m(torch.ones(2, 8), 4, 4), "none or all"),
    (lambda: n_of_m(torch.ones(2, 8), 0, 4), "none or all"),
    (lambda: held(TWO, {"bais": torch.ones(2)}).__enter__(), "no parameter bais"),
    (lambda: held(TWO, {"weight": torch.ones(2)}).__enter__(), "another shape"),
    (lambda: sparse(torch.zeros(4)), "zero everywhere"),
    (lambda: pruned(Bending(), *BENDING, 1.01), "reaches 1 unpruned"),
    (lambda: pruned(Bending(), *BENDING, math.nan), "reaches 1 unpruned"),
    (lambda: pruned(Bending(), *BENDING, 0.5, step=1.0), "cannot be taken"),
    (lambda: pruned(Bending(), *BENDING, 0.5, finest=0.0), "cannot be taken"),
    (lambda: pruned(Bending(), *BENDING, 0.5, most=1.0), "cannot be taken"),
]


@pytest.mark.parametrize(("call", "fact"), BAD)
def test_what_cannot_be_pruned_so_is_said_on_one_line(call: Callable[[], object], fact: str) -> None:
    with pytest.raises(UsageError, match=fact) as caught:
        call()
    assert "\n" not in str(caught.value)
