"""This machine as a device."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import edgesdk_targets
from edgesdk.devices.agent import AgentProcess

HERE = "this machine"


class LocalDevice(AgentProcess):
    """This machine as a device. A context manager; see :class:`AgentProcess` for its ``call``."""

    own = True

    def __init__(self) -> None:
        super().__init__((sys.executable, "-m", "edgesdk_targets.agent"), _environment(), HERE)


def _environment() -> dict[str, str]:
    root = str(Path(edgesdk_targets.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "ORT_DISABLE_TELEMETRY": "1"}
