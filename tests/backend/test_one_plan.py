"""A network is one network, whichever way it comes in: as a module, an ONNX file of either exporter, or a program."""

from __future__ import annotations

from pathlib import Path

import onnx_zoo as zoo
import pytest
import torch
from slow import core

import edgesdk


@pytest.mark.parametrize("family", core(("residual",), lambda family: False))
def test_every_way_in_gets_the_same_plan(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESDK_MODE", "brief")
    make, example = zoo.MODULES[family]
    torch.manual_seed(0)
    own, draw = make().eval(), torch.Generator().manual_seed(3)
    words = not example[0].is_floating_point()
    shape = (128, *example[0].shape[1:])
    x = torch.randint(0, 20, shape, generator=draw) if words else torch.randn(shape, generator=draw)
    with torch.no_grad():
        answers = own(x)
    labels = (answers - answers.mean(0)).argmax(1)
    free = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(own, example, dynamic_shapes=free), tmp_path / "net.pt2")
    files = [zoo.exported(family, tmp_path, dynamo, opset) for dynamo, opset in ((True, 18), (False, 17))]
    plans = [
        edgesdk.search(way, "pi4", (x.numpy(), labels.numpy()), edgesdk.Budget(latency_ratio=0.8), force=True)
        for way in (own, *map(str, files), str(tmp_path / "net.pt2"))
    ]
    first, *others = ([plan.options.get(layer.name) for layer in plan.layers] for plan in plans)  # names apart
    assert others == [first] * 3
    assert len({tuple(sorted(plan.kept.values())) for plan in plans}) == 1
