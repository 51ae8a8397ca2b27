"""Ensembles: several networks that answer as one, each taught by a sample of the data that is its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgesdk.core.errors import UsageError
from edgesdk.core.wording import counted

LEAST = 1e-12  # of a probability, so that its logarithm is finite


class Ensemble(nn.Module):
    """The weighted mean of what ``members``, models of one input, answer.

    Of classifiers' logits, whose classes are along ``axis``, it is the mean of their probabilities (Breiman 1996,
    "Bagging Predictors", section 6.1), given as its logarithm: logits again, by which it teaches and is deployed as any
    classifier. Where they do not ``classify`` it is the mean of their outputs. ``weights``, by default equal, are made
    to add up to one. Raises ``UsageError`` for less than two members, and weights that do not fit or are not above
    zero.
    """

    def __init__(
        self, members: Sequence[nn.Module], weights: Sequence[float] = (), classify: bool = True, axis: int = -1
    ) -> None:
        super().__init__()
        if len(members) < 2:
            raise UsageError(f"an ensemble of {counted(len(members), 'member')}", "give 2 or more")
        weights = tuple(weights) or (1.0,) * len(members)
        if len(weights) != len(members) or not all(0 < weight < math.inf for weight in weights):
            fact = f"weights {', '.join(f'{weight:g}' for weight in weights)} of {len(members)} members"
            raise UsageError(fact, "give one above zero for each")
        self.members: nn.ModuleList = nn.ModuleList(members)
        self.weights: tuple[float, ...] = tuple(
            weight / sum(weights) for weight in weights
        )  # numbers, so that runtimes may fold them
        self.classify = classify
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Logits where the members classify, else the mean of what they answer to ``x``; as theirs, (N, ...)."""
        answers = [member(x) for member in self.members]
        if self.classify:
            answers = [answer.softmax(self.axis) for answer in answers]
        mean = answers[0] * self.weights[0]
        for weight, answer in zip(self.weights[1:], answers[1:], strict=True):
            mean = mean + answer * weight
        return mean.clamp(min=LEAST).log() if self.classify else mean


def bootstrap(count: int, generator: torch.Generator, weights: Tensor | None = None) -> Tensor:
    """``count`` of the rows 0 to ``count - 1``, drawn with replacement: a bootstrap sample (Breiman 1996, section 1).

    ``weights``, (count,), say how likely each is, by default all alike. Raises ``UsageError`` for no rows, and for
    weights that do not fit, are below zero, or are all zero.
    """
    if count < 1:
        raise UsageError("a sample of nothing", "give at least one row")
    if weights is None:
        return torch.randint(count, (count,), generator=generator)
    if weights.shape != (count,) or not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < math.inf:
        fact = f"weights of shape {tuple(weights.shape)} of {count} rows"
        raise UsageError(fact, "give one for each, none below zero and not all zero")
    edges = weights.double().cumsum(0)  # torch.multinomial takes no more than 2^24 rows
    drawn = torch.rand(count, generator=generator, dtype=torch.double) * edges[-1]
    return torch.searchsorted(edges, drawn, right=True).clamp(max=count - 1)


def samme(weights: Tensor, wrong: Tensor, classes: int) -> tuple[float, Tensor]:
    """What a member's vote is worth, and the samples' weights for the next (Zhu et al. 2009, "Multi-class AdaBoost",
    algorithm 2, SAMME).

    ``weights``, (samples,), are those by which the member was taught, ``wrong``, (samples,) of booleans, the samples
    that it got wrong. alpha = log((1 - err) / err) + log(classes - 1), and what was wrong becomes e^alpha times as
    heavy. A member that is no better than chance has an alpha that is not above zero, one that is never wrong that of
    half a mistake on the lightest sample; neither leaves anything to boost, and the weights come back as they are.
    Raises ``UsageError`` for less than two classes, and for shapes that differ.
    """
    if classes < 2:
        raise UsageError(f"boosting over {classes} class(es)", "give 2 or more")
    if weights.dim() != 1 or wrong.shape != weights.shape or wrong.dtype != torch.bool:
        fact = f"mistakes of shape {tuple(wrong.shape)} for weights of shape {tuple(weights.shape)}"
        raise UsageError(fact, "give one boolean and one weight per sample")
    weights = weights.double() / weights.double().sum()
    error = float(weights[wrong].sum() if bool(wrong.any()) else weights.min() / 2)
    alpha = (math.log((1 - error) / error) if error < 1 else -math.inf) + math.log(classes - 1)
    if alpha <= 0 or not bool(wrong.any()):
        return alpha, weights
    heavier = torch.where(wrong, weights * math.exp(alpha), weights)
    return alpha, heavier / heavier.sum()
