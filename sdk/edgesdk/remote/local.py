"""The measuring agent as a child process: on this machine, or behind any command that joins its pipes to one."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import edgesdk_targets
from edgesdk.errors import DeviceError
from edgesdk_targets.agent import protocol

Progress = Callable[[dict[str, Any]], None]
STDERR_LINES = 50
EXIT_SECONDS = 5.0


class AgentProcess:
    """An agent that ``command`` starts and that speaks the protocol on its pipes; ``where`` names it in messages.

    It starts at the first call and lives until :meth:`close` or the end of the ``with`` block, with everything that
    it started. A call that fails for any reason but an error that the agent reports ends it, as its answers would
    no longer match; the next call starts another. One thread at a time may call.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None, where: str) -> None:
        self.command, self.environment, self.where = tuple(command), environment, where
        self._child: _Child | None = None
        self._number = 0

    def __enter__(self) -> AgentProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the agent and what it started. It may be closed twice, and called again afterwards."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def call(
        self, verb: str, *, on_progress: Progress | None = None, timeout: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """The agent's result of ``verb`` with ``arguments``; ``on_progress`` gets each progress message on the way.

        ``timeout`` is in seconds and for the whole call. Raises ``DeviceError`` with the agent's own fact and remedy
        where it reports an error, and where it dies, answers nonsense or takes longer than ``timeout``.
        """
        if self._child is None:
            self._child = _Child(self.command, self.environment, self.where)
        self._number += 1
        try:
            document = self._converse(self._child, verb, arguments, on_progress, timeout)
        except BaseException:  # KeyboardInterrupt too: the agent must not work on for nobody
            self.close()
            raise
        if "error" in document:
            error = document["error"]
            raise DeviceError(str(error.get("fact", error)), str(error.get("remedy", "see the agent's log")))
        return document["result"]

    def _converse(
        self, child: _Child, verb: str, arguments: dict[str, Any], on_progress: Progress | None, timeout: float | None
    ) -> dict[str, Any]:
        end = None if timeout is None else time.monotonic() + timeout
        child.send(protocol.request(self._number, verb, arguments))
        while True:
            try:
                line = child.lines.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
            except queue.Empty:
                fact = f"the agent on {self.where} took over {timeout:g} s for {verb}"
                raise DeviceError(fact, "give it longer, or look at what else runs there") from None
            if line is None:
                raise child.death()
            try:
                document = protocol.answer(line, self._number)
            except ValueError as error:
                fact = f"the agent on {self.where} sent {error}"
                raise DeviceError(fact, "use the same version of edgesdk on both sides") from None
            if "progress" not in document:
                return document
            if on_progress is not None:
                on_progress(document["progress"])


class LocalDevice(AgentProcess):
    """This machine as a device. A context manager; see :class:`AgentProcess` for its ``call``."""

    def __init__(self) -> None:
        command = (sys.executable, "-m", "edgesdk_targets.agent")
        super().__init__(command, _environment(), "this machine")


def _environment() -> dict[str, str]:
    root = str(Path(edgesdk_targets.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "ORT_DISABLE_TELEMETRY": "1"}


class _Child:
    """A running agent: its answers arrive in ``lines``, ``None`` at their end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None, where: str) -> None:
        self.where = where
        pipe = subprocess.PIPE
        try:
            # A session of its own, so that Ctrl-C reaches the host alone and one signal reaches all it started.
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
            )
        except OSError as error:
            fact = f"the agent on {where} cannot be started ({command[0]}: {error.strerror})"
            raise DeviceError(fact, "check that the program is installed") from None
        self.lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.errors: deque[str] = deque(maxlen=STDERR_LINES)
        self.end = weakref.finalize(self, _end, self.process)
        threading.Thread(target=_pump, args=(self.process.stdout, self.lines), daemon=True).start()
        self.listener = threading.Thread(target=_keep, args=(self.process.stderr, self.errors), daemon=True)
        self.listener.start()

    def send(self, line: bytes) -> None:
        """Write a request; one that cannot be written shows as the end of ``lines``."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def death(self) -> DeviceError:
        """What is known of the end of this agent, which has closed its stdout."""
        try:
            code = self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return DeviceError(f"the agent on {self.where} closed its output", "look at what it printed, try again")
        self.listener.join(EXIT_SECONDS)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = next((line for line in reversed(self.errors) if line.strip()), "it printed nothing")
        fact = f"the agent on {self.where} {how} ({last.strip()})"
        killed = code == -signal.SIGKILL
        return DeviceError(fact, "the model may need more memory than is free" if killed else "mend that and try again")


def _end(process: subprocess.Popen[bytes]) -> None:
    # First the group, then the wait: until an agent is waited for, its number cannot pass to another process.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _pump(stream: Any, lines: queue.SimpleQueue[bytes | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _keep(stream: Any, kept: deque[str]) -> None:
    with stream:
        for line in stream:
            kept.append(line.decode("utf-8", "replace"))
