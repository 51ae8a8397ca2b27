"""Whether code that makes a model loads its weights, too, or leaves it with the random ones that it was made with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import safetensors.torch
import torch
from torch import nn

READERS: tuple[tuple[Any, str], ...] = (
    (nn.Module, "load_state_dict"), (torch, "load"), (safetensors.torch, "load_file"), (np, "load"),
)  # fmt: skip


@dataclass
class OwnWeights:
    """Whether weights were ``found``: read from a file or copied, or made without a random number being drawn."""

    found: bool = False


@contextmanager
def noticing_own_weights() -> Iterator[OwnWeights]:
    """What the code that runs meanwhile does about weights."""
    own, before = OwnWeights(), _random_state()

    def noting(read: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            own.found = True
            return read(*given, **named)

        return noted

    with ExitStack() as patches:
        for owner, name in READERS:
            patches.enter_context(patch.object(owner, name, noting(getattr(owner, name))))
        yield own
    own.found = own.found or _random_state() == before


def _random_state() -> tuple[bytes, bytes, Any]:
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[union-attr]
