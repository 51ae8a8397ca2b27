"""What every test of this folder has: an exporter that does not read its translations anew for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgesdk.export.translations import reading_once


@pytest.fixture(scope="session", autouse=True)
def _read_once() -> Iterator[None]:
    with reading_once():
        yield
