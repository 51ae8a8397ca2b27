"""What every test needs: an environment that is always the same, an order, and a share for each core."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import offline
import temporary

offline.install()

# Read on import, by this process and by those that tests start.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("EDGESDK_MODE", "brief")  # no test asserts how near a figure is: tools/bench_*.py do
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests take a core each: threads of one would wait for the other
CACHE = temporary.folder("edgesdk-test-cache")
TEMPORARY = temporary.use_own("edt")  # a short name, as sockets may be in it
os.environ["EDGESDK_CACHE"] = CACHE.name
os.environ["EDGESDK_PROFILES"] = str(Path(CACHE.name) / "profiles")

try:
    import torch  # before anything that may import SciPy: the other way round the process crashes as it ends
except ModuleNotFoundError:
    torch = None  # the tests of what chooses run without it

import numpy as np
import pytest
import slow
from hypothesis import settings

from edgesdk.cli import THRESHOLDS

ORDER = (  # what is quick to fail, then what takes longest, so that no process works alone in the end
    "tests/unit/", "tests/emulated/", "tests/board/", "tests/e2e/", "tests/cases/", "tests/budgets/", "tests/cli/",
    "tests/agent/test_agent_faults.py", "tests/fuzz/", "tests/backend/",
)  # fmt: skip
SHARED = (  # whose tests share what is dear to make: boards, a bundle
    ("tests/board/",),
    ("tests/cli/",),
    ("tests/emulated/",),
)
WORKERS = 2
HERE = Path(__file__).parent
NEEDS = ("a real board", "a GPU", "an older Python")  # what a test may miss where none may be skipped

if torch is not None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
gc.set_threshold(*THRESHOLDS)
settings.register_profile("edgesdk", deadline=None, derandomize=True, database=None)
settings.load_profile("edgesdk")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in the order of ``ORDER``, all others after them as they come; none whose name is another in each process,
    which a run in several refuses only when it has begun."""
    if changing := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"{changing[0]} is named by a place in memory: give its parameters ids")

    def place(item: pytest.Item) -> int:
        path = f"{HERE.name}/{item.path.relative_to(HERE)}"
        return next((place for place, begins in enumerate(ORDER) if path.startswith(begins)), len(ORDER))

    for item in items:
        if item.nodeid.startswith(slow.WHOLE):
            item.add_marker(pytest.mark.slow)
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
    """Tests that share fixtures stay in one process: those of a file, and of ``SHARED``; in the order of ``ORDER``."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((group[0] for group in SHARED if nodeid.startswith(group)), nodeid.split("::")[0])

    config.option.loadscopereorder = False  # which would begin with what has most tests, not with what takes longest
    return Scheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def settled_objects() -> None:
    """What was imported and made before a file is not searched for garbage while its tests run.

    That took a fifth of the time: PyTorch and the runtimes have 600,000 objects, and every export makes many more.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def own_imports() -> Iterator[None]:
    """Modules that a file of tests wrote and imported, and where from, are gone with it: others have their names."""
    path, loaded = list(sys.path), set(sys.modules)
    yield
    added = [folder for folder in sys.path if folder not in path]
    sys.path[:] = path
    for name in sys.modules.keys() - loaded:
        spec = getattr(sys.modules[name], "__spec__", None)
        places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
        if any(Path(place).is_relative_to(folder) for place in places for folder in added):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same random numbers in every test, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if torch is not None:
        torch.manual_seed(0)
