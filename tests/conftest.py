"""What every test needs: an environment that is always the same, and the quick tests first."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

# Read on import, by this process and by those that tests start.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
CACHE = tempfile.TemporaryDirectory(prefix="edgesdk-test-cache-")
os.environ["EDGESDK_CACHE"] = CACHE.name
os.environ["EDGESDK_PROFILES"] = str(Path(CACHE.name) / "profiles")

import torch  # before anything that may import SciPy: the other way round the process crashes as it ends

import numpy as np
import pytest
from hypothesis import settings

ORDER = ("null", "agent")
HERE = Path(__file__).parent

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))  # two wait for each other where a core is busy
settings.register_profile("edgesdk", deadline=None, derandomize=True, database=None)
settings.load_profile("edgesdk")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Null first, then the agent, then all others as they come: what is quick to fail fails quickly."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(HERE).parts[0]
        return ORDER.index(folder) if folder in ORDER else len(ORDER)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same random numbers in every test, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
