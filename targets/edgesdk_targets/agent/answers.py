"""What a model answers to a sample on this device: its outputs, in a file that the host fetches piece by piece."""

from __future__ import annotations

import base64
import os
from typing import Any

from edgesdk_targets.agent import measure, probe, runners, scratch
from edgesdk_targets.agent.protocol import MISSING, USAGE, AgentError, Report

NAME = "answers.npz"  # in the agent's own folder
PIECE_BYTES = 1 << 20


def answers(report: Report, *, path: str, inputs: str, runtime: str, threads: int = 1) -> dict[str, Any]:
    """Run the model at ``path`` once on the sample in ``inputs``, an ``.npz`` file of arrays named ``0``, ``1`` and on.

    They stand for the model's inputs in its own order, as the arrays of the file that is written stand for its outputs.
    Returns the ``bytes`` of that file, and which ``runtime`` ran the model in which ``version``. It may be emulated.
    """
    measure.check_threads(threads)
    for file in (path, inputs):
        measure.check_file(file)
    chosen = next((name for name in runners.readers(runtime) if name in probe.installed_runners()), runtime)
    runner = runners.runner(chosen)
    session = runner.load(path, threads)
    given = runner.read_inputs(inputs)
    if sorted(given) != sorted(str(place) for place in range(len(session.inputs))):
        raise AgentError(USAGE, f"the model has {len(session.inputs)} inputs, {len(given)} are given", "give each once")
    outputs = session.run_once({item["name"]: given[str(place)] for place, item in enumerate(session.inputs)})
    from edgesdk_targets.agent.runners import arrays  # needs NumPy, as every runner does

    target = os.path.join(scratch.folder(), NAME)
    arrays.write(target, list(outputs.values()))
    return {"bytes": os.path.getsize(target), "runtime": chosen, "version": runner.VERSION}


def fetch(report: Report, *, offset: int) -> dict[str, Any]:
    """A piece of what was answered last, from ``offset`` on: its ``data``, in base64, empty behind the end."""
    if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
        raise AgentError(USAGE, f"{offset!r:.80} is no offset", "give a whole number from 0 on")
    try:
        with open(os.path.join(scratch.folder(), NAME), "rb") as file:
            file.seek(offset)
            return {"data": base64.b64encode(file.read(PIECE_BYTES)).decode()}
    except FileNotFoundError:
        raise AgentError(MISSING, "nothing was answered yet", "ask for answers first") from None
