"""What a file answers to samples: in a runtime that is here, or on a device through its agent."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesdk.core.artifact import Artifact, open_file
from edgesdk.core.errors import DeviceError
from edgesdk.devices.agent import AgentProcess

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Answer:
    """The outputs of a file for one sample, in its own order, and which runtime gave them."""

    outputs: list[NDArray[Any]]
    runtime: str
    version: str


Opener = Callable[[Artifact], Callable[[Arrays], Answer]]  # of a file, what answers to inputs in the file's own order


def open_here(artifact: Artifact) -> Callable[[Arrays], Answer]:
    """The file in a runtime that is here. Raises ``DeviceError`` where there is none, or it refuses the file."""
    session = open_file(artifact)

    def answer(inputs: Arrays) -> Answer:
        outputs = session.run(dict(zip(session.inputs, inputs, strict=True)))
        return Answer(list(outputs), session.name, session.version)

    return answer


def open_there(agent: AgentProcess, folder: Path, runtime: str | None = None) -> Opener:
    """What opens a file on the device of ``agent``, in its own runtime or what the agent calls by the name ``runtime``.

    Samples are written to ``folder`` on their way there.
    """

    def opener(artifact: Artifact) -> Callable[[Arrays], Answer]:
        def answer(inputs: Arrays) -> Answer:
            sample = folder / "sample.npz"
            np.savez(sample, **{str(place): array for place, array in enumerate(inputs)})  # type: ignore[arg-type]
            path, given = agent.place(*artifact.sent), agent.place(sample)
            told = agent.call("answers", path=path, inputs=given, runtime=runtime or artifact.runtime)
            return Answer(_fetch(agent, int(told["bytes"])), str(told["runtime"]), str(told["version"]))

        return answer

    return opener


def _fetch(agent: AgentProcess, size: int) -> list[NDArray[Any]]:
    """What the agent answered last, a file of ``size`` bytes. Raises ``DeviceError`` where that is not what comes."""
    content = bytearray()
    while len(content) < size:
        piece = base64.b64decode(agent.call("fetch", offset=len(content))["data"])
        if not piece:
            raise DeviceError(f"{agent.where} sent {len(content)} of {size} bytes of its answers", "try again")
        content += piece
    with np.load(io.BytesIO(bytes(content))) as arrays:
        return [arrays[str(place)] for place in range(len(arrays.files))]
