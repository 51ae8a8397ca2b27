"""What a report remarks of its figures: which plans were tried and rejected, and what each missed."""

from __future__ import annotations

from edgesdk.core.budget import Budget
from edgesdk.pipeline.remarks import _list_rejected


def test_plans_that_were_rejected_are_named_with_what_they_missed() -> None:
    told = [
        {"plan": "a", "misses": {"latency_ms": 1.5}},
        {"plan": "b", "misses": {"latency_ratio": 1.2, "size_bytes": 1.1}},
        {"plan": "c", "misses": {}, "drop": 3.0},
        {"plan": "d", "misses": {}},
        {"note": "of something else"},
    ]
    both = "1.20x the latency allowed and 1.10x the size allowed"
    assert (
        _list_rejected(told, Budget(latency_ms=1.0)) == f"; 2 plans that were tried: {both}, 1.50x the latency allowed"
    )
    assert "3.00 points lost" in _list_rejected(told, Budget(max_drop=1.0))
    assert _list_rejected(told[3:], Budget(max_drop=1.0)) == ""
