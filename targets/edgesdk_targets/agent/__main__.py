"""The agent as a program: ``python -m edgesdk_targets.agent``. Any Python can read this file, to say what it needs."""

import os
import sys

if sys.version_info < (3, 8):
    sys.exit("the edgesdk agent needs Python 3.8 or newer, and this is %d.%d" % sys.version_info[:2])

from edgesdk_targets.agent import fresh, health, install, measure, memory, operators, probe, protocol, scratch

VERBS = {
    "probe": probe.probe,
    "benchmark": measure.benchmark,
    "kernels": measure.kernels,
    "operators": operators.operators,
    "load": memory.load,
    "memory": memory.memory,
    "put": scratch.put,
    "install": install.install,
    "rollback": install.rollback,
    "installed": install.installed,
    fresh.LOAD: memory.load_here,
    fresh.MEMORY: memory.memory_here,
    fresh.CHECK: health.check_here,
}


def main():
    """Serve stdin until it ends. Returns the exit status: 1 where the host went away in the middle of an answer."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before a runner imports its runtime
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints, from C too, then cannot spoil the protocol
    try:
        protocol.serve(sys.stdin.buffer, sink, VERBS)
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
