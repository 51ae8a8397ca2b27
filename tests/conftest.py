"""What every test needs: an environment that is always the same, the quick tests first, and a share for each core."""

from __future__ import annotations

import os
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import temporary

# Read on import, by this process and by those that tests start.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("EDGESDK_MODE", "brief")  # no test asserts how near a figure is: tools/bench_*.py do
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests take a core each: threads of one would wait for the other
CACHE = temporary.folder("edgesdk-test-cache")
os.environ["EDGESDK_CACHE"] = CACHE.name
os.environ["EDGESDK_PROFILES"] = str(Path(CACHE.name) / "profiles")

try:
    import torch  # before anything that may import SciPy: the other way round the process crashes as it ends
except ModuleNotFoundError:
    torch = None  # the tests of what chooses run without it

import numpy as np
import pytest
from hypothesis import settings

ORDER = ("null", "agent")
SHARED = ("board", "cli", "e2e", "emulated")  # folders whose tests share what is dear to make
WORKERS = 2
HERE = Path(__file__).parent
NEEDS = ("a real board", "a GPU", "an older Python")  # what a test may miss where none may be skipped

if torch is not None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
settings.register_profile("edgesdk", deadline=None, derandomize=True, database=None)
settings.load_profile("edgesdk")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Null first, then the agent, then all others as they come: what is quick to fail fails quickly."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(HERE).parts[0]
        return ORDER.index(folder) if folder in ORDER else len(ORDER)

    items.sort(key=place)


def pytest_addoption(parser: pytest.Parser) -> None:
    missing = ", ".join(NEEDS)
    parser.addoption("--no-skips", action="store_true", help=f"a test that is skipped fails, unless it needs {missing}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ``--no-skips`` a test that is skipped fails, unless its reason is one of ``NEEDS``."""
    report = yield
    if report.skipped and item.config.getoption("no_skips") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not any(f"needs {need}" in reason for need in NEEDS):
            report.outcome, report.longrepr = "failed", f"{reason}, where none may be skipped"
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for all tests, none besides this one for a file or a folder of them."""
    return WORKERS if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share fixtures stay in one process: those of a file, and of some folders."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = next((name for name in SHARED if nodeid.startswith(f"tests/{name}/")), None)
            return folder or nodeid.split("::")[0]

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same random numbers in every test, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if torch is not None:
        torch.manual_seed(0)
