"""What LiteRT's own profiler tells: the operators of XNNPACK and of its own kernels, run by run, in microseconds.

Its Python package has no door to it, and its C library has, from version 2.1 on: a compiled model whose options ask for
a profiler. That is the same file with the same kernels, in another interface than the one that bundles run by.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

from edgesdk_targets.agent.runners.hushed import hushed

LIBRARY = "libLiteRt.so"
CPU = 1  # of the bits of its accelerators
WRITE = 1  # what a buffer is locked for
OWN, XNNPACK = 1 << 1, 1 << 3  # of the types of events: a kernel of LiteRT's own, and one of XNNPACK
SIGNATURE = ctypes.c_size_t(0)
Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
KEPT = Destructor(lambda _: None)  # what is given to it is Python's


class Lacking(Exception):
    """This version has no profiler, or another than this module knows, or not for this file."""


class Event(NamedTuple):
    """A kernel that ran: who has it, its number among the file's operators or XNNPACK's, its name, its time in us."""

    kind: int
    number: int
    name: str
    us: int


class _Told(ctypes.Structure):
    """An event as the library writes it (``ProfiledEventData`` of litert_profiler_event.h)."""

    _fields_ = [
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("us", ctypes.c_uint64),
        ("memory", ctypes.c_int64 * 6),
        ("number", ctypes.c_uint64),
        ("more", ctypes.c_uint64),
        ("source", ctypes.c_int),
    ]


class Compiled:
    """The model at ``path``, compiled for the CPU with so many ``threads``, and its profiler. Raises ``Lacking``.

    To be used as a context, which frees it.
    """

    def __init__(self, package: str, path: str, threads: int) -> None:
        try:
            self.library = ctypes.CDLL(os.path.join(os.path.dirname(package), LIBRARY))
            self.library.LiteRtGetProfilerEvents  # noqa: B018
        except (OSError, AttributeError):
            raise Lacking("this version of LiteRT has no profiler that can be asked") from None
        self.runs, self.kept, self.freed = 0, [], ExitStack()
        try:
            with hushed():  # it tells of every accelerator that is not there
                self._compile(path, threads)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Compiled:
        return self

    def __exit__(self, *_: object) -> None:
        with hushed():
            self.freed.close()

    def _compile(self, path: str, threads: int) -> None:
        environment = self._make("Environment", "LiteRtCreateEnvironment", ctypes.c_int(0), None)
        model = self._make("Model", "LiteRtCreateModelFromFile", environment, os.fsencode(path))
        options = self._make("Options", "LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, ctypes.c_int(CPU))
        for name, told in (
            (b"xnnpack", f"num_threads = {threads}"),
            (b"runtime_options_string", "enable_profiling = true"),
        ):
            text = ctypes.create_string_buffer(told.encode())
            self.kept.append(text)
            made = self._get("LiteRtCreateOpaqueOptions", name, ctypes.cast(text, ctypes.c_void_p), KEPT)
            self._call("LiteRtAddOpaqueOptions", options, made)
        self.model = self._make("CompiledModel", "LiteRtCreateCompiledModel", environment, model, options)
        self.profiler = self._get("LiteRtCompiledModelGetProfiler", self.model)
        signature = self._get("LiteRtGetModelSignature", model, SIGNATURE)
        self.inputs = self._buffers("Input", environment, signature)
        self.outputs = self._buffers("Output", environment, signature)

    def _buffers(self, side: str, environment: Any, signature: Any) -> List[Tuple[str, Any, int]]:
        """The name, the buffer and the bytes of each tensor of that side of the ``signature``."""
        count, buffers = ctypes.c_size_t(), []
        self._call(f"LiteRtGetNumSignature{side}s", signature, ctypes.byref(count))
        for place in map(ctypes.c_size_t, range(count.value)):
            name, kind, size = ctypes.c_char_p(), ctypes.create_string_buffer(256), ctypes.c_size_t()
            self._call(f"LiteRtGetSignature{side}Name", signature, place, ctypes.byref(name))
            tensor = self._get(f"LiteRtGetSignature{side}TensorByIndex", signature, place)
            self._call("LiteRtGetRankedTensorType", tensor, kind)
            wanted = self._get(f"LiteRtGetCompiledModel{side}BufferRequirements", self.model, SIGNATURE, place)
            making = "LiteRtCreateManagedTensorBufferFromRequirements"
            buffer = self._make("TensorBuffer", making, environment, kind, wanted)
            self._call("LiteRtGetTensorBufferPackedSize", buffer, ctypes.byref(size))
            buffers.append(((name.value or b"").decode(), buffer, size.value))
        return buffers

    def bind(self, values: dict[str, Any]) -> Callable[[], None]:
        """A function that runs the model once with the arrays ``values``, by name. Raises ``Lacking`` unless these are
        of the sizes that are in the file."""
        for name, buffer, size in self.inputs:
            content = values[name].tobytes() if name in values else b""
            if len(content) != size:
                raise Lacking("LiteRT's profiler takes inputs of the sizes that are in the file alone")
            place = ctypes.c_void_p()
            self._call("LiteRtLockTensorBuffer", buffer, ctypes.byref(place), ctypes.c_int(WRITE))
            ctypes.memmove(place, content, size)
            self._call("LiteRtUnlockTensorBuffer", buffer)
        sides = [
            (ctypes.c_void_p * len(side))(*(buffer.value for _, buffer, _ in side))
            for side in (self.inputs, self.outputs)
        ]
        given = [part for side in sides for part in (ctypes.c_size_t(len(side)), side)]
        run = self.library.LiteRtRunCompiledModel
        with hushed():  # what takes the operators says so in the first run
            self._call("LiteRtRunCompiledModel", self.model, SIGNATURE, *given)
        self._call("LiteRtStartProfiler", self.profiler)

        def once() -> None:
            self.runs += 1
            if run(self.model, SIGNATURE, *given):
                raise Lacking("LiteRT ended a run under its profiler")

        return once

    def read(self) -> List[List[Event]]:
        """The kernels of each run since, the same ones in the same order. Raises ``Lacking`` where they are not."""
        self._call("LiteRtStopProfiler", self.profiler)
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self.profiler, ctypes.byref(count))
        size, blank = ctypes.sizeof(_Told), b"\xa5"
        room = ctypes.create_string_buffer(blank * (2 * size * count.value + 1))
        self._call("LiteRtGetProfilerEvents", self.profiler, count, room)
        written = len(room.raw[:-1].rstrip(blank))
        if not 0 <= count.value * size - written < ctypes.sizeof(ctypes.c_int64):  # the last ends in room for alignment
            raise Lacking("this version of LiteRT tells its events otherwise")
        told = (_Told * count.value).from_buffer(room)
        events = [
            Event(each.kind, each.number, each.tag.decode(), each.us) for each in told if each.kind in (OWN, XNNPACK)
        ]
        length = len(events) // self.runs if self.runs else 0
        runs = [events[place : place + length] for place in range(0, len(events), length or 1)]
        if not events or len(runs) != self.runs or any(_order(run) != _order(runs[0]) for run in runs):
            raise Lacking("LiteRT's profiler tells runs that are unlike")
        return runs

    def _make(self, kind: str, name: str, *given: Any) -> Any:
        """What the library makes, to be freed in the end."""
        made, free = self._get(name, *given), getattr(self.library, f"LiteRtDestroy{kind}")
        free.restype = None
        self.freed.callback(free, made)
        return made

    def _get(self, name: str, *given: Any) -> Any:
        made = ctypes.c_void_p()
        self._call(name, *given, ctypes.byref(made))
        return made

    def _call(self, name: str, *given: Any) -> None:
        try:
            status = getattr(self.library, name)(*given)
        except AttributeError:
            raise Lacking(f"this version of LiteRT lacks {name}") from None
        if status:
            raise Lacking(f"{name} ended with {status}")


def _order(run: Sequence[Event]) -> List[Tuple[int, int, str]]:
    return [event[:3] for event in run]
