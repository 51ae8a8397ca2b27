"""Compress a trained PyTorch model for a device so that it keeps a budget there, measured.

import edgesdk
bundle = edgesdk.deploy(model, target="x86", data="data.npz", budget=edgesdk.Budget(latency_ms=2.0), out="bundle")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgesdk.bundle.bundle import Bundle
    from edgesdk.core.budget import Budget, Cost
    from edgesdk.core.errors import EdgeSdkError
    from edgesdk.core.plan import Plan
    from edgesdk.core.report import Report
    from edgesdk.data.preprocessing import Preprocessing
    from edgesdk.devices.estimate import Estimate, Estimates, estimate_all, read_graph
    from edgesdk.train.recovery import Recovery, Teacher, Term
    from edgesdk.workflows.benchmark import Benchmark, benchmark
    from edgesdk.workflows.calibrate import calibrate
    from edgesdk.workflows.deploy import deploy, search
    from edgesdk.workflows.diff import Diff, diff
    from edgesdk.workflows.estimate import estimate
    from edgesdk.workflows.export import Exported, export_plan
    from edgesdk.workflows.front import Front
    from edgesdk.workflows.gate import Gate, gate
    from edgesdk.workflows.install import install, rollback
    from edgesdk.workflows.prepare import Prepared, ensemble, sparsify, transfer
    from edgesdk.workflows.report import report
    from edgesdk.workflows.stages import Stages, stages
    from edgesdk.workflows.sweep import sweep
    from edgesdk.workflows.verify import verify

__all__ = [
    "Benchmark", "Budget", "Bundle", "Cost", "Diff", "EdgeSdkError", "Estimate", "Estimates", "Exported", "Front",
    "Gate", "Plan", "Prepared", "Preprocessing", "Recovery", "Report", "Stages", "Teacher", "Term",
    "benchmark", "calibrate", "deploy", "diff", "ensemble", "estimate", "estimate_all", "export_plan", "gate",
    "install", "read_graph", "report", "rollback", "search", "sparsify", "stages", "sweep", "transfer", "verify",
]  # fmt: skip

_HOMES = {
    "Benchmark": "workflows.benchmark",
    "Budget": "core.budget",
    "Bundle": "bundle.bundle",
    "Cost": "core.budget",
    "Diff": "workflows.diff",
    "EdgeSdkError": "core.errors",
    "Estimate": "devices.estimate",
    "Estimates": "devices.estimate",
    "Exported": "workflows.export",
    "Front": "workflows.front",
    "Gate": "workflows.gate",
    "Plan": "core.plan",
    "Prepared": "workflows.prepare",
    "Preprocessing": "data.preprocessing",
    "Recovery": "train.recovery",
    "Report": "core.report",
    "Stages": "workflows.stages",
    "Teacher": "train.recovery",
    "Term": "train.recovery",
    "benchmark": "workflows.benchmark",
    "calibrate": "workflows.calibrate",
    "deploy": "workflows.deploy",
    "diff": "workflows.diff",
    "ensemble": "workflows.prepare",
    "estimate": "workflows.estimate",
    "estimate_all": "devices.estimate",
    "export_plan": "workflows.export",
    "gate": "workflows.gate",
    "install": "workflows.install",
    "read_graph": "devices.estimate",
    "report": "workflows.report",
    "rollback": "workflows.install",
    "search": "workflows.deploy",
    "sparsify": "workflows.prepare",
    "stages": "workflows.stages",
    "sweep": "workflows.sweep",
    "transfer": "workflows.prepare",
    "verify": "workflows.verify",
}


def __getattr__(name: str) -> Any:
    """What is there is imported when it is asked for: the command line's help should not wait for torch."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version("edgesdk")
    if name not in _HOMES:
        raise AttributeError(f"module 'edgesdk' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edgesdk.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
