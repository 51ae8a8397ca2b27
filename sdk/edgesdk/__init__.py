"""Compress a trained PyTorch model for a device so that it keeps a budget there, measured.

import edgesdk
bundle = edgesdk.deploy(model, target="x86", data="data.npz", budget=edgesdk.Budget(latency_ms=2.0), out="bundle")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgesdk.budget import Budget, Cost
    from edgesdk.bundle import Bundle, verify
    from edgesdk.calibration import calibrate
    from edgesdk.compress.preprocessing import Preprocessing
    from edgesdk.compress.recovery import Recovery, Teacher, Term
    from edgesdk.conversion import Exported, export_plan
    from edgesdk.deployment import deploy, search
    from edgesdk.errors import EdgeSdkError
    from edgesdk.estimation import Estimate, estimate, prepare
    from edgesdk.installation import install, rollback
    from edgesdk.measurement import benchmark, compare
    from edgesdk.plan import Plan
    from edgesdk.preparation import Prepared, ensemble, sparsify, transfer
    from edgesdk.report import Report
    from edgesdk.staging import Stages, stages

__all__ = [
    "Budget", "Bundle", "Cost", "EdgeSdkError", "Estimate", "Exported", "Plan", "Prepared", "Preprocessing", "Recovery",
    "Report", "Stages", "Teacher", "Term",
    "benchmark", "calibrate", "compare", "deploy", "ensemble", "estimate", "export_plan", "install", "prepare",
    "rollback", "search", "sparsify", "stages", "transfer", "verify",
]  # fmt: skip

_HOMES = {
    "Budget": "budget",
    "Bundle": "bundle",
    "Cost": "budget",
    "EdgeSdkError": "errors",
    "Estimate": "estimation",
    "Exported": "conversion",
    "Plan": "plan",
    "Prepared": "preparation",
    "Preprocessing": "compress.preprocessing",
    "Recovery": "compress.recovery",
    "Report": "report",
    "Stages": "staging",
    "Teacher": "compress.recovery",
    "Term": "compress.recovery",
    "benchmark": "measurement",
    "calibrate": "calibration",
    "compare": "measurement",
    "deploy": "deployment",
    "ensemble": "preparation",
    "estimate": "estimation",
    "export_plan": "conversion",
    "install": "installation",
    "prepare": "estimation",
    "rollback": "installation",
    "search": "deployment",
    "sparsify": "preparation",
    "stages": "staging",
    "transfer": "preparation",
    "verify": "bundle",
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
