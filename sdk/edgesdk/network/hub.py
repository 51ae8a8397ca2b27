"""Libraries of models, imported when a user asks for one of theirs, and kept from the network."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from edgesdk.core.errors import ModelError
from edgesdk.core.wording import said
from edgesdk.network.torchvision import import_torchvision

OFFLINE = "HF_HUB_OFFLINE"  # huggingface_hub's own: no request leaves


def import_library(name: str) -> ModuleType:
    """The library of models ``name``, which has an extra of that name. Raises ``ModelError`` where it is not there, or
    does not import."""
    if importlib.util.find_spec(name) is None:
        raise ModelError(f"{name} is not installed", f"pip install 'edgesdk[{name}]'")
    try:
        import_torchvision()
        return importlib.import_module(name)
    except Exception as error:  # of what it needs some may be there in a version that does not fit
        raise ModelError(f"{name} cannot be imported ({said(error)})", f"pip install -U 'edgesdk[{name}]'") from error


@contextmanager
def alone() -> Iterator[None]:
    """Within it no library asks the network for anything or writes to the terminal, and random weights are the same."""
    before = os.environ.get(OFFLINE)
    os.environ[OFFLINE] = "1"
    constants: Any = sys.modules.get("huggingface_hub.constants")
    was = getattr(constants, OFFLINE, None)
    if constants is not None:
        setattr(constants, OFFLINE, True)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            yield
    finally:
        constants = sys.modules.get("huggingface_hub.constants")
        if constants is not None:
            setattr(constants, OFFLINE, bool(was))
        del os.environ[OFFLINE]
        if before is not None:
            os.environ[OFFLINE] = before
