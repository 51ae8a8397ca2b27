"""OpenVINO tells its makers nothing from here: it would from a forked process, which keeps what was locked locked."""

from __future__ import annotations

import subprocess
import sys

import pytest

WAYS = {
    "agent": "from edgesdk_targets.agent import runners; runners.runner('openvino')",
    "bundle": "from edgesdk_targets import bundle_run; bundle_run._imported('openvino')",
    "export": "from edgesdk.export import openvino; openvino.import_openvino()",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_sends_telemetry_is_not_imported(way: str) -> None:
    code = (
        f"import sys; {WAYS[way]}; sys.exit('openvino' not in sys.modules or bool(sys.modules['openvino_telemetry']))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
