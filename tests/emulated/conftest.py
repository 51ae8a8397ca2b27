"""Emulated boards, and what runs on them. All are made once for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import temporary
from counting import build_plugin
from emulation import KINDS, Board, board, needs_tools, unpacked
from example_files import RUNTIMES, write_example

from edgesdk.core.budget import Budget
from edgesdk.workflows.deploy import deploy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All here is slow: boards are unpacked, and computed by software."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Board]]:
    """The boards by name."""
    needs_tools()
    folder = tmp_path_factory.mktemp("boards")
    plugin = build_plugin(folder)
    with temporary.folder("edgesdk-roots") as place:
        kept = Path(os.environ.get("EDGESDK_TEST_ROOTS") or place)
        yield {name: board(name, kind, unpacked(kind.system, kept), plugin, folder) for name, kind in KINDS.items()}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The built-in example by runtime and scheme: see ``example_files``."""
    return write_example(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built-in example's bundle by runtime, as a user makes it without a board at hand.

    Its budget would be missed here by far, in time and in memory, if either were looked at.
    """
    folder = tmp_path_factory.mktemp("bundles")
    goal = Budget(latency_ms=1.0, peak_memory_bytes=2e6)
    made = {
        runtime: deploy(target="raspberry-pi-4", runtime=runtime, budget=goal, epochs=0, out=folder / runtime)
        for runtime in RUNTIMES
    }
    return {runtime: bundle.path for runtime, bundle in made.items()}
