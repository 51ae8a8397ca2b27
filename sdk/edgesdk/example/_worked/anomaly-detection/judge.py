"""How well an autoencoder does: in training by what it repeats, at the end by what it finds."""

import torch
from torch import Tensor


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error of what is repeated."""
    return torch.nn.functional.mse_loss(outputs, targets[:, :-1])


def auc(outputs: Tensor, targets: Tensor) -> float:
    """In percent, how often a broken machine is repeated worse than a sound one: the area under the ROC curve, by
    Mann and Whitney's U."""
    errors = (outputs - targets[:, :-1]).square().mean(1)
    broken = targets[:, -1] > 0.5
    ranks = errors.argsort().argsort().double() + 1
    pairs = broken.sum() * (~broken).sum()
    return float(100 * (ranks[broken].sum() - broken.sum() * (broken.sum() + 1) / 2) / pairs)
