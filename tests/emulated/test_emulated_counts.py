"""Instructions per inference on emulated boards: a floor under regressions that no busy machine can shake.

After an update of a runtime, write the golden figures again: ``python tests/emulated/test_emulated_counts.py --write``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
from counting import build_plugin, instructions, needs_plugins
from emulation import ARM64, HERE, KINDS, Board, board, needs_tools, unpacked
from example_files import INPUTS, write_example

GOLDEN = HERE / "counts.json"
BOARDS, RUNTIMES, SCHEMES = ("pi4", "pi5"), ("onnxruntime", "litert"), ("dense", "int8")
DRIFT = 0.02
REPEATS = 1e-3  # where memory lies moves a count by a few hundred
# What the figures are of, with the greatest share of the dense model's instructions that INT8 may take.
WITHIN = {
    **{("pi4", "onnxruntime"): 0.8, ("pi4", "litert"): 0.95},
    **{("pi5", "onnxruntime"): 0.5, ("pi5", "litert"): 0.4},  # its processor has products of integers
}

Counts = dict[str, dict[str, dict[str, int]]]


def counted(boards: dict[str, Board], files: dict[tuple[str, str], Path]) -> Counts:
    """Instructions per inference by board, runtime and scheme."""
    every: Counts = {}
    for name in BOARDS:
        every[name] = {}
        for runtime in RUNTIMES:
            paths = [files[runtime, scheme] for scheme in SCHEMES]
            counts = instructions(boards[name], runtime, paths, paths[0].with_name(INPUTS))
            every[name][runtime] = dict(zip(SCHEMES, counts, strict=True))
    return every


@pytest.fixture(scope="module")
def counts(boards: dict[str, Board], files: dict[tuple[str, str], Path]) -> Counts:
    needs_plugins()
    return counted(boards, files)


@pytest.fixture(scope="module")
def golden() -> Counts:
    document = json.loads(GOLDEN.read_text("utf-8"))
    assert document["versions"] == ARM64.versions(), "other runtimes: write the golden figures again"
    return document["instructions"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", BOARDS)
def test_an_inference_takes_as_many_instructions_as_before(
    counts: Counts, golden: Counts, name: str, runtime: str, scheme: str
) -> None:
    assert counts[name][runtime][scheme] == pytest.approx(golden[name][runtime][scheme], rel=DRIFT)


@pytest.mark.parametrize(("name", "runtime"), WITHIN)
def test_int8_takes_fewer_instructions_than_the_dense_model(counts: Counts, name: str, runtime: str) -> None:
    own = counts[name][runtime]
    assert own["int8"] < WITHIN[name, runtime] * own["dense"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_bundle_takes_fewer_and_a_count_can_be_repeated(
    boards: dict[str, Board], bundles: dict[str, Path], files, counts: Counts, runtime: str, record_property
) -> None:
    manifest = json.loads((bundles[runtime] / "manifest.json").read_text("utf-8"))
    whole = files[runtime, "int8"]
    paths = [bundles[runtime] / manifest["model"], whole]
    deployed, again = instructions(boards["pi4"], runtime, paths, whole.with_name(INPUTS))
    record_property("instructions", deployed)
    assert deployed < counts["pi4"][runtime]["dense"]
    assert again == pytest.approx(counts["pi4"][runtime]["int8"], rel=REPEATS)


def write() -> None:
    """Make the golden figures those of now."""
    needs_tools()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plugin, root = build_plugin(folder), unpacked(ARM64, folder / "roots")
        boards = {name: board(name, KINDS[name], root, plugin, folder) for name in BOARDS}
        counts = counted(boards, write_example(folder))
    GOLDEN.write_text(json.dumps({"versions": ARM64.versions(), "instructions": counts}, indent=1) + "\n", "utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write()
