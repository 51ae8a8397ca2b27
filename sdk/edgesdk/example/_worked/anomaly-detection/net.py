"""An autoencoder of spectra, built like MLPerf Tiny's (Koizumi et al. 2019): what it cannot repeat is out of order."""

from itertools import pairwise

from torch import nn

STEPS, BANDS = 5, 64
WIDTH, CODE = 128, 8


def make() -> nn.Module:
    """Spectra of shape (N, 320), five steps of 64 bands, to the same as far as a code of 8 figures holds them."""
    layers: list[nn.Module] = []
    widths = [STEPS * BANDS, WIDTH, WIDTH, WIDTH, CODE, WIDTH, WIDTH, WIDTH]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, STEPS * BANDS))
