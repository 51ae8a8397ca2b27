"""Losses of distillation: how far a student's tensors are from a teacher's, each a scalar, zero for twins.

N is the number of samples, K of classes, C of channels, ``*`` any positions. The teacher's tensors are taken as given:
no gradient reaches them. Every loss is a mean over samples, or over pairs or triplets of them. All raise ``UsageError``
for tensors that do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.core.errors import UsageError

TEMPERATURE = 4.0
DIVERSITY = 1.0  # what it counts for that several students differ, against their distance to the teacher
LEAST_VARIANCE, FIRST_VARIANCE = 1e-5, 5.0  # of a variational Gaussian
LEAST_DISTANCE = 1e-12
SAME_PLACE = 1e-4  # of the mean distance: nearer samples have no angle
HIDDEN = 64  # units of a discriminator


def soft(student: Tensor, teacher: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Soft labels (Hinton, Vinyals, Dean 2015, section 2) of logits (N, K): ``T^2 KL(p_teacher || p_student)``.

    ``p = softmax(logits / T)``. Gradients of soft labels scale as 1/T^2, which the factor T^2 undoes.
    """
    _same(student, teacher)
    if not temperature > 0:
        raise UsageError(f"a temperature of {temperature:g}", "it must be above 0; 4 is usual")
    log_p = F.log_softmax(teacher.detach() / temperature, -1)
    log_q = F.log_softmax(student / temperature, -1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def hard(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (N, K) and ``labels`` (N,), or soft ones (N, K): the hard labels of Hinton et al. 2015,
    section 2."""
    if student.dim() != 2 or labels.shape not in (student.shape[:1], student.shape):
        fact = f"logits of shape {_shown(student)} and labels of shape {_shown(labels)}"
        raise UsageError(fact, "they must be (N, classes) and (N,)")
    return F.cross_entropy(student, labels)


def logits(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of logits (N, K) (Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?")."""
    _same(student, teacher)
    return F.mse_loss(student, teacher.detach())


def probabilities(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean squared error of the probabilities ``softmax(logits / T)`` of logits (N, K)."""
    _same(student, teacher)
    if not temperature > 0:
        raise UsageError(f"a temperature of {temperature:g}", "it must be above 0; 1 leaves probabilities as they are")
    return F.mse_loss((student / temperature).softmax(-1), (teacher.detach() / temperature).softmax(-1))


def double_entropy(
    students: Sequence[Tensor], teacher: Tensor, temperature: float = TEMPERATURE, diversity: float = DIVERSITY
) -> Tensor:
    """Several students that are taught together and are to differ, each of logits (N, K), as the teacher's.

    ``T^2 [mean_m KL(p_teacher || p_m) - diversity (H(p_mean) - mean_m H(p_m))]``, ``p = softmax(logits / T)`` and
    p_mean the mean of the students' p: each is to be near the teacher (Hinton et al. 2015), and what they answer
    together is to have a higher entropy H than what each does. That difference is their Jensen-Shannon divergence (Lin
    1991, eq. 5.1). H(p_mean) alone would not do: of students with one mean, twins are the nearest to the teacher. About
    the teacher the divergence is, to second order, what differing costs, so that a ``diversity`` of 1 holds their mean
    to the teacher and leaves free how they differ; above they are driven apart, below together. It is bounded by log M.
    Neighbours: students that teach each other from one trunk (Lan et al. 2018, "Knowledge Distillation by On-the-Fly
    Native Ensemble", eq. 8), and deep ensembles, which differ by where they begin (Lakshminarayanan et al. 2017).

    Zero where all are the teacher's twins; with ``diversity`` 0, or a single student, the mean of :func:`soft`. Twins
    get like gradients, and stay twins: students must begin apart. Raises ``UsageError`` for no students, and a
    ``diversity`` that is below zero or not finite.
    """
    if not students or not 0 <= diversity < math.inf:
        what = f"a diversity of {diversity:g}" if students else "no students"
        raise UsageError(what, "give one student or more, and a diversity of 0 or more")
    near = torch.stack([soft(student, teacher, temperature) for student in students]).mean()
    answers = torch.stack([(student / temperature).softmax(-1) for student in students])
    spread = _entropy(answers.mean(0)) - _entropy(answers).mean(0)
    return near - diversity * temperature**2 * spread.mean()


def _entropy(p: Tensor) -> Tensor:
    """In nats, of probabilities (..., K)."""
    return -torch.xlogy(p, p.clamp(min=torch.finfo(p.dtype).tiny)).sum(-1)


def features(student: Tensor, teacher: Tensor) -> Tensor:
    """Hints (Romero et al. 2015, "FitNets", eq. 3): half the mean squared difference of two layers' outputs.

    Both are (N, C, *). Where the student's has another number of channels, a :class:`Regressor` that learns with it
    comes before.
    """
    _same(student, teacher)
    return 0.5 * F.mse_loss(student, teacher.detach())


class Regressor(nn.Module):
    """The learnt map r of FitNets: a 1x1 convolution from ``inputs`` to ``outputs`` channels along ``axis``."""

    def __init__(self, inputs: int, outputs: int, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis
        self.map: nn.Linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``x``, (N, C, *) with its channels on ``axis``, with the other number of channels. Raises ``UsageError``."""
        if x.shape[self.axis] != self.map.in_features:
            fact = f"features of shape {_shown(x)} for a regressor of {self.map.in_features} channels"
            raise UsageError(fact, "name the axis of the channels")
        return self.map(x.movedim(self.axis, -1)).movedim(-1, self.axis)


def attention(student: Tensor, teacher: Tensor, axis: int = 1) -> Tensor:
    """Attention maps (Zagoruyko and Komodakis 2017, section 3.1, eq. 2, p = 2, squared) of (N, C, *) and (N, C', *).

    The map of a tensor is ``Q = sum over channels of a^2``, one figure per position, divided by its length; the loss
    is ``|Q_student - Q_teacher|^2``. The numbers of channels may differ. ``axis`` is that of the channels.
    """
    maps = [t.square().sum(axis).flatten(1) for t in _positioned(student, teacher.detach(), axis)]
    left, right = (F.normalize(m, dim=1) for m in maps)
    return (left - right).square().sum(1).mean()


def jacobian(student: Tensor, teacher: Tensor, student_x: Tensor, teacher_x: Tensor) -> Tensor:
    """Jacobian matching (Srinivas and Fleuret 2018): how the output changes with the input x, (N, *).

    ``student`` and ``teacher``, (N, K), were computed from ``student_x`` and ``teacher_x``, which require a gradient.
    Of the class that the teacher answers with, the gradients J by x are compared as directions:
    ``|J_student / |J_student| - J_teacher / |J_teacher||^2``. It can be differentiated by the student's weights.
    """
    _same(student, teacher)
    if student.dim() != 2:
        raise UsageError(f"outputs of shape {_shown(student)}", "jacobian takes (N, classes)")
    _same(student_x, teacher_x)
    best = teacher.detach().argmax(-1, keepdim=True)
    rows = []
    for output, x, keep in ((student, student_x, True), (teacher, teacher_x, False)):
        total = output.gather(1, best).sum()
        (gradient,) = torch.autograd.grad(total, x, create_graph=keep, retain_graph=True)
        rows.append(F.normalize(gradient.flatten(1), dim=1))
    return (rows[0] - rows[1].detach()).square().sum(1).mean()


def distances(student: Tensor, teacher: Tensor) -> Tensor:
    """Relations of pairs (Park et al. 2019, "Relational Knowledge Distillation", RKD-D) of (N, *) and (N, *').

    The Huber loss of ``|s_i - s_j| / mean distance`` against the teacher's, averaged over all pairs.
    """
    left, right = _samples(student, teacher)
    return F.smooth_l1_loss(_relative(left), _relative(right))


def angles(student: Tensor, teacher: Tensor) -> Tensor:
    """Relations of triplets (Park et al. 2019, RKD-A) of (N, *) and (N, *').

    The Huber loss of ``cos(s_i - s_j, s_k - s_j)`` against the teacher's, averaged over all triplets; N^3 of them.
    """
    left, right = _samples(student, teacher)
    return F.smooth_l1_loss(_cosines(left), _cosines(right))


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity-preserving distillation (Tung and Mori 2019) of (N, *) and (N, *').

    ``G = Q Q^T`` of the samples as rows Q, each row of G divided by its length; ``|G_student - G_teacher|^2 / N^2``.
    """
    left, right = (F.normalize(q @ q.T, dim=1) for q in _samples(student, teacher))
    return (left - right).square().mean()


class Information(nn.Module):
    """Variational information distillation (Ahn et al. 2019, section 2.1): a bound on what the student's layer tells.

    The teacher's features t, (N, C, *), are Gaussian about ``mu(s)``, a learnt 1x1 map of the student's, with a learnt
    variance per channel, ``softplus(alpha) + 1e-5``. The loss is ``-log q(t | s)`` without its constant, per element:
    ``log sigma + (t - mu(s))^2 / (2 sigma^2)``. It has no zero: at best it is ``log sigma + 1/2`` with sigma^2 the mean
    squared residual, or ``log sigma`` at the least variance for twins.
    """

    def __init__(self, student: int, teacher: int, axis: int = 1) -> None:
        super().__init__()
        self.mean: Regressor = Regressor(student, teacher, axis)
        first = torch.full((teacher,), FIRST_VARIANCE - LEAST_VARIANCE)
        self.alpha: nn.Parameter = nn.Parameter(torch.log(torch.expm1(first)))

    @property
    def variance(self) -> Tensor:
        """sigma^2 per channel of the teacher, (C,)."""
        return F.softplus(self.alpha) + LEAST_VARIANCE

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss, a scalar, of features (N, C', *) and the teacher's (N, C, *). Raises ``UsageError``."""
        mean = self.mean(student)
        _same(mean, teacher)
        shape = [1] * teacher.dim()
        shape[self.mean.axis] = -1
        variance = self.variance.reshape(shape)
        return (0.5 * variance.log() + (teacher.detach() - mean).square() / (2 * variance)).mean()


class Discriminator(nn.Module):
    """An adversary (after Xu et al. 2018, "Training Shallow and Thin Networks").

    A small network D learns to tell the teacher's outputs (N, K) from the student's, by binary cross-entropy; the
    student learns to be taken for the teacher, ``-log D(student)``, with D as it is (Goodfellow et al. 2014, section 3:
    that does not saturate). One optimizer descends for both. Where the two cannot be told apart it is 3 log 2.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.net: nn.Sequential = nn.Sequential(nn.Linear(outputs, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The sum of both sides' losses, a scalar, of outputs (N, K). Raises ``UsageError`` for shapes that differ."""
        _same(student, teacher)
        fixed = {name: parameter.detach() for name, parameter in self.net.named_parameters()}
        taken = torch.func.functional_call(self.net, fixed, (student,))
        true, false = self.net(teacher.detach()), self.net(student.detach())
        return F.softplus(-true).mean() + F.softplus(false).mean() + F.softplus(-taken).mean()


def _relative(x: Tensor) -> Tensor:
    """The distances between samples, (N, N), over their mean."""
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    count = max(1, len(x) * (len(x) - 1))
    return distances / (distances.sum() / count).clamp(min=LEAST_DISTANCE)


def _cosines(x: Tensor) -> Tensor:
    """The cosine of the angle at j between i and k, (N, N, N); 0 where two of them are the same place."""
    x = x - x.mean(0)
    gram = x @ x.T
    away = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    apart = away.detach() > SAME_PLACE * away.detach().mean()
    away = away.where(apart, 1.0)
    inner = gram[:, None, :] - gram[:, :, None] - gram[None, :, :] + gram.diagonal()[None, :, None]  # i, j, k
    return inner / (away[:, :, None] * away[None, :, :]) * (apart[:, :, None] & apart[None, :, :])


def _same(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        fact = f"the student's {_shown(student)} does not fit the teacher's {_shown(teacher)}"
        raise UsageError(fact, "give tensors of the same shape")


def _samples(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.dim() < 2 or teacher.dim() < 2 or len(student) != len(teacher):
        fact = f"the student's {_shown(student)} and the teacher's {_shown(teacher)} are not the same samples"
        raise UsageError(fact, "give tensors (N, ...) with the same N")
    if len(student) < 2:
        raise UsageError("relations of a single sample", "give batches of two or more")
    return student.flatten(1), teacher.detach().flatten(1)


def _positioned(student: Tensor, teacher: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Both, if they have the same positions and at least two of them."""
    places = [tuple(n for d, n in enumerate(t.shape) if d != axis % t.dim()) for t in (student, teacher)]
    if places[0] != places[1] or len(places[0]) < 2:
        fact = f"the student's {_shown(student)} and the teacher's {_shown(teacher)} have not the same positions"
        raise UsageError(fact, "choose layers of the same height and width")
    return student, teacher


def _shown(x: Tensor) -> str:
    return str(tuple(x.shape))
