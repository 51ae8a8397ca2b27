"""The agent at the other end of two pipes: those of a child process, which may itself lead to another machine."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgesdk.core.errors import BundleError, DeviceError, EdgeSdkError, StorageError
from edgesdk_targets.agent import protocol

Progress = Callable[[dict[str, Any]], None]
SILENCE_SECONDS = 900.0  # longest that an agent at work says nothing: a sustained run warms up for 300
LINE_BYTES = 64 << 20  # of an answer; a device that goes on beyond it talks nonsense
PIPE_BYTES = 1 << 16
STDERR_LINES, STDERR_BYTES = 50, 4096
EXIT_SECONDS = 5.0
SHELL_SIGNALS = 128
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)  # Python itself has none
REMEDIES: Mapping[int, str] = {
    signal.SIGKILL: "the model may need more memory than is free",
    **dict.fromkeys(CRASHES, "the runtime there crashed on a file that it was given: take another, or another version"),
}
AGAIN = "mend it and try again"
ERRORS: Mapping[str, type[EdgeSdkError]] = {protocol.REFUSED: BundleError, protocol.STORAGE: StorageError}
Agent = TypeVar("Agent", bound="AgentProcess")


class AgentProcess:
    """An agent that ``command`` starts and that speaks the protocol on its pipes; ``where`` names it in messages.

    It starts at the first call and lives until :meth:`close` or the end of the ``with`` block, with everything that
    it started. A call that fails for any reason but an error that the agent reports ends it, as its answers would
    no longer match; the next call starts another. One thread at a time may call. ``silence`` is how many seconds it
    may say nothing during a call.
    """

    own = False  # whether it runs under the Python that edgesdk runs under
    here = True  # whether the agent sees this machine's files under the same names

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None, where: str) -> None:
        self.command: tuple[str, ...] = tuple(command)
        self.environment: Mapping[str, str] | None = environment
        self.where: str = where
        self.silence = SILENCE_SECONDS
        self._child: Child | None = None
        self._number = 0
        self._interrupted = False

    def __enter__(self: Agent) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the agent and what it started. It may be closed twice, and called again afterwards."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def interrupt(self) -> None:
        """End the call that another thread is in; every later one is refused. The agent's end is that thread's."""
        self._interrupted = True
        child = self._child
        if child is not None and child.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)

    def place(self, *files: Path) -> str:
        """Where the first of ``files`` is for the agent, the others beside it."""
        return str(files[0])

    def forget(self) -> None:
        """Free what :meth:`place` took there. What it gave before is no longer valid."""

    def call(
        self, verb: str, *, on_progress: Progress | None = None, timeout: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """The agent's result of ``verb`` with ``arguments``; ``on_progress`` gets each progress message on the way.

        ``timeout`` is in seconds and for the whole call. Raises the agent's own fact and remedy where it reports an
        error: a ``BundleError`` where it refuses a bundle, a ``StorageError`` where its disk does, else a
        ``DeviceError``; and that, too, where it dies, answers nonsense or takes longer than ``timeout``.
        """
        limit = Limit(timeout, self.silence)
        if self._interrupted:
            raise DeviceError(f"{self.where} is not asked any more", "begin again")
        try:
            if self._child is None:
                self._child = Child(self.command, self.environment, self.where)
                self.begin(self._child, limit)
            self._number += 1
            document = self._converse(self._child, verb, arguments, on_progress, limit)
        except ValueError as error:
            self.close()
            fact = f"the agent on {self.where} sent {error}"
            raise DeviceError(fact, "use the same version of edgesdk on both sides") from None
        except TimeoutError:
            self.close()
            fact = f"the agent on {self.where} took over {limit.seconds:g} s for {verb}"
            raise DeviceError(fact, "give it longer, or look at what else runs there") from None
        except BaseException:  # KeyboardInterrupt too: the agent must not work on for nobody
            self.close()
            raise
        if "error" in document:
            error = document["error"]
            kind = ERRORS.get(str(error.get("kind")), DeviceError)
            raise kind(str(error.get("fact", error)), str(error.get("remedy", "see the agent's log")))
        return document["result"]

    def begin(self, child: Child, limit: Limit) -> None:
        """What comes before the first request. Nothing, where the agent's files are there already."""

    def death(self, child: Child) -> EdgeSdkError:
        """What is known of the end of ``child``, which has closed its stdout."""
        code = child.exit_code()
        if code is None:
            return DeviceError(f"the agent on {self.where} closed its output", "look at what it printed, try again")
        number = -code if code < 0 else code - SHELL_SIGNALS  # a shell in between tells it like that
        killed = number in set(signal.Signals)
        how = f"was killed by {signal.Signals(number).name}" if killed else f"ended with exit code {code}"
        fact = f"the agent on {self.where} {how} ({child.last_words() or 'it printed nothing'})"
        return DeviceError(fact, REMEDIES.get(number, AGAIN) if killed else AGAIN)

    def _converse(
        self, child: Child, verb: str, arguments: dict[str, Any], on_progress: Progress | None, limit: Limit
    ) -> dict[str, Any]:
        child.send(protocol.request(self._number, verb, arguments), limit)
        while True:
            line = child.receive(limit)
            if line is None:
                raise self.death(child)
            document = protocol.answer(line, self._number)
            if "progress" not in document:
                return document
            if on_progress is not None:
                on_progress(document["progress"])


