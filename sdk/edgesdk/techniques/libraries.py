"""Libraries that carry the mathematics of some techniques, imported when one is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from edgesdk.core.errors import EdgeSdkError


def library(module: str, package: str) -> Any:
    """The module of ``package``. Raises ``EdgeSdkError`` where that is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise EdgeSdkError(f"{package} is not installed", "pip install 'edgesdk[techniques]'") from None
