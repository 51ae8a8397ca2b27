"""What the agent and a bundle's ``run.py`` keep of a runtime, held to its row: they cannot import it."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from edgesdk.core.errors import UsageError
from edgesdk.core.runtime import (
    ONNX,
    RUNTIMES,
    Runtime,
    exportable,
    find_runtime,
    format_of,
    formats,
    register,
)
from edgesdk.core.stored import STORED
from edgesdk_targets import bundle_run
from edgesdk_targets.agent import wheels
from edgesdk_targets.agent.runners import RUNNERS, readers


def test_the_agent_runs_every_runtime_that_has_files() -> None:
    assert set(RUNNERS) == set(exportable())
    for name in exportable():
        assert readers(name)[0] == name and find_runtime(name).here in readers(name)
        assert all(format_of(other).suffix == format_of(name).suffix for other in readers(name))


def test_the_agent_installs_the_package_of_the_row() -> None:
    assert {name for name, runner in RUNNERS.items() if not runner.distributions} == {"tensorrt"}
    for name, runner in ((name, runner) for name, runner in RUNNERS.items() if runner.distributions):
        assert runner.distributions[0] == wheels.PACKAGES.get(name, name) == find_runtime(name).package


def test_run_py_of_a_bundle_reads_every_format_and_names_the_packages_of_the_rows() -> None:
    assert set(bundle_run.MODULES) == set(exportable())
    for name, modules in bundle_run.MODULES.items():
        package = find_runtime(find_runtime(name).here).package
        assert package is not None and modules[0].partition(".")[0] == package.replace("-", "_")


def test_the_functions_that_rows_name_are_there() -> None:
    for row in RUNTIMES.values():
        for function in filter(None, (row.writer, row.probes, row.opener, row.integers)):
            module, _, name = function.partition(":")
            assert importlib.util.find_spec(module) is not None
            if not module.startswith("edgesdk.export"):  # the others need PyTorch, and are run by the tests of export
                assert callable(getattr(importlib.import_module(module), name))


def test_rows_agree_with_each_other() -> None:
    for row in RUNTIMES.values():
        assert row.substitute is None or RUNTIMES[row.substitute].substitute is None
        assert row.grid in ("unsigned", "signed", "symmetric", "narrow") and set(row.weight_bits) <= {8, 4}
        assert set(row.reads) <= set(formats())
        if row.format is not None:
            assert set(row.format.holds) <= set(STORED)
            assert formats()[row.format.name] in RUNTIMES
    assert list(formats(measured=True)) == ["onnx", "openvino", "tflite", "ncnn", "executorch"]


def test_a_name_is_taken_once_and_an_unknown_one_is_told_with_the_others() -> None:
    with pytest.raises(ValueError, match="there is a runtime litert already"):
        register(Runtime("litert", ONNX))
    with pytest.raises(UsageError, match="there is no runtime 'abacus'"):
        find_runtime("abacus")
    with pytest.raises(UsageError, match="there is no file format for armnn"):
        format_of("armnn")
