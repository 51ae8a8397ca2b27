"""The agent as a program: ``python -m edgesdk_targets.agent``. Any Python can read this file, to say what it needs."""

import os
import sys

if sys.version_info < (3, 8):
    sys.exit("the edgesdk agent needs Python 3.8 or newer, and this is %d.%d" % sys.version_info[:2])

import select
import signal
import threading
import time

from edgesdk_targets.agent import (
    answers,
    energy,
    fresh,
    health,
    install,
    measure,
    memory,
    operators,
    probe,
    protocol,
    scratch,
)

VERBS = {
    "probe": probe.probe,
    "benchmark": measure.benchmark,
    "kernels": measure.kernels,
    "energy": energy.energy,
    "answers": answers.answers,
    "fetch": answers.fetch,
    "operators": operators.operators,
    "load": memory.load,
    "memory": memory.memory,
    "put": scratch.put,
    "drop": scratch.drop,
    "install": install.install,
    "rollback": install.rollback,
    "installed": install.installed,
    fresh.LOAD: memory.load_here,
    fresh.MEMORY: memory.memory_here,
    fresh.CHECK: health.check_here,
}
END_SECONDS = 5.0


def main():
    """Serve stdin until it ends. Returns the exit status: 1 where the host went away before that."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before a runner imports its runtime
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints, from C too, then cannot spoil the protocol
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what is begun is cleared up
    threading.Thread(target=_watch, args=(sink.fileno(),), daemon=True).start()
    scratch.sweep()
    try:
        protocol.serve(sys.stdin.buffer, sink, VERBS)
    except BrokenPipeError:
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing may stop the clearing up from here on
    return 0


def _watch(sink):
    """End this process once nobody can read its answers, as it would work on for nobody and hold the device's lock.

    The fresh processes that it started see that it is gone in the same way.
    """
    waiting = select.poll()
    waiting.register(sink, 0)
    waiting.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
