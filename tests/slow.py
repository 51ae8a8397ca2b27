"""Which cases of a matrix `pytest` runs by itself. The rest are marked `slow`: `.ci/run` runs them, and `-m ''`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

FAULTS = "tests/agent/test_agent_faults.py::EveryOperation::test_"
WHOLE = tuple(f"{FAULTS}{name}" for name in ("one_that_prunes", "a_rollback", "mending_what_runs"))
"""Tests in files that know no pytest: every fault at every step, of which the first installation is the core."""


def core(cases: Iterable[Any], wanted: Callable[..., bool]) -> list[Any]:
    """``cases`` for ``parametrize``, those slow that are not ``wanted``; a tuple is given as several arguments."""
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marked.append(case if wanted(*values) else pytest.param(*values, marks=pytest.mark.slow))
    return marked
