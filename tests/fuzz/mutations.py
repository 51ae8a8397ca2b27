"""Files and documents with something wrong in them, and what must hold of whatever reads one."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SECONDS = 60  # more than any example takes on a busy machine: beyond it a parser hangs
MEMORY = 2 << 30  # bytes of addresses that reading a file of some kilobytes may take beside what the process has
DEPTH = 100_000
DEEP_LIST, DEEP_TABLE, DIGITS = "@a deep list@", "@a deep table@", "@many digits@"  # texts that stand for what follows
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf,
    -math.inf, "", "text", "two\nlines", "~nobody-of-that-name/x", "../../x", "/dev/zero", "\0", "9" * 5000, "x" * 5000,
    "٣", [], [[]], [None], [1, "two"], ["text"] * 40, {}, {"": None}, {"text": [{}]}, DEEP_LIST, DEEP_TABLE, DIGITS,
)  # fmt: skip


class Hanging(BaseException):
    """What nobody who catches exceptions catches."""


def examples(count: int) -> settings:
    """As many examples as ``EDGESDK_FUZZ_EXAMPLES`` says, others at each run; ``count``, always the same, where it says
    nothing."""
    number = os.environ.get("EDGESDK_FUZZ_EXAMPLES")
    every: Any = list(HealthCheck)  # its metaclass iterates, which types see as one over metaclasses
    return settings(
        max_examples=int(number or count), derandomize=number is None, print_blob=True, suppress_health_check=every
    )


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """``content`` with bytes changed, put in, taken out, said again or cut off, in up to four places."""
    place = st.integers(0, max(0, len(content) - 1))
    some = st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f"]))
    kinds = st.sampled_from(["change", "put in", "take out", "again", "cut"])
    edits = st.tuples(kinds, place, some, st.integers(1, 64))

    def edited(todo: list[tuple[str, int, bytes, int]]) -> bytes:
        mutated = content
        for what, at, new, length in todo:
            if what == "change":
                mutated = mutated[:at] + new + mutated[at + len(new) :]
            elif what == "put in":
                mutated = mutated[:at] + new + mutated[at:]
            elif what == "take out":
                mutated = mutated[:at] + mutated[at + length :]
            elif what == "again":
                mutated = mutated[:at] + mutated[at : at + length] * 3 + mutated[at + length :]
            else:
                mutated = mutated[:at]
        return mutated

    return st.lists(edits, min_size=1, max_size=4).map(edited)


def altered(document: Any) -> st.SearchStrategy[Any]:
    """``document`` with one to three of its values replaced by odd ones, keys taken out or put in."""
    places = list(_places(document))
    kinds = st.sampled_from(["replace", "replace", "replace", "take out", "put in"])
    edits = st.tuples(kinds, st.sampled_from(places), st.sampled_from(ODD))

    def edited(todo: list[tuple[str, tuple[Any, ...], Any]]) -> Any:
        paths = {"": json.loads(json.dumps(document))}
        for what, path, new in todo:
            holder: Any = paths
            *before, last = path
            odd = copy.deepcopy(new)
            with contextlib.suppress(KeyError, IndexError, TypeError):  # an edit before took it away
                for key in before:
                    holder = holder[key]
                if what == "take out" and before:
                    del holder[last]
                elif what == "put in" and isinstance(holder[last], dict):
                    holder[last]["another key"] = odd
                elif what == "put in" and isinstance(holder[last], list):
                    holder[last].append(odd)
                else:
                    holder[last] = odd
        return paths[""]

    return st.lists(edits, min_size=1, max_size=3).map(edited)


def _places(value: Any, path: tuple[Any, ...] = ("",)) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(min(3, len(value))):
            yield from _places(value[key], (*path, key))


def as_json(document: Any) -> bytes:
    """``document`` as JSON, NaN among it as Python writes it."""
    return _whole(json.dumps(document), '{"a": ')


def as_toml(document: Any) -> bytes:
    """``document`` as TOML; what it has no form for is left out."""
    if not isinstance(document, dict):
        return _whole(_toml(document), "{a = ")
    lines = [f"{json.dumps(key)} = {_toml(value)}\n" for key, value in document.items() if value is not None]
    return _whole("".join(lines), "{a = ")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value if item is not None) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


def _whole(text: str, opening: str) -> bytes:
    """``text`` with what stands for a great deal written out."""
    text = text.replace(f'"{DEEP_LIST}"', "[" * DEPTH + "]" * DEPTH).replace(f'"{DIGITS}"', "9" * 5000)
    return text.replace(f'"{DEEP_TABLE}"', opening * DEPTH + "1" + "}" * DEPTH).encode()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raise ``Hanging`` for what hangs, and let ``MemoryError`` come of what asks for a great deal of memory."""

    def late(*_: Any) -> None:
        raise Hanging(f"it took over {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_or_refused(read: Callable[[], Any], *refusals: type[BaseException]) -> Any:
    """What ``read`` gives, ``None`` where it refuses with one of ``refusals``, in one line; all else is a fault."""
    try:
        with bounded():
            return read()
    except refusals as refusal:
        assert len(str(refusal).splitlines()) == 1, refusal
        return None
