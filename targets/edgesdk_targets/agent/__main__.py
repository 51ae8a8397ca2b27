"""The agent as a program: ``python -m edgesdk_targets.agent``."""

from __future__ import annotations

import os
import sys

from edgesdk_targets.agent import fresh, measure, memory, operators, probe, protocol

VERBS = {
    "probe": probe.probe,
    "benchmark": measure.benchmark,
    "kernels": measure.kernels,
    "operators": operators.operators,
    "load": memory.load,
    "memory": memory.memory,
    fresh.LOAD: memory.load_here,
    fresh.MEMORY: memory.memory_here,
}


def main() -> int:
    """Serve stdin until it ends. Returns the exit status: 1 where the host went away in the middle of an answer."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints, from C too, then cannot spoil the protocol
    try:
        protocol.serve(sys.stdin.buffer, sink, VERBS)
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
