"""Bundles on emulated boards with Arm processors: installed, run, and compared with this machine to the bit."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import on_board
import onnx
import pytest
from emulation import HERE, KINDS, Board, runner
from example_files import INPUTS, RUNTIMES, SCHEMES, SHOWING, SHOWN, operators

from edgesdk.core.errors import BundleError, DeviceError
from edgesdk.devices.archive import build
from edgesdk.devices.reach import reach
from edgesdk.workflows.install import install, rollback
from edgesdk_targets import bundle_run
from edgesdk_targets.agent import protocol
from edgesdk_targets.agent.probe import cpu

TOLERANCE = bundle_run.TOLERANCE
ARM64 = ("pi4", "pi5")
# Operators that compute in floats on the way, in an order of the processor's: what lies between two integers may be
# rounded to either. Everything else is exact.
ROUNDING = {"onnxruntime": ("Add", "GlobalAveragePool", "ReduceMean"), "litert": ("GlobalAveragePool", "ReduceMean")}
ROUNDED = 5e-3  # of their values at most, each to the next integer
PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8"}  # without, ONNX Runtime on x86 saturates sums of two products


@pytest.mark.parametrize(
    ("name", "machine", "bits", "processor", "features", "runners"),
    [
        ("pi4", "aarch64", 64, "Cortex-A72", {"asimd"}, {"onnxruntime", "litert", "ncnn"}),
        ("pi5", "aarch64", 64, "Cortex-A76", {"asimd", "asimddp", "fp16"}, {"onnxruntime", "litert", "ncnn"}),
        ("armv7", "armv7l", 32, "Cortex-A7", {"neon"}, {"tflite"}),
    ],
)
def test_a_board_is_told_as_what_it_is(
    boards, name: str, machine: str, bits: int, processor: str, features: set[str], runners: set[str]
) -> None:
    with reach(boards[name].device) as agent:
        facts = agent.call("probe")
    assert facts["emulated"] is True
    assert (facts["architecture"], facts["userland_bits"], facts["cores"]) == (machine, bits, 4)
    assert facts["board"] == KINDS[name].model
    assert (facts["cpu"], set(facts["features"])) == (processor, features)
    assert facts["os"] == "Debian GNU/Linux 12 (bookworm)"
    assert (facts["python"].rpartition(".")[0], facts["glibc"]) == ("3.11", "2.36")
    assert facts["conditions"]["temperatures"][0]["celsius"] == pytest.approx(48.199)
    assert set(facts["runners"]) == runners
    pinned = KINDS[name].system.versions()
    assert all(pinned[package] == version for package, version in facts["runtimes"].items())


def test_nothing_is_measured_on_an_emulated_board(boards, files) -> None:
    with reach(boards["pi4"].device) as agent:
        there = agent.place(files["onnxruntime", "int8"])
        verbs: dict[str, dict[str, Any]] = {
            "benchmark": {"artifacts": [{"name": "model", "path": there}]},
            "operators": {"models": [{"key": "conv", "path": there}]},
            **{verb: {"path": there} for verb in ("load", "memory", "kernels")},
        }
        for verb, arguments in verbs.items():
            with pytest.raises(DeviceError, match="this device is emulated") as caught:
                agent.call(verb, **arguments, runtime="onnxruntime", threads=1)
            assert "on the board itself" in caught.value.remedy
            assert agent.call("probe")["emulated"]  # and it goes on


@pytest.mark.parametrize("name", KINDS)
def test_the_agent_as_one_file_answers(boards, tmp_path: Path, name: str) -> None:
    """What people have who bring their own transport."""
    path = build(tmp_path / "agent.pyz")
    verbs = [("probe", {}), ("benchmark", {"artifacts": [], "runtime": "tflite", "threads": 1}), ("shell", {})]
    given = b"".join(protocol.request(number, verb, arguments) for number, (verb, arguments) in enumerate(verbs))
    done = boards[name].run(path, given=given.decode())
    assert done.returncode == 0, done.stderr
    facts, benchmark, shell = (json.loads(line) for line in done.stdout.splitlines())
    assert facts["result"]["architecture"] == KINDS[name].system.wheel
    assert benchmark["error"]["kind"] == protocol.EMULATED
    assert shell["error"]["kind"] == protocol.USAGE


@pytest.mark.parametrize("name", ARM64)
def test_bundles_are_installed_run_and_taken_back(boards, bundles, tmp_path: Path, name: str) -> None:
    board, root, versions = boards[name], tmp_path / "root", []
    for runtime in RUNTIMES:
        installed = install(bundles[runtime], board.device, install_root=str(root))
        assert installed["previous"] == (versions[-1] if versions else None)
        versions.append(installed["version"])
        assert (root / "current").resolve() == root / "versions" / installed["version"]
        health = installed["health"]
        assert health["emulated"] is True and health["runtime"] == runtime
        assert health["latency_ms"] is None and health["peak_memory_bytes"] is None
        assert health["errors"] and all(error <= TOLERANCE for error in health["errors"].values())
        assert health["identical"] == (not any(health["errors"].values()))
        said = board.succeed(root / "current" / "run.py")
        assert f"differs from the recorded sample by {max(health['errors'].values()):.2g} of" in said
    *_, before, after = versions
    assert rollback(board.device, install_root=str(root)) == {"version": before, "previous": after}
    assert (root / "current").resolve().name == before
    board.succeed(root / "current" / "run.py", "--check")


def test_a_bundle_for_another_architecture_is_refused(boards, bundles, tmp_path: Path) -> None:
    foreign, root = tmp_path / "foreign", tmp_path / "root"
    shutil.copytree(bundles["litert"], foreign)
    manifest = json.loads((foreign / "manifest.json").read_text("utf-8"))
    (foreign / "manifest.json").write_text(json.dumps({**manifest, "architecture": "x86_64"}), "utf-8")
    with pytest.raises(BundleError, match="the bundle is for x86_64, this device is aarch64"):
        install(foreign, boards["pi4"].device, install_root=str(root))
    assert not (root / "current").exists()
    assert install(foreign, boards["pi4"].device, install_root=str(root), force=True)["health"]["errors"]


def test_an_old_board_runs_the_bundle_with_the_older_runtime(boards, bundles, tmp_path: Path) -> None:
    root = tmp_path / "root"
    installed = install(bundles["litert"], boards["armv7"].device, install_root=str(root))
    error = max(installed["health"]["errors"].values())
    assert installed["health"]["runtime"] == "tflite" and installed["health"]["latency_ms"] is None
    assert 0 < error <= TOLERANCE  # its kernels round with integers alone
    assert f"by {error:.2g} of its spread" in boards["armv7"].succeed(root / "current" / "run.py")


def test_an_old_board_says_what_it_lacks(boards, bundles, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="onnxruntime cannot be imported") as caught:
        install(bundles["onnxruntime"], boards["armv7"].device, install_root=str(tmp_path / "root"))
    assert "armv7l" in caught.value.remedy and "tflite-runtime" in caught.value.remedy
    assert not (tmp_path / "root" / "current").exists()


@pytest.mark.parametrize("name", ["pi4", "armv7"])
def test_a_bundle_tells_no_time_on_an_emulated_board(boards, bundles, name: str) -> None:
    done = boards[name].run(bundles["litert"] / "run.py", "--time", "0.1")
    assert done.returncode != 0 and done.stdout == ""
    assert "emulated" in done.stderr and not re.search(r"\d ?ms", done.stderr)


@pytest.fixture(scope="module")
def outputs(boards: dict[str, Board], files, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Each scheme's outputs for all inputs, by name: of a runtime on a board, or on this machine for ``None``."""
    folder = tmp_path_factory.mktemp("outputs")

    @functools.cache
    def answers(runtime: str, name: str | None) -> dict[str, dict[str, np.ndarray]]:
        schemes = [scheme for scheme in (*SCHEMES, SHOWN) if (runtime, scheme) in files]
        paths = [files[runtime, scheme] for scheme in schemes]
        inputs = paths[0].with_name(INPUTS)
        if name is None:
            given = np.load(inputs)["x"]
            samples = [{"x": given[i : i + 1]} for i in range(len(given))]
            return {
                scheme: on_board.outputs(bundle_run.opened(str(path), runtime), samples)
                for scheme, path in zip(schemes, paths, strict=True)
            }
        made = [folder / f"{name}-{runtime}-{scheme}.npz" for scheme in schemes]
        pairs = [file for pair in zip(paths, made, strict=True) for file in pair]
        boards[name].succeed(HERE / "on_board.py", runner(), "outputs", runtime, inputs, *pairs)
        return {scheme: dict(np.load(file)) for scheme, file in zip(schemes, made, strict=True)}

    return answers


