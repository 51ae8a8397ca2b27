"""The channels of a flat module by their numbers: where they lie, and which go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """The channels of a module, each by its number from 1 on: 0 is what cannot be cut. What goes together has one.

    ``parts`` has for each parameter and buffer of a layer, by axis, the number at each index, ``constants`` for all
    others that of each entry; all are below ``count``. ``sizes`` are the sizes that nodes state, by their place, each
    the numbers that it counts. ``read`` says of nodes that mix channels along which axis of their first input, and the
    numbers there; ``places`` of every node whose output has numbers on one axis that axis, and the numbers. ``holds``
    are the numbers in the output of each node. ``groups`` has the numbers of each channel group, in order.
    """

    parts: Mapping[str, Mapping[int, Tensor]]
    constants: Mapping[str, Tensor]
    count: int
    sizes: Mapping[str, Mapping[int, Tensor]]
    read: Mapping[str, tuple[int, Tensor]]
    places: Mapping[str, tuple[int, Tensor]]
    holds: Mapping[str, Tensor]
    groups: Mapping[str, Tensor] = field(default_factory=dict)

    def stay(self, gone: Mapping[str, Iterable[int]]) -> Tensor:
        """Of each number whether it stays, where of each group the channels ``gone`` go, by their place in it."""
        left = torch.ones(self.count, dtype=torch.bool)
        for group, places in gone.items():
            left[self.groups[group][torch.tensor(list(places), dtype=torch.long)]] = False
        return left

    def held_by(self, nodes: Iterable[str]) -> set[str]:
        """The groups of which channels lie in the outputs of ``nodes``."""
        held = torch.zeros(self.count, dtype=torch.bool)
        for node in nodes:
            held[self.holds.get(node, torch.zeros(0)).long()] = True
        return {group for group, numbers in self.groups.items() if bool(held[numbers].any())}

    def along(self, node: str, group: str) -> tuple[int, Tensor] | None:
        """The axis of the output of ``node`` on which channels of ``group`` lie, and which: -1 where it is none."""
        if node not in self.places:
            return None
        axis, numbers = self.places[node]
        place = torch.full((self.count,), -1)
        place[self.groups[group]] = torch.arange(len(self.groups[group]))
        places = place[numbers.long()]
        return (axis, places) if bool((places >= 0).any()) else None
