"""Threads that trace and write files at once take turns, and a model that is refused leaves nothing behind."""

from __future__ import annotations

import logging
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch._export import utils
from torch.export import ExportedProgram

from edgesdk.core.errors import ModelError
from edgesdk.export.onnx import converted
from edgesdk.export.simulation import list_called
from edgesdk.network.trace import trace

LOGGERS = ("torch", "torch.onnx", "onnxscript", "onnx_ir")


def made(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def written(model: nn.Module) -> tuple[bytes, dict[str, tuple[str, ...]]]:
    x = torch.zeros(1, 3, 8, 8)
    network = trace(model, x)
    return converted(network, x).SerializeToString(), list_called(network, x)


def left() -> list[Any]:
    """What tracing and writing change meanwhile, for all of the process."""
    levels = [logging.getLogger(name).level for name in LOGGERS]
    collect = utils._collect_all_valid_cia_ops_for_namespace
    streams = (sys.stdout, sys.stderr, warnings.showwarning, [*warnings.filters])
    return [ExportedProgram.run_decompositions, collect, *streams, *levels]


def test_threads_write_what_one_after_the_other_does() -> None:
    models = [made(width) for width in (4, 5, 6)]
    alone = [written(model) for model in models]
    before = left()
    with ThreadPoolExecutor(len(models)) as pool:
        assert list(pool.map(written, models)) == alone
    assert left() == before


@pytest.mark.parametrize("model", [torch.jit.script(made(4)), nn.Sequential(nn.Flatten(), nn.Linear(7, 2))])
def test_a_model_that_is_refused_leaves_nothing_behind(model: nn.Module) -> None:
    before = left()
    with pytest.raises(ModelError):
        written(model)
    assert left() == before
