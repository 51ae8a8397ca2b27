"""What the agent and its host say to each other: one JSON document per line. Both sides use this module.

A request is ``{"protocol": 1, "id": n, "verb": "...", "arguments": {...}}``. Its answers are any number of
``{"protocol": 1, "id": n, "progress": {"done": k, "of": m, "state": "..."}}`` and at last one with ``"result"`` or
with ``"error": {"kind": "...", "fact": "...", "remedy": "..."}``. A line that is no request is answered with id null.
"""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from typing import Any, BinaryIO, Callable, Dict

PROTOCOL = 1
ANSWERS = ("progress", "result", "error")
USAGE, MISSING, BUSY, RUNTIME, FAILED = "usage", "missing", "busy", "runtime", "failed"
STORAGE, REFUSED, UNFIT, EMULATED = "storage", "refused", "unfit", "emulated"
LINE_BYTES = 64 << 20  # of a request

Report = Callable[[Dict[str, Any]], None]
Verb = Callable[..., Dict[str, Any]]


class AgentError(Exception):
    """What went wrong on the device.

    ``kind`` is ``usage`` (the request is wrong), ``missing`` (a file, runtime or facility is not there), ``busy``
    (another measurement or installation holds the device), ``runtime`` (the runtime refused), ``storage`` (nothing can
    be written), ``refused`` (a bundle is damaged or not for this device), ``unfit`` (a bundle runs, and does not do
    what was recorded of it or what its budget says), ``emulated`` (what was asked for means nothing in an emulator)
    or ``failed`` (anything else).
    """

    def __init__(self, kind: str, fact: str, remedy: str) -> None:
        self.kind = kind
        self.fact = " ".join(fact.split())
        self.remedy = " ".join(remedy.split())
        super().__init__(f"{self.fact}: {self.remedy}")


def encode(document: dict[str, Any]) -> bytes:
    """``document`` as one line of JSON. Raises ``ValueError`` for NaN and infinities, which JSON does not have."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decoded(content: bytes) -> Any:
    """The JSON document in ``content``. Raises ``ValueError`` for what is none, or nested deeper than can be read."""
    try:
        return json.loads(content.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def request(number: int, verb: str, arguments: dict[str, Any]) -> bytes:
    """The line that asks for ``verb``."""
    return encode({"protocol": PROTOCOL, "id": number, "verb": verb, "arguments": arguments})


def answer(line: bytes, number: int) -> dict[str, Any]:
    """The answer in ``line`` to request ``number``.

    Raises ``ValueError``, naming what is wrong, for a line that is not an answer to it.
    """
    try:
        document = decoded(line)
    except ValueError:
        raise ValueError(f"not JSON: {line[:80]!r}") from None
    if not isinstance(document, dict) or sum(name in document for name in ANSWERS) != 1:
        raise ValueError(f"not an answer: {line[:80]!r}")
    if document.get("protocol") != PROTOCOL:
        raise ValueError(f"an answer of protocol {document.get('protocol')!r:.80}, not {PROTOCOL}")
    if document.get("id") != number and not (document.get("id") is None and "error" in document):
        raise ValueError(f"an answer to request {document.get('id')!r:.80}, not {number}")
    if not all(isinstance(document[name], dict) for name in ANSWERS if name in document):
        raise ValueError(f"not an answer: {line[:80]!r}")
    return document


def serve(source: BinaryIO, sink: BinaryIO, verbs: dict[str, Verb]) -> None:
    """Answer the requests of ``source`` on ``sink``, one after the other, until ``source`` ends.

    A verb is called with a function that reports progress and with the request's arguments by name. Every failure
    becomes an answer, with its traceback on stderr; only a ``sink`` that is gone ends the agent early. Of a line over
    ``LINE_BYTES`` no more than those is held.
    """
    while True:
        line = source.readline(LINE_BYTES)
        if not line:
            return
        if len(line) == LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = source.readline(1 << 20)
            _serve_one(None, sink, verbs)
        elif line.strip():
            _serve_one(line, sink, verbs)


def _serve_one(line: bytes | None, sink: BinaryIO, verbs: dict[str, Verb]) -> None:
    number: int | None = None

    def say(**content: Any) -> None:
        sink.write(encode({"protocol": PROTOCOL, "id": number, **content}))
        sink.flush()

    try:
        document = _parse(line)
        if isinstance(document.get("id"), int):
            number = document["id"]
        verb, arguments = _find(document, verbs)
        say(result=verb(lambda progress: say(progress=progress), **arguments))
    except AgentError as error:
        say(error={"kind": error.kind, "fact": error.fact, "remedy": error.remedy})
    except BrokenPipeError:
        raise
    except Exception as error:  # whatever a runtime raises must reach the host as an answer
        traceback.print_exc(file=sys.stderr)
        fact = f"{type(error).__name__}: {error or 'no message'}"
        say(error={"kind": FAILED, "fact": " ".join(fact.split())[:2000], "remedy": "see the agent's stderr for where"})


def _parse(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise AgentError(USAGE, f"the request is longer than {LINE_BYTES >> 20} MiB", "send files piece by piece")
    try:
        document = decoded(line)
    except ValueError as error:
        raise AgentError(USAGE, f"the request is not JSON ({error})", "send one document per line") from None
    if not isinstance(document, dict):
        raise AgentError(USAGE, "the request is not a JSON object", "send one document per line")
    return document


def _find(document: dict[str, Any], verbs: dict[str, Verb]) -> Any:
    if document.get("protocol") != PROTOCOL:
        fact = f"the request has protocol {document.get('protocol')!r:.80}, this agent speaks {PROTOCOL}"
        raise AgentError(USAGE, fact, "use the same version of edgesdk on both sides")
    if not isinstance(document.get("id"), int):
        raise AgentError(USAGE, "the request has no number as its id", "send one")
    name, arguments = document.get("verb"), document.get("arguments", {})
    if not isinstance(name, str) or name not in verbs:
        raise AgentError(USAGE, f"there is no verb {name!r:.80}", f"use one of {', '.join(sorted(verbs))}")
    if not isinstance(arguments, dict):
        raise AgentError(USAGE, f"the arguments of {name} are not an object", "send them by name")
    try:
        inspect.signature(verbs[name]).bind(None, **arguments)
    except TypeError as error:
        takes = ", ".join(list(inspect.signature(verbs[name]).parameters)[1:])
        raise AgentError(USAGE, f"{name}: {error!s:.200}", f"{name} takes {takes}") from None
    return verbs[name], arguments