class Limit:
    """How long a call may take: ``timeout`` seconds in all, ``silence`` between two signs of life."""

    def __init__(self, timeout: float | None, silence: float) -> None:
        self.end: float | None = None if timeout is None else time.monotonic() + timeout
        self.seconds: float = silence if timeout is None else min(timeout, silence)
        self.silence = silence

    def left(self) -> float:
        """Seconds to wait for the next sign."""
        return self.silence if self.end is None else max(0.0, min(self.silence, self.end - time.monotonic()))


class Child:
    """A running agent: requests go in, its answers come out line by line."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None, where: str) -> None:
        pipe = subprocess.PIPE
        try:
            # A session of its own, so that Ctrl-C reaches the host alone and one signal reaches all it started.
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
            )
        except OSError as error:
            fact = f"the agent on {where} cannot be started ({command[0]}: {error.strerror})"
            raise DeviceError(fact, "check that the program is installed") from None
        into, out_of = self.process.stdin, self.process.stdout
        if into is None or out_of is None:
            raise DeviceError(f"the agent on {where} has no pipes", "start it again")
        self._in, self._out = into.fileno(), out_of.fileno()
        os.set_blocking(self._in, False)
        self._buffer, self._seen = bytearray(), 0
        self.errors: deque[str] = deque(maxlen=STDERR_LINES)
        self.end: weakref.finalize[..., Child] = weakref.finalize(self, _end, self.process)
        self._listener = threading.Thread(target=_keep, args=(self.process.stderr, self.errors), daemon=True)
        self._listener.start()

    def send(self, content: bytes, limit: Limit) -> None:
        """Write ``content``; where nobody reads any more, that shows as the end of what comes.

        Raises ``TimeoutError`` where nothing is taken within ``limit``.
        """
        rest = memoryview(content)
        while rest:
            if not select.select([], [self._in], [], limit.left())[1]:
                raise TimeoutError
            try:
                rest = rest[os.write(self._in, rest[:PIPE_BYTES]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return

    def receive(self, limit: Limit) -> bytes | None:
        """The next line, ``None`` at the end. Raises ``TimeoutError``, and ``ValueError`` for a line without end."""
        while (cut := self._buffer.find(b"\n", self._seen)) < 0:
            self._seen = len(self._buffer)
            if self._seen > LINE_BYTES:
                raise ValueError(f"a line of over {LINE_BYTES >> 20} MB")
            if not select.select([self._out], [], [], limit.left())[0]:
                raise TimeoutError
            part = os.read(self._out, PIPE_BYTES)
            if not part:
                return None
            self._buffer += part
        line = bytes(self._buffer[: cut + 1])
        del self._buffer[: cut + 1]
        self._seen = 0
        return line

    def exit_code(self) -> int | None:
        """With what it ended; ``None`` where it runs on."""
        try:
            return self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """The last line that it printed to stderr."""
        self._listener.join(EXIT_SECONDS / 10)  # a connection that is shared may keep it open
        return next((line.strip() for line in reversed(list(self.errors)) if line.strip()), "")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()  # an agent that waits for a request cleans up and goes
    end = time.monotonic() + EXIT_SECONDS / 10
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while process.returncode is None and time.monotonic() < end and os.waitid(os.P_PID, process.pid, ended) is None:
        time.sleep(0.005)
    # First the group, then the wait: until an agent is waited for, its number cannot pass to another process.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _keep(stream: Any, kept: deque[str]) -> None:
    with stream:
        while line := stream.readline(STDERR_BYTES):
            kept.append(line.decode("utf-8", "replace"))
