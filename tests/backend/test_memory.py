"""The memory that liveness predicts, against what the agent measures in a fresh process."""

from __future__ import annotations

from pathlib import Path

import models
import pytest
import torch
from slow import core

from edgesdk.compress.apply import compressed
from edgesdk.core.budget import Budget
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.data.data import load_data
from edgesdk.data.task import Task
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.pipeline.study import anchor_model

# Processes of one file differ by a piece of 64 kB of the runtime's own pages, more than the share of a small network.
SHARE, PIECE = 0.15, 64 * 1024


@pytest.mark.parametrize("name", core(["residual", "depthwise"], lambda name: name == "residual"))
def test_predicted_memory_is_the_measured_one(name: str, tmp_path: Path) -> None:
    kind = models.SHAPES[name][0]
    model = kind().eval()
    x = torch.randn(48, 3, 96, 96)  # large enough that tensors outweigh the allocator
    y = torch.arange(48) % models.CLASSES
    data = load_data((x.numpy(), y.numpy()))
    with LocalDevice() as agent:
        allowed = {"onnxruntime": (FP32, INT8)}
        anchored, _ = anchor_model(
            model, data, Task(), "x86", [Bench(agent)], Budget(), tmp_path, lambda stage, share: None, allowed
        )
        (study,) = anchored.study()
        halves = {g.name: g.size // 2 for g in study.graph.groups if g.fixed is None}
        plan = models.plan(study.network, halves)
        small, options = compressed(study.network, plan, data.example, study.scores)
        made = study.write_file(study.quantize(small, options), options, "small")
        measured = study.measure({"small": made})["small"]
        dense = study.dense
    menu = study.menu()
    for kept, report in (({g: study.graph.group_by_name[g].size for g in halves}, dense), (halves, measured)):
        picked = {
            layer.name: next(
                choice
                for choice in layer.choices
                if choice.option == Option()
                and not choice.skips
                and (layer.reads is None or choice.reads == kept[layer.reads])
                and (layer.writes is None or choice.writes == kept[layer.writes])
            )
            for layer in menu.layers
        }
        by, (account, _) = study.corrections.correction, study.pricing.bytes_of(picked, kept, ())  # not the sums
        predicted = by.memory_bytes + by.memory_scale * account
        assert report.peak_memory_bytes is not None and report.peak_memory_bytes > 0
        difference = abs(predicted - report.peak_memory_bytes)
        assert difference <= SHARE * report.peak_memory_bytes + PIECE
