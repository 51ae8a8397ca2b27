"""What a cut network holds, put back at its places in the whole one: what a further cut of it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgesdk.compress.apply import compressed
from edgesdk.core.plan import Plan
from edgesdk.network.network import Batch, Network

DIGITS = 2**23  # numbers below it are exact in 32-bit floats

ALIKE = 1e-6  # of the power of what is answered


@dataclass(frozen=True)
class Places:
    """For each tensor of a cut network where its values are among all those of the whole one, counted in a row."""

    of: Mapping[str, Tensor]

    @classmethod
    def find(cls, whole: Network, plan: Plan, x: Batch, scores: Mapping[str, Tensor]) -> Places | None:
        """Those of what ``plan``, of widths and branches alone, makes of ``whole``; ``None`` where it does more than to
        leave values out."""
        state = _values(whole)
        total = sum(value.numel() for value in state.values())
        parts = []
        for digits in (lambda n: n % DIGITS, lambda n: n // DIGITS)[: 1 if total <= DIGITS else 2]:
            cut = compressed(_filled(whole, digits(torch.arange(total))), plan, x, scores)[0]
            parts.append({name: value.long() for name, value in _values(cut).items()})
        places = {name: low if len(parts) == 1 else low + DIGITS * parts[1][name] for name, low in parts[0].items()}
        flat = torch.cat([value.flatten() for value in state.values()])
        for name, value in _values(compressed(whole, plan, x, scores)[0]).items():
            own = places[name]
            if bool((own < 0).any()) or bool((own >= total).any()) or not torch.equal(flat[own], value):
                return None
        return cls(places)

    def widen(self, small: Network, whole: Network) -> Network:
        """``whole`` with the values of ``small`` at their places and zeros in all others: it answers as ``small``,
        unless channels were left out that a norm takes the mean of."""
        state = _values(whole)
        flat = torch.zeros(sum(value.numel() for value in state.values()))
        for name, value in _values(small).items():
            flat[self.of[name]] = value
        return _filled(whole, flat)


@torch.no_grad()
def answer_alike(one: Network, other: Network, x: Batch) -> bool:
    """Whether both answer the same to ``x``, up to rounding; whole numbers and truths, too."""
    pairs = [[value.double() for value in pair] for pair in zip(one.flat(x), other.flat(x), strict=True)]
    return all(float((a - b).square().mean()) <= ALIKE * float(b.square().mean()) for a, b in pairs)


def _values(network: Network) -> dict[str, Tensor]:
    """Weights and statistics of ``network``, in order."""
    return {name: value for name, value in network.module.state_dict().items() if value.is_floating_point()}


def _filled(network: Network, flat: Tensor) -> Network:
    """A copy of ``network`` with the values of ``flat`` in a row."""
    network = network.copy()
    state, begin = _values(network), 0
    for value in state.values():  # which are the network's own
        value.copy_(flat[begin : begin + value.numel()].reshape(value.shape))
        begin += value.numel()
    return network