@pytest.mark.parametrize("runtime", SHOWING)
@pytest.mark.parametrize("name", ARM64)
def test_int8_computes_the_same_bits_as_here(outputs, files, name: str, runtime: str) -> None:
    """All tensors of the network: the first one that differs is one that floats made, and then by one step."""
    if runtime == "onnxruntime" and not PRODUCTS & set(cpu("/")["features"] or ()):
        pytest.skip("this processor multiplies no four integers at once: ONNX Runtime saturates here")
    makers = operators(onnx.load(files["onnxruntime", SHOWN]))
    here, there = outputs(runtime, None)[SHOWN], outputs(runtime, name)[SHOWN]
    assert here.keys() == there.keys()
    differing = {each: float(np.mean(here[each] != there[each])) for each in here if each in makers}
    assert sum(makers[each] == "Conv" for each in differing) == 9
    first = next((each for each in makers if differing.get(each)), None)
    if first is not None:
        assert makers[first] in ROUNDING[runtime], f"{first} of a {makers[first]} differs first: {differing}"
        assert differing[first] <= ROUNDED
        assert _steps(here[first], there[first]) == 1
    exact = list(makers)[: list(makers).index(first)] if first else list(makers)
    assert sum(makers[each] == "Conv" for each in exact) >= 6


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ARM64)
def test_int8_answers_as_here(outputs, name: str, runtime: str) -> None:
    here, there = (outputs(runtime, at)["int8"]["output"] for at in (None, name))
    assert np.mean(here == there) >= 0.98
    assert _steps(here, there) <= 1
    assert bundle_run.distance(there, here) <= TOLERANCE / 10


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ARM64)
def test_the_dense_model_answers_as_here_but_for_rounding(outputs, name: str, runtime: str) -> None:
    here, there = (outputs(runtime, at)["dense"]["output"] for at in (None, name))
    assert bundle_run.distance(there, here) <= 1e-5


def _steps(a: np.ndarray, b: np.ndarray) -> int:
    """How many steps of their grid two tensors lie apart at most. The smallest difference within one is its step."""
    gaps = np.diff(np.unique(np.concatenate((a.ravel(), b.ravel())).astype(np.float64)))
    step = gaps[gaps > 1e-4 * gaps.max()].min()
    return round(float(np.max(np.abs(a.astype(np.float64) - b))) / step)
