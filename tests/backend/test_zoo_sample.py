"""Small architectures of the zoo, drawn by a seed, are traced, written dense and compressed for every runtime.

tools/bench_zoo.py takes all of them through the same stages, and docs/reference/figures/zoo.md has what came of it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import architectures
import bench_zoo

SMALL = [name for name in architectures.NAMES if name.startswith(("own:", "timm:test_"))]
STAGES = (1, 2, 3)  # traced; dense in each format; halved and integer in each format


@pytest.mark.parametrize("name", bench_zoo.choose(SMALL, [], 0.1, 0))
def test_files_are_faithful_or_refused(name: str, tmp_path: Path) -> None:
    library = name.partition(":")[0]
    if library != "own" and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    architectures.load_libraries({library})
    out = tmp_path / "zoo.jsonl"
    bench_zoo.take_through(bench_zoo.Subject(name, out, tmp_path), STAGES)
    rows = bench_zoo.read(out)[name]
    bad = {stage: row.found for stage, row in rows.items() if row.end not in (bench_zoo.OK, bench_zoo.REFUSED)}
    assert not bad
    assert all(": " in row.found["error"] for row in rows.values() if row.end == bench_zoo.REFUSED)
    assert set(rows) >= {bench_zoo.STAGES[stage] for stage in STAGES}
