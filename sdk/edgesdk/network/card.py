"""What a model that comes by name, or as a folder, says of itself beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from edgesdk.core.graph import Tensor as Input
from edgesdk.network.exported_program import EXAMPLE
from edgesdk.network.source import meta_of

NONE_GIVEN = "no weights were given"  # how a note on that begins
CARD = "card"  # where in a module's ``meta`` it stands


@dataclass(frozen=True)
class Card:
    """How a model takes pixels, by the fields of ``Preprocessing``; its classes' names.

    ``notes`` are for a user who gives it no weights of their own.
    """

    pixels: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def attach(module: nn.Module, card: Card, inputs: tuple[Input, ...] | None) -> nn.Module:
    """``module`` with its ``card``, and the ``inputs`` that it takes without the batch, where these are known."""
    meta: dict[str, Any] = {CARD: card, EXAMPLE: inputs}
    vars(module)["meta"] = meta
    return module


def card_of(module: nn.Module) -> Card | None:
    """The card of a module that has one."""
    card = meta_of(module).get(CARD)
    return card if isinstance(card, Card) else None
