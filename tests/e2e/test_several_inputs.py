"""A model of several inputs, an array for each of which lies in one file of data, from the search to the bundle's own
run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from given import document, edgesdk

NODES = """
import torch
from torch import nn

class Nodes(nn.Module):  # a network of a graph, whose edges are a second input
    def __init__(self):
        super().__init__()
        self.own, self.near, self.fc = nn.Linear(6, 24), nn.Linear(6, 24), nn.Linear(24, 4)
    def forward(self, x, edges):
        x = torch.relu(self.own(x) + edges @ self.near(x))
        return self.fc(x.mean(1))
"""


@pytest.mark.parametrize("split", [False, True])
def test_a_file_has_an_array_for_each_input(split: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nodes.py").write_text(NODES)
    rng = np.random.default_rng(0)
    edges, x = (rng.random((64, 8, 8)) > 0.7).astype("f"), rng.normal(size=(64, 8, 6)).astype("f")
    parts = {"edges": edges, "x": x, "y": np.arange(64) % 4}
    np.savez("data.npz", **parts, **({f"{name}_test": part[:16] for name, part in parts.items()} if split else {}))
    given = ("deploy", "nodes.py:Nodes", "--data", "data.npz", "--target", "pi4", "--latency", "0.95x", "--epochs", "0")
    printed = document(edgesdk(*given, "--force", "--json"))
    assert [entry["name"] for entry in printed["manifest"]["inputs"]] == ["x", "edges"]
    assert printed["report"]["score"]["samples"] == (16 if split else 13)
    assert document(edgesdk("verify", "bundle", "--model", "nodes.py:Nodes", "--data", "data.npz", "--json"))["valid"]
    assert edgesdk("diff", "bundle", "--data", "data.npz", "-q").returncode == 0
