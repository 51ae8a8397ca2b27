"""Laws of distillation losses: zero for twins, gradients as finite differences have them, and what each leaves free."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques import distillation as d

FLAT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "soft": d.soft, "logits": d.logits, "probabilities": d.probabilities, "features": d.features,
    "distances": d.distances, "angles": d.angles, "similarity": d.similarity,
}  # fmt: skip
"""Losses of two tensors (N, K)."""
RELATIONS = ("distances", "angles", "similarity")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("kind", FLAT)
@given(n=st.integers(2, 7), k=st.integers(2, 6), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_twins_have_nothing_to_learn_and_others_have(kind: str, n: int, k: int, seed: int) -> None:
    first, second = normal(n + 1, k, seed=seed), normal(n + 1, k, seed=seed + 1)
    assert float(FLAT[kind](first, first)) == pytest.approx(0, abs=1e-12)
    assert float(FLAT[kind](first, second)) > 1e-6


@pytest.mark.parametrize("kind", FLAT)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    teacher = normal(5, 4, seed=1)
    student = normal(5, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: FLAT[kind](s, teacher), (student,))


def test_the_gradient_of_attention_is_that_of_finite_differences() -> None:
    teacher, student = normal(3, 6, 2, 3, seed=1), normal(3, 4, 2, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: d.attention(s, teacher), (student,))


@pytest.mark.parametrize("kind", FLAT)
def test_nothing_flows_back_to_the_teacher(kind: str) -> None:
    student, teacher = normal(5, 4).requires_grad_(), normal(5, 4, seed=1).requires_grad_()
    FLAT[kind](student, teacher).backward()
    assert teacher.grad is None and student.grad is not None


@given(count=st.integers(1, 5), k=st.integers(2, 6), seed=st.integers(0, 1000), diversity=st.floats(0, 3))
@settings(max_examples=60)
def test_students_gain_by_how_far_they_differ_and_no_more(count: int, k: int, seed: int, diversity: float) -> None:
    """The entropy of their mean is above the mean of their entropies by the divergence between them, at most log M."""
    teacher, students = normal(6, k, seed=seed), [normal(6, k, seed=seed + 1 + m) for m in range(count)]
    p = torch.stack([student.softmax(-1) for student in students])
    near = torch.stack([d.soft(student, teacher, 1.0) for student in students]).mean()
    divergence = (p * (p.log() - p.mean(0).log())).sum(-1).mean()
    loss = d.double_entropy(students, teacher, 1.0, diversity)
    torch.testing.assert_close(loss, near - diversity * divergence)
    assert (count > 1) == (float(divergence) > 1e-9) and float(divergence) <= math.log(count) + 1e-9
    assert float(d.double_entropy([teacher] * count, teacher, 3.0, diversity)) == pytest.approx(0, abs=1e-9)
    if diversity == 0 or count == 1:
        torch.testing.assert_close(loss, near)


def test_students_end_as_twins_unless_more_than_what_it_costs_is_paid_for_differing() -> None:
    teacher, begun = normal(8, 5, seed=1), [normal(8, 5, seed=seed) for seed in (2, 3, 4)]
    apart, near, mean = {}, {}, {}
    for diversity in (0.0, 1.5):
        students = [each.clone().requires_grad_() for each in begun]
        optimizer = torch.optim.Adam(students, 0.05)
        for _ in range(200):
            optimizer.zero_grad()
            d.double_entropy(students, teacher, 2.0, diversity).backward()
            optimizer.step()
        p = torch.stack([(each.detach() / 2).softmax(-1) for each in students])
        apart[diversity] = float((p - p.mean(0)).square().mean())
        near[diversity] = float(torch.stack([d.soft(each.detach(), teacher, 2.0) for each in students]).mean())
        mean[diversity] = float(d.soft(2.0 * p.mean(0).log(), teacher, 2.0))
    assert apart[0.0] < 1e-6 and near[0.0] < 1e-6
    assert apart[1.5] > 1e-3 and mean[1.5] < 0.2 * near[1.5], "together they are nearer to the teacher than each is"


def test_the_gradient_of_double_entropy_is_that_of_finite_differences_and_leaves_the_teacher() -> None:
    teacher = normal(4, 3, seed=1).requires_grad_()
    students = tuple(normal(4, 3, seed=seed).requires_grad_() for seed in (2, 3))
    assert torch.autograd.gradcheck(lambda *s: d.double_entropy(s, teacher.detach(), 2.0, 0.5), students)
    d.double_entropy(students, teacher).backward()
    assert teacher.grad is None
    for bad in (lambda: d.double_entropy([], teacher), lambda: d.double_entropy(students, teacher, 4.0, -1.0)):
        with pytest.raises(UsageError):
            bad()


def test_soft_labels_are_scaled_by_the_square_of_the_temperature() -> None:
    """At a high temperature and zero-meaned logits, they are matched logits (Hinton et al. 2015, section 2.1)."""
    student, teacher = (normal(6, 5, seed=s) for s in (1, 2))
    student, teacher = student - student.mean(-1, keepdim=True), teacher - teacher.mean(-1, keepdim=True)
    expected = (student - teacher).square().sum(-1).mean() / (2 * 5)
    assert float(d.soft(student, teacher, 1e4)) == pytest.approx(float(expected), rel=1e-3)
    assert float(d.soft(student, teacher, 1.0)) == pytest.approx(
        float(nn.functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean"))
    )


def test_hard_labels_are_soft_labels_of_a_teacher_that_is_certain() -> None:
    student, labels = normal(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    certain = 1e6 * nn.functional.one_hot(labels, 5).double()
    assert float(d.hard(student, labels)) == pytest.approx(float(d.soft(student, certain, 1.0)))


@given(shift=st.floats(-5, 5), seed=st.integers(0, 100))
@settings(max_examples=30)
def test_probabilities_do_not_see_a_shift_that_logits_see(shift: float, seed: int) -> None:
    first = normal(4, 5, seed=seed)
    assert float(d.probabilities(first + shift, first, 2.0)) == pytest.approx(0, abs=1e-20)
    assert float(d.logits(first + shift, first)) == pytest.approx(shift**2)


@given(scale=st.floats(0.1, 10), seed=st.integers(0, 100))
@settings(max_examples=30)
def test_relations_see_neither_where_nor_how_large_nor_how_turned(scale: float, seed: int) -> None:
    x = normal(6, 4, seed=seed)
    turned, _ = torch.linalg.qr(normal(4, 4, seed=seed + 1))
    moved = scale * x @ turned + normal(4, seed=seed + 2)
    assert float(d.distances(moved, x)) == pytest.approx(0, abs=1e-12)
    assert float(d.angles(moved, x)) == pytest.approx(0, abs=1e-12)
    assert float(d.similarity(scale * x @ turned, x)) == pytest.approx(0, abs=1e-12)
    assert float(d.distances(moved.square(), x)) > 1e-6
    assert float(d.angles(moved.square(), x)) > 1e-6


@pytest.mark.parametrize("kind", RELATIONS)
def test_relations_compare_features_of_any_width(kind: str) -> None:
    x = normal(5, 4)
    wide = torch.cat([x, torch.zeros(5, 3, dtype=x.dtype)], 1).reshape(5, 7, 1)  # the same places, in more dimensions
    assert float(FLAT[kind](x, wide)) == pytest.approx(0, abs=1e-12)


def test_angles_are_those_of_the_definition_also_where_samples_are_the_same() -> None:
    first, second = normal(4, 3), normal(4, 3, seed=1)

    def cosine(x: Tensor, i: int, j: int, k: int) -> Tensor:
        return nn.functional.cosine_similarity(x[i] - x[j], x[k] - x[j], dim=0) if j not in (i, k) else torch.zeros(())

    places = [(i, j, k) for i in range(4) for j in range(4) for k in range(4)]
    pairs = [(float(cosine(first, *p)), float(cosine(second, *p))) for p in places]
    expected = sum(0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5 for a, b in pairs) / len(places)
    assert float(d.angles(first, second)) == pytest.approx(expected)
    twice = normal(3, 3, dtype=torch.float32)[[0, 0, 1, 2]].requires_grad_()
    for loss in (d.angles, d.distances):
        (gradient,) = torch.autograd.grad(loss(twice, second.float()), twice)
        assert torch.isfinite(gradient).all()
        assert float(gradient.abs().max()) < 10


@given(scale=st.floats(0.1, 10), seed=st.integers(0, 100))
@settings(max_examples=30)
def test_attention_compares_where_not_how_much_nor_in_how_many_channels(scale: float, seed: int) -> None:
    x = normal(3, 4, 5, 5, seed=seed)
    more = torch.cat([x, x, x], 1)
    assert float(d.attention(scale * x, more)) == pytest.approx(0, abs=1e-12)
    assert float(d.attention(x.movedim(1, -1), more.movedim(1, -1), -1)) == pytest.approx(0, abs=1e-12)
    assert float(d.attention(x.flip(3), x)) > 1e-4


def mapping(width: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()


def test_jacobians_are_matched_as_directions() -> None:
    small, large, x = mapping(5, 1), mapping(9, 2), normal(6, 4).requires_grad_()
    twin, other = d.jacobian(small(x), 3 * small(x), x, x).detach(), d.jacobian(small(x), large(x), x, x).detach()
    assert float(twin) == pytest.approx(0, abs=1e-12)
    best = large(x).argmax(-1)
    expected = 0.0
    for row, c in enumerate(best.tolist()):
        own, theirs = (torch.autograd.functional.jacobian(f, x[row])[c] for f in (small, large))
        expected += float((own / own.norm() - theirs / theirs.norm()).square().sum()) / len(x)
    assert float(other) == pytest.approx(expected)


def test_jacobian_matching_has_the_gradient_of_finite_differences() -> None:
    small, large, x = mapping(5, 1), mapping(9, 2), normal(6, 4).requires_grad_()

    def loss(weight: Tensor) -> Tensor:
        out = torch.func.functional_call(small, {"0.weight": weight}, (x,))
        return d.jacobian(out, large(x), x, x)

    weight = next(small.parameters()).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (weight,))


def test_a_regressor_learns_the_map_between_two_widths() -> None:
    torch.manual_seed(0)
    teacher = normal(8, 6, 3, 3, dtype=torch.float32)
    student = torch.einsum("nchw,cd->ndhw", teacher, normal(6, 6, seed=3, dtype=torch.float32))
    regressor = d.Regressor(6, 6)
    assert regressor(student).shape == teacher.shape
    first = float(d.features(regressor(student), teacher).detach())
    optimizer = torch.optim.LBFGS(regressor.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = d.features(regressor(student), teacher)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(d.features(regressor(student), teacher).detach()) < 1e-3 * first


@given(seed=st.integers(0, 50), log_variance=st.floats(-3, 2))
@settings(max_examples=25)
def test_information_is_least_where_the_variance_is_that_of_the_residual(seed: int, log_variance: float) -> None:
    student, teacher = normal(8, 4, 3, seed=seed), normal(8, 5, 3, seed=seed + 1)
    loss = d.Information(4, 5).double()
    with torch.no_grad():
        residual = (teacher - loss.mean(student)).square().mean((0, 2))
        loss.alpha.copy_(torch.log(torch.expm1(residual - d.LEAST_VARIANCE)))
        least = float(loss(student, teacher))
        assert least == pytest.approx(float((0.5 * residual.log() + 0.5).mean()))
        loss.alpha.copy_(torch.log(torch.expm1(residual * math.exp(log_variance))))
        assert float(loss(student, teacher)) >= least - 1e-12


def test_information_of_twins_is_at_its_minimum_and_its_gradients_are_right() -> None:
    x = normal(4, 3, 2)
    loss = d.Information(3, 3).double()
    assert loss.variance.detach().tolist() == pytest.approx([d.FIRST_VARIANCE] * 3)
    with torch.no_grad():
        loss.mean.map.weight.copy_(torch.eye(3))
        loss.mean.map.bias.zero_()
        loss.alpha.fill_(-50.0)
        assert float(loss(x, x)) == pytest.approx(0.5 * math.log(d.LEAST_VARIANCE))
        assert float(loss(x + 0.1, x)) > 100
        loss.alpha.fill_(0.3)
    student = normal(4, 3, 2, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, *_: loss(s, x), (student, *loss.parameters()))


def test_an_adversary_that_sees_no_difference_pays_three_log_two_and_pushes_the_student_to_its_teacher() -> None:
    torch.manual_seed(0)
    adversary = d.Discriminator(3)
    for parameter in adversary.net[-1].parameters():
        nn.init.zeros_(parameter)
    x = normal(5, 3, dtype=torch.float32)
    assert float(adversary(x, x).detach()) == pytest.approx(3 * math.log(2))
    adversary = d.Discriminator(1)
    teacher, bias = torch.full((64, 1), 2.0), nn.Parameter(torch.tensor(-2.0))
    optimizer = torch.optim.Adam(adversary.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        adversary(bias.expand(64, 1), teacher).backward()
        optimizer.step()
    true, false = adversary.net(teacher), adversary.net(bias.expand(64, 1))
    assert float(true.min()) > 2 and float(false.max()) < -2  # it has learnt to tell them apart
    (gradient,) = torch.autograd.grad(adversary(bias.expand(64, 1), teacher), bias)
    assert float(gradient) < -0.5  # and who descends goes up, to the teacher, however sure it is


BAD: list[tuple[Callable[[], Tensor], str]] = [
    (lambda: d.soft(normal(4, 5), normal(4, 6)), r"the student's \(4, 5\) does not fit the teacher's \(4, 6\)"),
    (lambda: d.soft(normal(4, 5), normal(4, 5), 0.0), "a temperature of 0"),
    (lambda: d.soft(normal(4, 5), normal(4, 5), math.nan), "a temperature of nan"),
    (lambda: d.probabilities(normal(4, 5), normal(4, 5), -1), "a temperature of -1"),
    (lambda: d.hard(normal(4, 5), torch.zeros(3, dtype=torch.long)), r"labels of shape \(3,\)"),
    (lambda: d.logits(normal(4, 5), normal(3, 5)), "does not fit"),
    (lambda: d.probabilities(normal(4, 5), normal(3, 5)), "does not fit"),
    (lambda: d.features(normal(4, 5, 2), normal(4, 6, 2)), "does not fit"),
    (lambda: d.Regressor(5, 6)(normal(4, 6, 2)), "a regressor of 5 channels"),
    (lambda: d.attention(normal(4, 5, 2, 2), normal(4, 5, 2, 3)), "not the same positions"),
    (lambda: d.attention(normal(4, 5), normal(4, 5)), "not the same positions"),
    (lambda: d.jacobian(normal(4, 5), normal(4, 6), normal(4, 2), normal(4, 2)), "does not fit"),
    (lambda: d.jacobian(normal(4), normal(4), normal(4, 2), normal(4, 2)), "jacobian takes"),
    (lambda: d.distances(normal(4, 5), normal(3, 5)), "not the same samples"),
    (lambda: d.angles(normal(1, 5), normal(1, 5)), "relations of a single sample"),
    (lambda: d.similarity(normal(4), normal(4)), "not the same samples"),
    (lambda: d.Information(5, 6).double()(normal(4, 5, 2), normal(4, 6, 3)), "does not fit"),
    (lambda: d.Discriminator(5).double()(normal(4, 5), normal(4, 6)), "does not fit"),
]


@pytest.mark.parametrize(("bad", "says"), BAD)
def test_what_does_not_fit_is_said_on_one_line(bad: Callable[[], Tensor], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        bad()
    assert "\n" not in str(caught.value)
