"""A request to a fresh process of this agent, for what a used process cannot tell: cold loads and memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

from edgesdk_targets.agent import protocol
from edgesdk_targets.agent.protocol import FAILED, AgentError, Report

LOAD, MEMORY, CHECK = "load-here", "memory-here", "check-here"
PROCESSES = 3
SECONDS = 600.0


def package_root() -> str:
    """The folder or zip archive that holds this package, as an entry for ``PYTHONPATH``."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def environment() -> dict[str, str]:
    """This process's environment, with this package on the path and the working folder off it."""
    path = [package_root()] + [entry for entry in [os.environ.get("PYTHONPATH")] if entry]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(path), PYTHONSAFEPATH="1", ORT_DISABLE_TELEMETRY="1")


def ask(verb: str, arguments: dict[str, Any], seconds: float = SECONDS) -> dict[str, Any]:
    """The result of ``verb`` in a fresh process. Raises ``AgentError`` where that fails or takes over ``seconds``."""
    command = [sys.executable, "-m", "edgesdk_targets.agent"]
    line = protocol.request(0, verb, arguments)
    try:
        child = subprocess.run(
            command, input=line, stdout=subprocess.PIPE, env=environment(), timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise AgentError(FAILED, f"{verb} took over {seconds:.0f} s", "use a smaller model") from None
    if child.returncode < 0:
        fact = f"{verb} was killed by {signal.Signals(-child.returncode).name}"
        raise AgentError(FAILED, fact, "the model may need more memory than is free")
    lines = child.stdout.splitlines()
    if not lines:
        raise AgentError(FAILED, f"{verb} ended with {child.returncode}", "see the agent's stderr")
    document = json.loads(lines[-1].decode())
    if "error" in document:
        raise AgentError(**document["error"])
    return document["result"]


def repeat(report: Report, verb: str, arguments: dict[str, Any], processes: int) -> list[dict[str, Any]]:
    """The results of ``verb`` in as many fresh processes, one after the other."""
    results = []
    for index in range(processes):
        report({"done": index, "of": processes, "state": "fresh process"})
        results.append(ask(verb, arguments))
    return results
