"""A program that calls a verb and, at its n-th operation on files, dies (``kill``) or finds the disk full (``full``).

``agent_faults.py FAULT N ROOT VERB ARGUMENTS``: what counts is below ``ROOT``, or relative to a folder that is open. It
prints ``done`` or the kind of the error, with ``through`` before that where there was no n-th operation. With ``short``
no file can be longer than ``N`` bytes.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys

from edgesdk_targets.agent import __main__ as agent
from edgesdk_targets.agent.protocol import AgentError

READING = ("os.listdir", "os.scandir")
OPERATIONS = ("open", "os.rename", "os.mkdir", "os.symlink", "os.remove", "os.rmdir", *READING)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def arm(fault: str, number: int, root: str) -> list[str]:
    """From now on, do ``fault`` at the operation ``number``. Returns the list of the operations so far."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple) -> None:
        if event not in OPERATIONS:
            return
        path = arguments[1 if event == "os.symlink" else 0]
        if isinstance(path, str) and os.path.isabs(path) and not path.startswith(root):
            return
        if fault == "full" and (event in READING or event == "open" and not arguments[2] & WRITING):
            return
        seen.append(event)
        if len(seen) == number:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    sys.addaudithook(hook)
    return seen


def main() -> None:
    fault, number, root, verb, arguments = sys.argv[1:]
    if fault == "short":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), int(number)))
    seen = arm(fault, int(number), root) if fault != "short" else []
    try:
        agent.VERBS[verb](lambda progress: None, **json.loads(arguments))
        said = "done"
    except AgentError as error:
        said = error.kind
    print("through" if len(seen) < int(number) else "", said)


if __name__ == "__main__":
    main()
