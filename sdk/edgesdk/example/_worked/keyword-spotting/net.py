"""A depthwise separable network over spectra, as small as MLPerf Tiny's keyword spotter (Zhang et al. 2017)."""

from torch import nn

WORDS = 8


def block(channels: int) -> nn.Sequential:
    """A depthwise and a pointwise convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def make() -> nn.Module:
    """Spectra of shape (N, 1, 49, 20), steps of time by frequencies, to (N, 8) logits."""
    return nn.Sequential(
        nn.Conv2d(1, 48, (10, 4), stride=2, padding=(4, 1), bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        *(block(48) for _ in range(3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, WORDS),
    )
