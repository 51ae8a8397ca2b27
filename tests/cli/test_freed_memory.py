"""Memory that a command frees is not taken from the system anew."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

TWICE = """
import resource
import numpy as np
{first}
def take():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.full({count}, 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
take()
print(take())
"""
KEEPING = "from edgesdk.cli.freed import keep_freed_memory; keep_freed_memory()"


@pytest.mark.parametrize("megabytes", [40, 200])
def test_what_was_freed_is_given_out_again(megabytes: int) -> None:
    assert platform.libc_ver()[0] == "glibc"

    def faults(first: str) -> int:
        code = TWICE.format(first=first, count=megabytes << 17)
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    assert faults(KEEPING) < faults("") / 8


def test_every_command_keeps_it() -> None:
    code = "import edgesdk.cli as cli, sys; kept = []; cli.keep_freed_memory = lambda: kept.append(1)\n"
    code += "try:\n    cli.main(['targets'])\nexcept SystemExit:\n    pass\nassert kept"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
