"""What files are called that are measured beside each other."""

from __future__ import annotations

import pytest

from edgesdk.core.wording import name_apart


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/model.onnx", "b/other.onnx"], ["model.onnx", "other.onnx"]),
        (["a/bundle", "b/bundle", "c"], ["a/bundle", "b/bundle", "c"]),
        (["bundle", "last/bundle"], ["bundle", "last/bundle"]),
        (["/x/a/m.onnx", "/y/a/m.onnx", "/y/b/m.onnx"], ["x/a/m.onnx", "y/a/m.onnx", "b/m.onnx"]),
        (["/m.onnx", "m.onnx"], ["/m.onnx", "m.onnx"]),
        (["net.py:make", "timm:resnet18"], ["net.py:make", "timm:resnet18"]),
        (["."], ["."]),
    ],
)
def test_each_has_the_shortest_name_that_no_other_has(paths: list[str], names: list[str]) -> None:
    assert name_apart(paths) == dict(zip(paths, names, strict=True))
